"""gsplat's middle level in slow plain torch, so that everything around it can be tried without a GPU.

Written from gsplat 1.5.3's documentation and behaviour: alpha capped at 0.999, faint below 1/255, done at 1e-4.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

CAP, FAINT, DONE = 0.999, 1 / 255, 1e-4


class DenseKernels:
    """Every splat at every pixel."""

    def __init__(self, cap: float = CAP) -> None:
        self.cap = cap

    def fully_fused_projection(
        self,
        means: Tensor,
        covars: Tensor | None,
        quats: Tensor,
        scales: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        eps2d: float,
        near_plane: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        turn, shift = viewmats[..., :3, :3], viewmats[..., :3, 3]
        seen = means[..., None, :, :] @ turn.transpose(-1, -2) + shift[..., None, :]
        depths = seen[..., 2]
        fx, fy, cx, cy = (Ks[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        good = depths > near_plane
        z = torch.where(good, depths, torch.ones_like(depths))
        u, v = seen[..., 0] / z, seen[..., 1] / z
        middles = torch.stack([fx * u + cx, fy * v + cy], -1)
        u = u.clamp(-(cx / fx + 0.15 * width / fx), (width - cx) / fx + 0.15 * width / fx)
        v = v.clamp(-(cy / fy + 0.15 * height / fy), (height - cy) / fy + 0.15 * height / fy)
        zero = torch.zeros_like(z)
        jacobian = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], -1)
        jacobian = jacobian.reshape(*z.shape, 2, 3)
        half = jacobian @ turn[..., None, :, :] @ (matrices(quats) * scales[..., None, :])[..., None, :, :, :]
        covariances = half @ half.transpose(-1, -2) + eps2d * torch.eye(2, dtype=means.dtype)
        a, b, c = covariances[..., 0, 0], covariances[..., 0, 1], covariances[..., 1, 1]
        det = a * c - b * b
        conics = torch.stack([c / det, -b / det, a / det], -1)
        reach = torch.stack([3.33 * a.sqrt(), 3.33 * c.sqrt()], -1).ceil().int()
        size = torch.tensor([width, height])
        inside = ((middles + reach > 0) & (middles - reach < size)).all(-1) & good
        return reach * inside[..., None], middles, depths, conics, None

    def isect_tiles(
        self, means2d: Tensor, radii: Tensor, depths: Tensor, tile_size: int, tile_width: int, tile_height: int
    ) -> tuple[Any, Any, Tensor]:
        """The order of the whole picture stands for that of each of its tiles; what was culled is left out."""
        hidden = (radii <= 0).any(-1)
        order = torch.argsort(torch.where(hidden, torch.inf, depths), dim=-1, stable=True)
        seen = (~hidden).sum(-1, keepdim=True)
        order = torch.where(torch.arange(order.shape[-1]) < seen, order, -1)
        return None, None, order

    def isect_offset_encode(self, isect_ids: Any, n_images: int, tile_width: int, tile_height: int) -> Tensor:
        return torch.zeros(n_images, tile_height, tile_width)

    def rasterize_to_pixels(
        self,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        image_width: int,
        image_height: int,
        tile_size: int,
        isect_offsets: Tensor,
        flatten_ids: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y, x = torch.meshgrid(torch.arange(image_height) + 0.5, torch.arange(image_width) + 0.5, indexing="ij")
        pictures, alphas = [], []
        for picture in range(len(means2d)):
            left = torch.ones(image_height, image_width, dtype=means2d.dtype)
            done = torch.zeros_like(left, dtype=torch.bool)
            out = torch.zeros(image_height, image_width, colors.shape[-1], dtype=means2d.dtype)
            for i in flatten_ids[picture].tolist():
                if i < 0:
                    continue
                dx, dy = x - means2d[picture, i, 0], y - means2d[picture, i, 1]
                a, b, c = conics[picture, i].unbind()
                power = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = (opacities[picture, i] * torch.exp(-power)).clamp(max=self.cap)
                after = left * (1 - alpha)
                blend = (alpha >= FAINT) & ~done
                done = done | (blend & (after <= DONE))
                blend = blend & (after > DONE)
                share = torch.where(blend, alpha * left, torch.zeros_like(left))
                out = out + share[..., None] * colors[picture, i]
                left = torch.where(blend, after, left)
            pictures.append(out)
            alphas.append(1 - left)
        return torch.stack(pictures), torch.stack(alphas)[..., None]


class GsplatProjection(DenseKernels):
    """The same with gsplat's own reference of its projection, for what that can do."""

    def fully_fused_projection(
        self,
        means: Tensor,
        covars: Tensor | None,
        quats: Tensor,
        scales: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        eps2d: float,
        near_plane: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        from gsplat.cuda import _torch_impl as reference

        whole, _ = reference._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
        found = reference._fully_fused_projection(
            means, whole, viewmats, Ks, width, height, eps2d=eps2d, near_plane=near_plane
        )
        radii, middles, depths, conics, _ = found
        return radii, middles, depths, conics, None


def matrices(quaternions: Tensor) -> Tensor:
    """(..., 4) -> (..., 3, 3), by the product of q with i, j and k."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    first = torch.stack([w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 2 * (x * z - w * y)], -1)
    second = torch.stack([2 * (x * y - w * z), w * w - x * x + y * y - z * z, 2 * (y * z + w * x)], -1)
    third = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), w * w - x * x - y * y + z * z], -1)
    return torch.stack([first, second, third], -1)


def layered(n: int, seed: int = 5) -> np.ndarray:
    """(n,) bytes of 0, 1 and 2, in no order."""
    return np.random.default_rng(seed).integers(0, 3, n).astype(np.uint8)
