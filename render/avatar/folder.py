"""Reading and writing an avatar's folder, whole or not at all."""

import hashlib
import io
import os
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from render.avatar.check import check, check_manifest, layer_shapes
from render.avatar.model import Avatar, AvatarError, Eyeballs, Floats, Gaussians, Idle, Plates, Torso, refuse
from render.avatar.sheet import (
    AUDIO,
    BACKGROUND,
    BAKED,
    EYEBALLS,
    FORMAT,
    HEAD,
    IDLE,
    LAYERS,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_TOTAL_BYTES,
    MOTION,
    PLATE,
    POSTER,
    TORSO,
    VERSION,
    File,
    Kind,
    Manifest,
)
from render.pictures import picture_size


def read(folder: Path, path: str, most: int) -> bytes:
    """A plain file within the folder, at most `most` bytes; links, devices and pipes are refused."""
    at = folder / path
    try:
        if at.parent != folder and not stat.S_ISDIR(os.lstat(at.parent).st_mode):
            raise refuse("path", f"{folder.name}/{path} lies behind a link")
        before = os.lstat(at)
        if not stat.S_ISREG(before.st_mode):
            raise refuse("path", f"{folder.name}/{path} is not a plain file")
        if before.st_size > most:
            raise refuse("size", f"{folder.name}/{path} has {before.st_size} bytes, more than {most}")
        with at.open("rb") as file:
            return file.read(most)
    except FileNotFoundError as e:
        raise refuse("missing", f"{folder.name}/{path} is missing") from e
    except OSError as e:
        raise refuse("missing", f"{folder.name}/{path} cannot be read: {e.strerror}") from e


def manifest(folder: Path) -> Manifest:
    """manifest.json alone, checked; enough to list people without loading them. Raises AvatarError."""
    if not (folder / "manifest.json").exists():
        raise refuse("missing", f"{folder} has no manifest.json", "Give the path of an avatar's own folder.")
    data = read(folder, "manifest.json", MAX_MANIFEST_BYTES)
    where = f"{folder.name}/manifest.json"
    try:
        kind = msgspec.json.decode(data, type=Kind)
        if kind.format != FORMAT:
            raise refuse(
                "manifest", f"{where} does not describe an avatar", "Give the path of an avatar's own folder."
            )
        if kind.version != VERSION:
            remedy = "Get a newer visavis, or train or import the person again with this one."
            raise refuse("version", f"{where} has version {kind.version}, and this program reads {VERSION}", remedy)
        sheet = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise refuse("manifest", f"{where} cannot be understood: {e}") from e
    check_manifest(sheet)
    _check_files(where, sheet)
    return sheet


def _check_files(where: str, sheet: Manifest) -> None:
    paths = [file.path for file in sheet.files]
    torso = []
    for path in paths:
        plate = PLATE.fullmatch(path)
        if plate:
            torso.append(int(plate[1]))
        elif path not in (HEAD, MOTION, AUDIO, IDLE, POSTER, TORSO) and not BACKGROUND.fullmatch(path):
            raise refuse("path", f"{where} lists {path!a}, which is no file of an avatar")
    if len(set(paths)) < len(paths) or sorted(torso) != list(range(len(torso))):
        raise refuse("manifest", f"{where} lists a file twice or leaves out a torso plate")
    if sum(1 for path in paths if BACKGROUND.fullmatch(path)) != 1:
        raise refuse("missing", f"{where} must list one background plate")
    for path in (HEAD, MOTION, IDLE, POSTER):
        if path not in paths:
            raise refuse("missing", f"{where} does not list {path}")
    total = sum(file.bytes for file in sheet.files)
    if total > MAX_TOTAL_BYTES or max(file.bytes for file in sheet.files) > MAX_FILE_BYTES:
        raise refuse("size", f"{where} lists {total} bytes, more than an avatar may have")


def read_tensors(where: str, data: bytes) -> dict[str, Floats]:
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise refuse("shape", f"{where} is not a file of numpy tensors: {e}") from e
    return {name: _frozen(tensor) for name, tensor in tensors.items()}


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _idle_arrays(where: str, data: bytes, expected: Mapping[str, type]) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz whose entries are stored as they are, so that nothing can grow; nothing is unpickled."""
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name, dtype in expected.items():
                info = archive.getinfo(f"{name}.npy")
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
                    raise refuse("size", f"{where}: {name} is packed or claims {info.file_size} bytes")
                body = io.BytesIO(archive.read(info))
                if np.lib.format.read_magic(body) != (1, 0):
                    raise ValueError(f"{name} is in an unknown version of the npy format")
                shape, fortran, found = np.lib.format.read_array_header_1_0(body)
                if found != np.dtype(dtype) or fortran:
                    raise refuse("shape", f"{where}: {name} holds {found}, expected {np.dtype(dtype)}")
                # ValueError unless the bytes are just as many as the shape needs
                arrays[name] = np.frombuffer(body.read(), dtype).reshape(shape)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, RuntimeError, OSError, struct.error) as e:
        raise refuse("shape", f"{where} is not a file of numpy arrays: {e}") from e
    return arrays


IDLE_ARRAYS: Mapping[str, type] = {
    "poses": np.float32,
    "action_units": np.float32,
    "plates": np.int32,
    "plate_poses": np.float32,
}


def load(folder: Path) -> Avatar:
    """Read and check an avatar's folder; takes some 20 ms. Raises AvatarError with a sentence for people."""
    sheet = manifest(folder)
    contents: dict[str, bytes] = {}
    for file in sheet.files:
        data = contents[file.path] = read(folder, file.path, file.bytes)
        # what was hashed is what is used: the file is read once
        if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
            raise refuse("hash", f"{folder.name}/{file.path} is not the file that was saved: its SHA-256 differs")

    head = read_tensors(f"{folder.name}/{HEAD}", contents[HEAD])
    baked = {name.removeprefix(BAKED): head.pop(name) for name in list(head) if name.startswith(BAKED)}
    eyes = {name.removeprefix(EYEBALLS): head.pop(name) for name in list(head) if name.startswith(EYEBALLS)}
    names = {f"{layer}.{part}" for layer in LAYERS for part in layer_shapes(1, 0)}
    if head.keys() != names:
        odd = ascii(min(head.keys() ^ names))[:120]
        raise refuse(
            "shape", f"{folder.name}/{HEAD} does not have the tensors of a head: {odd} is missing or unknown"
        )
    face, mouth = (Gaussians(**{part: head[f"{layer}.{part}"] for part in layer_shapes(1, 0)}) for layer in LAYERS)
    idle = _idle_arrays(f"{folder.name}/{IDLE}", contents[IDLE], IDLE_ARRAYS)
    torso = sorted(path for path in contents if PLATE.fullmatch(path))
    avatar = Avatar(
        name=sheet.name,
        title=sheet.title,
        licence=sheet.licence,
        source=sheet.source,
        fps=sheet.fps,
        width=sheet.width,
        height=sheet.height,
        camera=sheet.camera,
        audio=sheet.audio,
        sh_degree=sheet.sh_degree,
        face=face,
        mouth=mouth,
        motion=read_tensors(f"{folder.name}/{MOTION}", contents[MOTION]),
        plates=Plates(
            background=next(data for path, data in contents.items() if BACKGROUND.fullmatch(path)),
            torso=tuple(contents[path] for path in torso),
            poses=idle["plate_poses"],
        ),
        idle=Idle(idle["poses"], idle["action_units"], idle["plates"]),
        poster=contents[POSTER],
        encoder=read_tensors(f"{folder.name}/{AUDIO}", contents[AUDIO]) if AUDIO in contents else {},
        baked=baked,
        torso=_torso(f"{folder.name}/{TORSO}", contents[TORSO]) if TORSO in contents else None,
        eyeballs=_eyeballs(f"{folder.name}/{HEAD}", eyes) if eyes else None,
    )
    check(avatar)
    return avatar


def _torso(where: str, data: bytes) -> Torso:
    tensors = read_tensors(where, data)
    layer = tuple(layer_shapes(1, 0))
    _check_names(where, tensors, {*layer, "basis", "rest_pose"})
    return Torso(Gaussians(**{part: tensors[part] for part in layer}), tensors["basis"], tensors["rest_pose"])


def _eyeballs(where: str, tensors: Mapping[str, NDArray[Any]]) -> Eyeballs:
    _check_names(where, tensors, {"index", "centres"})
    return Eyeballs(tensors["index"], tensors["centres"])


def _check_names(where: str, tensors: Mapping[str, NDArray[Any]], names: set[str]) -> None:
    if tensors.keys() != names:
        odd = ascii(min(tensors.keys() ^ names))[:120]
        raise refuse("shape", f"{where}: the tensor {odd} is missing or unknown")


# Writing


def _contents(avatar: Avatar) -> Iterator[tuple[str, bytes]]:
    head = {
        f"{layer}.{part}": np.ascontiguousarray(getattr(getattr(avatar, layer), part))
        for layer in LAYERS
        for part in layer_shapes(1, 0)
    }
    head |= {f"{BAKED}{name}": np.ascontiguousarray(tensor) for name, tensor in avatar.baked.items()}
    if avatar.eyeballs is not None:
        head |= {f"{EYEBALLS}index": np.ascontiguousarray(avatar.eyeballs.index)}
        head |= {f"{EYEBALLS}centres": np.ascontiguousarray(avatar.eyeballs.centres)}
    yield HEAD, save_tensors(head)
    yield MOTION, save_tensors({name: np.ascontiguousarray(t) for name, t in avatar.motion.items()})
    if avatar.encoder:
        yield AUDIO, save_tensors({name: np.ascontiguousarray(t) for name, t in avatar.encoder.items()})
    if avatar.torso is not None:
        torso = {part: getattr(avatar.torso.gaussians, part) for part in layer_shapes(1, 0)}
        torso |= {"basis": avatar.torso.basis, "rest_pose": avatar.torso.rest_pose}
        yield TORSO, save_tensors({name: np.ascontiguousarray(tensor) for name, tensor in torso.items()})
    idle = io.BytesIO()
    np.savez(
        idle,
        poses=np.ascontiguousarray(avatar.idle.poses),
        action_units=np.ascontiguousarray(avatar.idle.action_units),
        plates=np.ascontiguousarray(avatar.idle.plates),
        plate_poses=np.ascontiguousarray(avatar.plates.poses),
    )
    yield IDLE, idle.getvalue()
    yield f"plates/background.{picture_size(avatar.plates.background)[0]}", avatar.plates.background
    for i, picture in enumerate(avatar.plates.torso):
        yield f"plates/{i:04d}.{picture_size(picture)[0]}", picture
    yield POSTER, avatar.poster


def write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        remedy = "Choose another place, or make room there."
        raise AvatarError("avatar_write", f"{target} cannot be written: {e.strerror or e}. {remedy}") from e


def save(avatar: Avatar, folder: Path) -> None:
    """Check the avatar and write its folder, whole or not at all; an avatar that is there already is replaced.

    Raises AvatarError, also for a folder that is there and is not an avatar's.
    """
    check(avatar)
    folder = folder.absolute()
    if (
        folder.exists()
        and not (folder / "manifest.json").is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise AvatarError("avatar_write", f"{folder} is there and is not an avatar's folder. Choose another name.")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
            new, old = Path(work) / "new", Path(work) / "old"
            (new / "plates").mkdir(parents=True)
            files = []
            for path, data in _contents(avatar):
                write(new / path, data)
                files.append(File(path, len(data), hashlib.sha256(data).hexdigest()))
            sheet = Manifest(
                format=FORMAT,
                version=VERSION,
                name=avatar.name,
                title=avatar.title,
                licence=avatar.licence,
                source=avatar.source,
                fps=avatar.fps,
                width=avatar.width,
                height=avatar.height,
                camera=avatar.camera,
                audio=avatar.audio,
                sh_degree=avatar.sh_degree,
                files=tuple(files),
            )
            _check_files(f"{folder.name}/manifest.json", sheet)
            write(new / "manifest.json", msgspec.json.format(msgspec.json.encode(sheet), indent=2))
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
