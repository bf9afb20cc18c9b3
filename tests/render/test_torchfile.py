"""torch's files without torch: the numbers come out right, and nothing that a file asks for happens."""

import contextlib
import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render import torchfile
from render.torchfile import Array, CheckpointError, Tensor, numbers, opened
from tests.render.checkpoints import Parameter, Raw, Writer, archive, save_bytes, to_torch


def read(path: Path) -> Any:
    """Everything in the file, with arrays in place of tensors."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor | Array):
            return numbers(value)
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return type(value)(plain(v) for v in value) if isinstance(value, list | tuple) else value

    with opened(path) as root:
        return plain(root)


# What is read


@pytest.mark.parametrize("kind", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "b1"])
def test_every_kind_of_number_is_read_without_torch(tmp_path: Path, kind: str) -> None:
    array = (np.arange(12) % 5 - (0 if kind in ("u1", "b1") else 2)).astype(kind).reshape(3, 4)
    (found,) = read(save_bytes(tmp_path / "a.pth", (array,)))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 0.15625], np.float32)
    writer = Writer()
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    writer.parts["0"] = upper.tobytes()
    storage = (
        b"(X\x07\0\0\0storage" + writer.name("torch", "BFloat16Storage") + b"X\x01\0\0\x000X\x03\0\0\0cpuK\x03tQ"
    )
    tensor = writer.call("torch._utils", "_rebuild_tensor_v2", Raw(storage), 0, (3,), (1,), False, OrderedDict())
    (tmp_path / "b.pth").write_bytes(archive(b"\x80\x02" + tensor + b".", writer.parts))
    np.testing.assert_array_equal(read(tmp_path / "b.pth"), values)


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_of_both_names_is_read(tmp_path: Path, core: str) -> None:
    writer = Writer(core)
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    value = {"scale": np.float64(0.31), "count": np.int64(-7), "array": Raw(writer.numpy_array(array))}
    program = b"\x80\x02" + writer.describe(value) + b"."
    (tmp_path / "n.pth").write_bytes(archive(program, {}))
    found = read(tmp_path / "n.pth")
    assert (found["scale"], found["count"]) == (0.31, -7)
    np.testing.assert_array_equal(found["array"], array)
    # the operations are those of numpy's own pickles
    assert pickle.loads(program)["scale"] == 0.31


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_torch_saves_is_read(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch", reason="torch writes the files of this test")
    rng = np.random.default_rng(1)
    whole = torch.from_numpy(rng.standard_normal((6, 8)).astype(np.float32))
    value = {
        "state": to_torch(OrderedDict(a=np.arange(5, dtype=np.int32), b=Parameter(np.ones((2, 3), np.float32)))),
        "views": [whole.T, whole[2:4, ::3], whole[1], whole[:0]],
        "bf16": torch.tensor([0.5, -3.0]).to(torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "number": torch.tensor(3.0),
        "numpy": (np.float64(0.5), np.arange(4.0)),
        "plain": (1, -(2**40), 2.5, None, True, "Ö", [], {}, ()),
    }
    torch.save(value, tmp_path / "t.pth", pickle_protocol=protocol)
    found = read(tmp_path / "t.pth")
    np.testing.assert_array_equal(found["state"]["a"], np.arange(5))
    np.testing.assert_array_equal(found["state"]["b"], np.ones((2, 3)))
    for got, expected in zip(found["views"], value["views"], strict=True):
        np.testing.assert_array_equal(got, expected.numpy())
        assert got.flags.c_contiguous
    np.testing.assert_array_equal(found["bf16"], [0.5, -3.0])
    np.testing.assert_array_equal(found["mask"], [True, False])
    assert found["number"].shape == ()
    assert found["numpy"][0] == 0.5
    np.testing.assert_array_equal(found["numpy"][1], np.arange(4.0))
    assert found["plain"] == value["plain"]


def test_tensors_that_nobody_reads_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_bytes(tmp_path / "a.pth", {"dead": np.zeros(1000, np.float32), "alive": np.ones(3, np.float32)})
    parts: list[str] = []
    real = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda z, info: parts.append(info.filename) or real(z, info))
    with opened(path) as root:
        np.testing.assert_array_equal(root["alive"].read(), np.ones(3))
    assert "archive/data/1" in parts
    assert "archive/data/0" not in parts


# What is refused


class Evil:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def program(value: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol)


def raw(operations: bytes) -> bytes:
    return b"\x80\x02" + operations + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TOUCH = "open('canary', 'w').close()"
CANARIES: dict[str, bytes] = {
    "os.system": program(Evil(os.system, "touch canary")),
    "os.system, protocol 4": program(Evil(os.system, "touch canary"), 4),
    "os.system, protocol 0": program(Evil(os.system, "touch canary"), 0),
    "eval": program(Evil(eval, TOUCH)),
    "exec": program(Evil(exec, TOUCH)),
    "within a state dict": program((OrderedDict(weight=Evil(exec, TOUCH)), {}, 3)),
    "within a reduce": program(Evil(OrderedDict, [("a", Evil(exec, TOUCH))])),
    "as a key": program({Evil(exec, TOUCH): 1}),
    "open": program(Evil(open, "canary", "w")),
    "INST": raw(b"(" + text(TOUCH) + b"i__builtin__\nexec\n"),
    "OBJ": raw(b"(c__builtin__\nexec\n" + text(TOUCH) + b"o"),
    "NEWOBJ": raw(b"csubprocess\nPopen\n" + text("touch canary").join((b"", b"")) + text("touch") + b"\x85\x81"),
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n]" + text("touch") + b"a" + text("canary") + b"a\x85}\x92.",
    "getattr of builtins": raw(b"c__builtin__\ngetattr\nc__builtin__\n__import__\n" + text("os") + b"\x85R\x86R"),
    "numpy's own eval": raw(b"cnumpy.testing._private.utils\nrunstring\n" + text(TOUCH) + b"}\x86R"),
    "torch's own loader": raw(b"ctorch.serialization\nload\n" + text("canary") + b"\x85R"),
    "a package to import": raw(b"cantigravity\nopen\n)R"),
    "dotted name": b"\x80\x04"
    + text("collections")
    + text("OrderedDict.fromkeys")
    + b"\x93"
    + text("canary")
    + b"\x85R.",
    "a second pickle": program(Evil(pickle.loads, program(Evil(exec, TOUCH)))),
    "setting attributes": raw(b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("__code__") + text("x") + b"sb"),
    "state of a reduce": raw(b"c_codecs\nencode\n(N}" + text("__doc__") + text("canary") + b"stb"),
    "extension registry": raw(b"\x82\x01)R"),
    "lookup": raw(b"c_codecs\nlookup\n" + text("rot13") + b"\x85R"),
    "another codec": raw(b"c_codecs\nencode\n" + text("canary") + text("zip") + b"\x86R"),
    "making a storage": raw(b"ctorch\nFloatStorage\nM\xff\xff\x85R"),
    "numpy objects": raw(b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R"),
    "numpy text": raw(b"cnumpy\ndtype\n" + text("U99999999") + b"\x89\x88\x87R"),
    "parameter of text": raw(b"ctorch._utils\n_rebuild_parameter\n" + text("canary") + b"\x88}\x87R"),
    "calling a number": raw(b"K\x01)R"),
    "another person's storage": raw(text("canary") + b"Q"),
    "a storage out of the archive": raw(
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("../data.pkl") + text("cpu") + b"K\x01tQ"
    ),
}


def test_the_canary_would_sing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pickles below do what they say when pickle reads them: refusing them is worth something."""
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "exec", "within a state dict", "a second pickle", "INST"):
        pickle.loads(CANARIES[name])
        assert Path("canary").exists(), name
        Path("canary").unlink()


@pytest.mark.parametrize("name", CANARIES)
def test_malicious_pickles_are_refused_and_nothing_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.pth").write_bytes(archive(CANARIES[name], {}))
    modules = set(sys.modules)
    with pytest.raises(CheckpointError, match=r"^evil\.pth .*Nothing was run") as refused, opened(Path("evil.pth")):
        pass
    assert refused.value.code == "checkpoint_unsafe"
    assert not Path("canary").exists()
    assert not (set(sys.modules) - modules) & {"antigravity", "torch", "torch.serialization", "numpy.testing"}


def rebuild(
    count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[bytes, dict[str, bytes]]:
    """A tensor of this view upon 8 bytes that claim to be `count` floats."""
    w = Writer()
    head = b"(" + text("storage") + w.name("torch", "FloatStorage") + text("0") + text("cpu")
    storage = Raw(head + w.describe(count) + b"tQ")
    made = w.call("torch._utils", "_rebuild_tensor_v2", storage, offset, size, stride, False, OrderedDict())
    return raw(made), {"0": bytes(8)}


VIEWS: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...]]] = {
    "beyond the end": (2, 0, (3,), (1,)),
    "offset beyond the end": (2, 3, (0,), (1,)),
    "negative offset": (2, -1, (1,), (1,)),
    "negative size": (2, 0, (-1,), (1,)),
    "negative stride": (2, 1, (2,), (-1,)),
    "stride beyond the end": (2, 0, (2,), (2,)),
    "one number repeated": (2, 0, (2**40,), (0,)),
    "an astronomic size": (2, 0, (2**47, 2**47), (0, 0)),
    "a size beyond 48 bits": (2, 0, (2**62,), (0,)),
    "more sizes than strides": (2, 0, (1, 1), (1,)),
    "too many dimensions": (2, 0, (1,) * 9, (1,) * 9),
    "an astronomic storage": (2**50, 0, (2,), (1,)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_tensors_that_do_not_fit_into_their_data_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "v.pth").write_bytes(archive(*rebuild(*VIEWS[name])))
    with pytest.raises(CheckpointError) as refused, opened(tmp_path / "v.pth"):
        pass
    assert refused.value.code == "checkpoint_unsafe"


@pytest.mark.parametrize("claimed", [1, 3, 2**39])
def test_a_storage_of_another_size_than_declared_is_refused(claimed: int, tmp_path: Path) -> None:
    (tmp_path / "v.pth").write_bytes(archive(*rebuild(claimed, 0, (1,), (1,))))
    with opened(tmp_path / "v.pth") as root, pytest.raises(CheckpointError, match=r"not the \d+ declared"):
        root.read()


def numpy_claim(shape: tuple[int, ...]) -> bytes:
    w = Writer()
    made = w.call(w.core, "_reconstruct", Raw(w.name("numpy", "ndarray")), (0,), w.bytes(b"b"))
    return raw(made + w.describe((1, shape, Raw(w.dtype("f8")), False, w.bytes(bytes(8)))) + b"b")


BOMBS: dict[str, bytes] = {
    # one megabyte of text turned into bytes again and again, each time from the memo
    "bytes from the memo": raw(
        b"c_codecs\nencode\nq\x00" + text("a" * (1 << 20)) + text("latin1") + b"\x86q\x01" + b"h\x00h\x01R" * 200
    ),
    # a key of 2 ** 60 leaves, in a few bytes
    "a key of tuples of tuples": raw(b"}" + text("x") + b"\x86q\x00h\x00\x86" * 1 + b"q\x01h\x01\x86" * 60 + b"Ns"),
    "a list as a key": raw(b"}]Ns"),
    "too many steps": raw(b"(" + b"N" * (torchfile.MAX_STEPS + 1) + b"t"),
    "a number of a megabyte": raw(b"\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20)),
    "a text that claims two gigabytes": raw(b"X" + struct.pack("<I", 2**31 - 1) + b"a"),
    "bytes that claim all memory": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "a frame that claims all memory": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".",
    "a numpy array that claims all memory": numpy_claim((2**40,)),
    "a numpy array with a negative size": numpy_claim((-1,)),
    "an unknown memo": raw(b"j" + struct.pack("<I", 2**31 - 1)),
    "below the mark": raw(b"K\x01(\x85"),
    "nothing": raw(b""),
    "a mark left over": raw(b"(K\x01"),
    "no end": b"\x80\x02K\x01",
    "no pickle": b"this is text",
    "empty": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_and_broken_descriptions_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "b.pth").write_bytes(archive(BOMBS[name], {}))
    with pytest.raises(CheckpointError) as refused, opened(tmp_path / "b.pth"):
        pass
    assert refused.value.code in ("checkpoint_unsafe", "checkpoint_format")


def packed() -> bytes:
    return archive(raw(b"N"), {}, zipfile.ZIP_DEFLATED)


def huge_directory() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for i in range(9):
            file.writestr(f"{i}/{'a' * 60_000}", b"")
        for i in range(9):
            file.writestr(f"b{i}/{'a' * 60_000}", b"")
    return out.getvalue()


def edited(entry: str, data: bytes) -> bytes:
    out = io.BytesIO(archive(raw(b"N"), {}))
    with zipfile.ZipFile(out, "a") as file:
        file.writestr(entry, data)
    return out.getvalue()


def big_endian() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", raw(b"N"))
        file.writestr("archive/byteorder", "big")
    return out.getvalue()


GOOD = archive(raw(b"N"), {"0": bytes(4)})
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "the format before torch 1.6": (lambda: LEGACY, "save it again"),
    "a bare pickle": (lambda: CANARIES["exec"], "is not a checkpoint as torch"),
    "an empty file": (lambda: b"", "is not a checkpoint as torch"),
    "a packed archive": (packed, "packed in a way torch never writes"),
    "a huge table of contents": (huge_directory, "more parts than any checkpoint"),
    "a program": (lambda: edited("archive/constants.pkl", b""), "TorchScript"),
    "two descriptions": (lambda: edited("other/data.pkl", b""), "no data.pkl"),
    "another machine's byte order": (big_endian, "big-endian"),
    "cut short": (lambda: GOOD[:-30], "is damaged"),
    "a flipped bit": (lambda: GOOD.replace(b"\x80\x02N.", b"\x80\x02K."), "is damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoints_are_refused_in_words(name: str, tmp_path: Path) -> None:
    make, words = FILES[name]
    (tmp_path / "f.pth").write_bytes(make())
    with pytest.raises(CheckpointError, match=words) as refused, opened(tmp_path / "f.pth"):
        pass
    assert refused.value.code == "checkpoint_format"
    assert refused.value.message.endswith(".")


def test_missing_tensor_data_and_missing_files_are_named(tmp_path: Path) -> None:
    program_, _ = rebuild(2, 0, (2,), (1,))
    (tmp_path / "f.pth").write_bytes(archive(program_, {}))
    with opened(tmp_path / "f.pth") as root, pytest.raises(CheckpointError, match="its part data/0 is missing"):
        root.read()
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(CheckpointError, match="is not a file") as refused, opened(path):
            pass
        assert refused.value.code == "checkpoint_missing"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_a_file_with_any_bytes_changed_is_read_or_refused(
    tmp_path: Path, changes: list[tuple[int, int]], resealed: bool
) -> None:
    """Never another exception. Resealed: the description is changed before it is put into its archive."""
    writer = Writer()
    value = (OrderedDict(a=np.ones((2, 3), np.float32)), np.float64(0.5), {"lr": 1.0, "betas": [0.9, 1]})
    described = bytearray(b"\x80\x02" + writer.describe(value) + b".")
    data = bytearray(archive(bytes(described), writer.parts))
    target = described if resealed else data
    for at, byte in changes:
        target[at % len(target)] = byte
    (tmp_path / "fuzz.pth").write_bytes(archive(bytes(described), writer.parts) if resealed else data)
    with contextlib.suppress(CheckpointError):
        read(tmp_path / "fuzz.pth")
