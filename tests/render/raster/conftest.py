"""The rasteriser's tests need what compiles it."""

import pytest

pytest.importorskip("numba", reason="numba compiles the CPU rasteriser; it comes with the renderer's extra")
