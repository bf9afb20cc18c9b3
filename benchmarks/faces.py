"""Whole frames of the InsTaG face, from the voice to I420, and films: what `benchmarks.render` prints of people.

A frame is everything that a call paints it with: features of the voice, its codes, idle motion, motion fields,
projection, blending, I420. Encoding is reported apart. People who are not there are left out with a note.
"""

import dataclasses
import json
import multiprocessing
import os
import tempfile
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks import figures, heads
from render import synthesize
from render.avatar import AudioFeature, Avatar, Camera, Gaussians, Idle, Plates, motion_shapes
from render.encode import Encoder
from render.features import MODEL
from render.instag import AVATARS, InstagPainter
from render.motion.bake import bake
from render.person import Canvas, Person
from render.raster import cpu
from render.score import Score
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, VIDEO_FPS

PEOPLE = ("mia", "leo")
SIDES = (512, 256)
SHRUNK = 0.2  # the synthetic heads' unit in metres, so that they are as large as a head
MOVING = 0.4  # of a synthetic head's points
MOUTHS = 2000
BUSY_S = 10.0
FILM_S = 20.0


def voice(seconds: float) -> NDArray[np.int16]:
    """Four syllables a second, at 48 kHz."""
    t = np.arange(round(seconds * MEDIA_RATE)) / MEDIA_RATE
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(3 * t)) / MEDIA_RATE
    tone = sum(np.sin(k * pitch) / k for k in range(1, 12))
    return np.asarray(4000 * np.clip(np.sin(2 * np.pi * 4 * t), 0, 1) * tone, np.int16)


def synthetic(n: int) -> Avatar:
    """A head of n Gaussians (benchmarks/heads.py) with random nets, 40 % of its points moving."""
    rng = np.random.default_rng(0)
    audio = AudioFeature(name="mel", width=64)
    drawn = heads.head(n, degree=1)
    raw = np.log(np.expm1(np.maximum(drawn.scales.astype(np.float64) * SHRUNK, 1e-7)))
    logits = np.log(drawn.opacities.astype(np.float64) / (1 - drawn.opacities))
    face = Gaussians(
        drawn.means * np.float32(SHRUNK), drawn.sh, raw.astype(np.float32), drawn.rotations, logits.astype(np.float32)
    )
    few = rng.choice(n, MOUTHS, replace=False)
    mouth = Gaussians(*(getattr(face, f)[few] for f in ("xyz", "sh", "scale", "rotation", "opacity")))
    motion = {}
    for name, shape in motion_shapes(audio).items():
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 32
        motion[name] = (rng.uniform(-1, 1, shape) / np.sqrt(fan)).astype(np.float32)
    baked = bake(motion, audio, face.xyz, mouth.xyz)
    moving, still = np.sort(rng.permutation(n)[: int(MOVING * n)]), np.arange(n)
    still = np.setdiff1d(still, moving)
    baked = dataclasses.replace(
        baked,
        moving=moving.astype(np.int32),
        encoding=baked.encoding[moving],
        gain=baked.gain[moving],
        still=still.astype(np.int32),
        rest=np.zeros((len(still), 10), np.float32),
    )
    pose = np.eye(4, dtype=np.float32)
    pose[:3] = heads.camera(0, 512).world_to_camera
    pose[:3, 3] *= SHRUNK
    return Avatar(
        name=f"{n // 1000}k",
        title="Synthetic",
        licence="CC0-1.0",
        source="benchmarks/heads.py",
        fps=25,
        width=512,
        height=512,
        camera=Camera(focal_px=heads.FOCAL, cx=256, cy=256),
        audio=audio,
        sh_degree=1,
        face=face,
        mouth=mouth,
        motion=motion,
        plates=Plates(_png(heads.background(512)), (), np.zeros((0, 4, 4), np.float32)),
        idle=Idle(pose[None], np.full((1, 6), 0.3, np.float32), np.full(1, -1, np.int32)),
        poster=b"",
        encoder=load_file(MODEL),
        baked=baked.arrays(),
    )


def _png(rgb: NDArray[np.uint8]) -> bytes:
    _, data = cv2.imencode(".png", rgb[:, :, ::-1])
    return bytes(data.tobytes())


def canvas_of(painter: InstagPainter) -> Canvas:
    """What it paints on, here always this process's own."""
    canvas = painter._canvas
    assert isinstance(canvas, Canvas)
    return canvas


class Watch:
    """CPU milliseconds of this thread by step, over the frames of one painter."""

    def __init__(self, painter: InstagPainter) -> None:
        self.steps: dict[str, list[float]] = {name: [] for name in ("audio", "motion", "raster", "output")}
        self._painter = painter
        self._canvas = canvas_of(painter)
        self._blank = cpu.Rasteriser(painter._person.cloud, self._canvas.width, self._canvas.height)
        self._blank.offsets[:] = 0

    def frame(self, index: int) -> None:
        """One frame, step by step, as `InstagPainter.paint` takes them."""
        painter, canvas, now = self._painter, self._canvas, time.thread_time
        times = [now()]
        codes = painter.mouth(index)
        painter._shown, painter._index = codes, index
        times.append(now())
        loud = painter._score.loud((index + 0.5) / VIDEO_FPS)
        expression = painter._bearing.at(index, loud)
        canvas.move(codes, expression)
        times.append(now())
        canvas.arrange(expression)
        background = canvas._background(canvas._plate(expression))
        canvas._rasteriser.i420(background)
        times.append(now())
        # What the bytes alone cost: every tile converted, without a splat in it.
        copied, background.i420 = background.i420, np.zeros(0, np.uint8)
        self._blank.i420(background)
        background.i420 = copied
        times.append(now())
        audio, motion, both, output = (1000 * (b - a) for a, b in pairwise(times))
        for name, ms in zip(self.steps, (audio, motion, max(both - output, 0.0), output), strict=True):
            self.steps[name].append(ms)


def painted(person: Person, side: int, seconds: float) -> tuple[InstagPainter, Score]:
    score = Score()
    painter = InstagPainter(person, score, 1, side=side)
    score.push(25 * FRAME_SAMPLES, 1, voice(seconds))
    return painter, score


def frames(person: Person, name: str, side: int, seconds: float) -> float:
    """Prints the figures of one person at one size; returns the median frame, CPU ms."""
    painter, _ = painted(person, side, 600)
    encoder = Encoder("H264", painter.width, painter.height, 1_200_000)
    whole: list[float] = []
    walls: list[float] = []
    encoded: list[float] = []
    end = time.monotonic() + seconds
    index = 0
    while time.monotonic() < end:
        began, wall = time.thread_time(), time.perf_counter()
        picture = painter.paint(index)
        whole.append(1000 * (time.thread_time() - began))
        walls.append(1000 * (time.perf_counter() - wall))
        began = time.thread_time()
        encoder.encode(picture, index, index == 0)
        encoded.append(1000 * (time.thread_time() - began))
        index += 1
    figures.spread(f"render.frame_ms.{name}_{side}", "CPU ms", whole[5:])
    figures.spread(f"render.frame_ms.{name}_{side}.wall", "ms", walls[5:])
    figures.spread(f"render.frame_ms.{name}_{side}.encode", "CPU ms", encoded[5:])
    watch = Watch(painted(person, side, 600)[0])
    for k in range(60):
        watch.frame(25 + k)
    for step, values in watch.steps.items():
        figures.spread(f"render.frame_ms.{name}_{side}.{step}", "CPU ms", values[5:])
    return figures.percentile(whole[5:], 0.5)


def _spin() -> None:
    while True:
        sum(range(10_000))


@contextmanager
def busy() -> Iterator[None]:
    """One process per core that never rests."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for other in others:
        other.start()
    try:
        time.sleep(1.0)
        yield
    finally:
        for other in others:
            other.terminate()
            other.join()


def beside(person: Person, name: str, side: int) -> None:
    """25 frames a second by the wall, with one busy process per core beside it."""
    painter, _ = painted(person, side, 600)
    taken = []
    with busy():
        start = time.perf_counter()
        for index in range(round(BUSY_S * VIDEO_FPS)):
            time.sleep(max(start + index / VIDEO_FPS - time.perf_counter(), 0))
            began = time.perf_counter()
            painter.paint(index)
            taken.append(1000 * (time.perf_counter() - began))
    figures.spread(f"render.frame_ms.{name}_{side}.beside_busy", "ms", taken[5:])


def against_torch(person: Person, name: str, ours_ms: float) -> None:
    """The same frame with the motion fields as plain torch has them, one thread; the pictures stay ours."""
    try:
        import torch

        from render.motion.networks import HeadMotion
    except ModuleNotFoundError:
        print(json.dumps({"name": f"render.times_torch.{name}", "note": "not measured: torch is missing"}))
        return
    torch.set_num_threads(1)
    avatar = person.avatar
    head = HeadMotion(avatar.audio)
    tensors = [
        torch.from_numpy(np.array(a))
        for a in (
            avatar.face.xyz,
            avatar.mouth.xyz,
            np.zeros((8, avatar.audio.width, avatar.audio.steps), np.float32),
            np.zeros(6, np.float32),
        )
    ]
    painter, _ = painted(person, 512, 60)
    canvas = canvas_of(painter)
    taken = []
    for index in range(25, 45):
        _, expression = painter.frame(index)
        began = time.thread_time()
        with torch.no_grad():
            head(*tensors)
        canvas.arrange(expression)
        canvas._rasteriser.i420(canvas._background(-1))
        taken.append(1000 * (time.thread_time() - began))
    figures.spread(f"render.torch_ms.{name}_512", "CPU ms", taken[3:])
    figures.value(f"render.times_torch.{name}_512", "ratio", figures.percentile(taken[3:], 0.5) / ours_ms)


def against_nets(person: Person, name: str) -> None:
    """The face's motion as few shapes, where the avatar has them, against all of its nets, in turns."""
    few = person.baked
    if few.few is None:
        print(json.dumps({"name": f"render.motion_few.{name}", "note": "the avatar has none"}))
        return
    nets = dataclasses.replace(few, few=None)
    painter, _ = painted(person, 512, 60)
    taken: tuple[list[float], list[float]] = ([], [])
    for index in range(25, 85):
        codes, expression = painter.frame(index)
        for baked, times in zip((few, nets), taken, strict=True):
            began = time.thread_time()
            baked.frame(codes, expression.action_units)
            times.append(1000 * (time.thread_time() - began))
    ours, theirs = (figures.percentile(times[5:], 0.5) for times in taken)
    figures.value(f"render.motion_few.{name}", "of the nets' time", ours / theirs)
    figures.value(f"render.motion_few.{name}.shapes", "shapes", len(few.few.steps))
    figures.value(f"render.motion_few.{name}.held_out", "dB, worst frame", few.few.decibels)


def film(person: Person, name: str) -> float:
    """Prints how much faster than it plays a film is made, and returns it."""
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "voice.wav"
        with wave.open(str(recording), "wb") as file:
            file.setparams((1, 2, MEDIA_RATE, 0, "NONE", ""))
            file.writeframes(voice(FILM_S).tobytes())
        began, cpu_began = time.perf_counter(), time.process_time()
        made = synthesize.synthesize(person, recording, Path(folder) / "film.mp4")
        wall, used = time.perf_counter() - began, time.process_time() - cpu_began
    figures.value(f"render.synthesize_x.{name}", "s of film per s", made / VIDEO_FPS / wall)
    figures.value(f"render.synthesize_x.{name}.cpu", "s of film per CPU s", made / VIDEO_FPS / used)
    return made / VIDEO_FPS / wall


def measure(seconds: float, avatars: Path = AVATARS) -> None:
    """Prints everything."""
    films: list[float] = []
    for name in PEOPLE:
        if not (avatars / name / "manifest.json").is_file():
            print(json.dumps({"name": f"render.frame_ms.{name}", "note": f"not measured: no {name} in {avatars}"}))
            continue
        person = Person.load(avatars / name)
        person.warm()
        gaussians = len(person.avatar.face) + len(person.avatar.mouth)
        torso = 0 if person.avatar.torso is None else len(person.avatar.torso.gaussians)
        figures.value(f"render.gaussians.{name}", "of face and mouth", gaussians)
        figures.value(
            f"render.gaussians.{name}.moving", "of them", len(person.baked.moving) + len(person.avatar.mouth)
        )
        figures.value(f"render.gaussians.{name}.torso", "beside them", torso)
        ours = [frames(person, name, side, seconds) for side in SIDES]
        beside(person, name, 512)
        against_torch(person, name, ours[0])
        against_nets(person, name)
        films.append(film(person, name))
    if films:
        figures.value("render.synthesize_x", "s of film per s, the slowest person", min(films))
    for n in (20_000, 40_000, 60_000):
        person = Person(synthetic(n))
        person.warm()
        for side in SIDES:
            frames(person, f"{n // 1000}k", side, seconds / 2)
