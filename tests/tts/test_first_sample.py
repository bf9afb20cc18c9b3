"""The first spoken sample of a reply and of a clause: nothing trims it, nothing fades it, whatever came before."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import anyio
import numpy as np
import pytest

from server.core.errors import StageError
from server.core.marks import Marks
from server.core.media import MEDIA_RATE, PACKET_SAMPLES, Clause, Samples, Speech, Voice
from server.core.timeline import FADE_IN_SAMPLES, Timeline
from server.stages.speak import MediaRate, speak
from tests.fakes.speech_server import cut, tone

CLAUSE = Clause(0, "Peter!", "Peter! ", "en")
SOUND = tone(0.5, MEDIA_RATE)  # loud from its first sample on, and no two samples alike


class Sudden:
    """A voice that is loud at once, in odd pieces."""

    languages: Sequence[str] = ("*",)
    voices: Sequence[str] = ("sudden",)

    def __init__(self, pcm: bytes = SOUND, rate: int = MEDIA_RATE) -> None:
        self._pcm = pcm
        self._rate = rate

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        pieces = cut(self._pcm, 2, 958, 4802)
        for i, piece in enumerate(pieces):
            yield Speech(clause, piece, self._rate, last=i == len(pieces) - 1)


async def made(voice: Sudden, count: int = 1) -> list[Speech]:
    """What reaches the timeline."""
    given, source = anyio.create_memory_object_stream[Clause](count)
    out, pieces = anyio.create_memory_object_stream[Speech](1000)
    failures: list[StageError] = []
    with given:
        for i in range(count):
            given.send_nowait(replace(CLAUSE, index=i))
    async with out, pieces:
        await speak(source, voice, Voice(), out, Marks(1), failures.append)
        found = [piece async for piece in pieces]
    assert not failures
    return found


def put(timeline: Timeline, pieces: Sequence[Speech], now: int) -> int:
    """Where the first of them is heard."""
    places = [timeline.append(piece, Samples(now)) for piece in pieces]
    return next(place for place in places if place is not None)


def read(timeline: Timeline, start: int, past: int) -> bytes:
    return b"".join(timeline.read(Samples(at)) for at in range(start, past, PACKET_SAMPLES))


def after(heard: bytes, start: int, place: int) -> bytes:
    """From media time `place` on, of what was read from `start` on."""
    return heard[2 * (place - start) :]


async def test_after_silence() -> None:
    timeline = Timeline()
    assert not any(read(timeline, 0, 96_000))
    timeline.begin(1)
    place = put(timeline, await made(Sudden()), 96_000)
    heard = read(timeline, 96_000, 96_000 + 2 * MEDIA_RATE)
    assert after(heard, 96_000, place)[: len(SOUND)] == SOUND


@pytest.mark.parametrize("rate", [24_000, 22_050, 16_000])
async def test_of_another_rate(rate: int) -> None:
    """... it is as loud as the filter makes it of the whole in one go, not fainter."""
    pcm = tone(0.5, rate)
    timeline = Timeline()
    timeline.begin(1)
    place = put(timeline, await made(Sudden(pcm, rate)), 0)
    expected = MediaRate().convert(Speech(CLAUSE, pcm, rate)).pcm
    assert after(read(timeline, 0, 2 * MEDIA_RATE), 0, place)[: len(expected)] == expected


@pytest.mark.parametrize("paused", [False, True])
async def test_after_a_barge_in(paused: bool) -> None:
    """The reply before was faded out in the middle; the next one is not faded in."""
    timeline = Timeline()
    timeline.begin(1)
    put(timeline, await made(Sudden()), 0)
    read(timeline, 0, 9600)
    if paused:
        timeline.pause(Samples(9600))
        read(timeline, 9600, 14_400)
    timeline.cut(Samples(14_400 if paused else 9600))
    timeline.begin(2)
    now = 14_400 if paused else 9600
    place = put(timeline, await made(Sudden()), now)
    heard = read(timeline, now, now + 2 * MEDIA_RATE)
    assert after(heard, now, place)[: len(SOUND)] == SOUND


async def test_after_a_pause_before_it_began() -> None:
    timeline = Timeline()
    timeline.begin(1)
    pieces = await made(Sudden())
    put(timeline, pieces[:3], 0)
    timeline.pause(Samples(0))
    for piece in pieces[3:]:
        assert timeline.append(piece, Samples(960)) is None
    assert not any(read(timeline, 0, 48_000))
    place = timeline.resume(Samples(48_000))[0].at
    heard = read(timeline, 48_000, 48_000 + 2 * MEDIA_RATE)
    assert after(heard, 48_000, place)[: len(SOUND)] == SOUND


@pytest.mark.parametrize("late", [-4800, 0, 7777])
async def test_after_it_was_held(late: int) -> None:
    timeline = Timeline()
    timeline.hold(1, Samples(24_000))
    place = put(timeline, await made(Sudden()), 0)
    now = (24_000 + late) // PACKET_SAMPLES * PACKET_SAMPLES
    read(timeline, 0, now)
    moved = timeline.release(Samples(now))
    place = moved[0].at if moved else place
    assert after(read(timeline, now, now + 2 * MEDIA_RATE), now, place)[: len(SOUND)] == SOUND


async def test_of_the_next_clause_and_after_the_voice_ran_dry() -> None:
    timeline = Timeline()
    timeline.begin(1)
    pieces = await made(Sudden(), count=3)
    first, second, third = ([p for p in pieces if p.clause.index == k] for k in range(3))
    place = put(timeline, [*first, *second], 0)
    heard = read(timeline, 0, 3 * MEDIA_RATE)
    assert after(heard, 0, place)[: 2 * len(SOUND)] == SOUND * 2
    place = put(timeline, third, 3 * MEDIA_RATE)
    assert timeline.statistics.underruns == 1
    heard = read(timeline, 3 * MEDIA_RATE, 5 * MEDIA_RATE)
    assert after(heard, 3 * MEDIA_RATE, place)[: len(SOUND)] == SOUND


async def test_what_a_pause_fades_in_again_was_heard_before() -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = put(timeline, await made(Sudden()), 0)
    before = read(timeline, 0, 9600)
    timeline.pause(Samples(9600))
    fading = read(timeline, 9600, 10_560)
    read(timeline, 10_560, 48_000)
    again = timeline.resume(Samples(48_000))[0].at
    heard = after(read(timeline, 48_000, 48_000 + 2 * MEDIA_RATE), 48_000, again)
    spoken = (9600 - place) * 2  # bytes that were heard at full level
    assert after(before, 0, place) == SOUND[:spoken]
    loudness = np.frombuffer(fading, "<i2")[:FADE_IN_SAMPLES] / np.frombuffer(SOUND[spoken:], "<i2")[:FADE_IN_SAMPLES]
    assert np.nanmin(loudness) > 0.8  # what will be faded in was heard, nearly at full level
    assert heard[2 * FADE_IN_SAMPLES : len(SOUND) - spoken] == SOUND[spoken + 2 * FADE_IN_SAMPLES :]
