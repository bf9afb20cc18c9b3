"""The render worker: `python -m render.worker instag|still|testcard`. Paints and encodes every call of one device.

One loop, no threads: it sleeps until the next frame of any call is to be painted or a message comes. Frame k of a
call is due at its origin + k / 25 and is painted `lead_ms` before. Where there is more work than time, a face that
can be painted smaller is; frames that are late all the same are left out, and nothing is ever caught up with.
"""

import argparse
import functools
import gc
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from render import portrait
from render.encode import CODECS, Encoder
from render.pace import Pace
from render.score import Score
from render.still import StillPainter
from render.testcard import TestcardPainter
from render.wire import Attend, Cut, Face, Frame, Key, Open, Push, Request
from server.core.errors import VisavisError
from server.core.media import FRAME_SAMPLES, VIDEO_FPS
from server.workers.channel import End, Failed, Hello, Refused, WorkerEnd
from server.workers.gpu import keep_to
from server.workers.process import ignore_interrupts

if TYPE_CHECKING:
    from render.instag import Easel
    from render.person import Person
    from render.raster.gaussians import Bytes


class Painter(Protocol):
    """Paints one call's frames from its score."""

    width: int
    height: int

    @property
    def sides(self) -> Sequence[int]:
        """Widths that it can be painted in, the largest first; with one only it is never resized."""
        ...

    def resize(self, side: int) -> None:
        """From the next frame on the picture is so wide."""
        ...

    def attend(self, hearing: bool) -> None:
        """Whether the person in front of the camera is speaking from now on."""
        ...

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
    painters: dict[str, Callable[[Score, int, bool], Painter]]
    """name -> (score, seed, whether with its matte) -> painter"""
    notes: list[str] = field(default_factory=list)
    """a sentence for each face that could not be loaded"""
    listening: set[str] | None = None
    """whose painters ask a score what the lips do; None: everybody's"""


@dataclass(frozen=True)
class Look:
    """What the command line says about the faces."""

    avatars: list[Path]
    """where avatars' folders are, besides those that come with the product"""
    background: str
    """as `person.backdrop` takes it"""
    side: int | None
    """width of the largest picture"""
    extractors: Path | None
    """where the weights of others' audio features are"""
    device: str = "cpu"
    """what paints: `cpu`, or `cuda`, `cuda:1` ..."""
    memory_gib: float = 0.0
    """of that GPU, at most; 0: no limit"""


def stills(look: Look) -> Gallery:
    """The people of render/portraits."""
    people = [portrait.load(name) for name in portrait.names()]
    if not people:
        raise FileNotFoundError(f"there are no portraits in {portrait.FOLDER}")

    def painter(person: portrait.Portrait, score: Score, seed: int, alpha: bool) -> Painter:
        return StillPainter(person, score, seed)

    return Gallery(
        [Face(p.name, p.title, portrait.SIZE, portrait.SIZE, p.poster) for p in people],
        {p.name: functools.partial(painter, p) for p in people},
    )


def instags(look: Look) -> Gallery:
    """The people of render/avatars and of the folders that were named, one copy of each for all calls.

    Who has a portrait and no avatar is shown as a portrait.
    """
    # Late: the other faces need neither numba nor the kernels.
    from render import instag
    from render.person import Canvas, Person, backdrop

    background = backdrop(look.background)
    people, notes = instag.people(instag.folders([instag.AVATARS, *look.avatars]), look.extractors)
    if not people:
        why = " ".join(notes) or f"there are none in {', '.join(map(str, [instag.AVATARS, *look.avatars]))}"
        raise FileNotFoundError(f"no avatar can be shown: {why}")

    on_gpu = _on_gpu(look.device, notes, look.memory_gib)

    def painter(person: Person, score: Score, seed: int, alpha: bool) -> instag.InstagPainter:
        # A torso of pictures is the CPU's in any case.
        easel = on_gpu if on_gpu is not None and not person.avatar.plates.torso else Canvas
        return instag.InstagPainter(
            person, score, seed, alpha=alpha, background=background, side=look.side, easel=easel
        )

    faces: list[Face] = []
    painters: dict[str, Callable[[Score, int, bool], Painter]] = {}
    for name, person in people.items():
        shown = painter(person, Score(), 0, False)
        faces.append(Face(name, person.avatar.title, shown.width, shown.height, instag.poster(shown), alpha=True))
        painters[name] = functools.partial(painter, person)
    spared = set(portrait.names()) - people.keys()
    if spared:
        spare = stills(look)
        for face in spare.faces:
            if face.name in spared:
                faces.append(face)
                painters[face.name] = spare.painters[face.name]
                notes.append(f"{face.title} is shown as a portrait: no avatar {face.name} can be painted.")
    return Gallery(faces, painters, notes, spared)


def _on_gpu(
    device: str, notes: list[str], memory_gib: float = 0.0
) -> "Callable[[Person, int, Bytes | None], Easel] | None":
    """What paints there; None, and a note if it was wished for, where the CPU must."""
    if device == "cpu":
        return None
    try:
        import torch

        from render.crowd import Crowds
        from render.raster.gpu import GpuMissing

        try:
            keep_to(memory_gib, device, torch.cuda)
            return Crowds(device).seat
        except (GpuMissing, RuntimeError) as error:  # torch's own, of a device that is not there or a failed build
            notes.append(f"The CPU paints, {device} does not: {str(error).splitlines()[0]}")
    except ModuleNotFoundError as error:
        notes.append(f"The CPU paints, {device} does not: {error.name} is missing; pip install 'visavis[gpu]'.")
    return None


def testcards(look: Look) -> Gallery:
    """One card under every name, so that a persona's avatar need not be changed in order to measure."""
    picture = TestcardPainter(Score()).paint(0)
    _, poster = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_YUV2BGR_I420))
    names = ["testcard", *portrait.names()]
    size = TestcardPainter.width
    return Gallery(
        [Face(name, "Test card", size, size, poster.tobytes()) for name in names],
        dict.fromkeys(names, lambda score, seed, alpha: TestcardPainter(score)),
    )


KINDS: dict[str, Callable[[Look], Gallery]] = {"instag": instags, "still": stills, "testcard": testcards}


@dataclass
class Call:
    """One session."""

    painter: Painter
    score: Score
    encode: Callable[[int, int], Encoder]
    """an encoder for pictures of this width and height"""
    origin_s: float
    next: int = 0
    """the frame to paint next"""
    started: bool = False
    key: bool = False
    """whether the next frame must be a key frame"""

    def __post_init__(self) -> None:
        self.encoder = self.encode(self.painter.width, self.painter.height)
        self.pace = Pace(self.painter.sides)

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
        elif isinstance(message, Attend):
            self.painter.attend(message.hearing)
        elif isinstance(message, Key):
            if not self.started:
                self.started = True
                self.next = max(math.floor((now - self.origin_s) * VIDEO_FPS), 0)
            self.key = True

    def frame(
        self, now: float, lead_s: float, calls: int, clock: Callable[[], float] = time.monotonic
    ) -> Frame | None:
        """Paint the next frame if it is time. A first frame is painted at once, though it is due already.

        calls: how many share this worker's time.
        """
        if not self.started or now < self.due(self.next) - lead_s:
            return None
        index, key = self.next, self.key
        self.key = False
        began = clock()
        picture = self.painter.paint(index)
        data, is_key = self.encoder.encode(picture, index, key)
        self.score.forget(index * FRAME_SAMPLES)
        painted = clock()
        frame = Frame(index, data, is_key, self.score.generation(index), painted, self.pace.reduced)
        # Frames that cannot be on time any more are left out.
        self.next = max(index + 1, math.ceil((painted - self.origin_s) * VIDEO_FPS))
        if self.pace.took(painted - began, calls, painted):
            self.painter.resize(self.pace.side)
            self.encoder = self.encode(self.painter.width, self.painter.height)
            self.key = True
        return frame


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
            live = sum(call.started for call in self._calls.values())
            frame = call.frame(time.monotonic(), self._lead_s, live)
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
            listening = self._gallery.listening
            score = Score(lips=listening is None or message.avatar in listening)
            painter = make(score, message.seed, message.alpha)
            encode = functools.partial(Encoder, message.codec, bitrate=self._bitrate)
            self._calls[number] = Call(painter, score, encode, message.origin_s)
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
    parser.add_argument("--avatars", type=Path, action="append", default=[])
    parser.add_argument("--background", default="")
    parser.add_argument("--side", type=int)
    parser.add_argument("--extractors", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-gib", type=float, default=0.0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    end: WorkerEnd[Request] = WorkerEnd(Request)
    look = Look(
        options.avatars, options.background, options.side, options.extractors, options.device, options.memory_gib
    )
    try:
        gallery = KINDS[options.kind](look)
    except ModuleNotFoundError as error:
        end.send(0, Refused(f"{error.name} is not installed; pip install 'visavis[instag]' brings it"))
        return
    except VisavisError as error:
        end.send(0, Refused(error.message))
        return
    except (OSError, ValueError, cv2.error) as error:
        end.send(0, Refused(f"the faces cannot be read ({error}); install visavis again"))
        return
    gc.collect()
    gc.freeze()  # what is loaded stays; collections need not walk over it
    end.send(0, Hello({"faces": gallery.faces, "notes": gallery.notes}))
    Studio(end, gallery, options.bitrate, options.lead_ms / 1000).run()


if __name__ == "__main__":
    main()
