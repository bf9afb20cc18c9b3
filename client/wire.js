/**
 * The words of the data channel `oai-events`: OpenAI Realtime events and our extensions, both ways.
 * Pure functions; reading turns a server event into something that happened (an event of store.js), or null.
 */

export const CHANNEL = "oai-events";

// ---- out -------------------------------------------------------------------------------------------

/** A typed message of the person, and the wish for an answer. */
export function sendText(text) {
  return [
    {
      type: "conversation.item.create",
      item: { type: "message", role: "user", content: [{ type: "input_text", text }] },
    },
    { type: "response.create" },
  ];
}

/** The face speaks these very words; the language model is not asked (extension: `response.visavis.say`). */
export function sayText(text) {
  return [{ type: "response.create", response: { visavis: { say: text } } }];
}

/** Silence now: stop making the reply, and drop what of it has not been played. */
export function interrupt() {
  return [{ type: "response.cancel" }, { type: "output_audio_buffer.clear" }];
}

/** The person's turn is over, whatever the silence. */
export function commitInput() {
  return [{ type: "input_audio_buffer.commit" }];
}

/** Change settings in the running call; what is undefined stays as it is. */
export function updateSession({ avatar, persona, voice }) {
  const audio = voice === undefined ? undefined : { output: { voice } };
  return [{ type: "session.update", session: { type: "realtime", audio, visavis: { avatar, persona } } }];
}

// ---- in --------------------------------------------------------------------------------------------

const STATES = new Set(["listening", "hearing", "thinking", "speaking", "paused"]);

/** Errors that only say that our request came too late; nobody needs to know. */
const HARMLESS = new Set(["response_cancel_not_active", "input_audio_buffer_commit_empty"]);

const text = (value) => (typeof value === "string" ? value : "");

/** Words of a message's content parts, typed or transcribed. */
const words = (content) =>
  (Array.isArray(content) ? content : []).map((part) => text(part?.text) || text(part?.transcript)).join(" ").trim();

const READERS = {
  "session.created": (e) => readSession(e),
  "session.updated": (e) => readSession(e),
  "visavis.state": (e) => (STATES.has(e.state) ? { type: "state-told", state: e.state } : null),
  "visavis.caption": (e) => ({
    type: "caption-heard",
    id: text(e.item_id),
    role: e.role === "user" ? "user" : "assistant",
    text: text(e.text),
    final: Boolean(e.final),
    note: text(e.note),
  }),
  "visavis.problem": (e) => ({ type: "problem-told", code: text(e.code), message: text(e.message) }),
  "visavis.closing": (e) => ({ type: "closing-told", reason: text(e.reason), secondsLeft: Number(e.seconds_left) || 0 }),
  "visavis.marks": ({ type, event_id, ...marks }) => ({ type: "marks-told", marks }),
  "conversation.item.added": (e) => {
    const said = e.item?.role === "user" ? words(e.item.content) : "";
    return said ? { type: "caption-heard", id: text(e.item.id), role: "user", text: said, final: true, note: "" } : null;
  },
  "conversation.item.deleted": (e) => ({ type: "caption-dropped", id: text(e.item_id) }),
  "output_audio_buffer.stopped": () => ({ type: "reply-over" }),
  "output_audio_buffer.cleared": () => ({ type: "reply-over" }),
  "response.done": (e) => (e.response?.status === "completed" ? null : { type: "reply-over" }),
  error: (e) =>
    HARMLESS.has(e.error?.code) ? null : { type: "problem-told", code: text(e.error?.code), message: text(e.error?.message) },
};

function readSession(e) {
  const ours = e.session?.visavis;
  return ours ? { type: "choice-made", avatar: text(ours.avatar) || undefined, persona: text(ours.persona) || undefined } : null;
}

/** What a message on the channel means for us; null for what we do not know or need. */
export function read(message) {
  let event;
  try {
    event = JSON.parse(message);
  } catch {
    return null;
  }
  return Object.hasOwn(READERS, event?.type) ? READERS[event.type](event) : null;
}

/** `{code, message}` of an error answer; the code falls back on the HTTP status. */
export function readRefusal(status, body) {
  let error;
  try {
    error = JSON.parse(body)?.error;
  } catch {
    // not ours: a proxy's page
  }
  const byStatus = { 401: "unauthorized", 403: "unauthorized", 404: "not_found", 429: "busy", 503: "busy" };
  return {
    code: text(error?.code) || byStatus[status] || "server_error",
    message: text(error?.message),
    status,
  };
}
