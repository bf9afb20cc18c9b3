"""Keeps a worker process to its share of a GPU's memory."""

from typing import Any

CONTEXT_GIB = 0.5
"""what CUDA itself takes in each process, beside what PyTorch allocates (reckoned)"""


def keep_to(memory_gib: float, device: str, cuda: Any) -> None:
    """What this process allocates beyond its share fails here, and not in another process on the same GPU.

    memory_gib: its share; 0: no limit. device: `cuda`, `cuda:1` ...; nothing is done for any other. cuda: torch.cuda.
    """
    if memory_gib <= 0 or not device.startswith("cuda") or not cuda.is_available():
        return
    index = int(device.partition(":")[2] or 0)
    total_gib = cuda.get_device_properties(index).total_memory / 2**30
    allowed = max(memory_gib - CONTEXT_GIB, memory_gib / 2)
    cuda.set_per_process_memory_fraction(min(1.0, allowed / total_gib), index)
