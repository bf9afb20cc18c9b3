"""One reply, made and cancelled as a whole, on virtual time."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import anyio
import pytest

from server.core.errors import StageError
from server.core.history import History, Item
from server.core.media import MEDIA_RATE, Clause, Persona, Samples, Speech, Voice
from server.core.protocols import Llm, Tts
from server.reply import CLAUSES_AHEAD, PIECES_AHEAD, QUEUED_LIMIT, WAIT_S, Makers, Reply
from tests.fakes.providers import FakeLlm, FakeTts
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]

LONG = "This is a sentence of about fifty characters, one more. "


@dataclass
class Call:
    """What a reply tells; its voice is heard as time goes on, unless it is held."""

    held: bool = False
    placed: list[Speech] = field(default_factory=list)
    told: list[Clause] = field(default_factory=list)
    failures: list[StageError] = field(default_factory=list)
    made: int = 0
    asked: int = 0
    """how often it was asked how much is queued"""
    most: int = 0
    """samples queued at most"""
    _end: int = 0
    """sample behind the last piece"""

    def reply(self, llm: Llm, tts: Tts, say: str = "") -> Reply:
        return Reply(
            1,
            "resp",
            "item",
            History(items=[Item("1", "user", "well?")]),
            Makers(llm, tts, Persona("test"), Voice()),
            say=say,
            place=self._place,
            queued=self._queued,
            told=lambda _, clause: self.told.append(clause),
            failed=lambda _, error: self.failures.append(error),
            made=self._made,
        )

    def _now(self) -> int:
        return round(anyio.current_time() * MEDIA_RATE)

    def _left(self) -> int:
        return sum(p.samples for p in self.placed) if self.held else max(0, self._end - self._now())

    def _queued(self) -> Samples:
        self.asked += 1
        return Samples(self._left())

    def _place(self, reply: Reply, speech: Speech) -> None:
        self._end = max(self._end, self._now()) + speech.samples
        self.placed.append(speech)
        self.most = max(self.most, self._left())

    def _made(self, reply: Reply) -> None:
        assert reply.complete
        self.made += 1


class Breaking:
    """A voice with a fault of its own."""

    languages: Sequence[str] = ("*",)
    voices: Sequence[str] = ()

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        if clause.index:
            raise ZeroDivisionError
        yield Speech(clause, b"\1\1" * 4800, MEDIA_RATE)


async def test_it_is_told_placed_and_made() -> None:
    call, llm = Call(), FakeLlm([["It is late. Go to bed, my dear old friend, it is time."]])
    reply = call.reply(llm, FakeTts())
    await reply.run()
    assert reply.text.strip() == llm.answers[0][0]
    assert reply.text == "".join(clause.raw for clause in call.told)
    assert [speech.clause.index for speech in call.placed if speech.last] == [0, 1]
    assert (call.made, reply.voiced, call.failures) == (1, True, [])


CODE = "Here it is:\n```\nx = 1\n```\n"


@pytest.mark.parametrize("say", ["", CODE])
async def test_what_no_voice_says_is_kept_for_the_page(say: str) -> None:
    call = Call()
    reply = call.reply(FakeLlm([[CODE]]), FakeTts(), say)
    await reply.run()
    assert [clause.text for clause in call.told] == ["Here it is:"]
    assert (reply.text + reply.unspoken).strip() == CODE.strip()
    assert reply.unspoken.startswith("```")


async def test_words_to_say_do_not_ask_the_model() -> None:
    call, llm = Call(), FakeLlm([["Something else."]])
    await call.reply(llm, FakeTts(), "Exactly these words.").run()
    assert [clause.text for clause in call.told] == ["Exactly these words."]
    assert llm.asked == []


async def test_what_breaks_inside_breaks_this_reply_only(caplog: pytest.LogCaptureFixture) -> None:
    call, llm = Call(), FakeLlm([["It is late. Go to bed, my dear old friend, it is time.", 60.0, "Really."]])
    reply = call.reply(llm, Breaking())
    with anyio.fail_after(10):
        await reply.run()
    assert [error.code for error in call.failures] == ["internal"]
    assert call.made == 1
    assert [speech.clause.index for speech in call.placed] == [0]
    assert llm.closed == 1
    assert "ZeroDivisionError" in caplog.text


async def test_a_model_and_a_voice_that_both_fail_are_both_told() -> None:
    call = Call()
    reply = call.reply(FakeLlm([[StageError("llm", "llm_timeout", "as scripted")]]), FakeTts(fails=True))
    await reply.run()
    assert {error.code for error in call.failures} == {"llm_timeout", "tts_broken"}
    assert call.made == 1
    assert not reply.voiced
    assert reply.text.startswith("Sorry")


@pytest.mark.parametrize("after_s", [0.005, 0.1, 1.0])
async def test_cancelling_closes_its_streams_and_nothing_more_is_told(after_s: float) -> None:
    call, llm, tts = Call(), FakeLlm([[LONG * 3, 60.0, "Really."]]), FakeTts(first_s=0.5)
    reply = call.reply(llm, tts)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reply.run)
        await anyio.sleep(after_s)
        reply.cancel()
        told = len(call.told)
        await anyio.sleep(100)
    assert len(call.told) == told
    assert (call.made, call.failures, reply.complete) == (0, [], False)
    assert llm.closed == 1
    assert llm.finished == 0


async def test_a_reply_that_is_cancelled_before_it_begins_makes_nothing() -> None:
    call, llm, tts = Call(), FakeLlm([["It is late."]]), FakeTts()
    reply = call.reply(llm, tts)
    reply.cancel()
    await reply.run()
    assert (call.told, call.failures, call.made, llm.finished, tts.said) == ([], [], 0, 0, [])


async def test_voice_is_not_made_far_ahead_and_the_wait_is_computed() -> None:
    call = Call()
    reply = call.reply(FakeLlm([[LONG * 60]]), FakeTts())
    start = anyio.current_time()
    await reply.run()
    spoken = sum(speech.samples for speech in call.placed)
    assert spoken > 5 * QUEUED_LIMIT
    piece = max(speech.samples for speech in call.placed)
    assert QUEUED_LIMIT - 2 * piece < call.most <= QUEUED_LIMIT + piece
    assert anyio.current_time() - start == pytest.approx((spoken - QUEUED_LIMIT) / MEDIA_RATE, abs=1.0)
    # Each piece and each token asks once; a piece that has to wait asks once more, when there is room.
    tokens = 60 * len(LONG.split())
    assert call.asked <= 2 * len(call.placed) + tokens + 60


async def test_a_held_reply_waits_with_bounded_stores() -> None:
    call, tts = Call(held=True), FakeTts()
    reply = call.reply(FakeLlm([[LONG * 60]]), tts)
    with anyio.move_on_after(600):
        await reply.run()
    piece = max(speech.samples for speech in call.placed)
    assert QUEUED_LIMIT < call.most <= QUEUED_LIMIT + piece
    assert len(call.told) <= len({p.clause.index for p in call.placed}) + CLAUSES_AHEAD + PIECES_AHEAD + 2
    assert call.asked < 600 / WAIT_S + 1000  # not in a tight loop, however little there is too much
