"""`python -m benchmarks.people [mia leo] [--avatars DIR] [--quick] [--pictures DIR]`: the shipped faces, judged.

Each avatar against its clip's exact truth after 12 s (training saw the first 10 s): the clip's own poses, action
units and gaze, the voice alone for the lips, over the clip's own background, 512 x 512, from the CPU's planes in
floats. What is not known from outside (the torso's own sway, breath) is left at rest. Voices are those of
benchmarks/spoken.py. `fixed pose` is that of the trained frame which looks most nearly into the camera, `rest` the
median of the trained frames' action units, gaze straight ahead.

    head_psnr             dB over head and hair (head.mkv > 1/2), the mean over frames; all three channels
    mouth_psnr            dB over the box of landmarks 48..67, 8 px wider, within the head; the mean over frames
    mouth_over_static_db  how much mouth_psnr falls if the same avatar hears silence all the time
    eyes_psnr, blink_psnr as mouth_psnr, landmarks 36..47; blink_psnr of the frames with AU45 of 1 or more (closing,
                          closed and opening lids)
    neck_psnr             dB over the neck (label 5)
    closure               the share of p, b and m (all voices; closure.FAMILY too) that close the lips: within 60 ms
                          of the phone's middle a frame has an opening of at most 15 % of the median while anything
                          is said. Opening: mean height of the hole in the face's layer alone (alpha under 1/2) over
                          13 columns at the middle of the mouth, in the fixed pose, at rest. 0 if that median is less
                          than a quarter of the truth's: a mouth that never opens closes nothing. closure.field: the
                          same by the distance that the field keeps between the Gaussians at the inner lips;
                          closure.truth: the same by the generator's own mouth
    opening_ratio         the median opening while speaking by the generator's in px
    aperture_r, _lag_ms   that opening against the generator's mouth saying the same phones, in voices and sentences
                          that nothing was trained on: Pearson's r, and by how much we are late (the lag of the best
                          correlation, its sign dropped in the figure's bound). aperture_field_r: by the field
    lip_jerk              the 99th percentile of the lower lip's second difference in the clip's frames, by the
                          truth's: more than one trembles, less is sluggish
    hole_r                sanity of the opening: the hole in the clip's own poses against the height of label 4
    static_std            standard deviation over time of hair and forehead (labels 2, and 1 above the brows), fixed
                          pose, at rest, speaking, the mean over pixels and channels, of 255
    joint                 the second differences of the tracked landmarks, without those of the lids (blinks are as
                          quick anywhere), within 0.2 s of where speech begins or ends: their 99th percentile by that
                          within speech, as a call's painter shows them: idle motion runs on through both.
                          joint_worst: their largest by it. joint_cut: the same where the voice is cut in mid-sentence
    matte                 mean absolute error of alpha within 6 px of the true outline, of 255; matte_head: above the
                          chin, where no torso's own motion tells on it
    seam                  pixels below the mouth that let the background through (evaluation.image.leak), more than
                          the truth has at its worst, the worst of six poses 5 degrees beyond the trained ones
                          (turned, nodded and tilted either way)

Sheets for the eye go to --pictures. `--quick` takes every fourth frame and a third of the speech.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import spoken
from benchmarks.figures import value
from benchmarks.spoken import RATE, Spoken
from benchmarks.truth import FACE, FOLDER, FPS, HAIR, LIPS, MOUTH, NECK, Clip, Missing, Picture
from evaluation import image, lips, motion
from render.avatar import Avatar, AvatarError, load
from render.features import MelEncoder
from render.hearing import AHEAD, closing
from render.instag import InstagPainter
from render.motion import voice
from render.person import Canvas, Expression, Person
from render.score import Score
from server.core.media import FRAME_SAMPLES, MEDIA_RATE

AVATARS = Path(__file__).resolve().parents[1] / "render" / "avatars"
PEOPLE = ("mia", "leo")
BESIDE = {
    "VISAVIS_GENERATOR": FOLDER.parents[1] / "prototypes" / "heads",
    "VISAVIS_MAKEHUMAN": FOLDER.parent / "makehuman",
}
"""where the generator of the truth is looked for if nothing else is said"""
QUICK = 4  # every so manyth frame
BEYOND = np.radians(5.0)
COLUMNS = 6  # of the mouth's middle, either side
PAIRS = ((61, 67), (62, 66), (63, 65))  # inner lips, above and below
NEAREST = 4  # Gaussians that stand for a landmark
WITNESSES = 12  # frames that tell which
LOWER = np.r_[55:60, 65:68]  # landmarks of the lower lip
CALM_S = 1.0  # silence around a clip, so that no feature lacks its surroundings
AT_JOINT_S = 0.2
IDLE_S = 2.0  # before and after an utterance in a call
KNOWN_S = 0.4  # so long before it is heard, the painter has a voice
OPEN_ENOUGH = 0.25
BLINKING = 1.0  # AU45, of 2
STRAIGHT = np.diag([1.0, -1.0, -1.0])  # looking into the camera, OpenCV axes


class Subject:
    """An avatar, what drives it, and how it is looked at."""

    def __init__(self, avatar: Avatar, clip: Clip) -> None:
        self.avatar, self.clip = avatar, clip
        self.person = Person(avatar)
        self.person.warm()
        self.side = clip.width
        self.background = clip.background()
        self.canvas = Canvas(self.person, self.side, self.background)
        self.baked = self.person.baked
        self.encoder = MelEncoder.of_tensors(avatar.encoder) if avatar.encoder else MelEncoder.shipped()

    @cached_property
    def skin(self) -> "Subject":
        """The same person without mouth and torso: where the lips part, one looks through."""
        hidden = replace(self.avatar.mouth, opacity=np.full_like(self.avatar.mouth.opacity, -40))
        return Subject(replace(self.avatar, mouth=hidden, torso=None), self.clip)

    @cached_property
    def silent(self) -> np.ndarray:
        """(8, 2, 32): the codes of long silence."""
        return self.windows(np.zeros(2 * RATE, np.float32))[FPS]

    def windows(self, pcm: np.ndarray) -> np.ndarray:
        """(n,) of 16 kHz -> (frames, 8, 2, 32): the codes that each frame attends to, silence all around."""
        frames = -(-len(pcm) * FPS // RATE)
        calm = np.zeros(round(CALM_S * RATE), np.float32)
        whole = np.zeros(frames * RATE // FPS, np.float32)
        whole[: len(pcm)] = pcm
        features = self.encoder.clip(np.concatenate([calm, whole, calm]))
        first = round(CALM_S * FPS)
        here = slice(first, first + frames)
        windows = voice.windows(self.baked.codes(features), self.baked.silence)[here]
        return closing(windows, self.encoder.opening(features[first + AHEAD :][:frames]), self.person.rest_code)

    def of_moment(self, index: int) -> Expression:
        """The clip's own."""
        moment = self.clip.moments[index]
        return expression(moment.pose, moment.action_units, moment.gaze)

    @cached_property
    def fixed(self) -> int:
        """The trained frame that looks most nearly into the camera."""
        return min(
            self.clip.trained, key=lambda i: float(np.linalg.norm(turn_of(self.clip.moments[i].pose, STRAIGHT)))
        )

    @cached_property
    def rest(self) -> Expression:
        """The fixed pose, median action units, eyes straight ahead."""
        units = np.median([self.clip.moments[i].action_units for i in self.clip.trained], 0)
        return expression(self.clip.moments[self.fixed].pose, units, np.zeros(2))

    def planes(self, window: np.ndarray, shown: Expression) -> tuple[np.ndarray, np.ndarray]:
        """Premultiplied colour (3, H, W) and alpha (H, W), the canvas's own until the next picture."""
        planes = self.canvas.planes(window, shown)
        return planes.colour, 1 - planes.transmittance

    def picture(self, window: np.ndarray, shown: Expression) -> tuple[np.ndarray, np.ndarray]:
        """The composite over the background (3, H, W), 0 to 1, and alpha (H, W)."""
        colour, alpha = self.planes(window, shown)
        return np.clip(colour + (1 - alpha) * self._behind, 0, 1), alpha

    @cached_property
    def _behind(self) -> np.ndarray:
        return (self.background.transpose(2, 0, 1) / 255).astype(np.float32)

    def project(self, points: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the head's frame to pixels (..., 2)."""
        camera = points @ pose[:3, :3].T + pose[:3, 3]
        return camera[..., :2] / camera[..., 2:] * self.clip.focal + self.side / 2


def expression(pose: np.ndarray, units: np.ndarray, gaze: np.ndarray) -> Expression:
    """Sway and breath at rest."""
    return Expression(
        np.asarray(pose, np.float64), np.asarray(units, np.float32), gaze=(float(gaze[0]), float(gaze[1]))
    )


def turn_of(pose: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(3,) rotation vector in the camera's axes, radians, from the rotation `rest` (3, 3) to the pose's."""
    vector, _ = cv2.Rodrigues(pose[:3, :3] @ rest[:3, :3].T)
    return vector[:, 0]


def turned(pose: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The pose, the head turned about its own origin by a rotation vector in the camera's axes."""
    out = np.array(pose, np.float64)
    out[:3, :3] = cv2.Rodrigues(np.asarray(by, np.float64))[0] @ out[:3, :3]
    return out


# The clip itself


@dataclass(frozen=True)
class Replay:
    """What the frames of the clip gave, one value a frame."""

    figures: dict[str, list[float]]
    hole: list[float]
    true_hole: list[float]


def replay(subject: Subject, frames: Sequence[int], sheet: "Sheet | None" = None) -> Replay:
    """Every figure that compares a frame with its truth."""
    clip = subject.clip
    windows = subject.windows(clip.sound())
    figures: dict[str, list[float]] = {}
    hole, true_hole = [], []

    def note(name: str, figure: float) -> None:
        figures.setdefault(name, []).append(figure)

    for n, seen in enumerate(clip.pictures(frames)):
        moment, shown = clip.moments[seen.index], subject.of_moment(seen.index)
        truth = (seen.rgb.transpose(2, 0, 1) / 255).astype(np.float32)
        head = seen.head > 127
        picture, alpha = subject.picture(windows[seen.index], shown)
        note("head_psnr", image.psnr(picture, truth, head))
        note("matte", 255 * image.matte_error(alpha, seen.person / 255))
        above = slice(0, int(moment.landmarks[8, 1]))
        note("matte_head", 255 * image.matte_error(alpha[above], seen.person[above] / 255))
        note("true_leak", image.leak(seen.person / 255, below(moment.landmarks, subject.side)))
        for name, mask in regions(seen, moment.landmarks).items():
            if mask.any():
                note(f"{name}_psnr", image.psnr(picture, truth, mask))
        if moment.action_units[5] >= BLINKING:
            note("blink_psnr", figures["eyes_psnr"][-1])
        if sheet is not None:
            sheet.frame(seen, picture, alpha)
        frozen, _ = subject.picture(subject.silent, shown)
        note("static_mouth_psnr", image.psnr(frozen, truth, regions(seen, moment.landmarks)["mouth"]))
        if n % 2 == 0:
            _, skin = subject.skin.planes(windows[seen.index], shown)
            rows, columns = mouth_middle(moment.landmarks, skin.shape)
            hole.append(lips.gap(skin, rows, columns))
            true_hole.append(float((seen.labels[rows, columns] == MOUTH).sum(0).mean()))
    return Replay(figures, hole, true_hole)


def regions(seen: Picture, landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """The masks that are judged beside the head's own."""
    head = seen.head > 127
    masks = {"neck": seen.labels == NECK}
    for name, which in (("mouth", LIPS), ("eyes", slice(36, 48))):
        masks[name] = np.zeros_like(head)
        masks[name][image.box(landmarks[which], 8, head.shape)] = True
        masks[name] &= head
    return masks


def mouth_middle(landmarks: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows of the whole mouth, and the columns at its middle."""
    rows, _ = image.box(landmarks[LIPS], 4, (shape[0], shape[1]))
    middle = round(float(landmarks[[62, 66], 0].mean()))
    return rows, slice(middle - COLUMNS, middle + COLUMNS + 1)


def below(landmarks: np.ndarray, side: int) -> slice:
    """The rows from the mouth down."""
    return slice(int(landmarks[LIPS, 1].max()), side)


# Landmarks as the avatar itself moves them


class Tracked:
    """The face's Gaussians that stand for the 68 landmarks: those that keep nearest to them, mouth open or closed."""

    def __init__(self, subject: Subject, windows: np.ndarray) -> None:
        """windows: the clip's. Only points that the field moves, and that are seen, can stand for a landmark."""
        self.subject = subject
        clip, avatar = subject.clip, subject.avatar
        opened = sorted(clip.trained, key=lambda i: aperture_of(clip.moments[i].points))
        some = [opened[k] for k in np.unique(np.linspace(0, len(opened) - 1, WITNESSES).astype(int))]
        solid = avatar.face.opacity > 0  # the logistic function's half
        if avatar.eyeballs is not None:
            solid &= avatar.eyeballs.index == 0
        self._known = np.flatnonzero(solid)
        off = np.zeros((len(clip.moments[0].points), len(self._known)))
        for i in some:
            at = self.face(windows[i], clip.moments[i].action_units)[self._known]
            off += np.linalg.norm(at[None] - clip.moments[i].points[:, None], axis=2) / len(some)
        self._near = self._known[np.argsort(off, axis=1)[:, :NEAREST]]
        """(68, NEAREST)"""
        self.far_mm = 1000 * float(np.median(np.sort(off, axis=1)[:, :NEAREST]))
        """how far from its landmark such a Gaussian lies on average"""

    def face(self, window: np.ndarray, units: np.ndarray) -> np.ndarray:
        """(face Gaussians, 3): where the field puts them, the head's frame, metres."""
        baked = self.subject.baked
        at = np.array(self.subject.avatar.face.xyz, np.float32)
        moved = baked.frame(np.ascontiguousarray(window, np.float32), np.asarray(units, np.float32)).face
        at[baked.moving] += moved[:3].T
        at[baked.still] += baked.rest[:, :3]
        return at

    def points(self, window: np.ndarray, units: np.ndarray) -> np.ndarray:
        """(68, 3), metres."""
        return self.face(window, units)[self._near].mean(1)


def lip_jerk(subject: Subject, tracked: Tracked, windows: np.ndarray) -> float:
    """How much quicker than the truth's the lower lip starts and stops, over the judged frames, in their poses."""
    clip, ours, true = subject.clip, [], []
    for i in clip.judged:
        moment = clip.moments[i]
        ours.append(subject.project(tracked.points(windows[i], moment.action_units)[LOWER], moment.pose))
        true.append(moment.landmarks[LOWER])
    quick = [float(np.quantile(motion.jerks(np.array(tracks)), 0.99)) for tracks in (ours, true)]
    return quick[0] / max(quick[1], 1e-6)


def aperture_of(points: np.ndarray) -> float:
    """The mean height between the inner lips of 68 landmarks, in their unit."""
    return float(np.mean([points[upper, 1] - points[lower, 1] for upper, lower in PAIRS]))


# Speech that nobody recorded a face for


@dataclass(frozen=True)
class Said:
    """One utterance, as the avatar and the generator say it; (frames,) each."""

    spoken: Spoken
    opening: np.ndarray
    """px, of the hole that is rendered"""
    field: np.ndarray
    """metres, between the Gaussians at the inner lips; 0 where the truth is closed"""
    truth: np.ndarray | None
    """metres"""


def say(subject: Subject, tracked: Tracked, utterances: Sequence[Spoken], closed_m: float) -> list[Said]:
    """closed_m: the field's distance where the truth's lips touch."""
    said = []
    rest, units = subject.rest, np.asarray(subject.rest.action_units)
    marks = subject.clip.moments[subject.fixed].landmarks
    for utterance in utterances:
        opening, field = [], []
        for window in subject.windows(utterance.pcm):
            _, skin = subject.skin.planes(window, rest)
            rows, columns = mouth_middle(marks, skin.shape)
            opening.append(lips.gap(skin, slice(rows.start, rows.stop + 16), columns))
            field.append(aperture_of(tracked.points(window, units)) - closed_m)
        said.append(Said(utterance, np.array(opening), np.array(field), aperture(subject.clip.name, utterance)))
    return said


def aperture(name: str, utterance: Spoken) -> np.ndarray | None:
    """(frames,) metres: the generator's inner lips saying this; None where the generator is not at hand."""
    try:
        from recipes.universal import generator, speech

        phones = [speech.Phone(*phone) for phone in utterance.phones]
        curves = speech.controls(utterance.pcm, phones)
        return np.asarray(generator.aperture(name, curves), np.float64)[: utterance.frames]
    except (ImportError, RuntimeError, OSError):
        return None


def closures(curves: Sequence[tuple[Spoken, np.ndarray]]) -> tuple[float, dict[str, float], float, int]:
    """Share of closed p, b, m over all and by family, the median opening while speaking, and how many there were."""
    loud = np.concatenate([curve[lips.during(len(curve), s.heard())] for s, curve in curves])
    usual = float(np.median(loud))
    closed: dict[str, list[bool]] = {}
    for s, curve in curves:
        shut = lips.closures(curve, s.lips(), usual) if usual > 0 else np.zeros(len(s.lips()), bool)
        closed.setdefault(s.family, []).extend(shut.tolist())
    every = [one for ones in closed.values() for one in ones]
    shares = {family: float(np.mean(ones)) for family, ones in closed.items() if ones}
    return (float(np.mean(every)) if every else 0.0), shares, usual, len(every)


def follow(said: Sequence[Said], of: str) -> lips.Following:
    """The opening or the field's, against the truth, from 0.1 s before anything is said until 0.1 s after."""
    pairs = []
    for one in said:
        heard = one.spoken.heard()
        if one.truth is None or one.spoken.voice in spoken.HEARD or not heard:
            continue
        ours = getattr(one, of)
        length = min(len(ours), len(one.truth))
        begin = max(0, int((heard[0][0] - 0.1) * FPS))
        end = min(length, int((heard[-1][1] + 0.1) * FPS) + 1)
        pairs.append((ours[begin:end], one.truth[begin:end]))
    return lips.following(pairs)


# Standing still, and beginning to speak


def still(subject: Subject, pcm: np.ndarray, frames: int) -> np.ndarray:
    """(3, H, W): the standard deviation over time, of 255, while speaking in the fixed pose."""
    flicker = image.Flicker()
    for window in subject.windows(pcm)[:frames]:
        picture, _ = subject.picture(window, subject.rest)
        flicker.add(255 * picture)
    return flicker.deviation()


def quiet_parts(seen: Picture, landmarks: np.ndarray) -> np.ndarray:
    """(H, W): hair, and the forehead above the brows."""
    above = np.zeros_like(seen.head, dtype=bool)
    above[: int(landmarks[17:27, 1].min()) - 6] = True
    return (seen.labels == HAIR) | ((seen.labels == FACE) & above)


def joints(subject: Subject, tracked: Tracked, utterances: Sequence[Spoken], cut: bool = False) -> motion.Joint:
    """Landmarks as a call shows them: 2 s of idle motion, an utterance, 2 s more; over all utterances together.

    cut: the voice is cut in the middle of each, and that is the joint.
    """
    values, near, within = [], [], []
    for seed, utterance in enumerate(utterances):
        heard = utterance.heard()
        begin, end = IDLE_S + heard[0][0], IDLE_S + heard[-1][1]
        stop = (begin + end) / 2 if cut else end
        tracks = []
        still_lids = np.r_[0:36, 48:68]  # a blink is as quick wherever it falls
        for codes, shown in called(subject.person, utterance, stop if cut else None, seed):
            points = tracked.points(codes, shown.action_units)[still_lids]
            tracks.append(subject.project(points, np.asarray(shown.pose)))
        at = lips.centres(len(tracks))
        values.append(motion.jerks(np.array(tracks)))
        met = np.abs(at - stop) <= AT_JOINT_S
        near.append(met if cut else met | (np.abs(at - begin) <= AT_JOINT_S))
        within.append((at > begin + AT_JOINT_S) & (at < stop - AT_JOINT_S))
    return motion.joint(np.concatenate(values), np.concatenate(near), np.concatenate(within))


def called(
    person: Person, utterance: Spoken, cut_s: float | None, seed: int
) -> Iterator[tuple[np.ndarray, Expression]]:
    """What a call's painter shows, frame by frame; the voice comes 0.2 s at a time, 0.4 s before it is heard."""
    score = Score()
    painter = InstagPainter(person, score, seed)
    wide = np.interp(np.arange(3 * len(utterance.pcm)) / 3, np.arange(len(utterance.pcm)), utterance.pcm)
    pcm = np.asarray(np.clip(wide, -1, 1) * 32767, np.int16)
    piece, begin, pushed = MEDIA_RATE // 5, round(IDLE_S * MEDIA_RATE), 0
    cut_at = None if cut_s is None else round(cut_s * MEDIA_RATE)
    for index in range(round(2 * IDLE_S * FPS) + utterance.frames):
        now = index * FRAME_SAMPLES
        while (
            pushed < len(pcm)
            and begin + pushed <= now + round(KNOWN_S * MEDIA_RATE)
            and (cut_at is None or now < cut_at)
        ):
            score.push(begin + pushed, 1, pcm[pushed : pushed + piece])
            pushed += piece
        if cut_at is not None and now <= cut_at < now + FRAME_SAMPLES:
            painter.cut(index + 1)
            score.cut(cut_at)
        yield painter.frame(index)


# Beyond what it was trained on


def extremes(subject: Subject) -> dict[str, Expression]:
    """Six poses: the farthest trained one each way, turned 5 degrees farther."""
    poses = [subject.clip.moments[i].pose for i in subject.clip.trained]
    middle = turned(poses[subject.fixed], np.mean([turn_of(p, poses[subject.fixed]) for p in poses], 0))
    turns = np.array([turn_of(p, middle) for p in poses])
    out = {}
    for axis, name in enumerate(("nod", "turn", "tilt")):
        for sign, side in ((-1, "minus"), (1, "plus")):
            farthest = int(np.argmax(sign * turns[:, axis]))
            by = np.zeros(3)
            by[axis] = sign * BEYOND
            rest = subject.rest
            out[f"{name}_{side}"] = expression(turned(poses[farthest], by), rest.action_units, np.zeros(2))
    return out


def seams(subject: Subject, sheet: "Sheet | None") -> int:
    """The most pixels that shine through below the mouth."""
    worst = 0
    points = subject.clip.moments[subject.fixed].points
    for name, shown in extremes(subject).items():
        picture, alpha = subject.picture(subject.silent, shown)
        marks = subject.project(points, np.asarray(shown.pose, np.float64))
        worst = max(worst, image.leak(alpha, below(marks, subject.side)))
        if sheet is not None:
            sheet.one(f"extreme_{name}", to_bytes(picture))
    return worst


# For the eye


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """(3, H, W) of 0 to 1 -> (H, W, 3) bytes."""
    return np.asarray(np.clip(picture, 0, 1).transpose(1, 2, 0) * 255 + 0.5, np.uint8)


class Sheet:
    """PNG files of one person."""

    def __init__(self, folder: Path, subject: Subject) -> None:
        self.folder, self.subject = folder, subject
        folder.mkdir(parents=True, exist_ok=True)
        judged = list(subject.clip.judged)
        moments = subject.clip.moments
        gaps = np.array([aperture_of(moments[i].points) for i in judged])
        lids = np.array([moments[i].action_units[5] for i in judged])
        turns = np.array([np.linalg.norm(turn_of(moments[i].pose, STRAIGHT)) for i in judged])
        self.named = {
            judged[int(np.argmax(gaps))]: "open",
            judged[int(np.argmin(gaps))]: "closed",
            judged[int(np.argsort(gaps)[len(gaps) // 2])]: "half",
            judged[int(np.argmax(lids))]: "blink",
            judged[int(np.argmax(turns))]: "far",
            judged[len(judged) // 2]: "middle",
        }

    def one(self, name: str, rgb: np.ndarray) -> None:
        cv2.imwrite(str(self.folder / f"{name}.png"), np.ascontiguousarray(rgb[..., ::-1]))

    def frame(self, seen: Picture, picture: np.ndarray, alpha: np.ndarray) -> None:
        """Truth, ours and eight times the error side by side; mouth and eyes three times as large; alpha."""
        name = self.named.get(seen.index)
        if name is None:
            return
        ours = to_bytes(picture)
        error = np.clip(8 * np.abs(ours.astype(int) - seen.rgb), 0, 255).astype(np.uint8)
        self.one(f"{name}_{seen.index}", np.concatenate([seen.rgb, ours, error], 1))
        marks = self.subject.clip.moments[seen.index].landmarks
        for part, which, margin in (("mouth", LIPS, 14), ("eyes", slice(17, 48), 6)):
            crop = image.box(marks[which], margin, seen.head.shape)
            pair = np.concatenate([seen.rgb[crop], ours[crop]], 1)
            self.one(f"{name}_{seen.index}_{part}", cv2.resize(pair, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))
        if name == "middle":
            colour, _ = self.subject.planes(self.subject.silent, self.subject.of_moment(seen.index))
            for ground, rgb in (("black", (0, 0, 0)), ("white", (1, 1, 1)), ("green", (0, 1, 0))):
                plain = np.asarray(rgb, np.float32)[:, None, None]
                self.one(f"matte_{ground}", to_bytes(colour + (1 - alpha) * plain))
            both = np.concatenate([seen.person, np.asarray(alpha * 255 + 0.5, np.uint8)], 1)
            self.one("matte_alpha", np.repeat(both[..., None], 3, 2))


# The whole


def judge(avatar: Avatar, clip: Clip, utterances: Sequence[Spoken], quick: bool, pictures: Path | None) -> None:
    """Print every figure of one person."""
    subject = Subject(avatar, clip)
    sheet = Sheet(pictures / clip.name, subject) if pictures else None
    frames = sorted({*clip.judged[:: QUICK if quick else 1], *(sheet.named if sheet else ())})
    name = f"people.{clip.name}"

    done = replay(subject, frames, sheet)
    mean = {key: float(np.mean(values)) for key, values in done.figures.items()}
    for part in ("head", "mouth", "eyes", "blink", "neck"):
        if f"{part}_psnr" not in mean:  # a quick look may have met no blink
            continue
        value(f"{name}.{part}_psnr", "dB", mean[f"{part}_psnr"])
    value(f"{name}.mouth_over_static_db", "dB", mean["mouth_psnr"] - mean["static_mouth_psnr"])
    value(f"{name}.matte", "of 255", mean["matte"])
    value(f"{name}.matte_head", "of 255", mean["matte_head"])
    value(f"{name}.hole_r", "r", lips.correlation(np.array(done.hole), np.array(done.true_hole)))

    windows = subject.windows(clip.sound())
    tracked = Tracked(subject, windows)
    true = np.array([aperture_of(clip.moments[i].points) for i in clip.trained])
    shut = [i for i in clip.trained if true[i] <= np.quantile(true, 0.1)]
    closed_m = float(
        np.median([aperture_of(tracked.points(windows[i], clip.moments[i].action_units)) - true[i] for i in shut])
    )
    value(f"{name}.lip_jerk", "of the truth", lip_jerk(subject, tracked, windows))
    said = say(subject, tracked, utterances, closed_m)
    speech(name, subject, said)

    pcm = np.concatenate([s.pcm for s in utterances if s.family != "human"])[: (4 if quick else 12) * RATE]
    deviation = still(subject, pcm, len(pcm) * FPS // RATE)
    seen = next(clip.pictures([subject.fixed]))
    quiet = quiet_parts(seen, clip.moments[subject.fixed].landmarks)
    value(f"{name}.static_std", "of 255", float(deviation[:, quiet].mean()))
    value(f"{name}.static_std_p99", "of 255", float(np.quantile(deviation[:, quiet].mean(0), 0.99)))
    if sheet is not None:
        sheet.one("flicker_x50", to_bytes(deviation * 50 / 255))

    some = utterances[:: len(utterances) // (4 if quick else 10) or 1]
    for line, met in (
        ("joint", joints(subject, tracked, some)),
        ("joint_cut", joints(subject, tracked, some, cut=True)),
    ):
        value(f"{name}.{line}", "of p99", met.usual)
        value(f"{name}.{line}_worst", "of p99", met.worst)
    value(f"{name}.seam", "px", max(0, seams(subject, sheet) - max(done.figures["true_leak"])))
    value(f"{name}.landmark_off", "mm", tracked.far_mm)


def speech(name: str, subject: Subject, said: Sequence[Said]) -> None:
    """Closures and apertures."""
    share, families, usual, count = closures([(one.spoken, one.opening) for one in said])
    field_share, _, _, _ = closures([(one.spoken, one.field) for one in said])
    known = [(one.spoken, one.truth) for one in said if one.truth is not None]
    if known:
        true_share, _, true_usual, _ = closures(known)
        pixels = true_usual * subject.clip.focal / float(subject.clip.moments[subject.fixed].pose[2, 3])
        value(f"{name}.opening_ratio", "of the truth", usual / pixels)
        if usual < OPEN_ENOUGH * pixels:
            share, families = 0.0, dict.fromkeys(families, 0.0)
    value(f"{name}.closure", f"share of {count}", share)
    for family, figure in families.items():
        value(f"{name}.closure.{family}", "share", figure)
    value(f"{name}.closure.field", "share", field_share)
    if not known:
        missing = (
            "aperture is not judged: the generator of the truth is not at hand (VISAVIS_GENERATOR, VISAVIS_MAKEHUMAN)"
        )
        print(json.dumps({"name": name, "note": missing}), flush=True)
        return
    value(f"{name}.closure.truth", "share", true_share)
    ours, field = follow(said, "opening"), follow(said, "field")
    value(f"{name}.aperture_r", "r", ours.r)
    value(f"{name}.aperture_lag_ms", "ms late", 1000 * ours.lag_s)
    value(f"{name}.aperture_field_r", "r", field.r)
    value(f"{name}.aperture_field_lag_ms", "ms late", 1000 * field.lag_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a person could not be judged."""
    parser = argparse.ArgumentParser(prog="benchmarks.people", description="The shipped faces, judged.")
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="mia, leo")
    parser.add_argument("--avatars", type=Path, default=AVATARS, help="the folder that holds NAME/manifest.json")
    parser.add_argument("--quick", action="store_true", help="every fourth frame, a third of the speech")
    parser.add_argument("--pictures", type=Path, help="a folder for sheets to look at")
    given = parser.parse_args(arguments)
    for variable, folder in BESIDE.items():
        if folder.is_dir():
            os.environ.setdefault(variable, str(folder))
    machine: dict[str, Any] = {"name": "machine", "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    print(json.dumps(machine), flush=True)
    utterances, lacking = spoken.everyone(given.quick)
    for sentence in lacking:
        print(json.dumps({"name": "people", "note": sentence}), flush=True)
    failed = False
    for name in given.names or PEOPLE:
        began = time.monotonic()
        try:
            judge(load(given.avatars / name), Clip(name), utterances, given.quick, given.pictures)
        except (Missing, AvatarError) as error:
            print(str(error), file=sys.stderr)
            failed = True
        value(f"people.{name}.took", "s", time.monotonic() - began)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
