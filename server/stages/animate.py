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


@dataclass(frozen=True, slots=True)
class Attend:
    """Whether the person is speaking from now on."""

    hearing: bool


async def animate(inbox: MemoryObjectReceiveStream[Show | Close | Attend], renderer: Renderer) -> None:
    """Tell the face, in order."""
    async for item in inbox:
        if isinstance(item, Show):
            await renderer.push(item.speech, item.at, item.generation)
        elif isinstance(item, Attend):
            await renderer.attend(item.hearing)
        else:
            await renderer.cut(item.at)


class Pictures:
    """Encoded frames between the renderer and the track: the track takes each at its time.

    Frames build on each other: with one that is thrown away go those behind it, up to the next key frame, which is
    asked for. So every frame in here can be shown.
    """

    CAPACITY = 25  # frames: a second; the renderer keeps 50 to 200 ms ahead

    def __init__(self, request_key: Callable[[], None]) -> None:
        self._request_key = request_key
        self._frames: deque[EncodedFrame] = deque()
        self._discarded: set[int] = set()
        self._need_key = False
        self._missed_index = -1
        self.dropped = 0
        """frames that came but were not shown"""
        self.missed = 0
        """frames that were not there when they were due"""
        self.reduced = 0
        """frames that came smaller than they should be, because the renderer's machine is too slow"""

    async def collect(self, renderer: Renderer) -> None:
        """Runs as long as the renderer does."""
        async with aclosing(renderer.packets()) as packets:
            async for frame in packets:
                self._add(frame)

    def request_key(self) -> None:
        self._request_key()

    def discard(self, generation: int) -> None:
        """Pictures of this speculative reply must not be shown, those that are still to come neither."""
        self._discarded = {g for g in self._discarded if g > generation - 8} | {generation}
        if not any(frame.generation == generation for frame in self._frames):
            return
        frames, self._frames = self._frames, deque()
        need_key, self._need_key = self._need_key, False
        for frame in frames:
            self._add(frame)
        self._need_key = self._need_key or need_key

    def take(self, index: int) -> EncodedFrame | None:
        """The oldest frame that is due by `index` and was not taken; None if there is none (yet)."""
        if self._frames and self._frames[0].index <= index:
            return self._frames.popleft()
        if index > self._missed_index:
            self._missed_index = index
            self.missed += 1
        return None

    def _add(self, frame: EncodedFrame) -> None:
        self.reduced += frame.reduced
        full = len(self._frames) == self.CAPACITY
        if full:  # nobody has taken any for a second: they are too late to be shown
            self.dropped += len(self._frames)
            self._frames.clear()
        if frame.generation in self._discarded or (full and not frame.key):
            self._lose(frame)
        elif self._need_key and not frame.key:
            self.dropped += 1
        else:
            self._need_key = False
            self._frames.append(frame)

    def _lose(self, frame: EncodedFrame) -> None:
        """What comes behind it is of no use before the next key frame; it may itself be the one asked for."""
        self.dropped += 1
        if frame.key or not self._need_key:
            self._request_key()
        self._need_key = True
