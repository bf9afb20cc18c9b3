"""How many Gaussians a head has, and where: what is not seen is dropped, what the loss pulls at is split."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from render.train.adam import Adam
from render.train.dataset import Dataset, Shot
from render.train.draw import Painter, Splats
from render.train.footage import Footage
from render.train.head import FIELDS, MOUTH, PARTS, Cloud
from render.train.start import SH_C0

FAINT = -5.5
"""raw opacity under which nothing is drawn"""
UNSEEN_PX = 0.03
"""a Gaussian whose weights in no frame sum up to so many pixels is not seen"""


class Growing(ABC):
    """Somebody whose Gaussians are being learned."""

    data: Dataset
    footage: Footage
    head: Cloud
    adam: Adam
    """of the Gaussians"""
    painter: Painter
    screen: Tensor
    """(N,) how strongly the loss pulls at each Gaussian, summed since the last refinement"""
    rng: np.random.Generator

    @abstractmethod
    def splats(self, shot: Shot) -> Splats:
        """All Gaussians, as they are drawn in a frame."""

    @property
    def device(self) -> torch.device:
        return self.head.tensors["xyz"].device

    def tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def weights(self, shots: list[Shot]) -> Tensor:
        """(N,) for each Gaussian the most pixels, weighted, that it fills in any of these frames."""
        most = torch.zeros(len(self.head))
        for shot in shots:
            with torch.no_grad():
                splats = self.splats(shot)
            splats.sh = torch.zeros_like(splats.sh).requires_grad_()  # grey: what is black has no gradient
            drawn = self.painter.draw(self.footage.box.camera(self.data, shot.pose), splats)
            (gradient,) = torch.autograd.grad(drawn.colour[0].sum(), splats.sh)
            most = torch.maximum(most, gradient[:, 0, 0].abs().cpu() / SH_C0)
        return most

    def refine(self, fresh: bool) -> int:
        """Drop what is not seen; if `fresh`, split those at which the loss pulls most instead. Returns how many."""
        shots = self.footage.shots
        spread = [shots[k] for k in np.unique(np.linspace(0, len(shots) - 1, 16 if fresh else 60).astype(int))]
        wide = [shots[k] for k in np.argsort(-self.footage.openness)[:8]]
        looks = np.array([s.gaze for s in shots])
        aside = [shots[k] for k in {int(f(looks[:, i])) for f in (np.argmin, np.argmax) for i in (0, 1)}]
        seen = (self.weights(spread + wide + aside) >= UNSEEN_PX) & (self.head.tensors["opacity"].cpu() > FAINT)
        part = self.head.part_of()
        rows, counts = [], []
        halved: list[Tensor] = []
        for p in range(PARTS):
            mine = torch.nonzero((part == p) & seen)[:, 0]
            if p == MOUTH and fresh:  # it is seen once the face has learned to open
                mine = torch.nonzero(part == p)[:, 0]
            gone = self.head.counts[p] - len(mine)
            extra = mine[:0]
            if fresh and gone and len(mine):
                extra = mine[torch.argsort(-self.screen[mine])[: min(gone, len(mine))]]
            rows.append(torch.cat([mine, extra]))
            halved.append(torch.cat([torch.isin(mine, extra), torch.ones(len(extra), dtype=torch.bool)]))
            counts.append(len(mine) + len(extra))
        self.rearrange(torch.cat(rows), counts, torch.cat(halved))
        return int((~seen).sum())

    @torch.no_grad()
    def rearrange(self, rows: Tensor, counts: list[int], halved: Tensor) -> None:
        """New Gaussians from old ones; those `halved` are the two halves of one, side by side."""
        t, device = self.head.tensors, self.device
        rows_on, half = rows.to(device), halved.to(device)
        new = {name: t[name].detach()[rows_on].clone() for name in FIELDS}
        if half.any():
            size = torch.nn.functional.softplus(new["scale"][half])
            step = torch.randn(int(half.sum()), 3, generator=self._generator()).to(device) * size * 0.7
            new["xyz"][half] += step
            new["scale"][half] -= float(np.log(1.4))
        taken = torch.where(half, torch.full_like(rows_on, -1), rows_on)
        for name in FIELDS:
            self.head.tensors[name] = new[name].requires_grad_()
            self.adam.replace(name, self.head.tensors[name], taken)
        self.head.counts = counts
        self.screen = torch.zeros(len(self.head))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.rng.integers(1 << 31)))
