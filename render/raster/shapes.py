"""Depth and normals of splats: what is blended in place of their colours."""

import numpy as np

from render.raster.compiled import exact, inlined
from render.raster.gaussians import Floats
from render.raster.project import SHORT, VALUES, Q, S, Words, X, f32


@exact
def shape_features(
    blocks: Floats,
    raw: Floats,
    deltas: Floats,
    moving: int,
    camera: Floats,
    visible: int,
    ids: Words,
    normals: Floats,
    depths: Floats,
) -> None:
    """Per splat: (visible, 3) the shortest own axis in the world, turned to the camera; (visible, 3) depth 0 0."""
    own = np.zeros(10, np.float32)
    for k in range(visible):
        i = np.int64(ids[k])
        b, lane = (i >> 3) * VALUES * 8, i & 7
        for v in range(10):
            own[v] = blocks[b + v * 8 + lane]
            if i < moving and np.isfinite(deltas[v * moving + i]):
                own[v] = own[v] + deltas[v * moving + i]
        if i < moving:  # softplus rises with its argument: the order of the scales is all that matters here
            for v in range(3):
                own[S + v] = raw[(i >> 3) * 24 + v * 8 + lane]
                if np.isfinite(deltas[(S + v) * moving + i]):
                    own[S + v] = own[S + v] + deltas[(S + v) * moving + i]
        axis = shortest(own[S], own[S + 1], own[S + 2])
        w, x, y, z = own[Q], own[Q + 1], own[Q + 2], own[Q + 3]
        nx, ny, nz = axis_of(w, x, y, z, axis)
        toward = f32(0)
        for c in range(3):
            place = -(camera[c] * camera[3] + camera[4 + c] * camera[7] + camera[8 + c] * camera[11])
            toward += (own[X + c] - place) * (nx if c == 0 else ny if c == 1 else nz)
        sign = f32(-1) if toward > 0 else f32(1)
        normals[k, 0], normals[k, 1], normals[k, 2] = sign * nx, sign * ny, sign * nz
        depths[k, 0] = camera[8] * own[X] + camera[9] * own[X + 1] + camera[10] * own[X + 2] + camera[11]
        depths[k, 1] = depths[k, 2] = f32(0)


@inlined
def shortest(a: np.float32, b: np.float32, c: np.float32) -> int:
    """Which of three scales is the smallest: z if smaller than both, else y, else x, as InsTaG has it."""
    if c < a and c < b:
        return 2
    return 1 if b < a else 0


@inlined
def axis_of(
    w: np.float32, x: np.float32, y: np.float32, z: np.float32, axis: int
) -> tuple[np.float32, np.float32, np.float32]:
    """A column of the rotation matrix of a quaternion of any length."""
    s = f32(2) / max(w * w + x * x + y * y + z * z, SHORT)
    if axis == 0:
        return f32(1) - s * (y * y + z * z), s * (x * y + w * z), s * (x * z - w * y)
    if axis == 1:
        return s * (x * y - w * z), f32(1) - s * (x * x + z * z), s * (y * z + w * x)
    return s * (x * z + w * y), s * (y * z - w * x), f32(1) - s * (x * x + y * y)
