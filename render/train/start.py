"""Where a head's Gaussians begin: on the surface that depth in metres shows, or within the masks' visual hull."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from render.train.dataset import BACKGROUND, EYES, FACE, HAIR, MOUTH, Dataset, Shot

Floats = NDArray[np.float32]
Displacement = Callable[[Floats, Shot], Floats]
"""(n, 3) points at rest and a frame -> (n, 3) metres by which they are moved in it"""

SH_C0 = 0.28209479177387814
FRAMES = 30
"""are looked at for the start"""
OPEN_FRAMES = 12
"""the widest, for the inner mouth"""
UNDO = 6
"""fixed-point steps that find where a moved point rests"""
FLATNESS = 0.35
"""thickness of a Gaussian on a surface, by its other axes"""
SMALLEST, LARGEST = 2e-4, 8e-3  # metres: the range of the axes of a Gaussian
EYEBALL = 0.0125
"""radius in metres that a fit of little evidence falls back to"""


@dataclass(frozen=True, eq=False)
class Points:
    """What a part of the head begins with."""

    xyz: Floats  # (n, 3), at rest, the head's frame
    colour: Floats  # (n, 3), 0 to 1
    normal: Floats  # (n, 3), unit length; zeros where unknown

    def __len__(self) -> int:
        return len(self.xyz)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Points":
        return Points(self.xyz[rows], self.colour[rows], self.normal[rows])


def joined(parts: Sequence[Points]) -> Points:
    return Points(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("xyz", "colour", "normal")))


def back_projected(data: Dataset, shot: Shot, mask: NDArray[np.bool_], most: int, rng: np.random.Generator) -> Points:
    """The surface under some of a frame's pixels, in the head's frame, as it is in that frame."""
    depth = data.depth(shot.index)
    assert depth is not None
    rows, columns = np.nonzero(mask & (depth > 0))
    if len(rows) > most:
        some = rng.choice(len(rows), most, replace=False)
        rows, columns = rows[some], columns[some]
    z = depth[rows, columns]
    x = (columns + 0.5 - data.width / 2) / data.focal_px * z
    y = (rows + 0.5 - data.height / 2) / data.focal_px * z
    turn, shift = shot.pose[:3, :3], shot.pose[:3, 3]
    xyz = (np.stack([x, y, z], 1) - shift) @ turn
    colour = data.picture(shot.index)[rows, columns].astype(np.float32) / 255
    normals = data.normals(shot.index)
    normal = np.zeros_like(xyz)
    if normals is not None:
        n = normals[rows, columns] * np.array([1, -1, -1], np.float32)  # to OpenCV's axes
        normal = np.asarray((n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6)) @ turn, np.float32)
    return Points(xyz.astype(np.float32), np.asarray(colour, np.float32), normal)


def at_rest(points: Points, shot: Shot, moves: Displacement) -> Points:
    """Undo what the field does to them in this frame: x = rest + d(rest)."""
    rest = points.xyz.copy()
    for _ in range(UNDO):
        rest = points.xyz - moves(rest, shot)
    return Points(rest.astype(np.float32), points.colour, points.normal)


def thinned(points: Points, most: int, rng: np.random.Generator, size: Floats | None = None) -> Points:
    """At most so many, spread evenly: one from each cell of a grid. size (n,): wanted distance there, relative."""
    if len(points) <= most:
        return points
    points = points.take(rng.permutation(len(points)))
    relative = np.ones(len(points), np.float32) if size is None else size
    low, high = 1e-5, 5e-2
    kept = np.arange(most)
    for _ in range(18):
        cell = float(np.sqrt(low * high))
        kept = _firsts(np.floor(points.xyz / (cell * relative[:, None])).astype(np.int64))
        if len(kept) > most:
            low = cell
        else:
            high = cell
    return points.take(np.sort(kept)[:most])


def _firsts(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first point of each cell (n, 3)."""
    low = cells.min(0)
    wide = cells.max(0) - low + 1
    key = ((cells[:, 0] - low[0]) * wide[1] + cells[:, 1] - low[1]) * wide[2] + cells[:, 2] - low[2]
    return np.unique(key, return_index=True)[1]


@dataclass(frozen=True, eq=False)
class Parts:
    """A head's beginning."""

    face: Points
    hair: Points
    eyes: tuple[Points, Points]  # of the eyeball at the smaller x, and the other; gaze straight ahead
    centres: Floats  # (2, 3), of the eyeballs
    mouth: Points


@dataclass(frozen=True)
class Budget:
    """How many Gaussians each part may begin with."""

    face: int = 9000
    hair: int = 6000
    eyes: int = 500
    """each"""
    mouth: int = 2000


def from_depth(
    data: Dataset,
    shots: Sequence[Shot],
    openness: Floats,
    moves: Displacement,
    moves_mouth: Displacement,
    budget: Budget,
    rng: np.random.Generator,
) -> Parts:
    """From depth in metres. openness (shots,): how much inner mouth each frame shows."""
    spread = np.unique(np.linspace(0, len(shots) - 1, FRAMES).astype(int))
    face, hair, eyes, mouth, looks = [], [], [], [], []
    for k in spread.tolist():
        shot, labels = shots[k], data.labels(shots[k].index)
        solid = data.coverage(shot.index, "head", labels) > 200
        face.append(at_rest(back_projected(data, shot, (labels == FACE) & solid, 8000, rng), shot, moves))
        hair.append(back_projected(data, shot, (labels == HAIR) & solid, 6000, rng))
        seen = back_projected(data, shot, labels == EYES, 1500, rng)
        eyes.append(seen)
        looks += [shot] * len(seen)
    for k in np.argsort(-openness)[:OPEN_FRAMES].tolist():
        shot, labels = shots[k], data.labels(shots[k].index)
        mouth.append(at_rest(back_projected(data, shot, labels == MOUTH, 1500, rng), shot, moves_mouth))
    whole = joined(face)
    balls, centres = _eyeballs(joined(eyes), looks, budget.eyes, rng)
    anchors = centres if len(balls[0]) else np.empty((0, 3), np.float32)
    inside = joined(mouth)
    if len(inside):
        anchors = np.concatenate([anchors, np.median(inside.xyz, 0, keepdims=True)])
    return Parts(
        thinned(whole, budget.face, rng, _detail(whole.xyz, anchors)),
        thinned(joined(hair), budget.hair, rng),
        balls,
        centres,
        thinned(inside, budget.mouth, rng),
    )


def _detail(xyz: Floats, anchors: Floats) -> Floats:
    """(n,) distance between points, relative: half as much within 2 cm of eyes and mouth as on a cheek."""
    if not len(anchors):
        return np.ones(len(xyz), np.float32)
    near, _ = cKDTree(anchors).query(xyz)
    # in two steps, so that a grid's cells fit each other
    return np.where(near < 0.026, 0.5, 1.0).astype(np.float32)


def _eyeballs(
    points: Points, looks: Sequence[Shot], most: int, rng: np.random.Generator
) -> tuple[tuple[Points, Points], Floats]:
    """Both eyeballs with the gaze straight ahead, and their centres."""
    from render.motion.gaze import turn_matrices

    centres = np.zeros((2, 3), np.float32)
    balls = []
    if not len(points):
        nothing = points.take(np.zeros(0, np.int64))
        return (nothing, nothing), centres
    middle = float(np.median(points.xyz[:, 0]))
    for eye in range(2):
        rows = np.flatnonzero((points.xyz[:, 0] < middle) == (eye == 0))
        if len(rows) < 30:
            balls.append(points.take(np.zeros(0, np.int64)))
            continue
        part = points.take(rows)
        centres[eye] = sphere(part.xyz)
        xyz, normal = part.xyz - centres[eye], part.normal.copy()
        turns = {id(shot): turn_matrices(*map(float, shot.gaze))[0].astype(np.float32) for shot in looks}
        back = np.stack([turns[id(looks[r])] for r in rows.tolist()])  # looks straight ahead after its transpose
        xyz, normal = np.einsum("nji,nj->ni", back, xyz), np.einsum("nji,nj->ni", back, normal)
        balls.append(thinned(Points(xyz + centres[eye], part.colour, normal), most, rng))
    return (balls[0], balls[1]), centres


def sphere(xyz: Floats) -> Floats:
    """(3,): the centre of a sphere through points; its radius is drawn to EYEBALL where they tell little."""
    middle = xyz.mean(0).astype(np.float64)
    p = xyz - middle
    centre, radius = np.array([0, 0, -EYEBALL]), EYEBALL
    for _ in range(30):  # Gauss-Newton on |p - centre| - radius, and a weak prior on the radius and on x and y
        out = p - centre
        far = np.linalg.norm(out, axis=1)
        jacobian = np.concatenate([-out / far[:, None], -np.ones((len(p), 1))], 1)
        prior = np.diag([0.02, 0.02, 0.02, 0.5]) * np.sqrt(len(p))
        a = np.concatenate([jacobian, prior])
        b = np.concatenate([radius - far, [0, 0, 0, 0.5 * np.sqrt(len(p)) * (EYEBALL - radius)]])
        step = np.linalg.lstsq(a, b, rcond=None)[0]
        centre, radius = centre + step[:3], radius + step[3]
        if np.abs(step).max() < 1e-7:
            break
    return np.asarray(middle + centre, np.float32)


def from_masks(
    data: Dataset, shots: Sequence[Shot], openness: Floats, budget: Budget, rng: np.random.Generator
) -> Parts:
    """Without depth in metres: random points that fall on the head in all of some frames, labelled by majority."""
    picked = [shots[k] for k in np.unique(np.linspace(0, len(shots) - 1, FRAMES // 2).astype(int))]
    wide = shots[int(np.argmax(openness))]
    wanted = budget.face + budget.hair + budget.mouth + 2 * budget.eyes
    cloud = rng.uniform(-0.15, 0.15, (16 * wanted, 3)).astype(np.float32)
    votes = np.zeros((len(cloud), 7), np.int32)
    alive = np.ones(len(cloud), bool)
    colour = np.zeros((len(cloud), 3), np.float32)
    for shot in picked:
        label, seen = _looked_up(data, shot, cloud)
        alive &= np.isin(label, (FACE, HAIR, MOUTH, EYES))
        votes[np.arange(len(cloud)), label] += 1
        colour += seen / len(picked)
    widest, _ = _looked_up(data, wide, cloud)
    inside = alive & (widest == MOUTH) & (np.abs(cloud[:, 2]) < 0.06)
    most = votes.argmax(1)

    def make(rows: NDArray[np.bool_], n: int) -> Points:
        return thinned(_bare(cloud[rows], colour[rows]), n, rng)

    eyes = _bare(cloud[:0], colour[:0])
    return Parts(
        make(alive & (most != HAIR), budget.face),
        make(alive & (most == HAIR), budget.hair),
        (eyes, eyes),
        np.zeros((2, 3), np.float32),
        make(inside, budget.mouth),
    )


def _bare(xyz: Floats, colour: Floats) -> Points:
    return Points(xyz, colour, np.zeros_like(xyz))


def _looked_up(data: Dataset, shot: Shot, xyz: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Label and colour of the pixels that points (n, 3) fall on."""
    seen = xyz @ shot.pose[:3, :3].T + shot.pose[:3, 3]
    pixel = seen[:, :2] / np.maximum(seen[:, 2:], 0.05) * data.focal_px + (data.width / 2, data.height / 2)
    column, row = np.floor(pixel).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < data.width) & (row < data.height) & (seen[:, 2] > 0.2)
    row, column = np.where(inside, row, 0), np.where(inside, column, 0)
    labels = np.where(inside, data.labels(shot.index)[row, column], BACKGROUND).astype(np.uint8)
    return labels, np.asarray(data.picture(shot.index)[row, column] / 255, np.float32)


def gaussians(points: Points, bands: int) -> dict[str, Floats]:
    """Raw parameters of Gaussians that lie flat on the points' surface, as large as their neighbours are far."""
    n = len(points)
    if not n:
        return empty(bands)
    near = min(4, n)
    far = cKDTree(points.xyz).query(points.xyz, near)[0].reshape(n, near)[:, 1:]
    size = np.sqrt((far**2).mean(1)) if near > 1 else np.full(n, 2e-3)
    size = np.clip(size, SMALLEST, LARGEST / 2)[:, None] * np.ones((1, 3))
    known = np.linalg.norm(points.normal, axis=1) > 0.5
    size[known, 2] *= FLATNESS
    sh = np.zeros((n, bands, 3), np.float32)
    sh[:, 0] = (points.colour - 0.5) / SH_C0
    return {
        "xyz": points.xyz.astype(np.float32),
        "sh": sh,
        "scale": unsoft(size),
        "rotation": _lying(points.normal),
        "opacity": np.full(n, 0.5, np.float32),
    }


def empty(bands: int) -> dict[str, Floats]:
    shapes = {"xyz": (0, 3), "sh": (0, bands, 3), "scale": (0, 3), "rotation": (0, 4), "opacity": (0,)}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def unsoft(metres: NDArray[np.floating]) -> Floats:
    """The inverse of softplus, good for small numbers too."""
    return np.asarray(metres + np.log(-np.expm1(-metres)), np.float32)


def _lying(normal: Floats) -> Floats:
    """(n, 4) quaternions w x y z that turn the z axis to the normals."""
    q = np.concatenate([1 + normal[:, 2:], np.cross(np.array([0, 0, 1.0], np.float32), normal)], 1)
    length = np.linalg.norm(q, axis=1, keepdims=True)
    flat = (length < 1e-3) | (np.linalg.norm(normal, axis=1, keepdims=True) < 0.5)
    return np.where(flat, np.array([1, 0, 0, 0], np.float32), q / np.maximum(length, 1e-6)).astype(np.float32)
