"""`python -m benchmarks.motion`: one frame of the motion fields, CPU ms on one thread, against the plain torch path.

Random nets and points, all of them moving, AVE features, 3,000 mouth points beside those of the face. The plain path
asks grids and attentions anew in each frame; ratios are within this run. Needs torch and numba, and
OMP_NUM_THREADS=1 for the numpy reference to stay on one thread.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.figures import percentile, spread, value
from render.avatar import AudioFeature
from render.motion.bake import bake
from render.motion.networks import HeadMotion
from render.motion.tables import WINDOW

MOUTH_POINTS = 3000


def cpu_ms(work: Callable[[], object], rounds: int) -> list[float]:
    """CPU time of each round, after one that is not counted."""
    work()
    out = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        out.append(1000 * (time.process_time() - start))
    return out


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    feature = AudioFeature(name="ave", width=512)
    random = np.random.default_rng(0)
    head = HeadMotion(feature)
    features = random.normal(size=(WINDOW, feature.width, feature.steps)).astype(np.float32)
    action_units = random.uniform(0, 3, 6).astype(np.float32)
    for points in (20_000, 40_000):
        face, mouth = (random.uniform(-0.1, 0.1, (n, 3)).astype(np.float32) for n in (points, MOUTH_POINTS))
        baked = bake(head.tensors(), feature, face, mouth)
        codes = baked.codes(features)
        tensors = [torch.from_numpy(array) for array in (face, mouth, features, action_units)]
        out = baked.frame(codes, action_units)

        def frame() -> None:
            codes[-1] = baked.codes(features[-1:])[0]  # noqa: B023 (called at once)
            baked.frame(codes, action_units, out)  # noqa: B023

        quick = cpu_ms(frame, 40)
        reference = cpu_ms(lambda: baked.reference(codes, action_units), 5)  # noqa: B023
        plain = cpu_ms(lambda: head(*tensors), 5)  # noqa: B023
        size = f"motion.{points // 1000}k"
        spread(f"{size}.frame_cpu_ms", "ms", quick)
        spread(f"{size}.numpy_cpu_ms", "ms", reference)
        spread(f"{size}.torch_cpu_ms", "ms", plain)
        value(f"{size}.times_torch", "ratio", percentile(plain, 0.5) / percentile(quick, 0.5))


if __name__ == "__main__":
    main()
