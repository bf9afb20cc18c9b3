"""A spoken WAV for the browser's fake microphone, and where in it the person speaks."""

import subprocess
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RATE = 48_000
FLOOR_DB = 40.0  # speech lasts from the first to the last sample within so much of its peak


@dataclass(frozen=True, slots=True)
class Utterance:
    """Seconds from the beginning of the file."""

    text: str
    start_s: float
    end_s: float


def say(text: str, voice: str = "rms") -> np.ndarray:
    """flite's voice as float32 at 48 kHz, peak 0.5."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)
        with wave.open(str(path)) as file:
            rate = file.getframerate()
            pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32)
    positions = np.arange(len(pcm) * RATE // rate) * (rate / RATE)
    sound = np.interp(positions, np.arange(len(pcm)), pcm).astype(np.float32)
    said: np.ndarray = sound * (0.5 / max(float(np.abs(sound).max()), 1.0))
    return said


def compose(
    path: Path, texts: Sequence[str], gaps_s: Sequence[float], lead_s: float, voice: str = "rms"
) -> list[Utterance]:
    """Write `lead_s` of silence, then each text followed by its gap of silence; returns where each one lies."""
    parts = [np.zeros(int(lead_s * RATE), np.float32)]  # the microphone plays from the moment it is granted
    at = len(parts[0])
    cache: dict[str, np.ndarray] = {}
    utterances = []
    for text, gap_s in zip(texts, gaps_s, strict=True):
        sound = cache.setdefault(text, say(text, voice))
        first, last = extent(sound)
        sound = sound[first : last + 1]
        utterances.append(Utterance(text, at / RATE, (at + len(sound)) / RATE))
        gap = np.zeros(int(gap_s * RATE), np.float32)
        parts += [sound, gap]
        at += len(sound) + len(gap)
    samples = (np.concatenate(parts) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return utterances


def extent(sound: np.ndarray) -> tuple[int, int]:
    """First and last sample within FLOOR_DB of the peak."""
    loud = np.nonzero(np.abs(sound) > np.abs(sound).max() * 10 ** (-FLOOR_DB / 20))[0]
    return int(loud[0]), int(loud[-1])
