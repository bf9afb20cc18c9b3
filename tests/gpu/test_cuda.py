"""On a GPU: gsplat itself against the CPU rasteriser, and many calls at once against each alone."""

import numpy as np
import pytest
import torch

from render.crowd import Crowd
from render.person import Canvas, Person
from render.raster import gpu
from render.raster.backward import DifferentiableRasteriser
from render.raster.gaussians import LowPass
from tests.gpu.test_crowd import asked
from tests.gpu.test_mapping import scene
from tests.render import procedural
from tests.render.raster import scenes

try:
    gpu.gsplat_kernels()
    LACKING = ""
except gpu.GpuMissing as reason:
    LACKING = str(reason)
pytestmark = [pytest.mark.skipif(bool(LACKING), reason=LACKING or "-"), pytest.mark.timeout(900)]

SIZE = 256


@pytest.mark.parametrize("blur", [LowPass(), LowPass.shrunk(2)])
def test_a_picture_is_the_cpus(blur: LowPass) -> None:
    camera, gaussians = scenes.looking(SIZE), scene(3000)
    wanted = DifferentiableRasteriser(SIZE, SIZE).forward(camera, gaussians, blur, geometry=True)
    drawn = gpu.GpuRasteriser(SIZE, SIZE).forward(camera, gaussians, blur, geometry=True)
    assert scenes.psnr(drawn.colour, wanted.colour) > 45  # their caps of alpha differ
    assert np.abs(drawn.transmittance - wanted.transmittance).max() <= 0.02
    assert drawn.depth is not None
    assert wanted.depth is not None
    assert np.abs(drawn.depth - wanted.depth).mean() < 0.01


def test_gradients_are_the_cpus() -> None:
    camera, gaussians = scenes.looking(SIZE), scene(1000)
    of_colour = np.random.default_rng(0).normal(size=(3, SIZE, SIZE)).astype(np.float32)
    given = []
    for rasteriser in (DifferentiableRasteriser(SIZE, SIZE), gpu.GpuRasteriser(SIZE, SIZE)):
        rasteriser.forward(camera, gaussians)
        given.append(rasteriser.backward(of_colour, of_colour[0]))
    for name in ("means", "scales", "rotations", "opacities", "sh", "screen"):
        a, b = (np.asarray(getattr(g, name), np.float64).ravel() for g in given)
        assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.99, name


def test_many_calls_at_once() -> None:
    person = Person(procedural.person())
    codes, shown = asked(person, 8)
    pictures = Crowd(person).i420(codes, shown).cpu().numpy()
    canvas = Canvas(person)
    for k in range(8):
        off = np.abs(pictures[k].astype(int) - canvas.i420(codes[k], shown[k]))
        assert np.quantile(off, 0.99) <= 3
    assert torch.cuda.max_memory_allocated() < 2 << 30
