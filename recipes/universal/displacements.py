"""What the universal motion field is trained on: points of many heads, and how they move while those heads speak.

    python -m recipes.universal.displacements make FOLDER [--heads 96] [--utterances 800] ...
    python -m recipes.universal.displacements listen FOLDER [--encoder FILE]     the features anew, by other weights

Needs VISAVIS_GENERATOR and VISAVIS_MAKEHUMAN. `render.train.pretrain` explains the format and reads it. Heads and
voices that are held out are written, too, marked so: Mia and Leo among them.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.universal import generator, speech
from render.features import MODEL, MelEncoder

Floats = NDArray[np.float32]

RANK = 48
"""of the displacements of one head over all its frames"""
FULL_FRAMES = 360  # on which the basis of a head is found
ANCHORS = 420  # points by which the other frames find their coefficients
CLIPS_PER_HEAD = 24
CLEAN_SHARE = 0.3
WIDTH = 64


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.universal.displacements", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="clips and heads")
    make.add_argument("folder", type=Path)
    make.add_argument("--heads", type=int, default=96, help="random identities to train on (%(default)s)")
    make.add_argument("--held-out", type=int, default=8, help="random identities to judge by (%(default)s)")
    make.add_argument("--utterances", type=int, default=800, help="to train on (%(default)s)")
    make.add_argument("--unheard", type=int, default=90, help="utterances of voices that are held out (%(default)s)")
    make.add_argument("--seed", type=int, default=0)
    listen = commands.add_parser("listen", help="the features of all clips again")
    listen.add_argument("folder", type=Path)
    for command in (make, listen):
        command.add_argument("--encoder", type=Path, default=MODEL, help="weights of the mel encoder")
        command.add_argument(
            "--controls", action="store_true", help="the true controls, mixed to 64 numbers, instead of features"
        )
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.command == "make":
        make_clips(folder, arguments.utterances, arguments.unheard, arguments.seed)
    hear(folder, None if arguments.controls else arguments.encoder)
    if arguments.command == "make":
        make_heads(folder, arguments.heads, arguments.held_out, arguments.seed)
    return 0


# --- clips ---


def make_clips(folder: Path, utterances: int, unheard: int, seed: int) -> None:
    """truth.npz: sound and control curves, end to end."""
    names: list[str] = []
    pcm: list[NDArray[np.int16]] = []
    curves: list[dict[str, Floats]] = []
    voices: list[str] = []
    held_out: list[bool] = []
    draw = np.random.default_rng([11, seed])
    for unknown, count in ((False, utterances), (True, unheard)):
        for utterance in _said(count, seed, unknown):
            controls = dict(utterance.controls)
            if not unknown:
                controls = livelier(controls, draw)
            names = names or sorted(controls)
            curves.append(controls)
            pcm.append(np.round(np.clip(utterance.pcm, -1, 1) * 32767).astype(np.int16))
            voices.append(utterance.voice)
            held_out.append(unknown)
    everything = sorted({name for c in curves for name in c})
    lengths = [len(next(iter(c.values()))) for c in curves]
    columns = np.stack(
        [
            np.concatenate([c.get(n, np.zeros(k, np.float32)) for c, k in zip(curves, lengths, strict=True)])
            for n in everything
        ],
        1,
    )
    np.savez(
        folder / "truth.npz",
        names=np.array(everything),
        controls=columns.astype(np.float32),
        starts=np.cumsum([0, *lengths]),
        pcm=np.concatenate([p[: k * speech.FRAME] for p, k in zip(pcm, lengths, strict=True)]),
        voices=np.array(voices),
        held_out=np.array(held_out),
    )
    print(f"{len(curves)} clips, {sum(lengths) / 25 / 60:.1f} minutes", flush=True)


def _said(count: int, seed: int, unknown: bool) -> Iterator[speech.Utterance]:
    """Augmented utterances, and some as they were recorded; those of unknown voices all as recorded."""
    clean = count if unknown else round(count * CLEAN_SHARE)
    if count > clean:
        yield from speech.utterances(seed + 100, count - clean)
    families = speech.PER_FAMILY
    for k, (family, made) in enumerate(families.items()):
        wanted = clean // len(families) + (k < clean % len(families))
        # The same recordings as those that are augmented, so that they are synthesised once.
        recordings = speech.recordings(family, wanted if unknown else made, 1, held_out=unknown)[:wanted]
        for j, recording in enumerate(recordings):
            frames = -(-len(recording.pcm) // speech.FRAME)
            pcm = np.zeros(frames * speech.FRAME, np.float32)
            pcm[: len(recording.pcm)] = recording.pcm
            curves = speech.controls(pcm, recording.phones, seed * 1000 + 17 * k + j)
            yield speech.Utterance(pcm, curves, recording.voice, family)


def livelier(controls: dict[str, Floats], draw: np.random.Generator) -> dict[str, Floats]:
    """Brows, lids and smile go farther than in plain speech, and apart from it, in half of the clips."""
    out, frames = dict(controls), len(controls["jaw"])
    if draw.random() < 0.5:
        return out

    def bumps(height: float) -> Floats:
        knots = np.maximum(draw.normal(-0.3, 0.8, max(3, frames // 12)), 0).clip(0, 1) * height
        curve = np.interp(np.linspace(0, len(knots) - 1, frames), np.arange(len(knots)), knots)
        return np.asarray(curve, np.float32)

    def add(names: tuple[str, ...], height: float) -> None:
        if draw.random() < 0.5:
            curve = bumps(height)
            for name in names:
                out[name] = np.clip(out.get(name, np.zeros(frames, np.float32)) + curve, 0, 1)

    add(("wideL", "wideR"), 0.7)
    add(("squintL", "squintR"), 0.6)
    add(("smile",), 0.7)
    add(("browdown",), 0.8)
    add(("browin",), 0.7)
    add(("browup",), 0.8)
    if draw.random() < 0.5:
        half = bumps(0.9)
        for name in ("blinkL", "blinkR"):
            out[name] = np.maximum(out[name], half)
    return out


def hear(folder: Path, encoder: Path | None) -> None:
    """clips.npz: what the field is driven by, of every frame of every clip."""
    with np.load(folder / "truth.npz") as truth:
        starts, pcm, names = truth["starts"], truth["pcm"], [str(n) for n in truth["names"]]
        controls, voices, held_out = truth["controls"], truth["voices"], truth["held_out"]
    curves = dict(zip(names, controls.T, strict=True))
    said = np.stack([curves[name] for name in speech.speech_controls()], 1)
    if encoder is None:
        mix = np.random.default_rng(5).normal(0, 1, (said.shape[1], WIDTH)).astype(np.float32)
        features = np.tanh(said @ mix)
        heard_by = "the true controls"
    else:
        mel = MelEncoder.shipped(encoder)
        pieces = [
            mel.clip(pcm[a * speech.FRAME : b * speech.FRAME].astype(np.float32) / 32767)[..., 0]
            for a, b in pairwise(starts)
        ]
        features = np.concatenate(pieces)
        heard_by = "the mel encoder"
    np.savez(
        folder / "clips.npz",
        features=features.astype(np.float16),
        truth=said,
        action_units=generator.action_units(curves),
        starts=starts,
        voices=voices,
        held_out=held_out,
        heard_by=np.array(heard_by),
    )
    print(f"heard by {heard_by}: {features.shape}", flush=True)


# --- heads ---


def make_heads(folder: Path, heads: int, held_out: int, seed: int) -> None:
    with np.load(folder / "truth.npz") as truth:
        starts, names, unheard = truth["starts"], [str(n) for n in truth["names"]], truth["held_out"]
        controls = truth["controls"]
    for old in folder.glob("head-*.npz"):
        old.unlink()
    people = [(generator.random_identity(seed * 100_000 + k), False) for k in range(heads)]
    people += [(generator.random_identity(seed * 100_000 + 90_000 + k), True) for k in range(held_out)]
    people += [(generator.named(name), True) for name in generator.NAMED]
    begun = time.monotonic()
    worst = 0.0
    for k, (identity, judged) in enumerate(people):
        draw = np.random.default_rng([13, seed, k])
        clips = np.flatnonzero(unheard == judged)
        chosen = draw.choice(clips, min(CLIPS_PER_HEAD, len(clips)), replace=False)
        frames = np.concatenate([np.arange(starts[c], starts[c + 1]) for c in np.sort(chosen)])
        curves = dict(zip(names, controls[frames].T, strict=True))
        worst = max(worst, write_head(folder / f"head-{k:04d}.npz", identity, judged, frames, curves, draw))
        left = (time.monotonic() - begun) / (k + 1) * (len(people) - k - 1)
        print(
            f"\r{k + 1} of {len(people)} heads, worst {worst * 1000:.4f} mm, {left:.0f} s left ", end="", flush=True
        )
    print()


def write_head(
    path: Path,
    identity: generator.Identity,
    held_out: bool,
    frames: NDArray[np.int64],
    curves: generator.Controls,
    draw: np.random.Generator,
) -> float:
    """Returns the 99.9th percentile of what the basis misses, metres."""
    person = generator.head(identity)
    cloud = generator.cloud(person, int(draw.integers(1 << 30)))
    some = np.sort(draw.choice(len(frames), min(FULL_FRAMES, len(frames)), replace=False))
    at = {name: curve[some] for name, curve in curves.items()}
    full = cloud.displacement(at).reshape(len(some), -1)
    fitted = full[::2] if len(some) >= 2 * RANK else full
    values, vectors = np.linalg.eigh(fitted.astype(np.float64) @ fitted.T)
    keep = np.argsort(values)[::-1][:RANK]
    keep = keep[values[keep] > 1e-12]
    basis = ((vectors[:, keep] / np.sqrt(values[keep])).T @ fitted).astype(np.float32)  # orthonormal rows
    anchors = _anchors(cloud, draw)
    columns = (anchors[:, None] * 3 + np.arange(3)).ravel()
    some_points = generator.Cloud(
        person,
        cloud.rest[anchors],
        cloud.region[anchors],
        cloud.vertices[anchors],
        cloud.canon[anchors],
        cloud.lash[anchors],
    )
    seen = some_points.displacement(curves).reshape(len(frames), -1)
    coefficients = np.linalg.lstsq(basis[:, columns].T, seen.T, rcond=None)[0].T
    missed = np.abs(coefficients[some] @ basis - full)
    scale = np.abs(basis).max(1, keepdims=True)
    np.savez(
        path,
        name=np.array(identity.name),
        held_out=np.array(held_out),
        rest=cloud.rest,
        canon=cloud.canon,
        region=cloud.region,
        frames=frames.astype(np.int32),
        basis=(basis / scale).astype(np.float16).reshape(len(basis), -1, 3),
        coefficients=(coefficients * scale.T).astype(np.float32),
        upper=np.array(generator.UPPER_INNER),
        lower=np.array(generator.LOWER_INNER),
    )
    return float(np.percentile(missed, 99.9))


def _anchors(cloud: generator.Cloud, draw: np.random.Generator) -> NDArray[np.int64]:
    """Points whose motion tells that of all others, some of each region."""
    out = []
    moving = [k for k, name in enumerate(generator.REGIONS) if name not in ("still", "fixed")]
    for k in moving:
        among = np.flatnonzero(cloud.region == k)
        out.append(draw.choice(among, min(len(among), 2 * ANCHORS // len(moving)), replace=False))
    return np.concatenate(out)


if __name__ == "__main__":
    sys.exit(main())
