"""The training of our mel encoder: speech to the generator's control curves, of which the hidden layer is kept."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from render.features import BANDS, CONTEXT, FRAME, LAYERS, LOOK_AHEAD_SPECTRA, SPECTRA_PER_FRAME, MelStream

Floats = NDArray[np.float32]

WIDTH = 64
CHANNELS = (96, 128, 128, 128, 128)
CROP = 64  # frames of one example in a step
BATCH = 32
DROPOUT = 0.05  # of whole channels
CHECKPOINT_S = 60.0


class Example(NamedTuple):
    """One utterance: what the net sees, and what it should say, frame by frame."""

    spectra: NDArray[np.float16]
    """(CONTEXT + 4 * (frames - 1), BANDS)"""
    targets: Floats
    """(frames, controls)"""
    family: str
    anchor: NDArray[np.float16] | None = None
    """what a teacher's features are when it hears the same without noise, (frames, WIDTH)"""


@dataclass(frozen=True)
class Plan:
    """What is to be learnt, and for how long."""

    names: tuple[str, ...]
    """of the controls"""
    weights: tuple[float, ...]
    """of each control in the loss, after its variance has been brought to one"""
    closure: str = "press"
    """the control that tells closed lips: frames where it is large count CLOSED times"""
    closed: float = 4.0
    velocity: float = 1.0
    """weight of the error of the controls' differences from frame to frame"""
    anchored: float = 1.0
    """weight of the features' distance from their anchors, where there are any"""
    rate: float = 2e-3
    """the highest rate of learning"""
    steps: int = 2000
    seed: int = 0


def spectra(pcm16k: Floats) -> NDArray[np.float16]:
    """What the net needs for all frames of a clip, with silence around it: (CONTEXT + 4 * (frames - 1), BANDS)."""
    frames = -(-len(pcm16k) // FRAME)
    padded = np.zeros(
        frames * FRAME + (LOOK_AHEAD_SPECTRA - SPECTRA_PER_FRAME) * (FRAME // SPECTRA_PER_FRAME), np.float32
    )
    padded[: len(pcm16k)] = pcm16k
    before = np.zeros((CONTEXT - LOOK_AHEAD_SPECTRA, BANDS), np.float32)
    return np.concatenate([before, MelStream().push(padded)]).astype(np.float16)


class Net(nn.Module):
    """Spectra (b, BANDS, time) to the code (b, WIDTH, frames) and the controls (b, controls, frames)."""

    def __init__(self, controls: int) -> None:
        super().__init__()
        widths = (BANDS, *CHANNELS)
        self.conv = nn.ModuleList(
            nn.Conv1d(before, after, taps, stride)
            for before, after, (taps, stride) in zip(widths[:-1], CHANNELS, LAYERS, strict=True)
        )
        self.code = nn.Conv1d(CHANNELS[-1], WIDTH, 1)
        self.head = nn.Conv1d(WIDTH, controls, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.conv:
            x = F.dropout1d(F.relu(layer(x)), DROPOUT, self.training)
        code = torch.tanh(self.code(x))
        return code, self.head(code)

    def tensors(self) -> dict[str, Floats]:
        """What `MelEncoder.of_tensors` takes: the head stays behind."""
        state = {k: v.detach().numpy().astype(np.float32) for k, v in self.state_dict().items()}
        out = {k: np.ascontiguousarray(v) for k, v in state.items() if not k.startswith("head.")}
        out["code.weight"] = np.ascontiguousarray(out["code.weight"][..., 0])
        return out


class Scale(NamedTuple):
    mean: Tensor
    deviation: Tensor


def scale_of(examples: Sequence[Example]) -> Scale:
    everything = np.concatenate([e.targets for e in examples])
    return Scale(torch.from_numpy(everything.mean(0)), torch.from_numpy(everything.std(0) + 1e-3))


def loss_of(plan: Plan, scale: Scale, predicted: Tensor, targets: Tensor) -> Tensor:
    """Weighted squares of the controls' errors, and of their differences' errors; targets (b, frames, controls)."""
    wanted = (targets - scale.mean) / scale.deviation
    error = predicted.transpose(1, 2) - wanted
    weights = torch.tensor(plan.weights)
    closed = targets[..., plan.names.index(plan.closure)]
    emphasis = 1 + (plan.closed - 1) * (closed / max(float(closed.max()), 1e-3)).clamp(0, 1)[..., None]
    place = (emphasis * weights * error**2).mean()
    change = (weights * (error[:, 1:] - error[:, :-1]) ** 2).mean()
    return place + plan.velocity * change


def strayed(code: Tensor, anchors: Tensor) -> Tensor:
    """Mean square distance of features (b, WIDTH, frames) from their anchors, (b, frames, WIDTH), NaN where none."""
    there = ~torch.isnan(anchors)
    away = torch.where(there, code.transpose(1, 2) - anchors.nan_to_num(), 0.0)
    return (away**2).sum() / there.sum().clamp(min=1) / 0.1  # features have a variance of some 0.1


def train(
    plan: Plan,
    examples: Sequence[Example],
    checkpoint: Path,
    start: Path | None = None,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Net:
    """Goes on from `checkpoint` if it is there, else begins, with the net of another checkpoint, `start`, if given.

    One thread. Families have equal shares of the steps.
    """
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    net = Net(len(plan.names))
    optimiser = torch.optim.AdamW(net.parameters(), lr=plan.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.rate, total_steps=plan.steps, pct_start=0.1)
    begin = 0
    if start is not None:
        net.load_state_dict(torch.load(start, weights_only=True)["net"])
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        begin = state["step"]
    scale = scale_of(examples)
    drawn = _Draw(examples)
    saved, mean = time.monotonic(), 0.0
    for step in range(begin, plan.steps):
        torch.manual_seed(plan.seed * 1_000_003 + step)  # so that going on is the same as never having stopped
        x, y, anchors = drawn(np.random.default_rng([plan.seed, step]))
        code, predicted = net(x)
        loss = loss_of(plan, scale, predicted, y) + plan.anchored * strayed(code, anchors)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        now = float(loss.detach())
        mean = now if step == begin else 0.98 * mean + 0.02 * now
        progress(step, mean)
        if time.monotonic() - saved > CHECKPOINT_S or step + 1 == plan.steps:
            saved = time.monotonic()
            _save(checkpoint, net, optimiser, schedule, step + 1)
    return net.eval()


def _save(path: Path, net: Net, optimiser: object, schedule: object, step: int) -> None:
    partial = path.with_suffix(".partial")
    state = {"net": net.state_dict(), "step": step}
    state |= {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}  # type: ignore[attr-defined]
    torch.save(state, partial)
    partial.replace(path)


class _Draw:
    """Crops of CROP frames, as many of each family; an utterance is as likely as it is long."""

    def __init__(self, examples: Sequence[Example]) -> None:
        long_enough = [e for e in examples if len(e.targets) >= CROP]
        self._families: list[tuple[list[Example], NDArray[np.float64]]] = []
        for family in sorted({e.family for e in long_enough}):
            those = [e for e in long_enough if e.family == family]
            lengths = np.array([len(e.targets) for e in those], np.float64)
            self._families.append((those, np.cumsum(lengths) / lengths.sum()))
        if not self._families:
            raise ValueError(f"no utterance has {CROP} frames; give longer ones")

    def __call__(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Spectra (b, BANDS, time), targets (b, frames, controls), anchors (b, frames, WIDTH)."""
        x = np.empty((BATCH, CONTEXT + SPECTRA_PER_FRAME * (CROP - 1), BANDS), np.float16)
        y, anchors = [], np.full((BATCH, CROP, WIDTH), np.nan, np.float32)
        for row in range(BATCH):
            those, ends = self._families[row % len(self._families)]
            example = those[min(int(np.searchsorted(ends, rng.random())), len(those) - 1)]
            at = int(rng.integers(len(example.targets) - CROP + 1))
            x[row] = example.spectra[at * SPECTRA_PER_FRAME :][: x.shape[1]]
            y.append(example.targets[at : at + CROP])
            if example.anchor is not None:
                anchors[row] = example.anchor[at : at + CROP]
        heard = torch.from_numpy(_another_speaker(x, rng)).transpose(1, 2)
        return heard, torch.from_numpy(np.stack(y)), torch.from_numpy(anchors)


def _another_speaker(x: NDArray[np.float16], rng: np.random.Generator) -> Floats:
    """The same words through another vocal tract and line: spectra (b, time, BANDS) shifted, stretched and tinted."""
    bands = np.arange(BANDS)
    knots = np.linspace(0, BANDS - 1, 6)
    bend = np.stack([np.interp(bands, knots, rng.normal(0, 0.7, 6)) for _ in x])  # each formant its own way
    place = np.clip(bands * np.exp(rng.normal(0, 0.05, (len(x), 1))) + bend, 0, BANDS - 1)
    take = np.clip(1 - np.abs(place[:, None] - bands[:, None]), 0, None)  # (b, from, to): linear interpolation
    warped = np.matmul(x.astype(np.float32), take.astype(np.float32))
    tint = np.stack([np.interp(bands, knots, rng.normal(0, 0.04, 6)) for _ in x]) + rng.normal(0, 0.02, (len(x), 1))
    tint = np.where(warped > 0.02, tint[:, None], 0)
    low = rng.integers(0, BANDS, len(x))[:, None]
    masked = (rng.random((len(x), 1)) < 0.15) & (bands >= low) & (bands < low + rng.integers(2, 7, (len(x), 1)))
    return np.asarray(np.where(masked[:, None], 0, np.maximum(warped + tint, 0)), np.float32)


def predict(net: Net, scale: Scale, example: Example) -> Floats:
    """The controls that the net says, (frames, controls)."""
    with torch.no_grad():
        _, said = net(torch.from_numpy(example.spectra).float().T[None])
        out: Floats = (said[0].T * scale.deviation + scale.mean).numpy()
    return out


def examples_of(
    made: Iterable[tuple[Floats, dict[str, Floats], str, Floats | None]],
    names: Sequence[str],
    teacher: Net | None = None,
) -> list[Example]:
    """From (sound, controls by name, family, the same sound clean if the teacher is to hear it)."""
    out = []
    for pcm, curves, family, clean in made:
        anchor = None
        if teacher is not None and clean is not None:
            with torch.no_grad():
                code, _ = teacher(torch.from_numpy(spectra(clean)).float().T[None])
            anchor = code[0].T.numpy().astype(np.float16)
        out.append(Example(spectra(pcm), np.stack([curves[n] for n in names], 1).astype(np.float32), family, anchor))
    return out


def readout(net: Net, scale: Scale, shares: Floats) -> dict[str, Floats]:
    """`weight` (WIDTH,) and `bias` (1,): from the features straight to the sum of the controls times `shares`."""
    state = net.state_dict()
    head, bias = (state[f"head.{part}"].numpy().astype(np.float64) for part in ("weight", "bias"))
    spread, mean = (t.numpy().astype(np.float64) for t in (scale.deviation, scale.mean))
    weight = (shares * spread) @ head[..., 0]
    return {
        "weight": weight.astype(np.float32),
        "bias": np.array([shares @ (spread * bias + mean)], np.float32),
    }


def load_net(checkpoint: Path, controls: int) -> Net:
    """The net of a checkpoint, ready to be asked."""
    net = Net(controls)
    net.load_state_dict(torch.load(checkpoint, weights_only=True)["net"])
    return net.eval()


def save_examples(path: Path, examples: Sequence[Example]) -> None:
    """All in one file: making them takes longer than a stage of training may last."""
    nothing = np.zeros((0, WIDTH), np.float16)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        spectra=np.concatenate([e.spectra for e in examples]),
        targets=np.concatenate([e.targets for e in examples]),
        anchor=np.concatenate([nothing if e.anchor is None else e.anchor for e in examples]),
        frames=np.array([len(e.targets) for e in examples]),
        anchored=np.array([e.anchor is not None for e in examples]),
        family=np.array([e.family for e in examples]),
    )
    partial.replace(path)


def load_examples(path: Path) -> list[Example]:
    with np.load(path) as kept:
        arrays = {name: kept[name] for name in kept.files}
    out, s, t, a = [], 0, 0, 0
    for frames, anchored, family in zip(arrays["frames"], arrays["anchored"], arrays["family"], strict=True):
        count = CONTEXT + SPECTRA_PER_FRAME * (frames - 1)
        anchor = arrays["anchor"][a : a + frames] if anchored else None
        out.append(Example(arrays["spectra"][s : s + count], arrays["targets"][t : t + frames], str(family), anchor))
        s, t, a = s + count, t + frames, a + (frames if anchored else 0)
    return out
