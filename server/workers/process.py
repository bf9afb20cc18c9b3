"""A worker process seen from the server: started, watched, started again; many sessions over one channel."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
import msgspec

from server.core.errors import StageError, WorkerLost
from server.workers.channel import (
    FD_VARIABLE,
    Control,
    End,
    Failed,
    Hello,
    Ping,
    Pong,
    Refused,
    pack,
    read_frame,
)

log = logging.getLogger(__name__)

Outbound = TypeVar("Outbound")
Inbound = TypeVar("Inbound")

SEND_BACKLOG = 8 * 1024 * 1024  # bytes waiting in the socket: a worker that stopped reading is hung
RESTART_DELAYS_S = (0.0, 0.2, 0.5, 1.0)  # after failures in a row; a run of 10 s counts as a success
HEALTHY_AFTER_S = 10.0
UNREADY_DELAY_S = 5.0  # for one that was ready once and now ends each time before it is ready again
START_ATTEMPTS = 3  # of one that was never ready


_live: "weakref.WeakSet[Worker[Any, Any]]" = weakref.WeakSet()


def live_workers() -> "list[Worker[Any, Any]]":
    """The workers that were started and not stopped, for health and metrics."""
    return sorted(_live, key=lambda worker: worker.name)


class WorkerSession(Generic[Outbound, Inbound]):
    """One call's conversation with a worker; ends with the worker's incarnation."""

    def __init__(self, worker: "Worker[Outbound, Inbound]", number: int, inbox: int) -> None:
        self._worker = worker
        self._number = number
        self._incarnation = worker.incarnation
        self._inbox: deque[Inbound | Failed] = deque()
        self._limit = inbox
        self._changed = asyncio.Event()
        self._lost: str | None = None

    @property
    def lost(self) -> bool:
        return self._lost is not None

    def send(self, message: Outbound) -> None:
        """Never waits. Raises WorkerLost if the worker has gone."""
        if self._lost is not None:
            raise WorkerLost(self._worker.name, self._lost)
        self._worker._write(self._number, message)

    async def receive(self) -> Inbound:
        """The worker's next message. Raises WorkerLost if it died, StageError if it refused the request."""
        while not self._inbox:
            if self._lost is not None:
                raise WorkerLost(self._worker.name, self._lost)
            self._changed.clear()
            await self._changed.wait()
        message = self._inbox.popleft()
        if isinstance(message, Failed):
            raise StageError(self._worker.name, message.code, message.message)
        return message

    async def __aiter__(self) -> AsyncIterator[Inbound]:
        while True:
            yield await self.receive()

    def close(self) -> None:
        """Tell the worker that this session is over. Safe to call twice, and on a lost worker."""
        if self._worker._sessions.pop(self._number, None) is not None and self._lost is None:
            with contextlib.suppress(WorkerLost):
                self._worker._write(self._number, End())
        self._lose("the session is closed")

    def _deliver(self, message: Inbound | Failed) -> None:
        if len(self._inbox) >= self._limit:
            log.error("%s: session %d does not read its messages; it is closed", self._worker.name, self._number)
            self.close()
            return
        self._inbox.append(message)
        self._changed.set()

    def _lose(self, reason: str) -> None:
        """What was already delivered can still be read."""
        if self._lost is None:
            self._lost = reason
        self._changed.set()


class Worker(Generic[Outbound, Inbound]):
    """`python -m MODULE` behind a socket. Use as an async context manager; it is ready inside.

    If the process dies or does not answer for `hang_s`, all its sessions are lost and it is started again.
    """

    def __init__(
        self,
        name: str,
        module: str,
        inbound: Any,
        arguments: Sequence[str] = (),
        *,
        ready_s: float = 60.0,
        hang_s: float = 10.0,
        environment: dict[str, str] | None = None,
    ) -> None:
        """inbound: the (union of) message types that this worker sends, without the control messages."""
        self.name = name
        self.about: dict[str, Any] = {}
        self.incarnation = 0
        """how often it was started"""
        self.pid: int | None = None
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = environment or {}
        self._ready_s = ready_s
        self._hang_s = hang_s
        self._decoder = msgspec.msgpack.Decoder(tuple[int, inbound | Control])
        self._encoder = msgspec.msgpack.Encoder()
        self._sessions: dict[int, WorkerSession[Outbound, Inbound]] = {}
        self._next = 1
        self._writer: asyncio.StreamWriter | None = None
        self._ready = anyio.Event()
        self._refused: str | None = None
        self._greeted = False  # whether this incarnation said that it is ready
        self._ever_greeted = False
        self._ended = ""  # how the last incarnation ended
        self._supervisor: asyncio.Task[None] | None = None
        self._answered = 0.0

    async def __aenter__(self) -> Self:
        # A plain task, ended in __aexit__: a task group would wrap whatever is raised inside the `async with`.
        self._supervisor = asyncio.create_task(self._supervise(), name=f"worker {self.name}")
        _live.add(self)
        try:
            await self.ready(self._ready_s)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        _live.discard(self)
        if self._supervisor is not None:
            self._supervisor.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._supervisor])
            self._supervisor = None

    @property
    def is_ready(self) -> bool:
        return self._writer is not None and self._ready.is_set() and self._refused is None

    async def ready(self, timeout_s: float) -> None:
        """Wait until the worker can take sessions. Raises StageError if it cannot in time."""
        with anyio.move_on_after(timeout_s):
            await self._ready.wait()
        if self._refused is not None:
            raise StageError(self.name, "worker_refused", self._refused, retryable=False)
        if not self._ready.is_set():
            raise StageError(self.name, "worker_slow", f"{self.name} was not ready after {timeout_s:.0f} s")

    def open(self, inbox: int = 256) -> WorkerSession[Outbound, Inbound]:
        """A new session. Raises WorkerLost while the worker is being started again."""
        if self._writer is None or not self._ready.is_set():
            raise WorkerLost(self.name, f"{self.name} is being started again")
        session = WorkerSession(self, self._next, inbox)
        self._sessions[self._next] = session
        self._next += 1
        return session

    def _write(self, number: int, message: object) -> None:
        writer = self._writer
        if writer is None or writer.is_closing():
            raise WorkerLost(self.name, f"{self.name} is being started again")
        if writer.transport.get_write_buffer_size() > SEND_BACKLOG:
            log.error("%s does not read any more; it is ended", self.name)
            writer.transport.abort()
            raise WorkerLost(self.name, f"{self.name} hung")
        writer.write(pack(self._encoder, number, message))

    async def _supervise(self) -> None:
        failures = unready = 0  # in a row: short lives, and those that ended before they were ready
        while True:
            began = anyio.current_time()
            self._greeted = False
            try:
                await self._run()
            except Exception:  # no process can be had; whatever it is, it is tried again
                log.exception("%s cannot be run", self.name)
            failures = 0 if anyio.current_time() - began > HEALTHY_AFTER_S else failures + 1
            unready = 0 if self._greeted else unready + 1
            if self._refused is None and not self._ever_greeted and unready >= START_ATTEMPTS:
                self._refused = (
                    f"{self.name} was not ready: it ended {unready} times while it started ({self._ended})."
                )
            if self._refused is not None:
                self._ready.set()
                return
            delay = RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S)) - 1] if failures else 0.0
            if unready > START_ATTEMPTS:
                delay = UNREADY_DELAY_S
            log.warning("%s ended (%s); starting it again", self.name, self._ended)
            await anyio.sleep(delay)

    async def _run(self) -> None:
        """One life of the process, from its start to its end."""
        ours, theirs = socket.socketpair()
        process: subprocess.Popen[bytes] | None = None
        writer: asyncio.StreamWriter | None = None
        try:
            with theirs:
                environment = {**os.environ, **self._environment, FD_VARIABLE: str(theirs.fileno())}
                # Popen forks or spawns within a millisecond or two; a thread would cost as much.
                # A group of its own: Ctrl-C in the terminal is the server's to handle, from the first moment on.
                process = subprocess.Popen(  # noqa: ASYNC220
                    self._command,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                )
            self.pid = process.pid
            self.incarnation += 1
            reader, writer = await asyncio.open_connection(sock=ours, limit=2**20)
            self._writer = writer
            self._answered = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, writer)
                while (body := await read_frame(reader)) is not None:
                    self._answered = anyio.current_time()
                    try:
                        number, message = self._decoder.decode(body)
                    except msgspec.DecodeError as error:
                        log.error("%s said what nobody understands: %s", self.name, error)
                        break
                    self._take(number, message)
                    if self._refused is not None:
                        break
                tasks.cancel_scope.cancel()
        finally:
            self._writer = None
            if self._refused is None and self._ready.is_set():  # who waits already goes on waiting
                self._ready = anyio.Event()
            for session in list(self._sessions.values()):
                session._lose(f"{self.name} ended unexpectedly")
            self._sessions.clear()
            if writer is not None:
                writer.close()
            ours.close()
            if process is not None:
                with anyio.CancelScope(shield=True):
                    await _end(process)
                self._ended = _fate(process.returncode)

    def _take(self, number: int, message: Inbound | Control) -> None:
        if isinstance(message, Hello):
            self.about = message.about
            self._greeted = self._ever_greeted = True
            self._ready.set()
        elif isinstance(message, Refused):
            self._refused = message.message
        elif isinstance(message, Pong):
            pass
        elif (session := self._sessions.get(number)) is not None:
            session._deliver(message)

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        """Ask whether it is alive; a worker that does not answer is ended. Loading has a limit of its own."""
        with anyio.move_on_after(self._ready_s) as loading:
            await self._ready.wait()
        if loading.cancelled_caught:
            log.error("%s was not ready after %.0f s; it is ended", self.name, self._ready_s)
            writer.transport.abort()
            return
        self._answered = anyio.current_time()
        while True:
            await anyio.sleep(1.0)
            with contextlib.suppress(WorkerLost):
                self._write(0, Ping())
            if anyio.current_time() - self._answered > self._hang_s:
                log.error("%s has not answered for %.0f s; it is ended", self.name, self._hang_s)
                writer.transport.abort()
                return


async def _end(process: "subprocess.Popen[bytes]") -> None:
    """The closed socket ends it; what does not go within half a second is killed."""
    for _ in range(50):
        if process.poll() is not None:
            return
        await anyio.sleep(0.01)
    process.kill()
    await anyio.to_thread.run_sync(process.wait)


def _fate(status: int) -> str:
    """A process's exit status in words."""
    try:
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def ignore_interrupts() -> None:
    """For a worker's first line: an interrupt is the server's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
