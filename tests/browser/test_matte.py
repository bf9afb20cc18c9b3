"""The face over the page: client/matte.js in real Chromium, with a stacked video made on the spot."""

from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.async_api import Browser, Page, Route

from benchmarks import chromium

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLIENT = Path(__file__).parents[2] / "client"
HOST = "http://page.test"
PAGE = """<!doctype html>
<style>body { margin: 0; background: rgb(0, 200, 0) } canvas, video { position: absolute; left: 0; top: 0 }
#shown { width: 300px; height: 300px } video { opacity: 0 }</style>
<video muted playsinline></video><canvas id="shown"></canvas>
"""
# Left third: opaque red. Middle third: half of blue. Right third: nothing. Below it the matte, if there is one.
FILM = """
async ({ stacked, plain }) => {
  if (plain) {
    const original = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
      return kind === "webgl" ? null : original.call(this, kind, ...rest);
    };
  }
  const { Matte } = await import("/matte.js");
  const source = document.createElement("canvas");
  source.width = 300;
  source.height = stacked ? 600 : 300;
  const paint = source.getContext("2d");
  const rows = [["#ff0000", "#000080", "#000000"], ["#ffffff", "#808080", "#000000"]];
  const draw = () => rows.forEach((row, j) => row.forEach((colour, k) => {
    paint.fillStyle = colour;
    paint.fillRect(100 * k, 300 * j, 100, 300);
  }));
  draw();
  setInterval(draw, 40);
  const video = document.querySelector("video");
  video.srcObject = source.captureStream(25);
  await video.play();
  const told = [];
  const matte = new Matte(video, document.getElementById("shown"), (on) => told.push(on));
  matte.start();
  await new Promise((resolve) => setInterval(() => told.length > 4 && resolve(), 20));
  return told.at(-1);
}
"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    if chromium.find() is None:
        pytest.skip(chromium.MISSING)
    async with chromium.launch() as browser:
        yield browser


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    async def serve(route: Route) -> None:
        if route.request.url == f"{HOST}/matte.js":
            await route.fulfill(body=(CLIENT / "matte.js").read_text(), content_type="text/javascript")
        else:
            await route.fulfill(body=PAGE, content_type="text/html")

    context = await browser.new_context(viewport={"width": 300, "height": 300})
    page = await context.new_page()
    page.set_default_timeout(10_000)
    await page.route("**/*", serve)
    await page.goto(f"{HOST}/")
    yield page
    await context.close()


async def seen(page: Page) -> np.ndarray:
    png = await page.screenshot()
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)


@pytest.mark.parametrize("plain", [False, True])
async def test_the_page_shows_through(page: Page, plain: bool) -> None:
    """With WebGL where the machine has it, and without."""
    assert await page.evaluate(FILM, {"stacked": True, "plain": plain})
    shot = await seen(page)
    for x, colour in ((50, (255, 0, 0)), (150, (0, 100, 128)), (250, (0, 200, 0))):
        for y in (4, 150, 295):
            assert np.abs(shot[y, x] - colour).max() <= 6, (x, y)


async def test_a_video_without_a_matte_stays_a_video(page: Page) -> None:
    assert not await page.evaluate(FILM, {"stacked": False, "plain": True})
