"""A synthetic head of Gaussians to draw: as many, as large and as deep in overlap as in a trained one, or deeper.

Skin, features, hair and inside on the shell of an ellipsoid 0.88 x 1.2 x 1.0, opacities mostly high, and large opaque
blobs under the skin so that nothing shines through: 20 to 27 blended splats a pixel.
"""

import numpy as np
from numpy.typing import NDArray

from render.raster.gaussians import SH_C0, Bytes, Camera, Floats, Gaussians

Array = NDArray[np.float64]

HALF = np.array([0.44, 0.60, 0.50])  # half axes of the ellipsoid
DISTANCE = 3.6
FOCAL = 1200.0  # px at 512
PIXEL = DISTANCE / FOCAL  # a pixel's side at the head, at 512
BLOBS = 700


def _sphere(rng: np.random.Generator, n: int, front: float) -> Array:
    """Unit vectors, this share of them facing the camera (+z)."""
    out = rng.normal(size=(n, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    out[:, 2] = np.where(rng.random(n) < front, 1, -1) * np.abs(out[:, 2])
    return out


def _quaternions(rng: np.random.Generator, normals: Array, along: Array) -> Array:
    """w x y z of frames whose third axis is the normal and whose first lies near `along`."""
    first = along - (along * normals).sum(1, keepdims=True) * normals
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    m = np.stack([first, np.cross(normals, first), normals], 2)
    trace = [m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]]
    signs = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    w, x, y, z = (np.sqrt(np.maximum(0, 1 + sum(s * t for s, t in zip(k, trace, strict=True)))) / 2 for k in signs)
    x = np.copysign(x, m[:, 2, 1] - m[:, 1, 2])
    y = np.copysign(y, m[:, 0, 2] - m[:, 2, 0])
    z = np.copysign(z, m[:, 1, 0] - m[:, 0, 1])
    return np.stack([w, x, y, z], 1) * rng.uniform(0.6, 1.6, (len(w), 1))


def head(n: int, seed: int = 0, degree: int = 2) -> Gaussians:
    """n Gaussians in no useful order, as training leaves them. degree: of the spherical harmonics, 0 to 2."""
    rng = np.random.default_rng(seed)
    outer = n - BLOBS
    skin, features, hair = outer // 2, outer // 5, outer // 5
    inside = outer - skin - features - hair
    spots = np.array([[0, -0.26], [-0.16, 0.14], [0.16, 0.14], [0, -0.02], [-0.16, 0.24], [0.16, 0.24]])
    spread = np.array([[0.09, 0.05], [0.06, 0.03], [0.06, 0.03], [0.05, 0.08], [0.07, 0.02], [0.07, 0.02]])
    which = rng.choice(6, size=features, p=[0.36, 0.16, 0.16, 0.16, 0.08, 0.08])
    flat = (spots[which] + rng.normal(size=(features, 2)) * spread[which]) / HALF[:2]
    dense = np.concatenate([flat, np.sqrt(np.clip(1 - (flat**2).sum(1, keepdims=True), 0.02, 1))], 1)
    locks = _sphere(rng, hair, 0.6)
    locks[:, 1] = np.abs(locks[:, 1]) * 0.9 + 0.25 * (locks[:, 2] < 0.3)
    at = np.concatenate([_sphere(rng, skin, 0.8), dense, locks, _sphere(rng, inside, 0.7), _sphere(rng, BLOBS, 0.5)])
    at /= np.linalg.norm(at, axis=1, keepdims=True)
    part = np.repeat(np.arange(5), [skin, features, hair, inside, BLOBS])
    shell = np.array([1, 1, 1.04, 0.9, 0.93])[part] + np.array([0.015, 0.012, 0.04, 0.06, 0])[part] * rng.normal(
        size=n
    )
    normals = at / HALF
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    along = rng.normal(size=(n, 3))
    along[part == 2] = np.array([0.1, 1, 0.2]) + 0.25 * rng.normal(size=(hair, 3))

    size = np.array([1.3, 0.7, 0.8, 1.1, 9])[part] * np.exp(
        np.array([0.5, 0.45, 0.4, 0.6, 0.2])[part] * rng.normal(size=n)
    )
    stretch = np.where(part == 2, rng.uniform(2, 7, n), np.exp(np.abs(rng.normal(size=n)) * 0.55))
    stretch[part == 4] = 1
    thick = np.where(part == 4, 0.33, rng.uniform(0.1, 0.6, n))
    scales = np.stack([size * np.sqrt(stretch), size / np.sqrt(stretch), size * thick], 1)
    scales *= np.where(part == 4, 1, 0.7 * (n / 40_000) ** -0.35)[:, None]
    opacities = np.where(rng.random(n) < 0.68, rng.beta(4, 1.1, n), rng.beta(1.2, 5, n))
    opacities[part == 4] = 0.98

    x, y = at[:, 0], at[:, 1]
    tone = np.stack(
        [0.78 + 0.08 * np.sin(9 * x + 3 * y), 0.58 + 0.08 * np.cos(7 * y), 0.48 + 0.07 * np.sin(8 * x * y)], 1
    )
    tone[part == 1] *= np.array([0.85, 0.55, 0.55]) * rng.uniform(0.4, 1.2, (features, 1))
    tone[part == 2] = np.array([0.22, 0.15, 0.1]) * rng.uniform(0.4, 1.9, (hair, 1))
    sh = rng.normal(size=(n, 9, 3)) * np.repeat([0, 0.1, 0.05], [1, 3, 5])[:, None]
    sh[:, 0] = (np.clip(tone + 0.06 * rng.normal(size=(n, 3)), 0.01, 0.99) - 0.5) / SH_C0
    mixed = rng.permutation(n)
    arrays = (
        at * HALF * shell[:, None],
        np.clip(scales, 0.05, 14) * PIXEL,
        _quaternions(rng, normals, along),
        np.clip(opacities, 0.006, 0.995),
        sh[:, : (degree + 1) ** 2],
    )
    means, stds, rotations, alphas, colours = (np.ascontiguousarray(a[mixed], np.float32) for a in arrays)
    return Gaussians(means, stds, rotations, alphas, colours)


def camera(frame: int, size: int) -> Camera:
    """A head that moves a little, 25 frames a second."""
    t = frame / 25
    yaw, pitch, roll = 0.1 * np.sin(1.1 * t), 0.06 * np.sin(0.8 * t + 1), 0.03 * np.sin(0.6 * t + 2)
    turn = np.eye(3)
    for angle, (i, j) in ((yaw, (0, 2)), (pitch, (2, 1)), (roll, (1, 0))):
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = np.sin(angle), -np.sin(angle)
        turn = one @ turn
    turn = np.diag([1.0, -1.0, -1.0]) @ turn  # y up, z to the viewer -> y down, z forward
    shift = np.array([[0.012 * np.sin(t)], [0.02 * np.sin(0.7 * t)], [DISTANCE]])
    matrix: Floats = np.concatenate([turn, shift], 1).astype(np.float32)
    focal = FOCAL * size / 512
    return Camera(matrix, (focal, focal), (size / 2, size / 2), size, size)


def background(size: int) -> Bytes:
    """(size, size, 3): a gradient, and a torso."""
    y, x = np.mgrid[0:size, 0:size] / size
    picture = np.stack([0.35 + 0.2 * x, 0.45 + 0.2 * y, 0.55 - 0.2 * x * y], 2)
    torso = ((x - 0.5) / 0.42) ** 2 + ((y - 1.12) / 0.36) ** 2 < 1
    picture[torso] = np.stack([0.15 + 0.05 * np.sin(60 * x), 0.18 + 0 * x, 0.3 + 0.05 * np.cos(50 * y)], 2)[torso]
    return np.asarray(picture * 255 + 0.5, np.uint8)
