"""What a call's voice does and when: the pieces pushed for it, on media time."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from render.lips import Gestures, loudness, of_phones, of_sound
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
    phones: tuple[Phone, ...] = ()

    @property
    def end(self) -> int:
        return self.at + len(self.pcm)

    @cached_property
    def gestures(self) -> Gestures:
        """What the mouth does, in media seconds."""
        of = of_phones(self.phones) if self.phones else of_sound(self.pcm)
        return of.moved(self.at / MEDIA_RATE)

    @cached_property
    def loudness(self) -> NDArray[np.float32]:
        """0 (silent) to 1, one value each 10 ms"""
        return loudness(self.pcm)

    def before(self, at: int) -> "Piece":
        """The part of it that is heard before media sample `at`."""
        keep = at - self.at
        phones = tuple(replace(p, end=min(p.end, keep)) for p in self.phones if p.start < keep)
        return Piece(self.at, self.generation, self.pcm[:keep], phones)


class Score:
    """The pieces of one call, oldest first."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def push(self, piece: Piece) -> bool:
        """Add it; False if it is refused because too much lies in the future already."""
        if sum(len(p.pcm) for p in self.pieces) + len(piece.pcm) > LIMIT_SAMPLES:
            return False
        self.pieces.append(piece)
        return True

    def cut(self, at: int) -> None:
        """Forget what would have been heard from media sample `at` on."""
        self.pieces = [p if p.end <= at else p.before(at) for p in self.pieces if p.at < at]

    def forget(self, before: int) -> None:
        """Drop what is so long over that nothing depends on it."""
        if self.pieces and min(p.end for p in self.pieces) + KEPT_SAMPLES < before:
            self.pieces = [p for p in self.pieces if p.end + KEPT_SAMPLES >= before]

    def over(self, index: int) -> list[Piece]:
        """The pieces that are heard during video frame `index`, in the order they were pushed."""
        start = index * FRAME_SAMPLES
        return [p for p in self.pieces if p.at < start + FRAME_SAMPLES and p.end > start]

    def generation(self, index: int) -> int:
        """Whose voice is heard during video frame `index` (the last pushed if two meet in it); 0: nobody's."""
        heard = self.over(index)
        return heard[-1].generation if heard else 0

    def sound(self, index: int) -> NDArray[np.int16]:
        """The voice during video frame `index`: FRAME_SAMPLES samples, zero where nobody speaks."""
        start = index * FRAME_SAMPLES
        out = np.zeros(FRAME_SAMPLES, np.int16)
        for p in self.over(index):
            first, last = max(p.at, start), min(p.end, start + FRAME_SAMPLES)
            out[first - start : last - start] = p.pcm[first - p.at : last - p.at]
        return out

    def loud(self, seconds: float) -> float:
        """Loudness at media time `seconds`, 0 to 1."""
        at = seconds * MEDIA_RATE
        for p in reversed(self.pieces):
            if p.at <= at < p.end:
                return float(p.loudness[min(int((at - p.at) // 480), len(p.loudness) - 1)])
        return 0.0
