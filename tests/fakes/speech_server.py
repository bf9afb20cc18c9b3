"""A voice server for tests: real HTTP, PCM in pieces as a script says, in the dialects of our clients."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web


@dataclass(frozen=True)
class Hang:
    """Nothing comes any more, until the client goes away."""


@dataclass(frozen=True)
class Die:
    """The connection breaks in the middle of the body."""


@dataclass(frozen=True)
class Pause:
    """Nothing comes for `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Note:
    """The moment goes into `notes`."""

    name: str


@dataclass(frozen=True)
class Until:
    """Nothing comes before the test sets this event."""

    event: asyncio.Event


Step = bytes | Note | Pause | Hang | Die | Until


def tone(seconds: float, rate: int = 24_000) -> bytes:
    """A loud sound of which no two samples near each other are alike: a slip of one sample shows."""
    samples = np.random.default_rng(round(seconds * rate)).integers(-12_000, 12_000, round(seconds * rate))
    return samples.astype("<i2").tobytes()


@dataclass(frozen=True)
class Answer:
    """What one request gets."""

    steps: tuple[Step, ...] = (tone(0.4),)
    status: int = 200
    error: str = ""
    """body of an answer with another status"""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "audio/pcm"})


def cut(data: bytes, *sizes: int) -> tuple[bytes, ...]:
    """The data in pieces of these sizes, over and over."""
    pieces: list[bytes] = []
    at = turn = 0
    while at < len(data):
        pieces.append(data[at : at + sizes[turn % len(sizes)]])
        at += len(pieces[-1])
        turn += 1
    return tuple(pieces)


@dataclass
class FakeSpeechServer:
    """What the server is told to do, and what it saw."""

    answers: list[Answer]
    """for the first request for speech, the second ...; the last one stays"""
    saved: list[str] = field(default_factory=list)
    """speakers of the model; our own dialect only"""
    key: str = ""
    health: dict[str, Any] | None = field(
        default_factory=lambda: {"ready": True, "model": "CosyVoice2-0.5B", "generation": 2, "rate": 24_000}
    )
    """what it says of itself, our own dialect; None: it knows no such route"""
    port: int = 0
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """path and body of every request for speech"""
    notes: list[tuple[str, float]] = field(default_factory=list)
    """time.monotonic() of each request ("asked", before its body is read) and of each Note in an answer"""
    voices: dict[str, dict[str, Any]] = field(default_factory=dict)
    """our own dialect: what was sent to /v1/voices, by id"""
    deleted: list[str] = field(default_factory=list)
    sent: int = 0
    """bytes of sound that went out"""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    """the client went away before the answer was complete"""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        self.notes.append(("asked", time.monotonic()))
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"code": "key", "message": "wrong key"}}, status=401)
        if request.content_type == "application/json":
            body = await request.json()
        else:
            body = {k: v if isinstance(v, str) else v.file.read() for k, v in (await request.post()).items()}
        self.requests.append((request.path, body))
        self.asked.set()
        voice = body.get("voice", "")
        if request.path.startswith("/v1/speech/") and voice not in self.voices and voice not in self.saved:
            return web.json_response({"error": {"code": "voice_unknown", "message": f"no voice {voice}"}}, status=404)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if answer.status != 200:
            return web.Response(text=answer.error, status=answer.status)
        response = web.StreamResponse(headers=answer.headers)
        try:
            if not answer.steps or not isinstance(answer.steps[0], Hang | Pause | Until):
                await response.prepare(request)
            for step in answer.steps:
                if isinstance(step, Hang):
                    await asyncio.Event().wait()
                elif isinstance(step, Until):
                    await step.event.wait()
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Note):
                    self.notes.append((step.name, time.monotonic()))
                elif isinstance(step, Die):
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if not response.prepared:
                    await response.prepare(request)
                if isinstance(step, bytes):
                    await response.write(step)
                    self.sent += len(step)
                    await asyncio.sleep(0)  # its own piece on the wire
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            self.disconnected.set()
            raise
        return response

    async def _add_voice(self, request: web.Request) -> web.Response:
        form = {k: v if isinstance(v, str) else v.file.read() for k, v in (await request.post()).items()}
        known = hashlib.sha256(form["audio"] + form["transcript"].encode()).hexdigest()[:16]
        self.voices[known] = form
        return web.json_response({"id": known})

    async def _health(self, request: web.Request) -> web.Response:
        if self.health is None:
            raise web.HTTPNotFound
        return web.json_response(self.health)

    async def _list_voices(self, request: web.Request) -> web.Response:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"code": "key", "message": "wrong key"}}, status=401)
        return web.json_response({"saved": self.saved, "voices": [{"id": known} for known in self.voices]})

    async def _delete_voice(self, request: web.Request) -> web.Response:
        self.deleted.append(request.match_info["id"])
        self.voices.pop(request.match_info["id"], None)
        return web.Response(status=204)


@asynccontextmanager
async def speech_server(*answers: Answer, **options: Any) -> AsyncIterator[FakeSpeechServer]:
    """A server on a free port of 127.0.0.1."""
    server = FakeSpeechServer(list(answers) or [Answer()], **options)
    app = web.Application()
    app.router.add_post("/v1/audio/speech", server._speech)
    app.router.add_post("/v1/speech/{mode}", server._speech)
    app.router.add_post("/{stock:inference_.*}", server._speech)
    app.router.add_post("/v1/voices", server._add_voice)
    app.router.add_get("/v1/voices", server._list_voices)
    app.router.add_get("/health", server._health)
    app.router.add_delete("/v1/voices/{id}", server._delete_voice)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    server.port = site._server.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        await runner.cleanup()
