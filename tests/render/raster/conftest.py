"""Kernels for these tests are compiled once a session, about 20 s of CPU, into a folder that ends with it.

With NUMBA_CACHE_DIR set they are kept there instead, and the next session loads them in half a second.
"""

import atexit
import os
import shutil
import tempfile

import pytest

if "NUMBA_CACHE_DIR" not in os.environ:  # read when render.raster.compiled is imported
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="visavis-kernels-")
    atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)

pytest.importorskip("numba", reason="numba compiles the CPU rasteriser; it comes with the renderer's extra")
