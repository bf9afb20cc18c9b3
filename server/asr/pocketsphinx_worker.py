"""The process that decodes speech with pocketsphinx: it holds the GIL, up to 40 ms at a time."""

import argparse
import logging
import os
import re
import time
from collections import deque
from typing import TYPE_CHECKING

from server.asr.wire import Answer, Ask, Audio, Forget, Heard, ToListener
from server.core.media import MIC_RATE, SAMPLE_BYTES
from server.workers.channel import End, Failed, Hello, Refused, WorkerEnd
from server.workers.process import ignore_interrupts

if TYPE_CHECKING:
    from pocketsphinx import Decoder

log = logging.getLogger(__name__)

BYTES_PER_S = MIC_RATE * SAMPLE_BYTES
# Without these two passes the end of an utterance takes 12 ms instead of 300. With fewer states than the default
# 30000 the same words come at two thirds of the cost (70 sentences: error rate the same within 0.01).
SEARCH = {"fwdflat": False, "bestpath": False, "maxhmmpf": 5000, "maxwpf": 20}
# Cepstral means of a voice over a usual microphone, to begin with: the average of three voices (flite slt and rms,
# pocketsphinx's test recordings). The model's own start knows only the first three of the thirteen and costs a call's
# first sentence one word in fifteen.
CEPSTRAL_MEANS = "44.2,-4.1,6.5,8.6,-3.5,0.4,0.9,-3.5,-4.1,-0.7,3.2,2.3,2.7"
AGREEING = 3
"""hypotheses in a row that must share a prefix before it is promised (two: 1 utterance in 5 would break its promise,
three: 1 in 70; then the promise is kept, not the hypothesis)"""
SETTLED_FRAMES = 5  # of 10 ms: a word's end that moves by less between two hypotheses stands still
WORD_MAX_FRAMES = 150  # of 10 ms; a longer "word" is noise: two seconds of hiss are one "if" to the decoder
UTTERANCE_MAX_S = 60.0  # the search's memory grows with the utterance
QUIET_S = 0.5  # without work: time to build a spare decoder, which takes a third of a second


Segment = tuple[str, int, int]
"""a word, its first and its last frame (of 10 ms)"""


def new_decoder() -> "Decoder":
    """About 90 MB and a third of a second. Raises what pocketsphinx raises if its model is not there."""
    from pocketsphinx import Config, Decoder, get_model_path

    model = os.path.join(get_model_path(), "en-us")
    return Decoder(
        Config(
            hmm=os.path.join(model, "en-us"),
            lm=os.path.join(model, "en-us.lm.bin"),
            dict=os.path.join(model, "cmudict-en-us.dict"),
            loglevel="FATAL",
            **SEARCH,
        )
    )


class Decoders:
    """Those in nobody's use. One is kept ready, so that a call's first words do not wait for it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lent = 0
        self._idle = [new_decoder()]

    def take(self) -> "Decoder":
        """As good as new."""
        decoder = self._idle.pop() if self._idle else new_decoder()
        self._lent += 1
        decoder.set_cmn(CEPSTRAL_MEANS)
        return decoder

    def give_back(self, decoder: "Decoder | None") -> None:
        """None: it broke."""
        self._lent -= 1
        if decoder is not None and not self._idle:
            self._idle.append(decoder)

    def prepare(self) -> None:
        if not self._idle and self._lent < self._capacity:
            self._idle.append(new_decoder())


class Hearing:
    """One utterance at a time of one call, on a decoder of its own that goes on adapting between them."""

    def __init__(self, decoder: "Decoder", partial_s: float) -> None:
        self._decoder = decoder
        self._partial_bytes = int(partial_s * BYTES_PER_S)
        self._running = False
        self._begin(0)

    def _begin(self, utterance: int) -> None:
        self.utterance = utterance
        self._earlier: list[str] = []  # words of parts of this utterance that were too long for one search
        self._means = self._decoder.get_cmn(False)
        self._start_part()

    def _start_part(self) -> None:
        self._bytes = 0
        self._due = self._partial_bytes
        self._promised: list[str] = []
        self._promised_end = 0  # frame
        self._recent: deque[list[Segment]] = deque(maxlen=AGREEING - 1)
        self._told: tuple[str, int] = ("", 0)

    def hear(self, audio: Audio) -> Heard | None:
        """Decode; tells the text if it is time for that and it has changed."""
        if audio.utterance != self.utterance:
            self.forget()
            self._begin(audio.utterance)
        if not self._running:
            self._decoder.start_utt()
            self._running = True
        self._decoder.process_raw(audio.pcm, False, False)
        self._bytes += len(audio.pcm)
        if self._bytes < self._due:
            return None
        self._due = self._bytes + self._partial_bytes
        segments = self._segments()
        self._promise(segments)
        told = self._text(segments)
        if self._bytes > UTTERANCE_MAX_S * BYTES_PER_S:
            self._stop()
            self._earlier += self._words(self._segments())
            self._start_part()
        if told == self._told:
            return None
        self._told = told
        return Heard(self.utterance, *told)

    def answer(self, ask: Ask) -> tuple[str, int]:
        """Text and stable length of the asked utterance."""
        if ask.utterance != self.utterance:
            self.forget()
            self._begin(ask.utterance)
        if ask.end:
            self._stop()
        text, stable = self._text(self._segments())
        if ask.end:
            self._begin(ask.utterance + 1)
            return text, len(text)
        return text, stable

    def forget(self) -> None:
        """What it adapted to in this utterance is forgotten too: it may have been a cough."""
        if self._running:
            self._stop()
            self._decoder.set_cmn(self._means)
        self._begin(self.utterance + 1)

    def release(self) -> "Decoder":
        self._stop()
        return self._decoder

    def _text(self, segments: list[Segment]) -> tuple[str, int]:
        """The utterance's text, and how much of it is promised."""
        words = self._earlier + self._words(segments)
        stable = " ".join(self._earlier + self._promised)
        return " ".join(words), len(stable)

    def _stop(self) -> None:
        if self._running:
            self._decoder.end_utt()
            self._running = False

    def _segments(self) -> list[Segment]:
        """The best hypothesis without silences and noises. Tracing it back takes up to 4 ms."""
        if self._bytes == 0:
            return []
        return [
            (re.sub(r"\(\d+\)$", "", segment.word), segment.start_frame, segment.end_frame)
            for segment in self._decoder.seg() or ()
            if segment.word[0] not in "<[+" and segment.end_frame - segment.start_frame < WORD_MAX_FRAMES
        ]

    def _words(self, segments: list[Segment]) -> list[str]:
        """The hypothesis; where it went back on what was promised: the promise and what was said after it."""
        words = [word for word, _, _ in segments]
        if words[: len(self._promised)] == self._promised:
            return words
        return self._promised + [w for w, first, last in segments if first + last > 2 * self._promised_end]

    def _promise(self, segments: list[Segment]) -> None:
        """Whole words that the last hypotheses agree on will not change any more.

        The newest of them must have come to its end: one that goes on growing may yet turn out to be another, or
        noise.
        """
        words = [word for word, _, _ in segments]
        if len(self._recent) == AGREEING - 1:
            agreed = _shared([words, *([word for word, _, _ in earlier] for earlier in self._recent)])
            if agreed and segments[agreed - 1][2] > self._recent[-1][agreed - 1][2] + SETTLED_FRAMES:
                agreed -= 1
            if agreed > len(self._promised) and words[: len(self._promised)] == self._promised:
                self._promised = words[:agreed]
                self._promised_end = segments[agreed - 1][2]
        self._recent.append(segments)


def _shared(texts: list[list[str]]) -> int:
    """Words at the beginning that all have in common."""
    count = 0
    for words in zip(*texts, strict=False):
        if len(set(words)) > 1:
            break
        count += 1
    return count


class Job:
    """A message that waits for its turn."""

    __slots__ = ("message", "session", "void")

    def __init__(self, session: int, message: ToListener | End) -> None:
        self.session = session
        self.message = message
        self.void = False


class Desk:
    """Serves all sessions in the order in which their messages arrived."""

    def __init__(self, end: WorkerEnd[ToListener], decoders: Decoders, partial_s: float, backlog_s: float) -> None:
        self._end = end
        self._decoders = decoders
        self._partial_s = partial_s
        self._backlog_bytes = int(backlog_s * BYTES_PER_S)
        self._jobs: deque[Job] = deque()
        self._waiting: dict[int, deque[Job]] = {}  # each session's audio among the jobs
        self._waiting_bytes: dict[int, int] = {}
        self._lost_bytes: dict[int, int] = {}
        self._hearings: dict[int, Hearing] = {}

    def serve(self) -> None:
        while True:
            # First everything that has arrived: what is too old shall be dropped before it costs anything.
            arrived = self._end.receive(0.0 if self._jobs else QUIET_S)
            if arrived is None and not self._jobs:
                self._decoders.prepare()
            while arrived is not None:
                self._arrive(*arrived)
                arrived = self._end.receive(0.0)
            if self._jobs:
                self._work(self._jobs.popleft())

    def _arrive(self, session: int, message: ToListener | End) -> None:
        job = Job(session, message)
        self._jobs.append(job)
        if isinstance(message, Audio):
            self._waiting.setdefault(session, deque()).append(job)
            waiting = self._waiting_bytes.get(session, 0) + len(message.pcm)
            self._waiting_bytes[session] = waiting
            while self._waiting_bytes[session] > self._backlog_bytes:
                self._lost_bytes[session] = self._lost_bytes.get(session, 0) + self._skip(session)
        elif isinstance(message, Forget | End):
            while self._waiting.get(session):
                self._skip(session)

    def _skip(self, session: int) -> int:
        """The session's oldest waiting audio will not be decoded; returns its bytes."""
        job = self._waiting[session].popleft()
        job.void = True
        assert isinstance(job.message, Audio)
        self._waiting_bytes[session] -= len(job.message.pcm)
        return len(job.message.pcm)

    def _work(self, job: Job) -> None:
        if job.void:
            return
        session, message = job.session, job.message
        if isinstance(message, End):
            self._close(session)
            return
        try:
            self._serve(session, message)
        except Exception as error:  # one session's trouble must not take the others' words
            log.exception("session %d", session)
            if self._hearings.pop(session, None) is not None:
                self._decoders.give_back(None)
            self._end.send(session, Failed("asr_failed", f"pocketsphinx failed: {error}"))

    def _serve(self, session: int, message: ToListener) -> None:
        hearing = self._hearings.get(session)
        if isinstance(message, Audio):
            self._waiting[session].popleft()
            self._waiting_bytes[session] -= len(message.pcm)
            if hearing is None:
                hearing = self._hearings[session] = Hearing(self._decoders.take(), self._partial_s)
            heard = hearing.hear(message)
            if heard is not None:
                self._end.send(session, heard)
        elif isinstance(message, Ask):
            text, stable = hearing.answer(message) if hearing is not None else ("", 0)
            lost_s = self._lost_bytes.get(session, 0) / BYTES_PER_S
            self._end.send(session, Answer(message.request, text, stable, lost_s))
        elif isinstance(message, Forget) and hearing is not None and hearing.utterance == message.utterance:
            hearing.forget()

    def _close(self, session: int) -> None:
        for table in (self._waiting, self._waiting_bytes, self._lost_bytes):
            table.pop(session, None)
        hearing = self._hearings.pop(session, None)
        if hearing is not None:
            self._decoders.give_back(hearing.release())


def main() -> None:
    ignore_interrupts()
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capacity", type=int, required=True, help="sessions at once")
    parser.add_argument("--partial-s", type=float, required=True, help="seconds of audio between interim texts")
    parser.add_argument("--backlog-s", type=float, required=True, help="seconds of audio of a session that may wait")
    options = parser.parse_args()
    end: WorkerEnd[ToListener] = WorkerEnd(ToListener)
    try:
        decoders = Decoders(options.capacity)
    except Exception as error:  # whatever it is: it will not go away by starting again
        end.send(0, Refused(f"pocketsphinx does not work here: {error}"))
        return
    end.send(0, Hello({"load_s": round(time.monotonic() - began, 3)}))
    Desk(end, decoders, options.partial_s, options.backlog_s).serve()


if __name__ == "__main__":
    main()
