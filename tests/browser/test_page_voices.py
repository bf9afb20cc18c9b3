"""Our own page's voices in real Chromium: record one, choose it for the call, delete it; words where none can."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from benchmarks import chromium
from benchmarks.server import running
from benchmarks.utterances import compose
from server.voice_routes import NO_CLONES
from tests.browser.stub import Stub
from tests.browser.test_page_static import audit
from tests.fakes.speech_server import Answer, speech_server, tone
from tts.voices import CONSENT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING),
]

ROUTE = "**/v1/audio/voices"
READING = "The harbour was quiet this morning. A small boat came in with the tide, and everybody on board was waving."
TOLD: dict[str, Any] = {
    "data": [
        {"id": "anna", "name": "anna", "cloned": True, "language": "en", "seconds": 7, "transcript": READING},
        {"id": "narrator", "name": "narrator", "cloned": False},
    ],
    "can_clone": True,
    "why_not": "",
    "understood": ["en"],
    "consent": CONSENT,
}


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


async def reveal(page: Page) -> Locator:
    await button(page, "Voices").click()
    dialog = page.get_by_role("dialog", name="Voices")
    await expect(dialog.get_by_role("radio").first).to_be_visible()
    return dialog


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium.launch(permissive=False) as browser:
        yield browser


@asynccontextmanager
async def opened(
    browser: Browser, told: dict[str, Any], permissions: tuple[str, ...] = ("microphone",), **options: Any
) -> AsyncIterator[Page]:
    """The page at a server that tells this of its voices."""
    async with Stub().serve() as stub:
        context = await browser.new_context(permissions=list(permissions), **options)
        try:
            page = await context.new_page()
            page.set_default_timeout(10_000)
            await page.route(ROUTE, lambda route: route.fulfill(json=told))
            await page.goto(stub.url)
            yield page
        finally:
            await context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
async def test_axe_finds_nothing_serious(browser: Browser, scheme: str, width: int) -> None:
    looks = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "reduced_motion": "reduce"}
    async with opened(browser, TOLD, **looks) as page:
        dialog = await reveal(page)
        assert await audit(page) == []
        await dialog.get_by_role("button", name="Delete anna").click()
        await page.locator(".voices-wrong").evaluate("e => { e.hidden = false; e.textContent = 'It is too short.' }")
        await page.locator(".voices-told").evaluate("e => { e.innerHTML = '<strong>anna is ready.</strong> Good.' }")
        assert await audit(page) == []
    async with opened(browser, TOLD | {"can_clone": False, "why_not": NO_CLONES}, **looks) as page:
        await reveal(page)
        assert await audit(page) == []


async def test_all_of_it_by_keyboard(browser: Browser) -> None:
    async with opened(browser, TOLD) as page:
        await button(page, "Voices").focus()
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Voices")
        await expect(dialog.get_by_role("radio", name="anna")).to_be_visible()
        await dialog.get_by_role("radio", name="The persona's own").focus()
        await page.keyboard.press("ArrowDown")
        assert await page.evaluate("document.querySelector('talking-head').voice") == "anna"
        reached = []
        for _ in range(12):
            await page.keyboard.press("Tab")
            reached.append(
                await page.evaluate(
                    "(document.activeElement.className || document.activeElement.type || '').toString()"
                )
            )
        for stop in ("voices-delete", "voices-transcript", "voices-record", "file", "voices-name", "checkbox"):
            assert stop in reached, reached
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(button(page, "Voices")).to_be_focused()


async def test_where_no_voice_can_be_made_it_is_said_and_one_can_still_choose(browser: Browser) -> None:
    told = TOLD | {"data": TOLD["data"][1:], "can_clone": False, "why_not": NO_CLONES}
    async with opened(browser, told) as page:
        dialog = await reveal(page)
        await expect(dialog).to_contain_text('it takes [tts] type = "cosyvoice"')
        await expect(button(page, "Record")).to_be_hidden()
        await dialog.get_by_role("radio", name="narrator").check()
        assert await page.evaluate("document.querySelector('talking-head').voice") == "narrator"


async def test_a_blocked_microphone_and_a_server_that_is_gone_are_said(browser: Browser) -> None:
    async with opened(browser, TOLD, permissions=()) as page:
        await reveal(page)
        await button(page, "Record").click()
        await expect(page.locator(".voices-wrong")).to_contain_text("The microphone is blocked")
        await button(page, "Close").click()
        await page.unroute(ROUTE)
        await page.route(ROUTE, lambda route: route.abort())
        await button(page, "Voices").click()
        await expect(page.locator(".voices-wrong")).to_contain_text("The server does not answer")


async def test_a_file_needs_consent_and_a_refusal_is_said(browser: Browser) -> None:
    sent: list[str] = []

    async def serve(route: Any) -> None:
        if route.request.method == "POST":
            sent.append((route.request.post_data_buffer or b"").decode("latin-1"))
            error = {"code": "too_short", "message": "It lasts 1.0 s; say something for 3 s at least."}
            await route.fulfill(status=422, json={"error": error})
        else:
            await route.fulfill(json=TOLD)

    async with opened(browser, TOLD) as page:
        await page.unroute(ROUTE)
        await page.route(ROUTE, serve)
        dialog = await reveal(page)
        save = button(page, "Make this voice")
        await expect(save).to_be_disabled()
        file: Any = {"name": "me.wav", "mimeType": "audio/wav", "buffer": b"RIFF"}
        await dialog.locator("input[type=file]").set_input_files(file)
        await expect(save).to_be_disabled()  # there is no consent
        await dialog.get_by_role("checkbox").check()
        await save.click()
        assert sent == []  # there is no name
        await dialog.get_by_role("textbox", name="Name").fill("me")
        await save.click()
        await expect(page.locator(".voices-wrong")).to_contain_text("It lasts 1.0 s")
        assert f'name="consent_text"\r\n\r\n{CONSENT}' in sent[0]
        assert 'name="name"\r\n\r\nme' in sent[0]
        await expect(save).to_be_enabled()  # to be tried again


async def test_a_recorded_voice_comes_is_chosen_for_the_call_and_goes(tmp_path: Path) -> None:
    microphone = tmp_path / "microphone.wav"
    clones = tmp_path / "voices"
    clones.mkdir()
    compose(microphone, [READING], [1.0], lead_s=0.4)
    async with (
        speech_server(Answer((tone(1.5),)), saved=["narrator"]) as fake,
        running(
            *("tts.type=cosyvoice", f"tts.base_url={fake.url}", f"tts.clones={clones}", "tts.voice=narrator"),
            *("tts.normalize=false", "tts.first_s=30", "tts.gap_s=30", "asr.type=none", "llm.type=scripted"),
            *("render.type=testcard", "personas.mia.opening=Hello there."),
        ) as server,
        chromium.launch(microphone) as browser,
    ):
        page = await browser.new_page(bypass_csp=False)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if "Security Policy" in line.text else None)
        await page.goto(server.address)
        dialog = await reveal(page)
        await expect(dialog.locator(".voices-transcript")).to_have_value(READING)
        await button(page, "Record").click()
        await expect(button(page, "Stop")).to_be_disabled()  # less than 3 s is no voice
        await expect(page.locator(".voices-time")).to_have_text(re.compile(r"^([89]|[12]\d)\.\d s$"), timeout=30_000)
        await button(page, "Stop").click()
        await expect(button(page, "Listen")).to_be_visible()
        await dialog.get_by_role("textbox", name="Name").fill("anna")
        await dialog.get_by_role("checkbox").check()
        await button(page, "Make this voice").click()
        await expect(dialog.get_by_role("status")).to_contain_text("anna is ready", timeout=60_000)
        sheet = json.loads((clones / "anna" / "voice.json").read_text())
        assert sheet["consent"]["text"] == CONSENT
        assert sheet["transcript"] in READING

        await dialog.get_by_role("radio", name="anna").check()
        await button(page, "Close").click()
        await button(page, "Start talking").click()
        await expect(page.locator("talking-head .status .word")).to_have_text("Speaking", timeout=60_000)
        _, body = fake.requests[0]
        assert fake.voices[body["voice"]]["audio"] == (clones / "anna" / "reference.wav").read_bytes()
        await button(page, "Hang up").click()

        await reveal(page)
        await dialog.get_by_role("button", name="Delete anna").click()
        await dialog.get_by_role("button", name="Really delete anna?").click()
        await expect(dialog.get_by_role("status")).to_contain_text("anna is deleted")
        await expect(dialog.get_by_role("radio", name="anna")).to_have_count(0)
        await expect(dialog.get_by_role("radio", name="The persona's own")).to_be_checked()
        assert list(clones.iterdir()) == []
        assert fake.deleted == [body["voice"]]
        assert complaints == []
