"""Measures of lips: how far open they are, whether they close, and whether they follow the truth in time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

FPS = 25
CLOSED = 0.15  # of the median opening while speaking
AROUND_S = 0.06  # from a phone's centre
LATEST_S = 0.2  # a lag is looked for within so much either way


def gap(alpha: NDArray[np.floating[Any]], rows: slice, columns: slice) -> float:
    """How high the hole between the lips is, pixels: in each column the pixels with alpha under one half, the mean.

    alpha (H, W) is of the skin alone, without what lies in the mouth.
    """
    return float((alpha[rows, columns] < 0.5).sum(0).mean())


def centres(frames: int, fps: int = FPS) -> Doubles:
    """When each frame is, seconds: frame i owns [i / fps, (i + 1) / fps), and this is its middle."""
    return (np.arange(frames) + 0.5) / fps


def during(frames: int, spans: Sequence[tuple[float, float]], fps: int = FPS) -> Bools:
    """(frames,): the frames whose middle lies within one of the spans (start, end; seconds)."""
    at = centres(frames, fps)
    inside = np.zeros(frames, bool)
    for start, end in spans:
        inside |= (at >= start) & (at < end)
    return inside


def closures(
    opening: NDArray[np.floating[Any]],
    at_s: Sequence[float],
    usual: float,
    fps: int = FPS,
    share: float = CLOSED,
    around_s: float = AROUND_S,
) -> Bools:
    """Of each phone centred at `at_s`: are the lips closed in any frame whose middle is within `around_s` of it?

    opening (frames,), any unit, 0 for touching lips; closed is at most `share` of `usual`, the median opening while
    speaking. A phone with no frame near it (it lies beyond the clip) is not closed.
    """
    at = centres(len(opening), fps)
    near = np.abs(at[None] - np.asarray(at_s, np.float64).reshape(-1, 1)) <= around_s + 1e-9
    return np.asarray((near & (np.asarray(opening) <= share * usual)[None]).any(1))


@dataclass(frozen=True, slots=True)
class Following:
    """How one curve follows another."""

    r: float
    """Pearson's correlation, neither moved; 0 if one of them is constant"""
    lag_s: float
    """by how much the first must be moved ahead to correlate best: positive is late; parabola through the peak"""
    best_r: float
    """the correlation at the best whole frame"""


def following(
    pairs: Sequence[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]],
    fps: int = FPS,
    latest_s: float = LATEST_S,
) -> Following:
    """Curves (ours, truth) of several utterances, equally long within a pair, taken together.

    At a lag of k frames ours[i + k] meets truth[i], within each utterance. Raises ValueError if nothing is given.
    """
    most = round(latest_s * fps)
    if not pairs or max(len(ours) for ours, _ in pairs) < 2 * most + 3:
        raise ValueError(f"a lag needs at least one utterance of {2 * most + 3} frames")
    scores = []
    for k in range(-most, most + 1):
        first = np.concatenate([ours[max(k, 0) : len(ours) + min(k, 0)] for ours, _ in pairs])
        second = np.concatenate([truth[max(-k, 0) : len(truth) + min(-k, 0)] for _, truth in pairs])
        scores.append(correlation(first, second))
    best = int(np.argmax(scores))
    fine = 0.0
    if 0 < best < len(scores) - 1:
        before, peak, after = scores[best - 1], scores[best], scores[best + 1]
        bend = before - 2 * peak + after
        fine = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return Following(scores[most], (best - most + fine) / fps, scores[best])


def correlation(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Pearson's; 0 if one of them is constant."""
    x, y = np.asarray(a, np.float64) - np.mean(a), np.asarray(b, np.float64) - np.mean(b)
    size = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / size) if size > 1e-12 else 0.0
