"""Speech whose every phone is known in time: flite, espeak-ng, and people reading aloud, aligned by pocketsphinx.

The sentences are the judge's own: nothing here trains on them. Each begins and ends with silence.
"""

import contextlib
import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tts.wire import Say

RATE = 16_000  # Hz, of all that leaves this module
LEAD_S, TAIL_S = 0.4, 0.4
RECORDINGS = Path("/usr/share/pocketsphinx/test/data")  # Debian's pocketsphinx-testdata

SENTENCES = (
    "Maybe Bob will bump into Pam's brown puppy by the pump.",
    "My mother put pepper and mint into a big bowl of plum jam.",
    "A small bumblebee popped up from a pot of marble palms.",
    "Please compare both maps before my boss comes back from Lima.",
    "Number five, the purple lamp, belongs above my bed.",
    "Tomorrow my uncle plays drums and piano at a public museum.",
)
FLITE = ("slt", "awb", "kal16")
ESPEAK = (("en-us+f4", 150.0, 55), ("en-us+m7", 165.0, 45))
"""voice, words a minute, pitch of 0 to 100"""
HEARD = frozenset({"slt", "awb"})
"""voices here that training hears too (recipes/universal/speech.py keeps the others out)"""

# CMU's phones in the symbols of espeak-ng, which the generator's visemes are keyed by.
IPA = {
    "aa": "ɑː", "ae": "æ", "ah": "ʌ", "ao": "ɔː", "aw": "aʊ", "ax": "ə", "ay": "aɪ", "b": "b", "ch": "tʃ", "d": "d",
    "dh": "ð", "dx": "ɾ", "eh": "ɛ", "er": "ɜː", "ey": "eɪ", "f": "f", "g": "ɡ", "hh": "h", "ih": "ɪ", "iy": "iː",
    "jh": "dʒ", "k": "k", "l": "l", "m": "m", "n": "n", "ng": "ŋ", "ow": "oʊ", "oy": "ɔɪ", "p": "p", "r": "ɹ",
    "s": "s", "sh": "ʃ", "t": "t", "th": "θ", "uh": "ʊ", "uw": "uː", "v": "v", "w": "w", "y": "j", "z": "z",
    "zh": "ʒ",
}  # fmt: skip
LIPS = frozenset("pbm")


@dataclass(frozen=True)
class Spoken:
    """One utterance."""

    family: str
    """flite, espeak or human"""
    voice: str
    text: str
    pcm: np.ndarray
    """(n,) float32, full scale 1, 16 kHz mono"""
    phones: tuple[tuple[str, float, float], ...]
    """espeak-ng's symbol, start and end in seconds; silence is the empty symbol"""

    @property
    def frames(self) -> int:
        """Video frames that it lasts, 25 a second; the last may be cut short."""
        return -(-len(self.pcm) * 25 // RATE)

    def lips(self) -> list[float]:
        """The centres of p, b and m, seconds."""
        return [(start + end) / 2 for symbol, start, end in self.phones if symbol in LIPS]

    def heard(self) -> list[tuple[float, float]]:
        """Where anything is said."""
        return [(start, end) for symbol, start, end in self.phones if symbol]


class _Recorder:
    """What a voice's library says of one clause."""

    def __init__(self) -> None:
        self.pcm = bytearray()
        self.starts: list[tuple[str, int]] = []

    def phone(self, symbol: str, start: int) -> None:
        self.starts.append((symbol, start))

    def word(self, *_: int) -> None:
        pass

    def feed(self, pcm: bytes, settled: int | None = None) -> None:
        self.pcm += pcm


def _utterance(family: str, voice: str, text: str, pcm: np.ndarray, phones: list[tuple[str, float, float]]) -> Spoken:
    """Silence before and after; phones of the empty symbol where nothing else is."""
    sound = np.concatenate([np.zeros(round(LEAD_S * RATE)), pcm, np.zeros(round(TAIL_S * RATE))]).astype(np.float32)
    kept: list[tuple[str, float, float]] = [("", 0.0, LEAD_S)]
    for symbol, start, end in phones:
        if end > start:
            kept.append((symbol, start + LEAD_S, end + LEAD_S))
    kept.append(("", kept[-1][2], len(sound) / RATE))
    return Spoken(family, voice, text, sound, tuple(kept))


def _timed(starts: list[tuple[str, int]], made: int, rate: int) -> list[tuple[str, float, float]]:
    """Each phone lasts until the next."""
    ends = [start for _, start in starts[1:]] + [made]
    return [(symbol, start / rate, end / rate) for (symbol, start), end in zip(starts, ends, strict=True)]


def resampled(pcm: np.ndarray, rate: int) -> np.ndarray:
    """(n,) int16 or floats of full scale 1 at `rate` -> float32 at 16 kHz."""
    import av

    sound = pcm.astype(np.float32) / 32768 if pcm.dtype == np.int16 else pcm.astype(np.float32)
    if rate == RATE:
        return sound
    frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
    parts = [part.to_ndarray()[0] for out in (resampler.resample(frame), resampler.resample(None)) for part in out]
    return np.concatenate(parts).astype(np.float32)


def flite(sentences: tuple[str, ...] = SENTENCES, voices: tuple[str, ...] = FLITE) -> Iterator[Spoken]:
    """Raises OSError where flite is not installed."""
    from tts.flite import Flite

    library = Flite()
    for voice in voices:
        for text in sentences:
            recorder = _Recorder()
            library.say(Say(text, voice, 1.0), recorder, lambda: True)
            pcm = np.frombuffer(bytes(recorder.pcm), np.int16)
            phones = [(IPA.get(s, ""), a, b) for s, a, b in _timed(recorder.starts, len(pcm), library.about.rate)]
            yield _utterance("flite", voice, text, resampled(pcm, library.about.rate), phones)


def espeak(
    sentences: tuple[str, ...] = SENTENCES, voices: tuple[tuple[str, float, int], ...] = ESPEAK
) -> list[Spoken]:
    """Raises OSError where espeak-ng does not work. The library wants its own working directory while it speaks."""
    from tts.espeak import Espeak

    made = []
    with contextlib.chdir(os.getcwd()):
        library = Espeak()
        for voice, pace, pitch in voices:
            for text in sentences:
                recorder = _Recorder()
                library.say(Say(text, voice, pace, pitch), recorder, lambda: True)
                pcm = np.frombuffer(bytes(recorder.pcm), np.int16)
                phones = [
                    ("" if symbol.startswith("(") else symbol.strip("ˈˌ"), start, end)
                    for symbol, start, end in _timed(recorder.starts, len(pcm), library.about.rate)
                ]
                made.append(_utterance("espeak", voice, text, resampled(pcm, library.about.rate), phones))
    return made


def people(most: int | None = None) -> Iterator[Spoken]:
    """People reading aloud. Raises OSError where Debian's pocketsphinx-testdata or pocketsphinx is missing."""
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise OSError("pocketsphinx is not installed: pip install pocketsphinx") from error
    if not RECORDINGS.is_dir():
        raise OSError("recordings of people are missing: apt install pocketsphinx-testdata")
    decoder = Decoder(lm=None, loglevel="FATAL")
    listed = []
    for transcription in ("librivox/transcription", "cards/cards.transcription"):
        for line in (RECORDINGS / transcription).read_text().splitlines():
            text, name = line.removeprefix("<s> ").rsplit(" </s> (", 1)
            listed.append((text.strip(), (RECORDINGS / transcription).parent / f"{name.strip().rstrip(')')}.wav"))
    for text, path in listed[:most]:
        with wave.open(str(path)) as file:
            pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            rate = file.getframerate()
        assert rate == RATE, f"{path} has {rate} samples a second"
        yield _utterance("human", path.stem[-4:], text, resampled(pcm, rate), aligned(decoder, text, pcm))


def aligned(decoder: Any, text: str, pcm: np.ndarray) -> list[tuple[str, float, float]]:
    """Which phone is when: the words first, then their phones within them (forced alignment, 10 ms steps).

    Raises ValueError where the text cannot be what is said.
    """

    def heard() -> None:
        decoder.start_utt()
        decoder.process_raw(pcm.tobytes(), full_utt=True)
        decoder.end_utt()

    decoder.set_align_text(text.lower())
    heard()
    if not decoder.hyp():
        raise ValueError(f"the recording does not fit its text: {text!r}")
    decoder.set_alignment()
    heard()
    step = 1 / decoder.config["frate"]
    phones: list[tuple[str, float, float]] = []
    for word in decoder.get_alignment():
        for phone in word:
            start = phone.start * step
            phones.append((IPA.get(phone.name.lower(), ""), start, start + phone.duration * step))
    return phones


def everyone(quick: bool = False) -> tuple[list[Spoken], list[str]]:
    """All utterances, and a sentence for each kind of voice that this machine lacks."""
    sentences = SENTENCES[:2] if quick else SENTENCES
    found: list[Spoken] = []
    missing: list[str] = []
    for make in (lambda: flite(sentences), lambda: espeak(sentences), lambda: people(3 if quick else None)):
        try:
            found += list(make())
        except (OSError, ValueError) as error:
            missing.append(str(error))
    return found, missing
