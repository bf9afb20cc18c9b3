"""The CPU rasteriser against the float64 reference, and by itself."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba", reason="numba compiles the CPU rasteriser; it comes with the renderer's extra")

from benchmarks import heads
from render.raster import compiled, cpu, reference
from render.raster.gaussians import SH_C0, Camera, Gaussians, LowPass
from tests.render.raster import scenes
from tests.render.raster.scenes import psnr


def drawn(gaussians: Gaussians, camera: Camera, low_pass: LowPass | None = None) -> cpu.Rasteriser:
    rasteriser = cpu.Rasteriser(cpu.Cloud(gaussians), camera.width, camera.height)
    rasteriser.arrange(camera, low_pass=low_pass)
    return rasteriser


SCENES = {
    "random": lambda: scenes.cloud(6000),
    "head": lambda: heads.head(8000),
    "short needles": lambda: scenes.shape(1500, 20, 0.02, 0.95),
    "long needles": lambda: scenes.shape(150, 150, 0.02, 0.98),
    "blobs": lambda: scenes.shape(60, 40, 40, 0.73),
    "large blobs": lambda: scenes.shape(20, 120, 100, 0.5),
    "dust": lambda: scenes.shape(15000, 0.1, 0.1, 0.98),
}


@pytest.mark.parametrize("size", [512, 256])
@pytest.mark.parametrize("scene", SCENES)
def test_equals_the_reference(scene: str, size: int) -> None:
    gaussians, camera = SCENES[scene](), scenes.looking(size)
    behind = scenes.plain_picture(size, size)
    truth = reference.draw(camera, gaussians)
    assert (truth.transmittance < 0.5).mean() > 0.01  # else there would be little to compare
    rasteriser = drawn(gaussians, camera)
    floats = rasteriser.planes()
    over = truth.over(scenes.planes(behind).astype(np.float64))
    assert psnr(floats.colour + floats.transmittance * scenes.planes(behind), over) >= 60
    assert psnr(scenes.planes(rasteriser.rgb24(cpu.Background(behind))), over) >= 55
    assert psnr(floats.transmittance, truth.transmittance) >= 60


@pytest.mark.parametrize("bands", [1, 4, 9])
def test_harmonics_of_each_degree(bands: int) -> None:
    gaussians, camera = scenes.cloud(1500, bands=bands), scenes.looking(128, turn=0.7)
    floats, truth = drawn(gaussians, camera).planes(), reference.draw(camera, gaussians)
    assert psnr(floats.colour, truth.colour) >= 65
    bald = dataclasses.replace(gaussians, sh=np.ascontiguousarray(gaussians.sh[:, :1]))
    if bands > 1:  # the higher bands do matter here
        assert psnr(floats.colour, drawn(bald, camera).planes().colour) < 40


def test_depth_and_normals() -> None:
    gaussians, camera = heads.head(5000), heads.camera(30, 256)
    truth = reference.draw(camera, gaussians)
    depth, normals = drawn(gaussians, camera).geometry()
    assert np.abs(depth - truth.depth).max() < 0.05 * heads.DISTANCE
    assert np.sqrt(np.mean((depth - truth.depth) ** 2)) < 1e-3
    solid = truth.transmittance < 0.5
    unit = truth.normals / np.maximum(np.linalg.norm(truth.normals, axis=0), 1e-12)
    cosine = (normals * unit).sum(0)[solid]
    assert cosine.min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0)[solid], 1, atol=1e-5)
    toward = -camera.world_to_camera[2, :3]  # world-space direction to the viewer
    assert (np.einsum("chw,c->hw", normals, toward)[solid] > 0).mean() > 0.95


def test_of_two_scales_alike_the_normal_follows_instag() -> None:
    camera = scenes.looking(64, turn=0.9)
    for scales, axis in (((1, 1, 1), 0), ((2, 1, 1), 1), ((1, 2, 1), 0), ((3, 2, 1), 2), ((2, 1, 3), 1)):
        g = scenes.of([[0, 0, 0]], [np.array(scales) * 0.03], [[1, 0, 0, 0]], [0.99], np.zeros((1, 1, 3)))
        _, normals = drawn(g, camera).geometry()
        truth = reference.project(camera, g, LowPass()).normals[0]
        np.testing.assert_allclose(normals[:, 32, 32], truth, atol=1e-5)
        assert np.abs(truth).argmax() == axis


def test_camera_axes_and_pixel_middles() -> None:
    """A dot at x, y, z is seen at focal * x / z + centre, pixel 0's middle being 0.5."""
    matrix = np.eye(3, 4, dtype=np.float32)
    camera = Camera(matrix, (100.0, 120.0), (40.0, 30.0), 80, 60)
    dot = scenes.of([[0.105, -0.175, 1.0]], [[1e-4] * 3], [[1, 0, 0, 0]], [0.9], np.full((1, 1, 3), 0.5 / SH_C0))
    alpha = 1 - drawn(dot, camera).planes().transmittance
    assert np.unravel_index(alpha.argmax(), alpha.shape) == (9, 50)  # at (50.5, 9.0): between rows 8 and 9
    assert alpha[8, 50] == pytest.approx(alpha[9, 50], rel=1e-4)
    assert alpha[9, 49] == pytest.approx(alpha[9, 51], rel=1e-4)
    assert alpha[9, 50] == pytest.approx(0.9 * np.exp(-0.5 * 0.25 / 0.3), rel=1e-3)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (200, 150), (66, 34), (64, 32), (2, 2), (640, 360)])
def test_i420_is_the_rgb_picture(width: int, height: int) -> None:
    """BT.601 limited range of the floats, within rounding, in pictures that tiles do not fill too."""
    camera = scenes.looking(width, height=height)
    rasteriser = drawn(scenes.cloud(1500, pixels=(1, 8)), camera)
    behind = scenes.plain_picture(width, height)
    background = cpu.Background(behind)
    floats = rasteriser.planes()
    rgb = np.clip(floats.colour + floats.transmittance * scenes.planes(behind), 0, 1).astype(np.float64)
    picture = rasteriser.i420(background)
    assert picture.shape == (height * 3 // 2, width)
    luma = 16 + np.einsum("c,chw->hw", [65.481, 128.553, 24.966], rgb)
    small = rgb.reshape(3, height // 2, 2, width // 2, 2).mean((2, 4))
    blue = 128 + np.einsum("c,chw->hw", [-37.797, -74.203, 112], small)
    red = 128 + np.einsum("c,chw->hw", [112, -93.786, -18.214], small)
    got_blue, got_red = picture[height:].reshape(2, height // 2, width // 2)
    for got, wanted in ((picture[:height], luma), (got_blue, blue), (got_red, red)):
        assert np.abs(got - wanted).max() < 0.51
    assert np.abs(rasteriser.rgb24(background) - rgb.transpose(1, 2, 0) * 255).max() < 0.51


def test_no_seam_between_copied_and_painted_tiles() -> None:
    """The faintest splat changes bytes by one at most, and none outside its tile, the only one that is converted."""
    size = 192
    behind = scenes.plain_picture(size, size)
    background = cpu.Background(behind)
    faint = scenes.of([[0, 0, 0]], [[0.1] * 3], [[1, 0, 0, 0]], [1.02 / 255], np.full((1, 1, 3), -9))
    empty = cpu.Rasteriser(cpu.Cloud(scenes.cloud(0)), size, size)
    empty.arrange(scenes.looking(size))
    rasteriser = drawn(faint, scenes.looking(size))
    assert rasteriser.visible == 1
    assert (empty.rgb24(background) == behind).all()
    changed = rasteriser.rgb24(background).astype(int) - behind
    assert np.abs(changed).max() <= 1
    luma = rasteriser.i420(background).astype(int) - empty.i420(background)
    assert np.abs(luma).max() <= 1
    y, x = (
        int(v) // side * side
        for v, side in zip(np.argwhere(changed.any(2))[0], (cpu.TILE_H, cpu.TILE_W), strict=True)
    )
    changed[y : y + cpu.TILE_H, x : x + cpu.TILE_W] = 0
    assert not changed.any()


def test_alpha_and_given_buffers() -> None:
    camera = scenes.looking(200, height=150)
    rasteriser = drawn(scenes.cloud(400, pixels=(1, 8)), camera)
    background = cpu.Background.plain(200, 150, (0, 255, 0))
    alpha, out = np.full((150, 200), 7, np.uint8), np.full((225, 200), 7, np.uint8)
    assert rasteriser.i420(background, out, alpha) is out
    wanted = (1 - rasteriser.planes().transmittance) * 255
    assert np.abs(alpha - wanted).max() < 0.51
    assert (alpha == 0).any()
    assert (alpha > 200).any()
    again = np.empty_like(alpha)
    rasteriser.rgb24(background, alpha=again)
    assert (again == alpha).all()
    for wrong in (
        np.empty((225, 201), np.uint8),
        np.empty((225, 200), np.float32),
        np.empty((225, 400), np.uint8)[:, ::2],
    ):
        with pytest.raises(ValueError, match="contiguous bytes"):
            rasteriser.i420(background, wrong)


def test_lower_layers_lie_over_higher_ones() -> None:
    """Face over mouth over background, as InsTaG composites its two passes, in one pass."""
    face, mouth = scenes.cloud(600, seed=1, pixels=(2, 9)), scenes.cloud(600, seed=2, pixels=(2, 9))
    camera = scenes.looking(256)
    both = Gaussians(
        *(
            np.concatenate([getattr(mouth, f), getattr(face, f)])
            for f in ("means", "scales", "rotations", "opacities", "sh")
        ),
        layers=np.repeat(np.array([1, 0], np.uint8), 600),
    )
    over, under, together = (drawn(g, camera).planes() for g in (face, mouth, both))
    wanted = over.colour + over.transmittance * under.colour
    assert psnr(together.colour, wanted) >= 60
    assert psnr(together.transmittance, over.transmittance * under.transmittance) >= 60
    assert psnr(reference.draw(camera, both).colour, wanted) >= 60
    mixed = drawn(dataclasses.replace(both, layers=None), camera).planes()
    assert psnr(mixed.colour, wanted) < 40  # by depth alone it would be another picture
    many = dataclasses.replace(both, layers=np.arange(1200).astype(np.uint8) % 4)
    assert psnr(drawn(many, camera).planes().colour, reference.draw(camera, many).colour) >= 60


def test_depths_are_told_apart_in_a_deep_scene() -> None:
    """One Gaussian far behind does not coarsen the order of the near ones."""
    near, far = (
        scenes.cloud(2000, pixels=(3, 12)),
        scenes.of([[0, 0, -800]], [[1] * 3], [[1, 0, 0, 0]], [1], np.zeros((1, 9, 3))),
    )
    both = Gaussians(
        *(
            np.concatenate([getattr(near, f), getattr(far, f)])
            for f in ("means", "scales", "rotations", "opacities", "sh")
        )
    )
    camera = scenes.looking(128)
    assert psnr(drawn(both, camera).planes().colour, reference.draw(camera, both).colour) >= 60


def test_more_than_65536_gaussians() -> None:
    gaussians = scenes.cloud(70_000, bands=1, pixels=(0.2, 0.6))
    camera = scenes.looking(128)
    rasteriser = drawn(gaussians, camera)
    assert rasteriser.visible > 65_536
    last = gaussians.means[rasteriser.ids[: rasteriser.visible]]
    depths = (last @ camera.world_to_camera[2, :3] + camera.world_to_camera[2, 3])[
        rasteriser.order[: rasteriser.visible]
    ]
    assert (np.diff(depths) > -1e-5).all()
    a, b = rasteriser.planes(), reference.draw(camera, gaussians)
    assert psnr(a.colour, b.colour) >= 60


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_a_smaller_picture_is_the_large_one_averaged(factor: float) -> None:
    gaussians, camera = heads.head(20_000), heads.camera(7, 512)
    small = 512 // int(factor)

    def averaged(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = (*plane.shape[:-2], small, int(factor), small, int(factor))
        return np.asarray(plane.reshape(shape).mean((-3, -1)), np.float32)

    large = drawn(gaussians, camera).planes()
    wanted = averaged(large.colour + large.transmittance * 0.5)
    alpha = 1 - averaged(large.transmittance)
    head = alpha > 0.5

    def figures(low_pass: LowPass) -> tuple[float, float, float]:
        p = drawn(gaussians, camera.shrunk(factor), low_pass).planes()
        picture = p.colour + p.transmittance * 0.5
        area = float((1 - p.transmittance).sum() / alpha.sum())
        return psnr(picture, wanted), psnr(picture[:, head], wanted[:, head]), area

    whole, on_head, area = figures(LowPass.shrunk(factor))
    assert whole >= 42
    assert on_head >= 40
    assert area == pytest.approx(1, abs=0.003)
    plain, _, plain_area = figures(LowPass())
    assert plain < 36  # without it, and so the test can fail
    assert plain_area > 1.02


def test_compensated_low_pass_equals_the_reference() -> None:
    gaussians, camera = scenes.cloud(2000, pixels=(0.2, 5)), scenes.looking(128)
    for low_pass in (LowPass.shrunk(3), LowPass(0.3, 0.0), LowPass(0.1, 1.0)):
        p, truth = drawn(gaussians, camera, low_pass).planes(), reference.draw(camera, gaussians, low_pass)
        assert psnr(p.colour, truth.colour) >= 60
    assert LowPass.shrunk(1) == LowPass()


def test_deformation() -> None:
    """Deltas do what adding them before the activations does; points beyond `moving` stay."""
    gaussians, camera = scenes.cloud(900, pixels=(1, 8)), scenes.looking(128)
    cloud = cpu.Cloud(gaussians, moving=500)
    assert cloud.moving == 504
    rng = np.random.default_rng(1)
    deltas = (rng.normal(size=(10, 504)) * np.repeat([0.02, 0.3, 0.3], [3, 4, 3])[:, None]).astype(np.float32)
    rasteriser = cpu.Rasteriser(cloud, 128, 128)
    rasteriser.arrange(camera, deltas)
    s = gaussians.scales.astype(np.float64)
    raw = s + np.log(-np.expm1(-s))
    raw[:504] += deltas[7:].T
    means, rotations = gaussians.means.copy(), gaussians.rotations.copy()
    means[:504] += deltas[:3].T
    rotations[:504] += deltas[3:7].T
    moved = scenes.of(means, np.logaddexp(0, raw), rotations, gaussians.opacities, gaussians.sh)
    truth = reference.draw(camera, moved)
    p = rasteriser.planes()
    assert psnr(p.colour, truth.colour) >= 60
    assert psnr(p.colour, reference.draw(camera, gaussians).colour) < 30
    depth, _ = rasteriser.geometry()
    assert np.sqrt(np.mean((depth - truth.depth) ** 2)) < 1e-3
    rasteriser.arrange(camera)  # nothing deformed again
    assert psnr(rasteriser.planes().colour, reference.draw(camera, gaussians).colour) >= 60
    for wrong in (deltas[:, :500], deltas.astype(np.float64), deltas[:9]):
        with pytest.raises(ValueError, match="deltas must be"):
            rasteriser.arrange(camera, wrong)


def test_what_is_not_finite_is_left_out() -> None:
    """NaN, infinity, nonsense and what is behind the camera change nothing of the picture of the rest."""
    good, camera = scenes.cloud(300, pixels=(2, 9)), scenes.looking(128)
    bad = scenes.cloud(100, seed=5, pixels=(2, 9))
    fields = {f: getattr(bad, f).copy() for f in ("means", "scales", "rotations", "opacities", "sh")}
    for k, value in enumerate((np.nan, np.inf, -np.inf)):
        for j, name in enumerate(fields):
            fields[name][5 * k + j] = value
    fields["means"][15:40, 2] = np.linspace(3.5, 60, 25)  # too near, at the camera, behind it
    fields["opacities"][40:60] = np.linspace(-1, 0.99 / 255, 20)
    fields["means"][60:100, 0] = np.where(np.arange(40) % 2, 1, -1) * np.geomspace(5, 3e38, 40)
    both = Gaussians(*(np.concatenate([getattr(good, f), fields[f]]).astype(np.float32) for f in fields))
    alone, together = drawn(good, camera), drawn(both, camera)
    assert together.visible == alone.visible
    assert (together.planes().colour == alone.planes().colour).all()
    truth = reference.draw(camera, dataclasses.replace(good))
    assert psnr(alone.planes().colour, truth.colour) >= 60


def test_degenerate_shapes_equal_the_reference() -> None:
    """Points without extent, planes, lines, quaternions of length zero or a thousand: all are drawn by the rules."""
    g, camera = scenes.cloud(500, pixels=(2, 9)), scenes.looking(128)
    scales, rotations = g.scales.copy(), g.rotations.copy()
    scales[:100] = 0
    scales[100:200, 1:] = 0
    scales[200:300, 0] = 0
    rotations[300:310] = 0
    rotations[310:400] *= 1000
    rotations[400:] *= 1e-5
    odd = dataclasses.replace(g, scales=scales, rotations=rotations)
    assert psnr(drawn(odd, camera).planes().colour, reference.draw(camera, odd).colour) >= 60


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e9])
def test_wild_deformation_does_no_harm(value: float) -> None:
    """The picture stays a picture, and the next one is right."""
    gaussians, camera = scenes.cloud(400, pixels=(2, 9)), scenes.looking(128)
    rasteriser = cpu.Rasteriser(cpu.Cloud(gaussians, moving=400), 128, 128)
    rasteriser.arrange(camera)
    before = rasteriser.planes().colour.copy()
    for row in range(10):
        deltas = np.zeros((10, 400), np.float32)
        deltas[row, ::3] = value
        rasteriser.arrange(camera, deltas)
        p = rasteriser.planes()
        assert np.isfinite(p.colour).all()
        assert p.transmittance.min() >= 0
        assert p.transmittance.max() <= 1
        if not np.isfinite(value):
            assert (p.colour == before).all()  # counts as no deformation
    rasteriser.arrange(camera)
    assert (rasteriser.planes().colour == before).all()


def test_wild_sizes_do_no_harm() -> None:
    """Whatever numbers come: nothing is written outside, nothing that is not a number comes out."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        n = 500
        wild = [
            np.exp(rng.uniform(-80, 80, s)) * rng.choice([-1, 1], s)
            for s in ((n, 3), (n, 3), (n, 4), (n,), (n, 9, 3))
        ]
        wild[1] = np.abs(wild[1])
        if seed % 2:
            wild[0] = rng.uniform(-3, 3.5, (n, 3))  # all around the camera too
            wild[3] = rng.random(n)
        with np.errstate(over="ignore"):
            rasteriser = drawn(scenes.of(*wild), scenes.looking(128))
        p = rasteriser.planes()
        assert np.isfinite(p.transmittance).all()
        assert ((p.transmittance >= 0) & (p.transmittance <= 1)).all()
        rasteriser.i420(cpu.Background.plain(128, 128))


def test_nothing_to_draw() -> None:
    rasteriser = cpu.Rasteriser(cpu.Cloud(scenes.cloud(0)), 64, 32)
    rasteriser.arrange(scenes.looking(64, height=32))
    behind = scenes.plain_picture(64, 32)
    assert (rasteriser.rgb24(cpu.Background(behind)) == behind).all()
    depth, normals = rasteriser.geometry()
    assert not depth.any()
    assert not normals.any()


def test_lists_grow_when_every_splat_covers_the_picture() -> None:
    rasteriser = drawn(scenes.shape(200, 150, 150, 0.02), scenes.looking(512))
    assert rasteriser.offsets[-1] > 4 * 200 + 1024
    truth = reference.draw(scenes.looking(512), scenes.shape(200, 150, 150, 0.02))
    assert psnr(rasteriser.planes().transmittance, truth.transmittance) >= 60


def test_the_same_picture_every_time_and_in_two_threads() -> None:
    """Calls share the cloud, and each has its rasteriser; what one paints does not depend on the other."""
    cloud = cpu.Cloud(heads.head(8000), moving=3000)
    background = cpu.Background(heads.background(256))
    deltas = (1e-3 * np.random.default_rng(0).normal(size=(10, 3000))).astype(np.float32)

    def film(frames: range, out: list[bytes]) -> None:
        rasteriser = cpu.Rasteriser(cloud, 256, 256)
        for k in frames:
            rasteriser.arrange(heads.camera(k, 256), deltas)
            out.append(rasteriser.i420(background).tobytes())

    alone: list[bytes] = []
    film(range(12), alone)
    assert len(set(alone)) == 12
    films: list[list[bytes]] = [[], []]
    threads = [threading.Thread(target=film, args=(range(12), f)) for f in films]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert films == [alone, alone]


def test_each_part_is_seen_by_its_own_camera_and_the_last_may_be_shifted() -> None:
    """As if every part had been moved to where one camera sees it so: in one picture, in one order of depth."""
    parts = [scenes.cloud(n, seed=n) for n in (50, 33, 21)]
    cameras = [scenes.looking(128), scenes.looking(128)]
    turned = np.eye(4)
    angle = 0.2
    turned[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    view = np.eye(4)
    view[:3] = cameras[0].world_to_camera
    cameras.append(dataclasses.replace(cameras[0], world_to_camera=(view @ turned)[:3].astype(np.float32)))
    shift = np.random.default_rng(1).normal(size=(21, 3)).astype(np.float32) * np.float32(0.05)
    shifts = np.zeros((3, 24), np.float32)
    shifts[:, :21] = shift.T
    rasteriser = cpu.Rasteriser(cpu.Cloud(parts), 128, 128)
    rasteriser.arrange(cameras, shifts=shifts)
    several = rasteriser.planes().colour.copy()

    half = angle / 2
    w, x, y, z = parts[2].rotations.T
    c, s = np.cos(half), np.sin(half)
    moved = dataclasses.replace(
        parts[2],
        means=((parts[2].means + shift) @ turned[:3, :3].T).astype(np.float32),
        rotations=np.stack([c * w - s * y, c * x + s * z, c * y + s * w, c * z - s * x], 1).astype(np.float32),
        sh=parts[2].sh[:, :1],
    )
    flat = [dataclasses.replace(p, sh=p.sh[:, :1]) for p in parts]
    joined = dataclasses.replace(
        moved, **{f: np.concatenate([getattr(p, f) for p in [*flat[:2], moved]]) for f in FIELDS}
    )
    plain = [dataclasses.replace(p, sh=p.sh[:, :1]) for p in parts]
    rasteriser = cpu.Rasteriser(cpu.Cloud(plain), 128, 128)
    rasteriser.arrange(cameras, shifts=shifts)
    one = drawn(joined, cameras[0]).planes().colour
    assert psnr(rasteriser.planes().colour, one) > 70
    assert psnr(several, one) < 60  # the colours of the directions, which the plain ones have not


FIELDS = ("means", "scales", "rotations", "opacities", "sh")


def test_wrong_arguments_are_refused() -> None:
    g = scenes.cloud(10)
    rasteriser = cpu.Rasteriser(cpu.Cloud(g), 64, 64)
    with pytest.raises(ValueError, match="64 x 64 are drawn"):
        rasteriser.arrange(scenes.looking(128))
    rasteriser.arrange(scenes.looking(64))
    with pytest.raises(ValueError, match="a background of 128 x 64"):
        rasteriser.rgb24(cpu.Background.plain(128, 64))
    with pytest.raises(ValueError, match="even"):
        cpu.Background(np.zeros((63, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="cannot move"):
        cpu.Cloud(g, moving=11)
    with pytest.raises(ValueError, match="as many spherical harmonics"):
        cpu.Cloud([g, dataclasses.replace(g, sh=g.sh[:, :1])])
    with pytest.raises(ValueError, match="2 cameras for a cloud of 1 part"):
        rasteriser.arrange([scenes.looking(64)] * 2)
    for shape in ((3, 7), (3, 24), (2, 8)):
        with pytest.raises(ValueError, match="shifts must be"):
            rasteriser.arrange(scenes.looking(64), shifts=np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="scales must be"):
        dataclasses.replace(g, scales=g.scales[:5])
    with pytest.raises(ValueError, match="sh must be"):
        dataclasses.replace(g, sh=g.sh[:, :5])
    with pytest.raises(ValueError, match="layers must be"):
        dataclasses.replace(g, layers=np.full(10, 4, np.uint8))
    with pytest.raises(ValueError, match="needs no low-pass"):
        LowPass.shrunk(0.5)
    matrix = np.eye(3, 4, dtype=np.float32)
    matrix[0, 3] = np.nan
    for wrong in (matrix, np.eye(4, dtype=np.float32)):
        with pytest.raises(ValueError, match=r"camera|world_to_camera"):
            Camera(wrong, (64.0, 64.0), (32.0, 32.0), 64, 64)
    with pytest.raises(ValueError, match="cannot be drawn"):
        Camera(np.eye(3, 4, dtype=np.float32), (64.0, 64.0), (32.0, 32.0), 0, 64)


LATER = """
import json
from numba.core.dispatcher import Dispatcher
from render.raster import cpu, project, shapes, tiles
cpu.warm()
found = {**vars(project), **vars(shapes), **vars(tiles)}
kernels = {name: k for name, k in found.items() if isinstance(k, Dispatcher)}
def variants(): return {name: len(k.signatures) for name, k in kernels.items()}
after_warm = variants()
from tests.render.raster.scenes import *
import numpy as np
for layers in (None, np.zeros(50, np.uint8)):
    for bands, moving in ((1, 0), (4, 50), (9, 11)):
        g = cloud(50, bands=bands)
        import dataclasses
        c = cpu.Cloud(dataclasses.replace(g, layers=layers), moving=moving)
        for size in (64, 130):
            r = cpu.Rasteriser(c, size, size)
            for deltas in (None, np.zeros((10, c.moving), np.float32)):
                r.arrange(looking(size), deltas, cpu.LowPass.shrunk(2) if size == 64 else None)
                b = cpu.Background(plain_picture(size, size))
                alpha = np.zeros((size, size), np.uint8)
                r.i420(b); r.i420(b, np.zeros((size * 3 // 2, size), np.uint8), alpha); r.rgb24(b, alpha=alpha)
                r.planes(); r.geometry()
misses = {name: sum(k.stats.cache_misses.values()) for name, k in kernels.items()}
import sys
print(json.dumps({"same": variants() == after_warm, "kernels": len(kernels), "misses": misses,
    "training": "render.raster.backward" in sys.modules, "torch": "torch" in sys.modules}))
"""


def test_warm_compiles_all_that_a_frame_needs_and_keeps_it() -> None:
    """Once warmed, a process never compiles, and a second process compiles nothing at all."""
    cpu.warm()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(compiled.FOLDER.parent)}
    done = subprocess.run(
        [sys.executable, "-c", LATER], capture_output=True, text=True, env=environment, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"]
    assert found["kernels"] > 8
    called = {name: n for name, n in found["misses"].items() if name not in _inlined()}
    assert not any(called.values()), called
    assert not found["training"]
    assert not found["torch"]


def _inlined() -> set[str]:
    """Pieces pasted into other kernels, which have no code of their own."""
    return {"corners", "rows_of", "composite", "copy_tile", "shortest", "axis_of"}


def test_an_edit_in_any_source_means_new_kernels(tmp_path: Path) -> None:
    """numba alone would go on with the old ones after an edit in simd.py."""
    sources = tmp_path / "raster"
    shutil.copytree(Path(cpu.__file__).parent, sources, ignore=shutil.ignore_patterns("__pycache__"))
    before = compiled.folder(sources)
    assert before == compiled.folder(sources)
    assert before == compiled.FOLDER
    with (sources / "simd.py").open("a") as file:
        file.write("# edited\n")
    assert compiled.folder(sources) != before
