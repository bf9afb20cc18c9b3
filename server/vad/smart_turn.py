"""Listening for the ends of turns with Silero VAD and smart-turn, which work in a process of their own."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

import anyio
import msgspec

from server.core.errors import StageError, WorkerLost
from server.core.media import SAMPLE_BYTES
from server.core.noise import NoiseCheck
from server.core.protocols import VadSession
from server.core.voicegate import level_dbfs
from server.vad.endpoint_wire import Answer, Ask, Audio, FromEndpointer, ToEndpointer
from server.workers.process import Worker, WorkerSession

log = logging.getLogger(__name__)

EndpointWorker = Worker[ToEndpointer, FromEndpointer]
READY_S = 30.0
BACK_S = 20.0  # for a worker that is being started again


class SilenceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="silence"):
    """Only silence and the words end a turn."""

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        yield None


class SmartTurnSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="smart_turn"):
    """smart-turn hears whether a turn sounds finished, Silero VAD what is noise (the `endpointing` extra)."""

    silero: bool = True
    """whether what Silero calls noise is no voice"""
    noise_below: float = 0.1
    """probability of speech under which Silero calls 32 ms noise"""
    threads: int = 1
    """threads of one opinion, which takes about 0.1 s of a core at each pause"""
    answer_s: float = 0.6
    """an opinion that takes longer is done without"""

    def __post_init__(self) -> None:
        if not 0 <= self.noise_below <= 0.5:
            raise ValueError("noise_below must lie between 0 and 0.5")
        if not 1 <= self.threads <= 64:
            raise ValueError("threads must lie between 1 and 64")
        if not 0.05 <= self.answer_s <= 1.0:
            raise ValueError("answer_s must lie between 0.05 and 1")

    @asynccontextmanager
    async def load(self) -> AsyncIterator["SmartTurnEnds"]:
        """Starts the worker (a second). Raises StageError if it cannot work here."""
        if find_spec("onnxruntime") is None:
            raise StageError(
                "endpointing",
                "endpointing_missing",
                "onnxruntime is not installed: pip install -e .[endpointing]",
                retryable=False,
            )
        arguments = [f"--threads={self.threads}", *([] if self.silero else ["--no-silero"])]
        worker: EndpointWorker = Worker(
            "endpointing", "server.vad.endpoint_worker", FromEndpointer, arguments, ready_s=READY_S
        )
        async with worker:
            yield SmartTurnEnds(worker, self)


class SmartTurnEnds:
    """Shared by all calls."""

    def __init__(self, worker: EndpointWorker, settings: SmartTurnSettings) -> None:
        self.worker = worker
        self._settings = settings

    def open(self, vad: VadSession) -> "SmartTurnSession":
        return SmartTurnSession(self.worker, vad, self._settings)


class SmartTurnSession:
    """One call's ear. It outlives the worker: without one there are no opinions, and the quick detector holds."""

    def __init__(self, worker: EndpointWorker, vad: VadSession, settings: SmartTurnSettings) -> None:
        self._worker = worker
        self._vad = vad
        self._check = NoiseCheck(noise_below=settings.noise_below)
        self._answer_s = settings.answer_s
        self._at = 0
        self._requests = 0
        self._asked: dict[int, asyncio.Future[float | None]] = {}
        self._channel: WorkerSession[ToEndpointer, FromEndpointer] | None = None
        self._connect()
        # A plain task, ended in aclose: the session is opened by one task and may be closed by another.
        self._reader = asyncio.create_task(self._read(), name="endpointing session")

    def process(self, pcm: bytes) -> bool:
        speech = self._vad.process(pcm)
        self._send(Audio(self._at, pcm))
        self._at += len(pcm) // SAMPLE_BYTES
        return self._check.confirm(speech, level_dbfs(pcm))

    async def finished(self, seconds: float) -> float | None:
        self._requests += 1
        request = self._requests
        answer: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._settle()  # an older question's pause is over
        self._asked[request] = answer
        self._send(Ask(request, seconds))
        if self._channel is None:
            self._settle()
        try:
            with anyio.move_on_after(self._answer_s):
                return await answer
            log.info("no opinion on the end of a turn within %.2f s", self._answer_s)
            return None
        finally:
            self._asked.pop(request, None)

    async def aclose(self) -> None:
        self._reader.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._reader])
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._settle()

    def _connect(self) -> None:
        with contextlib.suppress(WorkerLost):
            self._channel = self._worker.open()

    def _send(self, message: ToEndpointer) -> None:
        if self._channel is not None:
            with contextlib.suppress(WorkerLost):  # the reader notices it too and opens again
                self._channel.send(message)

    async def _read(self) -> None:
        """What the worker says, over all its lives; ends if there will be no further one."""
        try:
            while True:
                if self._channel is None:
                    if not await self._worker_back():
                        return
                    self._connect()
                    if self._channel is None:
                        await anyio.sleep(0.1)  # it went again between the two lines
                    continue
                try:
                    self._take(await self._channel.receive())
                except WorkerLost:
                    self._channel = None
                    self._settle()
        except StageError as error:
            log.warning("endpointing: %s; silence and words alone end this call's turns", error.message)
            if self._channel is not None:
                self._channel.close()
                self._channel = None
        finally:
            self._settle()

    async def _worker_back(self) -> bool:
        try:
            await self._worker.ready(BACK_S)
        except StageError as error:
            log.warning("endpointing: %s", error.message)
            return error.retryable
        return True

    def _take(self, message: FromEndpointer) -> None:
        if isinstance(message, Answer):
            answer = self._asked.get(message.request)
            if answer is not None and not answer.done():
                answer.set_result(message.finished)
        else:
            self._check.judged(message.start, message.end, message.speech)

    def _settle(self) -> None:
        """Nobody answers any more."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)
