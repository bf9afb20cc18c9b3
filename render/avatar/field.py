"""The universal motion field: one safetensors file, which training a person starts from."""

import tempfile
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from safetensors.numpy import save as save_tensors

from render.avatar.check import check_feature, check_tensors, check_text
from render.avatar.folder import read, read_tensors, write, writing
from render.avatar.model import AudioFeature, MotionField, refuse
from render.avatar.nets import field_shapes, prefixed
from render.avatar.sheet import MAX_FILE_BYTES

FIELD_FORMAT = "visavis.motion-field"
FIELD_VERSION = "1"


def _check_field(where: str, motion: MotionField) -> None:
    check_text("licence", motion.licence)
    check_text("source", motion.source)
    check_feature(motion.audio)
    shapes = prefixed("face", field_shapes("face", motion.audio))
    check_tensors(where, motion.tensors, shapes | prefixed("mouth", field_shapes("mouth", motion.audio)))


class _FieldHead(msgspec.Struct):
    """The metadata of a motion field's safetensors file: text only, as the format wants it."""

    format: str = ""
    version: str = ""
    licence: str = ""
    source: str = ""
    feature: str = ""
    width: str = ""
    layout: Literal["mean-face", "own"] = "mean-face"


class _Header(msgspec.Struct):
    metadata: _FieldHead = msgspec.field(name="__metadata__", default_factory=_FieldHead)


def save_field(motion: MotionField, path: Path) -> None:
    """Check a universal motion field and write it as one safetensors file, whole or not at all."""
    _check_field(path.name, motion)
    head = _FieldHead(
        FIELD_FORMAT,
        FIELD_VERSION,
        motion.licence,
        motion.source,
        motion.audio.name,
        str(motion.audio.width),
        motion.layout,
    )
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in motion.tensors.items()}
    data = save_tensors(tensors, metadata=msgspec.to_builtins(head))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as work:
            write(Path(work) / "new", data)
            (Path(work) / "new").replace(path)


def load_field(path: Path) -> MotionField:
    """Read and check a universal motion field. Raises AvatarError with a sentence for people."""
    data = read(path.absolute().parent, path.name, MAX_FILE_BYTES)
    remedy = "Give the file of a universal motion field, or make it again."
    tensors = read_tensors(path.name, data)  # from here on the header is known to be sound
    try:
        head = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")], type=_Header).metadata
        if head.format != FIELD_FORMAT:
            raise refuse("manifest", f"{path.name} is not a universal motion field", remedy)
        if head.version != FIELD_VERSION:
            what = f"{path.name} has version {head.version[:20]!a}, and this program reads {FIELD_VERSION}"
            raise refuse("version", what, "Get a newer visavis, or a field made for this one.")
        audio = msgspec.convert({"name": head.feature, "width": head.width}, AudioFeature, strict=False)
    except msgspec.DecodeError as e:
        raise refuse("manifest", f"{path.name} does not say what it is: {e}", remedy) from e
    motion = MotionField(head.licence, head.source, audio, tensors, head.layout)
    _check_field(path.name, motion)
    return motion
