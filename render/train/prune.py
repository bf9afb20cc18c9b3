"""`python -m render.train.prune AVATAR`: what hardly anybody sees of a person goes, so that a frame costs less.

A Gaussian's weight in a pixel is its alpha times what shines through those in front of it. Whose largest weight, over
many frames of speech and idle motion, stays small is dropped: a tenth of the Gaussians and of a frame's time, some
55 dB from the picture that they were in. Nothing is trained again; `render.train.reduce` follows.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from render.avatar import Avatar, Eyeballs, Gaussians, load, save
from render.expression import Bearing
from render.motion.tables import WINDOW
from render.person import Canvas, Person
from render.raster.gaussians import ALPHA_MAX, ALPHA_MIN, SH_C0
from render.raster.project import (
    R_A,
    R_B,
    R_C,
    R_EX,
    R_EY,
    R_LN_O,
    R_X,
    R_Y,
    RECORD,
    TILE_H,
    TILE_W,
)
from render.train.reduce import reduced
from render.train.rehearsal import other_voices
from server.core.errors import VisavisError

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

LEAST = 0.03
ODD, AROUND = 0.45, 12
"""a difference of blue less red, of 1, that no skin or hair has; among so many neighbours"""
FRAMES = 60


@numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def heaviest(
    records: Floats, lists: NDArray[np.uint32], offsets: NDArray[np.int64], width: int, most: Floats
) -> None:
    """The largest weight of each record in any pixel: `most` (visible,) is raised to it. As `tiles.blend`, slowly."""
    across = (width + TILE_W - 1) // TILE_W
    left = np.empty((TILE_H, TILE_W), np.float32)
    for t in range(offsets.shape[0] - 1):
        tile_x, tile_y = (t % across) * TILE_W, (t // across) * TILE_H
        left[:] = 1
        for j in range(offsets[t], offsets[t + 1]):
            i = lists[j]
            r = np.int64(i) * RECORD
            mx, my = records[r + R_X] - np.float32(0.5), records[r + R_Y] - np.float32(0.5)
            a, b, c = records[r + R_A], records[r + R_B], records[r + R_C]
            ex, ey, ln_o = records[r + R_EX], records[r + R_EY], records[r + R_LN_O]
            x0, x1 = max(int(np.ceil(mx - ex)) - tile_x, 0), min(int(np.floor(mx + ex)) - tile_x, TILE_W - 1)
            y0, y1 = max(int(np.ceil(my - ey)) - tile_y, 0), min(int(np.floor(my + ey)) - tile_y, TILE_H - 1)
            for y in range(y0, y1 + 1):
                dy = np.float32(tile_y + y) - my
                for x in range(x0, x1 + 1):
                    dx = np.float32(tile_x + x) - mx
                    power = ln_o - np.float32(0.5) * (a * dx * dx + c * dy * dy) - b * dx * dy
                    alpha = min(np.exp(power), np.float32(ALPHA_MAX))
                    if alpha >= np.float32(ALPHA_MIN):
                        weight = alpha * left[y, x]
                        left[y, x] -= weight
                        most[i] = max(most[i], weight)


def weights(person: Person, frames: int = FRAMES) -> Floats:
    """The largest weight of each packed Gaussian of the person's cloud, over so many frames."""
    rng = np.random.default_rng(0)
    canvas, bearing = Canvas(person), Bearing(person, 1)
    voices = other_voices(person.avatar.audio)
    codes = person.baked.codes(voices) if len(voices) > WINDOW else np.repeat(person.baked.silence[None], 99, 0)
    most = np.zeros(person.cloud.layers.size, np.float32)
    for k in range(frames):
        expression = bearing.at(25 * k, float(k % 2))
        if k % 2 and person.avatar.eyeballs is not None:
            expression = replace(expression, gaze=(float(rng.uniform(-0.2, 0.2)), float(rng.uniform(-0.12, 0.12))))
        if k % 6 == 5:
            units = expression.action_units.copy()
            units[5] = 1.9  # lids closed
            expression = replace(expression, action_units=units)
        at = int(rng.integers(len(codes) - WINDOW))
        canvas.move(np.ascontiguousarray(codes[at : at + WINDOW]), expression)
        canvas.arrange(expression)
        drawn = canvas._rasteriser
        seen = np.zeros(drawn.visible, np.float32)
        heaviest(drawn.records, drawn.lists, drawn.offsets, drawn.width, seen)
        ids = drawn.ids[: drawn.visible]
        most[ids] = np.maximum(most[ids], seen)
    return most


def pruned(avatar: Avatar, least: float = LEAST, frames: int = FRAMES) -> Avatar:
    """The same person without what never weighs more than `least` in a pixel."""
    person = Person(avatar)
    keep = weights(person, frames) >= least
    eyes, baked = avatar.eyeballs, person.baked
    of_eyes = np.zeros(len(avatar.face), np.uint8) if eyes is None else eyes.index
    still = baked.still[of_eyes[baked.still] == 0]
    # The cloud's order, see `Person`: moving face, mouth, still face; one part for each eyeball; the torso.
    face, mouths = np.zeros(len(avatar.face), bool), len(avatar.mouth)
    moving = len(baked.moving)
    face[baked.moving] = keep[:moving]
    mouth = keep[moving : moving + mouths]
    face[still] = keep[moving + mouths : moving + mouths + len(still)]
    starts = list(person.cloud.starts)
    for k in (1, 2) if eyes is not None else ():
        own = np.flatnonzero(of_eyes == k)
        face[own] = keep[starts[k] : starts[k] + len(own)]
    torso = avatar.torso
    if torso is not None:
        rows = np.flatnonzero(keep[starts[-1] : starts[-1] + len(torso.gaussians)])
        torso = replace(torso, gaussians=_some(torso.gaussians, rows), basis=torso.basis[rows])
    number = np.cumsum(face) - 1  # a kept Gaussian's new index
    moves, rests = face[baked.moving], face[baked.still]
    folded = replace(
        baked,
        moving=number[baked.moving[moves]].astype(np.int32),
        encoding=baked.encoding[moves],
        gain=baked.gain[moves],
        still=number[baked.still[rests]].astype(np.int32),
        rest=baked.rest[rests],
        mouth_encoding=baked.mouth_encoding[mouth],
        few=None,
    )
    return replace(
        avatar,
        face=tinted(_some(avatar.face, np.flatnonzero(face)), of_eyes[face] == 0),
        mouth=_some(avatar.mouth, np.flatnonzero(mouth)),
        torso=torso,
        eyeballs=None if eyes is None else Eyeballs(np.ascontiguousarray(eyes.index[face]), eyes.centres),
        baked=folded.arrays(),
    )


def tinted(layer: Gaussians, which: NDArray[np.bool_]) -> Gaussians:
    """Those of `which` (n,) that are far bluer, or far less blue, than all around get the colour of what is around.

    Behind hair lies what training never saw: it may be bright blue there, and a head that turns farther shows it.
    """
    rows = np.flatnonzero(which)
    if len(rows) <= AROUND:
        return layer
    blue = SH_C0 * (layer.sh[rows, 0, 2] - layer.sh[rows, 0, 0])
    around = cKDTree(layer.xyz[rows]).query(layer.xyz[rows], AROUND + 1)[1][:, 1:]
    odd = np.flatnonzero(np.abs(blue - np.median(blue[around], axis=1)) > ODD)
    sh = np.array(layer.sh)
    sh[rows[odd]] = np.median(layer.sh[rows][around[odd]], axis=1)
    return replace(layer, sh=sh)


def _some(layer: Gaussians, rows: Rows) -> Gaussians:
    arrays = (layer.xyz, layer.sh, layer.scale, layer.rotation, layer.opacity)
    xyz, sh, scale, rotation, opacity = (np.ascontiguousarray(a[rows]) for a in arrays)
    return Gaussians(xyz, sh, scale, rotation, opacity)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m render.train.prune", description="Drop what nobody sees.")
    parser.add_argument("avatar", type=Path, help="the avatar's folder, which is written again")
    parser.add_argument("--least", type=float, default=LEAST, help="largest weight in a pixel that is still dropped")
    options = parser.parse_args(argv)
    try:
        before = load(options.avatar)
        after, _ = reduced(pruned(before, options.least))
        save(after, options.avatar)
    except VisavisError as error:
        print(error.message, file=sys.stderr)
        return 1
    counts = [len(a.face) + len(a.mouth) + (len(a.torso.gaussians) if a.torso else 0) for a in (before, after)]
    print(f"{options.avatar}: {counts[0]} Gaussians, {counts[1]} kept")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
