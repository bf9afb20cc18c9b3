"""A person made of formulas in the real format: an ellipsoid with eyes, a mouth that the voice moves, and a torso."""

from functools import cache
from typing import Any

import cv2
import numpy as np

from render.avatar import (
    AudioFeature,
    Avatar,
    Camera,
    Eyeballs,
    Gaussians,
    Idle,
    Plates,
    Torso,
    motion_shapes,
)
from render.features import BANDS, LAYERS
from render.raster.gaussians import SH_C0

Array = np.ndarray[Any, Any]

SIDE = 256
DISTANCE = 1.1
WIDTH = 64
HALF = np.array([0.075, 0.105, 0.09])  # half axes of the head, metres; its middle lies 9 cm behind the eyes
MIDDLE = np.array([0.0, -0.01, -0.085])
EYES = np.array([[-0.032, 0.0, -0.015], [0.032, 0.0, -0.015]])
BALL = 0.012


def _sphere(rng: np.random.Generator, n: int) -> Array:
    out = rng.normal(size=(n, 3))
    return np.asarray(out / np.linalg.norm(out, axis=1, keepdims=True))


def _layer(
    rng: np.random.Generator, xyz: Array, colour: Array, metres: float, opacity: float = 4.0, degree: int = 1
) -> Gaussians:
    n = len(xyz)
    sh = 0.02 * rng.normal(size=(n, (degree + 1) ** 2, 3))
    sh[:, 0] = (colour - 0.5) / SH_C0
    scale = np.log(np.expm1(np.full((n, 3), metres) * rng.uniform(0.7, 1.3, (n, 3))))
    rotation = rng.normal(size=(n, 4))
    arrays = (xyz, sh, scale, rotation, np.full(n, opacity))
    return Gaussians(*(np.ascontiguousarray(a, np.float32) for a in arrays))


def _nets(rng: np.random.Generator, audio: AudioFeature) -> dict[str, Array]:
    """As torch would draw them, but with more of a grid: points that are close do not all move alike."""
    out = {}
    for name, shape in motion_shapes(audio).items():
        if name.endswith("embeddings"):
            values = rng.uniform(-0.3, 0.3, shape)
        else:
            fan = int(np.prod(shape[1:])) if len(shape) > 1 else 32
            values = rng.uniform(-1, 1, shape) * np.sqrt(3 / fan)
        if name.endswith("sigma_net.net.0.weight"):
            values[:, 36:68] *= 4  # the voice is seen well
        if name == "face.sigma_net.net.2.weight":
            values[3:] *= 0.05
        out[name] = values.astype(np.float32)
    return out


def encoder(rng: np.random.Generator, width: int = WIDTH) -> dict[str, Array]:
    out, before = {}, BANDS
    for k, (taps, _) in enumerate(LAYERS):
        out[f"conv.{k}.weight"] = rng.normal(size=(32, before, taps)) * np.sqrt(2 / (before * taps))
        out[f"conv.{k}.bias"] = 0.1 * rng.normal(size=32)
        before = 32
    out["code.weight"] = rng.normal(size=(width, before)) * np.sqrt(1 / before)
    out["code.bias"] = np.zeros(width)
    return {name: value.astype(np.float32) for name, value in out.items()}


def poses(n: int) -> Array:
    """Head to camera: before the camera, upright, turning a little."""
    angle = np.radians(4) * np.sin(np.arange(n) / 7)
    made = np.zeros((n, 4, 4))
    made[:, 0, 0] = np.cos(angle)
    made[:, 0, 2] = np.sin(angle)
    made[:, 1, 1] = -1
    made[:, 2, 0] = np.sin(angle)
    made[:, 2, 2] = -np.cos(angle)
    made[:, 2, 3] = DISTANCE
    made[:, 3, 3] = 1
    return np.asarray(made, np.float32)


def picture(colour: tuple[int, int, int], alpha: Array | None = None, side: int = SIDE) -> bytes:
    """PNG of one colour, RGB."""
    pixels = np.full((side, side, 3), colour[::-1], np.uint8)
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    done, data = cv2.imencode(".png", pixels)
    assert done
    return data.tobytes()


BACKGROUND = (60, 120, 200)


@cache
def person(
    name: str = "test", *, torso: bool = True, eyes: bool = True, plates: int = 0, faces: int = 2500, side: int = SIDE
) -> Avatar:
    """plates: torso pictures, for a person as the importer makes them."""
    rng = np.random.default_rng(7)
    audio = AudioFeature(name="mel", width=WIDTH)
    at = _sphere(rng, faces)
    at[:, 2] = np.where(rng.random(faces) < 0.8, 1, -1) * np.abs(at[:, 2])
    skin = np.clip([0.8, 0.6, 0.5] + 0.1 * np.sin(40 * at), 0, 1)
    skin[at[:, 1] > 0.55] = [0.25, 0.18, 0.1]
    shell = _layer(rng, at * HALF + MIDDLE, skin, 0.006)
    parts, index = [shell], [np.zeros(faces, np.uint8)]
    if eyes:
        for k, centre in enumerate(EYES):
            ball = _sphere(rng, 60)
            ball[:, 2] = np.abs(ball[:, 2])
            iris = np.linalg.norm(ball[:, :2], axis=1, keepdims=True) < 0.5
            parts.append(_layer(rng, ball * BALL + centre + [0, 0, 0.012], np.where(iris, 0.1, 0.95), 0.002))
            index.append(np.full(60, k + 1, np.uint8))
    face = Gaussians(*(np.concatenate([getattr(p, f) for p in parts]) for f in FIELDS))
    inside = _layer(
        rng, rng.normal(size=(200, 3)) * [0.02, 0.012, 0.006] + [0, -0.06, 0.0], np.full((200, 3), 0.3), 0.003
    )
    body = None
    if torso:
        spread = rng.uniform(-1, 1, (600, 3)) * [0.16, 0.05, 0.03] + [0, 0.17, DISTANCE + 0.08]
        basis = np.zeros((600, 3, 9))
        basis[:, 0, 3] = basis[:, 1, 4] = basis[:, 2, 5] = 0.3
        basis[:, 0, 6], basis[:, 1, 8] = 0.002, -0.003
        body = Torso(
            _layer(rng, spread, np.full((600, 3), [0.2, 0.3, 0.5]), 0.014), basis.astype(np.float32), poses(1)[0]
        )
    columns = np.arange(side)
    cloth = np.repeat(np.where(columns > 0.8 * side, 255, 0).astype(np.uint8)[:, None], side, 1)
    idle = np.tile(np.array([0.3, 0.1, 0.1, 0.9, 0.8, 0.15], np.float32), (60, 1))
    idle[:, 0] += 0.2 * np.sin(np.arange(60) / 5)
    idle[30:34, 5] = 1.9
    return Avatar(
        name=name,
        title=name.capitalize(),
        licence="CC0-1.0",
        source="Formulas.",
        fps=25,
        width=side,
        height=side,
        camera=Camera(focal_px=3.3 * side, cx=side / 2, cy=side / 2),
        audio=audio,
        sh_degree=1,
        face=face,
        mouth=inside,
        motion=_nets(rng, audio),
        plates=Plates(
            picture(BACKGROUND, side=side),
            tuple(picture((40 * k, 90, 60), cloth, side) for k in range(plates)),
            poses(60)[:: max(60 // plates, 1)][:plates] if plates else np.zeros((0, 4, 4), np.float32),
        ),
        idle=Idle(poses(60), idle.astype(np.float32), np.full(60, 0 if plates else -1, np.int32)),
        poster=_poster(side),
        encoder=encoder(rng),
        torso=body,
        eyeballs=Eyeballs(np.concatenate(index), EYES.astype(np.float32)) if eyes else None,
    )


FIELDS = ("xyz", "sh", "scale", "rotation", "opacity")


def _poster(side: int) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((side, side, 3), 128, np.uint8))
    assert done
    return data.tobytes()
