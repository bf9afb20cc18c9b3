"""A server that speaks our wire far enough for the page's tests: real media, and events that a test scripts."""

import fractions
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import av
import numpy as np
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack
from numpy.typing import NDArray

CLIENT = Path(__file__).parents[2] / "client"
FPS = 25
# As strict as a page that embeds the tag could be: nothing inline, nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'"
)
Image = NDArray[np.uint8]  # [height, width, 3], RGB


def drawn_face(hue: int) -> list[Image]:
    """Two frames of a simple face, mouth closed and open."""
    y, x = np.mgrid[0:256, 0:256]
    frames = []
    for opening in (4, 18):
        image = np.full((256, 256, 3), (200, 208, 218), np.uint8)
        image[((x - 128) / 70) ** 2 + ((y - 120) / 92) ** 2 < 1] = (236, 190 - hue, 165)
        for eye in (100, 156):
            image[(x - eye) ** 2 + (y - 105) ** 2 < 70] = (60, 40, 60)
        image[((x - 128) / 30) ** 2 + ((y - 165) / opening) ** 2 < 1] = (150, 50, 60)
        frames.append(image)
    return frames


class Paced(MediaStreamTrack):
    """Frames made by `make(index)`, handed out when they are due."""

    def __init__(self, kind: str, period_s: float, make: Callable[[int], Any]) -> None:
        super().__init__()
        self.kind = kind
        self._period_s, self._make = period_s, make
        self._index, self._start = 0, time.monotonic()

    async def recv(self) -> Any:
        await anyio.sleep_until(self._start + self._index * self._period_s)
        frame = self._make(self._index)
        self._index += 1
        return frame


def video_track(images: list[Image]) -> Paced:
    def make(index: int) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(images[index // 4 % len(images)], format="rgb24")
        frame.pts, frame.time_base = index * 90000 // FPS, fractions.Fraction(1, 90000)
        return frame

    return Paced("video", 1 / FPS, make)


def tone_track() -> Paced:
    def make(index: int) -> av.AudioFrame:
        t = (np.arange(960) + index * 960) / 48000
        pcm = (6000 * np.sin(2 * np.pi * 330 * t)).astype(np.int16)
        frame = av.AudioFrame(format="s16", layout="mono", samples=960)
        frame.planes[0].update(pcm.tobytes())
        frame.pts, frame.sample_rate, frame.time_base = index * 960, 48000, fractions.Fraction(1, 48000)
        return frame

    return Paced("audio", 0.02, make)


class StubCall:
    """One call as the stub sees it."""

    def __init__(self, peer: RTCPeerConnection, offer: str, session: dict[str, Any]) -> None:
        self.peer, self.offer, self.session = peer, offer, session
        self.received: list[dict[str, Any]] = []
        self.opened = anyio.Event()
        self.ended_by = ""
        """`DELETE`, `hangup`, or empty while it lives"""
        self.changed = anyio.Condition()
        self._channel: Any = None

    def attach(self, channel: Any) -> None:
        self._channel = channel

        @channel.on("message")
        async def _(message: str) -> None:
            await self.note(json.loads(message))

        self.opened.set()

    async def note(self, event: dict[str, Any]) -> None:
        async with self.changed:
            self.received.append(event)
            self.changed.notify_all()

    async def end(self, how: str) -> None:
        async with self.changed:
            self.ended_by = how
            self.changed.notify_all()
        await self.peer.close()

    async def until(self, condition: Callable[["StubCall"], Any]) -> None:
        """Wait until the condition holds."""
        with anyio.fail_after(15):
            async with self.changed:
                while not condition(self):
                    await self.changed.wait()

    def types(self) -> list[str]:
        return [event["type"] for event in self.received]

    def tell(self, *events: dict[str, Any]) -> None:
        for event in events:
            self._channel.send(json.dumps(event))

    def state(self, state: str) -> None:
        self.tell({"type": "visavis.state", "state": state})

    def caption(self, role: str, item_id: str, text: str, final: bool = False, note: str = "") -> None:
        self.tell(
            {
                "type": "visavis.caption",
                "role": role,
                "item_id": item_id,
                "text": text,
                "final": final,
                "note": note,
            }
        )


class Stub:
    """The server. Set `refusal` to (status, body) and it refuses calls."""

    def __init__(self, faces: dict[str, list[Image]] | None = None) -> None:
        self.faces = faces or {"mia": drawn_face(0), "leo": drawn_face(30)}
        self.calls: list[StubCall] = []
        self.refusal: tuple[int, str] | None = None
        self.url = ""
        self._arrived = anyio.Condition()

    async def call(self, number: int = 1) -> StubCall:
        """The number-th call (from 1), with its channel open."""
        with anyio.fail_after(15):
            async with self._arrived:
                while len(self.calls) < number:
                    await self._arrived.wait()
            call = self.calls[number - 1]
            await call.opened.wait()
        return call

    async def _begin(self, request: web.Request) -> web.Response:
        if self.refusal:
            status, body = self.refusal
            return web.Response(status=status, text=body, content_type="application/json")
        form = await request.post()
        offer, session = (form[name].file.read().decode() for name in ("sdp", "session"))  # type: ignore[union-attr]
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        call = StubCall(peer, offer, json.loads(session))
        peer.on("datachannel", call.attach)
        peer.addTrack(tone_track())
        peer.addTrack(video_track(self.faces[call.session["visavis"].get("avatar") or "mia"]))
        await peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        async with self._arrived:
            self.calls.append(call)
            self._arrived.notify_all()
        return web.Response(
            status=201,
            text=peer.localDescription.sdp,
            content_type="application/sdp",
            headers={"Location": f"/v1/realtime/calls/{len(self.calls)}"},
        )

    async def _end(self, request: web.Request) -> web.Response:
        call = self.calls[int(request.match_info["call"]) - 1]
        await call.end("hangup" if request.method == "POST" else "DELETE")
        return web.Response()

    async def _describe(self, request: web.Request) -> web.Response:
        names = list(self.faces)
        return web.json_response(
            {
                "avatars": [{"name": n, "title": n.capitalize(), "poster": f"/poster/{n}"} for n in names],
                "personas": [{"name": n, "title": n.capitalize(), "language": "en", "avatar": n} for n in names],
                "limits": {},
                "providers": {},
            }
        )

    async def _poster(self, request: web.Request) -> web.Response:
        image = av.VideoFrame.from_ndarray(self.faces[request.match_info["name"]][0], format="rgb24")
        codec = av.CodecContext.create("png", "w")
        assert isinstance(codec, av.VideoCodecContext)
        codec.width, codec.height, codec.pix_fmt = image.width, image.height, "rgb24"
        codec.time_base = fractions.Fraction(1, 25)
        body = b"".join(bytes(packet) for packet in [*codec.encode(image), *codec.encode(None)])
        return web.Response(body=body, content_type="image/png")

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(CLIENT / "index.html")

    async def _secure(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Content-Security-Policy"] = POLICY

    async def aclose(self) -> None:
        for call in self.calls:
            await call.peer.close()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Stub"]:
        app = web.Application()
        app.on_response_prepare.append(self._secure)
        app.add_routes(
            [
                web.get("/", self._index),
                web.static("/client", CLIENT),
                web.get("/v1/visavis", self._describe),
                web.get("/poster/{name}", self._poster),
                web.post("/v1/realtime/calls", self._begin),
                web.delete("/v1/realtime/calls/{call}", self._end),
                web.post("/v1/realtime/calls/{call}/hangup", self._end),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}/"
            yield self
        finally:
            await self.aclose()
            await runner.cleanup()
