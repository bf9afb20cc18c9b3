"""How kernels are compiled: numba, without Python objects or the GIL, kept on disk under the sources' digest."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# No "reassoc": the order of additions is ours, so that a picture is the same every time.
FAST = {"nnan", "ninf", "nsz", "arcp", "contract"}


def folder(sources: Path) -> Path:
    """Where compiled kernels are kept.

    numba looks only at the file of the function itself, and so misses an edit in a file that it inlines (simd.py);
    hence a folder for every state of the sources. Within it numba keeps machine and instruction set apart.
    """
    digest = hashlib.sha256()
    for path in sorted(sources.glob("*.py")):
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = os.environ.get("NUMBA_CACHE_DIR") or cache / "visavis" / "numba"
    return Path(base) / digest.hexdigest()[:16]


FOLDER = folder(Path(__file__).parent)


def _compile(kernel: Kernel, **options: Any) -> Kernel:
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(FOLDER)  # read while njit runs; other users of numba keep theirs
    try:
        compiled: Kernel = numba.njit(cache=True, nogil=True, boundscheck=False, error_model="numpy", **options)(
            kernel
        )
    finally:
        numba.config.CACHE_DIR = before
    return compiled


def fast(kernel: Kernel) -> Kernel:
    """A kernel whose floats are known to be finite."""
    return _compile(kernel, fastmath=FAST)


def exact(kernel: Kernel) -> Kernel:
    """A kernel that may meet NaN and infinity, or sees no floats."""
    return _compile(kernel)


def inlined(kernel: Kernel) -> Kernel:
    """A piece of a fast kernel, pasted where it is called."""
    return _compile(kernel, fastmath=FAST, inline="always")
