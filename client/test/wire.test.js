import assert from "node:assert/strict";
import { test } from "node:test";

import * as wire from "../wire.js";

const read = (event) => wire.read(JSON.stringify(event));

test("a written message is an item and the wish for an answer", () => {
  const [item, wish] = wire.sendText("Hello there");
  assert.equal(item.type, "conversation.item.create");
  assert.deepEqual(item.item, { type: "message", role: "user", content: [{ type: "input_text", text: "Hello there" }] });
  assert.deepEqual(wish, { type: "response.create" });
});

test("interrupting cancels the reply and clears what was not played", () => {
  assert.deepEqual(wire.interrupt().map((e) => e.type), ["response.cancel", "output_audio_buffer.clear"]);
});

test("settings that are not given are not sent", () => {
  const [event] = JSON.parse(JSON.stringify(wire.updateSession({ avatar: "leo" })));
  assert.deepEqual(event, { type: "session.update", session: { type: "realtime", visavis: { avatar: "leo" } } });
});

test("a voice is changed the way OpenAI's protocol has it; an empty one goes back to the persona's own", () => {
  const sent = (voice) => JSON.parse(JSON.stringify(wire.updateSession({ voice })))[0].session;
  assert.deepEqual(sent("anna"), { type: "realtime", audio: { output: { voice: "anna" } }, visavis: {} });
  assert.deepEqual(sent(""), { type: "realtime", audio: { output: { voice: "" } }, visavis: {} });
});

test("our extensions are read", () => {
  assert.deepEqual(read({ type: "visavis.state", state: "paused" }), { type: "state-told", state: "paused" });
  assert.deepEqual(read({ type: "visavis.caption", role: "user", item_id: "i1", text: "hi", final: true }), {
    type: "caption-heard", id: "i1", role: "user", text: "hi", final: true, note: "",
  });
  assert.deepEqual(read({ type: "visavis.problem", code: "llm_down", message: "gone" }), {
    type: "problem-told", code: "llm_down", message: "gone",
  });
  assert.deepEqual(read({ type: "visavis.closing", reason: "time_limit", seconds_left: 30 }), {
    type: "closing-told", reason: "time_limit", secondsLeft: 30,
  });
  assert.deepEqual(read({ type: "visavis.marks", event_id: "e", response_id: "r", steps_ms: { clause: 5 } }), {
    type: "marks-told", marks: { response_id: "r", steps_ms: { clause: 5 } },
  });
});

test("the server's choice of face and persona is read from the session", () => {
  assert.deepEqual(read({ type: "session.created", session: { visavis: { avatar: "mia", persona: "guide" } } }), {
    type: "choice-made", avatar: "mia", persona: "guide",
  });
  assert.equal(read({ type: "session.updated", session: { type: "realtime" } }), null);
});

test("a written message appears when the server has taken it, an empty spoken one does not", () => {
  const added = (content, role = "user") => read({ type: "conversation.item.added", item: { id: "i", role, content } });
  assert.equal(added([{ type: "input_text", text: "hi" }]).text, "hi");
  assert.equal(added([{ type: "input_audio", transcript: null }]), null);
  assert.equal(added([{ type: "output_audio", transcript: "yes" }], "assistant"), null);
});

test("a reply is over when it is stopped, cleared or cancelled, not when it is made", () => {
  for (const type of ["output_audio_buffer.stopped", "output_audio_buffer.cleared"]) assert.deepEqual(read({ type }), { type: "reply-over" });
  assert.deepEqual(read({ type: "response.done", response: { status: "cancelled" } }), { type: "reply-over" });
  assert.equal(read({ type: "response.done", response: { status: "completed" } }), null);
});

test("errors are told, but for those that only say that we came too late", () => {
  assert.deepEqual(read({ type: "error", error: { code: "text_too_long", message: "Too long." } }), {
    type: "problem-told", code: "text_too_long", message: "Too long.",
  });
  assert.equal(read({ type: "error", error: { code: "response_cancel_not_active", message: "" } }), null);
});

test("what is not known, not JSON or of another shape is passed over", () => {
  for (const message of ["", "{", "null", "7", "[]", '{"type":"toString"}', '{"type":"rate_limits.updated"}', '{"type":"visavis.state","state":"dancing"}']) {
    assert.equal(wire.read(message), null, message);
  }
  assert.equal(read({ type: "visavis.caption", item_id: 7, text: null }).text, "");
});

test("a refusal has the server's words, and a code by its status where it has none", () => {
  assert.deepEqual(wire.readRefusal(429, '{"error":{"code":"busy","message":"2 of 2 calls."}}'), {
    code: "busy", message: "2 of 2 calls.", status: 429,
  });
  assert.equal(wire.readRefusal(503, "<html>").code, "busy");
  assert.equal(wire.readRefusal(401, "").code, "unauthorized");
  assert.equal(wire.readRefusal(500, "null").code, "server_error");
});
