"""FunASR through its real worker process on tiny models: eight calls at once, texts for now, a worker that dies."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from server.asr import funasr
from server.asr.funasr import FunasrAsr, FunasrSettings
from server.asr.listener import WorkerListener
from server.core.errors import RequestError, StageError
from server.core.media import Transcript
from tests.asr.conftest import Settings
from tests.asr.spoken import frames, pause
from tests.asr.tiny_funasr import melody

pytestmark = pytest.mark.timeout(600)  # the worker's start takes 8 s of a free core, and minutes of a busy one

CALLS = 8


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def engine(settings: Settings) -> AsyncIterator[FunasrAsr]:
    async with settings("streaming", "finaliser", "vad", "punctuation", threads=4).load() as engine:
        yield engine


@asynccontextmanager
async def opened(engine: FunasrAsr, language: str = "zh") -> AsyncIterator[WorkerListener]:
    session = await engine.open(language)
    try:
        with anyio.fail_after(300):
            yield session
    finally:
        await session.aclose()


async def push(session: WorkerListener, pcm: bytes) -> None:
    for frame in frames(pcm):
        await session.push(frame)


async def heard(engine: FunasrAsr, seed: int) -> tuple[list[str], str, str]:
    """A call: its partials, a text for now half-way, and the final text."""
    seen: list[Transcript] = []
    async with opened(engine) as session, anyio.create_task_group() as tasks:

        async def follow() -> None:
            async with aclosing(session.partials()) as partials:
                seen.extend([partial async for partial in partials])

        tasks.start_soon(follow)
        pcm = melody(seed, 2.0).tobytes()
        half = len(pcm) // 1280 * 640
        await push(session, pcm[:half])
        provisional = await session.provisional()
        await push(session, pcm[half:])
        final = await session.commit()
        await session.aclose()
    assert final.final
    assert final.stable == len(final.text)
    assert not provisional.final
    return [partial.text for partial in seen], provisional.text, final.text


async def test_eight_calls_at_once_hear_what_each_would_alone(engine: FunasrAsr) -> None:
    alone = [await heard(engine, seed) for seed in range(CALLS)]
    assert len({final for _, _, final in alone}) == CALLS
    assert len({provisional for _, provisional, _ in alone}) == CALLS
    together: dict[int, tuple[list[str], str, str]] = {}

    async def call(seed: int) -> None:
        together[seed] = await heard(engine, seed)

    async with anyio.create_task_group() as tasks:
        for seed in range(CALLS):
            tasks.start_soon(call, seed)
    for seed, (partials, provisional, final) in enumerate(alone):
        assert together[seed][1:] == (provisional, final), f"call {seed} got words that are not its own"
        # How often a text is told depends on what else there is to do; the last one is of all that was said.
        assert together[seed][0][-1:] == partials[-1:]


async def test_asking_for_a_text_now_changes_nothing(engine: FunasrAsr) -> None:
    pcm = melody(3).tobytes()
    async with opened(engine) as unasked, opened(engine) as asked:
        await push(unasked, pcm)
        for i, frame in enumerate(frames(pcm)):
            await asked.push(frame)
            if i % 25 == 24:
                assert (await asked.provisional()).text
        assert await asked.commit() == await unasked.commit()


async def test_a_dropped_utterance_leaves_nothing_behind(engine: FunasrAsr) -> None:
    async with opened(engine) as session:
        await push(session, melody(4).tobytes())
        await session.drop()
        assert await session.provisional() == Transcript("")
        assert await session.commit() == Transcript("", final=True)


async def test_english_has_finals_and_no_partials(engine: FunasrAsr) -> None:
    assert {"zh", "en"} <= set(engine.languages)
    seen: list[Transcript] = []
    async with opened(engine, "en-GB") as session, anyio.create_task_group() as tasks:

        async def follow() -> None:
            async with aclosing(session.partials()) as partials:
                seen.extend([partial async for partial in partials])

        tasks.start_soon(follow)
        await push(session, melody(1).tobytes())
        assert (await session.commit()).text
        await session.aclose()
    assert seen == []


async def test_noise_has_no_words(engine: FunasrAsr) -> None:
    async with opened(engine) as session:
        await push(session, pause(1.5))
        assert await session.commit() == Transcript("", final=True)


async def test_hot_words_of_a_call_are_checked(engine: FunasrAsr) -> None:
    with pytest.raises(RequestError, match="cannot be a hot word"):
        await engine.open("zh", ["/etc/passwd"])
    session = await engine.open("zh", ["阿里巴巴"])
    await push(session, melody(1).tobytes())
    assert (await session.commit()).text
    await session.aclose()


async def test_another_language_is_refused(engine: FunasrAsr) -> None:
    with pytest.raises(StageError, match="not 'de'"):
        await engine.open("de")


async def test_no_more_calls_than_the_capacity(engine: FunasrAsr) -> None:
    sessions = [await engine.open("zh") for _ in range(CALLS)]
    with pytest.raises(StageError, match="already") as refused:
        await engine.open("zh")
    assert refused.value.code == "asr_full"
    for session in sessions:
        await session.aclose()
    await (await engine.open("zh")).aclose()


@pytest.mark.slow
async def test_a_killed_worker_does_not_cost_the_sentence(engine: FunasrAsr) -> None:
    pcm = melody(5).tobytes()
    half = len(pcm) // 1280 * 640
    async with opened(engine, "en") as session:
        await push(session, pcm)
        whole = await session.commit()
        await push(session, pcm[:half])
        assert (await session.provisional()).text
        assert engine.worker.pid is not None
        os.kill(engine.worker.pid, signal.SIGKILL)
        await push(session, pcm[half:])
        with anyio.fail_after(300):
            assert await session.commit() == whole


async def test_a_folder_that_is_no_model_is_said_at_the_start(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "config.yaml").write_text("model: Whisper\n")
    with pytest.raises(StageError, match="holds a Whisper") as refused:
        async with settings("streaming", streaming=str(tmp_path)).load():
            pass
    assert not refused.value.retryable


async def test_without_the_library_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(funasr, "find_spec", lambda name: None)
    with pytest.raises(StageError, match=r"pip install 'visavis\[asr\]'") as missing:
        async with FunasrSettings().load():
            pass
    assert not missing.value.retryable
