"""One call's voice on the media clock: what each 20 ms packet holds, and what of a reply was heard.

Two counts meet here. A *place* is a sample's number within its reply's voice; media time is when it is heard. Pieces
of voice map one to the other, and a pause, an underrun or a late release only moves the pieces.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.core.errors import StageError
from server.core.heard import NOTHING_HEARD, Heard, HeardText
from server.core.media import MEDIA_RATE, PACKET_SAMPLES, SAMPLE_BYTES, Samples, Speech

SILENCE = bytes(PACKET_SAMPLES * SAMPLE_BYTES)
FADE_IN_SAMPLES = MEDIA_RATE // 200  # 5 ms: enough against a click
_STALE_SAMPLES = MEDIA_RATE  # voice that is due for so long will never be read: packets only move forward

_FADE_OUT = np.cos(np.linspace(0, np.pi / 2, PACKET_SAMPLES, dtype=np.float32)) ** 2
_FADE_IN = np.sin(np.linspace(0, np.pi / 2, FADE_IN_SAMPLES, dtype=np.float32)) ** 2


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece of voice and when its first sample is heard; for the renderer."""

    speech: Speech
    at: Samples


@dataclass(slots=True)
class TimelineStatistics:
    """Counts since the call began."""

    underruns: int = 0
    """times the voice ran dry in the middle of a reply"""
    underrun_samples: int = 0
    """silence that came of it"""
    skipped_samples: int = 0
    """voice that was due in packets nobody read"""


@dataclass(slots=True)
class _Piece:
    speech: Speech
    start: int
    """place of its first sample"""
    end: int
    """place behind its last sample"""
    at: int
    """media time of its first sample"""


@dataclass(slots=True)
class _Span:
    """A stretch of voice that was read without a break."""

    at: int
    place: int
    samples: int


@dataclass(slots=True)
class _Reply:
    generation: int
    planned: int | None = None
    """media time from which it is held; None: it is not held"""
    paused: bool = False
    finished: bool = False
    pieces: deque[_Piece] = field(default_factory=deque)
    """with voice not yet read, in order"""
    place: int = 0
    """of the first sample not yet read"""
    made: int = 0
    """samples of voice appended so far"""
    end: int | None = None
    """media time behind the last piece; None: the next piece may go anywhere"""
    fade_in: int | None = None
    """place at which a faded voice begins again"""
    spans: deque[_Span] = field(default_factory=deque)
    """what was read, the latest seconds of it"""
    heard: int = 0
    """the place up to which it was heard, when last asked"""
    text: HeardText = field(default_factory=HeardText)

    @property
    def flowing(self) -> bool:
        return self.planned is None and not self.paused

    @property
    def unread_at(self) -> int | None:
        """Media time of the first sample not yet read."""
        return self.pieces[0].at + self.place - self.pieces[0].start if self.pieces else None

    def runs(self, at: int, end: int) -> list[tuple[int, int, bytes]]:
        """The unread voice within media time [at, end) as (media time, place, pcm), unfaded; changes nothing."""
        found = []
        place = self.place
        for piece in self.pieces:
            start = piece.at + place - piece.start
            if start >= end:
                break
            late = max(0, at - start)
            samples = min(end - start, piece.end - place) - late
            if samples > 0:
                offset = (place + late - piece.start) * SAMPLE_BYTES
                found.append((start + late, place + late, piece.speech.pcm[offset : offset + samples * SAMPLE_BYTES]))
            place = piece.end
        return found

    def advance(self, end: int) -> None:
        """Media time up to `end` has been read or is lost."""
        while self.pieces and self.pieces[0].at + self.pieces[0].end - self.pieces[0].start <= end:
            self.place = self.pieces.popleft().end
        unread_at = self.unread_at
        if unread_at is not None and unread_at < end:
            self.place += end - unread_at

    def put(self, at: int) -> list[Placed]:
        """Place everything unread anew from media time `at` on."""
        self.end = at
        placed = []
        for piece in self.pieces:
            done = max(0, self.place - piece.start)
            placed.append(Placed(piece.speech.after(done), Samples(self.end)))
            piece.at = self.end - done
            self.end = piece.at + piece.end - piece.start
        return placed

    def note(self, at: int, place: int, samples: int) -> None:
        """These samples were read."""
        last = self.spans[-1] if self.spans else None
        if last is not None and last.at + last.samples == at:
            last.samples += samples
        else:
            self.spans.append(_Span(at, place, samples))

    def settle(self, until: int) -> None:
        """Nobody will ask what had been heard before `until`."""
        self.listen(until)
        while len(self.spans) > 1 and self.spans[1].at < until:
            self.spans.popleft()

    def listen(self, until: int) -> str:
        """The text heard by media time `until`."""
        for span in reversed(self.spans):
            if span.at < until:
                self.heard = max(self.heard, span.place + min(until - span.at, span.samples))
                break
        return self.text.until(self.heard)


class Timeline:
    """One reply at a time; it is read packet by packet. Pure: `now` and `at` are media time."""

    def __init__(
        self,
        *,
        lead_samples: int = 2 * PACKET_SAMPLES,
        margin_samples: int = PACKET_SAMPLES,
        playout_ms: int = 0,
        limit_samples: int = 600 * MEDIA_RATE,
    ) -> None:
        """lead_samples: voice is placed so far ahead of now, so that its packet and picture are still to come.
        margin_samples: a held reply whose planned time is at least so far off keeps it.
        playout_ms: what is read is heard so much later (network and the client's buffer).
        limit_samples: more voice than this is not queued.
        """
        self._lead = lead_samples
        self._margin = margin_samples
        self._playout = playout_ms * MEDIA_RATE // 1000
        self._limit = limit_samples
        self._reply: _Reply | None = None
        self._last = NOTHING_HEARD
        self._next = 0  # media time of the next packet, once one was read
        self._tail = b""  # the packet that fades a stopped voice out, not yet read
        self._silent_from = 0
        self.statistics = TimelineStatistics()

    # ---- state ---------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Of the reply that is held, played or played out; 0: there is none."""
        return self._reply.generation if self._reply else 0

    @property
    def held(self) -> bool:
        return self._reply is not None and self._reply.planned is not None

    @property
    def paused(self) -> bool:
        return self._reply is not None and self._reply.paused

    @property
    def finished(self) -> bool:
        """Whether nothing more will be appended."""
        return self._reply is not None and self._reply.finished

    @property
    def started(self) -> bool:
        """Whether the reply's first sample was read."""
        return self._reply is not None and self._reply.place > 0

    @property
    def silent_from(self) -> Samples:
        """The media sample from which silence held after the last pause or cut."""
        return Samples(self._silent_from)

    def playing(self, now: Samples) -> bool:
        """Whether a reply that has started sounds now or goes on within the lead (not in an underrun)."""
        reply = self._reply
        return reply is not None and reply.flowing and reply.place > 0 and reply.end is not None and reply.end > now

    def drained(self, now: Samples) -> bool:
        """Whether the reply is finished and all of it was read, or can no longer be read."""
        reply = self._reply
        if reply is None or not reply.finished or reply.planned is not None:
            return False
        return not reply.pieces or (reply.end is not None and now > reply.end + _STALE_SAMPLES)

    def queued(self, now: Samples) -> Samples:
        """How much voice is still to be heard."""
        reply = self._reply
        if reply is None:
            return Samples(0)
        unread = reply.made - reply.place
        if reply.flowing and reply.end is not None:
            unread = min(unread, max(0, reply.end - now))
        return Samples(unread)

    # ---- a reply's life ------------------------------------------------------------------------------

    def begin(self, generation: int) -> None:
        """A reply that is played as it comes. What is left of the one before is dropped."""
        self.drop()
        self._reply = _Reply(generation)

    def hold(self, generation: int, planned: Samples) -> None:
        """A speculative reply, placed from `planned` on and not read before `release`."""
        self.drop()
        self._reply = _Reply(generation, planned=planned)

    def append(self, speech: Speech, now: Samples) -> Samples | None:
        """Place a piece (s16le mono 48 kHz) behind the last one, or at `now` + lead if that time has passed.

        Returns its media time, for the renderer; None while paused: `resume` will tell it.
        Raises StageError if no reply is open or too much is queued.
        """
        assert speech.rate == MEDIA_RATE, f"the timeline counts samples of {MEDIA_RATE} Hz, not {speech.rate}"
        reply = self._reply
        if reply is None or reply.finished:
            raise StageError(
                "tts", "reply_over", "There is no open reply that this voice belongs to.", retryable=False
            )
        samples = speech.samples
        if reply.made - reply.place + samples > self._limit:
            raise StageError(
                "tts",
                "reply_too_long",
                f"More than {self._limit // MEDIA_RATE} s of voice are waiting to be heard; speak in smaller pieces.",
                retryable=False,
            )
        reply.text.add(speech, reply.made)
        at = 0 if reply.paused else self._place_for(reply, now)
        if samples:
            if reply.end is not None and at > reply.end:
                self.statistics.underruns += 1
                self.statistics.underrun_samples += at - reply.end
            reply.pieces.append(_Piece(speech, reply.made, reply.made + samples, at))
            reply.made += samples
            reply.end = None if reply.paused else at + samples
        return None if reply.paused else Samples(at)

    def finish(self, generation: int) -> None:
        """Nothing more will be appended to this reply; nothing happens if it is no longer there."""
        if self._reply is not None and self._reply.generation == generation:
            self._reply.finished = True
            self._reply.text.finish()

    def replan(self, planned: Samples) -> list[Placed]:
        """Move a held reply to another planned time. Returns the new places of what there is of it."""
        reply = self._reply
        if reply is None or reply.planned is None:
            return []
        reply.planned = planned
        return reply.put(planned) if reply.pieces else []

    def release(self, now: Samples) -> list[Placed]:
        """Let a held reply be read. Returns the new places if it could not keep the planned ones."""
        reply = self._reply
        if reply is None or reply.planned is None:
            return []
        planned, reply.planned = reply.planned, None
        if not reply.pieces:
            reply.end = None
            return []
        if planned >= max(now + self._margin, self._next, self._silent_from):
            return []
        return reply.put(self._soonest(now))

    def drop(self) -> None:
        """Throw the reply away; if some of it is being heard, it is faded out."""
        if self._reply is not None:
            self._fade_out(self._reply)
        self._reply = None
        self._last = NOTHING_HEARD

    def pause(self, now: Samples) -> Samples:
        """Fade the next packet out and keep the rest. Returns the media sample from which silence holds."""
        if not self.paused:
            self._silent_from = self._stop(now)
            if self._reply is not None and self._reply.planned is None:
                self._reply.paused = True
                self._reply.end = None
        return Samples(self._silent_from)

    def resume(self, now: Samples) -> list[Placed]:
        """Go on from the sample at which the fade began. Returns the new places."""
        reply = self._reply
        if reply is None or not reply.paused:
            return []
        reply.paused = False
        return reply.put(self._soonest(now))

    def cut(self, now: Samples) -> Heard:
        """Fade the next packet out and drop the rest. All that was handed over before it counts as heard.

        `silent_from` then says from when on silence holds. Cut again, it tells the same.
        """
        self._silent_from = self._stop(now)
        if self._reply is not None:
            self._last = self._heard(self._reply, max(now, self._next))
        self._reply = None
        return self._last

    def heard(self, now: Samples) -> Heard:
        """What has been heard so far, of the last reply if it was cut. Grows only; cheap enough for every caption."""
        return self._heard(self._reply, now) if self._reply is not None else self._last

    def read(self, at: Samples) -> bytes:
        """The packet [at, at + PACKET_SAMPLES), s16le mono; each is read once, in order, and may be left out."""
        if at < self._next:
            raise ValueError(f"packet {at} was read already; the next one begins at {self._next}")
        end = at + PACKET_SAMPLES
        self._next = end
        tail, self._tail = self._tail, b""
        reply = self._reply
        if reply is None or not reply.flowing or not reply.pieces:
            return tail or SILENCE
        before, first = reply.place, reply.pieces[0]
        runs = reply.runs(at, end)
        reply.advance(end)
        self.statistics.skipped_samples += reply.place - before - sum(len(pcm) for _, _, pcm in runs) // SAMPLE_BYTES
        if not runs:
            return tail or SILENCE
        for start, place, pcm in runs:
            reply.note(start, place, len(pcm) // SAMPLE_BYTES)
        if not reply.pieces or reply.pieces[0] is not first:
            reply.settle(at - self._playout - _STALE_SAMPLES)
        if len(runs[0][2]) == len(SILENCE) and (reply.fade_in is None or before >= reply.fade_in + FADE_IN_SAMPLES):
            return runs[0][2]  # nearly always
        return _packet(runs, at, reply.fade_in).astype("<i2").tobytes()

    # ---- inside --------------------------------------------------------------------------------------

    def _soonest(self, now: int) -> int:
        """The first media time at which voice can still be placed."""
        return max(now + self._lead, self._next, self._silent_from)

    def _place_for(self, reply: _Reply, now: int) -> int:
        """Media time of the next piece of a reply that is not paused; behind its end that is an underrun."""
        if reply.planned is not None:
            return reply.planned if reply.end is None else reply.end
        if reply.end is not None and reply.end >= max(now, self._next):
            return reply.end
        return self._soonest(now)

    def _stop(self, now: int) -> int:
        """Fade the voice out; returns the media sample from which silence holds."""
        if self._reply is not None:
            self._fade_out(self._reply)
        if self._tail:
            return self._silent_from
        return self._next or -(-now // PACKET_SAMPLES) * PACKET_SAMPLES

    def _fade_out(self, reply: _Reply) -> None:
        """If voice goes on without a break into the next packet, make that packet its faded end."""
        if not reply.flowing or reply.place == 0 or reply.unread_at != self._next:
            return
        end = self._next + PACKET_SAMPLES
        packet = _packet(reply.runs(self._next, end), self._next, reply.fade_in)
        self._tail = (packet * _FADE_OUT).astype("<i2").tobytes()
        self._silent_from = end
        reply.fade_in = reply.place

    def _heard(self, reply: _Reply, now: int) -> Heard:
        text = reply.listen(now - self._playout)
        complete = reply.planned is None and reply.finished and reply.heard == reply.made and reply.text.whole
        return Heard(reply.generation, text, reply.heard * 1000 // MEDIA_RATE, complete, reply.text.note)


def _packet(runs: list[tuple[int, int, bytes]], at: int, fade_in: int | None) -> NDArray[np.float32]:
    """One packet from its runs of voice, [PACKET_SAMPLES]; `fade_in`: where a faded voice begins again (a place)."""
    packet = np.zeros(PACKET_SAMPLES, dtype=np.float32)
    for start, place, pcm in runs:
        voice = np.frombuffer(pcm, dtype="<i2").astype(np.float32)
        if fade_in is not None and place < fade_in + FADE_IN_SAMPLES:
            gain = _FADE_IN[place - fade_in : place - fade_in + len(voice)]
            voice[: len(gain)] *= gain
        packet[start - at : start - at + len(voice)] = voice
    return packet
