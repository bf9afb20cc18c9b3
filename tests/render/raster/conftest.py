"""Kernels for these tests are compiled once a session, about 25 s of CPU, into a folder that ends with it.

With NUMBA_CACHE_DIR set they are kept there instead, and the next session loads them in half a second.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

pytest.importorskip("numba", reason="numba compiles the CPU rasteriser; it comes with the renderer's extra")

KEPT = "NUMBA_CACHE_DIR" in os.environ
FOLDER = os.environ.setdefault("NUMBA_CACHE_DIR", tempfile.mkdtemp(prefix="visavis-kernels-"))


@pytest.fixture(scope="session", autouse=True)
def kernels() -> Iterator[str]:
    """Where the compiled kernels are."""
    yield FOLDER
    if not KEPT:
        shutil.rmtree(FOLDER, ignore_errors=True)
