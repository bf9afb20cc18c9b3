"""Both tracks on virtual time: what leaves when, with which stamp, and what lateness does."""

from itertools import pairwise

import pytest
from aiortc.mediastreams import MediaStreamError

from server.core.clock import MediaClock
from server.core.media import EncodedFrame, Samples
from server.rtc import tracks
from server.rtc.tracks import BEHIND_VOICE_S, FaceTrack, VoiceTrack
from tests.rtc.pair import Hum

FRAME_S = 0.04


class VirtualTime:
    """Stands for the clock of the tracks: sleeping is instant, and wakes `late_s` too late."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.late_s = 0.0

    def current_time(self) -> float:
        return self.now

    async def sleep_until(self, deadline_s: float) -> None:
        self.now = max(self.now, deadline_s + self.late_s)
        self.late_s = 0.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    virtual = VirtualTime(100.0)
    monkeypatch.setattr(tracks, "now_s", virtual.current_time)
    monkeypatch.setattr(tracks, "sleep_until", virtual.sleep_until)
    return virtual


class Reel:
    """VideoSource: frame k is there from `ready[k]` on; each is a key frame where one was asked for."""

    def __init__(self, time: VirtualTime, ready: dict[int, float], keys: tuple[int, ...] = (0,)) -> None:
        self.keys_asked: list[float] = []
        self._time = time
        self._ready = ready
        self._keys = keys

    def take(self, index: int) -> EncodedFrame | None:
        first = min(self._ready, default=None)
        if first is None or first > index or self._ready[first] > self._time.now:
            return None
        del self._ready[first]
        return EncodedFrame(index=first, data=b"\0\0\0\1e", key=first in self._keys)

    def request_key(self) -> None:
        self.keys_asked.append(self._time.now)


async def show(track: FaceTrack, time: VirtualTime, until_s: float) -> list[tuple[float, int]]:
    """(when, frame) of what leaves until then."""
    out = []
    while time.now < until_s:
        packet = await track.recv()
        assert packet.pts is not None
        assert packet.pts % 3600 == 0
        out.append((round(time.now, 3), packet.pts // 3600))
    return out


async def test_voice_leaves_when_it_is_due(time: VirtualTime) -> None:
    hum = Hum()
    track = VoiceTrack(MediaClock(99.99), hum)
    left = []
    for _ in range(50):
        packet = await track.recv()
        left.append((time.now, packet.pts))
    assert hum.read_at == [960 * (j + 1) for j in range(50)]
    for when, pts in left:
        assert when == pytest.approx(99.99 + pts / 48_000)
    assert track.skipped == 0


async def test_late_voice_leaps_forward(time: VirtualTime) -> None:
    hum = Hum()
    track = VoiceTrack(MediaClock(100.0), hum)
    for late_s in (0, 0.03, 0, 0, 0.150, 0, 0):
        time.late_s = late_s
        packet = await track.recv()
        assert time.now - (100.0 + packet.pts / 48_000) < 0.04  # lateness is never queued
    assert hum.read_at == [960 * j for j in (1, 2, 3, 4, 12, 13, 14)]
    assert track.skipped == 7


async def test_stamps_stay_exact_for_hours(time: VirtualTime) -> None:
    """40 hours after the call's origin: beyond the 24.9 hours in which 32 bits of 48 kHz wrap."""
    hum = Hum()
    track = VoiceTrack(MediaClock(100.0 - 144_000.0), hum)
    stamps = [(await track.recv()).pts for _ in range(5)]
    assert stamps[0] == 144_000 * 48_000 + 960
    assert [b - a for a, b in pairwise(stamps)] == [960] * 4
    assert stamps[0] > 2**32


# So that frame k leaves 40 k ms after 100 s.
FACE_CLOCK = MediaClock(100.0 - BEHIND_VOICE_S)


async def test_frames_leave_with_the_voice_of_their_moment(time: VirtualTime) -> None:
    reel = Reel(time, dict.fromkeys(range(1, 30), 0.0), keys=(1,))
    shown = await show(FaceTrack(FACE_CLOCK, reel), time, 100.0 + 20 * FRAME_S)
    assert shown == [(round(FACE_CLOCK.due(Samples(1920 * k)) + BEHIND_VOICE_S, 3), k) for k in range(1, 21)]
    assert reel.keys_asked == [100.0]  # at the start, for the encoder


async def test_it_begins_with_a_key_frame(time: VirtualTime) -> None:
    reel = Reel(time, dict.fromkeys(range(60), 0.0), keys=(7,))
    track = FaceTrack(FACE_CLOCK, reel)
    assert (await track.recv()).pts == 7 * 3600
    assert track.dropped == 7


async def test_a_key_frame_that_does_not_come_is_asked_for_again(time: VirtualTime) -> None:
    reel = Reel(time, dict.fromkeys(range(60), 0.0), keys=(55,))
    await FaceTrack(FACE_CLOCK, reel).recv()
    assert len(reel.keys_asked) == 3  # at once, after 1 s, after 2 s


async def test_a_frame_a_little_late_is_sent_when_it_comes(time: VirtualTime) -> None:
    ready = dict.fromkeys(range(1, 10), 0.0)
    ready[4] = 100.0 + 4 * FRAME_S + 0.017
    track = FaceTrack(FACE_CLOCK, Reel(time, ready, keys=(1,)))
    shown = {k: t for t, k in await show(track, time, 100.0 + 8 * FRAME_S)}
    assert shown[4] == pytest.approx(100.0 + 4 * FRAME_S + 0.02)  # asked every 5 ms
    assert shown[5] == pytest.approx(100.0 + 5 * FRAME_S)
    assert track.missed == 0


async def test_a_frame_later_than_that_goes_out_with_the_next_one(time: VirtualTime) -> None:
    """The next one builds on it: without it the picture would be broken."""
    ready = dict.fromkeys(range(1, 10), 0.0)
    ready[4] = 100.0 + 4 * FRAME_S + 0.030
    track = FaceTrack(FACE_CLOCK, Reel(time, ready, keys=(1,)))
    shown = await show(track, time, 100.0 + 8 * FRAME_S)
    assert [k for _, k in shown] == list(range(1, len(shown) + 1))
    when = {k: t for t, k in shown}
    assert when[4] == when[5] == pytest.approx(100.0 + 5 * FRAME_S)
    assert track.missed == 1
    assert track.dropped == 0


async def test_frames_that_were_never_painted_are_simply_not_sent(time: VirtualTime) -> None:
    reel = Reel(time, dict.fromkeys((1, 2, 5, 6), 0.0), keys=(1,))
    track = FaceTrack(FACE_CLOCK, reel)
    shown = await show(track, time, 100.0 + 6 * FRAME_S)
    assert shown == [(round(100.0 + k * FRAME_S, 3), k) for k in (1, 2, 5, 6)]
    assert track.missed == 2
    assert len(reel.keys_asked) == 1


async def test_after_a_long_stall_old_frames_are_dropped_and_a_key_frame_is_asked_for(time: VirtualTime) -> None:
    reel = Reel(time, dict.fromkeys(range(1, 60), 0.0), keys=(1, 31))
    track = FaceTrack(FACE_CLOCK, reel)
    for _ in range(3):
        await track.recv()
    time.late_s = 1.0
    packet = await track.recv()
    assert packet.pts == 31 * 3600
    assert len(reel.keys_asked) == 2
    assert track.dropped == 27
    assert [k for _, k in await show(track, time, time.now + 0.1)] == [32, 33, 34]


async def test_a_stopped_track_ends(time: VirtualTime) -> None:
    voice = VoiceTrack(MediaClock(100.0), Hum())
    face = FaceTrack(FACE_CLOCK, Reel(time, {}))
    for track in (voice, face):
        track.stop()
        with pytest.raises(MediaStreamError):
            await track.recv()
