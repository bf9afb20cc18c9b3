"""Functions that the model calls in a conversation, on virtual time: this server's and the page's."""

import json
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from server.core.errors import RequestError, StageError, ToolError
from server.core.events import Interrupted, PeerLost, ReplyRequested, State
from server.core.history import Item
from server.core.notices import (
    FunctionCalled,
    FunctionChanged,
    ItemRemoved,
    ReplyCreated,
    ReplyDone,
    ReplyText,
    ReplyTruncated,
    StateChanged,
)
from server.core.phrases import FILLERS
from server.core.settings import ToolSettings
from server.core.tokens import Usage
from server.core.tools import CANCELLED, NOTHING, TIMED_OUT, Tool, ToolCall, ToolOffer
from tests.call.test_conversation import Stage, staged
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]

CALL = ToolCall("c1", "weather", '{"place": "Oslo"}')
OTHER = ToolCall("c2", "clock", "{}")
WEATHER = Tool("weather")
ASKED = (1.0, 2.4)


@dataclass
class Fake:
    """A function of the server's that takes its time."""

    name: str = "weather"
    result: str = "It is sunny."
    takes_s: float = 0.1
    error: Exception | None = None
    called: list[tuple[float, str]] = field(default_factory=list)
    cancelled: int = 0

    @property
    def tool(self) -> Tool:
        return Tool(self.name)

    async def call(self, arguments: str) -> str:
        self.called.append((anyio.current_time(), arguments))
        try:
            await anyio.sleep(self.takes_s)
        except BaseException:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.result


def offering(*functions: Fake, **settings: Any) -> dict[str, Any]:
    return {"functions": {f.name: f for f in functions}, "tools": ToolSettings(**settings)}


def kinds(stage: Stage) -> list[str]:
    return [
        item.role if item.kind == "message" else item.kind.removeprefix("function_")
        for item in stage.conversation.history.items
    ]


def output(stage: Stage, call_id: str = "c1") -> str:
    """The one output that the call has."""
    (item,) = [i for i in stage.conversation.history.items if i.kind.endswith("output") and i.call_id == call_id]
    return item.text


def every_call_has_its_result(stage: Stage) -> bool:
    items = stage.conversation.history.items
    calls = [i.call_id for i in items if i.kind == "function_call"]
    return sorted(calls) == sorted(i.call_id for i in items if i.kind == "function_call_output")


# ---- functions of this server's


async def test_a_function_is_called_and_its_result_spoken() -> None:
    weather = Fake()
    async with staged(ASKED, says=[["Let me see.", CALL], ["It is sunny in Oslo."]], **offering(weather)) as stage:
        await stage.until_s(9)
        assert [arguments for _, arguments in weather.called] == [CALL.arguments]
        assert stage.texts()[-1] == ("assistant", "Let me see. It is sunny in Oslo.")
        assert kinds(stage) == ["user", "call", "call_output", "assistant"]
        assert output(stage) == "It is sunny."
        told = stage.llm.prompts[-1]
        assert [m.role for m in told] == ["user", "assistant", "tool"]
        assert (told[1].text, told[1].calls, told[2].text) == ("Let me see.", (CALL,), "It is sunny.")
        assert [n.status for n in stage.told(FunctionChanged)] == ["called", "done"]
        assert len(stage.told(ReplyCreated)) == 1
        assert [n.status for n in stage.told(ReplyDone)] == ["completed"]
        assert stage.conversation.state is State.LISTENING


async def test_what_all_of_its_requests_cost_is_told_with_the_reply() -> None:
    async with staged(ASKED, says=[["Let me see.", CALL], ["It is sunny in Oslo."]], **offering(Fake())) as stage:
        stage.llm.cost = (100, 60, 7)
        await stage.until_s(9)
        (done,) = stage.told(ReplyDone)
        assert done.usage == Usage(2, 200, 120, 14)


async def test_nothing_is_called_before_the_turn_is_committed() -> None:
    weather = Fake()
    async with staged(ASKED, says=[[CALL], ["It is sunny in Oslo."]], **offering(weather)) as stage:
        await stage.until_s(2.88)
        # The model has been asked in the pause and has answered, but the turn is still open.
        assert len(stage.llm.asked) == 1
        assert stage.llm.finished == 1
        assert weather.called == []
        await stage.until_s(8)
        ((at_s, _),) = weather.called
        assert 2.89 < at_s - stage.origin < 2.95
        assert stage.texts()[-1] == ("assistant", "It is sunny in Oslo.")


async def test_a_speculation_that_is_thrown_away_calls_nothing() -> None:
    weather = Fake()
    says: list[Any] = [[CALL], ["It is late."]]
    async with staged(
        (1.0, 2.0), (2.4, 3.4), hears=("what time is it now please",), says=says, **offering(weather)
    ) as stage:
        await stage.until_s(9)
        assert len(stage.llm.asked) == 2
        assert weather.called == []
        assert kinds(stage) == ["user", "assistant"]


async def test_functions_called_together_run_together() -> None:
    both = Fake(takes_s=0.8), Fake("clock", "noon", takes_s=0.8)
    async with staged(ASKED, says=[[CALL, OTHER], ["Sunny, and noon."]], **offering(*both)) as stage:
        await stage.until_s(8)
        assert both[0].called[0][0] == both[1].called[0][0]
        assert kinds(stage) == ["user", "call", "call", "call_output", "call_output", "assistant"]
        told = stage.llm.prompts[-1]
        assert told[1].calls == (CALL, OTHER)
        assert [(m.call_id, m.text) for m in told[2:]] == [("c1", "It is sunny."), ("c2", "noon")]
        assert not any(text in stage.texts()[-1][1] for text in FILLERS["en"])


async def test_a_slow_function_is_covered_with_words() -> None:
    async with staged(ASKED, says=[[CALL], ["It is sunny in Oslo."]], **offering(Fake(takes_s=9.0))) as stage:
        await stage.until_s(16)
        first = stage.sounding()[0]
        assert 2.9 + 1.2 < first < 2.9 + 1.5
        # The second sentence comes when there was silence again, and the answer behind both.
        assert stage.texts()[-1] == ("assistant", f"{FILLERS['en'][0]} {FILLERS['en'][1]} It is sunny in Oslo.")
        assert [m.role for m in stage.llm.prompts[-1]] == ["user", "assistant", "tool"]


async def test_a_model_that_announces_what_it_does_needs_no_cover_while_it_speaks() -> None:
    announced = "I will have a look at the weather in Oslo for you now, that takes a moment."
    async with staged(ASKED, says=[[announced, CALL], ["Sunny."]], **offering(Fake(takes_s=2.5))) as stage:
        await stage.until_s(12)
        assert stage.texts()[-1] == ("assistant", announced + " Sunny.")


@pytest.mark.parametrize("takes_s", [1e6, 14.9])
async def test_a_function_has_a_time_limit(takes_s: float) -> None:
    weather = Fake(takes_s=takes_s)
    async with staged(ASKED, says=[[CALL], ["I cannot see it."]], **offering(weather)) as stage:
        await stage.until_s(30)
        assert output(stage) == (TIMED_OUT if takes_s > 15 else "It is sunny.")
        assert weather.cancelled == (takes_s > 15)
        assert stage.texts()[-1][1].endswith("I cannot see it.")
        assert stage.conversation.state is State.LISTENING


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ToolError("there is no such town"), "there is no such town"),
        (ZeroDivisionError("secret"), "the function failed"),
    ],
)
async def test_a_function_that_fails_is_told_to_the_model(
    error: Exception, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with staged(ASKED, says=[[CALL], ["Where is that?"]], **offering(Fake(error=error))) as stage:
        await stage.until_s(8)
        assert json.loads(output(stage)) == {"error": told}
        assert stage.texts()[-1] == ("assistant", "Where is that?")
        assert stage.told(FunctionChanged)[-1].status == "failed"
        assert ("secret" in caplog.text) == isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (ToolCall("c1", "dance"), "there is no function 'dance'"),
        (ToolCall("c1", "weather", "{}", "the arguments are not JSON"), "the arguments are not JSON"),
        (ToolCall("c1", "weather", json.dumps({"place": "x" * 300})), "longer than 200 bytes"),
    ],
)
async def test_a_call_that_cannot_be_made_is_told_to_the_model(call: ToolCall, told: str) -> None:
    weather = Fake()
    settings = offering(weather, argument_bytes=200)
    async with staged(ASKED, says=[[call], ["Never mind."]], **settings) as stage:
        await stage.until_s(8)
        assert weather.called == []
        assert told in output(stage)
        assert stage.texts()[-1] == ("assistant", "Never mind.")


async def test_results_and_rounds_and_calls_are_bounded() -> None:
    weather = Fake(result="x" * 5000)
    again: list[Any] = [[CALL, *[ToolCall(f"d{i}", "weather") for i in range(20)]]]
    says = [*again, [ToolCall("c2", "weather")], ["That is all."]]
    async with staged(ASKED, says=says, **offering(weather, rounds=2, calls=3, result_chars=100)) as stage:
        await stage.until_s(10)
        assert len(output(stage)) == 100
        assert len(weather.called) == 3 + 1
        # In the last request there is nothing left to call.
        assert [offer is NOTHING for offer in stage.llm.offers] == [False, False, True]
        assert every_call_has_its_result(stage)


async def test_words_over_a_running_function_cancel_it_and_its_late_result_is_noted() -> None:
    weather = Fake(takes_s=4.0)
    async with staged(
        ASKED, (5.0, 6.4), hears=("what is the weather", "never mind stop it"),
        says=[["I will look that up in my book of the weather.", CALL], ["All right."]], **offering(weather),
    ) as stage:  # fmt: skip
        await stage.until_s(6.5)
        assert stage.told(ReplyTruncated)
        assert output(stage) == CANCELLED
        await stage.until_s(6.8)  # the next reply is asked for with the call's end in its prompt
        assert [m.text for m in stage.llm.prompts[-1] if m.role == "tool"] == [CANCELLED]
        await stage.until_s(12)
        assert json.loads(output(stage))["output"] == "It is sunny."
        assert "too late" in output(stage)
        assert [n.status for n in stage.told(FunctionChanged)] == ["called", "late"]
        assert stage.texts()[-1] == ("assistant", "All right.")
        assert "sunny" not in "".join(stage.llm.asked[-1][-1])


async def test_going_on_before_anything_was_heard_cancels_it_too() -> None:
    async with staged(
        ASKED, (3.1, 4.1), hears=("what is the weather", "in london please"),
        says=[[CALL], ["Rain."]], **offering(Fake(takes_s=3.0, name="weather")),
    ) as stage:  # fmt: skip
        await stage.until_s(4.2)
        assert output(stage) == CANCELLED
        await stage.until_s(9)
        assert stage.llm.asked[-1][-1] == ("user", "what is the weather in london please")
        assert stage.texts()[-1] == ("assistant", "Rain.")


async def test_a_call_that_ends_while_a_function_runs_leaves_nothing() -> None:
    weather = Fake(takes_s=14.0)
    async with staged(ASKED, says=[[CALL], ["Sunny."]], **offering(weather)) as stage:
        await stage.until_s(4)
    assert weather.cancelled == 1


async def test_abandoned_functions_do_not_pile_up() -> None:
    weather = Fake(takes_s=14.0)
    says: list[Any] = [[ToolCall(f"c{i}", "weather")] for i in range(6)]
    async with staged(says=says, **offering(weather, calls=2, timeout_s=15)) as stage:
        for i in range(6):
            await stage.until_s(1 + i)
            stage.conversation.add_item(Item(f"u{i}", "user", "well?", spoken=False))
            stage.conversation.request(ReplyRequested(""))
        await stage.until_s(6.5)
        assert len(weather.called) == 2
        assert "too many functions" in output(stage, "c3")


async def test_while_a_function_runs_the_call_is_not_given_up() -> None:
    # Longer than a reply may be silent.
    async with staged(ASKED, says=[[CALL], ["At last."]], **offering(Fake(takes_s=40), timeout_s=50)) as stage:
        await stage.until_s(60)
        assert stage.texts()[-1][1].endswith("At last.")
        assert [n.status for n in stage.told(ReplyDone)] == ["completed"]


# ---- functions of the page's


def of_page(stage: Stage, *tools: Tool, choice: str | None = None) -> None:
    stage.conversation.toolbox.declare(tools or (WEATHER,), choice)


async def test_the_page_is_asked_and_its_result_spoken_when_it_wants_a_reply() -> None:
    async with staged(ASKED, says=[["One look.", CALL], ["It is sunny in Oslo."]]) as stage:
        of_page(stage)
        await stage.until_s(3.0)
        (called,) = stage.told(FunctionCalled)
        assert called.response_id == stage.told(ReplyCreated)[0].response_id
        item = stage.conversation.history.find(called.item_id)
        assert item is not None
        assert (item.call_id, item.name, item.text) == ("c1", "weather", CALL.arguments)
        stage.conversation.answer("c1", "sunny", "mine")
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(9)
        assert kinds(stage) == ["user", "assistant", "call", "call_output", "assistant"]
        assert next(t for r, t in stage.texts() if r == "assistant") == "One look."
        assert stage.texts()[-1] == ("assistant", "It is sunny in Oslo.")
        # The announcement was not cut by the reply that followed it.
        assert [n.status for n in stage.told(ReplyDone)] == ["completed", "completed"]
        told = stage.llm.prompts[-1]
        assert [(m.role, m.text) for m in told] == [
            ("user", "what time is it"), ("assistant", "One look."), ("tool", "sunny")
        ]  # fmt: skip


async def test_one_reply_may_have_functions_of_its_own() -> None:
    clock = ToolOffer((Tool("clock"),), "required")
    says: list[Any] = [["Well."], [OTHER], ["It is noon."]]
    async with staged(ASKED, says=says, **offering(Fake())) as stage:
        of_page(stage, Tool("lamp"))
        await stage.until_s(5)
        stage.conversation.request(ReplyRequested("What time is it?", tools=clock))
        await stage.until_s(6)
        offered = [[tool.name for tool in offer.tools] for offer in stage.llm.offers]
        assert offered == [["weather", "lamp"], ["weather", "clock"]]  # the server's own stay
        assert stage.llm.offers[-1].choice == "required"
        assert len(stage.told(FunctionCalled)) == 1
        stage.conversation.answer(OTHER.call_id, "noon", "mine")
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(10)
        assert stage.texts()[-1] == ("assistant", "It is noon.")
        assert [tool.name for tool in stage.llm.offers[-1].tools] == ["weather", "lamp"]  # for that one reply only


async def test_a_replys_own_functions_are_checked_as_the_sessions_are() -> None:
    async with staged(ASKED, **offering(Fake())) as stage:
        box = stage.conversation.toolbox
        with pytest.raises(RequestError, match="has a function 'weather' itself"):
            box.checked([Tool("weather")], None)
        with pytest.raises(RequestError, match="no function 'lamp'"):
            box.checked([Tool("clock")], "lamp")
        assert box.page.tools == ()


async def test_without_a_wish_for_a_reply_there_is_none() -> None:
    async with staged(ASKED, says=[[CALL], ["It is sunny in Oslo."]]) as stage:
        of_page(stage)
        await stage.until_s(3.5)
        assert [(n.status, n.text) for n in stage.told(ReplyDone)] == [("completed", "")]
        stage.conversation.answer("c1", "sunny", "mine")
        await stage.until_s(30)
        assert len(stage.llm.asked) == 1
        assert not stage.sounding()


async def test_a_reply_waits_until_every_call_is_answered() -> None:
    async with staged(ASKED, says=[[CALL, OTHER], ["Sunny, and noon."]]) as stage:
        of_page(stage, WEATHER, Tool("clock"))
        await stage.until_s(3.5)
        stage.conversation.answer("c1", "sunny", "o1")
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(4.0)
        assert len(stage.llm.asked) == 1
        stage.conversation.answer("c2", "noon", "o2")
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(9)
        assert len(stage.llm.asked) == 2
        assert [m.text for m in stage.llm.prompts[-1] if m.role == "tool"] == ["sunny", "noon"]
        assert stage.texts()[-1] == ("assistant", "Sunny, and noon.")


async def test_a_slow_page_is_covered_and_its_answer_waits_for_the_sentence() -> None:
    async with staged(ASKED, says=[[CALL], ["It is sunny in Oslo."]]) as stage:
        of_page(stage)
        await stage.until_s(5.0)
        assert stage.conversation.state is State.SPEAKING
        stage.conversation.answer("c1", "sunny", "mine")
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(12)
        assert [t for r, t in stage.texts() if r == "assistant"] == [FILLERS["en"][0], "It is sunny in Oslo."]
        assert not stage.told(ReplyTruncated)
        # The cover stands before the call: the model goes on from the result.
        assert [m.role for m in stage.llm.prompts[-1]] == ["user", "assistant", "tool"]


async def test_a_page_that_never_answers_is_given_up_and_the_model_told() -> None:
    async with staged(ASKED, says=[[CALL], ["I cannot see it."]]) as stage:
        of_page(stage)
        await stage.until_s(40)
        assert output(stage) == TIMED_OUT
        assert stage.texts()[-1] == ("assistant", "I cannot see it.")
        assert stage.conversation.state is State.LISTENING


async def test_a_new_turn_cancels_the_pages_calls_and_a_late_result_is_noted_not_spoken() -> None:
    async with staged(
        ASKED, (3.4, 4.8), hears=("what is the weather", "never mind stop it"), says=[[CALL], ["All right."]]
    ) as stage:
        of_page(stage)
        await stage.until_s(5.32)
        assert output(stage) == CANCELLED
        placeholder = next(i for i in stage.conversation.history.items if i.kind == "function_call_output")
        stage.conversation.answer("c1", "sunny", "mine")
        with pytest.raises(RequestError, match="too late"):
            stage.conversation.request(ReplyRequested(""))
        await stage.until_s(12)
        assert stage.texts()[-1] == ("assistant", "All right.")
        assert len(stage.llm.asked) == 2
        assert not stage.told(ReplyTruncated)
        assert json.loads(output(stage))["output"] == "sunny"
        assert [n.item_id for n in stage.told(ItemRemoved)] == [placeholder.id]
        assert stage.conversation.history.find("mine") is not None
        # A wish for a reply that has nothing to do with it is met again.
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(15)
        assert len(stage.llm.asked) == 3


async def test_a_result_that_comes_while_the_person_speaks_does_not_cut_them_off() -> None:
    async with staged(
        ASKED, (3.4, 4.8), hears=("what is the weather", "in oslo i mean"), says=[[CALL], ["Sunny."]]
    ) as stage:
        of_page(stage)
        await stage.until_s(4.0)
        assert stage.conversation.state is State.HEARING
        stage.conversation.answer("c1", "sunny", "mine")
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(12)
        assert [t for r, t in stage.texts() if r == "user"] == ["what is the weather", "in oslo i mean"]
        assert [m.text for m in stage.llm.prompts[-1] if m.role == "tool"] == ["sunny"]
        assert len(stage.llm.asked) == 2


async def test_a_noise_only_delays_the_reply_to_a_result() -> None:
    async with staged(ASKED, (3.4, 3.6), hears=("what is the weather",), says=[[CALL], ["Sunny."]]) as stage:
        of_page(stage)
        await stage.until_s(3.7)
        assert stage.conversation.state is State.HEARING
        stage.conversation.answer("c1", "sunny", "mine")
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(9)
        assert stage.texts()[-1] == ("assistant", "Sunny.")


@pytest.mark.parametrize("event", [Interrupted(), PeerLost()])
async def test_an_interruption_gives_the_pages_calls_up(event: Interrupted | PeerLost) -> None:
    async with staged(ASKED, says=[[CALL], ["Sunny."]]) as stage:
        of_page(stage)
        await stage.until_s(3.5)
        stage.conversation.happened(event)
        await stage.until_s(30)
        assert output(stage) == CANCELLED
        assert not stage.sounding()


async def test_words_over_the_announcement_cancel_the_pages_call() -> None:
    announced = "I will have a look at the weather in Oslo for you now, that takes a moment."
    async with staged(
        ASKED,
        (5.2, 6.6),
        hears=("what is the weather", "no wait please stop"),
        says=[[announced, CALL], ["All right."]],
    ) as stage:
        of_page(stage)
        await stage.until_s(6.5)
        assert stage.told(ReplyTruncated)
        assert output(stage) == CANCELLED


async def test_both_kinds_together() -> None:
    clock = Fake("clock", "noon", takes_s=0.5)
    async with staged(ASKED, says=[[CALL, OTHER], ["Sunny, and noon."]], **offering(clock)) as stage:
        of_page(stage)
        await stage.until_s(4.0)
        assert [offered.name for offered in stage.llm.offers[0].tools] == ["clock", "weather"]
        assert len(clock.called) == 1
        assert len(stage.told(FunctionCalled)) == 1
        stage.conversation.answer("c1", "sunny", "mine")
        stage.conversation.request(ReplyRequested(""))
        await stage.until_s(9)
        assert stage.texts()[-1] == ("assistant", "Sunny, and noon.")
        assert sorted(m.text for m in stage.llm.prompts[-1] if m.role == "tool") == ["noon", "sunny"]
        assert every_call_has_its_result(stage)


async def test_a_page_that_must_be_asked_is_asked_once_and_rounds_are_counted() -> None:
    says: list[Any] = [[ToolCall(f"c{i}", "weather")] for i in range(3)] + [["Enough."]]
    async with staged(ASKED, says=says, tools=ToolSettings(rounds=3)) as stage:
        of_page(stage, choice="required")
        for i in range(3):
            await stage.until_s(3.5 + i)
            stage.conversation.answer(f"c{i}", "sunny", f"o{i}")
            stage.conversation.request(ReplyRequested(""))
        await stage.until_s(12)
        assert [offer.choice for offer in stage.llm.offers[:3]] == ["required", "auto", "auto"]
        assert stage.llm.offers[3] is NOTHING
        assert stage.texts()[-1] == ("assistant", "Enough.")
        stage.conversation.happened(ReplyRequested("and now?"))
        await stage.until_s(15)
        assert stage.llm.offers[4].choice == "required"


async def test_a_late_result_does_not_keep_another_from_being_given_up() -> None:
    async with staged(says=[[CALL], ["All right."], [OTHER], ["I do not know."]]) as stage:
        of_page(stage, WEATHER, Tool("clock"))
        await stage.until_s(0.5)
        stage.conversation.happened(ReplyRequested("weather?"))
        await stage.until_s(1.5)
        stage.conversation.happened(ReplyRequested("never mind"))
        await stage.until_s(4)
        stage.conversation.happened(ReplyRequested("what time is it?"))
        await stage.until_s(4 + 14.5)
        stage.conversation.answer("c1", "sunny", "late")
        await stage.until_s(25)
        assert output(stage, "c2") == TIMED_OUT
        assert stage.texts()[-1] == ("assistant", "I do not know.")


async def test_nobody_asked_for_that() -> None:
    async with staged(ASKED, says=[[CALL], ["Sunny."]]) as stage:
        of_page(stage)
        await stage.until_s(3.5)
        with pytest.raises(RequestError, match="never asked for"):
            stage.conversation.answer("c7", "x", "o")
        stage.conversation.answer("c1", "sunny", "o")
        with pytest.raises(RequestError, match="has its result already"):
            stage.conversation.answer("c1", "rainy", "p")
        assert output(stage) == "sunny"


async def test_what_a_page_may_declare() -> None:
    async with staged(**offering(Fake("clock"))) as stage:
        box = stage.conversation.toolbox
        for tools, words in (([Tool("clock")], "has a function 'clock'"), ([Tool("a"), Tool("a")], "one name")):
            with pytest.raises(RequestError, match=words):
                box.declare(tools, None)
        with pytest.raises(RequestError, match="no function 'b'"):
            box.declare([Tool("a")], "b")
        assert box.page.tools == ()
        box.declare([Tool("a")], "a")
        box.declare([Tool("b")], None)
        assert box.page.choice == "auto"


async def test_a_model_that_fails_after_its_function_is_excused() -> None:
    broken = StageError("llm", "llm_broken_off", "as scripted")
    async with staged(ASKED, says=[[CALL], [broken]], **offering(Fake())) as stage:
        await stage.until_s(9)
        assert stage.texts()[-1][1].startswith("Sorry")
        assert every_call_has_its_result(stage)


async def test_the_text_that_was_told_is_the_text_that_was_kept() -> None:
    async with staged(ASKED, says=[["Hm 🙂", CALL], ["It is **sunny**."]], **offering(Fake(takes_s=3))) as stage:
        await stage.until_s(12)
        told = "".join(n.delta for n in stage.told(ReplyText))
        assert told.strip() == stage.texts()[-1][1]
        assert told == f"Hm 🙂 {FILLERS['en'][0]} It is **sunny**. "
        states = [n.state for n in stage.told(StateChanged)]
        assert states == [State.HEARING, State.THINKING, State.SPEAKING, State.LISTENING]
