"""`python -m render.train.reduce AVATAR`: the face's motion as a sum of few shapes, kept only where nobody sees it.

Principal components of how the face's Gaussians move in some hundred moments of speech and expression. In other
moments, of other voices, frames made of them are compared with frames of the nets; the fewest shapes that differ by
less than LEAST_DB in the worst of these are kept, and none if no number does.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from render.avatar import Avatar, load, save
from render.expression import AU45, Bearing
from render.motion.baked import CHANNELS, Baked
from render.motion.lowrank import MOST, PREFIX, LowRank
from render.motion.tables import WINDOW
from render.person import Canvas, Person
from render.train.rehearsal import other_voices
from server.core.errors import VisavisError

Floats = NDArray[np.float32]
Drive = tuple[Floats, Floats]

LEAST_DB = 55.0
SHAPES = (24, 32, 48, 64)
MOMENTS = 400
CHECKED = 80
ASKED = 256
"""points that the nets are asked for"""
WORTH = 1024
"""moving points, below which the nets are as quick"""
HELD_OUT = 0.3
"""of the other voices is heard in the check only"""
WIDER = 1.2
"""action units are drawn from nothing to so many times the strongest of the idle loop"""


def moments(person: Person, heard: Floats, count: int, seed: int) -> Iterator[Drive]:
    """Speech, silence and expressions as they may come, mixed: codes and action units of so many frames.

    heard: more than WINDOW features.
    """
    rng = np.random.default_rng(seed)
    baked, units = person.baked, person.avatar.idle.action_units
    most = np.maximum(WIDER * units.max(0), 0.2)
    most[AU45] = max(most[AU45], 2.0)
    codes = baked.codes(heard)
    rest = np.repeat(person.rest_code[None], WINDOW, 0)
    for k in range(count):
        shown = units[rng.integers(len(units))].copy()
        drawn = rng.random(6) < (0.5 if k % 2 else 0.0)
        shown[drawn] = (rng.random(6) * most)[drawn]
        window = rest
        if k % 10:
            at = int(rng.integers(len(codes) - WINDOW))
            window = codes[at : at + WINDOW]
            if k % 10 == 1:  # a voice that begins or ends
                share = np.float32(rng.random())
                window = share * window + (1 - share) * rest
        yield np.ascontiguousarray(window, np.float32), shown.astype(np.float32)


def _weights(avatar: Avatar, baked: Baked) -> Floats:
    """(CHANNELS, moving): metres that a surface moves by for one unit of each channel, near enough."""
    raw = avatar.face.scale[baked.moving].astype(np.float64)
    largest = np.logaddexp(0, raw).max(1)
    quaternion = np.maximum(np.linalg.norm(avatar.face.rotation[baked.moving], axis=1), 1e-6)
    out = np.empty((CHANNELS, len(baked.moving)))
    out[:3] = 1
    out[3:7] = 2 * largest / quaternion
    out[7:] = 1 / (1 + np.exp(-raw.T))
    return out.astype(np.float32)


def components(baked: Baked, weights: Floats, drive: Iterator[Drive]) -> tuple[Floats, Floats]:
    """The mean (CHANNELS, moving) of the motion, and its principal shapes, strongest first: (n, CHANNELS, moving).

    Orthonormal where multiplied by the weights.
    """
    exact = replace(baked, few=None)
    moved = np.stack([exact.frame(*moment).face.copy() for moment in drive])
    mean = moved.mean(0)
    moved = ((moved - mean) * weights).reshape(len(moved), -1)
    strength, turned = np.linalg.eigh(moved.astype(np.float64) @ moved.T.astype(np.float64))
    best = np.argsort(strength)[::-1][: max(SHAPES)]
    best = best[strength[best] > 1e-12 * strength.max()]
    shapes = (turned[:, best].T / np.sqrt(strength[best])[:, None]).astype(np.float32) @ moved
    return mean, (shapes.reshape(len(best), *mean.shape) / weights).astype(np.float32)


def of_shapes(mean: Floats, shapes: Floats, weights: Floats, seed: int = 0) -> LowRank:
    """The points that are asked are drawn by how much they tell of the shapes; the rest is least squares."""
    scaled = shapes * weights
    tells = (scaled**2).sum((0, 1)).astype(np.float64)
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.choice(mean.shape[1], ASKED, replace=False, p=tells / tells.sum())).astype(np.int32)
    few = scaled[:, :, asked].reshape(len(shapes), -1).astype(np.float64)
    fit = np.linalg.pinv(few.T) * weights[:, asked].ravel()
    steps = np.maximum(np.abs(shapes).max(2), 1e-30) / MOST
    whole = np.rint(shapes / steps[:, :, None]).astype(np.int16)
    return LowRank(asked, fit.astype(np.float32), mean, whole, steps.astype(np.float32), 0.0)


def check(person: Person, few: LowRank, drive: Sequence[Drive]) -> float:
    """The least PSNR of the drawn pixels, in dB, over frames with these shapes against frames of the nets."""
    other, bearing = copy(person), Bearing(person, 5)
    other.baked = replace(person.baked, few=few)
    nets, shapes = Canvas(person), Canvas(other)
    worst = np.inf
    for k, (codes, units) in enumerate(drive):
        expression = replace(bearing.at(25 * k, 1.0), action_units=units)
        planes = nets.planes(codes, expression)
        drawn = planes.transmittance < 0.5
        error = (shapes.planes(codes, expression).colour - planes.colour)[:, drawn]
        worst = min(worst, -10 * np.log10(max(float(np.mean(error.astype(np.float64) ** 2)), 1e-12)))
    return float(worst)


def reduced(avatar: Avatar, least_db: float = LEAST_DB) -> tuple[Avatar, dict[int, float]]:
    """The avatar with as few shapes as pass the check, or with none; and what the check said of each number."""
    avatar = replace(avatar, baked=_without(avatar))
    person = Person(avatar)
    said: dict[int, float] = {}
    voices = other_voices(avatar.audio)
    split = int(len(voices) * (1 - HELD_OUT))
    if len(person.baked.moving) < WORTH or len(voices) - split <= WINDOW:  # nothing to gain, or nothing to check with
        return avatar, said
    weights = _weights(avatar, person.baked)
    mean, shapes = components(person.baked, weights, moments(person, voices[:split], MOMENTS, 1))
    unseen = list(moments(person, voices[split:], CHECKED, 2))
    for count in SHAPES:
        few = of_shapes(mean, shapes[:count], weights)
        said[count] = check(person, few, unseen)
        if said[count] >= least_db:
            baked = replace(person.baked, few=replace(few, decibels=said[count]))
            return replace(avatar, baked=baked.arrays()), said
    return avatar, said


def _without(avatar: Avatar) -> dict[str, NDArray[np.generic]]:
    return {name: array for name, array in avatar.baked.items() if not name.startswith(PREFIX)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m render.train.reduce", description="A face's motion in less time."
    )
    parser.add_argument("avatar", type=Path, help="the avatar's folder, which is written again")
    parser.add_argument("--least-db", type=float, default=LEAST_DB, help="PSNR of the worst frame that is kept")
    options = parser.parse_args(argv)
    try:
        after, said = reduced(load(options.avatar), options.least_db)
        save(after, options.avatar)
    except VisavisError as error:
        print(error.message, file=sys.stderr)
        return 1
    kept = any(name.startswith(PREFIX) for name in after.baked)
    figures = ", ".join(f"{count} shapes {decibels:.1f} dB" for count, decibels in said.items())
    why = "too few points move, or no voices are known to check with"
    print(f"{options.avatar}: {figures or why}; {'the last is kept' if kept else 'none is kept'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
