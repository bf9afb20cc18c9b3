"""Recordings for tests: flite's voices with known words and times, and what can go wrong with one."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest

from tts.flite import RATE as FLITE_RATE
from tts.flite import Flite
from tts.pieces import Cutter
from tts.recording import RATE, Wave, resampled
from tts.wire import Piece, Say

SENTENCES = (
    "The pilot boat left the harbour early.",
    "Nobody was on deck, and the fog hid the lights.",
    "When the bell rang twice, the captain smiled.",
    "His sister poured the coffee and opened the old map.",
    "It was a good day for sailing, they thought.",
)
GAP_S = 0.45  # between the sentences


@dataclass
class Spoken:
    """A recording of which everything is known."""

    pcm: Wave
    text: str
    words: list[tuple[str, float, float]]
    """word, first and last second of it"""


@lru_cache(1)
def library() -> Flite:
    """In this process: a worker adds nothing to what it says."""
    try:
        return Flite()
    except OSError as error:
        pytest.skip(str(error))


def spoken(*sentences: str, name: str = "kal16") -> Spoken:
    """The sentences one after the other."""
    parts: list[Wave] = [np.zeros(round(0.3 * RATE), np.float32)]
    words: list[tuple[str, float, float]] = []
    at = 0.3
    for text in sentences:
        pcm = b""
        pieces: list[Piece] = []
        cutter = Cutter(FLITE_RATE, pieces.append)
        library().say(Say(text, name, 1.0), cutter, lambda: True)
        cutter.finish()
        for piece in pieces:
            begin = at + len(pcm) / 2 / FLITE_RATE
            words += [(text[a:b], begin + s / FLITE_RATE, begin + e / FLITE_RATE) for a, b, s, e in piece.words]
            pcm += piece.pcm
        sound = resampled(np.frombuffer(pcm, np.int16).astype(np.float32) / 32768, RATE, source=FLITE_RATE)
        parts += [sound, np.zeros(round(GAP_S * RATE), np.float32)]
        at += len(sound) / RATE + GAP_S
    return Spoken(np.concatenate(parts), " ".join(sentences), words)


def noisy(pcm: Wave, ratio_db: float) -> Wave:
    """With white noise so far below the loud half of it."""
    speech = np.sqrt(np.mean(pcm[np.abs(pcm) > 0.02] ** 2))
    noise = np.random.default_rng(3).standard_normal(len(pcm)) * speech * 10 ** (-ratio_db / 20)
    return (pcm + noise).astype(np.float32)


def clipped(pcm: Wave) -> Wave:
    """Cut off at a third of its peak, and turned down afterwards: the level tells nothing."""
    top = float(np.abs(pcm).max()) / 3
    return pcm.clip(-top, top) * np.float32(0.5 / top)


def tone(seconds: float) -> Wave:
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def music(seconds: float) -> Wave:
    """Chords that are struck twice a second and fade."""
    t = np.arange(RATE // 2) / RATE
    notes = [
        sum(
            np.sin(2 * np.pi * root * harmonic * third * t) / harmonic**1.5
            for harmonic in range(1, 9)
            for third in (1, 1.26, 1.5)
        )
        * np.exp(-3 * t)
        for root in (220, 262, 196, 247, 330)
    ]
    return (0.15 * np.concatenate([notes[i % 5] for i in range(round(2 * seconds))])).astype(np.float32)


def hiss(seconds: float) -> Wave:
    return (0.05 * np.random.default_rng(1).standard_normal(round(seconds * RATE))).astype(np.float32)
