"""A whole conversation on virtual time: every room real, scripted stand-ins only at the seams."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import numpy as np
import pytest

from server.conversation import Conversation
from server.core.clock import MediaClock
from server.core.errors import StageError
from server.core.events import Interrupted, PeerLost, ReplyRequested, State
from server.core.history import Item
from server.core.media import MEDIA_RATE, PACKET_SAMPLES, Persona, Samples, Voice
from server.core.notices import (
    Notice,
    Problem,
    ReplyAudioCleared,
    ReplyAudioStarted,
    ReplyAudioStopped,
    ReplyCaption,
    ReplyDone,
    ReplyTruncated,
    StateChanged,
    TurnAbandoned,
    UserSaid,
)
from server.core.settings import TurnSettings
from server.core.tools import ToolCall
from tests.fakes.providers import FakeAsrSession, FakeLlm, FakeRenderer, FakeTts, FakeVad, ScriptedMicrophone
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]

STORY = "Once upon a time there was a small house. It stood by the sea. A cat lived there all alone for years."
N = TypeVar("N", bound=Notice)


class Stage:
    """A conversation with its tracks being read, and everything that came of it."""

    def __init__(
        self, llm: FakeLlm, tts: FakeTts, asr: FakeAsrSession, microphone: ScriptedMicrophone, **more: Any
    ) -> None:
        self.llm, self.tts, self.asr, self.renderer = llm, tts, asr, FakeRenderer()
        self.notices: list[tuple[float, Notice]] = []
        self.packets: list[tuple[float, bytes]] = []
        self.origin = anyio.current_time()
        self.clock = MediaClock(self.origin)
        self.conversation = Conversation(
            llm=llm,
            tts=tts,
            persona=Persona("test"),
            voice=Voice(),
            turns=TurnSettings(endpoint_fixed=True),
            clock=self.clock,
            lead_ms=40,
            tell=lambda notice: self.notices.append((anyio.current_time() - self.origin, notice)),
            **more,
        )
        self._microphone = microphone
        self._over = anyio.Event()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._track)
            await self.conversation.run(self._microphone, FakeVad(), self.asr, self.renderer, self._over.wait)
            tasks.cancel_scope.cancel()
        await self.asr.aclose()

    def end(self) -> None:
        self._over.set()

    async def _track(self) -> None:
        at = 0
        while True:
            await anyio.sleep_until(self.clock.due(Samples(at)))
            self.packets.append((at / MEDIA_RATE, self.conversation.read(Samples(at))))
            at += PACKET_SAMPLES

    async def until_s(self, second: float) -> None:
        await anyio.sleep_until(self.origin + second)

    def told(self, kind: type[N]) -> list[N]:
        return [n for _, n in self.notices if isinstance(n, kind)]

    def when(self, kind: type[Notice]) -> list[float]:
        return [t for t, n in self.notices if isinstance(n, kind)]

    def sounding(self) -> list[float]:
        """Media seconds of the packets that were not silent."""
        return [t for t, pcm in self.packets if any(pcm)]

    def texts(self) -> list[tuple[str, str]]:
        return [(i.role, i.text.strip()) for i in self.conversation.history.items if i.kind == "message"]


@asynccontextmanager
async def staged(
    *spans: tuple[float, float],
    hears: tuple[str, ...] = ("what time is it",),
    says: list[list[str | StageError | float | ToolCall]] | None = None,
    tts: FakeTts | None = None,
    history_tokens: int = 0,
    **more: Any,
) -> AsyncIterator[Stage]:
    llm = FakeLlm(says or [["It is late, go to bed."]], history_tokens=history_tokens)
    stage = Stage(llm, tts or FakeTts(), FakeAsrSession(*hears), ScriptedMicrophone(*spans), **more)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.run)
        yield stage
        stage.end()


async def test_a_question_is_answered_right_behind_its_endpoint() -> None:
    async with staged((1.0, 2.4)) as stage:
        await stage.until_s(8)
        assert stage.texts() == [("user", "what time is it"), ("assistant", "It is late, go to bed.")]
        first = stage.sounding()[0]
        # Speech ends at 2.4, the endpoint is half a second later, the plan's margin and the packet grid follow.
        assert 2.9 < first < 2.96
        assert stage.conversation.state is State.LISTENING
        assert stage.when(ReplyAudioStopped)
        assert [n.text for n in stage.told(UserSaid)] == ["what time is it"]
        captions = [n.text for n in stage.told(ReplyCaption)]
        assert captions[-1].strip() == "It is late, go to bed."
        assert all(b.startswith(a) for a, b in itertools.pairwise(captions))
        # The face was told the same voice at the same time.
        speech, at, _ = stage.renderer.pushed[0]
        assert at <= first * MEDIA_RATE + PACKET_SAMPLES
        assert speech.clause.text


async def test_the_face_is_told_while_the_person_speaks() -> None:
    """So that it can nod: once when the voice begins, once when the turn is over."""
    async with staged((1.0, 2.4), (6.0, 7.0)) as stage:
        await stage.until_s(1.5)
        assert stage.renderer.attended == [True]
        await stage.until_s(4)
        assert stage.renderer.attended == [True, False]
        await stage.until_s(6.6)
        assert stage.renderer.attended == [True, False, True]


async def test_going_on_within_the_pause_throws_the_speculation_away() -> None:
    async with staged((1.0, 2.0), (2.4, 3.4), hears=("what time is it now please",)) as stage:
        await stage.until_s(9)
        assert len(stage.llm.asked) == 2
        assert stage.texts()[0] == ("user", "what time is it now please")
        assert [role for role, _ in stage.texts()] == ["user", "assistant"]
        assert stage.sounding()[0] > 3.9
        assert len(stage.told(ReplyAudioStarted)) == 1


async def test_words_over_the_reply_cut_it_to_what_was_heard() -> None:
    async with staged(
        (1.0, 2.4), (6.0, 7.4), hears=("tell me a story", "no wait please stop"), says=[[STORY], ["All right."]]
    ) as stage:
        await stage.until_s(6.0)
        assert stage.conversation.state is State.SPEAKING
        await stage.until_s(14)
        silent = max(t for t in stage.sounding() if t < 7.5)
        # 200 ms of overlap, the frame that told of it, and a packet that fades.
        assert 6.18 < silent < 6.30
        cut = stage.told(ReplyTruncated)[0]
        assert STORY.startswith(cut.text)
        assert 0 < len(cut.text) < len(STORY)
        assert stage.told(ReplyAudioCleared)
        roles = [role for role, _ in stage.texts()]
        assert roles == ["user", "assistant", "user", "assistant"]
        assert stage.texts()[1][1] == cut.text.strip()
        # What was not heard is not in the next prompt either.
        assert stage.llm.asked[-1][1] == ("assistant", cut.text.strip() + " …")


async def test_a_cough_pauses_and_the_reply_goes_on_from_the_same_sample() -> None:
    async with staged((1.0, 2.4), (6.0, 6.3), hears=("tell me a story",), says=[[STORY]]) as stage:
        await stage.until_s(15)
        assert stage.told(TurnAbandoned)
        assert State.PAUSED in [n.state for n in stage.told(StateChanged)]
        assert stage.texts() == [("user", "tell me a story"), ("assistant", STORY)]
        assert not stage.told(ReplyTruncated)
        heard = np.concatenate([np.frombuffer(pcm, "<i2") for _, pcm in stage.packets])
        said = np.concatenate(
            [np.frombuffer(s.pcm, "<i2") for s, _, _ in stage.renderer.pushed if not s.clause.index]
        )
        # Every sample of the first clause was heard, though a pause may lie in the middle of it.
        assert set(said.tolist()) <= set(heard.tolist())


async def test_speaking_again_before_the_answer_joins_both_turns() -> None:
    async with staged(
        (1.0, 2.4), (3.1, 4.1), hears=("what time is it", "in london please"), says=[[2.0, "Late."], ["It is five."]]
    ) as stage:
        await stage.until_s(9)
        assert stage.llm.asked[-1][-1] == ("user", "what time is it in london please")
        assert stage.llm.closed >= 1
        assert [text for role, text in stage.texts() if role == "assistant"] == ["It is five."]


async def test_a_model_that_fails_while_the_reply_is_held_is_asked_again() -> None:
    failing: list[str | StageError | float] = [StageError("llm", "llm_unreachable", "as scripted")]
    async with staged((1.0, 2.4), says=[failing, ["It is late, go to bed."]]) as stage:
        await stage.until_s(8)
        assert stage.texts()[-1] == ("assistant", "It is late, go to bed.")
        assert not stage.told(Problem)


@pytest.mark.parametrize("code", ["llm_unreachable", "llm_timeout", "llm_refused"])
async def test_a_failing_model_is_excused_aloud(code: str) -> None:
    async with staged((1.0, 2.4), says=[[StageError("llm", code, "as scripted")]]) as stage:
        await stage.until_s(10)
        assert [n.code for n in stage.told(Problem)] == [code]
        assert stage.sounding()
        assert stage.texts()[1][1].startswith("Sorry")
        assert stage.conversation.state is State.LISTENING


async def test_a_model_that_dies_in_mid_sentence_is_excused_too() -> None:
    dying: list[str | StageError | float] = [
        "The answer to that is",
        1.0,
        StageError("llm", "llm_broken_off", "scripted"),
    ]
    async with staged((1.0, 2.4), says=[dying, ["Fine."]]) as stage:
        await stage.until_s(10)
        assert "The answer to that is" in stage.texts()[1][1]
        assert "train of thought" in stage.texts()[1][1]
        stage.conversation.happened(ReplyRequested("and now?"))
        await stage.until_s(14)
        assert stage.texts()[-1] == ("assistant", "Fine.")


async def test_a_model_that_hangs_is_given_up_by_the_watchdog() -> None:
    async with staged((1.0, 2.4), says=[[1e6]]) as stage:
        await stage.until_s(60)
        assert "watchdog" in [n.code for n in stage.told(Problem)]
        assert stage.sounding()
        assert stage.llm.closed >= 1
        assert stage.conversation.state is State.LISTENING


async def test_without_any_voice_the_reply_is_read() -> None:
    async with staged((1.0, 2.4), tts=FakeTts(fails=True)) as stage:
        await stage.until_s(10)
        assert not stage.sounding()
        assert stage.told(ReplyDone)[0].status == "failed"
        assert stage.told(ReplyCaption)[-1].text.strip() == "It is late, go to bed."
        assert stage.conversation.state is State.LISTENING


async def test_typed_words_and_words_to_say() -> None:
    async with staged() as stage:
        await stage.until_s(0.5)
        stage.conversation.add_item(Item("item_typed", "user", "hello", spoken=False))
        stage.conversation.happened(ReplyRequested(""))
        await stage.until_s(5)
        assert stage.llm.asked[0][-1] == ("user", "hello")
        stage.conversation.happened(ReplyRequested("", say="Exactly these words."))
        await stage.until_s(10)
        assert stage.texts()[-1] == ("assistant", "Exactly these words.")
        assert len(stage.llm.asked) == 1


@pytest.mark.parametrize("event", [Interrupted(), PeerLost()])
async def test_an_interruption_is_silence_at_the_next_packet(event: Interrupted | PeerLost) -> None:
    async with staged((1.0, 2.4), says=[[STORY]]) as stage:
        await stage.until_s(5)
        stage.conversation.happened(event)
        await stage.until_s(8)
        assert max(stage.sounding()) < 5.05
        assert stage.conversation.state is State.LISTENING
        assert not stage.conversation.replying


async def test_a_second_request_replaces_the_first() -> None:
    async with staged(says=[[STORY], ["Short."]]) as stage:
        await stage.until_s(0.5)
        stage.conversation.happened(ReplyRequested("a story"))
        await stage.until_s(2)
        stage.conversation.happened(ReplyRequested("rather something short"))
        await stage.until_s(9)
        assert stage.texts()[-1] == ("assistant", "Short.")
        assert [n.status for n in stage.told(ReplyDone)][-1] == "completed"


async def test_five_minutes_of_talk_leave_nothing_behind() -> None:
    spans = [(10.0 * i + 1, 10.0 * i + 2.4) for i in range(30)]
    async with staged(*spans, hears=("what time is it",) * 30, says=[["It is late, go to bed."]]) as stage:
        await stage.until_s(300)
        assert len(stage.told(ReplyAudioStarted)) == 30
        assert len(stage.conversation.history.items) == 60
        delays = _delays(stage, lambda i: 10.0 * i + 2.4)
        assert max(delays) - min(delays) <= 0.021


def _delays(stage: Stage, end_s: Callable[[int], float]) -> list[float]:
    sounding = stage.sounding()
    starts = [t for before, t in zip([-1.0, *sounding], sounding, strict=False) if t - before > 0.5]
    return [start - end_s(i) for i, start in enumerate(starts)]
