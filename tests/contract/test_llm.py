"""What every language model must do, whichever it is."""

import inspect
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from server.core.history import History, Item
from server.core.media import Persona, Token
from server.core.protocols import Llm
from server.llm.openai_compatible import OpenAiSettings
from server.llm.scripted import ScriptedSettings
from tests.fakes.llm_server import llm_server, says
from tests.fakes.providers import FakeLlm

MIA = Persona(name="Mia")


@pytest.fixture(params=["scripted", "openai", "fake"])
async def llm(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "fake":
        yield FakeLlm([["Good evening,", 0.02, "my friend."]])
    elif request.param == "scripted":
        async with ScriptedSettings().load() as engine:
            yield engine
    else:
        async with (
            llm_server(says("Good", " evening", ", my", " friend.")) as server,
            OpenAiSettings(base_url=server.base_url, model="fake-model").load() as engine,
        ):
            yield engine


def asked(text: str) -> History:
    return History(items=[Item("1", "user", text)])


async def test_it_answers_in_pieces(llm: Llm) -> None:
    tokens = [token async for token in llm.reply(asked("hello"), MIA)]
    assert len(tokens) > 1
    assert all(isinstance(token, Token) and token.text for token in tokens)


async def test_it_leaves_the_history_alone(llm: Llm) -> None:
    history = asked("hello")
    before = [(item.id, item.role, item.text, item.status) for item in history.items]
    async for _ in llm.reply(history, MIA):
        pass
    assert [(item.id, item.role, item.text, item.status) for item in history.items] == before


async def test_a_reply_can_be_closed_at_any_point(llm: Llm) -> None:
    for pieces in range(3):
        reply = llm.reply(asked("hello"), MIA)
        for _ in range(pieces):
            await anext(reply)
        await reply.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(reply)


async def test_replies_run_side_by_side(llm: Llm) -> None:
    texts: list[str] = []

    async def hear() -> None:
        texts.append("".join([token.text async for token in llm.reply(asked("hello"), MIA)]))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(hear)
    assert len(texts) == 5
    assert len(set(texts)) == 1
    assert texts[0]


async def test_an_empty_history_is_an_opening(llm: Llm) -> None:
    assert [token async for token in llm.reply(History(), MIA)]


async def test_warming_may_be_repeated(llm: Llm) -> None:
    for _ in range(3):
        await llm.warm()


@pytest.mark.parametrize("llm", ["scripted", "openai"], indirect=True)
async def test_it_says_where_the_words_go(llm: Any) -> None:
    assert llm.where
    assert llm.leaves_machine is False
    assert inspect.isasyncgenfunction(llm.reply)
