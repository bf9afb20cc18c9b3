/** One call: microphone, signalling, peer connection, data channel, hanging up, and dialling again after a loss. */
import { MicrophoneError, openMicrophone } from "./microphone.js";
import { CHANNEL, read, readRefusal } from "./wire.js";

/** Why there is no call; `code` as in words.js. */
export class CallError extends Error {
  constructor(code, message = "") {
    super(message || code);
    this.code = code;
    this.told = message;
  }
}

/** The server answers an offer within this many milliseconds. */
const ANSWER_MS = 10_000;
/** From the answer to an open channel; the server gives up at the same time. */
const CONNECT_MS = 15_000;
/** "disconnected" is often over by itself; after this it counts as lost. */
const SHAKY_MS = 5_000;
/** Pauses before each attempt to dial again. */
const REDIAL_MS = [300, 1_500, 4_000, 8_000];
/** Events kept for a channel that is not open yet. */
const PENDING_LIMIT = 50;
/** How often a microphone that has given nothing but zeros is looked at. */
const SILENCE_CHECK_MS = 3_000;

export class CallSession {
  /** Voice and face; the same object for the whole call, also after dialling again. */
  remoteStream = new MediaStream();
  /** The RTCPeerConnection of the moment. */
  peerConnection = null;

  #base;
  #token;
  #choice;
  #greet;
  #audio;
  #iceServers;
  #tell;
  #mark;
  #channel = null;
  #location = null;
  #track = null;
  #muted = false;
  #closing = null;
  #over = false;
  #pending = [];
  #timers = new Set();
  #onDevices = () => this.#devicesChanged();

  /**
   * `base`: URL of the server; `token`: what it may ask for; `choice()`: `{avatar, persona}` of the moment;
   * `greet`: the face speaks first; `audio`: `{wanted, processing, deviceId}`;
   * `tell(event)`: hears everything that happens, as store.js names it; `mark(name)`: a step has been reached.
   */
  constructor({ base, token = "", choice, greet = true, audio, iceServers = [], tell, mark }) {
    this.#base = base;
    this.#token = token;
    this.#choice = choice;
    this.#greet = greet;
    this.#audio = audio;
    this.#iceServers = iceServers;
    this.#tell = tell;
    this.#mark = mark;
  }

  /** Ask for the microphone, dial. Never rejects: what goes wrong is told. */
  async start() {
    this.#tell({ type: "call-started" });
    this.#mark("start");
    if (!globalThis.RTCPeerConnection) return this.#fail(new CallError("no_webrtc"));
    if (this.#audio.wanted) await this.#askMicrophone();
    else this.#tell({ type: "microphone-changed", microphone: "off" });
    if (this.#over) return undefined;
    this.#mark("microphone");
    try {
      await this.#dial();
    } catch (error) {
      this.#fail(error);
    }
    return undefined;
  }

  /** Hang up. `beacon`: the page is going away, only a beacon still gets out. */
  close(reason = "hung_up", { beacon = false } = {}) {
    if (this.#over) return;
    this.#shut({ beacon });
    this.#tell({ type: "call-ended", reason, at: performance.now() });
  }

  /** Send events in order; before the channel is open they wait for it. */
  send(events) {
    for (const event of events) {
      if (this.#channel?.readyState === "open") this.#channel.send(JSON.stringify(event));
      else if (!this.#over && this.#pending.length < PENDING_LIMIT) this.#pending.push(event);
    }
  }

  /** Mute or unmute; what is told is what the track says. */
  mute(on) {
    this.#muted = on;
    if (this.#track) this.#track.enabled = !on;
    this.#tell({ type: "muted-changed", muted: this.#track ? !this.#track.enabled : on });
  }

  /** Take a microphone (another one, or the first) into the running call. */
  async useMicrophone(deviceId = this.#audio.deviceId) {
    this.#audio = { ...this.#audio, wanted: true, deviceId };
    const sender = this.#sender();
    if (!(await this.#askMicrophone()) || this.#channel?.readyState !== "open") return;
    if (sender && sender === this.#sender()) await sender.replaceTrack(this.#track);
    else if (!sender) await this.#dialAgain(); // our offer said "receive only"
  }

  /** Loudness from 0 to 1 of what the person says and of what the face says, as the browser measures it. */
  async levels() {
    const [mine, theirs] = await Promise.all([
      this.#stat(this.#sender(), "media-source", "audioLevel"),
      this.#stat(this.peerConnection?.getReceivers().find((r) => r.track.kind === "audio"), "inbound-rtp", "audioLevel"),
    ]);
    return { mine, theirs };
  }

  // ---- microphone ----------------------------------------------------------------------------------

  async #askMicrophone() {
    this.#tell({ type: "microphone-changed", microphone: "asking" });
    let track;
    try {
      track = await openMicrophone(this.#audio);
    } catch (error) {
      if (!(error instanceof MicrophoneError)) throw error;
      this.#tell({ type: "microphone-changed", microphone: this.#track?.readyState === "live" ? "on" : error.code });
      return false;
    }
    if (this.#over) {
      track.stop();
      return false;
    }
    this.#dropTrack();
    this.#track = track;
    track.enabled = !this.#muted;
    track.onended = () => this.#microphoneEnded(track);
    track.onmute = () => this.#tell({ type: "microphone-changed", microphone: "busy" });
    track.onunmute = () => this.#tell({ type: "microphone-changed", microphone: "on" });
    navigator.mediaDevices.addEventListener("devicechange", this.#onDevices);
    this.#tell({ type: "microphone-changed", microphone: "on" });
    return true;
  }

  /** Unplugged, or the permission was taken back: another one, if there is one, takes its place. */
  async #microphoneEnded(track) {
    if (this.#over || track !== this.#track) return;
    this.#tell({ type: "microphone-changed", microphone: "lost" });
    await this.useMicrophone("");
  }

  #devicesChanged() {
    if (!this.#over && this.#track?.readyState === "ended") this.useMicrophone("");
  }

  /** Some systems hand out a microphone that gives zeros only: say so, until something comes. */
  async #watchSilence() {
    const sender = this.#sender();
    if (this.#over || !sender) return;
    const energy = await this.#stat(sender, "media-source", "totalAudioEnergy");
    if (this.#over || this.#track?.readyState !== "live") return;
    if (energy > 0) return this.#tell({ type: "microphone-changed", microphone: "on" });
    if (this.#track.enabled) this.#tell({ type: "microphone-changed", microphone: "silent" });
    this.#later(SILENCE_CHECK_MS, () => this.#watchSilence());
  }

  #sender() {
    return this.peerConnection?.getSenders().find((s) => s.track?.kind === "audio");
  }

  async #stat(source, type, name) {
    const report = (await source?.getStats().catch(() => null)) ?? new Map();
    for (const entry of report.values()) if (entry.type === type && entry.kind === "audio") return entry[name] ?? 0;
    return 0;
  }

  #dropTrack() {
    if (!this.#track) return;
    this.#track.onended = this.#track.onmute = this.#track.onunmute = null;
    this.#track.stop();
    this.#track = null;
  }

  // ---- dialling ------------------------------------------------------------------------------------

  /** Resolves when the channel is open. Throws CallError. */
  async #dial() {
    const peer = new RTCPeerConnection({ iceServers: this.#iceServers, bundlePolicy: "max-bundle" });
    this.peerConnection = peer;
    peer.ontrack = ({ track }) => this.remoteStream.addTrack(track);
    const channel = peer.createDataChannel(CHANNEL);
    this.#channel = channel;
    if (this.#track) peer.addTransceiver(this.#track, { direction: "sendrecv" });
    else peer.addTransceiver("audio", { direction: "recvonly" });
    peer.addTransceiver("video", { direction: "recvonly" });

    const opened = new Promise((resolve, reject) => {
      channel.onopen = resolve;
      channel.onclose = () => reject(new CallError("blocked"));
      peer.onconnectionstatechange = () => {
        if (peer.connectionState === "connected") this.#mark("connected");
        if (peer.connectionState === "failed") reject(new CallError("blocked"));
      };
    });
    opened.catch(() => {}); // awaited below, unless the call is over by then
    channel.onmessage = ({ data }) => this.#hear(data);

    await peer.setLocalDescription();
    this.#mark("offer");
    const answer = await this.#signal(peer.localDescription.sdp);
    if (this.#over || this.peerConnection !== peer) return;
    this.#mark("answer");
    try {
      await peer.setRemoteDescription({ type: "answer", sdp: answer });
    } catch {
      throw new CallError("server_error", "The server's answer was not a call.");
    }
    const deadline = this.#later(CONNECT_MS, () => channel.onclose?.());
    try {
      await opened;
    } finally {
      this.#cancel(deadline);
    }
    if (this.#over || this.peerConnection !== peer) return;
    this.#mark("connected"); // the channel may be open before the connection says so
    this.#greet = false; // once is enough, should we dial again
    this.#tell({ type: "connected", at: performance.now() });
    this.send(this.#pending.splice(0));
    this.#watch(peer, channel);
    if (this.#track) this.#later(SILENCE_CHECK_MS, () => this.#watchSilence());
  }

  /** Offer out, answer in. Does not wait for candidates: the server's are enough. */
  async #signal(sdp) {
    const form = new FormData();
    form.append("sdp", new Blob([sdp], { type: "application/sdp" }));
    const session = { type: "realtime", visavis: { ...this.#choice(), greet: this.#greet } };
    form.append("session", new Blob([JSON.stringify(session)], { type: "application/json" }));
    let response, body;
    try {
      response = await fetch(new URL("v1/realtime/calls", this.#base), {
        method: "POST",
        body: form,
        headers: this.#token ? { Authorization: `Bearer ${this.#token}` } : {},
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      body = await response.text();
    } catch {
      throw new CallError("unreachable");
    }
    if (!response.ok) {
      const { code, message } = readRefusal(response.status, body);
      throw new CallError(code, message);
    }
    const location = response.headers.get("Location");
    this.#location = location && new URL(location, response.url).href;
    if (this.#over) this.#release(); // hung up while the server was answering
    return body;
  }

  #hear(data) {
    const event = read(data);
    if (!event || this.#over) return;
    if (event.type === "closing-told") this.#closing = event;
    this.#tell(event);
  }

  // ---- losing and leaving --------------------------------------------------------------------------

  #watch(peer, channel) {
    let shaky = null;
    const lost = () => {
      if (this.#over || this.peerConnection !== peer) return;
      if (this.#closing) this.close(this.#closing.reason || "server");
      else this.#dialAgain();
    };
    channel.onclose = lost;
    peer.onconnectionstatechange = () => {
      this.#cancel(shaky);
      if (peer.connectionState === "failed") lost();
      if (peer.connectionState === "connected") this.#tell({ type: "connection-steady" });
      if (peer.connectionState === "disconnected") {
        this.#tell({ type: "connection-shaky" });
        shaky = this.#later(SHAKY_MS, lost);
      }
    };
  }

  async #dialAgain() {
    this.#tell({ type: "connection-lost" });
    let failure = new CallError("lost");
    for (const pause of REDIAL_MS) {
      this.#release(); // its place is needed for the next attempt
      this.#dropPeer();
      await new Promise((resolve) => this.#later(pause, resolve));
      if (this.#over) return;
      try {
        return await this.#dial();
      } catch (error) {
        failure = error.code === "unreachable" || error.code === "blocked" ? new CallError("lost") : error;
      }
    }
    this.#fail(failure);
  }

  #fail(error) {
    if (this.#over) return;
    this.#shut();
    const { code, told } = error instanceof CallError ? error : new CallError("server_error", String(error?.message ?? error));
    this.#tell({ type: "call-failed", code, message: told });
  }

  #shut({ beacon = false } = {}) {
    this.#over = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    navigator.mediaDevices?.removeEventListener?.("devicechange", this.#onDevices);
    this.#release({ beacon });
    this.#dropPeer();
    this.#dropTrack();
  }

  #release({ beacon = false } = {}) {
    if (!this.#location) return;
    if (beacon) navigator.sendBeacon(`${this.#location}/hangup`);
    else fetch(this.#location, { method: "DELETE", keepalive: true }).catch(() => {}); // gone already is fine too
    this.#location = null;
  }

  #dropPeer() {
    const peer = this.peerConnection;
    if (!peer) return;
    peer.ontrack = peer.onconnectionstatechange = null;
    if (this.#channel) this.#channel.onopen = this.#channel.onclose = this.#channel.onmessage = null;
    peer.close();
    for (const track of this.remoteStream.getTracks()) this.remoteStream.removeTrack(track);
    this.peerConnection = this.#channel = null;
  }

  #later(delay, action) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delay);
    this.#timers.add(timer);
    return timer;
  }

  #cancel(timer) {
    clearTimeout(timer);
    this.#timers.delete(timer);
  }
}
