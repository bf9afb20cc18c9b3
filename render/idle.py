"""What a face does unasked: blinks, brows, a slight smile, breath, and a head that is never quite still."""

import math
import random
from dataclasses import dataclass

from server.core.media import VIDEO_FPS

BLINK_S = (0.08, 0.04, 0.18)  # closing, closed, opening
# The eyes rest on the person, now on one eye, now on the other or on the mouth; sometimes they look away.
REST_PX = (0.55, 0.3)  # standard deviation of where they rest, across and down
AWAY = 0.13  # how many of the looks go elsewhere
AWAY_PX = (1.6, 2.4)
# Who listens nods now and then, and when the other has finished.
NOD_S = 0.5  # one dip of the head
NOD_PX = 2.0
ATTENTION = (0.06, 0.025)  # per frame: how fast the face turns to who speaks, and away again
TILT = 0.9  # degrees to one side while listening


@dataclass(frozen=True, slots=True)
class Motion:
    """One frame's pose. Pixels of the 512 px picture; angles in degrees; the rest 0 to 1."""

    x: float
    y: float
    roll: float
    yaw: float
    """pixels that the nose moves to the right against the silhouette"""
    pitch: float
    """pixels that the nose moves down against the silhouette"""
    breath: float
    """pixels that the shoulders are raised"""
    brows: float
    smile: float
    lids: float
    """0 open, 1 closed"""
    gaze_x: float
    """pixels that the irises lie right of where they rest; an iris is about 17 wide"""
    gaze_y: float
    """... and below it"""


class Drift:
    """A sum of slow sines without a common period; about -1 to 1, smooth, never repeating in a call."""

    def __init__(self, rng: random.Random, hertz: tuple[float, ...]) -> None:
        self._waves = [
            (2 * math.pi * f * rng.uniform(0.9, 1.1), rng.uniform(0, 2 * math.pi), 1.0 / (i + 1.5))
            for i, f in enumerate(hertz)
        ]
        self._scale = 1.3 / sum(a for *_, a in self._waves)

    def __call__(self, t: float) -> float:
        return self._scale * sum(a * math.sin(w * t + p) for w, p, a in self._waves)


class Idle:
    """One call's idle motion: the same for the same seed, whichever frames are asked for on the way."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        slow = (0.061, 0.113, 0.197, 0.331)
        self._x, self._y, self._roll = (Drift(rng, slow) for _ in range(3))
        self._yaw, self._pitch = (Drift(rng, (0.073, 0.139, 0.263)) for _ in range(2))
        self._lively_x, self._lively_pitch, self._lively_roll = (Drift(rng, (0.43, 0.71, 1.03)) for _ in range(3))
        self._breath = Drift(rng, (0.26,))
        self._smile = Drift(rng, (0.031, 0.059))
        # One each: what is drawn must not depend on which frames are asked for.
        self._blinking, self._raising, self._gazing, self._nodding = (random.Random(rng.random()) for _ in range(4))
        self._blinks: list[tuple[float, float]] = []  # (start, how long compared with BLINK_S)
        self._next_blink = rng.uniform(1.0, 3.0)
        self._raises: list[tuple[float, float, float]] = []  # (start, seconds, height)
        self._next_raise = rng.uniform(3.0, 7.0)
        self._looks: list[tuple[float, float, float]] = [(-1.0, 0.0, 0.0)]  # (start, x, y)
        self._next_look = rng.uniform(0.4, 1.5)
        self._hearing = False
        self._hearing_since = -1.0
        self._attention = 0.0
        self._tilt = 0.0
        self._nods: list[tuple[float, int, float]] = []  # (start, dips, height)
        self._next_nod = math.inf
        self._last = -1
        self._activity = 0.0
        self._accent = 0.0

    def attend(self, hearing: bool) -> None:
        """Whether somebody is speaking to this face from now on."""
        self._hearing = hearing

    def at(self, index: int, loud: float) -> Motion:
        """The pose of video frame `index` (never before the last asked for); `loud`: the voice then, 0 to 1."""
        t = index / VIDEO_FPS
        steps = 1 if self._last < 0 else min(max(index - self._last, 0), 50)
        self._last = index
        for _ in range(steps):
            rate = 0.08 if loud > self._activity else 0.025
            self._activity += rate * (loud - self._activity)
            self._accent += 0.22 * (loud - self._accent)
            self._attention += ATTENTION[not self._hearing] * (self._hearing - self._attention)
        a = self._activity
        nod = (self._accent - a) * 1.6 + NOD_PX * self._nod(t)
        gaze_x, gaze_y = self._looking(t)
        return Motion(
            x=(1.7 + 0.7 * a) * self._x(t) + 1.1 * a * self._lively_x(t),
            y=(0.9 + 0.4 * a) * self._y(t),
            roll=(0.42 + 0.2 * a) * self._roll(t) + 0.3 * a * self._lively_roll(t) + self._tilt * self._attention,
            yaw=(1.9 + 0.8 * a) * self._yaw(t) + 0.9 * a * self._lively_x(t),
            pitch=(1.2 + 0.5 * a) * self._pitch(t) + 0.8 * a * self._lively_pitch(t) + nod,
            breath=0.8 * self._breath(t),
            brows=min(self._raised(t) + max(0.5 * (self._accent - 0.55), 0.0) * a + 0.15 * self._attention, 1.0),
            smile=max(0.0, 0.16 + 0.14 * self._smile(t)) * (1 - 0.4 * min(a, 1.0)),
            lids=self._closed(t),
            gaze_x=gaze_x,
            gaze_y=gaze_y,
        )

    def _closed(self, t: float) -> float:
        while self._next_blink <= t + 1.0:
            self._blinks.append((self._next_blink, self._blinking.uniform(0.75, 1.12)))
            twice = self._blinking.random() < 0.14
            self._next_blink += self._blinking.uniform(0.3, 0.42) if twice else self._blinking.uniform(2.0, 6.0)
        self._blinks = [b for b in self._blinks if b[0] + 0.5 > t]
        return max((_blink((t - start) / pace) for start, pace in self._blinks), default=0.0)

    def _looking(self, t: float) -> tuple[float, float]:
        """Where the eyes rest. A saccade of these sizes takes less than a frame: they leap."""
        while self._next_look <= t + 1.0:
            rng = self._gazing
            if rng.random() < AWAY * (1 - 0.7 * self._attention):
                x, y = rng.choice((-1, 1)) * rng.uniform(*AWAY_PX), rng.uniform(-0.5, 0.7)
                seconds = rng.uniform(0.4, 0.9)
            else:
                x, y = (min(max(rng.gauss(0, px), -2 * px), 2 * px) for px in REST_PX)
                seconds = rng.uniform(0.6, 2.6)
            self._looks.append((self._next_look, x, y))
            self._next_look += seconds
        while len(self._looks) > 1 and self._looks[1][0] <= t:
            del self._looks[0]
        return self._looks[0][1:]

    def _nod(self, t: float) -> float:
        """How far down the head is because it listens, about 0 to 1."""
        if self._hearing and self._hearing_since < 0:
            self._hearing_since = t
            self._next_nod = t + self._nodding.uniform(1.4, 2.8)
            if self._attention < 0.05:
                self._tilt = self._nodding.uniform(-TILT, TILT)
        elif not self._hearing and self._hearing_since >= 0:
            if t - self._hearing_since > 1.0 and self._nodding.random() < 0.6:
                self._nods.append((t + 0.12, 1, self._nodding.uniform(0.7, 1.0)))
            self._hearing_since, self._next_nod = -1.0, math.inf
        if t >= self._next_nod:
            self._nods.append((t, self._nodding.choice((1, 1, 2)), self._nodding.uniform(0.5, 1.0)))
            self._next_nod = t + self._nodding.uniform(2.2, 5.0)
        self._nods = [n for n in self._nods if n[0] + n[1] * NOD_S > t]
        return sum(_dips((t - start) / NOD_S, dips) * height for start, dips, height in self._nods)

    def _raised(self, t: float) -> float:
        while self._next_raise <= t + 1.0:
            seconds = self._raising.uniform(0.9, 1.7)
            self._raises.append((self._next_raise, seconds, self._raising.uniform(0.25, 0.75)))
            self._next_raise += seconds + self._raising.uniform(3.5, 9.0)
        self._raises = [r for r in self._raises if r[0] + r[1] > t]
        return max(
            (h * math.sin(math.pi * (t - s) / d) ** 2 for s, d, h in self._raises if s < t < s + d), default=0.0
        )


def _blink(t: float) -> float:
    """How far the lids are closed `t` seconds after a blink began: fast down, slower up."""
    closing, closed, opening = BLINK_S
    if t <= 0 or t >= closing + closed + opening:
        return 0.0
    if t < closing:
        return t / closing
    if t < closing + closed:
        return 1.0
    rest = (t - closing - closed) / opening
    return float((1 - rest) ** 1.5)


def _dips(x: float, dips: int) -> float:
    """One nod after the other, each 1 long and smaller than the last."""
    if not 0 < x < dips:
        return 0.0
    return float(0.6 ** int(x) * math.sin(math.pi * (x % 1)) ** 2)
