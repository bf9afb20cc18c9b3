/** The person's microphone: asking for it, what can be wrong with it, and noticing when it goes away. */

/** `code`: denied · absent · busy · insecure. */
export class MicrophoneError extends Error {
  constructor(code) {
    super(`microphone ${code}`);
    this.code = code;
  }
}

const CODES = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "absent",
  OverconstrainedError: "absent",
  NotReadableError: "busy",
  AbortError: "busy",
};

/**
 * One microphone track. `processing: false` switches echo cancellation, noise suppression and gain control off:
 * for measurements only, the face would hear itself.
 */
export async function openMicrophone({ processing = true, deviceId = "" } = {}) {
  if (!globalThis.navigator?.mediaDevices?.getUserMedia) throw new MicrophoneError("insecure");
  const audio = {
    echoCancellation: processing,
    noiseSuppression: processing,
    autoGainControl: processing,
    channelCount: { ideal: 1 },
    ...(deviceId && { deviceId: { exact: deviceId } }),
  };
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    return stream.getAudioTracks()[0];
  } catch (error) {
    throw new MicrophoneError(CODES[error.name] ?? "absent");
  }
}

/** `[{id, label}]`; without permission browsers tell no labels, and the list stays empty. */
export async function listMicrophones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter((d) => d.kind === "audioinput" && d.label).map((d) => ({ id: d.deviceId, label: d.label }));
}
