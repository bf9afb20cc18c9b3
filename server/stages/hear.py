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

    microphone: no generator, for a wait on it is given up and repeated.

    An event is told before the frame that caused it is passed on, so that the ASR's utterance is open by then.
    """
    while True:
        frame = None
        try:
            with anyio.move_on_after(LOST_AFTER_S):
                frame = await anext(microphone)
            if frame is None:
                tell(MicrophoneLost())
                frame = await anext(microphone)
        except StopAsyncIteration:
            tell(MicrophoneLost())
            return
        for event in gate.feed(frame.pcm, vad.process(frame.pcm), frame.end_s):
            tell(event)
        listen(frame)
