"""An unmodified @openai/agents-realtime client in real Chromium: connects, hears, sees, is heard, is answered."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
import av
import numpy as np
import pytest
from aiohttp import web
from playwright.async_api import Page

from benchmarks import chromium
from server.core.clock import MediaClock
from server.core.errors import RequestError
from server.core.history import Item
from server.core.media import EncodedFrame, Samples
from server.core.notices import (
    ReplyAudioCleared,
    ReplyAudioStarted,
    ReplyAudioStopped,
    ReplyCaption,
    ReplyCreated,
    ReplyDone,
    ReplyText,
    ReplyTruncated,
)
from server.rtc.peer import Peer, parse_offer
from server.rtc.realtime import RealtimeChannel
from tests.browser.agents import built_page, buzzing_microphone
from tests.rtc.pair import LOOPBACK, tone
from tests.rtc.test_realtime import ScriptedCall

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WIDTH, HEIGHT = 320, 240
REPLY_S = 1.0


def colours() -> list[bytes]:
    """Ten pictures, H.264 baseline, each decodable on its own."""
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    codec.time_base = Fraction(1, 25)
    codec.gop_size = 1
    codec.options = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"}
    frames = []
    for i in range(10):
        picture = np.full((HEIGHT, WIDTH, 3), 25 * i, np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = i
        frames += [bytes(packet) for packet in codec.encode(frame)]
    return frames


class Parrot(ScriptedCall):
    """A call that answers each typed text with a second of tone, and shows ten colours."""

    def __init__(self, offer: str) -> None:
        super().__init__()
        clock = MediaClock(anyio.current_time())
        self.peer = Peer(LOOPBACK, clock, parse_offer(offer), self, self, self)
        self.channel = RealtimeChannel(self, self.peer.send)
        self.loud = 0
        """frames of the microphone above -40 dBFS"""
        self._pictures = colours()
        self._shown = -1
        self._replies = itertools.count(1)
        self._reply: tuple[str, str] | None = None
        self._tone_until = 0

    # CallControl

    def create_reply(
        self, text: str = "", say: str = "", instructions: str = "", tools: Any = None, tool_choice: Any = None
    ) -> None:
        super().create_reply(text, say, instructions, tools, tool_choice)
        n = next(self._replies)
        self._reply = response_id, item_id = f"resp_{n}", f"item_{n}"
        words = f"You said: {self.history.items[-1].text}."
        previous = self.history.add(Item(item_id, "assistant", words))
        self._tone_until = -1
        for notice in (
            ReplyCreated(response_id, item_id, previous),
            ReplyText(response_id, item_id, words),
            ReplyDone(response_id, item_id, "completed", "", words),
        ):
            self.channel.tell(notice)

    def cancel_reply(self) -> bool:
        self.clear_output()
        return True

    def clear_output(self) -> None:
        if self._reply is None:
            return
        (response_id, item_id), self._reply = self._reply, None
        item = self.history.find(item_id)
        assert item is not None
        item.text, item.status = "You", "incomplete"
        self.channel.tell(ReplyAudioCleared(response_id))
        self.channel.tell(ReplyTruncated(item_id, 200, "You"))

    # AudioSource, VideoSource

    def read(self, at: Samples) -> bytes:
        if self._reply is None:
            return bytes(1920)
        response_id, item_id = self._reply
        if self._tone_until < 0:
            self._tone_until = at + round(48_000 * REPLY_S)
            self.channel.tell(ReplyAudioStarted(response_id))
            self.channel.tell(ReplyCaption(response_id, item_id, "You said"))
        if at >= self._tone_until:
            self._reply = None
            self.channel.tell(ReplyAudioStopped(response_id))
        return tone(at // 960)

    def take(self, index: int) -> EncodedFrame | None:
        if index <= self._shown:
            return None
        self._shown = index
        return EncodedFrame(index=index, data=self._pictures[index // 5 % 10], key=True)

    def request_key(self) -> None:
        """Every frame is one."""

    # Listener

    def on_connected(self) -> None:
        self.channel.open()

    def on_message(self, text: str) -> None:
        self.channel.receive(text)

    def on_quiet(self) -> None: ...

    def on_back(self) -> None: ...

    async def run(self) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            return await self.peer.run()

    async def _listen(self) -> None:
        async for frame in self.peer.microphone:
            self.loud += bool(np.abs(np.frombuffer(frame.pcm, "<i2")).max() > 328)


@asynccontextmanager
async def serving(page: Path) -> AsyncIterator[tuple[str, list[Parrot]]]:
    """The address of a server with one route, and its calls."""
    calls: list[Parrot] = []
    async with anyio.create_task_group() as tasks:

        async def answer(request: web.Request) -> web.Response:
            assert request.content_type == "application/sdp"
            assert request.headers["Authorization"] == "Bearer ek_test"
            try:
                call = Parrot(await request.text())
            except RequestError as error:
                return web.json_response({"error": {"message": error.message}}, status=error.status)
            sdp = await call.peer.answer()
            calls.append(call)
            tasks.start_soon(call.run)
            headers = {"Location": f"/v1/realtime/calls/{call.id}"}
            return web.Response(status=201, text=sdp, content_type="application/sdp", headers=headers)

        app = web.Application()
        app.router.add_post("/v1/realtime/calls", answer)
        app.router.add_static("/agents", page)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/agents/index.html", calls
        finally:
            for call in calls:
                call.peer.hang_up()
            await runner.cleanup()


async def until(page: Page, condition: str) -> None:
    await page.wait_for_function(condition, timeout=15_000)


async def test_the_agents_sdk_talks_to_us(tmp_path: Path) -> None:
    page_folder = built_page()
    complaints: list[str] = []
    microphone = buzzing_microphone(tmp_path / "buzz.wav")
    async with serving(page_folder) as (address, calls), chromium.launch(microphone) as browser:
        page = await browser.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(address)
        await until(page, "window.agents !== undefined")

        # connects, and is told so before the SDK's own patience of 5 s ends
        call_id = await page.evaluate("agents.connect()")
        assert call_id == "rtc_1"
        (call,) = calls
        assert await page.evaluate("agents.connectMs") < 4000
        print("connect_ms", await page.evaluate("agents.connectMs"))
        assert call.settings["instructions"] == "Be brief."

        # sees
        await until(page, "agents.picture()[2] > 10")
        assert (await page.evaluate("agents.picture()"))[:2] == [WIDTH, HEIGHT]

        # is heard
        with anyio.fail_after(10):
            while call.loud < 50:
                await anyio.sleep(0.05)
        assert call.peer.microphone.undecodable == 0

        # is answered, and hears it
        assert await page.evaluate("agents.loudness()") < 0.01
        await page.evaluate("agents.say('hello there')")
        await until(page, "agents.loudness() > 0.1")
        await until(page, "agents.events.includes('output_audio_buffer.stopped')")
        history = await page.evaluate("agents.history")
        assert [(item["role"], item["text"]) for item in history] == [
            ("user", "hello there"),
            ("assistant", "You said: hello there."),
        ]

        # interrupts, and its memory is cut to what was heard
        await page.evaluate("agents.say('and again')")
        await until(page, "agents.loudness() > 0.1")
        await page.evaluate("agents.interrupt()")
        await until(page, "agents.loudness() < 0.01")
        await until(page, "agents.history.at(-1).text === 'You'")

        # hangs up
        with anyio.fail_after(5):
            await page.evaluate("agents.close()")
            while call.peer._pc is not None and call.peer._pc.connectionState != "closed":
                await anyio.sleep(0.02)
        assert await page.evaluate("agents.errors") == []
        assert complaints == []
