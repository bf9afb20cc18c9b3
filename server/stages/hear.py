"""Hear: microphone frames -> voice events for the TurnTaker, and the frames themselves for the ASR."""

from collections.abc import AsyncIterator, Callable

import anyio

from server.core.events import Event, MicrophoneLost
from server.core.media import MicFrame
from server.core.protocols import VadSession
from server.core.voicegate import VoiceGate

LOST_AFTER_S = 2.0  # a microphone sends 50 frames a second, in silence too


async def hear(
    microphone: AsyncIterator[MicFrame],
    vad: VadSession,
    gate: VoiceGate,
    listen: Callable[[MicFrame], None],
    tell: Callable[[Event], None],
) -> None:
    """Runs until the microphone's frames end. `listen` and `tell` never wait.

    An event is told before the frame that caused it is passed on, so that the ASR's utterance is open by then.
    """
    heard_s = anyio.current_time()
    back: anyio.Event | None = None  # awaited while the microphone is lost

    async def watch() -> None:
        """Beside the frames, not around each of them: fifty cancel scopes a second cost more than all the rest."""
        nonlocal back
        while True:
            before_s = heard_s
            await anyio.sleep_until(before_s + LOST_AFTER_S)
            if before_s == heard_s:
                tell(MicrophoneLost())
                back = anyio.Event()
                await back.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        async for frame in microphone:
            heard_s = anyio.current_time()
            if back is not None:
                back.set()
                back = None
            for event in gate.feed(frame.pcm, vad.process(frame.pcm), frame.end_s):
                tell(event)
            listen(frame)
        tasks.cancel_scope.cancel()
    tell(MicrophoneLost())
