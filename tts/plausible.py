"""How long saying a text can take at all: shorter, and words were swallowed; longer, and the voice has run away.

Where the bounds come from. Across 17 languages people speak 4.3 to 9.1 syllables a second, English 6.2, Mandarin
5.2, Korean 6.4, Japanese 7.8 (Pellegrino, Coupé, Marsico, Language 87, 2011; Coupé, Oh, Dediu, Pellegrino, Science
Advances 5, 2019). A Han character and a Hangul block are a syllable each, kana one at most, and a syllable of English
is written with three letters or so. `least` is half of that time or less: who speaks twice as fast is no fault, and
below 0.1 s a character Mandarin voices were found to have lost some (CosyVoice #1730). `most` is three times it, with
every mark a pause, figures and capitals read out one by one, and 2.5 s for breath.
flite and espeak-ng in 18 languages lie within, with half as much again to spare (tests/tts/test_plausible.py).
"""

import unicodedata
from dataclasses import dataclass

import numpy as np

from server.core.media import SAMPLE_BYTES

MARGIN_S = 2.5  # of breath, laughter and silence at both ends
BLOCK_S = 0.01
AUDIBLE = 100  # of 32768 (-50 dBFS): a block's peak from which on it counts as sound

# Seconds of one character: at least, at most.
HAN, KANA, HANGUL = (0.1, 0.6), (0.05, 0.45), (0.07, 0.55)
LETTER = (0.025, 0.2)
CAPITAL = (0.025, 0.6)  # within a word of capitals, which may be spelled: "W" has three syllables
DIGIT = (0.03, 0.9)
SIGN = (0.0, 0.9)
"""% and € are words, a comma is a pause, an emoji is nothing"""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds that a text takes."""

    least_s: float
    """of sound"""
    most_s: float
    """of sound and silence"""


def span(text: str, speed: float = 1.0) -> Span:
    """speed: times the voice's own pace. A text with nothing to say may be silent."""
    least = most = 0.0
    previous = ""
    for character in text:
        shortest, longest = _weight(character, previous)
        least += shortest
        most += longest
        previous = character
    return Span(least / speed, most / speed + MARGIN_S)


def _weight(character: str, previous: str) -> tuple[float, float]:
    if character.isdigit():
        return DIGIT
    if character.isalpha():
        name = unicodedata.name(character, "")
        if name.startswith("CJK"):
            return HAN
        if name.startswith(("HIRAGANA", "KATAKANA")):
            return KANA
        if name.startswith("HANGUL"):
            return HANGUL
        return CAPITAL if character.isupper() and (not previous or not previous.islower()) else LETTER
    if character.isspace() or unicodedata.category(character) == "Mn":
        return (0.0, 0.0)
    return SIGN


class Sounding:
    """How much of a voice that comes in pieces can be heard at all: a second of silence says nothing."""

    def __init__(self, rate: int) -> None:
        self._block = int(rate * BLOCK_S)
        self._held = b""
        self.seconds = 0.0

    def feed(self, pcm: bytes) -> None:
        """s16le mono; what is less than a block waits for the next piece."""
        held = self._held + pcm
        whole = len(held) // (self._block * SAMPLE_BYTES) * self._block * SAMPLE_BYTES
        self._held = held[whole:]
        blocks = np.abs(np.frombuffer(held[:whole], "<i2").astype(np.int32)).reshape(-1, self._block)
        self.seconds += BLOCK_S * int((blocks.max(axis=1, initial=0) >= AUDIBLE).sum())
