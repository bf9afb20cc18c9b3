"""Voices brought to the media rate without a click, and clauses said one after the other."""

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from server.core.errors import StageError
from server.core.marks import Marks
from server.core.media import MEDIA_RATE, Clause, Phone, Speech, Voice, Word
from server.core.protocols import Tts
from server.stages.speak import MediaRate, speak
from tests.fakes.providers import FakeTts
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]

RATES = (16_000, 22_050, 24_000)
SIZES = (1, 2, 7, 160, 333, 441, 1000, 4801)  # samples


def clause(index: int, text: str) -> Clause:
    return Clause(index, text, text + " ", "en")


CLAUSE = clause(0, "ah")


def sound(rate: int, samples: int) -> NDArray[np.float64]:
    """Two tones that no rate here has a whole number of samples for."""
    at = np.arange(samples) / rate
    return 8000 * np.sin(2 * np.pi * 440 * at) + 4000 * np.sin(2 * np.pi * 1234.5 * at + 1)


def pieces(rate: int, samples: int, seed: int) -> list[Speech]:
    """The sound in pieces of odd sizes; each has a phone and a word as long as itself."""
    sizes = random.Random(seed)
    pcm = sound(rate, samples).astype("<i2")
    cuts = [0]
    while cuts[-1] < samples:
        cuts.append(min(samples, cuts[-1] + sizes.choice(SIZES)))
    return [
        Speech(
            CLAUSE,
            pcm[a:b].tobytes(),
            rate,
            (Phone("a", "aa", 0, b - a),),
            (Word(0, 2, 0, b - a),),
            last=b == samples,
            note="as it is" if a == 0 else "",
        )
        for a, b in pairwise(cuts)
    ]


def converted(parts: list[Speech]) -> list[Speech]:
    rate = MediaRate()
    return [rate.convert(part) for part in parts]


def samples_of(parts: list[Speech]) -> NDArray[np.int64]:
    return np.frombuffer(b"".join(part.pcm for part in parts), "<i2").astype(np.int64)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [1, 100, 22_051, 70_001])
async def test_pieces_join_exactly_to_the_whole(rate: int, samples: int) -> None:
    parts = pieces(rate, samples, seed=samples)
    got = samples_of(converted(parts))
    assert abs(len(got) - samples * MEDIA_RATE / rate) <= 1
    whole = samples_of(converted([Speech(CLAUSE, b"".join(part.pcm for part in parts), rate)]))
    assert np.array_equal(got, whole)


@pytest.mark.parametrize("rate", RATES)
async def test_the_sound_is_the_same_without_a_click_and_in_its_place(rate: int) -> None:
    got = samples_of(converted(pieces(rate, 2 * rate + 123, seed=rate)))
    error = got - sound(MEDIA_RATE, len(got))
    # The filter rings at both ends, where the sound begins and stops at once; a sample of delay would be 600.
    assert np.abs(error[200:-200]).max() < 3


@pytest.mark.parametrize("rate", RATES)
async def test_timings_are_scaled_and_stand_where_the_sound_is(rate: int) -> None:
    parts = pieces(rate, 30_000, seed=rate)
    given = made = 0
    for before, after in zip(parts, converted(parts), strict=True):
        start, end = given * MEDIA_RATE / rate, (given + before.samples) * MEDIA_RATE / rate
        for timing in (*after.phones, *after.words):
            assert abs(made + timing.start - start) < 2
            assert abs(made + timing.end - end) < 2
        given += before.samples
        made += after.samples
        assert (after.rate, after.clause, after.last) == (MEDIA_RATE, before.clause, before.last)
        assert after.note == before.note
        assert after.phones[0].viseme == "aa"


async def test_a_voice_at_the_media_rate_passes_untouched() -> None:
    parts = pieces(MEDIA_RATE, 5000, seed=1)
    assert all(a is b for a, b in zip(parts, converted(parts), strict=True))


@pytest.mark.parametrize("rate", RATES)
async def test_a_clause_may_end_without_a_sample(rate: int) -> None:
    assert converted([Speech(CLAUSE, b"", rate)])[0].samples == 0
    pcm = sound(rate, 1000).astype("<i2").tobytes()
    out = converted([Speech(CLAUSE, pcm, rate, last=False), Speech(CLAUSE, b"", rate)])
    assert abs(sum(p.samples for p in out) - 1000 * MEDIA_RATE / rate) <= 1
    assert [p.last for p in out] == [False, True]


# ---- the room ------------------------------------------------------------------------------------------


class Scripted:
    """Says each clause as it is told to: pieces, or a failure in their place."""

    languages: Sequence[str] = ("*",)
    voices: Sequence[str] = ("scripted",)

    def __init__(self, *clauses: Sequence[Speech | StageError]) -> None:
        self._clauses = clauses
        self.asked: list[tuple[str, Voice]] = []
        self.ahead_s: list[float] = []

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        self.asked.append((clause.text, voice))
        self.ahead_s.append(clause.ahead_s)
        for step in self._clauses[clause.index]:
            if isinstance(step, StageError):
                raise step
            yield replace(step, clause=clause)


class Spoken:
    """What came of some clauses."""

    def __init__(self) -> None:
        self.parts: list[Speech] = []
        self.failures: list[StageError] = []
        self.marks = Marks(1)

    def texts(self) -> list[str]:
        """Clauses of which something was said."""
        return list(dict.fromkeys(part.clause.text for part in self.parts))


async def said(
    tts: Tts, *texts: str, voice: Voice | None = None, queued_s: Callable[[], float] = lambda: 0.0
) -> Spoken:
    made = Spoken()
    clauses_in, clauses = anyio.create_memory_object_stream[Clause](len(texts))
    send, receive = anyio.create_memory_object_stream[Speech](1)
    with clauses_in:
        for i, text in enumerate(texts):
            clauses_in.send_nowait(clause(i, text))
    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(speak, clauses, tts, voice or Voice(), send, made.marks, made.failures.append, queued_s)
        async for part in receive:
            made.parts.append(part)
    return made


async def test_clauses_are_said_in_order_and_then_it_ends() -> None:
    tts = FakeTts()
    made = await said(tts, "First this.", "Then that.", "And more.")
    assert made.texts() == tts.said == ["First this.", "Then that.", "And more."]
    assert [part.clause.index for part in made.parts if part.last] == [0, 1, 2]
    assert {part.rate for part in made.parts} == {MEDIA_RATE}
    assert list(made.marks.times) == ["tts_request", "tts_audio"]
    assert tts.closed == 0
    assert made.failures == []


async def test_the_voice_asked_for_is_used() -> None:
    tts = Scripted(pieces(16_000, 3000, seed=1))
    await said(tts, "ah", voice=Voice("leo", 1.5))
    assert tts.asked == [("ah", Voice("leo", 1.5))]


async def test_a_voice_is_told_how_much_is_heard_before_its_clause() -> None:
    tts = Scripted(pieces(16_000, 3000, seed=1), pieces(16_000, 3000, seed=2))
    await said(tts, "one", "two", queued_s=iter([0.0, 2.5]).__next__)
    assert tts.ahead_s == [0.0, 2.5]


async def test_the_silent_head_is_taken_off_at_the_voices_own_rate_and_the_timings_move() -> None:
    rate = 16_000
    silence = bytes(2 * rate)
    voice = sound(rate, rate).astype("<i2").tobytes()
    word = Word(0, 2, rate, 2 * rate)
    made = await said(Scripted([Speech(CLAUSE, silence + voice, rate, words=(word,))]), "ah")
    assert len(made.parts) == 1
    part = made.parts[0]
    assert part.samples == pytest.approx(MEDIA_RATE, abs=0.02 * MEDIA_RATE)
    assert abs(np.frombuffer(part.pcm, "<i2").astype(int))[: MEDIA_RATE // 50].max() > 3000
    assert 0 <= part.words[0].start <= 0.011 * MEDIA_RATE
    assert part.words[0].end == pytest.approx(part.samples, abs=3)


@pytest.mark.parametrize("before", [0, 2])
async def test_a_clause_that_fails_is_told_and_passed_over(before: int) -> None:
    broken = StageError("tts", "tts_broken", "as scripted")
    good = pieces(24_000, 9000, seed=3)
    bad = [*pieces(24_000, 9000, seed=2)[:before], broken]
    made = await said(Scripted(good, bad, good), "one", "two", "three")
    assert made.failures == [broken]
    assert [part.clause.index for part in made.parts if part.last] == [0, 2]
    first, third = (samples_of([p for p in made.parts if p.clause.index == index]) for index in (0, 2))
    assert np.array_equal(first, third)
    assert ("two" in made.texts()) == bool(before)


async def test_nothing_of_a_clause_that_failed_is_heard_in_the_next() -> None:
    """Each clause begins with a filter of its own."""
    alone = samples_of((await said(Scripted(pieces(22_050, 9000, seed=3)), "one")).parts)
    broken = [*pieces(22_050, 5000, seed=9)[:-1], StageError("tts", "tts_broken", "as scripted")]
    second = await said(Scripted(broken, pieces(22_050, 9000, seed=3)), "one", "two")
    assert np.array_equal(samples_of(second.parts)[-len(alone) :], alone)


async def test_without_any_voice_every_clause_is_told() -> None:
    made = await said(FakeTts(fails=True), "one", "two", "three")
    assert made.parts == []
    assert [error.code for error in made.failures] == ["tts_broken"] * 3


@pytest.mark.parametrize("after_s", [0.02, 1.0])
async def test_cancelling_closes_the_voice(after_s: float) -> None:
    """While it is waited for, and while its pieces wait for room."""
    tts = FakeTts()
    clauses_in, clauses = anyio.create_memory_object_stream[Clause](2)
    send, receive = anyio.create_memory_object_stream[Speech](1)
    clauses_in.send_nowait(clause(0, "This takes some time, and nobody listens to it."))
    clauses_in.send_nowait(clause(1, "And this is never asked for."))
    with clauses_in, receive:
        with anyio.move_on_after(after_s):
            await speak(clauses, tts, Voice(), send, Marks(1), print)
        assert tts.closed == 1
        assert len(tts.said) <= 1
        with pytest.raises(anyio.BrokenResourceError):
            clauses_in.send_nowait(clause(2, "Nobody is there any more."))
        while receive.statistics().current_buffer_used:
            receive.receive_nowait()
        with pytest.raises(anyio.EndOfStream):
            receive.receive_nowait()
