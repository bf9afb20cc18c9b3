"""A FunASR websocket server that replays dialogues, and tells what it was told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

FIXTURES = Path(__file__).parent.parent / "fixtures" / "funasr"
BYTES_PER_MS = 32

Step = dict[str, Any]
"""one of: {"client": fields that the next text of the client must have}, {"audio_ms": how much sound comes before
what follows}, {"server": a message}, {"raw": a text}, {"close": true}"""
Dialogue = list[Step]


def dialogue(server: str, name: str) -> Dialogue:
    """One of those in tests/fixtures/funasr: `python` recorded, `cpp` written after its source."""
    steps: Dialogue = json.loads((FIXTURES / f"{server}.json").read_text())["dialogues"][name]
    return steps


def audio_ms(steps: Dialogue) -> int:
    """How much sound is said in it."""
    return sum(step.get("audio_ms", 0) for step in steps)


def finals(steps: Dialogue) -> list[str]:
    return [step["server"]["text"] for step in steps if step.get("server", {}).get("mode") == "2pass-offline"]


def pieces(steps: Dialogue) -> list[str]:
    return [step["server"]["text"] for step in steps if step.get("server", {}).get("mode") == "2pass-online"]


class Connection:
    """What one client said over one connection."""

    def __init__(self) -> None:
        self.texts: list[Any] = []
        self.audio = b""
        self.sizes: list[int] = []
        self.complaints: list[str] = []
        self.over = asyncio.Event()


class FunasrServer:
    """The n-th connection gets the dialogue `script(n)`; None: it is closed at once."""

    def __init__(self, script: Callable[[int], Dialogue | None]) -> None:
        self.connections: list[Connection] = []
        self.url = ""
        self._script = script
        self._open: set[web.WebSocketResponse] = set()

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["FunasrServer"]:
        app = web.Application()
        app.router.add_get("/", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            for socket in list(self._open):
                await socket.close()
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("binary",), timeout=0.1)
        await socket.prepare(request)
        steps = self._script(len(self.connections))
        connection = Connection()
        self.connections.append(connection)
        self._open.add(socket)
        try:
            if steps is not None:
                await self._replay(socket, connection, steps)
        finally:
            self._open.discard(socket)
            connection.over.set()
            await socket.close()
        return socket

    async def _replay(self, socket: web.WebSocketResponse, connection: Connection, steps: Dialogue) -> None:
        wanted = 0
        for step in steps:
            if "audio_ms" in step:
                wanted += step["audio_ms"] * BYTES_PER_MS
                while len(connection.audio) < wanted:
                    if not await self._receive(socket, connection):
                        return
            elif "client" in step:
                told = len(connection.texts)
                while len(connection.texts) == told:
                    if not await self._receive(socket, connection):
                        return
                self._compare(connection, step["client"])
            elif "server" in step:
                await socket.send_str(json.dumps(step["server"]))
            elif "raw" in step:
                await socket.send_str(step["raw"])
            elif "close" in step:
                return
        while await self._receive(socket, connection):
            """The client ends it."""

    async def _receive(self, socket: web.WebSocketResponse, connection: Connection) -> bool:
        message = await socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            connection.audio += message.data
            connection.sizes.append(len(message.data))
        elif message.type is aiohttp.WSMsgType.TEXT:
            connection.texts.append(json.loads(message.data))
        else:
            return False
        return True

    def _compare(self, connection: Connection, wanted: dict[str, Any]) -> None:
        said = connection.texts[-1]
        connection.complaints += [
            f"{key} is {said.get(key)!r}, not {value!r}" for key, value in wanted.items() if said.get(key) != value
        ]
