"""The process that listens for the ends of turns: Silero VAD and smart-turn on onnxruntime, without torch."""

import argparse
import hashlib
import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from server.core.media import MIC_RATE
from server.vad.endpoint_wire import Answer, Ask, Audio, Judged, ToEndpointer
from server.vad.logmel import SECONDS, Floats, last_seconds, log_mel
from server.workers.channel import End, Failed, Hello, Refused, WorkerEnd
from server.workers.process import ignore_interrupts

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

log = logging.getLogger(__name__)

MODELS = Path(__file__).parent / "models"
SHA256 = {
    "silero_vad.onnx": "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
    "smart-turn-v3.2-cpu.onnx": "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
}
SILERO_WINDOW = 512  # samples: 32 ms
SILERO_CONTEXT = 64  # samples of the window before


def load_model(name: str, folder: Path = MODELS, threads: int = 1) -> "InferenceSession":
    """One of the two files, on the CPU. Raises ValueError if it is not the file that was published."""
    from onnxruntime import InferenceSession, SessionOptions

    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / name} cannot be read ({error}): take it from the repository again.") from None
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        raise ValueError(
            f"{folder / name} is not the published file (its SHA-256 differs): take it from the repository."
        )
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return InferenceSession(data, options, providers=["CPUExecutionProvider"])


class Silero:
    """Shared by all calls; what it remembers of a call is the call's."""

    def __init__(self, folder: Path = MODELS) -> None:
        self._model = load_model("silero_vad.onnx", folder)

    def speech(self, sound: Floats, state: Floats) -> tuple[float, Floats]:
        """Probability of speech in the window, and the state after it.

        sound: (SILERO_CONTEXT + SILERO_WINDOW,), full scale 1. state: (2, 1, 128), zeros at first.
        """
        given = {"input": sound[None], "state": state, "sr": np.array(MIC_RATE, np.int64)}
        probability, after = self._model.run(None, given)
        return float(probability[0, 0]), after


class SmartTurn:
    """Shared by all calls."""

    def __init__(self, folder: Path = MODELS, threads: int = 1) -> None:
        self._model = load_model("smart-turn-v3.2-cpu.onnx", folder, threads)

    def finished(self, pcm: NDArray[np.int16]) -> float:
        """Probability that the turn is over; of longer sound the last eight seconds count (0.1 s of a core)."""
        (probability,) = self._model.run(None, {"input_features": log_mel(last_seconds(pcm))[None]})
        return float(probability[0, 0])


class Ear:
    """What is kept of one call."""

    def __init__(self, silero: Silero | None) -> None:
        self._silero = silero
        self._kept: deque[NDArray[np.int16]] = deque()
        self._kept_samples = 0
        self._window = np.zeros(SILERO_CONTEXT + SILERO_WINDOW, np.float32)
        self._filled = 0
        self._state = np.zeros((2, 1, 128), np.float32)

    def hear(self, at: int, pcm: bytes) -> list[Judged]:
        """The next frame, which begins `at` samples into the call; every window that it completes."""
        samples = np.frombuffer(pcm, np.int16)
        self._kept.append(samples)
        self._kept_samples += samples.size
        while self._kept_samples - self._kept[0].size >= SECONDS * MIC_RATE:
            self._kept_samples -= self._kept.popleft().size
        judged: list[Judged] = []
        done = 0
        while self._silero is not None and done < samples.size:
            taken = min(samples.size - done, SILERO_WINDOW - self._filled)
            start = SILERO_CONTEXT + self._filled
            self._window[start : start + taken] = samples[done : done + taken].astype(np.float32) / 32768
            self._filled += taken
            done += taken
            if self._filled == SILERO_WINDOW:
                speech, self._state = self._silero.speech(self._window, self._state)
                judged.append(Judged(at + done - SILERO_WINDOW, at + done, speech))
                self._window[:SILERO_CONTEXT] = self._window[-SILERO_CONTEXT:]
                self._filled = 0
        return judged

    def last(self, seconds: float) -> NDArray[np.int16]:
        """The sound of so long until now, as far as it is kept."""
        wanted = round(min(max(seconds, 0.0), SECONDS) * MIC_RATE)
        whole = np.concatenate([np.zeros(0, np.int16), *self._kept])
        return whole[max(0, whole.size - wanted) :]


class Judge(threading.Thread):
    """Answers questions beside the main loop, which must not wait for them. At most one waits for each call."""

    def __init__(self, end: WorkerEnd[ToEndpointer], model: SmartTurn) -> None:
        super().__init__(name="smart-turn", daemon=True)
        self._end = end
        self._model = model
        self._asked: dict[int, tuple[int, NDArray[np.int16]]] = {}
        self._changed = threading.Condition()

    def ask(self, session: int, request: int, pcm: NDArray[np.int16]) -> None:
        with self._changed:
            self._asked[session] = (request, pcm)
            self._changed.notify()

    def forget(self, session: int) -> None:
        with self._changed:
            self._asked.pop(session, None)

    def run(self) -> None:
        while True:
            with self._changed:
                while not self._asked:
                    self._changed.wait()
                session = next(iter(self._asked))
                request, pcm = self._asked.pop(session)
            finished: float | None = None
            try:
                finished = self._model.finished(pcm)
            except Exception:  # one question's trouble must not take the others' answers
                log.exception("session %d", session)
            self._end.send(session, Answer(request, finished))


def serve(end: WorkerEnd[ToEndpointer], silero: Silero | None, judge: Judge) -> None:
    """All calls' messages in the order in which they arrive."""
    ears: dict[int, Ear] = {}
    for session, message in end:
        if isinstance(message, End):
            ears.pop(session, None)
            judge.forget(session)
            continue
        try:
            ear = ears.setdefault(session, Ear(silero))
            if isinstance(message, Audio):
                for judged in ear.hear(message.at, message.pcm):
                    end.send(session, judged)
            else:
                judge.ask(session, message.request, ear.last(message.seconds))
        except Exception as error:  # one call's trouble must not take the others' ends
            log.exception("session %d", session)
            ears.pop(session, None)
            end.send(session, Failed("endpointing_failed", f"Silero failed: {error}"))


def main() -> None:
    ignore_interrupts()
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the two model files")
    parser.add_argument("--threads", type=int, required=True, help="threads of one opinion")
    parser.add_argument("--no-silero", action="store_true", help="only smart-turn: noise is not looked for")
    options = parser.parse_args()
    end: WorkerEnd[ToEndpointer] = WorkerEnd(Audio | Ask)
    try:
        silero = None if options.no_silero else Silero(options.models)
        smart_turn = SmartTurn(options.models, options.threads)
        # The first run allocates; no call should wait for that.
        ear = Ear(silero)
        ear.hear(0, bytes(2 * SILERO_WINDOW))
        smart_turn.finished(ear.last(1.0))
    except Exception as error:  # whatever it is: it will not go away by starting again
        end.send(0, Refused(f"The ends of turns cannot be listened for here: {error}"))
        return
    judge = Judge(end, smart_turn)
    judge.start()
    end.send(0, Hello({"load_s": round(time.monotonic() - began, 3)}))
    serve(end, silero, judge)


if __name__ == "__main__":
    main()
