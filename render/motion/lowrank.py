"""A person's face motion as a sum of few shapes: what frames cost less with, where it was checked to be as good.

The nets are asked for a few hundred points only; how far each shape is in play follows from those by one product, and
the shapes then move all points. Fitted and checked by `render.train.reduce`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shorts = NDArray[np.int16]

PREFIX = "few."
MOST_SHAPES = 128
MOST = 32767  # of a shape's whole numbers


@dataclass(frozen=True)
class LowRank:
    """For the moving face Gaussians of a `Baked`; channels as there."""

    asked: NDArray[np.int32]
    """(Q,) which of the moving points the nets are asked for, rising; Q is a multiple of 128"""
    fit: Floats
    """(K, channels * Q): how far each shape is in play, from what these points do beyond their mean"""
    mean: Floats
    """(channels, moving)"""
    shapes: Shorts
    """(K, channels, moving), in units of `steps`"""
    steps: Floats
    """(K, channels)"""
    decibels: float
    """least PSNR, in frames that it was not fitted to, of the drawn pixels against those of the nets"""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """By name, float32 and int32."""
        packed = np.ascontiguousarray(self.shapes)
        if packed.size % 2:
            packed = np.append(packed.ravel(), np.int16(0))
        return {
            "asked": self.asked,
            "fit": self.fit,
            "mean": self.mean,
            "shapes": packed.ravel().view(np.int32),
            "steps": self.steps,
            "decibels": np.array([self.decibels], np.float32),
        }

    @staticmethod
    def of_arrays(arrays: Mapping[str, NDArray[np.generic]], channels: int, moving: int) -> "LowRank":
        """What `arrays` gave, checked. Raises ValueError with a sentence."""
        wanted = {"asked", "fit", "mean", "shapes", "steps", "decibels"}
        if arrays.keys() != wanted:
            raise ValueError(f"low-rank motion: the tensors are {sorted(arrays)}, not {sorted(wanted)}")
        asked, steps = arrays["asked"], arrays["steps"]
        count, few = len(steps) if steps.ndim else 0, len(asked) if asked.ndim else 0
        if not 0 < count <= MOST_SHAPES:
            raise ValueError(f"low-rank motion: {count} shapes, not 1 to {MOST_SHAPES}")
        size = -(-count * channels * moving // 2)
        expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "asked": (np.int32, (few,)),
            "fit": (np.float32, (count, channels * few)),
            "mean": (np.float32, (channels, moving)),
            "shapes": (np.int32, (size,)),
            "steps": (np.float32, (count, channels)),
            "decibels": (np.float32, (1,)),
        }
        for name, (kind, shape) in expected.items():
            array = arrays[name]
            if array.dtype != kind or array.shape != shape:
                raise ValueError(f"low-rank motion: {name} must be {kind.__name__} {shape}, not {array.shape}")
            if kind is np.float32 and not np.isfinite(np.asarray(array, np.float32)).all():
                raise ValueError(f"low-rank motion: {name} holds numbers that are not finite")
        points = np.asarray(asked, np.int32)
        if not few or points[0] < 0 or points[-1] >= moving or (np.diff(points) <= 0).any():
            raise ValueError("low-rank motion: asked must name moving points, rising, each once")
        shapes = np.ascontiguousarray(arrays["shapes"]).view(np.int16)[: count * channels * moving]
        return LowRank(
            asked=points,
            fit=np.asarray(arrays["fit"], np.float32),
            mean=np.asarray(arrays["mean"], np.float32),
            shapes=shapes.reshape(count, channels, moving),
            steps=np.asarray(steps, np.float32),
            decibels=float(np.asarray(arrays["decibels"], np.float32)[0]),
        )

    def amounts(self, asked: Floats) -> Floats:
        """How far each shape is in play, (K,): asked (channels, Q) is what the nets say of the points `asked`."""
        return np.asarray(self.fit @ (asked - self._asked_mean).ravel(), np.float32)

    def move(self, amounts: Floats, out: Floats) -> None:
        """All moving points: out (channels, moving) is written."""
        from render.motion.kernel import add_shapes

        add_shapes(self.mean, self._packed, amounts[:, None] * self.steps, out)

    @cached_property
    def _asked_mean(self) -> Floats:
        return np.ascontiguousarray(self.mean[:, self.asked])

    @cached_property
    def _packed(self) -> Shorts:
        """(channels, K, moving): a channel at a time, whose sums stay in the first cache."""
        return np.ascontiguousarray(self.shapes.transpose(1, 0, 2))
