"""What each kind of server is asked for and answers, and what is done when it refuses: against a real HTTP server."""

import json
from typing import Any

import anyio
import pytest

from server.core.errors import StageError
from server.core.history import History, Item
from server.core.media import Persona, Token
from server.core.tools import Tool, ToolCall, ToolOffer
from server.llm.dialects import DIALECTS
from server.llm.openai_compatible import OVERRUN, OpenAiLlm
from tests.fakes.llm_server import Chunk, Hang, Pause, Raw, Thought, llm_server, says
from tests.llm.test_openai_compatible import MIA, asked, connected, hear

pytestmark = pytest.mark.usefixtures("no_leaked_tasks")

BASE = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
WEATHER = Tool("weather", "Tells the weather.", {"type": "object", "properties": {"place": {"type": "string"}}})
OFFER = ToolOffer((WEATHER,))
OSLO = '{"place": "Oslo"}'


def calling(*deltas: Any, content: Any = None) -> Chunk:
    return Chunk({**BASE, "choices": [{"index": 0, "delta": {"content": content, "tool_calls": list(deltas)}}]})


def costing(prompt: int, answer: int, choices: Any = (), **more: Any) -> Chunk:
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer, **more}
    return Chunk({**BASE, "choices": list(choices), "usage": usage})


async def tokens_of(llm: OpenAiLlm, history: History | None = None, offer: ToolOffer = OFFER) -> list[Token]:
    return [token async for token in llm.reply(history or asked(), MIA, offer)]


async def drained(llm: OpenAiLlm) -> None:
    """What follows an answer is read behind our back."""
    with anyio.fail_after(5):
        while llm._background:
            await anyio.sleep(0.01)


# ---- thinking


QUIET = {
    "vllm": {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
    "sglang": {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
    "llamacpp": {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
    "ollama": {"reasoning_effort": "none"},
    "dashscope": {"enable_thinking": False},
    "deepseek": {"thinking": {"type": "disabled"}},
    "openai": {},
    "other": {},
}


@pytest.mark.parametrize("dialect", QUIET)
async def test_thinking_is_turned_off_in_each_servers_way_and_the_answer_is_bounded(dialect: str) -> None:
    assert set(QUIET) == set(DIALECTS)
    async with (
        llm_server() as server,
        connected(server, dialect=dialect) as llm,
    ):
        assert await hear(llm) == "Hello there."
        async with connected(server, dialect=dialect, thinking=True) as llm:
            await hear(llm)
        off, on = server.requests
        fields = {"chat_template_kwargs", "reasoning_effort", "enable_thinking", "thinking"}
        assert {key: off[key] for key in fields & set(off)} == QUIET[dialect]
        assert not fields & set(on)
        limit = "max_completion_tokens" if dialect == "openai" else "max_tokens"
        assert (off[limit], on[limit]) == (400, 400)
        assert ("stream_options" in off) == (dialect != "other")
        assert server.paths.count("/v1/models") == 0


@pytest.mark.parametrize(
    ("owner", "name"),
    [("vllm", "vllm"), ("sglang", "sglang"), ("llamacpp", "llamacpp"), ("library", "ollama"), ("me", None)],
)
async def test_others_are_known_by_what_they_say_of_their_models(owner: str, name: str | None) -> None:
    async with llm_server(owner=owner) as server, connected(server) as llm:
        await hear(llm)
        assert llm.dialect is DIALECTS[name or "other"]
        # already the first request knows, and nobody is asked twice
        assert server.paths == ["/v1/models", "/v1/chat/completions"]
        asked_for = {key: server.requests[0][key] for key in QUIET[name or "other"]}
        assert asked_for == QUIET[name or "other"]


async def test_what_the_configuration_says_wins() -> None:
    body = {"chat_template_kwargs": {"enable_thinking": True}, "top_k": 20}
    async with llm_server() as server, connected(server, dialect="vllm", extra_body=body) as llm:
        await hear(llm)
        assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": True, "thinking": False}
        assert server.requests[0]["top_k"] == 20


# ---- strict servers


async def test_a_server_that_does_not_know_a_field_is_asked_without_it_and_remembered() -> None:
    refusal = says(status=400, error="Unrecognized request argument supplied: chat_template_kwargs")
    async with (
        llm_server(refusal, says("Hi.")) as server,
        connected(server, dialect="vllm", extra_body={"a": 1}) as llm,
    ):
        assert await hear(llm) == "Hi."
        assert await hear(llm) == "Hi."
        first, second, third = server.requests
        assert "chat_template_kwargs" in first
        for later in (second, third):
            assert "chat_template_kwargs" not in later
            assert "stream_options" not in later
            assert (later["a"], later["max_tokens"]) == (1, 400)


async def test_a_server_that_wants_the_limit_by_its_other_name() -> None:
    refusal = says(status=400, error="Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    async with llm_server(refusal, says("Hi.")) as server, connected(server) as llm:
        assert await hear(llm) == "Hi."
        assert await hear(llm) == "Hi."
        assert [("max_tokens" in r, r.get("max_completion_tokens")) for r in server.requests] == [
            (True, None),
            (False, 400),
            (False, 400),
        ]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),  # vLLM
        (500, "tools param requires --jinja flag"),  # llama.cpp
        (400, "registry.ollama.ai/library/gemma:2b does not support tools"),  # Ollama
    ],
)
async def test_a_server_without_functions_answers_without_them(
    status: int, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = says(status=status, error=error)
    # the client itself asks once more where a server says that the fault is its own
    answers = [refusal] * (2 if status >= 500 else 1) + [says("Hi.")]
    async with llm_server(*answers) as server, connected(server, dialect="vllm") as llm:
        assert [t.text for t in await tokens_of(llm)] == ["Hi."]
        assert "tools" in server.requests[0]
        assert "tools" not in server.requests[-1]
        assert server.requests[-1]["chat_template_kwargs"]
        assert error in caplog.text
        await tokens_of(llm)
        assert "tools" not in server.requests[-1]


async def test_a_conversation_that_is_too_long_for_the_model_is_halved() -> None:
    refusal = says(
        status=400, error="This model's maximum context length is 4096 tokens, however you requested 5000."
    )
    history = History(
        items=[Item(str(i), "user" if i % 2 == 0 else "assistant", f"text {i} " * 40) for i in range(21)]
    )
    async with llm_server(refusal, says("Hi.")) as server, connected(server, history_tokens=4000) as llm:
        before = llm.history_tokens
        assert await hear(llm, history) == "Hi."
        long, short = (len(r["messages"]) for r in server.requests)
        assert long == 22
        assert 3 < short < 15
        assert server.requests[1]["messages"][-1]["content"].startswith("text 20")
        assert llm.history_tokens < before  # the next one is not refused again
        assert history.begins is None


@pytest.mark.parametrize("error", ["no", "max_completion_tokens and max_tokens", "tools", "context"])
async def test_a_server_that_refuses_everything_is_not_asked_for_ever(error: str) -> None:
    async with llm_server(says(status=400, error=error)) as server, connected(server, dialect="vllm") as llm:
        with pytest.raises(StageError) as caught:
            await tokens_of(llm)
        assert caught.value.code == "llm_refused"
        assert len(server.requests) <= 5
        assert llm._manner.tools
        assert llm._manner.quiet  # nothing was learned from it


# ---- usage and bounds


async def test_what_a_reply_costs_is_counted() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 30}}
    answer = says("Hi.", tail=(costing(50, 3, **details),))
    async with llm_server(answer) as server, connected(server, dialect="vllm") as llm:
        assert await hear(llm) == "Hi."
        await drained(llm)
        assert server.requests[0]["stream_options"] == {"include_usage": True}
        usage = llm.usage
        assert (usage.replies, usage.prompt_tokens, usage.cached_tokens, usage.answer_tokens) == (1, 50, 30, 3)


async def test_a_server_that_counts_in_every_piece_is_counted_once() -> None:
    def piece(text: str, answer: int) -> Chunk:
        return costing(50, answer, [{"index": 0, "delta": {"content": text}}])

    async with (
        llm_server(says(piece("Hi", 1), piece(".", 2), tail=(costing(50, 2),))) as server,
        connected(server) as llm,
    ):
        assert await hear(llm) == "Hi."
        await drained(llm)
        assert (llm.usage.replies, llm.usage.prompt_tokens, llm.usage.answer_tokens) == (1, 50, 2)


@pytest.mark.parametrize("usage", [None, 7, {}, {"prompt_tokens": None, "completion_tokens": "3"}])
async def test_strange_costs_are_none(usage: Any) -> None:
    answer = says("Hi.", tail=(Chunk({**BASE, "choices": [], "usage": usage}),))
    async with llm_server(answer) as server, connected(server) as llm:
        assert await hear(llm) == "Hi."
        await drained(llm)
        assert llm.usage.replies == 0


async def test_our_estimate_of_tokens_learns_from_the_servers_count() -> None:
    history = asked("今天天气怎么样" * 60)
    async with llm_server(says("Hi.", tail=(costing(210, 1),))) as server, connected(server) as llm:
        before = llm.history_tokens
        for _ in range(8):
            await hear(llm, history)
            await drained(llm)
        # 420 by our count are 210 by this server's: twice as much fits.
        assert 1.8 * before < llm.history_tokens < 2.1 * before


async def test_a_server_that_ignores_the_limit_is_stopped() -> None:
    endless = says(*[" word"] * 3000, Hang())
    async with llm_server(endless) as server, connected(server, max_tokens=50) as llm:
        text = await hear(llm)
        assert 50 < len(text.split()) <= OVERRUN * 50 + 60
        with anyio.fail_after(5):
            await server.disconnected.wait()


async def test_thoughts_count_towards_the_limit() -> None:
    async with llm_server(says(*[Thought(" hm")] * 3000, Hang())) as server, connected(server, max_tokens=50) as llm:
        with pytest.raises(StageError, match="thinking"):
            await hear(llm)
        with anyio.fail_after(5):
            await server.disconnected.wait()


QUIRKS: dict[str, tuple[Any, ...]] = {
    "half characters": ("H\ufffd", "i"),
    "a refusal": (Chunk({**BASE, "choices": [{"index": 0, "delta": {"refusal": "Hi"}}]}),),
    "parts": (
        Chunk({**BASE, "choices": [{"index": 0, "delta": {"content": [{"type": "thinking", "thinking": "hm"}]}}]}),
        Chunk({**BASE, "choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": "Hi"}]}}]}),
    ),
    "a written call that nobody offered": ('<tool_call>{"name": "f"}</tool_call>', "Hi"),
}


@pytest.mark.parametrize("quirk", QUIRKS)
async def test_quirks(quirk: str) -> None:
    async with llm_server(says(*QUIRKS[quirk])) as server, connected(server) as llm:
        assert await hear(llm) == "Hi"


async def test_an_error_as_the_reason_of_the_end() -> None:
    async with llm_server(says("Hi", finish="error")) as server, connected(server) as llm:
        with pytest.raises(StageError) as caught:
            await hear(llm)
        assert caught.value.code == "llm_broken_off"


async def test_an_ollama_is_asked_again_to_keep_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    async with llm_server() as server, connected(server, keep_loaded=True) as llm:
        with anyio.fail_after(5):
            await server.loaded.wait()
        await drained(llm)
        await llm.warm()
        await drained(llm)
        assert len(server.loads) == 1
        monkeypatch.setattr("server.llm.openai_compatible.KEEP_LOADED_S", 0.0)
        await llm.warm()
        await drained(llm)
        assert len(server.loads) == 2


# ---- functions


def whole(index: int | None, call_id: str | None, arguments: Any = OSLO) -> Any:
    piece = {
        "id": call_id,
        "function": {"name": "weather", "arguments": arguments},
        "type": "function",
        "index": index,
    }
    return {key: value for key, value in piece.items() if value is not None}


CALLS: dict[str, tuple[Any, ...]] = {
    "OpenAI": (
        calling({"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}),
        calling({"index": 0, "function": {"arguments": '{"place"'}}),
        calling({"index": 0, "function": {"arguments": ': "Oslo"}'}}),
    ),
    "whole": (calling(whole(0, "a")),),
    "no index": (calling(whole(None, "a")),),
    "no id": (calling(whole(0, None)),),
    "an object": (calling(whole(0, "a", {"place": "Oslo"})),),
    "old": (
        Chunk(
            {**BASE, "choices": [{"index": 0, "delta": {"function_call": {"name": "weather", "arguments": OSLO}}}]}
        ),
    ),
    "written": ("<tool", f'_call>{{"name": "weather", "arguments": {OSLO}}}</tool_call>'),
    "behind thoughts": ("<think>I need", " the weather</think>\n", calling(whole(0, "a"))),
}


@pytest.mark.parametrize("finish", ["tool_calls", "stop", None])
@pytest.mark.parametrize("way", CALLS)
async def test_functions_are_offered_and_their_calls_read(way: str, finish: str | None) -> None:
    async with llm_server(says("", *CALLS[way], finish=finish)) as server, connected(server) as llm:
        (token,) = await tokens_of(llm)
        assert token.text == ""
        assert token.call is not None
        assert (token.call.name, json.loads(token.call.arguments), token.call.problem) == (
            "weather",
            {"place": "Oslo"},
            "",
        )
        assert token.call.call_id
        (tool,) = server.requests[0]["tools"]
        assert tool == {
            "type": "function",
            "function": {"name": "weather", "description": "Tells the weather.", "parameters": WEATHER.parameters},
        }
        assert "tool_choice" not in server.requests[0]


async def test_words_come_before_the_call() -> None:
    async with (
        llm_server(says("Let me", " see.", calling(whole(0, "a")), finish="tool_calls")) as server,
        connected(server) as llm,
    ):
        tokens = await tokens_of(llm)
        assert [t.text for t in tokens] == ["Let me", " see.", ""]
        assert tokens[-1].call is not None


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("none", "none"),
        ("required", "required"),
        ("weather", {"type": "function", "function": {"name": "weather"}}),
    ],
)
async def test_what_must_be_called(choice: str, sent: Any) -> None:
    async with llm_server(says(calling(whole(0, "a")), "Hi.")) as server, connected(server) as llm:
        tokens = await tokens_of(llm, offer=ToolOffer((WEATHER,), choice))
        assert server.requests[0]["tool_choice"] == sent
        assert any(t.call for t in tokens) == (choice != "none")


async def test_a_call_that_nobody_offered_is_no_answer() -> None:
    async with llm_server(says(calling(whole(0, "a")), finish="tool_calls")) as server, connected(server) as llm:
        with pytest.raises(StageError, match="empty answer"):
            await tokens_of(llm, offer=ToolOffer())
        assert "tools" not in server.requests[0]


async def test_a_stream_that_dies_within_a_call_calls_nothing() -> None:
    broken = says(calling(whole(0, "a", '{"pl')), Raw(b"data: {oops\n\n"))
    async with llm_server(broken) as server, connected(server) as llm:
        reply = llm.reply(asked(), MIA, OFFER)
        with pytest.raises(StageError) as caught:
            await anext(reply)
        assert caught.value.code == "llm_broken_off"


async def test_a_model_that_stalls_within_a_call_is_given_up() -> None:
    async with (
        llm_server(says(calling(whole(0, "a", '{"pl')), Hang())) as server,
        connected(server, first_token_s=30, gap_s=0.3) as llm,
    ):
        with pytest.raises(StageError, match="too long"):
            await tokens_of(llm)


async def test_closing_within_a_call_stops_the_server() -> None:
    endless = [
        step for _ in range(5000) for step in (calling({"index": 0, "function": {"arguments": " "}}), Pause(0.01))
    ]
    async with llm_server(says("Let", calling(whole(0, "a", "{")), *endless)) as server, connected(server) as llm:
        reply = llm.reply(asked(), MIA, OFFER)
        await anext(reply)
        await reply.aclose()
        with anyio.fail_after(5):
            await server.disconnected.wait()


async def test_calls_and_their_results_are_told_in_the_history() -> None:
    call = ToolCall("c1", "weather", OSLO)
    history = asked("weather?")
    history.add(Item("2", "assistant", "Let me see."))
    history.add(Item("3", "assistant", call.arguments, kind="function_call", call_id="c1", name="weather"))
    history.add(Item("4", "system", "sunny", kind="function_call_output", call_id="c1"))
    async with llm_server() as server, connected(server) as llm:
        await tokens_of(llm, history)
        assert server.requests[0]["messages"][1:] == [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": OSLO}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ]


async def test_a_cut_never_begins_with_a_result() -> None:
    history = asked("weather?")
    history.add(Item("3", "assistant", OSLO, kind="function_call", call_id="c1", name="weather"))
    history.add(Item("4", "system", "sunny", kind="function_call_output", call_id="c1"))
    history.add(Item("5", "user", "and now?"))
    async with llm_server() as server, connected(server, history_messages=2) as llm:
        await hear(llm, history)
        assert [m["role"] for m in server.requests[0]["messages"]] == ["system", "user"]


async def test_the_summary_stands_behind_the_persona() -> None:
    history = asked()
    history.summary = "They spoke about cats."
    async with llm_server() as server, connected(server) as llm:
        await hear(llm, history)
        (system, _) = server.requests[0]["messages"]
        assert system["content"].startswith("You are Mia.\n\n")
        assert system["content"].endswith("They spoke about cats.")


async def test_the_same_beginning_is_sent_byte_by_byte() -> None:
    """Servers keep what they know of a prompt only up to the first change."""
    history = asked()
    async with llm_server() as server, connected(server, dialect="vllm") as llm:
        await tokens_of(llm, history)
        history.add(Item("2", "assistant", "Hello there."))
        history.add(Item("3", "user", "Well?"))
        await tokens_of(llm, history)
        first, second = (json.dumps(r["messages"]) for r in server.requests)
        assert second.startswith(first[:-1])
        assert json.dumps(server.requests[0]["tools"]) == json.dumps(server.requests[1]["tools"])


async def test_a_persona_without_a_prompt_has_one() -> None:
    async with llm_server() as server, connected(server) as llm:
        async for _ in llm.reply(asked(), Persona("Zoe")):
            pass
        assert "You are Zoe" in server.requests[0]["messages"][0]["content"]
