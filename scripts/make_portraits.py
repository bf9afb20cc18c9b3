"""Makes render/portraits: photographs of a generated person become what the talking portrait blends.

    python scripts/make_portraits.py --generator DIR --assets DIR --pictures DIR [--into DIR] [mia leo ...]

A tool for whoever makes the people, no part of the product. It needs numpy, opencv-python-headless (with WebP), scipy
and Pillow (which the generator imports), and three folders:

* generator: the people's geometry as Python modules, `avatar.py` and `visemes.py` (with what they import);
* assets: the MakeHuman files that the generator reads (CC0);
* pictures: `background.png`, and for each person `<name>/<viseme>.png` for every viseme, `blink_50.png` and
  `blink_100.png`: RGBA, 512 x 512, same pose and light, rendered from that geometry.

Because the pictures were rendered from the geometry, it is known exactly which point of one picture shows the same
spot of skin as a point of another: the mesh of either expression is projected and rasterised, and what one triangle
covers here it covers there. Inside the mouth there is no skin; there the displacement is interpolated between the
lips, column by column. Two minutes a person. The packs come out the same to the last byte with the same versions of
numpy, scipy and OpenCV; render/portrait.py says what is in them.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]
Masks = NDArray[np.bool_]
Box = tuple[int, int, int, int]  # left, top, right, bottom

SIZE = 512
MOUTHS = ("sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "ih", "EE", "oh", "ou")
REFERENCE = "aa"  # the widest mouth: every spot of the lips is seen in it
FACE = (100, 60, 412, 420)  # left, top, right, bottom: where brows and smile move the skin
LOWER_FACE = (140, 190, 372, 400)  # ... and where the mouth does; even numbers

# Controls of the generator beyond its visemes.
FACES = {
    "brows": {"browup": 0.5, "browin": 0.2},
    "smile": {"smile": 0.42, "squintL": 0.12, "squintR": 0.12},  # lips closed: it is added to whatever they do
}
BLINKS = {"blink_50": 0.55, "blink_100": 0.96}  # the blink controls of the pictures
# Lids between those that were photographed: (how far closed, blink control, the picture whose lids are moved).
LIDS = ((0.25, 0.28, "blink_50"), (0.5, 0.55, ""), (0.75, 0.76, "blink_50"), (1.0, 0.96, ""))
LASH_PX = 2.0  # lashes hang so far over the eye and move with the lid

# Vertices of the generator's mesh.
LOWER_TEETH, UPPER_TEETH = slice(14992, 15060), slice(15060, 15128)

# The camera of the pictures: decimetres, looking along -z.
CAMERA_Z = 11.0
CAMERA_Y = -0.42
SPAN = 3.35  # width of the picture at the origin
BEYOND_Z = 11.9  # what is farther away than this is the back of the head

GAZE_EDGE_PX = 3.0  # over so many pixels at the lids the eyeball's motion fades
WARP_PX = 0.2  # a step of warps.png
FACE_PX = 0.05  # a step of faces.png
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED)
WEBP_FINE = 97
WEBP_LOSSLESS = 101


class Person:
    """The generator's geometry of one person, projected into the picture."""

    def __init__(self, name: str) -> None:
        """Needs the generator's folder on the path and MAKEHUMAN_DATA in the environment."""
        avatar: Any = importlib.import_module("avatar")
        visemes: Any = importlib.import_module("visemes")
        self._avatar = avatar.Avatar(name)
        self._rest: Mapping[str, float] = visemes.REST
        self._mix: Any = visemes.mix
        self.expressions: Mapping[str, Mapping[str, float]] = visemes.VIS
        quads = self._avatar.Q
        self.triangles: NDArray[np.int64] = np.r_[quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
        inside = self._avatar.face_inside
        self.cavity: Masks = np.r_[inside, inside]
        """of the triangles: which line the mouth"""

    def _posed(self, controls: Mapping[str, float]) -> Floats:
        out: Floats = self._avatar.evalbase(self._mix(self._rest, controls))
        return out

    def points(self, controls: Mapping[str, float]) -> Floats:
        """(vertices, 3): x and y in pixels, centres at integers, and the distance from the camera."""
        avatar = self._avatar
        base = avatar.skin(self._posed(controls), avatar.pose(), avatar.W)
        return project(avatar.S @ base[avatar.bidx])

    def upper_teeth(self) -> float:
        """The row of the upper incisors' edge: the skull does not move."""
        return float(project(self._incisors(0.0, 0.0))[0, 1])

    def lower_teeth(self, controls: Mapping[str, float]) -> float:
        """The row of the lower incisors' tips: they follow the jaw, a rigid fit of the generator's lower teeth."""
        before, after = self._avatar.V0[LOWER_TEETH], self._posed(controls)[LOWER_TEETH]
        u, _, vt = np.linalg.svd((before - before.mean(0)).T @ (after - after.mean(0)))
        turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
        tips = (self._incisors(0.020, -0.032) - before.mean(0)) @ turn.T + after.mean(0)
        return float(project(tips)[0, 1])

    def _incisors(self, up: float, forward: float) -> Floats:
        """Where the generator's scene puts the upper incisors' edge in the middle, and what lies so far from it."""
        avatar = self._avatar
        lips = avatar.rest[(avatar.lip * (1 - avatar.inside) > 0.5) & (avatar.rest[:, 2] > 0.15)]
        front = avatar.V0[UPPER_TEETH][:, 2].max() - 0.005
        return np.array([[0.0, lips[:, 1].mean() - 0.030 + up, front + forward]])

    def eyeballs(self, box: Box) -> Floats:
        """(h, w): how far from the camera each pixel of `box` meets an eyeball; infinite where it does not."""
        left, top, right, bottom = box
        x, y = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
        focal = CAMERA_Z / SPAN * SIZE
        ray = np.stack([(x + 0.5 - SIZE / 2) / focal, (SIZE / 2 - y - 0.5) / focal, np.full(x.shape, -1.0)], -1)
        nearest = np.full(x.shape, np.inf)
        for side in "LR":
            to = np.array([0, CAMERA_Y, CAMERA_Z]) - self._avatar.eyeC[side]
            a, b, c = (ray * ray).sum(-1), ray @ to, to @ to - self._avatar.eyeR[side] ** 2
            meets = b * b - a * c
            depth = (-b - np.sqrt(np.maximum(meets, 0))) / a
            nearest = np.minimum(nearest, np.where(meets > 0, depth, np.inf))
        return nearest


def project(points: Floats) -> Floats:
    focal = CAMERA_Z / SPAN * SIZE
    x, y, z = points[:, 0], points[:, 1] - CAMERA_Y, CAMERA_Z - points[:, 2]
    return np.c_[SIZE / 2 + focal * x / z - 0.5, SIZE / 2 - focal * y / z - 0.5, z]


@dataclass(frozen=True)
class Surface:
    """What each pixel of a box shows: (h, w) and (h, w, 3)."""

    triangle: NDArray[np.int32]
    """-1: nothing"""
    weights: Floats
    """barycentric"""
    depth: Floats
    """from the camera; far where there is nothing"""
    skin: Masks
    """false: nothing, or the lining of the mouth"""

    def at(self, points: Floats, triangles: NDArray[np.int64]) -> Floats:
        """Where the same spots lie if the vertices are at `points`: (h, w, 2). Nonsense where there is nothing."""
        corners = points[triangles[np.maximum(self.triangle, 0)]][..., :2]
        out: Floats = (corners * self.weights[..., None]).sum(2)
        return out


def _doubled_areas(corners: Floats) -> Floats:
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    out: Floats = ab[:, 0] * ac[:, 1] - ac[:, 0] * ab[:, 1]
    return out


def facing(person: Person, rest: Floats) -> float:
    """The sign of a front face's doubled area: the nearest triangle, at the tip of the nose, is one."""
    corners = rest[person.triangles]
    return float(np.sign(_doubled_areas(corners[:, :, :2])[np.argmin(corners.mean(1)[:, 2])]))


def rasterise(person: Person, points: Floats, front: float, box: Box) -> Surface:
    """The nearest front face at every pixel of `box`."""
    left, top, right, bottom = box
    height, width = bottom - top, right - left
    depth = np.full((height, width), 1e9)
    triangle = np.full((height, width), -1, np.int32)
    weights = np.zeros((height, width, 3))
    corners = points[person.triangles]
    flat = corners[..., :2] - [left, top]
    low, high = flat.min(1), flat.max(1)
    area = _doubled_areas(flat)
    seen = (high[:, 0] >= 0) & (low[:, 0] <= width - 1) & (high[:, 1] >= 0) & (low[:, 1] <= height - 1)
    seen &= (np.abs(area) > 1e-9) & (corners[:, :, 2].mean(1) < BEYOND_Z) & (area * front > 0)
    for k in np.flatnonzero(seen):
        x0, y0 = np.maximum(np.ceil(low[k]), 0).astype(int)
        x1, y1 = np.minimum(np.floor(high[k]), [width - 1, height - 1]).astype(int)
        if x1 < x0 or y1 < y0:
            continue
        x, y = np.meshgrid(np.arange(x0, x1 + 1), np.arange(y0, y1 + 1))
        (ax, ay), (bx, by), (cx, cy) = flat[k]
        w1 = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) / area[k]
        w2 = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / area[k]
        w0 = 1 - w1 - w2
        z = w0 * corners[k, 0, 2] + w1 * corners[k, 1, 2] + w2 * corners[k, 2, 2]
        mine = (w0 >= -1e-6) & (w1 >= -1e-6) & (w2 >= -1e-6) & (z < depth[y, x])
        ys, xs = y[mine], x[mine]
        depth[ys, xs], triangle[ys, xs] = z[mine], k
        weights[ys, xs] = np.stack([w0[mine], w1[mine], w2[mine]], -1)
    return Surface(triangle, weights, depth, (triangle >= 0) & ~person.cavity[np.maximum(triangle, 0)])


def displacement(person: Person, surface: Surface, points: Floats, box: Box) -> Floats:
    """From every pixel to where its spot of skin lies at `points`; between skin above and below, interpolated."""
    left, top, right, bottom = box
    x, y = np.meshgrid(np.arange(left, right, dtype=np.float64), np.arange(top, bottom, dtype=np.float64))
    out = surface.at(points, person.triangles) - np.stack([x, y], -1)
    out[~surface.skin] = np.nan
    rows = np.arange(bottom - top)
    for column in _columns(out):
        hole = np.isnan(column)
        if hole.all():
            column[:] = 0
        elif hole.any():
            column[hole] = np.interp(rows[hole], rows[~hole], column[~hole])
    return out.astype(np.float32)


def _columns(field: Floats) -> Iterable[Floats]:
    """Views of a field's columns, one component each."""
    return (field[:, x, c] for c in range(2) for x in range(field.shape[1]))


def blurred(field: Floats, sigma: float) -> Floats:
    return np.stack([gaussian_filter(field[..., c], sigma) for c in range(2)], -1)


def quantised(field: Floats, step: float) -> Bytes:
    return np.clip(np.round(field / step) + 128, 0, 255).astype(np.uint8)


def even_box(mask: Masks, margin: int) -> Box:
    """The mask's bounding box and `margin`, at even coordinates, as half-size chroma needs it."""
    ys, xs = np.nonzero(mask)
    left, top = (int(v) - margin for v in (xs.min(), ys.min()))
    right, bottom = (int(v) + margin + 2 for v in (xs.max(), ys.max()))
    return left // 2 * 2, top // 2 * 2, right // 2 * 2, bottom // 2 * 2


def differing(pictures: Iterable[Bytes], base: Bytes, by: int) -> Masks:
    """Where any of the pictures differs from `base` by more than noise."""
    most = np.max([np.abs(p[..., :3].astype(int) - base[..., :3]).max(-1) for p in pictures], 0)
    return cv2.medianBlur(np.clip(most, 0, 255).astype(np.uint8), 5) > by


def moving(pictures: Iterable[Bytes], base: Bytes) -> Bytes:
    """The one area around the mouth in which speech changes the picture: 1, else 0."""
    mask = differing(pictures, base, 10).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)).astype(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask)
    largest = 1 + np.argmax(statistics[1:, cv2.CC_STAT_AREA])
    return cv2.dilate((labels == largest).astype(np.uint8), np.ones((7, 7), np.uint8)).astype(np.uint8)


def opening(skin: Masks, left: int) -> Masks:
    """Where the inside of the mouth is seen in a picture. left: of the mask's box."""
    hole = ~skin
    out = np.zeros_like(hole)
    count, labels, statistics, centres = cv2.connectedComponentsWithStats(hole.astype(np.uint8))
    for i in range(1, count):
        width, height, area = statistics[i, 2:5]
        in_the_middle = abs(centres[i][0] + left - SIZE / 2) < 45
        if area > 4 and in_the_middle and width < 100 and height < 60:
            out |= labels == i
    return out


def half_closed(person: Person, blink: float, pictures: Mapping[float, Bytes], source: float, box: Box) -> Bytes:
    """The eyes with the lids at `blink`, within `box`: the skin of the picture at `source`, moved to where the
    geometry has it; what the eyes show is what they show when open."""
    left, top, right, bottom = box
    points = {c: person.points({"blinkL": c, "blinkR": c}) for c in {0.0, blink, source}}
    surface = rasterise(person, points[blink], facing(person, points[0.0]), box)
    x, y = np.meshgrid(np.arange(left, right, dtype=np.float64), np.arange(top, bottom, dtype=np.float64))
    move = surface.at(points[source], person.triangles) - np.stack([x, y], -1)
    skin = np.ones(x.shape)
    eye = person.eyeballs(box) < surface.depth
    for column in np.flatnonzero(eye.any(0)):
        rows = np.flatnonzero(eye[:, column])
        first, behind = rows[0], slice(rows[0], rows[-1] + 1)
        move[behind, column] = move[max(first - 1, 0), column]
        below = np.arange(rows[-1] + 1 - first) + 1
        skin[behind, column] = np.clip(1 - (below - LASH_PX) / 1.5, 0, 1)
    at = np.stack([x, y], -1) + blurred(move, 0.8)
    lids = cv2.remap(pictures[source], at.astype(np.float32), None, cv2.INTER_CUBIC)[..., :3].astype(float)
    share = gaussian_filter(skin, 0.6)[..., None]
    opened = pictures[0.0][top:bottom, left:right, :3]
    return np.clip(np.round(share * lids + (1 - share) * opened), 0, 255).astype(np.uint8)


def make(name: str, pictures: Path, into: Path) -> None:
    """Write one person's folder."""

    def read(what: str) -> Bytes:
        image = cv2.imread(str(pictures / name / f"{what}.png"), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise SystemExit(f"{pictures / name / what}.png is missing")
        return np.asarray(image, np.uint8)

    into.mkdir(parents=True, exist_ok=True)
    person = Person(name)
    shown = {mouth: read(mouth) for mouth in MOUTHS}
    base = shown["sil"]
    points = {mouth: person.points(person.expressions[mouth]) for mouth in MOUTHS}
    front = facing(person, points["sil"])
    surfaces = {mouth: rasterise(person, points[mouth], front, LOWER_FACE) for mouth in MOUTHS}

    # ---- the mouths, and how they go over into each other
    b_left, b_top, b_right, b_bottom = LOWER_FACE
    area = moving([p[b_top:b_bottom, b_left:b_right] for p in shown.values()], base[b_top:b_bottom, b_left:b_right])
    left, top, right, bottom = even_box(area > 0, 8)
    rows = slice(max(top, 0), min(bottom, b_bottom - b_top))
    columns = slice(max(left, 0), min(right, b_right - b_left))
    inner = np.zeros_like(area)  # cleared at the border, so that the feather ends within
    inset = (slice(rows.start + 6, rows.stop - 6), slice(columns.start + 6, columns.stop - 6))
    inner[inset] = area[inset]
    mask = np.clip(gaussian_filter(inner.astype(float), 4.0), 0, 1)[rows, columns]
    holes = [opening(surfaces[mouth].skin, b_left) for mouth in MOUTHS]
    hole = np.logical_or.reduce(holes)
    # Exact at the lips; smooth farther out, where the jaw's edge against the neck would fold.
    near = np.clip((30 - distance_transform_edt(~hole)) / 12, 0, 1)[..., None]
    near = near * near * (3 - 2 * near)
    sheets: list[Bytes] = []
    for mouth in MOUTHS:
        for a, b in ((mouth, REFERENCE), (REFERENCE, mouth)):
            field = displacement(person, surfaces[a], points[b], LOWER_FACE)
            field = (near * field + (1 - near) * blurred(field, 5.0))[rows, columns]
            sheets += [quantised(field[..., 0], WARP_PX), quantised(field[..., 1], WARP_PX)]
    sheets.append(np.round(mask * 255).astype(np.uint8))
    cv2.imwrite(str(into / "warps.png"), np.vstack(sheets), PNG)
    cv2.imwrite(str(into / "holes.png"), np.vstack([h[rows, columns] * np.uint8(255) for h in holes]), PNG[:2])
    mouth_box = (columns.start + b_left, rows.start + b_top, columns.stop + b_left, rows.stop + b_top)
    left, top, right, bottom = mouth_box
    webp(into / "mouths.webp", [picture[top:bottom, left:right, :3] for picture in shown.values()])
    cv2.imwrite(str(into / "base.webp"), base, (cv2.IMWRITE_WEBP_QUALITY, WEBP_LOSSLESS))

    # ---- the eyes: the lids, and where the eyeballs show (so that the gaze can be moved)
    blinks = {BLINKS[name]: read(name) for name in BLINKS}
    eyes = even_box(differing(blinks.values(), base, 5), 10)
    left, top, right, bottom = eyes
    lids = [
        half_closed(person, control, {0.0: base, **blinks}, BLINKS[source], eyes)
        if source
        else blinks[control][top:bottom, left:right, :3]
        for _, control, source in LIDS
    ]
    webp(into / "eyes.webp", lids)
    surface = rasterise(person, points["sil"], front, eyes)
    seen = person.eyeballs(eyes) < surface.depth
    within = np.clip((distance_transform_edt(seen) - 0.5) / GAZE_EDGE_PX, 0, 1)
    gaze = np.round(255 * within * within * (3 - 2 * within)).astype(np.uint8)
    cv2.imwrite(str(into / "gaze.png"), gaze, PNG[:2])

    # ---- brows and smile: the skin moves, the pictures stay
    left, top, right, bottom = FACE
    rest = rasterise(person, points["sil"], front, FACE)
    skin = rest.skin
    nearest = distance_transform_edt(~skin, return_distances=False, return_indices=True)
    sheets = []
    for controls in FACES.values():
        moved = person.points(controls)
        at = rest.at(moved, person.triangles) - rest.at(points["sil"], person.triangles)
        field = np.zeros((SIZE, SIZE, 2))
        field[top:bottom, left:right] = at[nearest[0], nearest[1]]
        small = cv2.resize(blurred(field, 3.0), (SIZE // 4, SIZE // 4), interpolation=cv2.INTER_AREA)
        sheets += [quantised(small[..., 0], FACE_PX), quantised(small[..., 1], FACE_PX)]
    cv2.imwrite(str(into / "faces.png"), np.vstack(sheets), PNG[:2])

    sheet = {
        "title": name.capitalize(),
        "mouth": mouth_box,
        "eyes": eyes,
        "warp_px": WARP_PX,
        "faces": list(FACES),
        "face_px": FACE_PX,
        "reference": REFERENCE,
        "mouths": MOUTHS,
        "eyelids": [closed for closed, _, _ in LIDS],
        "upper_teeth": round(person.upper_teeth(), 2),
        "lower_teeth": [round(person.lower_teeth(person.expressions[mouth]), 2) for mouth in MOUTHS],
    }
    (into / "portrait.json").write_text(json.dumps(sheet, indent=1))


def webp(path: Path, pictures: Iterable[Bytes]) -> None:
    """One below the other."""
    cv2.imwrite(str(path), np.vstack(list(pictures)), (cv2.IMWRITE_WEBP_QUALITY, WEBP_FINE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["mia", "leo"], help="the people (default: mia leo)")
    parser.add_argument("--generator", type=Path, required=True, help="folder of avatar.py and visemes.py")
    parser.add_argument("--assets", type=Path, required=True, help="folder of the MakeHuman files")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of the pictures")
    default = Path(__file__).parent.parent / "render" / "portraits"
    parser.add_argument("--into", type=Path, default=default, help=f"where the packs go (default: {default})")
    options = parser.parse_args()
    os.environ["MAKEHUMAN_DATA"] = str(options.assets)
    sys.path.insert(0, str(options.generator))
    backdrop = cv2.imread(str(options.pictures / "background.png"), cv2.IMREAD_COLOR)
    if backdrop is None:
        raise SystemExit(f"{options.pictures / 'background.png'} is missing")
    for name in options.names:
        make(name, options.pictures, options.into / name)
        print(name, *(f"{path.name} {path.stat().st_size}" for path in sorted((options.into / name).iterdir())))
    cv2.imwrite(str(options.into / "background.webp"), backdrop, (cv2.IMWRITE_WEBP_QUALITY, WEBP_LOSSLESS))


if __name__ == "__main__":
    main()
