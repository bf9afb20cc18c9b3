"""Measures of pictures, on pictures whose errors are known."""

import numpy as np
import pytest

from evaluation.image import Flicker, box, leak, matte_error, outline, psnr


def test_psnr_counts_the_pixels_under_the_mask_only() -> None:
    truth = np.full((3, 20, 30), 0.5, np.float32)
    picture = truth.copy()
    picture[:, :10] += 0.1
    picture[:, 10:] += 0.01
    upper = np.zeros((20, 30), bool)
    upper[:10] = True
    assert psnr(picture, truth, upper) == pytest.approx(20, abs=1e-4)
    assert psnr(picture, truth, ~upper) == pytest.approx(40, abs=1e-4)
    assert psnr(picture, truth) == pytest.approx(-10 * np.log10((0.01 + 0.0001) / 2), abs=1e-4)


def test_psnr_of_one_channel_wrong_is_a_third_of_the_error() -> None:
    truth = np.zeros((3, 8, 8), np.float32)
    picture = truth.copy()
    picture[1] = 0.3
    assert psnr(picture, truth) == pytest.approx(-10 * np.log10(0.09 / 3), abs=1e-4)


def test_psnr_clips_what_a_screen_cannot_show() -> None:
    truth = np.ones((3, 4, 4), np.float32)
    assert psnr(truth * 3, truth) == pytest.approx(100)


@pytest.mark.parametrize("mask", [np.zeros((4, 4), bool), np.ones((4, 5), bool)])
def test_psnr_refuses_a_mask_that_covers_nothing_or_does_not_fit(mask: np.ndarray) -> None:
    picture = np.zeros((3, 4, 4), np.float32)
    with pytest.raises(ValueError, match="mask"):
        psnr(picture, picture, mask)


def test_box_reaches_margin_pixels_beyond_the_outermost_points() -> None:
    rows, columns = box(np.array([[10.7, 20.2], [15.3, 22.9]]), 8, (64, 64))
    assert (rows, columns) == (slice(12, 31), slice(2, 24))
    rows, columns = box(np.array([[2.0, 60.0]]), 8, (64, 64))
    assert (rows, columns) == (slice(52, 64), slice(0, 11))


def test_matte_error_of_a_known_shift() -> None:
    """A straight edge moved by 2 px: 2 of the band's 12 columns are wrong by one."""
    truth = np.zeros((40, 60), np.float32)
    truth[:, 30:] = 1
    moved = np.zeros_like(truth)
    moved[:, 32:] = 1
    assert outline(truth, 6).sum() == 12 * 40
    assert matte_error(moved, truth, 6) == pytest.approx(2 / 12)
    assert matte_error(truth, truth, 6) == 0


def test_an_error_far_from_the_outline_is_none_of_the_matte() -> None:
    truth = np.zeros((40, 60), np.float32)
    truth[:, 30:] = 1
    spoilt = truth.copy()
    spoilt[:, 50:] = 0
    assert matte_error(spoilt, truth, 6) == 0


def test_leak_counts_holes_in_a_figure_not_what_lies_beside_it() -> None:
    alpha = np.zeros((30, 60), np.float32)
    alpha[:, 10:50] = 1
    assert leak(alpha, slice(0, 30)) == 0
    alpha[12:14, 25:35] = 0.4
    assert leak(alpha, slice(0, 30)) == 20
    assert leak(alpha, slice(0, 12)) == 0


def test_flicker_of_a_known_deviation() -> None:
    rng = np.random.default_rng(0)
    rest = rng.random((3, 8, 8))
    flicker = Flicker()
    for k in range(200):
        picture = rest.copy()
        picture[0] += 0.02 * (-1) ** k  # a deviation of exactly 0.02
        flicker.add(picture)
    deviation = flicker.deviation()
    np.testing.assert_allclose(deviation[0], 0.02, atol=1e-9)
    np.testing.assert_allclose(deviation[1:], 0, atol=1e-9)


def test_flicker_needs_two_pictures() -> None:
    flicker = Flicker()
    flicker.add(np.zeros((3, 2, 2)))
    with pytest.raises(ValueError, match="two"):
        flicker.deviation()
