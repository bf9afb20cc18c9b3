"""The chunker: a kept list of traps, and what holds for any text however it is cut into tokens."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.chunker import LOOK_AHEAD_S, QUEUED_ENOUGH_S, Chunker
from server.core.media import Clause
from server.core.spoken import Reasoning, script_runs, speakable


def run(text: str, language: str = "en", size: int = 1) -> tuple[list[Clause], str]:
    """The clauses of a text fed in tokens of `size` characters, and what nobody says."""
    chunker = Chunker(language)
    clauses = [c for i in range(0, len(text), size) for c in chunker.feed(text[i : i + size])]
    clauses += chunker.flush()
    return clauses, chunker.tail


def texts(text: str, language: str = "en") -> list[str]:
    return [clause.text for clause in run(text, language)[0]]


LATER = "Yes. "  # a first clause, so that the rules for later ones hold

# What goes in -> what the voice is given, clause by clause.
TRAPS: list[tuple[str, str, list[str]]] = [
    # the first clause is early
    ("sentence", "Hello! How are you?", ["Hello!", "How are you?"]),
    ("four words", "I think that we, you and me, agree.", ["I think that we,", "you and me, agree."]),
    ("too short a clause", "Well, yes, it is so. Good.", ["Well, yes, it is so.", "Good."]),
    ("fifteen characters", "Congratulations, you won.", ["Congratulations,", "you won."]),
    ("dash", "There are three of them — all red.", ["There are three of them —", "all red."]),
    ("forced", "one two three four five six seven eight nine ten eleven twelve thirteen fourteen",
     ["one two three four five six seven eight nine ten eleven twelve", "thirteen fourteen"]),
    ("one letter is no sentence", "A! Yes.", ["A! Yes."]),
    # later ones are whole sentences
    ("merged", LATER + "One. Two. Three. And so we count until we have enough to say. Then more.",
     ["Yes.", "One. Two. Three. And so we count until we have enough to say.", "Then more."]),
    # full stops that end nothing
    ("decimal", "It costs 3.50 euros. Good.", ["It costs 3.50 euros.", "Good."]),
    ("version", "Take version 3.11.2 of it. Good.", ["Take version 3.11.2 of it.", "Good."]),
    ("thousands", "They are 1,234,567 in all, and more.", ["They are 1,234,567 in all,", "and more."]),
    ("clock", "Come at 10:30 please. Good.", ["Come at 10:30 please.", "Good."]),
    ("title", "Mr. Smith met Dr. Jones. They ate.", ["Mr. Smith met Dr. Jones.", "They ate."]),
    ("e.g.", "Eat fruit, e.g. apples. Good.", ["Eat fruit, for example apples.", "Good."]),
    ("i.e.", "The last, i.e. the best. Good.", ["The last, that is the best.", "Good."]),
    ("U.S.", "The U.S. Army came. Good.", ["The U.S. Army came.", "Good."]),
    ("a.m. within", "At 8 a.m. we eat. Good.", ["At 8 a.m. we eat.", "Good."]),
    ("a.m. at the end", "We eat at 8 a.m. Then we go.", ["We eat at 8 a.m.", "Then we go."]),
    ("etc. within", "Apples etc. are good. Yes.", ["Apples et cetera are good.", "Yes."]),
    ("etc. at the end", "Apples, pears etc. Then nuts.", ["Apples, pears et cetera.", "Then nuts."]),
    ("initial", "Ask J. Smith about it. Good.", ["Ask J. Smith about it.", "Good."]),
    ("I at the end", "You and I. Then she.", ["You and I.", "Then she."]),
    ("No.", "No. I will not.", ["No.", "I will not."]),
    ("No. 5", "Take No. 5 now. Good.", ["Take No. 5 now.", "Good."]),
    ("month", "On Jan. 5 we met. Good.", ["On Jan. 5 we met.", "Good."]),
    ("year", "It was in 2024. Then it ended.", ["It was in 2024.", "Then it ended."]),
    ("ellipsis within", "Well... maybe so. Good.", ["Well... maybe so.", "Good."]),
    ("ellipsis at the end", "Well... Maybe so.", ["Well...", "Maybe so."]),
    ("marks in a row", "Really?! Yes!!! Good.", ["Really?!", "Yes!!! Good."]),
    ("quotes", 'He said "no." Then he left.', ['He said "no."', "Then he left."]),
    ("minus", "It is cold. -5 degrees.", ["It is cold.", "-5 degrees."]),
    # addresses
    ("url", "See https://www.example.com/a.b/c?d=e. It is good.", ["See example dot com.", "It is good."]),
    ("bare host", "Go to example.com now. Good.", ["Go to example dot com now.", "Good."]),
    ("mail", "Write to ann.lee@example.org today. Good.",
     ["Write to ann dot lee at example dot org today.", "Good."]),
    ("file name", "Open main.py first. Good.", ["Open main dot py first.", "Good."]),
    # markdown
    ("bold", "**Hello.** This is *very* __good__. Yes.", ["Hello.", "This is very good. Yes."]),
    ("bold with colon", "**Note:** it is late. Good.", ["Note: it is late.", "Good."]),
    ("heading", "## The plan\nWe go.", ["The plan.", "We go."]),
    ("bullets", LATER + "- red apples\n- green pears\n* blue plums\n",
     ["Yes.", "red apples. green pears. blue plums."]),
    ("numbers", LATER + "1. Wash it.\n2. Dry it.\n", ["Yes.", "1, Wash it. 2, Dry it."]),
    ("tasks", LATER + "- [x] done\n- [ ] open\n", ["Yes.", "done. open."]),
    ("quote", "> To be\n\nGood.", ["To be.", "Good."]),
    ("link", "See [the docs, e.g. here. Yes](https://a.io/b_(c).html) now. Good.",
     ["See the docs, for example here. Yes now.", "Good."]),
    ("picture", "Look: ![a cat](cat.png) nice. Good.", ["Look: a cat nice.", "Good."]),
    ("code span", "Call `foo_bar. baz()` now. Good.", ["Call foo bar. baz now.", "Good."]),
    ("table", LATER + "| name | age |\n|---|--:|\n| Ann | 5 |\n", ["Yes.", "name, age. Ann, 5."]),
    ("rule", "Yes.\n\n---\n\nNo.", ["Yes.", "No."]),
    ("code block", "Here it is:\n```python\nprint('a. b')\n```\nThat prints.", ["Here it is:", "That prints."]),
    ("open code block", "Here:\n```\nx = 1. y", ["Here:"]),
    ("only code", "```\nx\n```\n", []),
    ("html", "This is <b>bold</b>.<br>Good.", ["This is bold. Good."]),
    ("entities", "Salt &amp; pepper. Good.", ["Salt and pepper.", "Good."]),
    ("snake", "Set OPENAI_API_KEY now. Good.", ["Set OPENAI API KEY now.", "Good."]),
    ("product", "It is 3 * 4. Good.", ["It is 3 times 4.", "Good."]),
    # emoji
    ("emoji", "Great 😊! See you 👋🏽 soon 👨‍👩‍👧 :-) Bye.", ["Great!", "See you soon Bye."]),
    ("emoji alone", "Yes. 😊", ["Yes."]),
    ("only emoji", "😊👍", []),
    ("only marks", "... !!! ---", []),
    ("nothing", "", []),
    # reasoning
    ("think", "<think>Hm. What now?</think>\n\nHello. You.", ["Hello.", "You."]),
    ("think upper", "<THINKING>Hm.</THINKING>Hello.", ["Hello."]),
    ("think in the middle", "Hello. <think>Hm. Wait.</think>You there.", ["Hello.", "You there."]),
    ("think never closed", "<think>Hm. What", []),
    ("closing tag alone", "</think>\n\nHello.", ["Hello."]),
    ("less than", "If a < b and c > d then go. Good.", ["If a < b and c > d then go.", "Good."]),
    ("unfinished tag", "It is <thi", ["It is <thi"]),
]  # fmt: skip

CHINESE: list[tuple[str, str, list[str]]] = [
    ("sentence", "你好！今天天气很好。", ["你好！", "今天天气很好。"]),
    ("clause", "今天的天气非常好，我们去散步。", ["今天的天气非常好，", "我们去散步。"]),
    ("short clause waits", "好的，我们去散步。走吧。", ["好的，我们去散步。", "走吧。"]),
    ("forced", "一二三四五六七八九十" * 4, ["一二三四五六七八九十" * 3, "一二三四五六七八九十"]),
    ("merged", "好吧。一。二。我们从一数到很大的数，直到够了为止。完了。",
     ["好吧。", "一。二。我们从一数到很大的数，直到够了为止。", "完了。"]),
    ("decimal", "苹果3.5元一斤。好的。", ["苹果3.5元一斤。", "好的。"]),
    ("quotes", "好吧。他说：“我们明天早上一起去公园散步吧。”然后就走了。",
     ["好吧。", "他说：“我们明天早上一起去公园散步吧。”", "然后就走了。"]),
    ("marks in a row", "真的吗？！好的。", ["真的吗？", "好的。"]),
    ("latin words", "我喜欢用Python和Java写程序。好。", ["我喜欢用Python和Java写程序。", "好。"]),
    ("url", "请看https://example.com/文档。谢谢你。", ["请看example点com文档。", "谢谢你。"]),
    ("dots before characters", "他用的是Python.然后就好了。", ["他用的是Python.", "然后就好了。"]),
    ("ellipsis", "嗯……我想想。好。", ["嗯……我想想。", "好。"]),
    ("bold", "**你好。**世界很大。", ["你好。", "世界很大。"]),
    ("list", "有：\n- 苹果\n- 梨\n", ["有：苹果。", "梨。"]),
    ("emoji", "好的😊。再见👋", ["好的。", "再见"]),
    ("enumeration", "有苹果、梨、香蕉、葡萄、西瓜。好。", ["有苹果、梨、香蕉、葡萄、西瓜。", "好。"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [t[1:] for t in TRAPS], ids=[t[0] for t in TRAPS])
def test_traps(text: str, expected: list[str]) -> None:
    assert texts(text) == expected
    assert {clause.language for clause in run(text)[0]} <= {"en"}


@pytest.mark.parametrize(("text", "expected"), [t[1:] for t in CHINESE], ids=[t[0] for t in CHINESE])
def test_chinese_traps(text: str, expected: list[str]) -> None:
    assert texts(text, "zh") == expected
    assert {clause.language for clause in run(text, "zh")[0]} <= {"zh"}


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("The word is 你好, said so.", "en", [("en", "The word is"), ("zh", "你好,"), ("en", "said so.")]),
        ("你好！How are you doing today?", "zh", [("zh", "你好！"), ("en", "How are you doing today?")]),
        ("Guten Tag! Wie geht es?", "de", [("de", "Guten Tag!"), ("de", "Wie geht es?")]),
        ("Привет! Как дела?", "en", [("ru", "Привет!"), ("ru", "Как дела?")]),
        ("Привіт!", "uk", [("uk", "Привіт!")]),
        ("こんにちは、元気です。", "en", [("ja", "こんにちは、元気です。")]),
        ("안녕하세요. 반갑습니다.", "en", [("ko", "안녕하세요."), ("ko", "반갑습니다.")]),
        ("42!", "zh", [("zh", "42!")]),
        ("好的。42。", "en", [("zh", "好的。"), ("zh", "42。")]),
        ("请看[the docs](https://a.io)这里。", "zh", [("zh", "请看the docs这里。")]),
        ("See [文档](https://a.io/b) here now please.", "en",
         [("en", "See"), ("zh", "文档"), ("en", "here now please.")]),
    ],
)  # fmt: skip
def test_each_script_gets_a_voice_that_can_say_it(text: str, default: str, expected: list[tuple[str, str]]) -> None:
    assert [(clause.language, clause.text) for clause in run(text, default)[0]] == expected


ALPHABET = st.sampled_from(
    [
        *"ab I1.,!?;:\n \t“”\"')(*_`~#|<>-—…，。！？：；、你好界éж😊",
        *(
            "Mr. ",
            "e.g. ",
            "3.5",
            "```\n",
            "\n```",
            "[a, b. c](http://x.io/y)",
            "http://x.io/a. ",
            "a@b.io",
            "**",
            "no. ",
        ),
        *("Hello there. ", "今天天气很好，", "the quick brown fox ", "\n- ", "\n1. ", "| a | b |\n", "x" * 30),
    ]
)
THOUGHTS = st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "<"])
PLAIN = st.lists(ALPHABET, max_size=60).map("".join)
TAGGED = st.builds(lambda a, b, c: f"{a}<think>{b}</think>{c}", PLAIN, PLAIN, PLAIN)


def cut_up(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


@settings(max_examples=300, deadline=None)
@given(st.one_of(PLAIN, TAGGED), st.lists(st.integers(0, 10_000), max_size=40), st.sampled_from(["en", "zh"]))
def test_any_cut_gives_the_same_clauses_and_nothing_is_lost(text: str, cuts: list[int], language: str) -> None:
    whole = Chunker(language)
    expected = [*whole.feed(text), *whole.flush()]
    pieces = Chunker(language)
    clauses = [clause for token in cut_up(text, cuts) for clause in pieces.feed(token)] + pieces.flush()
    assert clauses == expected
    assert pieces.tail == whole.tail

    reasoning = Reasoning()
    visible = reasoning.feed(text) + reasoning.flush()
    assert "".join(clause.raw for clause in clauses) + pieces.tail == visible
    assert [clause.index for clause in clauses] == list(range(len(clauses)))
    for clause in clauses:
        assert re.search(r"\w", clause.text)
        assert clause.text == clause.text.strip()
        assert len(clause.text) < 700


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(PLAIN, THOUGHTS), max_size=8), st.lists(st.tuples(st.integers(0, 9), st.floats(0, 6))))
def test_silence_and_queues_lose_nothing(tokens: list[str], events: list[tuple[int, float]]) -> None:
    chunker = Chunker()
    clauses: list[Clause] = []
    reasoning = Reasoning()
    visible = ""
    for number, token in enumerate(tokens):
        for at, seconds in events:
            if at == number:
                chunker.queued_s = seconds
                clauses += chunker.stale(seconds)
        clauses += chunker.feed(token)
        visible += reasoning.feed(token)
        if reasoning.stray:
            return  # what was pending is dropped then; see below
    clauses += chunker.flush()
    visible += reasoning.flush()
    assert "".join(clause.raw for clause in clauses) + chunker.tail == visible


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "<", "think", ">", "/", "<think>", "</think>", " ", "\n"]), max_size=30))
def test_reasoning_is_the_same_however_it_is_cut(tokens: list[str]) -> None:
    whole = Reasoning()
    text = "<think>" + "".join(tokens) + "</think>."
    expected = whole.feed(text) + whole.flush()
    if whole.stray:
        return
    pieces = Reasoning()
    assert "".join(pieces.feed(char) for char in text) + pieces.flush() == expected


def test_reasoning_whose_beginning_is_missing_is_dropped_as_far_as_it_is_known() -> None:
    chunker = Chunker()
    assert chunker.feed("Okay the user says") == []
    clauses = chunker.feed(" hi</think>\n\nHello. ") + chunker.flush()
    assert [clause.text for clause in clauses] == ["Hello."]


def test_reasoning_that_is_expected_is_never_said() -> None:
    chunker = Chunker(opens_inside=True)
    assert chunker.feed("Okay. The user says hi. I greet. ") == []
    assert [clause.text for clause in chunker.feed("</think>\n\nHello. ")] == ["Hello."]
    unneeded = Chunker(opens_inside=True)
    assert unneeded.feed("Hello. You. ") == []
    assert [clause.text for clause in unneeded.flush()] == ["Hello.", "You."]


def test_the_first_clause_does_not_wait_for_more_than_it_needs() -> None:
    chunker = Chunker()
    assert chunker.feed("Hello.") == []  # may become "Hello.py"
    assert [clause.text for clause in chunker.feed(" ")] == ["Hello."]
    chinese = Chunker("zh")
    assert [clause.text for clause in chinese.feed("你好。")] == ["你好。"]


def test_silence_ends_a_sentence_but_not_a_number() -> None:
    chunker = Chunker()
    chunker.feed("It is late.")
    assert chunker.stale(LOOK_AHEAD_S / 2) == []
    assert [clause.text for clause in chunker.stale(LOOK_AHEAD_S)] == ["It is late."]
    assert chunker.stale(LOOK_AHEAD_S) == []
    for unfinished in ("It costs 3.", "Ask Mr.", "So we go", "Look: [the docs.", "At 8 a.m."):
        chunker = Chunker()
        chunker.feed(unfinished)
        assert chunker.stale(1.0) == []


def test_silence_sends_short_sentences_that_wait_for_company() -> None:
    chunker = Chunker()
    chunker.feed("Yes. ")
    assert chunker.feed("I do. And the") == []
    assert [clause.text for clause in chunker.stale(LOOK_AHEAD_S)] == ["I do."]
    assert [clause.text for clause in chunker.flush()] == ["And the"]


def test_sentences_are_gathered_while_enough_voice_waits() -> None:
    sentence = "This is a sentence of about fifty characters, yes. "
    chunker = Chunker()
    chunker.feed("Yes. ")
    chunker.queued_s = QUEUED_ENOUGH_S + 1
    assert chunker.feed(sentence * 3) == []
    assert chunker.stale(1.0) == []
    assert [clause.text for clause in chunker.feed(sentence)] == [(sentence * 4).strip()]
    assert chunker.feed(sentence) == []
    chunker.queued_s = 1.0  # it has run low: what is complete goes out at once
    assert [clause.text for clause in chunker.feed("N")] == [sentence.strip()]


def test_what_stands_before_a_code_block_does_not_wait_for_its_end() -> None:
    chunker = Chunker()
    chunker.feed("Sure. ")
    chunker.feed("Look:\n")
    assert [clause.text for clause in chunker.feed("```")] == ["Look:"]
    assert chunker.feed("python\nprint('hello. world. ' * 3)\n" * 100) == []
    assert [clause.text for clause in chunker.feed("```\nThat is how it is done in Python, my friend. ")] == [
        "That is how it is done in Python, my friend."
    ]


def test_long_sentences_are_cut_at_their_clauses() -> None:
    text = "Yes. " + "and this goes on, " * 30
    lengths = [len(clause.text) for clause in run(text)[0]]
    assert max(lengths) <= 210
    assert all(clause.text.endswith(",") for clause in run(text)[0][1:])


def test_runs_join_to_the_text() -> None:
    text = "He said 你好 and [链接](http://a.io/b) to `看` me, 42 times。"
    assert "".join(piece for piece, _ in script_runs(text, "en")) == text


def test_speakable_knows_the_language_of_signs() -> None:
    assert speakable("20 °C & more", "en") == "20 degrees Celsius and more"
    assert speakable("20 °C", "zh") == "20 摄氏度"
