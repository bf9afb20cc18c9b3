"""From a person's tensors to `Baked`, when the person is loaded: asks the position nets once for each point."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from render.avatar import AudioFeature
from render.motion.baked import CHANNELS, Baked, kept_shapes
from render.motion.tables import BOUND, FACE_LEVELS, METRES, MOUTH_LEVELS, PLANES, Levels

Floats = NDArray[np.float32]


def bake(motion: Mapping[str, Floats], feature: AudioFeature, face_xyz: Floats, mouth_xyz: Floats) -> Baked:
    """Folds an avatar's `motion` (`render.avatar.motion_shapes`) for points (N, 3) and (M, 3) at rest, metres.

    All face points move; see `baked.settle`. The arrays may be shared with `motion`, which is not changed.
    """
    parts = ("face", "mouth", "face_aligner", "mouth_aligner")
    face, mouth, face_aligner, mouth_aligner = (
        {n[len(p) + 1 :]: a for n, a in motion.items() if n.startswith(f"{p}.")} for p in parts
    )
    offset, gain = align(face_aligner, face_xyz)
    inside, _ = align(mouth_aligner, mouth_xyz)
    return Baked(
        feature=feature,
        face={name: face[name] for name in kept_shapes("face", feature)},
        mouth={name: mouth[name] for name in kept_shapes("mouth", feature)},
        moving=np.arange(len(face_xyz), dtype=np.int32),
        encoding=encode(face, FACE_LEVELS, face_xyz + offset),
        gain=gain,
        still=np.empty(0, np.int32),
        rest=np.empty((0, CHANNELS), np.float32),
        mouth_encoding=encode(mouth, MOUTH_LEVELS, mouth_xyz + inside),
    )


def align(aligner: Mapping[str, Floats], xyz: Floats) -> tuple[Floats, Floats]:
    """Where points (N, 3) lie in the universal field, metres from themselves, and how large their motion is."""
    hidden = np.maximum(encode(aligner, FACE_LEVELS, xyz) @ aligner["align_net.net.0.weight"].T, 0)
    out = hidden @ aligner["align_net.net.1.weight"].T
    return out[:, :3] * np.float32(METRES), 1 + np.float32(0.25) * np.tanh(out[:, 3:] / 5)


def encode(net: Mapping[str, Floats], levels: Levels, xyz: Floats) -> Floats:
    """As `grid.TriPlaneEncoder`, which explains it: (N, 3) -> (N, ENCODING)."""
    starts, strides = np.array(levels.offsets[:-1]), np.array(levels.strides)
    planes = []
    for plane, axes in PLANES.items():
        table = net[f"encoder_{plane}.embeddings"][:, 0]
        u = (xyz[:, axes] + np.float32(BOUND)) / np.float32(2 * BOUND)
        inside = np.logical_and(u >= 0, u <= 1).all(axis=1, keepdims=True)
        p = np.where(inside, u, np.float32(0.5))[:, None] * levels.scales[:, None] + np.float32(0.5)  # (N, LEVELS, 2)
        corner = np.floor(p)
        fx, fy = np.moveaxis(p - corner, 2, 0)
        x, y = np.moveaxis(corner.astype(np.int64), 2, 0)
        row = starts + x + y * strides
        low = (1 - fx) * table[row] + fx * table[row + 1]
        high = (1 - fx) * table[row + strides] + fx * table[row + strides + 1]
        planes.append(np.where(inside, (1 - fy) * low + fy * high, np.float32(0)))
    return np.concatenate(planes, axis=1)
