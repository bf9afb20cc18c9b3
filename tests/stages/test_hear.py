"""The microphone's frames and what they tell, on virtual time."""

from collections.abc import AsyncIterator

import anyio
import pytest

from server.core.events import Event, MicrophoneLost, VoiceStarted, VoiceStopped
from server.core.media import MicFrame
from server.core.voicegate import VoiceGate
from server.stages.hear import LOST_AFTER_S, hear
from tests.fakes.providers import FRAME_S, QUIET, VOICED, FakeVad, ScriptedMicrophone
from tests.virtual_time import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("no_leaked_tasks")]


class Wire:
    """Sends what it is told to, frame by frame on time: `v`oiced, `q`uiet, or nothing for so many seconds."""

    def __init__(self, *script: str | float) -> None:
        self._steps = iter([step for part in script for step in ([part] if isinstance(part, float) else part)])
        self._wait_until: float | None = None
        self._count = 0

    def __aiter__(self) -> "Wire":
        return self

    async def __anext__(self) -> MicFrame:
        # A wait that is given up goes on where it was, as a microphone's does.
        while True:
            if self._wait_until is not None:
                await anyio.sleep_until(self._wait_until)
                self._wait_until = None
            step = next(self._steps, None)
            if step is None:
                raise StopAsyncIteration
            if isinstance(step, str):
                break
            self._wait_until = anyio.current_time() + step
        await anyio.sleep(FRAME_S)
        self._count += 1
        return MicFrame(VOICED[self._count % 5] if step == "v" else QUIET, anyio.current_time())


async def heard(microphone: AsyncIterator[MicFrame]) -> list[tuple[float, Event | MicFrame]]:
    """Everything told and handed on, with when, in seconds from the start."""
    start = anyio.current_time()
    came: list[tuple[float, Event | MicFrame]] = []

    def note(what: Event | MicFrame) -> None:
        came.append((anyio.current_time() - start, what))

    with anyio.move_on_after(60):
        await hear(microphone, FakeVad().open(), VoiceGate(), note, note)
    return came


def events(came: list[tuple[float, Event | MicFrame]]) -> list[Event]:
    return [what for _, what in came if not isinstance(what, MicFrame)]


async def test_a_voice_is_told_before_the_frame_that_told_of_it() -> None:
    start = anyio.current_time()
    came = await heard(Wire("q" * 50, "v" * 30, "q" * 20))
    assert len([what for _, what in came if isinstance(what, MicFrame)]) == 100
    what = [what for _, what in came]
    started = next(i for i, x in enumerate(what) if isinstance(x, VoiceStarted))
    stopped = next(i for i, x in enumerate(what) if isinstance(x, VoiceStopped))
    for told in (started, stopped):
        frame = what[told + 1]
        assert isinstance(frame, MicFrame)
        assert frame.end_s == pytest.approx(start + came[told][0])
    # The third voiced frame makes the voice, which began with the first: frames before it were passed on already.
    assert started == 52
    assert events(came)[:2] == [
        VoiceStarted(pytest.approx(start + 50 * FRAME_S)),
        VoiceStopped(pytest.approx(start + 80 * FRAME_S)),
    ]


async def test_every_frame_is_handed_on_in_order() -> None:
    came = await heard(Wire("q" * 10, "v" * 10, "q" * 10))
    ends = [what.end_s for _, what in came if isinstance(what, MicFrame)]
    assert ends == sorted(ends)
    assert len(ends) == 30


async def test_a_silent_wire_is_a_lost_microphone_told_once() -> None:
    came = await heard(Wire("q" * 50, 20.0, "q" * 5))
    assert events(came) == [MicrophoneLost(), MicrophoneLost()]  # the second: its end
    lost_s = next(at for at, what in came if what == MicrophoneLost())
    assert lost_s == pytest.approx(50 * FRAME_S + LOST_AFTER_S)
    assert len([what for _, what in came if isinstance(what, MicFrame)]) == 55


async def test_a_microphone_that_never_sends_is_lost_too() -> None:
    came = await heard(Wire(1e6))
    assert came == [(pytest.approx(LOST_AFTER_S), MicrophoneLost())]


async def test_a_short_hole_loses_nothing() -> None:
    came = await heard(Wire("q" * 50, LOST_AFTER_S - 0.1, "v" * 20))
    assert [type(event) for event in events(came)] == [VoiceStarted, MicrophoneLost]


async def test_a_voice_is_heard_again_after_the_microphone_was_lost() -> None:
    came = await heard(Wire("q" * 50, "v" * 20, 5.0, "q" * 20, "v" * 20, "q" * 20))
    assert [type(event) for event in events(came)] == [
        VoiceStarted,
        MicrophoneLost,
        VoiceStopped,
        VoiceStarted,
        VoiceStopped,
        MicrophoneLost,
    ]


async def test_the_end_of_the_stream_ends_the_room() -> None:
    came = await heard(Wire("q" * 3))
    assert came[-1] == (pytest.approx(3 * FRAME_S), MicrophoneLost())
    assert await heard(Wire()) == [(0.0, MicrophoneLost())]


async def test_a_stream_that_ends_while_it_is_lost() -> None:
    came = await heard(Wire(5.0))
    assert came == [(pytest.approx(LOST_AFTER_S), MicrophoneLost()), (pytest.approx(5.0), MicrophoneLost())]


async def test_silence_is_not_a_lost_microphone() -> None:
    assert events(await heard(ScriptedMicrophone())) == []
