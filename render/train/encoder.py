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
RATE = 2e-3
CHECKPOINT_S = 60.0


class Example(NamedTuple):
    """One utterance: what the net sees, and what it should say, frame by frame."""

    spectra: NDArray[np.float16]
    """(CONTEXT + 4 * (frames - 1), BANDS)"""
    targets: Floats
    """(frames, controls)"""
    family: str


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
            x = F.relu(layer(x))
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


def train(
    plan: Plan,
    examples: Sequence[Example],
    checkpoint: Path,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Net:
    """Goes on from `checkpoint` if it is there, else begins; one thread. Families have equal shares of the steps."""
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    net = Net(len(plan.names))
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=plan.steps, pct_start=0.1)
    begin = 0
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
        x, y = drawn(np.random.default_rng([plan.seed, step]))
        _, predicted = net(x)
        loss = loss_of(plan, scale, predicted, y)
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
    return net


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

    def __call__(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        x = np.empty((BATCH, CONTEXT + SPECTRA_PER_FRAME * (CROP - 1), BANDS), np.float16)
        y = []
        for row in range(BATCH):
            those, ends = self._families[row % len(self._families)]
            example = those[min(int(np.searchsorted(ends, rng.random())), len(those) - 1)]
            at = int(rng.integers(len(example.targets) - CROP + 1))
            x[row] = example.spectra[at * SPECTRA_PER_FRAME :][: x.shape[1]]
            y.append(example.targets[at : at + CROP])
        return torch.from_numpy(x).float().transpose(1, 2), torch.from_numpy(np.stack(y))


def predict(net: Net, scale: Scale, example: Example) -> Floats:
    """The controls that the net says, (frames, controls)."""
    with torch.no_grad():
        _, said = net(torch.from_numpy(example.spectra).float().T[None])
        out: Floats = (said[0].T * scale.deviation + scale.mean).numpy()
    return out


def examples_of(made: Iterable[tuple[Floats, dict[str, Floats], str]], names: Sequence[str]) -> list[Example]:
    """From (sound, controls by name, family)."""
    return [
        Example(spectra(pcm), np.stack([curves[n] for n in names], 1).astype(np.float32), family)
        for pcm, curves, family in made
    ]
