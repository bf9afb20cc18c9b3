"""Trimming on the real voices: most of the silence goes, and no phone does."""

import pytest

from server.core.media import Clause, Speech, Voice
from server.core.trim import Trimmer
from tests.tts.conftest import clause, hear, seconds, timeline
from tts.espeak import EspeakSettings
from tts.flite import VOICES
from tts.remote import RemoteVoice

# An h, soft fricatives, closures, vowels, a nasal: what a threshold could eat.
CLAUSES = [
    "Hello there.",
    "Father thinks so.",
    "She said yes.",
    "Oh, I see.",
    "Peter came.",
    "My name is Mia.",
    "Who?",
]


def trimmed(pieces: list[Speech]) -> list[Speech]:
    trimmer = Trimmer()
    return [out for piece in pieces for out in trimmer.feed(piece)]


def taken(pieces: list[Speech]) -> tuple[float, float]:
    """(milliseconds of pause before the first phone, of which were taken off)."""
    first = next(p for p in timeline(pieces)[0] if p.viseme != "sil")
    kept = next(p for p in timeline(trimmed(pieces))[0] if p.viseme != "sil")
    assert (kept.symbol, kept.end - kept.start) == (first.symbol, first.end - first.start)
    per_ms = pieces[0].rate / 1000
    return first.start / per_ms, (first.start - kept.start) / per_ms


@pytest.mark.parametrize("name", VOICES)
async def test_flite(flite: RemoteVoice, name: str) -> None:
    for text in CLAUSES:
        pieces = await hear(flite, clause(text), Voice(name))
        pause, cut = taken(pieces)
        assert pause > 80
        assert pause - 60 < cut <= pause
        assert trimmed(pieces)[-1].last
        assert trimmed(pieces)[0].samples > 0
        tail = timeline(trimmed(pieces))[0][-1]
        assert tail.viseme == "sil"
        assert (tail.end - tail.start) / pieces[0].rate < 0.16


@pytest.mark.parametrize("name", VOICES)
async def test_a_voice_without_timings_loses_no_phone(flite: RemoteVoice, name: str) -> None:
    for text in CLAUSES:
        if text.startswith("P"):
            continue  # a closure is silence: only the phones could tell
        pieces = await hear(flite, clause(text), Voice(name))
        first = next(p for p in timeline(pieces)[0] if p.viseme != "sil")
        mute = [Speech(p.clause, p.pcm, p.rate, last=p.last) for p in pieces]
        whole = Speech(mute[0].clause, b"".join(p.pcm for p in mute), mute[0].rate)
        for way in ([whole], mute):
            cut = sum(p.samples for p in way) - sum(p.samples for p in _head_only(way))
            assert cut <= first.start + 0.012 * whole.rate, text


def _head_only(pieces: list[Speech]) -> list[Speech]:
    trimmer = Trimmer(tail_ms=5000)
    return [out for piece in pieces for out in trimmer.feed(piece)]


@pytest.mark.parametrize(("text", "language"), [*((text, "en") for text in CLAUSES), ("你好，今天好吗？", "zh")])
async def test_espeak(text: str, language: str) -> None:
    async with EspeakSettings().load() as voice:
        pieces = await hear(voice, Clause(0, text, text, language))
    pause, cut = taken(pieces)
    assert max(pause - 30, 0) <= cut <= pause
    assert seconds(trimmed(pieces)) > 0.15
