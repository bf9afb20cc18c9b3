"""Silence comes off a clause's ends, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from server.core.media import Clause, Phone, Speech, Word
from server.core.trim import HeadTrimmer, TailTrimmer, Trimmer, trim_head, trim_tail

RATE = 16_000
MS = RATE // 1000
CLAUSE = Clause(0, "ha", "ha", "en")


def sound(*parts: tuple[int, int], phones: tuple[Phone, ...] = (), last: bool = True) -> Speech:
    """parts: (milliseconds, amplitude)."""
    pcm = np.concatenate([np.resize(np.array([a, -a], np.int16), ms * MS) for ms, a in parts])
    return Speech(CLAUSE, pcm.tobytes(), RATE, phones=phones, last=last)


def phone(viseme: str, start_ms: int, end_ms: int) -> Phone:
    return Phone(viseme, viseme, start_ms * MS, end_ms * MS)


def pieces_of(speech: Speech, ms: int) -> list[Speech]:
    """The same clause in pieces, timings clipped to each."""
    out = []
    for start in range(0, speech.samples, ms * MS):
        end = min(start + ms * MS, speech.samples)
        phones = tuple(
            replace(p, start=max(p.start, start) - start, end=min(p.end, end) - start)
            for p in speech.phones
            if p.start < end and p.end > start
        )
        pcm = speech.pcm[2 * start : 2 * end]
        out.append(Speech(CLAUSE, pcm, RATE, phones=phones, last=end == speech.samples))
    return out


def test_silence_before_the_first_sound_goes_but_for_a_moment() -> None:
    assert trim_head(sound((200, 0), (300, 9000))).samples == 310 * MS
    assert trim_head(sound((200, 0), (300, 9000)), keep_ms=50).samples == 350 * MS
    assert trim_head(sound((5, 0), (300, 9000))).samples == 305 * MS


def test_a_soft_beginning_is_kept() -> None:
    assert trim_head(sound((200, 10), (60, 80), (300, 9000))).samples == 370 * MS


def test_a_phone_counts_although_it_is_inaudible() -> None:
    phones = (phone("sil", 0, 150), phone("kk", 150, 260), phone("aa", 260, 500))
    assert trim_head(sound((200, 3), (300, 9000), phones=phones)).samples == 360 * MS


def test_clear_sound_counts_although_the_voice_calls_it_a_pause() -> None:
    phones = (phone("sil", 0, 250), phone("aa", 250, 500))
    assert trim_head(sound((200, 100), (300, 9000), phones=phones)).samples == 310 * MS


def test_timings_move_along() -> None:
    phones = (phone("sil", 0, 200), phone("aa", 200, 500))
    speech = replace(sound((200, 0), (300, 9000), phones=phones), words=(Word(0, 2, 200 * MS, 500 * MS),))
    trimmed = trim_head(speech)
    assert [(p.start // MS, p.end // MS) for p in trimmed.phones] == [(-190, 10), (10, 310)]
    assert [(w.start // MS, w.end // MS) for w in trimmed.words] == [(10, 310)]


def test_silence_alone_becomes_a_moment() -> None:
    assert trim_head(sound((500, 0))).samples == 10 * MS
    assert trim_tail(sound((500, 0))).samples == 120 * MS


def test_the_tail_keeps_a_natural_pause() -> None:
    phones = (phone("aa", 0, 300), phone("sil", 300, 600))
    trimmed = trim_tail(sound((300, 9000), (300, 0), phones=phones))
    assert trimmed.samples == 420 * MS
    assert trimmed.phones[-1].end == trimmed.samples
    assert trim_tail(sound((300, 9000), (80, 0))).samples == 380 * MS
    assert trim_tail(sound((300, 9000), (300, 0), last=False)).samples == 600 * MS


@pytest.mark.parametrize("ms", [20, 70, 200, 1000])
def test_pieces_are_trimmed_as_the_whole_is(ms: int) -> None:
    phones = (phone("sil", 0, 230), phone("aa", 230, 600), phone("sil", 600, 900), phone("aa", 900, 1000))
    whole = sound((230, 0), (370, 9000), (300, 0), (100, 9000), (350, 0), phones=(*phones, phone("sil", 1000, 1350)))
    trimmer = Trimmer()
    heard = [out for piece in pieces_of(whole, ms) for out in trimmer.feed(piece)]
    assert b"".join(piece.pcm for piece in heard) == trim_tail(trim_head(whole)).pcm
    assert [piece.last for piece in heard] == [False] * (len(heard) - 1) + [True]
    for piece in heard:
        assert all(p.end <= piece.samples for p in piece.phones)
    spoken = [(p.viseme, p.start) for p in heard[0].phones if p.viseme != "sil"]
    assert spoken[0] == ("aa", 10 * MS)


def test_no_more_than_a_second_is_swallowed() -> None:
    trimmer = HeadTrimmer()
    heard = [out for piece in pieces_of(sound((1600, 0), (100, 9000)), 100) for out in trimmer.feed(piece)]
    assert sum(piece.samples for piece in heard) == 700 * MS


def test_a_silent_clause_still_ends() -> None:
    trimmer = Trimmer()
    heard = [out for piece in pieces_of(sound((400, 0)), 100) for out in trimmer.feed(piece)]
    assert [piece.last for piece in heard] == [True]
    assert 0 < heard[0].samples <= 120 * MS


def test_a_long_pause_is_not_held_for_ever() -> None:
    trimmer = TailTrimmer()
    (first,) = trimmer.feed(sound((100, 9000), last=False))
    held = [trimmer.feed(sound((300, 0), last=False)) for _ in range(4)]
    assert first.samples == 100 * MS
    assert [len(out) for out in held] == [0, 0, 0, 1]
    assert held[3][0].samples == 1200 * MS
