"""Measures of lips, on curves and holes that are known."""

import numpy as np
import pytest

from evaluation.lips import closures, correlation, during, following, gap


def test_gap_is_the_mean_height_of_the_hole() -> None:
    alpha = np.ones((40, 40), np.float32)
    alpha[10:16, 20:22] = 0.1
    alpha[12:16, 22:24] = 0.49
    alpha[12:16, 24:26] = 0.51  # still skin
    assert gap(alpha, slice(5, 30), slice(20, 24)) == 5
    assert gap(alpha, slice(5, 30), slice(24, 26)) == 0
    assert gap(alpha, slice(14, 30), slice(20, 22)) == 2  # rows outside are not looked at


def test_closures_are_counted_right() -> None:
    opening = np.full(100, 8.0)
    opening[20] = 1.2  # exactly 15 %; its middle is at 0.82 s
    opening[60] = 1.21
    at = [0.82, 0.88, 0.76, 0.89, 0.75, 2.42, 9.0]
    assert closures(opening, at, usual=8.0).tolist() == [True, True, True, False, False, False, False]


def test_during_takes_frames_by_their_middles() -> None:
    inside = during(10, [(0.02, 0.06), (0.305, 0.335)])
    assert np.flatnonzero(inside).tolist() == [0]
    assert np.flatnonzero(during(10, [(0.02, 0.061)])).tolist() == [0, 1]


def curve(frames: int, shift: float, seed: int = 0) -> np.ndarray:
    """Slow waves, `shift` frames later."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames) - shift
    return sum(np.sin(2 * np.pi * f * t / 25 + p) for f, p in zip((1.1, 2.3, 3.7), rng.uniform(0, 6, 3), strict=True))


@pytest.mark.parametrize("shift", [-3.0, 0.0, 1.0, 1.5, 2.25])
def test_the_lag_of_a_shifted_curve_is_found(shift: float) -> None:
    pairs = [(2 + 0.5 * curve(150, shift, seed), curve(150, 0, seed)) for seed in range(3)]
    found = following(pairs)
    assert found.lag_s == pytest.approx(shift / 25, abs=0.004)
    assert found.best_r > 0.9
    if shift == 0:
        assert found.r == pytest.approx(1)
    else:
        assert found.r < found.best_r


def test_a_mouth_that_does_not_follow_has_no_correlation() -> None:
    rng = np.random.default_rng(1)
    assert abs(following([(rng.random(500), rng.random(500))]).r) < 0.15
    assert correlation(np.ones(20), np.arange(20)) == 0
    assert correlation(-np.arange(20), np.arange(20)) == pytest.approx(-1)


def test_a_lag_is_not_sought_in_nothing() -> None:
    with pytest.raises(ValueError, match="utterance"):
        following([])
