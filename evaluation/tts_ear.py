"""Who listens for tts_check: a recogniser that knows the sentence and hears what departs from it, or any other."""

import re
import subprocess
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from server.core.errors import VisavisError
from server.core.media import MIC_FRAME_BYTES, MIC_RATE, SAMPLE_BYTES
from server.core.protocols import Asr
from tts.scripts import primary

if TYPE_CHECKING:
    from pocketsphinx import Decoder

Sound = NDArray[np.float32]  # (samples,) at MIC_RATE, -1 to 1

TEXT_LIMIT = 400  # characters of one sentence
SOUND_LIMIT_S = 120.0


class EarError(VisavisError):
    """The sentence or the recogniser is not fit for this; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__("ear", message)


@dataclass(frozen=True, slots=True)
class Hearing:
    """What was heard of one sentence."""

    text: str
    """its words, in small letters; sounds that are none of them as `[phones]` where the ear can tell"""
    begun: bool | None = None
    """whether the first word is there from its first sound on; None: this ear cannot tell"""
    ended: bool | None = None
    """whether the last word is there to its last sound"""
    extra_s: float | None = None
    """the longest stretch of sound that belongs to no word of the sentence"""
    missing: int | None = None
    """words of the sentence that were not heard"""


class Transcriber(Protocol):
    """Writes down what it hears of a sentence that is known."""

    languages: Sequence[str]
    """primary subtags"""

    async def hear(self, sound: Sound, text: str, language: str) -> Hearing:
        """sound: 16 kHz mono. text: what should have been said; a recogniser may use it or not.

        Raises EarError for what it cannot judge.
        """
        ...


# ---- any recogniser --------------------------------------------------------------------------------------------

BLOCK_BYTES = int(0.4 * MIC_RATE) * SAMPLE_BYTES // MIC_FRAME_BYTES * MIC_FRAME_BYTES


class AsrEar:
    """A recogniser of the call (server.core.protocols.Asr). It is not told the sentence: its own mistakes count."""

    def __init__(self, asr: Asr) -> None:
        self.languages: Sequence[str] = [primary(one) for one in asr.languages]
        self._asr = asr

    async def hear(self, sound: Sound, text: str, language: str) -> Hearing:
        session = await self._asr.open(language)
        try:
            pcm = (np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes() + bytes(MIC_RATE * SAMPLE_BYTES // 5)
            for at in range(0, len(pcm) - MIC_FRAME_BYTES + 1, MIC_FRAME_BYTES):
                await session.push(pcm[at : at + MIC_FRAME_BYTES])
                if at and at % BLOCK_BYTES == 0:
                    await session.provisional()  # wait until it has caught up: it may drop what is too much
            return Hearing((await session.commit()).text)
        finally:
            with anyio.CancelScope(shield=True):
                await session.aclose()


# ---- pocketsphinx, which knows the sentence ----------------------------------------------------------------------

PHONES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH",
    "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
FRAME_S = 0.01
# What a departure from the sentence costs. Chosen on tts_sentences.SENTENCES; proved on others (tts_proof).
SKIPPED = 1e-9  # a word is not said
OTHER = 1e-7  # each phone that belongs to no word
HEADLESS = 1e-6  # the first word has lost phones ...
WEAK_HEADLESS = 1e-12  # ... or no more than one of these, which a voice may hardly sound
WEAK = ("B", "D", "DH", "F", "HH", "TH", "V")
TAILLESS = 1e-4  # the last word has lost phones
TAIL_KEPT = 0.5  # of the last word's phones; a "t" at the end is often not released
UNLIKE = 0.5  # of a word's phones may be heard as others ...
VARIANT = 0.3  # ... where a vowel for a vowel, or a consonant for its like, counts so much
STRAY_S = 0.25  # a stretch of other sound that is shorter is how two words meet, or breath
QUIET_DB = 30.0  # and so is what lies so far below the speech
SLOWER = 1.12  # with it no false alarm is left on SENTENCES, and no fault is lost
DITHER = 2.0 / 32768  # digital silence is no sound the model knows


class AlignedEar:
    """pocketsphinx with a grammar of one sentence in which every word may be missing, anything may stand between, and
    the words at both ends may have lost sounds. English. Dictation would mistake one word in five of a clean voice.
    """

    languages: Sequence[str] = ("en",)

    def __init__(self) -> None:
        """Raises EarError if pocketsphinx is not installed."""
        try:
            from pocketsphinx import get_model_path
        except ImportError:
            raise EarError("pocketsphinx is not installed: pip install -e .[pocketsphinx]") from None
        self._model = Path(get_model_path(), "en-us")
        self._known = dictionary(self._model / "cmudict-en-us.dict")

    async def hear(self, sound: Sound, text: str, language: str = "en") -> Hearing:
        return await anyio.to_thread.run_sync(self.listen, sound, text)

    def listen(self, sound: Sound, text: str) -> Hearing:
        """`hear`, for who has no event loop. Raises EarError.

        What departs from the sentence is believed if it is heard twice, the second time slower and lower.
        """
        first = self._listen(sound, text)
        if _flawless(first):
            return first
        again = self._listen(_slower(sound), text)
        return again if _flawless(again) else first

    def _listen(self, sound: Sound, text: str) -> Hearing:
        expected = words(text)
        if not expected or len(text) > TEXT_LIMIT or len(sound) > SOUND_LIMIT_S * MIC_RATE:
            raise EarError(f"A sentence must have words, {TEXT_LIMIT} characters and {SOUND_LIMIT_S:.0f} s at most.")
        spellings = [self._spellings(word) for word in expected]
        transitions, pieces = _grammar(expected, spellings)
        decoder = self._decoder(dict(zip(expected, spellings, strict=True)) | pieces)
        count = len(expected)
        decoder.add_fsg("sentence", decoder.create_fsg("sentence", count + 1, count + 2, transitions))
        decoder.activate_search("sentence")
        noise = np.random.default_rng(0).uniform(-DITHER, DITHER, len(sound))
        decoder.start_utt()
        decoder.process_raw((np.clip(sound + noise, -1, 1) * 32767).astype("<i2").tobytes(), False, True)
        decoder.end_utt()
        path = [(s.word, s.start_frame, s.end_frame + 1) for s in decoder.seg() or ()]
        return _judged(path, spellings, expected, sound)

    def _spellings(self, word: str) -> list[list[str]]:
        """How the word may be said. Words that the dictionary lacks, figures too, are spelled by flite."""
        if word not in self._known:
            self._known[word] = [by_flite(word)]
        return self._known[word]

    def _decoder(self, spellings: Mapping[str, Sequence[Sequence[str]]]) -> "Decoder":
        """A new one (a twentieth of a second) that knows these words and each phone by itself: a used one hears a
        little differently after each sentence."""
        from pocketsphinx import Config, Decoder

        lines = [f"~{phone} {phone}" for phone in PHONES]
        for word, several in spellings.items():
            lines += [f"{word}{f'({k + 1})' if k else ''} {' '.join(phones)}" for k, phones in enumerate(several)]
        with tempfile.NamedTemporaryFile("w", suffix=".dict", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            return Decoder(
                Config(
                    hmm=str(self._model / "en-us"),
                    dict=file.name,
                    lm=None,
                    loglevel="FATAL",
                    cmn="batch",
                    bestpath=False,
                    beam=1e-30,
                    pbeam=1e-30,
                    wbeam=1e-20,
                )
            )


def _flawless(heard: Hearing) -> bool:
    return bool(heard.begun and heard.ended and not heard.missing and (heard.extra_s or 0.0) < STRAY_S)


def _slower(sound: Sound) -> Sound:
    """As a tape that runs slower: the model knows deep voices better."""
    at = np.arange(int(len(sound) * SLOWER)) / SLOWER
    return np.interp(at, np.arange(len(sound)), sound).astype(np.float32)


@cache
def dictionary(file: Path) -> dict[str, list[list[str]]]:
    """CMU's: a word -> how it may be said."""
    found: dict[str, list[list[str]]] = {}
    for line in file.read_text("utf-8").splitlines():
        word, *phones = line.split()
        found.setdefault(word.partition("(")[0], []).append(phones)
    return found


Transition = tuple[int, int, float, str] | tuple[int, int, float]
"""from state, to state, probability, word"""


def _grammar(
    expected: Sequence[str], spellings: Sequence[Sequence[Sequence[str]]]
) -> tuple[list[Transition], dict[str, list[list[str]]]]:
    """State k lies before word k. Words that lost sounds stand at the very beginning or end only: `word<v.n` is its
    spelling v without the first n phones, `word>v.n` without the last. Returns how those are said, too."""
    count = len(expected)
    start, end = count + 1, count + 2
    found: list[Transition] = [(start, 0, 1.0), (count, end, 1.0)]
    pieces: dict[str, list[list[str]]] = {}
    for k, word in enumerate(expected):
        found += [(k, k + 1, 1.0, word), (k, k + 1, SKIPPED)]
        for v, phones in enumerate(spellings[k]):
            for lost in range(1, len(phones)):
                head, tail = list(phones[lost:]), list(phones[:-lost])
                # Who lost the whole first word may have lost a part of the second.
                if k < 2 and head not in spellings[k]:
                    pieces[f"{word}<{v}.{lost}"] = [head]
                    cost = WEAK_HEADLESS if lost == 1 and phones[0] in WEAK else HEADLESS
                    found.append((start, k + 1, cost * SKIPPED**k, f"{word}<{v}.{lost}"))
                if k >= count - 2 and tail not in spellings[k]:
                    pieces[f"{word}>{v}.{lost}"] = [tail]
                    found.append((k, end, TAILLESS * SKIPPED ** (count - 1 - k), f"{word}>{v}.{lost}"))
    found += [(k, k, OTHER, f"~{phone}") for k in range(count + 1) for phone in PHONES]
    return found, pieces


def words(text: str) -> list[str]:
    """The words that a recogniser of English can be asked for."""
    plain = unicodedata.normalize("NFKD", text).replace("’", "'").casefold()
    return re.findall(r"\d+(?:[.,:]\d+)*|[a-z]+(?:'[a-z]+)*", plain)


FLITE_PHONES = {"ax": "AH", "ix": "IH", "axr": "ER", "dx": "D", "ux": "UW", "nx": "N", "hv": "HH"}
FLITE_SYLLABIC = {"el": ("AH", "L"), "em": ("AH", "M"), "en": ("AH", "N")}


def by_flite(word: str) -> list[str]:
    """CMU's phones of a word that no dictionary has, by flite's rules. Raises EarError without flite."""
    try:
        told = subprocess.run(["flite", "-ps", "-o", "none", "-t", word], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        what = f'How "{word}" is said is not known here: install flite, or write it as words of the dictionary.'
        raise EarError(what) from None
    phones: list[str] = []
    for symbol in told.stdout.decode().split():
        phones += FLITE_SYLLABIC.get(symbol, (FLITE_PHONES.get(symbol, symbol.upper()),))
    return [phone for phone in phones if phone in PHONES]


Segment = tuple[str, int, int]
"""what the decoder calls it, its first frame, one past its last"""


def _judged(
    path: list[Segment], spellings: Sequence[list[list[str]]], expected: Sequence[str], sound: Sound
) -> Hearing:
    """What the decoder's best path says."""
    levels = frame_levels(sound)
    loud = levels > np.percentile(levels, 90) - QUIET_DB if levels.size else levels > 0
    said: list[str] = []
    stray: list[Segment] = []
    extra_s, place, missing, kept = 0.0, 0, 0, 1.0
    opening = ""  # the first word that was heard, as the decoder calls it

    def are_words(first: int, past: int) -> bool:
        """Whether the stray sounds are those words' own, though the decoder did not say so."""
        phones = [phone for k in range(first, past) for phone in spellings[k][0]]
        heard = [name[1:] for name, _, _ in stray]
        return bool(phones) and bool(heard) and unlike(phones, heard) <= UNLIKE * len(phones)

    def settle(following: int) -> None:
        """Before word `following` comes: what was heard since the last one, and which words were not."""
        nonlocal extra_s, missing
        if are_words(place, following):
            said.extend(expected[place:following])
        else:
            missing += following - place
            if stray:
                seconds = float(loud[stray[0][1] : stray[-1][2]].sum()) * FRAME_S
                extra_s = max(extra_s, seconds)
                if seconds >= STRAY_S:
                    said.append(f"[{' '.join(name[1:].lower() for name, _, _ in stray)}]")
        stray.clear()

    for name, begin, past in path:
        if name.startswith("~"):
            stray.append((name, begin, past))
        elif name[0] not in "<[(+":
            word = re.split(r"[<>(]", name)[0]
            k = expected.index(word, place)
            lost = re.search(r">(\d+)\.(\d+)", name)
            if lost and are_words(place, k + 1):
                said.extend(expected[place : k + 1])  # all of it was there, the decoder found a piece of it once more
                stray.clear()
                kept = 1.0
            else:
                settle(k)
                said.append(word)
                kept = 1 - int(lost[2]) / len(spellings[k][int(lost[1])]) if lost else 1.0
            place, opening = k + 1, opening or name
    settle(len(expected))
    begun = said[:1] == [expected[0]] and "<" not in opening
    ended = said[-1:] == [expected[-1]] and kept >= TAIL_KEPT
    return Hearing(" ".join(said), begun, ended, round(extra_s, 2), missing)


VOWELS = frozenset(phone for phone in PHONES if phone[0] in "AEIOU")
LIKES = (
    "P B",
    "T D DH TH",
    "K G",
    "F V TH",
    "S Z SH ZH",
    "CH JH SH T",
    "M N NG",
    "L W OW UW R ER",
    "Y IY IH UW",
    "HH",
)
LIKE = frozenset((a, b) for group in LIKES for a in group.split() for b in group.split())


def unlike(wanted: Sequence[str], got: Sequence[str]) -> float:
    """`distance` of two rows of phones in which a phone that is like another counts for less."""
    row = [float(j) for j in range(len(got) + 1)]
    for i, want in enumerate(wanted, 1):
        above, row[0] = row[0], float(i)
        for j, there in enumerate(got, 1):
            similar = (want in VOWELS and there in VOWELS) or (want, there) in LIKE
            change = 0.0 if want == there else VARIANT if similar else 1.0
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + change)
    return row[-1]


def distance(wanted: Sequence[str], got: Sequence[str]) -> int:
    """The least number of insertions, deletions and changes between them (V. Levenshtein, 1965)."""
    row = list(range(len(got) + 1))
    for i, want in enumerate(wanted, 1):
        above, row[0] = row[0], i
        for j, there in enumerate(got, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (want != there))
    return row[-1]


def frame_levels(sound: Sound) -> NDArray[np.float64]:
    """dBFS (RMS) of each whole 10 ms."""
    size = int(FRAME_S * MIC_RATE)
    rows = sound[: len(sound) // size * size].reshape(-1, size).astype(np.float64)
    levels: NDArray[np.float64] = 20 * np.log10(np.sqrt(np.mean(rows**2, axis=1)) + 1e-9)
    return levels
