"""Transcribing on the embedded default: pocketsphinx (English) in a worker process, seen from the server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec

import msgspec

from server.asr.listener import AsrWorker, WorkerListener
from server.asr.wire import FromListener
from server.core.errors import StageError
from server.workers.process import Worker

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
        self._sessions: set[WorkerListener] = set()

    async def open(self, language: str, words: Sequence[str] = ()) -> WorkerListener:
        """Never waits for the worker. Raises StageError for another language, and above the capacity."""
        if language.lower().split("-")[0] not in self.languages:
            raise StageError(
                "asr", "asr_language", f"pocketsphinx understands English, not {language!r}.", retryable=False
            )
        if len(self._sessions) >= self._settings.capacity:
            raise StageError("asr", "asr_full", f"{self._settings.capacity} calls are being listened to already.")
        session = WorkerListener(
            self.worker,
            self._sessions.discard,
            backlog_s=self._settings.backlog_s,
            answer_s=self._settings.answer_s,
        )
        self._sessions.add(session)
        return session

    async def aclose(self) -> None:
        for session in list(self._sessions):
            await session.aclose()
