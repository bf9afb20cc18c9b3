"""Eyeballs turn rigidly."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from render.motion.gaze import turn, turn_matrices

CENTRE = np.array([0.03, 0.02, 0.06])
RNG = np.random.default_rng(4)
POINTS = CENTRE + RNG.normal(size=(40, 3)) * 0.004
SPINS = RNG.normal(size=(40, 4))


def matrix(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation of a quaternion (w, x, y, z), by Rodrigues' formula."""
    q = q / np.linalg.norm(q)
    w, v = q[0], q[1:]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.asarray(np.eye(3) + 2 * w * cross + 2 * cross @ cross)


@pytest.mark.parametrize(
    ("right", "up", "looks"),
    [
        (0.0, 0.0, (0, 0, 1)),
        (0.3, 0.0, (math.sin(0.3), 0, math.cos(0.3))),
        (0.0, 0.3, (0, math.sin(0.3), math.cos(0.3))),
        (0.3, -0.2, (math.sin(0.3) * math.cos(0.2), -math.sin(0.2), math.cos(0.3) * math.cos(0.2))),
    ],
)
def test_the_pupil_goes_where_the_gaze_is_sent(right: float, up: float, looks: tuple[float, ...]) -> None:
    pupil = CENTRE + np.array([0, 0, 0.012])
    ((x, y, z),), _ = turn(pupil[None], SPINS[:1], CENTRE, *turn_matrices(right, up))
    assert (np.array([x, y, z]) - CENTRE) / 0.012 == pytest.approx(np.array(looks), abs=1e-12)


def test_nothing_is_bent() -> None:
    rotation, spin = turn_matrices(0.4, -0.3)
    points, spins = turn(POINTS, SPINS, CENTRE, rotation, spin)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(points, (POINTS - CENTRE) @ rotation.T + CENTRE)
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    np.testing.assert_allclose(apart, np.linalg.norm(POINTS[:, None] - POINTS, axis=2), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(points - CENTRE, axis=1), np.linalg.norm(POINTS - CENTRE, axis=1))
    np.testing.assert_allclose(np.linalg.norm(spins, axis=1), np.linalg.norm(SPINS, axis=1))
    for before, after in zip(SPINS, spins, strict=True):  # each Gaussian turns as the ball does
        np.testing.assert_allclose(matrix(after), rotation @ matrix(before), atol=1e-12)


def test_training_may_turn_with_gradients() -> None:
    torch = pytest.importorskip("torch", reason="gradients are torch's; an extra of training")
    points = torch.tensor(POINTS, requires_grad=True)
    arrays = [torch.from_numpy(a) for a in (SPINS, CENTRE, *turn_matrices(0.1, 0.2))]
    turned, _ = turn(points, *arrays)
    np.testing.assert_allclose(turned.detach(), turn(POINTS, SPINS, CENTRE, *turn_matrices(0.1, 0.2))[0])
    (slope,) = torch.autograd.grad(turned[:, 0].sum(), points)
    np.testing.assert_allclose(slope, np.tile(turn_matrices(0.1, 0.2)[0][0], (40, 1)))
