"""Transcribing with FunASR: streaming Paraformer for partials, SenseVoice at the endpoint, in a worker process."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec

import msgspec

from server.asr.hotwords import hot_words
from server.asr.listener import AsrWorker, WorkerListener
from server.asr.models import ModelPlace, Role, languages, place
from server.asr.wire import Begin, FromListener
from server.core.errors import RequestError, StageError
from server.workers.process import Worker

log = logging.getLogger(__name__)

READY_S = 180.0  # importing the library takes 5 to 10 s, a 234 M model some more; a cold disk a minute
FETCH_S = 4 * 3600.0  # the default models are 2 GB together
NEEDED = ("funasr", "kaldi_native_fbank", "torch")
# One core a call: with OpenMP's own threads eight calls would fight for the cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class FunasrSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="funasr"):
    """FunASR on this machine. A model is a short name, a ModelScope id (owner/name), or a folder's path."""

    streaming: str = "paraformer-zh-streaming"
    """gives the text while somebody speaks; empty: no partials"""
    finaliser: str = "sensevoice"
    """hears the whole utterance again at its end, and punctuates it; empty: the streaming model's text is final"""
    vad: str = ""
    """fsmn-vad: finals without the silence around them, no words out of noise; empty: none"""
    punctuation: str = ""
    """ct-punc, for finals that the streaming model wrote; empty: none"""
    streaming_languages: tuple[str, ...] = ()
    """languages in which the streaming model can be relied upon; empty: as docs/models-asr.md says"""
    finaliser_languages: tuple[str, ...] = ()
    """the same of the finaliser"""
    models_dir: str = "~/.cache/visavis/funasr"
    """where models of ModelScope are fetched into, once"""
    offline: bool = False
    """whether fetching is forbidden"""
    device: str = "auto"
    """auto: the first CUDA device if there is one; cpu; cuda; cuda:1 ..."""
    chunk: tuple[int, int, int] = (0, 10, 5)
    """of 60 ms each: always 0; one step of the streaming model; how far it looks ahead. (0, 8, 4) is quicker to
    answer, (0, 5, 5) quicker still and a third dearer"""
    encoder_look_back: int = 4
    """steps that the streaming model looks back"""
    decoder_look_back: int = 1
    hot_words: tuple[str, ...] = ()
    """words of every call that are easily misheard (Chinese ones are corrected by their sound)"""
    threads: int = 0
    """calls that are computed at the same time; 0: one on a GPU, else as many as there are cores, at most four"""
    capacity: int = 8
    """sessions at once"""
    backlog_s: float = 20.0
    """speech of a call that may wait for the worker, the oldest is dropped then; four fifths of it are kept on this
    side and said again to a worker that had to be started again"""
    answer_s: float = 2.0
    """an answer that takes longer is replaced by the text known so far"""

    def __post_init__(self) -> None:
        if not self.streaming and not self.finaliser:
            raise ValueError("streaming and finaliser cannot both be empty: nothing would be understood")
        self.places()  # raises ValueError
        if self.chunk[0] != 0 or not 1 <= self.chunk[1] <= 50 or not 0 <= self.chunk[2] <= 50:
            raise ValueError("chunk must be (0, step, look-ahead) in units of 60 ms, as in (0, 10, 5)")
        if not 0 <= self.encoder_look_back <= 50 or not 0 <= self.decoder_look_back <= 50:
            raise ValueError("encoder_look_back and decoder_look_back must lie between 0 and 50")
        if self.device not in ("auto", "cpu", "cuda") and not self.device.removeprefix("cuda:").isdigit():
            raise ValueError("device must be auto, cpu, cuda or cuda:N")
        if not 0 <= self.threads <= 64:
            raise ValueError("threads must lie between 0 and 64")
        if self.capacity < 1:
            raise ValueError("capacity must be at least 1")
        if not 0.5 <= self.backlog_s <= 60.0:
            raise ValueError("backlog_s must lie between 0.5 and 60")
        if not 0.1 <= self.answer_s <= 30.0:
            raise ValueError("answer_s must lie between 0.1 and 30")
        try:
            hot_words(self.hot_words)
        except RequestError as error:
            raise ValueError(f"hot_words: {error.message}") from None

    def places(self) -> list[ModelPlace]:
        """Where the configured models lie. Raises ValueError for a name that cannot be one."""
        named: list[tuple[str, Role]] = [
            (self.streaming, "streaming"),
            (self.finaliser, "finaliser"),
            (self.vad, "vad"),
            (self.punctuation, "punctuation"),
        ]
        return [place(name, role, self.models_dir) for name, role in named if name]

    def partial_languages(self) -> tuple[str, ...]:
        """Those in which partials are words, and not sounds of another language."""
        if not self.streaming:
            return ()
        return self.streaming_languages or languages(self.streaming, "streaming")

    def final_languages(self) -> tuple[str, ...]:
        """Those that the finaliser knows."""
        if not self.finaliser:
            return ()
        return self.finaliser_languages or languages(self.finaliser, "finaliser")

    @asynccontextmanager
    async def load(self, memory_gib: float = 0.0) -> AsyncIterator["FunasrAsr"]:
        """Starts the worker: ten seconds, and the time to fetch what is not here yet.

        memory_gib: of the GPU, at most; 0: no limit.
        Raises StageError, with a sentence that says what to do, if it cannot work here.
        """
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise StageError(
                "asr",
                "asr_missing",
                f"FunASR needs {' and '.join(missing)}: pip install 'visavis[asr]'.",
                retryable=False,
            )
        absent = [model for model in self.places() if not model.here]
        for model in absent:
            if model.id:
                log.warning("%s is not here yet: it is fetched into %s now", model.id, model.folder)
        worker: AsrWorker = Worker(
            "asr",
            "server.asr.funasr_worker",
            FromListener,
            [f"--settings={msgspec.json.encode(self).decode()}", f"--memory-gib={memory_gib}"],
            ready_s=FETCH_S if absent else READY_S,
            hang_s=30.0,
            environment=ENVIRONMENT | ({} if absent else OFFLINE),
        )
        async with worker:
            engine = FunasrAsr(worker, self)
            try:
                yield engine
            finally:
                await engine.aclose()


class FunasrAsr:
    """Shared by all calls. Partials keep their promises to each other; a finaliser's text replaces them all."""

    def __init__(self, worker: AsrWorker, settings: FunasrSettings) -> None:
        self.worker = worker
        known = (*settings.partial_languages(), *settings.final_languages())
        self.languages: Sequence[str] = tuple(dict.fromkeys(known))
        self._settings = settings
        self._sessions: set[WorkerListener] = set()

    async def open(self, language: str, words: Sequence[str] = ()) -> WorkerListener:
        """Never waits for the worker.

        words: hot words of this call, beside those of the settings. Raises StageError for a language that nothing
        here understands and above the capacity, RequestError for words that may not be any.
        """
        subtag = language.lower().split("-")[0]
        if subtag not in self.languages:
            raise StageError(
                "asr",
                "asr_language",
                f"The configured FunASR models understand {', '.join(self.languages)}, not {language!r}.",
                retryable=False,
            )
        if len(self._sessions) >= self._settings.capacity:
            raise StageError("asr", "asr_full", f"{self._settings.capacity} calls are being listened to already.")
        session = WorkerListener(
            self.worker,
            self._sessions.discard,
            backlog_s=self._settings.backlog_s,
            answer_s=self._settings.answer_s,
            begin=Begin(subtag, tuple(dict.fromkeys((*self._settings.hot_words, *hot_words(words))))),
        )
        self._sessions.add(session)
        return session

    async def aclose(self) -> None:
        for session in list(self._sessions):
            await session.aclose()
