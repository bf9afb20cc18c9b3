"""Structure and edges: the same is 1, and what is worse to look at is less."""

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from render.train.similarity import gradient_similarity, ms_ssim  # noqa: E402


def picture(side: int = 96) -> np.ndarray:
    rng = np.random.default_rng(0)
    rough = cv2.GaussianBlur(rng.random((side, side, 3)).astype(np.float32), (0, 0), 2)
    return np.ascontiguousarray(((rough - rough.min()) / np.ptp(rough)).transpose(2, 0, 1))


ALL = np.ones((96, 96), bool)


@pytest.mark.parametrize("measure", [ms_ssim, gradient_similarity])
def test_the_same_is_one_and_worse_is_less(measure) -> None:
    true = picture()
    assert measure(true, true, ALL) == pytest.approx(1, abs=1e-5)
    values = []
    for sigma in (0.5, 1.0, 3.0):
        blurred = np.stack([cv2.GaussianBlur(c, (0, 0), sigma) for c in true])
        values.append(measure(blurred, true, ALL))
    assert 1 > values[0] > values[1] > values[2] > 0


@pytest.mark.parametrize("measure", [ms_ssim, gradient_similarity])
def test_only_the_mask_counts(measure) -> None:
    true, mask = picture(), np.zeros((96, 96), bool)
    mask[20:61, 30:75] = True
    spoiled = np.where(mask, true, 1 - true)
    assert measure(spoiled, true, mask) == pytest.approx(1, abs=1e-5)
    assert measure(np.where(mask, true.mean(), true), true, mask) < 0.9
    dot = np.zeros((96, 96), bool)
    dot[95, 95] = True
    assert measure(true, true, dot) == pytest.approx(1, abs=1e-5)


def test_a_shift_of_brightness_is_forgiven_more_than_noise_of_the_same_error() -> None:
    """What MS-SSIM is for, and PSNR is not (Wang et al. 2003)."""
    true = 0.2 + 0.6 * picture()
    noise = np.random.default_rng(1).choice([-0.05, 0.05], true.shape).astype(np.float32)
    noise[1:] = noise[0]
    assert ms_ssim(true + 0.05, true, ALL) > ms_ssim(true + noise, true, ALL) + 0.005


def test_by_hand_on_one_scale() -> None:
    """A box of 8 x 8 has one scale: two even pictures have the luminance term alone."""
    a, b = np.full((3, 8, 8), 0.4, np.float32), np.full((3, 8, 8), 0.6, np.float32)
    expected = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert ms_ssim(a, b, np.ones((8, 8), bool)) == pytest.approx(expected, rel=1e-4)
    step = np.zeros((3, 16, 16), np.float32)
    step[:, :, 8:] = 1
    even = np.zeros_like(step)
    # Half the size: two columns of eight have slope 1 where the other has none.
    expected = (6 + 2 * (170 / 255**2) / (1 + 170 / 255**2)) / 8
    assert gradient_similarity(even, step, np.ones((16, 16), bool)) == pytest.approx(expected, abs=1e-3)
