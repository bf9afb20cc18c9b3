"""People from elsewhere: checkpoints of InsTaG and TalkingGaussian, and the data behind them, become avatars.

    python -m render.importer CHECKPOINT_OR_FOLDER... --data DATASET --name mia --out avatars/mia
    python -m render.importer PRETRAINED_FOLDER --out field.safetensors

The official programs save a tuple of everything they know. What a face needs of it is taken, by the names and shapes
of the state dicts, and what is missing is named. TalkingGaussian becomes a special case of InsTaG without loss: an
aligner of zeros moves nothing, and a scaler of zeros scales by one. The checkpoint says nothing about what is behind
the head, nor where the head was; plates, poses and action units come from the dataset's folder.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from render.avatar import (
    ACTION_UNITS,
    MAX_GAUSSIANS,
    MAX_SH_DEGREE,
    PLANES,
    WIDTHS,
    AudioFeature,
    Avatar,
    Camera,
    Extractor,
    Floats,
    Gaussians,
    Idle,
    MotionField,
    Plates,
    Shapes,
    aligner_shapes,
    field_shapes,
    save,
    save_field,
)
from render.pictures import MAX_SIDE, decode, picture_size
from render.torchfile import CheckpointError, numbers, opened
from server.core.errors import VisavisError

Part = Literal["face", "mouth"]
PARTS: tuple[Part, ...] = ("face", "mouth")
Report = Callable[[str], None]

LICENCE = (
    "Not stated. InsTaG and TalkingGaussian and what is trained with them are for research only; ask the person."
)

OFFSETS: Mapping[Part, tuple[int, ...]] = {
    "face": (0, 296, 664, 1064, 1552, 2088, 2720, 3456, 4304, 5328, 6488, 7864, 9464),
    "mouth": (0, 4232, 8464, 12560, 16656, 20632, 24608, 28456, 32184, 35912, 39512, 43112, 46600),
}
"""where each of the 12 levels of a plane begins: tells that a grid has the one layout that our encoder reads"""

FPS = 25
MAX_LOOP_FRAMES = 500  # 20 s: the longest clip that few-shot training uses
MIN_LOOP_FRAMES = 25
MAX_TEXT_BYTES = 64 << 20  # of a table of poses or action units: hours of video
MAX_PICTURE_BYTES = 32 << 20
PLATE_QUALITY = 92  # of WebP; above that the file grows and nothing else


class ImportRefused(VisavisError):
    """Something is missing or does not fit: `import_missing` or `import_unknown`."""


def _missing(message: str) -> ImportRefused:
    return ImportRefused("import_missing", message)


def _tensor(message: str) -> CheckpointError:
    return CheckpointError("checkpoint_tensor", message)


# Checkpoints


@dataclass(frozen=True, eq=False)
class Head:
    """What training learned about one person, face or mouth."""

    gaussians: Gaussians
    sh_degree: int
    aligner: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class Branch:
    """One half of a talking head, in InsTaG's terms whoever made it."""

    part: Part
    made_by: str  # InsTaG or TalkingGaussian
    audio: AudioFeature
    field: Mapping[str, Floats]
    head: Head | None  # none in a pre-trained universal field


@dataclass(frozen=True, eq=False)
class Source:
    """Face and mouth as the checkpoints have them, and what a person should know about how they were read."""

    face: Branch
    mouth: Branch
    files: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_person(self) -> bool:
        """False for a universal field, which belongs to nobody."""
        return self.face.head is not None and self.mouth.head is not None

    @property
    def origin(self) -> str:
        return f"Imported from {', '.join(self.files)} ({self.face.made_by}, audio feature {self.face.audio.name})."


def _numbers(where: str, value: object, shape: tuple[int, ...]) -> NDArray[Any]:
    if getattr(value, "shape", shape) != shape:  # tensors know it before they are read
        raise _tensor(f"{where} has the shape {getattr(value, 'shape', None)}, expected {shape}.")
    array = numbers(value)
    if array is None or array.shape != shape:
        raise _tensor(f"{where} is not a tensor of the shape {shape}.")
    return array


def _floats(where: str, value: object, shape: tuple[int, ...]) -> Floats:
    array = _numbers(where, value, shape)
    if array.dtype.kind != "f":
        raise _tensor(f"{where} holds {array.dtype}, expected floating-point numbers.")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise _tensor(f"{where} holds values that are not finite: its training went wrong. Take an earlier one.")
    return array


def _shape(state: Mapping[Any, Any], name: str) -> tuple[int, ...]:
    """() if there is no such tensor."""
    value = state.get(name)
    array = getattr(value, "shape", ())
    return array if isinstance(array, tuple) else ()


def _take(where: str, state: object, shapes: Shapes) -> dict[str, Floats]:
    """The tensors that `shapes` lists."""
    if not isinstance(state, dict):
        raise _tensor(f"{where} is not a state dict.")
    absent = [name for name in shapes if name not in state]
    if absent:
        more = f" and {len(absent) - 1} more of the {len(shapes)} tensors" if len(absent) > 1 else ""
        raise _tensor(f"{where} lacks {absent[0]}{more} that it should have.")
    return {name: _floats(f"{where}: {name}", state[name], shape) for name, shape in shapes.items()}


def _check_grid(where: str, state: Mapping[Any, Any], layout: Part) -> None:
    for plane in PLANES:
        name = f"encoder_{plane}.offsets"
        if name not in state:
            raise _tensor(f"{where} lacks {name}.")
        offsets = _numbers(f"{where}: {name}", state[name], (len(OFFSETS[layout]),))
        if tuple(offsets.tolist()) != OFFSETS[layout]:
            raise _tensor(f"{where}: {name} tells of a grid of another layout; only the official sizes can be read.")


def _audio(where: str, state: Mapping[Any, Any]) -> AudioFeature:
    """Which extractor a field listens to, told by the shape of its audio net."""
    convolutional = _shape(state, "audio_net.encoder_conv.0.weight")
    shape = convolutional or _shape(state, "audio_net.encoder_fc1.0.weight")
    width = shape[1] if len(shape) > 1 else 0
    names: list[Extractor] = [n for n, w in WIDTHS.items() if w == width and (n == "ave") != bool(convolutional)]
    if not names:
        known = ", ".join(f"{name} ({w})" for name, w in WIDTHS.items())
        raise _tensor(f"{where} listens to {width} values a frame; known are {known}.")
    return AudioFeature(name=names[0], width=width)


def _widened(tensor: Floats, rows: int, columns: int) -> Floats:
    """Zeros below and to the right: inputs that count for nothing, outputs that are nothing."""
    return np.pad(tensor, ((0, rows - tensor.shape[0]), (0, columns - tensor.shape[1])))


def _field(where: str, state: object) -> tuple[Part, str, AudioFeature, dict[str, Floats]]:
    """The motion field of a state dict: which part it moves, who made it, what it hears, its tensors."""
    if not isinstance(state, dict):
        raise _tensor(f"{where} has no motion field where one should be.")
    audio = _audio(where, state)
    part: Part = "face" if "exp_encode_net.net.0.weight" in state else "mouth"
    where = f"{where}, {part}"
    shapes = field_shapes(part, audio)
    if part == "mouth" and _shape(state, "sigma_net.net.0.weight")[1:] == (68,):
        # TalkingGaussian: no hook from the face (3 inputs), no rotation (4 outputs), no scaler
        narrow = {k: v for k, v in shapes.items() if not k.startswith("scaler_net")}
        narrow |= {"sigma_net.net.0.weight": (32, 68), "sigma_net.net.2.weight": (3, 32)}
        field = _take(where, state, narrow)
        field |= {
            name: _widened(field[name], *shapes[name])
            for name in ("sigma_net.net.0.weight", "sigma_net.net.2.weight")
        }
        field |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name not in narrow}
        made_by = "TalkingGaussian"
    else:
        field = _take(where, state, shapes)
        made_by = "InsTaG"
    _check_grid(where, state, part)
    return part, made_by, audio, field


def _gaussians(where: str, capture: Sequence[Any]) -> tuple[Gaussians, int]:
    """Entries 0 to 7 of a capture: the active degree and the raw tensors of the Gaussians."""
    count = _shape({"xyz": capture[1]}, "xyz")[:1]
    bands = _shape({"rest": capture[3]}, "rest")[1:2]
    if not count or not 1 <= count[0] <= MAX_GAUSSIANS:
        raise _tensor(f"{where} has {count[0] if count else 'no'} Gaussians, not 1 to {MAX_GAUSSIANS}.")
    n, k = count[0], (bands[0] if bands else 0) + 1
    degree = int(k**0.5) - 1
    if (degree + 1) ** 2 != k or degree > MAX_SH_DEGREE:
        raise _tensor(f"{where} has {k} coefficients of spherical harmonics a colour, not 1, 4, 9 or 16.")
    active = capture[0]
    if type(active) is not int or not 0 <= active <= degree:
        raise _tensor(f"{where} uses spherical harmonics of degree {active!r:.20}, and has them up to {degree}.")
    shapes = {"_features_dc": (n, 1, 3), "_features_rest": (n, k - 1, 3), "_xyz": (n, 3)}
    shapes |= {"_scaling": (n, 3), "_rotation": (n, 4), "_opacity": (n, 1)}
    places = {"_xyz": 1, "_features_dc": 2, "_features_rest": 3, "_scaling": 5, "_rotation": 6, "_opacity": 7}
    raw = {name: _floats(f"{where}: {name}", capture[at], shapes[name]) for name, at in places.items()}
    sh = np.concatenate([raw["_features_dc"], raw["_features_rest"]], 1)
    layer = Gaussians(
        xyz=raw["_xyz"],
        sh=np.ascontiguousarray(sh[:, : (active + 1) ** 2]),  # training had not reached the bands beyond
        scale=raw["_scaling"],
        rotation=raw["_rotation"],
        opacity=raw["_opacity"][:, 0],
    )
    return layer, active


def _branch(where: str, state: object, capture: Sequence[Any] | None) -> Branch:
    part, made_by, audio, field = _field(where, state)
    if capture is None:
        return Branch(part, made_by, audio, field, None)
    where = f"{where}, {part}"
    layer, degree = _gaussians(where, capture)
    shapes = aligner_shapes(part)
    if len(capture) == 15:
        aligner = _take(f"{where}, aligner", capture[14], shapes)
        _check_grid(f"{where}, aligner", capture[14], "face")  # both parts' aligners have the face's layout
    else:
        aligner = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    if part == "mouth" and made_by != _maker(capture):
        raise _tensor(f"{where} has the motion field of {made_by} and the Gaussians of {_maker(capture)}.")
    return Branch(part, _maker(capture), audio, field, Head(layer, degree, aligner))


def _maker(capture: Sequence[Any]) -> str:
    return "InsTaG" if len(capture) == 15 else "TalkingGaussian"


def _is_capture(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) in (13, 15)


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and "encoder_xy.embeddings" in value


def read_checkpoint(path: Path) -> list[Branch]:
    """The branches in one file: two of a fuse checkpoint, one of a face, a mouth or a universal field's half.

    Raises CheckpointError with a sentence for people; nothing in the file is ever run.
    """
    with opened(path) as root:
        match root:
            case (face, face_state, mouth, mouth_state) if _is_capture(face) and _is_capture(mouth):
                branches = [_branch(path.name, face_state, face), _branch(path.name, mouth_state, mouth)]
                if [b.part for b in branches] != ["face", "mouth"]:
                    raise _tensor(f"{path.name} holds a {branches[0].part} and a {branches[1].part}.")
                return branches
            case (capture, state, *_) if len(root) == 4 and _is_capture(capture) and _is_state(state):
                return [_branch(path.name, state, capture)]
            case (state, *_) if len(root) == 3 and _is_state(state):
                return [_branch(path.name, state, None)]
    raise CheckpointError(
        "checkpoint_format",
        f"{path.name} is none of the checkpoints that InsTaG or TalkingGaussian write. "
        "Give chkpnt_fuse_latest.pth, or the face's and the mouth's.",
    )


CHOICES = (
    ("chkpnt_fuse_latest.pth",),
    ("chkpnt_ema_face_latest.pth", "chkpnt_ema_mouth_latest.pth"),  # adaptation starts from the averaged weights
    ("chkpnt_face_latest.pth", "chkpnt_mouth_latest.pth"),
)
"""what to take from a folder, best first"""


def find(paths: Sequence[Path]) -> list[Path]:
    """The checkpoints meant by files and folders. Raises ImportRefused for a folder without any."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        names = next((names for names in CHOICES if all((path / name).is_file() for name in names)), None)
        if names is None:
            wanted = "; or ".join(" and ".join(names) for names in CHOICES)
            raise _missing(f"{path} holds no complete set of checkpoints. It needs {wanted}.")
        found += [path / name for name in names]
    return found


def read_source(paths: Sequence[Path]) -> Source:
    """Face and mouth from checkpoint files or folders. Raises CheckpointError or ImportRefused."""
    files = find(paths)
    if not 1 <= len(files) <= 2:
        raise _missing("Give one checkpoint with face and mouth (chkpnt_fuse_latest.pth), or one of each.")
    branches = [branch for path in files for branch in read_checkpoint(path)]
    names = " and ".join(path.name for path in files)
    for part in PARTS:
        if sum(branch.part == part for branch in branches) != 1:
            have = " and ".join(branch.part for branch in branches)
            raise _missing(f"{names} holds {have}; exactly one face and one mouth are needed.")
    face, mouth = sorted(branches, key=lambda branch: branch.part)
    if (face.head is None) != (mouth.head is None):
        raise _missing(f"{names}: one belongs to a person, the other is a universal field. Give two of a kind.")
    if face.audio != mouth.audio:
        raise _tensor(f"{names}: the face listens to {face.audio.name}, the mouth to {mouth.audio.name}.")
    if face.head and face.made_by != mouth.made_by:
        raise _tensor(f"{names}: the face is {face.made_by}'s, the mouth {mouth.made_by}'s.")
    notes = []
    if face.head and len(files) == 2:
        notes.append(
            "The colours of face and mouth were not fitted to each other: chkpnt_fuse_latest.pth was not given."
        )
    return Source(face, mouth, tuple(path.name for path in files), tuple(notes))


# The dataset's folder (/specs/instag.md §1.1)


class _Frame(msgspec.Struct):
    img_id: Annotated[int, msgspec.Meta(ge=0)]
    transform_matrix: list[list[float]]


class _Transforms(msgspec.Struct):
    focal_len: float
    frames: list[_Frame]


@dataclass(frozen=True, eq=False)
class Scene:
    """What surrounds a head: the camera, what is behind the head, where it was."""

    width: int
    height: int
    camera: Camera
    plates: Plates
    idle: Idle
    poster: bytes
    notes: tuple[str, ...]


def _bytes(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as e:
        raise _missing(f"{path.parent.name}/{path.name} cannot be read: {e.strerror}.") from e
    if len(data) > most:
        raise ImportRefused("import_unknown", f"{path.parent.name}/{path.name} has more than {most >> 20} MiB.")
    return data


def _picture(path: Path, size: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    """(height, width, channels); `size` is (width, height)."""
    data = _bytes(path, MAX_PICTURE_BYTES)
    where = f"{path.parent.name}/{path.name}"
    kind, width, height = picture_size(data)
    if not kind or max(width, height) > MAX_SIDE:
        raise ImportRefused("import_unknown", f"{where} is not a picture of at most {MAX_SIDE} pixels a side.")
    if size is not None and (width, height) != size:
        message = f"{where} has {width} x {height} pixels, bc.jpg {size[0]} x {size[1]}. Prepare the data again."
        raise ImportRefused("import_unknown", message)
    try:
        pixels = decode(data)
    except VisavisError as e:
        raise ImportRefused("import_unknown", f"{where} cannot be decoded. Prepare the data again.") from e
    if pixels.shape[2] != channels:
        what = "no alpha" if channels == 4 else "alpha"
        raise ImportRefused("import_unknown", f"{where} has {what}, unlike a dataset's. Prepare the data again.")
    return pixels


def _encoded(kind: str, pixels: NDArray[np.uint8], *options: int) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, data = cv2.imencode(kind, cv2.cvtColor(pixels, order), options)
    if not done:
        raise ImportRefused(
            "import_unknown", f"This machine's OpenCV cannot write {kind} pictures. Install it again."
        )
    return data.tobytes()


def _poses(path: Path) -> tuple[float, list[int], Floats]:
    """Focal length in pixels, frame numbers and world-to-camera poses (n, 4, 4) in OpenCV's axes."""
    try:
        table = msgspec.json.decode(_bytes(path, MAX_TEXT_BYTES), type=_Transforms)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ImportRefused("import_unknown", f"{path.name} cannot be understood: {e}.") from e
    if not table.frames:
        raise _missing(f"{path.name} has no frames.")
    frames = {frame.img_id: frame.transform_matrix for frame in table.frames}
    ids = sorted(frames)
    if any(len(m) != 4 or any(len(row) != 4 for row in m) for m in frames.values()):
        raise ImportRefused("import_unknown", f"{path.name} has a pose that is not a 4 x 4 matrix.")
    to_world = np.array([frames[i] for i in ids])
    turn = to_world[:, :3, :3]
    if not (np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)) < 1e-3).all() or (np.linalg.det(turn) < 0).any():
        raise ImportRefused("import_unknown", f"{path.name} has a pose that is not a rotation and a translation.")
    # OpenGL's camera looks along -z with y up; OpenCV's along z with y down
    turn = turn * (1, -1, -1)
    poses = np.tile(np.eye(4), (len(ids), 1, 1))
    poses[:, :3, :3] = turn.transpose(0, 2, 1)
    poses[:, :3, 3] = -(poses[:, :3, :3] @ to_world[:, :3, 3:])[..., 0]
    return table.focal_len, ids, poses.astype(np.float32)


def _action_units(path: Path, frames: Sequence[int]) -> Floats:
    """(n, 6), see ACTION_UNITS: row i of OpenFace's table is frame i. Blinks end at 2, as for InsTaG's reader."""
    text = _bytes(path, MAX_TEXT_BYTES).decode("utf-8", "replace")
    rows = csv.reader(text.splitlines())
    columns = [name.strip() for name in next(rows, [])]  # OpenFace writes a space before each
    names = [f"{unit}_r" for unit in ACTION_UNITS]
    absent = [name for name in names if name not in columns]
    if absent:
        raise _missing(f"au.csv lacks {', '.join(absent)}; write it again with OpenFace's FeatureExtraction -aus.")
    table = [row for row in rows if row]
    if len(table) <= frames[-1]:
        raise _missing(f"au.csv has {len(table)} rows, and the poses go on to frame {frames[-1]}.")
    places = [columns.index(name) for name in names]
    try:
        units = np.array([[float(table[i][place]) for place in places] for i in frames], np.float32)
    except (ValueError, IndexError) as e:
        raise ImportRefused("import_unknown", f"au.csv has a row that is not numbers: {e}.") from e
    if not np.isfinite(units).all():
        raise ImportRefused("import_unknown", "au.csv has values that are not finite. Write it again with OpenFace.")
    return np.clip(units, 0, (5, 5, 5, 5, 5, 2)).astype(np.float32)


def _longest_run(frames: Sequence[int]) -> slice:
    """Where frame numbers follow each other longest."""
    breaks = [0, *(i for i in range(1, len(frames)) if frames[i] != frames[i - 1] + 1), len(frames)]
    start, end = max(pairwise(breaks), key=lambda run: run[1] - run[0])
    return slice(start, min(end, start + MAX_LOOP_FRAMES))


def closed_loop(poses: Floats) -> list[int]:
    """Frames in an order that repeats without a jump: there and back between two moments when the head is still.

    The plates are pictures of real frames, so the loop must not leave them. It turns where the head moves least, in
    the first and in the last quarter of the clip.
    """
    count = len(poses)
    if count < 4:
        return [*range(count), *range(count - 2, 0, -1)]
    step = np.diff(poses[:, :3], axis=0)
    # metres, and rotation as the way of a point 10 cm from the head's centre
    way = np.linalg.norm(step[..., 3], axis=1) + 0.1 * np.linalg.norm(step[..., :3], axis=(1, 2))
    around = np.convolve(way, [1, 1])[: count - 1] / 2  # between the steps before and after each frame
    quarter = count // 4
    first = int(np.argmin(around[1 : quarter + 1])) + 1 if quarter > 0 else 0
    last = count - 1 - quarter + int(np.argmin(around[count - 1 - quarter : count - 1]))
    return [*range(first, last + 1), *range(last - 1, first, -1)]


def read_scene(data: Path, report: Report = lambda line: None) -> Scene:
    """Plates, poses and action units of a dataset's folder. Raises ImportRefused and names whatever is missing."""
    needed = {
        "transforms_train.json": "poses of the head",
        "au.csv": "action units",
        "bc.jpg": "the background",
        "torso_imgs": "pictures of torso and neck",
    }
    absent = [f"{name} ({what})" for name, what in needed.items() if not (data / name).exists()]
    portraits = next((data / name for name in ("gt_imgs", "ori_imgs") if (data / name).is_dir()), None)
    if portraits is None:
        absent.append("gt_imgs or ori_imgs (frames)")
    if absent or portraits is None:
        raise _missing(f"{data} lacks {', '.join(absent)}. Prepare the data as InsTaG's process.py does.")

    notes = []
    focal_px, frames, poses = _poses(data / "transforms_train.json")
    run = _longest_run(frames)
    frames, poses = frames[run], poses[run]
    if len(frames) < MIN_LOOP_FRAMES:
        notes.append(f"Only {len(frames)} frames in a row have poses: the idle loop is short.")
    units = _action_units(data / "au.csv", frames)
    order = closed_loop(poses)
    first, last = min(order), max(order)
    kept = frames[first : last + 1]
    pictures = [data / "torso_imgs" / f"{i}.png" for i in kept]
    gone = [path.name for path in pictures if not path.is_file()]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise _missing(f"{data}/torso_imgs lacks {gone[0]}{more}. Prepare the data as InsTaG's process.py does.")

    background = _picture(data / "bc.jpg", None, 3)
    height, width = background.shape[:2]
    torso = []
    for i, path in enumerate(pictures):
        pixels = _picture(path, (width, height), 4)
        torso.append(_encoded(".webp", pixels, cv2.IMWRITE_WEBP_QUALITY, PLATE_QUALITY))
        if (i + 1) % 50 == 0 or i + 1 == len(pictures):
            report(f"torso plate {i + 1} of {len(pictures)}")
    portrait = _picture(portraits / f"{kept[0]}.jpg", (width, height), 3)
    return Scene(
        width=width,
        height=height,
        camera=Camera(
            focal_px=focal_px, cx=width / 2, cy=height / 2
        ),  # as InsTaG's reader: the file's cx is not read
        plates=Plates(
            background=_encoded(".webp", background, cv2.IMWRITE_WEBP_QUALITY, 95),
            torso=tuple(torso),
            poses=poses[first : last + 1],
        ),
        idle=Idle(poses[order], units[order], np.array(order, np.int32) - np.int32(first)),
        poster=_encoded(".jpg", portrait, cv2.IMWRITE_JPEG_QUALITY, 92),
        notes=tuple(notes),
    )


# The two together


def _padded(head: Head, degree: int) -> Gaussians:
    """The same Gaussians with as many bands of spherical harmonics as `degree` has; the new ones are zero."""
    g, bands = head.gaussians, (degree + 1) ** 2
    sh = np.pad(g.sh, ((0, 0), (0, bands - g.sh.shape[1]), (0, 0)))
    return Gaussians(g.xyz, sh, g.scale, g.rotation, g.opacity)


def avatar(source: Source, scene: Scene, name: str, title: str = "", licence: str = LICENCE) -> Avatar:
    """A person, checked only when it is saved. Raises ImportRefused for a universal field."""
    face, mouth = source.face.head, source.mouth.head
    if face is None or mouth is None:
        message = f"{' and '.join(source.files)} is a universal field and no person. Train one from it."
        raise ImportRefused("import_unknown", message)
    degree = max(face.sh_degree, mouth.sh_degree)
    motion: dict[str, Floats] = {}
    for branch, head in ((source.face, face), (source.mouth, mouth)):
        motion |= {f"{branch.part}.{key}": tensor for key, tensor in branch.field.items()}
        motion |= {f"{branch.part}_aligner.{key}": tensor for key, tensor in head.aligner.items()}
    return Avatar(
        name=name,
        title=title or name.title(),
        licence=licence,
        source=source.origin,
        fps=FPS,
        width=scene.width,
        height=scene.height,
        camera=scene.camera,
        audio=source.face.audio,
        sh_degree=degree,
        face=_padded(face, degree),
        mouth=_padded(mouth, degree),
        motion=motion,
        plates=scene.plates,
        idle=scene.idle,
        poster=scene.poster,
    )


def universal_field(source: Source, licence: str = LICENCE) -> MotionField:
    """What of a source belongs to nobody in particular."""
    tensors = {f"{b.part}.{key}": tensor for b in (source.face, source.mouth) for key, tensor in b.field.items()}
    return MotionField(licence, source.origin, source.face.audio, tensors, "own")


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 when something was written, 1 with a sentence on stderr when it was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m render.importer",
        description="Official checkpoints of InsTaG and TalkingGaussian become an avatar's folder, "
        "pre-trained universal fields one safetensors file. Nothing in a checkpoint is ever run.",
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoint files (.pth), or a folder with them")
    parser.add_argument("--data", type=Path, help="the dataset's folder: plates, poses and action units")
    parser.add_argument("--out", type=Path, required=True, help="the avatar's folder, or FIELD.safetensors")
    parser.add_argument("--name", help="what calls choose the person by (default: the folder's name)")
    parser.add_argument("--title", default="", help="what people call the person")
    parser.add_argument("--licence", default=LICENCE, help="under which terms the person may be shown and passed on")
    options = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    try:
        source = read_source(options.checkpoints)
        for note in source.notes:
            say(note)
        if not source.is_person:
            if options.out.suffix != ".safetensors":
                raise _missing(
                    "A universal field is written to one file: give --out a name that ends in .safetensors."
                )
            save_field(universal_field(source, options.licence), options.out)
            print(f"{options.out}: universal motion field, audio feature {source.face.audio.name}")
            return 0
        if options.data is None:
            raise _missing(
                "--data is missing: plates, poses and action units are not in a checkpoint. "
                "Give the dataset's folder on which the person was trained."
            )
        scene = read_scene(options.data, say)
        for note in scene.notes:
            say(note)
        person = avatar(source, scene, options.name or options.out.name, options.title, options.licence)
        save(person, options.out)
    except VisavisError as e:
        say(e.message)
        return 1
    print(
        f"{options.out}: {person.title}, {len(person.face)} + {len(person.mouth)} Gaussians, "
        f"audio feature {person.audio.name}, {len(person.idle.poses)} idle frames"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
