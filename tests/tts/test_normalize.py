"""What is written, as it is said: numbers, money, dates, units, versions, addresses; and back to what was written."""

import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from server.core.heard import HeardText
from server.core.media import Clause, Speech
from tts import normalize
from tts.http_voice import laid
from tts.normalize import Grammar, load, normalized, spelling
from tts.spoken import Spoken

pytest.importorskip("wetext", reason="wetext is not installed (pip install -e .[tts])")

SHEET = tomllib.loads((Path(__file__).parent / "normalise_cases.toml").read_text("utf-8"))
CASES = [
    (language, kind, text, said)
    for language, kinds in SHEET.items()
    for kind, cases in kinds.items()
    for text, said in cases
]


def spell(text: str, language: str = "en") -> Spoken:
    return normalized(text, "zh" if language == "mixed" else language, load())


def test_there_are_enough_cases_of_every_kind() -> None:
    assert len(CASES) >= 60
    for kind in ("number", "money", "date", "unit", "version", "address"):
        assert all(kind in SHEET[language] for language in ("en", "zh")), kind


@pytest.mark.parametrize(("language", "kind", "text", "said"), CASES, ids=[case[2] for case in CASES])
def test_it_is_said(language: str, kind: str, text: str, said: str) -> None:
    assert spell(text, language).text == said


@pytest.mark.parametrize(("language", "kind", "text", "said"), CASES, ids=[case[2] for case in CASES])
def test_it_maps_back(language: str, kind: str, text: str, said: str) -> None:
    spoken = spell(text, language)
    assert len(spoken.starts) == len(spoken.ends) == len(spoken.text)
    assert all(0 <= a < b <= len(text) for a, b in zip(spoken.starts, spoken.ends, strict=True))
    assert list(spoken.starts) == sorted(spoken.starts)
    assert list(spoken.ends) == sorted(spoken.ends)
    # Nothing of what is written is lost.
    covered = set()
    for start, end in zip(spoken.starts, spoken.ends, strict=True):
        covered.update(range(start, end))
    lost = [c for i, c in enumerate(text) if i not in covered and c.isalnum()]
    assert not lost


def test_what_was_written_is_one_word_of_what_is_said() -> None:
    spoken = spell("It costs $1,234.50 today.")
    start = spoken.text.index("one thousand")
    end = spoken.text.index(" today")
    assert {spoken.span(i, i + 1) for i in range(start, end)} == {(9, 18)}
    assert "It costs $1,234.50 today."[9:18] == "$1,234.50"
    assert spoken.span(0, 2) == (0, 2)
    assert spoken.span(end + 1, len(spoken.text)) == (19, 25)


def test_what_was_heard_is_cut_in_what_was_written() -> None:
    """A long number takes most of the time; in proportion to the written text it would be far off."""
    raw = "I owe **$1,234,567.89** to you, my friend."
    clause = Clause(0, "I owe $1,234,567.89 to you, my friend.", raw, "en")
    spoken = spell(clause.text)
    total = 48_000
    words = laid(clause, spoken, 0, total)
    assert [raw[w.char_start : w.char_end] for w in words] == [
        "I",
        "owe",
        "$1,234,567.89",
        "to",
        "you,",
        "my",
        "friend.",
    ]
    heard = HeardText()
    heard.add(Speech(clause, bytes(2 * total), 48_000, words=words), 0)
    number = words[2]
    assert (number.end - number.start) / total > 0.6
    assert heard.until(number.start - 1).strip() == "I owe"
    assert heard.until(number.start + 1000).strip() == "I owe"
    assert heard.until(number.end).endswith("$1,234,567.89")


class Broken:
    """A grammar that fails, or talks nonsense."""

    def __init__(self, result: str | Exception) -> None:
        self.result = result

    def normalize(self, text: str) -> str:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize("result", [AssertionError(), RuntimeError("no path"), "", "   ", "blah " * 200])
def test_where_the_grammar_fails_the_raw_text_is_spoken(result: str | Exception) -> None:
    grammars: dict[str, Grammar] = {"en": Broken(result), "zh": Broken(result)}
    for text in ("It is 5 o'clock.", "现在5点。"):
        assert normalized(text, "en", grammars) == Spoken.plain(text)
    assert normalized("It is 5.", "en", {}) == Spoken.plain("It is 5.")


def test_one_run_that_fails_leaves_the_others_alone() -> None:
    grammars = load() | {"zh": Broken(AssertionError())}
    assert normalized("有3个 iPhone 15 吗", "zh", grammars).text == "有3个 iPhone fifteen 吗"


def test_other_languages_and_plain_text_are_left_alone() -> None:
    for text, language in (
        ("Das kostet 5 €.", "de"),
        ("3個のりんご", "ja"),
        ("Nothing here.", "en"),
        ("你好。", "zh"),
    ):
        assert spell(text, language) == Spoken.plain(text)
    assert spell("你有5个吗", "en").text == "你有五个吗"  # the characters are believed, not the label
    long = "7 " * 400
    assert spell(long) == Spoken.plain(long)


def test_pictures_are_not_said() -> None:
    assert spell("5 😀 apples").text.split() == ["five", "apples"]


async def test_a_clause_is_spelled_out() -> None:
    speller = await spelling()
    clause = Clause(0, "It costs $5.", "It costs $5.", "en-US")
    assert (await speller(clause)).text == "It costs five dollars."
    assert await speller(Clause(0, "Hello.", "Hello.", "en")) == Spoken.plain("Hello.")


async def test_a_short_clause_waits_for_no_thread_and_a_long_one_does_not_hold_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speller = await spelling()
    threads: list[str] = []
    real = normalize.normalized

    def noted(*arguments: Any) -> Spoken:
        threads.append(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(normalize, "normalized", noted)
    short = await speller(Clause(0, "It is 7.30.", "It is 7.30.", "en"))
    assert "7" not in short.text
    text = "It costs 5 dollars, and 7 more for those who come at 8 in the evening."
    assert "5" not in (await speller(Clause(0, text, text, "en"))).text
    assert threads[0] == threading.current_thread().name
    assert threads[1] != threading.current_thread().name
