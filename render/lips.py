"""From phonemes, or from the sound where there are none, to how much of each mouth shape is seen when.

Coarticulation follows the dominance functions of Cohen and Massaro (1993): every segment pulls the mouth towards
its viseme with a strength that falls off around its middle, and what is seen is the weighted mean. Lips that must
touch (p b m, f v) are held closed for at least one frame whatever the neighbours want.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.core.media import MEDIA_RATE, VISEMES, Phone

LEAD_S = 0.03  # the mouth moves before it is heard; 20 to 40 ms look natural
FRAME_S = 0.04
LEAST = 0.05  # of a viseme that is seen
WINDOW_S = 0.45  # segments farther away than this have no pull

SIL, PP, FF = VISEMES.index("sil"), VISEMES.index("PP"), VISEMES.index("FF")

# How strongly a viseme wins over its neighbours, and how far its pull reaches (seconds).
STRENGTH = np.array(
    # sil  PP   FF   TH   DD  kk   CH   SS  nn   RR  aa   E   ih  EE   oh   ou
    [0.9, 1.8, 1.7, 1.1, 0.5, 0.4, 1.4, 1.0, 0.5, 0.9, 1.1, 0.8, 0.7, 1.0, 1.2, 1.5]
)
REACH_S = np.array(
    [0.08, 0.040, 0.045, 0.055, 0.055, 0.06, 0.07, 0.06, 0.055, 0.07, 0.065, 0.065, 0.065, 0.07, 0.075, 0.08]
)


@dataclass(frozen=True)
class Gestures:
    """What the mouth aims at: parallel arrays, one entry a segment."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    """seconds"""
    viseme: NDArray[np.int64]
    """index into VISEMES"""
    size: NDArray[np.float64]
    """how fully it is articulated, 0 to 1"""

    def moved(self, seconds: float) -> "Gestures":
        return Gestures(self.start + seconds, self.end + seconds, self.viseme, self.size)

    def between(self, first: float, last: float) -> tuple[NDArray[Any], ...]:
        """The four rows of what lies within `first` to `last`, or touches it."""
        some = slice(np.searchsorted(self.end, first), np.searchsorted(self.start, last))
        return self.start[some], self.end[some], self.viseme[some], self.size[some]

    def before(self, seconds: float) -> "Gestures":
        """What begins before `seconds`, ended there."""
        kept = self.start < seconds
        return Gestures(self.start[kept], np.minimum(self.end[kept], seconds), self.viseme[kept], self.size[kept])


NO_GESTURES = Gestures(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0))


def _gestures(rows: Sequence[tuple[float, float, int, float]]) -> Gestures:
    table = np.array(rows, np.float64).reshape(-1, 4)
    return Gestures(table[:, 0], table[:, 1], table[:, 2].astype(np.int64), table[:, 3])


def of_phones(phones: Sequence[Phone]) -> Gestures:
    """One segment for each phoneme; seconds from the piece's first sample."""
    index = {name: i for i, name in enumerate(VISEMES)}
    return _gestures(
        [(p.start / MEDIA_RATE, p.end / MEDIA_RATE, index.get(p.viseme, SIL), 1.0) for p in phones if p.end > p.start]
    )


def _level_db(pcm: NDArray[np.float64], hop: int) -> NDArray[np.float64]:
    """RMS of each `hop` samples, dB of full scale."""
    power = np.square(_hops(pcm, hop)).mean(1)
    return np.asarray(10 * np.log10(power + 1e-10), np.float64)


def _hops(pcm: NDArray[np.float64], hop: int) -> NDArray[np.float64]:
    """(n, hop), the last one filled up with silence."""
    count = -(-len(pcm) // hop)
    return np.pad(pcm, (0, count * hop - len(pcm))).reshape(count, hop)


HOP = MEDIA_RATE // 50  # 20 ms
LOUD_HOP = MEDIA_RATE // 100
LOOK = 4  # hops to either side that a closure is judged against
CONTEXT = 2 * LOOK * HOP  # kept of the piece before: a voice often comes in pieces of a few hundred milliseconds
FORGET_DB_S = 2.0  # how fast a loud passage is forgotten
FLOOR_DB = -45.0  # of full scale: what is softer than this is never loud


class Ear:
    """Listens to one call's voice, piece by piece (mono 48 kHz), and knows how loud and how bright it usually is."""

    def __init__(self) -> None:
        self._tail = np.zeros(0)
        self._top_db = FLOOR_DB
        self._bright_db = FLOOR_DB
        self._formants = np.array([500.0, 1700.0])  # Hz; where this voice's first two have their centres
        self._voiced = 10.0  # hops that this is an average of

    def hear(self, pcm: NDArray[np.int16], joined: bool) -> NDArray[np.float32]:
        """The loudness of the next piece: 0 to 1, one value each 10 ms.

        joined: whether it follows the piece before without a gap.
        """
        sound = pcm / 32768.0
        level = _level_db(sound, LOUD_HOP)
        if len(level):
            loudest = float(np.percentile(level, 90))
            self._top_db = max(self._top_db - FORGET_DB_S * len(pcm) / MEDIA_RATE, loudest, FLOOR_DB)
        self._tail = np.concatenate([self._tail if joined else np.zeros(0), sound])[-CONTEXT - len(sound) :]
        return np.clip((level - self._top_db + 35) / 35, 0, 1).astype(np.float32)

    def shapes(self, samples: int) -> Gestures:
        """Mouth shapes of the last `samples` that were heard; seconds from the first of them.

        They begin up to LOOK hops earlier, for what could not be judged before its sequel was there. What comes
        through above 450 Hz opens the mouth; energy above 4 kHz is a sibilant; a hum with nothing above it, ahead
        of a vowel, is closed lips (m and n sound too much alike to be told apart here); vowels go by where the
        centres of the first two formants' bands lie compared with this voice's usual ones, so that women, men and
        machines are treated alike.
        """
        before = (len(self._tail) - samples) // HOP
        sound = self._tail[len(self._tail) - samples - before * HOP :]
        hops = _hops(sound, HOP)
        if len(hops) == 0:
            return _gestures([])
        following = np.vstack([hops[1:], np.zeros((1, HOP))])
        windows = np.hstack([hops, following]) * np.hanning(2 * HOP)
        spectrum = np.square(np.abs(np.fft.rfft(windows, axis=1)))  # (hops, HOP + 1), 25 Hz a bin
        hertz = np.fft.rfftfreq(2 * HOP, 1 / MEDIA_RATE)

        def share(low: float, high: float) -> NDArray[np.float64]:
            inside = (hertz >= low) & (hertz < high)
            return np.asarray(spectrum[:, inside].sum(1) / (spectrum[:, hertz < 11000].sum(1) + 1e-9), np.float64)

        def centre(low: float, high: float) -> NDArray[np.float64]:
            inside = (hertz >= low) & (hertz < high)
            energy = np.sqrt(spectrum[:, inside])
            return np.asarray((energy * hertz[inside]).sum(1) / (energy.sum(1) + 1e-9), np.float64)

        level = _level_db(sound, HOP) - self._top_db
        # What the mouth lets out of the throat: low while the lips or the tongue close it, however loud the hum.
        bright = spectrum[:, (hertz >= 450) & (hertz < 4000)].sum(1)
        through = 10 * np.log10(bright / (HOP / 2) ** 2 + 1e-9)
        if len(through) > before:
            fading = self._bright_db - FORGET_DB_S * samples / MEDIA_RATE
            self._bright_db = max(fading, float(np.percentile(through[before:], 95)), FLOOR_DB)
        through -= self._bright_db
        size = np.clip((through + 22) / 20, 0, 1)
        hiss, hush, murmur = share(4000, 11000), share(2000, 4500), share(80, 450)
        formants = np.stack([centre(200, 1000), centre(1000, 3000)], 1)
        voiced = (size > 0.4) & (hiss < 0.4)
        if count := int(voiced[before:].sum()):
            total = self._formants * self._voiced + formants[before:][voiced[before:]].sum(0)
            self._formants = total / (self._voiced + count)
            self._voiced = min(self._voiced + count, 250.0)
        padded = np.pad(through, LOOK, mode="edge")
        earlier = np.max([padded[k : k + len(through)] for k in range(LOOK)], 0)
        later = np.max([padded[k : k + len(through)] for k in range(LOOK + 1, 2 * LOOK + 1)], 0)
        pause = np.minimum(earlier, later) < -25
        rows: list[tuple[float, float, int, float]] = []
        for i in range(max(before - LOOK, 0), len(hops)):
            openness, front = formants[i] / self._formants
            if hiss[i] > 0.45 and level[i] > -35:
                name, amount = "SS", 0.9
            elif level[i] < -24:
                name, amount = ("sil", 1.0) if pause[i] else ("DD", 0.8)
            elif through[i] < -14 and later[i] - through[i] > 10 and murmur[i] > 0.9:
                name, amount = "PP", 1.0
            elif hush[i] > 0.5:
                name, amount = "CH", 0.9
            else:
                if openness > 1.12:
                    name = "aa"
                elif front < 0.92:
                    name = "oh" if openness > 0.95 else "ou"
                elif front > 1.08:
                    name = "EE" if openness < 0.95 else "ih"
                else:
                    name = "E"
                amount = 0.35 + 0.65 * float(size[i])
            viseme, start, end = VISEMES.index(name), (i - before) * HOP, min((i - before + 1) * HOP, samples)
            if rows and rows[-1][2] == viseme and end / MEDIA_RATE - rows[-1][0] < 0.16:
                rows[-1] = (rows[-1][0], end / MEDIA_RATE, viseme, max(rows[-1][3], amount))
            else:
                rows.append((start / MEDIA_RATE, end / MEDIA_RATE, viseme, amount))
        return _gestures(rows)


def weights(gestures: Sequence[Gestures], seconds: float) -> NDArray[np.float64]:
    """How much of each viseme is seen at media time `seconds` (the middle of a frame): (16,), sums to 1."""
    t = seconds + LEAD_S
    near = [g.between(t - WINDOW_S, t + WINDOW_S) for g in gestures]
    start, end, viseme, size = (np.concatenate([row[i] for row in near] or [np.zeros(0)]) for i in range(4))
    out = np.zeros(len(VISEMES))
    if not len(start):
        out[SIL] = 1.0
        return out
    viseme = viseme.astype(np.int64)
    middle, half = (start + end) / 2, (end - start) / 2
    # Full strength inside; the outer 45 % (40 ms at most) of a segment already yields to its neighbour.
    away = np.maximum(np.abs(t - middle) - (half - np.minimum(0.45 * half, 0.04)), 0.0)
    pull = STRENGTH[viseme] * np.exp(-((away / REACH_S[viseme]) ** 1.3))
    # A short pause does not close the mouth all the way.
    pull = np.where(viseme == SIL, pull * np.minimum(1.0, 2 * half / 0.18), pull)
    np.add.at(out, viseme, pull * size)
    out[SIL] += float((pull * (1 - size)).sum())
    # Outside of all speech the mouth rests.
    spoken = viseme != SIL
    outside = float(np.maximum(np.maximum(start - t, t - end), 0)[spoken].min()) if spoken.any() else 1.0
    out[SIL] += 0.01 + 1.1 * (1 - np.exp(-((outside / 0.07) ** 1.5)))
    out **= 1.35  # an average of everything is a mumble: the strongest shows
    out /= out.sum()
    # Lips that must touch do, for at least one frame.
    for closed in (PP, FF):
        mine = viseme == closed
        if mine.any():
            hold = np.maximum(0.5 * half[mine], FRAME_S / 2 + 0.001)
            gap = float((np.abs(t - middle[mine]) - hold).min())
            grip = 1.0 if gap <= 0 else float(np.exp(-((gap / 0.024) ** 2)))
            out *= 1 - grip
            out[closed] += grip
    # What has next to no part costs as much to paint as what has, and nobody sees it.
    out = np.maximum(out - LEAST, 0)
    return np.asarray(out / out.sum(), np.float64)
