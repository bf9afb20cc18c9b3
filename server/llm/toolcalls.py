"""Puts together the function calls that stream in with an answer, in whichever way a server sends them."""

import json
import secrets
from dataclasses import dataclass
from typing import Any

from server.core.tools import ToolCall

NAME_CHARS = 64
ID_CHARS = 128
WRITTEN_CHARS = 20_000
"""of a call that the model writes into its text"""


@dataclass(slots=True)
class _Call:
    index: int | None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    too_long: bool = False

    @property
    def whole(self) -> bool:
        """Whether its arguments are complete JSON."""
        try:
            json.loads(self.arguments)
        except ValueError:
            return False
        return True


class Calls:
    """The calls of one answer, delta by delta.

    OpenAI, vLLM and DeepSeek number the calls and send name and id once, the arguments in pieces. Others leave the
    number out or say 0 for all of them, send everything at once, repeat name or id in each piece or send them empty,
    give no id, or the arguments as an object instead of a text.
    """

    def __init__(self, longest: int, most: int) -> None:
        """longest: bytes of one call's arguments; most: calls. What goes beyond is marked, or dropped."""
        self._longest = longest
        self._most = most
        self._calls: list[_Call] = []
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def feed(self, deltas: Any) -> bool:
        """`delta.tool_calls` of one piece; whether anything was in it."""
        fed = False
        for delta in deltas if isinstance(deltas, list | tuple) else ():
            function = _field(delta, "function")
            if function is not None:
                self._put(_field(delta, "index"), _text(_field(delta, "id")), function)
                fed = True
        return fed

    def feed_function(self, function: Any) -> bool:
        """`delta.function_call`, the protocol's old way: one call, without id or number."""
        if function is None:
            return False
        self._put(0, "", function)
        return True

    def add(self, name: str, arguments: str) -> None:
        """A call that came whole."""
        self._append(_Call(None, "", name, arguments, len(arguments.encode()) > self._longest))

    def done(self) -> tuple[ToolCall, ...]:
        """The calls in their order, each with an id of its own."""
        out: list[ToolCall] = []
        seen: set[str] = set()
        for call in self._calls:
            # Some servers give every call the same id, some none.
            call_id = call.call_id[:ID_CHARS]
            if not call_id or call_id in seen:
                call_id = "call_" + secrets.token_hex(12)
            seen.add(call_id)
            out.append(self._finished(call, call_id))
        return tuple(out)

    def _finished(self, call: _Call, call_id: str) -> ToolCall:
        name = call.name.strip()[:NAME_CHARS]
        if call.too_long:
            return ToolCall(call_id, name, "{}", f"the arguments are longer than {self._longest} bytes")
        arguments = call.arguments.strip() or "{}"
        try:
            value = json.loads(arguments)
            if isinstance(value, str):  # JSON within JSON
                value = json.loads(value)
                arguments = json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            return ToolCall(call_id, name, "{}", "the arguments are not JSON")
        if value is None:
            arguments = "{}"
        elif not isinstance(value, dict):
            return ToolCall(call_id, name, "{}", "the arguments are not a JSON object")
        return ToolCall(call_id, name, arguments)

    def _put(self, index: Any, call_id: str, function: Any) -> None:
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        name = _text(_field(function, "name"))
        arguments = _field(function, "arguments")
        call = self._find(index, call_id, name)
        if call is None:
            call = self._append(_Call(index))
        if call is None:
            return
        call.call_id = call.call_id or call_id
        if name and name != call.name:
            # A name in pieces comes before the arguments.
            call.name = name if call.arguments or not call.name else call.name + name
        if isinstance(arguments, str):
            piece = arguments
        else:
            piece = "" if arguments is None else json.dumps(arguments, ensure_ascii=False)
        if len(call.arguments.encode()) + len(piece.encode()) > self._longest:
            call.too_long = True
        else:
            call.arguments += piece

    def _append(self, call: _Call) -> _Call | None:
        if len(self._calls) >= self._most:
            self.dropped += 1
            return None
        self._calls.append(call)
        return call

    def _find(self, index: int | None, call_id: str, name: str) -> _Call | None:
        """The call that a piece belongs to; None: a new one begins."""
        known = [call for call in self._calls if call.index == index] if index is not None else self._calls
        if call_id:
            same = next((call for call in known if call.call_id == call_id), None)
            if same is not None:
                # ... unless this server gives every call one and the same id
                return None if name and same.arguments and same.whole and name != same.name else same
        last = known[-1] if known else None
        if last is None:
            return None
        if call_id and last.call_id and call_id != last.call_id:
            return None  # one number for all of them
        if name and last.name and last.arguments and last.whole:
            return None  # neither number nor id: a name behind complete arguments begins the next
        return last


def _field(thing: Any, name: str) -> Any:
    """A field of the client's object or of a plain one; what a server left out is None."""
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class WrittenCalls:
    """Takes calls out of the text of a server that does not read its own model's `<tool_call>{...}</tool_call>`.

    Nobody must hear them. A tag may come in pieces: text that could still become one waits.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._held = ""
        self._inside = False
        self._full = False

    def feed(self, text: str) -> str:
        """The text without its calls, as far as it is certain."""
        self._held += text
        out = ""
        while True:
            before, tag, rest = self._held.partition(_CLOSE if self._inside else _OPEN)
            if not tag:
                break
            if self._inside:
                self._read(before)
            else:
                out += before
            self._held, self._inside, self._full = rest, not self._inside, False
        if self._inside:
            if len(self._held) > WRITTEN_CHARS:
                self._held, self._full = self._held[-len(_CLOSE) :], True
            return out
        start = self._held.rfind("<")
        keep = start if start >= 0 and _OPEN.startswith(self._held[start:]) else len(self._held)
        out, self._held = out + self._held[:keep], self._held[keep:]
        return out

    def flush(self) -> str:
        """What waited in vain; once, at the end. A call that was not closed is believed."""
        held, self._held = self._held, ""
        if self._inside:
            self._read(held)
            return ""
        return held

    def _read(self, written: str) -> None:
        if self._full or len(written) > WRITTEN_CHARS:
            return
        try:
            call = json.loads(written[written.find("{") : written.rfind("}") + 1])
        except (ValueError, RecursionError):
            return
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            arguments = call.get("arguments", call.get("parameters"))
            self._calls.add(
                call["name"],
                arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False),
            )
