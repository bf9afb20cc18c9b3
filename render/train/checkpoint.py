"""Checkpoints of training: tensors and notes in one safetensors file, written whole or not at all."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from server.core.errors import VisavisError


@dataclass(frozen=True)
class Checkpoint:
    tensors: dict[str, Tensor]
    notes: dict[str, Any]


def write(path: Path, fingerprint: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """fingerprint: of what must be the same when it is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        save_file(plain, new, {"fingerprint": fingerprint, "notes": json.dumps(notes)})
        os.replace(new, path)
    except (OSError, SafetensorError) as e:
        raise VisavisError("checkpoint", f"{path} cannot be written: {e}. Make room, or choose another place.") from e


def read(path: Path, fingerprint: str) -> Checkpoint | None:
    """None if there is none. Raises VisavisError for one of another training, or a damaged one."""
    if not path.is_file():
        return None
    remedy = f"Delete {path.parent}, or use another folder for the work."
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = json.loads(meta.get("notes", ""))
    except (OSError, ValueError, SafetensorError) as e:
        raise VisavisError("checkpoint", f"{path} is damaged. {remedy}") from e
    if meta.get("fingerprint") != fingerprint:
        raise VisavisError("checkpoint", f"{path} is of another training: clip, field or sizes differ. {remedy}")
    return Checkpoint(tensors, notes)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": t for name, t in tensors.items()}
