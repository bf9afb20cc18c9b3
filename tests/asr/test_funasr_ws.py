"""FunASR over the wire: dialogues of both 2pass servers replayed, connections that break, and what is never said."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest

from server.asr import funasr_ws
from server.asr.funasr_ws import MESSAGE_BYTES, FunasrWsAsr, FunasrWsSession, FunasrWsSettings, TwoPass
from server.asr.parts import joined
from server.core.errors import RequestError, StageError
from server.core.media import MIC_FRAME_BYTES, Transcript
from tests.asr.spoken import noise
from tests.fakes.funasr_ws import Dialogue, FunasrServer, audio_ms, dialogue, finals, pieces

pytestmark = pytest.mark.usefixtures("no_leaked_tasks")

NAMES = ["one sentence", "two sentences", "sentence ended by the server", "only silence"]
BEGIN: dict[str, Any] = {"client": {"mode": "2pass", "is_speaking": True}}
END: dict[str, Any] = {"client": {"is_speaking": False}}


def sound(milliseconds: int) -> bytes:
    return noise(milliseconds / 1000, -30.0)


async def say(session: FunasrWsSession, pcm: bytes) -> None:
    for first in range(0, len(pcm), MIC_FRAME_BYTES):
        await session.push(pcm[first : first + MIC_FRAME_BYTES])


@asynccontextmanager
async def talking(
    script: Callable[[int], Dialogue | None] | Dialogue, **more: Any
) -> AsyncIterator[tuple[FunasrServer, FunasrWsAsr]]:
    """A server, and our engine at it. The first connection is the engine's own look whether it is there."""
    steps = script if callable(script) else lambda number: script
    server = FunasrServer(lambda number: steps(number - 1) if number else [])
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(30))
        await stack.enter_async_context(server.running())
        options: dict[str, Any] = {"dialect": "cpp", "answer_s": 20.0} | more
        settings = FunasrWsSettings(url=server.url, **options)
        yield server, await stack.enter_async_context(settings.load())


@asynccontextmanager
async def opened(engine: FunasrWsAsr, words: tuple[str, ...] = ()) -> AsyncIterator[FunasrWsSession]:
    session = await engine.open("zh", words)
    try:
        yield session
    finally:
        await session.aclose()


# ---- dialogues -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("server", ["python", "cpp"])
async def test_a_dialogue_gives_its_final_text(server: str, name: str) -> None:
    steps = dialogue(server, name)
    async with talking(steps, dialect=server) as (fake, engine), opened(engine) as session:
        await say(session, sound(audio_ms(steps)))
        final = await session.commit()
        assert final.text == joined(finals(steps))
        assert (final.stable, final.final) == (len(final.text), True)
        said = fake.connections[1]
        assert said.complaints == []
        assert len(said.audio) == audio_ms(steps) * 32
        assert set(said.sizes) == {MESSAGE_BYTES}


@pytest.mark.parametrize("name", ["one sentence", "two sentences"])
@pytest.mark.parametrize("server", ["python", "cpp"])
async def test_pieces_of_text_come_while_somebody_speaks(server: str, name: str) -> None:
    steps = dialogue(server, name)
    seen: list[Transcript] = []
    async with talking(steps, dialect=server) as (_, engine), opened(engine) as session:
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                async with aclosing(session.partials()) as partials:
                    async for partial in partials:
                        seen.append(partial)
                        if partial.text == joined(pieces(steps)):
                            return

            tasks.start_soon(follow)
            await say(session, sound(audio_ms(steps)))
        for earlier, later in pairwise(seen):
            assert later.text.startswith(earlier.text[: earlier.stable])
        assert seen[-1].stable == len(seen[-1].text)


async def test_a_newer_server_s_fields_are_passed_over() -> None:
    steps = dialogue("cpp", "newer fields")
    async with talking(steps) as (_, engine), opened(engine) as session:
        await say(session, sound(audio_ms(steps)))
        assert (await session.commit()).text == "Hello world."


async def test_a_message_of_an_odd_length_is_filled_up_with_silence() -> None:
    """The Python server takes every message for as long as the one before it."""
    steps = [BEGIN, {"audio_ms": 120}, END, {"server": {"is_final": True, "text": ""}}]
    async with talking(steps) as (fake, engine), opened(engine) as session:
        pcm = sound(80)
        await say(session, pcm)
        await session.commit()
        assert fake.connections[1].audio == pcm + bytes(2 * MESSAGE_BYTES - len(pcm))


# ---- a text for now --------------------------------------------------------------------------------


async def test_a_text_for_now_is_asked_of_another_connection() -> None:
    steps = dialogue("cpp", "one sentence")
    so_far = [
        BEGIN,
        {"audio_ms": 1260},
        END,
        {"server": {"mode": "2pass-offline", "text": "今天。", "is_final": True}},
    ]
    async with talking(lambda number: steps if number == 0 else so_far) as (fake, engine), opened(engine) as session:
        pcm = sound(audio_ms(steps))
        await say(session, pcm[: 1260 * 32])
        assert await session.provisional() == Transcript("今天。")
        own = fake.connections[1]
        assert len(own.texts) == 1  # it was never told to end
        await say(session, pcm[1260 * 32 :])
        assert (await session.commit()).text == joined(finals(steps))
        assert own.audio == pcm
        assert fake.connections[2].audio == pcm[: 1260 * 32]


async def test_without_a_second_connection_it_is_what_is_known() -> None:
    steps = dialogue("cpp", "one sentence")
    async with talking(steps, speculate=False) as (fake, engine), opened(engine) as session:
        async with aclosing(session.partials()) as partials:
            await say(session, sound(660))
            partial = await anext(partials)
        assert await session.provisional() == Transcript(partial.text) == Transcript("今天")
        assert len(fake.connections) == 2


async def test_nothing_said_has_no_words() -> None:
    async with talking([]) as (_, engine), opened(engine) as session:
        assert await session.provisional() == Transcript("")
        assert await session.commit() == Transcript("", final=True)


# ---- connections that break ------------------------------------------------------------------------


async def test_a_broken_connection_costs_no_words() -> None:
    """What was said is said again to the next one."""
    steps = dialogue("cpp", "one sentence")
    breaks = [*steps[:4], {"close": True}]
    async with talking(lambda number: breaks if number == 0 else steps) as (fake, engine), opened(engine) as session:
        pcm = sound(audio_ms(steps))
        await say(session, pcm)
        assert (await session.commit()).text == joined(finals(steps))
        whole = [connection for connection in fake.connections if connection.audio == pcm]
        assert len(whole) == 1
        assert whole[0].complaints == []


async def test_a_server_that_comes_back_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(funasr_ws, "RECONNECT_S", (0.0, 0.01))
    steps = dialogue("cpp", "one sentence")
    pcm = sound(audio_ms(steps))
    with anyio.fail_after(30):
        async with AsyncExitStack() as ours:
            async with FunasrServer(lambda number: []).running() as first:
                engine = await ours.enter_async_context(FunasrWsSettings(url=first.url, answer_s=20.0).load())
                session = await ours.enter_async_context(opened(engine))
            await say(session, pcm[: len(pcm) // 2])  # to nobody
            async with FunasrServer(lambda number: steps).running(int(first.url.rpartition(":")[2])) as second:
                await say(session, pcm[len(pcm) // 2 :])
                assert (await session.commit()).text == joined(finals(steps))
                assert [c.audio for c in second.connections].count(pcm) == 1
                await session.aclose()


async def test_a_server_that_drops_every_connection_is_not_asked_without_a_pause() -> None:
    async with talking(lambda number: None, answer_s=0.5) as (fake, engine), opened(engine) as session:
        await say(session, sound(60))
        assert await session.commit() == Transcript("", final=True)
        assert len(fake.connections) < 12


async def test_an_answer_that_does_not_come_is_replaced_by_what_is_known() -> None:
    steps = [BEGIN, {"audio_ms": 600}, {"server": {"mode": "2pass-online", "text": "你好", "is_final": False}}, END]
    async with talking(steps, answer_s=0.2) as (_, engine), opened(engine) as session:
        async with aclosing(session.partials()) as partials:
            await say(session, sound(600))
            await anext(partials)
        assert await session.commit() == Transcript("你好", 2, final=True)


async def test_what_is_late_never_reaches_the_next_utterance() -> None:
    late = [BEGIN, {"audio_ms": 600}, END]  # its final text would come after the next one began
    steps = dialogue("cpp", "one sentence")

    def script(number: int) -> Dialogue:
        return late if number == 0 else steps

    async with talking(script, answer_s=5.0) as (fake, engine), opened(engine) as session:
        await say(session, sound(600))
        with anyio.move_on_after(0.1):
            await session.commit()
        await say(session, sound(audio_ms(steps)))
        assert (await session.commit()).text == joined(finals(steps))
        assert len(fake.connections[1].audio) == 600 * 32


async def test_a_dropped_utterance_leaves_nothing_behind() -> None:
    steps = dialogue("cpp", "one sentence")
    async with talking(steps) as (fake, engine), opened(engine) as session:
        await say(session, sound(700))
        await session.drop()
        await say(session, sound(audio_ms(steps)))
        assert (await session.commit()).text == joined(finals(steps))
        await fake.connections[1].over.wait()


@pytest.mark.parametrize("nonsense", ["not json", "[1, 2]", '"text"', "{}", '{"text": null, "mode": 3}'])
async def test_nonsense_from_the_server_breaks_nothing(nonsense: str) -> None:
    steps = [{"raw": nonsense}, *dialogue("cpp", "one sentence")]
    async with talking(steps) as (_, engine), opened(engine) as session:
        await say(session, sound(audio_ms(steps)))
        assert (await session.commit()).text == joined(finals(steps))


async def test_what_is_kept_is_bounded() -> None:
    steps = [BEGIN, {"audio_ms": 1000}, END, {"server": {"text": "", "is_final": True}}]
    async with talking(steps, backlog_s=1.0) as (_, engine), opened(engine) as session:
        said = session._line.said
        await say(session, sound(5000))
        assert said.first >= 3900 * 32
        assert len(b"".join(said._pieces)) <= 32_000


# ---- what is said to it ----------------------------------------------------------------------------


async def test_hot_words_are_an_object_in_a_string_and_only_for_a_server_that_takes_words_for_words() -> None:
    cpp, python = (TwoPass(FunasrWsSettings(dialect=d), "zh", ("阿里巴巴", "VisAvis")) for d in ("cpp", "python"))
    assert json.loads(json.loads(cpp.begin()[0])["hotwords"]) == {"阿里巴巴": 20, "VisAvis": 20}
    assert "hotword" not in python.begin()[0]
    async with talking([]) as (_, engine):
        with pytest.raises(RequestError, match="cannot be a hot word"):
            await engine.open("zh", ["http://example.org/words.txt"])


async def test_languages_and_capacity() -> None:
    async with talking([], capacity=1) as (_, engine):
        assert engine.languages == ("zh",)
        with pytest.raises(StageError, match="not 'de-DE'"):
            await engine.open("de-DE")
        async with opened(engine):
            with pytest.raises(StageError, match="already"):
                await engine.open("zh")
        await (await engine.open("zh-CN")).aclose()


async def test_no_server_is_said_in_a_sentence() -> None:
    async with FunasrServer(lambda number: []).running() as gone:
        url = gone.url
    with pytest.raises(StageError, match=r"No FunASR server answers at ws://127.0.0.1:\d+ ") as missing:
        async with FunasrWsSettings(url=url).load():
            pass
    assert missing.value.code == "asr_unreachable"


async def test_a_closed_session_answers_nothing_and_breaks_nothing() -> None:
    async with talking([]) as (_, engine):
        session = await engine.open("zh")
        await session.aclose()
        await session.aclose()
        await session.push(sound(20))
        await session.drop()
        assert (await session.provisional()).text == ""
        assert (await session.commit()).text == ""
        assert [partial async for partial in session.partials()] == []
