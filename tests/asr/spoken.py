"""Speech for the tests: sentences said by flite, people reading aloud, and how many words were got wrong."""

import re
import subprocess
import tempfile
import wave
from functools import cache
from pathlib import Path

import numpy as np

from server.core.media import MIC_FRAME_BYTES, MIC_RATE

SENTENCES = (
    "hello how are you today",
    "what time is it",
    "my name is arthur",
    "tell me a joke please",
    "what is the weather like in london",
    "could you repeat that please",
    "i would like to book a table for two people",
    "how old are you",
    "what day is it today",
    "thank you very much",
)
RECORDINGS = Path("/usr/share/pocketsphinx/test/data")  # Debian's pocketsphinx-testdata


@cache
def say(voice: str, text: str) -> bytes:
    """The sentence as flite says it, s16le mono 16 kHz, flite's own silence at both ends included."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True, timeout=30)
        return read(Path(file.name))


def read(path: Path) -> bytes:
    with wave.open(str(path)) as recording:
        assert (recording.getframerate(), recording.getnchannels(), recording.getsampwidth()) == (MIC_RATE, 1, 2)
        return recording.readframes(recording.getnframes())


def people() -> list[tuple[str, bytes]]:
    """(what is read, the recording): five sentences of a novel, five of numbers and cards."""
    found = []
    for transcription in ("librivox/transcription", "cards/cards.transcription"):
        for line in (RECORDINGS / transcription).read_text().splitlines():
            match = re.fullmatch(r"<s> (.*?) *</s> \((.*)\)", line.strip())
            assert match is not None
            found.append((match[1], read((RECORDINGS / transcription).parent / f"{match[2]}.wav")))
    return found


def noise(seconds: float, dbfs: float, seed: int = 0) -> bytes:
    """White noise of that RMS level."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * MIC_RATE)) * 32768 * 10 ** (dbfs / 20)
    return samples.clip(-32768, 32767).astype(np.int16).tobytes()


def pause(seconds: float) -> bytes:
    """A quiet room."""
    return noise(seconds, -80.0)


def frames(pcm: bytes) -> list[bytes]:
    """Whole frames of 20 ms; what is left over is dropped."""
    return [pcm[i : i + MIC_FRAME_BYTES] for i in range(0, len(pcm) - MIC_FRAME_BYTES + 1, MIC_FRAME_BYTES)]


def wrong_words(said: str, heard: str) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard.split()) + 1))
    for i, want in enumerate(said.split(), 1):
        previous, row[0] = row[0], i
        for j, got in enumerate(heard.split(), 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (want != got))
    return row[-1]


def error_rate(pairs: list[tuple[str, str]]) -> float:
    """Wrong words per said word over (said, heard)."""
    return sum(wrong_words(*pair) for pair in pairs) / sum(len(said.split()) for said, _ in pairs)
