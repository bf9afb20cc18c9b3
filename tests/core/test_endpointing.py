"""How long a silence must be, and which words count over a reply."""

import pytest

from server.core.endpointing import (
    asks_to_stop,
    first_units,
    looks_finished,
    looks_unfinished,
    normalise,
    only_backchannel,
    silence_needed,
    units,
)
from server.core.settings import TurnSettings

S = TurnSettings()

FINISHED = {
    "en": """yes|no|okay|thank you|yes thank you|what time is it|hello|good morning|goodbye|i don't know|how are you
        tell me what time it is|so what's your name|can you hear me|I live in Paris.|Is it?|Stop!|mm hm|uh-huh
        that's all|no that's it|He said "go."|why|i think so|What are you looking for?|do you think so""",
    "zh": """你好|谢谢|好的|是的|不知道|再见|你叫什么名字|现在几点了|你喜欢音乐吗|今天天气怎么样|我住在北京。|真的吗？
        为什么|这个是我的|好，谢谢""",
    "de": "Das ist gut.|Wirklich?",
}
UNFINISHED = {
    "en": """i want to go to the|and|i like coffee and|because|well i was thinking that maybe|um|i would like to|my
        so um|i went there with my|do you know a|what is your|it is very|I like apples,|so the thing is…|well...|i was
        tell me if|could you please|i mean|for example|what i want is a|let me think|can you tell me about the
        i'd like a room for two people and|yes but|yes because|i think that""",
    "zh": """和|但是|我想去北京但是|因为|我喜欢苹果和|嗯|我的|我想要|如果|然后|我喜欢苹果，|那个
        对，但是|请问|我觉得|苹果、""",
    "de": "Ich komme aus,|und dann…",
}
NEITHER = {
    "en": """what is the weather in paris|i like london|turn on the light|what are you looking for
        do you know where she is|i went there yesterday|come in|tell me about paris""",
    "zh": "我喜欢北京|帮我开灯|我要这本书|我不知道他会不会来北京",
    "de": "ich bin und|yes|und",
}


def _cases(kept: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (text.strip(), lang) for lang, rows in kept.items() for row in rows.split("\n") for text in row.split("|")
    ]


@pytest.mark.parametrize(("text", "language"), _cases(FINISHED))
def test_finished_words_need_the_shortest_silence(text: str, language: str) -> None:
    assert looks_finished(text, language)
    assert silence_needed(text, language, S) == S.endpoint_min_s


@pytest.mark.parametrize(("text", "language"), _cases(UNFINISHED))
def test_unfinished_words_are_given_time(text: str, language: str) -> None:
    assert looks_unfinished(text, language)
    assert not looks_finished(text, language)
    assert silence_needed(text, language, S) == S.endpoint_max_s


@pytest.mark.parametrize(("text", "language"), _cases(NEITHER))
def test_other_words_need_the_usual_silence(text: str, language: str) -> None:
    assert silence_needed(text, language, S) == S.endpoint_s


def test_fixed_endpoint_ignores_the_words() -> None:
    fixed = TurnSettings(endpoint_fixed=True)
    for text, language in _cases(FINISHED) + _cases(UNFINISHED):
        assert silence_needed(text, language, fixed) == 0.5


def test_silence_is_never_shorter_than_the_soft_end() -> None:
    eager = TurnSettings(soft_end_s=0.4, endpoint_min_s=0.1)
    assert silence_needed("thank you", "en", eager) == 0.4


def test_a_longer_usual_silence_is_not_undercut_by_the_unfinished_one() -> None:
    patient = TurnSettings(endpoint_s=2.0)
    assert silence_needed("i want the", "en", patient) == 2.0


def test_chinese_calls_know_english_words_and_regions() -> None:
    assert looks_unfinished("我用的是 iPhone and", "zh-CN")
    assert looks_finished("thank you", "zh-TW")
    assert looks_finished("what time is it", "en-US")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("hello there", 2),
        ("don't you", 2),
        ("mm-hm", 2),
        ("你好", 2),
        ("我用 iPhone 打电话。", 6),
        ("こんにちは", 5),
        ("  what,  now?", 2),
        ("我在B站看video。", 6),
    ],
)
def test_units_are_words_or_characters(text: str, count: int) -> None:
    assert units(text) == count


def test_first_units_cut_behind_a_unit() -> None:
    assert first_units("what time is it", 2) == "what time"
    assert first_units("等一下我说", 3) == "等一下"
    assert first_units("用 iPhone 打", 2) == "用 iPhone"
    assert first_units("hello", 0) == ""
    assert first_units("hello", 9) == "hello"


def test_normalised_texts_are_equal_when_their_words_are() -> None:
    assert normalise("What time is it?") == normalise(" what  time is it")
    assert normalise("It’s ＯＫ.") == normalise("it's ok")
    assert normalise("你好，世界！") == normalise("你好世界")
    assert normalise("what time is it") != normalise("what time was it")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("mm hm", "en"),
        ("Mm-hmm.", "en"),
        ("uh huh yeah", "en"),
        ("okay", "en"),
        ("yeah, right, i see", "en"),
        ("嗯", "zh"),
        ("嗯嗯，对对对", "zh"),
        ("好的好的", "zh"),
        ("哦，原来如此", "zh"),
        ("OK，好的", "zh"),
        ("okay", "de"),
    ],
)
def test_back_channels(text: str, language: str) -> None:
    assert only_backchannel(text, language)
    assert not asks_to_stop(text, language)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("...", "en"),
        ("yeah but", "en"),
        ("i see a dog", "en"),
        ("stop", "en"),
        ("嗯但是", "zh"),
        ("对不起", "zh"),
        ("好吃", "zh"),
        ("嗯", "en"),
        ("yeah", "de"),
    ],
)
def test_words_that_are_no_back_channel(text: str, language: str) -> None:
    assert not only_backchannel(text, language)


@pytest.mark.parametrize(
    ("text", "language", "stops"),
    [
        ("stop", "en", True),
        ("Stop!", "en", True),
        ("okay stop", "en", True),
        ("wait wait", "en", True),
        ("hold on a moment", "en", True),
        ("no", "en", True),
        ("hold", "en", False),
        ("the bus stop", "en", False),
        ("i know no one", "en", False),
        ("停", "zh", True),
        ("等等", "zh", True),
        ("等一下", "zh", True),
        ("好的，等一下", "zh", True),
        ("不错", "zh", False),
        ("公交车停了", "zh", False),
        ("", "en", False),
        ("停", "en", False),
    ],
)
def test_words_that_want_the_floor(text: str, language: str, stops: bool) -> None:
    assert asks_to_stop(text, language) is stops
