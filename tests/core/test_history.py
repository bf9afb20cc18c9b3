"""The conversation's memory, and the marks of a reply."""

import pytest

from server.core.history import History, Item
from server.core.marks import STEPS, Marks


def history(*items: str) -> History:
    """`u:hello` is the user's, `a:hi` the assistant's, `s:be kind` the system's."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    made = History()
    for number, item in enumerate(items):
        made.add(Item(f"item{number}", roles[item[0]], item[2:]))  # type: ignore[arg-type]
    return made


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
