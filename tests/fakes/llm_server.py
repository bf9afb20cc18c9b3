"""A language model's server for tests: real HTTP, chat completions streamed as server-sent events, scripted."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Pause:
    """Nothing comes for `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Hang:
    """Nothing comes any more, until the client goes away."""


@dataclass(frozen=True)
class Die:
    """The connection breaks in the middle of the body."""


@dataclass(frozen=True)
class Note:
    """The moment goes into `notes`."""

    name: str


@dataclass(frozen=True)
class Until:
    """Nothing comes before the test sets this event."""

    event: asyncio.Event


@dataclass(frozen=True)
class Chunk:
    """One piece as a server with its own ideas would send it: this JSON object."""

    body: dict[str, Any]


@dataclass(frozen=True)
class Raw:
    """These bytes in the stream."""

    data: bytes


@dataclass(frozen=True)
class Thought:
    """Reasoning beside the content, in the field that this server uses for it."""

    text: str
    field: str = "reasoning_content"


Step = str | Note | Pause | Hang | Die | Until | Chunk | Raw | Thought


@dataclass(frozen=True)
class Answer:
    """What one request gets."""

    steps: tuple[Step, ...] = ("Hello", " there", ".")
    status: int = 200
    error: str = ""
    """message of an answer with another status"""
    finish: str | None = "stop"
    """finish_reason of the last piece; None: there is none"""
    tail: tuple[Chunk, ...] = ()
    """pieces behind the finish_reason"""
    done: bool = True
    """whether `[DONE]` and the end of the body follow; else the body stays open until the client goes"""


def says(*steps: Step, **options: Any) -> Answer:
    return Answer(steps, **options)


@dataclass
class FakeLlmServer:
    """What the server is told to do, and what it saw."""

    answers: list[Answer]
    """for the first request, the second ...; the last one stays"""
    models: list[str] = field(default_factory=lambda: ["fake-model"])
    ollama: list[dict[str, Any]] | None = None
    """entries of /api/tags; None: not an Ollama"""
    owner: str = "test"
    """whose the models are, as the list of them says"""
    key: str = ""
    """the only key that is let in; empty: any"""
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    """bodies of the chat requests"""
    notes: list[tuple[str, float]] = field(default_factory=list)
    """time.monotonic() of each request ("asked", before its body is read) and of each Note in an answer"""
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    """every request's path"""
    loads: list[dict[str, Any]] = field(default_factory=list)
    """bodies of /api/generate"""
    connections: set[int] = field(default_factory=set)
    """the client's ports: one for each connection"""
    sent: int = 0
    """pieces of content that went out"""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    """the client went away before the answer was complete"""
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.notes.append(("asked", time.monotonic()))
        self._note(request)
        if refusal := self._refusal(request):
            return refusal
        self.requests.append(await request.json())
        self.asked.set()
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if answer.status != 200:
            error = {"error": {"message": answer.error, "type": "invalid_request_error", "code": None}}
            return web.json_response(error, status=answer.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            first = answer.steps[0] if answer.steps else None
            if not isinstance(first, Hang | Pause | Until):  # a waiting model has not even sent headers
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
                if data := _data(step):
                    self.sent += 1
                    await response.write(data)
            if answer.finish is not None:
                await response.write(_event({}, answer.finish))
            for step in answer.tail:
                await response.write(_data(step))
            if not answer.done:
                await asyncio.Event().wait()
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
            self.finished.set()
        except (asyncio.CancelledError, ConnectionError):
            self.disconnected.set()
            raise
        return response

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": self.owner} for name in self.models]
        return self._refusal(request) or web.json_response({"object": "list", "data": data})

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        if self.ollama is None:
            raise web.HTTPNotFound
        return web.json_response({"models": self.ollama})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        self.loads.append(await request.json())
        self.loaded.set()
        return web.json_response({"done": True})

    def _note(self, request: web.Request) -> None:
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])

    def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        return None


def _data(step: Step) -> bytes:
    if isinstance(step, str):
        return _event({"content": step})
    if isinstance(step, Thought):
        return _event({"content": None, step.field: step.text})
    if isinstance(step, Chunk):
        return b"data: " + json.dumps(step.body).encode() + b"\n\n"
    return step.data if isinstance(step, Raw) else b""


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "fake-model", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


@asynccontextmanager
async def llm_server(*answers: Answer, **options: Any) -> AsyncIterator[FakeLlmServer]:
    """A server on a free port of 127.0.0.1."""
    server = FakeLlmServer(list(answers) or [Answer()], **options)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server._chat)
    app.router.add_get("/v1/models", server._models)
    app.router.add_get("/api/tags", server._tags)
    app.router.add_post("/api/generate", server._generate)
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
