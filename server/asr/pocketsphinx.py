"""Transcribing on the embedded default: pocketsphinx (English) in a worker process, seen from the server."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

import anyio
import msgspec

from server.asr.wire import Answer, Ask, Audio, Forget, FromListener, ToListener
from server.core.errors import StageError, WorkerLost
from server.core.media import MIC_RATE, SAMPLE_BYTES, Transcript
from server.workers.process import Worker, WorkerSession

log = logging.getLogger(__name__)

AsrWorker = Worker[ToListener, FromListener]
BYTES_PER_S = MIC_RATE * SAMPLE_BYTES
READY_S = 20.0


class PocketsphinxSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pocketsphinx"):
    """pocketsphinx with its own English model: offline, a quarter of a core while somebody speaks."""

    capacity: int = 8
    """sessions at once; each takes about 90 MB in the worker from its first word on"""
    partial_s: float = 0.2
    """speech between two interim texts"""
    backlog_s: float = 5.0
    """speech of a call that may wait for the worker, the oldest is dropped then; four fifths of it are kept on this
    side and said again to a worker that had to be started again"""
    answer_s: float = 1.5
    """an answer that takes longer is replaced by the text known so far"""

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError("capacity must be at least 1")
        if not 0.02 <= self.partial_s <= 2.0:
            raise ValueError("partial_s must lie between 0.02 and 2")
        if not 0.5 <= self.backlog_s <= 30.0:
            raise ValueError("backlog_s must lie between 0.5 and 30")
        if not 0.1 <= self.answer_s <= 10.0:
            raise ValueError("answer_s must lie between 0.1 and 10")

    @asynccontextmanager
    async def load(self) -> AsyncIterator["PocketsphinxAsr"]:
        """Starts the worker (half a second). Raises StageError if pocketsphinx cannot work here."""
        if find_spec("pocketsphinx") is None:
            raise StageError(
                "asr",
                "asr_missing",
                "pocketsphinx is not installed: pip install pocketsphinx, where there is a wheel for this machine.",
                retryable=False,
            )
        arguments = [
            f"--capacity={self.capacity}",
            f"--partial-s={self.partial_s}",
            f"--backlog-s={self.backlog_s}",
        ]
        worker: AsrWorker = Worker("asr", "server.asr.pocketsphinx_worker", FromListener, arguments, ready_s=READY_S)
        async with worker:
            engine = PocketsphinxAsr(worker, self)
            try:
                yield engine
            finally:
                await engine.aclose()


class PocketsphinxAsr:
    """Shared by all calls."""

    languages: Sequence[str] = ("en",)

    def __init__(self, worker: AsrWorker, settings: PocketsphinxSettings) -> None:
        self.worker = worker
        self._settings = settings
        self._sessions: set[PocketsphinxSession] = set()

    async def open(self, language: str) -> "PocketsphinxSession":
        """Never waits for the worker. Raises StageError for another language, and above the capacity."""
        if language.lower().split("-")[0] not in self.languages:
            raise StageError(
                "asr", "asr_language", f"pocketsphinx understands English, not {language!r}.", retryable=False
            )
        if len(self._sessions) >= self._settings.capacity:
            raise StageError("asr", "asr_full", f"{self._settings.capacity} calls are being listened to already.")
        session = PocketsphinxSession(self.worker, self._settings, self._sessions.discard)
        self._sessions.add(session)
        return session

    async def aclose(self) -> None:
        for session in list(self._sessions):
            await session.aclose()


@dataclass(slots=True, eq=False)
class Utterance:
    """What is known of one utterance, and its latest audio in case the worker dies."""

    number: int
    audio: deque[bytes] = field(default_factory=deque)
    audio_bytes: int = 0
    complete: bool = True
    """whether `audio` goes back to where `kept` ends"""
    kept: str = ""
    """words from a worker that died, of audio that is no longer here"""
    text: str = ""
    stable: int = 0
    fallback: str = ""
    """all that was known when the worker died"""

    def append(self, pcm: bytes, limit_bytes: int) -> None:
        self.audio.append(pcm)
        self.audio_bytes += len(pcm)
        while self.audio_bytes > limit_bytes:
            self.audio_bytes -= len(self.audio.popleft())
            self.complete = False

    def known(self, final: bool = False) -> Transcript:
        if not self.text and self.fallback:
            return Transcript(self.fallback, len(self.fallback) if final else 0, final)
        text = f"{self.kept} {self.text}".strip()
        before = len(text) - len(self.text)
        return Transcript(text, len(text) if final else before + self.stable, final)

    def orphan(self) -> None:
        """The worker died. What cannot be said again to the next one stays as it was understood."""
        self.fallback = self.known().text
        if not self.complete:
            self.kept = self.fallback
            self.audio.clear()
            self.audio_bytes = 0
            self.complete = True
        self.text = ""
        self.stable = 0


@dataclass(slots=True, eq=False)
class Question:
    """A provisional or final text that is waited for."""

    ask: Ask
    utterance: Utterance
    answered: anyio.Event = field(default_factory=anyio.Event)


class PocketsphinxSession:
    """One call's listener. It outlives the worker: a new one is told what of the open utterance is still here."""

    def __init__(
        self, worker: AsrWorker, settings: PocketsphinxSettings, closed: "Callable[[PocketsphinxSession], None]"
    ) -> None:
        self.lost_s = 0.0
        """speech that came too late to be decoded, since the worker's start"""
        self._worker = worker
        # What is said again to a new worker is a backlog at once, and more comes while it catches up.
        self._again_bytes = int(0.8 * settings.backlog_s * BYTES_PER_S)
        self._answer_s = settings.answer_s
        self._tell_closed = closed
        self._utterance = Utterance(1)
        self._questions: dict[int, Question] = {}
        self._requests = 0
        self._channel: WorkerSession[ToListener, FromListener] | None = None
        self._partial: Transcript | None = None
        self._changed = anyio.Event()
        self._closed = False
        self._connect()
        # A plain task, ended in aclose: the session is opened by one task and may be closed by another.
        self._reader = asyncio.create_task(self._read(), name="asr session")

    async def push(self, pcm16k: bytes) -> None:
        """Never waits: what the worker cannot take is dropped there, the oldest first, and counted."""
        self._utterance.append(pcm16k, self._again_bytes)
        self._send(Audio(self._utterance.number, pcm16k))

    async def partials(self) -> AsyncGenerator[Transcript, None]:
        """Only the latest is kept for a slow reader. What is stable stays so unless the worker dies."""
        while not self._closed:
            if self._partial is None:
                self._changed = anyio.Event()
                await self._changed.wait()
            else:
                partial, self._partial = self._partial, None
                yield partial

    async def provisional(self) -> Transcript:
        return await self._ask(self._utterance, end=False)

    async def commit(self) -> Transcript:
        utterance = self._utterance
        self._next_utterance()
        return await self._ask(utterance, end=True)

    async def drop(self) -> None:
        self._send(Forget(self._utterance.number))
        self._next_utterance()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._reader.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._reader])
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._settle()
        self._tell_closed(self)

    def _next_utterance(self) -> None:
        self._utterance = Utterance(self._utterance.number + 1)
        self._partial = None

    def _send(self, message: ToListener) -> None:
        if self._channel is not None:
            with contextlib.suppress(WorkerLost):  # the reader notices it too and opens again
                self._channel.send(message)

    async def _ask(self, utterance: Utterance, end: bool) -> Transcript:
        """The worker's word on all that was pushed; after `answer_s`, or without a worker, what is known."""
        self._requests += 1
        question = Question(Ask(self._requests, utterance.number, end), utterance)
        if not self._closed and not self._reader.done():
            self._questions[self._requests] = question
            self._send(question.ask)
            try:
                with anyio.move_on_after(self._answer_s) as patience:
                    await question.answered.wait()
                if patience.cancelled_caught:
                    log.warning("the asr worker did not answer within %.1f s", self._answer_s)
            finally:
                self._questions.pop(question.ask.request, None)
        return utterance.known(final=end)

    def _connect(self) -> None:
        """Open at the worker if it is there, and say again what is still wanted."""
        try:
            self._channel = self._worker.open()
        except WorkerLost:
            return
        for question in self._questions.values():
            if question.utterance is not self._utterance:
                self._say_again(question.utterance)
                self._send(question.ask)
        self._say_again(self._utterance)
        for question in self._questions.values():
            if question.utterance is self._utterance:
                self._send(question.ask)

    def _wanted(self) -> set[Utterance]:
        """The open utterance, and those whose text is waited for."""
        return {self._utterance, *(question.utterance for question in self._questions.values())}

    def _say_again(self, utterance: Utterance) -> None:
        for pcm in utterance.audio:
            self._send(Audio(utterance.number, pcm))

    async def _read(self) -> None:
        """What the worker says, over all its lives; ends if there will be no further one."""
        try:
            while True:
                if self._channel is None:
                    if not await self._worker_back():
                        return
                    self._connect()
                    continue
                try:
                    self._take(await self._channel.receive())
                except WorkerLost:
                    self._channel = None
                    for utterance in self._wanted():
                        utterance.orphan()
                except StageError as error:  # the decoder broke and the worker goes on without what it had heard
                    log.warning("asr: %s", error.message)
                    for utterance in self._wanted():
                        utterance.complete = False
                        utterance.orphan()
                    self._settle()
        finally:
            self._settle()

    async def _worker_back(self) -> bool:
        try:
            await self._worker.ready(READY_S)
        except StageError as error:
            log.warning("asr: %s", error.message)
            return error.retryable
        return True

    def _settle(self) -> None:
        """Nobody waits for an answer any longer."""
        for question in self._questions.values():
            question.answered.set()

    def _take(self, message: FromListener) -> None:
        if isinstance(message, Answer):
            if message.lost_s > self.lost_s:
                log.warning("asr: %.2f s of speech came too late to be understood", message.lost_s - self.lost_s)
            self.lost_s = message.lost_s
            question = self._questions.get(message.request)
            if question is not None:
                question.utterance.text, question.utterance.stable = message.text, message.stable
                question.utterance.fallback = ""
                question.answered.set()
            return
        for utterance in self._wanted():
            if utterance.number == message.utterance:
                utterance.text, utterance.stable = message.text, message.stable
        if message.utterance == self._utterance.number:
            self._partial = self._utterance.known()
            self._changed.set()
