"""Shares of a GPU's memory added up, and held against what nvidia-smi says (a program of the test's own here)."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from server.core.settings import GpuSettings
from server.gpus import Finding, Gpu, add_up, ask_driver, found_here
from server.workers.gpu import CONTEXT_GIB, keep_to

CARD = Gpu(0, "NVIDIA GeForce RTX 4090", 23.988, 0.4)
SMALL = Gpu(1, "NVIDIA T4", 15.0, 0.0)
SHARES: dict[str, Any] = {
    "reserve_gib": 1.0,
    "asr": {"device": "cuda:0", "memory_gib": 4.0},
    "llm": {"device": "cuda:0", "memory_gib": 12.0},
    "tts": {"device": "cuda:0", "memory_gib": 6.0},
}


def shares(**changes: Any) -> GpuSettings:
    return msgspec.convert({**SHARES, **changes}, GpuSettings)


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_what_fits_is_said_with_its_sum() -> None:
    finding = only(add_up(shares(), {"asr": "cuda:0"}, [CARD]))
    assert finding == Finding(
        True,
        "gpu cuda:0",
        "NVIDIA GeForce RTX 4090, 24.0 GiB, 0.4 in use: asr 4 + llm 12 + tts 6 + 1 left free = 23 GiB",
    )


def test_what_is_too_much_is_refused_with_what_to_lower() -> None:
    finding = only(add_up(shares(llm={"device": "cuda:0", "memory_gib": 14.5}), {"asr": "auto"}, [CARD]))
    assert (finding.good, finding.needed) == (False, True)
    assert "asr 4 + llm 14.5 + tts 6 + 1 left free = 25.5 GiB is more than there is" in finding.sentence
    assert "gpu.llm.memory_gib and its --gpu-memory-utilization" in finding.sentence


def test_the_reserve_counts() -> None:
    assert only(add_up(shares(reserve_gib=1.9), {"asr": "auto"}, [CARD])).good
    assert not only(add_up(shares(reserve_gib=2.1), {"asr": "auto"}, [CARD])).good


def test_each_device_has_a_sum_of_its_own() -> None:
    moved = shares(tts={"device": "cuda:1", "memory_gib": 15.0})
    first, second = add_up(moved, {"asr": "auto"}, [CARD, SMALL])
    assert (first.what, first.good) == ("gpu cuda:0", True)
    assert (second.what, second.good) == ("gpu cuda:1", False)  # with what is left free, one more than it has
    assert "tts 15" in second.sentence
    assert "asr" not in second.sentence


def test_a_device_that_is_not_there() -> None:
    finding = only(add_up(shares(), {"asr": "auto"}, []))
    assert not finding.good
    assert "nvidia-smi knows no GPU, not cuda:0, which asr, llm, tts should be on" in finding.sentence


def test_without_the_driver_the_stated_size_must_do() -> None:
    stated, advice = add_up(shares(memory_gib=24.0), {"asr": "auto"}, None)
    assert (stated.good, stated.sentence) == (True, "24 GiB: asr 4 + llm 12 + tts 6 + 1 left free = 23 GiB")
    assert (advice.good, advice.needed) == (False, False)
    assert not add_up(shares(memory_gib=16.0), {"asr": "auto"}, None)[0].good
    unknown, _ = add_up(shares(), {"asr": "auto"}, None)
    assert unknown.good
    assert "gpu.memory_gib" in unknown.sentence


@pytest.mark.parametrize(("device", "in_the_way"), [("cuda:1", True), ("cpu", False)])
def test_the_workers_device_and_its_share_must_agree(device: str, in_the_way: bool) -> None:
    *_, finding = add_up(shares(), {"asr": device}, [CARD, SMALL])
    assert (finding.good, finding.needed) == (False, in_the_way)
    assert "asr.device" in finding.sentence
    assert len(add_up(shares(), {"asr": "cuda"}, [CARD])) == 1  # which is the first


def test_nobody_on_a_gpu_asks_nobody() -> None:
    def asked() -> list[Gpu]:
        raise AssertionError

    assert found_here(GpuSettings(), {"asr": "auto", "render": "cpu"}, asked) == []
    assert (
        only(found_here(GpuSettings(), {"render": "cuda:0"}, lambda: [CARD])).good is False
    )  # a worker whose share is not stated


@pytest.mark.parametrize(
    ("share", "words"),
    [
        ({"device": "gpu0", "memory_gib": 1}, "cuda:N"),
        ({"device": "cuda:0"}, "go together"),
        ({"memory_gib": 3}, "go together"),
        ({"device": "cuda:0", "memory_gib": -1}, "between 0 and"),
    ],
)
def test_a_share_that_cannot_be_one(share: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        shares(tts=share)


# ---- nvidia-smi ------------------------------------------------------------------------------------


def program(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    rows = "0, NVIDIA GeForce RTX 4090, 24564, 410\n1, NVIDIA T4, [N/A], [N/A]\n2, NVIDIA L4, 23034, 0"
    program(tmp_path, f'echo "$@" > {asked}\ncat <<EOF\n{rows}\nEOF', monkeypatch)
    found = ask_driver()
    assert found is not None
    assert [gpu.index for gpu in found] == [0, 2]
    assert found[0] == Gpu(0, "NVIDIA GeForce RTX 4090", 24564 / 1024, 410 / 1024)
    assert "--query-gpu=index,name,memory.total,memory.used --format=csv,noheader,nounits" in asked.read_text()


def test_a_driver_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "echo 'Failed to initialize NVML'; exit 9", monkeypatch)
    assert ask_driver() is None
    assert ask_driver("no-such-program-as-this") is None


# ---- a worker that keeps to its share --------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "device", "kept"),
    [
        (3.5, "cuda:1", [((3.5 - CONTEXT_GIB) / 16, 1)]),
        (3.5, "cuda", [((3.5 - CONTEXT_GIB) / 16, 0)]),
        (0.6, "cuda", [(0.3 / 16, 0)]),
        (99.0, "cuda", [(1.0, 0)]),
        (3.5, "cpu", []),
        (0.0, "cuda", []),
    ],
)
def test_a_worker_keeps_to_its_share(share: float, device: str, kept: list[tuple[float, int]]) -> None:
    asked: list[tuple[float, int]] = []
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_properties=lambda index: SimpleNamespace(total_memory=16 * 2**30),
        set_per_process_memory_fraction=lambda fraction, index: asked.append((fraction, index)),
    )
    keep_to(share, device, cuda)
    assert asked == [(pytest.approx(fraction), index) for fraction, index in kept]
    keep_to(share, device, SimpleNamespace(is_available=lambda: False))
