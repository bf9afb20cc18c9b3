"""The render worker: `python -m render.worker still|testcard`. Paints and encodes every call of one device.

One loop, no threads: it sleeps until the next frame of any call is to be painted or a message comes. Frame k of a
call is due at its origin + k / 25 and is painted `lead_ms` before; where there is more work than time, frames whose
due time has passed are left out, and nothing that is late is ever caught up with.
"""

import argparse
import functools
import gc
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from render import portrait
from render.encode import CODECS, Encoder
from render.score import Score
from render.still import StillPainter
from render.testcard import TestcardPainter
from render.wire import Cut, Face, Frame, Key, Open, Push, Request
from server.core.media import FRAME_SAMPLES, VIDEO_FPS
from server.workers.channel import End, Failed, Hello, Refused, WorkerEnd
from server.workers.process import ignore_interrupts


class Painter(Protocol):
    """Paints one call's frames from its score."""

    width: int
    height: int

    def cut(self, index: int) -> None:
        """The voice is about to be cut; `index` is the first frame that can show it."""
        ...

    def paint(self, index: int) -> NDArray[np.uint8]:
        """Frame `index` as I420; indices rise."""
        ...


@dataclass
class Gallery:
    """What this worker can paint."""

    faces: list[Face]
    painters: dict[str, Callable[[Score, int], Painter]]
    """name -> (score, seed) -> painter"""


def stills() -> Gallery:
    """The people of render/portraits."""
    people = [portrait.load(name) for name in portrait.names()]
    if not people:
        raise FileNotFoundError(f"there are no portraits in {portrait.FOLDER}")
    return Gallery(
        [Face(p.name, p.title, portrait.SIZE, portrait.SIZE, p.poster) for p in people],
        {p.name: functools.partial(StillPainter, p) for p in people},
    )


def testcards() -> Gallery:
    """One card under every name, so that a persona's avatar need not be changed in order to measure."""
    picture = TestcardPainter(Score()).paint(0)
    _, poster = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_YUV2BGR_I420))
    names = ["testcard", *portrait.names()]
    size = TestcardPainter.width
    return Gallery(
        [Face(name, "Test card", size, size, poster.tobytes()) for name in names],
        dict.fromkeys(names, lambda score, seed: TestcardPainter(score)),
    )


KINDS: dict[str, Callable[[], Gallery]] = {"still": stills, "testcard": testcards}


@dataclass
class Call:
    """One session."""

    painter: Painter
    score: Score
    encoder: Encoder
    origin_s: float
    next: int = 0
    """the frame to paint next"""
    started: bool = False
    key: bool = False
    """whether the next frame must be a key frame"""

    def due(self, index: int) -> float:
        return self.origin_s + index / VIDEO_FPS

    def take(self, message: Request, now: float) -> None:
        """A message other than Open."""
        if isinstance(message, Push):
            self.score.push(message.at, message.generation, np.frombuffer(message.pcm, "<i2"), message.phones)
        elif isinstance(message, Cut):
            # What was painted ahead has been sent: the mouth goes on from there.
            self.painter.cut(max(message.at // FRAME_SAMPLES, self.next))
            self.score.cut(message.at)
        elif isinstance(message, Key):
            if not self.started:
                self.started = True
                self.next = max(math.floor((now - self.origin_s) * VIDEO_FPS), 0)
            self.key = True

    def frame(self, now: float, lead_s: float) -> Frame | None:
        """Paint the next frame if it is time. A first frame is painted at once, though it is due already."""
        if not self.started or now < self.due(self.next) - lead_s:
            return None
        index, key = self.next, self.key
        self.key = False
        picture = self.painter.paint(index)
        data, is_key = self.encoder.encode(picture, index, key)
        self.score.forget(index * FRAME_SAMPLES)
        painted = time.monotonic()
        # Frames that cannot be on time any more are left out.
        self.next = max(index + 1, math.ceil((painted - self.origin_s) * VIDEO_FPS))
        return Frame(index, data, is_key, self.score.generation(index), painted)


class Studio:
    """All calls of this worker."""

    def __init__(self, end: WorkerEnd[Request], gallery: Gallery, bitrate: int, lead_s: float) -> None:
        self._end = end
        self._gallery = gallery
        self._bitrate = bitrate
        self._lead_s = lead_s
        self._calls: dict[int, Call] = {}

    def run(self) -> None:
        while True:
            received = self._end.receive(self._idle_s())
            while received is not None:
                self._take(*received)
                received = self._end.receive(0.0)
            self._paint_one()

    def _soonest(self) -> tuple[int, Call] | None:
        """The call whose next frame is due first."""
        started = ((number, call) for number, call in self._calls.items() if call.started)
        return min(started, key=lambda item: item[1].due(item[1].next), default=None)

    def _idle_s(self) -> float | None:
        soonest = self._soonest()
        if soonest is None:
            return None
        call = soonest[1]
        return max(call.due(call.next) - self._lead_s - time.monotonic(), 0.0)

    def _paint_one(self) -> None:
        soonest = self._soonest()
        if soonest is None:
            return
        number, call = soonest
        try:
            frame = call.frame(time.monotonic(), self._lead_s)
        except Exception as error:  # one call's fault must not end the others'
            self._fail(number, "render_failed", f"the picture could not be painted: {error}")
        else:
            if frame is not None:
                self._end.send(number, frame)

    def _take(self, number: int, message: Request | End) -> None:
        if isinstance(message, End):
            self._calls.pop(number, None)
        elif isinstance(message, Open):
            self._open(number, message)
        elif (call := self._calls.get(number)) is not None:
            try:
                call.take(message, time.monotonic())
            except Exception as error:
                self._fail(number, "render_failed", f"the voice could not be followed: {error}")

    def _open(self, number: int, message: Open) -> None:
        make = self._gallery.painters.get(message.avatar)
        if make is None:
            known = ", ".join(self._gallery.painters)
            self._end.send(number, Failed("unknown_avatar", f"there is no avatar {message.avatar!r}; try {known}"))
            return
        if message.codec not in CODECS:
            known = ", ".join(CODECS)
            self._end.send(number, Failed("unknown_codec", f"video comes as {known}, not as {message.codec!r}"))
            return
        try:
            score = Score()
            painter = make(score, message.seed)
            encoder = Encoder(message.codec, painter.width, painter.height, self._bitrate)
            self._calls[number] = Call(painter, score, encoder, message.origin_s)
        except Exception as error:
            self._fail(number, "render_failed", f"the picture could not be set up: {error}")

    def _fail(self, number: int, code: str, sentence: str) -> None:
        traceback.print_exc()
        self._calls.pop(number, None)
        self._end.send(number, Failed(code, sentence))


def main() -> None:
    ignore_interrupts()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--bitrate", type=int, default=1_200_000)
    parser.add_argument("--lead-ms", type=float, default=50.0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    end: WorkerEnd[Request] = WorkerEnd(Request)
    try:
        gallery = KINDS[options.kind]()
    except (OSError, ValueError, cv2.error) as error:
        end.send(0, Refused(f"the faces cannot be read ({error}); install visavis again"))
        return
    gc.collect()
    gc.freeze()  # what is loaded stays; collections need not walk over it
    end.send(0, Hello({"faces": gallery.faces}))
    Studio(end, gallery, options.bitrate, options.lead_ms / 1000).run()


if __name__ == "__main__":
    main()
