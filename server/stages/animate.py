"""Animate: what the face is told, and the pictures that come back, kept until they are due."""

from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from anyio.streams.memory import MemoryObjectReceiveStream

from server.core.media import EncodedFrame, Samples, Speech
from server.core.protocols import Renderer


@dataclass(frozen=True, slots=True)
class Show:
    """This voice is heard from media time `at` on."""

    speech: Speech
    at: Samples
    generation: int


@dataclass(frozen=True, slots=True)
class Close:
    """From media time `at` on nothing is heard any more."""

    at: Samples


async def animate(inbox: MemoryObjectReceiveStream[Show | Close], renderer: Renderer) -> None:
    """Tell the face, in order."""
    async for item in inbox:
        if isinstance(item, Show):
            await renderer.push(item.speech, item.at, item.generation)
        else:
            await renderer.cut(item.at)


class Pictures:
    """Encoded frames between the renderer and the track: the track takes each at its time.

    Frames depend on each other: when one is thrown away, none is shown until the next key frame.
    """

    CAPACITY = 25  # frames: a second; the renderer keeps 50 to 200 ms ahead

    def __init__(self, request_key: Callable[[], None]) -> None:
        self._request_key = request_key
        self._frames: deque[EncodedFrame] = deque(maxlen=self.CAPACITY)
        self._discarded: set[int] = set()
        self._need_key = False
        self.dropped = 0
        """frames that came but were not shown"""
        self.missed = 0
        """times that a frame was due and not there"""

    async def collect(self, renderer: Renderer) -> None:
        """Runs as long as the renderer does."""
        async with aclosing(renderer.packets()) as packets:  # type: ignore[type-var]
            async for frame in packets:
                if len(self._frames) == self.CAPACITY:
                    self._lose(1)
                self._frames.append(frame)

    def request_key(self) -> None:
        self._request_key()

    def discard(self, generation: int) -> None:
        """Pictures of this speculative reply must not be shown."""
        self._discarded = {g for g in self._discarded if g > generation - 8} | {generation}

    def take(self, index: int) -> EncodedFrame | None:
        """The newest frame that is due by `index`; None if there is none yet.

        An older frame that was never taken is passed over only together with what depends on it.
        """
        while self._frames and self._frames[0].index <= index:
            frame = self._frames.popleft()
            if frame.generation in self._discarded:
                self._lose(1)
                continue
            if self._need_key and not frame.key:
                self.dropped += 1
                continue
            self._need_key = False
            return frame
        self.missed += 1
        return None

    def _lose(self, count: int) -> None:
        self.dropped += count
        if not self._need_key:
            self._need_key = True
            self._request_key()
