"""The OpenAI-compatible language model: the real client against a real server on this machine."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from server.core.chunker import Chunker
from server.core.errors import StageError
from server.core.history import History, Item
from server.core.media import Persona
from server.llm.openai_compatible import OpenAiLlm, OpenAiSettings
from tests.fakes.llm_server import Chunk, Die, FakeLlmServer, Hang, Pause, Raw, Thought, Until, llm_server, says

MIA = Persona(name="Mia", system_prompt="You are Mia.")
pytestmark = pytest.mark.usefixtures("no_leaked_tasks")


def asked(text: str = "Hello?") -> History:
    return History(items=[Item("1", "user", text)])


@asynccontextmanager
async def connected(server: FakeLlmServer, **settings: Any) -> AsyncIterator[OpenAiLlm]:
    options = {"base_url": server.base_url, "model": "fake-model"} | settings
    async with OpenAiSettings(**options).load() as llm:
        yield llm


async def hear(llm: OpenAiLlm, history: History | None = None) -> str:
    return "".join([token.text async for token in llm.reply(history or asked(), MIA)])


async def test_streams_what_the_model_says() -> None:
    more = anyio.Event()
    async with llm_server(says("One", " two", Until(more), " three")) as server, connected(server) as llm:
        reply = llm.reply(asked(), MIA)
        assert [(await anext(reply)).text, (await anext(reply)).text] == ["One", " two"]
        more.set()  # only now the server goes on: the first two did not wait for it
        assert [token.text async for token in reply] == [" three"]


async def test_sends_persona_history_and_limits() -> None:
    history = History()
    for number, (role, text) in enumerate([("user", "Hi."), ("assistant", "Hello."), ("user", "How are you?")]):
        history.add(Item(str(number), role, text))  # type: ignore[arg-type]
    async with llm_server() as server:
        async with connected(server, temperature=0.3, max_tokens=77, extra_body={"think": False}) as llm:
            await hear(llm, history)
        body = server.requests[0]
        assert body["messages"] == [
            {"role": "system", "content": "You are Mia."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "How are you?"},
        ]
        assert body["stream"] is True
        assert (body["max_tokens"], body["temperature"], body["think"]) == (77, 0.3, False)


async def test_long_histories_are_sent_from_their_end() -> None:
    history = History()
    for number in range(20):
        history.add(Item(str(number), "user" if number % 2 == 0 else "assistant", f"text {number}"))
    history.add(Item("last", "user", "the question"))
    async with llm_server() as server, connected(server, history_messages=3) as llm:
        await hear(llm, history)
        contents = [message["content"] for message in server.requests[0]["messages"]]
        assert contents == ["You are Mia.", "text 18", "text 19", "the question"]


async def test_closing_a_reply_stops_the_server() -> None:
    endless = says("One", *[step for _ in range(5000) for step in (" more", Pause(0.01))])
    async with llm_server(endless) as server, connected(server) as llm:
        reply = llm.reply(asked(), MIA)
        assert (await anext(reply)).text == "One"
        await reply.aclose()
        with anyio.fail_after(5):
            await server.disconnected.wait()
        assert server.sent < 5000


async def test_cancelling_a_reply_that_has_not_begun_stops_the_server() -> None:
    async with llm_server(says(Hang())) as server, connected(server) as llm, anyio.create_task_group() as group:
        group.start_soon(hear, llm)
        await server.asked.wait()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.fail_after(5):
            await server.disconnected.wait()


async def test_replies_share_one_warm_connection() -> None:
    async with llm_server() as server, connected(server) as llm:
        await llm.warm()
        for _ in range(3):
            assert await hear(llm) == "Hello there."
            while llm._background:  # the rest of the body is read behind our back
                await anyio.lowlevel.checkpoint()
        assert server.paths == ["/v1/models"] + ["/v1/chat/completions"] * 3
        assert len(server.connections) == 1


async def test_warming_asks_once_in_a_while_and_again_after_a_cancelled_reply() -> None:
    async with llm_server(says("One", Hang())) as server, connected(server) as llm:
        await llm.warm()
        await llm.warm()
        assert server.paths.count("/v1/models") == 1
        async with aclosing(llm.reply(asked(), MIA)) as reply:
            await anext(reply)
        await llm.warm()
        assert server.paths.count("/v1/models") == 2


async def test_warming_never_raises() -> None:
    async with OpenAiSettings(base_url="http://127.0.0.1:9/v1", model="m").load() as llm:
        await llm.warm()


async def test_idle_connections_are_kept_for_minutes() -> None:
    async with llm_server() as server, connected(server) as llm:
        pool = llm._http._transport._pool  # type: ignore[attr-defined]
        assert pool._keepalive_expiry == 300


async def test_the_end_does_not_wait_for_the_rest_of_the_body() -> None:
    async with llm_server(says("All.", done=False)) as server, connected(server) as llm:
        with anyio.fail_after(5):
            assert await hear(llm) == "All."


USAGE = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
QUIRKS = {
    "first piece empty": (Chunk({**USAGE, "choices": [{"index": 0, "delta": {"content": ""}}]}), "Hi"),
    "no content": (Chunk({**USAGE, "choices": [{"index": 0, "delta": {"content": None}}]}), "Hi"),
    "usage without choices": ("H", Chunk({**USAGE, "choices": [], "usage": {"total_tokens": 3}}), "i"),
    "no choices at all": ("H", Chunk(USAGE), "i"),
    "no delta": ("Hi", Chunk({**USAGE, "choices": [{"index": 0, "delta": None}]})),
    "keep-alive comments": (Raw(b": ping\n\n"), "H", Raw(b": ping\n\n"), "i"),
    "reasoning_content": (Thought("hmm. what?"), "Hi"),
    "reasoning": (Thought("hmm. what?", field="reasoning"), "Hi"),
    "think tags in pieces": ("<th", "ink>hmm. ", "what?</t", "hink>\n\n", "Hi"),
    "closing tag only": ("</think>", "\n\nHi"),
}  # fmt: skip


@pytest.mark.parametrize("quirk", QUIRKS)
async def test_quirks(quirk: str) -> None:
    async with llm_server(says(*QUIRKS[quirk])) as server, connected(server) as llm:
        chunker = Chunker()
        clauses = []
        async for token in llm.reply(asked(), MIA):
            clauses += chunker.feed(token.text)
        assert [clause.text for clause in clauses + chunker.flush()] == ["Hi"]


async def test_a_server_without_finish_reason_is_believed() -> None:
    async with llm_server(says("Hi", finish=None)) as server, connected(server) as llm:
        assert await hear(llm) == "Hi"


async def test_a_model_whose_opening_tag_is_missing_is_learned() -> None:
    silent_thoughts = says("I think. ", "Hm. ", "</think>", "\n\nYes.")
    async with llm_server(silent_thoughts) as server, connected(server) as llm:
        first = await hear(llm)
        assert first.endswith("</think>Yes.")  # the chunker drops what it still holds
        assert await hear(llm) == "Yes."
        assert await hear(llm) == "Yes."


async def test_a_thinking_model_by_name_is_held_from_the_start_and_released_if_it_does_not_think() -> None:
    answers = (says("Hm. ", "</think>Yes."), says("No", "."), says("No", "."))
    async with llm_server(*answers) as server, connected(server, model="DeepSeek-R1-8B") as llm:
        assert await hear(llm) == "Yes."
        assert [token.text async for token in llm.reply(asked(), MIA)] == ["No."]  # in one piece, at the end
        assert [token.text async for token in llm.reply(asked(), MIA)] == ["No", "."]


FAILURES = {
    "key": (says(status=401, error="Incorrect API key"), "llm_refused", "OPENAI_API_KEY"),
    "rights": (says(status=403, error="no"), "llm_refused", "key"),
    "model": (says(status=404, error="no such model"), "llm_refused", "llm.model"),
    "field": (says(status=400, error="unknown field: foo"), "llm_refused", "unknown field: foo"),
    "limit": (says(status=429, error="slow down"), "llm_refused", "limit"),
    "server": (says(status=500, error="oops"), "llm_unreachable", "500"),
    "silence": (says(Hang()), "llm_timeout", "too long"),
    "silent stream": (says(Raw(b": ping\n\n"), Hang()), "llm_timeout", "too long"),
    "stalls": (says("One", Hang()), "llm_timeout", "too long"),
    "dies": (says("One", " two", Pause(0.05), Die()), "llm_broken_off", "broke off"),
    "dies first": (says(Raw(b": ping\n\n"), Pause(0.05), Die()), "llm_broken_off", "broke off"),
    "not JSON": (says("One", Raw(b"data: {oops\n\n")), "llm_broken_off", "broke off"),
    "error inside": (says("One", Chunk({"error": {"message": "out of memory"}})), "llm_broken_off", "out of memory"),
    "empty": (says(), "llm_broken_off", "empty"),
    "only thoughts": (says(Thought("hm"), finish="length"), "llm_broken_off", "thinking"),
    "unclosed thoughts": (says("<think>hm", finish="length"), "llm_broken_off", "thinking"),
    "filter": (says(finish="content_filter"), "llm_refused", "filter"),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
async def test_failures_say_what_to_do(failure: str) -> None:
    answer, code, words = FAILURES[failure]
    patience_s = 0.3 if any(isinstance(step, Hang) for step in answer.steps) else 20.0
    async with llm_server(answer) as server, connected(server, first_token_s=patience_s, gap_s=patience_s) as llm:
        with pytest.raises(StageError) as caught:
            await hear(llm)
        assert (caught.value.stage, caught.value.code) == ("llm", code)
        assert words in caught.value.message
        assert "127.0.0.1" in caught.value.message


async def test_what_came_before_a_failure_is_not_lost() -> None:
    async with llm_server(says("One", " two", Pause(0.05), Die())) as server, connected(server) as llm:
        got = []
        with contextlib.suppress(StageError):
            async for token in llm.reply(asked(), MIA):
                got.append(token.text)  # noqa: PERF401  (what was yielded before it raised)
        assert got == ["One", " two"]


async def test_nobody_listens() -> None:
    async with OpenAiSettings(base_url="http://127.0.0.1:9/v1", model="m").load() as llm:
        with pytest.raises(StageError) as caught:
            await hear(llm)
        assert caught.value.code == "llm_unreachable"


async def test_a_reply_has_an_end() -> None:
    drip = says(*[step for _ in range(1000) for step in (" drop", Pause(0.02))])
    async with llm_server(drip) as server, connected(server, total_s=0.3) as llm:
        with pytest.raises(StageError, match="too long"):
            await hear(llm)


async def test_after_a_failure_the_next_reply_works() -> None:
    async with llm_server(says("One", Pause(0.05), Die()), says("Two.")) as server, connected(server) as llm:
        with pytest.raises(StageError):
            await hear(llm)
        assert await hear(llm) == "Two."


async def test_an_ollama_is_asked_to_load_its_model() -> None:
    async with llm_server() as server, connected(server, keep_loaded=True):
        with anyio.fail_after(5):
            await server.loaded.wait()
        assert server.loads == [{"model": "fake-model", "keep_alive": "30m"}]


async def test_the_environments_key_is_not_sent_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with llm_server() as server, connected(server) as llm:
        await hear(llm)
        assert "sk-secret" not in str(server.headers)


async def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async with llm_server(key="sk-right") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_MODEL", "fake-model")
        async with OpenAiSettings().load() as llm:
            assert await hear(llm) == "Hello there."
            assert llm.where == f"127.0.0.1:{server.port}, model fake-model"
            assert not llm.leaves_machine


async def test_without_a_model_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    with pytest.raises(StageError, match="OPENAI_MODEL"):
        async with OpenAiSettings(base_url="http://127.0.0.1:9/v1").load():
            pass
