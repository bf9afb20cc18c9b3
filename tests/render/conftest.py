"""Kernels for these tests are compiled once a session, about 40 s of CPU, into a folder that ends with it.

With NUMBA_CACHE_DIR set they are kept there instead, and the next session loads them in half a second.
"""

import atexit
import os
import shutil
import tempfile

if "NUMBA_CACHE_DIR" not in os.environ:  # read when render.raster.compiled is imported
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="visavis-kernels-")
    atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)
