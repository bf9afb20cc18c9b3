"""The universal motion field, learnt from how points of many heads move while they speak: no pictures.

A data set is a folder (recipes/universal/displacements.py writes one; anything else may):

    clips.npz       of every frame of all clips, end to end, at 25 a second: `features` (frames, width) as
                    render.features makes them, `action_units` (frames, 6); `starts` (clips + 1,) of the clips;
                    `held_out` (clips,) bool: spoken by voices to judge by
    head-NAME.npz   one head: `name`; `held_out`; `rest` (points, 3) metres in its own frame; `region` (points,)
                    into REGIONS; `frames` (n,) that it says, rows of clips.npz; `basis` (rank, points, 3) and
                    `coefficients` (n, rank), whose product is the displacement from rest, metres; `upper`, `lower`
                    points of the inner lips, pair by pair; `canon` (points, 3), optional: where the same points are
                    on one face that stands for all

Each step takes one head, some of its points, and short runs of frames. The fields are shared by all, and are asked at
the points' places on the face that stands for all, so that lips of different height do not blur them; for a new face
the aligners find those places (`align`, or the landmarks of its pictures). Where a data set does not know them, every
head has aligners of its own, which learn beside the fields. What the truth does not tell (rotation, scale, opacity)
is put out as zero.

Where the data set knows why a face moves (`truth`, optional in clips.npz: (frames, controls), what speech does to
the face in any numbers), there are three stages. First a teacher turns that truth into the codes: the fields learn
geometry from an audio without doubt. Then the audio nets learn the teacher's codes, hundreds of frames at a time.
Then all go on together, as they will be used. Without it there is only the third.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from render.avatar import AudioFeature, MotionField, load_field, save_field
from render.motion.networks import Aligner, FaceField, MouthField, hook
from render.motion.tables import CODE, WINDOW, WINDOW_BEFORE
from render.train.planes import encode, face_of_code, fast_align, mouth_of_code
from server.core.errors import VisavisError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

FPS = 25
MM = 1000.0
REGIONS = ("rest", "lips", "jaw", "lids", "brows", "still", "fixed", "teeth", "tongue", "cavity")
"""where a point lies; the first FACE_REGIONS are moved by the face field, the others by the mouth field"""
FACE_REGIONS = 6
SHARES = {
    "rest": 90, "lips": 210, "jaw": 120, "lids": 85, "brows": 40, "still": 65,
    "fixed": 40, "teeth": 50, "tongue": 30, "cavity": 30,
}  # fmt: skip
"""points of each region in a step"""
WEIGHTS = {
    "rest": 1.0, "lips": 3.0, "jaw": 1.5, "lids": 3.0, "brows": 0.7, "still": 1.5,
    "fixed": 1.0, "teeth": 1.0, "tongue": 0.5, "cavity": 0.5,
}  # fmt: skip
"""of each region's mean error in the loss"""
QUIET_REGIONS = ("still", "brows", "lids")
"""speech does not move these: they shall not listen"""
AWAKE = 0.1
"""the attention to every action unit is held above this where a face moves: below zero no gradient would wake it"""
BLINKS = 0.5
"""a field whose lids follow less of a blink than this is not written"""
ROUND_MM = 0.05
"""below this the error counts by its square, above it by its size"""
CLOSED_MM = 1.0
"""lips nearer than this count as closing"""
BLINK = 0.5  # of AU45
HOOK_RANKS = (1, 2)
"""ranks of the hook in a step, drawn from here: 10 of 20 000 Gaussians are less than 1 of some 800 points"""
NEWEST = (4.0, 2.0)
"""where the attention over eight codes starts: the newest, which is the displayed frame's own, and the one before"""
EVALUATION_RANK = 3  # of all points of a head
CHECKPOINT_S = 120.0
TAUGHT = "taught.pt"
ALIGNMENT_FRAMES = 250
"""ten seconds: what the aligners of a held-out head are fitted on; the frames after them judge"""
ALIGNMENT_STEPS = 200
CLOSED_SHARE = 0.15
"""lips are closed within this share of their median opening"""
NEAR_FRAMES = 1  # of a closure in the truth, 40 ms


class DataError(VisavisError):
    """A data set or a field cannot be used: `pretrain_data`, `pretrain_field`."""


# --- data ---


@dataclass(frozen=True, eq=False)
class Clips:
    """What drives the field."""

    features: Tensor  # (frames + 1, width, 1); the last row is zeros
    action_units: Tensor  # (frames, 6)
    windows: Tensor  # (frames, WINDOW) rows of features; what lies beyond a clip is the row of zeros
    clip: Ints  # (frames,) that each belongs to
    held_out: NDArray[np.bool_]  # (clips,)
    truth: Tensor | None  # (frames, controls) what speech does to the face, if the data set tells

    @property
    def width(self) -> int:
        return self.features.shape[1]

    def window(self, frames: Ints) -> Tensor:
        """(n, WINDOW, width, 1)."""
        return self.features[self.windows[torch.from_numpy(frames)]]


@dataclass(frozen=True, eq=False)
class HeadData:
    """Points of one head, and how they move."""

    name: str
    held_out: bool
    rest: Tensor  # (points, 3)
    region: NDArray[np.uint8]
    frames: Ints
    basis: Tensor  # (rank, points, 3)
    coefficients: Tensor  # (n, rank)
    upper: Ints
    lower: Ints
    canon: Tensor | None  # (points, 3)

    @cached_property
    def of_region(self) -> tuple[Ints, ...]:
        return tuple(np.flatnonzero(self.region == k) for k in range(len(REGIONS)))

    @cached_property
    def face(self) -> Ints:
        return np.flatnonzero(self.region < FACE_REGIONS)

    @cached_property
    def mouth(self) -> Ints:
        return np.flatnonzero(self.region >= FACE_REGIONS)

    def displacement(self, rows: Ints, points: Ints) -> Tensor:
        """(rows, points, 3) metres."""
        basis = self.basis[:, torch.from_numpy(points)]
        flat = self.coefficients[torch.from_numpy(rows)] @ basis.flatten(1)
        return flat.view(len(rows), len(points), 3)

    def opening(self, displacement: Tensor, upper: Sequence[int], lower: Sequence[int]) -> Tensor:
        """Between the inner lips, (..., points, 3) -> (..., pairs) metres; columns of the pairs are given."""
        gap = self.rest[torch.from_numpy(self.upper), 1] - self.rest[torch.from_numpy(self.lower), 1]
        return displacement[..., upper, 1] - displacement[..., lower, 1] + gap

    def to(self, device: torch.device) -> "HeadData":
        moved = {name: getattr(self, name).to(device) for name in ("rest", "basis", "coefficients")}
        moved["canon"] = None if self.canon is None else self.canon.to(device)
        return HeadData(**{**{n: getattr(self, n) for n in self.__dataclass_fields__}, **moved})


@dataclass(frozen=True, eq=False)
class Data:
    clips: Clips
    heads: tuple[HeadData, ...]

    @cached_property
    def learnt(self) -> list[HeadData]:
        return [head for head in self.heads if not head.held_out]

    @cached_property
    def judged(self) -> list[HeadData]:
        return [head for head in self.heads if head.held_out]


def load_data(folder: Path, device: torch.device | str = "cpu") -> Data:
    """Raises DataError with a sentence for people."""
    device = torch.device(device)
    paths = sorted(folder.glob("head-*.npz"))
    if (folder / "transforms_train.json").is_file():
        what = f"{folder} holds pictures of a person, not displacements"
        raise DataError("pretrain_data", f"{what}. Learn from several with `visavis train pretrain pictures`.")
    if not paths or not (folder / "clips.npz").exists():
        raise DataError(
            "pretrain_data",
            f"{folder} holds no clips.npz with head-*.npz: make them with recipes/universal/displacements.py.",
        )
    clips = _load_clips(folder / "clips.npz", device)
    heads = [_load_head(path, clips, device) for path in paths]
    if all(head.held_out for head in heads):
        raise DataError("pretrain_data", f"All heads in {folder} are held out: there is none to learn from.")
    return Data(clips, tuple(heads))


def _load_clips(path: Path, device: torch.device) -> Clips:
    with np.load(path, allow_pickle=False) as file:
        features, units = file["features"].astype(np.float32), file["action_units"].astype(np.float32)
        starts, held_out = file["starts"].astype(np.int64), file["held_out"].astype(bool)
        truth = file["truth"].astype(np.float32) if "truth" in file else None
    count = len(features)
    well = features.ndim == 2 and units.shape == (count, 6) and len(starts) == len(held_out) + 1
    well = well and (truth is None or (truth.ndim == 2 and len(truth) == count))
    if not well or starts[0] != 0 or starts[-1] != count or (np.diff(starts) <= 0).any():
        raise DataError("pretrain_data", f"{path} does not fit together: make the data set again.")
    if not (np.isfinite(features).all() and np.isfinite(units).all()):
        raise DataError("pretrain_data", f"{path} holds values that are not finite: make the data set again.")
    clip = np.repeat(np.arange(len(held_out)), np.diff(starts))
    rows = np.arange(count)[:, None] + np.arange(-WINDOW_BEFORE, WINDOW - WINDOW_BEFORE)
    outside = (rows < starts[clip][:, None]) | (rows >= starts[clip + 1][:, None])
    rows[outside] = count
    padded = np.concatenate([features, np.zeros_like(features[:1])])[..., None]
    return Clips(
        torch.from_numpy(padded).to(device),
        torch.from_numpy(units).to(device),
        torch.from_numpy(rows).to(device),
        clip,
        held_out,
        None if truth is None else torch.from_numpy(truth).to(device),
    )


def _load_head(path: Path, clips: Clips, device: torch.device) -> HeadData:
    with np.load(path, allow_pickle=False) as file:
        rest, region, frames = file["rest"], file["region"], file["frames"].astype(np.int64)
        basis, coefficients = file["basis"].astype(np.float32), file["coefficients"].astype(np.float32)
        head = HeadData(
            str(file["name"]),
            bool(file["held_out"]),
            torch.from_numpy(rest.astype(np.float32)),
            region,
            frames,
            torch.from_numpy(basis),
            torch.from_numpy(coefficients),
            file["upper"].astype(np.int64),
            file["lower"].astype(np.int64),
            torch.from_numpy(file["canon"].astype(np.float32)) if "canon" in file else None,
        )
    points, rank = len(rest), len(basis)
    fits = (
        rest.shape == (points, 3)
        and region.shape == (points,)
        and basis.shape == (rank, points, 3)
        and coefficients.shape == (len(frames), rank)
        and len(frames) > WINDOW
        and frames.min() >= 0
        and frames.max() < len(clips.clip)
        and (region < len(REGIONS)).all()
        and len(head.upper) == len(head.lower) > 0
        and (head.canon is None or head.canon.shape == (points, 3))
    )
    if not fits:
        raise DataError("pretrain_data", f"{path} does not fit together: make the data set again.")
    return head.to(device)


# --- the nets ---


class Universal(nn.Module):
    """Both universal fields, and the aligners of every head that is learnt from."""

    def __init__(self, feature: AudioFeature) -> None:
        super().__init__()
        self.feature = feature
        self.face, self.mouth = FaceField(feature), MouthField(feature)
        with torch.no_grad():  # no truth for rotation, opacity and scale: zero, until a person's pictures know better
            list(self.face.sigma_net.parameters())[-1][3:] = 0
            list(self.mouth.sigma_net.parameters())[-1][3:] = 0
            for net in (self.face, self.mouth):
                bias = net.audio_att_net.attentionNet.get_parameter("0.bias")
                bias[-1] += NEWEST[0]
                bias[-2] += NEWEST[1]

    def codes(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """(n, WINDOW, width, 1) -> two of (n, CODE)."""
        return self.face.code(window), self.mouth.code(window)

    def tensors(self) -> dict[str, Floats]:
        return {name: value.numpy(force=True) for name, value in self.state_dict().items()}


class Teacher(nn.Module):
    """Codes for both fields from what speech does to the face: (n, controls) -> two of (n, CODE); training only."""

    def __init__(self, controls: int) -> None:
        super().__init__()
        self.face, self.mouth = (nn.Linear(controls, CODE) for _ in range(2))

    def forward(self, truth: Tensor) -> tuple[Tensor, Tensor]:
        return self.face(truth), self.mouth(truth)


class Personal(nn.Module):
    """What one head has for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.face, self.mouth = Aligner(32), Aligner(16)


def move(
    fields: Universal,
    personal: Personal | None,
    face_xyz: Tensor,
    mouth_xyz: Tensor,
    codes: tuple[Tensor, Tensor],
    action_units: Tensor,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What the fields make of (N, 3) and (M, 3) points in F frames; codes (F, CODE) for face and mouth.

    Returns displacements (F, N, 3) and (F, M, 3), audio attention (N, 1), and offsets (N, 3) if there is a person.
    """
    gain: Tensor | float = 1.0
    offset: Tensor | None = None
    inside, at = mouth_xyz, face_xyz
    if personal is not None:
        placed = fast_align(personal.face, face_xyz)
        offset, gain, at = placed.offset, placed.scale, face_xyz + placed.offset
        inside = mouth_xyz + fast_align(personal.mouth, mouth_xyz).offset
    face = face_of_code(fields.face, at, codes[0], action_units)
    moved = face.xyz * gain
    mouth = mouth_of_code(fields.mouth, inside, codes[1], hook(moved, rank)).xyz
    return moved, mouth, face.audio_attention, offset


# --- a step ---


@dataclass(frozen=True)
class Plan:
    """What a run is made of; another plan is another run."""

    steps: int = 6_000
    """of all together"""
    taught_steps: int = 8_000
    """before them, with a teacher"""
    listening_steps: int = 2_500
    """between the two, of the audio nets alone"""
    listening_frames: int = 384
    """in each of those"""
    listening_rate: float = 3e-3
    together: float = 0.4
    """the rates of all together, but for those of the audio nets, start at this share of the rates"""
    together_runs: int = 30
    """of frames in a step of all together: many, for the sake of the audio nets"""
    together_points: float = 0.2
    """of the points in a step, as many in those"""
    together_closing: float = 7.0
    """in place of `closing`: speech hints at closed lips, and the mean of what it may mean leaves them ajar"""
    seed: int = 0
    runs: int = 6
    """of consecutive frames in a step"""
    run_frames: int = 4
    grid_rate: float = 1e-2
    net_rate: float = 1.5e-3
    attention_rate: float = 2.5e-3
    """of the attention over eight codes"""
    aligner_rate: float = 2e-3
    aligned_from: float = 0.04
    """share of the first stage after which the heads' own aligners work"""
    last_rate: float = 0.02
    """of the first, where the cosine ends"""
    velocity: float = 0.5
    """weight of the error of differences from frame to frame"""
    lips: float = 2.0
    """weight of the error of the inner lips' distance"""
    closing: float = 4.0
    """how much more that counts where lips close"""
    quiet: float = 0.003
    """weight of the audio attention where speech moves nothing"""
    awake: float = 1.0
    """weight of the attention to action units that falls short of AWAKE"""
    stay: float = 0.002
    """weight of the aligners' offsets, mm"""
    averaged: float = 0.999
    """of the moving average of the fields"""


LATER = {
    "steps",
    "listening_steps",
    "listening_frames",
    "listening_rate",
    "together",
    "together_runs",
    "together_points",
    "together_closing",
}
"""what matters after the first stage only"""


@dataclass
class _Batch:
    runs: int
    closing: float
    face: Ints
    mouth: Ints
    rows: Ints  # of the head's frames
    weights: Tensor  # (face points,)
    mouth_weights: Tensor
    quiet: Ints  # columns of the face points
    upper: list[int]
    lower: list[int]
    rank: int


def _batch(
    head: HeadData, clips: Clips, plan: Plan, draw: np.random.Generator, device: torch.device, taught: bool = True
) -> _Batch:
    runs = plan.runs if taught else plan.together_runs
    share = 1.0 if taught else plan.together_points
    chosen: list[Ints] = []
    weights: list[Floats] = []
    for k, name in enumerate(REGIONS):
        among = head.of_region[k]
        count = min(math.ceil(share * SHARES[name]), len(among))
        chosen.append(draw.choice(among, count, replace=False) if count else among)
        weights.append(np.full(count, WEIGHTS[name] / max(count, 1), np.float32))
    pairs = np.concatenate([head.upper, head.lower])
    face = np.concatenate([pairs, *chosen[:FACE_REGIONS]])
    face_weights = np.concatenate(
        [np.full(len(pairs), WEIGHTS["lips"] / (share * SHARES["lips"])), *weights[:FACE_REGIONS]]
    )
    quiet = np.flatnonzero(np.isin(head.region[face], [REGIONS.index(name) for name in QUIET_REGIONS]))
    count = len(head.upper)
    return _Batch(
        runs,
        plan.closing if taught else plan.together_closing,
        face,
        np.concatenate(chosen[FACE_REGIONS:]),
        _runs(head, clips, runs, plan.run_frames, draw),
        torch.from_numpy(face_weights.astype(np.float32)).to(device),
        torch.from_numpy(np.concatenate(weights[FACE_REGIONS:])).to(device),
        quiet,
        list(range(count)),
        list(range(count, 2 * count)),
        int(draw.integers(HOOK_RANKS[0], HOOK_RANKS[1] + 1)),
    )


def _runs(head: HeadData, clips: Clips, runs: int, length: int, draw: np.random.Generator) -> Ints:
    """Rows of `runs` stretches of `length` consecutive frames; a blink in one of four."""
    span = head.frames[length - 1 :] - head.frames[: len(head.frames) - length + 1]
    same = clips.clip[head.frames[length - 1 :]] == clips.clip[head.frames[: len(head.frames) - length + 1]]
    starts = np.flatnonzero((span == length - 1) & same)
    blinking = starts[(clips.action_units[torch.from_numpy(head.frames[starts]), 5] > BLINK).cpu().numpy()]
    firsts = draw.choice(starts, runs)
    if len(blinking):
        some = draw.random(runs) < 0.25
        firsts[some] = draw.choice(blinking, int(some.sum()))
    return np.asarray((firsts[:, None] + np.arange(length)).ravel(), np.int64)


def _size(error: Tensor) -> Tensor:
    """Of errors (..., 3) in millimetres: round near zero, so that rest is rest (Charbonnier et al. 1994)."""
    return (error.square().sum(-1) + ROUND_MM**2).sqrt() - ROUND_MM


def loss_of(
    fields: Universal,
    personal: Personal | None,
    head: HeadData,
    clips: Clips,
    plan: Plan,
    batch: _Batch,
    teacher: Teacher | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and its parts. A teacher stands in for the ears.

    Without a person the fields are asked at the points' places on the face that stands for all, if those are known.
    """
    frames = head.frames[batch.rows]
    units = clips.action_units[torch.from_numpy(frames)]
    if teacher is None or clips.truth is None:
        codes = fields.codes(clips.window(frames))
    else:
        codes = teacher(clips.truth[torch.from_numpy(frames)])
    places = head.rest if personal is not None or head.canon is None else head.canon
    face_at, mouth_at = places[torch.from_numpy(batch.face)], places[torch.from_numpy(batch.mouth)]
    moved, inside, attention, offset = move(fields, personal, face_at, mouth_at, codes, units, batch.rank)
    truth, inside_truth = head.displacement(batch.rows, batch.face), head.displacement(batch.rows, batch.mouth)
    error, inside_error = (moved - truth) * MM, (inside - inside_truth) * MM
    parts = {
        "face": (_size(error) * batch.weights).sum(-1).mean(),
        "mouth": (_size(inside_error) * batch.mouth_weights).sum(-1).mean(),
    }
    runs = error.view(batch.runs, plan.run_frames, *error.shape[1:])
    inside_runs = inside_error.view(batch.runs, plan.run_frames, *inside_error.shape[1:])
    parts["velocity"] = plan.velocity * (
        (_size(runs[:, 1:] - runs[:, :-1]) * batch.weights).sum(-1).mean()
        + (_size(inside_runs[:, 1:] - inside_runs[:, :-1]) * batch.mouth_weights).sum(-1).mean()
    )
    wanted = head.opening(truth, batch.upper, batch.lower) * MM
    gap = (head.opening(moved, batch.upper, batch.lower) * MM - wanted).abs()
    emphasis = 1 + batch.closing * torch.exp(-((wanted.clamp(min=0) / CLOSED_MM) ** 2))
    parts["lips"] = plan.lips * (gap * emphasis).mean()
    if len(batch.quiet):
        parts["quiet"] = plan.quiet * attention[torch.from_numpy(batch.quiet)].mean()
    moving = np.flatnonzero(head.region[batch.face] != REGIONS.index("still"))
    at = face_at if offset is None else face_at + offset.detach()
    eyes = fields.face.eye_att_net(encode(fields.face, at[torch.from_numpy(moving)]))  # before its ReLU
    parts["awake"] = plan.awake * (AWAKE - eyes).clamp(min=0).mean()
    if offset is not None:
        parts["stay"] = plan.stay * (offset * MM).norm(dim=-1).mean()
    return torch.stack(list(parts.values())).sum(), parts


# --- training ---


@torch.no_grad()
def refuse_dead_eyes(fields: Universal, data: Data) -> None:
    """Raises DataError for fields whose lids do not follow the blinks of a head that they have learnt."""
    head = data.learnt[0]
    rows = np.arange(min(len(head.frames), 1000))
    at = head.rest if head.canon is None else head.canon
    predicted = _moved(fields, None, head, data.clips, rows, at)
    share = blinking(predicted, head.displacement(rows, np.arange(len(head.rest))), head, data.clips, rows)
    if share < BLINKS:
        raise DataError(
            "pretrain_field", f"The field follows {share:.0%} of a blink: train for longer, or with another seed."
        )


@dataclass
class Run:
    """A training under way: all that a checkpoint holds."""

    data: Data
    plan: Plan
    device: torch.device
    step: int = 0
    listened: bool = False
    people: dict[str, tuple[Personal, torch.optim.Optimizer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(self.plan.seed)
        feature = AudioFeature(name="mel", width=self.data.clips.width)
        self.fields = Universal(feature).to(self.device)
        self.average = {name: value.clone() for name, value in self.fields.state_dict().items()}
        truth = self.data.clips.truth
        self.teacher = None if truth is None else Teacher(truth.shape[1]).to(self.device)
        grids: list[nn.Parameter] = []
        ears: list[nn.Parameter] = []
        attention: list[nn.Parameter] = []
        nets: list[nn.Parameter] = []
        for name, parameter in self.fields.named_parameters():
            kind = (
                grids
                if "embeddings" in name
                else attention
                if "audio_att_net" in name
                else ears
                if "audio_net" in name
                else nets
            )
            kind.append(parameter)
        plan = self.plan
        self.optimizer = torch.optim.Adam(
            [
                {"params": grids, "lr": plan.grid_rate, "first": plan.grid_rate},
                {"params": attention, "lr": plan.attention_rate, "first": plan.attention_rate, "ears": True},
                {"params": ears, "lr": plan.net_rate, "first": plan.net_rate, "ears": True},
                {"params": nets, "lr": plan.net_rate, "first": plan.net_rate},
                {
                    "params": [] if self.teacher is None else list(self.teacher.parameters()),
                    "lr": plan.net_rate,
                    "first": plan.net_rate,
                },
            ],
            betas=(0.9, 0.99),
            eps=1e-12,
        )

    def person(self, name: str) -> tuple[Personal, torch.optim.Optimizer]:
        if name not in self.people:
            torch.manual_seed(self.plan.seed + 1)
            personal = Personal().to(self.device)
            optimizer = torch.optim.Adam(personal.parameters(), lr=self.plan.aligner_rate, eps=1e-12)
            self.people[name] = personal, optimizer
        return self.people[name]

    @property
    def taught_steps(self) -> int:
        """Steps of the first stage; none without a teacher."""
        return 0 if self.teacher is None else self.plan.taught_steps

    @property
    def steps(self) -> int:
        return self.taught_steps + self.plan.steps

    def listen(self, report: Callable[[int, Mapping[str, float]], None] = lambda step, parts: None) -> None:
        """The audio nets learn the teacher's codes: the mean of what may have been meant, by squares."""
        plan, clips = self.plan, self.data.clips
        if self.teacher is None or clips.truth is None:
            return
        listening = [parameter for name, parameter in self.fields.named_parameters() if "audio_" in name]
        optimizer = torch.optim.Adam(listening, lr=plan.listening_rate, betas=(0.9, 0.99))
        heard = np.flatnonzero(~clips.held_out[clips.clip])
        with torch.no_grad():
            scale = torch.cat(self.teacher(clips.truth), 1).std(0).square().mean()
        total = 0.0
        for step in range(plan.listening_steps):
            draw = np.random.default_rng([plan.seed, 2, step])
            frames = heard[draw.integers(len(heard), size=plan.listening_frames)]
            with torch.no_grad():
                wanted = torch.cat(self.teacher(clips.truth[torch.from_numpy(frames)]), 1)
            optimizer.param_groups[0]["lr"] = plan.listening_rate * (1 - 0.98 * step / plan.listening_steps)
            optimizer.zero_grad(set_to_none=True)
            loss = (torch.cat(self.fields.codes(clips.window(frames)), 1) - wanted).square().mean() / scale
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item()
            if step % 50 == 49:
                report(self.step, {"listening": total / 50})
                total = 0.0
        self.average = {name: value.clone() for name, value in self.fields.state_dict().items()}
        self.listened = True

    def advance(self) -> dict[str, Tensor]:
        """One step. What it draws depends on the seed and its number alone."""
        plan, learnt, taught = self.plan, self.data.learnt, self.step < self.taught_steps
        draw = np.random.default_rng([plan.seed, self.step])
        head = learnt[int(draw.integers(len(learnt)))]
        batch = _batch(head, self.data.clips, plan, draw, self.device, taught or not self.taught_steps)
        first_stage = self.taught_steps or plan.steps
        placed = head.canon is not None or self.step < plan.aligned_from * first_stage
        personal, own = (None, None) if placed else self.person(head.name)
        self._set_rates(own)
        self.optimizer.zero_grad(set_to_none=True)
        if own is not None:
            own.zero_grad(set_to_none=True)
        teacher = self.teacher if taught else None
        loss, parts = loss_of(self.fields, personal, head, self.data.clips, plan, batch, teacher)
        torch.autograd.backward(loss)
        self.optimizer.step()
        if own is not None:
            own.step()
        stage = (
            self.step if taught else self.step - self.taught_steps
        )  # a stage's beginning weighs nothing at its end
        keep = min(plan.averaged, (1 + stage) / (10 + stage))
        with torch.no_grad():
            for name, value in self.fields.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)
        self.step += 1
        return {"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}}

    def _set_rates(self, own: torch.optim.Optimizer | None) -> None:
        """Half a cosine for each stage."""
        plan, taught = self.plan, self.step < self.taught_steps
        share = self.step / self.taught_steps if taught else (self.step - self.taught_steps) / max(plan.steps, 1)
        fall = plan.last_rate + (1 - plan.last_rate) * 0.5 * (1 + math.cos(math.pi * share))
        together = 1.0 if taught or not self.taught_steps else plan.together
        for group in self.optimizer.param_groups:
            group["lr"] = group["first"] * fall * (1.0 if "ears" in group else together)
        if own is not None:
            own.param_groups[0]["lr"] = plan.aligner_rate * fall * together

    def begin_with(self, fields: Universal) -> None:
        """Improves fields that have been trained: only the last stage is left."""
        self.fields.load_state_dict(fields.state_dict())
        self.average = {name: value.clone() for name, value in self.fields.state_dict().items()}
        self.step, self.listened = self.taught_steps, True

    # -- what is kept on disk --

    def save(self, path: Path) -> None:
        state = {
            "plan": json.dumps(vars(self.plan), sort_keys=True),
            "step": self.step,
            "fields": self.fields.state_dict(),
            "average": self.average,
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "listened": self.listened,
            "optimizer": self.optimizer.state_dict(),
            "people": {n: {"nets": p.state_dict(), "optimizer": o.state_dict()} for n, (p, o) in self.people.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Goes on where `save` left off. Raises DataError if it was another plan's."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        theirs, ours = json.loads(state["plan"]), vars(self.plan)
        matters = ours.keys() if state["step"] > self.taught_steps or state["listened"] else ours.keys() - LATER
        if any(theirs.get(name) != ours[name] for name in matters):
            raise DataError(
                "pretrain_data",
                f"{path} belongs to a run with other settings. Give it again with those, or name another folder.",
            )
        self.step = state["step"]
        self.fields.load_state_dict(state["fields"])
        self.average = {name: value.clone() for name, value in state["average"].items()}
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.listened = state["listened"]
        self.optimizer.load_state_dict(state["optimizer"])
        for name, kept in state["people"].items():
            personal, own = self.person(name)
            personal.load_state_dict(kept["nets"])
            own.load_state_dict(kept["optimizer"])

    def averaged(self) -> Universal:
        """The fields as they are on average: what ships."""
        fields = Universal(self.fields.feature).to(self.device)
        fields.load_state_dict(self.average)
        return fields


def train(
    data: Data,
    plan: Plan,
    work: Path,
    device: torch.device | str = "cpu",
    until: int | None = None,
    report: Callable[[int, Mapping[str, float]], None] = lambda step, parts: None,
    start: Universal | None = None,
) -> Run:
    """Trains, or goes on after a kill: `work` holds the checkpoint. Stops after step `until`, if that is given.

    `start` are fields to improve: then there is the last stage only.

    `work` also keeps what there was after the first stage (TAUGHT): for other features that is all the same, so that
    another folder that begins with a copy of it need not do it again. `report` hears every 50 steps the mean loss,
    and its parts, since it last did.
    """
    run, checkpoint, taught = Run(data, plan, torch.device(device)), work / "pretrain.pt", work / TAUGHT
    if checkpoint.exists():
        run.resume(checkpoint)
    elif taught.exists():
        run.resume(taught)
    elif start is not None:
        run.begin_with(start)
    saved = time.monotonic()
    sums: dict[str, Tensor] = {}
    counted = 0
    end = run.steps if until is None else min(until, run.steps)
    while run.step < end:
        if run.step == run.taught_steps and not run.listened and run.teacher is not None:
            run.save(taught)
            run.listen(report)
        for name, part in run.advance().items():
            sums[name] = sums.get(name, torch.zeros((), device=run.device)) + part
        counted += 1
        if counted == 50 or run.step in (run.taught_steps, end):
            means = {name: float(part) / counted for name, part in sums.items()}
            if not math.isfinite(means["loss"]):
                raise DataError("pretrain_data", f"The loss is no number at step {run.step}: try another seed.")
            report(run.step, means)
            sums, counted = {}, 0
        if time.monotonic() - saved > CHECKPOINT_S:
            run.save(checkpoint)
            saved = time.monotonic()
    run.save(checkpoint)
    return run


# --- judging ---


@dataclass(frozen=True)
class Score:
    """How well the fields move one head whose identity and voices they never met."""

    head: str
    error_mm: dict[str, float]
    """by region: mean distance from the truth"""
    static_mm: dict[str, float]
    """the same of points that keep to their mean place"""
    aperture_r: float
    """correlation of the inner lips' distance with the truth"""
    aperture_lag_ms: float
    """positive: the fields are late"""
    closure: float
    """share of the truth's closures at which the lips close, too"""
    closures: int
    blink: float
    """how much of the lids' motion is there while AU45 is high: 1 is all of it; 1 if nobody blinks"""
    audio_std_mm: float
    """of points that do not move: standard deviation over time, action units held"""


def align(fields: Universal, head: HeadData, clips: Clips, plan: Plan, steps: int | None = None) -> Personal:
    """Aligners for a head that was not learnt, on its first ALIGNMENT_FRAMES; the fields stay as they are."""
    device, steps = head.rest.device, ALIGNMENT_STEPS if steps is None else steps
    count = min(ALIGNMENT_FRAMES, len(head.frames) // 2)
    first = HeadData(**{
        **{name: getattr(head, name) for name in head.__dataclass_fields__},
        "frames": head.frames[:count],
        "coefficients": head.coefficients[:count],
    })  # fmt: skip
    torch.manual_seed(plan.seed + 1)
    personal = Personal().to(device)
    own = torch.optim.Adam(personal.parameters(), lr=plan.aligner_rate, eps=1e-12)
    fields.requires_grad_(False)
    for step in range(steps):
        draw = np.random.default_rng([plan.seed, 1, step])
        own.param_groups[0]["lr"] = plan.aligner_rate * (1 - step / steps) + 1e-5
        own.zero_grad(set_to_none=True)
        loss, _ = loss_of(fields, personal, first, clips, plan, _batch(first, clips, plan, draw, device))
        torch.autograd.backward(loss)
        own.step()
    fields.requires_grad_(True)
    return personal


@torch.no_grad()
def judge(
    fields: Universal,
    personal: Personal | None,
    head: HeadData,
    clips: Clips,
    placed: bool = False,
    most: int = 1500,
) -> Score:
    """On the frames after those that `align` may use, `most` at most; `placed`: asked at the points' true places."""
    at = head.canon if placed and head.canon is not None else head.rest
    count = min(ALIGNMENT_FRAMES, len(head.frames) // 2)
    rows = np.arange(count, min(len(head.frames), count + most))
    predicted, truth = (
        _moved(fields, personal, head, clips, rows, at),
        head.displacement(rows, np.arange(len(head.rest))),
    )
    error = (predicted - truth).norm(dim=-1).mean(0).cpu().numpy() * MM
    static = (truth - truth.mean(0)).norm(dim=-1).mean(0).cpu().numpy() * MM
    upper, lower = head.upper.tolist(), head.lower.tolist()
    own = (head.opening(predicted, upper, lower).mean(-1) * MM).cpu().numpy()
    true = (head.opening(truth, upper, lower).mean(-1) * MM).cpu().numpy()
    clip = clips.clip[head.frames[rows]]
    lag, r = lag_and_correlation(own, true, clip)
    share, closures = closed_share(own, true, clip)
    blink = blinking(predicted, truth, head, clips, rows)
    still = head.of_region[REGIONS.index("still")]
    units = clips.action_units[torch.from_numpy(head.frames[rows[:1]])]
    quiet = _moved(fields, personal, head, clips, rows[:200], at, units)[:, still]
    return Score(
        head.name,
        {name: float(error[k].mean()) for name, k in zip(REGIONS, head.of_region, strict=True) if len(k)},
        {name: float(static[k].mean()) for name, k in zip(REGIONS, head.of_region, strict=True) if len(k)},
        r,
        lag,
        share,
        closures,
        blink,
        float(quiet.std(0).norm(dim=-1).mean()) * MM if len(still) else 0.0,
    )


def blinking(predicted: Tensor, truth: Tensor, head: HeadData, clips: Clips, rows: Ints) -> float:
    """The part of the true motion of lids in blinks that the predicted has, by projection; both (rows, points, 3)."""
    closing = (clips.action_units[torch.from_numpy(head.frames[rows]), 5] > BLINK).nonzero()[:, 0]
    lids = torch.from_numpy(head.of_region[REGIONS.index("lids")]).to(truth.device)
    true = truth[closing][:, lids]
    total = float(true.square().sum())
    return float((predicted[closing][:, lids] * true).sum()) / total if total > 0 else 1.0


def _moved(
    fields: Universal,
    personal: Personal | None,
    head: HeadData,
    clips: Clips,
    rows: Ints,
    at: Tensor,
    held_units: Tensor | None = None,
) -> Tensor:
    """(rows, points, 3), in the order of the head's points."""
    out = head.rest.new_zeros(len(rows), *head.rest.shape)
    face, mouth = torch.from_numpy(head.face), torch.from_numpy(head.mouth)
    for begin in range(0, len(rows), 100):
        some = rows[begin : begin + 100]
        frames = head.frames[some]
        units = (
            clips.action_units[torch.from_numpy(frames)] if held_units is None else held_units.expand(len(some), 6)
        )
        moved, inside, _, _ = move(
            fields,
            personal,
            at[face],
            at[mouth],
            fields.codes(clips.window(frames)),
            units,
            EVALUATION_RANK,
        )
        out[begin : begin + 100, face] = moved
        out[begin : begin + 100, mouth] = inside
    return out


def lag_and_correlation(own: Floats, true: Floats, clip: Ints, most: int = 5) -> tuple[float, float]:
    """By how many milliseconds `own` comes after `true` (a parabola between frames), and Pearson's r unshifted.

    (frames,) each; clips are not compared across their ends.
    """

    def correlation(shift: int) -> float:
        a, b = own[max(shift, 0) : len(own) + min(shift, 0)], true[max(-shift, 0) : len(true) - max(shift, 0)]
        same = clip[max(shift, 0) : len(own) + min(shift, 0)] == clip[max(-shift, 0) : len(true) - max(shift, 0)]
        a, b = a[same], b[same]
        if len(a) < 2 or a.std() < 1e-9 or b.std() < 1e-9:
            return 0.0
        return float(np.corrcoef(a, b)[0, 1])

    r = [correlation(shift) for shift in range(-most, most + 1)]
    best = int(np.argmax(r))
    fine = 0.0
    if 0 < best < 2 * most:
        before, at, after = r[best - 1 : best + 2]
        bend = before - 2 * at + after
        fine = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return (best - most + fine) * 1000 / FPS, r[most]


def closed_share(own: Floats, true: Floats, clip: Ints) -> tuple[float, int]:
    """Of the stretches where `true` lips are closed, the share where `own` close, too, and their number.

    Closed: nearer than CLOSED_SHARE of the median distance while the lips are apart.
    """
    limit = CLOSED_SHARE * float(np.median(true[true > 0.5])) if (true > 0.5).any() else 0.0
    closed = true < limit
    edges = np.flatnonzero(np.diff(np.concatenate([[False], closed, [False]]).astype(np.int8)))
    met = total = 0
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        near = np.arange(max(begin - NEAR_FRAMES, 0), min(end + NEAR_FRAMES, len(own)))
        near = near[clip[near] == clip[begin]]
        met += int(own[near].min() < limit)
        total += 1
    return (met / total if total else 1.0), total


def evaluate(fields: Universal, data: Data, plan: Plan, most_heads: int | None = None) -> dict[str, list[Score]]:
    """Held-out heads: with the field alone, with aligners fitted to each, and asked at the true places."""
    judged = data.judged[-most_heads:] if most_heads else data.judged
    results = {
        "alone": [judge(fields, None, head, data.clips) for head in judged],
        "aligned": [judge(fields, align(fields, head, data.clips, plan), head, data.clips) for head in judged],
    }
    if all(head.canon is not None for head in judged):
        results["placed"] = [judge(fields, None, head, data.clips, placed=True) for head in judged]
    return results


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Means over heads, closures pooled: figures by name."""
    out: dict[str, float] = {}
    for name in REGIONS:
        for kind in ("error_mm", "static_mm"):
            values = [getattr(s, kind)[name] for s in scores if name in getattr(s, kind)]
            if values:
                out[f"{name}.{kind}"] = float(np.mean(values))
    out["aperture_r"] = float(np.mean([s.aperture_r for s in scores]))
    out["aperture_lag_ms"] = float(np.mean([s.aperture_lag_ms for s in scores]))
    total = sum(s.closures for s in scores)
    out["closure"] = sum(s.closure * s.closures for s in scores) / max(total, 1)
    out["closures"] = float(total)
    out["blink"] = float(np.mean([s.blink for s in scores]))
    out["audio_std_mm"] = float(np.mean([s.audio_std_mm for s in scores]))
    return out


def table(results: Mapping[str, Sequence[Score]]) -> str:
    """For people."""
    kinds = list(results)
    sums = {kind: summary(results[kind]) for kind in kinds}
    lines = [f"{'mm':<8}{'static':>9}" + "".join(f"{kind:>10}" for kind in kinds)]
    for name in REGIONS:
        if f"{name}.error_mm" in sums[kinds[0]]:
            errors = "".join(f"{sums[kind][f'{name}.error_mm']:10.3f}" for kind in kinds)
            lines.append(f"{name:<8}{sums[kinds[0]][f'{name}.static_mm']:9.3f}{errors}")
    for name, digits in (
        ("aperture_r", 3),
        ("aperture_lag_ms", 1),
        ("closure", 3),
        ("blink", 3),
        ("audio_std_mm", 4),
    ):
        lines.append(f"{name:<17}" + "".join(f"{sums[kind][name]:10.{digits}f}" for kind in kinds))
    lines.append(f"{'closures':<17}" + "".join(f"{sums[kind]['closures']:10.0f}" for kind in kinds))
    for kind in kinds:
        for s in results[kind]:
            if not s.head.startswith("random"):
                lines += [
                    f"{s.head}, {kind}: lips {s.error_mm['lips']:.3f} of {s.static_mm['lips']:.3f} mm, "
                    f"r {s.aperture_r:.3f}, lag {s.aperture_lag_ms:.0f} ms, closure {s.closure:.3f} of {s.closures}"
                ]
    return "\n".join(lines)


# --- the command ---

LICENCE = "CC0-1.0 (weights); made by Apache-2.0 programs from CC0 assets and free synthetic voices"


def field_of(fields: Universal, source: str) -> MotionField:
    return MotionField(LICENCE, source, fields.feature, fields.tensors())


def universal_of(motion: MotionField) -> Universal:
    fields = Universal(motion.audio)
    fields.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in motion.tensors.items()})
    return fields


def main(argv: list[str] | None = None) -> int:
    """`visavis train pretrain`: train, from displacements or from pictures, or `evaluate` what was trained."""
    from render.train import people

    parser = argparse.ArgumentParser(prog="visavis train pretrain", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    begin = commands.add_parser("train", help="learn the universal field from a data set of displacements")
    begin.add_argument("data", type=Path)
    begin.add_argument("--out", type=Path, required=True, help="the field, a safetensors file")
    begin.add_argument(
        "--work", type=Path, required=True, help="checkpoints and TensorBoard scalars; resumed from here"
    )
    begin.add_argument("--steps", type=int, default=Plan.steps, help="of all together (%(default)s)")
    begin.add_argument("--taught", type=int, default=Plan.taught_steps, help="before, with a teacher (%(default)s)")
    begin.add_argument("--listening", type=int, default=Plan.listening_steps, help="between them (%(default)s)")
    begin.add_argument("--start", type=Path, help="a field to improve: only --steps count then")
    begin.add_argument("--seed", type=int, default=Plan.seed)
    check = commands.add_parser("evaluate", help="errors on held-out heads and voices")
    check.add_argument("data", type=Path)
    check.add_argument("field", type=Path)
    people.add_arguments(
        commands.add_parser("pictures", help="learn it from pictures of several people", description=people.__doc__)
    )
    for command in (begin, check):
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--device", default="cpu", help="cpu or cuda")
        command.add_argument("--heads", type=int, help="at most so many held-out heads are judged")
    arguments = parser.parse_args(argv)
    if arguments.command == "pictures":
        return people.command(arguments)
    torch.set_num_threads(max(1, arguments.threads))
    try:
        data = load_data(arguments.data, arguments.device)
        if arguments.command == "evaluate":
            fields = universal_of(load_field(arguments.field)).to(arguments.device)
            plan = Plan()
        else:
            plan = Plan(
                steps=arguments.steps,
                taught_steps=arguments.taught,
                listening_steps=arguments.listening,
                seed=arguments.seed,
            )
            start = None if arguments.start is None else universal_of(load_field(arguments.start))
            fields = _train_aloud(data, plan, arguments.work, arguments.device, arguments.out, start)
        results = evaluate(fields, data, plan, arguments.heads)
    except VisavisError as e:
        print(e, file=sys.stderr)
        return 1
    print(table(results))
    for kind, scores in results.items():
        figures = {f"universal.{kind}.{name}": round(value, 4) for name, value in summary(scores).items()}
        print(json.dumps(figures))
    return 0


def _train_aloud(data: Data, plan: Plan, work: Path, device: str, out: Path, start: Universal | None) -> Universal:
    """With a bar and TensorBoard; the field is written at the end."""
    from tqdm import tqdm

    minutes = len(data.clips.clip) / FPS / 60
    print(f"{len(data.learnt)} heads to learn from, {len(data.judged)} held out; {minutes:.0f} minutes of speech")
    try:
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(work / "tensorboard"))
    except ImportError:
        print("TensorBoard is not installed: no scalars are kept.")
        writer = None
    begun = time.monotonic()
    steps = plan.steps + (plan.taught_steps if data.clips.truth is not None else 0)
    with tqdm(total=steps, unit="step", smoothing=0.05) as bar:

        def report(step: int, parts: Mapping[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()})
            if writer is not None:
                for name, value in parts.items():
                    writer.add_scalar(f"pretrain/{name}", value, step)

        fields = train(data, plan, work, device, report=report, start=start).averaged()
    if writer is not None:
        writer.close()
    refuse_dead_eyes(fields, data)
    spent = (time.monotonic() - begun) / 60
    source = (
        f"visavis pretrain: {steps} steps, seed {plan.seed}, {len(data.learnt)} identities, {minutes:.0f} "
        "minutes of speech by flite, espeak-ng and festival; recipes/universal"
    )
    save_field(field_of(fields, source), out)
    print(f"{out}: {spent:.1f} minutes")
    return fields


if __name__ == "__main__":
    sys.exit(main())
