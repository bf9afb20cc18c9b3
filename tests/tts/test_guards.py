"""What a voice server may not do to a sentence: never come to an end, or swallow half of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import anyio
import numpy as np
import pytest

from server.core.errors import StageError
from server.core.media import Clause, Speech, Voice
from tests.fakes.speech_server import Answer, FakeSpeechServer, Hang, Until, cut, speech_server, tone
from tests.tts.conftest import clause, hear, seconds
from tests.tts.test_routed import Scripted
from tests.virtual_time import virtual_time
from tts.http_voice import SOON_S, Sound, as_it_stands, say
from tts.openai_speech import OpenAiSpeech, OpenAiSpeechSettings
from tts.plausible import span
from tts.routed import RoutedTts

TEXT = "The train to London leaves at half past seven."
WHOLE = tone(2.6)
RATE = 24_000
SHORT = WHOLE[: RATE // 5 * 2]  # 0.2 s; the text takes 0.9 at the very least


@asynccontextmanager
async def speaking(*answers: Answer) -> AsyncGenerator[tuple[OpenAiSpeech, FakeSpeechServer], None]:
    async with (
        speech_server(*answers) as server,
        OpenAiSpeechSettings(base_url=f"{server.url}/v1").load() as voice,
    ):
        yield voice, server


def behind(ahead_s: float) -> Clause:
    """The sentence, with so much voice before it."""
    return replace(clause(TEXT), ahead_s=ahead_s)


def pcm(pieces: list[Speech]) -> bytes:
    return b"".join(piece.pcm for piece in pieces)


# ---- a server -----------------------------------------------------------------------------------------------------


async def test_a_runaway_is_cut_where_no_voice_needs_longer_and_fades_out() -> None:
    async with speaking(Answer((*[WHOLE] * 8, Hang()))) as (voice, server):
        pieces = await hear(voice, clause(TEXT))
        with anyio.fail_after(5):
            await server.disconnected.wait()
    assert seconds(pieces) == pytest.approx(span(TEXT).most_s, abs=0.01)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    samples = np.frombuffer(pcm(pieces), "<i2")
    kept = len(samples) - RATE // 50 * 2
    assert samples[:kept].tobytes() == (WHOLE * 8)[: kept * 2]
    assert abs(int(samples[-1])) < 100
    assert pieces[-1].words[-1].end <= pieces[-1].samples


async def test_a_fast_speaker_is_given_less_time() -> None:
    async with speaking(Answer((*[WHOLE] * 8, Hang()))) as (voice, _):
        assert seconds(await hear(voice, clause(TEXT), Voice(speed=2.0))) < span(TEXT).most_s * 0.7


@pytest.mark.parametrize("short", [SHORT, bytes(len(WHOLE))], ids=["half", "silent"])
async def test_a_swallowed_sentence_is_made_again_while_something_else_is_heard(short: bytes) -> None:
    async with speaking(Answer(cut(short, 4801)), Answer((WHOLE,))) as (voice, server):
        assert pcm(await hear(voice, behind(30.0))) == WHOLE
    assert [body["input"] for _, body in server.requests] == [TEXT, TEXT]


async def test_the_spare_voice_says_what_was_swallowed_twice() -> None:
    """... and the next sentence is asked of the usual one again: it was this text's fault."""
    async with speaking(Answer((SHORT,)), Answer((SHORT,)), Answer((WHOLE,))) as (voice, server):
        spare = Scripted("en")
        routed = RoutedTts([voice], [spare])
        pieces = await hear(routed, behind(30.0))
        assert {piece.note for piece in pieces} == {"a spare voice is speaking"}
        assert [text for text, *_ in spare.asked] == [TEXT]
        assert pcm(await hear(routed, behind(30.0))) == WHOLE
    assert len(server.requests) == 3


async def test_without_a_spare_voice_it_is_told() -> None:
    async with speaking(Answer((SHORT,))) as (voice, server):
        with pytest.raises(StageError, match="swallowed") as error:
            await hear(voice, behind(30.0))
    assert (error.value.code, error.value.retryable) == ("tts_cut_short", False)
    assert len(server.requests) == 2


async def test_what_is_heard_already_is_not_said_twice() -> None:
    rest = asyncio.Event()
    async with (
        speaking(Answer((SHORT, Until(rest)))) as (voice, server),
        aclosing(voice.say(clause(TEXT), Voice())) as pieces,
    ):
        heard = (await anext(pieces)).pcm
        rest.set()
        heard += b"".join([piece.pcm async for piece in pieces])
    assert heard == SHORT
    assert len(server.requests) == 1


async def test_a_sentence_that_is_held_back_can_be_cancelled() -> None:
    async with speaking(Answer((SHORT, Hang()))) as (voice, server):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear, voice, behind(30.0))
            await server.asked.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            await server.disconnected.wait()


# ---- the same with a source of sound that knows the time -----------------------------------------------------------


class Source:
    """Sound at given times (virtual seconds after it was asked)."""

    def __init__(self, *steps: tuple[float, bytes]) -> None:
        self._steps = steps
        self.asked = 0
        self.closed = 0

    async def sound(self, text: str) -> AsyncGenerator[Sound, None]:
        self.asked += 1
        begun_s = anyio.current_time()
        try:
            for at_s, data in self._steps:
                await anyio.sleep_until(begun_s + at_s)
                yield Sound(data, RATE)
        finally:
            self.closed += 1


async def heard_at(source: Source, what: Clause) -> list[tuple[float, Speech]]:
    begun_s = anyio.current_time()
    async with aclosing(say(what, RATE, as_it_stands, source.sound)) as pieces:
        return [(round(anyio.current_time() - begun_s, 3), piece) async for piece in pieces]


@virtual_time
async def test_it_is_held_back_until_there_is_enough_of_it() -> None:
    part = WHOLE[: RATE // 2 * 2]  # half a second
    source = Source(*[(0.2 * i, part) for i in range(5)])
    heard = await heard_at(source, behind(30.0))
    assert heard[0][0] == 0.2  # the text takes 0.9 s: the second part decides
    assert pcm([piece for _, piece in heard]) == part * 5


@virtual_time
async def test_it_is_held_back_no_longer_than_other_voice_is_heard() -> None:
    source = Source((0.1, SHORT), (3.0, WHOLE))
    heard = await heard_at(source, behind(1.0))
    assert heard[0][0] == pytest.approx(1.0 - SOON_S, abs=0.002)
    assert pcm([piece for _, piece in heard]) == SHORT + WHOLE


@virtual_time
async def test_a_first_sentence_does_not_wait() -> None:
    heard = await heard_at(Source((0.1, SHORT), (3.0, WHOLE)), clause(TEXT))
    assert heard[0][0] <= 0.105


@virtual_time
@pytest.mark.parametrize("when_s", [0.05, 0.15, 1.0])
async def test_giving_up_closes_the_source(when_s: float) -> None:
    """Before its first sound, while that is held back, and while more is waited for."""
    source = Source((0.1, SHORT), (3.0, WHOLE))
    with anyio.move_on_after(when_s):
        await heard_at(source, behind(0.5))
    assert (source.asked, source.closed) == (1, 1)


@virtual_time
async def test_a_failure_while_it_is_held_back_comes_out() -> None:
    class Broken(Source):
        async def sound(self, text: str) -> AsyncGenerator[Sound, None]:
            async with aclosing(super().sound(text)) as sounds:
                async for one in sounds:
                    yield one
            await anyio.sleep(0.1)
            raise StageError("tts", "tts_broken_off", "it broke off", retryable=False)

    with pytest.raises(StageError, match="it broke off"):
        await heard_at(Broken((0.1, SHORT)), behind(30.0))
