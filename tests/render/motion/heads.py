"""Heads with random nets, whose motion is large enough to be compared."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from render.avatar import WIDTHS, AudioFeature, Extractor
from render.motion.bake import bake
from render.motion.baked import Baked
from render.motion.networks import HeadMotion

Floats = NDArray[np.float32]
FEATURES = [*(AudioFeature(name=name, width=width) for name, width in WIDTHS.items())]
FEATURES += [AudioFeature(name="mel", width=64)]


@dataclass(frozen=True)
class Scene:
    """A head, where its points rest, and a clip that drives it."""

    feature: AudioFeature
    head: HeadMotion
    face_xyz: Floats
    mouth_xyz: Floats
    features: Floats
    action_units: Floats

    def bake(self) -> Baked:
        return bake(self.head.tensors(), self.feature, self.face_xyz, self.mouth_xyz)


def feature(name: Extractor) -> AudioFeature:
    return next(f for f in FEATURES if f.name == name)


def scene(name: Extractor = "ave", faces: int = 300, mouths: int = 70, frames: int = 9, seed: int = 0) -> Scene:
    """`name` of the audio feature. Some points lie outside the grids."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    audio = feature(name)
    head = HeadMotion(audio)
    with torch.no_grad():
        for tensor, values in head.named_parameters():
            if "embeddings" in tensor:
                values.uniform_(-1, 1)
            elif tensor.endswith("weight"):
                values *= 2  # or the voice would hardly be seen beside the biases
    return Scene(
        audio,
        head,
        random.uniform(-0.16, 0.16, (faces, 3)).astype(np.float32),
        random.uniform(-0.1, 0.1, (mouths, 3)).astype(np.float32),
        random.normal(size=(frames, audio.width, audio.steps)).astype(np.float32),
        random.uniform(0, 3, (frames, 6)).astype(np.float32),
    )
