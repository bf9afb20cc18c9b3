"""What is on disk: the names of the files, what the manifest says, and how large all may be."""

import re
from typing import Annotated, Literal

import msgspec

from render.avatar.model import AudioFeature, Camera

FORMAT = "visavis.avatar"
VERSION = 1

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

HEAD, MOTION, AUDIO, IDLE, POSTER, TORSO = (
    "head.safetensors",
    "motion.safetensors",
    "audio.safetensors",
    "idle.npz",
    "poster.jpg",
    "torso.safetensors",
)
BAKED, EYEBALLS = "baked.", "eyeballs."
BACKGROUND = re.compile(r"plates/background\.(webp|png)")
PLATE = re.compile(r"plates/([0-9]{4})\.(webp|png)")
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


class Kind(msgspec.Struct):
    format: str = ""
    version: int = 0
