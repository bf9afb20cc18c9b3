"""The InsTaG face through the real server into real Chromium: its colours, and the page behind it."""

from collections.abc import AsyncIterator
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.async_api import Page

pytest.importorskip("numba", reason="numba paints the InsTaG face; it comes with the instag extra")

from benchmarks import chromium
from benchmarks.call import page
from benchmarks.server import Running, running
from render.avatar import save
from tests.render import procedural

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIDES = (256, 192, 128)
COLOUR = (60, 120, 200)
PIXELS = """
() => {
  const video = document.querySelector("talking-head").videoElement;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  const paint = canvas.getContext("2d");
  paint.drawImage(video, 0, 0);
  return { width: canvas.width, height: canvas.height, data: [...paint.getImageData(0, 0, 24, canvas.height).data] };
}
"""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    if chromium.find() is None:
        pytest.skip(chromium.MISSING)
    place = tmp_path_factory.mktemp("avatars")
    save(procedural.person("mia"), place / "mia")
    background = "#" + bytes(COLOUR).hex()
    settings = (
        "asr.type=none",
        "tts.type=tone",
        "llm.type=scripted",
        "personas.mia.opening=",
        "render.type=instag",
        f"render.avatars=['{place}']",
        f"render.background='{background}'",
    )
    async with running(*settings) as server:
        yield server


async def shown(tab: Page) -> Any:
    """The call's picture once it is there: (H, 24, 4), its left edge."""
    await tab.get_by_role("button", name="Start talking").click()
    await tab.locator(".shell[data-video]").wait_for()
    for _ in range(40):  # the first frames are still being refined
        await tab.evaluate("() => new Promise(requestAnimationFrame)")
    seen = await tab.evaluate(PIXELS)
    return np.array(seen["data"], np.uint8).reshape(seen["height"], 24, 4)


async def test_a_colour_arrives_as_it_was_meant(server: Running) -> None:
    async with page(server, None) as tab:
        edge = (await shown(tab)).astype(int)
        patch = edge[8:40, 4:20, :3].reshape(-1, 3)
        assert edge.shape[0] in SIDES  # a busy machine may have made it smaller
        assert np.abs(patch.mean(0) - COLOUR).max() <= 3


async def test_the_page_is_seen_beside_the_face(server: Running) -> None:
    async with page(server, None) as tab:
        await tab.locator("talking-head").evaluate(
            "e => { e.setAttribute('transparent', ''); document.body.style.background = 'rgb(10, 200, 30)'; }"
        )
        edge = await shown(tab)
        half = edge.shape[0] // 2
        assert half in SIDES
        assert edge[8:40, 4:20, :3].max() <= 3  # black ...
        assert edge[half + 8 : half + 40, 4:20, :3].max() <= 3  # ... and a matte that says so
        await tab.locator(".shell[data-matte] .matte").wait_for()
        box = await tab.locator(".matte").bounding_box()
        assert box is not None
        left, top = box["x"] + 0.04 * box["width"], box["y"] + 0.5 * box["height"]
        png = await tab.screenshot(clip={"x": left, "y": top, "width": 4, "height": 4})
        pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.abs(pixels.astype(int) - (10, 200, 30)).max() <= 4
