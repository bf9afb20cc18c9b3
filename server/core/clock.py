"""The media clock: one origin per call, handed to both tracks and to the renderer."""

from dataclasses import dataclass

from server.core.media import MEDIA_RATE, Samples


@dataclass(frozen=True, slots=True)
class MediaClock:
    """Maps loop time to media time and back. Integer nanoseconds inside, so that eight hours stay exact."""

    origin_s: float
    """loop time (CLOCK_MONOTONIC seconds) of media sample 0"""

    def at(self, now_s: float) -> Samples:
        """The media sample that is due at loop time `now_s` (rounded down)."""
        elapsed_ns = round((now_s - self.origin_s) * 1e9)
        return Samples(elapsed_ns * MEDIA_RATE // 1_000_000_000)

    def due(self, at: Samples) -> float:
        """Loop time at which media sample `at` is due."""
        return self.origin_s + at / MEDIA_RATE
