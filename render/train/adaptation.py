"""One person's training from its checkpoint on: the stages, their clock, and what is kept between them."""

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from render.avatar import ACTION_UNITS, AudioFeature
from render.features import MelEncoder
from render.motion.audio import windows
from render.motion.networks import HeadMotion, hook
from render.train import checkpoint
from render.train.align import ThinPlate, standing, teach
from render.train.dataset import FACE, FPS, MOUTH, RATE, Dataset, DatasetError, Shot
from render.train.draw import Painter
from render.train.footage import film, head_box
from render.train.head import Head
from render.train.judge import Judge, behind
from render.train.lpips import Lpips
from render.train.marks import COUNT, Marks, at_rest, sightings
from render.train.planes import fast_align, fast_face, fast_mouth
from render.train.rehearsal import Rehearsal, other_voices
from render.train.start import Budget, Parts, back_projected, from_depth, from_masks, joined
from render.train.torso import TorsoFit, Views, view
from render.train.trainer import REFINED, Clip, Trainer

Floats = NDArray[np.float32]

CHECKPOINT_S = 240.0
UNTAUGHT = 0.05
"""embeddings of a field that was never trained: with InsTaG's 1e-4 a voice takes thousands of steps to be heard"""
LOOKS = 8
"""evaluations on the way"""
CALM_S = 1.0
"""silence around the clip, so that its first frames are heard as in a call"""
TORSO_SHARE = 0.12
"""of the minutes, if they are bounded"""
RESERVE_S = 60.0
"""of them is kept for the end: pruning, baking, judging"""


@dataclass(frozen=True)
class Plan:
    """How long, how large, from which seed."""

    iterations: int = 9000
    torso_iterations: int = 1500
    minutes: float = 0.0
    """0: as long as it takes; else the schedule is compressed so that it ends in time"""
    seconds: float = 10.0
    """of the clip's beginning that are learned from"""
    seed: int = 0
    face: int = 9000
    hair: int = 6000
    eyes: int = 500
    mouth: int = 2000
    torso: int = 6000
    device: str = "cpu"

    def budget(self) -> Budget:
        return Budget(self.face, self.hair, self.eyes, self.mouth)


class Told(Protocol):
    """Where progress goes."""

    def begin(self, what: str, total: int, done: int) -> None: ...

    def advance(self, loss: float) -> None: ...

    def scalars(self, step: int, figures: Mapping[str, float]) -> None: ...

    def picture(self, step: int, sheet: NDArray[np.uint8]) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass(frozen=True, eq=False)
class Heard:
    """What the field listens to."""

    feature: AudioFeature
    encoder: Mapping[str, Floats]
    features: Floats  # (frames, width, steps), by the frames' own numbers


def hear(data: Dataset, tensors: Mapping[str, Floats]) -> Heard:
    """The clip's voice through our own encoder."""
    encoder = MelEncoder.of_tensors(tensors)
    calm = np.zeros(round(CALM_S * RATE), np.float32)
    whole = encoder.clip(np.concatenate([calm, data.voice, calm]))
    frames = 1 + max(shot.index for shot in (*data.train, *data.held_out))
    first = round(CALM_S * FPS)
    out = whole[first : first + frames]
    out = np.concatenate([out, np.repeat(out[-1:], frames - len(out), 0)])
    return Heard(AudioFeature(name="mel", width=encoder.width), tensors, np.asarray(out, np.float32))


def clip_of(data: Dataset, features: Floats, device: str) -> Clip:
    units = np.zeros((len(features), len(ACTION_UNITS)), np.float32)
    for shot in (*data.train, *data.held_out):
        units[shot.index] = shot.action_units
    return Clip(windows(torch.from_numpy(features)).to(device), torch.from_numpy(units).to(device))


def universal(field: Mapping[str, Floats] | None, feature: AudioFeature, device: str) -> HeadMotion:
    """The fields that training starts from, aligners that do nothing yet; without a field, untrained ones."""
    motion = HeadMotion(feature)
    if field is None:
        for name, tensor in motion.named_parameters():
            if "embeddings" in name and "aligner" not in name:
                torch.nn.init.uniform_(tensor, -UNTAUGHT, UNTAUGHT)
    else:
        state = {name: torch.from_numpy(np.array(t)) for name, t in field.items()}
        missing, unknown = motion.load_state_dict(state, strict=False)
        assert not unknown and all("aligner" in name for name in missing), (missing, unknown)  # noqa: PT018
    return motion.to(device)


class Clock:
    """How much of a stage is done: by steps, or by time if that runs out sooner."""

    def __init__(self, total: int, seconds: float, elapsed: float = 0.0) -> None:
        self.total, self.seconds = total, seconds
        self._begun = time.monotonic() - elapsed

    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    def share(self, step: int) -> float:
        by_time = self.elapsed() / self.seconds if self.seconds else 0.0
        return min(max(step / self.total, by_time), 1.0)


class Adaptation:
    """All stages; each goes on from its checkpoint in `work`."""

    def __init__(
        self,
        data: Dataset,
        heard: Heard,
        field: Mapping[str, Floats] | None,
        plan: Plan,
        work: Path,
        told: Told,
        layout: str = "mean-face",
    ) -> None:
        """layout: where the field's points are, as MotionField says."""
        self.data, self.heard, self.field, self.plan, self.work, self.told = data, heard, field, plan, work, told
        self.layout = layout
        self.lpips: Lpips | None = None
        """a late part of the loss, where the user has its weights"""
        torch.manual_seed(plan.seed)
        self.universal = universal(field, heard.feature, plan.device)

    def fingerprint(self) -> str:
        """Of what must be the same for a checkpoint to be of use; the length of the training may change."""
        plan = asdict(self.plan)
        for name in ("minutes", "iterations", "torso_iterations", "device"):
            del plan[name]
        frames = [shot.index for shot in self.data.train]
        what = [str(self.data.folder.absolute()), len(frames), plan, self.field is None]
        return json.dumps(what, sort_keys=True)

    def torso(self) -> TorsoFit | None:
        """The first stage; None if the clip shows none."""
        plan, told, path = self.plan, self.told, self.work / "torso.safetensors"
        shots = self.data.train
        found = checkpoint.read(path, self.fingerprint())
        if found is not None:
            return TorsoFit.of_state(found.tensors, shots, plan.device)
        told.say("reading the torso")
        views = view(self.data, shots)
        if views is None:
            return None
        rng = np.random.default_rng([plan.seed, 2])
        fit = TorsoFit.begin(self.data, views, plan.torso, plan.device, rng)
        painter = Painter(views.box.width, views.box.height)
        clock = Clock(plan.torso_iterations, 60 * plan.minutes * TORSO_SHARE)
        told.begin("torso", plan.torso_iterations, 0)
        step, share = 0, 0.0
        while share < 1:
            k = _torso_frame(views, step, rng)
            backdrop = torch.from_numpy(rng.random(3).astype(np.float32)).to(plan.device)
            told.advance(fit.step(self.data, views, painter, k, share, backdrop))
            step += 1
            share = clock.share(step)
        checkpoint.write(path, self.fingerprint(), fit.state(), {"step": step})
        return fit

    def head(self, torso: TorsoFit | None) -> tuple[Trainer, Judge]:
        """The other stages."""
        plan, told = self.plan, self.told
        found = checkpoint.read(self.work / "head.safetensors", self.fingerprint())
        told.say("reading the frames")
        trainer = self._trainer(found)
        trainer.behind = behind(trainer, torso, trainer.footage)
        judge = Judge(trainer, torso)
        step, elapsed, refined = 0, 0.0, 0
        if found is not None:
            step, elapsed, refined = (found.notes[name] for name in ("step", "elapsed", "refined"))
        seconds = 60 * plan.minutes * (1 - TORSO_SHARE)
        clock = Clock(plan.iterations, max(seconds - RESERVE_S, seconds / 2), elapsed)
        told.begin("head", plan.iterations, step)
        saved = time.monotonic()
        share = clock.share(step)
        looked = int(share * LOOKS)
        while share < 1:
            if refined < len(REFINED) and share >= REFINED[refined]:
                refined += 1
                trainer.refine(fresh=True)
            figures = trainer.step(share)
            told.advance(figures["loss"])
            step += 1
            share = clock.share(step)
            if step % 50 == 0:
                told.scalars(step, figures)
            if int(share * LOOKS) > looked:
                looked = int(share * LOOKS)
                self._look(judge, trainer, step, share)
            if time.monotonic() - saved > CHECKPOINT_S:
                saved = time.monotonic()
                self._save(trainer, step, clock.elapsed(), refined)
        if found is None or step > found.notes["step"]:
            self._save(trainer, step, clock.elapsed(), refined)
        return trainer, judge

    def _trainer(self, found: checkpoint.Checkpoint | None) -> Trainer:
        data, plan, feature = self.data, self.plan, self.heard.feature
        footage = film(data, data.train, head_box(data, data.train))
        clip = clip_of(data, self.heard.features, plan.device)
        rng = np.random.default_rng([plan.seed, 3])
        seen = sightings(data, len(clip.windows))
        rest: Floats | None
        if found is not None:
            head = Head.of_state(found.tensors, found.notes["counts"], feature, plan.device)
            rest = found.tensors["marks"].numpy() if "marks" in found.tensors else None
        else:
            motion = copy.deepcopy(self.universal)
            moves = _Moves(motion, clip, data) if data.metric else None
            rest = self._laid(moves, seen) if moves is not None else None
            if moves is not None:
                openness = footage.openness
                parts = from_depth(data, data.train, openness, moves.face, moves.mouth, plan.budget(), rng)
            else:
                parts = from_masks(data, data.train, footage.openness, plan.budget(), rng)
            self._check(parts)
            head = Head.begin(parts, motion, plan.device)
        marks = None if rest is None else self._marks(rest, seen)
        shape = (len(footage), 4, 1, 1)
        rehearsal = self._rehearsal(clip)
        trainer = Trainer(data, footage, clip, head, rehearsal, np.zeros(shape, np.float16), marks, plan.seed)
        trainer.lpips = self.lpips
        if found is not None:
            trainer.restore(found.tensors)
            trainer.restore_dice(found.notes["dice"])
        return trainer

    def _laid(self, moves: "_Moves", seen: Floats) -> Floats | None:
        """Where the landmarks rest; the aligners are taught to lead there where the field knows them."""
        places = standing() if self.field is not None and self.layout == "mean-face" else None
        if places is None:
            return at_rest(self.data, seen, moves.face)
        places = places[-COUNT:]
        rest = at_rest(self.data, seen, lambda _, shot: moves.face(places, shot))
        if rest is None:
            return None
        plate, motion = ThinPlate(rest, places), moves.motion
        for aligner, points in ((motion.face_aligner, moves.skin), (motion.mouth_aligner, moves.inside)):
            whole = np.concatenate([points, rest]).astype(np.float32)
            off = teach(aligner, whole, plate(whole), self.plan.device)
            self.told.say(f"an aligner follows the landmarks within {off:.2f} mm")
        return rest

    def _marks(self, rest: Floats, seen: Floats) -> Marks:
        assert rest.shape == (COUNT, 3)
        return Marks(torch.from_numpy(rest.copy()).to(self.plan.device), torch.from_numpy(seen).to(self.plan.device))

    def _check(self, parts: Parts) -> None:
        if len(parts.face) < 10:
            what = f"{self.data.folder} shows no face: its labels, poses or depth do not fit together"
            raise DatasetError("dataset_value", f"{what}. Preprocess the clip again.")

    def _rehearsal(self, clip: Clip) -> Rehearsal | None:
        if self.field is None:
            return None
        others = other_voices(self.heard.feature)
        heard = windows(torch.from_numpy(others)).to(self.plan.device) if len(others) else clip.windows
        units = torch.stack([clip.action_units[s.index] for s in self.data.train])
        return Rehearsal(self.universal, heard, units, self.plan.seed)

    def _look(self, judge: Judge, trainer: Trainer, step: int, share: float) -> None:
        verdict = judge.look(trainer)
        self.told.scalars(step, {f"held_out/{name}": v for name, v in verdict.figures.items()})
        self.told.picture(step, verdict.sheet)
        self.work.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.work / "held_out.png"), verdict.sheet[..., ::-1])
        short = ", ".join(f"{name} {v:.2f}" for name, v in verdict.figures.items() if name.endswith("psnr"))
        self.told.say(f"{share:4.0%}  {short} dB  ({len(trainer.head)} Gaussians)")

    def _save(self, trainer: Trainer, step: int, elapsed: float, refined: int) -> None:
        notes = {"step": step, "elapsed": elapsed, "refined": refined, "counts": trainer.head.counts}
        notes["dice"] = trainer.dice()
        checkpoint.write(self.work / "head.safetensors", self.fingerprint(), trainer.state(), notes)


def _torso_frame(views: Views, step: int, rng: np.random.Generator) -> int:
    """Every second frame is one without the head, if there are such."""
    whole = np.flatnonzero(views.whole)
    return int(rng.choice(whole)) if step % 2 == 0 and len(whole) else int(rng.integers(len(views.shots)))


class _Moves:
    """What the universal field does to points in a frame, before anything is learned."""

    def __init__(self, motion: HeadMotion, clip: Clip, data: Dataset) -> None:
        self.motion, self.clip = motion, clip
        self.device = clip.windows.device
        rng = np.random.default_rng(0)
        shots = data.train[:: max(1, len(data.train) // 6)]
        skin = [back_projected(data, s, data.labels(s.index) == FACE, 400, rng) for s in shots]
        self.skin = joined(skin).xyz
        """some of the face's surface: how far it opens moves the mouth"""
        inside = [back_projected(data, s, data.labels(s.index) == MOUTH, 200, rng) for s in shots]
        self.inside = joined(inside).xyz

    def _drive(self, shot: Shot) -> tuple[Tensor, Tensor]:
        return self.clip.windows[shot.index], self.clip.action_units[shot.index]

    @torch.no_grad()
    def face(self, xyz: Floats, shot: Shot) -> Floats:
        at = torch.from_numpy(xyz).to(self.device)
        return self._moved(at, shot).cpu().numpy()

    def _moved(self, at: Tensor, shot: Shot) -> Tensor:
        placed = fast_align(self.motion.face_aligner, at)
        return fast_face(self.motion.face, at + placed.offset, *self._drive(shot)).xyz * placed.scale

    @torch.no_grad()
    def mouth(self, xyz: Floats, shot: Shot) -> Floats:
        window, _ = self._drive(shot)
        skin = self._moved(torch.from_numpy(self.skin).to(self.device), shot)
        at = torch.from_numpy(xyz).to(self.device)
        return fast_mouth(self.motion.mouth, at, window, hook(skin)).xyz.cpu().numpy()
