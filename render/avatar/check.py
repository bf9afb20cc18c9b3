"""What fits together and what does not: the same checks before saving and after loading."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from render.avatar.model import (
    ACTION_UNITS,
    DRIVERS,
    WIDTHS,
    AudioFeature,
    Avatar,
    Floats,
    Gaussians,
    refuse,
)
from render.avatar.nets import Shapes, motion_shapes
from render.avatar.sheet import (
    AUDIO,
    HEAD,
    IDLE,
    MAX_BAKED_TENSORS,
    MAX_ENCODER_TENSORS,
    MAX_GAUSSIANS,
    MAX_IDLE_FRAMES,
    MAX_METRES,
    MAX_PLATES,
    MAX_SH_DEGREE,
    MIN_SIDE,
    MOTION,
    NAME,
    TORSO,
    Manifest,
)
from render.pictures import MAX_SIDE, picture_size


def check_text(name: str, value: str) -> None:
    if not 1 <= len(value) <= 2000:
        raise refuse("value", f"The avatar's {name} has {len(value)} characters", "Give it between 1 and 2000.")


def check_manifest(a: Avatar | Manifest) -> None:
    if not NAME.fullmatch(a.name):
        remedy = "Use up to 64 small letters, digits, - and _."
        raise refuse("value", f"{a.name[:80]!a} cannot be an avatar's name", remedy)
    for text in ("title", "licence", "source"):
        check_text(text, getattr(a, text))
    if not 1 <= a.fps <= 60:
        raise refuse("value", f"Avatar {a.name} runs at {a.fps} frames per second, not at 1 to 60")
    for side in (a.width, a.height):
        if side % 2 or not MIN_SIDE <= side <= MAX_SIDE:
            what = f"Avatar {a.name} has pictures of {a.width} x {a.height}"
            raise refuse("size", what, f"Both sides must be even and between {MIN_SIDE} and {MAX_SIDE} pixels.")
    if not 0 <= a.sh_degree <= MAX_SH_DEGREE:
        raise refuse("value", f"Avatar {a.name} has spherical harmonics of degree {a.sh_degree}, not of 0 to 3")
    camera = a.camera
    if not (0 < camera.focal_px < 1e5 and abs(camera.cx) < 1e4 and abs(camera.cy) < 1e4):  # false for NaN, too
        raise refuse("value", f"Avatar {a.name} has a camera that cannot be: {camera}")
    check_feature(a.audio)


def check_feature(audio: AudioFeature) -> None:
    expected = WIDTHS.get(audio.name, audio.width)
    if audio.width != expected or not 1 <= audio.width <= 2048:
        raise refuse("value", f"The audio feature {audio.name} cannot be {audio.width} wide")


def check_tensors(where: str, tensors: Mapping[str, Floats], shapes: Shapes) -> None:
    for kind, names in (
        ("lacks", shapes.keys() - tensors.keys()),
        ("has the unknown", tensors.keys() - shapes.keys()),
    ):
        if names:
            first = ascii(min(names))[:120]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise refuse("shape", f"{where} {kind} tensor {first}{more}")
    for name, shape in shapes.items():
        check_array(f"{where}: {name}", tensors[name], shape)


def check_array(what: str, array: NDArray[Any], shape: tuple[int, ...], dtype: type = np.float32) -> None:
    if array.dtype != dtype:
        raise refuse("shape", f"{what} holds {array.dtype}, expected {np.dtype(dtype)}")
    if array.shape != shape:
        raise refuse("shape", f"{what} has the shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise refuse("value", f"{what} holds values that are not finite")


def _check_layer(where: str, layer: Gaussians, degree: int) -> None:
    count = len(layer.xyz) if layer.xyz.ndim else 0
    if not 1 <= count <= MAX_GAUSSIANS:
        raise refuse("size", f"{where} has {count} Gaussians, not 1 to {MAX_GAUSSIANS}")
    for name, shape in layer_shapes(count, degree).items():
        check_array(f"{where}.{name}", getattr(layer, name), shape)
    if np.abs(layer.xyz).max() > MAX_METRES:
        raise refuse("value", f"{where} has Gaussians more than {MAX_METRES:.0f} m from the head")
    if (np.linalg.norm(layer.rotation, axis=1) < 1e-12).any():
        raise refuse("value", f"{where} has Gaussians with a rotation of length zero")


def layer_shapes(count: int, degree: int) -> Shapes:
    bands = (degree + 1) ** 2
    return {
        "xyz": (count, 3),
        "sh": (count, bands, 3),
        "scale": (count, 3),
        "rotation": (count, 4),
        "opacity": (count,),
    }


def _check_poses(what: str, poses: Floats, count: int) -> None:
    check_array(what, poses, (count, 4, 4))
    turn, place = poses[:, :3, :3], poses[:, :3, 3]
    rigid = np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max(initial=0) < 1e-3
    if not rigid or (np.linalg.det(turn) < 0).any() or (poses[:, 3] != (0, 0, 0, 1)).any():
        raise refuse("value", f"{what} are not rotations and translations")
    if np.abs(place).max(initial=0) > MAX_METRES:
        raise refuse("value", f"{what} lie more than {MAX_METRES:.0f} m away")


def _check_idle(a: Avatar) -> None:
    idle, plates = a.idle, a.plates
    count = len(idle.poses) if idle.poses.ndim else 0
    if not 1 <= count <= MAX_IDLE_FRAMES:
        raise refuse("size", f"{IDLE} has {count} frames, not 1 to {MAX_IDLE_FRAMES}")
    _check_poses(f"{IDLE}: the poses", idle.poses, count)
    check_array(f"{IDLE}: the action units", idle.action_units, (count, len(ACTION_UNITS)))
    if (idle.action_units < 0).any() or (idle.action_units > 5).any():
        raise refuse("value", f"{IDLE}: the action units leave OpenFace's range of 0 to 5")
    check_array(f"{IDLE}: the plate numbers", idle.plates, (count,), np.int32)
    if len(plates.torso) > MAX_PLATES:
        raise refuse("size", f"Avatar {a.name} has {len(plates.torso)} torso plates, more than {MAX_PLATES}")
    _check_poses(f"{IDLE}: the plates' poses", plates.poses, len(plates.torso))
    if idle.plates.min() < -1 or idle.plates.max() >= len(plates.torso):
        raise refuse("value", f"{IDLE} names a torso plate that does not exist")


def _check_pictures(a: Avatar) -> None:
    pictures = [("the background plate", a.plates.background, ("WebP", "PNG"))]
    pictures += [(f"torso plate {i}", picture, ("WebP", "PNG")) for i, picture in enumerate(a.plates.torso)]
    for what, data, kinds in (*pictures, ("the poster", a.poster, ("JPEG",))):
        kind, width, height = picture_size(data)
        if kind not in [k.lower() for k in kinds]:
            raise refuse("value", f"Avatar {a.name}: {what} is not a picture in {' or '.join(kinds)}")
        if what == "the poster" and not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise refuse("size", f"Avatar {a.name}: {what} has {width} x {height} pixels, more than {MAX_SIDE}")
        if what != "the poster" and (width, height) != (a.width, a.height):
            raise refuse(
                "shape", f"Avatar {a.name}: {what} has {width} x {height} pixels, not {a.width} x {a.height}"
            )


def check(avatar: Avatar) -> None:
    """Raises AvatarError unless all is there, fits together and is finite. Reads the headers of pictures only."""
    check_manifest(avatar)
    _check_layer("The face", avatar.face, avatar.sh_degree)
    _check_layer("The mouth", avatar.mouth, avatar.sh_degree)
    check_tensors(MOTION, avatar.motion, motion_shapes(avatar.audio))
    if len(avatar.encoder) > MAX_ENCODER_TENSORS:
        raise refuse("size", f"{AUDIO} has {len(avatar.encoder)} tensors, more than {MAX_ENCODER_TENSORS}")
    if avatar.audio.name == "mel" and not avatar.encoder:
        raise refuse("missing", f"{AUDIO} is missing, and the audio feature mel has no other source")
    for name, tensor in avatar.encoder.items():
        check_array(f"{AUDIO}: {ascii(name)[:120]}", tensor, tensor.shape)
    _check_baked(avatar)
    _check_torso(avatar)
    _check_eyeballs(avatar)
    _check_idle(avatar)
    _check_pictures(avatar)


def _check_baked(a: Avatar) -> None:
    """Kinds and finite values here, and that it was baked of these Gaussians; the rest is known to its own reader."""
    if len(a.baked) > MAX_BAKED_TENSORS:
        raise refuse("size", f"{HEAD} has {len(a.baked)} baked tensors, more than {MAX_BAKED_TENSORS}")
    for name, tensor in a.baked.items():
        dtype = np.int32 if tensor.dtype == np.int32 else np.float32
        check_array(f"{HEAD}: {f'baked.{name}'[:120]!a}", tensor, tensor.shape, dtype)
    rows = {name: len(t) if t.ndim else 0 for name, t in a.baked.items()}
    moved = rows.get("moving", 0) + rows.get("still", 0), rows.get("mouth_encoding", 0)
    if a.baked and moved != (len(a.face), len(a.mouth)):
        what = f"{HEAD}: baked are {moved[0]} + {moved[1]} Gaussians, and there are {len(a.face)} + {len(a.mouth)}"
        raise refuse("shape", what, "Bake the motion again.")


# Reading


def _check_torso(a: Avatar) -> None:
    if a.torso is None:
        return
    if a.plates.torso:
        raise refuse("value", f"Avatar {a.name} has a torso of Gaussians and torso plates, and can have only one")
    _check_layer("The torso", a.torso.gaussians, a.sh_degree)
    check_array(f"{TORSO}: basis", a.torso.basis, (len(a.torso.gaussians), 3, len(DRIVERS)))
    if np.abs(a.torso.basis).max() > MAX_METRES:
        raise refuse("value", f"{TORSO}: basis moves Gaussians by more than {MAX_METRES:.0f} m")
    _check_poses(f"{TORSO}: the rest pose", a.torso.rest_pose[None], 1)


def _check_eyeballs(a: Avatar) -> None:
    if a.eyeballs is None:
        return
    check_array(f"{HEAD}: eyeballs.index", a.eyeballs.index, (len(a.face),), np.uint8)
    check_array(f"{HEAD}: eyeballs.centres", a.eyeballs.centres, (2, 3))
    if a.eyeballs.index.max() > 2:
        raise refuse("value", f"{HEAD}: eyeballs.index names eyeball {a.eyeballs.index.max()}, and there are two")
    if np.abs(a.eyeballs.centres).max() > MAX_METRES:
        raise refuse("value", f"{HEAD}: eyeballs.centres lie more than {MAX_METRES:.0f} m from the head")
