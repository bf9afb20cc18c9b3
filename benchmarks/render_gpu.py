"""`python -m benchmarks.render_gpu [mia leo] [--avatars DIR] [--seconds S]`: frames a second on a GPU, many calls.

One frame of each of 1, 8 and 32 calls in one go: from the voice's codes to I420 in the GPU's memory, and across to
the host. Codes are random, poses and action units the avatar's idle ones. Timed by the wall between synchronised
ends, after one second that does not count. Without CUDA or gsplat it says so in one line and exits with 0.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.figures import percentile, spread, value
from benchmarks.people import AVATARS, PEOPLE, expression

CALLS = (1, 8, 32)
SIDES = (512, 256)


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if an avatar is missing."""
    import sys

    import torch

    from render.avatar import AvatarError
    from render.crowd import Crowd
    from render.person import Person
    from render.raster import gpu

    parser = argparse.ArgumentParser(prog="benchmarks.render_gpu", description="Frames a second on a GPU.")
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="mia, leo")
    parser.add_argument("--avatars", type=Path, default=AVATARS, help="the folder that holds NAME/manifest.json")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    given = parser.parse_args(arguments)
    try:
        gpu.gsplat_kernels()
    except gpu.GpuMissing as error:
        print(json.dumps({"name": "render.gpu", "note": f"not measured: {error}"}), flush=True)
        return 0
    print(json.dumps({"name": "gpu", "device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
    began = time.monotonic()
    gpu.warm()
    value("render.gpu.warm", "s", time.monotonic() - began)
    rng = np.random.default_rng(0)
    for name in given.names or PEOPLE:
        try:
            person = Person.load(given.avatars / name)
        except AvatarError as error:
            print(str(error), file=sys.stderr)
            return 1
        idle = person.avatar.idle
        for side in SIDES:
            crowd = Crowd(person, side)
            for calls in CALLS:
                codes = rng.normal(size=(calls, 8, 2, 32)).astype(np.float32)
                taken: list[float] = []
                until = time.monotonic() + 1 + given.seconds
                while time.monotonic() < until:
                    k = len(taken)
                    shown = [
                        expression(idle.poses[i], idle.action_units[i], np.zeros(2))
                        for i in ((k + 17 * c) % len(idle.poses) for c in range(calls))
                    ]
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                    crowd.i420(codes, shown).cpu()
                    taken.append(1000 * (time.perf_counter() - start))
                counted = taken[int(len(taken) / (1 + given.seconds)) :]
                spread(f"render.gpu.{name}_{side}.{calls}_calls", "ms", counted)
                value(
                    f"render.gpu.{name}_{side}.{calls}_calls.fps", "frames/s", 1000 * calls / percentile(counted, 0.5)
                )
    value("render.gpu.peak", "MB", torch.cuda.max_memory_allocated() / 2**20)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
