"""How far a rendered picture is from the filmed one: L1 and SSIM with a gradient of its own, and their late company.

On a CPU, SSIM through torch costs 180 ms for 512 x 512 pixels and more than all else in a step; the kernels here, ten
(Wang et al. 2004: 11 x 11 Gaussian window, sigma 1.5, zeros beyond the edge). On other devices the same is plain
torch, which is also the kernels' judge.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from render.raster.compiled import fast
from render.raster.simd import LANES, every, load, store

Floats = NDArray[np.float32]
f32 = np.float32

TAPS = 11
HALF = TAPS // 2
SIGMA = 1.5
SSIM = 0.2
"""share of 1 - SSIM beside L1, as in 3DGS"""
C1, C2 = f32(1e-4), f32(9e-4)

_bell = np.exp(-((np.arange(TAPS) - HALF) ** 2) / (2 * SIGMA**2))
BELL = (_bell / _bell.sum()).astype(np.float32)
B0, B1, B2, B3, B4, B5 = (f32(v) for v in BELL[: HALF + 1])


@fast
def _blur(source: Floats, out: Floats, tall: Floats, line: Floats, height: int, width: int) -> None:
    """Flat planes; tall: (height + 10) * width, line: width + 16, both with zeros where nothing is written here."""
    for i in range(0, height * width, LANES):
        store(tall, HALF * width + i, load(source, i))
    for y in range(height):
        q = y * width
        for x in range(0, width, LANES):
            i = q + x
            v = load(tall, i + 5 * width) * B5 + (load(tall, i) + load(tall, i + 10 * width)) * B0
            v = v + (load(tall, i + width) + load(tall, i + 9 * width)) * B1
            v = v + (load(tall, i + 2 * width) + load(tall, i + 8 * width)) * B2
            v = v + (load(tall, i + 3 * width) + load(tall, i + 7 * width)) * B3
            v = v + (load(tall, i + 4 * width) + load(tall, i + 6 * width)) * B4
            store(line, 8 + x, v)
        for x in range(0, width, LANES):
            i = 8 + x
            v = load(line, i) * B5 + (load(line, i - 5) + load(line, i + 5)) * B0
            v = v + (load(line, i - 4) + load(line, i + 4)) * B1 + (load(line, i - 3) + load(line, i + 3)) * B2
            v = v + (load(line, i - 2) + load(line, i + 2)) * B3 + (load(line, i - 1) + load(line, i + 1)) * B4
            store(out, q + x, v)


@fast
def _times(a: Floats, b: Floats, out: Floats) -> None:
    for i in range(0, out.shape[0], LANES):
        store(out, i, load(a, i) * load(b, i))


@fast
def _similarity(
    mx: Floats, my: Floats, xx: Floats, yy: Floats, xy: Floats, weight: Floats, share: np.float32
) -> np.float32:
    """Returns the sum of weight (1 - SSIM); mx, xx, xy become its derivatives by them, times `share`."""
    two, one, zero = f32(2), every(f32(1)), every(f32(0))
    sums = np.zeros(LANES, np.float32)
    whole = zero
    for i in range(0, mx.shape[0], LANES):
        a, b, w = load(mx, i), load(my, i), load(weight, i)
        aa, bb, ab = a * a, b * b, a * b
        n1, n2 = two * ab + C1, two * (load(xy, i) - ab) + C2
        d1, d2 = one / (aa + bb + C1), one / (load(xx, i) - aa + load(yy, i) - bb + C2)
        s = n1 * n2 * d1 * d2
        whole = whole + w * (one - s)
        k = (zero - w) * share
        by_xy, by_xx = two * n1 * d1 * d2, zero - s * d2
        store(mx, i, k * (two * b * n2 * d1 * d2 - two * a * s * d1 - two * a * by_xx - b * by_xy))
        store(xx, i, k * by_xx)
        store(xy, i, k * by_xy)
    store(sums, 0, whole)
    return np.float32(sums.sum())


@fast
def _gather(
    x: Floats, y: Floats, weight: Floats, a: Floats, b: Floats, c: Floats, share: np.float32, out: Floats
) -> np.float32:
    """out = a + 2 x b + y c + weight share sign(x - y); returns the sum of weight |x - y|."""
    whole = f32(0)
    for i in range(x.shape[0]):
        d = x[i] - y[i]
        whole += weight[i] * abs(d)
        k = weight[i] * share
        out[i] = a[i] + f32(2) * x[i] * b[i] + y[i] * c[i] + (k if d > f32(0) else -k if d < f32(0) else f32(0))
    return whole


class _Room:
    """Working memory for pictures of one size."""

    def __init__(self, height: int, width: int) -> None:
        self.tall = np.zeros((height + TAPS - 1) * width, np.float32)
        self.line = np.zeros(width + 16, np.float32)
        self.planes = [np.zeros(height * width, np.float32) for _ in range(9)]


@cache
def _room(height: int, width: int) -> _Room:
    return _Room(height, width)


def _kernels(x: Floats, y: Floats, weight: Floats, ssim: float) -> tuple[float, Floats]:
    """Value and gradient by x. x, y (C, H, W); weight (H, W)."""
    channels, height, width = x.shape
    room = _room(height, width)
    mx, my, xx, yy, xy, t, a, b, c = room.planes
    out, flat = np.empty_like(x), weight.ravel()
    norm = 1 / max(channels * float(flat.sum(dtype=np.float64)), 1e-6)
    value = 0.0

    def blur(source: Floats, target: Floats) -> None:
        _blur(source, target, room.tall, room.line, height, width)

    for k in range(channels):
        p, q = x[k].ravel(), y[k].ravel()
        blur(p, mx)
        blur(q, my)
        for first, second, target in ((p, p, xx), (q, q, yy), (p, q, xy)):
            _times(first, second, t)
            blur(t, target)
        value += ssim * norm * float(_similarity(mx, my, xx, yy, xy, flat, f32(ssim * norm)))
        for source, target in ((mx, a), (xx, b), (xy, c)):
            blur(source, target)
        value += (1 - ssim) * norm * float(_gather(p, q, flat, a, b, c, f32((1 - ssim) * norm), out[k].reshape(-1)))
    return value, out


class _Pixels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor, ssim: float) -> Tensor:
        a, b, c = (t.detach().contiguous().numpy() for t in (x, y, weight))
        value, gradient = _kernels(a, b, c, ssim)
        ctx.gradient = torch.from_numpy(gradient)
        return x.new_tensor(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * grad, None, None, None


def pixels(x: Tensor, y: Tensor, weight: Tensor, ssim: float = SSIM) -> Tensor:
    """Weighted mean of (1 - ssim) |x - y| + ssim (1 - SSIM): x, y (C, H, W), weight (H, W); gradient by x only."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[-1] % LANES == 0:
        value: Tensor = _Pixels.apply(x, y.detach(), weight.detach(), ssim)  # type: ignore[no-untyped-call]
        return value
    return plain(x, y, weight, ssim)


def plain(x: Tensor, y: Tensor, weight: Tensor, ssim: float = SSIM) -> Tensor:
    """`pixels` in plain torch."""
    channels = len(x)
    bell = torch.from_numpy(BELL).to(x)
    kernel = (bell[:, None] * bell[None])[None, None].expand(channels, 1, TAPS, TAPS)

    def blur(v: Tensor) -> Tensor:
        return F.conv2d(v[None], kernel, padding=HALF, groups=channels)[0]

    y = y.detach()
    mx, my = blur(x), blur(y)
    xx, yy, xy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    s = (2 * mx * my + float(C1)) * (2 * xy + float(C2)) / ((mx**2 + my**2 + float(C1)) * (xx + yy + float(C2)))
    value: Tensor = (weight * ((1 - ssim) * (x - y).abs() + ssim * (1 - s))).sum()
    return value / (channels * weight.sum()).clamp_min(1e-6)


def shrunk(x: Tensor) -> Tensor:
    """The mean of two by two pixels: (C, H, W) or (H, W), even sides."""
    flat = x.view(-1, *x.shape[-2:])
    small: Tensor = F.avg_pool2d(flat[None], 2)[0]
    return small.view(*x.shape[:-2], *small.shape[-2:])


def scales(x: Tensor, y: Tensor, weight: Tensor, levels: int = 3) -> Tensor:
    """`pixels` with much SSIM at a half, a quarter ... of the size: what MS-SSIM (Wang et al. 2003) looks at."""
    value = x.new_zeros(())
    for _ in range(levels - 1):
        if min(x.shape[-2:]) < 4 * TAPS or x.shape[-1] % (2 * LANES) or x.shape[-2] % 2:
            break
        x, y, weight = shrunk(x), shrunk(y), shrunk(weight)
        value = value + pixels(x, y, weight, 0.5)
    return value


def sharpness(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 between the pictures' gradients in both directions: edges as sharp as the filmed ones."""

    def slopes(v: Tensor) -> tuple[Tensor, Tensor]:
        return v[:, :, 1:] - v[:, :, :-1], v[:, 1:] - v[:, :-1]

    value = x.new_zeros(())
    for a, b, w in zip(slopes(x), slopes(y.detach()), (weight[:, 1:], weight[1:]), strict=True):
        value = value + (w * (a - b).abs()).sum() / (len(x) * w.sum()).clamp_min(1e-6)
    return value
