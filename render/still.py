"""The talking portrait: photographs of a person's visemes, blended lip on lip, with blinks and idle motion."""

import math
from functools import cache

import cv2
import numpy as np

from render.idle import Idle, Motion
from render.lips import SIL, weights
from render.portrait import SIZE, Bytes, Floats, Plane, Portrait, Rows, Weights, blend, identity, shapes, warp
from render.score import Score
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, VISEMES

CLOSE_FRAMES = 4  # the mouth closes over so many frames after a cut
# Voice that comes too late for the mouth to open ahead of it: how much of the jump is still to be made in the first
# frame that shows it, and in the next.
CATCH_UP = (0.5, 0.12)
EXACT = 5  # power of a viseme's weight by which its photograph's own leftovers are shown: when it is nearly pure
LEAST = 0.02  # ... and not at all below this

# The head, in pixels of the 512 px picture: middle, and half axes of the ellipsoid that yaw and pitch turn.
HEAD = (256.0, 205.0)
HEAD_HALF = (132.0, 178.0)
PIVOT = (256.0, 390.0)  # the head rolls about the base of the neck
QUARTER = SIZE // 4
# Rows and columns, multiples of four, where anything moves: the head with its hair, and the shoulders. What lies
# beside them is backdrop, a third of the picture.
MOVED = ((slice(0, 392), slice(88, 424)), (slice(392, 512), slice(0, 512)))
# The luma is kept twice as large and looked up linearly: as sharp as a cubic look-up of the plain one (54 dB from
# Lanczos, both), for a quarter of its time.
FINE = 2
RIM = 2  # pixels


def _ramp(x: Floats, low: float, high: float) -> Floats:
    """Smooth from 0 at `low` to 1 at `high` (either order)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


@cache
def _basis() -> Floats:
    """Displacement fields of x, y, roll, yaw, pitch and breath, one unit of Motion each: (6, 128, 128, 2).

    The picture as a whole is warped, background and all; the background is a plain gradient, so that the fields
    may fade out over it and need no mask and have no edge.
    """
    at = identity(QUARTER, QUARTER) * 4 + 1.5
    x, y = at[..., 0], at[..., 1]
    dx, dy = x - HEAD[0], y - HEAD[1]
    head = _ramp(np.abs(dx), 168, 148) * _ramp(y, 440, 310) * _ramp(y, 0, 30)
    bulge = np.clip(1 - (dx / HEAD_HALF[0]) ** 2 - (dy / HEAD_HALF[1]) ** 2, 0, 1)
    depth = cv2.GaussianBlur(np.sqrt(bulge).astype(np.float32), (0, 0), 4) * head
    zero = np.zeros_like(x)
    turn = math.radians(1.0)
    shoulders = _ramp(y, 300, 430)
    return np.stack(
        [
            np.stack([head, zero], -1),
            np.stack([zero, head], -1),
            np.stack([-turn * (y - PIVOT[1]) * head, turn * (x - PIVOT[0]) * head], -1),
            np.stack([depth, zero], -1),
            np.stack([zero, depth], -1),
            np.stack([zero, -(shoulders + 0.6 * head * (1 - shoulders))], -1),
        ]
    ).astype(np.float32)


class StillPainter:
    """One call's picture of a person. Frames are asked for in rising order, some may be left out."""

    width = height = SIZE
    sides = (SIZE,)

    def __init__(self, portrait: Portrait, score: Score, seed: int) -> None:
        self._portrait = portrait
        self._score = score
        self._idle = Idle(seed)
        # A pixel shows what was where it came from: places are looked up backwards, hence the minus.
        place = FINE * (identity(QUARTER, QUARTER) * 4 + 1.5) + (FINE - 1) / 2
        fields = [place, *(-FINE * field for field in (*_basis(), portrait.brows, portrait.smile))]
        self._fields = np.stack(fields).reshape(len(fields), -1)  # (9, 128 * 128 * 2)
        self._canvases = [
            _enlarged(portrait.luma.base),
            *np.ascontiguousarray(portrait.chroma.base.transpose(2, 0, 1)),
        ]
        self._backdrop = np.concatenate([portrait.luma.base, *(c.reshape(-1, SIZE) for c in self._canvases[1:])])
        self._mouth_shown = np.eye(len(VISEMES))[SIL]
        self._eyes_shown = (0, 0.0, 0.0)
        self._index = -1  # last painted
        self._pushes = 0
        self._behind = np.zeros(len(VISEMES))
        self._behind_from = 0
        self._closing_from = -(10**9)
        self._closing = np.zeros(len(VISEMES))

    def resize(self, side: int) -> None:
        """The photographs have one size, and hardly cost anything."""

    def attend(self, hearing: bool) -> None:
        """Whether the person in front of the camera is speaking from now on."""
        self._idle.attend(hearing)

    def cut(self, index: int) -> None:
        """Called just before the score is cut; `index` is the first frame that shows it."""
        self._closing = self.mouth(index)
        self._closing_from = index

    def mouth(self, index: int) -> Weights:
        """How much of each viseme frame `index` shows if it was known in time: (16,), sums to 1."""
        middle = (index + 0.5) * FRAME_SAMPLES / MEDIA_RATE
        out = weights([piece.gestures for piece in self._score.pieces], middle)
        since = (index - self._closing_from + 1) / CLOSE_FRAMES
        if 0 < since < 1:
            ease = since * since * (3 - 2 * since)
            out = ease * out + (1 - ease) * self._closing
        return out

    def paint(self, index: int) -> Bytes:
        """Frame `index` as I420: (768, 512), BT.601 limited range."""
        loud = self._score.loud((index + 0.5) * FRAME_SAMPLES / MEDIA_RATE)
        motion = self._idle.at(index, loud)
        self._paint_mouth(self._eased(index))
        self._paint_eyes(motion)
        self._index = index
        return self._pose(motion)

    def _eased(self, index: int) -> Weights:
        """The mouth of frame `index`, on its way from what was shown to what should have been."""
        out = self.mouth(index)
        if self._score.pushes != self._pushes:
            self._pushes = self._score.pushes
            self._behind = self._mouth_shown - self.mouth(self._index)
            self._behind_from = index
        late = index - self._behind_from
        if 0 <= late < len(CATCH_UP) and self._index >= 0:
            out = np.maximum(out + CATCH_UP[late] * self._behind, 0)
            out /= out.sum()
        return out

    def _paint_mouth(self, weights: Weights) -> None:
        if np.array_equal(weights, self._mouth_shown):
            return
        self._mouth_shown = weights
        rest = weights[SIL] == 1.0
        planes = (self._portrait.luma, self._portrait.chroma)
        for plane, shape in zip(planes, shapes(self._portrait.jaw, weights), strict=True):
            base = plane.base[plane.mouth]
            self._put(plane.mouth, base if rest else _mouth(plane, shape, base, weights))

    def _paint_eyes(self, motion: Motion) -> None:
        """The photographed lids that are nearest: a blend of two would show the eye through the lid."""
        lids = int(np.argmin(np.abs(np.array(self._portrait.eyelids) - motion.lids)))
        shown = (lids, motion.gaze_x, motion.gaze_y)
        if shown == self._eyes_shown:
            return
        self._eyes_shown = shown
        gaze = np.array([motion.gaze_x, motion.gaze_y], np.float32)
        for plane in (self._portrait.luma, self._portrait.chroma):
            at = plane.eye_grid - plane.gaze * (gaze * np.float32(len(plane.base) / SIZE))
            self._put(plane.eyes, warp(plane.lids[lids], at, cv2.INTER_CUBIC))

    def _put(self, box: tuple[slice, slice], patch: Bytes) -> None:
        """Replace a box of the canvases: of the luma, or of U and V if the patch has both."""
        if patch.ndim == 3:
            for canvas, part in zip(self._canvases[1:], cv2.split(patch), strict=True):
                canvas[box] = part
            return
        # At its rim a patch is as the base, and its neighbours would have had a part in the enlarging.
        rows, columns = (slice(FINE * (side.start + RIM), FINE * (side.stop - RIM)) for side in box)
        self._canvases[0][rows, columns] = _enlarged(patch)[FINE * RIM : -FINE * RIM, FINE * RIM : -FINE * RIM]

    def _pose(self, m: Motion) -> Bytes:
        amounts = np.array([1.0, m.x, m.y, m.roll, m.yaw, m.pitch, m.breath, m.brows, m.smile], np.float32)
        at = (amounts @ self._fields).reshape(QUARTER, QUARTER, 2)
        out = self._backdrop.copy()
        half = SIZE // 2
        chroma = out[SIZE:].reshape(2, half, half)
        for place in MOVED:
            # Pixel centres: x in the enlarged luma is x / 4 - 3 / 8 in the halved chroma.
            warp(self._canvases[0], _magnified(at, place, 4), cv2.INTER_LINEAR, out[place])
            coarse = _magnified(at / (2 * FINE) - (2 * FINE - 1) / (4 * FINE), place, 2)
            rows, columns = (slice(side.start // 2, side.stop // 2) for side in place)
            for canvas, plane in zip(self._canvases[1:], chroma, strict=True):
                warp(canvas, coarse, cv2.INTER_LINEAR, plane[rows, columns])
        return out


def _magnified(at: Floats, place: tuple[slice, slice], times: int) -> Floats:
    """The part of a quarter-size map that belongs to `place` of the picture, so many times as large."""
    around = tuple(slice(max(side.start // 4 - 1, 0), side.stop // 4 + 1) for side in place)
    part = cv2.resize(at[around], None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR)
    inner = tuple(
        slice(times * (side.start // 4 - wide.start), times * (side.stop // 4 - wide.start))
        for side, wide in zip(place, around, strict=True)
    )
    return np.asarray(part[inner], np.float32)


def _enlarged(luma: Bytes) -> Bytes:
    return np.asarray(cv2.resize(luma, None, fx=FINE, fy=FINE, interpolation=cv2.INTER_CUBIC), np.uint8)


def _mouth(plane: Plane, shape: tuple[Floats, Rows], base: Bytes, weights: Weights) -> Bytes:
    out = blend(plane, shape, weights)
    for i in np.flatnonzero(weights**EXACT > LEAST):
        cv2.scaleAdd(plane.leftovers[i], float(weights[i] ** EXACT), out, out)
    out = base + (out - base) * plane.mask
    return np.asarray(np.clip(out + 0.5, 0, 255), np.uint8)
