"""Pictures between the renderer and the track: in order, on time, and never one that cannot be decoded."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.clock import MediaClock
from server.core.media import FRAME_SAMPLES, Clause, EncodedFrame, Samples, Speech
from server.rtc.tracks import FaceTrack
from server.stages.animate import Close, Pictures, Show, animate
from tests.fakes.providers import FakeRenderer
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]

SPEECH = Speech(Clause(0, "ah", "ah", "en"), bytes(2 * FRAME_SAMPLES), 48_000)


def frame(index: int, *, key: bool = False, generation: int = 0) -> EncodedFrame:
    return EncodedFrame(index, b"frame", key, generation)


class Reel(FakeRenderer):
    """A renderer that gives just these frames."""

    def __init__(self, frames: Sequence[EncodedFrame]) -> None:
        super().__init__()
        self._reel = frames

    async def packets(self) -> AsyncGenerator[EncodedFrame, None]:
        for one in self._reel:
            yield one


@dataclass
class Screen:
    """Pictures, and when a key frame was asked for."""

    asked: int = 0
    pictures: Pictures = field(init=False)

    def __post_init__(self) -> None:
        self.pictures = Pictures(self._ask)

    def _ask(self) -> None:
        self.asked += 1

    async def give(self, *frames: EncodedFrame) -> None:
        await self.pictures.collect(Reel(frames))

    def taken(self, *indices: int) -> list[int | None]:
        frames = [self.pictures.take(index) for index in indices]
        return [one.index if one else None for one in frames]


async def test_each_frame_is_taken_once_when_it_is_due() -> None:
    screen = Screen()
    await screen.give(frame(3, key=True), frame(4), frame(5))
    assert screen.taken(2, 3, 3, 4, 7, 7) == [None, 3, None, 4, 5, None]
    assert screen.asked == screen.pictures.dropped == 0


async def test_late_frames_are_taken_one_after_the_other_the_oldest_first() -> None:
    """The next ones build on them; the track decides which of them is too late."""
    screen = Screen()
    await screen.give(frame(0, key=True), *[frame(i) for i in range(1, 6)])
    assert screen.taken(4, 4, 4, 4, 4, 4) == [0, 1, 2, 3, 4, None]
    await screen.give(frame(9))
    assert screen.taken(6, 9) == [5, 9]


async def test_a_frame_that_is_asked_for_again_and_again_is_missed_once() -> None:
    screen = Screen()
    screen.taken(0, 0, 0, 1, 1)
    assert screen.pictures.missed == 2
    await screen.give(frame(0, key=True))
    assert screen.taken(1, 1, 2) == [0, None, None]
    assert screen.pictures.missed == 3


async def test_discarded_pictures_are_not_shown_nor_what_builds_on_them() -> None:
    screen = Screen()
    await screen.give(frame(0, key=True), frame(1), frame(2, generation=5), frame(3, generation=5))
    screen.pictures.discard(5)
    assert screen.asked == 1  # at once, not when the first of them would have been due
    await screen.give(frame(4, generation=5), frame(5), frame(6))
    assert screen.taken(0, 1, 2, 6) == [0, 1, None, None]
    await screen.give(frame(7, key=True), frame(8))
    assert screen.taken(7, 8) == [7, 8]
    assert screen.asked == 1
    assert screen.pictures.dropped == 5


async def test_pictures_of_a_discarded_reply_that_come_later_are_not_shown_either() -> None:
    screen = Screen()
    await screen.give(frame(0, key=True))
    screen.pictures.discard(5)
    assert screen.asked == 0
    await screen.give(frame(1, generation=5), frame(2))
    assert screen.asked == 1
    assert screen.taken(2, 2) == [0, None]


async def test_a_key_frame_that_is_itself_discarded_is_asked_for_again() -> None:
    screen = Screen()
    await screen.give(frame(0, key=True), frame(1, generation=5))
    screen.pictures.discard(5)
    await screen.give(frame(2, key=True, generation=5), frame(3))
    assert screen.asked == 2
    await screen.give(frame(4, key=True), frame(5))
    assert screen.taken(1, 5, 5) == [0, 4, 5]


async def test_a_key_frame_behind_discarded_ones_is_kept() -> None:
    screen = Screen()
    await screen.give(frame(0, key=True), frame(1, generation=5), frame(2), frame(3, key=True), frame(4))
    screen.pictures.discard(5)
    await screen.give(frame(5))
    assert screen.taken(5, 5, 5, 5, 5) == [0, 3, 4, 5, None]


async def test_two_replies_may_be_discarded_one_after_the_other() -> None:
    screen = Screen()
    await screen.give(frame(0, key=True), frame(1), frame(2, generation=6), frame(3, generation=7))
    assert screen.taken(0) == [0]
    screen.pictures.discard(7)
    screen.pictures.discard(6)
    await screen.give(frame(4))
    assert screen.taken(4, 4) == [1, None]


async def test_discarding_does_not_forget_what_was_lost_before() -> None:
    screen = Screen()
    await screen.give(frame(0, generation=6), frame(1, key=True), frame(2, generation=7))
    screen.pictures.discard(7)
    screen.pictures.discard(6)
    await screen.give(frame(3))
    assert screen.taken(3, 3) == [1, None]


async def test_discarding_leaves_the_next_replies_alone() -> None:
    screen = Screen()
    screen.pictures.discard(5)
    screen.pictures.discard(6)
    await screen.give(frame(0, key=True), frame(1, generation=7))
    assert screen.taken(0, 1) == [0, 1]
    await screen.give(frame(2, generation=5))
    assert screen.taken(2) == [None]


async def test_what_is_remembered_as_discarded_is_bounded() -> None:
    screen = Screen()
    for generation in range(1000):
        screen.pictures.discard(generation)
    assert len(screen.pictures._discarded) <= 8


async def test_a_second_of_pictures_that_nobody_takes_is_thrown_away() -> None:
    screen = Screen()
    capacity = Pictures.CAPACITY
    await screen.give(frame(0, key=True), *[frame(i) for i in range(1, capacity)])
    assert screen.asked == 0
    await screen.give(frame(capacity))
    assert screen.asked == 1
    assert screen.taken(capacity) == [None]
    await screen.give(frame(capacity + 1), frame(capacity + 2, key=True), frame(capacity + 3))
    assert screen.taken(1000, 1000) == [capacity + 2, capacity + 3]
    assert screen.pictures.dropped == capacity + 2


async def test_the_key_frame_asked_for_may_be_thrown_away_too() -> None:
    screen = Screen()
    await screen.give(frame(0, key=True))
    for i in range(1, 10 * Pictures.CAPACITY):
        key, screen.asked = screen.asked > 0, 0
        await screen.give(frame(i, key=key))
    assert screen.taken(10_000)[0] is not None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("give"), st.integers(0, 3)),
            st.tuples(st.just("many"), st.integers(20, 30)),
            st.tuples(st.just("discard"), st.integers(1, 3)),
            st.tuples(st.just("take"), st.integers(0, 2)),
        ),
        max_size=60,
    )
)
async def test_whatever_happens_only_decodable_frames_are_shown_and_the_picture_comes_back(
    steps: list[tuple[str, int]],
) -> None:
    """With a renderer that answers each request with a key frame."""
    screen = Screen(asked=1)  # the first request is the track's
    shown: list[EncodedFrame] = []
    discarded: set[int] = set()
    given_count = 0

    async def give(generation: int) -> None:
        nonlocal given_count
        key, screen.asked = screen.asked > 0, 0
        await screen.give(frame(given_count, key=key, generation=generation))
        given_count += 1

    def take(index: int) -> None:
        if one := screen.pictures.take(index):
            assert one.index <= index
            assert one.generation not in discarded
            shown.append(one)

    for what, number in steps:
        if what == "give":
            await give(number)
        elif what == "many":
            for _ in range(number):
                await give(0)
        elif what == "discard":
            discarded.add(number)
            screen.pictures.discard(number)
        else:
            take(given_count - number)
    for _ in range(Pictures.CAPACITY):
        take(given_count)
    for before, after in zip([None, *shown], shown, strict=False):
        assert after.key or (before is not None and before.index == after.index - 1)
    assert len(shown) + screen.pictures.dropped == given_count
    before_end = len(shown)
    await give(0)
    await give(0)
    take(given_count)
    assert len(shown) == before_end + 1


async def test_the_face_track_shows_what_there_is_and_stands_still_where_there_is_nothing() -> None:
    """The real track on virtual time, a renderer that paints on time, and a speculation that is thrown away."""
    clock = MediaClock(anyio.current_time())
    renderer = FakeRenderer(clock.origin_s)
    pictures = Pictures(renderer.request_key)
    track = FaceTrack(clock, pictures)
    shown: list[tuple[int, float]] = []

    async def watch() -> None:
        while True:
            packet = await track.recv()
            shown.append((packet.pts * 8 // 15 // FRAME_SAMPLES, anyio.current_time()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pictures.collect, renderer)
        tasks.start_soon(watch)
        await renderer.push(SPEECH, Samples(25 * FRAME_SAMPLES), 1)
        await anyio.sleep_until(clock.due(Samples(25 * FRAME_SAMPLES)) - 0.03)
        pictures.discard(1)
        await anyio.sleep(1.0)
        tasks.cancel_scope.cancel()
    track.stop()
    await renderer.aclose()
    indices = [index for index, _ in shown]
    first = indices[0]
    assert indices == [i for i in range(first, indices[-1] + 1) if i != 25]
    assert indices[-1] >= 47
    assert all(at >= clock.due(Samples(index * FRAME_SAMPLES)) for index, at in shown)
    assert renderer.keys == 2
    assert pictures.dropped == 1
    assert track.missed == pictures.missed == 1


async def test_the_face_is_told_in_order() -> None:
    renderer = FakeRenderer()
    send, receive = anyio.create_memory_object_stream[Show | Close](10)
    with receive:
        with send:
            send.send_nowait(Show(SPEECH, Samples(1000), 3))
            send.send_nowait(Close(Samples(1500)))
            send.send_nowait(Show(SPEECH, Samples(3000), 4))
        await animate(receive, renderer)
    assert renderer.pushed == [(SPEECH, 1000, 3), (SPEECH, 3000, 4)]
    assert renderer.cuts == [1500]
    assert renderer._heard == [(1000, 1500, 3), (3000, 3000 + FRAME_SAMPLES, 4)]
