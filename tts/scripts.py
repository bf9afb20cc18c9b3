"""Which language a piece of text must be said in, judged by its characters."""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# The first word of a character's Unicode name -> languages written so; the first is meant if nothing says more.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "CJK": ("zh", "yue", "ja", "ko"),
    "IDEOGRAPHIC": ("zh", "yue", "ja", "ko"),
    "BOPOMOFO": ("zh",),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "HANGUL": ("ko",),
    "CYRILLIC": ("ru", "uk", "bg", "be", "sr", "mk", "kk", "ky", "tt", "ba", "cv"),
    "GREEK": ("el",),
    "ARABIC": ("ar", "fa", "ur", "sd", "ug"),
    "HEBREW": ("he",),
    "DEVANAGARI": ("hi", "mr", "ne", "kok", "sa"),
    "BENGALI": ("bn", "as", "bpy"),
    "GURMUKHI": ("pa",),
    "GUJARATI": ("gu",),
    "ORIYA": ("or",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "KANNADA": ("kn",),
    "MALAYALAM": ("ml",),
    "SINHALA": ("si",),
    "THAI": ("th",),
    "MYANMAR": ("my",),
    "GEORGIAN": ("ka",),
    "ARMENIAN": ("hy",),
    "ETHIOPIC": ("am",),
}
LATIN = ("LATIN", "MODIFIER", "FEMININE", "MASCULINE", "MICRO")
NOT_LATIN = frozenset(language for languages in SCRIPTS.values() for language in languages)


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of text that one language covers; runs join to the text."""

    start: int
    end: int
    language: str
    """primary subtag"""


@lru_cache(4096)
def _languages(character: str) -> tuple[str, ...] | None:
    """Languages that the character's script is written in, () for Latin; None: it fits any (digits, marks)."""
    plain = unicodedata.normalize("NFKC", character)[0]  # full-width and mathematical letters
    name = unicodedata.name(plain, "")
    if not plain.isalpha() and not name.startswith("IDEOGRAPHIC NUMBER"):
        return None
    script = name.replace("-", " ").partition(" ")[0]
    return () if script in LATIN else SCRIPTS.get(script, ("und",))


def primary(language: str) -> str:
    """`en` of `en-US`; Mandarin's own code counts as Chinese."""
    subtag = language.lower().replace("_", "-").partition("-")[0]
    return "zh" if subtag == "cmn" else subtag


def runs(text: str, language: str) -> list[Run]:
    """The text's languages in order; `language` is what it is believed to be. Empty if nothing can be said."""
    if not speakable(text):
        return []
    believed = primary(language)
    if any(_languages(c) == ("ja",) for c in text):
        believed = "ja"
    found: list[Run] = []
    for i, character in enumerate(text):
        languages = _languages(character)
        if languages is None:
            continue
        if languages:
            here = believed if believed in languages else languages[0]
        else:
            here = "en" if believed in NOT_LATIN else believed or "en"
        if found and found[-1].language == here:
            found[-1] = Run(found[-1].start, i + 1, here)
        else:
            found.append(Run(i, i + 1, here))
    if not found:  # digits only
        return [Run(0, len(text), believed or "en")]
    # What fits any language belongs to the run before it.
    starts = [0, *(run.start for run in found[1:])]
    ends = [*starts[1:], len(text)]
    return [Run(start, end, run.language) for start, end, run in zip(starts, ends, found, strict=True)]


def speakable(text: str) -> bool:
    """Whether there is anything a voice could say in it."""
    return any(character.isalnum() for character in text)


@lru_cache(4096)
def _pictured(character: str) -> bool:
    """Emoji and their joiners; the signs of older blocks (degree, copyright) are words."""
    category = unicodedata.category(character)
    if category in ("Cf", "Co", "Cs", "Cn") or 0xFE00 <= ord(character) <= 0xFE0F:
        return True
    return ord(character) >= 0x2190 and category in ("So", "Sk")


def without_pictures(text: str) -> str:
    """Emoji become spaces, so that no voice spells them out; every other character keeps its place."""
    return "".join(" " if _pictured(character) else character for character in text)
