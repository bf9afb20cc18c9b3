"""Small scenes for the rasterisers."""

import numpy as np
from numpy.typing import NDArray

from render.raster.gaussians import SH_C0, Camera, Floats, Gaussians

PIXEL = 0.003  # a pixel's side where the scenes are, at 512


def psnr(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """dB of pictures from 0 to 1."""
    return float(-10 * np.log10(max(np.mean((np.clip(a, 0, 1) - np.clip(b, 0, 1)) ** 2), 1e-20)))


def looking(size: int, turn: float = 0.2, height: int | None = None, distance: float = 3.6) -> Camera:
    """From +z towards the origin, y up, turned a little."""
    c, s = np.cos(turn), np.sin(turn)
    turned = np.diag([1.0, -1.0, -1.0]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    matrix = np.concatenate([turned, [[0.01], [-0.02], [distance]]], 1).astype(np.float32)
    focal = 1200 * size / 512
    height = height or size
    return Camera(matrix, (focal, focal), (size / 2, height / 2), size, height)


def cloud(n: int, seed: int = 0, bands: int = 9, pixels: tuple[float, float] = (0.3, 12)) -> Gaussians:
    """Anything anywhere in view: sizes log-uniform in pixels of 512, opacities of every kind."""
    rng = np.random.default_rng(seed)
    sh = rng.normal(size=(n, bands, 3)) * 0.15
    sh[:, 0] = (rng.random((n, 3)) - 0.5) / SH_C0
    return of(
        rng.uniform(-0.7, 0.7, (n, 3)),
        np.exp(rng.uniform(*np.log(pixels), (n, 3))) * PIXEL,
        rng.normal(size=(n, 4)),
        rng.random(n),
        sh,
    )


def of(means: object, scales: object, rotations: object, opacities: object, sh: object) -> Gaussians:
    a, b, c, d, e = (np.ascontiguousarray(v, np.float32) for v in (means, scales, rotations, opacities, sh))
    return Gaussians(a, b, c, d, e)


def shape(n: int, longest: float, shortest: float, opacity: float, seed: int = 3) -> Gaussians:
    """All of one size, in pixels of 512, lying in the picture's plane at every angle."""
    rng = np.random.default_rng(seed)
    half = rng.uniform(0, np.pi, n) / 2
    sh = ((rng.random((n, 1, 3)) - 0.5) / SH_C0).astype(np.float32)
    return of(
        rng.uniform(-0.7, 0.7, (n, 3)),
        np.tile([longest * PIXEL, shortest * PIXEL, shortest * PIXEL], (n, 1)),
        np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], 1),
        np.full(n, opacity),
        sh,
    )


def plain_picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """A background that varies from pixel to pixel."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    return (np.stack([x * 150 // width, y * 150 // height, 0 * x + 90], 2) + noise).astype(np.uint8)


def planes(picture: NDArray[np.uint8]) -> Floats:
    """(H, W, 3) bytes to (3, H, W) of 0 to 1."""
    return np.asarray(picture.transpose(2, 0, 1) / 255, np.float32)
