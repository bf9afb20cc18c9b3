"""What is handed to gsplat and what is made of its answers, judged by the float64 reference; needs no GPU."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from render.raster import reference
from render.raster.backward import DifferentiableRasteriser
from render.raster.cpu import Background, Cloud, Rasteriser
from render.raster.gaussians import ALPHA_MAX, LowPass
from render.raster.gpu import GpuRasteriser, sorting_key, to_i420, warm
from tests.gpu.kernels import DenseKernels, GsplatProjection, layered
from tests.render.raster import scenes

SIZE = 48
KERNELS = [DenseKernels]
if importlib.util.find_spec("gsplat") is not None:
    KERNELS.append(GsplatProjection)


def scene(n: int = 60, seed: int = 2):
    return replace(scenes.cloud(n, seed, bands=4, pixels=(8, 60)), layers=layered(n))


@pytest.fixture(params=KERNELS, ids=lambda k: k.__name__)
def kernels(request: pytest.FixtureRequest) -> DenseKernels:
    """With our cap of alpha, so that every other difference shows."""
    return request.param(cap=ALPHA_MAX)


@pytest.mark.parametrize("blur", [LowPass(), LowPass.shrunk(2), LowPass(0.5, 0.2)])
def test_a_picture_is_the_references(kernels: DenseKernels, blur: LowPass) -> None:
    camera, gaussians = scenes.looking(SIZE), scene()
    drawn = GpuRasteriser(SIZE, SIZE, "cpu", kernels).forward(camera, gaussians, blur, geometry=True)
    wanted = reference.draw(camera, gaussians, blur)
    assert scenes.psnr(drawn.colour, wanted.colour) > 60
    np.testing.assert_allclose(drawn.transmittance, wanted.transmittance, atol=2e-3)
    np.testing.assert_allclose(drawn.depth, wanted.depth, atol=5e-3)
    np.testing.assert_allclose(drawn.normals, wanted.normals, atol=2e-3)


def test_a_lower_layer_lies_over_a_nearer_splat_of_a_higher_one(kernels: DenseKernels) -> None:
    means = np.array([[0, 0, 0.5], [0, 0, -0.5]], np.float32)  # the first is nearer to the camera at +z
    red_and_blue = np.zeros((2, 1, 3), np.float32)
    red_and_blue[0, 0, 0] = red_and_blue[1, 0, 2] = 1.5
    both = scenes.of(means, np.full((2, 3), 0.5), np.tile([1, 0, 0, 0], (2, 1)), np.full(2, 0.95), red_and_blue)
    middle = SIZE // 2
    rasteriser = GpuRasteriser(SIZE, SIZE, "cpu", kernels)
    plain = rasteriser.forward(scenes.looking(SIZE, 0), both).colour[:, middle, middle]
    swapped = replace(both, layers=np.array([1, 0], np.uint8))
    turned = rasteriser.forward(scenes.looking(SIZE, 0), swapped).colour[:, middle, middle]
    assert plain[0] - plain[2] > 0.3
    assert turned[2] - turned[0] > 0.3


def test_gsplats_own_cap_changes_little() -> None:
    camera, gaussians = scenes.looking(SIZE), scene()
    ours = GpuRasteriser(SIZE, SIZE, "cpu", DenseKernels(ALPHA_MAX)).forward(camera, gaussians)
    theirs = GpuRasteriser(SIZE, SIZE, "cpu", DenseKernels()).forward(camera, gaussians)
    assert np.abs(ours.transmittance - theirs.transmittance).max() <= 0.0101
    assert scenes.psnr(ours.colour, theirs.colour) > 50


def test_gradients_are_the_cpus(kernels: DenseKernels) -> None:
    """Of everything that training asks for, as shares of each gradient's greatest."""
    camera, gaussians = scenes.looking(SIZE), scene(40)
    rng = np.random.default_rng(0)
    feature = rng.random((40, 3)).astype(np.float32)
    of_colour, of_normals, of_feature = (rng.normal(size=(3, SIZE, SIZE)).astype(np.float32) for _ in range(3))
    of_left, of_depth = (rng.normal(size=(SIZE, SIZE)).astype(np.float32) for _ in range(2))
    given = []
    for rasteriser in (DifferentiableRasteriser(SIZE, SIZE), GpuRasteriser(SIZE, SIZE, "cpu", kernels)):
        rasteriser.forward(camera, gaussians, geometry=True, features=[feature])
        given.append(
            rasteriser.backward(of_colour, of_left, depth=of_depth, normals=of_normals, features=[of_feature])
        )
    cpu, gpu = given
    names = ("means", "scales", "rotations", "opacities", "sh", "screen")
    for name in names:
        a, b = getattr(cpu, name), getattr(gpu, name)
        assert np.abs(a - b).max() <= 0.01 * np.abs(a).max(), name
    np.testing.assert_allclose(cpu.features[0], gpu.features[0], atol=0.01 * np.abs(cpu.features[0]).max())


def test_what_is_not_finite_is_hidden(kernels: DenseKernels) -> None:
    camera, gaussians = scenes.looking(SIZE), scene()
    means, scales, opacities = gaussians.means.copy(), gaussians.scales.copy(), gaussians.opacities.copy()
    means[3], scales[8, 1], opacities[20] = np.nan, np.inf, np.nan
    spoilt = replace(gaussians, means=means, scales=scales, opacities=opacities)
    rasteriser = GpuRasteriser(SIZE, SIZE, "cpu", kernels)
    drawn = rasteriser.forward(camera, spoilt)
    assert scenes.psnr(drawn.colour, reference.draw(camera, spoilt).colour) > 60
    gradients = rasteriser.backward(drawn.colour)
    assert all(np.isfinite(getattr(gradients, name)).all() for name in ("means", "scales", "opacities", "sh"))
    assert not gradients.means[3].any()
    assert gradients.means.any()


def test_backward_comes_after_forward_and_knows_what_was_drawn() -> None:
    rasteriser = GpuRasteriser(SIZE, SIZE, "cpu", DenseKernels())
    plane = np.zeros((3, SIZE, SIZE), np.float32)
    with pytest.raises(RuntimeError, match="forward first"):
        rasteriser.backward(plane)
    rasteriser.forward(scenes.looking(SIZE), scene(5))
    with pytest.raises(ValueError, match="not asked for"):
        rasteriser.backward(plane, normals=plane)
    with pytest.raises(ValueError, match="pixels"):
        rasteriser.forward(scenes.looking(SIZE + 2), scene(5))


def test_the_key_sorts_by_layer_then_depth_and_tells_micrometres_apart() -> None:
    depths = torch.tensor([1.1, 1.100002, 90.0, 0.21, 0.3], dtype=torch.float32)
    layers = torch.tensor([0, 0, 0, 1, 2])
    key = sorting_key(depths, layers)
    assert (key[1:] > key[:-1]).all()
    assert (key > 0).all()  # bits of positive floats rise with them
    assert sorting_key(torch.tensor([1.1]) + 2e-6, torch.tensor([2])) > sorting_key(
        torch.tensor([1.1]), torch.tensor([2])
    )


def test_i420_is_the_cpus() -> None:
    rgb = scenes.plain_picture(64, 32)
    gaussians = scenes.cloud(30, 1, pixels=(4, 30))
    rasteriser = Rasteriser(Cloud(gaussians), 64, 32)
    rasteriser.arrange(scenes.looking(64, height=32))
    wanted = rasteriser.i420(Background(rgb))
    planes = rasteriser.planes()
    composite = planes.colour + planes.transmittance * scenes.planes(rgb)
    found = to_i420(torch.tensor(np.stack([composite, composite[:, ::-1].copy()])))
    assert found.shape == (2, 48, 64)
    assert np.abs(found[0].numpy().astype(int) - wanted).max() <= 1
    assert (found[0] != found[1]).any()


def test_warming_runs_forward_and_backward() -> None:
    warm("cpu", DenseKernels())
