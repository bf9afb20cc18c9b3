"""`python -m benchmarks.render [seconds]`: what one frame costs the CPU rasteriser, thread CPU milliseconds.

A synthetic head (benchmarks/heads.py), SH of degree 2, a new pose each frame, 40 % of the points deformed. `frame` is
projection, sorting, blending and I420; motion nets and encoding are not in it. `train` is one picture and its
gradients. `share` compares with the same head without anything that moves, in the same run.
"""

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks import figures, heads
from render.raster import backward, cpu

SIZES = (512, 256)
COUNTS = (20_000, 40_000, 60_000)
MOVING = 0.4


def timed(work: Callable[[int], None], seconds: float) -> list[float]:
    """Milliseconds of this thread's CPU time, run after run, after three that do not count."""
    for k in range(3):
        work(k)
    out: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.thread_time()
        work(len(out))
        out.append((time.thread_time() - began) * 1000)
    return out


def frames(n: int, size: int, seconds: float) -> None:
    cloud = cpu.Cloud(heads.head(n), moving=int(MOVING * n))
    rasteriser, background = cpu.Rasteriser(cloud, size, size), cpu.Background(heads.background(size))
    cameras = [heads.camera(k, size) for k in range(100)]
    deltas = (1e-3 * np.random.default_rng(0).normal(size=(4, cpu.DELTAS, cloud.moving))).astype(np.float32)
    out = np.empty((size * 3 // 2, size), np.uint8)
    arranged: list[float] = []

    def frame(k: int) -> None:
        began = time.thread_time()
        rasteriser.arrange(cameras[k % 100], deltas[k % 4])
        arranged.append((time.thread_time() - began) * 1000)
        rasteriser.i420(background, out)

    name = f"render.raster.{n // 1000}k_{size}"
    whole = timed(frame, seconds)
    figures.spread(f"{name}.frame", "ms", whole)
    figures.spread(f"{name}.arrange", "ms", arranged[3:])
    still = cpu.Rasteriser(cpu.Cloud(heads.head(n)), size, size)

    def rigid(k: int) -> None:
        still.arrange(cameras[k % 100])
        still.i420(background, out)

    rigid_ms = timed(rigid, seconds / 2)
    figures.value(
        f"{name}.share", "of a still head", figures.percentile(whole, 0.5) / figures.percentile(rigid_ms, 0.5)
    )


def training(n: int, size: int, seconds: float) -> None:
    gaussians = heads.head(n, degree=1)
    rasteriser = backward.DifferentiableRasteriser(size, size)
    cameras = [heads.camera(k, size) for k in range(100)]
    gradient = np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32)
    forward_ms: list[float] = []

    def step(k: int) -> None:
        began = time.thread_time()
        rasteriser.forward(cameras[k % 100], gaussians)
        forward_ms.append((time.thread_time() - began) * 1000)
        rasteriser.backward(gradient, gradient[0])

    whole = timed(step, seconds)
    figures.spread(f"train.raster.{n // 1000}k_{size}.forward", "ms", forward_ms[3:])
    figures.spread(f"train.raster.{n // 1000}k_{size}.both", "ms", whole)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    print(json.dumps({"name": "machine", "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}), flush=True)
    began = time.process_time()
    cpu.warm()
    figures.value("render.raster.warm", "CPU s", time.process_time() - began)
    for size in SIZES:
        for n in COUNTS:
            frames(n, size, seconds)
    backward.warm()
    for n in COUNTS[:2]:
        training(n, 512, seconds)


if __name__ == "__main__":
    main()
