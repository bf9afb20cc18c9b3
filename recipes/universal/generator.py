"""Heads of the generator of synthetic people as numbers: what each point of any identity does for any control curves.

The generator itself stays outside the product: VISAVIS_GENERATOR names the folder of its programs, VISAVIS_MAKEHUMAN
that of its assets (CC0). Nothing is rendered. Lengths are metres in the head's own frame: x to the picture's right,
y up, z to the viewer, the origin between the eyes; the pose of the head is left out.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Controls = Mapping[str, Floats]
"""the generator's control curves by name, each (frames,)"""

METRES = 0.1  # the generator's unit is the decimetre
NAMED = ("mia", "leo")
"""the two people who ship; the universal field never sees them"""
REGIONS = ("rest", "lips", "jaw", "lids", "brows", "still", "fixed", "teeth", "tongue", "cavity")
"""of points: six of the face layer (`still` has no motion of its own: hair, scalp, ears, neck), then the inner mouth
(`fixed`: upper teeth and gum; `teeth`: lower teeth and gum)"""
FACE_REGIONS = 6
UPPER_INNER, LOWER_INNER = (61, 62, 63), (67, 66, 65)
"""landmarks of the inner lips, each above its counterpart"""
CAPPED = 1.035  # the lids stay outside a sphere of so many radii of the eye
INTO_MOUTH = 0.5  # from this share of the cavity's mask on, skin belongs to the inner mouth

# vertices of the base mesh (MakeHuman's hm08)
SKIN = 13_380
TONGUE = slice(13_380, 13_606)
EYES = (slice(13_606, 13_614), slice(13_614, 13_622))
LASHES = slice(14_742, 14_992)
LOWER_TEETH = slice(14_992, 15_060)
UPPER_TEETH = slice(15_060, 15_128)


@dataclass(frozen=True, eq=False)
class Identity:
    """A face by its shape: the generator's targets and their weights."""

    name: str
    sex: str
    targets: Mapping[str, float]


@cache
def _modules() -> SimpleNamespace:
    folders = {}
    for variable, witness in (("VISAVIS_GENERATOR", "avatar.py"), ("VISAVIS_MAKEHUMAN", "3dobjs/base.obj")):
        folder = os.environ.get(variable)
        if not folder or not Path(folder, witness).exists():
            what = "programs" if variable == "VISAVIS_GENERATOR" else "assets"
            raise RuntimeError(
                f"Set {variable} to the folder of the {what} of the generator of synthetic people (it has {witness})."
            )
        folders[variable] = folder
    os.environ["MAKEHUMAN_DATA"] = folders["VISAVIS_MAKEHUMAN"]
    sys.path.insert(0, folders["VISAVIS_GENERATOR"])
    try:
        names = ("mhmodel", "avatar", "parts", "landmarks", "subdiv", "anim")
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(folders["VISAVIS_GENERATOR"])


def available() -> bool:
    """Whether the generator can be asked on this machine."""
    try:
        _modules()
    except (RuntimeError, ImportError):
        return False
    return True


def action_units(controls: Controls) -> Floats:
    """(frames, 6) in the order of `render.avatar.ACTION_UNITS`: the generator's own measure, AU45 from 0 to 2."""
    gains: dict[str, Any] = _modules().anim.AUMAP
    columns = []
    for unit in ("AU01_r", "AU04_r", "AU05_r", "AU06_r", "AU07_r", "AU45_r"):
        total = sum(np.asarray(controls[name]) * gain for name, gain in gains[unit] if name in controls)
        columns.append(np.clip(total, 0, 5) + np.zeros(_length(controls)))
    return np.stack(columns, 1).astype(np.float32)


def _length(controls: Controls) -> int:
    return len(next(iter(controls.values())))


# --- identities ---


@cache
def named(name: str) -> Identity:
    """Mia or Leo, as rendered."""
    person = _modules().avatar.ID[name]
    targets: dict[str, float] = {}
    for race, share in person["race"].items():
        targets[f"macrodetails/{race}-{person['sex']}-young"] = share
    targets[f"macrodetails/universal-{person['sex']}-young-averagemuscle-averageweight"] = 1
    targets |= person["t"]
    for target, weight in person["tl"].items():
        targets |= _modules().mhmodel.lr(target, weight)
    return Identity(name, person["sex"], targets)


VARIED: Mapping[str, float] = {
    "head": 0.22, "forehead": 0.3, "mouth": 0.3, "nose": 0.25, "chin": 0.3, "cheek": 0.3, "eyes": 0.25,
    "eyebrows": 0.25, "neck": 0.2,
}  # fmt: skip
"""folder of targets -> standard deviation of the weight of each pair of opposites"""
OPPOSITES = (
    ("incr", "decr"), ("up", "down"), ("in", "out"), ("forward", "backward"), ("concave", "convex"),
    ("compress", "uncompress"),
)  # fmt: skip
SHAPES = ("oval", "round", "square", "rectangular", "diamond", "triangular", "invertedtriangular")
LEFT_OUT = (
    "head-trans", "neck-trans", "head-angle", "mouth-trans-in", "mouth-trans-out", "nose-trans-in", "nose-trans-out",
    "head-back", "eyebrows-trans-forward", "eyebrows-trans-backward", "neck-scale-vert", "eye-push",
)  # fmt: skip
"""what turns or shifts the whole head, or makes a face lopsided or ill"""


@cache
def _pairs() -> tuple[tuple[str, str, float], ...]:
    """(target, its opposite, standard deviation), of one side of what exists on two."""
    base = Path(_modules().mhmodel.D) / "targets"
    out = []
    for folder, spread in VARIED.items():
        names = {path.stem for path in (base / folder).glob("*.target") if not path.stem.startswith("r-")}
        for name in sorted(names):
            for one, other in OPPOSITES:
                opposite = name.removesuffix(one) + other
                skipped = any(name.removeprefix("l-").startswith(prefix) for prefix in LEFT_OUT)
                if name.endswith(f"-{one}") and opposite in names and not skipped:
                    out.append((f"{folder}/{name}", f"{folder}/{opposite}", spread))
    return tuple(out)


@cache
def mean_identity(count: int = 64) -> Identity:
    """The mean of many random faces, which the universal field is laid out on: no face of its own."""
    targets: dict[str, float] = {}
    for seed in range(count):
        for target, weight in random_identity(1_000_000 + seed).targets.items():
            targets[target] = targets.get(target, 0.0) + weight / count
    return Identity("mean", "female", targets)


def random_identity(seed: int) -> Identity:
    """A plausible face: sex, a mix of three ancestries, a shape of the head, two thirds of all details, mildly."""
    draw = np.random.default_rng([20261123, seed])
    sex = ("female", "male")[draw.integers(2)]
    targets: dict[str, float] = {}
    races = draw.dirichlet([0.7, 0.7, 0.7])
    for race, share in zip(("caucasian", "asian", "african"), races, strict=True):
        targets[f"macrodetails/{race}-{sex}-young"] = float(share)
    targets[f"macrodetails/universal-{sex}-young-averagemuscle-averageweight"] = 1
    targets[f"head/head-{SHAPES[draw.integers(len(SHAPES))]}"] = float(draw.uniform(0, 0.4))
    for one, other, spread in _pairs():
        weight = float(np.clip(draw.normal(0, spread), -2 * spread, 2 * spread))
        if draw.random() < 0.67:
            chosen = one if weight > 0 else other
            folder, name = chosen.split("/")
            for side in ("l-", "r-") if name.startswith("l-") else ("",):
                targets[f"{folder}/{side}{name.removeprefix('l-')}"] = abs(weight)
    return Identity(f"random-{seed}", sex, targets)


# --- one head ---


class _Base:
    """What all heads share: the mesh of head and neck, twice subdivided, and its masks."""

    def __init__(self) -> None:
        m = _modules()
        avatar = m.avatar.Avatar("mia")
        self.used: Ints = avatar.bidx
        self.subdivide = avatar.S  # (vertices, base vertices used), sparse
        self.faces: Ints = avatar.Q
        self.lip = avatar.lip * (1 - avatar.inside)
        self.inside: Doubles = avatar.inside
        self.ear: Doubles = avatar.ear
        self.units: tuple[str, ...] = tuple(avatar.units)
        tongue = [f for f, g in zip(m.avatar.BASE.F, m.avatar.BASE.G, strict=True) if g == "helper-tongue"]
        faces = [[i - TONGUE.start for i in f] for f in tongue]
        self.tongue = m.subdiv.subdivide(faces, TONGUE.stop - TONGUE.start, 2)[0]
        self.mia = avatar
        # One topology: what is Mia's inner lip is everybody's.
        self.landmarks: Ints = _landmarks(avatar, self.lip)


@cache
def _base() -> _Base:
    return _Base()


def _landmarks(avatar: Any, lip: Doubles) -> Ints:
    """The 68 vertices that the generator calls landmarks, for a head with the generator's own attributes."""
    m = _modules()
    rest = avatar.rest
    nose = (np.abs(rest[:, 0]) < 0.1) & (rest[:, 1] < -0.05) & (rest[:, 1] > -0.6)
    avatar.noseT = rest[np.argmax(np.where(nose, rest[:, 2], -9))]
    avatar.lipc = rest[(lip > 0.5) & (rest[:, 2] > 0.15)].mean(0)
    mask = m.avatar.sm(lip, 0.25, 0.75)
    female = avatar.sex == "female"
    thickness = {"thick": 0.9, "width": 0.050, "length": 0.080, "dy": 0.005, "n": 400}
    male = {"thick": 0.95, "width": 0.064, "length": 0.088, "dy": -0.015, "n": 430}
    brow = m.parts.Brows(avatar, **(thickness if female else male))
    found = m.landmarks.Landmarks(SimpleNamespace(av=avatar, brow=brow, lipmask=mask))
    return np.asarray(found.ids, np.int64)


class Head:
    """An identity's geometry and how it moves."""

    def __init__(self, identity: Identity) -> None:
        m, base = _modules(), _base()
        self.identity = identity
        whole = m.mhmodel.apply(m.avatar.BASE.V, dict(identity.targets))
        whole = whole - (whole[EYES[0]].mean(0) + whole[EYES[1]].mean(0)) / 2
        # The generator's own class finishes a head from its base mesh; arms and neck are of no use here.
        a = object.__new__(m.avatar.Avatar)
        a.name, a.sex, a.V0 = identity.name, identity.sex, whole
        a.units = {}
        for unit, targets in m.avatar.UNITS.items():
            moved = np.zeros_like(whole)
            for target, weight in targets.items():
                index, delta = m.mhmodel.target(m.avatar.U + target)
                np.add.at(moved, index, delta * weight)
            a.units[unit] = moved
        a._eyes()
        a._custom_units()
        self.generated = a
        self.lids: dict[str, Ints] = {}
        for side in "LR":
            far = np.linalg.norm(whole - a.eyeC[side], axis=1)
            self.lids[side] = np.flatnonzero((far < a.eyeR[side] * 1.25) & (np.arange(len(far)) < SKIN))
        self.units = np.stack([a.units[name] for name in base.units])  # (K, base vertices, 3) decimetres
        self.rest: Doubles = base.subdivide @ self._pushed(whole[None])[0][base.used]
        """(vertices, 3) decimetres: the skin with all controls at zero, lids outside the eyes"""

    # -- base mesh --

    def _weights(self, controls: Controls) -> Doubles:
        columns = [np.asarray(controls.get(name, np.zeros(_length(controls)))) for name in _base().units]
        return np.stack(columns, 1).astype(np.float64)

    def _pushed(self, moved: Doubles) -> Doubles:
        """Base meshes (frames, vertices, 3) with the lids moved out of the eyes, in place."""
        for side, ids in self.lids.items():
            centre, need = self.generated.eyeC[side], self.generated.eyeR[side] * CAPPED
            from_eye = moved[:, ids] - centre
            length = np.linalg.norm(from_eye, axis=2, keepdims=True)
            moved[:, ids] = centre + from_eye * np.where(length < need, need / length, 1.0)
        return moved

    # -- motion --

    def skin(self, vertices: Ints, controls: Controls) -> Floats:
        """What skin vertices do: (frames, n, 3) metres from rest. Linear in the controls but for the lids."""
        base, weights = _base(), self._weights(controls)
        rows = base.subdivide[vertices]  # (n, base vertices used)
        basis = np.stack([rows @ unit[base.used] for unit in self.units])  # (K, n, 3)
        out = np.tensordot(weights, basis, 1)
        for side, ids in self.lids.items():
            shares = rows[:, np.searchsorted(base.used, ids)]
            touched = np.flatnonzero(shares.getnnz(1))
            if len(touched):
                pushed = self._lid_correction(side, weights)
                still = self._lid_correction(side, np.zeros((1, weights.shape[1])))
                out[:, touched] += np.einsum("vi,fij->fvj", shares[touched].toarray(), pushed - still)
        return np.asarray(out * METRES, np.float32)

    def _lid_correction(self, side: str, weights: Doubles) -> Doubles:
        """(frames, lid vertices, 3): what is added to where the targets take the lids, to keep them off the eye."""
        ids = self.lids[side]
        linear = self.generated.V0[ids] + np.tensordot(weights, self.units[:, ids], 1)
        centre, need = self.generated.eyeC[side], self.generated.eyeR[side] * CAPPED
        from_eye = linear - centre
        length = np.linalg.norm(from_eye, axis=2, keepdims=True)
        return np.asarray(from_eye * (np.where(length < need, need / length, 1.0) - 1))

    def helper(self, vertices: Ints, controls: Controls) -> Floats:
        """As `skin`, for vertices of the base mesh itself: lashes."""
        return np.asarray(np.tensordot(self._weights(controls), self.units[:, vertices], 1) * METRES, np.float32)

    def jaw(self, controls: Controls) -> tuple[Doubles, Doubles, Doubles]:
        """The lower teeth move as a solid: (frames, 3, 3) rotations about a centre (3,), and (frames, 3) shifts."""
        rest = self.generated.V0[LOWER_TEETH]
        moved = rest + np.tensordot(self._weights(controls), self.units[:, LOWER_TEETH], 1)
        centre, after = rest.mean(0), moved.mean(1)
        covariance = np.einsum("vi,fvj->fij", rest - centre, moved - after[:, None])
        u, _, vt = np.linalg.svd(covariance)
        flip = np.ones((len(u), 3))
        flip[:, 2] = np.sign(np.linalg.det(vt.transpose(0, 2, 1) @ u.transpose(0, 2, 1)))
        turn = np.einsum("fji,fj,fkj->fik", vt, flip, u)
        return turn, centre, after

    def solid(self, points: Doubles, controls: Controls) -> Doubles:
        """Where points (n, 3) that are fixed to the jaw come to lie: (frames, n, 3) decimetres."""
        turn, centre, after = self.jaw(controls)
        return np.asarray(np.einsum("fij,nj->fni", turn, points - centre) + after[:, None])

    def tongue(self, vertices: Ints, controls: Controls) -> Floats:
        """What vertices of the subdivided tongue do: (frames, n, 3) metres."""
        a, rows = self.generated, _base().tongue[vertices]
        stretch = np.array([1.12, 1, 1])
        base = (a.V0[TONGUE] + np.tensordot(self._weights(controls), self.units[:, TONGUE], 1)) * stretch
        base = base + np.array([0, 0.012, 0.01])
        turn, centre, after = self.jaw(controls)
        carried = np.einsum("fij,fnj->fni", turn, base - centre) + after[:, None]
        base = base + a.tonguef[:, None] * (carried - base)
        moved = np.stack([rows @ frame for frame in base]) - rows @ self._tongue_rest
        return np.asarray(moved * METRES, np.float32)

    @cached_property
    def _tongue_rest(self) -> Doubles:
        return np.asarray(self.generated.V0[TONGUE] * [1.12, 1, 1] + [0, 0.012, 0.01])

    # -- the inner mouth's shapes, as the generator's scene builds them --

    @cached_property
    def mouth_shapes(self) -> tuple[Doubles, Doubles, Doubles]:
        """Points at rest, decimetres: upper teeth and gum, lower teeth and gum, tongue."""
        m, base, a = _modules(), _base(), self.generated
        up = a.V0[UPPER_TEETH]
        low, high = up.min(0), up.max(0)
        lips = self.rest[(base.lip > 0.5) & (self.rest[:, 2] > 0.15)].mean(0)
        scale = 0.0100 * (high[0] / 0.323) * 0.80
        width, depth, front = high[0] * 0.90, (high[2] - low[2]) * 1.05, high[2] - 0.005
        edge = lips[1] - 0.030
        upper_y, lower_y = edge + m.parts.UP[0][1] * scale, edge + 0.020 - m.parts.LO[0][1] * scale
        upper = np.concatenate([
            m.parts.teeth(width, depth, front, upper_y, -1, m.parts.UP, scale)[0],
            m.parts.gum(width, depth, front - 0.012, upper_y + 0.015, -1, rad=0.11, hgt=0.13)[0],
        ])  # fmt: skip
        lower = np.concatenate([
            m.parts.teeth(width * 0.94, depth * 0.97, front - 0.032, lower_y, 1, m.parts.LO, scale)[0],
            m.parts.gum(width * 0.94, depth * 0.97, front - 0.044, lower_y - 0.015, 1, rad=0.11, hgt=0.13)[0],
        ])  # fmt: skip
        return upper, lower, np.asarray(base.tongue @ self._tongue_rest)

    # -- landmarks --

    @cached_property
    def landmarks(self) -> Ints:
        """68 vertices of the skin. Mia's and Leo's are those of their pictures; others' are where Mia's are."""
        if self.identity.name != "leo":
            return _base().landmarks
        leo = _modules().avatar.Avatar("leo")
        own = _landmarks(leo, leo.lip * (1 - leo.inside))
        if leo.S.shape != _base().subdivide.shape:
            nearest = _nearest(self.rest, leo.rest[own])
            return np.asarray(nearest, np.int64)
        return own


def _nearest(cloud: Doubles, points: Doubles) -> Ints:
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(cloud).query(points)[1], np.int64)


def head(identity: Identity | str) -> Head:
    """The head of an identity, or of Mia or Leo by name; the last few are kept."""
    return _head(named(identity) if isinstance(identity, str) else identity)


@lru_cache(maxsize=4)
def _head(identity: Identity) -> Head:
    return Head(identity)


def landmarks(identity: Identity | str, controls: Controls) -> Floats:
    """Where the 68 landmarks are: (frames, 68, 3) metres in the head's frame."""
    person = head(identity)
    moved = person.skin(person.landmarks, controls)
    return np.asarray(moved + person.rest[person.landmarks] * METRES, np.float32)


def aperture(identity: Identity | str, controls: Controls) -> Floats:
    """How far the inner lips are apart: (frames,) metres, the mean of three pairs; about 0 in contact."""
    return opening(landmarks(identity, controls))


def opening(points: Floats) -> Floats:
    """The same of landmarks (frames, 68, 3)."""
    pairs = points[:, UPPER_INNER, 1] - points[:, LOWER_INNER, 1]
    return np.asarray(pairs.mean(1), np.float32)


# --- points to learn from ---


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of one head, where its Gaussians might lie, and how they move."""

    head: Head
    rest: Floats  # (n, 3) metres
    region: NDArray[np.uint8]  # (n,) into REGIONS
    vertices: Ints  # (n,) of whatever part the point belongs to; -1 for still points off the skin
    canon: Floats  # (n, 3) where the same point of the mean face is, metres
    lash: NDArray[np.bool_]  # (n,) vertices of the base mesh instead

    def displacement(self, controls: Controls) -> Floats:
        """(frames, n, 3) metres from rest."""
        out = np.zeros((_length(controls), len(self.rest), 3), np.float32)
        region = self.region
        tongue, teeth = region == REGIONS.index("tongue"), region == REGIONS.index("teeth")
        skin = (self.vertices >= 0) & ~self.lash & ~tongue & ~teeth & (region != REGIONS.index("fixed"))
        out[:, skin] = self.head.skin(self.vertices[skin], controls)
        out[:, self.lash] = self.head.helper(self.vertices[self.lash], controls)
        if tongue.any():
            out[:, tongue] = self.head.tongue(self.vertices[tongue], controls)
        if teeth.any():
            at = self.rest[teeth].astype(np.float64) / METRES
            out[:, teeth] = (self.head.solid(at, controls) - at) * METRES
        return out


FACE_POINTS = {"lips": 900, "lids": 450, "brows": 250, "jaw": 900, "rest": 900, "still": 500}
"""drawn from the skin of each head, by region"""
LASH_POINTS = 60
HAIR_POINTS = 600
MOUTH_POINTS = {"fixed": 350, "teeth": 350, "tongue": 250, "cavity": 250}


def regions(person: Head) -> NDArray[np.uint8]:
    """Of every vertex of the skin: an index into REGIONS."""
    base, rest = _base(), person.rest
    units = dict(zip(base.units, person.units, strict=True))

    def moves(*names: str) -> Doubles:
        return np.asarray(
            sum(np.linalg.norm(base.subdivide @ units[name][base.used], axis=1) for name in names), np.float64
        )

    out = np.full(len(rest), REGIONS.index("rest"), np.uint8)
    everything = sum(np.linalg.norm(base.subdivide @ unit[base.used], axis=1) for unit in person.units)
    out[moves("browup", "browin", "browdown") > 0.05] = REGIONS.index("brows")
    out[moves("jaw") > 0.04] = REGIONS.index("jaw")
    out[everything < 0.002] = REGIONS.index("still")
    for side in "LR":
        far = np.linalg.norm(rest - person.generated.eyeC[side], axis=1) / person.generated.eyeR[side]
        out[(far < 1.3) & (rest[:, 2] > -0.25)] = REGIONS.index("lids")
    out[base.lip > 0.4] = REGIONS.index("lips")
    out[base.inside >= INTO_MOUTH] = REGIONS.index("cavity")
    return out


def cloud(person: Head, seed: int) -> Cloud:
    """Points of the face and the inner mouth, more where much moves; the 68 landmarks come first."""
    base, draw = _base(), np.random.default_rng([7, seed])
    rest, region = person.rest, regions(person)
    area = _areas(rest, base.faces)
    seen = (rest[:, 1] > -2.2) & (np.abs(rest[:, 0]) < 1.2) & (rest[:, 2] > -1.4)
    parts: list[tuple[Doubles, Doubles, int, Ints]] = []
    own = person.landmarks
    vertices, kinds = [own], [region[own]]
    for name, count in FACE_POINTS.items():
        index = REGIONS.index(name)
        among = np.flatnonzero((region == index) & seen & (area > 0))
        chosen = draw.choice(among, min(count, len(among)), replace=False, p=area[among] / area[among].sum())
        vertices.append(chosen)
        kinds.append(region[chosen])
    skin = np.concatenate(vertices)
    kinds_all = np.concatenate(kinds)
    kinds_all[: len(own)] = np.where(
        kinds_all[: len(own)] >= FACE_REGIONS, REGIONS.index("lips"), kinds_all[: len(own)]
    )
    lash = draw.choice(np.arange(LASHES.start, LASHES.stop), LASH_POINTS, replace=False)
    hair = _hair(person, region, draw)
    upper, lower, tongue = person.mouth_shapes
    fixed = draw.choice(len(upper), MOUTH_POINTS["fixed"], replace=False)
    teeth = draw.choice(len(lower), MOUTH_POINTS["teeth"], replace=False)
    on_tongue = draw.choice(len(tongue), min(MOUTH_POINTS["tongue"], len(tongue)), replace=False)
    among = np.flatnonzero((region == REGIONS.index("cavity")) & (rest[:, 2] > -0.6))
    cavity = draw.choice(among, min(MOUTH_POINTS["cavity"], len(among)), replace=False)
    mean = _mean_head()
    shapes = mean.mouth_shapes
    for points, canon, name, ids in (
        (person.generated.V0[lash], mean.generated.V0[lash], "lids", lash),
        (hair, hair, "still", np.full(len(hair), -1)),
        (upper[fixed], shapes[0][fixed], "fixed", fixed),
        (lower[teeth], shapes[1][teeth], "teeth", teeth),
        (tongue[on_tongue], shapes[2][on_tongue], "tongue", on_tongue),
        (rest[cavity], mean.rest[cavity], "cavity", cavity),
    ):
        parts.append((points, canon, REGIONS.index(name), ids))
    count = [len(points) for points, _, _, _ in parts]
    return Cloud(
        head=person,
        rest=np.concatenate([rest[skin], *(p[0] for p in parts)]).astype(np.float32) * np.float32(METRES),
        region=np.concatenate([kinds_all, *(np.full(n, p[2], np.uint8) for n, p in zip(count, parts, strict=True))]),
        vertices=np.concatenate([skin, *(p[3] for p in parts)]),
        canon=np.concatenate([mean.rest[skin], *(p[1] for p in parts)]).astype(np.float32) * np.float32(METRES),
        lash=np.concatenate([np.zeros(len(skin), bool), np.ones(count[0], bool), np.zeros(sum(count[1:]), bool)]),
    )


@cache
def _mean_head() -> Head:
    return Head(mean_identity())


def _areas(rest: Doubles, faces: Ints) -> Doubles:
    """(vertices,): a quarter of the quads around each."""
    across = np.cross(rest[faces[:, 2]] - rest[faces[:, 0]], rest[faces[:, 3]] - rest[faces[:, 1]])
    out = np.zeros(len(rest))
    np.add.at(out, faces.ravel(), np.repeat(np.linalg.norm(across, axis=1) / 8, 4))
    return out


def _hair(person: Head, region: NDArray[np.uint8], draw: np.random.Generator) -> Doubles:
    """Points that nothing moves off the skin: over the scalp, and beside cheeks and neck where long hair hangs."""
    rest = person.rest
    scalp = np.flatnonzero((region == REGIONS.index("still")) & (rest[:, 1] > -0.3))
    roots = rest[draw.choice(scalp, HAIR_POINTS // 2)]
    outward = roots - np.array([0, 0.2, -0.8])
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    over = roots + outward * draw.uniform(0.05, 0.5, (len(roots), 1))
    width = np.abs(rest[(rest[:, 1] > -1.2) & (rest[:, 1] < 0.5)][:, 0]).max()
    beside = np.stack([
        draw.choice([-1, 1], HAIR_POINTS // 2) * (width + draw.uniform(0.03, 0.4, HAIR_POINTS // 2)),
        draw.uniform(-1.5, 0.6, HAIR_POINTS // 2),
        draw.uniform(-1.3, 0.1, HAIR_POINTS // 2),
    ], 1)  # fmt: skip
    return np.concatenate([over, beside])
