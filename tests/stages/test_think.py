"""From tokens to clauses on virtual time: sentences that do not wait in vain, and models that fail."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import anyio
import pytest

from server.core.chunker import QUEUED_ENOUGH_S
from server.core.errors import StageError
from server.core.history import History, Item
from server.core.marks import Marks
from server.core.media import Clause, Persona, Token
from server.core.phrases import phrase
from server.core.protocols import Llm
from server.stages.think import FLUSH_S, TOKENS_AHEAD, recite, think
from tests.fakes.providers import FakeLlm
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]

BROKEN = StageError("llm", "llm_broken_off", "as scripted")
EXCUSE = phrase("llm_broken_off", "en")
ASKED = History(items=[Item("1", "user", "well?")])


@dataclass
class Thought:
    """All that came of one answer."""

    clauses: list[Clause] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    """when each clause came, from the request on"""
    failures: list[StageError] = field(default_factory=list)
    unspoken: list[str] = field(default_factory=list)
    marks: Marks = field(default_factory=lambda: Marks(1))

    @property
    def text(self) -> str:
        return "".join(clause.raw for clause in self.clauses)

    def when(self, words: str) -> float:
        """When the clause with these words came."""
        return next(at for clause, at in zip(self.clauses, self.at_s, strict=True) if words in clause.text)


async def thought(llm: Llm, queued_s: Callable[[], float] = lambda: 0.0, language: str = "en") -> Thought:
    made = Thought()
    send, receive = anyio.create_memory_object_stream[Clause](3)
    start = anyio.current_time()

    async def run() -> None:
        persona = Persona("test", language=language)
        await think(llm, ASKED, persona, send, made.marks, queued_s, made.failures.append, made.unspoken.append)

    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(run)
        async for clause in receive:
            made.clauses.append(clause)
            made.at_s.append(anyio.current_time() - start)
    return made


def model(*pieces: str | StageError | float) -> FakeLlm:
    return FakeLlm([list(pieces)])


async def test_clauses_are_numbered_and_join_to_the_answer() -> None:
    llm = model("Good evening to you. The first thing is this, my dear old friend. And then there is one more.")
    made = await thought(llm)
    assert [clause.index for clause in made.clauses] == list(range(len(made.clauses)))
    assert len(made.clauses) == 3
    assert made.text.strip() == llm.answers[0][0]
    assert made.failures == []
    assert llm.asked == [[("user", "well?")]]
    assert list(made.marks.times) == ["llm_request", "llm_token", "clause"]
    assert made.at_s[0] < made.at_s[-1]


async def test_what_nobody_says_is_told_as_unspoken() -> None:
    made = await thought(model("Here it is. \n```\nx = 1\n```\n"))
    assert [clause.text for clause in made.clauses] == ["Here it is."]
    assert len(made.unspoken) == 1
    assert (made.text + made.unspoken[0]).split() == ["Here", "it", "is.", "```", "x", "=", "1", "```"]


async def test_a_complete_sentence_does_not_wait_for_the_next_token() -> None:
    made = await thought(model("I will look it up.", "One moment.", 8.0, "There it is, as I thought."))
    # Six words of 10 ms each; the second sentence is short, and only the silence behind it lets it go.
    assert made.when("One moment") == pytest.approx(0.07 + FLUSH_S, abs=0.011)
    assert made.when("There it is") > 8.0


async def test_words_without_a_full_stop_wait_for_their_end() -> None:
    made = await thought(model("Yes.", "The answer is", 5.0, "forty two."))
    assert [clause.text for clause in made.clauses] == ["Yes.", "The answer is forty two."]
    assert made.at_s[1] > 5.0


async def test_a_sentence_behind_much_voice_is_given_just_before_the_voice_runs_dry() -> None:
    start, asked = anyio.current_time(), []

    def queued_s() -> float:
        asked.append(anyio.current_time() - start)
        return max(0.0, 10.0 - asked[-1])

    made = await thought(model("I will look it up.", "One moment.", 60.0, "There it is."), queued_s)
    assert made.when("One moment") == pytest.approx(10.0 - QUEUED_ENOUGH_S, abs=0.02)
    # Each token asks once, and the silence three times: too early, in time, and not again.
    assert len([at for at in asked if 0.1 < at < 60.0]) == 2


async def test_while_voice_is_held_or_paused_it_is_asked_now_and_then_only() -> None:
    start, asked = anyio.current_time(), []

    def queued_s() -> float:
        asked.append(anyio.current_time() - start)
        return QUEUED_ENOUGH_S + 1e-9 if asked[-1] < 30.0 else 0.0

    made = await thought(model("I will look it up.", "One moment.", 60.0, "There it is."), queued_s)
    assert 30.0 <= made.when("One moment") <= 30.0 + FLUSH_S
    assert len(asked) < 30.0 / FLUSH_S + 20


async def test_after_a_silence_tokens_go_on_as_before() -> None:
    made = await thought(model("One is here.", 1.0, "Two is here.", 1.0, "Three is here.", 1.0, "Four is here."))
    assert [clause.text for clause in made.clauses] == [
        "One is here.",
        "Two is here.",
        "Three is here.",
        "Four is here.",
    ]
    assert made.at_s[1] < 1.0 + 0.1 + FLUSH_S
    assert made.at_s[2] < 2.0 + 0.2 + FLUSH_S


@pytest.mark.parametrize("code", ["llm_unreachable", "llm_timeout", "llm_refused"])
async def test_a_model_that_fails_at_once_is_excused(code: str) -> None:
    error = StageError("llm", code, "as scripted")
    made = await thought(model(error))
    assert made.failures == [error]
    assert made.text == phrase(code, "en")
    assert [clause.index for clause in made.clauses] == list(range(len(made.clauses)))
    assert "clause" in made.marks.times


@pytest.mark.parametrize(
    "said",
    [
        "The answer to that is",
        "Well, my friend. That is so. And the answer",
        "Here is the code:\n```python\nprint('hello. there')\nfor x in",
        "Here it is:\n```\nx = 1\n```",
        "You find it in [the documentation of the",
        "You find it in [the docs](https://example.com/a/",
        "Call `foo_bar.",
        "Fine. 😀",
        "😀",
    ],
)
async def test_a_model_that_breaks_off_is_excused_wherever_it_was(said: str) -> None:
    made = await thought(model(said, BROKEN))
    assert made.failures == [BROKEN]
    assert " ".join(clause.text for clause in made.clauses).endswith(EXCUSE)
    assert [clause.index for clause in made.clauses] == list(range(len(made.clauses)))
    assert made.text == f"{said} {EXCUSE}"  # the scripted model ends each word with a blank
    assert made.unspoken == []


class Broken:
    """Says exactly this, and breaks."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens

    async def reply(self, history: History, persona: Persona) -> AsyncGenerator[Token, None]:
        for token in self._tokens:
            yield Token(token)
        raise BROKEN

    async def warm(self) -> None:
        pass


@pytest.mark.parametrize(
    ("said", "gap"),
    [
        ("The answer", " "),
        ("The answer is.", " "),
        ("The answer is. ", ""),
        ("The answer:\n", ""),
        ("See:\n```\nx = 1", "\n"),
        ("See:\n```\nx = 1\n", ""),
        ("Fine. 😀", " "),
        ("", ""),
    ],
)
async def test_a_blank_or_a_line_lies_between_the_answer_and_the_excuse(said: str, gap: str) -> None:
    made = await thought(Broken(*said))
    assert made.text == f"{said}{gap}{EXCUSE}"
    assert made.clauses[-1].text in EXCUSE


async def test_an_excuse_of_several_clauses_covers_what_was_left_unsaid_once() -> None:
    slow = StageError("llm", "llm_timeout", "as scripted")
    made = await thought(model("See:\n```\nx = 1", slow))
    assert len(made.clauses) == 3
    assert made.text == f"See:\n```\nx = 1 {phrase('llm_timeout', 'en')}"


async def test_a_model_that_breaks_off_while_it_reasons_is_excused_without_its_reasoning() -> None:
    made = await thought(Broken("<think>", "They want to know. Now"))
    assert made.text == EXCUSE
    assert made.clauses[0].index == 0


async def test_the_excuse_is_in_the_personas_language() -> None:
    made = await thought(Broken("我们先看看这个问题。", "答案是"), language="zh")
    assert made.text == "我们先看看这个问题。答案是 " + phrase("llm_broken_off", "zh")
    assert {clause.language for clause in made.clauses} == {"zh"}


async def test_cancelling_closes_the_models_stream() -> None:
    llm = model("I will look it up.", 60.0, "There it is.")
    with anyio.move_on_after(1.0):
        await thought(llm)
    assert (llm.closed, llm.finished) == (1, 0)


async def test_a_model_faster_than_the_voice_has_to_wait() -> None:
    told = 0

    class Torrent(Broken):
        async def reply(self, history: History, persona: Persona) -> AsyncGenerator[Token, None]:
            nonlocal told
            while True:
                told += 1
                yield Token("This is a sentence which is said at once and as it is. ")

    send, receive = anyio.create_memory_object_stream[Clause](3)
    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(think, Torrent(), ASKED, Persona("test"), send, Marks(1), lambda: 0.0, print, print)
        await anyio.sleep(10)
        # The clauses that fit, one in hand, and the tokens that fit.
        assert 4 < told <= 3 + 2 + TOKENS_AHEAD + 1
        tasks.cancel_scope.cancel()
    send.close()


async def test_words_to_say_are_said_as_they_are() -> None:
    send, receive = anyio.create_memory_object_stream[Clause](10)
    marks, unspoken = Marks(1), list[str]()
    async with receive:
        await recite(
            "Exactly these words, my friend. These too:\n```\nx = 1\n```", "en", send, marks, unspoken.append
        )
        clauses = [clause async for clause in receive]
    assert [clause.index for clause in clauses] == list(range(len(clauses)))
    assert " ".join(clause.text for clause in clauses) == "Exactly these words, my friend. These too:"
    assert unspoken == ["```\nx = 1\n```"]
    assert "".join(clause.raw for clause in clauses) == "Exactly these words, my friend. These too:\n"
    assert "clause" in marks.times
