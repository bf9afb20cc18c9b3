"""Speak: clauses -> voice at the media rate, its silent head trimmed, ready to be placed in time."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import anyio
import av
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from server.core.errors import StageError
from server.core.marks import Marks
from server.core.media import MEDIA_RATE, Clause, Speech, Voice
from server.core.protocols import Tts
from server.core.resampling import Resampler
from server.core.trim import Trimmer


class MediaRate:
    """Brings one clause's pieces to 48 kHz; stateful, so that pieces join without a click."""

    def __init__(self) -> None:
        self._resampler: Resampler | None = None
        self._given = 0  # samples in, at the voice's rate
        self._made = 0  # samples out, at the media rate

    def convert(self, speech: Speech) -> Speech:
        """The same piece at MEDIA_RATE, timings scaled. The last piece is as long as the whole demands."""
        rate = speech.rate
        if rate == MEDIA_RATE:
            return speech
        if self._resampler is None:
            self._resampler = Resampler(MEDIA_RATE)
        before = self._made
        pcm = b""
        if speech.samples:
            frame = av.AudioFrame.from_ndarray(
                np.frombuffer(speech.pcm, np.int16).reshape(1, -1), format="s16", layout="mono"
            )
            frame.sample_rate = rate
            pcm = b"".join(f.to_ndarray().tobytes() for f in self._resampler.resample(frame))
        # A piece's timings are relative to its own first sample, which the filter's delay has moved.
        shift = before - self._given * MEDIA_RATE // rate
        self._given += speech.samples
        if speech.last:
            pcm += b"".join(f.to_ndarray().tobytes() for f in self._resampler.resample(None))
            wanted = 2 * (self._given * MEDIA_RATE // rate - before)
            pcm = pcm[:wanted].ljust(wanted, b"\0")
        self._made += len(pcm) // 2

        def scaled(samples: int) -> int:
            return samples * MEDIA_RATE // rate - shift

        return replace(
            speech,
            pcm=pcm,
            rate=MEDIA_RATE,
            phones=tuple(replace(p, start=scaled(p.start), end=scaled(p.end)) for p in speech.phones),
            words=tuple(replace(w, start=scaled(w.start), end=scaled(w.end)) for w in speech.words),
        )


async def speak(
    clauses: MemoryObjectReceiveStream[Clause],
    tts: Tts,
    voice: Voice,
    out: MemoryObjectSendStream[Speech],
    marks: Marks,
    failed: Callable[[StageError], None],
    queued_s: Callable[[], float] = lambda: 0.0,
) -> None:
    """Ends when the clauses do. A clause that cannot be said is told to `failed` and passed over.

    queued_s: seconds of voice that are made and not yet heard.
    """
    async with out, clauses:
        async for clause in clauses:
            marks.note("tts_request", anyio.current_time())
            trimmer, rate = Trimmer(), MediaRate()
            try:
                async with aclosing(tts.say(replace(clause, ahead_s=queued_s()), voice)) as pieces:
                    async for piece in pieces:
                        for audible in trimmer.feed(piece):
                            marks.note("tts_audio", anyio.current_time())
                            await out.send(rate.convert(audible))
            except StageError as error:
                failed(error)
