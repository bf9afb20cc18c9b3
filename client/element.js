/** <talking-head>: a video call with an AI face. Attributes go down, events come up (README.md lists both). */
import { CaptionEvent, EndedEvent, ErrorEvent, MarksEvent, SettingsEvent, StateEvent, TimingEvent } from "./events.js";
import { Matte } from "./matte.js";
import { listMicrophones } from "./microphone.js";
import { CallSession } from "./session.js";
import { Store, isCall, isLive, pair } from "./store.js";
import { View } from "./view.js";
import * as wire from "./wire.js";

/** How often the ring learns how loud it is. */
const LEVEL_MS = 130;
/** A kiosk goes back to its invitation by itself. */
const KIOSK_RESET_MS = 20_000;

export class TalkingHead extends HTMLElement {
  static observedAttributes = ["src", "avatar", "persona", "mode", "captions", "poster", "autostart", "transparent", "voice"];

  /** performance.now() of each step of setting the call up: start, microphone, offer, answer, connected, firstFrame. */
  timings = {};

  #store = new Store();
  #view;
  #matte;
  #session = null;
  #deviceId = "";
  #iceServers = [];
  #info = null;
  #levelTimer = null;
  #resetTimer = null;

  constructor() {
    super();
    this.#view = new View(this, {
      start: () => this.start(),
      mute: () => (this.#microphoneUsable ? this.mute(!this.muted) : this.useMicrophone()),
      useMicrophone: () => this.useMicrophone(),
      interrupt: () => this.interrupt(),
      hangUp: () => this.stop(),
      send: (text) => this.send(text),
      choose: (choice) => this.choose(choice),
      devices: async () => ({ devices: await listMicrophones(), chosen: this.#deviceId }),
      device: (id) => this.useMicrophone(id),
      captions: (on) => this.setAttribute("captions", on ? "on" : "off"),
      hear: () => this.#play(),
      dismiss: () => this.#store.dispatch({ type: "notice-dismissed" }),
    });
    this.#matte = new Matte(this.#view.video, this.#view.matte, (on) => {
      this.#view.matted = on;
    });
    this.#store.subscribe((state, previous, event) => this.#changed(state, previous, event));
    this.addEventListener("keydown", this.#onKey);
  }

  // ---- what a page may ask ---------------------------------------------------------------------------

  /** idle · connecting · listening · hearing · thinking · speaking · paused · failed · ended */
  get state() {
    return this.#store.state.phase;
  }

  /** `[{role, id, text, final, note}]`, as heard. */
  get transcript() {
    return this.#store.state.captions;
  }

  get muted() {
    return this.#store.state.muted;
  }

  /** The call's RTCPeerConnection, or null. */
  get peerConnection() {
    return this.#session?.peerConnection ?? null;
  }

  /** The one <video> that shows the face and plays the voice. */
  get videoElement() {
    return this.#view.video;
  }

  /** Face and voice as a MediaStream, or null. */
  get remoteStream() {
    return this.#session?.remoteStream ?? null;
  }

  /**
   * Call. Best from a click, or the browser may refuse to play sound. `microphone: false`: in writing;
   * `greet: false`: the face waits for the person's first words.
   */
  async start({ microphone = this.getAttribute("microphone") !== "off", greet = true } = {}) {
    if (isCall(this.state)) return;
    clearTimeout(this.#resetTimer);
    this.timings = {};
    const session = new CallSession({
      base: this.src,
      token: this.getAttribute("token") ?? "",
      choice: () => ({ avatar: this.avatar || undefined, persona: this.persona || undefined, voice: this.voice || undefined, alpha: this.#transparent || undefined }),
      greet: greet && this.getAttribute("greet") !== "off",
      audio: {
        wanted: microphone,
        processing: this.getAttribute("audio-processing") !== "off",
        deviceId: this.#deviceId,
      },
      iceServers: this.#iceServers,
      tell: (event) => session === this.#session && this.#store.dispatch(event),
      mark: (name) => this.#mark(name),
    });
    this.#session = session;
    this.videoElement.srcObject = session.remoteStream;
    this.#play(); // within the click: Safari remembers
    this.#watchFirstFrame();
    if (this.#transparent) this.#matte.start();
    await session.start();
  }

  /** Hang up. */
  stop() {
    this.#session?.close("hung_up");
  }

  /** Make the face stop talking. */
  interrupt() {
    if (isLive(this.state)) this.#session.send(wire.interrupt());
  }

  /** The person's words, written; starts a call in writing if there is none. */
  send(text) {
    const words = text.trim();
    if (!words) return;
    if (!isCall(this.state)) this.start({ microphone: false, greet: false });
    this.#session?.send(wire.sendText(words));
  }

  /** The face speaks these very words. */
  say(text) {
    if (isLive(this.state) && text.trim()) this.#session.send(wire.sayText(text.trim()));
  }

  /** Mute the microphone, or unmute it. A turn that is being spoken ends there. */
  mute(on = true) {
    if (!isCall(this.state)) return;
    if (on && this.state === "hearing") this.commit();
    this.#session.mute(on);
  }

  /** The person's turn is over: answer now (push-to-talk). */
  commit() {
    if (isLive(this.state)) this.#session.send(wire.commitInput());
  }

  /** Take the microphone, or another one; in a call in writing this asks for it. */
  async useMicrophone(deviceId = this.#deviceId) {
    this.#deviceId = deviceId;
    if (isLive(this.state)) await this.#session.useMicrophone(deviceId);
  }

  /** Another face or persona (`{avatar}`, `{persona}` or both); in a call the server is asked, and what it answers is shown. */
  choose(wanted) {
    const choice = pair(this.#store.state, wanted);
    if (isLive(this.state)) this.#session.send(wire.updateSession({ ...choice, voice: this.voice || undefined }));
    else this.#store.dispatch({ type: "choice-made", ...choice });
    this.#render();
  }

  /** URL of the server; the one that these modules came from, if not said. */
  get src() {
    const base = new URL(this.getAttribute("src") || new URL("/", import.meta.url), document.baseURI).href;
    return base.endsWith("/") ? base : `${base}/`;
  }
  set src(url) {
    this.setAttribute("src", url);
  }

  get avatar() {
    return this.#store.state.avatar;
  }
  set avatar(name) {
    this.setAttribute("avatar", name);
  }

  get persona() {
    return this.#store.state.persona;
  }
  set persona(name) {
    this.setAttribute("persona", name);
  }

  /** Who speaks, a voice of the server; empty: the persona's own. In a call it changes with the next sentence. */
  get voice() {
    return this.getAttribute("voice") ?? "";
  }
  set voice(name) {
    this.setAttribute("voice", name);
  }

  /** page (fills its window) · card (a widget in a page) · kiosk (large, starts over by itself) */
  get mode() {
    return this.getAttribute("mode") || "page";
  }
  set mode(mode) {
    this.setAttribute("mode", mode);
  }

  get captions() {
    return this.getAttribute("captions") !== "off";
  }
  set captions(on) {
    this.setAttribute("captions", on ? "on" : "off");
  }

  // ---- the element's life ------------------------------------------------------------------------------

  connectedCallback() {
    addEventListener("pagehide", this.#onPageHide);
    document.addEventListener("keydown", this.#onDocumentKey);
    document.addEventListener("visibilitychange", this.#onVisible);
    this.#render();
    this.#loadInfo();
    this.#autostart();
  }

  disconnectedCallback() {
    removeEventListener("pagehide", this.#onPageHide);
    document.removeEventListener("keydown", this.#onDocumentKey);
    document.removeEventListener("visibilitychange", this.#onVisible);
    clearTimeout(this.#resetTimer);
    this.stop();
  }

  attributeChangedCallback(name, old, value) {
    if (old === value) return;
    if ((name === "avatar" || name === "persona") && value) this.choose({ [name]: value });
    if (name === "voice" && isLive(this.state)) this.#session.send(wire.updateSession({ voice: this.voice }));
    if (name === "src" && this.isConnected) this.#loadInfo();
    if (name === "autostart" && this.isConnected) this.#autostart();
    if (this.isConnected) this.#render();
    if (name === "captions") this.#tellSettings();
  }

  /** For a kiosk: call without being asked; the browser may want a tap before there is sound. */
  #autostart() {
    if (this.hasAttribute("autostart")) this.start();
  }

  /** Who lives at the server: faces and personas to choose from. Without an answer the page still calls. */
  async #loadInfo() {
    const url = new URL("v1/visavis", this.src);
    const token = this.getAttribute("token"); // relays are for who may call
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const asked = (this.#info = fetch(url, { headers }).then((r) => (r.ok ? r.json() : null)));
    const info = await asked.catch(() => null);
    if (!info || this.#info !== asked) return;
    this.#iceServers = info.ice_servers ?? [];
    const personas = info.personas ?? [];
    const rank = ({ name }) => (personas.findIndex((p) => p.avatar === name) + 1 || personas.length + 1);
    const avatars = (info.avatars ?? [])
      .map((a) => ({ ...a, title: a.title || a.name }))
      .sort((a, b) => rank(a) - rank(b)); // who answers by default comes first
    this.#store.dispatch({ type: "info-loaded", avatars, personas });
    const { avatar, persona } = this;
    if (!avatar && !persona) this.choose(personas.length ? { persona: personas[0].name } : { avatar: avatars[0]?.name });
    else if (!avatar || !persona) this.choose({ avatar, persona });
    if (!this.avatar && avatars.length) this.#store.dispatch({ type: "choice-made", avatar: avatars[0].name });
  }

  #onPageHide = () => this.#session?.close("page_closed", { beacon: true });

  #onVisible = () => {
    if (document.visibilityState === "visible" && isCall(this.state) && this.videoElement.paused) this.#play();
  };

  /** Escape interrupts; in a foreign page only while the focus is in here. */
  #onKey = (event) => {
    if (event.key !== "Escape" || this.#view.settingsOpen || event.defaultPrevented) return;
    if (["speaking", "thinking", "paused"].includes(this.state)) this.interrupt();
  };

  #onDocumentKey = (event) => {
    if (this.mode !== "card" && !event.composedPath().includes(this)) this.#onKey(event);
  };

  // ---- sound and picture -------------------------------------------------------------------------------

  /** Play; if the browser wants a tap before sound, show the face silently and ask for the tap. */
  async #play() {
    const video = this.videoElement;
    video.muted = false;
    try {
      await video.play();
      this.#store.dispatch({ type: "sound-blocked", blocked: false });
    } catch (error) {
      if (error.name !== "NotAllowedError") return; // interrupted by hanging up
      video.muted = true;
      this.#store.dispatch({ type: "sound-blocked", blocked: true });
      video.play().catch(() => {});
    }
  }

  #watchFirstFrame() {
    const session = this.#session;
    const video = this.videoElement;
    const shown = () => {
      if (session !== this.#session || !isCall(this.state)) return;
      this.#mark("firstFrame");
      this.#store.dispatch({ type: "video-shown" });
    };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(shown);
    else video.addEventListener("loadeddata", shown, { once: true });
  }

  /** After dialling again the stream has other tracks; the element had come to its end with the old ones. */
  #reattach() {
    this.videoElement.srcObject = null;
    this.videoElement.srcObject = this.#session.remoteStream;
    this.#play();
  }

  #mark(name) {
    if (name in this.timings) return; // dialling again does not count
    this.timings[name] = performance.now();
    this.dispatchEvent(new TimingEvent(name, this.timings[name]));
  }

  /** The ring moves with whoever talks: cheap figures of the browser's own, only while somebody looks. */
  #watchLevels(on) {
    clearInterval(this.#levelTimer);
    this.#levelTimer = null;
    this.#view.level = 0;
    if (!on || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    this.#levelTimer = setInterval(async () => {
      if (document.hidden || !this.#session) return;
      const { mine, theirs } = await this.#session.levels();
      this.#view.level = Math.min(1, 1.6 * Math.sqrt(this.state === "speaking" ? theirs : mine));
    }, LEVEL_MS);
  }

  // ---- from the store to the page ----------------------------------------------------------------------

  /** Whether the face is to stand over the page, without a background of its own. */
  get #transparent() {
    return this.hasAttribute("transparent");
  }

  get #microphoneUsable() {
    return ["on", "silent", "busy"].includes(this.#store.state.microphone);
  }

  #render(state = this.#store.state, previous = state) {
    this.#view.render(state, previous, {
      captions: this.captions,
      mode: this.mode,
      poster: (avatar) => {
        const url = avatar?.poster ? new URL(avatar.poster, this.src).href : "";
        return url || (this.getAttribute("poster") ?? "");
      },
    });
  }

  #changed(state, previous, event) {
    if (state !== previous && this.isConnected) this.#render(state, previous);
    if (state.phase !== previous.phase) this.#phaseChanged(state, previous);
    if (event.type === "connection-lost") this.#watchFirstFrame();
    if (event.type === "connected" && previous.reconnecting) this.#reattach();
    if (event.type === "caption-heard") this.dispatchEvent(new CaptionEvent(event));
    if (event.type === "marks-told") this.dispatchEvent(new MarksEvent(event.marks));
    if (event.type === "problem-told") this.dispatchEvent(new ErrorEvent(event.code, event.message, false));
    if (event.type === "call-failed") this.dispatchEvent(new ErrorEvent(event.code, event.message, true));
    if (event.type === "call-ended" && state.ended !== previous.ended) {
      this.dispatchEvent(new EndedEvent(state.ended.reason, state.ended.seconds));
    }
    const settings = ["avatar", "persona", "muted", "microphone"];
    if (settings.some((key) => state[key] !== previous[key])) this.#tellSettings();
  }

  #phaseChanged(state, previous) {
    if (!isCall(state.phase)) this.#matte.stop();
    if (isCall(state.phase) !== isCall(previous.phase)) {
      if (!isCall(state.phase)) {
        this.videoElement.srcObject = null;
        this.#session = null;
      }
      if (this.#view.hasFocus) this.#view.focusNext(state.phase);
    }
    this.#watchLevels(state.phase === "speaking" || state.phase === "hearing");
    if (this.mode === "kiosk" && (state.phase === "ended" || state.phase === "failed")) {
      this.#resetTimer = setTimeout(() => this.#store.dispatch({ type: "reset" }), KIOSK_RESET_MS);
    }
    this.dispatchEvent(new StateEvent(state.phase, previous.phase));
  }

  #tellSettings() {
    const { avatar, persona, muted, microphone } = this.#store.state;
    this.dispatchEvent(new SettingsEvent({ avatar, persona, muted, microphone, captions: this.captions }));
  }
}
