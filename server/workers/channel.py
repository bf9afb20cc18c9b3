"""Framed messages over a socket: a 4-byte length, then msgpack of `(session, message)`."""

import asyncio
import contextlib
import os
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

LENGTH = struct.Struct(">I")
MESSAGE_LIMIT = 16 * 1024 * 1024  # bytes; a longer frame is a broken peer
FD_VARIABLE = "VISAVIS_WORKER_FD"

Inbound = TypeVar("Inbound")


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """Worker -> server, once: loaded and ready. `about` is the worker's own description of what it offers."""

    about: dict[str, Any] = {}


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """Worker -> server, instead of Hello: it cannot work here, and why. It is not started again."""

    message: str


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """Server -> worker; answered from the worker's main loop, so that a stuck loop is noticed."""


class Pong(msgspec.Struct, tag="pong", frozen=True):
    """Worker -> server."""


class End(msgspec.Struct, tag="end", frozen=True):
    """Server -> worker: the session is over; drop everything about it."""


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """Worker -> server: this session's request could not be met."""

    code: str
    message: str


Control = Hello | Refused | Pong | Failed
"""what any worker may say"""


def pack(encoder: msgspec.msgpack.Encoder, session: int, message: object) -> bytes:
    body = encoder.encode((session, message))
    return LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame's body; None at the end of the stream."""
    try:
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if length > MESSAGE_LIMIT:
            return None
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class WorkerEnd(Generic[Inbound]):
    """The worker process's end of the channel.

    A thread reads, so that the process ends the moment the server does, whatever the main loop is busy with;
    the main loop takes messages when it likes.
    """

    def __init__(self, inbound: Any, connection: socket.socket | None = None, backlog: int = 4096) -> None:
        """inbound: the (union of) message types that this worker understands, Ping and End included for it."""
        if connection is None:
            connection = socket.socket(fileno=int(os.environ.pop(FD_VARIABLE)))
        connection.setblocking(True)
        self._socket = connection
        self._decoder = msgspec.msgpack.Decoder(tuple[int, inbound | Ping | End])
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Lock()
        self._inbox: queue.Queue[tuple[int, Inbound | End]] = queue.Queue(backlog)
        self._pings = threading.Event()
        threading.Thread(target=self._read, name="worker-reader", daemon=True).start()

    def send(self, session: int, message: object) -> None:
        frame = pack(self._encoder, session, message)
        with self._lock:
            try:
                self._socket.sendall(frame)
            except OSError:
                os._exit(0)  # the server is gone: there is nobody to work for

    def receive(self, timeout_s: float | None = None) -> tuple[int, Inbound | End] | None:
        """The next (session, message); None when nothing came in `timeout_s` (None: wait for ever)."""
        while True:
            if self._pings.is_set():
                self._pings.clear()
                self.send(0, Pong())
            try:
                # Waits in slices so that a ping is answered although no message wakes the queue.
                message = self._inbox.get(timeout=1.0 if timeout_s is None else max(timeout_s, 0.0))
            except queue.Empty:
                if timeout_s is None:
                    continue
                return None
            return message

    def __iter__(self) -> Iterator[tuple[int, Inbound | End]]:
        while True:
            message = self.receive()
            if message is not None:
                yield message

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            stream = self._socket.makefile("rb")
            while header := stream.read(LENGTH.size):
                if len(header) < LENGTH.size:
                    break
                (length,) = LENGTH.unpack(header)
                if length > MESSAGE_LIMIT:
                    break
                session, message = self._decoder.decode(stream.read(length))
                if isinstance(message, Ping):
                    self._pings.set()
                else:
                    self._inbox.put((session, message))
        os._exit(0)
