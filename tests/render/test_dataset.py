"""The dataset folder: what is read is what was filmed, and what is damaged is refused in words."""

import dataclasses
import json
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("torch")

from render.train.dataset import EYES, FACE, HAIR, MOUTH, DatasetError, load, read_wav
from tests.render.clips import FOCAL, SIDE, film, pose, write


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("clips") / "tiny", train=26, held_out=3)


@pytest.fixture
def copy(filmed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(filmed, tmp_path / "tiny")


def test_what_was_filmed_is_read(filmed: Path) -> None:
    data = load(filmed)
    assert (data.width, data.height, data.focal_px) == (SIDE, SIDE, FOCAL)
    assert [s.index for s in data.train] == list(range(26))
    assert [s.index for s in data.held_out] == [26, 27, 28]
    np.testing.assert_allclose(data.train[7].pose, pose(7), atol=1e-6)
    np.testing.assert_allclose(data.train[7].action_units, [0.5, 0, 0, 1, 0.2, 0.5])
    assert data.metric
    labels = data.labels(3)
    assert {FACE, HAIR, MOUTH} <= set(np.unique(labels))
    middle = SIDE // 2
    depth = data.depth(3)
    assert depth is not None
    assert 0.6 < depth[middle, middle] < 0.7
    torso = data.torso(4)
    assert torso is not None
    assert torso.shape == (SIDE, SIDE, 4)
    assert data.torso(5) is None
    assert data.normals(3) is None
    assert data.landmarks(3) is None
    assert data.picture(3).shape == (SIDE, SIDE, 3)
    assert np.abs(data.voice).max() > 0.1


def test_soft_coverage_comes_before_labels(copy: Path) -> None:
    data = load(copy)
    labels = data.labels(2)
    soft = data.coverage(2, "head", labels)
    assert ((soft > 10) & (soft < 245)).any()
    shutil.rmtree(copy / "head")
    hard = data.coverage(2, "head", labels)
    assert set(np.unique(hard)) == {0, 255}
    assert np.abs(hard.astype(int) - soft).mean() < 12


def test_eyes_and_teeth_are_told_by_their_own_masks(copy: Path) -> None:
    data = load(copy)
    (copy / "eyes").mkdir()
    (copy / "teeth_mask").mkdir()
    eyes, teeth = np.zeros((2, SIDE, SIDE), np.uint8)
    eyes[30:34, 40:44], teeth[60:62, 40:50] = 255, 1
    write(copy / "eyes/2.png", eyes[None] / 255)
    np.save(copy / "teeth_mask/2.npy", teeth > 0)
    labels = data.labels(2)
    assert (labels[30:34, 40:44] == EYES).all()
    assert (labels[60:62, 40:50] == MOUTH).all()


def test_gaze_and_a_listener_are_read(copy: Path) -> None:
    (copy / "gaze.csv").write_text("frame, right, up\n" + "".join(f"{k}, 0.1, -0.{k % 10}\n" for k in range(29)))
    shutil.copy(copy / "transforms_val.json", copy / "transforms_idle.json")
    shutil.copy(copy / "au.csv", copy / "au_idle.csv")
    data = load(copy)
    np.testing.assert_allclose(data.train[3].gaze, [0.1, -0.3], atol=1e-6)
    assert len(data.idle) == 3


@pytest.mark.parametrize(("rate", "channels"), [(22050, 1), (16000, 2), (48000, 2)])
def test_other_sound_is_converted(rate: int, channels: int, tmp_path: Path) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.repeat(tone[:, None], channels, 1).tobytes())
    read = read_wav(tmp_path / "a.wav")
    assert abs(len(read) - 16000) < 40
    assert abs(np.abs(np.fft.rfft(read[:15000])).argmax() * 16000 / 15000 - 440) < 3


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    sheet = json.loads(path.read_text())
    change(sheet)
    path.write_text(json.dumps(sheet))


REFUSED: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no folder": (shutil.rmtree, "missing", "is not a folder"),
    "no background": (lambda p: (p / "bc.jpg").unlink(), "missing", "bc.jpg is missing"),
    "an odd picture": (lambda p: cv2.imwrite(str(p / "bc.jpg"), np.zeros((95, 96, 3), np.uint8)), "shape", "even"),
    "no poses": (lambda p: (p / "transforms_train.json").unlink(), "missing", "Preprocess the clip"),
    "poses that are no JSON": (lambda p: (p / "transforms_train.json").write_text("{"), "shape", "does not hold"),
    "poses without frames": (lambda p: (p / "transforms_val.json").write_text("{}"), "shape", "KeyError"),
    "a sheared pose": (
        lambda p: edit(
            p / "transforms_train.json", lambda s: s["frames"][0]["transform_matrix"][0].__setitem__(0, 9)
        ),
        "value",
        "no rotation",
    ),
    "two focal lengths": (
        lambda p: edit(p / "transforms_val.json", lambda s: s.update(focal_len=300)),
        "value",
        "two focal lengths",
    ),
    "a frame beyond the action units": (
        lambda p: edit(p / "transforms_val.json", lambda s: s["frames"][0].update(img_id=999)),
        "value",
        "action units for 29 frames",
    ),
    "too few frames": (
        lambda p: edit(p / "transforms_train.json", lambda s: s.update(frames=s["frames"][:9])),
        "missing",
        "has 9 frames for training",
    ),
    "no action unit 45": (
        lambda p: (p / "au.csv").write_text((p / "au.csv").read_text().replace("AU45_r", "AU46_r")),
        "shape",
        "no column AU45_r",
    ),
    "action units in words": (
        lambda p: (p / "au.csv").write_text((p / "au.csv").read_text().replace("0.2", "some")),
        "value",
        "no number",
    ),
    "no sound": (lambda p: (p / "aud.wav").unlink(), "missing", "aud.wav is missing"),
    "sound that is none": (lambda p: (p / "aud.wav").write_bytes(b"RIFF"), "shape", "not a WAV file"),
    "sound too short": (
        lambda p: (p / "aud.wav").write_bytes((p / "aud.wav").read_bytes()[: 44 + 6400]),
        "value",
        "sound of the whole clip",
    ),
    "no first frame": (lambda p: (p / "gt_imgs/0.jpg").unlink(), "missing", "0.jpg is missing"),
    "labels of another size": (
        lambda p: cv2.imwrite(str(p / "parsing/0.png"), np.zeros((64, 64, 3), np.uint8)),
        "shape",
        "All pictures must be of one size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_damaged_is_refused(name: str, copy: Path) -> None:
    change, code, words = REFUSED[name]
    change(copy)
    with pytest.raises(DatasetError, match=words) as refused:
        load(copy)
    assert refused.value.code == f"dataset_{code}"
    assert refused.value.message.endswith(".")


def test_damaged_arrays_are_refused_when_they_are_read(copy: Path) -> None:
    data = load(copy)
    np.save(copy / "depth/0.npy", np.zeros((5, 5), np.float32))
    (copy / "depth/1.npy").write_bytes(b"\x93NUMPY")
    np.save(copy / "depth/2.npy", np.array([{}], dtype=object), allow_pickle=True)
    for k in range(3):
        with pytest.raises(DatasetError, match="Preprocess the clip again"):
            data.depth(k)
    (copy / "gt_imgs/3.lms").parent.mkdir(exist_ok=True)
    (copy / "ori_imgs").mkdir()
    (copy / "ori_imgs/3.lms").write_text("1 2\n3 4\n")
    with pytest.raises(DatasetError, match="68 points"):
        data.landmarks(3)
    assert dataclasses.replace(data, train=data.train[:2]).metric
