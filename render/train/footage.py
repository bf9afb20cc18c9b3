"""The frames that training looks at, cut to a box and kept as bytes, and what each step makes of one of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from render.raster.gaussians import Camera
from render.train.dataset import EYES, MOUTH, Bytes, Dataset, Shot

Floats = NDArray[np.float32]

MARGIN = 12  # pixels around the head
ALIGN = 64, 32  # columns and rows of the rasteriser's tiles: a box of whole tiles wastes nothing
MOUTH_WEIGHT, EYES_WEIGHT = 4, 3
"""how much more a pixel counts there than on a cheek"""
LIPS, LEFT_EYE, RIGHT_EYE = slice(48, 68), slice(36, 42), slice(42, 48)
"""of the 68 landmarks"""


@dataclass(frozen=True)
class Box:
    """A part of the picture, pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, picture: NDArray[Any]) -> NDArray[Any]:
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]

    def camera(self, data: Dataset, pose: Floats) -> Camera:
        """The view of this part; pose (4, 4) as Shot.pose."""
        centre = data.width / 2 - self.left, data.height / 2 - self.top
        return Camera(pose[:3], (data.focal_px, data.focal_px), centre, self.width, self.height)


def head_box(data: Dataset, shots: Sequence[Shot]) -> Box:
    """Where the head is in any of the frames, as whole tiles where there is room for them."""
    rows, columns = np.zeros(data.height, bool), np.zeros(data.width, bool)
    for shot in shots[:: max(1, len(shots) // 25)]:
        head = data.coverage(shot.index, "head", data.labels(shot.index)) > 0
        rows |= head.any(1)
        columns |= head.any(0)
    (top, height), (left, width) = (
        _span(seen, size, step)
        for seen, size, step in ((rows, data.height, ALIGN[1]), (columns, data.width, ALIGN[0]))
    )
    return Box(top, left, height, width)


def _span(seen: NDArray[np.bool_], size: int, step: int) -> tuple[int, int]:
    at = np.flatnonzero(seen) if seen.any() else np.array([0, size - 1])
    first, last = max(int(at[0]) - MARGIN, 0), min(int(at[-1]) + MARGIN, size - 1)
    length = min(-(-(last - first + 1) // step) * step, size)
    return min(first, size - length), length


@dataclass(frozen=True, eq=False)
class Footage:
    """F frames within a box."""

    box: Box
    shots: tuple[Shot, ...]
    rgb: Bytes  # (F, 3, H, W)
    person: Bytes  # (F, H, W) coverage
    head: Bytes  # (F, H, W) coverage of head, hair, eyes and mouth
    labels: Bytes  # (F, H, W)
    weight: Bytes  # (F, H, W) 1 or more: what matters more
    plate: Floats  # (3, H, W): the background
    openness: Floats  # (F,) share of the picture's width that is inner mouth
    mouth_boxes: tuple[tuple[slice, slice], ...]
    eyes_boxes: tuple[tuple[slice, slice], ...]

    def __len__(self) -> int:
        return len(self.shots)

    def person_over(self, k: int, behind: Floats) -> Floats:
        """(3, H, W): frame k's person over something else: what was filmed, less the plate's share, plus its."""
        clear = 1 - self.person[k].astype(np.float32) / 255
        return np.asarray(self.rgb[k].astype(np.float32) / 255 + clear * (behind - self.plate), np.float32)


def film(data: Dataset, shots: Sequence[Shot], box: Box, told: Callable[[float], None] | None = None) -> Footage:
    """Read the frames. told: called with the share that is done."""
    n, size = len(shots), (box.height, box.width)
    rgb = np.empty((n, 3, *size), np.uint8)
    person, head, labels, weight = (np.empty((n, *size), np.uint8) for _ in range(4))
    openness = np.zeros(n, np.float32)
    mouths, eyes = [], []
    for k, shot in enumerate(shots):
        whole = data.labels(shot.index)
        rgb[k] = box.cut(data.picture(shot.index)).transpose(2, 0, 1)
        labels[k] = box.cut(whole)
        person[k] = box.cut(data.coverage(shot.index, "person", whole))
        head[k] = box.cut(data.coverage(shot.index, "head", whole))
        openness[k] = float((whole == MOUTH).sum()) / data.width
        mouth, looks = _boxes(data.landmarks(shot.index), labels[k], box)
        weight[k] = 1
        weight[k][looks] = EYES_WEIGHT
        weight[k][mouth] = MOUTH_WEIGHT
        mouths.append(mouth)
        eyes.append(looks)
        if told:
            told((k + 1) / n)
    plate = np.asarray(box.cut(data.background).transpose(2, 0, 1) / 255, np.float32)
    return Footage(box, tuple(shots), rgb, person, head, labels, weight, plate, openness, tuple(mouths), tuple(eyes))


def _boxes(marks: Floats | None, labels: Bytes, box: Box) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Of mouth and eyes, 8 px wider; without landmarks, of their labels."""
    found = []
    for label, rows in ((MOUTH, LIPS), (EYES, slice(36, 48))):
        if marks is not None:
            points = marks[rows] - (box.left, box.top)
        else:
            points = np.argwhere(labels == label)[:, ::-1].astype(np.float32)
        if not len(points):
            found.append((slice(0, 0), slice(0, 0)))
            continue
        (x0, y0), (x1, y1) = points.min(0).astype(int) - 8, points.max(0).astype(int) + 9
        found.append((slice(max(y0, 0), max(y1, 0)), slice(max(x0, 0), max(x1, 0))))
    return found[0], found[1]


def ring(mask: NDArray[np.bool_], pixels: int = 1) -> NDArray[np.bool_]:
    """The pixels on either side of a mask's border, where a hard label cannot be trusted."""
    kernel = np.ones((2 * pixels + 1,) * 2, np.uint8)
    m = mask.astype(np.uint8)
    return np.asarray(cv2.dilate(m, kernel) != cv2.erode(m, kernel))
