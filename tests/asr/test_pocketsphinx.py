"""pocketsphinx through its real worker: words, promises, other sessions, and a worker that dies."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from server.asr import pocketsphinx
from server.asr.listener import WorkerListener
from server.asr.pocketsphinx import PocketsphinxAsr, PocketsphinxSettings
from server.core.errors import StageError
from server.core.media import Transcript
from tests.asr.spoken import SENTENCES, error_rate, frames, noise, pause, people, say

# The tests speak faster than people and on busy machines: nothing may be late here unless a test wants it.
PATIENT = PocketsphinxSettings(backlog_s=30.0, answer_s=10.0)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[PocketsphinxAsr]:
    async with PATIENT.load() as engine:
        yield engine


@asynccontextmanager
async def opened(engine: PocketsphinxAsr) -> AsyncIterator[WorkerListener]:
    session = await engine.open("en")
    try:
        yield session
    finally:
        await session.aclose()


async def push(session: WorkerListener, pcm: bytes) -> None:
    for frame in frames(pcm):
        await session.push(frame)


def turn(pcm: bytes) -> bytes:
    """As a call sends it: pre-roll, voice, silence up to the endpoint."""
    return pause(0.3) + pcm + pause(0.5)


async def heard_alone(engine: PocketsphinxAsr, *turns: bytes) -> list[str]:
    async with opened(engine) as session:
        texts = []
        for pcm in turns:
            await push(session, pcm)
            texts.append((await session.commit()).text)
        return texts


@pytest.mark.parametrize(("voice", "bound"), [("rms", 0.2), ("slt", 0.35)])
async def test_words_come_back(engine: PocketsphinxAsr, voice: str, bound: float) -> None:
    texts = await heard_alone(engine, *(turn(say(voice, text)) for text in SENTENCES))
    assert error_rate(list(zip(SENTENCES, texts, strict=True))) < bound


async def test_people_are_understood(engine: PocketsphinxAsr) -> None:
    said = people()
    texts = await heard_alone(engine, *(turn(pcm) for _, pcm in said))
    assert error_rate([(text, heard) for (text, _), heard in zip(said, texts, strict=True)]) < 0.4


async def test_noise_has_no_words(engine: PocketsphinxAsr) -> None:
    assert await heard_alone(engine, noise(2.0, -40.0), pause(1.0)) == ["", ""]


async def test_an_utterance_without_audio_is_empty(engine: PocketsphinxAsr) -> None:
    async with opened(engine) as session:
        assert await session.provisional() == Transcript("")
        assert await session.commit() == Transcript("", final=True)


async def test_partials_grow_and_keep_their_promise(engine: PocketsphinxAsr) -> None:
    text, pcm = people()[0]  # seven seconds of reading
    seen: list[Transcript] = []
    async with opened(engine) as session, anyio.create_task_group() as tasks:

        async def follow() -> None:
            async with aclosing(session.partials()) as partials:
                seen.extend([partial async for partial in partials])

        tasks.start_soon(follow)
        for i, frame in enumerate(frames(turn(pcm))):
            await session.push(frame)
            if i % 10 == 9:
                await session.provisional()  # answered after the partial before it: none is overtaken
        final = await session.commit()
        await session.aclose()
    assert len(seen) > 10
    assert [p.stable for p in seen] == sorted(p.stable for p in seen)
    assert seen[-1].stable > len(text) // 3
    assert not any(p.final for p in seen)
    for earlier, later in zip(seen, [*seen[1:], final], strict=True):
        assert later.text.startswith(earlier.text[: earlier.stable])
        assert earlier.stable == len(earlier.text) or earlier.text[earlier.stable] == " " or earlier.stable == 0
    assert final.final
    assert final.stable == len(final.text)


async def test_a_provisional_does_the_utterance_no_harm(engine: PocketsphinxAsr) -> None:
    turns = [turn(say("rms", text)) for text in SENTENCES[:6]]
    alone = await heard_alone(engine, *turns)
    asked, last = [], []
    async with opened(engine) as session:
        for pcm in turns:
            chunks = frames(pcm)
            for i, frame in enumerate(chunks):
                await session.push(frame)
                if i % 25 == 10:
                    await session.provisional()
                if i == len(chunks) - 15:  # 200 ms into the silence
                    last.append((await session.provisional()).text)
            asked.append((await session.commit()).text)
    assert asked == alone
    assert sum(a == b for a, b in zip(last, asked, strict=True)) >= 5


async def test_sessions_do_not_mix(engine: PocketsphinxAsr) -> None:
    first, second = turn(say("rms", SENTENCES[4])), turn(say("slt", SENTENCES[5]))
    alone = [*await heard_alone(engine, first), *await heard_alone(engine, second)]
    async with opened(engine) as a, opened(engine) as b:
        for i in range(max(len(frames(first)), len(frames(second)))):
            for session, pcm in ((a, first), (b, second)):
                if frame := frames(pcm)[i : i + 1]:
                    await session.push(frame[0])
        assert [(await a.commit()).text, (await b.commit()).text] == alone


async def test_drop_forgets_words_and_what_was_adapted_to(engine: PocketsphinxAsr) -> None:
    wanted = turn(say("rms", SENTENCES[4]))
    async with opened(engine) as session:
        await push(session, turn(say("slt", SENTENCES[6])) + noise(1.0, -25.0))
        assert (await session.provisional()).text != ""
        await session.drop()
        assert (await session.provisional()).text == ""
        await push(session, wanted)
        assert [(await session.commit()).text] == await heard_alone(engine, wanted)


async def test_a_decoder_is_as_good_as_new_for_the_next_call() -> None:
    one = PocketsphinxSettings(capacity=1, backlog_s=30.0, answer_s=10.0)
    wanted = turn(say("rms", SENTENCES[0]))
    async with one.load() as engine:
        fresh = await heard_alone(engine, wanted)
        await heard_alone(engine, turn(say("slt", SENTENCES[6])), noise(1.0, -25.0))
        assert await heard_alone(engine, wanted) == fresh


async def test_no_more_calls_than_the_capacity() -> None:
    async with PocketsphinxSettings(capacity=1).load() as engine:
        async with opened(engine):
            with pytest.raises(StageError, match="already") as refused:
                await engine.open("en")
            assert refused.value.code == "asr_full"
        async with opened(engine):
            pass


async def test_another_language_is_refused(engine: PocketsphinxAsr) -> None:
    with pytest.raises(StageError, match="'zh'"):
        await engine.open("zh")
    await (await engine.open("en-GB")).aclose()


async def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocketsphinx, "find_spec", lambda name: None)
    with pytest.raises(StageError, match="pip install pocketsphinx") as missing:
        async with PocketsphinxSettings().load():
            pass
    assert not missing.value.retryable


async def test_a_killed_worker_does_not_cost_the_sentence(no_leaked_tasks: None) -> None:
    text = SENTENCES[4]
    async with PATIENT.load() as engine, opened(engine) as session:
        chunks = frames(turn(say("rms", text)))
        half = len(chunks) // 2
        for frame in chunks[:half]:
            await session.push(frame)
        assert (await session.provisional()).text != ""
        assert engine.worker.pid is not None
        os.kill(engine.worker.pid, signal.SIGKILL)
        for frame in chunks[half:]:
            await session.push(frame)
        with anyio.fail_after(30):
            assert error_rate([(text, (await session.commit()).text)]) < 0.3
            await push(session, turn(say("rms", SENTENCES[1])))
            assert (await session.commit()).text == SENTENCES[1]


async def test_words_of_audio_that_is_gone_are_kept_when_the_worker_dies() -> None:
    short = PocketsphinxSettings(backlog_s=0.5, answer_s=10.0)
    async with short.load() as engine, opened(engine) as session:
        for frame in frames(turn(say("rms", SENTENCES[4]))):
            await session.push(frame)
            await session.provisional()  # keeps the worker in step
        before = (await session.provisional()).text
        assert engine.worker.pid is not None
        os.kill(engine.worker.pid, signal.SIGKILL)
        with anyio.fail_after(30):
            final = await session.commit()
        assert before
        assert final.text.startswith(before)


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_answer_is_never_waited_for_longer_than_allowed(way: signal.Signals) -> None:
    """A worker that is gone or stands still: the text known so far is the answer."""
    hasty = PocketsphinxSettings(backlog_s=30.0, answer_s=0.1)
    async with hasty.load() as engine, opened(engine) as session:
        async with aclosing(session.partials()) as partials:
            await push(session, turn(say("rms", SENTENCES[4])))
            known = await anext(partials)
            while SENTENCES[4].split()[-1] not in known.text:
                known = await anext(partials)
        assert engine.worker.pid is not None
        os.kill(engine.worker.pid, way)
        try:
            with anyio.fail_after(5):
                assert (await session.provisional()).text == known.text
                final = await session.commit()
            assert final == Transcript(known.text, len(known.text), final=True)
        finally:
            if way == signal.SIGSTOP:
                os.kill(engine.worker.pid, signal.SIGCONT)


async def test_what_is_too_late_is_dropped_from_its_beginning_and_counted() -> None:
    async with PocketsphinxSettings(backlog_s=3.0, answer_s=10.0).load() as engine, opened(engine) as session:
        await push(session, pause(0.1))
        await session.provisional()
        assert engine.worker.pid is not None
        os.kill(engine.worker.pid, signal.SIGSTOP)
        await push(session, 4 * turn(say("slt", SENTENCES[6])) + turn(say("rms", SENTENCES[1])))
        os.kill(engine.worker.pid, signal.SIGCONT)
        final = await session.commit()
        assert session.lost_s > 3.0
        assert final.text.endswith("time is it")
        assert len(final.text.split()) < 2 * len(SENTENCES[6].split())


async def test_a_closed_session_answers_and_ends_its_partials(engine: PocketsphinxAsr) -> None:
    session = await engine.open("en")
    await session.aclose()
    await session.aclose()
    await session.push(pause(0.02))
    assert (await session.commit()).text == ""
    assert [p async for p in session.partials()] == []
