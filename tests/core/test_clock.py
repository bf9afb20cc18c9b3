"""The media clock and RTP time over many hours: exact both ways, through the 32-bit wrap."""

import random

import pytest

from server.core.clock import MediaClock, rtp_timestamp
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, PACKET_SAMPLES, Samples

HOURS = 8 * 3600 * MEDIA_RATE

ORIGINS = [0.0, 0.1, 1 / 3, 1234.567891234, 86_400.000000001, 3e6 + 1 / 7, 1e8 + 1 / 7]
"""loop times: a fresh machine to one that has been up for three years"""


@pytest.mark.parametrize("origin", ORIGINS)
def test_due_and_at_agree_for_every_sample_of_a_while(origin: float) -> None:
    clock = MediaClock(origin)
    for start in (0, HOURS // 2 + 12_345, HOURS - 5000):
        for x in range(start, start + 5000):
            assert clock.at(clock.due(Samples(x))) == x


@pytest.mark.parametrize("origin", ORIGINS)
def test_due_and_at_agree_over_eight_hours(origin: float) -> None:
    clock = MediaClock(origin)
    packets = range(0, HOURS, PACKET_SAMPLES * 97)
    anywhere = random.Random(8).choices(range(HOURS), k=10_000)
    for x in (*packets, *anywhere):
        assert clock.at(clock.due(Samples(x))) == x


@pytest.mark.parametrize("origin", ORIGINS)
def test_at_rounds_down(origin: float) -> None:
    clock = MediaClock(origin)
    for x in random.Random(9).choices(range(HOURS), k=1000):
        assert clock.at(clock.due(Samples(x)) + 0.9 / MEDIA_RATE) == x
        assert clock.at(clock.due(Samples(x)) - 0.1 / MEDIA_RATE) == x - 1


def test_the_origin_is_sample_zero() -> None:
    clock = MediaClock(77.25)
    assert clock.at(77.25) == 0
    assert clock.due(Samples(0)) == 77.25
    assert clock.at(78.25) == MEDIA_RATE
    assert clock.at(76.25) == -MEDIA_RATE


@pytest.mark.parametrize(
    ("at", "rate", "offset", "stamp"),
    [
        (0, 48_000, 0, 0),
        (960, 48_000, 5, 965),
        (1920, 90_000, 0, 3600),
        (960, 90_000, 7, 1807),
        (8, 90_000, 0, 15),
        (1, 90_000, 0, 1),  # 15/8, rounded down
        (1, 48_000, 2**32 - 1, 0),
        (2**32, 48_000, 3, 3),
        (FRAME_SAMPLES, 90_000, 2**32 - 3600, 0),
        (24 * 3600 * 48_000 * 365, 90_000, 1, (24 * 3600 * 90_000 * 365 + 1) % 2**32),
    ],
)
def test_rtp_timestamp(at: int, rate: int, offset: int, stamp: int) -> None:
    assert rtp_timestamp(Samples(at), rate, offset) == stamp


@pytest.mark.parametrize(("rate", "unit"), [(48_000, PACKET_SAMPLES), (90_000, FRAME_SAMPLES)])
@pytest.mark.parametrize("seed", range(4))
def test_rtp_time_runs_evenly_through_the_wrap(rate: int, unit: int, seed: int) -> None:
    """Each packet's (each frame's) step is exact modulo 2**32 for 8 hours, wherever the random offset starts."""
    offset = (random.Random(seed).getrandbits(32), 0, 2**32 - 1, 2**32 - 4 * 3600 * rate)[seed]
    step = unit * rate // MEDIA_RATE
    wraps, before = 0, rtp_timestamp(Samples(0), rate, offset)
    for at in range(unit, HOURS, unit):
        stamp = rtp_timestamp(Samples(at), rate, offset)
        assert (stamp - before) % 2**32 == step
        wraps += stamp < before
        before = stamp
    assert wraps == (offset + (HOURS - unit) * rate // MEDIA_RATE) // 2**32


def test_voice_and_picture_of_one_instant_keep_one_time() -> None:
    """Frame k and the packet at its first sample differ by nothing but their clocks' rates and offsets."""
    audio, video = 4_000_000_000, 17
    for frame in (0, 1, 2, 25, 10**6, 25 * 8 * 3600):
        at = Samples(frame * FRAME_SAMPLES)
        voice = (rtp_timestamp(at, 48_000, audio) - audio) % 2**32
        picture = (rtp_timestamp(at, 90_000, video) - video) % 2**32
        assert (voice * 15 - picture * 8) % 2**32 == 0
