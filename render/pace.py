"""Which size of picture a machine can keep up with: measured while it paints, one call at a time."""

import math
from collections import deque
from collections.abc import Sequence

from server.core.media import VIDEO_FPS

SHARE = 0.85  # of the time between two frames, shared by all calls, may be spent painting and encoding
FRAMES = 25  # the last second, of which the tenth slowest frame counts
SLOWEST = 0.9
ROOM = 0.75  # of the budget that the next larger size may be expected to take, or it is not tried
CALM_S = 5.0  # so long everything must have gone well before a larger size is tried
RELAPSE_S = 10.0  # a larger size that had to be given up within this time is not tried again for twice as long
LONGEST_CALM_S = 120.0


class Pace:
    """One call's size. Time is the caller's: seconds of any clock that rises."""

    def __init__(self, sides: Sequence[int]) -> None:
        """sides: widths of the picture, the largest first; at least one."""
        self._sides = sides
        self._at = 0
        self._costs: deque[float] = deque(maxlen=FRAMES)
        self._calm_s = CALM_S
        self._raised = -math.inf
        self._well_since = math.inf

    @property
    def side(self) -> int:
        return self._sides[self._at]

    @property
    def reduced(self) -> bool:
        return self._at > 0

    def took(self, seconds: float, calls: int, now: float) -> bool:
        """A frame was painted and encoded in `seconds` while there were `calls`. Whether `side` is another now."""
        self._costs.append(seconds)
        if len(self._costs) < FRAMES:
            return False
        slow = sorted(self._costs)[math.ceil(SLOWEST * FRAMES) - 1]
        budget = SHARE / VIDEO_FPS / max(calls, 1)
        if slow > budget:
            self._well_since = math.inf
            if self._at + 1 == len(self._sides):
                return False
            if now - self._raised < RELAPSE_S:
                self._calm_s = min(2 * self._calm_s, LONGEST_CALM_S)
            return self._take(self._at + 1)
        if not self.reduced:
            if now - self._raised > RELAPSE_S:
                self._calm_s = CALM_S
            return False
        larger = (self._sides[self._at - 1] / self.side) ** 2
        if slow * larger > ROOM * budget:
            self._well_since = math.inf
            return False
        self._well_since = min(self._well_since, now)
        if now - self._well_since < self._calm_s:
            return False
        self._raised = now
        return self._take(self._at - 1)

    def _take(self, at: int) -> bool:
        self._at = at
        self._costs.clear()
        self._well_since = math.inf
        return True
