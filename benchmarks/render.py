"""`python -m benchmarks.render [--seconds S] [--avatars DIR] [--only faces|raster]`: what a frame costs, CPU ms.

`render.frame_ms` are whole frames of the InsTaG face (benchmarks/faces.py): of Mia and Leo, and of synthetic heads of
20 000 to 60 000 Gaussians. `render.raster` is the rasteriser alone on those heads (benchmarks/heads.py), SH of degree
2, a new pose each frame, 40 % of the points deformed: projection, sorting, blending and I420; `share` compares with
the same head without anything that moves, in the same run. `train` is one picture and its gradients.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

# As the render worker has it (render/remote.py); read when numpy is imported. More threads would wait in loops.
os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import numpy as np

from benchmarks import faces, figures, heads
from render.instag import AVATARS
from render.raster import backward, cpu
from render.raster.project import DELTAS

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


def yardstick() -> None:
    """What this machine does just now with work that never changes: other figures of a run may be divided by it."""
    numbers = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    square = numbers[: 256 * 256].reshape(256, 256)

    def work(_: int) -> None:
        np.sort(numbers)
        for _ in range(8):
            square @ square

    figures.spread("machine.yardstick", "CPU ms", timed(work, 1.0))


def frames(n: int, size: int, seconds: float) -> None:
    cloud = cpu.Cloud(heads.head(n), moving=int(MOVING * n))
    rasteriser, background = cpu.Rasteriser(cloud, size, size), cpu.Background(heads.background(size))
    cameras = [heads.camera(k, size) for k in range(100)]
    deltas = (1e-3 * np.random.default_rng(0).normal(size=(4, DELTAS, cloud.moving))).astype(np.float32)
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
    parser = argparse.ArgumentParser(prog="benchmarks.render", description="What a frame costs.")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--avatars", type=Path, default=AVATARS, help="the folder that holds NAME/manifest.json")
    parser.add_argument("--only", choices=("faces", "raster"))
    given = parser.parse_args()
    seconds: float = given.seconds
    print(json.dumps({"name": "machine", "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}), flush=True)
    began = time.process_time()
    cpu.warm()
    figures.value("render.raster.warm", "CPU s", time.process_time() - began)
    yardstick()
    if given.only != "raster":
        faces.measure(seconds, given.avatars)
        yardstick()
    if given.only == "faces":
        return
    for size in SIZES:
        for n in COUNTS:
            frames(n, size, seconds)
    backward.warm()
    for n in COUNTS[:2]:
        training(n, 512, seconds)


if __name__ == "__main__":
    main()
