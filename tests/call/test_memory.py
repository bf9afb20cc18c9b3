"""Long conversations: the model writes a summary between turns, and no reply ever waits for it."""

from typing import Any

import pytest

from server.core.errors import StageError
from server.core.events import ReplyRequested
from server.core.history import Item
from server.core.tools import ToolCall
from server.memory import LIMIT_S, QUIET_S, TASK
from tests.call.test_conversation import Stage, staged
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]

LONG = "I once had a cat who liked to sit on the roof and look at all the ships that went out to sea. "
SUMMARY = "They spoke about a cat on a roof."


async def grown(stage: Stage, turns: int = 8) -> None:
    await stage.until_s(0.5)
    for i in range(turns):
        stage.conversation.add_item(Item(f"u{i}", "user", f"Question {i}. {LONG}", spoken=False))
        stage.conversation.add_item(Item(f"a{i}", "assistant", f"Answer {i}. {LONG}", spoken=False))


def ask(stage: Stage, text: str = "well?") -> None:
    stage.conversation.happened(ReplyRequested(text))


def summaries(stage: Stage) -> list[int]:
    """The requests that asked for a summary."""
    return [i for i, system in enumerate(stage.llm.systems) if system == TASK]


async def test_older_turns_become_a_summary_after_the_reply() -> None:
    async with staged(says=[["Fine."], [SUMMARY], ["Good."]], history_tokens=400) as stage:
        await grown(stage)
        ask(stage)
        await stage.until_s(0.6)
        assert len(stage.llm.asked) == 1  # the reply itself waited for nothing
        await stage.until_s(6)
        assert summaries(stage) == [1]
        ((_, said),) = stage.llm.asked[1]
        assert "Person: Question 0." in said
        assert "Assistant: Answer 0." in said
        history = stage.conversation.history
        assert history.summary == SUMMARY
        ask(stage)
        await stage.until_s(9)
        assert summaries(stage) == [1]
        assert "Question 0." not in str(stage.llm.asked[2]) or history.begins is not None
        assert not any("Question 0." in m.text for m in stage.llm.prompts[2])
        assert stage.llm.prompts[2][-1].text.endswith("well?")
        # On the wire nothing was lost.
        assert history.find("u0") is not None


async def test_a_summary_is_written_on() -> None:
    says = [["Fine."], [SUMMARY], ["Good."], ["And a dog."], ["Yes."]]
    async with staged(says=says, history_tokens=400) as stage:
        await grown(stage)
        ask(stage)
        await stage.until_s(6)
        for i in range(8):
            stage.conversation.add_item(Item(f"v{i}", "user", f"More {i}. {LONG}", spoken=False))
        ask(stage)
        await stage.until_s(14)
        ((_, said),) = stage.llm.asked[3]
        assert said.startswith(f"(Earlier: {SUMMARY})")
        assert "Question 0" not in said
        assert stage.conversation.history.summary == "And a dog."


async def test_a_short_conversation_is_not_summarised() -> None:
    async with staged(says=[["Fine."]], history_tokens=2000) as stage:
        await grown(stage, 3)
        ask(stage)
        await stage.until_s(20)
        assert len(stage.llm.asked) == 1


async def test_who_goes_on_talking_is_not_kept_waiting_by_a_summary() -> None:
    says: list[Any] = [["Fine."], [5.0, SUMMARY], ["It is late, go to bed."], [SUMMARY]]
    async with staged((4.0, 5.4), says=says, history_tokens=400) as stage:
        await grown(stage)
        ask(stage)
        await stage.until_s(3.9)
        assert summaries(stage) == [1]
        await stage.until_s(4.3)  # a voice: the model's server is free again
        assert stage.llm.closed == 1
        assert stage.conversation.history.summary == ""
        await stage.until_s(7)
        # The reply is as quick as any, its prompt simply shorter.
        assert 5.9 < min(t for t in stage.sounding() if t > 4) < 5.96
        assert not any("Question 0." in m.text for m in stage.llm.prompts[2])
        assert any("Question 7." in m.text for m in stage.llm.prompts[2])
        await stage.until_s(20)
        assert stage.conversation.history.summary == SUMMARY


@pytest.mark.parametrize(
    "failing", [[StageError("llm", "llm_timeout", "as scripted")], [LIMIT_S + 1, "x"], [" "]], ids=str
)
async def test_a_summary_that_fails_is_left_alone_for_a_while(failing: list[Any]) -> None:
    async with staged(says=[["Fine."], failing, ["Good."]], history_tokens=400) as stage:
        await grown(stage)
        ask(stage)
        await stage.until_s(50)
        assert stage.conversation.history.summary == ""
        for i in range(4):
            ask(stage)
            await stage.until_s(60 + 5 * i)
        assert summaries(stage) == [1]
        assert not any("Question 0." in m.text for m in stage.llm.prompts[-1])
        ask(stage)
        await stage.until_s(90)
        assert len(summaries(stage)) == 2


async def test_a_summary_has_an_end() -> None:
    async with staged(says=[["Fine."], ["and so on " * 5000]], history_tokens=400) as stage:
        await grown(stage)
        ask(stage)
        await stage.until_s(LIMIT_S + QUIET_S + 10)
        assert 0 < len(stage.conversation.history.summary) <= 1500


async def test_what_functions_gave_is_part_of_it() -> None:
    async with staged(says=[["Fine."], [SUMMARY]], history_tokens=400) as stage:
        history = stage.conversation.history
        history.add(Item("u", "user", "weather?"))
        call = ToolCall("c1", "weather", '{"place": "Oslo"}')
        history.add(Item("c", "assistant", call.arguments, kind="function_call", call_id="c1", name="weather"))
        history.add(Item("o", "system", "sunny", kind="function_call_output", call_id="c1"))
        await grown(stage)
        ask(stage)
        await stage.until_s(6)
        ((_, said),) = stage.llm.asked[1]
        assert '(weather was called with {"place": "Oslo"})\n(the result: sunny)' in said
