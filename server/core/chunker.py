"""Cuts the streaming reply into clauses: the first one early, the later ones whole sentences (think -> speak)."""

import re
from dataclasses import replace

from server.core.media import Clause
from server.core.spoken import CJK, Reasoning, sayable, script_runs, speakable, units

LOOK_AHEAD_S = 0.15
"""a sentence mark whose next character has not come after so long ends its sentence"""
QUEUED_ENOUGH_S = 3.0
"""with more voice than this waiting, sentences are gathered into longer pieces"""

# Sizes of pieces: (CJK characters, other words or characters); a mixed text adds up its shares of both.
FIRST_CLAUSE_WORDS = (7, 4)
FIRST_CLAUSE_CHARS = (7, 15)  # whichever is reached sooner
FIRST_FORCED_WORDS = (30, 12)
GATHERED_CHARS = (15, 40)  # sentences shorter than this are merged with the next
LONGEST_CHARS = (60, 200)
PROTECTED_MAX = 300  # characters of a link or code span after which it is taken for an unclosed bracket
UNBROKEN_MAX = 400  # characters without a blank after which a piece is cut anyway

_HARD = "!?。！？｡؟।"
_SOFT = ",;:，；：—"
_WIDE = "。！？｡؟।，；：—"  # marks that need no blank behind them
_MARKS = _HARD + _SOFT + ".…、"
_CLOSERS = "\"'”’)]}」』）》】*_`~"
_ENDING = re.compile(rf"([{re.escape(_MARKS)}]+)[{re.escape(_CLOSERS)}]*$")
_WIDE_CHAR = re.compile(f"[{CJK}]")
_ACRONYM = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]|[A-HJ-Z]")  # U.S. and J. Smith; but "so do I."
_FENCES = ("```", "~~~")

# Abbreviations that never end a sentence, and those that do when a capital follows.
_NEVER_LAST = re.compile(r"mrs?|m[sx]|dr|prof|rev|hon|gen|col|capt|lt|sgt|messrs|e\.g|i\.e|cf|vs|viz|fig|approx")
_SELDOM_LAST = re.compile(
    r"etc|inc|ltd|corp?|[js]r|st|ave|blvd|rd|jan|feb|mar|apr|ju[nl]|aug|sept?|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun"
    r"|min|max|vol|ed|pp?|ca|est|dept|[ap]\.m|ph\.d|co"
)


class Chunker:
    """One reply's text, token by token, into clauses; however it is cut into tokens, the clauses are the same.

    The `raw` of all clauses and then `tail` join to the reply's visible text: everything but the reasoning.
    """

    def __init__(self, language: str = "en", opens_inside: bool = False) -> None:
        """language: the persona's, for text whose script does not tell; opens_inside: see spoken.Reasoning."""
        self.language = language
        self.queued_s = 0.0
        """seconds of voice made but not yet played; may be set at any time"""
        self._reasoning = Reasoning(opens_inside)
        self._raw = ""
        self._hard = 0  # end of the last complete sentence in _raw
        self._soft = 0  # end of the last clause in _raw
        self._enough = False  # whether _hard is far enough to be said
        self._count = 0  # clauses so far
        self._spoken = ""  # language of the last clause
        self._line = ""  # beginning of the current line, to see a code fence
        self._fence = ""
        self._fence_ends = False
        self._span = ""  # "`": in a code span; "[": in a link's text, "]": just behind it, "(": in its address
        self._span_start = 0

    @property
    def tail(self) -> str:
        """Visible text that is in no clause; after `flush`: a closing emoji or code block, which nobody says."""
        return self._raw

    def feed(self, text: str) -> list[Clause]:
        """The clauses that are complete with this piece of the reply."""
        visible = self._reasoning.feed(text)
        if self._reasoning.stray:  # what is pending was reasoning
            self._reasoning.stray = False
            self._raw, self._hard, self._soft, self._enough = "", 0, 0, False
        # the voice may have run low meanwhile
        out = self._settle() if self._count and self._enough and self.queued_s <= QUEUED_ENOUGH_S else []
        for char in visible:
            out += self._put(char)
        return out

    def stale(self, silence_s: float) -> list[Clause]:
        """What may be said after the model's silence of `silence_s`: the complete sentences, however short."""
        if silence_s < LOOK_AHEAD_S or self.queued_s > QUEUED_ENOUGH_S:
            return []
        if not (self._fence or self._span) and self._judge(self._raw, "") == "hard":
            self._hard = len(self._raw)
        return self._emit(self._hard)

    def flush(self) -> list[Clause]:
        """The rest; the reply is over."""
        out = [clause for char in self._reasoning.flush() for clause in self._put(char)]
        return out + self._emit(len(self._raw))

    def _put(self, char: str) -> list[Clause]:
        before = self._raw
        self._raw += char
        if self._opens_fence(char):  # said at once: the code block may be long
            return self._emit(len(self._raw) - len(self._line))
        if self._fence or self._protected(char):
            return []
        out = self._settle() if self._find_boundary(before, char) else []
        if not out and self._at_gap(char):
            out = self._force()
        return out

    def _at_gap(self, char: str) -> bool:
        """Whether no word is torn if the text is cut behind `char` (or the word has no end)."""
        if char.isspace() or _WIDE_CHAR.match(char):
            return True
        return len(self._raw) >= UNBROKEN_MAX and not re.search(r"\s", self._raw[-UNBROKEN_MAX:])

    # ---- what must not be cut ------------------------------------------------------------------------------

    def _opens_fence(self, char: str) -> bool:
        """Follow code fences; True at the third mark of an opening one."""
        if char == "\n":
            self._line = ""
            if self._fence_ends:
                self._fence, self._fence_ends = "", False
            return False
        if len(self._line) < 8:
            self._line += char
            if char in "`~" and self._line.strip() in _FENCES:
                opens = not self._fence
                self._fence_ends = not opens and self._line.strip() == self._fence
                self._fence = self._fence or self._line.strip()
                self._span = ""
                return opens
        return False

    def _protected(self, char: str) -> bool:
        """Follow code spans and links; True inside one."""
        if char == "\n" or (self._span and len(self._raw) - self._span_start > PROTECTED_MAX):
            self._span = ""
        elif self._span == "`" or self._span == "(":
            self._span = "" if char == {"`": "`", "(": ")"}[self._span] else self._span
        elif self._span == "[":
            self._span = "]" if char == "]" else "["
        elif self._span == "]" and char == "(":
            self._span = "("
        elif char in "`[":
            self._span, self._span_start = char, len(self._raw)
        else:
            self._span = ""
        return self._span in ("`", "[", "(")

    # ---- boundaries ----------------------------------------------------------------------------------------

    def _find_boundary(self, before: str, char: str) -> bool:
        """Note the end of a sentence or clause that `char` decides, in `before` or behind `char` itself."""
        end = len(before)
        kind, cut = "", end
        if char == "\n":
            kind, cut = "hard", end + 1
        elif char.isspace():
            kind, cut = self._judge(before, " "), end + 1
        elif before[-1:] in (" ", "\t"):
            if self._judge(before.rstrip(" \t"), " ") == "wait":
                kind = self._judge(before.rstrip(" \t"), char)
        elif char in _WIDE and self._count == 0:  # not a moment later than it can be known
            kind, cut = "hard" if char in _HARD else "soft", end + 1
        elif char not in _MARKS + _CLOSERS:
            wide = bool(_WIDE_CHAR.match(char))
            marks = _ENDING.search(before, max(0, end - 24))
            if marks and (wide or any(mark in _WIDE for mark in marks.group(1))):
                kind = self._judge(before, char)
        if kind not in ("hard", "soft") or not self._said(cut):
            return False
        self._soft = cut
        if kind == "hard":
            self._hard = cut
            self._enough = _share(self._said(cut), GATHERED_CHARS) >= 1
        return True

    def _judge(self, before: str, following: str) -> str:
        """What the marks at the end of `before` mean: `hard`, `soft`, nothing, or `wait` for the next letter.

        following: the next letter; a blank: only that a blank comes is known; empty: nothing came for a while.
        """
        found = _ENDING.search(before, max(0, len(before) - 24))
        if not found:
            return ""
        marks = found.group(1)
        if any(mark in _HARD for mark in marks):
            return "hard"
        if "…" in marks or marks.startswith(".."):
            return "wait" if following == " " else "hard" if following.isupper() else "soft"
        if marks[-1] in _SOFT:
            return "soft"
        if marks[-1] == ".":
            return _full_stop(before[: found.start()], following)
        return ""

    # ---- pieces --------------------------------------------------------------------------------------------

    def _settle(self) -> list[Clause]:
        """Hand out what ends at a boundary and is long enough."""
        if self._count:
            return self._emit(self._hard) if self._enough and self.queued_s <= QUEUED_ENOUGH_S else []
        if self._hard and sayable(self._said(self._hard)) >= 2:
            return self._emit(self._hard)
        text = self._said(self._soft)
        if max(_share(text, FIRST_CLAUSE_WORDS, True), _share(text, FIRST_CLAUSE_CHARS)) >= 1:
            return self._emit(self._soft)
        return []

    def _force(self) -> list[Clause]:
        """Hand out what has become too long, at the best place there is."""
        end = len(self._raw)
        if self._count == 0:
            if end < 2 * FIRST_FORCED_WORDS[1]:
                return []
            text = self._said(end)
            too_long = _share(text, FIRST_FORCED_WORDS, True) >= 1 or len(text) >= UNBROKEN_MAX
            return self._emit(end) if too_long else []
        if end < LONGEST_CHARS[0] or _share(self._said(end), LONGEST_CHARS) < 1:
            return []
        if self._hard:
            return self._emit(self._hard)
        good = self._soft and _share(self._said(self._soft), GATHERED_CHARS) >= 1
        return self._emit(self._soft if good else end)

    def _said(self, end: int) -> str:
        return speakable(self._raw[:end], self.language)

    def _emit(self, end: int) -> list[Clause]:
        """The pending text up to `end` as clauses; none if there is nothing to say in it: it joins the next."""
        raw = self._raw[:end]
        if not sayable(raw) or not self._said(end):
            return []
        out: list[Clause] = []
        silent = ""
        letters = any(char.isalpha() for char in raw)
        runs = script_runs(raw, self.language) if letters else [(raw, self._spoken or self.language)]
        for piece, language in runs:
            text = speakable(silent + piece, language)
            if text:
                out.append(Clause(self._count + len(out), text, silent + piece, language))
                silent = ""
            else:
                silent += piece
        if not out:
            return []
        out[-1] = replace(out[-1], raw=out[-1].raw + silent)
        self._raw = self._raw[end:]
        self._hard, self._soft = max(0, self._hard - end), max(0, self._soft - end)
        self._enough = bool(self._hard) and self._enough
        self._span_start -= end
        self._count += len(out)
        self._spoken = out[-1].language
        return out


def _share(text: str, size: tuple[int, int], words: bool = False) -> float:
    """How much of `size` (CJK characters, other characters or words) a text fills; 1 is all of it."""
    characters, others = units(text)
    return characters / size[0] + (others if words else len(text) - characters) / size[1]


def _last_word(text: str) -> str:
    """What stands between the last blank or CJK character and the end, without what opens it."""
    return _WIDE_CHAR.split((text.split() or [""])[-1])[-1].lstrip("\"'“‘([*_")


def _full_stop(before: str, following: str) -> str:
    """What a full stop behind `before` means; see Chunker._judge."""
    word = _last_word(before)
    low = word.lower()
    if not word:
        return "hard" if before and _WIDE_CHAR.match(before[-1]) else ""
    ahead = before[: len(before) - len(word)].rstrip(" \t*_#>\"'“‘([")
    if _NEVER_LAST.fullmatch(low) or (low == "st" and not _last_word(ahead)[:1].isupper()):  # a saint, no street
        return ""
    if _SELDOM_LAST.fullmatch(low) or low == "no":
        if following in ("", " "):
            return "wait"
        return "" if following.isdigit() or (low != "no" and following.islower()) else "hard"
    if low[-1].isdigit():
        listed = low.isdigit() and len(low) <= 3 and (not ahead or ahead[-1] in "\n:：.!?;。！？")
        if listed and ahead.endswith("."):  # "Feb. 7." is no item of a list
            short = _last_word(ahead[:-1]).lower()
            listed = not (_NEVER_LAST.fullmatch(short) or _SELDOM_LAST.fullmatch(short) or short == "no")
        return "" if listed or not following else "hard"
    return "" if _ACRONYM.fullmatch(word) else "hard"
