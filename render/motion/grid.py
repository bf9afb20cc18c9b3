"""The tri-plane encoder of positions: three stacks of bilinear grids, in plain torch; the judge of anything faster.

Every level of InsTaG's grids fits its table, so that nothing is hashed there; a table that is too small for a level
is addressed by the hash of Instant-NGP (Müller et al. 2022, equation 4), as the original would.
"""

import torch
from torch import Tensor, nn

from render.motion.tables import BOUND, HASH_PRIME, PLANES, Levels

INITIAL = 1e-4
"""embeddings start uniform in [-INITIAL, INITIAL]"""


class PlaneEncoder(nn.Module):
    """One plane: (..., 2) metres -> (..., LEVELS), one feature a level, coarse first.

    Gradients reach the embeddings and the positions. A point outside the square gets zeros and no gradient.
    """

    offsets: Tensor  # [LEVELS + 1] int32

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.levels = levels
        self.embeddings = nn.Parameter(torch.empty(levels.offsets[-1], 1).uniform_(-INITIAL, INITIAL))
        # The original saves it with its weights; ours follows from the levels, and importing checks that they agree.
        self.register_buffer("offsets", torch.tensor(levels.offsets, dtype=torch.int32), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        u = (positions + BOUND) / (2 * BOUND)
        inside = ((u >= 0) & (u <= 1)).all(-1, keepdim=True)  # [..., 1]
        u = torch.where(inside, u, 0.5)
        device = positions.device
        scales = torch.from_numpy(self.levels.scales).to(device, u.dtype)
        p = u[..., None, :] * scales[:, None] + 0.5  # [..., LEVELS, 2]
        corner = p.detach().floor()
        f = p - corner
        g = corner.long()
        table = self.embeddings[:, 0]
        out = torch.zeros_like(f[..., 0])
        for dy in (0, 1):
            wy = f[..., 1] if dy else 1 - f[..., 1]
            for dx in (0, 1):
                wx = f[..., 0] if dx else 1 - f[..., 0]
                out = out + wx * wy * table[self.rows(g[..., 0] + dx, g[..., 1] + dy)]
        return torch.where(inside, out, 0.0)

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Table rows of the corners (x, y) of every level, both [..., LEVELS] int64."""
        start = self.offsets.long()
        count = start[1:] - start[:-1]
        stride = torch.tensor(self.levels.strides, device=x.device)
        dense = x + y * stride
        if bool((stride**2 <= count).all()):
            return dense + start[:-1]
        hashed = (x ^ (y * HASH_PRIME & 0xFFFFFFFF)) % count
        return torch.where(stride**2 <= count, dense, hashed) + start[:-1]


class TriPlaneEncoder(nn.Module):
    """Base of every motion net: (N, 3) metres in the head's frame -> (N, ENCODING), planes xy, yz, xz."""

    encoder_xy: PlaneEncoder
    encoder_yz: PlaneEncoder
    encoder_xz: PlaneEncoder

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.encoder_xy = PlaneEncoder(levels)
        self.encoder_yz = PlaneEncoder(levels)
        self.encoder_xz = PlaneEncoder(levels)

    def encode(self, xyz: Tensor) -> Tensor:
        planes = (self.encoder_xy, self.encoder_yz, self.encoder_xz)
        axes = PLANES.values()
        return torch.cat([plane(xyz[..., pair]) for plane, pair in zip(planes, axes, strict=True)], dim=-1)
