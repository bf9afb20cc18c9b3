"""The avatar folder: one person as numbers on disk; everything that trains, imports or paints a person passes here.

    manifest.json       what it is, under which licence, and every file's size and SHA-256
    head.safetensors    the Gaussians of face and mouth, and what was baked of their motion
    torso.safetensors   the Gaussians of torso and neck, and how they follow the head, if the person has them
    motion.safetensors  the motion fields that move them, and the aligners that fit those to this person
    audio.safetensors   the audio feature encoder, if the person brings one
    idle.npz            poses and action units to replay, closed into a loop, and the poses of the plates
    plates/             the background, and torso and neck at each of their poses
    poster.jpg          the picture before the call

Nothing in it is ever unpickled. A folder that is damaged, or was made to do damage, is refused in one sentence.
Beside the person there is the universal motion field, one safetensors file that training a person starts from.
"""

from render.avatar.check import check
from render.avatar.field import load_field, save_field
from render.avatar.folder import load, manifest, save
from render.avatar.model import (
    ACTION_UNITS,
    DRIVERS,
    WIDTHS,
    AudioFeature,
    Avatar,
    AvatarError,
    Camera,
    Extractor,
    Eyeballs,
    Floats,
    Gaussians,
    Idle,
    MotionField,
    Plates,
    Torso,
)
from render.avatar.nets import PLANES, Shapes, aligner_shapes, audio_shapes, field_shapes, motion_shapes
from render.avatar.sheet import MAX_GAUSSIANS, MAX_IDLE_FRAMES, MAX_PLATES, MAX_SH_DEGREE, Manifest

__all__ = [
    "ACTION_UNITS",
    "DRIVERS",
    "MAX_GAUSSIANS",
    "MAX_IDLE_FRAMES",
    "MAX_PLATES",
    "MAX_SH_DEGREE",
    "PLANES",
    "WIDTHS",
    "AudioFeature",
    "Avatar",
    "AvatarError",
    "Camera",
    "Extractor",
    "Eyeballs",
    "Floats",
    "Gaussians",
    "Idle",
    "Manifest",
    "MotionField",
    "Plates",
    "Shapes",
    "Torso",
    "aligner_shapes",
    "audio_shapes",
    "check",
    "field_shapes",
    "load",
    "load_field",
    "manifest",
    "motion_shapes",
    "save",
    "save_field",
]
