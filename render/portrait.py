"""A person's photographs as the painter needs them: planes of Y, U and V, mouths brought into one frame.

A portrait's folder holds one picture of the whole person (`base.webp`, at rest, with alpha), the mouth region of
every viseme (`mouths.webp`, stacked), the eyes half and fully closed (`eyes.webp`), and two kinds of displacement
fields. `warps.png` says for every pixel of each mouth picture which point of the reference picture (the open mouth
`aa`) shows the same spot of skin, and the other way round; with these, mouths are blended lip on lip and not
picture on picture. `faces.png` says how the skin moves when the brows rise and when the closed lips smile.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from server.core.media import VISEMES

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SIZE = 512  # pixels, both ways
FOLDER = Path(__file__).parent / "portraits"


class Sheet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """portrait.json: what is where in the pictures."""

    title: str
    mouth: tuple[int, int, int, int]
    """left, top, right, bottom; even numbers"""
    eyes: tuple[int, int, int, int]
    warp_px: float
    """pixels of displacement a step in warps.png"""
    reference: str
    """the mouth in whose frame all are blended"""
    mouths: tuple[str, ...]
    """the order in mouths.webp and warps.png"""
    eyelids: tuple[float, ...]
    """how far the lids are closed in each picture of eyes.webp"""
    faces: tuple[str, ...]
    """the order in faces.png"""
    face_px: float


@dataclass(frozen=True)
class Plane:
    """One plane (Y full size; U, V half size) of everything that the painter blends. Values 0 to 255."""

    base: Bytes  # (S, S)
    mouth: tuple[slice, slice]
    """where the mouth is: rows, columns"""
    mask: Floats  # (h, w); how much of the mouth's picture replaces the base
    textures: Floats  # (16, h, w); each viseme brought into the reference mouth's frame
    leftovers: Floats  # (16, h, w); what its own frame shows more than that, so that a pure viseme is exact
    back: Floats  # (16, h, w, 2); from each viseme's frame to the reference frame, pixels (x, y)
    grid: Floats  # (h, w, 2); every pixel's own place
    eyes: tuple[slice, slice]
    lids: Floats  # (2, h, w); what closing the eyes half and fully adds to the base


@dataclass(frozen=True)
class Portrait:
    """A person, ready to be painted. Shared by all calls; nobody writes to it."""

    name: str
    title: str
    planes: tuple[Plane, Plane, Plane]
    brows: Floats  # (S / 4, S / 4, 2); displacement in pixels of the full picture
    smile: Floats
    poster: bytes


def names(folder: Path = FOLDER) -> list[str]:
    """The people there are."""
    return sorted(path.parent.name for path in folder.glob("*/portrait.json"))


def _planes(bgr: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
    """Y, U, V of ITU-R BT.601, limited range, all in full size. bgr: (h, w, 3), 0 to 255."""
    b, g, r = bgr[..., 0], bgr[..., 1], bgr[..., 2]
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    return y.astype(np.float32), u.astype(np.float32), v.astype(np.float32)


def halve(plane: Floats) -> Floats:
    """Means of 2 x 2 pixels."""
    return np.asarray(cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)


def _read(path: Path, flag: int = cv2.IMREAD_UNCHANGED) -> Bytes:
    image = cv2.imread(str(path), flag)
    if image is None:
        raise FileNotFoundError(f"{path} is missing or not a picture")
    return np.asarray(image, np.uint8)


def identity(height: int, width: int) -> Floats:
    """(h, w, 2): every pixel's own (x, y)."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], -1)


_remap: Any = cv2.remap  # its stub denies that the second map may be None


def warp(image: NDArray[Any], at: Floats, interpolation: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """What lies at each of the places `at`, (h, w, 2) as (x, y); beyond the edge, what lies at the edge."""
    result: NDArray[Any] = _remap(image, at, None, interpolation, out, cv2.BORDER_REPLICATE)
    return result


def pull(image: Floats, grid: Floats, move: Floats) -> Floats:
    """What lies at each pixel's place plus `move`."""
    return np.asarray(warp(image, grid + move, cv2.INTER_CUBIC), np.float32)


def load(name: str, folder: Path = FOLDER) -> Portrait:
    """Read a person's folder. Takes some 100 ms of CPU."""
    here = folder / name
    sheet = msgspec.json.decode((here / "portrait.json").read_bytes(), type=Sheet)
    person = _read(here / "base.webp").astype(np.float32)
    alpha = person[..., 3:] / 255
    backdrop = _read(folder / "background.webp", cv2.IMREAD_COLOR)
    whole = np.asarray(person[..., :3] * alpha + backdrop * (1 - alpha), np.float32)

    left, top, right, bottom = sheet.mouth
    height, width = bottom - top, right - left
    count = len(sheet.mouths)
    pictures = _read(here / "mouths.webp", cv2.IMREAD_COLOR).reshape(count, height, width, 3)
    stored = _read(here / "warps.png", cv2.IMREAD_GRAYSCALE).reshape(4 * count + 1, height, width)
    moves = (stored[:-1].astype(np.float32) - 128) * np.float32(sheet.warp_px)
    moves = np.ascontiguousarray(moves.reshape(count, 2, 2, height, width).transpose(0, 1, 3, 4, 2))
    mask = stored[-1].astype(np.float32) / 255 * _fade(height, width, 10)
    order = [sheet.mouths.index(v) for v in VISEMES]

    e_left, e_top, e_right, e_bottom = sheet.eyes
    closed = _read(here / "eyes.webp", cv2.IMREAD_COLOR).reshape(-1, e_bottom - e_top, e_right - e_left, 3)
    fade = _fade(e_bottom - e_top, e_right - e_left, 8)

    base_planes = _planes(whole)
    mouth_planes = [_planes(pictures[i].astype(np.float32)) for i in order]
    lid_planes = [_planes(c.astype(np.float32)) for c in closed]
    planes = []
    for channel in range(3):
        half = channel > 0
        down = halve if half else (lambda p: p)
        scale = 2 if half else 1
        base = down(base_planes[channel])
        rows, columns = slice(top // scale, bottom // scale), slice(left // scale, right // scale)
        grid = identity(height // scale, width // scale)
        back = np.stack([down(moves[i, 0]) / np.float32(scale) for i in order])
        forth = [down(moves[i, 1]) / np.float32(scale) for i in order]
        shown = [down(p[channel]) for p in mouth_planes]
        textures = np.stack([pull(s, grid, f) for s, f in zip(shown, forth, strict=True)])
        leftovers = np.stack([s - pull(t, grid, b) for s, t, b in zip(shown, textures, back, strict=True)])
        eye_rows = slice(e_top // scale, e_bottom // scale)
        eye_columns = slice(e_left // scale, e_right // scale)
        lids = np.stack([(down(p[channel]) - base[eye_rows, eye_columns]) * down(fade) for p in lid_planes])
        planes.append(
            Plane(
                base=np.clip(np.round(base), 0, 255).astype(np.uint8),
                mouth=(rows, columns),
                mask=down(mask),
                textures=textures,
                leftovers=leftovers,
                back=back,
                grid=grid,
                eyes=(eye_rows, eye_columns),
                lids=lids,
            )
        )
    quarter = SIZE // 4
    faces = (_read(here / "faces.png", cv2.IMREAD_GRAYSCALE).astype(np.float32) - 128) * sheet.face_px
    faces = faces.reshape(len(sheet.faces), 2, quarter, quarter).transpose(0, 2, 3, 1)
    ok, poster = cv2.imencode(".jpg", np.clip(whole, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert ok
    return Portrait(
        name=name,
        title=sheet.title,
        planes=(planes[0], planes[1], planes[2]),
        brows=np.ascontiguousarray(faces[sheet.faces.index("brows")]),
        smile=np.ascontiguousarray(faces[sheet.faces.index("smile")]),
        poster=poster.tobytes(),
    )


def _fade(height: int, width: int, border: int) -> Floats:
    """1 inside, falling smoothly to 0 over `border` pixels at the edges."""

    def ramp(n: int) -> Floats:
        edge = np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / border, 0, 1)
        return np.asarray(edge * edge * (3 - 2 * edge), np.float32)

    return np.asarray(ramp(height)[:, None] * ramp(width)[None, :], np.float32)
