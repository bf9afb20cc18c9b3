"""What every listener must do, whichever it is and however much it understands."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from server.asr.pocketsphinx import PocketsphinxSettings
from server.asr.textonly import TextOnlySettings
from server.core.media import MIC_FRAME_BYTES, Transcript
from server.core.protocols import Asr, AsrSession
from tests.asr.spoken import frames, say
from tests.fakes.providers import FakeAsr

pytestmark = pytest.mark.usefixtures("no_leaked_tasks")

TEXT = "what time is it"
SILENCE = bytes(MIC_FRAME_BYTES)
UNDERSTANDING = pytest.mark.parametrize("asr", ["fake", "pocketsphinx"], indirect=True)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["fake", "none", "pocketsphinx"])
async def asr(request: pytest.FixtureRequest) -> AsyncIterator[Asr]:
    if request.param == "fake":
        yield FakeAsr(*[TEXT] * 3)
    elif request.param == "none":
        async with TextOnlySettings().load() as deaf:
            yield deaf
    else:
        # Tests speak faster than people and on busy machines: nothing is late here.
        async with PocketsphinxSettings(backlog_s=30.0, answer_s=10.0).load() as engine:
            yield engine


@asynccontextmanager
async def opened(asr: Asr) -> AsyncIterator[AsrSession]:
    session = await asr.open("en")
    try:
        with anyio.fail_after(30):
            yield session
    finally:
        await session.aclose()


async def speak(session: AsrSession) -> None:
    for frame in frames(say("rms", TEXT)):
        await session.push(frame)


async def test_an_utterance_without_audio_has_no_words(asr: Asr) -> None:
    async with opened(asr) as session:
        assert await session.provisional() == Transcript("")
        assert await session.commit() == Transcript("", final=True)


async def test_silence_has_no_words(asr: Asr) -> None:
    async with opened(asr) as session:
        for _ in range(50):
            await session.push(SILENCE)
        assert await session.provisional() == Transcript("")
        assert await session.commit() == Transcript("", final=True)


async def test_a_final_text_is_stable_and_the_next_utterance_is_empty(asr: Asr) -> None:
    async with opened(asr) as session:
        for _ in range(2):
            await speak(session)
            final = await session.commit()
            assert final.final
            assert final.stable == len(final.text)
            assert await session.commit() == Transcript("", final=True)


async def test_a_provisional_text_leaves_the_utterance_open(asr: Asr) -> None:
    async with opened(asr) as session:
        await speak(session)
        alone = await session.commit()
        await speak(session)
        for _ in range(2):
            provisional = await session.provisional()
            assert provisional.text == alone.text
            assert not provisional.final
            assert provisional.stable <= len(provisional.text)
        assert await session.commit() == alone


async def test_a_dropped_utterance_leaves_nothing_behind(asr: Asr) -> None:
    async with opened(asr) as session:
        await speak(session)
        await session.drop()
        assert await session.provisional() == Transcript("")
        assert await session.commit() == Transcript("", final=True)


async def test_sessions_hear_each_for_itself(asr: Asr) -> None:
    async with opened(asr) as speaking, opened(asr) as silent:
        await speak(speaking)
        assert await silent.commit() == Transcript("", final=True)
        alone = await speaking.commit()
        await speak(silent)
        assert await silent.commit() == alone


async def test_partials_end_with_the_session(asr: Asr) -> None:
    seen: list[Transcript] = []
    reading = anyio.Event()
    session = await asr.open("en")

    async def follow() -> None:
        reading.set()
        async with aclosing(session.partials()) as partials:
            seen.extend([partial async for partial in partials])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await reading.wait()
            await speak(session)
            final = await session.commit()
            await session.aclose()
    assert not any(partial.final for partial in seen)
    for earlier, later in zip(seen, [*seen[1:], final], strict=False):
        assert later.text.startswith(earlier.text[: earlier.stable])


async def test_a_closed_session_answers_nothing_and_breaks_nothing(asr: Asr) -> None:
    session = await asr.open("en")
    await session.aclose()
    await session.aclose()
    with anyio.fail_after(5):
        await session.push(SILENCE)
        await session.drop()
        assert (await session.provisional()).text == ""
        assert (await session.commit()).text == ""
        assert [partial async for partial in session.partials()] == []


@UNDERSTANDING
async def test_it_understands(asr: Asr) -> None:
    assert "en" in asr.languages
    async with opened(asr) as session:
        await speak(session)
        assert (await session.commit()).text == TEXT


@UNDERSTANDING
async def test_the_first_words_come_before_the_last_are_said(asr: Asr) -> None:
    async with opened(asr) as session, aclosing(session.partials()) as partials:
        said = frames(say("rms", TEXT))
        for frame in said[: len(said) // 2]:
            await session.push(frame)
        early = await anext(partials)
        assert early.text
        assert len(early.text) < len(TEXT)
