"""The conversation's memory, how it is told to a model within a budget of tokens, and the marks of a reply."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.history import LEFT, History, Item, Message, transcript
from server.core.marks import STEPS, Marks
from server.core.tokens import tokens
from server.core.tools import CANCELLED, ToolCall, clipped


def history(*items: str) -> History:
    """`u:hello` is the user's, `a:hi` the assistant's, `s:be kind` the system's; `c:1` a call, `o:1` its output."""
    made = History()
    for number, item in enumerate(items):
        made.add(an_item(f"item{number}", item))
    return made


def an_item(item_id: str, item: str) -> Item:
    roles = {"u": "user", "a": "assistant", "s": "system", "c": "assistant", "o": "system"}
    role, text = roles[item[0]], item[2:]
    if item[0] == "c":
        return Item(item_id, role, "{}", kind="function_call", call_id=text, name="f")  # type: ignore[arg-type]
    if item[0] == "o":
        return Item(item_id, role, "out" + text, kind="function_call_output", call_id=text)  # type: ignore[arg-type]
    return Item(item_id, role, text)  # type: ignore[arg-type]


def ids(made: History) -> list[str]:
    return [item.id for item in made.items]


def test_add_appends_and_tells_the_item_before() -> None:
    made = History()
    assert made.add(Item("a", "user", "one")) is None
    assert made.add(Item("b", "assistant", "two")) == "a"
    assert made.add(Item("c", "user", "three")) == "b"
    assert ids(made) == ["a", "b", "c"]


def test_add_after_inserts() -> None:
    made = history("u:one", "a:two", "u:three")
    assert made.add(Item("new", "system", "x"), after="item0") == "item0"
    assert ids(made) == ["item0", "new", "item1", "item2"]
    assert made.add(Item("end", "system", "x"), after="item2") == "item2"
    assert ids(made)[-1] == "end"


def test_add_after_an_item_that_is_gone_appends() -> None:
    made = history("u:one", "a:two")
    assert made.add(Item("new", "user", "x"), after="never") == "item1"


def test_the_oldest_goes_first() -> None:
    made = History(limit=3)
    for number in range(10):
        before = made.add(Item(str(number), "user", "x"))
        assert before == (str(number - 1) if number else None)
        assert len(made.items) <= 3
    assert ids(made) == ["7", "8", "9"]


def test_an_insertion_into_a_full_history_names_its_neighbour() -> None:
    made = History(limit=3)
    for name in "abc":
        made.add(Item(name, "user", name))
    assert made.add(Item("new", "user", "x"), after="b") == "b"
    assert ids(made) == ["b", "new", "c"]
    assert made.add(Item("first", "user", "x"), after="b") is None  # b itself was the oldest
    assert ids(made) == ["first", "new", "c"]


def test_find_and_remove() -> None:
    made = history("u:one", "a:two")
    found = made.find("item1")
    assert found is not None
    assert found.text == "two"
    assert made.remove("item1")
    assert made.find("item1") is None
    assert not made.remove("item1")
    assert ids(made) == ["item0"]


def test_messages_join_neighbours_of_one_role_and_leave_out_the_empty() -> None:
    made = history("s:be kind", "u: hello ", "u:are you there", "a:  ", "u:?", "a:Yes.", "u:")
    assert made.messages() == [("system", "be kind"), ("user", "hello are you there ?"), ("assistant", "Yes.")]
    assert History().messages() == []


def test_a_reply_that_was_cut_ends_in_an_ellipsis() -> None:
    made = history("u:tell me a story", "a:Once upon a")
    made.items[1].status = "incomplete"
    made.add(Item("next", "user", "stop"))
    assert made.messages()[1] == ("assistant", "Once upon a …")
    made.items[1].text = ""  # nothing of it was heard
    assert made.messages() == [("user", "tell me a story stop")]


# ---- as a prompt


def told(made: History) -> list[str]:
    """`a:text+1+2` is the assistant's message with its calls, `t:1:text` a tool's."""
    return [
        f"t:{m.call_id}:{m.text}"
        if m.role == "tool"
        else "+".join([f"{m.role[0]}:{m.text}", *(c.call_id for c in m.calls)])
        for m in made.prompt()
    ]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["u:hi", "a:Hello."], ["u:hi", "a:Hello."]),
        (["u:hi", "c:1", "o:1", "a:Done."], ["u:hi", "a:+1", "t:1:out1", "a:Done."]),
        (["u:hi", "a:Look.", "c:1", "o:1"], ["u:hi", "a:Look.+1", "t:1:out1"]),
        (["u:hi", "c:1", "c:2", "o:2", "o:1"], ["u:hi", "a:+1+2", "t:1:out1", "t:2:out2"]),
        (["u:hi", "c:1", "o:1", "c:2", "o:2"], ["u:hi", "a:+1", "t:1:out1", "a:+2", "t:2:out2"]),
        # A result that came after something else was said stands with its call all the same.
        (["c:1", "a:One moment.", "u:well?", "o:1"], ["a:+1", "t:1:out1", "a:One moment.", "u:well?"]),
        (["u:hi", "c:1", "u:stop"], ["u:hi", "a:+1", f"t:1:{CANCELLED}", "u:stop"]),
        (["o:9", "u:hi"], ["u:hi"]),
        (["u:hi", "c:1", "a:", "o:1"], ["u:hi", "a:+1", "t:1:out1"]),
    ],
)
def test_every_call_is_followed_by_its_result(items: list[str], expected: list[str]) -> None:
    assert told(history(*items)) == expected


def test_a_prompt_carries_what_was_called() -> None:
    (message, result) = history("c:7").prompt()
    assert message == Message("assistant", "", (ToolCall("7", "f", "{}"),))
    assert (result.role, result.call_id) == ("tool", "7")


def test_messages_know_nothing_of_functions() -> None:
    assert history("u:hi", "c:1", "o:1", "a:Done.").messages() == [("user", "hi"), ("assistant", "Done.")]


def test_a_call_and_its_result_go_together() -> None:
    made = History(limit=3)
    for number, item in enumerate(["c:1", "o:1", "u:a", "u:b"]):
        made.add(an_item(f"item{number}", item))
    assert ids(made) == ["item2", "item3"]


def test_an_item_is_put_before_another() -> None:
    made = history("u:one", "a:two")
    assert made.add_before(Item("new", "user", "x"), "item1") == "item0"
    assert ids(made) == ["item0", "new", "item1"]
    assert made.add_before(Item("last", "user", "x"), "gone") == "item1"


# ---- a budget


WORDS = "one two three four five six"  # six tokens, ten with what surrounds a message


def test_tokens_are_estimated() -> None:
    assert tokens("") == 0
    # what GPT-4o's tokenizer makes of them: 19 and 12 to 17
    assert 15 <= tokens("Hello, how are you doing today? I would like to know the weather tomorrow.") <= 24
    assert 12 <= tokens("今天天气怎么样？我想去公园散步。") <= 17
    assert tokens("今" * 100) == 100
    assert tokens("a" * 100) < 30


def test_a_history_within_its_budget_is_told_whole() -> None:
    made = history(*[f"u:{WORDS}", f"a:{WORDS}"] * 5)
    made.fit(100)
    assert made.begins is None
    assert len(made.prompt()) == 10
    made.fit(0)
    assert made.begins is None


def test_a_history_that_outgrew_its_budget_is_cut_by_a_good_part_and_then_left_alone() -> None:
    made = history(*[f"u:{WORDS}", f"a:{WORDS}"] * 6)
    made.fit(100)
    assert made.begins == "item6"  # 60 tokens of 100
    assert made.prompt()[0].role == "user"
    for number in range(2):
        made.add(Item(f"u{number}", "user", WORDS))
        made.add(Item(f"a{number}", "assistant", WORDS))
        made.fit(100)
        assert made.begins == "item6"  # the prompt's beginning stays: a server knows it already
    made.add(Item("u2", "user", WORDS))
    made.fit(100)
    assert made.begins != "item6"


def test_the_last_question_is_told_however_long_it_is() -> None:
    made = history(f"u:{WORDS}", f"a:{WORDS}", "u:" + "今" * 500)
    made.fit(100)
    (message,) = made.prompt()
    assert message.role == "user"
    assert 30 <= tokens(message.text) <= 60
    assert message.text.startswith("今")
    assert "shortened" in message.text


def test_a_long_result_is_shortened_in_the_middle() -> None:
    assert clipped("x" * 50, 50) == "x" * 50
    short = clipped("a" * 500 + "z" * 500, 100)
    assert len(short) == 100
    assert (short[0], short[-1]) == ("a", "z")


def test_what_was_cut_is_summarised_all_the_same() -> None:
    made = history(*[f"u:{WORDS}", f"a:{WORDS}"] * 6)
    made.fit(100)
    old = made.old(100)
    assert old[0].id == "item0"
    assert old[-1].id == "item9"  # the newest third stays as it was said
    made.take_in("They counted to six.", "item9")
    assert (made.begins, made.summarised, made.summary) == ("item10", "item10", "They counted to six.")
    assert made.old(100) == []
    assert [m.text for m in made.prompt()] == [WORDS] * 2
    copy = made.copy()
    assert (copy.begins, copy.summary) == ("item10", made.summary)
    made.take_in("Something else.", "never")
    assert made.summary == "They counted to six."


def test_a_history_without_a_budget_is_never_summarised() -> None:
    assert history(*["u:" + WORDS] * 50).old(0) == []


def test_marks_outlive_what_they_stood_at() -> None:
    made = history(*[f"u:{WORDS}", f"a:{WORDS}"] * 6)
    made.fit(100)
    made.take_in("x", "item6")
    assert made.begins == "item7"
    made.remove("item7")
    assert (made.begins, made.summarised) == ("item8", "item8")


_items = st.lists(st.sampled_from("uaco"), max_size=40)


@settings(max_examples=200, deadline=None)
@given(_items, st.integers(20, 200), st.integers(1, 20), st.data())
def test_no_history_makes_a_prompt_that_a_server_refuses(
    kinds: list[str], budget: int, limit: int, data: st.DataObject
) -> None:
    made = History(limit=limit)
    for number, kind in enumerate(kinds):
        # outputs of calls that there were or were not, before or behind others
        text = str(data.draw(st.integers(0, number))) if kind == "o" else str(number) if kind == "c" else WORDS
        made.add(an_item(f"item{number}", f"{kind}:{text}"))
        made.fit(budget)
        assert len(made.items) <= limit
        if old := made.old(budget):
            made.take_in("summary", old[-1].id)
        waiting: list[str] = []
        for message in made.prompt():
            if message.role == "tool":
                assert message.call_id == waiting.pop(0)
            else:
                assert not waiting
                assert message.text or message.calls
            waiting += [call.call_id for call in message.calls]
        assert not waiting
        asked = [i for i, item in enumerate(made.items) if item.kind == "message" and item.role == "user"]
        if asked:
            assert any(m.role == "user" for m in made.prompt())


def test_the_rest_of_a_cut_is_what_it_should_be() -> None:
    made = history(*[f"u:{WORDS}", f"a:{WORDS}"] * 20)
    made.fit(200)
    cost = sum(tokens(m.text) + 4 for m in made.prompt())
    assert 0.4 * 200 < cost <= LEFT * 200


def test_a_transcript_is_what_people_would_write() -> None:
    made = history("s:It is raining.", "u:hi", "c:1", "o:1", "a:Hel")
    made.items[-1].status = "incomplete"
    assert transcript(made.items, "Mia").splitlines() == [
        "Note: It is raining.",
        "Person: hi",
        "(f was called with {})",
        "(the result: out1)",
        "Mia: Hel …",
    ]


# ---- marks


def test_the_first_note_of_a_step_counts() -> None:
    marks = Marks(4)
    marks.note("speech_end", 10.0)
    marks.note("endpoint", 10.5)
    marks.note("endpoint", 11.0)
    marks.note("audio_packet", 10.6128)
    assert marks.since("speech_end") == {"endpoint": 500.0, "audio_packet": 612.8}


def test_marks_since_another_step() -> None:
    marks = Marks(4)
    assert marks.since("speech_end") == {}
    marks.note("llm_request", 3.0)
    marks.note("endpoint", 3.25)
    assert marks.since("endpoint") == {"llm_request": -250.0}  # it was speculated


@pytest.mark.parametrize("step", STEPS)
def test_every_step_can_be_an_origin(step: str) -> None:
    marks = Marks(1)
    for number, name in enumerate(STEPS):
        marks.note(name, float(number))
    since = marks.since(step)
    assert len(since) == len(STEPS) - 1
    assert all(since[name] == (STEPS.index(name) - STEPS.index(step)) * 1000 for name in since)
