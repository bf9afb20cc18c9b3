"""Training on a GPU sees what training on a CPU sees; needs no GPU."""

import numpy as np
import torch

from render.raster.gaussians import ALPHA_MAX
from render.train.draw import Painter, Splats
from tests.gpu.kernels import DenseKernels
from tests.gpu.test_mapping import SIZE, scene
from tests.render.raster import scenes

FIELDS = ("means", "scales", "rotations", "opacities", "sh")


def splats() -> Splats:
    g = scene(40)
    leaves = [torch.tensor(getattr(g, name)).requires_grad_() for name in FIELDS]
    assert g.layers is not None
    return Splats(*leaves, torch.tensor(g.layers))


def test_pictures_gradients_and_what_densification_looks_at() -> None:
    camera = scenes.looking(SIZE)
    weights = torch.tensor(np.random.default_rng(0).normal(size=(3, SIZE, SIZE)).astype(np.float32))
    seen = []
    for on_gpu in (False, True):
        painter, s = Painter(SIZE, SIZE), splats()
        painter._kernels = DenseKernels(cap=ALPHA_MAX)
        drawn = painter._on_gpu(camera, s, True) if on_gpu else painter.draw(camera, s, geometry=True)
        assert drawn.depth is not None
        assert drawn.normals is not None
        loss = (
            (drawn.colour * weights).sum()
            + (drawn.transmittance * weights[0]).sum()
            + (drawn.depth * weights[1]).sum()
        )
        (loss + (drawn.normals * weights).sum()).backward()
        assert painter.screen is not None
        gradients = {name: getattr(s, name).grad for name in FIELDS}
        seen.append((drawn, gradients | {"screen": painter.screen}))
    (cpu, of_cpu), (gpu, of_gpu) = seen
    assert scenes.psnr(cpu.colour.detach().numpy(), gpu.colour.detach().numpy()) > 60
    for name, wanted in of_cpu.items():
        assert (of_gpu[name] - wanted).abs().max() <= 0.01 * wanted.abs().max(), name


def test_what_needs_no_gradient_is_drawn_all_the_same() -> None:
    painter, s = Painter(SIZE, SIZE), splats()
    painter._kernels = DenseKernels()
    with torch.no_grad():
        drawn = painter._on_gpu(scenes.looking(SIZE), s, False)
    assert drawn.depth is None
    assert not drawn.colour.requires_grad
