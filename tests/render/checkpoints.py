"""Checkpoints as InsTaG and TalkingGaussian write them, to the tables of their specification, with random numbers.

The shapes stand here as the specification lists them, not as the importer does, so that one can judge the other.
`save_bytes` writes torch's format operation by operation and needs no torch; `save_torch` is the real thing.
"""

import io
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, Any]


class Parameter:
    """An nn.Parameter around an array."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array


def random(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)


WIDTH = {"ave": 512, "deepspeech": 29, "esperanto": 44, "hubert": 1024}

FACE_OFFSETS = [0, 296, 664, 1064, 1552, 2088, 2720, 3456, 4304, 5328, 6488, 7864, 9464]
MOUTH_OFFSETS = [0, 4232, 8464, 12560, 16656, 20632, 24608, 28456, 32184, 35912, 39512, 43112, 46600]


def audio_net(rng: np.random.Generator, audio: str) -> Tensors:
    c = WIDTH[audio]
    if audio == "ave":
        linear, conv = {0: (256, 512), 2: (128, 256), 4: (32, 128)}, {}
    else:
        h = 32 if c < 128 else 128
        linear, conv = {0: (64, 64), 2: (32, 64)}, {0: (h, c, 3), 2: (h, h, 3), 4: (64, h, 3), 6: (64, 64, 3)}
    state: Tensors = {}
    for name, layers in (("audio_net.encoder_conv", conv), ("audio_net.encoder_fc1", linear)):
        for i, shape in layers.items():
            state |= {f"{name}.{i}.weight": random(rng, *shape), f"{name}.{i}.bias": random(rng, shape[0])}
    attention = {0: (16, 32, 3), 2: (8, 16, 3), 4: (4, 8, 3), 6: (2, 4, 3), 8: (1, 2, 3)}
    for i, shape3 in attention.items():
        name = f"audio_att_net.attentionConvNet.{i}"
        state |= {f"{name}.weight": random(rng, *shape3), f"{name}.bias": random(rng, shape3[0])}
    state |= {"audio_att_net.attentionNet.0.weight": random(rng, 8, 8)}
    return state | {"audio_att_net.attentionNet.0.bias": random(rng, 8)}


def grids(rng: np.random.Generator, offsets: list[int]) -> Tensors:
    state: Tensors = {}
    for plane in ("xy", "yz", "xz"):
        state[f"encoder_{plane}.embeddings"] = random(rng, offsets[-1], 1)
        state[f"encoder_{plane}.offsets"] = np.array(offsets, np.int32)
    return state


def net(rng: np.random.Generator, name: str, *shapes: tuple[int, int]) -> Tensors:
    return {f"{name}.net.{i}.weight": random(rng, *shape) for i, shape in enumerate(shapes)}


def face_field(rng: np.random.Generator, audio: str) -> Tensors:
    state = audio_net(rng, audio) | grids(rng, FACE_OFFSETS)
    state |= net(rng, "sigma_net", (64, 74), (64, 64), (11, 64)) | net(rng, "aud_ch_att_net", (32, 36), (32, 32))
    return state | net(rng, "exp_encode_net", (16, 5), (5, 16)) | net(rng, "eye_att_net", (16, 36), (6, 16))


def mouth_field(rng: np.random.Generator, audio: str, instag: bool = True) -> Tensors:
    state = audio_net(rng, audio) | grids(rng, MOUTH_OFFSETS) | net(rng, "aud_ch_att_net", (32, 36), (32, 32))
    if not instag:
        return state | net(rng, "sigma_net", (32, 68), (32, 32), (3, 32))
    state |= net(rng, "sigma_net", (32, 71), (32, 32), (7, 32))
    return state | net(rng, "scaler_net", (16, 39), (16, 16), (1, 16))


def personal(rng: np.random.Generator, part: str, audio: str) -> Tensors:
    state = audio_net(rng, audio) | grids(rng, FACE_OFFSETS) | net(rng, "aud_ch_att_net", (32, 36), (32, 32))
    if part == "mouth":
        state |= net(rng, "sigma_net", (16, 68), (16, 16), (7, 16))
        return state | net(rng, "align_net", (16, 36), (6, 16))
    state |= net(rng, "exp_encode_net", (16, 5), (5, 16)) | net(rng, "eye_att_net", (16, 36), (6, 16))
    return state | net(rng, "sigma_net", (32, 74), (32, 32), (11, 32)) | net(rng, "align_net", (32, 36), (6, 32))


def neural_renderer(rng: np.random.Generator) -> Tensors:
    """Dead weight, smaller here than in truth: 1.07 M rows."""
    state: Tensors = {"bound": np.float32(0.12).reshape(()), "coord_center": random(rng, 3)}
    state |= {"encoder_x.embeddings": random(rng, 100, 2), "encoder_x.offsets": np.arange(17, dtype=np.int32)}
    return state | net(rng, "sigma_net", (64, 32), (64, 64), (65, 64)) | net(rng, "color_net", (64, 80), (3, 64))


def adam(rng: np.random.Generator, n: int) -> dict[str, Any]:
    state = {0: {"step": np.float32(3).reshape(()), "exp_avg": random(rng, n, 3), "exp_avg_sq": random(rng, n, 3)}}
    group = {
        "lr": np.float64(1.6e-4),
        "betas": (0.9, 0.999),
        "eps": 1e-15,
        "name": "xyz",
        "foreach": None,
        "params": [0],
    }
    return {"state": state, "param_groups": [group]}


def capture(
    rng: np.random.Generator,
    part: str,
    audio: str,
    n: int = 20,
    degree: int = 1,
    active: int | None = None,
    instag: bool = True,
) -> tuple[Any, ...]:
    k = (degree + 1) ** 2
    entries: list[Any] = [degree if active is None else active]
    shapes = ((n, 3), (n, 1, 3), (n, k - 1, 3), (n, 1), (n, 3), (n, 4), (n, 1))
    entries += [Parameter(random(rng, *shape)) for shape in shapes]
    entries += [random(rng, n), random(rng, n, 1), random(rng, n, 1), adam(rng, n), np.float64(0.31)]
    if instag:
        entries += [OrderedDict(neural_renderer(rng)), OrderedDict(personal(rng, part, audio))]
    return tuple(entries)


def fuse(rng: np.random.Generator, audio: str = "ave", instag: bool = True, degree: int = 1) -> tuple[Any, ...]:
    face = capture(rng, "face", audio, degree=degree, instag=instag)
    mouth = capture(rng, "mouth", audio, 9, degree, instag=instag)
    mouth_state = OrderedDict(mouth_field(rng, audio, instag))
    return face, OrderedDict(face_field(rng, audio)), mouth, mouth_state


# Writers


def to_torch(value: Any) -> Any:
    import torch

    match value:
        case Parameter():
            return torch.nn.Parameter(torch.from_numpy(value.array))
        case np.ndarray():
            return torch.from_numpy(np.array(value))
        case OrderedDict():
            done = OrderedDict((k, to_torch(v)) for k, v in value.items())
            done._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # every state_dict() has it
            return done
        case dict():
            return {k: to_torch(v) for k, v in value.items()}
        case list() | tuple():
            return type(value)(to_torch(v) for v in value)
    return value


def save_torch(path: Path, value: Any) -> Path:
    import torch

    torch.save(to_torch(value), path)
    return path


STORAGE = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
}
STORAGE |= {"b1": "Bool"}


class Raw(bytes):
    """Pickle operations, to be put into a description as they are."""


class Writer:
    """Describes objects with the operations of torch.save's pickle, protocol 2."""

    def __init__(self, core: str = "numpy.core.multiarray") -> None:
        self.core = core
        self.parts: dict[str, bytes] = {}

    def name(self, module: str, name: str) -> bytes:
        return f"c{module}\n{name}\n".encode()

    def call(self, module: str, name: str, *arguments: Any) -> bytes:
        return self.name(module, name) + self.describe(arguments) + b"R"

    def data(self, array: np.ndarray[Any, Any]) -> bytes:
        key = str(len(self.parts))
        self.parts[key] = array.tobytes()
        kind = self.name("torch", STORAGE[array.dtype.str[1:]] + "Storage")
        return (
            b"("
            + self.describe("storage")
            + kind
            + self.describe(key)
            + self.describe("cuda:0")
            + self.describe(array.size)
            + b"tQ"
        )

    def tensor(self, array: np.ndarray[Any, Any]) -> bytes:
        array = np.ascontiguousarray(array).reshape(array.shape)
        strides = tuple(s // array.itemsize for s in array.strides)
        reference = Raw(self.data(array))
        return self.call(
            "torch._utils", "_rebuild_tensor_v2", reference, 0, array.shape, strides, False, OrderedDict()
        )

    def dtype(self, code: str) -> bytes:
        state = self.describe((3, "<", None, None, None, -1, -1, 0))
        return self.call("numpy", "dtype", code, False, True) + state + b"b"

    def bytes(self, data: bytes) -> Raw:
        return Raw(self.call("_codecs", "encode", data.decode("latin-1"), "latin1"))

    def scalar(self, value: np.generic) -> bytes:
        code = value.dtype.str[1:]
        return self.call(self.core, "scalar", Raw(self.dtype(code)), self.bytes(value.tobytes()))

    def numpy_array(self, array: np.ndarray[Any, Any]) -> bytes:
        made = self.call(self.core, "_reconstruct", Raw(self.name("numpy", "ndarray")), (0,), self.bytes(b"b"))
        dtype = Raw(self.dtype(array.dtype.str[1:]))
        return made + self.describe((1, array.shape, dtype, False, self.bytes(array.tobytes()))) + b"b"

    def describe(self, value: Any) -> bytes:
        match value:
            case Raw():
                return bytes(value)
            case None:
                return b"N"
            case bool():
                return b"\x88" if value else b"\x89"
            case np.generic():
                return self.scalar(value)
            case int():
                return b"\x8a\x08" + struct.pack("<q", value)
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                text = value.encode()
                return b"X" + struct.pack("<I", len(text)) + text
            case tuple():
                return b"(" + b"".join(map(self.describe, value)) + b"t"
            case list():
                return b"](" + b"".join(map(self.describe, value)) + b"e"
            case OrderedDict():
                made = self.call("collections", "OrderedDict") + self.items(value)
                return made + self.describe({"_metadata": {"": {"version": 1}}}) + b"b"
            case dict():
                return b"}" + self.items(value)
            case Parameter():
                tensor = Raw(self.tensor(value.array))
                return self.call(
                    "torch._utils", "_rebuild_parameter", tensor, True, Raw(b"ccollections\nOrderedDict\n)R")
                )
            case np.ndarray():
                return self.tensor(value)
        raise TypeError(type(value))

    def items(self, value: Mapping[Any, Any]) -> bytes:
        return b"(" + b"".join(self.describe(k) + self.describe(v) for k, v in value.items()) + b"u" if value else b""


def archive(program: bytes, parts: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The zip that torch.save puts around a description."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", "little")
        for key, data in parts.items():
            file.writestr(f"archive/data/{key}", data)
        file.writestr("archive/version", "3\n")
    return out.getvalue()


def save_bytes(path: Path, value: Any, core: str = "numpy.core.multiarray") -> Path:
    writer = Writer(core)
    program = b"\x80\x02" + writer.describe(value) + b"."
    path.write_bytes(archive(program, writer.parts))
    return path
