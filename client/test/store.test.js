import assert from "node:assert/strict";
import { test } from "node:test";

import { INITIAL, PHASES, Store, pair, reduce } from "../store.js";

const after = (...events) => events.reduce(reduce, INITIAL);
const STARTED = { type: "call-started" };
const CONNECTED = { type: "connected", at: 1000 };
const said = (id, role, text, final = false, note = "") => ({ type: "caption-heard", id, role, text, final, note });

test("a call goes from idle over connecting to listening, then where the server says", () => {
  assert.equal(INITIAL.phase, "idle");
  assert.equal(after(STARTED).phase, "connecting");
  assert.equal(after(STARTED, CONNECTED).phase, "listening");
  for (const state of ["hearing", "thinking", "speaking", "paused", "listening"]) {
    assert.equal(after(STARTED, CONNECTED, { type: "state-told", state }).phase, state);
    assert.ok(PHASES.includes(state));
  }
});

test("what comes without a call changes nothing", () => {
  for (const event of [
    CONNECTED,
    { type: "state-told", state: "speaking" },
    said("a", "user", "hello"),
    { type: "problem-told", code: "x", message: "y" },
    { type: "call-ended", reason: "hung_up", at: 0 },
    { type: "call-failed", code: "busy", message: "" },
    { type: "no-such-event" },
    { type: "constructor" },
  ]) {
    assert.equal(reduce(INITIAL, event), INITIAL, event.type);
  }
});

test("a second start during a call is ignored", () => {
  const live = after(STARTED, CONNECTED);
  assert.equal(reduce(live, STARTED), live);
});

test("captions grow in place, in the order in which they were first heard", () => {
  const { captions } = after(STARTED, CONNECTED, said("u", "user", "what"), said("a", "assistant", "It"), said("u", "user", "what time", true));
  assert.deepEqual(captions.map((c) => [c.id, c.text, c.final]), [["u", "what time", true], ["a", "It", false]]);
});

test("a turn without words leaves no bubble", () => {
  const state = after(STARTED, CONNECTED, said("u", "user", "uh"), said("u", "user", "", true));
  assert.deepEqual(state.captions, []);
  assert.deepEqual(after(STARTED, CONNECTED, said("u", "user", "")).captions, []);
});

test("a caption's note stays when a later piece carries none", () => {
  const [line] = after(STARTED, CONNECTED, said("a", "assistant", "12", false, "scripted"), said("a", "assistant", "12 o'clock")).captions;
  assert.equal(line.note, "scripted");
  assert.equal(line.text, "12 o'clock");
});

test("a reply that is over is final; the person's open turn is not", () => {
  const { captions } = after(STARTED, CONNECTED, said("a", "assistant", "Well"), said("u", "user", "stop"), { type: "reply-over" });
  assert.deepEqual(captions.map((c) => c.final), [true, false]);
});

test("captions are bounded: the oldest go first", () => {
  let state = after(STARTED, CONNECTED);
  for (let i = 0; i < 300; i += 1) state = reduce(state, said(`c${i}`, "user", "x", true));
  assert.equal(state.captions.length, 200);
  assert.equal(state.captions[0].id, "c100");
});

test("hanging up keeps the conversation and says how long it was", () => {
  const state = after(STARTED, CONNECTED, said("a", "assistant", "Bye"), { type: "call-ended", reason: "hung_up", at: 61_000 });
  assert.equal(state.phase, "ended");
  assert.deepEqual(state.ended, { reason: "hung_up", seconds: 60 });
  assert.equal(state.captions[0].final, true);
});

test("hanging up before there was a call leads back to the invitation", () => {
  assert.equal(after(STARTED, { type: "call-ended", reason: "hung_up", at: 5 }).phase, "idle");
});

test("a failure is kept until the next start, which clears everything of the last call", () => {
  const failed = after(STARTED, CONNECTED, said("a", "assistant", "Hm"), { type: "call-failed", code: "lost", message: "" });
  assert.equal(failed.phase, "failed");
  assert.equal(failed.failure.code, "lost");
  const again = reduce(failed, STARTED);
  assert.equal(again.failure, null);
  assert.deepEqual(again.captions, []);
});

test("a lost connection goes back to connecting and keeps what was said and since when", () => {
  const lost = after(STARTED, CONNECTED, said("a", "assistant", "As I"), { type: "connection-lost" });
  assert.equal(lost.phase, "connecting");
  assert.equal(lost.reconnecting, true);
  assert.equal(lost.captions[0].final, true);
  const back = reduce(lost, { type: "connected", at: 9000 });
  assert.equal(back.reconnecting, false);
  assert.equal(back.connectedAt, 1000);
});

test("a shaky connection's notice goes with it, another notice stays", () => {
  const live = after(STARTED, CONNECTED);
  const shaky = reduce(live, { type: "connection-shaky" });
  assert.equal(shaky.notice.code, "shaky");
  assert.equal(reduce(shaky, { type: "connection-steady" }).notice, null);
  const problem = reduce(live, { type: "problem-told", code: "llm_down", message: "no model" });
  assert.equal(reduce(problem, { type: "connection-steady" }).notice.code, "llm_down");
  assert.equal(reduce(problem, { type: "notice-dismissed" }).notice, null);
});

test("muted is what was told, and a new call begins unmuted", () => {
  const muted = after(STARTED, CONNECTED, { type: "muted-changed", muted: true });
  assert.equal(muted.muted, true);
  assert.equal(reduce(reduce(muted, { type: "call-ended", reason: "", at: 0 }), STARTED).muted, false);
});

test("a face and its persona are chosen together", () => {
  const house = {
    avatars: [{ name: "mia" }, { name: "leo" }],
    personas: [{ name: "guide", avatar: "mia" }, { name: "teacher", avatar: "leo" }, { name: "ghost", avatar: "nobody" }],
    persona: "guide",
  };
  assert.deepEqual(pair(house, { avatar: "leo" }), { avatar: "leo", persona: "teacher" });
  assert.deepEqual(pair(house, { persona: "teacher" }), { avatar: "leo", persona: "teacher" });
  assert.deepEqual(pair(house, { persona: "ghost" }), { avatar: undefined, persona: "ghost" });
  assert.deepEqual(pair(house, { avatar: "mia" }), { avatar: "mia", persona: undefined });
  assert.deepEqual(pair(house, { avatar: "leo", persona: "guide" }), { avatar: "leo", persona: "guide" });
});

test("subscribers hear of each event with both states, until they leave", () => {
  const store = new Store();
  const heard = [];
  const leave = store.subscribe((state, previous, event) => heard.push([previous.phase, state.phase, event.type]));
  store.dispatch(STARTED);
  leave();
  store.dispatch(CONNECTED);
  assert.deepEqual(heard, [["idle", "connecting", "call-started"]]);
  assert.equal(store.state.phase, "listening");
});
