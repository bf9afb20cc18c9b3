"""Where a transcript must be cut when its recording is: what was heard of each part decides, then marks and pace."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+(?:['’.,:-][^\W_\u3040-\u30ff\u3400-\u9fff]+)*"
)
CHARACTER_WEIGHT = 3.5  # how much longer a CJK character takes to say than a letter
WORDS_LIMIT = 400  # of 30 s
ENDS = "。！？.!?…"
BREATHS = "，、；：,;:—–"
END_S, BREATH_S = 0.8, 0.5  # how much further off a place with such a mark may be, and still be the better one
SURE_S = 0.9  # without anything heard, the mark must lie so near ...
APART_S = 0.7  # ... and every other one so much further off
FITS = 0.4  # share of the words that must have been heard, at least


@dataclass(frozen=True, slots=True)
class Token:
    start: int
    end: int
    word: str
    """as it is compared"""
    weight: float
    """how long it takes to say, in letters"""


def tokens(text: str) -> list[Token]:
    """Its words; each CJK character is one."""
    found: list[Token] = []
    for match in _WORD.finditer(text):
        word = unicodedata.normalize("NFKC", match.group()).casefold().replace("’", "'")
        weight = len(word) + 1.0 if len(word) > 1 or word.isascii() else CHARACTER_WEIGHT
        found.append(Token(match.start(), match.end(), word, weight))
    return found


def part(
    transcript: str, cuts: tuple[float | None, float | None], speech_s: float, heard: Sequence[str] | None
) -> str | None:
    """What of the transcript lies between two cuts.

    cuts: how much of the speech, 0 to 1, lies before each; None: nothing is cut away there.
    speech_s: how long all of it is spoken. heard: what a recogniser made of what lies before the first cut, between
    them and after the second; None: nobody listened. None if that cannot be told for certain.
    """
    words = tokens(transcript)
    if not 0 < len(words) <= WORDS_LIMIT:
        return None
    places: list[int] = []
    for side, share in enumerate(cuts):
        if share is None:
            places.append(0 if side == 0 else len(words))
            continue
        span = (0, len(words))
        if heard is not None:
            found = _between(words, heard, side)
            if found is None:
                return None
            span = found
        place = _place(transcript, words, share, speech_s, span, heard is not None)
        if place is None:
            return None
        places.append(place)
    first, past = places
    if past <= first:
        return None
    return _clean(transcript[words[first].start if first else 0 : words[past].start if past < len(words) else None])


def _clean(text: str) -> str:
    """Without the bracket or quotation mark that opens what is cut away."""
    return text.strip().rstrip("\"“‘'([{「『《（【").strip()


def _place(
    text: str, words: list[Token], share: float, speech_s: float, span: tuple[int, int], heard: bool
) -> int | None:
    """The number of words before the cut."""
    whole = sum(word.weight for word in words)
    costs: list[tuple[float, float, int]] = []  # what speaks against it, seconds off by pace, place
    done = 0.0
    for i in range(len(words) + 1):
        if span[0] <= i <= span[1] and 0 < i < len(words):
            off = abs(done / whole - share) * speech_s
            between = text[words[i - 1].end : words[i].start]
            bonus = (
                END_S if any(c in ENDS for c in between) else BREATH_S if any(c in BREATHS for c in between) else 0.0
            )
            if bonus or heard:
                costs.append((off - bonus, off, i))
        if i < len(words):
            done += words[i].weight
    if not costs:
        return None
    costs.sort()
    if heard:
        return costs[0][2]
    others = [off for _, off, i in costs if i != costs[0][2]]
    sure = costs[0][1] <= SURE_S and all(off >= costs[0][1] + APART_S for off in others)
    return costs[0][2] if sure else None


def _between(words: list[Token], heard: Sequence[str], side: int) -> tuple[int, int] | None:
    """The fewest and the most words that can lie before the cut, by the words that were recognised on either side."""
    parts = [[token.word for token in tokens(text)] for text in heard]
    there = [word for one in parts for word in one][:WORDS_LIMIT]
    cut = sum(len(one) for one in parts[: side + 1])
    pairs = _aligned([word.word for word in words], there)
    if len(pairs) < FITS * len(words):
        return None
    before = [i for i, j in pairs if j < cut]
    after = [i for i, j in pairs if j >= cut]
    return (max(before) + 1 if before else 0, min(after) if after else len(words))


def fits(transcript: str, heard: str) -> bool:
    """Whether what was heard can be this text, for a recogniser that mistakes half of the words."""
    words = [token.word for token in tokens(transcript)][:WORDS_LIMIT]
    return len(_aligned(words, [token.word for token in tokens(heard)][:WORDS_LIMIT])) >= FITS * len(words)


def _aligned(a: list[str], b: list[str]) -> list[tuple[int, int]]:
    """Pairs of (nearly) the same words along the cheapest edit path (R. Wagner, M. Fischer, 1974), in order."""
    rows, columns = len(a), len(b)
    cost = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows + 1):
        for j in range(columns + 1):
            if i == 0 or j == 0:
                cost[i][j] = float(i + j)
                continue
            change = cost[i - 1][j - 1] + _unlike(a[i - 1], b[j - 1])
            cost[i][j] = min(change, cost[i - 1][j] + 1.0, cost[i][j - 1] + 1.0)
    pairs: list[tuple[int, int]] = []
    i, j = rows, columns
    while i and j:
        unlike = _unlike(a[i - 1], b[j - 1])
        if cost[i][j] == cost[i - 1][j - 1] + unlike:
            i, j = i - 1, j - 1
            if unlike < 0.5:
                pairs.append((i, j))
        elif cost[i][j] == cost[i - 1][j] + 1.0:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def _unlike(a: str, b: str) -> float:
    """0: the same; 1.2: another word (rather than that, one is missing and one too many)."""
    if a == b:
        return 0.0
    if len(a) > 3 and len(b) > 3 and (a[:4] == b[:4] or a[-4:] == b[-4:]):
        return 0.4
    return 1.2
