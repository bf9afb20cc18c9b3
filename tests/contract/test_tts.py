"""What every voice must keep to, whoever makes it."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from server.core.errors import StageError
from server.core.media import VISEMES, Voice
from server.core.protocols import Tts
from tests.fakes.providers import FakeTts
from tests.tts.conftest import clause, hear, peak, said, seconds, spoken, timeline
from tts.espeak import EspeakSettings
from tts.flite import FliteSettings
from tts.routed import RoutedTts
from tts.tone import ToneSettings

TEXT = "Well, I think that this is a rather good question; let me see."


@pytest.fixture(params=["tone", "beeps", "flite", "espeak", "routed", "fake"])
async def voice(request: pytest.FixtureRequest) -> AsyncIterator[Tts]:
    if request.param == "fake":
        yield FakeTts()
        return
    settings = {
        "tone": [ToneSettings()],
        "beeps": [ToneSettings(beep_s=0.1, pause_s=0.3)],
        "flite": [FliteSettings()],
        "espeak": [EspeakSettings()],
        "routed": [ToneSettings(rate=16_000)],
    }[request.param]
    async with AsyncExitStack() as stack:
        try:
            engines = [await stack.enter_async_context(one.load()) for one in settings]
        except StageError as error:
            pytest.skip(error.message)
        yield RoutedTts(engines) if request.param == "routed" else engines[0]


async def test_pieces_have_one_rate_whole_samples_and_one_end(voice: Tts) -> None:
    pieces = await hear(voice, clause(TEXT))
    assert len({piece.rate for piece in pieces}) == 1
    assert all(len(piece.pcm) % 2 == 0 and piece.samples for piece in pieces)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.clause == clause(TEXT) and not piece.note for piece in pieces)
    assert all(piece.samples <= 0.4 * piece.rate for piece in pieces)
    assert 2.0 < seconds(pieces) < 8.0
    assert peak(pieces) > 3000


async def test_phones_cover_the_sound_in_order(voice: Tts) -> None:
    pieces = await hear(voice, clause(TEXT))
    for piece in pieces:
        assert piece.phones[0].start == 0
        assert piece.phones[-1].end == piece.samples
        assert all(p.start < p.end and p.viseme in VISEMES for p in piece.phones)
        assert all(a.end == b.start for a, b in zip(piece.phones, piece.phones[1:], strict=False))
    assert {"sil", "aa"} <= {p.viseme for piece in pieces for p in piece.phones}


async def test_words_follow_each_other_and_end_within_their_piece(voice: Tts) -> None:
    pieces = await hear(voice, clause(TEXT))
    assert all(word.start < word.end and 0 < word.end <= piece.samples for piece in pieces for word in piece.words)
    words = timeline(pieces)[1]
    assert [TEXT[w.char_start : w.char_end].strip(",;.") for w in words] == [w.strip(",;.") for w in TEXT.split()]
    assert words[0].start >= 0
    assert all(a.end <= b.start and a.char_end <= b.char_start for a, b in itertools.pairwise(words))


async def test_words_point_into_the_raw_text(voice: Tts) -> None:
    raw = "This **really** is\n[good](https://example.com) 😀 news."
    words = timeline(await hear(voice, clause("This really is good news.", raw=raw)))[1]
    assert [raw[w.char_start : w.char_end].rstrip(".") for w in words] == ["This", "really", "is", "good", "news"]


async def test_speed_scales(voice: Tts) -> None:
    slow, fast = [seconds(await hear(voice, clause(TEXT), Voice(speed=speed))) for speed in (0.7, 1.6)]
    assert 1.6 < slow / fast < 3.2


@pytest.mark.parametrize("text", ["😀 👍🏽", "...", "   ", "", "—"])
async def test_nothing_to_say_is_said_as_a_moment_of_silence(voice: Tts, text: str) -> None:
    pieces = await hear(voice, clause(text))
    assert [piece.last for piece in pieces] == [True]
    assert pieces[0].samples
    assert peak(pieces) == 0
    assert not pieces[0].words


@pytest.mark.parametrize("text", ["x" * 60, "a\nb\tc", 'He said: "(no)" -- [[x]] <b>&amp;</b>', "7", "I" + "!" * 300])
async def test_odd_texts_are_said(voice: Tts, text: str) -> None:
    pieces = await hear(voice, clause(text))
    assert peak(pieces) > 1000
    assert pieces[-1].last


async def test_closing_early_leaves_the_next_clause_alone(voice: Tts) -> None:
    alone = await hear(voice, clause(TEXT))
    for _ in range(3):
        pieces = voice.say(clause("Never mind this one. " * 20), Voice())
        assert (await anext(pieces)).samples
        await pieces.aclose()
    again = await hear(voice, clause(TEXT))
    assert said(again) == said(alone)
    assert spoken(again) == spoken(alone)
    assert abs(seconds(again) - seconds(alone)) < 0.02  # espeak-ng is not exact to the sample
