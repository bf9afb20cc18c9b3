/** Records what the page hears of the call: `recorder.start()`, `recorder.seconds`, `recorder.take()`. */
const RECORDER = `
class Recorder extends AudioWorkletProcessor {
  process([[samples]]) {
    if (samples) this.port.postMessage(samples.slice());
    return true;
  }
}
registerProcessor("recorder", Recorder);`;

window.recorder = { seconds: 0, pieces: [] };

recorder.start = async () => {
  const context = new AudioContext({ sampleRate: 48000 });
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([RECORDER], { type: "text/javascript" })));
  const node = new AudioWorkletNode(context, "recorder");
  const mute = new GainNode(context, { gain: 0 });
  const stream = new MediaStream(document.querySelector("talking-head").remoteStream.getAudioTracks());
  context.createMediaStreamSource(stream).connect(node).connect(mute).connect(context.destination);
  node.port.onmessage = ({ data }) => {
    recorder.pieces.push(data);
    recorder.seconds += data.length / 48000;
  };
};

/** All of it so far, s16le mono 48 kHz, as base64. */
recorder.take = async () => {
  const samples = recorder.pieces.flatMap((piece) => Array.from(piece, (x) => Math.max(-1, Math.min(1, x)) * 32767));
  const blob = new Blob([Int16Array.from(samples)]);
  const url = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(blob);
  });
  return url.slice(url.indexOf(",") + 1);
};
