"""The page with an unmodified @openai/agents-realtime client: built once, driven by Playwright."""

import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from benchmarks import chromium

ROOM = Path(__file__).parent
PAGE = ROOM / "agents_page"


def built_page() -> Path:
    """The folder to serve. Skips the test where npm's packages are not installed."""
    esbuild = ROOM / "node_modules" / ".bin" / "esbuild"
    if not esbuild.exists():
        pytest.skip("no npm packages: run `npm ci` in tests/browser")
    if chromium.find() is None:
        pytest.skip(chromium.MISSING)
    subprocess.run(
        [esbuild, "page.js", "--bundle", "--format=esm", "--outfile=build/page.js", "--log-level=error"],
        cwd=PAGE,
        check=True,
        timeout=60,
    )
    return PAGE


def buzzing_microphone(path: Path, seconds: float = 30.0) -> Path:
    """A WAV with bursts of a buzz, four a second."""
    t = np.arange(int(48_000 * seconds)) / 48_000
    buzz = np.sign(np.sin(2 * np.pi * 180 * t)) * (np.sin(2 * np.pi * 2 * t) > 0) * 8000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(buzz.astype("<i2").tobytes())
    return path
