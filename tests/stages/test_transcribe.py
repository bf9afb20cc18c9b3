"""Frames and orders in one channel: what reaches the ASR, and what an order means, on virtual time."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from server.core.events import (
    AbandonTurn,
    CommitTurn,
    Event,
    FinalHeard,
    OpenTurn,
    PartialHeard,
    ProvisionalHeard,
    TakeProvisional,
)
from server.core.media import MicFrame, Transcript
from server.stages.transcribe import KEPT_FRAMES, PREROLL_S, Listening, Transcriber
from tests.fakes.providers import FRAME_S, QUIET, VOICED, FakeAsrSession
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]


class Ear(FakeAsrSession):
    """Remembers what was pushed and asked."""

    def __init__(self, *texts: str) -> None:
        super().__init__(*texts)
        self.done: list[bytes | str] = []

    @property
    def pushed(self) -> list[bytes]:
        return [pcm for pcm in self.done if isinstance(pcm, bytes)]

    async def push(self, pcm16k: bytes) -> None:
        self.done.append(pcm16k)
        await super().push(pcm16k)

    async def provisional(self) -> Transcript:
        self.done.append("provisional")
        return await super().provisional()

    async def commit(self) -> Transcript:
        self.done.append("commit")
        return await super().commit()

    async def drop(self) -> None:
        self.done.append("drop")
        await super().drop()


class Room:
    """A transcriber at work, what it is given and what it tells."""

    def __init__(self, ear: Ear) -> None:
        self.ear = ear
        self.told: list[Event] = []
        self.shown: list[tuple[int, Transcript]] = []
        self.transcriber = Transcriber(ear, self.told.append)
        self.frames = 0
        self._inbox, self._items = anyio.create_memory_object_stream[Listening](1000)

    @property
    def now(self) -> float:
        """End of the last frame, in seconds from the first frame's beginning."""
        return self.frames * FRAME_S

    def hears(self, seconds: float, voiced: bool = False) -> list[bytes]:
        """Frames of silence or of voice, no two of the voice alike."""
        sent = []
        for _ in range(round(seconds / FRAME_S)):
            self.frames += 1
            pcm = VOICED[0][:-4] + self.frames.to_bytes(4, "little") if voiced else QUIET
            sent.append(pcm)
            self._inbox.send_nowait(MicFrame(pcm, self.now))
        return sent

    def order(self, order: Listening) -> None:
        self._inbox.send_nowait(order)

    async def done(self) -> None:
        """Everything given so far has been dealt with."""
        while self._inbox.statistics().current_buffer_used:
            await anyio.sleep(0.01)
        await anyio.sleep(1.0)

    async def run(self) -> None:
        with self._items:
            await self.transcriber.run(self._items)

    async def follow(self) -> None:
        await self.transcriber.follow(lambda turn, heard: self.shown.append((turn, heard)))

    def close(self) -> None:
        self._inbox.close()


@asynccontextmanager
async def room(*texts: str) -> AsyncIterator[Room]:
    one = Room(Ear(*texts))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.run)
        tasks.start_soon(one.follow)
        yield one
        one.close()
        await one.ear.aclose()


async def test_a_turn_begins_with_its_preroll_and_nothing_older() -> None:
    async with room("hello there") as one:
        old, young = one.hears(0.5, voiced=True), one.hears(0.6, voiced=True)
        # The voice began 0.2 s ago; what ended before 0.4 s earlier is not its business.
        one.order(OpenTurn(1, one.now - 0.2))
        after = one.hears(0.1, voiced=True)
        await one.done()
        assert one.ear.pushed == young + after
        assert len(young) * FRAME_S == pytest.approx(PREROLL_S + 0.2)
        assert not set(old) & set(one.ear.pushed)


async def test_no_more_is_kept_than_a_late_judgement_needs() -> None:
    async with room("hello there") as one:
        kept = one.hears(10.0, voiced=True)[-KEPT_FRAMES:]
        one.order(OpenTurn(1, 0.0))
        await one.done()
        assert one.ear.pushed == kept


async def test_frames_between_turns_are_the_next_turns_preroll_and_given_once() -> None:
    async with room("one", "two") as one:
        one.order(OpenTurn(1, 0.0))
        first = one.hears(0.4, voiced=True)
        one.order(CommitTurn(1, one.now))
        between = one.hears(0.2, voiced=True)
        one.order(OpenTurn(2, one.now - 0.1))
        second = one.hears(0.4, voiced=True)
        one.order(CommitTurn(2, one.now))
        await one.done()
        assert one.ear.done == [*first, "commit", *between, *second, "commit"]
        assert one.told[-1] == FinalHeard(2, "two")


async def test_orders_mean_what_came_before_them() -> None:
    async with room("one two three four") as one:
        one.order(OpenTurn(7, 0.0))
        one.hears(2 / 3, voiced=True)
        one.order(TakeProvisional(7))
        one.hears(2 / 3, voiced=True)  # in the channel before the answer to the first order is there
        one.order(CommitTurn(7, one.now))
        one.hears(2 / 3, voiced=True)
        await one.done()
        answers = [event for event in one.told if not isinstance(event, PartialHeard)]
        assert answers == [ProvisionalHeard(7, "one two"), FinalHeard(7, "one two three four")]
        assert one.transcriber.turn is None


async def test_an_abandoned_turn_is_forgotten_without_a_word() -> None:
    async with room("one two", "three") as one:
        one.order(OpenTurn(1, 0.0))
        one.hears(0.6, voiced=True)
        one.order(AbandonTurn(1))
        await one.done()
        assert one.ear.done[-1] == "drop"
        assert one.transcriber.turn is None
        told = len(one.told)
        one.order(OpenTurn(2, one.now))
        one.order(CommitTurn(2, one.now))
        await one.done()
        assert one.told[told:] == [FinalHeard(2, "")]


@pytest.mark.parametrize("order", [TakeProvisional(1), CommitTurn(1, 0.0), AbandonTurn(1), CommitTurn(3, 0.0)])
async def test_orders_for_another_turn_do_nothing(order: Listening) -> None:
    async with room("one two three") as one:
        one.order(order)  # before any turn
        one.order(OpenTurn(2, 0.0))
        one.hears(0.5, voiced=True)
        one.order(order)
        one.hears(0.5, voiced=True)
        one.order(CommitTurn(2, one.now))
        one.order(order)
        one.order(CommitTurn(2, one.now))  # it is over already
        await one.done()
        assert [x for x in one.ear.done if isinstance(x, str)] == ["commit"]
        answers = [event for event in one.told if not isinstance(event, PartialHeard)]
        assert answers == [FinalHeard(2, "one two three")]


async def test_words_are_told_as_they_come_with_how_many_will_stay() -> None:
    async with room("one two three") as one:
        one.order(OpenTurn(4, 0.0))
        for _ in range(3):
            one.hears(1 / 3, voiced=True)
            await one.done()
        assert one.told == [
            PartialHeard(4, "one", 0),
            PartialHeard(4, "one two", 1),
            PartialHeard(4, "one two three", 2),
        ]
        assert [turn for turn, _ in one.shown] == [4, 4, 4]
        assert [heard.text for _, heard in one.shown] == ["one", "one two", "one two three"]


async def test_words_are_told_only_while_a_turn_is_open() -> None:
    async with room("one two") as one:
        await one.done()
        for _ in range(30):
            await one.ear.push(VOICED[0])
        await one.done()
        assert one.told == []
        assert one.shown == []


async def test_cjk_is_counted_by_character() -> None:
    class Reader(Ear):
        async def partials(self) -> AsyncGenerator[Transcript, None]:
            yield Transcript("今天天气很好", 4)

    one = Room(Reader())
    one.order(OpenTurn(1, 0.0))
    one.close()
    await one.run()
    await one.follow()
    assert one.told == [PartialHeard(1, "今天天气很好", 4)]


async def test_following_ends_with_the_asrs_iterator_closed() -> None:
    closed = anyio.Event()

    class Endless(Ear):
        async def partials(self) -> AsyncGenerator[Transcript, None]:
            try:
                await anyio.sleep_forever()
                yield Transcript("")
            finally:
                closed.set()

    one = Room(Endless())
    with anyio.move_on_after(1):
        await one.follow()
    assert closed.is_set()
    one.close()
    await one.run()
