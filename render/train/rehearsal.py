"""What a person's ten seconds must not make the universal field forget: other voices, rarely seen visemes.

At moments of other people's speech the field that is trained is held to what it was: its displacement of the face's
points there may leave the pre-trained one only against a spring. Points that hardly listened before must not begin
to: hair and forehead stay calm while somebody speaks.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from render.avatar import AudioFeature
from render.motion.networks import HeadMotion, hook
from render.train.planes import fast_face, fast_mouth

Floats = NDArray[np.float32]

SPRING = 0.03
"""loss for a mean square of one square millimetre"""
CALM = 0.2
"""likewise, for points that the universal field leaves alone"""
CALM_MM = 0.15
"""a point that two random moments of speech move apart by less is one of those"""
ANSWER = 0.1
"""likewise, for how another expression moves them: a clip shows few, and brows go up as far as everybody's"""
WIDER = 1.3
"""expressions are drawn from nothing to so many times the clip's strongest, each action unit by itself"""
POINTS = 1500
MOUTH_POINTS = 400


SPEECH = Path(__file__).resolve().parents[1] / "models" / "rehearsal.safetensors"


def other_voices(feature: AudioFeature, path: Path = SPEECH) -> Floats:
    """(frames, width, steps): features of other people's speech, some minutes; none for an extractor without."""
    if feature.name != "mel" or not path.is_file():
        return np.zeros((0, feature.width, feature.steps), np.float32)
    found = load_file(path)["features"].astype(np.float32)
    if found.ndim != 2 or found.shape[1] != feature.width or not np.isfinite(found).all():
        return np.zeros((0, feature.width, feature.steps), np.float32)
    return np.asarray(found[..., None], np.float32)


class Rehearsal:
    """The field as it was, and moments at which to remember it."""

    def __init__(self, before: HeadMotion, windows: Tensor, action_units: Tensor, seed: int) -> None:
        """before: as it was; windows (M, WINDOW, width, steps) of other voices; action_units (F, 6) of the clip."""
        self.before = before.requires_grad_(False)
        self.windows = windows
        self.action_units = action_units
        self._most = WIDER * action_units.amax(0)
        self.rng = np.random.default_rng([seed, 7])

    def loss(self, motion: HeadMotion, face_at: Tensor, mouth_at: Tensor) -> Tensor:
        """face_at (N, 3), mouth_at (M, 3): where the points lie in the universal field, without gradient."""
        rng = self.rng
        pick = torch.from_numpy(rng.choice(len(face_at), min(POINTS, len(face_at)), replace=False))
        at = face_at[pick.to(face_at.device)]
        moments = torch.from_numpy(rng.integers(0, len(self.windows), 2))
        window = self.windows[moments.to(self.windows.device)]
        units = self.action_units[rng.integers(len(self.action_units), size=2)]
        drawn = torch.from_numpy(rng.random((2, *units.shape[1:])).astype(np.float32)).to(units) * self._most
        drawn = torch.where(torch.from_numpy(rng.random(drawn.shape) < 0.5).to(units.device), units, drawn)
        drawn[:, 5] = drawn[0, 5]  # how lids close is the person's own
        # One face says two things, and says one of them with another expression.
        window, units = window[[0, 1, 0]], drawn[[0, 0, 1]]
        with torch.no_grad():
            old = fast_face(self.before.face, at, window, units)
            listens = 1000 * (old.xyz[0] - old.xyz[1]).norm(dim=-1)  # mm
        new = fast_face(motion.face, at, window, units)
        # How the voice moves them, and how an expression does; where they rest is the person's own.
        said, shown = ((new.xyz[k] - new.xyz[0]) - (old.xyz[k] - old.xyz[0]) for k in (1, 2))
        loss = 1e6 * (SPRING * said.square().sum(-1).mean() + ANSWER * shown.square().sum(-1).mean())
        calm = (listens < CALM_MM).float()[:, None]
        if calm.any():
            response = 1e6 * (new.xyz[0] - new.xyz[1]).square() * calm
            turned = (new.rotation[0] - new.rotation[1]).square() * calm
            swollen = (new.scale[0] - new.scale[1]).square() * calm
            loss = loss + CALM * (response.sum(-1).mean() + 10 * turned.mean() + 10 * swollen.mean())
        if len(mouth_at):
            pick = torch.from_numpy(rng.choice(len(mouth_at), min(MOUTH_POINTS, len(mouth_at)), replace=False))
            at = mouth_at[pick.to(mouth_at.device)]
            with torch.no_grad():
                move = hook(old.xyz[:2])
                was = fast_mouth(self.before.mouth, at, window[:2], move).xyz
            now = fast_mouth(motion.mouth, at, window[:2], move).xyz
            loss = loss + SPRING * 1e6 * (now - was).square().sum(-1).mean()
        return loss
