"""Words of a call that are easily misheard: what of a stranger's list may reach a recogniser."""

import re
from collections.abc import Iterable, Sequence

from server.core.errors import RequestError

WORDS_LIMIT = 50
CHARACTERS_LIMIT = 40
# Letters of any script, digits, and what stands inside names. Neither a path nor an address nor one of the library's
# own rules (`wrong=>right`, one a line, lists with commas) can be written with these.
_WORD = re.compile(r"[^\W_]+(?:[ '’·-][^\W_]+)*")


def hot_words(words: Iterable[str]) -> tuple[str, ...]:
    """The list without doubles, checked. Raises RequestError, with a sentence, if a recogniser must not see it."""
    checked: dict[str, None] = {}
    for word in words:
        text = word.strip() if isinstance(word, str) else ""
        if len(text) > CHARACTERS_LIMIT or _WORD.fullmatch(text) is None:
            raise RequestError(
                400,
                "bad_hot_word",
                f"{str(word)[:CHARACTERS_LIMIT]!r} cannot be a hot word: letters and digits, single spaces, hyphens "
                f"and apostrophes between them, at most {CHARACTERS_LIMIT} characters.",
            )
        checked[text] = None
        if len(checked) > WORDS_LIMIT:
            raise RequestError(400, "too_many_hot_words", f"At most {WORDS_LIMIT} hot words a call.")
    return tuple(checked)


def chinese(words: Sequence[str]) -> tuple[str, ...]:
    """Those that correction by sound works on: two or more Chinese characters and nothing else."""
    return tuple(word for word in words if re.fullmatch(r"[\u4e00-\u9fff]{2,}", word))
