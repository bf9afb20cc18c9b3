"""The OpenAI Realtime protocol on the data channel: notices of a call out as events, client events in as calls.

Pure: text in, text out; only the clock that limits the rate is read. The shapes follow the OpenAI API reference
("Realtime", GA); what is ours is named `visavis.*`, or stands in a field `visavis`, and strangers ignore it.
"""

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import msgspec
from msgspec import UNSET, UnsetType

from server.core.errors import VisavisError
from server.core.history import Item, Role
from server.core.notices import (
    CallControl,
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
from server.core.tools import AUTO, NONE, REQUIRED, Tool, ToolOffer

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024
"""of one client event"""
RATE = 50.0
"""client events a second, in the long run"""
BURST = 100.0
"""client events at once"""
EARLY = 256
"""events kept for a channel that is not open yet"""
REMEMBERED = 64
"""items of which more is known than the history keeps: how much was transcribed, where it was cut"""


TOOLS = 64
"""functions that a page may declare"""
TOOL_BYTES = 16 * 1024
"""of one function's parameters"""
TOOLS_BYTES = 64 * 1024
"""of all of them together, descriptions included"""
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


# ---- what comes in ---------------------------------------------------------------------------------


class _TurnDetection(msgspec.Struct):
    silence_duration_ms: float | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None


class _AudioInput(msgspec.Struct):
    turn_detection: _TurnDetection | UnsetType | None = UNSET
    """null: the client ends turns itself (input_audio_buffer.commit)"""


class _VoiceId(msgspec.Struct):
    id: str


class _AudioOutput(msgspec.Struct):
    voice: str | _VoiceId | None = None
    speed: float | None = None


class _Audio(msgspec.Struct):
    input: _AudioInput | None = None
    output: _AudioOutput | None = None


class _Choice(msgspec.Struct):
    avatar: str | None = None
    persona: str | None = None


class _Session(msgspec.Struct):
    instructions: str | None = None
    output_modalities: list[str] | None = None
    audio: _Audio | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    avatar: str | None = None
    persona: str | None = None
    visavis: _Choice | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Item(msgspec.Struct):
    type: str = "message"
    id: str | None = None
    role: str | None = None
    content: list[_Part] | None = None
    call_id: str | None = None
    output: str | None = None


class _Say(msgspec.Struct):
    say: str = ""


class _Response(msgspec.Struct):
    instructions: str | None = None
    output_modalities: list[str] | None = None
    conversation: str | None = None
    input: list[Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    visavis: _Say | None = None


class _Envelope(msgspec.Struct):
    type: str
    event_id: str | None = None


class _SessionUpdate(msgspec.Struct):
    session: _Session


class _ItemCreate(msgspec.Struct):
    item: _Item
    previous_item_id: str | None = None


class _ItemNamed(msgspec.Struct):
    item_id: str


class _ItemTruncate(msgspec.Struct):
    item_id: str
    audio_end_ms: float
    content_index: int = 0


class _ResponseCreate(msgspec.Struct):
    response: _Response | None = None


class _Nothing(msgspec.Struct):
    pass


class _Refused(Exception):
    """What a client asked for cannot be done; becomes an error event."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


_PATH = re.compile(r" - at `\$\.?(.*)`$")


class RealtimeChannel:
    """One client's conversation with one call."""

    def __init__(
        self, call: CallControl, send: Callable[[str], object], now: Callable[[], float] = time.monotonic
    ) -> None:
        """send: put text on the data channel; it neither waits nor raises. now: seconds, for the rate limit."""
        self._call = call
        self._send_text = send
        self._now = now
        self._early: list[tuple[str, dict[str, Any]]] | None = []  # events before the channel opened
        self._events = 0
        self._items = 0
        self._credit = BURST
        self._credited_s = now()
        self._complained_s = float("-inf")
        self._transcribed: dict[str, str] = {}  # item -> what went out as deltas
        self._committed: dict[str, bool] = {}  # items announced whose words are still to come
        self._event_id: str | None = None  # of the client event that is being answered
        self._cut_ms: dict[str, int] = {}
        self._caption: ReplyCaption | None = None
        self._outputs: dict[str, list[str]] = {}  # response -> its items, in the order in which they were told
        self._receivers: dict[str, tuple[msgspec.json.Decoder[Any], Callable[[Any], None]]] = {
            name: (msgspec.json.Decoder(shape), receive)
            for name, shape, receive in (
                ("session.update", _SessionUpdate, self._update_session),
                ("conversation.item.create", _ItemCreate, self._create_item),
                ("conversation.item.retrieve", _ItemNamed, self._retrieve_item),
                ("conversation.item.delete", _ItemNamed, self._delete_item),
                ("conversation.item.truncate", _ItemTruncate, self._truncate_item),
                ("response.create", _ResponseCreate, self._create_response),
                ("response.cancel", _Nothing, self._cancel_response),
                ("output_audio_buffer.clear", _Nothing, lambda _: call.clear_output()),
                ("input_audio_buffer.commit", _Nothing, lambda _: call.commit_input()),
                ("input_audio_buffer.clear", _Nothing, self._clear_input),
                ("input_audio_buffer.append", _Nothing, self._append_input),
            )
        }

    def open(self) -> None:
        """The channel is open: `session.created` first of all, then what happened before."""
        early, self._early = self._early, None
        self._send("session.created", session=self._session())
        for event, fields in early or ():
            self._send(event, **fields)

    # ---- client events

    def receive(self, data: str | bytes) -> None:
        """A message of the client. Whatever it is, the worst that comes of it is an error event."""
        self._event_id = None
        try:
            self._limit()
            raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
            if len(raw) > MAX_BYTES:
                raise _Refused("event_too_large", f"An event may have {MAX_BYTES} bytes; this one has {len(raw)}.")
            envelope = _decode(_ENVELOPE, raw)
            self._event_id = envelope.event_id
            if envelope.type not in self._receivers:
                raise _Refused("unknown_event", f"Events of type {_short(envelope.type)} are not known here.", "type")
            decoder, receive = self._receivers[envelope.type]
            receive(_decode(decoder, raw))
        except _Refused as refused:
            self._error(refused.code, refused.message, refused.param)
        except VisavisError as error:
            self._error(error.code, error.message)
        except _Flooded as flooded:
            if flooded.complain:
                self._error("rate_limit_exceeded", f"More than {RATE:.0f} events a second; the rest are dropped.")
        except Exception:  # a fault of ours must not end the person's call
            log.exception("a client event of %d characters failed", len(data))
            self._error("server_error", "That went wrong on our side; the call goes on.", of="server_error")

    def _limit(self) -> None:
        now = self._now()
        self._credit = min(BURST, self._credit + (now - self._credited_s) * RATE)
        self._credited_s = now
        if self._credit < 1:
            complain = now - self._complained_s >= 1
            if complain:
                self._complained_s = now
            raise _Flooded(complain)
        self._credit -= 1

    def _update_session(self, event: _SessionUpdate) -> None:
        session = event.session
        problems: list[_Refused] = []
        if session.output_modalities and "audio" not in session.output_modalities:
            problems.append(
                _Refused("unsupported_value", "Replies are spoken: 'audio'.", "session.output_modalities")
            )
        for param, values in _settings(session):
            try:
                self._call.update(**values)
            except VisavisError as error:
                problems.append(_Refused(error.code, error.message, param))
        try:
            tools = None if session.tools is None else _tools(session.tools)
            choice = _choice(session.tool_choice)
            if tools is not None or choice is not None:
                self._call.update(tools=tools, tool_choice=choice)
        except _Refused as refused:
            problems.append(refused)
        except VisavisError as error:
            problems.append(_Refused(error.code, error.message, "session.tools"))
        for problem in problems:
            self._error(problem.code, problem.message, problem.param)
        self._send("session.updated", session=self._session())

    def _create_item(self, event: _ItemCreate) -> None:
        item = event.item
        if item.type == "function_call_output":
            self._create_output(item)
            return
        if item.type != "message":
            raise _Refused(
                "unsupported_value",
                f"Items of type {_short(item.type)} cannot be added: messages and function_call_outputs can.",
                "item.type",
            )
        if item.role not in get_args(Role):
            raise _Refused("invalid_value", "A message's role is 'user', 'assistant' or 'system'.", "item.role")
        parts = item.content or []
        odd = next((part.type for part in parts if part.type not in ("input_text", "output_text", "text")), None)
        if odd is not None:
            raise _Refused(
                "unsupported_value", f"Content of type {_short(odd)} cannot be read: text only.", "item.content"
            )
        text = " ".join(part.text for part in parts if part.text).strip()
        if not text:
            raise _Refused("missing_required_parameter", "The message has no text.", "item.content")
        history = self._call.history
        item_id = self._new_id(item)
        after = event.previous_item_id
        if after == "root":
            if history.items:
                raise _Refused("unsupported_value", "Nothing can be put before the first item.", "previous_item_id")
            after = None
        elif after is not None and history.find(after) is None:
            raise _Refused("item_not_found", f"There is no item {_short(after)}.", "previous_item_id")
        self._call.add_item(cast(Role, item.role), text, item_id, after)

    def _create_output(self, item: _Item) -> None:
        if not item.call_id:
            raise _Refused("missing_required_parameter", "A function_call_output names its call_id.", "item.call_id")
        if item.output is None:
            raise _Refused("missing_required_parameter", "A function_call_output has an output.", "item.output")
        try:
            self._call.add_output(item.call_id, item.output, self._new_id(item))
        except VisavisError as error:
            raise _Refused(error.code, error.message, "item.call_id") from error

    def _new_id(self, item: _Item) -> str:
        if item.id is not None and (not 0 < len(item.id) <= 64 or self._call.history.find(item.id) is not None):
            raise _Refused("item_id_taken", "An item's id has 1 to 64 characters and is used once.", "item.id")
        self._items += 1
        return item.id or f"item_{self._call.id}_{self._items}"

    def _find(self, item_id: str) -> Item:
        item = self._call.history.find(item_id)
        if item is None:
            raise _Refused("item_not_found", f"There is no item {_short(item_id)}.", "item_id")
        return item

    def _retrieve_item(self, event: _ItemNamed) -> None:
        self._send("conversation.item.retrieved", item=_item(self._find(event.item_id)))

    def _delete_item(self, event: _ItemNamed) -> None:
        self._find(event.item_id)
        self._call.delete_item(event.item_id)
        self._send("conversation.item.deleted", item_id=event.item_id)

    def _truncate_item(self, event: _ItemTruncate) -> None:
        item = self._find(event.item_id)
        if item.role != "assistant" or item.kind != "message":
            raise _Refused("invalid_value", "Only messages of the assistant can be truncated.", "item_id")
        if not 0 <= event.audio_end_ms < 1e9:
            raise _Refused("invalid_value", "audio_end_ms is 0 or more.", "audio_end_ms")
        cut_before = self._cut_ms.pop(event.item_id, None)
        self._call.truncate(event.item_id, round(event.audio_end_ms))
        if event.item_id not in self._cut_ms:  # the call has not told of a new cut: the old one, or theirs, holds
            self._truncated(event.item_id, round(event.audio_end_ms) if cut_before is None else cut_before)

    def _create_response(self, event: _ResponseCreate) -> None:
        wish = event.response or _Response()
        if wish.output_modalities and "audio" not in wish.output_modalities:
            raise _Refused("unsupported_value", "Replies are spoken: 'audio'.", "response.output_modalities")
        if wish.input or wish.conversation == "none":
            raise _Refused("unsupported_value", "A reply always answers this conversation.", "response.input")
        say = wish.visavis.say.strip() if wish.visavis is not None else ""
        tools = None if wish.tools is None else _tools(wish.tools, "response")
        choice = _choice(wish.tool_choice, "response")
        self._call.create_reply(say=say, instructions=wish.instructions or "", tools=tools, tool_choice=choice)

    def _cancel_response(self, event: _Nothing) -> None:
        if not self._call.cancel_reply():
            raise _Refused("response_cancel_not_active", "There is no reply to cancel.")

    def _clear_input(self, event: _Nothing) -> None:
        self._call.clear_input()
        self._send("input_audio_buffer.cleared")

    def _append_input(self, event: _Nothing) -> None:
        raise _Refused("unsupported_event", "Over WebRTC the microphone is a track, not events.", "type")

    # ---- server events

    def queued(self, position: int, wait_s: float | None = None) -> None:
        """The call waits for a free place: `position` others are before it; about how long, if that is known."""
        self._send("visavis.queue", position=position, wait_s=wait_s)

    def tell(self, notice: Notice) -> None:
        """Something happened in the call."""
        match notice:
            case StateChanged(state):
                self._send("visavis.state", state=state.value)
            case SpeechStarted(item_id, audio_start_ms):
                self._send("input_audio_buffer.speech_started", item_id=item_id, audio_start_ms=audio_start_ms)
            case SpeechStopped(item_id, audio_end_ms):
                self._send("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=audio_end_ms)
            case TurnCommitted(item_id, previous):
                self._remember(self._committed, item_id, True)
                self._send("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
                item = Item(item_id, "user", "", status="in_progress")
                self._send("conversation.item.added", previous_item_id=previous, item=_item(item))
            case TurnAbandoned(item_id):
                self._abandon(item_id)
            case UserHeard(item_id, text, stable):
                self._transcribe(item_id, text[:stable])
                self._show("user", item_id, text, final=False)
            case UserSaid(item_id, text):
                self._said(item_id, text)
            case ItemAdded(item_id, previous):
                added = self._call.history.find(item_id)
                if added is not None:
                    for event in ("conversation.item.added", "conversation.item.done"):
                        self._send(event, previous_item_id=previous, item=_item(added))
            case ReplyCreated():
                self._begin(notice)
            case FunctionCalled():
                self._function_called(notice)
            case FunctionChanged(call_id, name, status):
                self._send("visavis.function", call_id=call_id, name=name, status=status)
            case ItemRemoved(item_id):
                self._send("conversation.item.deleted", item_id=item_id)
            case ReplyText(response_id, item_id, delta):
                self._announce(response_id, item_id)
                ids = self._part_of(response_id, item_id)
                self._send("response.output_audio_transcript.delta", **ids, delta=delta)
            case ReplyCaption(response_id, item_id, text, note):
                self._announce(response_id, item_id)
                self._caption = notice
                self._show("assistant", item_id, text, final=False, note=note, response_id=response_id)
            case ReplyAudioStarted(response_id):
                self._send("output_audio_buffer.started", response_id=response_id)
            case ReplyAudioStopped(response_id):
                self._send("output_audio_buffer.stopped", response_id=response_id)
                self._settle(response_id)
            case ReplyAudioCleared(response_id):
                self._send("output_audio_buffer.cleared", response_id=response_id)
                self._settle(response_id)
            case ReplyTruncated(item_id, audio_end_ms):
                self._truncated(item_id, audio_end_ms)
            case ReplyDone():
                self._end(notice)
            case Problem(code, message):
                self._send("visavis.problem", code=code, message=message)
            case Closing(reason, seconds_left):
                self._send("visavis.closing", reason=reason, seconds_left=seconds_left)
            case Measured(response_id, steps_ms, end_s):
                self._send("visavis.marks", response_id=response_id, steps_ms=steps_ms, speech_end_s=end_s)

    def _abandon(self, item_id: str) -> None:
        self._transcribed.pop(item_id, None)
        if self._committed.pop(item_id, False):  # it was announced as an item already
            self._send("conversation.item.deleted", item_id=item_id)
        else:
            self._send("input_audio_buffer.cleared")
        self._show("user", item_id, "", final=True)

    def _transcribe(self, item_id: str, stable: str) -> None:
        """Deltas only ever append: what is not certain waits, what turns out otherwise is left to `completed`."""
        sent = self._transcribed.get(item_id, "")
        if len(stable) > len(sent) and stable.startswith(sent):
            self._remember(self._transcribed, item_id, stable)
            self._send(
                "conversation.item.input_audio_transcription.delta",
                item_id=item_id,
                content_index=0,
                delta=stable[len(sent) :],
            )

    def _said(self, item_id: str, text: str) -> None:
        self._transcribe(item_id, text)
        self._transcribed.pop(item_id, None)
        self._committed.pop(item_id, None)
        self._send(
            "conversation.item.input_audio_transcription.completed",
            item_id=item_id,
            content_index=0,
            transcript=text,
            usage={"type": "duration", "seconds": 0},
        )
        items = self._call.history.items
        index = next((i for i, item in enumerate(items) if item.id == item_id), None)
        if index is not None:
            previous = items[index - 1].id if index else None
            self._send("conversation.item.done", previous_item_id=previous, item=_item(items[index]))
        self._show("user", item_id, text, final=True)

    def _begin(self, notice: ReplyCreated) -> None:
        # Its message is told with the first word: a reply may turn out to be function calls only.
        self._outputs[notice.response_id] = []
        if len(self._outputs) > REMEMBERED:
            del self._outputs[next(iter(self._outputs))]
        self._send("response.created", response=self._response(notice.response_id, "in_progress"))

    def _output(self, response_id: str, item_id: str) -> int:
        """The item's place among the reply's."""
        items = self._outputs.get(response_id, [])
        return items.index(item_id) if item_id in items else 0

    def _part_of(self, response_id: str, item_id: str) -> dict[str, Any]:
        return {
            "response_id": response_id,
            "item_id": item_id,
            "output_index": self._output(response_id, item_id),
            "content_index": 0,
        }

    def _add_output(self, response_id: str, item: dict[str, Any], previous: str | None) -> None:
        outputs = self._outputs.setdefault(response_id, [])
        outputs.append(item["id"])
        index = len(outputs) - 1
        self._send("response.output_item.added", response_id=response_id, output_index=index, item=item)
        self._send("conversation.item.added", previous_item_id=previous, item=item)

    def _announce(self, response_id: str, item_id: str) -> None:
        """The reply's message, if it was not told yet."""
        if item_id in self._outputs.get(response_id, ()):
            return
        item = _item(Item(item_id, "assistant", "", status="in_progress"))
        item["content"] = []
        self._add_output(response_id, item, self._before(item_id))
        self._send(
            "response.content_part.added",
            **self._part_of(response_id, item_id),
            part={"type": "audio", "transcript": ""},
        )

    def _before(self, item_id: str) -> str | None:
        items = self._call.history.items
        index = next((i for i, item in enumerate(items) if item.id == item_id), 0)
        return items[index - 1].id if index else None

    def _function_called(self, notice: FunctionCalled) -> None:
        response_id = notice.response_id
        item = self._call.history.find(notice.item_id)
        if item is None:
            return
        shown = _item(item)
        self._add_output(response_id, {**shown, "status": "in_progress", "arguments": ""}, notice.previous_item_id)
        ids = {
            "response_id": response_id,
            "item_id": item.id,
            "output_index": self._output(response_id, item.id),
            "call_id": item.call_id,
        }
        self._send("response.function_call_arguments.delta", **ids, delta=item.text)
        self._send("response.function_call_arguments.done", **ids, name=item.name, arguments=item.text)
        self._send("response.output_item.done", response_id=response_id, output_index=ids["output_index"], item=shown)
        self._send("conversation.item.done", previous_item_id=notice.previous_item_id, item=shown)

    def _end(self, notice: ReplyDone) -> None:
        complete = notice.status == "completed"
        details: dict[str, Any] | None = None
        if notice.status == "cancelled":
            details = {"type": "cancelled", "reason": notice.reason}
        elif notice.status == "failed":
            details = {"type": "failed", "error": {"type": "server_error", "code": notice.reason}}
        if notice.text:
            self._announce(notice.response_id, notice.item_id)
        told = self._outputs.get(notice.response_id, [])
        item = Item(notice.item_id, "assistant", notice.text, status="completed" if complete else "incomplete")
        there = self._call.history.find(notice.item_id) is not None
        if notice.item_id in told:
            ids = self._part_of(notice.response_id, notice.item_id)
            previous = self._before(notice.item_id)
            self._send("response.output_audio.done", **ids)
            self._send("response.output_audio_transcript.done", **ids, transcript=notice.text)
            self._send("response.content_part.done", **ids, part={"type": "audio", "transcript": notice.text})
            self._send(
                "response.output_item.done",
                response_id=notice.response_id,
                output_index=ids["output_index"],
                item=_item(item),
            )
            self._send("conversation.item.done", previous_item_id=previous, item=_item(item))
        known = [item if item_id == notice.item_id else self._call.history.find(item_id) for item_id in told]
        output = [_item(one) for one in known if one is not None]
        response = self._response(notice.response_id, notice.status, details, output)
        self._send("response.done", response={**response, "usage": _usage(notice.usage)})
        if notice.item_id in told and not there:  # nothing of it was heard: the history does not keep it
            self._send("conversation.item.deleted", item_id=notice.item_id)
        if notice.status == "failed":
            self._settle(notice.response_id)

    def _truncated(self, item_id: str, audio_end_ms: int) -> None:
        self._remember(self._cut_ms, item_id, audio_end_ms)
        self._send("conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=audio_end_ms)

    def _settle(self, response_id: str) -> None:
        """A reply's caption changes no more."""
        caption, self._caption = self._caption, None
        if caption is not None and caption.response_id == response_id:
            self._show(
                "assistant", caption.item_id, caption.text, final=True, note=caption.note, response_id=response_id
            )

    def _show(self, role: Role, item_id: str, text: str, *, final: bool, note: str = "", **more: str) -> None:
        self._send("visavis.caption", role=role, item_id=item_id, text=text, final=final, note=note, **more)

    @staticmethod
    def _remember(known: dict[str, Any], item_id: str, value: object) -> None:
        known.pop(item_id, None)
        known[item_id] = value
        if len(known) > REMEMBERED:
            del known[next(iter(known))]

    def _session(self) -> dict[str, Any]:
        own = self._call.session()
        by_hand = own.get("turn_mode") == "push_to_talk"
        detection = {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": own.get("silence_ms"),
            "idle_timeout_ms": None,
            "create_response": True,
            "interrupt_response": True,
        }
        pcm = {"type": "audio/pcm", "rate": 24000}  # what the protocol calls it; over WebRTC it is Opus
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": f"sess_{self._call.id}",
            "model": own.get("model"),
            "output_modalities": ["audio"],
            "instructions": own.get("instructions"),
            **_offered(self._call.offer()),
            "max_output_tokens": "inf",
            "tracing": None,
            "audio": {
                "input": {
                    "format": pcm,
                    "transcription": {"model": "visavis", "language": own.get("language")},
                    "noise_reduction": None,
                    "turn_detection": None if by_hand else detection,
                },
                "output": {"format": pcm, "voice": own.get("voice"), "speed": own.get("speed")},
            },
            "visavis": own,
        }

    def _response(
        self,
        response_id: str,
        status: str,
        details: dict[str, Any] | None = None,
        output: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        return {
            "object": "realtime.response",
            "id": response_id,
            "status": status,
            "status_details": details,
            "output": output or [],
            "conversation_id": f"conv_{self._call.id}",
            "output_modalities": ["audio"],
            "audio": {"output": {"voice": self._call.session().get("voice")}},
            "usage": None,
            "metadata": None,
        }

    def _error(
        self,
        code: str,
        message: str,
        param: str | None = None,
        of: Literal["invalid_request_error", "server_error"] = "invalid_request_error",
    ) -> None:
        error = {"type": of, "code": code, "message": message, "param": param, "event_id": self._event_id}
        self._send("error", error=error)

    def _send(self, event: str, **fields: Any) -> None:
        if self._early is not None:
            if len(self._early) < EARLY:
                self._early.append((event, fields))
            return
        self._events += 1
        message = {"type": event, "event_id": f"event_{self._events}", **fields}
        try:
            text = msgspec.json.encode(message).decode()
        except UnicodeEncodeError:  # half a surrogate pair in someone's text
            text = json.dumps(message)
        self._send_text(text)


class _Flooded(Exception):
    def __init__(self, complain: bool) -> None:
        self.complain = complain


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def _decode(decoder: msgspec.json.Decoder[Any], raw: bytes) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        where = _PATH.search(str(error))
        raise _Refused("invalid_type", f"{error}.", where[1] if where else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Refused("invalid_json", f"The event is not a JSON object: {error}.") from error


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:60] + "…")


def _settings(session: _Session) -> list[tuple[str, dict[str, Any]]]:
    """What an update asks for, one setting at a time: one that cannot be had does not spoil the others."""
    ours = session.visavis or _Choice()
    audio = session.audio or _Audio()
    output = audio.output or _AudioOutput()
    voice = output.voice.id if isinstance(output.voice, _VoiceId) else output.voice
    wishes: list[tuple[str, str, Any]] = [
        ("session.persona", "persona", ours.persona or session.persona),
        ("session.avatar", "avatar", ours.avatar or session.avatar),
        ("session.instructions", "instructions", session.instructions),
        ("session.audio.output.voice", "voice", voice),
        ("session.audio.output.speed", "speed", output.speed),
    ]
    detection = audio.input.turn_detection if audio.input is not None else UNSET
    where = "session.audio.input.turn_detection"
    if detection is None:
        wishes.append((where, "turn_mode", "push_to_talk"))
    elif isinstance(detection, _TurnDetection):
        silence = detection.silence_duration_ms
        wishes += [
            (where, "turn_mode", "hands_free"),
            (f"{where}.silence_duration_ms", "silence_ms", None if silence is None else round(min(silence, 1e9))),
            (f"{where}.create_response", "create_response", detection.create_response),
            (f"{where}.interrupt_response", "interrupt_response", detection.interrupt_response),
        ]
    return [(param, {name: value}) for param, name, value in wishes if value is not None]


def _tools(declared: list[dict[str, Any]], of: str = "session") -> list[Tool]:
    """The functions of a session.update or of one response. Raises _Refused, which names what cannot be had."""
    if len(declared) > TOOLS:
        raise _Refused("invalid_value", f"A {of} may have {TOOLS} tools; these are {len(declared)}.", f"{of}.tools")
    tools, size = [], 0
    for number, tool in enumerate(declared):
        where = f"{of}.tools[{number}]"
        if tool.get("type") != "function":
            kind = _short(str(tool.get("type")))
            raise _Refused("unsupported_value", f"Tools of type {kind} cannot be used: functions can.", where)
        name, description = tool.get("name"), tool.get("description") or ""
        parameters = tool.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise _Refused("invalid_value", "A function's name has 1 to 64 of A-Z a-z 0-9 _ -.", f"{where}.name")
        if not isinstance(description, str):
            raise _Refused("invalid_type", "A function's description is a text.", f"{where}.description")
        if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
            raise _Refused("invalid_type", "parameters is the JSON Schema of an object.", f"{where}.parameters")
        length = len(msgspec.json.encode(parameters))
        size += length + len(description.encode("utf-8", "replace"))
        if length > TOOL_BYTES or size > TOOLS_BYTES:
            limits = f"{TOOL_BYTES // 1024} KiB a function, {TOOLS_BYTES // 1024} KiB together"
            raise _Refused("invalid_value", f"That is too long: parameters may have {limits}.", where)
        tools.append(Tool(name, description, parameters))
    return tools


def _choice(given: str | dict[str, Any] | None, of: str = "session") -> str | None:
    """A tool_choice as one word: a mode, or the name of a function."""
    if isinstance(given, dict):
        name = given.get("name")
        if given.get("type") == "function" and isinstance(name, str):
            return name
    elif given is None or given in (AUTO, NONE, REQUIRED):
        return given
    raise _Refused(
        "invalid_value", "tool_choice is 'auto', 'none', 'required', or names a function.", f"{of}.tool_choice"
    )


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    """A response's `usage`. Voice is no business of the language model's: all of its tokens are text."""
    if usage is None:
        return None
    return {
        "total_tokens": usage.prompt_tokens + usage.answer_tokens,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.answer_tokens,
        "input_token_details": {
            "text_tokens": usage.prompt_tokens,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens": usage.cached_tokens,
            "cached_tokens_details": {"text_tokens": usage.cached_tokens, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": usage.answer_tokens, "audio_tokens": 0},
    }


def _offered(offer: ToolOffer) -> dict[str, Any]:
    """The session's `tools` and `tool_choice`."""
    mode = offer.choice in (AUTO, NONE, REQUIRED)
    return {
        "tools": [
            {"type": "function", "name": t.name, "description": t.description, "parameters": t.parameters}
            for t in offer.tools
        ],
        "tool_choice": offer.choice if mode else {"type": "function", "name": offer.choice},
    }


def _item(item: Item) -> dict[str, Any]:
    """An item of the history as the protocol shows it."""
    if item.kind != "message":
        shown: dict[str, Any] = {"id": item.id, "object": "realtime.item", "type": item.kind, "status": item.status}
        if item.kind == "function_call":
            return {**shown, "call_id": item.call_id, "name": item.name, "arguments": item.text}
        return {**shown, "call_id": item.call_id, "output": item.text}
    content: dict[str, Any]
    if item.role == "assistant" and item.spoken:
        content = {"type": "output_audio", "transcript": item.text}
    elif item.role == "assistant":
        content = {"type": "output_text", "text": item.text}
    elif item.role == "user" and item.spoken:
        content = {"type": "input_audio", "transcript": item.text or None}
    else:
        content = {"type": "input_text", "text": item.text}
    return {
        "id": item.id,
        "object": "realtime.item",
        "type": "message",
        "status": item.status,
        "role": item.role,
        "content": [content],
    }
