"""Measures of motion: whether tracked points go on smoothly where one kind of motion ends and another begins."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


def jerks(tracks: NDArray[np.floating[Any]]) -> Doubles:
    """(frames, points, 2) px -> (frames,): the largest |x[i-1] - 2 x[i] + x[i+1]| of any point; 0 at both ends."""
    out = np.zeros(len(tracks))
    if len(tracks) > 2:
        second = np.diff(np.asarray(tracks, np.float64), 2, axis=0)
        out[1:-1] = np.linalg.norm(second, axis=2).max(1)
    return out


@dataclass(frozen=True, slots=True)
class Joint:
    """How quick motion is at the joints, as multiples of a percentile within speech."""

    usual: float
    """the same percentile at the joints: like with like"""
    worst: float
    """the largest at any joint"""


def joint(values: NDArray[np.floating[Any]], joints: Bools, within: Bools, share: float = 0.99) -> Joint:
    """Compares `jerks` in the frames at the joints with those within speech.

    values, joints, within: (frames,), of several clips one after the other if there are several. Raises ValueError
    if there is no joint, no speech, or nothing moves within speech.
    """
    if not joints.any() or not within.any():
        raise ValueError("there is no joint, or no speech, to compare")
    usual = float(np.quantile(values[within], share))
    if usual <= 0:
        raise ValueError("nothing moves within speech")
    return Joint(float(np.quantile(values[joints], share)) / usual, float(values[joints].max()) / usual)
