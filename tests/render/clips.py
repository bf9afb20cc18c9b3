"""A tiny person, filmed: a dataset folder made by our own rasteriser, whose lips follow how loud the voice is."""

import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from render.raster.backward import DifferentiableRasteriser
from render.raster.gaussians import Camera, Gaussians

SIDE, FOCAL, FAR = 96, 250.0, 0.7
FPS, RATE = 25, 16000
FACE, HAIR, CLOTH, MOUTH = 0, 1, 2, 3
COLOURS = np.array([[0, 0, 255], [0, 0, 0], [255, 0, 0], [100, 100, 100]], np.uint8)
"""of parsing, RGB"""
OPEN_M = 0.012
"""by which the lower lip falls when it is loudest"""


@dataclass
class Person:
    xyz: np.ndarray[Any, Any]
    colour: np.ndarray[Any, Any]
    part: np.ndarray[Any, Any]
    falls: np.ndarray[Any, Any]  # share of the opening by which each point falls

    @classmethod
    def make(cls) -> "Person":
        rng = np.random.default_rng(3)
        at, colour, part, falls = [], [], [], []
        for y in np.arange(-0.10, 0.105, 0.007):
            for x in np.arange(-0.075, 0.08, 0.007):
                round_ = 1 - (x / 0.078) ** 2 - (y / 0.105) ** 2
                if round_ <= 0:
                    continue
                z = 0.05 * np.sqrt(round_)
                hair = y > 0.055
                below = np.clip(-(y + 0.045) / 0.004, 0, 1) * np.exp(-((x / 0.05) ** 2))
                at.append((x, y, z))
                shade = 0.55 + 0.3 * np.sin(60 * x) * np.sin(70 * y)
                colour.append((0.1, 0.08, 0.05) if hair else (0.9 * shade + 0.1, 0.7 * shade, 0.6 * shade))
                part.append(HAIR if hair else FACE)
                falls.append(0.0 if hair else below)
        for y in np.arange(-0.065, -0.03, 0.006):  # a dark throat
            for x in np.arange(-0.03, 0.031, 0.006):
                at.append((x, y, 0.015))
                colour.append((0.25, 0.02 + 0.05 * rng.random(), 0.05))
                part.append(MOUTH)
                falls.append(0.5)
        return cls(*(np.array(a, np.float32) for a in (at, colour)), np.array(part), np.array(falls, np.float32))

    def gaussians(self, loud: float) -> Gaussians:
        n = len(self.xyz)
        at = self.xyz.copy()
        at[:, 1] -= OPEN_M * loud * self.falls
        sh = np.zeros((n, 1, 3), np.float32)
        sh[:, 0] = (self.colour - 0.5) / 0.28209479177387814
        size = np.full((n, 3), 0.0038, np.float32)
        size[:, 2] = 0.0015
        turn = np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1))
        return Gaussians(at, size, turn, np.full(n, 0.98, np.float32), sh, (self.part == MOUTH).astype(np.uint8))


def torso() -> Gaussians:
    """In the camera's frame."""
    x, y = np.meshgrid(np.arange(-0.13, 0.14, 0.008), np.arange(0.085, 0.15, 0.008))
    at = np.stack([x.ravel(), y.ravel(), np.full(x.size, FAR + 0.03)], 1).astype(np.float32)
    at = at[np.abs(at[:, 0]) < 0.02 + 1.7 * (at[:, 1] - 0.06)]
    n = len(at)
    sh = np.zeros((n, 1, 3), np.float32)
    sh[:, 0] = (
        np.stack([0.1 + 0.2 * (at[:, 0] > 0), 0.2 + 0 * at[:, 0], 0.5 + 0.2 * np.sin(90 * at[:, 1])], 1) - 0.5
    ) / 0.282
    turn = np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1))
    size = np.full((n, 3), 0.0045, np.float32)
    return Gaussians(at, size, turn, np.full(n, 0.98, np.float32), sh.astype(np.float32))


def pose(k: int) -> np.ndarray[Any, Any]:
    """Head to camera, OpenCV axes: it turns a little, all the time."""
    yaw, nod = 0.10 * np.sin(k / 6), 0.05 * np.sin(k / 4.3)
    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.array([nod, yaw, 0]))[0] @ np.diag([1.0, -1, -1])
    matrix[:3, 3] = 0.004 * np.sin(k / 9), 0, FAR
    return matrix


def loudness(frames: int) -> np.ndarray[Any, Any]:
    return np.clip(np.sin(np.arange(frames) * 0.7), 0, 1).astype(np.float32)


def voice(frames: int) -> np.ndarray[Any, Any]:
    """Tones as loud as the lips are open."""
    t = np.arange(frames * RATE // FPS) / RATE
    loud = np.interp(t * FPS - 0.5, np.arange(frames), loudness(frames))
    tone = sum(np.sin(2 * np.pi * f * t) / k for k, f in enumerate((150, 700, 1200, 2500), 1))
    return (0.25 * loud * tone * 32767 / 2).astype(np.int16)


def film(folder: Path, train: int = 36, held_out: int = 10, depth: bool = True, who: Person | None = None) -> Path:
    """Writes the dataset folder; of the one whom `Person.make` makes, or of somebody else."""
    frames = train + held_out
    for name in ("gt_imgs", "parsing", "head", "person", "torso_pass", *(("depth",) if depth else ())):
        (folder / name).mkdir(parents=True)
    rows = np.linspace(0.5, 0.8, SIDE, dtype=np.float32)
    plate = np.stack(
        [
            np.tile(rows[:, None], (1, SIDE)),
            np.full((SIDE, SIDE), 0.6, np.float32),
            0.9 - 0.3 * np.tile(rows, (SIDE, 1)),
        ]
    )
    who, body, loud = who or Person.make(), torso(), loudness(frames)
    raster = DifferentiableRasteriser(SIDE, SIDE)
    still = Camera(np.eye(3, 4, dtype=np.float32), (FOCAL, FOCAL), (SIDE / 2, SIDE / 2), SIDE, SIDE)
    behind = raster.forward(still, body)
    under = behind.colour + behind.transmittance * plate
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    poses = []
    for k in range(frames):
        matrix, head = pose(k), who.gaussians(float(loud[k]))
        camera = Camera(matrix[:3].astype(np.float32), (FOCAL, FOCAL), (SIDE / 2, SIDE / 2), SIDE, SIDE)
        parts = [np.repeat((who.part == p).astype(np.float32)[:, None], 3, 1) for p in (FACE, HAIR, MOUTH)]
        seen = raster.forward(camera, head, geometry=True, features=parts)
        alpha = 1 - seen.transmittance
        write(folder / f"gt_imgs/{k}.jpg", seen.colour + seen.transmittance * under, jpeg)
        write(folder / f"head/{k}.png", alpha[None])
        write(folder / f"person/{k}.png", (1 - seen.transmittance * behind.transmittance)[None])
        shares = [
            seen.features[0][0],
            seen.features[1][0],
            seen.transmittance * (1 - behind.transmittance),
            seen.features[2][0],
        ]
        colours = COLOURS[np.argmax(shares, 0)]
        colours[seen.transmittance * behind.transmittance > 0.5] = 255
        cv2.imwrite(str(folder / f"parsing/{k}.png"), colours[..., ::-1])
        if k % 4 == 0:
            write(folder / f"torso_pass/{k}.png", np.concatenate([under, 1 - behind.transmittance[None]]))
        if depth and k < train:
            assert seen.depth is not None
            metres = np.where(alpha > 0.5, seen.depth / np.maximum(alpha, 0.1), 0)
            np.save(folder / f"depth/{k}.npy", metres.astype(np.float16))
        back = np.linalg.inv(matrix)
        back[:3, 1:3] *= -1
        poses.append({"img_id": k, "aud_id": k, "transform_matrix": back.tolist()})
    write(folder / "bc.jpg", plate, jpeg)
    camera_ = {"focal_len": FOCAL, "cx": SIDE / 2, "cy": SIDE / 2}
    for name, some in (("train", poses[:train]), ("val", poses[train:])):
        (folder / f"transforms_{name}.json").write_text(json.dumps(camera_ | {"frames": some}))
    names = ["AU01_r", "AU04_r", "AU05_r", "AU06_r", "AU07_r", "AU45_r"]
    lines = ["frame, " + ", ".join(names)] + [f"{k + 1}, 0.5, 0, 0, 1.0, 0.2, {k % 3 / 2}" for k in range(frames)]
    (folder / "au.csv").write_text("\n".join(lines) + "\n")
    with wave.open(str(folder / "aud.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(voice(frames).tobytes())
    return folder


def write(path: Path, planes: np.ndarray[Any, Any], how: list[int] | None = None) -> None:
    """(C, H, W) of 0 to 1, RGB, RGBA or grey."""
    pixels = (np.clip(planes, 0, 1).transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    assert cv2.imwrite(str(path), np.ascontiguousarray(pixels[..., order]), how or [])
