"""Which mouth shapes a voice's phones are seen as: CMU's letters (flite) and IPA (espeak-ng)."""

import unicodedata
from functools import lru_cache

CMU: dict[str, tuple[str, ...]] = {
    "pau": ("sil",),
    "ssil": ("sil",),
    "brth": ("sil",),
    "h#": ("sil",),
    "p": ("PP",),
    "b": ("PP",),
    "m": ("PP",),
    "em": ("PP",),
    "f": ("FF",),
    "v": ("FF",),
    "th": ("TH",),
    "dh": ("TH",),
    "t": ("DD",),
    "d": ("DD",),
    "dx": ("DD",),
    "k": ("kk",),
    "g": ("kk",),
    "ng": ("kk",),
    "hh": ("kk",),  # the mouth is open already, and no more than that
    "hv": ("kk",),
    "ch": ("CH",),
    "jh": ("CH",),
    "sh": ("CH",),
    "zh": ("CH",),
    "s": ("SS",),
    "z": ("SS",),
    "n": ("nn",),
    "en": ("nn",),
    "nx": ("nn",),
    "l": ("nn",),
    "el": ("nn",),
    "r": ("RR",),
    "er": ("RR",),
    "axr": ("RR",),
    "y": ("EE",),
    "w": ("ou",),
    "aa": ("aa",),
    "ae": ("aa",),
    "ah": ("aa",),
    "ao": ("oh",),
    "ax": ("ih",),
    "eh": ("E",),
    "ih": ("ih",),
    "ix": ("ih",),
    "iy": ("EE",),
    "uh": ("ou",),
    "uw": ("ou",),
    "ux": ("ou",),
    "aw": ("aa", "ou"),
    "ay": ("aa", "ih"),
    "ey": ("E", "ih"),
    "ow": ("oh", "ou"),
    "oy": ("oh", "ih"),
}

# Letters that together are one consonant.
AFFRICATES = {
    "tʃ": "CH",
    "dʒ": "CH",
    "tɕ": "CH",
    "dʑ": "CH",
    "ʈʂ": "CH",
    "ɖʐ": "CH",
    "tʂ": "CH",
    "dʐ": "CH",
    "ts": "SS",
    "dz": "SS",
    "pf": "FF",
}

IPA = {
    letter: viseme
    for viseme, letters in {
        "PP": "pbmɓʙɸβ",
        "FF": "fvɱʋⱱ",
        "TH": "θð",
        "DD": "tdʈɖɗɾɽ",
        "kk": "kgɡɠqɢʛcɟʄŋɴhɦħʕʔxχɣʁɰʜʢç",
        "CH": "ʃʒɕʑʂʐɧ",
        "SS": "szɬɮ",
        "nn": "nɲɳlɫɭʎʟɺ",
        "RR": "rɹɻʀɚɝ",
        "aa": "aɑæɐʌɶ",
        "E": "eɛɜɞɤ",
        "ih": "ɪɨəɘɯ",
        "EE": "ijʝ",
        "oh": "oɔɒøœɵ",
        "ou": "uʊwʍɥyʏʉ",
    }.items()
    for letter in letters
}
VOWELS = frozenset("aɑæɐʌɶeɛɜɞɤɪɨəɘɯijɚɝoɔɒøœɵuʊwɥyʏʉ")


def of_cmu(symbol: str) -> tuple[str, ...]:
    """The shapes of one of flite's phones, in order; a diphthong has two."""
    return CMU.get(symbol.lower(), ("ih",))


@lru_cache(4096)
def of_ipa(symbol: str) -> tuple[str, ...]:
    """The shapes of one of espeak-ng's phones, in order; a diphthong has two or three.

    Stress, length, tone and every diacritic are taken off first. `` and `(en)` (a pause, a change of language)
    close the mouth; a letter nobody knows opens it a little.
    """
    if not symbol or symbol.startswith("("):
        return ("sil",)
    # Where espeak-ng has no IPA it writes its own: `s.` is retroflex. It cuts symbols at 8 bytes.
    letters = unicodedata.normalize("NFD", symbol.replace("s.", "ʂ").replace("z.", "ʐ"))
    bare = "".join(c for c in letters if c.isalpha() and unicodedata.category(c) != "Lm").lower()
    if not bare:
        return ("sil",)
    if bare[:2] in AFFRICATES:
        return (AFFRICATES[bare[:2]], *_shapes(bare[2:], consonant=True))
    return _shapes(bare) or ("ih",)


def _shapes(letters: str, consonant: bool = False) -> tuple[str, ...]:
    """Every vowel is seen; of consonants said together only the first. consonant: it came already."""
    shapes: list[str] = []
    for letter in letters:
        if (shape := IPA.get(letter)) is None:
            continue
        if letter not in VOWELS:
            if consonant:
                continue
            consonant = True
        if not shapes or shapes[-1] != shape:
            shapes.append(shape)
    return tuple(shapes[:3])
