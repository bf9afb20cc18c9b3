"""Function calls put together from deltas as each server sends them, or read from text that a server passed on."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.llm.toolcalls import Calls, WrittenCalls

OSLO = '{"place": "Oslo"}'
ROME = '{"place": "Rome"}'


def delta(index: int | None = None, call_id: str | None = None, name: str | None = None, args: Any = None) -> Any:
    """As a server would send it: what is None is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", args)) if value is not None}
    piece = {"index": index, "id": call_id, "function": function, "type": "function"}
    return {key: value for key, value in piece.items() if value is not None}


def put_together(*pieces: list[Any], longest: int = 10_000, most: int = 8) -> list[tuple[str, str]]:
    calls = Calls(longest, most)
    for piece in pieces:
        calls.feed(piece)
    done = calls.done()
    assert len({call.call_id for call in done}) == len(done)
    assert all(call.call_id for call in done)
    return [(call.name, call.problem or call.arguments) for call in done]


ONE = [("weather", OSLO)]
TWO = [("weather", OSLO), ("weather", ROME)]
STREAMS: dict[str, tuple[list[list[Any]], list[tuple[str, str]]]] = {
    "OpenAI, vLLM, DeepSeek": (
        [
            [delta(0, "a", "weather", "")],
            [delta(0, args='{"place"')],
            [delta(0, args=': "Oslo"}')],
            [delta(1, "b", "weather", "")],
            [delta(1, args=ROME)],
        ],
        TWO,
    ),
    "both calls' pieces mixed": (
        [
            [delta(0, "a", "weather", '{"place"'), delta(1, "b", "weather", '{"place"')],
            [delta(1, args=': "Rome"}')],
            [delta(0, args=': "Oslo"}')],
        ],
        TWO,
    ),
    "Ollama: whole at once, all of them number 0": (
        [[delta(0, "a", "weather", OSLO)], [delta(0, "b", "weather", ROME)]],
        TWO,
    ),
    "Ollama: whole at once, in one piece": (
        [[delta(0, "a", "weather", OSLO), delta(0, "b", "weather", ROME)]],
        TWO,
    ),
    "Gemini's dialect: no number": ([[delta(None, "a", "weather", OSLO)], [delta(None, "b", "weather", ROME)]], TWO),
    "llama.cpp: no id": ([[delta(0, None, "weather", "")], [delta(0, None, None, OSLO)]], ONE),
    "neither number nor id": (
        [[delta(None, None, "weather", '{"place": ')], [delta(args='"Oslo"}')], [delta(None, None, "weather", ROME)]],
        TWO,
    ),
    "DashScope: id and name empty from the second piece on": (
        [
            [delta(0, "a", "weather", "")],
            [delta(0, "", "", '{"place"')],
            [delta(0, "", "", ': "Oslo"}')],
            [delta(0, "", None, "")],
        ],
        ONE,
    ),
    "SGLang: name and id in every piece": (
        [[delta(0, "a", "weather", part)] for part in ('{"place"', ': "Oslo"}', "")],
        ONE,
    ),
    "one id for all of them": ([[delta(0, "x", "weather", OSLO)], [delta(1, "x", "weather", ROME)]], TWO),
    "one id for all of them, no number": (
        [[delta(None, "x", "weather", OSLO)], [delta(None, "x", "clock", "{}")]],
        [("weather", OSLO), ("clock", "{}")],
    ),
    "a name in pieces": ([[delta(0, "a", "wea")], [delta(0, "a", "ther")], [delta(0, args=OSLO)]], ONE),
    "arguments as an object": ([[delta(0, "a", "weather", {"place": "Oslo"})]], ONE),
    "arguments as JSON in JSON": ([[delta(0, "a", "weather", json.dumps(OSLO))]], ONE),
    "no arguments": ([[delta(0, "a", "clock")]], [("clock", "{}")]),
    "empty arguments": ([[delta(0, "a", "clock", " ")]], [("clock", "{}")]),
    "null": ([[delta(0, "a", "clock", "null")]], [("clock", "{}")]),
    "not JSON": ([[delta(0, "a", "weather", '{"place": ')]], [("weather", "the arguments are not JSON")]),
    "not an object": ([[delta(0, "a", "weather", "[1]")]], [("weather", "the arguments are not a JSON object")]),
    "junk": ([[None, 7, "x", {}, {"function": None}], []], []),
    "strange fields": ([[{"index": "0", "id": 7, "function": {"name": 3, "arguments": OSLO}}]], [("", OSLO)]),
    "too long": (
        [[delta(0, "a", "weather", "x" * 20_000)]],
        [("weather", "the arguments are longer than 10000 bytes")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("server", STREAMS)
def test_each_servers_way(server: str) -> None:
    pieces, expected = STREAMS[server]
    assert put_together(*pieces) == expected


def test_the_old_way() -> None:
    calls = Calls(1000, 8)
    assert calls.feed_function({"name": "weather", "arguments": ""})
    assert calls.feed_function({"arguments": OSLO})
    assert not calls.feed_function(None)
    assert [(c.name, c.arguments) for c in calls.done()] == ONE


def test_a_server_that_streams_for_ever_fills_nothing() -> None:
    calls = Calls(100, 2)
    for i in range(1000):
        calls.feed([delta(i, f"id{i}", "f", "{}")])
        calls.feed([delta(0, args="x" * 50)])
    assert len(calls.done()) == 2
    assert calls.dropped > 900
    assert "longer than 100 bytes" in calls.done()[0].problem


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=10), st.booleans(), st.booleans())
def test_however_the_arguments_are_cut(cuts: list[int], repeated: bool, numbered: bool) -> None:
    pieces, rest = [], [(0, "a", OSLO), (1, "b", ROME)]
    for number, call_id, arguments in rest:
        first = True
        for cut in [*cuts, 100]:
            part, arguments = arguments[:cut], arguments[cut:]
            known = first or repeated
            pieces.append(
                [delta(number if numbered else None, call_id if known else None, "weather" if known else None, part)]
            )
            first = False
            if not arguments:
                break
    assert put_together(*pieces) == TWO


def written(*pieces: str) -> tuple[str, list[tuple[str, str]]]:
    calls = Calls(1000, 8)
    reader = WrittenCalls(calls)
    said = "".join([reader.feed(piece) for piece in pieces]) + reader.flush()
    return said, [(c.name, c.problem or c.arguments) for c in calls.done()]


HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {OSLO}}}\n</tool_call>'


def test_a_call_in_the_text_is_not_spoken() -> None:
    assert written("Let me see. ", HERMES) == ("Let me see. ", ONE)
    assert written(HERMES + HERMES.replace("Oslo", "Rome") + " Done.") == (" Done.", TWO)
    assert written(HERMES.removesuffix("</tool_call>")) == ("", ONE)
    assert written(*(HERMES + "Fine. 1 < 2 <tool")) == ("Fine. 1 < 2 <tool", ONE)
    assert written("<tool_call>not json</tool_call>Well.") == ("Well.", [])
    assert written("<tool_call>" + "{" * 50_000 + "</tool_call>Well.") == ("Well.", [])


@settings(max_examples=200, deadline=None)
@given(st.text("<tol_ca>/x ", max_size=60), st.integers(1, 7))
def test_text_without_calls_comes_through(text: str, size: int) -> None:
    if "<tool_call>" not in text:
        assert written(*[text[i : i + size] for i in range(0, len(text), size)]) == (text, [])
