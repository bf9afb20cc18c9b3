"""The talking portrait: photographs of a person's visemes, blended lip on lip, with blinks and idle motion."""

import math

import cv2
import numpy as np

from render.idle import Idle, Motion
from render.lips import SIL, weights
from render.portrait import SIZE, Bytes, Floats, Plane, Portrait, identity, warp
from render.score import Score
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, VISEMES

CLOSE_FRAMES = 4  # the mouth closes over so many frames after a cut

# The head, in pixels of the 512 px picture: middle, and half axes of the ellipsoid that yaw and pitch turn.
HEAD = (256.0, 205.0)
HEAD_HALF = (132.0, 178.0)
PIVOT = (256.0, 390.0)  # the head rolls about the base of the neck
QUARTER = SIZE // 4


def _ramp(x: Floats, low: float, high: float) -> Floats:
    """Smooth from 0 at `low` to 1 at `high` (either order)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _basis() -> Floats:
    """Displacement fields of x, y, roll, yaw, pitch and breath, one unit of Motion each: (6, 128, 128, 2).

    The picture as a whole is warped, background and all; the background is a plain gradient, so that the fields
    may fade out over it and need no mask and have no edge.
    """
    at = identity(QUARTER, QUARTER) * 4 + 1.5
    x, y = at[..., 0], at[..., 1]
    dx, dy = x - HEAD[0], y - HEAD[1]
    head = _ramp(np.abs(dx), 250, 150) * _ramp(y, 440, 310) * _ramp(y, 0, 30)
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

    def __init__(self, portrait: Portrait, score: Score, seed: int) -> None:
        self._portrait = portrait
        self._score = score
        self._idle = Idle(seed)
        fields = [*_basis(), portrait.brows, portrait.smile]
        self._fields = np.stack(fields).reshape(len(fields), -1)  # (8, 128 * 128 * 2)
        self._grids = (identity(SIZE, SIZE), identity(SIZE // 2, SIZE // 2))
        self._canvases = [plane.base.copy() for plane in portrait.planes]
        self._closing_from = -(10**9)
        self._closing = np.zeros(len(VISEMES))

    def cut(self, index: int) -> None:
        """Called just before the score is cut; `index` is the first frame that shows it."""
        self._closing = self.mouth(index)
        self._closing_from = index

    def mouth(self, index: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """How much of each viseme frame `index` shows: (16,), sums to 1."""
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
        mouth = self.mouth(index)
        for canvas, plane in zip(self._canvases, self._portrait.planes, strict=True):
            _mouth(canvas, plane, mouth)
            _lids(canvas, plane, motion.lids)
        return self._pose(motion)

    def _pose(self, m: Motion) -> Bytes:
        amounts = np.array([m.x, m.y, m.roll, m.yaw, m.pitch, m.breath, m.brows, m.smile], np.float32)
        move = (amounts @ self._fields).reshape(QUARTER, QUARTER, 2)
        out = np.empty((SIZE * 3 // 2, SIZE), np.uint8)
        full, half = SIZE, SIZE // 2
        chroma = out[full:].reshape(2, half, half)
        # A pixel shows what was where it came from: places are looked up backwards, hence the minus.
        at = self._grids[0] - cv2.resize(move, (full, full), interpolation=cv2.INTER_LINEAR)
        warp(self._canvases[0], at, cv2.INTER_CUBIC, out[:full])
        at = self._grids[1] - 0.5 * cv2.resize(move, (half, half), interpolation=cv2.INTER_LINEAR)
        for canvas, target in zip(self._canvases[1:], chroma, strict=True):
            warp(canvas, at, cv2.INTER_LINEAR, target)
        return out


def _mouth(canvas: Bytes, plane: Plane, weights: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Blend the mouths in the reference frame, then bring the blend to where the blended lips are."""
    base = plane.base[plane.mouth]
    if weights[SIL] == 1.0:
        canvas[plane.mouth] = base
        return
    shown = [(i, float(w)) for i, w in enumerate(weights) if w > 0]
    texture = np.zeros_like(plane.mask)
    rest = np.zeros_like(plane.mask)
    at = plane.grid.copy()
    for i, w in shown:
        cv2.scaleAdd(plane.textures[i], w, texture, texture)
        cv2.scaleAdd(plane.leftovers[i], w**3, rest, rest)
        cv2.scaleAdd(plane.back[i], w, at, at)
    blend = warp(texture, at, cv2.INTER_LINEAR) + rest
    blend = base + (blend - base) * plane.mask
    canvas[plane.mouth] = np.clip(blend + 0.5, 0, 255)


def _lids(canvas: Bytes, plane: Plane, closed: float) -> None:
    """Open, half closed or closed, whichever is nearest: a blend would show the eye through the lid."""
    step = round(2 * closed)
    base = plane.base[plane.eyes]
    canvas[plane.eyes] = base if step == 0 else np.clip(base + plane.lids[step - 1] + 0.5, 0, 255)
