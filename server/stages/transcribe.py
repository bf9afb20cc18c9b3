"""Transcribe: microphone frames and the TurnTaker's orders -> the words of the turn."""

from collections import deque
from collections.abc import Callable
from contextlib import aclosing

from anyio.streams.memory import MemoryObjectReceiveStream

from server.core.endpointing import units
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
from server.core.protocols import AsrSession

PREROLL_S = 0.4  # heard before the first voiced frame: soft consonants begin below the gate
KEPT_FRAMES = 60  # 1.2 s: an overlap is judged 0.2 s late, and its words must not lose their beginning

Listening = MicFrame | OpenTurn | TakeProvisional | CommitTurn | AbandonTurn


class Transcriber:
    """One call's ears for words. Frames and orders share one channel, so that an order means what came before it."""

    def __init__(self, session: AsrSession, tell: Callable[[Event], None]) -> None:
        self._session = session
        self._tell = tell
        self._kept: deque[MicFrame] = deque(maxlen=KEPT_FRAMES)
        self.turn: int | None = None
        """the turn whose utterance is open"""

    async def run(self, inbox: MemoryObjectReceiveStream[Listening]) -> None:
        async for item in inbox:
            if isinstance(item, MicFrame):
                if self.turn is None:
                    self._kept.append(item)
                else:
                    await self._session.push(item.pcm)
            elif isinstance(item, OpenTurn):
                self.turn = item.turn
                while self._kept:
                    frame = self._kept.popleft()
                    if frame.end_s > item.at - PREROLL_S:
                        await self._session.push(frame.pcm)
            elif item.turn != self.turn:
                continue
            elif isinstance(item, TakeProvisional):
                heard = await self._session.provisional()
                self._tell(ProvisionalHeard(item.turn, heard.text))
            elif isinstance(item, CommitTurn):
                heard = await self._session.commit()
                self.turn = None
                self._tell(FinalHeard(item.turn, heard.text))
            else:
                self.turn = None
                await self._session.drop()

    async def follow(self, heard: Callable[[int, Transcript], None]) -> None:
        """The words as they come, to the TurnTaker and to `heard` (for the captions)."""
        async with aclosing(self._session.partials()) as partials:
            async for partial in partials:
                if self.turn is not None and partial.text:
                    self._tell(PartialHeard(self.turn, partial.text, units(partial.text[: partial.stable])))
                    heard(self.turn, partial)
