"""Texts of an utterance's parts as one text."""

from collections.abc import Iterable


def joined(texts: Iterable[str]) -> str:
    """A space between two parts, unless Chinese or Japanese meets itself."""
    text = ""
    for part in texts:
        if text and part and not (_is_wide(text[-1]) and _is_wide(part[0])):
            text += " "
        text += part
    return text


def agreed(earlier: str, later: str) -> int:
    """Length of what two hypotheses have in common at their beginning, in whole words."""
    count = next(
        (i for i, (a, b) in enumerate(zip(earlier, later, strict=False)) if a != b), min(len(earlier), len(later))
    )
    while 0 < count < len(later) and not _ends_a_word(later, count):
        count -= 1
    return count if count < len(later) or earlier == later else _last_word(later)


def _last_word(text: str) -> int:
    """Where the last word begins: it may yet grow."""
    count = len(text)
    while count and not _ends_a_word(text, count):
        count -= 1
    return count


def _ends_a_word(text: str, count: int) -> bool:
    return _is_wide(text[count - 1]) or (count < len(text) and (text[count] == " " or _is_wide(text[count])))


def _is_wide(character: str) -> bool:
    return "\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"
