"""The OpenAI Realtime protocol without a network: what goes out for what happens, and what comes of what comes in."""

import json
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.errors import RequestError
from server.core.events import State
from server.core.history import History, Item
from server.core.notices import (
    Closing,
    FunctionCalled,
    FunctionChanged,
    ItemAdded,
    ItemRemoved,
    Measured,
    Notice,
    Problem,
    ReplyAudioCleared,
    ReplyAudioStarted,
    ReplyAudioStopped,
    ReplyCaption,
    ReplyCreated,
    ReplyDone,
    ReplyText,
    ReplyTruncated,
    SpeechStarted,
    SpeechStopped,
    StateChanged,
    TurnAbandoned,
    TurnCommitted,
    UserHeard,
    UserSaid,
)
from server.core.tokens import Usage
from server.core.tools import Tool, ToolOffer
from server.rtc.realtime import BURST, MAX_BYTES, TOOL_BYTES, TOOLS, RealtimeChannel


class ScriptedCall:
    """CallControl that writes down what it is asked."""

    id = "rtc_1"

    def __init__(self) -> None:
        self.history = History()
        self.asked: list[tuple[Any, ...]] = []
        self.settings: dict[str, Any] = {
            "model": "scripted",
            "instructions": "Be Mia.",
            "voice": "slt",
            "speed": 1.0,
            "language": "en",
            "avatar": "mia",
            "persona": "mia",
            "turn_mode": "hands_free",
            "silence_ms": 500,
        }
        self.replying = False
        self.offered = ToolOffer()
        self.channel: RealtimeChannel | None = None

    def session(self) -> dict[str, Any]:
        return dict(self.settings)

    def update(self, **wishes: Any) -> None:
        if wishes.get("voice") == "nobody":
            raise RequestError(400, "unknown_voice", "There is no voice 'nobody'.")
        if wishes.get("tools") is not None or wishes.get("tool_choice") is not None:
            tools = wishes.pop("tools")
            choice = wishes.pop("tool_choice") or self.offered.choice
            self.offered = ToolOffer(self.offered.tools if tools is None else tuple(tools), choice)
        self.asked.append(("update", wishes))
        self.settings.update({k: v for k, v in wishes.items() if v is not None})

    def add_item(
        self, role: Literal["user", "assistant", "system"], text: str, item_id: str, after: str | None
    ) -> None:
        self.asked.append(("add_item", role, text))
        previous = self.history.add(Item(item_id, role, text, spoken=False), after)
        assert self.channel is not None
        self.channel.tell(ItemAdded(item_id, previous))

    def offer(self) -> ToolOffer:
        return self.offered

    def add_output(self, call_id: str, output: str, item_id: str) -> None:
        if call_id != "call_1":
            raise RequestError(404, "unknown_call_id", "It was never asked for.")
        self.asked.append(("add_output", call_id, output))
        item = Item(item_id, "system", output, kind="function_call_output", call_id=call_id)
        previous = self.history.add(item)
        assert self.channel is not None
        self.channel.tell(ItemAdded(item_id, previous))

    def delete_item(self, item_id: str) -> None:
        self.history.remove(item_id)

    def create_reply(
        self, text: str = "", say: str = "", instructions: str = "", tools: Any = None, tool_choice: Any = None
    ) -> None:
        own = () if tools is None and tool_choice is None else (tools, tool_choice)
        self.asked.append(("create_reply", text, say, instructions, *own))

    def cancel_reply(self) -> bool:
        self.asked.append(("cancel_reply",))
        return self.replying

    def clear_output(self) -> None:
        self.asked.append(("clear_output",))

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        self.asked.append(("truncate", item_id, audio_end_ms))

    def commit_input(self) -> None:
        self.asked.append(("commit_input",))

    def clear_input(self) -> None:
        self.asked.append(("clear_input",))

    def hang_up(self, reason: str) -> None:
        self.asked.append(("hang_up", reason))


class Talk:
    """A channel, the call behind it, and what was sent."""

    def __init__(self) -> None:
        self.call = ScriptedCall()
        self.now = 0.0
        self.texts: list[str] = []
        self.channel = RealtimeChannel(self.call, self.texts.append, lambda: self.now)
        self.call.channel = self.channel
        self.channel.open()
        (self.created,) = self.sent()

    def sent(self) -> list[dict[str, Any]]:
        events = [json.loads(text) for text in self.texts]
        self.texts.clear()
        return events

    def say(self, event: str | bytes | dict[str, Any]) -> list[dict[str, Any]]:
        self.channel.receive(json.dumps(event) if isinstance(event, dict) else event)
        return self.sent()

    def tell(self, *notices: Notice) -> list[dict[str, Any]]:
        for notice in notices:
            self.channel.tell(notice)
        return self.sent()

    def error(self, event: str | bytes | dict[str, Any]) -> dict[str, Any]:
        (answer,) = self.say(event)
        assert answer["type"] == "error"
        assert answer["error"]["message"]
        error = answer["error"]
        assert set(error) == {"type", "code", "message", "param", "event_id"}
        return error  # type: ignore[no-any-return]


@pytest.fixture
def talk() -> Talk:
    return Talk()


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


# ---- the session


def test_the_session_is_told_first(talk: Talk) -> None:
    session = talk.created["session"]
    assert talk.created["type"] == "session.created"
    assert (session["type"], session["object"], session["id"]) == ("realtime", "realtime.session", "sess_rtc_1")
    assert session["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "voice": "slt",
        "speed": 1.0,
    }
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500
    assert session["visavis"]["avatar"] == "mia"


def test_what_happened_before_the_channel_opened_follows(talk: Talk) -> None:
    texts: list[str] = []
    channel = RealtimeChannel(talk.call, texts.append)
    channel.tell(StateChanged(State.SPEAKING))
    assert texts == []
    channel.open()
    assert [json.loads(t)["type"] for t in texts] == ["session.created", "visavis.state"]


def test_what_the_agents_sdk_sends_is_answered(talk: Talk) -> None:
    events = talk.say(
        {
            "type": "session.update",
            "session": {
                "type": "realtime",
                "model": "gpt-realtime",
                "instructions": "Be brief.",
                "output_modalities": ["audio"],
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "noise_reduction": None,
                        "transcription": {"model": "gpt-4o-mini-transcribe"},
                        "turn_detection": {"type": "semantic_vad"},
                    },
                    "output": {"format": {"type": "audio/pcm", "rate": 24000}, "speed": 1},
                },
            },
        }
    )
    assert kinds(events) == ["session.updated"]
    assert events[0]["session"]["instructions"] == "Be brief."
    assert kinds(talk.say({"type": "session.update", "session": {"type": "realtime", "tracing": "auto"}})) == [
        "session.updated"
    ]


def test_what_cannot_be_had_is_said_and_the_rest_holds(talk: Talk) -> None:
    events = talk.say(
        {
            "type": "session.update",
            "event_id": "e1",
            "session": {
                "instructions": "Sing.",
                "tools": [{"type": "mcp", "name": "f"}],
                "audio": {"output": {"voice": "nobody", "speed": 1.5}},
                "visavis": {"persona": "leo"},
            },
        }
    )
    assert kinds(events) == ["error", "error", "session.updated"]
    assert [(e["error"]["code"], e["error"]["param"], e["error"]["event_id"]) for e in events[:2]] == [
        ("unknown_voice", "session.audio.output.voice", "e1"),
        ("unsupported_value", "session.tools[0]", "e1"),
    ]
    session = events[2]["session"]
    assert (session["instructions"], session["audio"]["output"]["speed"]) == ("Sing.", 1.5)
    assert session["visavis"]["persona"] == "leo"


def test_who_ends_the_turn(talk: Talk) -> None:
    def update(detection: dict[str, Any] | None) -> dict[str, Any]:
        (event,) = talk.say(
            {"type": "session.update", "session": {"audio": {"input": {"turn_detection": detection}}}}
        )
        return event["session"]["audio"]["input"]["turn_detection"]  # type: ignore[no-any-return]

    assert update(None) is None
    assert talk.call.settings["turn_mode"] == "push_to_talk"
    assert update({"type": "server_vad", "silence_duration_ms": 700})["silence_duration_ms"] == 700
    assert talk.call.settings["turn_mode"] == "hands_free"
    update({"type": "server_vad", "create_response": False, "interrupt_response": False})
    assert talk.call.settings["create_response"] is False


# ---- a turn of the person


def test_a_spoken_turn(talk: Talk) -> None:
    events = talk.tell(
        StateChanged(State.HEARING),
        SpeechStarted("item_1", 1200),
        UserHeard("item_1", "what is", 0),
        UserHeard("item_1", "what is the", 5),
        UserHeard("item_1", "what is the type", 12),
        SpeechStopped("item_1", 2600),
        TurnCommitted("item_1", None),
    )
    assert kinds(events) == [
        "visavis.state",
        "input_audio_buffer.speech_started",
        "visavis.caption",
        "conversation.item.input_audio_transcription.delta",
        "visavis.caption",
        "conversation.item.input_audio_transcription.delta",
        "visavis.caption",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
    ]
    assert events[1]["audio_start_ms"] == 1200
    assert [e["delta"] for e in events if e["type"].endswith("delta")] == ["what ", "is the "]
    assert events[-1]["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    talk.call.history.add(Item("item_1", "user", "what is the time"))
    events = talk.tell(UserSaid("item_1", "what is the time"))
    assert kinds(events) == [
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.done",
        "visavis.caption",
    ]
    assert events[0]["delta"] == "time"
    assert events[1]["transcript"] == "what is the time"
    assert events[2]["item"]["content"] == [{"type": "input_audio", "transcript": "what is the time"}]
    assert events[3]["final"] is True
    (retrieved,) = talk.say({"type": "conversation.item.retrieve", "item_id": "item_1"})
    assert retrieved["item"] == events[2]["item"]


def test_deltas_never_take_back(talk: Talk) -> None:
    talk.tell(SpeechStarted("i", 0), UserHeard("i", "wreck a nice", 12))
    events = talk.tell(UserHeard("i", "recognise speech", 16), UserSaid("i", "recognise speech"))
    assert not any(e["type"].endswith("delta") for e in events)
    assert events[-2]["transcript"] == "recognise speech"


def test_a_turn_without_words_leaves_nothing(talk: Talk) -> None:
    events = talk.tell(SpeechStarted("a", 0), TurnAbandoned("a"))
    assert kinds(events)[1:] == ["input_audio_buffer.cleared", "visavis.caption"]
    assert (events[2]["text"], events[2]["final"]) == ("", True)
    talk.tell(SpeechStarted("b", 0), SpeechStopped("b", 9), TurnCommitted("b", None))
    assert kinds(talk.tell(TurnAbandoned("b")))[0] == "conversation.item.deleted"


# ---- a reply


def reply(talk: Talk) -> list[dict[str, Any]]:
    talk.call.history.add(Item("u", "user", "hello"))
    previous = talk.call.history.add(Item("item_2", "assistant", "", status="in_progress"))
    return talk.tell(ReplyCreated("resp_1", "item_2", previous), ReplyText("resp_1", "item_2", "Hi. "))


def test_a_reply_heard_to_its_end(talk: Talk) -> None:
    assert kinds(reply(talk)) == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
    ]
    events = talk.tell(
        ReplyAudioStarted("resp_1"),
        ReplyCaption("resp_1", "item_2", "Hi."),
        ReplyText("resp_1", "item_2", "I am Mia."),
        ReplyDone("resp_1", "item_2", "completed", "", "Hi. I am Mia."),
        ReplyCaption("resp_1", "item_2", "Hi. I am Mia.", "a spare voice is speaking"),
        ReplyAudioStopped("resp_1"),
    )
    assert kinds(events) == [
        "output_audio_buffer.started",
        "visavis.caption",
        "response.output_audio_transcript.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
        "visavis.caption",
        "output_audio_buffer.stopped",
        "visavis.caption",
    ]
    done = events[8]["response"]
    assert (done["status"], done["status_details"]) == ("completed", None)
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hi. I am Mia."}]
    assert events[7]["previous_item_id"] == "u"
    last = events[-1]
    assert (last["text"], last["final"], last["note"]) == ("Hi. I am Mia.", True, "a spare voice is speaking")
    ids = [e["event_id"] for e in events]
    assert len(set(ids)) == len(ids)


def test_a_reply_that_is_interrupted(talk: Talk) -> None:
    reply(talk)
    item = talk.call.history.find("item_2")
    assert item is not None
    item.text, item.status = "Hi.", "incomplete"
    events = talk.tell(
        ReplyCaption("resp_1", "item_2", "Hi."),
        ReplyAudioCleared("resp_1"),
        ReplyTruncated("item_2", 640, "Hi."),
        ReplyDone("resp_1", "item_2", "cancelled", "turn_detected", "Hi."),
    )
    assert kinds(events)[:4] == [
        "visavis.caption",
        "output_audio_buffer.cleared",
        "visavis.caption",
        "conversation.item.truncated",
    ]
    assert events[2]["final"]
    assert (events[3]["audio_end_ms"], events[3]["content_index"]) == (640, 0)
    done = events[-1]["response"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["output"][0]["status"] == "incomplete"
    truncate = {"type": "conversation.item.truncate", "item_id": "item_2", "content_index": 0, "audio_end_ms": 999}
    (again,) = talk.say(truncate)
    assert again["audio_end_ms"] == 640  # the server knows better
    assert talk.error({**truncate, "item_id": "u"})["param"] == "item_id"


def test_a_reply_of_which_nothing_was_heard(talk: Talk) -> None:
    reply(talk)
    talk.call.history.remove("item_2")
    events = talk.tell(ReplyDone("resp_1", "item_2", "cancelled", "client_cancelled", ""))
    assert kinds(events)[-2:] == ["response.done", "conversation.item.deleted"]


def test_a_reply_that_fails(talk: Talk) -> None:
    reply(talk)
    events = talk.tell(
        Problem("llm_unreachable", "The language model does not answer."),
        ReplyDone("resp_1", "item_2", "failed", "llm_unreachable", ""),
    )
    assert events[0]["type"] == "visavis.problem"
    details = events[-1]["response"]["status_details"]
    assert details == {"type": "failed", "error": {"type": "server_error", "code": "llm_unreachable"}}


def test_what_is_ours(talk: Talk) -> None:
    talk.channel.queued(2)
    events = talk.tell(Closing("time_limit", 60.0), Measured("resp_1", {"audio_packet": 612.5}))
    assert kinds(events) == ["visavis.queue", "visavis.closing", "visavis.marks"]
    assert events[1]["seconds_left"] == 60.0
    assert events[2]["steps_ms"] == {"audio_packet": 612.5}


def test_half_a_character_does_not_break_the_channel(talk: Talk) -> None:
    (event,) = talk.tell(Problem("odd", "\ud83d"))
    assert event["message"] == "\ud83d"


# ---- functions

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


def declare(talk: Talk, *tools: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return talk.say({"type": "session.update", "session": {"tools": list(tools), **more}})


def test_functions_are_declared_shown_and_taken_back(talk: Talk) -> None:
    assert (talk.created["session"]["tools"], talk.created["session"]["tool_choice"]) == ([], "auto")
    (updated,) = declare(talk, {**WEATHER, "strict": True}, tool_choice="auto")
    assert updated["session"]["tools"] == [WEATHER]
    assert talk.call.offered.tools == (Tool("weather", "Tells the weather.", WEATHER["parameters"]),)  # type: ignore[arg-type]
    named = {"type": "function", "name": "weather"}
    (updated,) = talk.say({"type": "session.update", "session": {"tool_choice": named}})
    assert (updated["session"]["tools"], updated["session"]["tool_choice"]) == ([WEATHER], named)
    (updated,) = talk.say({"type": "session.update", "session": {"instructions": "Sing."}})
    assert updated["session"]["tools"] == [WEATHER]
    (updated,) = declare(talk)
    assert updated["session"]["tools"] == []


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([WEATHER, {**WEATHER, "name": "two words"}], "session.tools[1].name"),
        ([{**WEATHER, "name": 7}], "session.tools[0].name"),
        ([{**WEATHER, "description": 7}], "session.tools[0].description"),
        ([{**WEATHER, "parameters": {"type": "string"}}], "session.tools[0].parameters"),
        ([{**WEATHER, "parameters": {"x": "y" * TOOL_BYTES}}], "session.tools[0]"),
        ([{**WEATHER, "name": f"f{i}", "description": "d" * 9000} for i in range(8)], "session.tools[7]"),
        ([{**WEATHER, "name": f"f{i}"} for i in range(TOOLS + 1)], "session.tools"),
        ([{"type": "web_search"}], "session.tools[0]"),
    ],
)
def test_functions_that_cannot_be_had_change_nothing(talk: Talk, tools: list[Any], param: str) -> None:
    declare(talk, WEATHER)
    error, updated = declare(talk, *tools)
    assert (error["type"], error["error"]["param"]) == ("error", param)
    assert updated["session"]["tools"] == [WEATHER]
    error, _ = talk.say({"type": "session.update", "session": {"tool_choice": "perhaps"}})
    assert error["error"]["param"] == "session.tool_choice"


def test_one_response_may_have_functions_of_its_own(talk: Talk) -> None:
    declare(talk, WEATHER)
    response = {"tools": [{**WEATHER, "name": "clock"}], "tool_choice": "required"}
    assert talk.say({"type": "response.create", "response": response}) == []
    *_, tools, choice = talk.call.asked[-1]
    assert ([tool.name for tool in tools], choice) == (["clock"], "required")
    assert [tool.name for tool in talk.call.offered.tools] == ["weather"]  # the session's stay
    talk.say({"type": "response.create", "response": {"tools": []}})
    assert talk.call.asked[-1][-2:] == ([], None)


def called(talk: Talk, response_id: str = "resp_1") -> FunctionCalled:
    item = Item("item_c", "assistant", '{"place": "Oslo"}', kind="function_call", call_id="call_1", name="weather")
    return FunctionCalled(response_id, "item_c", talk.call.history.add(item))


def test_a_reply_that_only_calls_a_function(talk: Talk) -> None:
    talk.call.history.add(Item("u", "user", "hello"))
    events = talk.tell(ReplyCreated("resp_1", "item_2", "u"), called(talk))
    events += talk.tell(ReplyDone("resp_1", "item_2", "completed", "", ""))
    assert kinds(events) == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    begun, done = events[1]["item"], events[5]["item"]
    assert (begun["type"], begun["status"], begun["arguments"]) == ("function_call", "in_progress", "")
    assert done == {
        "id": "item_c",
        "object": "realtime.item",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "weather",
        "arguments": '{"place": "Oslo"}',
    }
    assert events[2]["previous_item_id"] == "u"
    assert "".join(e["delta"] for e in events if e["type"].endswith("delta")) == events[4]["arguments"]
    assert (events[4]["call_id"], events[4]["item_id"], events[4]["output_index"]) == ("call_1", "item_c", 0)
    response = events[-1]["response"]
    assert (response["status"], response["output"]) == ("completed", [done])


def test_what_a_reply_cost_is_told_where_it_is_known(talk: Talk) -> None:
    reply(talk)
    (*_, done) = talk.tell(ReplyDone("resp_1", "item_2", "completed", "", "Hi.", Usage(2, 900, 640, 41)))
    usage = done["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (900, 41, 941)
    assert usage["input_token_details"]["cached_tokens"] == 640
    reply(talk)
    (*_, done) = talk.tell(ReplyDone("resp_1", "item_2", "completed", "", "Hi."))
    assert done["response"]["usage"] is None


def test_a_reply_that_speaks_and_calls(talk: Talk) -> None:
    reply(talk)
    events = talk.tell(called(talk), ReplyDone("resp_1", "item_2", "completed", "", "Hi."))
    assert {e["output_index"] for e in events if e.get("item_id") == "item_c"} == {1}
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call"]


def test_the_page_answers_a_call(talk: Talk) -> None:
    item = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    added, done = talk.say({"type": "conversation.item.create", "item": item})
    assert (added["type"], done["type"]) == ("conversation.item.added", "conversation.item.done")
    assert (done["item"]["type"], done["item"]["call_id"], done["item"]["output"]) == (
        "function_call_output",
        "call_1",
        "sunny",
    )
    assert talk.call.asked == [("add_output", "call_1", "sunny")]


def test_a_call_cannot_be_truncated(talk: Talk) -> None:
    reply(talk)
    talk.tell(called(talk))
    truncate = {"type": "conversation.item.truncate", "item_id": "item_c", "content_index": 0, "audio_end_ms": 9}
    assert talk.error(truncate)["param"] == "item_id"


def test_what_becomes_of_the_servers_functions_is_told(talk: Talk) -> None:
    changed, removed = talk.tell(FunctionChanged("call_9", "clock", "late"), ItemRemoved("item_o"))
    assert (changed["type"], changed["name"], changed["status"]) == ("visavis.function", "clock", "late")
    assert (removed["type"], removed["item_id"]) == ("conversation.item.deleted", "item_o")


# ---- items


def message(text: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {
        "type": "conversation.item.create",
        "item": {"type": "message", "role": "user", "content": content},
        **more,
    }


def test_typed_text_and_its_reply(talk: Talk) -> None:
    events = talk.say(message("hello"))
    assert kinds(events) == ["conversation.item.added", "conversation.item.done"]
    assert events[0]["item"]["content"] == [{"type": "input_text", "text": "hello"}]
    assert events[0]["previous_item_id"] is None
    assert talk.say({"type": "response.create"}) == []
    talk.say({"type": "response.create", "response": {"instructions": "whisper", "visavis": {"say": "Psst."}}})
    assert talk.call.asked[-2:] == [("create_reply", "", "", ""), ("create_reply", "", "Psst.", "whisper")]
    first = events[0]["item"]["id"]
    (_, done) = talk.say(message("again", previous_item_id=first))
    assert done["previous_item_id"] == first


def test_items_come_and_go(talk: Talk) -> None:
    event = message("x")
    event["item"]["id"] = "mine"
    talk.say(event)
    assert talk.error(event)["code"] == "item_id_taken"
    (deleted,) = talk.say({"type": "conversation.item.delete", "item_id": "mine"})
    assert (deleted["type"], deleted["item_id"]) == ("conversation.item.deleted", "mine")
    for kind in ("retrieve", "delete"):
        error = talk.error({"type": f"conversation.item.{kind}", "item_id": "mine", "event_id": "e9"})
        assert (error["code"], error["param"], error["event_id"]) == ("item_not_found", "item_id", "e9")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "function_call", "call_id": "c", "arguments": "{}"}, "item.type"),
        ({"type": "function_call_output", "call_id": "c", "output": "{}"}, "item.call_id"),
        ({"type": "function_call_output", "output": "{}"}, "item.call_id"),
        ({"type": "function_call_output", "call_id": "call_1"}, "item.output"),
        ({"type": "function_call_output", "id": "x" * 65, "call_id": "call_1", "output": ""}, "item.id"),
        ({"type": "message", "role": "robot", "content": [{"type": "input_text", "text": "x"}]}, "item.role"),
        ({"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "item.content"),
        ({"type": "message", "role": "user", "content": []}, "item.content"),
        ({"type": "message", "role": "user"}, "item.content"),
        ({"id": "", "role": "user", "content": [{"type": "input_text", "text": "x"}]}, "item.id"),
    ],
)
def test_items_that_cannot_be_added(talk: Talk, item: dict[str, Any], param: str) -> None:
    assert talk.error({"type": "conversation.item.create", "item": item})["param"] == param


def test_places_that_do_not_exist(talk: Talk) -> None:
    assert talk.error(message("x", previous_item_id="nowhere"))["code"] == "item_not_found"
    assert kinds(talk.say(message("x", previous_item_id="root")))[0] == "conversation.item.added"
    assert talk.error(message("y", previous_item_id="root"))["code"] == "unsupported_value"


# ---- orders


def test_orders_reach_the_call(talk: Talk) -> None:
    talk.call.replying = True
    assert talk.say({"type": "response.cancel"}) == []
    assert talk.say({"type": "output_audio_buffer.clear"}) == []
    assert talk.say({"type": "input_audio_buffer.commit"}) == []
    assert kinds(talk.say({"type": "input_audio_buffer.clear"})) == ["input_audio_buffer.cleared"]
    assert [a[0] for a in talk.call.asked] == ["cancel_reply", "clear_output", "commit_input", "clear_input"]
    talk.call.replying = False
    assert talk.error({"type": "response.cancel"})["code"] == "response_cancel_not_active"


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ("", "invalid_json", None),
        ("{", "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        ('{"type": "session.update", "session": {"tools": ' + "[" * 100_000, "invalid_json", None),
        ("null", "invalid_type", None),
        ("{}", "invalid_type", None),
        ('{"type": 7}', "invalid_type", "type"),
        ({"type": "visavis.dance"}, "unknown_event", "type"),
        ({"type": "input_audio_buffer.append", "audio": ""}, "unsupported_event", "type"),
        ({"type": "session.update"}, "invalid_type", None),
        ({"type": "session.update", "session": {"instructions": 7}}, "invalid_type", "session.instructions"),
        ({"type": "response.create", "response": {"conversation": "none"}}, "unsupported_value", "response.input"),
        ({"type": "response.create", "response": {"tools": [{}]}}, "unsupported_value", "response.tools[0]"),
        ({"type": "response.create", "response": {"tool_choice": "odd"}}, "invalid_value", "response.tool_choice"),
        (
            {"type": "response.create", "response": {"output_modalities": ["text"]}},
            "unsupported_value",
            "response.output_modalities",
        ),
        ("x" * (MAX_BYTES + 1), "event_too_large", None),
        ("ж" * (MAX_BYTES // 2 + 1), "event_too_large", None),
    ],
)
def test_what_is_wrong_is_said(talk: Talk, event: str | bytes | dict[str, Any], code: str, param: str | None) -> None:
    error = talk.error(event)
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")


def test_too_many_events_are_dropped_and_said_once_a_second(talk: Talk) -> None:
    for _ in range(int(BURST)):
        talk.say({"type": "input_audio_buffer.commit"})
    assert talk.error({"type": "input_audio_buffer.commit"})["code"] == "rate_limit_exceeded"
    assert talk.say({"type": "input_audio_buffer.commit"}) == []
    assert len(talk.call.asked) == BURST
    talk.now += 1
    talk.say({"type": "input_audio_buffer.commit"})
    assert len(talk.call.asked) == BURST + 1


def test_a_fault_of_ours_does_not_end_the_call(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    talk.call.commit_input = fail  # type: ignore[method-assign]
    error = talk.error({"type": "input_audio_buffer.commit"})
    assert (error["type"], error["code"]) == ("server_error", "server_error")
    assert "a fault" in caplog.text


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
_words = st.sampled_from(
    ["tool_choice", "name", "parameters", "description", "call_id",
     "session", "item", "response", "item_id", "content", "type", "role", "text", "audio", "input", "output", "voice",
     "turn_detection", "visavis", "say", "audio_end_ms", "previous_item_id", "tools", "speed", "id", "event_id"]
)  # fmt: skip
_shaped = st.recursive(
    _json | st.sampled_from(["message", "user", "input_text", "root", "u"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(_words, children, max_size=5),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300))
def test_no_bytes_raise(data: bytes | str) -> None:
    talk = Talk()
    assert kinds(talk.say(data)) == ["error"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_event_raises(data: st.DataObject) -> None:
    talk = Talk()
    talk.call.history.add(Item("u", "assistant", "hello"))
    names = st.sampled_from(sorted(talk.channel._receivers))
    event = {**data.draw(st.dictionaries(_words, _shaped, max_size=5)), "type": data.draw(names)}
    answers = talk.say(msgspec.json.encode(event))
    for answer in answers:
        assert answer["type"] != "error" or answer["error"]["code"] != "server_error"
