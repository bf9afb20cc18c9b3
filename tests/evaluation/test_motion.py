"""Measures of motion, on tracks with a jump put in."""

import numpy as np
import pytest

from evaluation.motion import jerks, joint


def swinging(frames: int = 200) -> np.ndarray:
    """Two points that swing by 3 px once a second."""
    t = np.arange(frames) / 25
    one = np.stack([3 * np.sin(2 * np.pi * t), np.zeros(frames)], 1)
    return np.stack([one, one + 50], 1)


def test_second_differences_of_a_jump() -> None:
    tracks = np.zeros((10, 3, 2))
    tracks[5:, 1] = (3, 4)
    assert np.flatnonzero(jerks(tracks)).tolist() == [4, 5]
    assert jerks(tracks)[4] == pytest.approx(5)


def test_a_smooth_joint_is_at_most_one_and_a_jump_is_more() -> None:
    tracks = swinging()
    joints = np.zeros(200, bool)
    joints[98:103] = True
    smooth = joint(jerks(tracks), joints, ~joints)
    assert smooth.usual <= smooth.worst <= 1.001
    tracks[100:, 1, 0] += 2.0
    # The greatest second difference of the swing is 3 (2 pi / 25)^2 = 0.19 px.
    jump = joint(jerks(tracks), joints, ~joints)
    assert jump.worst == pytest.approx(2 / 0.19, rel=0.15)
    assert jump.usual == pytest.approx(2 / 0.19, rel=0.2)


def test_one_quick_frame_among_many_joints_is_the_worst_but_not_usual() -> None:
    values = np.full(1000, 1.0)
    joints = np.arange(1000) < 300
    values[7] = 5
    found = joint(values, joints, ~joints)
    assert found.worst == pytest.approx(5)
    assert found.usual == pytest.approx(1)


def test_a_joint_needs_something_to_be_compared_with() -> None:
    with pytest.raises(ValueError, match="joint"):
        joint(jerks(swinging()), np.zeros(200, bool), np.ones(200, bool))
    with pytest.raises(ValueError, match="moves"):
        joint(np.zeros(9), np.ones(9, bool), np.ones(9, bool))
