"""The eight-lane functions against numpy, lane by lane."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba", reason="numba compiles the CPU rasteriser; it comes with the renderer's extra")

from render.raster import simd
from render.raster.compiled import fast
from render.raster.simd import load, store

Array = np.ndarray[Any, np.dtype[np.float32]]
f32 = np.float32


@fast
def apply(x: Array, y: Array, out: Array) -> None:
    """Rows of `out`, eight numbers at a time."""
    n = x.shape[0]
    for i in range(0, n, 8):
        a, b = load(x, i), load(y, i)
        store(out, i, simd.exp(a))
        store(out, n + i, simd.log(b))
        store(out, 2 * n + i, simd.softplus(a))
        store(out, 3 * n + i, simd.sqrt(b))
        store(out, 4 * n + i, simd.least(a, b))
        store(out, 5 * n + i, simd.greatest(a, b))
        store(out, 6 * n + i, simd.at_least(a, b))
        store(out, 7 * n + i, simd.where_at_most(a, a, b))
        store(out, 8 * n + i, (a + b) * f32(2) - a / b)
        store(out, 9 * n + i, f32(1) - a + simd.count())
        store(out, 10 * n + i, simd.every(simd.total(b)))
        store(out, 11 * n + i, simd.exp_coarse(a))
        store(out, 12 * n + i, simd.floor(a))
        store(out, 13 * n + i, simd.ceil(a))
        store(out, 14 * n + i, simd.pairs(a, b))


@fast
def sieve(x: Array, out: Array) -> None:
    for i in range(0, x.shape[0], 8):
        store(out, i, simd.finite(load(x, i)))


@fast
def whole(x: Array, ints: Array, small: NDArray[np.uint8]) -> None:
    for i in range(0, x.shape[0], 8):
        simd.store_ints(ints, i, load(x, i))
        simd.store_bytes(small, i, load(x, i))


@pytest.fixture(scope="module")
def results() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-86, 86, 4000), rng.normal(size=4000), [0, -0.0, 1, -1, 86.9, -86.9, 30, -30]])
    y = np.exp(rng.uniform(-80, 80, len(x)))
    a, b = x.astype(np.float32), y.astype(np.float32)
    out = np.zeros(15 * len(a), np.float32)
    apply(a, b, out)
    return a, b, out.reshape(15, -1)


@pytest.mark.parametrize(
    ("row", "function", "tolerance"),
    [
        (0, lambda x, y: np.exp(x), 3e-7),
        (2, lambda x, y: np.logaddexp(0, x), 5e-7),
        (3, lambda x, y: np.sqrt(y), 2e-7),
        (4, np.minimum, 0),
        (5, np.maximum, 0),
        (6, lambda x, y: np.where(x >= y, x, 0), 0),
        (7, lambda x, y: np.where(x <= y, x, 0), 0),
        (8, lambda x, y: (x + y) * 2 - x / y, 1e-5),
        (9, lambda x, y: 1 - x + np.arange(len(x)) % 8, 1e-4),
        (10, lambda x, y: np.repeat(y.reshape(-1, 8).sum(1), 8), 1e-6),
        (11, lambda x, y: np.exp(x), 8e-6),
        (12, lambda x, y: np.floor(x), 0),
        (13, lambda x, y: np.ceil(x), 0),
        (14, lambda x, y: np.stack([x.reshape(-1, 8), y.reshape(-1, 8)], 1).reshape(-1, 8, 2).sum(2).ravel(), 1e-6),
    ],
)
def test_relative_error(
    results: tuple[Array, Array, Array], row: int, function: Callable[..., Any], tolerance: float
) -> None:
    x, y, out = results
    wanted = function(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(out[row], wanted, rtol=tolerance, atol=1e-5 if row in (8, 9, 14) else 0)


def test_logarithm(results: tuple[Array, Array, Array]) -> None:
    _, y, out = results
    np.testing.assert_allclose(out[1], np.log(y.astype(np.float64)), rtol=2e-7, atol=1e-7)


def test_exponential_beyond_its_range() -> None:
    x = np.array([-88, -1000, -3e38, 88, 1000, 3e38, 0, -87], np.float32)
    out = np.zeros(15 * 8, np.float32)
    apply(x, np.ones(8, np.float32), out)
    assert (out[:3] == 0).all()
    np.testing.assert_allclose(out[3:6], np.exp(87.0), rtol=1e-6)
    np.testing.assert_allclose(out[6], 1, rtol=2e-7)


def test_finite() -> None:
    x = np.array([np.nan, np.inf, -np.inf, -np.nan, 3e38, -1e-44, 0, 5], np.float32)
    out = np.ones(8, np.float32)
    sieve(x, out)
    assert (out == np.array([0, 0, 0, 0, 3e38, -1e-44, 0, 5], np.float32)).all()


def test_whole_parts() -> None:
    x = np.concatenate([np.arange(256), np.arange(256) + 0.999]).astype(np.float32)
    ints, small = np.zeros(len(x), np.float32), np.zeros(len(x), np.uint8)
    whole(x, ints, small)
    assert (ints.view(np.int32) == np.floor(x)).all()
    assert (small == np.floor(x)).all()
    whole(-x, ints, small)
    assert (ints.view(np.int32) == np.ceil(-x)).all()
