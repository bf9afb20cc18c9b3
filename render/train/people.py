"""The universal motion field, learnt from pictures of several people: `visavis train pretrain pictures`.

Stages (InsTaG's pre-training, Li et al., CVPR 2025, mended; render.train.individual has the losses): the faces, at
first without motion, then moved by the field that all share and by each person's own; then the inner mouths in the
same way, driven by how far the shared field opens the face. Each step shows one frame of one person. What is kept in
the end is the moving average of the shared field; Gaussians and own motion of these people are only a means.

It can be stopped at any time: started again with the same arguments it goes on from its last checkpoint. What a step
draws depends on the seed and its number alone, so that a training that was stopped ends as one that was not.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from render.avatar import AudioFeature, MotionField, load_field, save_field
from render.features import MODEL
from render.motion.networks import Aligner, PersonalFaceField, PersonalMouthField
from render.train import checkpoint
from render.train.adam import Adam
from render.train.adaptation import UNTAUGHT, Clock, Heard, Told, clip_of, hear
from render.train.align import ThinPlate, standing, teach
from render.train.checkpoint import named, under
from render.train.dataset import MIN_FRAMES, Dataset, DatasetError, Shot, load
from render.train.footage import Footage, film, head_box
from render.train.head import Cloud
from render.train.individual import CONTRAST, Individual
from render.train.judge import perceived, psnr
from render.train.lpips import Lpips
from render.train.marks import COUNT, at_rest, sightings
from render.train.pretrain import Universal
from render.train.smaller import shortened, smaller
from render.train.start import Budget, Parts, from_depth, from_masks
from render.train.trainer import RATES, REFINED
from server.core.errors import VisavisError

Floats = NDArray[np.float32]
Stage = Literal["face", "mouth"]
STAGES: tuple[Stage, Stage] = ("face", "mouth")

MOST_PEOPLE = 64
MOST_BYTES = 16 << 30
"""of frames in memory"""
STATIC = {"face": 1 / 30, "mouth": 0.1}
"""share of a stage in which nothing moves yet"""
TIME = {"face": 0.6, "mouth": 0.4}
"""of the minutes, where they are bounded"""
CURRICULUM = {"face": 15, "mouth": 7}
"""every so many steps a frame is sought: one whose lips open, or lids close, so far as the stage has gone"""
WINDOW = 0.2
"""of the range of what is sought"""
HAIR_EVERY = 7
OTHERS = 4
"""people in a step of the face whom the contrast loss looks at"""
AVERAGED = 0.995
FIELD_RATES = {"embeddings": 1e-2, "audio_att_net": 2.5e-3, "": 2e-3}
"""of the shared field, by what a tensor's name holds"""
OWN = 0.2
"""of these, for a person's own field"""
KNOWN = 0.1
"""of these, for a field that was trained before"""
CHECKPOINT_S = 240.0
LOOKS = 4
"""evaluations in each stage"""
HELD_OUT = 8
"""frames of each person that are looked at then"""
GREY = 0.5
"""behind the heads that are judged"""
LICENCE = "Not stated. Ask the people who were filmed."


@dataclass(frozen=True)
class Plan:
    """How long, how large, from which seed."""

    iterations: int = 6000
    """of each person in each of the two stages"""
    minutes: float = 0.0
    """0: as long as it takes; else the schedule is compressed so that it ends in time"""
    side: int = 512
    """pixels: larger pictures are shrunk"""
    frames: int = 400
    """of each person"""
    seed: int = 0
    face: int = 6000
    hair: int = 3000
    eyes: int = 300
    mouth: int = 1500
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Filmed:
    """One person, as given."""

    name: str
    data: Dataset
    heard: Heard


def windowed(values: NDArray[Any], at: float, draw: np.random.Generator) -> int:
    """One whose value lies in a window that has slid `at`, 0 to 1, over their range; the nearest if there is none."""
    low, high = float(values.min()), float(values.max())
    begin = low + at * (1 - WINDOW) * (high - low)
    end = begin + WINDOW * (high - low)
    inside = np.flatnonzero((values >= begin) & (values <= end))
    return int(draw.choice(inside)) if len(inside) else int(np.argmin(np.abs(values - (begin + end) / 2)))


def feature_of(people: Sequence[Filmed], start: MotionField | None) -> AudioFeature:
    """What all of them are heard by. Raises VisavisError if that is not one and the same."""
    if not 2 <= len(people) <= MOST_PEOPLE:
        what = f"{len(people)} people were given" if len(people) != 1 else "One person was given"
        raise VisavisError("people", f"{what}. Give the folders of 2 to {MOST_PEOPLE}.")
    first = people[0].heard.feature
    for person in people[1:]:
        if person.heard.feature != first:
            theirs = person.heard.feature
            what = f"{person.name} is heard by {theirs.name} of width {theirs.width}"
            raise VisavisError("audio", f"{what}, {people[0].name} of {first.width}. Give one extractor for all.")
    if start is not None and start.audio != first:
        what = f"The field to start from listens to {start.audio.name} of width {start.audio.width}"
        raise VisavisError("field", f"{what}, and the encoder gives {first.width}. Give one made for it.")
    return first


class Pretraining:
    """The fields that all share, everybody, and the two stages."""

    def __init__(
        self, people: Sequence[Filmed], start: MotionField | None, plan: Plan, work: Path, told: Told
    ) -> None:
        """start: a field to improve. Raises VisavisError with a sentence."""
        self.plan, self.work, self.told = plan, work, told
        self.feature = feature_of(people, start)
        self.filmed = [replace(p, data=shortened(smaller(p.data, plan.side), plan.frames)) for p in people]
        room = sum(8 * len(p.data.train) * p.data.width * p.data.height for p in self.filmed)
        if room > MOST_BYTES:
            what = f"The frames take up to {room / 2**30:.1f} GiB, more than {MOST_BYTES / 2**30:g}"
            raise VisavisError("memory", f"{what}. Use fewer --frames or a smaller --side.")
        self.started = start is not None
        self._identity = [[str(p.data.folder.absolute()), len(p.data.train)] for p in self.filmed]
        torch.manual_seed(plan.seed)
        self.fields = Universal(self.feature)
        if start is None:
            for name, tensor in self.fields.named_parameters():
                if "embeddings" in name:
                    torch.nn.init.uniform_(tensor, -UNTAUGHT, UNTAUGHT)
        else:
            self.fields.load_state_dict({name: torch.from_numpy(np.array(t)) for name, t in start.tensors.items()})
        self.fields.to(plan.device)
        self.average = Universal(self.feature).to(plan.device).requires_grad_(False)
        self.average.load_state_dict(self.fields.state_dict())
        self._averages = {
            stage: list(
                zip(getattr(self.average, stage).parameters(), getattr(self.fields, stage).parameters(), strict=True)
            )
            for stage in STAGES
        }
        self.adam = Adam(dict(self.fields.named_parameters()), epsilon=1e-12)
        self.stage: Stage = "face"
        self.step, self.refined, self.elapsed = 0, 0, 0.0
        self.people: list[Individual] = []
        self._gather()
        self._open = [person.open_frames() for person in self.people]
        self.judged = [self._held_out(person) for person in self.people]

    @property
    def layout(self) -> Literal["mean-face", "own"]:
        return "mean-face" if all(person.aligners for person in self.people) else "own"

    def fingerprint(self) -> str:
        """Of what must be the same for a checkpoint to be of use; the length of the training may change."""
        plan = asdict(self.plan)
        for name in ("minutes", "iterations", "device"):
            del plan[name]
        return json.dumps([self._identity, plan, self.started], sort_keys=True)

    # --- the people ---

    def _gather(self) -> None:
        """Everybody, from the checkpoint if there is one."""
        found = checkpoint.read(self.work / "people.safetensors", self.fingerprint())
        rests = [self._rest(p.data) for p in self.filmed] if standing() is not None else [None]
        laid = all(rest is not None for rest in rests)
        if not laid:
            self.told.say("without landmarks and depth of everybody the field is laid out on no common face")
        for i, filmed in enumerate(self.filmed):
            self.told.say(f"reading the frames of {filmed.name}")
            state = None if found is None else under(f"person{i}", found.tensors)
            counts = None if found is None else found.notes["counts"][i]
            self.people.append(self._person(i, filmed, rests[i] if laid else None, state, counts))
        if found is not None:
            self.stage, self.step, self.refined, self.elapsed = (
                found.notes[name] for name in ("stage", "step", "refined", "elapsed")
            )
            self.fields.load_state_dict(under("fields", found.tensors))
            self.average.load_state_dict(under("average", found.tensors))
            self.adam.restore(under("adam", found.tensors))

    def _person(
        self, i: int, filmed: Filmed, rest: Floats | None, state: Mapping[str, Tensor] | None, counts: Any
    ) -> Individual:
        plan, data = self.plan, filmed.data
        footage = film(data, data.train, head_box(data, data.train))
        clip = clip_of(data, filmed.heard.features, plan.device)
        torch.manual_seed(plan.seed + 1 + i)
        face, mouth = PersonalFaceField(self.feature), PersonalMouthField(self.feature)
        aligners = None if rest is None else (Aligner(32), Aligner(16))
        if state is not None:
            head = Cloud.of_tensors(state, counts, plan.device)
        else:
            parts = self._parts(data, footage, np.random.default_rng([plan.seed, 3, i]))
            head = Cloud.of_parts(parts, plan.device)
            if rest is not None and aligners is not None:
                self._teach(aligners, parts, rest)
        for net in (face, mouth, *(aligners or ())):
            net.to(plan.device)
        person = Individual(filmed.name, data, footage, clip, head, face, mouth, aligners)
        if state is not None:
            person.restore(state)
        return person

    def _rest(self, data: Dataset) -> Floats | None:
        """Where the landmarks are while the lips are closed; None without landmarks or depth."""
        if not data.metric:
            return None
        marks = [data.landmarks(shot.index) for shot in data.train]
        gaps = [np.inf if m is None else float(np.mean(m[[67, 66, 65], 1] - m[[61, 62, 63], 1])) for m in marks]
        closed = [data.train[k] for k in np.argsort(gaps)[: max(len(gaps) // 3, 1)]]
        seen = sightings(data, 1 + max(shot.index for shot in data.train))
        return at_rest(replace(data, train=tuple(closed)), seen, _still)

    def _teach(self, aligners: tuple[Aligner, Aligner], parts: Parts, rest: Floats) -> None:
        places = standing()
        assert places is not None
        plate = ThinPlate(rest, places[-COUNT:])
        for aligner, points in zip(aligners, (parts.face.xyz, parts.mouth.xyz), strict=True):
            whole = np.concatenate([points, rest]).astype(np.float32)
            aligner.to(self.plan.device)
            teach(aligner, whole, plate(whole), self.plan.device)

    def _parts(self, data: Dataset, footage: Footage, rng: np.random.Generator) -> Parts:
        plan = self.plan
        budget = Budget(plan.face, plan.hair, plan.eyes, plan.mouth)
        if data.metric:
            rows = np.sort(np.argsort(footage.openness, kind="stable")[: max(len(footage) // 3, 1)])
            shut = [footage.shots[k] for k in rows]  # a face that opens is moved, not made, by what is learned
            parts = from_depth(data, shut, footage.openness[rows], _still, _still, budget, rng)
            wide = from_depth(data, footage.shots, footage.openness, _still, _still, budget, rng)
            parts = replace(parts, mouth=wide.mouth)
        else:
            parts = from_masks(data, footage.shots, footage.openness, budget, rng)
        if len(parts.face) < 10:
            what = f"{data.folder} shows no face: its labels, poses or depth do not fit together"
            raise DatasetError("dataset_value", f"{what}. Preprocess the clip again.")
        return parts

    def _held_out(self, person: Individual) -> Footage:
        shots = person.data.held_out or person.data.train
        rows = np.unique(np.linspace(0, len(shots) - 1, min(HELD_OUT, len(shots))).astype(int))
        return film(person.data, [shots[k] for k in rows], person.footage.box)

    # --- the stages ---

    def run(self) -> None:
        """Both stages, from wherever the checkpoint left off."""
        for stage in STAGES[STAGES.index(self.stage) :]:
            if stage != self.stage:
                self._enter(stage)
            self._stage()

    def _enter(self, stage: Stage) -> None:
        self.stage, self.step, self.refined, self.elapsed = stage, 0, 0, 0.0
        for person in self.people:  # what is drawn no more shall not drift on
            person.adam = Adam(person.head.tensors)
        self.save()

    def _stage(self) -> None:
        plan, told = self.plan, self.told
        if self.stage == "mouth" and not any(len(frames) for frames in self._open):
            told.say("nobody opens the mouth: the field of the inner mouth stays as it was")
            return
        total = plan.iterations * len(self.people)
        clock = Clock(total, 60 * plan.minutes * TIME[self.stage], self.elapsed)
        told.begin(self.stage, total, self.step)
        saved, done = time.monotonic(), self.step
        share = clock.share(self.step)
        looked = int(share * LOOKS) if self.step or self.stage == "mouth" else -1
        while share < 1:
            if int(share * LOOKS) > looked:
                looked = int(share * LOOKS)
                self._look(share)
            if self.stage == "face" and self.refined < len(REFINED) and share >= REFINED[self.refined]:
                self._refine()
            figures = self.advance(share)
            told.advance(figures["loss"])
            self.elapsed = clock.elapsed()
            share = clock.share(self.step)
            if self.step % 50 == 0:
                told.scalars(self._counted(), {f"{self.stage}/{name}": v for name, v in figures.items()})
            if time.monotonic() - saved > CHECKPOINT_S:
                saved = time.monotonic()
                self.save()
        if self.step > done:
            self._look(1.0)
            self.save()

    def _counted(self) -> int:
        """Steps of both stages, for TensorBoard."""
        return self.step + (self.plan.iterations * len(self.people) if self.stage == "mouth" else 0)

    def advance(self, share: float) -> dict[str, float]:
        """One step; share: of the stage that is done. Returns the parts of the loss."""
        draw = np.random.default_rng([self.plan.seed, 10 + STAGES.index(self.stage), self.step])
        moving = share >= STATIC[self.stage]
        if self.stage == "face":
            person, parts, rows = self._face(share, moving, draw)
        else:
            person, parts, rows = self._mouth(share, moving, draw)
        loss = torch.stack(list(parts.values())).sum()
        if not bool(torch.isfinite(loss.detach())):
            raise VisavisError("training", f"The loss is no number at step {self.step}: try another seed.")
        loss.backward()  # type: ignore[no-untyped-call]
        if person.painter.screen is not None:
            person.screen[rows] += person.painter.screen.norm(dim=1).cpu()
        self._learn(person, share)
        self.step += 1
        return {name: float(v.detach()) for name, v in parts.items()} | {"loss": float(loss.detach())}

    def _face(
        self, share: float, moving: bool, draw: np.random.Generator
    ) -> tuple[Individual, dict[str, Tensor], Tensor]:
        i = int(draw.integers(len(self.people)))
        person = self.people[i]
        f = person.footage
        k = int(draw.integers(len(f)))
        if self.step % CURRICULUM["face"] == 0:
            blinks = np.array([shot.action_units[5] for shot in f.shots])
            k = windowed(blinks if moving else f.openness, min(1.5 * share, 1.0), draw)
        parts, rows = person.face_loss(self.fields if moving else None, k, self.step % HAIR_EVERY == 0, draw)
        if moving:
            others = [p for j, p in enumerate(self.people) if j != i]
            some = [others[j] for j in draw.permutation(len(others))[:OTHERS]]
            weight = CONTRAST * len(others) / len(some)
            parts["contrast"] = weight * person.face_contrast(some, f.shots[k], draw)
        return person, parts, rows

    def _mouth(
        self, share: float, moving: bool, draw: np.random.Generator
    ) -> tuple[Individual, dict[str, Tensor], Tensor]:
        opens = [i for i, frames in enumerate(self._open) if len(frames)]
        i = opens[int(draw.integers(len(opens)))]
        person, frames = self.people[i], self._open[i]
        if not moving:
            frames = frames[-max(len(frames) // 20, 1) :]
        elif self.step % CURRICULUM["mouth"] == 0:
            openness = person.footage.openness[frames]
            middle, low = np.quantile(openness, (0.75, 0.25))
            frames = frames[openness >= middle - share * (middle - low)]
        k = int(draw.choice(frames))
        parts, rows, own = person.mouth_loss(self.fields if moving else None, self.average, k, draw)
        others = [p for j, p in enumerate(self.people) if j != i]
        if own is not None:
            other = others[int(draw.integers(len(others)))]
            parts["contrast"] = CONTRAST * person.mouth_contrast(own, other, person.footage.shots[k])
        return person, parts, rows

    def _learn(self, person: Individual, share: float) -> None:
        person.adam.step({name: a * (b / a) ** share for name, (a, b) in RATES.items()})
        if person.adam.steps["xyz"] % 8 == 0:
            person.head.bound()
        falling = (KNOWN if self.started else 1.0) * 0.1**share
        self.adam.step({name: falling * _rate(name) for name in self.adam.tensors})
        person.own_adam.step({name: OWN * 0.1**share * _rate(name) for name in person.own_adam.tensors})
        keep = min(AVERAGED, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for value, now in self._averages[self.stage]:
                value.lerp_(now, 1 - keep)

    def _refine(self) -> None:
        self.refined += 1
        for i, person in enumerate(self.people):
            person.rng = np.random.default_rng([self.plan.seed, 20, self.refined, i])
            person.fields = self.fields
            person.refine(fresh=True)
            person.fields = None

    # --- how good it is ---

    @torch.no_grad()
    def figures(
        self, window: Tensor | None = None, *, own: bool = True, lpips: Lpips | None = None
    ) -> tuple[dict[str, float], NDArray[np.uint8]]:
        """Means over the held-out frames, by person; and a sheet: rendered and filmed below each other.

        window: instead of everybody's voice. own: with their own motion, too.
        """
        out: dict[str, float] = {}
        tiles: list[Floats] = []
        for person, f in zip(self.people, self.judged, strict=True):
            sums: dict[str, list[float]] = {}
            for k, shot in enumerate(f.shots):
                made, true, head = self._drawn(person, f, k, shot, window, own)
                mouth = np.zeros_like(head)
                mouth[f.mouth_boxes[k]] = head[f.mouth_boxes[k]]
                for name, mask in (("head", head), ("mouth", mouth)):
                    if mask.any():
                        sums.setdefault(f"{name}_psnr", []).append(psnr(made[:, mask], true[:, mask]))
                        if lpips is not None:
                            off = perceived(lpips, made, true, mask, person.device)
                            sums.setdefault(f"{name}_lpips", []).append(off)
                if k == len(f) // 2:
                    tiles.append(np.concatenate([made, true], axis=1))
            out |= {f"{person.name}/{name}": float(np.mean(values)) for name, values in sums.items()}
        high = max(t.shape[1] for t in tiles)
        tiles = [np.pad(t, ((0, 0), (0, high - t.shape[1]), (0, 0))) for t in tiles]
        sheet = (np.concatenate(tiles, axis=2).clip(0, 1).transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
        return out, sheet

    def _drawn(
        self, person: Individual, f: Footage, k: int, shot: Shot, window: Tensor | None, own: bool
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """What was made and what was filmed, (3, H, W) over grey, and where the head is."""
        moved = person.moved(self.average, shot, window, own=own)
        drawn = person.painter.draw(f.box.camera(person.data, shot.pose), person.drawn_as(moved, shot))
        made = (drawn.colour + GREY * drawn.transmittance).clamp(0, 1).cpu().numpy()
        head = f.head[k].astype(np.float32) / 255
        true = f.rgb[k].astype(np.float32) / 255 * head + GREY * (1 - head)
        return made, true, head > 0.5

    def _look(self, share: float) -> None:
        figures, sheet = self.figures()
        self.told.scalars(self._counted(), {f"held_out/{name}": v for name, v in figures.items()})
        self.told.picture(self._counted(), sheet)
        self.work.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.work / "held_out.png"), sheet[..., ::-1])
        short = ", ".join(f"{name} {v:.2f}" for name, v in figures.items())
        self.told.say(f"{self.stage} {share:4.0%}  {short} dB")

    # --- what is kept ---

    def state(self) -> dict[str, Tensor]:
        out = named("fields", self.fields.state_dict()) | named("average", self.average.state_dict())
        out |= named("adam", self.adam.state())
        for i, person in enumerate(self.people):
            out |= named(f"person{i}", person.state())
        return out

    def save(self) -> None:
        notes: dict[str, Any] = {name: getattr(self, name) for name in ("stage", "step", "refined", "elapsed")}
        notes["counts"] = [person.head.counts for person in self.people]
        checkpoint.write(self.work / "people.safetensors", self.fingerprint(), self.state(), notes)

    def field(self, licence: str, source: str) -> MotionField:
        return MotionField(licence, source, self.feature, self.average.tensors(), self.layout)

    def summary(self, lpips: Lpips | None) -> dict[str, Any]:
        """Figures on held-out frames: with all motion; by how much a face with silent lips is worse in the mouth box,
        and by how much the shared field alone is better than that one."""
        silence = torch.zeros_like(self.people[0].clip.windows[0])
        moving, _ = self.figures(lpips=lpips)
        still, _ = self.figures(silence)
        alone, _ = self.figures(own=False)
        alone_still, _ = self.figures(silence, own=False)
        out: dict[str, Any] = {name: round(v, 2 if name.endswith("psnr") else 4) for name, v in moving.items()}
        for person in self.people:
            key = f"{person.name}/mouth_psnr"
            if key in moving:
                out[f"{person.name}/mouth_over_static_db"] = round(moving[key] - still[key], 2)
                out[f"{person.name}/shared_over_static_db"] = round(alone[key] - alone_still[key], 2)
        out["lpips"] = "absent (no weight file)" if lpips is None else lpips.name
        out["gaussians"] = sum(len(person.head) for person in self.people)
        return out | {"layout": self.layout, "iterations": self.plan.iterations, "seed": self.plan.seed}


def _rate(name: str) -> float:
    return next(rate for part, rate in FIELD_RATES.items() if part in name)


def _still(xyz: Floats, shot: Shot) -> Floats:
    """Nothing moves before anything is learned."""
    return np.zeros_like(xyz)


# --- the command ---


def people_of(folders: Sequence[Path]) -> list[Filmed]:
    """Raises VisavisError with a sentence."""
    whole = [folder.absolute() for folder in folders]
    if len(set(whole)) < len(whole):
        raise VisavisError("people", "A folder was given twice. Give each person once.")
    for folder in whole:
        if (folder / "clips.npz").is_file():
            what = f"{folder} holds displacements, not pictures"
            raise VisavisError("people", f"{what}. Learn from it with `visavis train pretrain train`.")
    if len(whole) > MOST_PEOPLE:
        raise VisavisError("people", f"{len(whole)} people were given. Give the folders of 2 to {MOST_PEOPLE}.")
    encoder = load_file(MODEL)
    out: list[Filmed] = []
    for i, folder in enumerate(whole):
        data = load(folder)
        name = folder.name if folder.name not in {p.name for p in out} else f"{folder.name}-{i}"
        out.append(Filmed(name, data, hear(data, encoder)))
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("people", nargs="+", type=Path, help="a dataset folder for each person")
    parser.add_argument("--out", type=Path, required=True, help="the field, a safetensors file")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and TensorBoard; resumed from here")
    parser.add_argument("--start", type=Path, help="a universal field to improve")
    for name, told in (
        ("iterations", "steps of each person in each of the two stages"),
        ("side", "pixels: larger pictures are shrunk"),
        ("frames", "of each person at most"),
        ("seed", "of all random numbers"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name), help=f"{told} (%(default)s)")
    for part in ("face", "hair", "eyes", "mouth"):
        parser.add_argument(f"--{part}", type=int, default=getattr(Plan, part), help=f"Gaussians of {part} at most")
    parser.add_argument("--minutes", type=float, default=Plan.minutes, help="it ends within them; 0: no bound")
    parser.add_argument("--lpips", type=Path, nargs="+", help="weights of LPIPS, for the summary")
    parser.add_argument("--licence", default=LICENCE, help="the terms under which the field may be used")
    parser.add_argument("--source", help="where the clips come from")
    parser.add_argument("--device", default=Plan.device, help="cpu or cuda")
    parser.add_argument("--quiet", action="store_true")


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Raises VisavisError for sizes that cannot be."""
    plan = Plan(**{name: getattr(arguments, name) for name in Plan.__dataclass_fields__})
    for name, least in (("iterations", 1), ("side", 32), ("frames", MIN_FRAMES), ("face", 10), ("minutes", 0)):
        if getattr(plan, name) < least:
            raise VisavisError("plan", f"--{name} is {getattr(plan, name)}. Give {least} or more.")
    for name in ("hair", "eyes", "mouth", "seed"):
        if getattr(plan, name) < 0:
            raise VisavisError("plan", f"--{name} is {getattr(plan, name)}. Give 0 or more.")
    return plan


def pretrain(
    folders: Sequence[Path], out: Path, work: Path, plan: Plan, told: Told, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Trains, writes the field to `out`, and returns the summary. Raises VisavisError with a sentence."""
    begun = time.monotonic()
    if plan.device == "cpu":
        torch.set_num_threads(1)  # more get slower when other work shares the cores
    lpips = Lpips.of_files(arguments.lpips, plan.device) if arguments.lpips else None
    start = load_field(arguments.start) if arguments.start else None
    run = Pretraining(people_of(folders), start, plan, work, told)
    run.run()
    names = ", ".join(p.name for p in run.filmed)
    save_field(run.field(arguments.licence, arguments.source or f"visavis pretrain, from pictures of {names}"), out)
    summary = run.summary(lpips) | {
        "seconds": round(time.monotonic() - begun, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def command(arguments: argparse.Namespace) -> int:
    """`visavis train pretrain pictures`."""
    from render.train.adapt import Aloud, text_of

    told = None
    try:
        plan = plan_of(arguments)
        told = Aloud(arguments.work / "board", arguments.quiet)
        summary = pretrain(arguments.people, arguments.out, arguments.work, plan, told, arguments)
    except VisavisError as error:
        print(error.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; started again it goes on from its last checkpoint.", file=sys.stderr)
        return 130
    finally:
        if told is not None:
            told.close()
    print(text_of(summary))
    return 0
