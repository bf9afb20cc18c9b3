"""A voice for tests and measurements: a tone, or beeps, with timings of words and of a mouth that moves."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import numpy.typing as npt

from server.core.media import Clause, Phone, Speech, Voice, Word
from tts.remote import silence
from tts.scripts import speakable
from tts.words import places, span

PIECE_S = 0.2
FADE_S = 0.002  # of a beep, at either end: no click
SECONDS_LIMIT = 3600.0


class ToneSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tone"
):
    """A tone instead of words, in any language, without a worker."""

    frequency: float = 440.0
    """Hz"""
    level: float = 0.3
    """amplitude, 1 = full scale"""
    clause_s: float = 0.0
    """length of every clause; 0: by its number of characters"""
    characters_per_s: float = 15.0
    beep_s: float = 0.16
    """the mouth is open for so long ..."""
    pause_s: float = 0.0
    """... and the tone silent for so long after it; 0: an unbroken tone, mouth open and closed by turns"""
    rate: int = 24_000
    """Hz"""

    def __post_init__(self) -> None:
        if not (self.rate >= 8000 and self.characters_per_s > 0 and self.beep_s >= 0.01 and self.pause_s >= 0):
            raise ValueError("tone: rate >= 8000, characters_per_s > 0, beep_s >= 0.01, pause_s >= 0")
        if not (0 <= self.clause_s <= SECONDS_LIMIT and 0 < self.level <= 1 and self.frequency > 0):
            raise ValueError(
                f"tone: clause_s from 0 to {SECONDS_LIMIT:.0f}, level above 0 and up to 1, frequency > 0"
            )

    @asynccontextmanager
    async def load(self) -> AsyncGenerator["Tone", None]:
        yield Tone(self)


class Tone:
    """The Tts protocol without a voice."""

    languages: Sequence[str] = ("*",)
    voices: Sequence[str] = ("tone",)

    def __init__(self, settings: ToneSettings) -> None:
        self._settings = settings

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        """The clause's length of tone in pieces of at most 200 ms; silence if there is nothing to say in it."""
        settings = self._settings
        if not speakable(clause.text):
            yield silence(clause, settings.rate)
            return
        seconds = settings.clause_s or len(clause.text) / settings.characters_per_s
        total = max(round(seconds / voice.speed * settings.rate), settings.rate // 50)
        words = self._words(clause, total)
        piece = round(settings.rate * PIECE_S)
        for start in range(0, total, piece):
            end = min(start + piece, total)
            yield Speech(
                clause,
                self._sound(start, end),
                settings.rate,
                self._phones(start, end),
                # A word comes with the piece in which it ends.
                tuple(
                    Word(w.char_start, w.char_end, w.start - start, w.end - start)
                    for w in words
                    if start < w.end <= end
                ),
                end == total,
            )

    def _sound(self, start: int, end: int) -> bytes:
        settings = self._settings
        at = np.arange(start, end)
        wave = settings.level * np.sin(2 * np.pi * settings.frequency / settings.rate * at)
        if settings.pause_s:
            beep = settings.beep_s * settings.rate
            into = at % (beep + settings.pause_s * settings.rate)
            wave *= np.clip(np.minimum(into, beep - into) / (FADE_S * settings.rate), 0, 1)
        pcm: npt.NDArray[np.int16] = (wave * 32767).astype(np.int16)
        return pcm.tobytes()

    def _phones(self, start: int, end: int) -> tuple[Phone, ...]:
        open_for = round(self._settings.beep_s * self._settings.rate)
        shut_for = round(self._settings.pause_s * self._settings.rate) or open_for
        period = open_for + shut_for
        phones = []
        for cycle in range(start // period, end // period + 1):
            for symbol, begin, stop in (
                ("aa", cycle * period, cycle * period + open_for),
                ("sil", cycle * period + open_for, (cycle + 1) * period),
            ):
                if max(begin, start) < min(stop, end):
                    phones.append(Phone(symbol, symbol, max(begin, start) - start, min(stop, end) - start))
        return tuple(phones)

    def _words(self, clause: Clause, total: int) -> list[Word]:
        """Its words share the length by their characters."""
        text = clause.text
        place = places(text, clause.raw)
        words = []
        start = 0
        for token in text.split():
            start = text.index(token, start)
            end = start + len(token)
            words.append(Word(*span(place, start, end), start * total // len(text), end * total // len(text)))
            start = end
        return words
