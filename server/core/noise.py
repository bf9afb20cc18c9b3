"""Noise: a quick voice detector's word, held against a slower and better one's on what was heard just before."""

from collections import deque

from server.core.media import MIC_FRAME_SAMPLES, MIC_RATE

LEVELS_S = 0.6
"""how far back the levels are known; more than a late judgement and its windows take"""


class NoiseCheck:
    """Pure; one per call. Positions are counted in samples from the call's first frame.

    The quick detector (webrtcvad) is believed at once: nothing waits for the slow one (Silero), whose judgement of
    a window comes after it. But sound that the slow one has just called noise several times in a row goes on being
    noise, as long as it does not become louder. So a voice out of silence is never delayed, and one over noise only
    if it is hardly louder than that, by a window.
    """

    def __init__(
        self, *, noise_below: float = 0.1, windows: int = 3, fresh_s: float = 0.2, louder_db: float = 6.0
    ) -> None:
        """noise_below: probability of speech under which a window is noise; so many `windows` in a row make it so.

        fresh_s: judgements older than this say nothing. louder_db: what exceeds the loudest of the noise by so much
        is taken for something else.
        """
        self._noise_below = noise_below
        self._fresh = round(fresh_s * MIC_RATE)
        self._louder = louder_db
        self._noise: deque[tuple[int, int]] = deque(maxlen=windows)  # (start, end) of windows in a row
        self._levels: deque[tuple[int, float]] = deque(maxlen=round(LEVELS_S * MIC_RATE / MIC_FRAME_SAMPLES))
        self._at = 0

    def judged(self, start: int, end: int, probability: float) -> None:
        """The slow detector's judgement of the samples [start, end)."""
        if probability >= self._noise_below or (self._noise and self._noise[-1][1] != start):
            self._noise.clear()
        if probability < self._noise_below:
            self._noise.append((start, end))

    def confirm(self, speech: bool, level_dbfs: float) -> bool:
        """Whether the next frame of 20 ms, which the quick detector calls speech or not, is speech."""
        self._at += MIC_FRAME_SAMPLES
        self._levels.append((self._at, level_dbfs))
        return speech and not self._is_noise(level_dbfs)

    def _is_noise(self, level_dbfs: float) -> bool:
        if len(self._noise) != self._noise.maxlen or self._at - self._noise[-1][1] > self._fresh:
            return False
        first, last = self._noise[0][0], self._noise[-1][1]
        known = [level for end, level in self._levels if first < end <= last]
        return bool(known) and level_dbfs <= max(known) + self._louder
