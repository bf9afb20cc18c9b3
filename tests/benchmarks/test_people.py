"""How the shipped faces are judged: the benchmark's own steps, on people and voices that are made up."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import people, spoken
from benchmarks.people import Said
from benchmarks.spoken import RATE, Spoken
from benchmarks.truth import FACE, HAIR, MOUTH, NECK, TURN, Clip, Missing, Moment, Picture, moment
from render.avatar import ACTION_UNITS
from render.person import Person
from tests.render import procedural

FOCAL, CENTRE = 1681.0, 256.0


def utterance(
    family: str = "flite", voice: str = "kal16", phones: tuple[Any, ...] = (), seconds: float = 4
) -> Spoken:
    return Spoken(family, voice, "text", np.zeros(round(seconds * RATE), np.float32), tuple(phones))


# Closures and lips


def test_closures_over_families_and_the_usual_opening() -> None:
    """Open at 10, closed at 1 (10 %) where flite has its p and at 2 (20 %) where a person has his."""
    phones = (("", 0.0, 0.4), ("a", 0.4, 1.0), ("p", 1.0, 1.08), ("a", 1.08, 3.6), ("", 3.6, 4.0))
    curve = np.full(100, 10.0)
    curve[:10] = curve[90:] = 0
    good, bad = curve.copy(), curve.copy()
    good[26], bad[26] = 1.0, 2.0
    share, families, usual, count = people.closures(
        [(utterance("flite", phones=phones), good), (utterance("human", phones=phones), bad)]
    )
    assert usual == 10
    assert families == {"flite": 1.0, "human": 0.0}
    assert (share, count) == (0.5, 2)


def test_a_mouth_that_never_opens_closes_nothing() -> None:
    phones = (("a", 0.4, 1.0), ("b", 1.0, 1.1))
    share, _, usual, count = people.closures([(utterance(phones=phones), np.zeros(100))])
    assert (share, usual, count) == (0.0, 0.0, 1)


def test_only_voices_that_nothing_was_trained_on_are_followed() -> None:
    t = np.arange(100) / 25
    truth = np.sin(2 * np.pi * 1.3 * t) + np.sin(2 * np.pi * 2.9 * t)
    late = np.roll(truth, 1)
    phones = (("a", 0.2, 3.8),)
    heard = Said(utterance(voice="slt", phones=phones), -truth, -truth, truth)
    unheard = Said(utterance(voice="kal16", phones=phones), late, truth, truth)
    assert people.follow([heard, unheard], "opening").lag_s == pytest.approx(0.04, abs=0.005)
    assert people.follow([heard, unheard], "field").r == pytest.approx(1)


# Where is looked


def seen(labels: np.ndarray, head: np.ndarray | None = None) -> Picture:
    shape = labels.shape
    head = np.full(shape, 255, np.uint8) if head is None else head
    return Picture(0, np.zeros((*shape, 3), np.uint8), head, head, labels)


def marks() -> np.ndarray:
    """68 landmarks in a picture of 100 x 100: brows at y 30, eyes at 40, mouth from (40, 60) to (60, 70)."""
    out = np.full((68, 2), 50.0)
    out[17:27] = np.stack([np.linspace(30, 70, 10), np.full(10, 30.0)], 1)
    out[36:48, 1] = 40
    out[48:68] = np.stack([np.linspace(40, 60, 20), np.linspace(60, 70, 20)], 1)
    out[[62, 66], 0] = 50
    return out


def test_mouth_and_eyes_are_boxes_within_the_head_and_the_neck_is_a_label() -> None:
    labels = np.full((100, 100), FACE, np.uint8)
    labels[90:] = NECK
    head = np.full((100, 100), 255, np.uint8)
    head[:, :35] = 0
    masks = people.regions(seen(labels, head), marks())
    assert np.flatnonzero(masks["mouth"].any(1))[[0, -1]].tolist() == [52, 78]
    assert np.flatnonzero(masks["mouth"].any(0))[[0, -1]].tolist() == [35, 68]
    assert masks["neck"].sum() == 1000
    assert masks["eyes"][40, 50]
    assert not masks["eyes"][60, 50]


def test_hair_and_forehead_stand_still_the_rest_may_move() -> None:
    labels = np.full((100, 100), FACE, np.uint8)
    labels[:10] = HAIR
    labels[60:64] = MOUTH
    quiet = people.quiet_parts(seen(labels), marks())
    assert quiet[:24].all()
    assert not quiet[24:].any()
    labels[50:55, :5] = HAIR  # beside the cheek
    assert people.quiet_parts(seen(labels), marks())[52, 2]


def test_the_mouths_middle_is_thirteen_columns_wide() -> None:
    rows, columns = people.mouth_middle(marks(), (100, 100))
    assert (columns.start, columns.stop) == (44, 57)
    assert rows.start < 60
    assert rows.stop > 70


# Poses


def facing(turn: tuple[float, float, float], at: tuple[float, float, float] = (0, 0, 1.1)) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = people.STRAIGHT
    pose[:3, 3] = at
    return people.turned(pose, np.array(turn))


def at(pose: np.ndarray) -> Moment:
    return Moment(pose, np.zeros(6, np.float32), np.zeros(2), np.zeros((68, 2)), np.zeros((68, 3)), {})


def test_turning_a_pose_and_telling_by_how_much() -> None:
    pose = facing((0.1, -0.2, 0.05))
    np.testing.assert_allclose(people.turn_of(pose, people.STRAIGHT), [0.1, -0.2, 0.05], atol=1e-9)
    np.testing.assert_allclose(pose[:3, 3], [0, 0, 1.1])


def test_extreme_poses_lie_five_degrees_beyond_the_trained_ones() -> None:
    yaws = np.radians([-8, -3, 0, 2, 9])
    clip = SimpleNamespace(moments=[at(facing((0, yaw, 0))) for yaw in yaws], trained=range(5))
    subject: Any = SimpleNamespace(
        clip=clip, fixed=2, rest=people.expression(facing((0, 0, 0)), np.zeros(6), np.zeros(2))
    )
    found = people.extremes(subject)
    assert set(found) == {f"{a}_{s}" for a in ("nod", "turn", "tilt") for s in ("minus", "plus")}
    for name, degrees in (("turn_plus", 14), ("turn_minus", -13)):
        turn = people.turn_of(found[name].pose, people.STRAIGHT)
        np.testing.assert_allclose(np.degrees(turn), [0, degrees, 0], atol=1e-6)
    nod = np.degrees(people.turn_of(found["nod_plus"].pose, people.STRAIGHT))
    assert nod[0] == pytest.approx(5, abs=0.5)


def test_a_moments_pose_and_points_from_what_the_generator_writes() -> None:
    """Head points, seen by a camera 11 dm before the studio's origin, come back from pixels and studio depths."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.1, 0.1, (68, 3))
    pose = facing((0.1, 0.2, -0.1), (0.02, -0.04, 1.09))
    camera = points @ pose[:3, :3].T + pose[:3, 3]
    flat = camera[:, :2] / camera[:, 2:] * FOCAL + CENTRE
    studio = np.stack([0 * camera[:, 0], 0 * camera[:, 0], 11 - 10 * camera[:, 2]], 1)
    camera_to_head = np.linalg.inv(pose)
    camera_to_head[:3, 1:3] *= -1
    camera_to_head[:3, 3] *= 10
    written = {
        "cam2head": (np.linalg.inv(TURN) @ camera_to_head).tolist(),
        "au": {f"{name}_r": k for k, name in enumerate(ACTION_UNITS)},
        "gaze": [0.1, -0.2],
        "lms2d": flat.tolist(),
        "lms3d": studio.tolist(),
        "ctrl": {"jaw": 0.5},
    }
    found = moment(written, FOCAL, CENTRE, CENTRE)
    np.testing.assert_allclose(found.pose, pose, atol=1e-9)
    np.testing.assert_allclose(found.points, points, atol=1e-9)
    assert found.action_units.tolist() == [0, 1, 2, 3, 4, 5]


def test_missing_clips_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="Set VISAVIS_PEOPLE"):
        Clip("mia", tmp_path)


# Landmarks


@dataclass
class Mover:
    """Baked motion that lifts its moving points by the first action unit."""

    moving: np.ndarray
    still: np.ndarray
    rest: np.ndarray

    def frame(self, codes: np.ndarray, units: np.ndarray) -> Any:
        face = np.zeros((10, len(self.moving)), np.float32)
        face[1] = units[0]
        return SimpleNamespace(face=face)


def tracked(eyeballs: Any = None) -> people.Tracked:
    """NEAREST Gaussians beside each landmark, every other one moving; the last landmark's are faint."""
    rng = np.random.default_rng(1)
    points = rng.uniform(-1, 1, (68, 3)).astype(np.float32)
    xyz = (points[:, None] + 1e-3 * rng.normal(size=(68, people.NEAREST, 3))).reshape(-1, 3).astype(np.float32)
    opacity = np.full(len(xyz), 2, np.float32)
    opacity[-people.NEAREST :] = -3
    n = np.arange(len(xyz))
    moves = n % 2 == 0
    mover = Mover(n[moves], n[~moves], np.full((int((~moves).sum()), 10), 0.0, np.float32))
    clip = SimpleNamespace(moments=[replace(at(facing((0, 0, 0))), points=points)], trained=range(1))
    face = SimpleNamespace(xyz=xyz, opacity=opacity)
    avatar = SimpleNamespace(face=face, eyeballs=eyeballs)
    subject: Any = SimpleNamespace(baked=mover, avatar=avatar, clip=clip)
    return people.Tracked(subject, np.zeros((1, 8, 2, 32), np.float32))


def test_landmarks_are_the_gaussians_nearest_to_them_and_go_where_the_field_takes_them() -> None:
    found = tracked()
    window = np.zeros((8, 2, 32), np.float32)
    truth = found.subject.clip.moments[0].points
    rest = found.points(window, np.zeros(6, np.float32))
    np.testing.assert_allclose(rest[:67], truth[:67], atol=3e-3)
    assert np.linalg.norm(rest[67] - truth[67]) > 0.05  # what is faint stands for nothing
    lifted = found.points(window, np.array([0.5, 0, 0, 0, 0, 0], np.float32))
    np.testing.assert_allclose((lifted - rest)[:67, 1], 0.25, atol=1e-6)  # half of them move


def test_eyeballs_stand_for_no_landmark() -> None:
    index = np.zeros(68 * people.NEAREST, np.uint8)
    index[: people.NEAREST] = 1
    found = tracked(SimpleNamespace(index=index))
    assert found._near[0].min() >= people.NEAREST


# Calls


def test_a_call_shows_idle_motion_and_the_voice_and_cuts_it_where_it_is_told() -> None:
    person = Person(procedural.person(faces=60, side=64))
    t = np.arange(2 * RATE) / RATE
    loud = (0.3 * np.sin(2 * np.pi * 150 * t) * (1 + np.sin(2 * np.pi * 3 * t))).astype(np.float32)
    said = Spoken("flite", "awb", "hum", loud, (("a", 0.0, 2.0),))
    whole, again, cut = (list(people.called(person, said, at, 1)) for at in (None, None, 3.0))
    assert len(whole) == 150
    codes = np.array([c for c, _ in whole])
    quiet, spoken_ = codes[:40], codes[60:90]
    assert np.abs(quiet - quiet[0]).max() < 1e-4
    assert np.abs(np.diff(spoken_, axis=0)).max() > 1e-3
    np.testing.assert_array_equal(codes, np.array([c for c, _ in again]))
    shut = np.array([c for c, _ in cut])
    np.testing.assert_array_equal(shut[:70], codes[:70])
    assert np.abs(shut[95] - codes[95]).max() > 1e-3
    assert np.abs(shut[100:140] - shut[140]).max() < 1e-3


# Voices


def test_phones_last_until_the_next_and_silence_surrounds_them() -> None:
    made = spoken._utterance(
        "flite", "slt", "Map.", np.zeros(RATE), spoken._timed([("m", 0), ("æ", 4000), ("p", 8000)], RATE, RATE)
    )
    assert made.lips() == pytest.approx([spoken.LEAD_S + 0.125, spoken.LEAD_S + 0.75])
    assert made.heard()[0][0] == pytest.approx(spoken.LEAD_S)
    assert made.phones[-1][2] == pytest.approx(len(made.pcm) / RATE)
    assert made.frames == 45


def test_resampling_keeps_a_tone() -> None:
    t = np.arange(22050) / 22050
    out = spoken.resampled((np.sin(2 * np.pi * 440 * t) * 16384).astype(np.int16), 22050)
    assert abs(len(out) - RATE) <= 20
    spectrum = np.abs(np.fft.rfft(out[: RATE - 100]))
    assert np.argmax(spectrum) * RATE / (RATE - 100) == pytest.approx(440, abs=1.5)
    assert np.abs(out[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_what_the_machine_lacks_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("no such voice here")

    monkeypatch.setattr(spoken, "flite", broken)
    monkeypatch.setattr(spoken, "espeak", broken)
    monkeypatch.setattr(spoken, "RECORDINGS", tmp_path / "none")
    found, lacking = spoken.everyone()
    assert found == []
    assert len(lacking) == 3


def test_each_family_says_its_closures() -> None:
    found, lacking = spoken.everyone(quick=True)
    if lacking:
        pytest.skip("; ".join(lacking))
    assert {s.family for s in found} == {"flite", "espeak", "human"}
    for s in found:
        ends = [end for _, _, end in s.phones]
        assert ends == sorted(ends)
        assert ends[-1] <= len(s.pcm) / RATE + 0.05
        voiced = np.concatenate([s.pcm[round(a * RATE) : round(b * RATE)] for a, b in s.heard()])
        assert (voiced**2).mean() > 10 * (s.pcm[: round(0.3 * RATE)] ** 2).mean()
    maybe = [s for s in found if s.text.startswith("Maybe")]
    assert all(len(s.lips()) == 16 for s in maybe)
