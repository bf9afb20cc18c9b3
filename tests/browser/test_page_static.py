"""The page in real Chromium against a stub server: what a person sees and does, and what goes over the wire."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aioice.ice
import cv2
import numpy as np
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from benchmarks import chromium
from tests.browser.stub import Stub, StubCall

pytestmark = [pytest.mark.browser, pytest.mark.slow]

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
TAG = "document.querySelector('talking-head')"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    if chromium.find() is None:
        pytest.skip(chromium.MISSING)
    async with chromium.launch(permissive=False) as browser:
        yield browser


@pytest.fixture
async def stub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stub]:
    # aioice leaves loopback out, and in a sandbox there may be nothing else.
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    async with Stub().serve() as stub:
        yield stub


OpenPage = Callable[..., Awaitable[Page]]


@pytest.fixture
async def open_page(browser: Browser, stub: Stub) -> AsyncIterator[OpenPage]:
    """Opens the page in a fresh context; afterwards nothing may have thrown or offended the content policy."""
    complaints: list[str] = []
    contexts = []

    async def opener(path: str = "", *, microphone: bool = True, script: str = "", **options: Any) -> Page:
        context = await browser.new_context(permissions=["microphone"] if microphone else [], **options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None,
        )
        if script:
            await page.add_init_script(script)
        await page.goto(stub.url + path)
        await page.locator("talking-head").evaluate("() => customElements.whenDefined('talking-head')")
        return page

    yield opener
    for context in contexts:
        await context.close()
    assert not complaints


async def start(page: Page, stub: Stub, shown: str = "Listening") -> StubCall:
    """Press the button; the call is up when this returns."""
    number = len(stub.calls) + 1
    await button(page, "Start talking").click()
    call = await stub.call(number)
    await expect(status(page)).to_have_text(shown)
    return call


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def status(page: Page) -> Locator:
    return page.locator("talking-head .status .word")


def lines(page: Page) -> Locator:
    return page.locator("talking-head .line .said")


def directions(offer: str) -> dict[str, str]:
    """Media kind -> direction."""
    found = {}
    for section in offer.split("\nm=")[1:]:
        kind = section.split()[0]
        match = re.search(r"a=(sendrecv|recvonly|sendonly|inactive)", section)
        found[kind] = match.group(1) if match else ""
    return found


async def test_a_click_makes_a_call_with_voice_and_face(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    await expect(page.get_by_role("heading", name="Hi, I'm Mia.")).to_be_visible()
    call = await start(page, stub)

    assert directions(call.offer) == {"audio": "sendrecv", "video": "recvonly", "application": ""}
    assert call.session == {"type": "realtime", "visavis": {"avatar": "mia", "persona": "mia", "greet": True}}

    timings = await page.evaluate(
        f"""() => new Promise(resolve => {{
          const tag = {TAG};
          const done = () => tag.timings.firstFrame && resolve(tag.timings);
          tag.addEventListener('visavis-timing', done);
          done();
        }})"""
    )
    order = ["start", "microphone", "offer", "answer", "connected", "firstFrame"]
    assert list(timings) == order
    assert sorted(timings.values()) == list(timings.values())
    assert await page.evaluate(f"{TAG}.videoElement.videoWidth") == 256
    assert await page.evaluate(f"{TAG}.remoteStream.getTracks().map(t => t.kind).sort()") == ["audio", "video"]
    # The tone of the stub is heard: the browser has decoded more than silence.
    heard = await page.evaluate(
        f"""async () => {{
          for (;;) {{
            for (const s of (await {TAG}.peerConnection.getStats()).values())
              if (s.type === 'inbound-rtp' && s.kind === 'audio' && s.totalAudioEnergy > 0.001) return true;
          }}
        }}"""
    )
    assert heard


async def test_each_state_is_shown_and_told(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    await page.evaluate(f"window.told = []; {TAG}.addEventListener('visavis-state', e => told.push(e.detail.state))")
    call = await start(page, stub)
    for state, words in {
        "hearing": "I hear you",
        "thinking": "Thinking…",
        "speaking": "Speaking",
        "paused": "Go on…",
        "listening": "Listening",
    }.items():
        call.state(state)
        await expect(status(page)).to_have_text(words)
        assert await page.evaluate(f"{TAG}.state") == state
    call.state("juggling")
    call.state("hearing")
    await expect(status(page)).to_have_text("I hear you")
    assert await page.evaluate("told") == [
        "connecting",
        "listening",
        "hearing",
        "thinking",
        "speaking",
        "paused",
        "listening",
        "hearing",
    ]


async def test_captions_of_both_grow_as_they_are_heard(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    call.caption("user", "u1", "what time")
    await expect(lines(page)).to_have_text(["what time"])
    call.caption("user", "u1", "what time is it", final=True)
    call.caption("assistant", "a1", "It is", note="A script answers.")
    await expect(lines(page)).to_have_text(["what time is it", "It is"])
    await expect(page.get_by_text("A script answers.")).to_be_visible()
    announcer = page.locator("talking-head .announcer")
    await expect(announcer).to_have_text("You: what time is it")  # the reply is not final: not told yet
    call.caption("assistant", "a1", "It is seven.", final=True)
    await expect(announcer).to_have_text("Mia: It is seven.")
    call.caption("user", "u2", "uh")
    await expect(lines(page)).to_have_count(3)
    call.caption("user", "u2", "", final=True)  # there were no words in it
    await expect(lines(page)).to_have_text(["what time is it", "It is seven."])
    assert await page.evaluate(f"{TAG}.transcript.map(c => c.role)") == ["user", "assistant"]


async def test_a_written_message_is_sent_and_shown_when_the_server_has_it(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    field = page.get_by_role("textbox", name="Write a message")
    await expect(button(page, "Send")).to_be_disabled()
    await field.fill("  What is this?  ")
    await field.press("Enter")
    await call.until(lambda c: c.types() == ["conversation.item.create", "response.create"])
    item = call.received[0]["item"]
    assert (item["role"], item["content"]) == ("user", [{"type": "input_text", "text": "What is this?"}])
    await expect(field).to_have_value("")
    await expect(lines(page)).to_have_count(0)
    call.tell({"type": "conversation.item.added", "item": {"id": "i1", **item}})
    await expect(lines(page)).to_have_text(["What is this?"])


async def test_a_transparent_page_asks_for_the_matte_and_shows_the_video_where_there_is_none(
    stub: Stub, open_page: OpenPage
) -> None:
    page = await open_page()
    await page.locator("talking-head").evaluate("e => e.setAttribute('transparent', '')")
    call = await start(page, stub)
    assert call.session["visavis"]["alpha"] is True
    shell = page.locator(".shell")
    await expect(shell).to_have_attribute("data-video", "")
    assert await shell.get_attribute("data-matte") is None


async def test_writing_before_the_call_makes_one_without_the_microphone(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    await page.get_by_role("textbox", name="Write a message").fill("Hello")
    await button(page, "Send").click()
    call = await stub.call()
    await call.until(lambda c: len(c.received) == 2)
    assert directions(call.offer)["audio"] == "recvonly"
    assert call.session["visavis"]["greet"] is False
    await expect(button(page, "Use mic")).to_be_enabled()


async def test_mute_stops_the_microphone_and_ends_the_turn(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    enabled = f"{TAG}.peerConnection.getSenders().find(s => s.track).track.enabled"
    mute = button(page, "Mute")
    await expect(mute).to_have_attribute("aria-pressed", "false")
    await mute.click()
    await expect(mute).to_have_attribute("aria-pressed", "true")
    await expect(status(page)).to_have_text("You are muted")
    assert await page.evaluate(enabled) is False
    await mute.click()
    await expect(mute).to_have_attribute("aria-pressed", "false")
    assert await page.evaluate(enabled) is True
    assert call.types() == []
    call.state("hearing")
    await expect(status(page)).to_have_text("I hear you")
    await mute.click()
    await call.until(lambda c: c.types() == ["input_audio_buffer.commit"])


@pytest.mark.parametrize("how", ["button", "escape", "escape in the text field"])
async def test_interrupting(stub: Stub, open_page: OpenPage, how: str) -> None:
    page = await open_page()
    call = await start(page, stub)
    await expect(button(page, "Interrupt")).to_be_disabled()
    await page.keyboard.press("Escape")  # nobody speaks: nothing to interrupt
    call.state("speaking")
    await expect(button(page, "Interrupt")).to_be_enabled()
    if how == "button":
        await button(page, "Interrupt").click()
    else:
        if how != "escape":
            await page.get_by_role("textbox", name="Write a message").focus()
        await page.keyboard.press("Escape")
    await call.until(lambda c: c.types() == ["response.cancel", "output_audio_buffer.clear"])
    await expect(status(page)).to_have_text("Speaking")  # until the server says otherwise


async def test_hanging_up_ends_everything_and_one_can_call_again(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    call.caption("assistant", "a1", "See you.", final=True)
    await expect(lines(page)).to_have_text(["See you."])
    await page.evaluate(
        f"window.track = {TAG}.peerConnection.getSenders().find(s => s.track).track;"
        f"{TAG}.addEventListener('visavis-ended', e => window.ended = e.detail)"
    )
    await button(page, "Hang up").click()
    await expect(page.get_by_role("heading", name="Nice talking to you!")).to_be_visible()
    await call.until(lambda c: c.ended_by == "DELETE")
    assert await page.evaluate("track.readyState") == "ended"
    assert await page.evaluate("ended.reason") == "hung_up"
    assert await page.evaluate(f"[{TAG}.state, {TAG}.peerConnection]") == ["ended", None]
    await expect(lines(page)).to_have_text(["See you."])  # still there to read
    await button(page, "Talk again").click()
    await stub.call(2)
    await expect(status(page)).to_have_text("Listening")
    await expect(lines(page)).to_have_count(0)


async def test_leaving_the_page_hangs_up(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    await page.goto("about:blank")
    await call.until(lambda c: c.ended_by == "hangup")


async def test_taking_the_element_out_hangs_up(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    await page.evaluate(f"{TAG}.remove()")
    await call.until(lambda c: c.ended_by == "DELETE")


@pytest.mark.parametrize(
    ("status_code", "body", "title", "words"),
    [
        (429, {"error": {"code": "busy", "message": "2 of 2."}}, "All lines are busy", "Try again in a minute"),
        (
            404,
            {"error": {"code": "unknown_avatar", "message": "There is only Mia."}},
            "Nobody by that name",
            "There is only Mia.",
        ),
        (502, None, "Something broke", "Try again"),
    ],
)
async def test_a_refusal_says_what_happened_and_what_to_do(
    stub: Stub, open_page: OpenPage, status_code: int, body: Any, title: str, words: str
) -> None:
    page = await open_page()
    await page.evaluate(f"{TAG}.addEventListener('visavis-error', e => window.told = e.detail)")
    stub.refusal = (status_code, json.dumps(body) if body else "<h1>Bad gateway</h1>")
    await button(page, "Start talking").click()
    await expect(page.get_by_role("heading", name=title)).to_be_visible()
    await expect(page.locator("talking-head .hero")).to_contain_text(words)
    await expect(page.get_by_role("alert")).to_contain_text(title)
    assert (await page.evaluate("told"))["fatal"] is True
    stub.refusal = None
    await button(page, "Try again").click()
    await stub.call(1)
    await expect(status(page)).to_have_text("Listening")


async def test_a_server_that_cannot_be_reached(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    await page.route("**/v1/realtime/calls", lambda route: route.abort("connectionrefused"))
    await button(page, "Start talking").click()
    await expect(page.get_by_role("heading", name="Nobody picks up")).to_be_visible()
    await expect(page.locator("talking-head .hero")).to_contain_text("Check that it is running")


async def test_an_answer_that_is_no_call(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    stub.refusal = (201, "hello")
    await button(page, "Start talking").click()
    await expect(page.get_by_role("heading", name="Something broke")).to_be_visible()


async def test_without_permission_one_writes_and_may_talk_later(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page(microphone=False)
    call = await start(page, stub, "Write to me")
    assert directions(call.offer)["audio"] == "recvonly"
    notice = page.locator("talking-head .notice")
    await expect(notice).to_contain_text("The microphone is blocked")
    await page.get_by_role("textbox", name="Write a message").fill("Hello")
    await page.keyboard.press("Enter")
    await call.until(lambda c: "response.create" in c.types())

    await page.context.grant_permissions(["microphone"])
    await button(page, "Use microphone").click()
    again = await stub.call(2)  # receiving only was agreed on: a new round makes it a call with voice
    assert directions(again.offer)["audio"] == "sendrecv"
    assert again.session["visavis"]["greet"] is False
    assert call.ended_by == "DELETE"
    await expect(notice).to_be_hidden()
    await expect(button(page, "Mute")).to_have_attribute("aria-pressed", "false")


async def test_without_a_microphone_one_writes(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page(
        script="navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') }"
    )
    call = await start(page, stub, "Write to me")
    assert directions(call.offer)["audio"] == "recvonly"
    await expect(page.locator("talking-head .notice")).to_contain_text("No microphone found")


@pytest.mark.parametrize(("attribute", "expected"), [("", True), ('audio-processing="off"', False)])
async def test_echo_cancellation_is_on_unless_one_measures(
    stub: Stub, open_page: OpenPage, attribute: str, expected: bool
) -> None:
    page = await open_page(
        script="""
          const media = navigator.mediaDevices, open = media.getUserMedia.bind(media);
          media.getUserMedia = (wanted) => { window.wanted = wanted.audio; return open(wanted); };
        """
    )
    if attribute:
        await page.evaluate(f"{TAG}.setAttribute('audio-processing', 'off')")
    await start(page, stub)
    wanted = await page.evaluate("wanted")
    assert {wanted[k] for k in ("echoCancellation", "noiseSuppression", "autoGainControl")} == {expected}


async def test_a_microphone_that_goes_away_is_replaced(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    await start(page, stub)
    track = f"{TAG}.peerConnection.getSenders().find(s => s.track).track"
    await page.evaluate(f"window.first = {track}; first.stop(); first.dispatchEvent(new Event('ended'))")
    await expect(page.locator("talking-head .notice")).to_be_hidden()
    replaced = await page.evaluate(
        f"""async () => {{
          while ({track} === first) await new Promise(requestAnimationFrame);
          return {track}.readyState;
        }}"""
    )
    assert replaced == "live"
    assert len(stub.calls) == 1


async def test_a_lost_connection_is_dialled_again(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    call.caption("assistant", "a1", "As I was saying", final=False)
    await expect(lines(page)).to_have_text(["As I was saying"])
    await call.peer.close()
    await stub.call(2)
    await expect(status(page)).to_have_text("Listening")
    await expect(lines(page)).to_have_text(["As I was saying"])
    moved = await page.evaluate(
        f"""async () => {{
          const video = {TAG}.videoElement;
          await new Promise(resolve => video.requestVideoFrameCallback(resolve));
          return [video.paused, video.videoWidth];
        }}"""
    )
    assert moved == [False, 256]


async def test_the_server_ends_the_call_and_says_so_before(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    call.tell({"type": "visavis.closing", "reason": "time_limit", "seconds_left": 30})
    await expect(page.locator("talking-head .notice")).to_contain_text("Our time is nearly up: 30 more seconds.")
    await call.peer.close()
    await expect(page.get_by_role("heading", name="Time is up")).to_be_visible()
    assert len(stub.calls) == 1


async def test_a_problem_is_shown_and_can_be_put_away(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    call = await start(page, stub)
    call.tell({"type": "visavis.problem", "code": "llm_down", "message": "The language model does not answer."})
    notice = page.locator("talking-head .notice")
    await expect(notice).to_contain_text("The language model does not answer.")
    await expect(status(page)).to_have_text("Listening")
    await button(page, "Dismiss").click()
    await expect(notice).to_be_hidden()


async def test_sound_that_the_browser_refuses_waits_for_a_tap(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page(
        script="""
          document.addEventListener('DOMContentLoaded', () => {
            const tag = document.querySelector('talking-head');
            tag.setAttribute('microphone', 'off');
            tag.setAttribute('autostart', '');
          });
        """
    )
    await stub.call()
    tap = button(page, "Tap to hear Mia")
    await expect(tap).to_be_visible()
    assert await page.evaluate(f"[{TAG}.videoElement.muted, {TAG}.videoElement.paused]") == [True, False]
    await tap.click()
    await expect(tap).to_be_hidden()
    assert await page.evaluate(f"[{TAG}.videoElement.muted, {TAG}.videoElement.paused]") == [False, False]


async def test_who_one_talks_to(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    await page.get_by_role("radio", name="Leo").check()
    await expect(page.get_by_role("heading", name="Hi, I'm Leo.")).to_be_visible()
    call = await start(page, stub)
    assert call.session["visavis"] == {"avatar": "leo", "persona": "leo", "greet": True}

    await button(page, "Settings").click()
    mia = page.get_by_role("dialog").get_by_role("radio", name="Mia")
    await mia.click()
    await call.until(lambda c: c.types() == ["session.update"])
    assert call.received[0]["session"]["visavis"] == {"avatar": "mia", "persona": "mia"}
    await expect(mia).not_to_be_checked()  # not before the server says so
    call.tell({"type": "session.updated", "session": {"visavis": {"avatar": "mia", "persona": "mia"}}})
    await expect(mia).to_be_checked()
    await page.get_by_role("switch", name="Captions").click()
    assert await page.evaluate(f"{TAG}.getAttribute('captions')") == "off"
    call.state("speaking")
    await page.keyboard.press("Escape")  # closes the settings, interrupts nobody
    await expect(page.get_by_role("dialog")).to_be_hidden()
    call.caption("assistant", "a1", "Unseen", final=True)
    await expect(page.locator("talking-head .announcer")).to_have_text("Mia: Unseen")
    await expect(page.locator("talking-head .talk")).to_be_hidden()
    assert call.types() == ["session.update"]


async def test_attributes_choose_who_answers(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page(
        script="""
          document.addEventListener('DOMContentLoaded', () => {
            document.querySelector('talking-head').setAttribute('persona', 'leo');
          });
        """
    )
    call = await start(page, stub)
    assert call.session["visavis"]["persona"] == "leo"
    assert call.session["visavis"]["avatar"] == "leo"


async def test_everything_by_keyboard(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page()
    await expect(page.get_by_role("radio", name="Mia")).to_be_checked()
    focused = f"{TAG}.shadowRoot.activeElement?.className"
    order = []
    for _ in range(4):
        await page.keyboard.press("Tab")
        order.append(await page.evaluate(focused))
    assert order == ["settings-open", "start", "", "input"]  # the radio has no class
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    await stub.call()
    await expect(status(page)).to_have_text("Listening")
    await page.keyboard.press("Tab")  # the focus went to the controls with the button
    assert await page.evaluate(focused) == "mute"
    await page.keyboard.press("Space")
    await expect(button(page, "Mute")).to_have_attribute("aria-pressed", "true")


async def audit(page: Page) -> list[str]:
    """Serious and critical findings of axe-core."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci in tests/browser")
    await page.evaluate(AXE.read_text("utf-8"))
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['id']} ({v['impact']}): {node['target']} {node['failureSummary']}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
async def test_axe_finds_nothing_serious(stub: Stub, open_page: OpenPage, scheme: str, width: int) -> None:
    page = await open_page(color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    await expect(page.get_by_role("radio", name="Leo")).to_be_visible()
    assert await audit(page) == []
    call = await start(page, stub)
    assert await audit(page) == []
    call.caption("user", "u1", "What is twelve times seven?", final=True)
    call.caption("assistant", "a1", "Eighty-", note="A small script answers.")
    call.tell({"type": "visavis.problem", "code": "x", "message": "The voice had to be changed."})
    call.state("speaking")
    await expect(status(page)).to_have_text("Speaking")
    assert await audit(page) == []
    await button(page, "Settings").click()
    assert await audit(page) == []
    await page.keyboard.press("Escape")
    await button(page, "Hang up").click()
    await expect(button(page, "Talk again")).to_be_visible()
    assert await audit(page) == []
    stub.refusal = (429, "{}")
    await button(page, "Talk again").click()
    await expect(button(page, "Try again")).to_be_visible()
    assert await audit(page) == []


@pytest.mark.parametrize("path", ["client/embed.html", "client/kiosk.html"])
async def test_the_examples_call_too(stub: Stub, open_page: OpenPage, path: str) -> None:
    page = await open_page(path, reduced_motion="reduce")
    assert await audit(page) == []
    await start(page, stub)
    assert await audit(page) == []


async def test_an_embedded_card_leaves_the_page_its_escape_key(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page("client/embed.html")
    call = await start(page, stub)
    call.state("speaking")
    await expect(button(page, "Interrupt")).to_be_enabled()
    await page.get_by_role("heading", name="The Harbour Museum").click()  # the focus is out of the card
    await page.keyboard.press("Escape")
    await page.get_by_role("textbox", name="Write a message").focus()
    await page.keyboard.press("Escape")
    await call.until(lambda c: len(c.received) >= 2)
    assert call.types() == ["response.cancel", "output_audio_buffer.clear"]


async def brightness(page: Page) -> float:
    """Mean of a screenshot, 0 to 255."""
    picture = cv2.imdecode(np.frombuffer(await page.screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return float(picture.mean())


async def test_day_and_night_follow_the_system_unless_the_page_says_so(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page(color_scheme="light")
    day = await brightness(page)
    await page.emulate_media(color_scheme="dark")
    night = await brightness(page)
    assert day > 180 > 90 > night
    await page.evaluate(f"{TAG}.setAttribute('theme', 'day')")
    assert abs(await brightness(page) - day) < 5


@pytest.mark.parametrize(("width", "height"), [(360, 640), (820, 1180), (1024, 600)])
async def test_it_fits(stub: Stub, open_page: OpenPage, width: int, height: int) -> None:
    page = await open_page(viewport={"width": width, "height": height})
    await expect(page.get_by_role("radio", name="Leo")).to_be_visible()
    await expect(button(page, "Start talking")).to_be_in_viewport(ratio=1)
    call = await start(page, stub)
    for number in range(12):
        call.caption("user" if number % 2 else "assistant", f"i{number}", "Some words. " * 9, final=True)
    await expect(lines(page)).to_have_count(12)
    overflow = (
        "[document.documentElement.scrollWidth - innerWidth, document.documentElement.scrollHeight - innerHeight]"
    )
    assert await page.evaluate(overflow) == [0, 0]
    for name in ("Mute", "Interrupt", "Hang up", "Settings", "Send"):
        await expect(button(page, name)).to_be_in_viewport(ratio=1)
    await expect(lines(page).last).to_be_in_viewport()  # the conversation follows what is said


async def test_reduced_motion_is_respected(stub: Stub, open_page: OpenPage) -> None:
    page = await open_page(reduced_motion="reduce")
    call = await start(page, stub)
    call.state("thinking")
    await expect(status(page)).to_have_text("Thinking…")
    running = f"{TAG}.shadowRoot.getAnimations().filter(a => a.playState === 'running').length"
    assert await page.evaluate(running) == 0
    await page.emulate_media(reduced_motion="no-preference")
    assert await page.evaluate(f"new Promise(requestAnimationFrame).then(() => {running})") > 0
