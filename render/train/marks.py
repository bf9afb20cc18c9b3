"""Landmarks as witnesses: 51 points of brows, nose, eyes and lips must be seen where the detector saw them.

They tie the lips' opening to the voice far better than pixels alone, in which a lip that is a little too low is as
wrong as one that is much too low. Each has a place at rest, learned with the field that moves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from render.train.adam import Adam
from render.train.dataset import Dataset, Shot
from render.train.start import Displacement

Floats = NDArray[np.float32]

FIRST = 17
"""the 17 landmarks of the outline slide over the face when it turns"""
COUNT = 68 - FIRST
SHARE = 4e-3
"""of the loss, for a mean robust error of one pixel"""
GAP, SHUT, NARROW_PX = 4e-3, 4.0, 2.0
"""likewise, for the height between the inner lips; a closed mouth counts so much more: people see a b that is open"""
UPPER, LOWER = [61 - FIRST, 62 - FIRST, 63 - FIRST], [67 - FIRST, 66 - FIRST, 65 - FIRST]
SOFT_PX = 8.0
"""an error much larger than that counts no more"""
WEIGHTS = np.ones(COUNT, np.float32)
WEIGHTS[48 - FIRST :] = 3
RATE = 3e-5
FRAMES = 40


@dataclass
class Marks:
    """The landmarks of a clip."""

    rest: Tensor  # (COUNT, 3) metres, the head's frame
    seen: Tensor  # (frames of the clip, COUNT, 2) pixels; NaN where there are none

    def __post_init__(self) -> None:
        self.weights = torch.from_numpy(WEIGHTS).to(self.rest.device)
        self.rest.requires_grad_()
        self.adam = Adam({"rest": self.rest})

    def loss(self, data: Dataset, shots: Sequence[Shot], at: Tensor) -> Tensor:
        """at (frames, COUNT, 3): where the field puts them in each of these frames."""
        pose = torch.from_numpy(np.stack([s.pose for s in shots])).to(at)
        view = at @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]
        middle = at.new_tensor([data.width / 2, data.height / 2])
        seen = self.seen[[s.index for s in shots]]
        pixels = view[..., :2] / view[..., 2:] * data.focal_px + middle
        off = (pixels - seen).square().sum(-1)
        known = torch.isfinite(off)
        off = (torch.where(known, off, 0.0) + 1e-6).sqrt()
        weights = self.weights * known
        value = SHARE * (weights * off / (1 + off / SOFT_PX)).sum() / weights.sum().clamp_min(1)
        wanted, gap = (p[..., UPPER, 1] - p[..., LOWER, 1] for p in (seen, pixels))
        wanted, sure = torch.where(torch.isfinite(wanted), wanted, 0.0), torch.isfinite(wanted)
        shut = 1 + SHUT * torch.exp(wanted / NARROW_PX)  # y points down: an open mouth's is negative
        return value + GAP * (shut * sure * (gap - wanted).abs()).sum() / (shut * sure).sum().clamp_min(1)

    def learn(self, share: float) -> None:
        self.adam.step({"rest": RATE * 0.1**share})


def sightings(data: Dataset, frames: int) -> Floats:
    """(frames, COUNT, 2) pixels of the training frames; NaN elsewhere."""
    seen = np.full((frames, COUNT, 2), np.nan, np.float32)
    for shot in data.train:
        points = data.landmarks(shot.index)
        if points is not None:
            seen[shot.index] = points[FIRST:]
    return seen


def at_rest(data: Dataset, seen: Floats, moves: Displacement) -> Floats | None:
    """(COUNT, 3): where they rest, by depth in metres and what the field undoes; None if that cannot be told."""
    found = []
    for shot in data.train[:: max(1, len(data.train) // FRAMES)]:
        depth, points = data.depth(shot.index), seen[shot.index]
        if depth is None or not np.isfinite(points).all():
            continue
        z = _nearest(depth, points)
        xy = (points - (data.width / 2, data.height / 2)) / data.focal_px * z[:, None]
        at = (np.concatenate([xy, z[:, None]], 1) - shot.pose[:3, 3]) @ shot.pose[:3, :3]
        rest = at.copy()
        for _ in range(4):
            rest = at - moves(rest.astype(np.float32), shot)
        found.append(np.where(z[:, None] > 0, rest, np.nan))
    if not found:
        return None
    with np.errstate(all="ignore"):
        rest = np.nanmedian(np.stack(found), axis=0)
    return rest.astype(np.float32) if np.isfinite(rest).all() else None


def _nearest(depth: Floats, points: Floats) -> Floats:
    """The least depth within 5 x 5 pixels: at the edge of the lips, the lips'."""
    out = np.zeros(len(points), np.float32)
    for i, (x, y) in enumerate(np.round(points).astype(int)):
        patch = depth[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        some = patch[patch > 0]
        out[i] = some.min() if some.size else 0
    return out
