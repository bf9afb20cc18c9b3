"""What a call's voice does and when: the pieces pushed for it, on media time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from render.lips import LOUD_HOP, NO_GESTURES, Ear, Gestures, of_phones
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, Phone

KEPT_SAMPLES = MEDIA_RATE  # how much of the past still matters: the lips' blending looks half a second back
LIMIT_SAMPLES = 600 * MEDIA_RATE  # voice kept at most, 58 MB; more than any reply that is worth listening to


@dataclass(frozen=True)
class Piece:
    """One pushed piece of voice."""

    at: int
    """media sample of its first sample"""
    generation: int
    pcm: NDArray[np.int16]
    """mono 48 kHz"""
    loudness: NDArray[np.float32]
    """0 to 1, one value each 10 ms"""
    gestures: Gestures
    """what the mouth does, in media seconds"""

    @property
    def end(self) -> int:
        return self.at + len(self.pcm)

    def before(self, at: int) -> "Piece":
        """The part of it that is heard before media sample `at`."""
        return replace(self, pcm=self.pcm[: at - self.at], gestures=self.gestures.before(at / MEDIA_RATE))


class Score:
    """The pieces of one call, in the order they were pushed."""

    def __init__(self, lips: bool = True) -> None:
        """lips: whether anybody asks for `Piece.gestures`; else they stay empty."""
        self._lips = lips
        self.pieces: list[Piece] = []
        self.pushes = 0
        """how many pieces have been added so far"""
        self._changed: int | None = None
        self._ear = Ear()

    def push(self, at: int, generation: int, pcm: NDArray[np.int16], phones: Sequence[Phone] = ()) -> bool:
        """Add a piece of voice (mono 48 kHz) heard from media sample `at` on; without phones, the sound is heeded.

        False if it is refused because too much lies in the future already.
        """
        if sum(len(p.pcm) for p in self.pieces) + len(pcm) > LIMIT_SAMPLES:
            return False
        joined = bool(self.pieces) and self.pieces[-1].end == at
        loudness = self._ear.hear(pcm, joined)
        gestures = NO_GESTURES
        if self._lips:
            gestures = (of_phones(phones) if phones else self._ear.shapes(len(pcm))).moved(at / MEDIA_RATE)
        if joined and not phones and len(gestures.start):
            # The sequel tells more about the last moments of the piece before.
            last = self.pieces[-1]
            self.pieces[-1] = replace(last, gestures=last.gestures.before(float(gestures.start[0])))
        self.pushes += 1
        self._change(at)
        self.pieces.append(Piece(at, generation, pcm, loudness, gestures))
        return True

    def cut(self, at: int) -> None:
        """Forget what would have been heard from media sample `at` on."""
        if any(p.end > at for p in self.pieces):
            self._change(at)
        self.pieces = [p if p.end <= at else p.before(at) for p in self.pieces if p.at < at]

    def take_change(self) -> int | None:
        """The first media sample whose sound has changed since this was last asked, None if none has."""
        changed, self._changed = self._changed, None
        return changed

    def _change(self, at: int) -> None:
        self._changed = at if self._changed is None else min(self._changed, at)

    def forget(self, before: int) -> None:
        """Drop what is so long over that nothing depends on it."""
        if self.pieces and min(p.end for p in self.pieces) + KEPT_SAMPLES < before:
            self.pieces = [p for p in self.pieces if p.end + KEPT_SAMPLES >= before]

    def over(self, index: int) -> list[Piece]:
        """The pieces that are heard during video frame `index`, in the order they were pushed."""
        return self._within(index * FRAME_SAMPLES, (index + 1) * FRAME_SAMPLES)

    def _within(self, start: int, end: int) -> list[Piece]:
        return [p for p in self.pieces if p.at < end and p.end > start]

    def generation(self, index: int) -> int:
        """Whose voice is heard during video frame `index` (the last pushed if two meet in it); 0: nobody's."""
        heard = self.over(index)
        return heard[-1].generation if heard else 0

    def sound(self, index: int) -> NDArray[np.int16]:
        """The voice during video frame `index`: FRAME_SAMPLES samples, zero where nobody speaks."""
        return self.between(index * FRAME_SAMPLES, (index + 1) * FRAME_SAMPLES)

    def between(self, start: int, end: int) -> NDArray[np.int16]:
        """The voice of media samples `start` to `end`, zero where nobody speaks."""
        out = np.zeros(end - start, np.int16)
        for p in self._within(start, end):
            first, last = max(p.at, start), min(p.end, end)
            out[first - start : last - start] = p.pcm[first - p.at : last - p.at]
        return out

    def loud(self, seconds: float) -> float:
        """Loudness at media time `seconds`, 0 to 1."""
        at = seconds * MEDIA_RATE
        for p in reversed(self.pieces):
            if p.at <= at < p.end:
                return float(p.loudness[int(at - p.at) // LOUD_HOP])
        return 0.0
