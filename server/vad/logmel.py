"""Whisper's log-mel spectrogram of eight seconds, in numpy: what smart-turn looks at."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

RATE = 16_000  # Hz
SECONDS = 8
SAMPLES = SECONDS * RATE
WINDOW = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms
FRAMES = SAMPLES // HOP
BANDS = 80

Floats = NDArray[np.float32]


def mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale (Auditory Toolbox, 1998): 200/3 Hz a mel up to 1 kHz, then 27 mels to each factor of 6.4."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


@cache
def mel_filters() -> Floats:
    """(BANDS, WINDOW // 2 + 1): triangles of equal area over 0 to 8 kHz, evenly spaced on Slaney's scale."""
    highest = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    edges = mel_to_hz(np.linspace(0, highest, BANDS + 2))
    low, middle, high = (edges[i : i + BANDS, None] for i in range(3))
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)).astype(np.float32)


@cache
def _hann() -> Floats:
    """Periodic."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def last_seconds(pcm: NDArray[np.int16]) -> Floats:
    """(SAMPLES,): the end of the sound, with zeros before it if it is shorter; mean 0 and variance 1, as trained."""
    sound = np.zeros(SAMPLES, np.float32)
    kept = pcm[-SAMPLES:]
    if kept.size:
        sound[-kept.size :] = kept.astype(np.float32) / 32768
    return np.asarray((sound - sound.mean()) / np.sqrt(sound.var() + 1e-7), np.float32)


def log_mel(sound: Floats) -> Floats:
    """(BANDS, FRAMES) of (SAMPLES,): as in Radford et al. 2022, appendix, and openai/whisper's audio.py.

    Power spectra of centred frames (ends mirrored, the last frame left out), mel bands, log10, at most 8 below the
    loudest, then (x + 4) / 4.
    """
    padded = np.pad(sound, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:FRAMES]
    power = np.abs(np.fft.rfft(frames * _hann(), axis=1)) ** 2
    bands = np.log10(np.maximum(mel_filters() @ power.T.astype(np.float32), 1e-10))
    return np.asarray((np.maximum(bands, bands.max() - 8) + 4) / 4, np.float32)
