"""What a person is made of, in memory; and how an avatar is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from server.core.errors import VisavisError

Floats = NDArray[np.float32]

ACTION_UNITS = ("AU01", "AU04", "AU05", "AU06", "AU07", "AU45")
"""the columns of Idle.action_units: brows up, brows down, lids up, cheeks, lids tight, blink; OpenFace's 0 to 5"""

DRIVERS = ("turn_x", "turn_y", "turn_z", "shift_x", "shift_y", "shift_z", "sway_1", "sway_2", "breath")
"""what moves a torso: the head's turn (radians) and shift (metres), sway (unit variance), breath (-1 to 1)"""


class AvatarError(VisavisError):
    """A folder is refused: avatar_ missing, manifest, version, path, size, hash, shape, value or write."""


AGAIN = "Copy the folder again from where it came, or train or import the person again."


def refuse(kind: str, what: str, remedy: str = AGAIN) -> AvatarError:
    return AvatarError(f"avatar_{kind}", f"{what}. {remedy}")


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
class Torso:
    """Torso and neck, behind the head and the mouth; they do not turn with the head but follow it a little."""

    gaussians: Gaussians
    """as all others, but in the camera's frame: OpenCV axes (x right, y down, z forward), metres"""
    basis: Floats  # (N, 3, len(DRIVERS)); metres for each driver: mean = xyz + basis @ drive
    rest_pose: Floats  # (4, 4); the head's pose, as in Idle.poses, at which turn and shift are zero

    def drive(self, pose: NDArray[Any], sway: Sequence[float] = (0.0, 0.0), breath: float = 0.0) -> Floats:
        """The nine DRIVERS for a head's pose (4, 4), as in Idle.poses.

        turn is the rotation vector of `pose` times the rest pose's inverse, so its axes are the camera's; shift is
        how far the head's origin has moved in the camera's frame.
        """
        between = np.asarray(pose[:3, :3], np.float64) @ np.asarray(self.rest_pose[:3, :3], np.float64).T
        shift = np.asarray(pose[:3, 3] - self.rest_pose[:3, 3], np.float64)
        return np.concatenate([rotation_vector(between), shift, sway, [breath]]).astype(np.float32)

    def at(self, drive: Floats) -> Floats:
        """(N, 3): where the means are."""
        return np.asarray(self.gaussians.xyz + self.basis @ drive, np.float32)


def rotation_vector(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axis times angle, radians, of a rotation (3, 3) by less than half a turn."""
    axis = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(rotation) - 1) / 2
    return np.asarray(axis / 2 if sine < 1e-6 else axis / (2 * sine) * np.arctan2(sine, cosine), np.float64)


@dataclass(frozen=True, eq=False)
class Eyeballs:
    """Which of the face's Gaussians belong to an eyeball: no field moves them, they turn rigidly with the gaze."""

    index: NDArray[np.uint8]  # (face Gaussians,); 0 none, 1 the eyeball at the smaller x, 2 the other
    centres: Floats  # (2, 3); the head's frame, metres


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
    torso: Torso | None = None
    """None if the person has none, or has it as plates"""
    eyeballs: Eyeballs | None = None
    """None if the gaze cannot move"""


@dataclass(frozen=True, eq=False)
class MotionField:
    """A universal motion field: what many faces have in common when they speak. Training a person starts from it."""

    licence: str
    source: str
    audio: AudioFeature
    tensors: Mapping[str, Floats]
    """what `field_shapes` lists for `face` and `mouth`, prefixed `face.` and `mouth.`"""
    layout: Literal["mean-face", "own"] = "mean-face"
    """where in space a face's points are: as render/models/landmarks.safetensors has them, or nobody knows"""
