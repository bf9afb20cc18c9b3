"""The face and the voice as aiortc tracks: encoded packets, each at the media time it belongs to."""

import asyncio
from fractions import Fraction
from typing import Any, Protocol

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from server.core.clock import MediaClock
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, PACKET_SAMPLES, EncodedFrame, Samples
from server.rtc.opus import OpusEncoder

VIDEO_RATE = 90_000  # Hz: the RTP clock of every video codec (RFC 3551 section 5)
AUDIO_TIME_BASE = Fraction(1, MEDIA_RATE)
VIDEO_TIME_BASE = Fraction(1, VIDEO_RATE)

LATE_PACKETS = 2
"""a voice packet due so many packets ago is skipped; one that is less late is sent at once"""
BEHIND_VOICE_S = 0.025
"""the picture leaves so much later than the voice of the same instant: a browser holds sound longer than pictures
(NetEq keeps 20 ms at least, an audio device 10 more), and the two are to meet at the person. The RTP times and the
sender reports tell the truth, so that the browser's own synchronisation agrees. Measured: call.av_skew_ms"""
GRACE_S = 0.025
"""a frame is waited for so long after it was due; one that comes later goes out with the next"""
POLL_S = 0.005
"""how often it is asked for in the meantime"""
LATE_FRAMES = 12
"""a frame older than so many (half a second) is thrown away, and a key frame asked for"""
KEY_WAIT_S = 1.0
"""a key frame that has not come after so long is asked for again"""


def now_s() -> float:
    """anyio.current_time(), at a tenth of its cost: the tracks ask some 300 times a second."""
    return asyncio.get_running_loop().time()


async def sleep_until(deadline_s: float) -> None:
    await asyncio.sleep(max(0.0, deadline_s - now_s()))


class AudioSource(Protocol):
    """What the voice track plays."""

    def read(self, at: Samples) -> bytes:
        """Samples [at, at + 960) of the call, s16le mono 48 kHz, exactly 1920 bytes.

        Called when they are due, in order; after a stall of the event loop `at` has leapt over what was missed.
        Takes well under a millisecond and never raises.
        """
        ...


class VideoSource(Protocol):
    """What the face track shows: a queue of encoded frames, in order of their index, ahead of their time."""

    def take(self, index: int) -> EncodedFrame | None:
        """The oldest frame not yet taken whose index is at most `index`; None: there is none (yet).

        Asked when frame `index` is due and again every few milliseconds until GRACE_S later. Frames are encoded
        one upon the other: a source that throws one away must ask for a key frame.
        """
        ...

    def request_key(self) -> None:
        """The next frame must be decodable on its own."""
        ...


class VoiceTrack(MediaStreamTrack):
    """The voice: packet j holds media samples [960 j, 960 (j + 1)) and leaves when sample 960 j is due.

    RTP time is media time. Lateness is never queued: a packet that is 40 ms late or more is skipped.
    """

    kind = "audio"

    def __init__(self, clock: MediaClock, source: AudioSource) -> None:
        super().__init__()
        self.skipped = 0
        """packets not sent because the event loop was late"""
        self._clock = clock
        self._source = source
        self._encoder = OpusEncoder()
        self._next: int | None = None

    async def recv(self) -> "av.Packet[Any]":
        if self._next is None:
            self._next = self._clock.at(now_s()) // PACKET_SAMPLES + 1
        await sleep_until(self._clock.due(Samples(self._next * PACKET_SAMPLES)))
        if self.readyState != "live":
            raise MediaStreamError
        newest = self._clock.at(now_s()) // PACKET_SAMPLES
        if newest - self._next >= LATE_PACKETS:
            self.skipped += newest - self._next
            self._next = newest
        at = Samples(self._next * PACKET_SAMPLES)
        self._next += 1
        packet = av.Packet(self._encoder.encode(self._source.read(at)))
        packet.pts = at
        packet.time_base = AUDIO_TIME_BASE
        return packet


class FaceTrack(MediaStreamTrack):
    """The face: frame k leaves BEHIND_VOICE_S after the voice of media sample 1920 k; its RTP time is media time.

    A frame up to 25 ms late is sent when it comes. One that comes later still is sent with the next frame, since
    that one builds on it. One half a second late is thrown away and a key frame asked for. The first frame sent
    is a key frame.
    """

    kind = "video"

    def __init__(self, clock: MediaClock, source: VideoSource) -> None:
        super().__init__()
        self.missed = 0
        """times at which no frame was there when one was due"""
        self.dropped = 0
        """frames thrown away: too late, or not decodable without one that was"""
        self._clock = clock
        self._source = source
        self._next: int | None = None
        self._key_asked_s: float | None = None
        """when a key frame was asked for that has not come; nothing else can be shown until then"""

    async def recv(self) -> "av.Packet[Any]":
        if self._next is None:
            self._next = self._clock.at(now_s() - BEHIND_VOICE_S) // FRAME_SAMPLES + 1
            self._ask_for_key()
        while True:
            due = self._clock.due(Samples(self._next * FRAME_SAMPLES)) + BEHIND_VOICE_S
            await sleep_until(due)
            if self.readyState != "live":
                raise MediaStreamError
            now = now_s()
            newest = max(self._next, self._clock.at(now - BEHIND_VOICE_S) // FRAME_SAMPLES)
            frame = self._source.take(newest)
            if frame is None:
                if newest == self._next and now < due + GRACE_S:
                    await sleep_until(now + POLL_S)
                else:
                    self.missed += newest + 1 - self._next
                    self._next = newest + 1
            elif self._shown(frame, newest, now):
                self._next = max(self._next, frame.index + 1)
                packet = av.Packet(frame.data)
                packet.pts = frame.index * FRAME_SAMPLES * VIDEO_RATE // MEDIA_RATE
                packet.time_base = VIDEO_TIME_BASE
                return packet

    def _shown(self, frame: EncodedFrame, newest: int, now: float) -> bool:
        if newest - frame.index > LATE_FRAMES:
            self.dropped += 1
            if self._key_asked_s is None:
                self._ask_for_key()
            return False
        if frame.key:
            self._key_asked_s = None
        elif self._key_asked_s is not None:
            self.dropped += 1
            if now - self._key_asked_s >= KEY_WAIT_S:
                self._ask_for_key()
            return False
        return True

    def _ask_for_key(self) -> None:
        self._key_asked_s = now_s()
        self._source.request_key()
