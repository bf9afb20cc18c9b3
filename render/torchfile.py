"""torch's checkpoint files read without torch: numbers come out, and nothing that a file asks for is ever run.

A checkpoint is a zip archive with a pickle (`data.pkl`) that describes the objects, and one stored file of raw
numbers for each tensor. A pickle is a small program. Here it is interpreted by a machine of our own that knows
only the few operations `torch.save` writes; the names that it mentions are looked up in a table of data types, never
imported and never called. A name that is not in the table ends the reading. Tensors stay in the archive until they
are read, so that the optimiser states of a checkpoint cost nothing.
"""

import io
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.core.errors import VisavisError

MAX_FILE_BYTES = 4 << 30  # InsTaG's largest checkpoint is some 100 MB; room for long training
MAX_DIRECTORY_BYTES = 1 << 20  # the archive's table of contents: thousands of tensors
MAX_PICKLE_BYTES = 16 << 20  # a checkpoint of InsTaG needs some 100 KB
MAX_STEPS = 1_000_000  # operations of the pickle; InsTaG's have some 10 000
MAX_DIMENSIONS = 8


class CheckpointError(VisavisError):
    """A checkpoint is refused: `checkpoint_missing`, `_format`, `_unsafe` or `_tensor`."""


def _unsafe(what: str) -> CheckpointError:
    return CheckpointError(
        "checkpoint_unsafe",
        f"{what}. Nothing was run and the file is refused; get it again from where it was published.",
    )


def _format(what: str, remedy: str = "Copy or download it again.") -> CheckpointError:
    return CheckpointError("checkpoint_format", f"{what}. {remedy}")


STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",  # the upper half of a float32; numpy has no such type
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
ITEM_BYTES = {kind: 2 if kind == "bf16" else np.dtype(kind).itemsize for kind in STORAGES.values()}
NUMBER = re.compile(r"[fiu][1248]|b1")  # the codes of numpy's plain number types; i1 and f8 but no objects, no text


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions; a token, not the thing itself."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str
    count: int


class _Dtype:
    """A numpy dtype under construction: its code arrives first, its byte order afterwards."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "|"

    def real(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class Array:
    """A numpy array of the pickle; it is filled after it was announced."""

    value: NDArray[Any] | None = None


class Tensor:
    """A tensor that still lies in the archive."""

    def __init__(
        self, archive: "_Archive", storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        self.shape = shape
        self._archive = archive
        self._storage = storage
        self._offset = offset
        self._stride = stride

    def read(self) -> NDArray[Any]:
        """Its numbers, contiguous and writable; bfloat16 becomes float32. Raises CheckpointError."""
        kind, size = self._storage.kind, ITEM_BYTES[self._storage.kind]
        raw = self._archive.storage(self._storage)
        flat = np.frombuffer(raw, {"bf16": "<u2", "|b1": "|u1"}.get(kind, kind))[self._offset :]
        strides = tuple(step * size for step in self._stride)
        # __init__'s caller has proved that the view stays within the storage
        view = np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False) if flat.size else flat
        if kind == "bf16":
            return (view.astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        return np.array(view != 0 if kind == "|b1" else view, order="C").reshape(self.shape)


class _Capped(io.BufferedReader):
    """A file of which no single read takes more than `cap` bytes: a table of contents may claim any size."""

    cap = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.cap + 1 if size is None or size < 0 else min(size, self.cap + 1)
        data = super().read(wanted)
        if len(data) > self.cap:
            raise ValueError("it claims to hold more parts than any checkpoint has")
        return data


class _Archive:
    """The zip around a checkpoint. Every entry is stored as it is, so nothing can grow while it is read."""

    def __init__(self, file: _Capped, size: int, label: str) -> None:
        self.label = label
        with self._reading():
            self._zip = zipfile.ZipFile(file)
        file.cap = size
        self._size = size
        pickles = [name for name in self._zip.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _format(f"{label} is a zip archive but not a checkpoint of torch: it has no data.pkl")
        self._folder = pickles[0].rpartition("/")[0]
        if self._has("constants.pkl"):
            raise _format(f"{label} is a TorchScript program", "Give the checkpoint that training wrote.")
        if self._has("byteorder") and self._entry("byteorder", 16) != b"little":
            raise _format(f"{label} was written on a big-endian machine", "Write it again on a little-endian one.")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, struct.error, EOFError, OverflowError) as e:
            raise _format(f"{self.label} is damaged: {e}") from e

    def _has(self, name: str) -> bool:
        return f"{self._folder}/{name}" in self._zip.NameToInfo

    def _entry(self, name: str, most: int) -> bytes:
        info = self._zip.NameToInfo.get(f"{self._folder}/{name}")
        if info is None:
            raise _format(f"{self.label} is damaged: its part {name} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _format(f"{self.label} is packed in a way torch never writes", "Unpack it as it was published.")
        if not info.file_size == info.compress_size <= min(most, self._size):
            raise _format(f"{self.label} is damaged: its part {name} claims {info.file_size} bytes")
        with self._reading():
            return self._zip.read(info)

    def pickle(self) -> bytes:
        return self._entry("data.pkl", MAX_PICKLE_BYTES)

    def storage(self, storage: _Storage) -> bytes:
        expected = storage.count * ITEM_BYTES[storage.kind]
        data = self._entry(f"data/{storage.key}", self._size)
        if len(data) != expected:
            what = f"tensor data {storage.key} has {len(data)} bytes, not the {expected} declared"
            raise _format(f"{self.label} is damaged: {what}")
        return data

    def close(self) -> None:
        self._zip.close()


def _whole(values: object) -> tuple[int, ...] | None:
    """A tuple of counts, or None."""
    if not isinstance(values, tuple) or len(values) > MAX_DIMENSIONS:
        return None
    counts = tuple(v for v in values if type(v) is int and 0 <= v < 2**48)
    return counts if len(counts) == len(values) else None


class _Machine:
    """Interprets one pickle. Memory and time are bounded by the operations that it has."""

    def __init__(self, archive: _Archive) -> None:
        self._archive = archive
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._made_bytes = 0  # by text turned into bytes, the one operation that could repeat a large piece
        self._calls: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): self._ordered,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("numpy", "dtype"): self._dtype,
            ("_codecs", "encode"): self._bytes,  # how protocol 2, torch.save's own, writes bytes
        }
        for core in ("numpy.core.multiarray", "numpy._core.multiarray"):  # numpy 1 and numpy 2
            self._calls[core, "scalar"] = self._scalar
            self._calls[core, "_reconstruct"] = self._array
        self._types = {("torch", name) for name in STORAGES} | {("numpy", "ndarray")}

    def run(self, program: bytes) -> Any:
        """What the pickle describes, made of dicts, lists, tuples, numbers, text, Tensor and Array."""
        try:
            for step, (operation, argument, _) in enumerate(pickletools.genops(program)):
                if step >= MAX_STEPS:
                    raise _unsafe(f"{self._archive.label} describes more objects than any checkpoint has")
                if operation.name == "STOP":
                    if len(self._stack) != 1 or self._marks:
                        break
                    return self._stack[0]
                self._do(operation.name, argument)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error) as e:
            raise _format(f"{self._archive.label} is damaged: its description cannot be read") from e
        raise _format(f"{self._archive.label} is damaged: its description ends too early")

    def _pop(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise IndexError("below the mark")
        return self._stack.pop()

    def _cut(self) -> list[Any]:
        """What was pushed since the last mark."""
        at = self._marks.pop()
        items = self._stack[at:]
        del self._stack[at:]
        return items

    def _do(self, name: str, argument: Any) -> None:
        push = self._stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                if abs(argument) >= 2**63:
                    raise ValueError("a number beyond 64 bits")
                push(argument)
            case "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINBYTES" | "SHORT_BINBYTES":
                push(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "EMPTY_TUPLE":
                push(())
            case "MARK":
                self._marks.append(len(self._stack))
            case "TUPLE":
                push(tuple(self._cut()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self._pop() for _ in range(int(name[-1]))]
                push(tuple(reversed(items)))
            case "APPEND":
                item = self._pop()
                self._container(list).append(item)
            case "APPENDS":
                items = self._cut()
                self._container(list).extend(items)
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._fill(self._container(dict), [key, value])
            case "SETITEMS":
                items = self._cut()
                self._fill(self._container(dict), items)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                module, _, what = argument.partition(" ")
                push(self._name(module, what))
            case "STACK_GLOBAL":
                what, module = self._pop(), self._pop()
                push(self._name(module, what))
            case "BINPERSID":
                push(self._storage(self._pop()))
            case "REDUCE":
                arguments, called = self._pop(), self._pop()
                push(self._call(called, arguments))
            case "BUILD":
                state = self._pop()
                self._build(self._stack[-1], state)
            case _:
                raise _unsafe(
                    f"{self._archive.label} uses the pickle operation {name}, which torch.save never writes"
                )

    def _container(self, kind: type) -> Any:
        top = self._stack[-1]
        if type(top) is not kind:
            raise TypeError("not a container")
        return top

    def _fill(self, target: dict[Any, Any], pairs: list[Any]) -> None:
        if len(pairs) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # a tuple of tuples of tuples takes exponential time to hash
            if type(key) not in (str, int):
                raise TypeError("a key that is neither text nor a whole number")
            target[key] = value

    def _name(self, module: Any, name: Any) -> _Name:
        if (
            type(module) is str
            and type(name) is str
            and ((module, name) in self._calls or (module, name) in self._types)
        ):
            return _Name(module, name)
        raise _unsafe(f"{self._archive.label} asks for {f'{module}.{name}'[:80]!a}, which holds no numbers")

    def _call(self, called: Any, arguments: Any) -> Any:
        if not isinstance(called, _Name) or type(arguments) is not tuple:
            raise _unsafe(f"{self._archive.label} calls something that is not a function")
        make = self._calls.get((called.module, called.name))
        if make is None:
            raise _unsafe(f"{self._archive.label} makes a {called.module}.{called.name} of its own")
        return make(*arguments)

    def _build(self, target: Any, state: Any) -> None:
        if type(target) is dict and isinstance(state, dict):
            return  # a state dict's `_metadata`, an attribute that nobody here reads
        if isinstance(target, _Dtype) and type(state) is tuple and len(state) >= 2 and state[1] in ("<", "|", "="):
            target.order = "<" if state[1] == "=" else state[1]
            return
        if isinstance(target, Array) and target.value is None and type(state) is tuple and len(state) == 5:
            _, counts, dtype, fortran, data = state
            shape = _whole(counts)
            if shape is not None and isinstance(dtype, _Dtype) and type(data) is bytes:
                # ValueError unless the bytes are just as many as the shape needs; a view, so nothing grows
                target.value = np.frombuffer(data, dtype.real()).reshape(shape, order="F" if fortran else "C")
                return
        raise _unsafe(f"{self._archive.label} changes an object in a way torch.save never does")

    def _storage(self, reference: Any) -> _Storage:
        match reference:
            case ("storage", _Name("torch", name), str(key), str(), int(count)) if name in STORAGES:
                if re.fullmatch("[0-9]{1,9}", key) and 0 <= count < 2**40:
                    return _Storage(key, STORAGES[name], count)
        raise _unsafe(f"{self._archive.label} refers to tensor data in a way torch.save never does")

    def _ordered(self) -> dict[Any, Any]:
        return {}

    def _tensor(self, storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
        shape, steps = _whole(size), _whole(stride)
        if (
            isinstance(storage, _Storage)
            and type(offset) is int
            and shape is not None
            and steps is not None
            and len(shape) == len(steps)
        ):
            count = math.prod(shape)
            last = offset + sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) if count else offset
            # a tensor with more elements than its storage repeats them: a huge array out of a small file
            if 0 <= offset <= storage.count and count <= storage.count and last < storage.count + (count == 0):
                return Tensor(self._archive, storage, offset, shape, steps)
        raise _unsafe(f"{self._archive.label} declares a tensor that does not fit into its data")

    def _parameter(self, data: object, *_: object) -> Tensor:
        if not isinstance(data, Tensor):
            raise _unsafe(f"{self._archive.label} makes a parameter of something that is not a tensor")
        return data

    def _dtype(self, code: object, *_: object) -> _Dtype:
        if type(code) is not str or not NUMBER.fullmatch(code):
            raise _unsafe(f"{self._archive.label} holds numpy data that is not numbers")
        return _Dtype(code)

    def _array(self, *_: object) -> Array:
        return Array()

    def _scalar(self, dtype: object, data: object) -> Any:
        if not isinstance(dtype, _Dtype) or type(data) is not bytes or len(data) != dtype.real().itemsize:
            raise _unsafe(f"{self._archive.label} holds a numpy number that is none")
        return np.frombuffer(data, dtype.real())[0]

    def _bytes(self, text: object, encoding: object) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise _unsafe(f"{self._archive.label} turns text into bytes in a way torch.save never does")
        self._made_bytes += len(text)
        if self._made_bytes > MAX_PICKLE_BYTES:
            raise _unsafe(f"{self._archive.label} would fill the memory")
        return text.encode("latin-1")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """What `torch.save` wrote to `path`: dicts, lists, tuples, numbers, text, Tensor and Array.

    Tensors can be read until the context ends. Raises CheckpointError with a sentence for everything else.
    """
    label = path.name
    try:
        if not path.is_file():
            raise CheckpointError(
                "checkpoint_missing", f"{path} is not a file; give the path of a checkpoint (.pth)."
            )
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise _format(f"{label} is larger than {MAX_FILE_BYTES >> 30} GiB", "Give the checkpoint of one person.")
        file = _Capped(io.FileIO(path))
    except OSError as e:
        raise CheckpointError("checkpoint_missing", f"{path} cannot be read: {e.strerror}.") from e
    with file:
        if file.peek(4)[:4] != b"PK\x03\x04":
            raise _format(
                f"{label} is not a checkpoint as torch 1.6 and later write it",
                "If it is an older one, load it with torch on a machine that you trust and save it again.",
            )
        archive = _Archive(file, size, label)
        try:
            yield _Machine(archive).run(archive.pickle())
        finally:
            archive.close()


def numbers(value: object) -> NDArray[Any] | None:
    """The array behind a Tensor or an Array, or None if it is neither."""
    if isinstance(value, Tensor):
        return value.read()
    return value.value if isinstance(value, Array) else None
