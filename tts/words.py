"""Where a character that was said stands in the reply's own text."""

from difflib import SequenceMatcher

EXACT_LIMIT = 600  # characters; the comparison is quadratic, and a longer text is not a clause


def places(text: str, raw: str) -> list[int]:
    """For each character of `text`, and for its end, the index in `raw` that it came from. Never decreases."""
    if (offset := raw.find(text)) >= 0:
        return list(range(offset, offset + len(text) + 1))
    if len(text) > EXACT_LIMIT or len(raw) > EXACT_LIMIT:
        return [round(i * len(raw) / max(len(text), 1)) for i in range(len(text) + 1)]
    place: list[int] = []
    end = 0
    for block in SequenceMatcher(None, text, raw, autojunk=False).get_matching_blocks():
        place += [end] * (block.a - len(place))  # characters that the raw text does not have
        place += range(block.b, block.b + block.size)
        end = block.b + block.size
    return [*place[: len(text)], end]


def span(place: list[int], start: int, end: int) -> tuple[int, int]:
    """The raw characters of text[start:end]."""
    start = min(max(start, 0), len(place) - 1)
    end = min(max(end, start), len(place) - 1)
    if start == end:
        return place[start], place[start]
    return place[start], max(place[end - 1] + 1, place[start])
