"""One call's listener at a recogniser's worker process, seen from the server; it outlives the worker."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import anyio

from server.asr.wire import Answer, Ask, Audio, Begin, Forget, FromListener, ToListener
from server.core.errors import StageError, WorkerLost
from server.core.media import MIC_RATE, SAMPLE_BYTES, Transcript
from server.workers.process import Worker, WorkerSession

log = logging.getLogger(__name__)

AsrWorker = Worker[ToListener, FromListener]
BYTES_PER_S = MIC_RATE * SAMPLE_BYTES
BACK_S = 20.0  # for a worker that is being started again


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


class WorkerListener:
    """One call's ear. It outlives the worker: a new one is told what of the open utterance is still here."""

    def __init__(
        self,
        worker: AsrWorker,
        closed: "Callable[[WorkerListener], None]",
        *,
        backlog_s: float,
        answer_s: float,
        begin: Begin | None = None,
    ) -> None:
        """backlog_s: speech that may wait for the worker; four fifths of it are kept here, to be said again.

        answer_s: an answer that takes longer is replaced by the text known so far. begin: what every worker is told
        of this call first.
        """
        self.lost_s = 0.0
        """speech that came too late to be decoded, since the worker's start"""
        self._worker = worker
        # What is said again to a new worker is a backlog at once, and more comes while it catches up.
        self._again_bytes = int(0.8 * backlog_s * BYTES_PER_S)
        self._answer_s = answer_s
        self._begin = begin
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
        if self._begin is not None:
            self._send(self._begin)
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
            await self._worker.ready(BACK_S)
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
