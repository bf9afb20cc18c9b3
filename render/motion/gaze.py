"""Gaze, which InsTaG lacks: the Gaussians of an eyeball turn rigidly about its centre.

The same few lines serve numpy (rendering) and torch (training): the caller passes all arrays in one kind.
"""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", "Tensor", NDArray[np.floating[Any]])


def turn_matrices(right: float, up: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotation (3, 3), and (4, 4) that multiplies a quaternion (w, x, y, z) from the left by the same rotation.

    Radians: the gaze goes `right` towards the picture's right (+x), then `up`; in the head's frame x is the
    picture's right, y up, z towards the viewer.
    """
    yaw = np.array([np.cos(right / 2), 0.0, np.sin(right / 2), 0.0])
    pitch = np.array([np.cos(up / 2), -np.sin(up / 2), 0.0, 0.0])
    w, x, y, z = left = _left(yaw) @ pitch
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return rotation, _left(left)


def _left(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4): left multiplication by the quaternion q."""
    w, x, y, z = q
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])


def turn(xyz: Array, rotations: Array, centre: Array, rotation: Array, spin: Array) -> tuple[Array, Array]:
    """An eyeball's points (N, 3) and quaternions (N, 4; any length, which is kept) turned about `centre` (3,).

    `rotation` and `spin` are `turn_matrices`, in the same kind of array. Colour that depends on the view is to be
    looked up in the eyeball's own frame, along `rotation` transposed times the view's direction.
    """
    return (xyz - centre) @ rotation.T + centre, rotations @ spin.T
