"""A person's photographs as the painter needs them: planes of Y, U and V, mouths brought into one frame.

A portrait's folder holds one picture of the whole person (`base.webp`, at rest, with alpha), the mouth region of
every viseme (`mouths.webp`, stacked) with what of it is the inside of the mouth (`holes.png`), the eyes with the lids
closed a quarter, half, three quarters and fully (`eyes.webp`), where the eyeballs show (`gaze.png`), and two kinds of
displacement fields. `warps.png` says for every pixel of each mouth picture which point of the reference picture (the
open mouth `aa`) shows the same spot of skin, and the other way round. `faces.png` says how the skin moves when the
brows rise and when the closed lips smile. scripts/make_portraits.py makes all of it.

Lips and teeth are blended apart, since they move apart: the skin lip on lip in the reference frame; what is behind
the lips tooth on tooth, in a frame in which the upper teeth stand still and the lower ones hang at the reference's
jaw. A blend of whole pictures would show the teeth of one through the lips of the other.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from server.core.media import VISEMES

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Masks = NDArray[np.bool_]
Weights = NDArray[np.float64]

SIZE = 512  # pixels, both ways
FOLDER = Path(__file__).parent / "portraits"

SEEN_PX = 2.0  # beyond its own opening a picture says less and less about what is behind the lips
CLOSED_PIXELS = 30  # an opening smaller than this tells nothing about it
DARK = 0.06  # how much a closed mouth darkens what is behind barely parted lips, against 1 for what is seen
BLACK = 20.0  # luma there
FILL = 0.02  # how much the mean of all pictures counts beside those that are shown: where none of them has seen it


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
    """the order in mouths.webp, holes.png and warps.png"""
    upper_teeth: float
    """the row of their edge in the whole picture"""
    lower_teeth: tuple[float, ...]
    """the row of their tips in each mouth"""
    eyelids: tuple[float, ...]
    """how far the lids are closed in each picture of eyes.webp"""
    faces: tuple[str, ...]
    """the order in faces.png"""
    face_px: float


@dataclass(frozen=True)
class Plane:
    """Everything that the painter blends: once for Y in full size, once for U and V together in half size.

    Values 0 to 255. Arrays of U and V have one dimension more than is noted here, of length 2.
    """

    base: Bytes  # (S, S)
    mouth: tuple[slice, slice]
    """where the mouth is: rows, columns"""
    mask: Floats  # (h, w); how much of the mouth's picture replaces the base
    skins: Floats  # (16, h, w); each viseme's skin brought into the reference mouth's frame
    leftovers: Floats  # (16, h, w); what its photograph shows more than the painter makes of it alone
    back: Floats  # (16, h, w, 2); from each viseme's frame to the reference frame, pixels (x, y)
    grid: Floats  # (h, w, 2); every pixel's own place
    hole: tuple[slice, slice]
    """within the mouth, where its inside may be seen"""
    insides: Floats  # (16, i, j); what is behind the lips, in the reference jaw's frame, times `seen`
    seen: Floats  # (16, i, j); how well each viseme's photograph shows it, 0 to 1
    beyond: Floats  # (i, j); what to take where none shows it
    eyes: tuple[slice, slice]
    lids: Bytes  # (1 + n, h, w); the eyes open, then closed as far as Portrait.lids says
    gaze: Floats  # (h, w, 2); how much of the gaze's motion each pixel takes part in
    eye_grid: Floats  # (h, w, 2)


@dataclass(frozen=True)
class Jaw:
    """What is common to both planes of a mouth. Rows and pixels within the box of Plane.hole, full size."""

    contours: Floats  # (16, 2, k, 2); the upper and the lower lip's inner edge, left to right, (x, y)
    upper_teeth: float
    lower_teeth: Floats  # (16,)
    reference: float
    """the lower teeth's row in the reference frame"""
    size: tuple[int, int]
    """height, width"""

    def unfolded(self, lower: float) -> Floats:
        """For each row of the box, the row of the reference frame that shows the same when the lower teeth are at
        row `lower`: the upper teeth do not move, the lower ones as a whole, and what is between is stretched."""
        y = np.arange(self.size[0], dtype=np.float32)
        upper, below = self.upper_teeth, max(lower, self.upper_teeth + 0.01)
        between = upper + (y - upper) * (self.reference - upper) / (below - upper)
        out = np.where(y <= upper, y, np.where(y >= below, y + self.reference - lower, between))
        return out.astype(np.float32)

    def folded(self, lower: float) -> Floats:
        """The other way round: for each row of the reference frame, the row of a mouth with its teeth there."""
        y = np.arange(self.size[0], dtype=np.float32)
        upper, below = self.upper_teeth, max(lower, self.upper_teeth + 0.01)
        between = upper + (y - upper) * (below - upper) / (self.reference - upper)
        out = np.where(y <= upper, y, np.where(y >= self.reference, y - self.reference + lower, between))
        return out.astype(np.float32)

    def opened(self, weights: Weights) -> Floats:
        """How much of each pixel lies between the blended lips: (i, j), 0 to 1."""
        height, width = self.size
        upper, lower = np.tensordot(weights, self.contours, 1)
        shut = lower[:, 1] < upper[:, 1]
        upper[shut, 1] = lower[shut, 1] = (upper[shut, 1] + lower[shut, 1]) / 2
        outline = (np.concatenate([upper, lower[::-1]]) + 0.5) * FINER - 0.5
        fine = np.zeros((height * FINER, width * FINER), np.uint8)
        cv2.fillPoly(fine, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
        share = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(share / np.float32(255), np.float32)


FINER = 4  # the opening's edge is counted in quarters of a pixel


@dataclass(frozen=True)
class Portrait:
    """A person, ready to be painted. Shared by all calls; nobody writes to it."""

    name: str
    title: str
    luma: Plane
    chroma: Plane
    jaw: Jaw
    eyelids: tuple[float, ...]
    """how far the lids are closed in each of Plane.lids, rising from 0"""
    brows: Floats  # (S / 4, S / 4, 2); displacement in pixels of the full picture
    smile: Floats
    poster: bytes


def names(folder: Path = FOLDER) -> list[str]:
    """The people there are."""
    return sorted(path.parent.name for path in folder.glob("*/portrait.json"))


def planes_of(bgr: NDArray[Any]) -> Floats:
    """Y, U, V of ITU-R BT.601, limited range, all in full size: (3, h, w). bgr: (h, w, 3), 0 to 255."""
    b, g, r = (bgr[..., c].astype(np.float32) for c in range(3))
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    return np.stack([y, u, v]).astype(np.float32)


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


Rows = tuple[NDArray[np.intp], Floats]
"""Where an image is looked up: the row above each place, and how far below it the place lies, (h, 1)."""


def _lookup(rows: Floats) -> Rows:
    """For places in an image as high as there are of them."""
    first = np.clip(np.floor(rows).astype(np.intp), 0, len(rows) - 2)
    return first, np.clip(rows - first, 0, 1).astype(np.float32)[:, None]


def _shifted(image: Floats, at: Rows) -> Floats:
    """The image's rows at those places."""
    first, part = at
    above = image[first]
    above += (image[first + 1] - above) * (part if image.ndim == 2 else part[..., None])
    return above


def _spread(image: Floats, known: Masks) -> tuple[Floats, Floats]:
    """The image (c, h, w) with what is not known taken from the nearest that is, and how far away that lies."""
    apart, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    where = np.zeros((labels.max() + 1, 2), np.intp)
    where[labels[known]] = np.argwhere(known)
    nearest = image[:, where[labels][..., 0], where[labels][..., 1]]
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), 1.0) for plane in nearest])
    return np.where(apart > 1.5, smooth, nearest).astype(np.float32), np.asarray(apart, np.float32)


def shapes(jaw: Jaw, weights: Weights) -> tuple[tuple[Floats, Rows], tuple[Floats, Rows]]:
    """For luma and for chroma: how much of each pixel lies between the lips, and which rows are behind them."""
    opened = jaw.opened(weights)
    rows = jaw.unfolded(float(weights @ jaw.lower_teeth))
    coarse = np.asarray((rows[0::2] + rows[1::2]) / 4 - 0.25, np.float32)
    return (opened, _lookup(rows)), (halve(opened)[..., None], _lookup(coarse))


def blend(plane: Plane, shape: tuple[Floats, Rows], weights: Weights) -> Floats:
    """The mouth, without leftovers: (h, w). shape: the plane's entry of `shapes`."""
    opened, at_rows = shape
    shown = [(i, float(w)) for i, w in enumerate(weights) if w > 0]
    skin = np.zeros_like(plane.mask)
    at = plane.grid.copy()
    for i, w in shown:
        cv2.scaleAdd(plane.skins[i], w, skin, skin)
        cv2.scaleAdd(plane.back[i], w, at, at)
    out = np.asarray(warp(skin, at, cv2.INTER_LINEAR), np.float32)
    if opened.any():
        inside = plane.beyond * np.float32(FILL)
        seen = np.full_like(inside, FILL)
        for i, w in shown:
            cv2.scaleAdd(plane.insides[i], w, inside, inside)
            cv2.scaleAdd(plane.seen[i], w, seen, seen)
        lips = out[plane.hole]
        lips += (_shifted(np.asarray(inside / seen, np.float32), at_rows) - lips) * opened
    return out


def load(name: str, folder: Path = FOLDER) -> Portrait:
    """Read a person's folder. Takes some 300 ms of CPU."""
    here = folder / name
    sheet = msgspec.json.decode((here / "portrait.json").read_bytes(), type=Sheet)
    person = _read(here / "base.webp").astype(np.float32)
    alpha = person[..., 3:] / 255
    backdrop = _read(folder / "background.webp", cv2.IMREAD_COLOR)
    whole = np.asarray(person[..., :3] * alpha + backdrop * (1 - alpha), np.float32)
    base = planes_of(whole)

    left, top, right, bottom = sheet.mouth
    height, width = bottom - top, right - left
    count = len(sheet.mouths)
    order = [sheet.mouths.index(v) for v in VISEMES]
    pictures = _read(here / "mouths.webp", cv2.IMREAD_COLOR).reshape(count, height, width, 3)
    shown = np.stack([planes_of(pictures[i]) for i in order])
    stored = _read(here / "warps.png", cv2.IMREAD_GRAYSCALE).reshape(4 * count + 1, height, width)
    moves = (stored[:-1].astype(np.float32) - 128) * np.float32(sheet.warp_px)
    moves = moves.reshape(count, 2, 2, height, width)[order].transpose(1, 0, 3, 4, 2)
    back, forth = np.ascontiguousarray(moves)
    mask = np.asarray(stored[-1] / 255 * _fade(height, width, 10), np.float32)
    holes = _read(here / "holes.png", cv2.IMREAD_GRAYSCALE).reshape(count, height, width)[order] > 127
    reference = VISEMES.index(sheet.reference)

    hole = _around(np.logical_or.reduce(holes), 6)
    jaw = _jaw(sheet, order, holes[reference], forth, hole)
    skins = np.stack([_skin(s, f, h, holes[reference]) for s, f, h in zip(shown, forth, holes, strict=True)])
    insides, seen, beyond = _insides(jaw, shown, holes, hole)

    e_left, e_top, e_right, e_bottom = sheet.eyes
    eyes = (slice(e_top, e_bottom), slice(e_left, e_right))
    closed = _read(here / "eyes.webp", cv2.IMREAD_COLOR).reshape(-1, e_bottom - e_top, e_right - e_left, 3)
    fade = _fade(e_bottom - e_top, e_right - e_left, 8)
    opened = base[(slice(None), *eyes)]
    lids = np.stack([opened, *(opened + (planes_of(c) - opened) * fade for c in closed)])
    gaze = np.asarray(_read(here / "gaze.png", cv2.IMREAD_GRAYSCALE) / np.float32(255), np.float32)

    def plane(channels: tuple[int, ...], scale: int) -> Plane:
        def fit(image: Floats) -> Floats:
            return halve(image) if scale == 2 else image

        def joined(images: Floats) -> Floats:
            """(3, h, w) -> the plane's channels."""
            out = [fit(images[c]) for c in channels]
            return np.stack(out, -1) if len(out) > 1 else out[0]

        def alike(image: Floats) -> Floats:
            return joined(np.broadcast_to(image, (3, *image.shape)))

        def within(box: tuple[slice, slice]) -> tuple[slice, slice]:
            rows, columns = (slice(side.start // scale, side.stop // scale) for side in box)
            return rows, columns

        look = fit(gaze)
        empty = Plane(
            base=_bytes(joined(base)),
            mouth=within((slice(top, bottom), slice(left, right))),
            mask=alike(mask),
            skins=np.stack([joined(skin) for skin in skins]),
            leftovers=np.zeros(0, np.float32),
            back=np.stack([np.asarray(fit(move) / scale, np.float32) for move in back]),
            grid=identity(height // scale, width // scale),
            hole=within(hole),
            insides=np.stack([joined(inside) for inside in insides]),
            seen=np.stack([alike(share) for share in seen]),
            beyond=joined(beyond),
            eyes=within(eyes),
            lids=_bytes(np.stack([joined(lid) for lid in lids])),
            gaze=np.stack([look, look], -1),
            eye_grid=identity(*look.shape),
        )
        which = int(scale == 2)
        alone = [blend(empty, shapes(jaw, pure)[which], pure) for pure in np.eye(len(VISEMES))]
        return replace(empty, leftovers=np.stack([joined(s) for s in shown]) - np.stack(alone))

    quarter = SIZE // 4
    faces = (_read(here / "faces.png", cv2.IMREAD_GRAYSCALE).astype(np.float32) - 128) * sheet.face_px
    faces = faces.reshape(len(sheet.faces), 2, quarter, quarter).transpose(0, 2, 3, 1)
    ok, poster = cv2.imencode(".jpg", np.clip(whole, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert ok
    return Portrait(
        name=name,
        title=sheet.title,
        luma=plane((0,), 1),
        chroma=plane((1, 2), 2),
        jaw=jaw,
        eyelids=(0.0, *sheet.eyelids),
        brows=np.ascontiguousarray(faces[sheet.faces.index("brows")]),
        smile=np.ascontiguousarray(faces[sheet.faces.index("smile")]),
        poster=poster.tobytes(),
    )


def _jaw(sheet: Sheet, order: list[int], opening: Masks, forth: Floats, hole: tuple[slice, slice]) -> Jaw:
    """opening: the reference's, in the mouth's box; forth: from the reference frame to each viseme's."""
    rows, columns = hole
    across = np.flatnonzero(opening.any(0))
    first = opening[:, across].argmax(0) - 1  # the last row of the upper lip, and the first one of the lower
    last = len(opening) - opening[::-1, across].argmax(0)
    edges = []
    for lip, inwards in ((first, 0.5), (last, -0.5)):
        places = np.stack([across, lip + inwards], -1).astype(np.float32) + forth[:, lip, across]
        # Smooth along the lip: the opening was counted in whole pixels.
        padded = np.pad(places, ((0, 0), (1, 1), (0, 0)), mode="edge")
        edges.append((padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4)
    top = sheet.mouth[1] + rows.start
    lower = np.array([sheet.lower_teeth[i] for i in order], np.float32) - top
    return Jaw(
        contours=np.asarray(np.stack(edges, 1) - np.array([columns.start, rows.start]), np.float32),
        upper_teeth=sheet.upper_teeth - top,
        lower_teeth=lower,
        reference=float(lower[VISEMES.index(sheet.reference)]),
        size=(rows.stop - rows.start, columns.stop - columns.start),
    )


def _skin(shown: Floats, forth: Floats, hole: Masks, reference_hole: Masks) -> Floats:
    """A viseme's picture (3, h, w) in the reference frame; the lips go on over its and the reference's hole."""
    grid = identity(*hole.shape)
    own = warp(hole.astype(np.float32), grid + forth, cv2.INTER_LINEAR) > 0.5
    return _spread(np.stack([pull(plane, grid, forth) for plane in shown]), ~(own | reference_hole))[0]


def _insides(jaw: Jaw, shown: Floats, holes: Masks, hole: tuple[slice, slice]) -> tuple[Floats, Floats, Floats]:
    """Plane.insides, .seen and .beyond of all planes in full size: (16, 3, i, j), (16, i, j), (3, i, j)."""
    dark = np.array([BLACK, 128.0, 128.0], np.float32)[:, None, None]
    insides = np.empty((len(holes), 3, *jaw.size), np.float32)
    seen = np.empty((len(holes), *jaw.size), np.float32)
    open_mouths = []
    for i, (picture, opening) in enumerate(zip(shown, holes, strict=True)):
        core = cv2.erode(opening.astype(np.uint8), np.ones((2, 2), np.uint8)) > 0
        if core.sum() < CLOSED_PIXELS:
            insides[i], seen[i] = DARK * dark, DARK
            continue
        open_mouths.append(i)
        texture, apart = _spread(picture, core)
        certain = np.exp(-((np.maximum(apart - 1, 0) / SEEN_PX) ** 2)).astype(np.float32)
        rows = _lookup(jaw.folded(float(jaw.lower_teeth[i])))
        seen[i] = _shifted(certain[hole], rows)
        insides[i] = np.stack([_shifted(plane[hole], rows) for plane in texture]) * seen[i]
    total = seen[open_mouths].sum(0)
    beyond, _ = _spread(insides[open_mouths].sum(0) / np.maximum(total, 1e-3), total > 0.05)
    return insides, seen, beyond


def _around(mask: Masks, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the mask's bounding box and a margin, at even numbers."""
    ys, xs = np.nonzero(mask)

    def side(low: int, high: int, limit: int) -> slice:
        return slice(max(low - margin, 0) // 2 * 2, min((high + margin + 2) // 2 * 2, limit))

    height, width = mask.shape
    return side(int(ys.min()), int(ys.max()), height), side(int(xs.min()), int(xs.max()), width)


def _bytes(values: Floats) -> Bytes:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _fade(height: int, width: int, border: int) -> Floats:
    """1 inside, falling smoothly to 0 over `border` pixels at the edges."""

    def ramp(n: int) -> Floats:
        edge = np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / border, 0, 1)
        return np.asarray(edge * edge * (3 - 2 * edge), np.float32)

    return np.asarray(ramp(height)[:, None] * ramp(width)[None, :], np.float32)
