"""The avatar folder: what is saved is what is loaded, and whatever was changed on the way is refused in words."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from render import avatar as folder
from render.avatar import AudioFeature, Avatar, AvatarError
from render.pictures import decode, picture_size
from server.core.errors import VisavisError
from tests.render.people import eyeballs, layer, motion_field, person, picture, poses, torso

MEL = AudioFeature(name="mel", width=48)
BAKED = {
    "moving": np.arange(10, dtype=np.int32),
    "still": np.arange(10, 12, dtype=np.int32),
    "encoding": np.ones((10, 36), np.float32),
    "mouth_encoding": np.ones((5, 36), np.float32),
}


def assert_same(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif dataclasses.is_dataclass(a):
        for f in dataclasses.fields(a):
            assert_same(getattr(a, f.name), getattr(b, f.name), f"{where}.{f.name}")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avatars") / "test"
    folder.save(person(audio=MEL, encoder={"conv.weight": np.ones((4, 80, 3), np.float32)}), path)
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "test")


# Whole folders


@pytest.mark.parametrize("name", ["ave", "deepspeech", "esperanto", "hubert", "mel"])
def test_what_is_saved_is_loaded(name: Any, tmp_path: Path) -> None:
    audio = AudioFeature(name=name, width=folder.WIDTHS.get(name, 48))
    encoder = {"conv.weight": np.ones((4, 80, 3), np.float32)} if name == "mel" else {}
    whole = person(audio, degree=2, encoder=encoder, baked=BAKED if name == "ave" else {})
    folder.save(whole, tmp_path / "mia")
    found = folder.load(tmp_path / "mia")
    assert_same(found, whole)
    assert not found.face.xyz.flags.writeable
    assert not found.motion["face.sigma_net.net.0.weight"].flags.writeable
    assert folder.manifest(tmp_path / "mia").title == "Test Person"
    assert [p.name for p in tmp_path.iterdir()] == ["mia"]


def test_a_person_without_torso_is_whole(tmp_path: Path) -> None:
    whole = person(torso=0)
    folder.save(whole, tmp_path / "mia")
    assert_same(folder.load(tmp_path / "mia"), whole)


def test_torso_and_eyeballs_come_back(tmp_path: Path) -> None:
    whole = person(torso=0, baked=BAKED)
    whole = dataclasses.replace(whole, torso=torso(), eyeballs=eyeballs())
    folder.save(whole, tmp_path / "mia")
    assert_same(folder.load(tmp_path / "mia"), whole)


def test_a_torso_follows_the_head_by_its_drivers() -> None:
    made = torso()
    rest, angle = np.asarray(made.rest_pose, np.float64), np.array([0.02, -0.3, 0.1])
    turn = cv2.Rodrigues(angle)[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn @ rest[:3, :3], rest[:3, 3] + (0.01, 0.02, -0.03)
    drive = made.drive(pose, (0.5, -1.0), 0.25)
    np.testing.assert_allclose(drive, [*angle, 0.01, 0.02, -0.03, 0.5, -1, 0.25], atol=1e-6)
    np.testing.assert_allclose(made.drive(made.rest_pose), np.zeros(9), atol=1e-6)
    np.testing.assert_allclose(
        made.at(drive), made.gaussians.xyz + np.einsum("nck,k->nc", made.basis, drive), rtol=1e-5
    )


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder.save(person(), tmp_path / name)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == 9
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_an_avatar_is_replaced_and_another_folder_is_not(tmp_path: Path) -> None:
    folder.save(person(torso=3), tmp_path / "mia")
    folder.save(person(torso=1, title="Second"), tmp_path / "mia")
    assert folder.load(tmp_path / "mia").title == "Second"
    assert len(list((tmp_path / "mia" / "plates").iterdir())) == 2
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(AvatarError, match="is not an avatar's folder"):
        folder.save(person(), tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("broken", ["fsync", "rename"])
def test_a_save_that_fails_leaves_what_was_there(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save(person(title="First"), tmp_path / "mia")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if broken == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            real = Path.rename
            patch.setattr(Path, "rename", lambda at, to: full() if at.name == "new" else real(at, to))
        with pytest.raises(AvatarError, match="No space left on device") as refused:
            folder.save(person(title="Second"), tmp_path / "mia")
    assert refused.value.code == "avatar_write"
    assert folder.load(tmp_path / "mia").title == "First"
    assert [p.name for p in tmp_path.iterdir()] == ["mia"]


def test_loading_needs_no_torch() -> None:
    code = "import sys, render.avatar, render.importer; print([m for m in ('torch', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What is refused before it is saved, and after it is loaded


def with_layer(**change: Any) -> Avatar:
    whole = person()
    return dataclasses.replace(whole, face=dataclasses.replace(whole.face, **change))


def with_idle(**change: Any) -> Avatar:
    whole = person()
    return dataclasses.replace(whole, idle=dataclasses.replace(whole.idle, **change))


def with_plates(**change: Any) -> Avatar:
    whole = person()
    return dataclasses.replace(whole, plates=dataclasses.replace(whole.plates, **change))


def with_torso(plates: int = 0, **change: Any) -> Avatar:
    return dataclasses.replace(person(torso=plates), torso=dataclasses.replace(torso(), **change))


def with_motion(name: str, tensor: np.ndarray[Any, Any] | None) -> Avatar:
    whole = person()
    motion = {k: v for k, v in whole.motion.items() if k != name}
    return dataclasses.replace(whole, motion=motion if tensor is None else motion | {name: tensor})


def spoiled(array: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
    array = array.copy()
    array.reshape(-1)[-1] = value
    return array


RNG = np.random.default_rng(0)
WHOLE = person()
UNFIT: dict[str, tuple[Callable[[], Avatar], str, str]] = {
    "name": (lambda: person(name="../mia"), "value", "cannot be an avatar's name"),
    "long name": (lambda: person(name="m" * 65), "value", "cannot be an avatar's name"),
    "no licence": (lambda: person(licence=""), "value", "licence has 0 characters"),
    "fps": (lambda: person(fps=0), "value", "frames per second"),
    "odd side": (lambda: person(width=63), "size", "even and between"),
    "huge side": (lambda: person(width=4096), "size", "even and between"),
    "camera": (lambda: person(camera=folder.Camera(focal_px=float("nan"), cx=1, cy=1)), "value", "camera"),
    "audio width": (lambda: person(AudioFeature(name="ave", width=511)), "value", "cannot be 511 wide"),
    "no encoder": (lambda: person(MEL), "missing", "audio.safetensors is missing"),
    "encoder": (
        lambda: person(MEL, encoder={"a": np.array([np.inf], np.float32)}),
        "value",
        "audio.safetensors: 'a' holds values that are not finite",
    ),
    "degree": (lambda: person(sh_degree=2), "shape", r"face.sh has the shape \(12, 4, 3\), expected \(12, 9, 3\)"),
    "degree 4": (lambda: person(sh_degree=4), "value", "degree 4"),
    "no Gaussians": (lambda: person(mouth=layer(RNG, 0, 1)), "size", "The mouth has 0 Gaussians"),
    "one scale less": (lambda: with_layer(scale=WHOLE.face.scale[1:]), "shape", "The face.scale has the shape"),
    "NaN": (lambda: with_layer(xyz=spoiled(WHOLE.face.xyz, np.nan)), "value", "xyz holds values that are not finite"),
    "far away": (lambda: with_layer(xyz=spoiled(WHOLE.face.xyz, 1e6)), "value", "m from the head"),
    "double": (lambda: with_layer(xyz=WHOLE.face.xyz.astype(np.float64)), "shape", "holds float64, expected float32"),
    "no rotation": (lambda: with_layer(rotation=WHOLE.face.rotation * 0), "value", "rotation of length zero"),
    "missing tensor": (
        lambda: with_motion("face.sigma_net.net.1.weight", None),
        "shape",
        "lacks tensor 'face.sigma_net",
    ),
    "unknown tensor": (
        lambda: with_motion("soul", np.zeros(1, np.float32)),
        "shape",
        "has the unknown tensor 'soul'",
    ),
    "tensor of another size": (
        lambda: with_motion("mouth.encoder_xy.embeddings", np.zeros((9464, 1), np.float32)),
        "shape",
        r"expected \(46600, 1\)",
    ),
    "baked of others": (
        lambda: person(baked=BAKED | {"still": np.arange(10, 13, dtype=np.int32)}),
        "shape",
        r"baked are 13 \+ 5 Gaussians, and there are 12 \+ 5\. Bake",
    ),
    "baked without an end": (
        lambda: person(baked=BAKED | {"encoding": np.full((10, 36), np.inf, np.float32)}),
        "value",
        "'baked.encoding' holds values that are not finite",
    ),
    "baked doubles": (
        lambda: person(baked=BAKED | {"encoding": np.ones((10, 36))}),
        "shape",
        "'baked.encoding' holds float64",
    ),
    "a torso twice": (lambda: with_torso(plates=1), "value", "torso of Gaussians and torso plates"),
    "a torso of another degree": (lambda: with_torso(gaussians=layer(RNG, 7, 0)), "shape", "The torso.sh has the"),
    "a basis of other drivers": (lambda: with_torso(basis=np.zeros((7, 3, 8), np.float32)), "shape", "basis has the"),
    "a basis beyond reason": (lambda: with_torso(basis=np.full((7, 3, 9), 1e3, np.float32)), "value", "by more than"),
    "a torso at rest nowhere": (lambda: with_torso(rest_pose=np.zeros((4, 4), np.float32)), "value", "not rotations"),
    "eyeballs of others": (lambda: person(eyeballs=eyeballs(11)), "shape", "eyeballs.index has the shape"),
    "a third eyeball": (
        lambda: person(eyeballs=dataclasses.replace(eyeballs(), index=np.full(12, 3, np.uint8))),
        "value",
        "names eyeball 3, and there are two",
    ),
    "eyeballs nowhere": (
        lambda: person(eyeballs=dataclasses.replace(eyeballs(), centres=np.full((2, 3), np.nan, np.float32))),
        "value",
        "eyeballs.centres holds values that are not finite",
    ),
    "sheared pose": (lambda: with_idle(poses=WHOLE.idle.poses * np.float32(1.1)), "value", "not rotations"),
    "mirrored pose": (
        lambda: with_idle(poses=WHOLE.idle.poses * np.array([1, -1, 1, 1], np.float32)),
        "value",
        "not rotations",
    ),
    "far camera": (
        lambda: with_idle(
            poses=poses(6) + np.float32(200) * (np.indices((4, 4))[1] == 3) * (np.indices((4, 4))[0] < 3)
        ),
        "value",
        "lie more than",
    ),
    "no idle": (lambda: with_idle(poses=WHOLE.idle.poses[:0]), "size", "has 0 frames"),
    "fewer action units": (lambda: with_idle(action_units=WHOLE.idle.action_units[:-1]), "shape", "the action units"),
    "action units beyond 5": (
        lambda: with_idle(action_units=spoiled(WHOLE.idle.action_units, 5.5)),
        "value",
        "OpenFace's range",
    ),
    "a plate that is not there": (
        lambda: with_idle(plates=np.full(6, 3, np.int32)),
        "value",
        "names a torso plate that does not exist",
    ),
    "plates of another size": (
        lambda: with_plates(torso=(picture(".png", 4, 32), *WHOLE.plates.torso[1:])),
        "shape",
        "torso plate 0 has 32 x 32 pixels, not 64 x 64",
    ),
    "plates without poses": (lambda: with_plates(poses=WHOLE.plates.poses[:2]), "shape", "the plates' poses"),
    "no background": (
        lambda: with_plates(background=b""),
        "value",
        "the background plate is not a picture in WebP or PNG",
    ),
    "poster in another format": (
        lambda: person(poster=picture(".png")),
        "value",
        "the poster is not a picture in JPEG",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_not_saved(name: str, tmp_path: Path) -> None:
    make, code, words = UNFIT[name]
    with pytest.raises(AvatarError, match=words) as refused:
        folder.save(make(), tmp_path / "mia")
    assert refused.value.code == f"avatar_{code}"
    assert refused.value.message.endswith(".")
    assert not list(tmp_path.iterdir())


# What is refused on disk


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change manifest.json."""
    sheet = json.loads((path / "manifest.json").read_bytes())
    change(sheet)
    (path / "manifest.json").write_text(json.dumps(sheet))


def reseal(path: Path, name: str, data: bytes) -> None:
    """Change a file and its entry in the manifest, as somebody would who wants to do damage."""
    (path / name).write_bytes(data)
    entry = {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(path, lambda s: s.update(files=[entry if f["path"] == name else f for f in s["files"]]))


def listed(path: Path, name: str) -> None:
    edit(path, lambda s: s["files"].append({"path": name, "bytes": 1, "sha256": "0" * 64}))


def tensors(path: Path, name: str, **changed: Any) -> None:
    reseal(path, name, save(load((path / name).read_bytes()) | changed))


def linked(path: Path) -> None:
    (path / "poster.jpg").rename(path.parent / "outside.jpg")
    (path / "poster.jpg").symlink_to(path.parent / "outside.jpg")


def linked_folder(path: Path) -> None:
    (path / "plates").rename(path.parent / "outside")
    (path / "plates").symlink_to(path.parent / "outside")


def piped(path: Path) -> None:
    (path / "poster.jpg").unlink()
    os.mkfifo(path / "poster.jpg")


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    ready = {"poses": poses(2), "action_units": np.zeros((2, 6), np.float32), "plates": np.zeros(2, np.int32)}
    np.savez(out, **(ready | {"plate_poses": poses(3)} | arrays))
    return out.getvalue()


def packed_npz() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(npz())) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return out.getvalue()


def claiming_npz() -> bytes:
    """An array that claims more memory than there is."""
    out = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 4, 4)})
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("poses.npy", header.getvalue())
    return out.getvalue()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


TAMPERED: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "missing", "has no manifest.json"),
    "not JSON": (lambda p: (p / "manifest.json").write_text("{"), "manifest", "cannot be understood"),
    "not text": (lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe{"), "manifest", "cannot be understood"),
    "nested without end": (lambda p: (p / "manifest.json").write_text("[" * 100_000), "manifest", "cannot be"),
    "a huge manifest": (lambda p: (p / "manifest.json").write_text(" " * (2 << 20)), "size", "bytes, more than"),
    "something else": (
        lambda p: edit(p, lambda s: s.update(format="gltf")),
        "manifest",
        "does not describe an avatar",
    ),
    "a newer version": (
        lambda p: edit(p, lambda s: s.update(version=2)),
        "version",
        "version 2, and this program reads 1",
    ),
    "a newer version with other fields": (
        lambda p: edit(p, lambda s: (s.clear(), s.update(format="visavis.avatar", version=9))),
        "version",
        "Get a newer visavis",
    ),
    "an unknown field": (lambda p: edit(p, lambda s: s.update(soul=1)), "manifest", "unknown field `soul`"),
    "a missing field": (
        lambda p: edit(p, lambda s: s.pop("licence")),
        "manifest",
        "missing required field `licence`",
    ),
    "an unknown extractor": (lambda p: edit(p, lambda s: s["audio"].update(name="whale")), "manifest", "'whale'"),
    "a name with a path": (lambda p: edit(p, lambda s: s.update(name="../x")), "value", "cannot be an avatar's name"),
    "another size": (lambda p: edit(p, lambda s: s.update(width=128)), "shape", "not 128 x 64"),
    "a path out of the folder": (
        lambda p: listed(p, "../../etc/passwd"),
        "path",
        "which is no file of an avatar",
    ),
    "an absolute path": (lambda p: listed(p, "/etc/passwd"), "path", "which is no file of an avatar"),
    "a path with a step back": (lambda p: listed(p, "plates/../poster.jpg"), "path", "no file of an avatar"),
    "an unknown file": (lambda p: listed(p, "run.py"), "path", "'run.py', which is no file of an avatar"),
    "a file listed twice": (lambda p: listed(p, "poster.jpg"), "manifest", "twice"),
    "a gap between plates": (lambda p: listed(p, "plates/0009.webp"), "manifest", "leaves out a torso plate"),
    "two backgrounds": (lambda p: listed(p, "plates/background.png"), "missing", "must list one background"),
    "no idle": (
        lambda p: edit(p, lambda s: s.update(files=[f for f in s["files"] if f["path"] != "idle.npz"])),
        "missing",
        "does not list idle.npz",
    ),
    "a huge file": (
        lambda p: edit(p, lambda s: s["files"][0].update(bytes=1 << 40)),
        "size",
        "more than an avatar may have",
    ),
    "a negative size": (
        lambda p: edit(p, lambda s: s["files"][0].update(bytes=-1)),
        "manifest",
        "Expected `int` >= 0",
    ),
    "a file gone": (lambda p: (p / "motion.safetensors").unlink(), "missing", "motion.safetensors is missing"),
    "a file grown": (lambda p: (p / "poster.jpg").write_bytes(bytes(99_999)), "size", "bytes, more than"),
    "a file cut": (lambda p: (p / "poster.jpg").write_bytes(b"\xff\xd8\xff"), "hash", "SHA-256 differs"),
    "a link": (linked, "path", "poster.jpg is not a plain file"),
    "a linked folder": (linked_folder, "path", "lies behind a link"),
    "a pipe": (piped, "path", "is not a plain file"),
    "a folder for a file": (
        lambda p: ((p / "poster.jpg").unlink(), (p / "poster.jpg").mkdir()),
        "path",
        "is not a plain file",
    ),
    "not safetensors": (
        lambda p: reseal(p, "head.safetensors", b"\x80\x04."),
        "shape",
        "not a file of numpy tensors",
    ),
    "a header that claims all memory": (
        lambda p: reseal(p, "head.safetensors", (1 << 62).to_bytes(8, "little") + b"{}"),
        "shape",
        "not a file of numpy tensors",
    ),
    "a tensor too many": (
        lambda p: tensors(p, "head.safetensors", tail=np.zeros(1, np.float32)),
        "shape",
        "'tail' is missing or unknown",
    ),
    "half an eyeball": (
        lambda p: tensors(p, "head.safetensors", **{"eyeballs.index": np.zeros(12, np.uint8)}),
        "shape",
        "'centres' is missing or unknown",
    ),
    "values in a resealed file": (
        lambda p: tensors(p, "head.safetensors", **{"mouth.opacity": np.full(5, np.inf, np.float32)}),
        "value",
        "The mouth.opacity holds values that are not finite",
    ),
    "scalars for tensors": (
        lambda p: tensors(p, "head.safetensors", **{"mouth.xyz": np.array(1, np.float32)}),
        "size",
        "The mouth has 0 Gaussians",
    ),
    "idle that is no archive": (
        lambda p: reseal(p, "idle.npz", b"PK\x03\x04"),
        "shape",
        "not a file of numpy arrays",
    ),
    "idle packed": (lambda p: reseal(p, "idle.npz", packed_npz()), "size", "is packed"),
    "idle with objects": (
        lambda p: reseal(p, "idle.npz", npz(poses=np.array([Evil()], object))),
        "shape",
        "holds object, expected float32",
    ),
    "idle that claims all memory": (lambda p: reseal(p, "idle.npz", claiming_npz()), "shape", "not a file of numpy"),
    "idle of another kind": (
        lambda p: reseal(p, "idle.npz", npz(plates=np.zeros(2, np.int64))),
        "shape",
        "plates holds int64, expected int32",
    ),
    "a plate that is a program": (
        lambda p: reseal(p, "plates/0001.png", b"#!/bin/sh\n"),
        "value",
        "torso plate 1 is not",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_refused(name: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    change, code, words = TAMPERED[name]
    change(copy)
    with pytest.raises(AvatarError, match=words) as refused:
        folder.load(copy)
    assert refused.value.code == f"avatar_{code}"
    assert refused.value.message.endswith(".")
    assert not Path("canary").exists()


FILES = (
    "manifest.json",
    "head.safetensors",
    "motion.safetensors",
    "idle.npz",
    "plates/background.webp",
    "poster.jpg",
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.integers(0, 1 << 20), st.integers(1, 255), st.booleans())
def test_any_byte_that_changed_is_noticed_or_harmless(
    saved: Path, tmp_path: Path, name: str, at: int, by: int, early: bool
) -> None:
    """Never another exception; early: within the first 300 bytes, where headers are."""
    path = tmp_path / "test"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(saved, path)
    data = bytearray((path / name).read_bytes())
    data[at % (min(300, len(data)) if early else len(data))] ^= by
    if name == "manifest.json":
        (path / name).write_bytes(data)
    else:
        (path / name).write_bytes(data)
        with pytest.raises(AvatarError, match="SHA-256 differs"):
            folder.load(path)
        reseal(path, name, bytes(data))
    with contextlib.suppress(AvatarError):
        folder.check(folder.load(path))


# Pictures


@pytest.mark.parametrize("side", [16, 63, 640])
@pytest.mark.parametrize(("kind", "name"), [(".png", "png"), (".webp", "webp"), (".jpg", "jpeg")])
def test_the_size_of_a_picture_is_told_from_its_header(kind: str, name: str, side: int) -> None:
    assert picture_size(picture(kind, 3, side)) == (name, side, side)
    if kind != ".jpg":
        assert picture_size(picture(kind, 4, side)) == (name, side, side)
    assert decode(picture(kind, 3, side)).shape == (side, side, 3)


def test_lossy_webp_is_understood_and_huge_pictures_are_not_decoded() -> None:
    import cv2

    pixels = np.zeros((40, 56, 3), np.uint8)
    data = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    assert data[12:16] == b"VP8 "
    assert picture_size(data) == ("webp", 56, 40)
    huge = bytearray(picture(".png"))
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    for bad in (bytes(huge), b"", b"\xff\xd8\xff", b"RIFF0000WEBPVP8X", picture(".png")[:200]):
        with pytest.raises(VisavisError, match="cannot be decoded"):
            decode(bad)


# The universal motion field


def test_a_motion_field_is_saved_and_loaded(tmp_path: Path) -> None:
    motion = motion_field()
    folder.save_field(motion, tmp_path / "field.safetensors")
    assert_same(folder.load_field(tmp_path / "field.safetensors"), motion)
    folder.save_field(dataclasses.replace(motion, licence="CC0"), tmp_path / "field.safetensors")
    found = folder.load_field(tmp_path / "field.safetensors")
    assert (found.licence, found.layout) == ("CC0", "mean-face")
    folder.save_field(dataclasses.replace(motion, layout="own"), tmp_path / "field.safetensors")
    assert folder.load_field(tmp_path / "field.safetensors").layout == "own"
    assert [p.name for p in tmp_path.iterdir()] == ["field.safetensors"]


def test_what_is_no_motion_field_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    motion = motion_field()
    head = {
        "format": "visavis.motion-field",
        "version": "1",
        "licence": "x",
        "source": "x",
        "feature": "mel",
        "width": "64",
    }
    cases = (
        (lambda: path.write_bytes((saved / "head.safetensors").read_bytes()), "is not a universal motion field"),
        (
            lambda: path.write_bytes(save(dict(motion.tensors), head | {"version": "2"})),
            "version '2', and this program",
        ),
        (lambda: path.write_bytes(save(dict(motion.tensors), head | {"width": "many"})), "does not say what it is"),
        (lambda: path.write_bytes(save(dict(motion.tensors), head | {"width": "65"})), "expected .256, 65."),
        (lambda: path.write_bytes(save(dict(motion.tensors), head | {"layout": "moon"})), "does not say what it is"),
        (lambda: path.write_bytes(save({}, head)), "lacks tensor"),
        (lambda: path.write_bytes(b"{}"), "is not a file of numpy tensors"),
        (path.unlink, "is missing"),
    )
    for make, words in cases:
        make()
        with pytest.raises(AvatarError, match=words):
            folder.load_field(path)
    with pytest.raises(AvatarError, match="lacks tensor 'face"):
        folder.save_field(dataclasses.replace(motion, tensors={}), path)
    assert not list(tmp_path.iterdir())
