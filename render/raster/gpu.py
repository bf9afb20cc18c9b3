"""Gaussian splatting on CUDA through gsplat, behind the calls of the CPU rasteriser, for one picture or for many.

Written for and checked against gsplat 1.5.3 (Apache-2.0), used at its middle level: projection, sorting into tiles,
blending. What differs from our rules (render/raster/gaussians.py): gsplat caps alpha at 0.999 and not at 0.99, so a
background that shines by 1 % through an opaque splat on the CPU shines by 0.1 % here; sums run in float32 with fast
exponentials. Layers cost nothing: tiles are sorted by a key that puts every splat of a lower layer before those of a
higher one, so that face, inner mouth and torso are one pass, as on the CPU. gsplat compiles itself on first use
(minutes): call `warm`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from render.raster.backward import Blended, Gradients
from render.raster.gaussians import (
    DILATION,
    NEAR,
    SH_C0,
    SH_C1,
    SH_C2,
    Camera,
    Floats,
    Gaussians,
    LowPass,
)

TILE = 16
VERSION = "1.5"
"""of gsplat, whose middle level this was written for"""


class Kernels(Protocol):
    """What is used of the module gsplat; its documentation has the shapes. Tests bring slow kernels for the CPU."""

    def fully_fused_projection(
        self,
        means: Tensor,
        covars: Tensor | None,
        quats: Tensor | None,
        scales: Tensor | None,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        eps2d: float,
        near_plane: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]: ...

    def isect_tiles(
        self, means2d: Tensor, radii: Tensor, depths: Tensor, tile_size: int, tile_width: int, tile_height: int
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def isect_offset_encode(self, isect_ids: Tensor, n_images: int, tile_width: int, tile_height: int) -> Tensor: ...

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
    ) -> tuple[Tensor, Tensor]: ...


class GpuMissing(RuntimeError):
    """There is no CUDA device, or no gsplat; the message says what to do."""


def gsplat_kernels() -> Kernels:
    """gsplat on CUDA. Raises GpuMissing."""
    if not torch.cuda.is_available():
        raise GpuMissing("There is no CUDA device here: use the CPU rasteriser.")
    try:
        import gsplat
    except ImportError as error:
        raise GpuMissing("gsplat is not installed: pip install 'visavis[gpu]'.") from error
    if not gsplat.__version__.startswith(VERSION):
        raise GpuMissing(f"gsplat {gsplat.__version__} is not {VERSION}: pip install 'visavis[gpu]'.")
    kernels: Kernels = gsplat
    return kernels


@dataclass(frozen=True, slots=True)
class Projected:
    """N splats in each of B pictures."""

    radii: Tensor
    """(B, N, 2) integers; 0 for what is culled"""
    middles: Tensor
    """(B, N, 2) px"""
    depths: Tensor
    """(B, N)"""
    conics: Tensor
    """(B, N, 3) inverse covariances, low-pass included; of nothing where culled"""

    @classmethod
    def joined(cls, parts: "Sequence[Projected]") -> "Projected":
        """Of several parts of one picture, in this order."""
        return cls(
            torch.cat([p.radii for p in parts], 1),
            torch.cat([p.middles for p in parts], 1),
            torch.cat([p.depths for p in parts], 1),
            torch.cat([p.conics for p in parts], 1),
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """B pictures."""

    values: Tensor
    """(B, channels, H, W), premultiplied"""
    transmittance: Tensor
    """(B, H, W)"""


def matrix(camera: Camera, like: Tensor) -> Tensor:
    """(3, 3) intrinsics."""
    (fx, fy), (cx, cy) = camera.focal, camera.centre
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=like.dtype, device=like.device)


def project(
    kernels: Kernels,
    means: Tensor,
    scales: Tensor,
    rotations: Tensor,
    views: Tensor,
    camera: Camera,
    low_pass: LowPass,
) -> Projected:
    """means (B, N, 3), one set for each picture, or (N, 3), shared; scales (3) and rotations (4) likewise.

    views: (B, 4, 4) world to camera; of `camera` the lens and the size are used.
    """
    shared = means.dim() == 2
    lens = matrix(camera, means)
    found = kernels.fully_fused_projection(
        means.contiguous(),
        None,
        rotations.contiguous(),
        scales.contiguous(),
        (views if shared else views[:, None]).contiguous(),
        lens.expand(len(views), 3, 3).contiguous() if shared else lens.expand(len(views), 1, 3, 3).contiguous(),
        camera.width,
        camera.height,
        eps2d=low_pass.variance,
        near_plane=NEAR,
    )
    radii, middles, depths, conics = found[:4]
    if shared:
        return Projected(radii, middles, depths, conics)
    return Projected(radii[:, 0], middles[:, 0], depths[:, 0], conics[:, 0])


def sorting_key(depths: Tensor, layers: Tensor | None) -> Tensor:
    """Rises with the layer first, then with the depth (positive): gsplat sorts tiles by the bits of this float.

    d / (1 + d) keeps every depth within its layer's unit; at 1 m float32 still tells micrometres apart.
    """
    within = depths / (1 + depths)
    return within if layers is None else within + layers.to(depths.dtype)


def blend(
    kernels: Kernels,
    projected: Projected,
    opacities: Tensor,
    values: Tensor,
    layers: Tensor | None,
    camera: Camera,
    low_pass: LowPass,
) -> Drawn:
    """opacities (B, N); values (B, N, channels); layers (N,): a lower one lies over a higher one; None: all alike."""
    p = projected
    batch, width, height = len(p.middles), camera.width, camera.height
    if low_pass.trained != low_pass.variance:
        seen = (p.radii > 0).all(-1, keepdim=True)
        opacities = opacities * weight(torch.where(seen, p.conics, torch.ones_like(p.conics)), low_pass)
    across, down = -(-width // TILE), -(-height // TILE)
    key = sorting_key(p.depths.detach().clamp(min=NEAR / 2), layers)
    _, ids, order = kernels.isect_tiles(p.middles.detach(), p.radii, key, TILE, across, down)
    offsets = kernels.isect_offset_encode(ids, batch, across, down).reshape(batch, down, across)
    blended, alpha = kernels.rasterize_to_pixels(
        p.middles, p.conics, values, opacities, width, height, TILE, offsets, order
    )
    return Drawn(blended.permute(0, 3, 1, 2), 1 - alpha[..., 0])


def weight(conics: Tensor, blur: LowPass) -> Tensor:
    """sqrt(|S + trained| / |S + variance|) of the inverses (..., 3) of S + variance: see LowPass."""
    a, b, c = conics.unbind(-1)
    inverse = a * c - b * b  # 1 / |S + variance|
    off = blur.trained - blur.variance
    # |S + variance + off I| = |M| + off tr M + off², and M's trace is the conic's over its determinant.
    share = 1 + off * (a + c) + off * off * inverse
    return share.clamp(min=0).sqrt()


def harmonics(directions: Tensor, sh: Tensor) -> Tensor:
    """Colours (..., 3), not negative, of unit directions (..., 3) and coefficients (..., K, 3), K = 1, 4 or 9."""
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0)]
    if sh.shape[-2] > 1:
        basis += [-SH_C1 * y, SH_C1 * z, -SH_C1 * x]
    if sh.shape[-2] > 4:
        a, b, c = SH_C2
        basis += [a * x * y, -a * y * z, b * (2 * z * z - x * x - y * y), -a * x * z, c * (x * x - y * y)]
    return (0.5 + (torch.stack(basis, -1)[..., None] * sh).sum(-2)).clamp(min=0)


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """(..., 4) w x y z of any length -> (..., 3, 3)."""
    w, x, y, z = functional.normalize(quaternions, dim=-1, eps=1e-6).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def facing(rotations: Tensor, scales: Tensor, toward: Tensor) -> Tensor:
    """(..., 3): the shortest own axis in the world, turned against `toward`, the direction from the camera."""
    a, b, c = scales.unbind(-1)
    axis = torch.where((c < a) & (c < b), 2, torch.where(b < a, 1, 0))
    own = rotation_matrices(rotations)
    normals = own.gather(-1, axis[..., None, None].expand(*axis.shape, 3, 1))[..., 0]
    return torch.where((normals * toward).sum(-1, keepdim=True) > 0, -normals, normals)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture without its background, and what gradients go back through."""

    colour: Tensor
    """(3, H, W), premultiplied"""
    transmittance: Tensor
    """(H, W)"""
    depth: Tensor | None
    """(H, W): sum of alpha * T * view depth, if geometry was asked for"""
    normals: Tensor | None
    """(3, H, W): blended world-space normals, not normalised, if geometry was asked for"""
    features: tuple[Tensor, ...]
    """(3, H, W) each"""
    middles: Tensor
    """(1, N, 2) px; its gradient is what densification looks at"""
    visible: Tensor
    """(N,) booleans"""


def picture(
    kernels: Kernels,
    means: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    sh: Tensor,
    layers: Tensor | None,
    camera: Camera,
    low_pass: LowPass | None = None,
    *,
    geometry: bool = False,
    features: Sequence[Tensor] = (),
) -> Picture:
    """Gaussians as render.raster.gaussians.Gaussians has them, in tensors of one device, to one picture.

    One pass, whatever is asked for. What is not finite is hidden, as on the CPU.
    """
    blur = low_pass or LowPass()
    rows = [t.detach().isfinite().reshape(len(means), -1).all(1) for t in (means, scales, rotations, opacities, sh)]
    finite = torch.stack(rows).all(0)
    means, scales, rotations, sh = (_clean(t, finite) for t in (means, scales, rotations, sh))
    opacities = _clean(opacities, finite).clamp(max=1)
    view = torch.eye(4, dtype=means.dtype, device=means.device)
    view[:3] = torch.tensor(np.asarray(camera.world_to_camera, np.float32), dtype=means.dtype, device=means.device)
    place = -view[:3, :3].T @ view[:3, 3]
    toward = functional.normalize(means - place, dim=-1, eps=1e-12)
    values = [harmonics(toward, sh)]
    if geometry:
        values.append(facing(rotations, scales, toward.detach()))
    seen = project(kernels, means, scales.clamp(min=0), rotations, view[None], camera, blur)
    values += features
    if geometry:
        values.append(seen.depths[0][:, None])
    drawn = blend(kernels, seen, opacities[None], torch.cat(values, -1)[None], layers, camera, blur)
    planes = drawn.values[0]
    first = 6 if geometry else 3
    return Picture(
        planes[:3],
        drawn.transmittance[0],
        planes[-1] if geometry else None,
        planes[3:6] if geometry else None,
        tuple(planes[first + 3 * k : first + 3 * k + 3] for k in range(len(features))),
        seen.middles,
        (seen.radii[0] > 0).all(-1),
    )


class GpuRasteriser:
    """`render.raster.backward.DifferentiableRasteriser` on a GPU: the same calls, numpy in and out."""

    def __init__(self, width: int, height: int, device: str = "cuda", kernels: Kernels | None = None) -> None:
        """Raises GpuMissing."""
        self.width, self.height = width, height
        self.kernels = kernels or gsplat_kernels()
        self.device = torch.device(device)
        self._leaves: list[Tensor] = []
        self._drawn: Picture | None = None

    def forward(
        self,
        camera: Camera,
        gaussians: Gaussians,
        low_pass: LowPass | None = None,
        *,
        geometry: bool = False,
        features: Sequence[Floats] = (),
    ) -> Blended:
        """geometry: depth and normals too. features: (N, 3) each, blended like colours. All in one pass."""
        if (camera.width, camera.height) != (self.width, self.height):
            raise ValueError(
                f"the camera sees {camera.width} x {camera.height} pixels, and {self.width} x {self.height} are drawn"
            )
        g = gaussians
        for feature in features:
            if feature.shape != (len(g), 3):
                raise ValueError(f"features must be ({len(g)}, 3), and are {feature.shape}")
        leaves = [self._tensor(a).requires_grad_() for a in (g.means, g.scales, g.rotations, g.opacities, g.sh)]
        extra = [self._tensor(feature).requires_grad_() for feature in features]
        means, scales, rotations, opacities, sh = leaves
        layers = None if g.layers is None else torch.as_tensor(g.layers, device=self.device)
        drawn = picture(
            self.kernels,
            means,
            scales,
            rotations,
            opacities,
            sh,
            layers,
            camera,
            low_pass,
            geometry=geometry,
            features=extra,
        )
        drawn.middles.retain_grad()
        self._leaves, self._drawn = [*leaves, *extra], drawn
        return Blended(
            _numpy(drawn.colour),
            _numpy(drawn.transmittance),
            None if drawn.depth is None else _numpy(drawn.depth),
            None if drawn.normals is None else _numpy(drawn.normals),
            tuple(_numpy(feature) for feature in drawn.features),
        )

    def backward(
        self,
        colour: Floats,
        transmittance: Floats | None = None,
        *,
        depth: Floats | None = None,
        normals: Floats | None = None,
        features: Sequence[Floats | None] = (),
    ) -> Gradients:
        """The loss's gradients by what `forward` gave, in its shapes; None: zero. Once for each `forward`.

        Raises RuntimeError before the first `forward`, ValueError for gradients of what `forward` did not make.
        """
        drawn = self._drawn
        if drawn is None:
            raise RuntimeError("there is nothing to go back through: call forward first")
        made = (drawn.colour, drawn.transmittance, drawn.depth, drawn.normals, *drawn.features)
        given = (colour, transmittance, depth, normals, *features)
        if (drawn.depth is None and (depth is not None or normals is not None)) or len(given) > len(made):
            raise ValueError("gradients were given for what forward was not asked for")
        wanted = [(out, self._tensor(of)) for out, of in zip(made, given, strict=False) if of is not None]
        torch.autograd.backward([out for out, _ in wanted if out is not None], [of for _, of in wanted])
        self._drawn = None
        kept = [_gradient(leaf) for leaf in self._leaves]
        middles = _gradient(drawn.middles)[0]
        hidden = ~drawn.visible.cpu().numpy()
        for array in (*kept, middles):
            array[hidden] = 0
        return Gradients(kept[0], kept[1], kept[2], kept[3], kept[4], tuple(kept[5:]), middles)

    def _tensor(self, array: Any) -> Tensor:
        return torch.tensor(np.asarray(array, np.float32), device=self.device)


def _clean(array: Tensor, finite: Tensor) -> Tensor:
    """(N,) with zeros (opacities), or (N, ...) with ones, in the rows that are to be hidden."""
    rows = finite.reshape(-1, *[1] * (array.dim() - 1))
    return torch.where(rows, array, torch.zeros_like(array) if array.dim() == 1 else torch.ones_like(array))


def _numpy(tensor: Tensor) -> Floats:
    return np.asarray(np.nan_to_num(tensor.detach().cpu().numpy()), np.float32)


def _gradient(leaf: Tensor) -> Floats:
    return np.zeros(tuple(leaf.shape), np.float32) if leaf.grad is None else _numpy(leaf.grad)


def to_i420(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) of 0 to 1, H and W even -> (B, 3 H / 2, W) bytes, BT.601 limited range; as the CPU rounds them."""
    batch, _, height, width = pictures.shape
    r, g, b = pictures.clamp(0, 1).unbind(1)
    luma = 65.481 * r + 128.553 * g + 24.966 * b + 16.5
    small = functional.avg_pool2d(pictures.clamp(0, 1), 2)
    r, g, b = small.unbind(1)
    blue = -37.797 * r - 74.203 * g + 112 * b + 128.5
    red = 112 * r - 93.786 * g - 18.214 * b + 128.5
    planes = [luma.reshape(batch, -1), blue.reshape(batch, -1), red.reshape(batch, -1)]
    return torch.cat(planes, 1).to(torch.uint8).reshape(batch, height * 3 // 2, width)


def warm(device: str = "cuda", kernels: Kernels | None = None) -> None:
    """Compile gsplat, which takes minutes the first time on a machine, and run every kernel once."""
    one = np.ones((1, 3), np.float32)
    gaussians = Gaussians(
        one * 0, one * 0.01, np.ones((1, 4), np.float32), one[:, 0] * 0.5, np.zeros((1, 4, 3), np.float32)
    )
    looking = np.eye(3, 4, dtype=np.float32)
    looking[2, 3] = 1
    rasteriser = GpuRasteriser(TILE, TILE, device, kernels)
    camera = Camera(looking, (64.0, 64.0), (TILE / 2, TILE / 2), TILE, TILE)
    drawn = rasteriser.forward(camera, gaussians, LowPass(DILATION), geometry=True)
    rasteriser.backward(drawn.colour, drawn.transmittance, depth=drawn.depth, normals=drawn.normals)
