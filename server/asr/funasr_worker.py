"""The process that decodes speech with FunASR: weights shared by all calls, one stream of its own for each."""

import argparse
import contextlib
import copy
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from server.asr.funasr import FunasrSettings
from server.asr.hotwords import chinese
from server.asr.models import check_class, fetch, say
from server.asr.parts import joined
from server.asr.wire import Answer, Ask, Audio, Begin, Forget, Heard, ToListener
from server.core.errors import StageError
from server.core.media import MIC_RATE, SAMPLE_BYTES
from server.workers.channel import End, Failed, Hello, Refused, WorkerEnd
from server.workers.gpu import keep_to
from server.workers.process import ignore_interrupts

log = logging.getLogger(__name__)

BYTES_PER_S = MIC_RATE * SAMPLE_BYTES
STEP_BYTES = MIC_RATE * 60 // 1000 * SAMPLE_BYTES  # the unit of the streaming model's chunk size: 60 ms
VAD_STEP_MS = 100
VAD_SILENCE_MS = 500  # stated, or the library waits 2 s by a schedule of its own
PART_MAX_S = 30.0  # what SenseVoice was made for; a longer utterance is closed in parts
PART_FROM_S = 20.0  # from here on a part ends at the next quiet moment
QUIET_SHARE = 0.1  # of the part's loudest 20 ms
QUIET_FRAMES = 10  # of 20 ms
CHANGE_S = 0.2  # between two interim texts of one call
HOT_WORD_LIKENESS = 0.85  # of two words' sounds, from 0 to 1
MOST_THREADS = 4
TAGS = re.compile(r"<\|[^|]*\|>")


class Model:
    """One set of weights. Calls may be made from several threads at once: nothing of a call is kept here."""

    def __init__(self, folder: Path, device: str) -> None:
        """Raises StageError if the folder's weights are missing or do not fit its configuration."""
        # The library prints its version and what it thinks of the weights.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            from funasr import AutoModel

            try:
                loaded = AutoModel(
                    model=str(folder),
                    device=device,
                    ncpu=1,
                    disable_update=True,
                    disable_pbar=True,
                    log_level="ERROR",
                    # The folder's own configuration is merged beneath these: what it must not decide is said here.
                    trust_remote_code=False,
                    check_latest=False,
                    ignore_init_mismatch=False,
                    output_dir=None,
                    vad_model=None,
                    punc_model=None,
                    spk_model=None,
                )
            except Exception as error:  # of any kind: torch's, OmegaConf's, the library's assertions
                raise StageError(
                    "asr", "asr_model_broken", f"{folder} cannot be loaded: {error}", retryable=False
                ) from error
        if not os.path.isfile(str(loaded.kwargs.get("init_param"))):
            raise StageError("asr", "asr_model_broken", f"{folder} has no weights (model.pt).", retryable=False)
        self.module = loaded.model
        self.library = loaded
        self.tokenizer = loaded.kwargs.get("tokenizer")
        self._options = {k: v for k, v in loaded.kwargs.items() if k not in ("cache", "model", "input_size")}

    def __call__(self, data: Any, **options: Any) -> dict[str, Any]:
        """The library's result for one input.

        The module is asked itself: the library's `generate` keeps each call's options in one dictionary for all
        threads, and there calls pick up each other's streams.
        """
        import torch

        with torch.inference_mode():
            results = self.module.inference(data_in=[data], key=["u"], **{**self._options, **options})
        found: dict[str, Any] = results[0][0]
        return found


class Models:
    """What is loaded."""

    def __init__(self, settings: FunasrSettings, tell: Callable[[str], None], memory_gib: float = 0.0) -> None:
        """Fetches what is not here. memory_gib: of the GPU, at most; 0: no limit. Raises StageError."""
        folders = {}
        for model in settings.places():
            folder = fetch(model, settings.offline, tell)
            check_class(model, folder)
            folders[model.role] = folder
        import torch

        torch.set_num_threads(1)
        has_cuda = torch.cuda.is_available()
        device = settings.device if settings.device != "auto" else "cuda" if has_cuda else "cpu"
        if device.startswith("cuda") and not has_cuda:
            raise StageError(
                "asr", "asr_device", f"asr.device is {device}, but torch finds no CUDA device.", retryable=False
            )
        self.device = device
        keep_to(memory_gib, device, torch.cuda)
        loaded = {role: Model(folder, device) for role, folder in folders.items()}
        self.streaming = loaded.get("streaming")
        self.finaliser = loaded.get("finaliser")
        self.vad = loaded.get("vad")
        self.punctuation = loaded.get("punctuation")

    def warm(self, settings: FunasrSettings) -> None:
        """The first call of each model takes twice its time: it is not a caller's."""
        begin = Begin((*settings.final_languages(), *settings.partial_languages())[0])
        hearing = Hearing(self, begin, settings)
        hearing.hear(0, np.random.default_rng(0).integers(-3000, 3000, MIC_RATE, np.int16).tobytes())
        hearing.answer(Ask(0, 0, end=True))


class TokenRecorder:
    """A call's view of the shared tokenizer; it keeps the tokens, of which the library gives back only text.

    Text of one step at a time would tear a word of pieces apart where two steps meet.
    """

    def __init__(self, tokenizer: Any, tokens: Sequence[str] = ()) -> None:
        self.tokens = list(tokens)
        self._tokenizer = tokenizer

    def ids2tokens(self, ids: Any) -> list[str]:
        found: list[str] = self._tokenizer.ids2tokens(ids)
        self.tokens.extend(found)
        return found


class Stream:
    """Streaming Paraformer over one part of an utterance."""

    def __init__(self, model: Model, settings: FunasrSettings) -> None:
        self._model = model
        self._options = {
            "chunk_size": list(settings.chunk),
            "encoder_chunk_look_back": settings.encoder_look_back,
            "decoder_chunk_look_back": settings.decoder_look_back,
        }
        self._step = settings.chunk[1] * STEP_BYTES
        self._cache: dict[str, Any] = {}
        self._recorder = TokenRecorder(model.tokenizer)
        self._waiting = bytearray()
        self._empty = True

    def hear(self, pcm: bytes) -> None:
        if pcm:
            self._empty = False
        self._waiting += pcm
        while len(self._waiting) >= self._step:
            self._decode(bytes(self._waiting[: self._step]), self._cache, self._recorder, final=False)
            del self._waiting[: self._step]

    @property
    def text(self) -> str:
        return words(self._recorder.tokens)

    @property
    def stable(self) -> int:
        """Characters of `text` that stay: tokens do, but the last word may grow."""
        return stable_length(self._recorder.tokens)

    def flushed(self) -> str:
        """The text as if nothing more came, from a copy of the stream's state: this stream goes on unharmed."""
        if self._empty:
            return ""
        import torch

        with torch.inference_mode():
            cache = copy.deepcopy(self._cache)
        recorder = TokenRecorder(self._model.tokenizer, self._recorder.tokens)
        self._decode(bytes(self._waiting), cache, recorder, final=True)
        return words(recorder.tokens)

    def _decode(self, pcm: bytes, cache: dict[str, Any], recorder: TokenRecorder, *, final: bool) -> None:
        self._model(samples(pcm), cache=cache, is_final=final, tokenizer=recorder, **self._options)


class Gate:
    """fsmn-vad over one part of an utterance: from when to when there is speech."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cache: dict[str, Any] = {}
        self._waiting = bytearray()
        self.start_ms: int | None = None
        """of the first speech; None: none so far"""
        self._end_ms: int | None = None

    def hear(self, pcm: bytes) -> None:
        self._waiting += pcm
        step = VAD_STEP_MS * BYTES_PER_S // 1000
        while len(self._waiting) >= step:
            found = self._model(
                samples(bytes(self._waiting[:step])),
                cache=self._cache,
                is_final=False,
                chunk_size=VAD_STEP_MS,
                max_end_silence_time=VAD_SILENCE_MS,
            )
            del self._waiting[:step]
            for first, last in found["value"]:  # -1: not in this step
                if first >= 0:
                    self.start_ms = first if self.start_ms is None else self.start_ms
                    self._end_ms = None
                if last >= 0:
                    self._end_ms = last

    def speech(self, pcm: bytes) -> bytes:
        """What of all that was heard lies between the first and the last speech."""
        if self.start_ms is None:
            return b""
        end = len(pcm) if self._end_ms is None else self._end_ms * BYTES_PER_S // 1000
        return pcm[self.start_ms * BYTES_PER_S // 1000 : end]


class Part:
    """Up to half a minute of an utterance: what the models hear as one."""

    def __init__(self, stream: Stream | None, gate: Gate | None) -> None:
        self.stream = stream
        self.gate = gate
        self.pcm = bytearray()
        self._loudest = 0.0
        self._quiet = 0

    def hear(self, pcm: bytes) -> None:
        self.pcm += pcm
        loudness = float(np.sqrt(np.mean(np.square(samples(pcm))))) if pcm else 0.0
        self._loudest = max(self._loudest, loudness)
        self._quiet = self._quiet + 1 if loudness < QUIET_SHARE * self._loudest else 0
        if self.gate is not None:
            self.gate.hear(pcm)
        if self.stream is not None:
            self.stream.hear(pcm)

    @property
    def full(self) -> bool:
        length_s = len(self.pcm) / BYTES_PER_S
        return length_s >= PART_MAX_S or (length_s >= PART_FROM_S and self._quiet >= QUIET_FRAMES)

    @property
    def silent(self) -> bool:
        """Whether there is certainly nothing to be understood."""
        return not self.pcm or (self.gate is not None and self.gate.start_ms is None)


class Hearing:
    """One utterance at a time of one call."""

    def __init__(self, models: Models, begin: Begin, settings: FunasrSettings) -> None:
        self._models = models
        self._settings = settings
        self._language = begin.language
        self._spotter = HotWordSpotter(begin.hot_words) if begin.hot_words else None
        self._twice = models.finaliser is not None and begin.language in settings.final_languages()
        # In a language that the streaming model does not know its words would only mislead.
        self._streams = models.streaming is not None and begin.language in settings.partial_languages()
        self._begin(0)

    def _begin(self, utterance: int) -> None:
        self.utterance = utterance
        self._heard: list[str] = []  # of closed parts: what partials go on showing
        self._final: list[str] = []  # of closed parts: what finals say
        self._told: tuple[str, int] = ("", 0)
        self._since = 0
        self._part = self._new_part()

    def _new_part(self) -> Part:
        streaming, vad = self._models.streaming, self._models.vad
        return Part(
            Stream(streaming, self._settings) if streaming is not None and self._streams else None,
            Gate(vad) if vad is not None else None,
        )

    def hear(self, utterance: int, pcm: bytes) -> Heard | None:
        """Decode; tells the text if it is time for that and it has changed."""
        if utterance != self.utterance:
            self._begin(utterance)
        frame = BYTES_PER_S // 50
        for first in range(0, len(pcm), frame):
            self._part.hear(pcm[first : first + frame])
            if self._part.full:
                if self._part.stream is not None and not self._part.silent:
                    self._heard.append(self._part.stream.flushed())
                self._final.append(self._final_text(self._part))
                self._part = self._new_part()
        self._since += len(pcm)
        if not self._streams or self._since < CHANGE_S * BYTES_PER_S:
            return None
        self._since = 0
        told = self._partial()
        if told == self._told:
            return None
        self._told = told
        return Heard(self.utterance, *told)

    def answer(self, ask: Ask) -> tuple[str, int]:
        """Text and stable length of the asked utterance; if it does not end, its streams go on unharmed."""
        if ask.utterance != self.utterance:
            self._begin(ask.utterance)
        text = joined([*self._final, self._final_text(self._part)])
        if self._spotter is not None:
            text = self._spotter.corrected(text)
        if not ask.end:
            return text, 0
        self._begin(ask.utterance + 1)
        return text, len(text)

    def forget(self) -> None:
        self._begin(self.utterance + 1)

    def _partial(self) -> tuple[str, int]:
        """The streaming model's text so far, and how much of it is promised."""
        stream = self._part.stream
        if stream is None or self._part.silent:
            text = joined(self._heard)
            return text, len(text)
        text = joined([*self._heard, stream.text])
        return text, len(text) - len(stream.text) + stream.stable if stream.text else len(text)

    def _final_text(self, part: Part) -> str:
        if part.silent:
            return ""
        models = self._models
        if self._twice and models.finaliser is not None:
            pcm = bytes(part.pcm) if part.gate is None else part.gate.speech(bytes(part.pcm))
            if len(pcm) < STEP_BYTES:  # too short for a single frame of features
                return ""
            found = models.finaliser(samples(pcm), language=self._language, use_itn=True)["text"]
            # Its tags (language, emotion, sound) are not words.
            return re.sub(r"\s+", " ", TAGS.sub("", found)).strip()
        text = part.stream.flushed() if part.stream is not None else ""
        # The library takes a text that looks like an address for one, and fetches it.
        if text and models.punctuation is not None and "://" not in text:
            text = str(models.punctuation(text, cache={})["text"]).strip()
        return text


class HotWordSpotter:
    """The library's correction of a final text by the sound of a call's hot words, kept from doing harm."""

    def __init__(self, hot_words: Sequence[str]) -> None:
        from funasr.utils.postprocess_hotwords import build_postprocess_hotword_matcher

        # Only Chinese words have a sound there: all others are alike to it, and would replace any English word.
        wanted = chinese(hot_words)
        self._matcher = build_postprocess_hotword_matcher(
            list(wanted), postprocess_hotword_threshold=HOT_WORD_LIKENESS
        )
        longest_first = sorted(wanted, key=len, reverse=True)
        self._right = re.compile("|".join(longest_first)) if wanted else None

    def corrected(self, text: str) -> str:
        if self._matcher is None or self._right is None:
            return text
        # What is right already is left alone, and so is all that is not Chinese: the matcher would take a neighbour
        # (a comma, a short word) for a part of a long hot word.
        pieces, at = [], 0
        for found in self._right.finditer(text):
            pieces += [self._fixed(text[at : found.start()]), found[0]]
            at = found.end()
        return "".join([*pieces, self._fixed(text[at:])])

    def _fixed(self, text: str) -> str:
        matcher = self._matcher
        assert matcher is not None
        return re.sub(r"[\u4e00-\u9fff]+", lambda run: str(matcher.apply_text(run[0])[0]), text)


def samples(pcm: bytes) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """s16le as float32 in -1 to 1."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)


def words(tokens: Sequence[str]) -> str:
    """Tokens to text, the library's way: pieces to words, spaces between words of Latin letters, none in Chinese."""
    if not tokens:
        return ""
    from funasr.utils.postprocess_utils import sentence_postprocess

    return str(sentence_postprocess(list(tokens))[0])


def stable_length(tokens: Sequence[str]) -> int:
    """Characters at the beginning of `words(tokens)` that more tokens do not change."""
    count = len(tokens)
    if count and not _is_whole(tokens[-1]):
        count -= 1
        while count and (tokens[count - 1].endswith("@@") or _is_letter(tokens[count - 1])):
            count -= 1  # the beginning of that word, or letters that a further one turns into an abbreviation
    kept, text = words(tokens[:count]), words(tokens)
    return next((i for i, (a, b) in enumerate(zip(kept, text, strict=False)) if a != b), min(len(kept), len(text)))


def _is_whole(token: str) -> bool:
    return "\u4e00" <= token[:1] <= "\u9fff"


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isascii() and token.isalpha()


class Line:
    """One session's messages in their order, of which at most one is worked on at a time."""

    def __init__(self) -> None:
        self.begin = Begin("")
        self.jobs: deque[ToListener | End] = deque()
        self.waiting_bytes = 0
        self.lost_bytes = 0
        self.busy = False
        """in the queue, or in a thread's hands"""
        self.hearing: Hearing | None = None


class Desk:
    """Serves all sessions with a few threads: each session's messages in order, sessions in turn, questions first."""

    def __init__(self, end: WorkerEnd[ToListener], models: Models, settings: FunasrSettings, threads: int) -> None:
        self._end = end
        self._models = models
        self._settings = settings
        self._backlog_bytes = int(settings.backlog_s * BYTES_PER_S)
        self._lines: dict[int, Line] = {}
        self._ready: deque[int] = deque()
        self._changed = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"decode-{number}", daemon=True).start()

    def serve(self) -> None:
        """Hands out what arrives; ends with the process."""
        for session, message in self._end:
            self.arrive(session, message)

    def arrive(self, session: int, message: ToListener | End) -> None:
        with self._changed:
            line = self._lines.setdefault(session, Line())
            if isinstance(message, Forget | End):
                self._forget_waiting(line, message.utterance if isinstance(message, Forget) else None)
            line.jobs.append(message)
            if isinstance(message, Audio):
                line.waiting_bytes += len(message.pcm)
                if line.waiting_bytes > self._backlog_bytes:
                    self._drop_oldest(line)
            if not line.busy:
                line.busy = True
                self._queue(session, line)

    def _forget_waiting(self, line: Line, utterance: int | None) -> None:
        """Nobody wants to know what this audio says (None: any); a committed utterance's answer is still awaited."""
        wanted = deque(
            job for job in line.jobs if not isinstance(job, Audio) or utterance not in (None, job.utterance)
        )
        line.jobs = wanted
        line.waiting_bytes = sum(len(job.pcm) for job in wanted if isinstance(job, Audio))

    def _drop_oldest(self, line: Line) -> None:
        for job in list(line.jobs):
            if line.waiting_bytes <= self._backlog_bytes:
                return
            if isinstance(job, Audio):
                line.jobs.remove(job)
                line.waiting_bytes -= len(job.pcm)
                line.lost_bytes += len(job.pcm)

    def _queue(self, session: int, line: Line) -> None:
        if any(isinstance(job, Ask) for job in line.jobs):
            self._ready.appendleft(session)
        else:
            self._ready.append(session)
        self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready)
                session = self._ready.popleft()
                line = self._lines[session]
                job = self._take(line)
                lost_s = line.lost_bytes / BYTES_PER_S
            if isinstance(job, End):
                with self._changed:
                    del self._lines[session]
                continue
            try:
                self._do(session, line, job, lost_s)
            except Exception as error:  # one session's trouble must not take the others' words
                log.exception("session %d", session)
                line.hearing = None
                self._end.send(session, Failed("asr_failed", f"FunASR failed: {error}"))
            with self._changed:
                if line.jobs:
                    self._queue(session, line)
                else:
                    line.busy = False

    def _take(self, line: Line) -> ToListener | End:
        """The next message; audio that waits behind audio of the same utterance comes with it, up to one second."""
        job = line.jobs.popleft()
        if not isinstance(job, Audio):
            return job
        pieces, length = [job.pcm], len(job.pcm)
        while line.jobs and length < BYTES_PER_S:
            following = line.jobs[0]
            if not isinstance(following, Audio) or following.utterance != job.utterance:
                break
            pieces.append(following.pcm)
            length += len(following.pcm)
            line.jobs.popleft()
        line.waiting_bytes -= length
        return Audio(job.utterance, b"".join(pieces))

    def _do(self, session: int, line: Line, job: ToListener, lost_s: float) -> None:
        if isinstance(job, Begin):
            line.begin = job
            line.hearing = None
            return
        if line.hearing is None:
            line.hearing = Hearing(self._models, line.begin, self._settings)
        hearing = line.hearing
        if isinstance(job, Audio):
            heard = hearing.hear(job.utterance, job.pcm)
            if heard is not None:
                self._end.send(session, heard)
        elif isinstance(job, Ask):
            text, stable = hearing.answer(job)
            self._end.send(session, Answer(job.request, text, stable, lost_s))
        elif hearing.utterance == job.utterance:
            hearing.forget()


def thread_count(settings: FunasrSettings, device: str) -> int:
    """A GPU works through one queue anyway; cores do not."""
    if settings.threads:
        return settings.threads
    return 1 if device.startswith("cuda") else min(MOST_THREADS, len(os.sched_getaffinity(0)))


def main() -> None:
    ignore_interrupts()
    # Before the library does it, at a level at which it tells of every file.
    logging.basicConfig(level=logging.ERROR)
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="FunasrSettings as JSON")
    parser.add_argument("--memory-gib", type=float, default=0.0)
    options = parser.parse_args()
    settings = msgspec.json.decode(options.settings, type=FunasrSettings)
    end: WorkerEnd[ToListener] = WorkerEnd(ToListener)
    try:
        models = Models(settings, say, options.memory_gib)
        models.warm(settings)
    except StageError as error:
        end.send(0, Refused(error.message))
        return
    except Exception as error:  # whatever it is: it will not go away by starting again
        log.exception("loading")
        end.send(0, Refused(f"FunASR does not work here: {error}"))
        return
    threads = thread_count(settings, models.device)
    end.send(0, Hello({"load_s": round(time.monotonic() - began, 3), "device": models.device, "threads": threads}))
    Desk(end, models, settings, threads).serve()


if __name__ == "__main__":
    main()
