"""The two synthetic people's clips with everything known of them, packed as prototypes/heads/pack.py leaves them."""

import json
import os
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.spoken import RATE, resampled
from render.avatar import ACTION_UNITS

FOLDER = Path(os.environ.get("VISAVIS_PEOPLE") or Path(__file__).resolve().parents[2] / "shared" / "data" / "people")
FPS = 25
JUDGED_S = 12.0  # training sees the first 10 s; everything from here on is for the judge
TRAINED_S = 10.0

FACE, HAIR, CLOTH, MOUTH, NECK, EYES = 1, 2, 3, 4, 5, 6
"""labels"""
LIPS = slice(48, 68)
"""landmarks of the mouth; 60 to 67 are the inner lips, 61 62 63 above 67 66 65"""

# Blender's axes (x right, y away, z up) to the head's (x right, y up, z to the viewer).
TURN = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


class Missing(Exception):
    """The clips are not there; the message says what to do."""


@dataclass(frozen=True)
class Moment:
    """What a frame's maker knows of it."""

    pose: np.ndarray
    """(4, 4) head to camera, OpenCV axes, metres"""
    action_units: np.ndarray
    """(6,), see render.avatar.ACTION_UNITS"""
    gaze: np.ndarray
    """(2,) radians to the picture's right, and up"""
    landmarks: np.ndarray
    """(68, 2) px"""
    points: np.ndarray
    """(68, 3) the landmarks in the head's frame, metres"""
    controls: dict[str, float]
    """the generator's"""


@dataclass(frozen=True)
class Picture:
    """One frame as it was rendered; (H, W) arrays of bytes, the picture (H, W, 3)."""

    index: int
    rgb: np.ndarray
    person: np.ndarray
    head: np.ndarray
    labels: np.ndarray


class Clip:
    """One person's clip; pictures are decoded as they are asked for."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        """Raises Missing."""
        self.folder = (folder or FOLDER) / name
        if not (self.folder / "meta.json").is_file():
            raise Missing(
                f"{name} cannot be judged: there is no {self.folder / 'meta.json'}. Set VISAVIS_PEOPLE to the folder"
                " that holds mia/ and leo/ with their clips."
            )
        sheet = json.loads((self.folder / "meta.json").read_text())
        self.name = name
        self.focal = float(sheet["fl_x"])
        self.width, self.height = int(sheet["w"]), int(sheet["h"])
        self.moments = [moment(frame, self.focal, sheet["cx"], sheet["cy"]) for frame in sheet["frames"]]

    def __len__(self) -> int:
        return len(self.moments)

    @property
    def judged(self) -> range:
        return range(int(JUDGED_S * FPS), len(self))

    @property
    def trained(self) -> range:
        return range(int(TRAINED_S * FPS))

    def sound(self) -> np.ndarray:
        """float32, 16 kHz, full scale 1, just as long as the pictures."""
        with wave.open(str(self.folder / "audio.wav")) as file:
            pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            sound = resampled(pcm, file.getframerate())
        length = len(self) * RATE // FPS
        return np.pad(sound[:length], (0, max(0, length - len(sound))))

    def background(self) -> np.ndarray:
        """(H, W, 3) bytes: what stands behind the person."""
        path = self.folder.parent.parent / "portraits" / "background.png"
        picture = cv2.imread(str(path))
        if picture is None:
            raise Missing(f"{self.name} cannot be judged: there is no picture {path} of the background")
        return np.ascontiguousarray(picture[..., ::-1])

    def pictures(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """Those frames, in rising order."""
        found = set(wanted)
        names = (("video.mp4", "rgb24"), ("alpha.mkv", "gray"), ("head.mkv", "gray"), ("labels.mkv", "gray"))
        decoded = zip(*(_decoded(self.folder / name, kind) for name, kind in names), strict=False)
        for index, frames in enumerate(decoded):
            if index > max(found, default=-1):
                return
            if index in found:
                yield Picture(
                    index, *(frame.to_ndarray(format=kind) for frame, (_, kind) in zip(frames, names, strict=True))
                )


def _decoded(path: Path, kind: str) -> Iterator[Any]:
    import av

    with av.open(str(path)) as container:
        yield from container.decode(video=0)


def moment(frame: dict[str, Any], focal: float, cx: float, cy: float) -> Moment:
    """One entry of meta.json. The landmarks lie before a camera that never moves, in decimetres; see `points_of`."""
    camera_to_head = TURN @ np.array(frame["cam2head"], np.float64)
    camera_to_head[:3, 3] /= 10
    seen = camera_to_head.copy()
    seen[:3, 1:3] *= -1  # OpenGL's camera axes to OpenCV's
    pose = np.linalg.inv(seen)
    return Moment(
        pose=pose,
        action_units=np.array([frame["au"][f"{name}_r"] for name in ACTION_UNITS], np.float32),
        gaze=np.array(frame["gaze"], np.float64),
        landmarks=np.array(frame["lms2d"], np.float64),
        points=points_of(np.array(frame["lms2d"]), np.array(frame["lms3d"]), seen, focal, cx, cy),
        controls=frame["ctrl"],
    )


def points_of(
    flat: np.ndarray, deep: np.ndarray, camera_to_head: np.ndarray, focal: float, cx: float, cy: float
) -> np.ndarray:
    """Landmarks (68, 3) in the head's frame, metres, from where they are seen and how far away.

    `deep` is in the studio's decimetres, x right, y up, z towards the camera, which stands 11 before the origin.
    """
    depth = (11 - deep[:, 2]) / 10
    camera = np.stack([(flat[:, 0] - cx) / focal * depth, (flat[:, 1] - cy) / focal * depth, depth], 1)
    return camera @ camera_to_head[:3, :3].T + camera_to_head[:3, 3]
