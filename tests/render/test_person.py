"""A person painted: in one pass what the layers give one by one, gaze, torso, smaller sizes, mattes, plates."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("numba", reason="numba paints the InsTaG face; it comes with the instag extra")

from render.avatar import Avatar
from render.expression import Bearing
from render.motion.bake import bake
from render.motion.baked import settle
from render.motion.gaze import turn, turn_matrices
from render.person import Canvas, Expression, Person, backdrop, covering
from render.raster import reference
from render.raster.gaussians import Camera, Gaussians
from server.core.errors import VisavisError
from tests.render import procedural
from tests.render.procedural import BACKGROUND, EYES, SIDE

SMALL = {"faces": 300, "side": 64}
CODES = (0.5 * np.random.default_rng(3).normal(size=(8, 2, 32))).astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray, most: float = 1.0) -> float:
    return float(10 * np.log10(most**2 / max(np.mean((a.astype(np.float64) - b) ** 2), 1e-12)))


def at_rest(person: Person, **other: Any) -> Expression:
    return Expression(person.rest_pose, person.avatar.idle.action_units[0], **other)


def activated(layer: Any, means: np.ndarray, **more: Any) -> dict[str, np.ndarray]:
    fields = {
        "means": means,
        "scales": np.logaddexp(0, layer.scale),
        "rotations": layer.rotation,
        "opacities": 1 / (1 + np.exp(-layer.opacity)),
        "sh": layer.sh,
    }
    return {name: np.asarray(more.get(name, value), np.float32) for name, value in fields.items()}


def truth(avatar: Avatar, codes: np.ndarray, e: Expression) -> tuple[np.ndarray, np.ndarray]:
    """The same frame slowly: three pictures in float64, composited; (3, H, W) premultiplied and transmittance."""
    baked = bake(avatar.motion, avatar.audio, avatar.face.xyz, avatar.mouth.xyz)
    moved = baked.reference(codes, e.action_units)
    face, mouth = avatar.face, avatar.mouth
    xyz = face.xyz + moved.face[:3].T
    rotations = face.rotation + moved.face[3:7].T
    scales = np.logaddexp(0, face.scale + moved.face[7:].T)
    assert avatar.eyeballs is not None
    rotation, spin = turn_matrices(*e.gaze)
    sh = face.sh.copy()
    for k, centre in enumerate(avatar.eyeballs.centres):
        own = avatar.eyeballs.index == k + 1
        xyz[own], rotations[own] = turn(face.xyz[own], face.rotation[own], centre, rotation, spin)
        scales[own] = np.logaddexp(0, face.scale[own])
        # Band 1 turned along with the eyeball: -y z -x are its polynomials.
        x, y, z = -sh[own, 3], -sh[own, 1], sh[own, 2]
        x, y, z = np.einsum("ij,jnc->inc", rotation, np.stack([x, y, z]))
        sh[own, 1], sh[own, 2], sh[own, 3] = -y, z, -x
    size, f = avatar.width, avatar.camera.focal_px
    looking = Camera(e.pose[:3].astype(np.float32), (f, f), (avatar.camera.cx, avatar.camera.cy), size, size)
    layers = [
        (Gaussians(**activated(face, xyz, rotations=rotations, scales=scales, sh=sh)), looking),
        (Gaussians(**activated(mouth, mouth.xyz + moved.mouth.T)), looking),
    ]
    if avatar.torso is not None:
        at = avatar.torso.at(avatar.torso.drive(e.pose, e.sway, e.breath))
        still = dataclasses.replace(looking, world_to_camera=np.eye(3, 4, dtype=np.float32))
        layers.append((Gaussians(**activated(avatar.torso.gaussians, at)), still))
    colour, through = np.zeros((3, size, size)), np.ones((size, size))
    for gaussians, camera in layers:
        drawn = reference.draw(camera, gaussians)
        colour += through * drawn.colour
        through = through * drawn.transmittance
    return colour, through


def test_one_pass_is_the_layers_one_over_the_other() -> None:
    avatar = procedural.person(**SMALL)
    person = Person(avatar)
    pose = person.rest_pose.copy()
    pose[:3, 3] += [0.01, -0.005, 0.02]
    e = Expression(pose, avatar.idle.action_units[31], (0.2, -0.1), (0.5, -1.0), 0.7)
    planes = Canvas(person).planes(CODES, e)
    colour, through = truth(avatar, CODES, e)
    assert psnr(planes.colour, colour) >= 55
    assert psnr(planes.transmittance, through) >= 55
    straight = truth(avatar, CODES, dataclasses.replace(e, gaze=(0.0, 0.0)))[0]
    assert psnr(planes.colour, straight) < 45  # so the eyes do turn
    assert psnr(planes.colour, truth(avatar, CODES, dataclasses.replace(e, breath=-1.0))[0]) < 50
    assert psnr(planes.colour, truth(avatar, -CODES, e)[0]) < 50


def test_a_baked_person_with_points_held_still_looks_the_same() -> None:
    avatar = procedural.person(**SMALL)
    plain = Person(avatar)
    e = at_rest(plain)
    drive = [(CODES * k, avatar.idle.action_units[i]) for k in (0.9, 1.0, 1.1) for i in (0, 20, 31)]
    baked = bake(avatar.motion, avatar.audio, avatar.face.xyz, avatar.mouth.xyz)
    settled = settle(baked, avatar.face.scale, avatar.face.rotation, drive, still_m=4e-4)
    assert len(settled.still) > 50
    folded = Person(dataclasses.replace(avatar, baked=settled.arrays()))
    assert folded.cloud.moving < plain.cloud.moving
    a, b = Canvas(plain).planes(CODES, e).colour, Canvas(folded).planes(CODES, e).colour
    assert psnr(a, b) > 35
    assert not np.array_equal(a, b)


def test_eyes_follow_the_gaze_and_nothing_else_does() -> None:
    person = Person(procedural.person())
    canvas = Canvas(person)
    ahead = canvas.i420(CODES, at_rest(person)).copy()
    right = canvas.i420(CODES, at_rest(person, gaze=(0.3, 0.0))).copy()
    changed = np.argwhere(np.abs(ahead[:SIDE].astype(int) - right[:SIDE]) > 8)
    eyes = EYES @ person.rest_pose[:3, :3].T + person.rest_pose[:3, 3]
    places = eyes[:, :2] / eyes[:, 2:] * 3.3 * SIDE + SIDE / 2
    away = np.abs(changed[:, ::-1, None] - places.T[None]).max(1).min(1)
    assert len(changed) > 20
    assert away.max() < 20
    dark = [np.argwhere(p[:SIDE] < 70) for p in (ahead, right)]
    near = [d[(np.abs(d[:, ::-1] - places[1]).max(1) < 16)] for d in dark]
    assert near[1][:, 1].mean() > near[0][:, 1].mean() + 1  # the iris has gone to the picture's right


def test_a_smaller_picture_is_the_mean_of_the_large_one() -> None:
    person = Person(procedural.person())
    e = at_rest(person)
    large = Canvas(person).planes(CODES, e)
    whole = large.colour + large.transmittance * 0.5
    boxed = whole.reshape(3, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4))
    small = Canvas(person, SIDE // 2).planes(CODES, e)
    assert psnr(small.colour + small.transmittance * 0.5, boxed) >= 38


@pytest.mark.parametrize("plates", [0, 4])
def test_behind_the_person_is_what_was_asked_for(plates: int) -> None:
    person = Person(procedural.person(torso=not plates, plates=plates))
    e = at_rest(person)
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    own = cv2.cvtColor(Canvas(person).i420(CODES, e, alpha=alpha), cv2.COLOR_YUV2RGB_I420)
    assert np.abs(own[5, 5].astype(int) - BACKGROUND).max() <= 3  # what a colour patch may be off by
    assert np.abs(own[5, -5].astype(int) - BACKGROUND).max() <= 3
    assert alpha[5, 5] == 0
    assert alpha[SIDE // 2, SIDE // 2] == 255
    assert alpha[-3, SIDE // 2] > 200  # the torso, Gaussians or a picture
    green = cv2.cvtColor(
        Canvas(person, background=backdrop("#00ff00")).i420(CODES, e), cv2.COLOR_YUV2RGB_I420
    ).astype(int)
    assert np.abs(green[5, 5] - (0, 255, 0)).max() <= 3
    inside = cv2.erode(alpha, np.ones((5, 5), np.uint8)) == 255  # colours are halved: neighbours share them
    assert np.abs(green - own)[inside].max() <= 6
    cut = Canvas(person).rgba(CODES, e)
    assert np.abs(cut[:, :, 3].astype(int) - alpha).max() <= 1
    over = cut[:, :, :3] * (cut[:, :, 3:] / 255) + np.array(BACKGROUND) * (1 - cut[:, :, 3:] / 255)
    assert psnr(over[::2, ::2], own[::2, ::2], 255) > 33  # chroma is halved in one of them


def test_the_picture_of_the_torso_goes_with_the_pose() -> None:
    person = Person(procedural.person(torso=False, eyes=False, plates=4))
    canvas = Canvas(person)
    seen = set()
    for pose in person.avatar.plates.poses.astype(np.float64):
        rgb = cv2.cvtColor(canvas.i420(CODES, Expression(pose, np.zeros(6, np.float32))), cv2.COLOR_YUV2RGB_I420)
        seen.add(round(int(rgb[-3, SIDE // 2, 0]) / 40))
    assert seen == {0, 1, 2, 3}
    poses = [Bearing(person, 1).at(k, 0.0).pose for k in range(0, 100, 7)]
    known = person.avatar.idle.poses
    assert all(min(np.abs(known - p).max((1, 2))) < 1e-6 for p in poses)  # only such as there are pictures for


def test_backgrounds_are_understood_or_refused(tmp_path: Any) -> None:
    assert backdrop("") is None
    for wrong in ("#12345", "#gggggg", str(tmp_path / "none.png"), str(tmp_path)):
        with pytest.raises(VisavisError, match=r"#rrggbb"):
            backdrop(wrong)
    (tmp_path / "text.png").write_bytes(b"nothing")
    with pytest.raises(VisavisError):
        backdrop(str(tmp_path / "text.png"))
    path = tmp_path / "wide.png"
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = (255, 0, 0)
    cv2.imwrite(str(path), picture[:, :, ::-1])
    shown = backdrop(str(path))
    assert shown is not None
    covered = covering(shown, 64, 64)
    assert covered.shape == (64, 64, 3)
    assert (covered[:, 4:-4] == (255, 0, 0)).all()  # its middle
    with pytest.raises(ValueError, match="16 to 256 pixels wide"):
        Canvas(Person(procedural.person()), 512)


def test_two_calls_share_the_person_and_not_the_frame() -> None:
    person = Person(procedural.person(**SMALL))
    one, other = Canvas(person), Canvas(person)
    alone = one.i420(CODES, at_rest(person)).copy()
    other.i420(-CODES, at_rest(person, breath=1.0))
    assert np.array_equal(one.i420(CODES, at_rest(person)), alone)
    assert one._rasteriser.cloud is other._rasteriser.cloud


def test_expressions_keep_to_the_person_and_never_repeat() -> None:
    person = Person(procedural.person())
    bearing = Bearing(person, 4)
    frames = [bearing.at(k, 0.0) for k in range(1500)]
    low, high = person.avatar.idle.action_units.min(0), person.avatar.idle.action_units.max(0)
    units = np.array([e.action_units for e in frames])
    assert (units >= low - 0.5).all()
    assert (units <= high + 0.01).all()
    closed = units[:, 5] > 1.5
    blinks = int((np.diff(closed.astype(int)) == 1).sum())
    assert 8 <= blinks <= 40  # in a minute
    turns = np.array([e.pose[:3, :3] @ person.rest_pose[:3, :3].T for e in frames])
    angles = np.degrees(np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert 0.5 < angles.max() < 8
    steps = np.abs(np.diff(np.array([e.pose[:3, 3] for e in frames]), axis=0)).max()
    assert steps < 0.001  # metres a frame
    gaze = np.array([e.gaze for e in frames])
    assert len(np.unique(np.round(gaze[:, 0], 3))) > 20
    seen = np.array([e.pose.ravel() for e in frames])
    assert min(np.abs(seen[500:1000] - seen[:500]).max(1)) > 1e-5
    assert all(-1 <= e.breath <= 1 for e in frames)
    again = Bearing(person, 4)
    assert np.array_equal(again.at(0, 0.0).pose, frames[0].pose)
    assert not np.array_equal(Bearing(person, 5).at(0, 0.0).pose, frames[0].pose)


def test_who_listens_nods() -> None:
    person = Person(procedural.person())
    still, listening = Bearing(person, 2), Bearing(person, 2)
    listening.attend(True)
    pitch = np.array([[b.at(k, 0.0).pose[2, 1] for b in (still, listening)] for k in range(300)])
    nods = np.degrees(np.abs(pitch[:, 1] - pitch[:, 0]))
    assert nods[:20].max() < 0.3
    assert nods[40:].max() > 0.8
    assert np.abs(np.diff(nods)).max() < 0.9  # smoothly
