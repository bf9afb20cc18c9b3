"""The dataset folder of one person (InsTaG's layout, /specs/instag.md §1.1): what adaptation learns from.

    transforms_train.json, transforms_val.json      poses and focal length
    au.csv                                          action units, OpenFace's columns
    aud.wav                                         the voice
    bc.jpg                                          the background plate
    gt_imgs/ or ori_imgs/<i>.jpg                    the frames
    parsing/<i>.png                                 labels as colours
  and, where they are known (soft coverage is used instead of labels, metric depth instead of a random start):
    person/, head/, eyes/<i>.png                    coverage of the person, of head and hair, of the eyes; grey
    torso_pass/<i>.png                              RGBA: the same without the head
    torso_imgs/<i>.png                              RGBA: torso and neck, in-painted under the chin
    teeth_mask/<i>.npy                              teeth, which belong to the mouth
    gaze.csv                                        frame, right, up: radians
    depth/<i>.npy                                   metres along the view axis, 0 for none
    sapiens/normal/*/<i>.npy                        normals in the camera's axes: x right, y up, z to the viewer
    ori_imgs/<i>.lms                                68 landmarks, pixels
    transforms_idle.json, au_idle.csv               somebody who listens, for the idle loop

Pictures are read one by one when asked for. What is damaged is refused in one sentence.
"""

import csv
import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from render.avatar import ACTION_UNITS
from server.core.errors import VisavisError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

FPS = 25
RATE = 16000
MAX_FRAMES = 15_000  # ten minutes
MIN_FRAMES = 25
SIDES = (32, 2048)  # pixels
MAX_TEXT_BYTES = 64 << 20

BACKGROUND, FACE, HAIR, CLOTH, MOUTH, NECK, EYES = range(7)
"""labels; eyes only where eyes/ tells them from the face"""
COLOURS = {
    (255, 255, 255): BACKGROUND,
    (0, 0, 255): FACE,
    (0, 0, 0): HAIR,
    (255, 0, 0): CLOTH,
    (100, 100, 100): MOUTH,
    (0, 255, 0): NECK,
}
"""of parsing/, RGB"""


class DatasetError(VisavisError):
    """A dataset folder is refused: dataset_ missing, shape or value."""


def _refuse(kind: str, what: str, remedy: str) -> DatasetError:
    return DatasetError(f"dataset_{kind}", f"{what}. {remedy}")


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame of the clip, without its picture."""

    index: int
    """its file's number; it owns the voice from index / 25 s to (index + 1) / 25 s"""
    pose: Floats  # (4, 4); world (the head) to camera, OpenCV axes, metres
    action_units: Floats  # (6,), see ACTION_UNITS
    gaze: Floats  # (2,), radians to the picture's right and up


@dataclass(frozen=True, eq=False)
class Dataset:
    """One person, as filmed."""

    folder: Path
    width: int
    height: int
    focal_px: float
    background: Bytes  # (H, W, 3)
    voice: Floats  # (samples,), 16 kHz, -1 to 1
    train: tuple[Shot, ...]
    held_out: tuple[Shot, ...]
    idle: tuple[Shot, ...]
    """of another clip, without pictures; may be empty"""

    @cached_property
    def metric(self) -> bool:
        """Whether there is depth in metres for the training frames."""
        return all(self._at("depth", shot.index, ".npy").is_file() for shot in self.train)

    @cached_property
    def has_gaze(self) -> bool:
        return (self.folder / "gaze.csv").is_file()

    def _at(self, room: str, index: int, suffix: str) -> Path:
        return self.folder / room / f"{index}{suffix}"

    def picture(self, index: int) -> Bytes:
        """(H, W, 3) RGB."""
        path = self._at("gt_imgs", index, ".jpg")
        return self._image(path if path.is_file() else self._at("ori_imgs", index, ".jpg"), 3)

    def labels(self, index: int) -> Bytes:
        """(H, W): BACKGROUND to EYES."""
        colours = self._image(self._at("parsing", index, ".png"), 3)
        out = np.zeros(colours.shape[:2], np.uint8)
        for colour, label in COLOURS.items():
            out[(colours == colour).all(-1)] = label
        teeth = self._at("teeth_mask", index, ".npy")
        if teeth.is_file():
            out[self._array(teeth, (), bool)] = MOUTH
        eyes = self._at("eyes", index, ".png")
        if eyes.is_file():
            out[self._image(eyes, 1) > 127] = EYES
        return out

    def coverage(self, index: int, of: Literal["person", "head"], labels: Bytes) -> Bytes:
        """(H, W), 255 where the person, or head and hair with eyes and mouth, covers a pixel whole."""
        path = self._at(of, index, ".png")
        if path.is_file():
            return self._image(path, 1)
        wanted = (FACE, HAIR, MOUTH, EYES) if of == "head" else (FACE, HAIR, MOUTH, EYES, CLOTH, NECK)
        return np.isin(labels, wanted).astype(np.uint8) * np.uint8(255)

    def torso(self, index: int) -> Bytes | None:
        """(H, W, 4) RGBA of the person without the head, not premultiplied; None if unknown."""
        path = self._at("torso_pass", index, ".png")
        return self._image(path, 4) if path.is_file() else None

    def depth(self, index: int) -> Floats | None:
        """(H, W) metres along the view axis, 0 where unknown."""
        path = self._at("depth", index, ".npy")
        return self._array(path, (), np.float32) if path.is_file() else None

    def normals(self, index: int) -> Floats | None:
        """(H, W, 3) in the camera's axes: x right, y up, z to the viewer."""
        rooms = sorted(p for p in self.folder.glob("sapiens/normal/*") if p.is_dir())
        path = rooms[-1] / f"{index}.npy" if rooms else None
        return self._array(path, (3,), np.float32) if path and path.is_file() else None

    def landmarks(self, index: int) -> Floats | None:
        """(68, 2) pixels, x and y; None if there are none."""
        path = self._at("ori_imgs", index, ".lms")
        if not path.is_file():
            return None
        try:
            points = np.loadtxt(path, dtype=np.float32, ndmin=2)
        except ValueError as e:
            raise _refuse("shape", f"{path} holds no numbers", "Detect the landmarks again.") from e
        if points.shape != (68, 2) or not np.isfinite(points).all():
            raise _refuse("shape", f"{path} does not hold 68 points", "Detect the landmarks again.")
        return points

    def _image(self, path: Path, channels: int) -> Bytes:
        return read_image(path, channels, (self.height, self.width))

    def _array(self, path: Path, more: tuple[int, ...], dtype: type) -> NDArray[Any]:
        remedy = "Preprocess the clip again."
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as e:
            raise _refuse("shape", f"{path} is no array of numbers", remedy) from e
        if array.shape != (self.height, self.width, *more) or array.dtype.kind not in "fb":
            raise _refuse(
                "shape", f"{path} holds {array.dtype} {array.shape}, not one value for each pixel of a frame", remedy
            )
        if dtype is bool:
            return np.asarray(array, bool)
        return np.asarray(np.nan_to_num(array.astype(dtype)), dtype)


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> Bytes:
    """(H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA of 8 bits; size: (H, W) that it must have."""
    if not path.is_file():
        raise _refuse("missing", f"{path} is missing", "Preprocess the clip again, or leave the frame out.")
    how = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR, 4: cv2.IMREAD_UNCHANGED}[channels]
    image = cv2.imread(str(path), how)
    if image is None or image.dtype != np.uint8 or (1 if image.ndim == 2 else image.shape[2]) != channels:
        raise _refuse("shape", f"{path} is no picture with {channels} channels of 8 bits", "Make it again.")
    if size and image.shape[:2] != size:
        what = f"{path} has {image.shape[1]} x {image.shape[0]} pixels, and the background {size[1]} x {size[0]}"
        raise _refuse("shape", what, "All pictures must be of one size.")
    if channels > 1:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if channels == 4 else cv2.COLOR_BGR2RGB)
    return np.asarray(image, np.uint8)


def load(folder: Path) -> Dataset:
    """Read and check a dataset folder; pictures only for being there. Raises DatasetError with a sentence."""
    if not folder.is_dir():
        raise _refuse("missing", f"{folder} is not a folder", "Give the folder of a preprocessed clip.")
    background = read_image(folder / "bc.jpg", 3)
    height, width = background.shape[:2]
    if width % 2 or height % 2 or not all(SIDES[0] <= side <= SIDES[1] for side in (width, height)):
        what = f"{folder} has pictures of {width} x {height}"
        raise _refuse("shape", what, f"Both sides must be even and between {SIDES[0]} and {SIDES[1]} pixels.")
    units = _action_units(folder / "au.csv")
    gaze = _table(folder / "gaze.csv", ("right", "up")) if (folder / "gaze.csv").is_file() else None
    focal, train = _shots(folder / "transforms_train.json", units, gaze)
    again, held_out = _shots(folder / "transforms_val.json", units, gaze)
    if abs(again - focal) > 1e-3 * focal:
        raise _refuse("value", f"{folder} has two focal lengths, {focal} and {again}", "Track the clip again.")
    if len(train) < MIN_FRAMES:
        what = f"{folder} has {len(train)} frames for training"
        raise _refuse("missing", what, f"Give at least {MIN_FRAMES}, which is a second.")
    idle: tuple[Shot, ...] = ()
    if (folder / "transforms_idle.json").is_file():
        _, idle = _shots(folder / "transforms_idle.json", _action_units(folder / "au_idle.csv"), None)
    voice = read_wav(folder / "aud.wav")
    last = max(shot.index for shot in (*train, *held_out))
    if len(voice) < (last - 1) * RATE // FPS:
        what = f"{folder / 'aud.wav'} lasts {len(voice) / RATE:.1f} s and the frames {(last + 1) / FPS:.1f} s"
        raise _refuse("value", what, "Give the sound of the whole clip.")
    data = Dataset(folder, width, height, focal, background, voice, train, held_out, idle)
    for shot in (train[0], train[-1]):
        data.labels(shot.index)
        data.picture(shot.index)
    return data


def read_wav(path: Path) -> Floats:
    """16 kHz, mono, -1 to 1; other rates and channels are converted."""
    remedy = "Convert it with ffmpeg to WAV, 16 bits."
    try:
        with wave.open(str(path)) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            data = file.readframes(file.getnframes())
    except FileNotFoundError as e:
        raise _refuse("missing", f"{path} is missing", "Give the sound of the clip.") from e
    except (wave.Error, EOFError, OSError) as e:
        raise _refuse("shape", f"{path} is not a WAV file: {e}", remedy) from e
    if width != 2:
        raise _refuse("shape", f"{path} has {8 * width} bits a sample", remedy)
    samples = np.frombuffer(data, "<i2").reshape(-1, channels).T
    if rate != RATE or channels != 1:
        samples = _converted(samples, rate)
    return np.asarray(samples[0] / 32768, np.float32)


def _converted(samples: NDArray[Any], rate: int) -> NDArray[Any]:
    import av

    layout = "stereo" if len(samples) == 2 else f"{len(samples)}c" if len(samples) > 2 else "mono"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16p", layout=layout)
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    pieces = [out.to_ndarray() for out in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(pieces, axis=1)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise _refuse("value", f"{path} is larger than {MAX_TEXT_BYTES >> 20} MiB", "Preprocess the clip again.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise _refuse("missing", f"{path} is missing", "Preprocess the clip first (/specs/instag.md §1.1).") from e
    except (OSError, UnicodeDecodeError) as e:
        raise _refuse("shape", f"{path} cannot be read: {e}", "Preprocess the clip again.") from e


def _table(path: Path, columns: Sequence[str]) -> Floats:
    """(frames, columns) of a file with comma-separated values; OpenFace writes a blank before each name."""
    rows = list(csv.reader(_text(path).splitlines(), skipinitialspace=True))
    names = [name.strip() for name in rows[0]] if rows else []
    for column in columns:
        if column not in names:
            raise _refuse("shape", f"{path} has no column {column}", "Write it as OpenFace does.")
    try:
        picked = [[float(row[names.index(column)]) for column in columns] for row in rows[1:] if row]
    except (ValueError, IndexError) as e:
        raise _refuse("value", f"{path} holds something that is no number", "Write it again.") from e
    table = np.array(picked, np.float32).reshape(-1, len(columns))
    if not np.isfinite(table).all():
        raise _refuse("value", f"{path} holds numbers that are not finite", "Write it again.")
    return table


def _action_units(path: Path) -> Floats:
    """(frames, 6): OpenFace's 0 to 5, the blink 0 to 2 as InsTaG has it."""
    units = np.clip(_table(path, [f"{name}_r" for name in ACTION_UNITS]), 0, 5)
    units[:, 5] = np.minimum(units[:, 5], 2)
    return units


def _shots(path: Path, units: Floats, gaze: Floats | None) -> tuple[float, tuple[Shot, ...]]:
    """The focal length in pixels, and the frames in order. Camera to head, OpenGL axes, becomes head to camera."""
    remedy = "Track the clip again."
    try:
        sheet = json.loads(_text(path))
        focal = float(sheet["focal_len"])
        given = [(int(f["img_id"]), np.array(f["transform_matrix"], np.float64)) for f in sheet["frames"]]
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise _refuse("shape", f"{path} does not hold poses: {type(e).__name__} {e}", remedy) from e
    if not 1 < focal < 1e5 or len(given) > MAX_FRAMES:
        raise _refuse("value", f"{path} has a focal length of {focal} px and {len(given)} frames", remedy)
    shots = []
    for index, matrix in sorted(given, key=lambda pair: pair[0]):
        if not 0 <= index < len(units) or (gaze is not None and index >= len(gaze)):
            what = f"{path} names frame {index}, and there are action units for {len(units)} frames"
            raise _refuse("value", what, "Give one row of action units, and of gaze, for each frame.")
        turn = matrix[:3, :3] if matrix.shape == (4, 4) else np.zeros((3, 3))
        if not np.isfinite(matrix).all() or np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
            raise _refuse("value", f"{path}: the pose of frame {index} is no rotation and translation", remedy)
        matrix[:3, 1:3] *= -1  # from OpenGL's axes to OpenCV's
        pose = np.linalg.inv(matrix)
        pose[3] = 0, 0, 0, 1
        look = gaze[index] if gaze is not None else np.zeros(2, np.float32)
        shots.append(Shot(index, pose.astype(np.float32), units[index], look))
    return focal, tuple(shots)
