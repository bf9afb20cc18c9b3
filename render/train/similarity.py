"""How alike two pictures look, by structure and by edges, where a mask says.

MS-SSIM: Wang, Simoncelli and Bovik 2003, of the luma, 11 x 11 Gaussian windows of sigma 1.5; a box that is too small
for five scales is seen at fewer, their exponents made to sum up to one. Gradient-magnitude similarity: Xue, Zhang,
Mou and Bovik 2014, the mean of the map that GMSD takes the deviation of. Both are 1 for the same picture.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

EXPONENTS = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333
"""of the scales, from the finest"""
C1, C2 = 0.01**2, 0.03**2
WINDOW, SIGMA = 11, 1.5
EDGE = 170 / 255**2
"""the constant of the gradient-magnitude similarity, for values to 1"""
PREWITT = np.array([[1, 0, -1]] * 3, np.float32) / 3
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def ms_ssim(made: Floats, true: Floats, mask: Mask) -> float:
    """made, true (3, H, W), 0 to 1; mask (H, W): which pixels count; something of it must be set."""
    a, b, m = _box(made, true, mask)
    shown, parts = m.astype(np.float32), []
    for level in range(len(EXPONENTS)):
        luminance, contrast = _ssim(a, b)
        weight = shown / shown.sum()
        parts.append((float((luminance * contrast * weight).sum()), float((contrast * weight).sum())))
        if level + 1 == len(EXPONENTS) or min(a.shape) < 2 * WINDOW or not _half(shown).any():
            break
        a, b, shown = _half(a), _half(b), _half(shown)
    exponents = np.array(EXPONENTS[: len(parts)]) / sum(EXPONENTS[: len(parts)])
    values = np.array([contrast for _, contrast in parts[:-1]] + [parts[-1][0]])
    return float(np.prod(np.maximum(values, 0) ** exponents))


def gradient_similarity(made: Floats, true: Floats, mask: Mask) -> float:
    """As `ms_ssim`."""
    a, b, inside = _box(made, true, mask)
    m = inside.astype(np.float32)
    if min(a.shape) >= 2:
        a, b, m = _half(a), _half(b), _half(m)
    slopes = [np.hypot(cv2.filter2D(v, -1, PREWITT), cv2.filter2D(v, -1, PREWITT.T)) for v in (a, b)]
    alike = (2 * slopes[0] * slopes[1] + EDGE) / (slopes[0] ** 2 + slopes[1] ** 2 + EDGE)
    return float((alike * m).sum() / m.sum())


def _box(made: Floats, true: Floats, mask: Mask) -> tuple[Floats, Floats, Mask]:
    """The luma of the box around a mask, even sides where there is room; beside the mask nothing differs."""
    spans = []
    for axis in (1, 0):
        at = np.flatnonzero(mask.any(axis))
        first, last = int(at[0]), int(at[-1]) + 1
        longer = (last - first) % 2 and last < mask.shape[1 - axis]
        spans.append(slice(first, last + 1 if longer else last))
    box = tuple(spans)
    inside = mask[box]
    luma = [np.tensordot(LUMA, v[(slice(None), *box)], 1).astype(np.float32) for v in (made, true)]
    return np.where(inside, luma[0], luma[1]), luma[1], inside


def _half(v: Floats) -> Floats:
    """The mean of two by two; an odd last row or column is left out."""
    h, w = v.shape[0] // 2, v.shape[1] // 2
    return np.asarray(v[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3)), np.float32)


def _ssim(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The maps of luminance and of contrast and structure."""

    def blur(v: Floats) -> Floats:
        return np.asarray(cv2.GaussianBlur(v, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REFLECT_101))

    ma, mb = blur(a), blur(b)
    aa, bb, ab = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    luminance = (2 * ma * mb + C1) / (ma * ma + mb * mb + C1)
    contrast = (2 * ab + C2) / (aa + bb + C2)
    return np.asarray(luminance, np.float32), np.asarray(contrast, np.float32)
