"""How much of a reply's text was heard, from how much of its voice was: for the caption and for the history."""

import re
from collections import deque
from dataclasses import dataclass, field

from server.core.media import MEDIA_RATE, Speech

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Han; Hangul has blanks
_UNIT = re.compile(rf"(?P<cjk>[{_CJK}][^\w\s]*)|[^\s{_CJK}]+")
"""What is heard as a whole where the voice gives no word timings; punctuation belongs to what it follows."""

_WORD_S, _CJK_S = 0.4, 0.25
"""A leisurely voice's seconds per word and per CJK character: rather too little counts as heard than too much."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What of a reply has reached the person."""

    generation: int
    """0: no reply"""
    text: str
    """a prefix of the reply's own text (its clauses' raws)"""
    audio_ms: int
    """the place reached in the reply's own voice (pauses and underruns are no part of it)"""
    complete: bool
    """whether it was all of a finished reply"""
    note: str = ""
    """what the caption must say about the piece that is heard (Speech.note)"""


NOTHING_HEARD = Heard(0, "", 0, False)


@dataclass(slots=True)
class _Spoken:
    """One clause; places are samples of the reply's voice."""

    raw: str
    start: int
    end: int
    """of what has been made so far"""
    closed: bool = False
    words: deque[tuple[int, int]] = field(default_factory=deque)
    """(place at which half of the word is over, its end in `raw`) of the words not yet heard, in order"""
    timed: bool = False
    """whether the voice gave word timings"""
    shown: int = 0
    """characters of `raw` that count as heard; never shrinks"""
    note: str = ""

    def listen(self, place: int) -> None:
        """Count what is heard once the voice has reached `place`, before the clause's end."""
        if place <= self.start:
            return
        if self.timed:
            while self.words and self.words[0][0] <= place:
                self.shown = max(self.shown, self.words.popleft()[1])
            if self.closed and not self.words and not any(map(str.isalnum, self.raw[self.shown :])):
                self.shown = len(self.raw)  # only the full stop is left, and it makes no sound
        else:
            self.shown = max(self.shown, self._proportional(place))

    def _proportional(self, place: int) -> int:
        units = list(_UNIT.finditer(self.raw))
        length = self.end - self.start
        if not self.closed:  # how long it will be is a guess
            seconds = sum(_CJK_S if unit["cjk"] else _WORD_S for unit in units)
            length = max(length, int(seconds * MEDIA_RATE))
        if not units or not length:
            return 0
        first, last = units[0].start(), units[-1].end()
        reached = first + (last - first) * (place - self.start) / length
        return max((unit.end() for unit in units if unit.start() + unit.end() <= 2 * reached), default=0)


class HeardText:
    """One reply's text laid along its voice. Asked for growing places, it keeps only what is not yet heard."""

    def __init__(self) -> None:
        self._clauses: deque[_Spoken] = deque()
        self._index = -1
        self._before = ""  # the raws of clauses heard to their end
        self._text = ""
        self._shown = 0  # of the first of _clauses, as it is in _text
        self._note = ""
        self._finished = False

    @property
    def note(self) -> str:
        return self._note

    @property
    def whole(self) -> bool:
        """Whether every clause given so far was heard to its end."""
        return not self._clauses

    def add(self, speech: Speech, start: int) -> None:
        """The next piece; its first sample is at `start` of the reply's voice."""
        clause = self._clauses[-1] if self._clauses else None
        if clause is None or clause.closed or speech.clause.index != self._index:
            if clause is not None:
                clause.closed = True
            # a second start of the same clause (a spare voice took over) has its text already
            raw = speech.clause.raw if speech.clause.index != self._index else ""
            clause = _Spoken(raw, start, start)
            self._clauses.append(clause)
            self._index = speech.clause.index
        for word in speech.words:
            clause.words.append((start + (word.start + word.end + 1) // 2, word.char_end))
        clause.timed = clause.timed or bool(speech.words)
        clause.end = start + speech.samples
        clause.closed = speech.last
        clause.note = clause.note or speech.note

    def finish(self) -> None:
        """Nothing more will be added."""
        self._finished = True

    def until(self, place: int) -> str:
        """The text heard once the voice has been heard up to `place`; a smaller place than before changes nothing."""
        while self._clauses:
            clause = self._clauses[0]
            if not clause.closed or place < clause.end:
                break
            if clause.start == clause.end == place and not (self._finished and place == self._clauses[-1].end):
                break  # it has no sound of its own: it is heard with what follows it, or with the end of the reply
            self._before += clause.raw
            self._note = clause.note
            self._text, self._shown = self._before, 0
            self._clauses.popleft()
        if self._clauses:
            clause = self._clauses[0]
            clause.listen(place)
            if place > clause.start:
                self._note = clause.note
            if clause.shown != self._shown:
                self._shown = clause.shown
                self._text = self._before + clause.raw[: clause.shown]
        return self._text
