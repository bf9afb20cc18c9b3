"""Measures of pictures against the truth, and of pictures against themselves over time. Floats of 0 to 1."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST_ERROR = 1e-10  # mean square; 100 dB, for pictures that are alike


def psnr(picture: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]], mask: Bools | None = None) -> float:
    """10 log10(1 / mean square error) in dB over all channels of the mask's pixels; pictures are (C, H, W).

    Both are clipped to 0..1 first. Raises ValueError for shapes that differ or a mask without a pixel.
    """
    if picture.shape != truth.shape or (mask is not None and mask.shape != picture.shape[-2:]):
        raise ValueError(f"pictures of {picture.shape} and {truth.shape} cannot be compared under this mask")
    square = (np.clip(picture, 0, 1).astype(np.float64) - np.clip(truth, 0, 1)) ** 2
    if mask is not None:
        if not mask.any():
            raise ValueError("the mask has no pixel")
        square = square[..., mask]
    return float(-10 * np.log10(max(float(square.mean()), LEAST_ERROR)))


def box(points: NDArray[np.floating[Any]], margin: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns around points (N, 2; x, y in pixels), `margin` pixels wider, within a picture (H, W)."""
    low = np.clip(points.min(0).astype(int) - margin, 0, None)
    high = points.max(0).astype(int) + margin + 1
    return slice(int(low[1]), min(int(high[1]), shape[0])), slice(int(low[0]), min(int(high[0]), shape[1]))


def outline(alpha: NDArray[np.floating[Any]], width: int = 6) -> Bools:
    """(H, W): the pixels at most `width` px (in a square's sense) from where alpha crosses one half."""
    inside = (alpha > 0.5).astype(np.uint8)
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # The picture's own edge is no outline: beyond it everything goes on as it is.
    grown = cv2.dilate(inside, square, borderType=cv2.BORDER_REPLICATE)
    shrunk = cv2.erode(inside, square, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(grown != shrunk)


def matte_error(alpha: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]], width: int = 6) -> float:
    """Mean absolute error of alpha in the band along the true outline, 0 to 1; 0 where there is no outline."""
    band = outline(truth, width)
    return float(np.abs(alpha[band] - truth[band]).mean()) if band.any() else 0.0


def leak(alpha: NDArray[np.floating[Any]], rows: slice, most: float = 0.9) -> int:
    """Pixels within a figure that the background shines through: a seam that has come open.

    In each of the rows the figure reaches from the first to the last pixel with alpha over one half; what lies
    between them with alpha under `most`, 3 px away from either end, leaks.
    """
    count = 0
    for row in alpha[rows]:
        solid = np.flatnonzero(row > 0.5)
        if len(solid):
            count += int((row[solid[0] + 3 : max(solid[-1] - 2, 0)] < most).sum())
    return count


class Flicker:
    """Standard deviation over time, pixel by pixel, of pictures that should stand still."""

    def __init__(self) -> None:
        self.frames = 0
        self._mean: Doubles = np.zeros(0)
        self._square: Doubles = np.zeros(0)

    def add(self, picture: NDArray[np.floating[Any]]) -> None:
        """One more picture, all of one shape (Welford's sums, so that a small deviation is not cancelled away)."""
        if not self.frames:
            self._mean, self._square = np.zeros(picture.shape), np.zeros(picture.shape)
        self.frames += 1
        off = picture - self._mean
        self._mean += off / self.frames
        self._square += off * (picture - self._mean)

    def deviation(self) -> Doubles:
        """Of the pictures' shape and unit. Raises ValueError before the second picture."""
        if self.frames < 2:
            raise ValueError("flicker needs two pictures")
        return np.asarray(np.sqrt(self._square / self.frames))
