"""A picture that measures: which frame it is, and whether the voice sounds, readable from its pixels.

Layout of the 512 x 512 picture:

* frame counter: 16 blocks of 32 x 32 px in the top row (y 0 to 31). Block b (x from 32 b on) is bit 15 - b of the
  frame's index modulo 65536: the most significant bit is at the left. Luma 235 is 1, luma 16 is 0; read the middle
  of a block (x 32 b + 16, y 16) against 128.
* sound bar: y 448 to 511: the frame's own 1920 samples of voice from left to right, 3.75 to a column. A column has
  luma 235 where the voice is loud (louder than THRESHOLD within the last millisecond), else 16; read row 480
  against 128. So a beep's first sample can be read off to a third of a millisecond, and a lit bar is a flash.
* between them luma 64 with the frame's number for people, in luma 200. Chroma is 128 everywhere.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from render.score import Score

SIZE = 512
BITS = 16
BLOCK = 32
BAR = 64
LIT, DARK = 235, 16
THRESHOLD = 655  # of 32767: -34 dB below full scale
HOLD = 48  # samples: a sine below THRESHOLD at its zero crossings is still loud


class TestcardPainter:
    """One call's test card."""

    width = height = SIZE
    sides = (SIZE,)

    def __init__(self, score: Score) -> None:
        self._score = score

    def resize(self, side: int) -> None:
        """Its counter is read at this size."""

    def attend(self, hearing: bool) -> None:
        """It shows what is heard, not who listens."""

    def cut(self, index: int) -> None:
        """Nothing to ease: the score alone says what is heard."""

    def paint(self, index: int) -> NDArray[np.uint8]:
        """Frame `index` as I420, (768, 512)."""
        out = np.full((SIZE * 3 // 2, SIZE), 128, np.uint8)
        luma = out[:SIZE]
        luma[:] = 64
        for b in range(BITS):
            bit = index >> (BITS - 1 - b) & 1
            luma[:BLOCK, b * BLOCK : (b + 1) * BLOCK] = LIT if bit else DARK
        luma[-BAR:] = np.where(_loud(self._score.sound(index)), LIT, DARK)
        cv2.putText(luma, str(index), (96, 280), cv2.FONT_HERSHEY_SIMPLEX, 2.5, 200, 5)
        return out


def _loud(sound: NDArray[np.int16]) -> NDArray[np.bool_]:
    """For each of the SIZE columns whether the voice is loud there, or was within the last HOLD samples."""
    at = np.arange(len(sound))
    last_loud = np.maximum.accumulate(np.where(np.abs(sound.astype(np.int32)) > THRESHOLD, at, -HOLD - 1))
    return (at - last_loud <= HOLD)[(np.arange(SIZE) + 1) * len(sound) // SIZE - 1]


def read(luma: NDArray[np.uint8]) -> tuple[int, bool]:
    """(frame index modulo 65536, whether any of the bar is lit) of a decoded picture's Y plane, any size."""
    height, width = luma.shape

    def bright(x: float, y: float) -> bool:
        return bool(luma[int(y * height / SIZE), int(x * width / SIZE)] > 128)

    index = 0
    for b in range(BITS):
        index = index << 1 | bright((b + 0.5) * BLOCK, 0.5 * BLOCK)
    bar = luma[int((SIZE - BAR / 2) * height / SIZE)]
    return index, bool(bar.max() > 128)
