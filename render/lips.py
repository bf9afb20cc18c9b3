"""From phonemes, or from the sound where there are none, to how much of each mouth shape is seen when.

Coarticulation follows the dominance functions of Cohen and Massaro (1993): every segment pulls the mouth towards
its viseme with a strength that falls off around its middle, and what is seen is the weighted mean. Lips that must
touch (p b m, f v) are held closed for at least one frame whatever the neighbours want.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.core.media import MEDIA_RATE, VISEMES, Phone

LEAD_S = 0.03  # the mouth moves before it is heard; 20 to 40 ms look natural
FRAME_S = 0.04
WINDOW_S = 0.45  # segments farther away than this have no pull

SIL, PP, FF = VISEMES.index("sil"), VISEMES.index("PP"), VISEMES.index("FF")

# How strongly a viseme wins over its neighbours, and how far its pull reaches (seconds).
STRENGTH = np.array(
    # sil  PP   FF   TH   DD  kk   CH   SS  nn   RR  aa   E   ih  EE   oh   ou
    [0.9, 2.6, 2.2, 1.1, 0.5, 0.4, 1.4, 1.0, 0.5, 0.9, 1.1, 0.8, 0.7, 1.0, 1.2, 1.5]
)
REACH_S = np.array(
    [0.08, 0.050, 0.055, 0.055, 0.055, 0.06, 0.07, 0.06, 0.055, 0.07, 0.065, 0.065, 0.065, 0.07, 0.075, 0.08]
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


def _gestures(rows: Sequence[tuple[float, float, int, float]]) -> Gestures:
    table = np.array(rows, np.float64).reshape(-1, 4)
    return Gestures(table[:, 0], table[:, 1], table[:, 2].astype(np.int64), table[:, 3])


def of_phones(phones: Sequence[Phone]) -> Gestures:
    """One segment for each phoneme; seconds from the piece's first sample."""
    index = {name: i for i, name in enumerate(VISEMES)}
    return _gestures(
        [(p.start / MEDIA_RATE, p.end / MEDIA_RATE, index.get(p.viseme, SIL), 1.0) for p in phones if p.end > p.start]
    )


def _level_db(pcm: NDArray[np.int16], hop: int) -> NDArray[np.float64]:
    """RMS of each `hop` samples in dB below full scale."""
    count = max(len(pcm) // hop, 1)
    padded = np.zeros(count * hop)
    padded[: min(len(pcm), count * hop)] = pcm[: count * hop]
    power = np.square(padded.reshape(count, hop) / 32768.0).mean(1)
    return np.asarray(10 * np.log10(power + 1e-10), np.float64)


def loudness(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """0 at 35 dB below the piece's loud parts or less, 1 at its loud parts; each 10 ms of 48 kHz."""
    level = _level_db(pcm, MEDIA_RATE // 100)
    top = max(float(np.percentile(level, 92)), -45.0)
    return np.clip((level - top + 35) / 35, 0, 1).astype(np.float32)


def of_sound(pcm: NDArray[np.int16]) -> Gestures:
    """Mouth shapes from the sound alone (mono 48 kHz): bands of the spectrum, judged each 20 ms.

    Level opens the mouth; energy above 4 kHz is a sibilant; short dips between voiced parts are closed lips when
    what is left is a low murmur; vowels go by where the first two formants' bands have their centres.
    """
    hop = MEDIA_RATE // 50
    count = len(pcm) // hop
    if count == 0:
        return _gestures([])
    padded = np.zeros((count + 1) * hop)
    padded[: count * hop] = pcm[: count * hop] / 32768.0
    windows = np.stack([padded[i * hop : (i + 2) * hop] for i in range(count)]) * np.hanning(2 * hop)
    spectrum = np.square(np.abs(np.fft.rfft(windows, axis=1)))  # (count, hop + 1), 25 Hz a bin
    hertz = np.fft.rfftfreq(2 * hop, 1 / MEDIA_RATE)

    def band(low: float, high: float) -> NDArray[np.float64]:
        return np.asarray(spectrum[:, (hertz >= low) & (hertz < high)].sum(1) + 1e-9, np.float64)

    def centre(low: float, high: float) -> NDArray[np.float64]:
        inside = (hertz >= low) & (hertz < high)
        energy = np.sqrt(spectrum[:, inside])
        return np.asarray((energy * hertz[inside]).sum(1) / (energy.sum(1) + 1e-9), np.float64)

    level = 10 * np.log10(band(80, 10000))
    top = max(float(np.percentile(level, 92)), -10.0)
    size = np.clip((level - top + 26) / 22, 0, 1)
    hiss = band(4000, 11000) / band(80, 11000)
    hush = band(2000, 4500) / band(80, 11000)
    murmur = band(80, 450) / band(80, 11000)
    first, second = centre(200, 1000), centre(1000, 3000)
    # Relative to the piece's own voice, so that women, men and machines are treated alike.
    voiced = (size > 0.35) & (hiss < 0.4)
    low = float(np.median(first[voiced])) if voiced.any() else 500.0
    high = float(np.median(second[voiced])) if voiced.any() else 1700.0
    around = np.maximum(np.roll(level, 2), np.roll(level, -2))
    rows: list[tuple[float, float, int, float]] = []
    for i in range(count):
        if size[i] < 0.05:
            name, amount = "sil", 1.0
        elif hiss[i] > 0.45:
            name, amount = "SS", 0.9
        elif hush[i] > 0.5:
            name, amount = "CH", 0.9
        elif around[i] - level[i] > 9 and murmur[i] > 0.75:
            name, amount = "PP", 1.0
        elif around[i] - level[i] > 9:
            name, amount = "DD", 0.8
        else:
            openness, front = first[i] / low, second[i] / high
            if openness > 1.12:
                name = "aa"
            elif front < 0.9:
                name = "oh" if openness > 0.97 else "ou"
            elif front > 1.1:
                name = "EE" if openness < 0.97 else "ih"
            else:
                name = "E"
            amount = 0.35 + 0.65 * float(size[i])
        index = VISEMES.index(name)
        if rows and rows[-1][2] == index and rows[-1][1] - rows[-1][0] < 0.15:
            rows[-1] = (rows[-1][0], (i + 1) * 0.02, index, max(rows[-1][3], amount))
        else:
            rows.append((i * 0.02, (i + 1) * 0.02, index, amount))
    return _gestures(rows)


def weights(gestures: Sequence[Gestures], seconds: float) -> NDArray[np.float64]:
    """How much of each viseme is seen at media time `seconds` (the middle of a frame): (16,), sums to 1."""
    t = seconds + LEAD_S
    near = [g for g in gestures if len(g.start) and g.start[0] - WINDOW_S < t < g.end[-1] + WINDOW_S]
    out = np.zeros(len(VISEMES))
    if not near:
        out[SIL] = 1.0
        return out
    start, end = np.concatenate([g.start for g in near]), np.concatenate([g.end for g in near])
    viseme, size = np.concatenate([g.viseme for g in near]), np.concatenate([g.size for g in near])
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
    out[out < 0.04] = 0.0
    out /= out.sum()
    # Lips that must touch do, for at least one frame.
    for closed in (PP, FF):
        mine = viseme == closed
        if mine.any():
            hold = np.maximum(0.5 * half[mine], FRAME_S / 2 + 0.001)
            gap = float((np.abs(t - middle[mine]) - hold).min())
            grip = 1.0 if gap <= 0 else float(np.exp(-((gap / 0.028) ** 2)))
            out *= 1 - grip
            out[closed] += grip
    return out
