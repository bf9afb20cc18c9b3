"""Scripts, places and mouth shapes: the tables that voices share."""

import pytest

from server.core.media import VISEMES
from tts.flite import ascii_of
from tts.scripts import runs, speakable, without_pictures
from tts.visemes import of_cmu, of_ipa
from tts.words import places, span


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Hello 你好 world", "en", [("Hello ", "en"), ("你好 ", "zh"), ("world", "en")]),
        ("我有3个 Apple。", "zh", [("我有3个 ", "zh"), ("Apple。", "en")]),
        ("「こんにちは、世界」", "zh", [("「こんにちは、世界」", "ja")]),
        ("スーパー", "ja", [("スーパー", "ja")]),
        ("日本 food", "ja", [("日本 ", "ja"), ("food", "en")]),
        ("¿Qué tal?", "es-MX", [("¿Qué tal?", "es")]),
        ("Привіт", "uk", [("Привіт", "uk")]),
        ("Привет", "en", [("Привет", "ru")]),
        ("3.14", "zh", [("3.14", "zh")]),
        ("ＡＢＣ", "en", [("ＡＢＣ", "en")]),
        ("ᚠᚢ", "en", [("ᚠᚢ", "und")]),
        ("😀...", "en", []),
    ],
)
def test_runs(text: str, language: str, expected: list[tuple[str, str]]) -> None:
    assert [(text[run.start : run.end], run.language) for run in runs(text, language)] == expected


def test_pictures_become_spaces_and_the_rest_keeps_its_place() -> None:
    assert without_pictures("a😀b 👍🏽\u200d20°C ©") == "a b    20°C ©"
    assert not speakable(without_pictures("🇩🇪 ❤️"))


def test_ascii_for_flite_knows_where_it_came_from() -> None:
    text, place = ascii_of("“Naïve” — 20°…")
    assert text == '"Naive" ,  20 degrees ...'
    assert [place[text.index(x)] for x in ("Naive", "20", "degrees", "...")] == [1, 10, 12, 13]
    assert place[-1] == 14
    assert len(place) == len(text) + 1


def test_places_in_the_raw_text() -> None:
    raw = "**Really** [good](https://x.y) 😀 news."
    text = "Really good news."
    place = places(text, raw)
    assert [raw[slice(*span(place, text.index(w), text.index(w) + len(w)))] for w in text.split()] == [
        "Really",
        "good",
        "news.",
    ]
    assert places("same", "  same") == [2, 3, 4, 5, 6]
    assert sorted(places("x" * 900, "y" * 450)) == places("x" * 900, "y" * 450)


@pytest.mark.parametrize(
    ("symbol", "shapes"),
    [
        ("", ("sil",)),
        ("(en)", ("sil",)),
        ("ˈaɪ", ("aa", "ih")),
        ("oʊ", ("oh", "ou")),
        ("tʃ", ("CH",)),
        ("ts.h", ("CH",)),
        ("tsʰ", ("SS",)),
        ("s.", ("CH",)),
        ("tɕh", ("CH",)),
        ("ˈiɑu", ("EE", "aa", "ou")),
        ("iː", ("EE",)),
        ("ɔ̃", ("oh",)),
        ("pʰ", ("PP",)),
        ("ʃʲ", ("CH",)),
        ("ɹ", ("RR",)),
        ("ᵻ", ("ih",)),
        ("y5", ("ou",)),
    ],
)
def test_ipa(symbol: str, shapes: tuple[str, ...]) -> None:
    assert of_ipa(symbol) == shapes


def test_every_mouth_shape_can_be_reached() -> None:
    assert {shape for symbol in "ptkbdgmnszfvθðʃaeioəɪʊɹ" for shape in of_ipa(symbol)} | {"sil"} == set(VISEMES)
    cmu = ["pau", "p", "f", "th", "d", "k", "ch", "s", "n", "r", "aa", "eh", "ih", "iy", "ow", "uw"]
    assert {shape for symbol in cmu for shape in of_cmu(symbol)} == set(VISEMES)
