"""Real Chromium for tests and measurements: headless, nothing but loopback, a WAV as its microphone."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/snap/bin/chromium",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-device-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
    "--disable-domain-reliability",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication,"
    "CertificateTransparencyComponentUpdater,DialMediaRouteProvider",
)
PERMISSIVE = (
    "--use-fake-ui-for-media-stream",  # the microphone is granted unasked
    "--autoplay-policy=no-user-gesture-required",
)


def find() -> str | None:
    """Chromium or Chrome: from VISAVIS_CHROMIUM, the PATH, or the usual places."""
    named = os.environ.get("VISAVIS_CHROMIUM")
    if named:
        return named
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return found or next((place for place in PLACES if Path(place).exists()), None)


MISSING = (
    "No Chromium or Chrome was found. Install one (Debian: apt-get install chromium) "
    "or name it with the environment variable VISAVIS_CHROMIUM."
)


@asynccontextmanager
async def launch(microphone: Path | None = None, permissive: bool = True) -> AsyncIterator[Browser]:
    """microphone: a WAV that plays from getUserMedia on; without one, Chromium's own beeps.
    permissive: grant the microphone and sound unasked.
    """
    executable = find()
    if executable is None:
        raise RuntimeError(MISSING)
    flags = [*FLAGS, *(PERMISSIVE if permissive else ())]
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, headless=True, args=flags, ignore_default_args=["--mute-audio", "--headless"]
        )
        try:
            yield browser
        finally:
            await browser.close()
