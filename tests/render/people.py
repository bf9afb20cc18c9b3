"""A small person who fits every rule of the avatar folder, made of random numbers."""

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
    MotionField,
    Plates,
    Torso,
    field_shapes,
    motion_shapes,
)

SIDE = 64


def tensor(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)


def picture(kind: str, channels: int = 3, side: int = SIDE, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, channels), np.uint8)
    done, data = cv2.imencode(kind, pixels)
    assert done
    return data.tobytes()


def layer(rng: np.random.Generator, n: int, degree: int) -> Gaussians:
    bands = (degree + 1) ** 2
    return Gaussians(
        tensor(rng, n, 3), tensor(rng, n, bands, 3), tensor(rng, n, 3), tensor(rng, n, 4), tensor(rng, n)
    )


def poses(n: int) -> np.ndarray[Any, Any]:
    """A head that turns slowly, 0.7 m before the camera."""
    made = np.tile(np.eye(4), (n, 1, 1))
    angle = 0.1 * np.sin(np.arange(n) / 5)
    made[:, 0, 0] = made[:, 2, 2] = np.cos(angle)
    made[:, 0, 2], made[:, 2, 0] = np.sin(angle), -np.sin(angle)
    made[:, 2, 3] = 0.7
    return made.astype(np.float32)


def person(
    audio: AudioFeature | None = None, degree: int = 1, frames: int = 6, torso: int = 3, **other: Any
) -> Avatar:
    rng = np.random.default_rng(5)
    audio = audio or AudioFeature(name="ave", width=512)
    values: dict[str, Any] = {
        "name": "test",
        "title": "Test Person",
        "licence": "Apache-2.0",
        "source": "Random numbers.",
        "fps": 25,
        "width": SIDE,
        "height": SIDE,
        "camera": Camera(focal_px=150.5, cx=32, cy=32),
        "audio": audio,
        "sh_degree": degree,
        "face": layer(rng, 12, degree),
        "mouth": layer(rng, 5, degree),
        "motion": {name: tensor(rng, *shape) for name, shape in motion_shapes(audio).items()},
        "plates": Plates(
            picture(".webp"), tuple(picture((".webp", ".png")[i % 2], 4, seed=i) for i in range(torso)), poses(torso)
        ),
        "idle": Idle(
            poses(frames),
            rng.uniform(0, 2, (frames, 6)).astype(np.float32),
            np.arange(frames, dtype=np.int32) % (torso + 1) - 1,
        ),
        "poster": picture(".jpg"),
    }
    return Avatar(**(values | other))


def torso(degree: int = 1, n: int = 7) -> Torso:
    rng = np.random.default_rng(8)
    return Torso(layer(rng, n, degree), tensor(rng, n, 3, 9), poses(1)[0])


def eyeballs(n: int = 12) -> Eyeballs:
    """of the first four Gaussians"""
    index = np.zeros(n, np.uint8)
    index[:4] = 1, 1, 2, 2
    return Eyeballs(index, np.array([[-0.03, 0, 0], [0.03, 0, 0]], np.float32))


def motion_field(audio: AudioFeature | None = None) -> MotionField:
    rng = np.random.default_rng(6)
    audio = audio or AudioFeature(name="mel", width=64)
    shapes = {f"face.{n}": s for n, s in field_shapes("face", audio).items()}
    shapes |= {f"mouth.{n}": s for n, s in field_shapes("mouth", audio).items()}
    return MotionField("Apache-2.0", "Random numbers.", audio, {n: tensor(rng, *s) for n, s in shapes.items()})
