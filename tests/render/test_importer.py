"""Official checkpoints and datasets become avatars; what is missing or does not fit is named."""

import csv
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render import importer
from render.avatar import load, load_field
from render.importer import ImportRefused, closed_loop, read_scene, read_source
from render.pictures import decode
from render.torchfile import CheckpointError
from server.core.errors import VisavisError
from tests.render.checkpoints import (
    Parameter,
    archive,
    capture,
    face_field,
    fuse,
    mouth_field,
    save_bytes,
    save_torch,
)
from tests.render.test_torchfile import CANARIES

SIDE = 64
FRAMES = 40
UNITS = ("AU01_r", "AU04_r", "AU05_r", "AU06_r", "AU07_r", "AU25_r", "AU45_r")


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def to_world(frame: int) -> np.ndarray[Any, Any]:
    """A camera 0.7 m before a head that turns, in OpenGL's axes; still at frames 5 and 34."""
    angle = 0.2 * np.cos((frame - 5) / 29 * 3 * np.pi)
    made = np.eye(4)
    made[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    made[:3, 3] = made[:3, :3] @ (0.01, 0.02, 0.7)
    return made


def dataset(folder: Path, first: int = 0, count: int = FRAMES) -> Path:
    """A dataset's folder of one identity, small."""
    for name in ("torso_imgs", "gt_imgs"):
        (folder / name).mkdir(parents=True)
    frames = [
        {"img_id": i, "aud_id": i, "transform_matrix": to_world(i).tolist()} for i in range(first, first + count)
    ]
    sheet = {"focal_len": 150.0, "cx": 32, "cy": 32, "frames": frames[::-1]}
    (folder / "transforms_train.json").write_text(json.dumps(sheet))
    with (folder / "au.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["frame", *(f" {name}" for name in UNITS)])  # OpenFace's leading space
        for i in range(first + count):
            table.writerow([i + 1, *(f"{j + i / 100:.3f}" for j in range(len(UNITS)))])
    back = np.full((SIDE, SIDE, 3), (200, 100, 50), np.uint8)
    cv2.imwrite(str(folder / "bc.jpg"), back)
    for i in range(first, first + count):
        plate = np.zeros((SIDE, SIDE, 4), np.uint8)
        plate[SIDE // 2 :] = (0, 0, 4 * i, 255)
        cv2.imwrite(str(folder / "torso_imgs" / f"{i}.png"), plate)
        cv2.imwrite(str(folder / "gt_imgs" / f"{i}.jpg"), back)
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that the tests share."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_bytes(folder / "fuse.pth", fuse(rng()))
    save_bytes(folder / "talkinggaussian.pth", fuse(rng(), "deepspeech", instag=False, degree=2))
    for part, state in (("face", face_field(rng(), "ave")), ("mouth", mouth_field(rng(), "ave"))):
        save_bytes(folder / f"field_{part}.pth", (OrderedDict(state), {"state": {}, "param_groups": []}, 150_000))
        parts = capture(rng(), part, "ave"), OrderedDict(state), {"state": {}}, 10_000
        save_bytes(folder / f"adapted_{part}.pth", parts)
    return folder


# Checkpoints


def test_a_fuse_checkpoint_is_mapped_entry_by_entry(people: Path) -> None:
    face, face_state, mouth, mouth_state = fuse(rng())
    source = read_source([people / "fuse.pth"])
    assert (source.is_person, source.face.made_by, source.face.audio.name) == (True, "InsTaG", "ave")
    for branch, entries, state in ((source.face, face, face_state), (source.mouth, mouth, mouth_state)):
        assert branch.head is not None
        layer = branch.head.gaussians
        np.testing.assert_array_equal(layer.xyz, entries[1].array)
        np.testing.assert_array_equal(layer.sh[:, :1], entries[2].array)
        np.testing.assert_array_equal(layer.sh[:, 1:], entries[3].array)
        np.testing.assert_array_equal(layer.scale, entries[5].array)
        np.testing.assert_array_equal(layer.rotation, entries[6].array)
        np.testing.assert_array_equal(layer.opacity, entries[7].array[:, 0])
        for name, tensor in branch.field.items():
            np.testing.assert_array_equal(tensor, state[name], err_msg=name)
        for name, tensor in branch.head.aligner.items():
            np.testing.assert_array_equal(tensor, entries[14][name], err_msg=name)
        # every tensor of the table is there, but offsets, which are known, and what is never used
        unused = {n for n in state if n.endswith("offsets")}
        unused |= {n for n in state if branch.part == "mouth" and n.startswith("aud_ch_att_net")}
        assert branch.field.keys() == state.keys() - unused
        assert set(branch.head.aligner) == {
            *(f"encoder_{plane}.embeddings" for plane in ("xy", "yz", "xz")),
            "align_net.net.0.weight",
            "align_net.net.1.weight",
        }


@pytest.mark.parametrize("audio", ["ave", "deepspeech", "esperanto", "hubert"])
@pytest.mark.parametrize("writer", ["torch", "bytes, numpy 1", "bytes, numpy 2"])
def test_every_extractor_and_every_writer(audio: str, writer: str, tmp_path: Path) -> None:
    whole = fuse(rng(), audio)
    if writer == "torch":
        pytest.importorskip("torch", reason="torch writes the file of this test")
        path = save_torch(tmp_path / "a.pth", whole)
    else:
        core = "numpy.core.multiarray" if writer.endswith("1") else "numpy._core.multiarray"
        path = save_bytes(tmp_path / "a.pth", whole, core)
    source = read_source([path])
    assert (source.face.audio.name, source.mouth.audio.name) == (audio, audio)
    name = "audio_net.encoder_fc1.0.weight"
    np.testing.assert_array_equal(source.face.field[name], whole[1][name])
    np.testing.assert_array_equal(source.mouth.field["scaler_net.net.2.weight"], whole[3]["scaler_net.net.2.weight"])


def test_talkinggaussian_becomes_instag_without_loss(people: Path) -> None:
    """The same outputs for the same inputs, computed here as the specification writes each of the two."""
    *_, state = fuse(rng(), "deepspeech", instag=False, degree=2)
    source = read_source([people / "talkinggaussian.pth"])
    assert source.face.made_by == "TalkingGaussian"
    field = source.mouth.field
    x = (
        np.random.default_rng(1).standard_normal((7, 71)).astype(np.float32)
    )  # 36 of place, 32 of audio, 3 of the face

    def trunk(weights: Any, x: Any) -> Any:
        for i in range(2):
            x = np.maximum(x @ weights[f"sigma_net.net.{i}.weight"].T, 0)
        return x @ weights["sigma_net.net.2.weight"].T

    scaler = x[:, :39]
    for i in range(3):
        scaler = np.maximum(scaler, 0) @ field[f"scaler_net.net.{i}.weight"].T
    moved = trunk(field, x)[:, :3] * 2 / (1 + np.exp(-scaler))
    np.testing.assert_allclose(moved, trunk(state, x[:, :68]), rtol=1e-5, atol=1e-7)
    for branch in (source.face, source.mouth):
        assert branch.head is not None
        assert branch.head.sh_degree == 2
        # an aligner of zeros: offset 0, scale 1 + 0.25 tanh(0)
        assert not any(tensor.any() for tensor in branch.head.aligner.values())
        assert branch.head.aligner["align_net.net.1.weight"].shape == (6, 32 if branch.part == "face" else 16)


def test_bands_that_training_had_not_reached_are_left_out(tmp_path: Path) -> None:
    face, face_state, _, mouth_state = fuse(rng(), degree=2)
    mouth = capture(rng(), "mouth", "ave", 9, degree=2, active=1)
    source = read_source([save_bytes(tmp_path / "a.pth", (face, face_state, mouth, mouth_state))])
    assert source.mouth.head is not None
    np.testing.assert_array_equal(source.mouth.head.gaussians.sh[:, 1:], mouth[3].array[:, :3])
    whole = importer.avatar(source, read_scene(dataset(tmp_path / "data")), "mia")
    assert (whole.sh_degree, whole.face.sh.shape, whole.mouth.sh.shape) == (2, (20, 9, 3), (9, 9, 3))
    assert not whole.mouth.sh[:, 4:].any()


def test_halves_and_fields_are_put_together(people: Path) -> None:
    source = read_source([people / "adapted_mouth.pth", people / "adapted_face.pth"])
    assert source.is_person
    assert (source.face.part, source.mouth.part) == ("face", "mouth")
    assert "not fitted to each other" in source.notes[0]
    field = importer.universal_field(read_source([people / "field_face.pth", people / "field_mouth.pth"]))
    np.testing.assert_array_equal(
        field.tensors["mouth.sigma_net.net.0.weight"], mouth_field(rng(), "ave")["sigma_net.net.0.weight"]
    )
    assert field.layout == "own"  # nobody knows where its faces' landmarks are


def test_the_best_checkpoints_of_a_folder_are_taken(people: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"no complete set .* chkpnt_fuse_latest\.pth; or chkpnt_ema_face"):
        importer.find([tmp_path])
    for name in ("chkpnt_face_latest.pth", "chkpnt_mouth_latest.pth", "chkpnt_ema_face_latest.pth"):
        (tmp_path / name).touch()
    taken = [path.name for path in importer.find([tmp_path])]
    assert taken == ["chkpnt_face_latest.pth", "chkpnt_mouth_latest.pth"]
    (tmp_path / "chkpnt_ema_mouth_latest.pth").touch()
    assert importer.find([tmp_path])[0].name == "chkpnt_ema_face_latest.pth"
    (tmp_path / "chkpnt_fuse_latest.pth").touch()
    assert importer.find([tmp_path]) == [tmp_path / "chkpnt_fuse_latest.pth"]


def changed(at: tuple[Any, ...], value: Any, instag: bool = True) -> Callable[[], Any]:
    """A fuse checkpoint with one entry replaced; `...` removes it."""

    def replace(node: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return value
        if isinstance(node, dict):
            rest = {k: v for k, v in node.items() if k != path[0]}
            return OrderedDict(
                rest if value is ... and len(path) == 1 else rest | {path[0]: replace(node.get(path[0]), path[1:])}
            )
        items = list(node)
        items[path[0]] = replace(items[path[0]], path[1:])
        return tuple(items)

    return lambda: replace(fuse(rng(), instag=instag), at)


UNFIT: dict[str, tuple[Callable[[], Any], str, str]] = {
    "something else": (lambda: {"weights": np.ones(3, np.float32)}, "format", "none of the checkpoints"),
    "a number": (lambda: 3, "format", "none of the checkpoints"),
    "swapped halves": (lambda: (lambda f: (f[2], f[3], f[0], f[1]))(fuse(rng())), "tensor", "a mouth and a face"),
    "a field that is none": (changed((1,), 3), "tensor", "has no motion field"),
    "a field without tensors": (changed((1,), OrderedDict()), "tensor", "listens to 0 values a frame; known are ave"),
    "a missing tensor": (
        changed((1, "sigma_net.net.1.weight"), ...),
        "tensor",
        r"face lacks sigma_net\.net\.1\.weight that it should have",
    ),
    "a missing net": (
        changed((1, "audio_att_net.attentionNet.0.bias"), ...),
        "tensor",
        r"lacks audio_att_net\.attentionNet\.0\.bias",
    ),
    "a tensor of another shape": (
        changed((3, "sigma_net.net.2.weight"), np.zeros((3, 32), np.float32)),
        "tensor",
        r"mouth: sigma_net\.net\.2\.weight has the shape \(3, 32\), expected \(7, 32\)",
    ),
    "text for a tensor": (
        changed((3, "sigma_net.net.2.weight"), "weights"),
        "tensor",
        "is not a tensor of the shape",
    ),
    "whole numbers": (
        changed((3, "sigma_net.net.2.weight"), np.zeros((7, 32), np.int64)),
        "tensor",
        "holds int64, expected floating-point",
    ),
    "another audio net": (
        changed((1, "audio_net.encoder_fc1.0.weight"), np.zeros((256, 80), np.float32)),
        "tensor",
        "listens to 80 values",
    ),
    "two audio nets": (
        lambda: (lambda f: (f[0], f[1], f[2], OrderedDict(mouth_field(rng(), "hubert"))))(fuse(rng())),
        "tensor",
        "the face listens to ave, the mouth to hubert",
    ),
    "another grid": (
        changed((1, "encoder_yz.offsets"), np.arange(13, dtype=np.int32)),
        "tensor",
        "encoder_yz.offsets tells of a grid of another layout",
    ),
    "no grid layout": (changed((1, "encoder_xz.offsets"), ...), "tensor", "lacks encoder_xz.offsets"),
    "an aligner with another grid": (
        changed((2, 14, "encoder_xy.offsets"), np.arange(13, dtype=np.int32)),
        "tensor",
        "mouth, aligner: encoder_xy.offsets",
    ),
    "no aligner": (changed((0, 14), OrderedDict()), "tensor", r"aligner lacks .* and 4 more of the 5 tensors"),
    "an aligner that is none": (changed((0, 14), 1), "tensor", "aligner is not a state dict"),
    "NaN": (
        changed((0, 7), Parameter(np.full((20, 1), np.nan, np.float32))),
        "tensor",
        "_opacity holds values that are not finite",
    ),
    "one scale less": (
        changed((0, 5), Parameter(np.zeros((19, 3), np.float32))),
        "tensor",
        r"_scaling has the shape \(19, 3\), expected \(20, 3\)",
    ),
    "no Gaussians": (changed((2, 1), Parameter(np.zeros((0, 3), np.float32))), "tensor", "mouth has 0 Gaussians"),
    "Gaussians that are none": (changed((2, 1), None), "tensor", "mouth has no Gaussians"),
    "an odd number of bands": (
        changed((0, 3), Parameter(np.zeros((20, 4, 3), np.float32))),
        "tensor",
        "has 5 coefficients of spherical harmonics",
    ),
    "a degree beyond": (changed((0, 0), 2), "tensor", "degree 2, and has them up to 1"),
    "a degree that is none": (changed((0, 0), "two"), "tensor", "degree 'two'"),
    "a mixed pair": (
        lambda: (lambda f, t: (f[0], f[1], t[2], t[3]))(fuse(rng()), fuse(rng(), instag=False)),
        "tensor",
        "the face is InsTaG's, the mouth TalkingGaussian's",
    ),
    "a mixed mouth": (
        lambda: (lambda f, t: (f[0], f[1], f[2], t[3]))(fuse(rng()), fuse(rng(), instag=False)),
        "tensor",
        "the motion field of TalkingGaussian and the Gaussians of InsTaG",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_the_tables_is_refused_in_words(name: str, tmp_path: Path) -> None:
    make, code, words = UNFIT[name]
    with pytest.raises(CheckpointError, match=words) as refused:
        read_source([save_bytes(tmp_path / "a.pth", make())])
    assert refused.value.code == f"checkpoint_{code}"
    assert refused.value.message.endswith(".")


def test_wrong_sets_of_checkpoints_are_refused_in_words(people: Path) -> None:
    cases = (
        (["adapted_face.pth"], "holds face; exactly one face and one mouth"),
        (["adapted_face.pth", "adapted_face.pth"], "holds face and face"),
        (["fuse.pth", "adapted_face.pth"], "holds face and mouth and face"),
        (["adapted_face.pth", "field_mouth.pth"], "the other is a universal field"),
        (["fuse.pth", "fuse.pth", "fuse.pth"], "Give one checkpoint"),
    )
    for names, words in cases:
        with pytest.raises(ImportRefused, match=words):
            read_source([people / name for name in names])


# The dataset


def test_plates_poses_and_action_units_of_a_dataset(tmp_path: Path) -> None:
    scene = read_scene(dataset(tmp_path / "data"))
    assert (scene.width, scene.height, scene.camera.focal_px, scene.camera.cx) == (SIDE, SIDE, 150, 32)
    # the loop turns where the head is still, at frames 5 and 34
    there = list(range(5, 35))
    order = [*there, *there[-2:0:-1]]
    np.testing.assert_array_equal(scene.idle.plates, np.array(order) - 5)
    assert len(scene.plates.torso) == len(there)
    for at in (0, 20, 40):
        frame = order[at]
        # a point of the head, seen by a camera in OpenGL's axes, and by ours
        point = np.array((0.03, -0.05, 0.1, 1))
        seen = np.linalg.inv(to_world(frame)) @ point
        np.testing.assert_allclose(scene.idle.poses[at] @ point, seen * (1, -1, -1, 1), atol=1e-6)
        units = [j + frame / 100 for j in (0, 1, 2, 3, 4)]
        np.testing.assert_allclose(scene.idle.action_units[at], [*units, 2.0], atol=1e-3)  # AU45 is clipped at 2
        plate = decode(scene.plates.torso[scene.idle.plates[at]])
        np.testing.assert_array_equal(plate[..., 3], (np.arange(SIDE) >= SIDE // 2)[:, None].repeat(SIDE, 1) * 255)
        assert abs(int(plate[-8:, :, 0].mean()) - 4 * frame) <= 3
    np.testing.assert_allclose(scene.plates.poses[0], scene.idle.poses[0])
    assert np.abs(decode(scene.plates.background).reshape(-1, 3).mean(0) - (50, 100, 200)).max() < 4


def test_the_longest_run_of_frames_is_replayed(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", first=7)
    sheet = json.loads((data / "transforms_train.json").read_text())
    sheet["frames"] = [f for f in sheet["frames"] if f["img_id"] != 12]
    (data / "transforms_train.json").write_text(json.dumps(sheet))
    for i in range(7, 13):  # never asked for
        (data / "torso_imgs" / f"{i}.png").unlink()
    scene = read_scene(data)
    assert len(scene.plates.torso) <= FRAMES - 6
    assert not scene.notes


def broken(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda p: (p / name).write_bytes(data)


def transforms(**change: Any) -> Callable[[Path], Any]:
    frame = {"img_id": 0, "transform_matrix": np.eye(4).tolist()} | change
    return broken("transforms_train.json", json.dumps({"focal_len": 1.0, "frames": [frame]}).encode())


INCOMPLETE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "everything": (lambda p: shutil.rmtree(p), r"poses of the head.*action units.*background.*torso.*gt_imgs or ori"),
    "action units": (lambda p: (p / "au.csv").unlink(), r"data lacks au\.csv \(action units\)\. Prepare"),
    "frames": (lambda p: shutil.rmtree(p / "gt_imgs"), r"lacks gt_imgs or ori_imgs \(frames\)"),
    "a plate": (lambda p: (p / "torso_imgs/20.png").unlink(), r"torso_imgs lacks 20\.png\."),
    "plates": (
        lambda p: [f.unlink() for f in (p / "torso_imgs").glob("1?.png")],
        r"torso_imgs lacks 10\.png and 9 more",
    ),
    "an action unit": (
        lambda p: (p / "au.csv").write_text((p / "au.csv").read_text().replace(" AU45_r", " AU46_r")),
        "au.csv lacks AU45_r; write it again",
    ),
    "rows": (
        lambda p: (p / "au.csv").write_text("".join((p / "au.csv").read_text().splitlines(True)[:20])),
        "has 19 rows, and the poses go on to frame 39",
    ),
    "the portrait": (lambda p: [f.unlink() for f in (p / "gt_imgs").iterdir()], "gt_imgs/5.jpg cannot be read"),
    "poses": (broken("transforms_train.json", b'{"focal_len": 1, "frames": []}'), "has no frames"),
}
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (broken("transforms_train.json", b"{"), "transforms_train.json cannot be understood"),
    "no focal length": (broken("transforms_train.json", b'{"frames": []}'), "missing required field `focal_len`"),
    "a small matrix": (transforms(transform_matrix=[[1.0]]), "not a 4 x 4 matrix"),
    "a negative frame": (transforms(img_id=-1), "Expected `int` >= 0"),
    "a sheared pose": (transforms(transform_matrix=(np.eye(4) * 2).tolist()), "not a rotation and a translation"),
    "a mirrored pose": (transforms(transform_matrix=np.diag([1, 1, -1, 1]).tolist()), "not a rotation"),
    "text among numbers": (
        lambda p: (p / "au.csv").write_text((p / "au.csv").read_text().replace("1.200", "many")),
        "au.csv has a row that is not numbers",
    ),
    "NaN among numbers": (
        lambda p: (p / "au.csv").write_text((p / "au.csv").read_text().replace("1.200", "nan")),
        "au.csv has values that are not finite",
    ),
    "a background that is no picture": (broken("bc.jpg", b"no"), "bc.jpg is not a picture"),
    "a background cut short": (
        lambda p: (p / "bc.jpg").write_bytes((p / "bc.jpg").read_bytes()[:400]),
        "data/bc.jpg cannot be decoded",
    ),
    "a plate without alpha": (
        lambda p: cv2.imwrite(str(p / "torso_imgs/20.png"), np.zeros((SIDE, SIDE, 3), np.uint8)),
        "torso_imgs/20.png has no alpha",
    ),
    "a plate of another size": (
        lambda p: cv2.imwrite(str(p / "torso_imgs/20.png"), np.zeros((SIDE, 32, 4), np.uint8)),
        "torso_imgs/20.png has 32 x 64 pixels, bc.jpg 64 x 64",
    ),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_what_a_dataset_lacks_is_named(name: str, tmp_path: Path) -> None:
    change, words = INCOMPLETE[name]
    data = dataset(tmp_path / "data")
    change(data)
    with pytest.raises(ImportRefused, match=words) as refused:
        read_scene(data)
    assert refused.value.code == "import_missing"


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_a_dataset_is_said(name: str, tmp_path: Path) -> None:
    change, words = WRONG[name]
    data = dataset(tmp_path / "data")
    change(data)
    with pytest.raises(VisavisError, match=words) as refused:
        read_scene(data)
    assert refused.value.message.endswith(".")


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_a_closed_loop_never_jumps(count: int, seed: int) -> None:
    made = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    made[:, :3, 3] = np.random.default_rng(seed).standard_normal((count, 3)).cumsum(0)
    order = closed_loop(made)
    assert all(0 <= i < count for i in order)
    assert len(order) >= count // 2
    steps = np.abs(np.diff([*order, order[0]]))
    assert steps.max(initial=0) <= 1


# The command


def test_the_command_makes_an_avatar(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = dataset(tmp_path / "data")
    out = tmp_path / "avatars" / "mia"
    line = [
        str(people / "fuse.pth"),
        "--data",
        str(data),
        "--out",
        str(out),
        "--title",
        "Mia",
        "--licence",
        "CC0 1.0",
    ]
    assert importer.main(line) == 0
    assert "Mia, 20 + 9 Gaussians, audio feature ave, 58 idle frames" in capsys.readouterr().out
    found = load(out)
    assert (found.name, found.title, found.licence, found.fps) == ("mia", "Mia", "CC0 1.0", 25)
    assert found.source == "Imported from fuse.pth (InsTaG, audio feature ave)."
    face, face_state, mouth, _ = fuse(rng())
    np.testing.assert_array_equal(found.face.xyz, face[1].array)
    np.testing.assert_array_equal(found.motion["face.sigma_net.net.0.weight"], face_state["sigma_net.net.0.weight"])
    np.testing.assert_array_equal(
        found.motion["mouth_aligner.align_net.net.1.weight"], mouth[14]["align_net.net.1.weight"]
    )


@pytest.mark.parametrize("make", ["talkinggaussian.pth", "adapted"])
def test_other_people_become_avatars_too(make: str, people: Path, tmp_path: Path) -> None:
    files = [people / make] if make.endswith(".pth") else [people / "adapted_face.pth", people / "adapted_mouth.pth"]
    data = dataset(tmp_path / "data")
    assert importer.main([*map(str, files), "--data", str(data), "--out", str(tmp_path / "leo")]) == 0
    assert load(tmp_path / "leo").title == "Leo"


def test_the_command_makes_a_field(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(people / "field_face.pth"), str(people / "field_mouth.pth")]
    assert importer.main([*files, "--out", str(tmp_path / "field")]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err
    assert importer.main([*files, "--out", str(tmp_path / "field.safetensors")]) == 0
    found = load_field(tmp_path / "field.safetensors")
    assert found.audio.name == "ave"
    assert "research only" in found.licence
    np.testing.assert_array_equal(
        found.tensors["face.encoder_xz.embeddings"], face_field(rng(), "ave")["encoder_xz.embeddings"]
    )


def test_a_field_is_no_person(people: Path, tmp_path: Path) -> None:
    source = read_source([people / "field_face.pth", people / "field_mouth.pth"])
    with pytest.raises(ImportRefused, match="is a universal field and no person"):
        importer.avatar(source, read_scene(dataset(tmp_path / "data")), "mia")


def test_the_command_says_what_is_missing(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mia"
    cases = (
        ([str(people / "fuse.pth"), "--out", str(out)], "--data is missing: plates, poses and action units"),
        ([str(tmp_path / "absent.pth"), "--out", str(out)], "absent.pth is not a file"),
        ([str(people / "fuse.pth"), "--data", str(tmp_path), "--out", str(out)], "lacks transforms_train.json"),
        ([str(people / "fuse.pth"), "--data", "D", "--out", str(out), "--name", "Mia!"], "D lacks"),
    )
    for line, words in cases:
        assert importer.main(line) == 1
        assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_malicious_checkpoint_is_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset(Path("data"))
    for name in ("os.system", "exec", "within a state dict"):
        Path("evil.pth").write_bytes(archive(CANARIES[name], {}))
        assert importer.main(["evil.pth", "--data", "data", "--out", "mia"]) == 1
        assert "Nothing was run and the file is refused" in capsys.readouterr().err
        assert not Path("canary").exists()
        assert not Path("mia").exists()
