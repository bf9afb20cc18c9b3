"""The InsTaG face in a call: Gaussians that move with the voice, over a background or with a matte."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from render.avatar import AvatarError
from render.expression import Bearing
from render.hearing import Hearing
from render.motion.tables import CODE, WINDOW
from render.person import Canvas, Expression, Person
from render.raster.gaussians import Bytes
from render.score import Score
from server.core.media import FRAME_SAMPLES, MEDIA_RATE

Floats = NDArray[np.float32]

AVATARS = Path(__file__).parent / "avatars"
"""the people who come with the product"""

# How much of what the mouth is behind is still to be made up in the first frame and those after it: over four frames
# when the voice is cut, quicker when it came too late for the mouth to open ahead of it.
CLOSING = (0.844, 0.5, 0.156)
CATCH_UP = (0.6, 0.25, 0.06)

STEPS = (1.0, 0.75, 0.5)  # of the full size, when the machine is too slow for it
BLACK, WHITE, GREY = 16, 235, 128  # of BT.601 limited range


def people(folders: Mapping[str, Path], extractors: Path | None = None) -> tuple[dict[str, Person], list[str]]:
    """Everyone who can be loaded, by name, kernels warm; and a sentence for each who cannot."""
    found: dict[str, Person] = {}
    notes = []
    for name, path in folders.items():
        try:
            person = Person.load(path, extractors)
            _ = person.rest_code  # or the first call would find out that its ears are missing
            person.warm()
            found[person.avatar.name] = person
        except AvatarError as error:
            notes.append(f"{name}: {error.message}")
    return found, notes


def folders(places: list[Path]) -> dict[str, Path]:
    """The avatars' folders in these places; what comes later in the list hides what comes earlier."""
    out: dict[str, Path] = {}
    for place in places:
        if (place / "manifest.json").is_file():
            out[place.name] = place
        elif place.is_dir():
            out |= {path.parent.name: path.parent for path in sorted(place.glob("*/manifest.json"))}
    return out


class Easel(Protocol):
    """What paints a person's frames in one size: `render.person.Canvas`, or a seat in a `render.crowd.Crowd`."""

    width: int
    height: int

    def i420(self, codes: Floats, expression: Expression, *, alpha: Bytes | None = None) -> Bytes: ...


class InstagPainter:
    """One call's picture of a person. Frames are asked for in rising order, some may be left out."""

    def __init__(
        self,
        person: Person,
        score: Score,
        seed: int,
        *,
        alpha: bool = False,
        background: Bytes | None = None,
        side: int | None = None,
        easel: Callable[[Person, int, Bytes | None], Easel] = Canvas,
    ) -> None:
        """alpha: the picture is twice as high, colour over black above its matte; no background is then painted.

        background: as `Canvas` takes it. side: the width of the largest picture, None: the avatar's own.
        easel: what paints, given the person, a side and the background.
        """
        self._person = person
        self._score = score
        self._alpha = alpha
        self._background = np.zeros((2, 2, 3), np.uint8) if alpha else background
        ears = person.listener
        self._hearing = Hearing(score, ears.stream, person.baked.codes, person.rest_code, ears.opening)
        self._bearing = Bearing(person, seed)
        widest = min(side or person.avatar.width, person.avatar.width)
        self.sides = tuple(dict.fromkeys(max(16 * round(widest * step / 16), 16) for step in STEPS))
        """widths that `resize` takes, the largest first"""
        self._easel = easel
        self._canvases: dict[int, Easel] = {}
        self.resize(self.sides[0])
        self._index = -1  # last painted
        self._pushes = score.pushes
        self._cut = False
        self._shown = np.zeros((WINDOW, 2, CODE), np.float32)
        self._behind = np.zeros_like(self._shown)
        self._fading: tuple[float, ...] = ()
        self._fading_from = 0

    def resize(self, side: int) -> None:
        """From the next frame on the picture is `side` pixels wide, one of `sides`."""
        if side not in self._canvases:
            self._canvases[side] = self._easel(self._person, side, self._background)
        self._canvas = self._canvases[side]
        self.width, self.height = self._canvas.width, self._canvas.height * (2 if self._alpha else 1)
        self._matte = np.zeros((self._canvas.height, self._canvas.width), np.uint8)

    def cut(self, index: int) -> None:
        """The voice is about to be cut; `index` is the first frame that can show it."""
        self._cut = True

    def attend(self, hearing: bool) -> None:
        """Whether the person in front of the camera is speaking from now on."""
        self._bearing.attend(hearing)

    def frame(self, index: int) -> tuple[Floats, Expression]:
        """What frame `index` shows: the voice's codes, and the expression."""
        loud = self._score.loud((index + 0.5) * FRAME_SAMPLES / MEDIA_RATE)
        expression = self._bearing.at(index, loud)
        codes = self.mouth(index)
        self._shown, self._index = codes, index
        return codes, expression

    def paint(self, index: int) -> Bytes:
        """Frame `index` as I420, BT.601 limited range."""
        codes, expression = self.frame(index)
        if not self._alpha:
            return self._canvas.i420(codes, expression)
        return stacked(self._canvas.i420(codes, expression, alpha=self._matte), self._matte)

    def mouth(self, index: int) -> Floats:
        """The codes that frame `index` shows, on their way from what was shown to what should have been."""
        if self._score.pushes != self._pushes or self._cut:
            if self._index >= 0:
                self._behind = self._shown - self._hearing.window(self._index)
                self._fading, self._fading_from = CLOSING if self._cut else CATCH_UP, index
            self._pushes, self._cut = self._score.pushes, False
        codes = self._hearing.window(index)
        late = index - self._fading_from
        if 0 <= late < len(self._fading):
            codes = codes + np.float32(self._fading[late]) * self._behind
        return codes


def poster(painter: InstagPainter) -> bytes:
    """A JPEG of the face at rest, as a call begins."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(painter.paint(0), cv2.COLOR_YUV2BGR_I420))
    if not done:
        raise ValueError("the poster cannot be encoded")
    return data.tobytes()


_LUMA = np.asarray(BLACK + np.arange(256) * (WHITE - BLACK) / 255 + 0.5, np.uint8)


def stacked(picture: Bytes, matte: Bytes) -> Bytes:
    """I420 (3 H / 2, W) and its matte (H, W), 0 to 255 -> I420 of (2 H, W): the matte as grey below the colours."""
    high, wide = matte.shape
    out = np.empty((3 * high, wide), np.uint8)
    out[:high] = picture[:high]
    np.take(_LUMA, matte, out=out[high : 2 * high])
    chroma = out[2 * high :].reshape(2, high, wide // 2)
    chroma[:, : high // 2] = picture[high:].reshape(2, high // 2, wide // 2)
    chroma[:, high // 2 :] = GREY
    return out
