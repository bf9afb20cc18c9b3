"""Adapting the universal field, and a head's Gaussians, to one person: what a step does, and when."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from render.train.adam import Adam
from render.train.checkpoint import named, under
from render.train.dataset import FACE as LABEL_FACE
from render.train.dataset import HAIR as LABEL_HAIR
from render.train.dataset import MOUTH as LABEL_MOUTH
from render.train.dataset import Dataset, Shot
from render.train.draw import Painter, Picture, Splats
from render.train.footage import Footage, ring
from render.train.grow import Growing
from render.train.head import FACE, MOUTH, Head, Posed
from render.train.loss import pixels, scales, sharpness
from render.train.lpips import Lpips
from render.train.marks import Marks
from render.train.planes import fast_align
from render.train.rehearsal import Rehearsal
from render.train.sheen import neighbours, roughness

Floats = NDArray[np.float32]

ALIGNED = 0.08
"""share of the training after which the aligners learn, too"""
MOUTH_JOINS = 0.12
FUSE = 0.65
"""from here on lower rates, and the losses that look at scales and edges"""
REFINED = (0.2, 0.35, 0.5)
"""when Gaussians that nobody sees are moved to where there are too few"""
SHAPED = 0.15
"""share of the steps that look at depth and normals too"""
REHEARSED = 0.25
"""share of the steps that rehearse other voices"""
BOUND_EVERY = 8
PAINTED = 0.35
"""share of the steps that look at the face alone, with the open mouth painted in one colour"""

RATES = {
    "xyz": (4e-5, 2e-6),
    "sh": (5e-3, 2e-4),
    "scale": (1e-2, 4e-4),
    "rotation": (3e-3, 2e-4),
    "opacity": (3e-2, 1e-3),
}
"""of the Gaussians: first and last learning rate"""
GRIDS, NETS, ALIGNERS = 1.2e-3, 3e-4, 4e-4
"""of the fields"""
UNTAUGHT = 10
"""times these rates for fields that were not trained before"""
GENTLE = 0.1
"""the universal field's rate until GENTLE_UNTIL, by what it is then"""
GENTLE_UNTIL = 0.15

COVERAGE = 0.1
"""weight of alpha against the head's coverage"""
NORMALS, DEPTH = 0.02, 0.05
SKIN_M, HAIR_M = 0.003, 0.006
"""depth errors much larger than that count no more"""
SHEEN, SHEEN_EVERY, AROUND_EVERY = 0.5, 4, 400
"""weight of `sheen.roughness`, in one step of so many; after how many steps neighbours are looked for again"""
SQUARES, SQUARES_FROM = 10.0, 0.3
"""of the mean square, and from when: where the voice does not tell, the middle"""
PERCEIVED, PATCH = 0.01, (64, 96)
"""weight of LPIPS in the last stage, if its weights are there, and the sides in pixels of what it looks at"""
QUIET = 1e-3
"""weight of turning and swelling, which the pictures do not ask for"""


@dataclass
class Clip:
    """What drives the frames: by the frames' own numbers."""

    windows: Tensor  # (frames, WINDOW, width, steps)
    action_units: Tensor  # (frames, 6)


@dataclass
class Trainer(Growing):
    """Everything of the second, third and fourth stage that changes, and the step."""

    data: Dataset
    footage: Footage
    clip: Clip
    head: Head
    rehearsal: Rehearsal | None
    behind: NDArray[np.float16]  # (F, 4, H, W): torso colour and what shines through it
    marks: Marks | None = None
    seed: int = 0
    lpips: Lpips | None = None
    adam: Adam = field(init=False)
    field_adam: Adam = field(init=False)
    painter: Painter = field(init=False)
    screen: Tensor = field(init=False)
    """(N,) how strongly the loss pulls at each Gaussian, summed since the last refinement"""

    def __post_init__(self) -> None:
        self.adam = Adam(self.head.tensors)
        self.field_adam = Adam(dict(self.head.motion.named_parameters()), epsilon=1e-12)
        self.painter = Painter(self.footage.box.width, self.footage.box.height)
        self.screen = torch.zeros(len(self.head))
        self._around: Tensor | None = None
        self.rng = np.random.default_rng([self.seed, 1])
        f = self.footage
        blink = np.array([s.action_units[5] for s in f.shots])
        wish = 1 + 1.5 * f.openness / max(float(f.openness.max()), 1e-6) + 1.5 * blink / 2
        self.chances = wish / wish.sum()

    # --- one step ---

    def step(self, share: float) -> dict[str, float]:
        """share: of the training that is done. Returns the parts of the loss."""
        f, rng = self.footage, self.rng
        k = int(rng.choice(len(f), p=self.chances))
        shot = f.shots[k]
        joined = share >= MOUTH_JOINS
        alone = not joined or rng.random() < PAINTED
        geometry = rng.random() < SHAPED and self.data.depth(shot.index) is not None
        posed = self.posed(shot, witnesses=None if self.marks is None else self.marks.rest)
        splats = self.head.without_mouth(posed) if alone else posed.splats
        drawn = self.painter.draw(f.box.camera(self.data, shot.pose), splats, geometry=geometry)
        colour = rng.random((3, 1, 1)).astype(np.float32)
        plate = f.plate if rng.random() < 0.3 else np.broadcast_to(colour, f.plate.shape)
        torso = self.behind[k].astype(np.float32)
        behind = torso[:3] + torso[3] * plate
        truth = f.person_over(k, plate)
        weight = f.weight[k].astype(np.float32)
        head = f.head[k].astype(np.float32) / 255
        if alone:
            inside = f.labels[k] == LABEL_MOUTH
            paint = rng.random((3, 1)).astype(np.float32)
            behind, truth = np.array(behind), np.array(truth)
            behind[:, inside], truth[:, inside] = paint, paint
            head = np.where(inside, 0, head).astype(np.float32)
            weight[ring(inside)] = 0
        made = drawn.colour + drawn.transmittance * self.tensor(behind)
        true, w = self.tensor(truth), self.tensor(weight)
        parts = {"pixels": pixels(made, true, w)}
        parts["coverage"] = COVERAGE * (w * (1 - drawn.transmittance - self.tensor(head)).abs()).sum() / w.sum()
        if share > FUSE:
            parts["scales"] = 0.15 * scales(made, true, w, levels=2)
            parts["sharpness"] = 0.15 * sharpness(made, true, w)
            if self.lpips is not None:
                parts["lpips"] = PERCEIVED * self._perceived(made, true, w)
        if share > SQUARES_FROM:
            parts["squares"] = SQUARES * (w * (made - true).square().sum(0)).sum() / (3 * w.sum())
        if geometry:
            parts |= self._geometry(k, shot, drawn)
        parts["quiet"] = QUIET * (posed.face.rotation.abs().mean() + posed.face.scale.abs().mean())
        steps = self.adam.steps["xyz"]
        if self._around is None or steps % AROUND_EVERY == 0:
            self._around = neighbours(self.head.tensors["xyz"], self.head.counts)
        if steps % SHEEN_EVERY == 0:
            parts["sheen"] = SHEEN_EVERY * SHEEN * roughness(self.head.tensors["sh"], self._around)
        if self.rehearsal is not None and rng.random() < REHEARSED:
            parts["rehearsal"] = 1 / REHEARSED * self.rehearsal.loss(self.head.motion, *self._places())
        if self.marks is not None and posed.witnesses is not None:
            parts["marks"] = self.marks.loss(self.data, [shot], posed.witnesses[None])
        loss = torch.stack(list(parts.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.painter.screen is not None:
            n = len(self.painter.screen)
            self.screen[:n] += self.painter.screen.norm(dim=1)
        self._learn(share)
        return {name: float(v.detach()) for name, v in parts.items()} | {"loss": float(loss.detach())}

    def _perceived(self, made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
        """LPIPS of a random square; pixels without weight are as they should be."""
        assert self.lpips is not None
        side = int(self.rng.integers(PATCH[0], PATCH[1] + 1))
        top, left = (int(self.rng.integers(max(n - side, 0) + 1)) for n in made.shape[1:])
        patch = np.s_[..., top : top + side, left : left + side]
        return self.lpips(torch.where(weight > 0, made, true)[patch], true[patch])

    def posed(self, shot: Shot, window: Tensor | None = None, witnesses: Tensor | None = None) -> Posed:
        window = self.clip.windows[shot.index] if window is None else window
        units = self.clip.action_units[shot.index]
        return self.head.pose(window, units, shot.gaze, witnesses)

    def splats(self, shot: Shot) -> Splats:
        return self.posed(shot).splats

    def rearrange(self, rows: Tensor, counts: list[int], halved: Tensor) -> None:
        super().rearrange(rows, counts, halved)
        self._around = None

    @torch.no_grad()
    def _places(self) -> tuple[Tensor, Tensor]:
        """Where face and mouth points lie in the universal field."""
        xyz, net = self.head.tensors["xyz"], self.head.motion
        out = []
        for part, aligner in ((FACE, net.face_aligner), (MOUTH, net.mouth_aligner)):
            at = xyz[self.head.span(part)]
            out.append(at + fast_align(aligner, at).offset if len(at) else at)
        return out[0], out[1]

    def _geometry(self, k: int, shot: Shot, drawn: Picture) -> dict[str, Tensor]:
        """Normals in the head's frame, depth over alpha, both robust, where the skin is opaque."""
        f, parts = self.footage, {}
        depth, normals = self.data.depth(shot.index), self.data.normals(shot.index)
        assert drawn.depth is not None
        assert drawn.normals is not None
        alpha = 1 - drawn.transmittance
        inner = (f.head[k] > 250) & ~ring(f.labels[k] == LABEL_FACE, 2)
        solid, hair = (inner & (f.labels[k] == label) for label in (LABEL_FACE, LABEL_HAIR))
        if depth is not None:
            true = f.box.cut(depth)
            mask = self.tensor(((solid | hair) & (true > 0)).astype(np.float32)) * (alpha.detach() > 0.9)
            much = self.tensor(np.where(hair, HAIR_M, SKIN_M).astype(np.float32))
            off = (drawn.depth / alpha.clamp_min(0.5) - self.tensor(true.astype(np.float32))) / much
            parts["depth"] = DEPTH * (mask * off.square() / (off.square() + 1)).sum() / mask.sum().clamp_min(1)
        if normals is not None:
            n = f.box.cut(normals).transpose(2, 0, 1) * np.array([1, -1, -1], np.float32)[:, None, None]
            n = n / np.maximum(np.linalg.norm(n, axis=0), 1e-6)
            true = np.einsum("ij,ihw->jhw", shot.pose[:3, :3], n)  # from the camera's axes to the head's
            made = drawn.normals / drawn.normals.norm(dim=0).clamp_min(1e-6)
            mask = self.tensor(solid.astype(np.float32)) * (alpha.detach() > 0.9)
            off = 1 - (made * self.tensor(true.astype(np.float32))).sum(0)
            parts["normals"] = NORMALS * (mask * off / (off + 0.2)).sum() / mask.sum().clamp_min(1)
        return parts

    def _learn(self, share: float) -> None:
        late = 0.5 if share > FUSE else 1.0
        rates = {name: late * a * (b / a) ** share for name, (a, b) in RATES.items()}
        self.adam.step(rates)
        gentle = UNTAUGHT if self.rehearsal is None else GENTLE if share < GENTLE_UNTIL else 1.0
        falling = 0.1**share
        field_rates = {}
        for name in self.field_adam.tensors:
            if "aligner" in name:
                rate = ALIGNERS * (5 if "embeddings" in name else 1) * falling if share >= ALIGNED else 0.0
            else:
                rate = (GRIDS if "embeddings" in name else NETS) * gentle * falling
            field_rates[name] = rate
        self.field_adam.step(field_rates)
        if self.marks is not None:
            self.marks.learn(share)
        if self.adam.steps["xyz"] % BOUND_EVERY == 0:
            self.head.bound()

    # --- checkpoints ---

    def state(self) -> dict[str, Tensor]:
        out = self.head.state() | named("adam", self.adam.state()) | named("field_adam", self.field_adam.state())
        out |= {"screen": self.screen}
        if self._around is not None:
            out |= {"around": self._around}
        if self.marks is not None:
            out |= {"marks": self.marks.rest} | named("marks_adam", self.marks.adam.state())
        return out

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Of the optimisers; the head itself is made of its state."""
        self.adam.restore(under("adam", state))
        self.field_adam.restore(under("field_adam", state))
        self.screen = state["screen"].clone()
        self._around = state["around"].to(self.device) if "around" in state else None
        if self.marks is not None:
            self.marks.rest.data.copy_(state["marks"])
            self.marks.adam.restore(under("marks_adam", state))

    def dice(self) -> list[Any]:
        """The states of all random numbers, for JSON."""
        both = [self.rng] + ([self.rehearsal.rng] if self.rehearsal is not None else [])
        return [rng.bit_generator.state for rng in both]

    def restore_dice(self, states: list[Any]) -> None:
        both = [self.rng] + ([self.rehearsal.rng] if self.rehearsal is not None else [])
        for rng, state in zip(both, states, strict=True):
            rng.bit_generator.state = state
