"""The media clock: one origin per call, handed to both tracks and to the renderer."""

from dataclasses import dataclass

from server.core.media import MEDIA_RATE, Samples

_ROUNDING_NS = 20
"""a thousandth of a sample: as floats, loop times fall short by up to 8 ns in a machine's third year"""


@dataclass(frozen=True, slots=True)
class MediaClock:
    """Maps loop time to media time and back. Integer nanoseconds inside, so that eight hours stay exact."""

    origin_s: float
    """loop time (CLOCK_MONOTONIC seconds) of media sample 0"""

    def at(self, now_s: float) -> Samples:
        """The media sample that is due at loop time `now_s` (rounded down); `at(due(x)) == x`."""
        elapsed_ns = round((now_s - self.origin_s) * 1e9) + _ROUNDING_NS
        return Samples(elapsed_ns * MEDIA_RATE // 1_000_000_000)

    def due(self, at: Samples) -> float:
        """Loop time at which media sample `at` is due."""
        return self.origin_s + at / MEDIA_RATE


def rtp_timestamp(at: Samples, rate: int, offset: int) -> int:
    """RTP timestamp of media sample `at`, modulo 2**32.

    rate: the payload's clock in Hz (48000 for Opus, 90000 for video: 15/8 of a sample, rounded down). offset: the
    random timestamp of media sample 0 (RFC 3550, section 5.1).
    """
    return (offset + at * rate // MEDIA_RATE) % 2**32
