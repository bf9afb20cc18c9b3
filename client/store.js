/**
 * What is known about the call, and how events change it. Knows no DOM, no clock and no network, and believes
 * nothing before it has happened: "muted" is told by the track, a sent text by the server that has taken it.
 */

/** Where each event may lead; an event that its phase does not know is ignored. */
const LIVE = ["listening", "hearing", "thinking", "speaking", "paused"];

export const PHASES = ["idle", "connecting", ...LIVE, "failed", "ended"];

export const isLive = (phase) => LIVE.includes(phase);
export const isCall = (phase) => phase === "connecting" || isLive(phase);

/** Lines of conversation that are kept. */
const CAPTION_LIMIT = 200;

export const INITIAL = Object.freeze({
  phase: "idle",
  /** a call was lost and is being dialled again */
  reconnecting: false,
  avatars: [],
  personas: [],
  avatar: "",
  persona: "",
  /** unasked · asking · on · off (not wanted) · denied · absent · busy · insecure · lost · silent */
  microphone: "unasked",
  muted: false,
  /** `{id, role, text, final, note}` in the order in which they were first heard */
  captions: [],
  /** something that the person should know while the call goes on: `{code, message}` */
  notice: null,
  /** why there is no call: `{code, message}` */
  failure: null,
  /** the server will end the call: `{reason, secondsLeft}` */
  closing: null,
  /** `{reason, seconds}` */
  ended: null,
  /** the browser refused to play sound without a tap */
  soundBlocked: false,
  videoShown: false,
  /** milliseconds, as given with the event */
  connectedAt: null,
});

/** A face and a persona go together: who chooses one gets the other that belongs to it, if there is one. */
export function pair({ avatars, personas, persona: current }, { avatar, persona }) {
  const faceOf = (name) => personas.find((p) => p.name === name)?.avatar;
  if (persona && !avatar) {
    const face = faceOf(persona);
    return { persona, avatar: avatars.some((a) => a.name === face) ? face : undefined };
  }
  if (avatar && !persona && faceOf(current) !== avatar) {
    return { avatar, persona: personas.find((p) => p.avatar === avatar)?.name };
  }
  return { avatar, persona };
}

const settle = (captions) => (captions.every((c) => c.final) ? captions : captions.map((c) => ({ ...c, final: true })));

const settleReplies = (captions) =>
  captions.some((c) => c.role === "assistant" && !c.final)
    ? captions.map((c) => (c.role === "assistant" ? { ...c, final: true } : c))
    : captions;

function hear(captions, { id, role, text, final, note }) {
  const line = { id, role, text, final, note };
  const index = captions.findIndex((c) => c.id === id && c.role === role);
  if (!text.trim()) return final && index >= 0 ? captions.toSpliced(index, 1) : captions;
  if (index >= 0) return captions.with(index, { ...line, note: note || captions[index].note });
  return [...captions, line].slice(-CAPTION_LIMIT);
}

const RULES = {
  "info-loaded": (s, e) => ({ ...s, avatars: e.avatars, personas: e.personas }),
  "choice-made": (s, e) => ({ ...s, avatar: e.avatar ?? s.avatar, persona: e.persona ?? s.persona }),

  "call-started": (s) =>
    isCall(s.phase)
      ? s
      : {
          ...s,
          phase: "connecting",
          reconnecting: false,
          microphone: "unasked",
          muted: false,
          captions: [],
          notice: null,
          failure: null,
          closing: null,
          ended: null,
          soundBlocked: false,
          videoShown: false,
          connectedAt: null,
        },
  connected: (s, e) =>
    s.phase === "connecting" ? { ...s, phase: "listening", reconnecting: false, connectedAt: s.connectedAt ?? e.at } : s,
  "connection-shaky": (s) =>
    isLive(s.phase) ? { ...s, notice: { code: "shaky", message: "" } } : s,
  "connection-steady": (s) => (s.notice?.code === "shaky" ? { ...s, notice: null } : s),
  "connection-lost": (s) =>
    isCall(s.phase)
      ? { ...s, phase: "connecting", reconnecting: true, notice: null, closing: null, videoShown: false, captions: settle(s.captions) }
      : s,
  "call-failed": (s, e) =>
    isCall(s.phase)
      ? {
          ...s,
          phase: "failed",
          reconnecting: false,
          failure: { code: e.code, message: e.message },
          notice: null,
          soundBlocked: false,
          videoShown: false,
          captions: settle(s.captions),
        }
      : s,
  "call-ended": (s, e) =>
    isCall(s.phase)
      ? {
          ...s,
          phase: s.connectedAt === null ? "idle" : "ended",
          reconnecting: false,
          ended: { reason: e.reason, seconds: s.connectedAt === null ? 0 : Math.max(0, (e.at - s.connectedAt) / 1000) },
          notice: null,
          closing: null,
          soundBlocked: false,
          videoShown: false,
          captions: settle(s.captions),
        }
      : s,

  reset: (s) =>
    s.phase === "failed" || s.phase === "ended" ? { ...s, phase: "idle", captions: [], failure: null, ended: null } : s,

  "state-told": (s, e) => (isLive(s.phase) ? { ...s, phase: e.state } : s),
  "caption-heard": (s, e) => (isCall(s.phase) && e.id ? { ...s, captions: hear(s.captions, e) } : s),
  "caption-dropped": (s, e) =>
    s.captions.some((c) => c.id === e.id) ? { ...s, captions: s.captions.filter((c) => c.id !== e.id) } : s,
  "reply-over": (s) => ({ ...s, captions: settleReplies(s.captions) }),
  "problem-told": (s, e) => (isCall(s.phase) ? { ...s, notice: { code: e.code, message: e.message } } : s),
  "closing-told": (s, e) =>
    isCall(s.phase) ? { ...s, closing: { reason: e.reason, secondsLeft: e.secondsLeft } } : s,
  "notice-dismissed": (s) => (s.notice ? { ...s, notice: null } : s),

  "microphone-changed": (s, e) => (isCall(s.phase) ? { ...s, microphone: e.microphone } : s),
  "muted-changed": (s, e) => (s.muted === e.muted ? s : { ...s, muted: e.muted }),
  "sound-blocked": (s, e) => (isCall(s.phase) && s.soundBlocked !== e.blocked ? { ...s, soundBlocked: e.blocked } : s),
  "video-shown": (s) => (isCall(s.phase) ? { ...s, videoShown: true } : s),
};

/** The state after `event`; the very same object if nothing changed. */
export function reduce(state, event) {
  return Object.hasOwn(RULES, event.type) ? RULES[event.type](state, event) : state;
}

/** Holds the state and tells its subscribers `(state, previous, event)` after each event, changed or not. */
export class Store {
  #state = INITIAL;
  #subscribers = new Set();

  get state() {
    return this.#state;
  }

  subscribe(subscriber) {
    this.#subscribers.add(subscriber);
    return () => this.#subscribers.delete(subscriber);
  }

  dispatch(event) {
    const previous = this.#state;
    this.#state = reduce(previous, event);
    for (const subscriber of this.#subscribers) subscriber(this.#state, previous, event);
  }
}
