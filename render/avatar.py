"""The avatar folder: one person as numbers on disk; everything that trains, imports or paints a person passes here.

    manifest.json       what it is, under which licence, and every file's size and SHA-256
    head.safetensors    the Gaussians of face and mouth, and what was baked of their motion
    motion.safetensors  the motion fields that move them, and the aligners that fit those to this person
    audio.safetensors   the audio feature encoder, if the person brings one
    idle.npz            poses and action units to replay, closed into a loop, and the poses of the plates
    plates/             the background, and torso and neck at each of their poses
    poster.jpg          the picture before the call

Nothing in it is ever unpickled. A folder that is damaged, or was made to do damage, is refused in one sentence.
Beside the person there is the universal motion field, one safetensors file that training a person starts from.
"""

import hashlib
import io
import os
import re
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from render.pictures import MAX_SIDE, picture_size
from server.core.errors import VisavisError

Floats = NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]

FORMAT = "visavis.avatar"
VERSION = 1
FIELD_FORMAT = "visavis.motion-field"
FIELD_VERSION = "1"

ACTION_UNITS = ("AU01", "AU04", "AU05", "AU06", "AU07", "AU45")
"""the columns of Idle.action_units: brows up, brows down, lids up, cheeks, lids tight, blink; OpenFace's 0 to 5"""

MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 256 << 20
MAX_TOTAL_BYTES = 512 << 20
MAX_GAUSSIANS = 200_000  # of one layer; a CPU paints 40 000 in real time
MAX_SH_DEGREE = 3
MAX_PLATES = 1500  # a minute of pictures
MAX_IDLE_FRAMES = 15_000  # ten minutes
MAX_ENCODER_TENSORS = 1024
MAX_BAKED_TENSORS = 256
MIN_SIDE = 64  # pixels
MAX_METRES = 100.0  # nothing of a head is farther from its origin than that, the camera included


class AvatarError(VisavisError):
    """A folder is refused: avatar_ missing, manifest, version, path, size, hash, shape, value or write."""


AGAIN = "Copy the folder again from where it came, or train or import the person again."


def _refuse(kind: str, what: str, remedy: str = AGAIN) -> AvatarError:
    return AvatarError(f"avatar_{kind}", f"{what}. {remedy}")


# What a person is made of


class Camera(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pinhole camera for pictures of the avatar's own size."""

    focal_px: float
    cx: float
    """pixels from the left edge"""
    cy: float
    """pixels from the top edge"""


Extractor = Literal["ave", "deepspeech", "esperanto", "hubert", "mel"]


class AudioFeature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the audio nets listen to, 25 times a second."""

    name: Extractor
    """`mel` is our own encoder, which the folder brings as audio.safetensors"""
    width: int
    """values in one feature vector"""

    @property
    def steps(self) -> int:
        """Feature vectors for one frame of video; one means linear audio nets, more means convolutional ones."""
        return {"ave": 1, "mel": 1, "hubert": 2}.get(self.name, 16)


WIDTHS: Mapping[Extractor, int] = {"ave": 512, "deepspeech": 29, "esperanto": 44, "hubert": 1024}
"""of the extractors that are not ours; `mel` may have any"""


@dataclass(frozen=True, eq=False)
class Gaussians:
    """One layer of a head in the head's own frame (metres; x to image right, y up, z to the viewer), as trained."""

    xyz: Floats  # (N, 3)
    sh: Floats  # (N, (degree + 1) ** 2, 3); colour = SH(direction) + 0.5
    scale: Floats  # (N, 3); softplus gives metres
    rotation: Floats  # (N, 4) w x y z; to be normalised
    opacity: Floats  # (N,); the logistic function gives 0 to 1

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True, eq=False)
class Plates:
    """Pictures behind the head, still encoded (WebP or PNG); each of the avatar's size."""

    background: bytes  # without alpha
    torso: tuple[bytes, ...]  # P pictures of torso and neck, with alpha; none if the person has no torso
    poses: Floats  # (P, 4, 4); the head's pose in each, world to camera like Idle.poses


@dataclass(frozen=True, eq=False)
class Idle:
    """What the head does by itself, frame by frame; after the last frame comes the first, without a seam."""

    poses: Floats  # (F, 4, 4); world (the head) to camera, OpenCV axes: x right, y down, z forward; metres
    action_units: Floats  # (F, 6); see ACTION_UNITS
    plates: NDArray[np.int32]  # (F,); which of Plates.torso goes with the frame, -1 for none


@dataclass(frozen=True, eq=False)
class Avatar:
    """A person, ready for a renderer. Shared by all calls: the arrays are read-only."""

    name: str
    """what calls choose it by: small letters, digits, - and _"""
    title: str
    """what people call it"""
    licence: str
    """the terms under which the person may be shown and passed on"""
    source: str
    """where it comes from: the data, and what trained it"""
    fps: int
    width: int
    height: int
    camera: Camera
    audio: AudioFeature
    sh_degree: int
    face: Gaussians
    mouth: Gaussians
    motion: Mapping[str, Floats]
    """what `motion_shapes` lists, under the names of InsTaG's state dicts"""
    plates: Plates
    idle: Idle
    poster: bytes
    """a JPEG"""
    encoder: Mapping[str, Floats] = field(default_factory=dict)
    """tensors of the audio feature encoder; none if the extractor is brought by the user"""
    baked: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """what is left of the motion per frame (`render.motion.baked`), float32 and int32; none if not baked yet"""


@dataclass(frozen=True, eq=False)
class MotionField:
    """A universal motion field: what many faces have in common when they speak. Training a person starts from it."""

    licence: str
    source: str
    audio: AudioFeature
    tensors: Mapping[str, Floats]
    """what `field_shapes` lists for `face` and `mouth`, prefixed `face.` and `mouth.`"""


# The tensors of the motion fields (InsTaG's, /specs/instag.md §3.2); Linear weights are (out, in), without bias

PLANES = ("xy", "yz", "xz")
ROWS = {"face": 9464, "mouth": 46600, "face_aligner": 9464, "mouth_aligner": 9464}
"""entries of each plane of the tri-planes"""


def audio_shapes(audio: AudioFeature) -> Shapes:
    """The audio net and the attention over eight of its codes."""
    net: Shapes = {}

    def layer(name: str, *weight: int) -> None:
        net[f"{name}.weight"], net[f"{name}.bias"] = weight, weight[:1]

    if audio.steps == 1:
        for index, out, into in ((0, 256, audio.width), (2, 128, 256), (4, 32, 128)):
            layer(f"audio_net.encoder_fc1.{index}", out, into)
    else:
        hidden = 32 if audio.width < 128 else 128
        for index, out, into in ((0, hidden, audio.width), (2, hidden, hidden), (4, 64, hidden), (6, 64, 64)):
            layer(f"audio_net.encoder_conv.{index}", out, into, 3)
        layer("audio_net.encoder_fc1.0", 64, 64)
        layer("audio_net.encoder_fc1.2", 32, 64)
    for index, out, into in ((0, 16, 32), (2, 8, 16), (4, 4, 8), (6, 2, 4), (8, 1, 2)):
        layer(f"audio_att_net.attentionConvNet.{index}", out, into, 3)
    layer("audio_att_net.attentionNet.0", 8, 8)
    return net


def _mlp(name: str, *widths: int) -> Shapes:
    return {f"{name}.net.{i}.weight": (widths[i + 1], widths[i]) for i in range(len(widths) - 1)}


def _planes(part: str) -> Shapes:
    return {f"encoder_{plane}.embeddings": (ROWS[part], 1) for plane in PLANES}


def field_shapes(part: Literal["face", "mouth"], audio: AudioFeature) -> Shapes:
    """The tensors of one universal motion field, without prefix."""
    shapes = audio_shapes(audio) | _planes(part)
    if part == "face":
        shapes |= _mlp("exp_encode_net", 5, 16, 5) | _mlp("eye_att_net", 36, 16, 6)
        return shapes | _mlp("aud_ch_att_net", 36, 32, 32) | _mlp("sigma_net", 74, 64, 64, 11)
    return shapes | _mlp("sigma_net", 71, 32, 32, 7) | _mlp("scaler_net", 39, 16, 16, 1)


def aligner_shapes(part: Literal["face", "mouth"]) -> Shapes:
    """The tensors of one aligner, without prefix."""
    return _planes(f"{part}_aligner") | _mlp("align_net", 36, 32 if part == "face" else 16, 6)


def _prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def motion_shapes(audio: AudioFeature) -> Shapes:
    """Every tensor of motion.safetensors: `face.`, `mouth.`, `face_aligner.`, `mouth_aligner.`"""
    shapes = _prefixed("face", field_shapes("face", audio)) | _prefixed("mouth", field_shapes("mouth", audio))
    return (
        shapes
        | _prefixed("face_aligner", aligner_shapes("face"))
        | _prefixed("mouth_aligner", aligner_shapes("mouth"))
    )


# What is on disk

HEAD, MOTION, AUDIO, IDLE, POSTER = (
    "head.safetensors",
    "motion.safetensors",
    "audio.safetensors",
    "idle.npz",
    "poster.jpg",
)
BAKED = "baked."
BACKGROUND = re.compile(r"plates/background\.(webp|png)")
TORSO = re.compile(r"plates/([0-9]{4})\.(webp|png)")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
LAYERS: tuple[Literal["face", "mouth"], ...] = ("face", "mouth")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the folder, as it was when it was saved."""

    path: Annotated[str, msgspec.Meta(max_length=64)]
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """manifest.json."""

    format: str
    version: int
    name: str
    title: Text
    licence: Text
    source: Text
    fps: int
    width: int
    height: int
    camera: Camera
    audio: AudioFeature
    sh_degree: int
    files: Annotated[tuple[File, ...], msgspec.Meta(max_length=MAX_PLATES + 16)]


class _Kind(msgspec.Struct):
    format: str = ""
    version: int = 0


# Checks, the same before saving and after loading


def _check_text(name: str, value: str) -> None:
    if not 1 <= len(value) <= 2000:
        raise _refuse("value", f"The avatar's {name} has {len(value)} characters", "Give it between 1 and 2000.")


def _check_manifest(a: "Avatar | Manifest") -> None:
    if not NAME.fullmatch(a.name):
        remedy = "Use up to 64 small letters, digits, - and _."
        raise _refuse("value", f"{a.name[:80]!a} cannot be an avatar's name", remedy)
    for text in ("title", "licence", "source"):
        _check_text(text, getattr(a, text))
    if not 1 <= a.fps <= 60:
        raise _refuse("value", f"Avatar {a.name} runs at {a.fps} frames per second, not at 1 to 60")
    for side in (a.width, a.height):
        if side % 2 or not MIN_SIDE <= side <= MAX_SIDE:
            what = f"Avatar {a.name} has pictures of {a.width} x {a.height}"
            raise _refuse("size", what, f"Both sides must be even and between {MIN_SIDE} and {MAX_SIDE} pixels.")
    if not 0 <= a.sh_degree <= MAX_SH_DEGREE:
        raise _refuse("value", f"Avatar {a.name} has spherical harmonics of degree {a.sh_degree}, not of 0 to 3")
    camera = a.camera
    if not (0 < camera.focal_px < 1e5 and abs(camera.cx) < 1e4 and abs(camera.cy) < 1e4):  # false for NaN, too
        raise _refuse("value", f"Avatar {a.name} has a camera that cannot be: {camera}")
    _check_feature(a.audio)


def _check_feature(audio: AudioFeature) -> None:
    expected = WIDTHS.get(audio.name, audio.width)
    if audio.width != expected or not 1 <= audio.width <= 2048:
        raise _refuse("value", f"The audio feature {audio.name} cannot be {audio.width} wide")


def _check_tensors(where: str, tensors: Mapping[str, Floats], shapes: Shapes) -> None:
    for kind, names in (
        ("lacks", shapes.keys() - tensors.keys()),
        ("has the unknown", tensors.keys() - shapes.keys()),
    ):
        if names:
            first = ascii(min(names))[:120]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise _refuse("shape", f"{where} {kind} tensor {first}{more}")
    for name, shape in shapes.items():
        _check_array(f"{where}: {name}", tensors[name], shape)


def _check_array(what: str, array: NDArray[Any], shape: tuple[int, ...], dtype: type = np.float32) -> None:
    if array.dtype != dtype:
        raise _refuse("shape", f"{what} holds {array.dtype}, expected {np.dtype(dtype)}")
    if array.shape != shape:
        raise _refuse("shape", f"{what} has the shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise _refuse("value", f"{what} holds values that are not finite")


def _check_layer(where: str, layer: Gaussians, degree: int) -> None:
    count = len(layer.xyz) if layer.xyz.ndim else 0
    if not 1 <= count <= MAX_GAUSSIANS:
        raise _refuse("size", f"{where} has {count} Gaussians, not 1 to {MAX_GAUSSIANS}")
    for name, shape in _layer_shapes(count, degree).items():
        _check_array(f"{where}.{name}", getattr(layer, name), shape)
    if np.abs(layer.xyz).max() > MAX_METRES:
        raise _refuse("value", f"{where} has Gaussians more than {MAX_METRES:.0f} m from the head")
    if (np.linalg.norm(layer.rotation, axis=1) < 1e-12).any():
        raise _refuse("value", f"{where} has Gaussians with a rotation of length zero")


def _layer_shapes(count: int, degree: int) -> Shapes:
    bands = (degree + 1) ** 2
    return {
        "xyz": (count, 3),
        "sh": (count, bands, 3),
        "scale": (count, 3),
        "rotation": (count, 4),
        "opacity": (count,),
    }


def _check_poses(what: str, poses: Floats, count: int) -> None:
    _check_array(what, poses, (count, 4, 4))
    turn, place = poses[:, :3, :3], poses[:, :3, 3]
    rigid = np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max(initial=0) < 1e-3
    if not rigid or (np.linalg.det(turn) < 0).any() or (poses[:, 3] != (0, 0, 0, 1)).any():
        raise _refuse("value", f"{what} are not rotations and translations")
    if np.abs(place).max(initial=0) > MAX_METRES:
        raise _refuse("value", f"{what} lie more than {MAX_METRES:.0f} m away")


def _check_idle(a: Avatar) -> None:
    idle, plates = a.idle, a.plates
    count = len(idle.poses) if idle.poses.ndim else 0
    if not 1 <= count <= MAX_IDLE_FRAMES:
        raise _refuse("size", f"{IDLE} has {count} frames, not 1 to {MAX_IDLE_FRAMES}")
    _check_poses(f"{IDLE}: the poses", idle.poses, count)
    _check_array(f"{IDLE}: the action units", idle.action_units, (count, len(ACTION_UNITS)))
    if (idle.action_units < 0).any() or (idle.action_units > 5).any():
        raise _refuse("value", f"{IDLE}: the action units leave OpenFace's range of 0 to 5")
    _check_array(f"{IDLE}: the plate numbers", idle.plates, (count,), np.int32)
    if len(plates.torso) > MAX_PLATES:
        raise _refuse("size", f"Avatar {a.name} has {len(plates.torso)} torso plates, more than {MAX_PLATES}")
    _check_poses(f"{IDLE}: the plates' poses", plates.poses, len(plates.torso))
    if idle.plates.min() < -1 or idle.plates.max() >= len(plates.torso):
        raise _refuse("value", f"{IDLE} names a torso plate that does not exist")


def _check_pictures(a: Avatar) -> None:
    pictures = [("the background plate", a.plates.background, ("WebP", "PNG"))]
    pictures += [(f"torso plate {i}", picture, ("WebP", "PNG")) for i, picture in enumerate(a.plates.torso)]
    for what, data, kinds in (*pictures, ("the poster", a.poster, ("JPEG",))):
        kind, width, height = picture_size(data)
        if kind not in [k.lower() for k in kinds]:
            raise _refuse("value", f"Avatar {a.name}: {what} is not a picture in {' or '.join(kinds)}")
        if what == "the poster" and not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise _refuse("size", f"Avatar {a.name}: {what} has {width} x {height} pixels, more than {MAX_SIDE}")
        if what != "the poster" and (width, height) != (a.width, a.height):
            raise _refuse(
                "shape", f"Avatar {a.name}: {what} has {width} x {height} pixels, not {a.width} x {a.height}"
            )


def check(avatar: Avatar) -> None:
    """Raises AvatarError unless all is there, fits together and is finite. Reads the headers of pictures only."""
    _check_manifest(avatar)
    _check_layer("The face", avatar.face, avatar.sh_degree)
    _check_layer("The mouth", avatar.mouth, avatar.sh_degree)
    _check_tensors(MOTION, avatar.motion, motion_shapes(avatar.audio))
    if len(avatar.encoder) > MAX_ENCODER_TENSORS:
        raise _refuse("size", f"{AUDIO} has {len(avatar.encoder)} tensors, more than {MAX_ENCODER_TENSORS}")
    if avatar.audio.name == "mel" and not avatar.encoder:
        raise _refuse("missing", f"{AUDIO} is missing, and the audio feature mel has no other source")
    for name, tensor in avatar.encoder.items():
        _check_array(f"{AUDIO}: {ascii(name)[:120]}", tensor, tensor.shape)
    _check_baked(avatar)
    _check_idle(avatar)
    _check_pictures(avatar)


def _check_baked(a: Avatar) -> None:
    """Kinds and finite values here, and that it was baked of these Gaussians; the rest is known to its own reader."""
    if len(a.baked) > MAX_BAKED_TENSORS:
        raise _refuse("size", f"{HEAD} has {len(a.baked)} baked tensors, more than {MAX_BAKED_TENSORS}")
    for name, tensor in a.baked.items():
        dtype = np.int32 if tensor.dtype == np.int32 else np.float32
        _check_array(f"{HEAD}: {f'baked.{name}'[:120]!a}", tensor, tensor.shape, dtype)
    rows = {name: len(t) if t.ndim else 0 for name, t in a.baked.items()}
    moved = rows.get("moving", 0) + rows.get("still", 0), rows.get("mouth_encoding", 0)
    if a.baked and moved != (len(a.face), len(a.mouth)):
        what = f"{HEAD}: baked are {moved[0]} + {moved[1]} Gaussians, and there are {len(a.face)} + {len(a.mouth)}"
        raise _refuse("shape", what, "Bake the motion again.")


# Reading


def _read(folder: Path, path: str, most: int) -> bytes:
    """A plain file within the folder, at most `most` bytes; links, devices and pipes are refused."""
    at = folder / path
    try:
        if at.parent != folder and not stat.S_ISDIR(os.lstat(at.parent).st_mode):
            raise _refuse("path", f"{folder.name}/{path} lies behind a link")
        before = os.lstat(at)
        if not stat.S_ISREG(before.st_mode):
            raise _refuse("path", f"{folder.name}/{path} is not a plain file")
        if before.st_size > most:
            raise _refuse("size", f"{folder.name}/{path} has {before.st_size} bytes, more than {most}")
        with at.open("rb") as file:
            return file.read(most)
    except FileNotFoundError as e:
        raise _refuse("missing", f"{folder.name}/{path} is missing") from e
    except OSError as e:
        raise _refuse("missing", f"{folder.name}/{path} cannot be read: {e.strerror}") from e


def manifest(folder: Path) -> Manifest:
    """manifest.json alone, checked; enough to list people without loading them. Raises AvatarError."""
    if not (folder / "manifest.json").exists():
        raise _refuse("missing", f"{folder} has no manifest.json", "Give the path of an avatar's own folder.")
    data = _read(folder, "manifest.json", MAX_MANIFEST_BYTES)
    where = f"{folder.name}/manifest.json"
    try:
        kind = msgspec.json.decode(data, type=_Kind)
        if kind.format != FORMAT:
            raise _refuse(
                "manifest", f"{where} does not describe an avatar", "Give the path of an avatar's own folder."
            )
        if kind.version != VERSION:
            remedy = "Get a newer visavis, or train or import the person again with this one."
            raise _refuse("version", f"{where} has version {kind.version}, and this program reads {VERSION}", remedy)
        sheet = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise _refuse("manifest", f"{where} cannot be understood: {e}") from e
    _check_manifest(sheet)
    _check_files(where, sheet)
    return sheet


def _check_files(where: str, sheet: Manifest) -> None:
    paths = [file.path for file in sheet.files]
    torso = []
    for path in paths:
        plate = TORSO.fullmatch(path)
        if plate:
            torso.append(int(plate[1]))
        elif path not in (HEAD, MOTION, AUDIO, IDLE, POSTER) and not BACKGROUND.fullmatch(path):
            raise _refuse("path", f"{where} lists {path!a}, which is no file of an avatar")
    if len(set(paths)) < len(paths) or sorted(torso) != list(range(len(torso))):
        raise _refuse("manifest", f"{where} lists a file twice or leaves out a torso plate")
    if sum(1 for path in paths if BACKGROUND.fullmatch(path)) != 1:
        raise _refuse("missing", f"{where} must list one background plate")
    for path in (HEAD, MOTION, IDLE, POSTER):
        if path not in paths:
            raise _refuse("missing", f"{where} does not list {path}")
    total = sum(file.bytes for file in sheet.files)
    if total > MAX_TOTAL_BYTES or max(file.bytes for file in sheet.files) > MAX_FILE_BYTES:
        raise _refuse("size", f"{where} lists {total} bytes, more than an avatar may have")


def _tensors(where: str, data: bytes) -> dict[str, Floats]:
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise _refuse("shape", f"{where} is not a file of numpy tensors: {e}") from e
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
                    raise _refuse("size", f"{where}: {name} is packed or claims {info.file_size} bytes")
                body = io.BytesIO(archive.read(info))
                if np.lib.format.read_magic(body) != (1, 0):
                    raise ValueError(f"{name} is in an unknown version of the npy format")
                shape, fortran, found = np.lib.format.read_array_header_1_0(body)
                if found != np.dtype(dtype) or fortran:
                    raise _refuse("shape", f"{where}: {name} holds {found}, expected {np.dtype(dtype)}")
                # ValueError unless the bytes are just as many as the shape needs
                arrays[name] = np.frombuffer(body.read(), dtype).reshape(shape)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, RuntimeError, OSError, struct.error) as e:
        raise _refuse("shape", f"{where} is not a file of numpy arrays: {e}") from e
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
        data = contents[file.path] = _read(folder, file.path, file.bytes)
        # what was hashed is what is used: the file is read once
        if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
            raise _refuse("hash", f"{folder.name}/{file.path} is not the file that was saved: its SHA-256 differs")

    head = _tensors(f"{folder.name}/{HEAD}", contents[HEAD])
    baked = {name.removeprefix(BAKED): head.pop(name) for name in list(head) if name.startswith(BAKED)}
    names = {f"{layer}.{part}" for layer in LAYERS for part in _layer_shapes(1, 0)}
    if head.keys() != names:
        odd = ascii(min(head.keys() ^ names))[:120]
        raise _refuse(
            "shape", f"{folder.name}/{HEAD} does not have the tensors of a head: {odd} is missing or unknown"
        )
    face, mouth = (Gaussians(**{part: head[f"{layer}.{part}"] for part in _layer_shapes(1, 0)}) for layer in LAYERS)
    idle = _idle_arrays(f"{folder.name}/{IDLE}", contents[IDLE], IDLE_ARRAYS)
    torso = sorted(path for path in contents if TORSO.fullmatch(path))
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
        motion=_tensors(f"{folder.name}/{MOTION}", contents[MOTION]),
        plates=Plates(
            background=next(data for path, data in contents.items() if BACKGROUND.fullmatch(path)),
            torso=tuple(contents[path] for path in torso),
            poses=idle["plate_poses"],
        ),
        idle=Idle(idle["poses"], idle["action_units"], idle["plates"]),
        poster=contents[POSTER],
        encoder=_tensors(f"{folder.name}/{AUDIO}", contents[AUDIO]) if AUDIO in contents else {},
        baked=baked,
    )
    check(avatar)
    return avatar


# Writing


def _contents(avatar: Avatar) -> Iterator[tuple[str, bytes]]:
    head = {
        f"{layer}.{part}": np.ascontiguousarray(getattr(getattr(avatar, layer), part))
        for layer in LAYERS
        for part in _layer_shapes(1, 0)
    }
    head |= {f"{BAKED}{name}": np.ascontiguousarray(tensor) for name, tensor in avatar.baked.items()}
    yield HEAD, save_tensors(head)
    yield MOTION, save_tensors({name: np.ascontiguousarray(t) for name, t in avatar.motion.items()})
    if avatar.encoder:
        yield AUDIO, save_tensors({name: np.ascontiguousarray(t) for name, t in avatar.encoder.items()})
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


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _writing(target: Path) -> Iterator[None]:
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
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
            new, old = Path(work) / "new", Path(work) / "old"
            (new / "plates").mkdir(parents=True)
            files = []
            for path, data in _contents(avatar):
                _write(new / path, data)
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
            _write(new / "manifest.json", msgspec.json.format(msgspec.json.encode(sheet), indent=2))
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise


# The universal motion field


def _check_field(where: str, motion: MotionField) -> None:
    _check_text("licence", motion.licence)
    _check_text("source", motion.source)
    _check_feature(motion.audio)
    shapes = _prefixed("face", field_shapes("face", motion.audio))
    _check_tensors(where, motion.tensors, shapes | _prefixed("mouth", field_shapes("mouth", motion.audio)))


class _FieldHead(msgspec.Struct):
    """The metadata of a motion field's safetensors file: text only, as the format wants it."""

    format: str = ""
    version: str = ""
    licence: str = ""
    source: str = ""
    feature: str = ""
    width: str = ""


class _Header(msgspec.Struct):
    metadata: _FieldHead = msgspec.field(name="__metadata__", default_factory=_FieldHead)


def save_field(motion: MotionField, path: Path) -> None:
    """Check a universal motion field and write it as one safetensors file, whole or not at all."""
    _check_field(path.name, motion)
    head = _FieldHead(
        FIELD_FORMAT, FIELD_VERSION, motion.licence, motion.source, motion.audio.name, str(motion.audio.width)
    )
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in motion.tensors.items()}
    data = save_tensors(tensors, metadata=msgspec.to_builtins(head))
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as work:
            _write(Path(work) / "new", data)
            (Path(work) / "new").replace(path)


def load_field(path: Path) -> MotionField:
    """Read and check a universal motion field. Raises AvatarError with a sentence for people."""
    data = _read(path.absolute().parent, path.name, MAX_FILE_BYTES)
    remedy = "Give the file of a universal motion field, or make it again."
    tensors = _tensors(path.name, data)  # from here on the header is known to be sound
    try:
        head = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")], type=_Header).metadata
        if head.format != FIELD_FORMAT:
            raise _refuse("manifest", f"{path.name} is not a universal motion field", remedy)
        if head.version != FIELD_VERSION:
            what = f"{path.name} has version {head.version[:20]!a}, and this program reads {FIELD_VERSION}"
            raise _refuse("version", what, "Get a newer visavis, or a field made for this one.")
        audio = msgspec.convert({"name": head.feature, "width": head.width}, AudioFeature, strict=False)
    except msgspec.DecodeError as e:
        raise _refuse("manifest", f"{path.name} does not say what it is: {e}", remedy) from e
    motion = MotionField(head.licence, head.source, audio, tensors)
    _check_field(path.name, motion)
    return motion
