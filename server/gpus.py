"""Who shares which GPU: the stated shares of its memory added up, against what nvidia-smi says of it."""

import csv
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from server.core.settings import GpuSettings

MIB_PER_GIB = 1024
ASK_S = 10.0  # nvidia-smi wakes a sleeping driver
QUERY = ("--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device, as nvidia-smi tells of it."""

    index: int
    name: str
    total_gib: float
    used_gib: float
    """by all processes, now"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's."""

    good: bool
    what: str
    sentence: str
    """what there is; or what is wrong, and what to do"""
    needed: bool = True
    """whether nothing works without it"""


def ask_driver(program: str = "nvidia-smi") -> list[Gpu] | None:
    """The GPUs of this machine; None where nobody can be asked. Takes ASK_S at most."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *QUERY], capture_output=True, text=True, timeout=ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = []
    for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True):
        try:
            index, name, total, used = row
            found.append(Gpu(int(index), name, float(total) / MIB_PER_GIB, float(used) / MIB_PER_GIB))
        except ValueError:  # a device that is lost says "[N/A]"
            continue
    return found


def add_up(settings: GpuSettings, devices: Mapping[str, str], gpus: Sequence[Gpu] | None) -> list[Finding]:
    """A line for each GPU that a stage is on; none where no stage is.

    devices: of the stages that run in workers of ours, as their settings name them (`auto`, `cpu`, `cuda:0`).
    gpus: None, where the driver cannot be asked.
    """
    findings = []
    by_device: dict[str, list[str]] = {}
    for stage, share in settings.shares.items():
        by_device.setdefault(share.device, []).append(stage)
    for device, stages in sorted(by_device.items()):
        findings.append(_device(device, stages, settings, gpus))
    if gpus is None and by_device:
        sentence = "nvidia-smi is not here, so nobody says what GPU there is: only gpu.memory_gib is held against."
        findings.append(Finding(False, "gpu", sentence, needed=False))
    for stage, device in devices.items():
        stated = settings.shares[stage].device if stage in settings.shares else ""
        named = "cuda:0" if device == "cuda" else device
        if named.startswith("cuda") and named != stated:
            sentence = f"{stage}.device is {device}, but gpu.{stage}.device is {stated or 'empty'}: make them agree."
            findings.append(Finding(False, f"gpu {named}", sentence))
        if named == "cpu" and stated:
            sentence = (
                f"{stage}.device is cpu, so gpu.{stage} takes nothing of {stated}: empty it, or change the other."
            )
            findings.append(Finding(False, f"gpu {stated}", sentence, needed=False))
    return findings


def _device(device: str, stages: Sequence[str], settings: GpuSettings, gpus: Sequence[Gpu] | None) -> Finding:
    shares = settings.shares
    taken = sum(shares[stage].memory_gib for stage in stages) + settings.reserve_gib
    parts = " + ".join(f"{stage} {shares[stage].memory_gib:g}" for stage in stages)
    told = f"{parts} + {settings.reserve_gib:g} left free = {taken:g} GiB"
    index = int(device.removeprefix("cuda:"))
    gpu = next((gpu for gpu in gpus if gpu.index == index), None) if gpus is not None else None
    what = f"gpu {device}"
    if gpus is not None and gpu is None:
        there = f"cuda:0 to cuda:{len(gpus) - 1}" if len(gpus) > 1 else "cuda:0" if gpus else "no GPU"
        sentence = (
            f"nvidia-smi knows {there}, not {device}, which {', '.join(stages)} should be on: correct gpu.*.device."
        )
        return Finding(False, what, sentence)
    total = gpu.total_gib if gpu is not None else settings.memory_gib
    name = f"{gpu.name}, {gpu.total_gib:.1f} GiB, {gpu.used_gib:.1f} in use" if gpu is not None else f"{total:g} GiB"
    if not total:
        return Finding(True, what, f"{told}; set gpu.memory_gib to have that held against the device")
    if taken > total:
        largest = max(stages, key=lambda stage: shares[stage].memory_gib)
        also = " and its --gpu-memory-utilization" if largest == "llm" else ""
        sentence = (
            f"{told} is more than there is ({name}): lower gpu.{largest}.memory_gib{also},"
            " take a smaller model, or move a stage to another device."
        )
        return Finding(False, what, sentence)
    return Finding(True, what, f"{name}: {told}")


def found_here(
    settings: GpuSettings, devices: Mapping[str, str], ask: Callable[[], list[Gpu] | None] = ask_driver
) -> list[Finding]:
    """`add_up` for this machine; the driver is asked only if a stage is on a GPU."""
    wanted = bool(settings.shares) or any(device.startswith("cuda") for device in devices.values())
    return add_up(settings, devices, ask()) if wanted else []
