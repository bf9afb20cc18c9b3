"""Trains the voice encoder that ships, in two stages, the second with the first as its teacher.

python -m recipes.universal.voice OUT; python -m recipes.universal.voice OUT2 --teacher OUT
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from recipes.universal import speech
from recipes.universal.speech import FPS, Phone, Recording
from render.train import encoder
from render.train.encoder import Example, Net, Plan, Scale

Floats = NDArray[np.float32]

WEIGHTS = {"jaw": 3.0, "press": 3.0, "part": 2.0, "lowdown": 1.5, "liptuck": 1.5, "upup": 1.0, "purse": 1.0}
"""of the controls in the loss, others 0.7: what opens and closes the lips matters most"""
CLOSED_SHARE = 0.15
NEAR_S = 0.06
LEAD_S = 0.035
"""How long before the middle of its phone the generator closes the lips."""


def plan(steps: int, seed: int = 0, rate: float = 2e-3) -> Plan:
    names = speech.speech_controls()
    return Plan(names, tuple(WEIGHTS.get(name, 0.7) for name in names), closed=7.0, rate=rate, steps=steps, seed=seed)


OPENING = {"jaw": 8.0, "part": 3.0, "lowdown": 3.0, "press": -3.0}
"""after the generator's own AU25, less what presses the lips"""
SPOKEN = 0.2
"""lips farther apart than this are those of somebody who is speaking"""


def opening(curves: Floats, names: Sequence[str]) -> Floats:
    """How far the lips are apart, roughly: (frames,)."""
    return np.asarray(curves @ np.array([OPENING.get(name, 0.0) for name in names]), np.float32)


def tensors(net: Net, scale: Scale, names: Sequence[str], examples: Sequence[Example]) -> dict[str, Floats]:
    """The encoder as it ships: with what tells, from its features alone, how far the lips are apart."""
    true = opening(np.concatenate([e.targets for e in examples]), names)
    usual = float(np.median(true[true > SPOKEN]))
    heard = encoder.readout(net, scale, np.array([OPENING.get(name, 0.0) / usual for name in names]))
    return net.tensors() | {f"opening.{part}": tensor for part, tensor in heard.items()}


class Score:
    """Sums up how well predicted curves follow the truth."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.said: list[Floats] = []
        self.true: list[Floats] = []
        self.lips = self.met = self.met_truth = self.false = 0
        self.open_s = 0.0

    def add(self, said: Floats, true: Floats, phones: Sequence[Phone]) -> None:
        self.said.append(said)
        self.true.append(true)
        heard, real = opening(said, self.names), opening(true, self.names)
        limit = CLOSED_SHARE * float(np.median(real[real > SPOKEN])) if (real > SPOKEN).any() else 0.0
        times = (np.arange(len(said)) + 0.5) / FPS
        free = np.ones(len(said), bool)  # far from anything that closes the lips
        for phone in phones:
            centre = (phone.start + phone.end) / 2 - LEAD_S
            if phone.symbol in ("p", "b", "m"):
                near = np.abs(times - centre) <= NEAR_S
                if near.any():
                    self.lips += 1
                    self.met += bool((heard[near] <= limit).any())
                    self.met_truth += bool((real[near] <= limit).any())
            if phone.symbol in ("p", "b", "m", "f", "v", ""):
                free &= (times < phone.start - LEAD_S - 0.1) | (times > phone.end - LEAD_S + 0.1)
        if phones:
            free &= (times > phones[0].start) & (times < phones[-1].end - 0.1)
        self.false += int(((heard <= limit) & free & (real > 2 * limit)).sum())
        self.open_s += float((free & (real > 2 * limit)).sum()) / FPS

    def figures(self) -> dict[str, float]:
        said, true = np.concatenate(self.said), np.concatenate(self.true)
        a, b = opening(said, self.names), opening(true, self.names)
        lags = {k: float(np.corrcoef(np.roll(a, -k), b)[0, 1]) for k in range(-4, 5)}
        out = {"r_" + n: float(np.corrcoef(said[:, k], true[:, k])[0, 1]) for k, n in enumerate(self.names)}
        out |= {"r_opening": lags[0], "lag_ms": 40.0 * max(lags, key=lambda k: lags[k])}
        out |= {"closures": self.lips, "recall": self.met / max(self.lips, 1)}
        out |= {
            "recall_of_truth": self.met_truth / max(self.lips, 1),
            "false_per_s": self.false / max(self.open_s, 1),
        }
        return out


def judged(net: Net, scale: Scale, names: Sequence[str], recordings: Sequence[Recording]) -> dict[str, float]:
    score = Score(names)
    for r in recordings:
        curves = speech.controls(r.pcm, r.phones)
        true = np.stack([curves[n] for n in names], 1)
        said = encoder.predict(net, scale, Example(encoder.spectra(r.pcm), true, r.family))
        score.add(said, true, r.phones)
    return score.figures()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the weights, the checkpoint and the report")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--examples", type=int, default=5000, help="augmented utterances to learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=2e-3, help="of learning, at its highest (%(default)s)")
    parser.add_argument(
        "--teacher", type=Path, help="folder of an earlier stage: begin with it, and keep its features"
    )
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    wanted = plan(asked.steps, asked.seed, asked.rate)
    kept, start = asked.out / "examples.npz", asked.teacher and asked.teacher / "encoder.checkpoint"
    if kept.exists():
        examples = encoder.load_examples(kept)
    else:
        teacher = encoder.load_net(start, len(wanted.names)) if start else None
        made = speech.utterances(asked.seed, asked.examples)
        examples = encoder.examples_of(
            # What the teacher never heard it has nothing to say about.
            ((u.pcm, u.controls, u.family, u.clean if u.family != "foreign" else None) for u in made),
            wanted.names,
            teacher,
        )
        encoder.save_examples(kept, examples)
    corpus_s = time.monotonic() - begun

    def progress(step: int, loss: float) -> None:
        if step % 50 == 0:
            spent = time.monotonic() - begun
            print(f"\r{step}/{asked.steps} loss {loss:.3f} {spent:.0f} s", end="", file=sys.stderr, flush=True)

    net = encoder.train(wanted, examples, asked.out / "encoder.checkpoint", start, progress)
    print(file=sys.stderr)
    scale = encoder.scale_of(examples)
    save_file(tensors(net, scale, wanted.names, examples), asked.out / "encoder.safetensors")
    frames = sum(len(e.targets) for e in examples)
    report: dict[str, object] = {
        "corpus_s": round(corpus_s),
        "train_s": round(time.monotonic() - begun - corpus_s),
        "speech_hours": round(frames / FPS / 3600, 2),
    }
    for family in (*speech.FAMILIES, "human"):
        for held_out in (False, True) if family != "human" else (True,):
            made = speech.recordings(family, 1000 if family == "human" else 60, 99, held_out=held_out)
            if made:
                figures = judged(net, scale, wanted.names, made)
                name = f"{family} {'unheard' if held_out else 'heard'} voices, unheard sentences"
                report[name] = {k: round(v, 3) for k, v in figures.items()}
                print(json.dumps({name: report[name]}))
    (asked.out / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
