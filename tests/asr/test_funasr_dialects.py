"""What the FunASR servers' messages mean: 2pass in both dialects, Nano's own, and settings that make no sense."""

from typing import Any

import pytest

from server.asr.funasr_ws import FunasrWsSettings, Nano, TwoPass
from server.asr.parts import agreed


def test_is_final_is_not_the_end_of_a_sentence() -> None:
    """The Python server says it of all that it hears while somebody speaks, the C++ server of the very last."""
    python, cpp = (TwoPass(FunasrWsSettings(dialect=d), "zh", ()) for d in ("python", "cpp"))
    while_speaking = {"mode": "2pass-offline", "text": "你好。", "is_final": True}
    assert not python.take(while_speaking, ended=False)
    assert not python.take(while_speaking, ended=True)  # made before the end was heard of
    assert python.take({"mode": "2pass-offline", "text": "", "is_final": False}, ended=True)
    assert not cpp.take({"mode": "2pass-offline", "text": "你好。", "is_final": False}, ended=True)
    assert cpp.take({"text": "", "is_final": True}, ended=True)
    assert (python.final, cpp.final) == ("你好。你好。", "你好。")
    newer = TwoPass(FunasrWsSettings(dialect="python"), "zh", ())
    assert newer.take({"is_end": True, "is_final": True}, ended=True)
    assert newer.take({"is_end": True, "is_final": False, "error": "out of memory"}, ended=True)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"url": "http://x"}, "url must be"),
        ({"url": "ws://"}, "url must be"),
        ({"chunk": (5, 0, 5)}, "chunk must be"),
        ({"capacity": 0}, "capacity must"),
        ({"backlog_s": 0.1}, "backlog_s must"),
        ({"answer_s": 0.0}, "answer_s must"),
        ({"hot_words": ("a,b",)}, "hot_words: "),
    ],
)
def test_settings_say_what_is_wrong(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FunasrWsSettings(**wrong)


# ---- Nano's own dialect ----------------------------------------------------------------------------


def nano(*partials: str) -> Nano:
    dialect = Nano(FunasrWsSettings(dialect="nano"), "en", ())
    for text in partials:
        dialect.take({"sentences": [], "partial": text, "is_final": False}, ended=False)
    return dialect


def test_nano_is_told_language_and_words_before_the_start() -> None:
    dialect = Nano(FunasrWsSettings(dialect="nano"), "ja", ("VisAvis", "Mia"))
    assert dialect.begin() == ["LANGUAGE:日本語", "HOTWORDS:VisAvis,Mia", "START"]
    assert dialect.end() == ["COMMIT"]


def test_nano_s_partials_promise_what_two_agree_upon_and_keep_it() -> None:
    assert nano("how a", "how are").stable == len("how")
    assert nano("how are you", "how are you to").stable == len("how are you")
    assert nano("how are you", "how are you to", "who is").partial == "how are you to"
    assert nano("你好", "你好吗").stable == 2


def test_nano_s_final_is_the_one_after_commit() -> None:
    dialect = nano("hello")
    assert not dialect.take({"event": "started"}, ended=False)
    assert not dialect.take({"event": "error", "error": "COMMIT requires"}, ended=False)
    final = {"sentences": [{"text": "Hello there."}, {"text": "Bye."}], "partial": "", "is_final": True}
    assert dialect.take(final, ended=True)
    assert dialect.final == "Hello there. Bye."
    assert dialect.take({"event": "error", "error": "COMMIT requires --endpoint-mode client"}, ended=True)


@pytest.mark.parametrize(
    ("earlier", "later", "common"),
    [
        ("hello the", "hello there", "hello"),
        ("hello there", "hello there my", "hello there"),
        ("你好", "你好吗", "你好"),
        ("hel", "hello", ""),
        ("a b", "a b", "a b"),
        ("abc", "ab", ""),
        ("", "x", ""),
        ("x", "", ""),
    ],
)
def test_agreement_is_in_whole_words(earlier: str, later: str, common: str) -> None:
    assert later[: agreed(earlier, later)] == common
