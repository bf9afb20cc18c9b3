"""Gaussians to a picture and back, as torch sees it: our CPU rasteriser with its own backward, or gsplat on a GPU."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from render.raster import gpu
from render.raster.backward import DifferentiableRasteriser
from render.raster.gaussians import Camera, Gaussians


@dataclass
class Splats:
    """N Gaussians as they are drawn, activations done."""

    means: Tensor  # (N, 3)
    scales: Tensor  # (N, 3)
    rotations: Tensor  # (N, 4)
    opacities: Tensor  # (N,)
    sh: Tensor  # (N, K, 3)
    layers: Tensor  # (N,) uint8

    def __len__(self) -> int:
        return len(self.means)


@dataclass
class Picture:
    """What was drawn, without the background."""

    colour: Tensor  # (3, H, W), premultiplied
    transmittance: Tensor  # (H, W)
    depth: Tensor | None = None  # (H, W), sum of weight times view depth
    normals: Tensor | None = None  # (3, H, W), in the world's axes, blended


class Painter:
    """Pictures of one size. After a backward pass `screen` holds what densification looks at."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.screen: Tensor | None = None
        """(N, 2) of the last backward pass: the loss by the middle of each splat, in pixels"""
        self._cpu: DifferentiableRasteriser | None = None
        self._kernels: gpu.Kernels | None = None

    def draw(self, camera: Camera, splats: Splats, *, geometry: bool = False) -> Picture:
        if splats.means.device.type != "cpu":
            return self._on_gpu(camera, splats, geometry)
        if self._cpu is None:
            self._cpu = DifferentiableRasteriser(self.width, self.height)
        s = splats
        out = _Draw.apply(  # type: ignore[no-untyped-call]
            s.means, s.scales, s.rotations, s.opacities, s.sh, s.layers, camera, self, geometry
        )
        return Picture(*out)

    def _on_gpu(self, camera: Camera, splats: Splats, geometry: bool) -> Picture:
        """Raises GpuMissing."""
        if self._kernels is None:
            self._kernels = gpu.gsplat_kernels()
        s = splats
        drawn = gpu.picture(
            self._kernels, s.means, s.scales, s.rotations, s.opacities, s.sh, s.layers, camera, geometry=geometry
        )
        if drawn.middles.requires_grad:
            drawn.middles.register_hook(self._pulled)  # type: ignore[no-untyped-call]
        return Picture(drawn.colour, drawn.transmittance, drawn.depth, drawn.normals)

    def _pulled(self, gradient: Tensor) -> None:
        self.screen = gradient[0].detach()


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        scales: Tensor,
        rotations: Tensor,
        opacities: Tensor,
        sh: Tensor,
        layers: Tensor,
        camera: Camera,
        painter: Painter,
        geometry: bool,
    ) -> tuple[Tensor, ...]:
        given = [np.ascontiguousarray(t.detach().numpy()) for t in (means, scales, rotations, opacities, sh)]
        assert painter._cpu is not None
        m, s, r, o, h = given
        drawn = painter._cpu.forward(camera, Gaussians(m, s, r, o, h, layers.numpy()), geometry=geometry)
        ctx.painter, ctx.geometry = painter, geometry
        out = [drawn.colour, drawn.transmittance]
        if drawn.depth is not None and drawn.normals is not None:
            out += [drawn.depth, drawn.normals]
        return tuple(torch.from_numpy(a) for a in out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arrays = [None if g is None else np.ascontiguousarray(g.numpy()) for g in grads]
        painter: Painter = ctx.painter
        assert painter._cpu is not None
        colour = arrays[0] if arrays[0] is not None else np.zeros((3, painter.height, painter.width), np.float32)
        depth, normals = (arrays[2], arrays[3]) if ctx.geometry else (None, None)
        back = painter._cpu.backward(colour, arrays[1], depth=depth, normals=normals)
        painter.screen = torch.from_numpy(back.screen)
        given = (back.means, back.scales, back.rotations, back.opacities, back.sh)
        return *(torch.from_numpy(a) for a in given), None, None, None, None
