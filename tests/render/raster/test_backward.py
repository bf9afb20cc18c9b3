"""The gradients against central differences of the float64 reference, its decisions held."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba compiles the CPU rasteriser; it comes with the renderer's extra")

from benchmarks import heads
from render.raster import reference
from render.raster.backward import DifferentiableRasteriser, Gradients
from render.raster.gaussians import Camera, Floats, Gaussians, LowPass
from tests.render.raster import scenes

Array = np.ndarray[Any, np.dtype[np.float64]]
FIELDS = ("means", "scales", "rotations", "opacities", "sh")
STEPS = {"means": 2e-8, "scales": 2e-8, "rotations": 1e-6, "opacities": 1e-6, "sh": 1e-6}


def scene(seed: int, bands: int) -> tuple[Camera, Gaussians]:
    """Sixty splats of a pixel to a third of the picture; tiles overlap, and the last ones are not full."""
    rng = np.random.default_rng(seed)
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.diag([1.0, -1, -1])
    matrix = np.concatenate([turn, [[0.002], [-0.003], [1.1]]], 1).astype(np.float32)
    camera = Camera(matrix, (800.0, 820.0), (56.0, 36.0), 112, 72)
    gaussians = scenes.of(
        rng.uniform(-1, 1, (60, 3)) * [0.06, 0.03, 0.06],
        np.exp(rng.uniform(np.log(0.001), np.log(0.02), (60, 3))),
        rng.normal(size=(60, 4)),
        1 / (1 + np.exp(-rng.normal(0, 1.5, 60))),
        rng.normal(size=(60, bands, 3)) * 0.3,
    )
    return camera, gaussians


def differences(
    value: Array, step: float, loss: Callable[[Array], float], rng: np.random.Generator, count: int = 24
) -> tuple[Any, Array]:
    """Some entries of an array, and the central differences of the loss by them."""
    chosen = rng.choice(value.size, min(count, value.size), replace=False)
    out = []
    for j in chosen:
        up, down = value.copy(), value.copy()
        up.flat[j] += step
        down.flat[j] -= step
        out.append((loss(up) - loss(down)) / (2 * step))
    return chosen, np.array(out)


def agree(found: Floats, chosen: Any, wanted: Array) -> None:
    assert np.abs(wanted).max() > 0
    assert np.abs(found.flat[chosen] - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("seed", "bands", "low_pass"),
    [(0, 9, LowPass()), (1, 4, LowPass.shrunk(2)), (2, 1, LowPass(0.3, 0.05))],
    ids=["SH2", "SH1 shrunk", "SH0 compensated"],
)
def test_gradients_equal_central_differences(seed: int, bands: int, low_pass: LowPass) -> None:
    """Colour, transmittance, depth and normals together, by everything that they depend on."""
    camera, gaussians = scene(seed, bands)
    rng = np.random.default_rng(5)
    feature = rng.normal(size=(len(gaussians), 3)).astype(np.float32)
    rasteriser = DifferentiableRasteriser(camera.width, camera.height)
    drawn = rasteriser.forward(camera, gaussians, low_pass, geometry=True, features=[feature])
    assert drawn.depth is not None
    assert drawn.normals is not None
    held = reference.Decisions()
    truth = reference.draw(camera, gaussians, low_pass, stop=0, keep=held)
    pairs = (
        (drawn.colour, truth.colour),
        (drawn.transmittance, truth.transmittance),
        (drawn.depth, truth.depth),
        (drawn.normals, truth.normals),
    )
    for got, wanted in pairs:
        assert np.abs(got - wanted).max() < 5e-5
    weights = [rng.normal(size=got.shape).astype(np.float32) for got, _ in pairs]
    by_feature = rng.normal(size=drawn.features[0].shape).astype(np.float32)

    def loss(changed: Gaussians) -> float:
        p = reference.draw(camera, changed, low_pass, stop=0, held=held)
        parts = zip((p.colour, p.transmittance, p.depth, p.normals), weights, strict=True)
        return float(sum((a * w.astype(np.float64)).sum() for a, w in parts))

    colour, transmittance, depth, normals = weights
    found = rasteriser.backward(colour, transmittance, depth=depth, normals=normals)
    for name in FIELDS:
        value = getattr(gaussians, name).astype(np.float64)
        chosen, wanted = differences(
            value, STEPS[name], lambda v, name=name: loss(dataclasses.replace(gaussians, **{name: v})), rng
        )
        agree(getattr(found, name), chosen, wanted)

    # A feature is blended like a colour: by the same weights, of which a picture of constant colours tells the sum.
    with_feature = rasteriser.backward(np.zeros_like(colour), features=[by_feature])
    flat = dataclasses.replace(
        gaussians, sh=((feature.astype(np.float64) - 0.5 + 10) / reference.SH_C0)[:, None, :].astype(np.float64)
    )

    def of_feature(changed: Gaussians) -> float:  # the 10 keeps colours above the clip at 0, and is taken off again
        p = reference.draw(camera, changed, low_pass, stop=0, held=held)
        blended = p.colour - 10 * (1 - p.transmittance)
        return float((blended * by_feature.astype(np.float64)).sum())

    assert of_feature(flat) == pytest.approx(float((drawn.features[0] * by_feature).sum()), abs=2e-2)
    for name in ("means", "scales", "opacities"):
        value = getattr(gaussians, name).astype(np.float64)
        chosen, wanted = differences(
            value, STEPS[name], lambda v, name=name: of_feature(dataclasses.replace(flat, **{name: v})), rng
        )
        agree(getattr(with_feature, name), chosen, wanted)
    chosen, wanted = differences(
        flat.sh[:, 0], 1e-6, lambda v: of_feature(dataclasses.replace(flat, sh=v[:, None, :])), rng
    )
    agree(with_feature.features[0], chosen, wanted / reference.SH_C0)


def test_gradients_of_the_deformation() -> None:
    """By what a motion net adds: to the mean, to the quaternion, and to the scales before softplus."""
    camera, gaussians = scene(3, 4)
    rng = np.random.default_rng(0)
    rasteriser = DifferentiableRasteriser(camera.width, camera.height)
    rasteriser.forward(camera, gaussians)
    held = reference.Decisions()
    reference.draw(camera, gaussians, stop=0, keep=held)
    weight = rng.normal(size=(3, camera.height, camera.width)).astype(np.float32)
    found = rasteriser.backward(weight).of_deltas(gaussians.scales)
    scales = gaussians.scales.astype(np.float64)
    raw = scales + np.log(-np.expm1(-scales))

    def loss(deltas: Array) -> float:
        moved = dataclasses.replace(
            gaussians,
            means=gaussians.means + deltas[:3].T,
            rotations=gaussians.rotations + deltas[3:7].T,
            scales=np.logaddexp(0, raw + deltas[7:].T),
        )
        picture = reference.draw(camera, moved, stop=0, held=held)
        return float((picture.colour * weight.astype(np.float64)).sum())

    assert found.shape == (10, len(gaussians))
    for rows, step in ((slice(0, 3), 2e-8), (slice(3, 7), 1e-6), (slice(7, 10), 1e-6)):

        def part(value: Array, rows: slice = rows) -> float:
            deltas = np.zeros((10, len(gaussians)))
            deltas[rows] = value
            return loss(deltas)

        chosen, wanted = differences(np.zeros_like(found[rows], np.float64), step, part, rng)
        agree(found[rows], chosen, wanted)


def test_layers_and_the_screen() -> None:
    camera, gaussians = scene(4, 1)
    layered = dataclasses.replace(gaussians, layers=(np.arange(60) % 2).astype(np.uint8))
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, camera.height, camera.width)).astype(np.float32)
    rasteriser = DifferentiableRasteriser(camera.width, camera.height)
    rasteriser.forward(camera, layered)
    found = rasteriser.backward(weight)
    held = reference.Decisions()
    reference.draw(camera, layered, stop=0, keep=held)

    def loss(changed: Gaussians, view: Camera = camera) -> float:
        picture = reference.draw(view, changed, stop=0, held=held)
        return float((picture.colour * weight.astype(np.float64)).sum())

    chosen, wanted = differences(
        layered.opacities.astype(np.float64), 1e-6, lambda v: loss(dataclasses.replace(layered, opacities=v)), rng
    )
    agree(found.opacities, chosen, wanted)
    # Moving the picture's centre moves every splat on the screen alike: the sum over all of them.
    for axis in range(2):

        def shifted(by: float, axis: int = axis) -> float:
            centre = tuple(c + by * (k == axis) for k, c in enumerate(camera.centre))
            return loss(layered, dataclasses.replace(camera, centre=centre))

        wanted_sum = (shifted(1e-6) - shifted(-1e-6)) / 2e-6
        assert found.screen[:, axis].sum() == pytest.approx(wanted_sum, rel=1e-4)


def test_what_is_capped_or_unseen_has_no_gradient() -> None:
    camera = scenes.looking(64)
    g = scenes.of(
        [[0, 0, 0], [0, 0, 50], [0, 9, 0], [0, 0, -0.2]],
        [[0.5] * 3] * 4,
        [[1, 0, 0, 0]] * 4,
        [1.0, 0.5, 0.5, 0.5],
        np.zeros((4, 1, 3)),
    )
    g = dataclasses.replace(g, scales=g.scales * np.array([[1e4], [1], [0.01], [1]], np.float32))
    rasteriser = DifferentiableRasteriser(64, 64)
    rasteriser.forward(camera, g)
    found = rasteriser.backward(np.ones((3, 64, 64), np.float32), np.ones((64, 64), np.float32))
    assert (found.opacities[:3] == 0).all()  # capped everywhere; behind the camera; beside the picture
    assert found.opacities[3] != 0
    assert (found.means[:3] == 0).all()
    assert found.sh[0, 0, 0] > 0  # its colour still counts


def test_a_step_against_the_gradient_lowers_the_loss() -> None:
    """At full size: a head towards another one's picture."""
    camera = heads.camera(0, 192)
    target = DifferentiableRasteriser(192, 192).forward(camera, heads.head(3000, seed=1, degree=1)).colour
    g = heads.head(3000, seed=0, degree=1)
    rasteriser = DifferentiableRasteriser(192, 192)

    def loss(changed: Gaussians) -> tuple[float, Gradients]:
        error = rasteriser.forward(camera, changed).colour - target
        return float((error.astype(np.float64) ** 2).sum() / 2), rasteriser.backward(error)

    before, slope = loss(g)
    for name in FIELDS:
        gradient = getattr(slope, name).astype(np.float64)
        step = 1e-4 * before / (gradient**2).sum()  # should lower the loss by a ten-thousandth
        moved = dataclasses.replace(g, **{name: (getattr(g, name) - step * gradient).astype(np.float32)})
        after, _ = loss(moved)
        assert 0.5e-4 < 1 - after / before < 1.5e-4, name


def test_the_same_gradients_every_time_and_the_number_may_change() -> None:
    """Training adds and removes Gaussians between steps."""
    camera = heads.camera(3, 128)
    weight = np.random.default_rng(0).normal(size=(3, 128, 128)).astype(np.float32)
    rasteriser = DifferentiableRasteriser(128, 128)

    def gradients(n: int) -> bytes:
        rasteriser.forward(camera, heads.head(n, degree=1))
        found = rasteriser.backward(weight)
        return b"".join(getattr(found, f).tobytes() for f in FIELDS)

    first = gradients(1500)
    gradients(2500)
    assert gradients(1500) == first


def test_wrong_calls_are_refused() -> None:
    rasteriser = DifferentiableRasteriser(64, 64)
    zero = np.zeros((3, 64, 64), np.float32)
    with pytest.raises(RuntimeError, match="call forward first"):
        rasteriser.backward(zero)
    g = scenes.cloud(5)
    rasteriser.forward(scenes.looking(64), g)
    with pytest.raises(ValueError, match="not asked for"):
        rasteriser.backward(zero, depth=zero[0])
    with pytest.raises(ValueError, match="not asked for"):
        rasteriser.backward(zero, features=[zero])
    with pytest.raises(ValueError, match="features must be"):
        rasteriser.forward(scenes.looking(64), g, features=[np.zeros((4, 3), np.float32)])
