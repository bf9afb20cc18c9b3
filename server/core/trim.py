"""Takes the silence off a clause's ends, and moves its timings along: a reply begins sooner and flows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from server.core.media import SAMPLE_BYTES, Speech

HEAD_MS = 10.0
TAIL_MS = 120.0  # a natural pause between the clauses of a reply
HOLD_S = 1.0  # longer silence is meant, or a voice that is hardly audible

# How loud a sample must be to count, as a share of the piece's peak and at least (of 32768). Where the voice tells
# its phones, only what is clearly sound may overrule them: flite's awb hums at -44 dB of its peak in a pause.
# Where it does not, a soft fricative's beginning must count: -46 dB of the peak, -60 dBFS.
CLEAR = (0.03, 330.0)
FAINT = (0.005, 33.0)


def trim_head(speech: Speech, keep_ms: float = HEAD_MS) -> Speech:
    """The piece without the silence before its first sound, but for `keep_ms` of it."""
    return speech.after(_onset(speech) - _samples(speech, keep_ms))


def trim_tail(speech: Speech, keep_ms: float = TAIL_MS) -> Speech:
    """A clause's last piece with at most `keep_ms` of silence after its last sound; other pieces as they are."""
    if not speech.last:
        return speech
    return _until(speech, _offset(speech) + _samples(speech, keep_ms))


class HeadTrimmer:
    """trim_head for one clause that comes in pieces: silent ones are swallowed until the first sound."""

    def __init__(self, keep_ms: float = HEAD_MS) -> None:
        self._keep_ms = keep_ms
        self._swallowed_s = 0.0
        self._kept: Speech | None = None
        self._begun = False

    def feed(self, speech: Speech) -> tuple[Speech, ...]:
        """What is to be heard now: one piece or none. A clause's last piece always comes out.

        No more than HOLD_S of silence is taken off.
        """
        if self._begun:
            return (speech,)
        speech = _joined(self._kept, speech)
        self._kept = None
        onset = _onset(speech)
        cut = max(onset - _samples(speech, self._keep_ms), 0)
        cut = min(cut, int((HOLD_S - self._swallowed_s) * speech.rate))
        self._swallowed_s += cut / speech.rate
        rest = speech.after(cut)
        if onset == speech.samples and not speech.last and rest.samples <= _samples(speech, self._keep_ms):
            self._kept = rest
            return ()
        self._begun = True
        return (rest,)


class TailTrimmer:
    """trim_tail for one clause that comes in pieces: silent ones are held until the next sound or the end."""

    def __init__(self, keep_ms: float = TAIL_MS) -> None:
        self._keep_ms = keep_ms
        self._quiet = 0  # samples of silence at the end of what was let go
        self._held: Speech | None = None

    def feed(self, speech: Speech) -> tuple[Speech, ...]:
        """What is to be heard now: one piece or none. A clause's last piece always comes out, a moment long at
        least; no more than HOLD_S is held."""
        speech = _joined(self._held, speech)
        self._held = None
        offset = _offset(speech)
        if speech.last:
            keep = _samples(speech, self._keep_ms)
            if offset == 0:
                keep = max(keep - self._quiet, _samples(speech, HEAD_MS))
            return (_until(speech, offset + keep),)
        if offset == 0 and speech.samples < HOLD_S * speech.rate:
            self._held = speech
            return ()
        self._quiet = speech.samples - offset
        return (speech,)


class Trimmer:
    """Both ends of one clause."""

    def __init__(self, head_ms: float = HEAD_MS, tail_ms: float = TAIL_MS) -> None:
        self._head = HeadTrimmer(head_ms)
        self._tail = TailTrimmer(tail_ms)

    def feed(self, speech: Speech) -> tuple[Speech, ...]:
        """What is to be heard now: one piece or none. Exactly one `last` piece comes out if one went in."""
        return tuple(heard for begun in self._head.feed(speech) for heard in self._tail.feed(begun))


def _samples(speech: Speech, ms: float) -> int:
    return int(speech.rate * ms / 1000)


def _audible(speech: Speech) -> tuple[int, int]:
    """First audible sample and one past the last, judged by level; (samples, 0) if there is none."""
    pcm: npt.NDArray[np.int16] = np.frombuffer(speech.pcm, np.int16)
    level = np.abs(pcm.astype(np.int32))
    share, least = CLEAR if speech.phones else FAINT
    heard = np.flatnonzero(level > max(share * int(level.max(initial=0)), least))
    return (int(heard[0]), int(heard[-1]) + 1) if heard.size else (speech.samples, 0)


def _onset(speech: Speech) -> int:
    """Where the sound begins; the piece's length if it is silent."""
    spoken = (phone.start for phone in speech.phones if phone.viseme != "sil" and phone.end > 0)
    return min(max(next(spoken, speech.samples), 0), _audible(speech)[0])


def _offset(speech: Speech) -> int:
    """One past the last sound; 0 if the piece is silent."""
    spoken = (phone.end for phone in reversed(speech.phones) if phone.viseme != "sil" and phone.end > 0)
    return max(min(next(spoken, 0), speech.samples), _audible(speech)[1])


def _until(speech: Speech, samples: int) -> Speech:
    """The piece's first `samples`; timings end there too."""
    if samples >= speech.samples:
        return speech
    return replace(
        speech,
        pcm=speech.pcm[: samples * SAMPLE_BYTES],
        phones=tuple(replace(p, end=min(p.end, samples)) for p in speech.phones if p.start < samples),
        words=tuple(replace(w, end=min(w.end, samples)) for w in speech.words if w.start < samples),
    )


def _joined(first: Speech | None, second: Speech) -> Speech:
    """Two pieces that follow each other as one. A change of rate (another voice) drops the first, a silence."""
    if first is None or first.rate != second.rate:
        return second
    by = first.samples
    return replace(
        second,
        pcm=first.pcm + second.pcm,
        phones=first.phones + tuple(replace(p, start=p.start + by, end=p.end + by) for p in second.phones),
        words=first.words + tuple(replace(w, start=w.start + by, end=w.end + by) for w in second.words),
        note=second.note or first.note,
    )
