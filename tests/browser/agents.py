"""The page with an unmodified @openai/agents-realtime client: built once, driven by Playwright."""

import os
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

ROOM = Path(__file__).parent
PAGE = ROOM / "agents_page"
CHROMIUM = os.environ.get("VISAVIS_CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
     if (path := shutil.which(name))),
    "",
)  # fmt: skip
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--allow-loopback-in-peer-connection",  # where loopback is the only interface
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
)


def built_page() -> Path:
    """The folder to serve. Skips the test where npm's packages are not installed."""
    esbuild = ROOM / "node_modules" / ".bin" / "esbuild"
    if not esbuild.exists():
        pytest.skip("no npm packages: run `npm ci` in tests/browser")
    if not CHROMIUM:
        pytest.skip("no Chromium: name one with VISAVIS_CHROMIUM")
    subprocess.run(
        [esbuild, "page.js", "--bundle", "--format=esm", "--outfile=build/page.js", "--log-level=error"],
        cwd=PAGE,
        check=True,
        timeout=60,
    )
    return PAGE


def microphone_flag(path: Path, seconds: float = 30.0) -> str:
    """Chromium's flag for a microphone that plays this: bursts of a buzz, four a second, written to `path`."""
    t = np.arange(int(48_000 * seconds)) / 48_000
    buzz = np.sign(np.sin(2 * np.pi * 180 * t)) * (np.sin(2 * np.pi * 2 * t) > 0) * 8000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(buzz.astype("<i2").tobytes())
    return f"--use-file-for-fake-audio-capture={path}%noloop"
