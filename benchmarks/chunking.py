"""The chunker against a kept list of traps, streamed in random tokens and judged by what is written beside them."""

import math
import random
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.core.chunker import Chunker
from server.core.media import Clause

TRAPS = Path(__file__).with_name("chunker_traps.toml")
TEXTS = 1000
SENTENCE, PAUSE = "‖", "¦"
LATE = (30, 60)
"""CJK characters, or others: a sentence as long as that is not kept for the next one"""
AHEAD = 2
"""characters behind the end of the first sentence with which it must have been handed out"""
_CJK = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Trap:
    """One text and what is expected of it; places count its letters, digits and other signs that are heard."""

    language: str
    text: str
    said: str
    """as `heard` has it"""
    sentences: tuple[int, ...]
    """where they end"""
    places: frozenset[int]
    """where it may be cut at all"""
    prompt: bool
    """whether the first sentence must be handed out at once"""


def read(path: Path = TRAPS) -> list[Trap]:
    """Every trap of the list."""
    table = tomllib.loads(path.read_text("utf-8"))
    return [trap(one, one.get("lang", name)) for name, rows in table.items() for one in rows]


def trap(row: dict[str, object], language: str) -> Trap:
    marked = str(row["text"])
    text = marked.replace(SENTENCE, "").replace(PAUSE, "")
    shown = _THOUGHT.sub("", marked)
    sentences, places = [], set()
    count = 0
    for char in shown:
        if char in SENTENCE + PAUSE:
            places.add(count)
            if char == SENTENCE:
                sentences.append(count)
        else:
            count += _sayable(char)
    said = heard(str(row.get("said", shown.replace(SENTENCE, "").replace(PAUSE, ""))))
    prompt = bool(sentences) and bool(row.get("hard", True))
    return Trap(language, text, said, tuple(sentences), frozenset(places), prompt)


def tokens(text: str, chance: random.Random) -> Iterator[str]:
    """A language model's: mostly a few characters, now and then one or many."""
    longest = chance.choice((1, 3, 6, 6, 12, 40))
    at = 0
    while at < len(text):
        size = chance.randint(1, longest)
        yield text[at : at + size]
        at += size


def stream(one: Trap, pieces: Sequence[str]) -> tuple[list[Clause], str, int]:
    """The clauses, what is left behind them, and how much of the text had been fed when the first one came."""
    chunker = Chunker(one.language)
    clauses: list[Clause] = []
    fed = first = 0
    for piece in pieces:
        fed += len(piece)
        clauses += chunker.feed(piece)
        first = first or (fed if clauses else 0)
    clauses += chunker.flush()
    return clauses, chunker.tail, first or fed


def faults(one: Trap, pieces: Sequence[str]) -> list[str]:
    """What is wrong with the clauses that come of these tokens, in words."""
    clauses, tail, first = stream(one, pieces)
    found = []
    raw = "".join(clause.raw for clause in clauses) + tail
    if raw != _THOUGHT.sub("", one.text):
        found.append(f"the text is not whole: {raw!r}")
    said = heard("".join(clause.text for clause in clauses))
    if said != one.said:
        found.append(f"{said!r} is said instead of {one.said!r}")
    at = 0
    for clause in clauses:
        begin, at = at, at + sum(map(_sayable, clause.raw))
        if clause is not clauses[-1] and at not in one.places:
            found.append(f"it is cut behind {clause.raw!r}")
        inside = [end for end in one.sentences if begin < end < at]
        if any(_long(raw[_place(raw, begin) : _place(raw, end)]) for end in inside):
            found.append(f"a long sentence waits in {clause.raw!r}")
    if one.prompt and clauses:
        end = one.sentences[0]
        if sum(map(_sayable, clauses[0].raw)) > end:
            found.append(f"the first sentence is kept back: {clauses[0].raw!r}")
        if "<think>" not in one.text:
            limit = _place(one.text, end) + AHEAD + max(map(len, pieces))
            if first > limit:
                found.append(f"the first sentence comes late: after {first} characters")
    return found


def run(texts: int = TEXTS, seed: int = 1) -> list[str]:
    """Every trap in turn until so many texts were streamed: the faults, each with its tokens."""
    chance = random.Random(seed)
    traps = read()
    wrong = []
    for number in range(math.ceil(texts / len(traps)) * len(traps)):
        one = traps[number % len(traps)]
        # first as it stands and letter by letter, then at random
        pieces = {0: [one.text], 1: list(one.text)}.get(number // len(traps)) or list(tokens(one.text, chance))
        if found := faults(one, pieces):
            wrong.append(f"{one.text!r} as {pieces!r}: {'; '.join(found)}")
    return wrong


def count(texts: int = TEXTS) -> int:
    """How many texts are streamed for `texts` asked for: every trap equally often."""
    traps = len(read())
    return math.ceil(texts / traps) * traps


def heard(text: str) -> str:
    """The text without what cannot be told by the ear: blanks, quotes, brackets, a mark behind a mark."""
    return re.sub(r"([.!?…。！？])[.!?…。！？]+", r"\1", re.sub(r"[\s\"'“”‘’()\[\]（）【】《》「」]", "", text))


def _sayable(char: str) -> bool:
    return char.isalnum()


def _long(text: str) -> bool:
    characters = len(_CJK.findall(text))
    return characters / LATE[0] + (len(text) - characters) / LATE[1] >= 1


def _place(text: str, places: int) -> int:
    """Where in the text what comes behind its first `places` sayable characters begins."""
    for at, char in enumerate(text):
        if _sayable(char):
            if places == 0:
                return at
            places -= 1
    return len(text)
