"""Gaussian splatting on one CPU core: numba kernels from packed Gaussians to float planes, RGB24 or I420.

project -> sort by layer and depth -> bin into tiles of 64 x 64 px -> blend each tile -> convert it. Within a tile a
splat is cut into strips eight pixels wide; down a strip its exponential follows from the row above by two
multiplications. A pixel is not stopped at T < 1e-4: that skips next to nothing and costs a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from render.raster.gaussians import Bytes, Camera, Floats, Gaussians, LowPass
from render.raster.project import DELTAS, NUMBERS, RECORD, TILE_H, TILE_W, VALUES, S, numbers, pack, project
from render.raster.shapes import shape_features
from render.raster.simd import LANES
from render.raster.tiles import I420, RGB24, bin_, padded, paint, paint_planes, recolour, sort, tile_buffer


class Cloud:
    """An avatar's Gaussians packed for the kernels: read-only, shared by every call that shows it.

    Made of parts that lie one after the other, each from a block's beginning: each is seen by a camera of its own.
    """

    def __init__(self, gaussians: Gaussians | Sequence[Gaussians], moving: int = 0) -> None:
        """moving: the first so many Gaussians may be deformed; rounded up to a multiple of 8.

        Raises ValueError for parts that differ in their spherical harmonics.
        """
        parts = [gaussians] if isinstance(gaussians, Gaussians) else list(gaussians)
        sizes = [-(-len(part) // LANES) for part in parts]  # blocks
        self.starts = tuple(LANES * sum(sizes[:k]) for k in range(len(parts)))
        """the first Gaussian of each part, as `deltas` and `shifts` count them"""
        self.views = np.cumsum([0, *sizes]).astype(np.int64)
        self.size = len(parts[0]) if len(parts) == 1 else LANES * sum(sizes)
        if not 0 <= moving <= self.size:
            raise ValueError(f"{moving} of {self.size} Gaussians cannot move")
        bands = {part.sh.shape[1] for part in parts}
        if len(bands) > 1:
            raise ValueError(f"the parts of a cloud must have as many spherical harmonics each, not {sorted(bands)}")
        self.bands = bands.pop()
        self.moving = -(-moving // LANES) * LANES
        self.layers = np.zeros(LANES * sum(sizes), np.uint8)
        packed = np.empty((sum(sizes), VALUES, LANES), np.float32)
        sh = np.empty((sum(sizes), 3 * self.bands, LANES), np.float32)
        for part, start, size in zip(parts, self.starts, sizes, strict=True):
            if part.layers is not None:
                self.layers[start : start + len(part)] = part.layers
            arrays = (part.means, part.scales, part.rotations, part.opacities, part.sh)
            means, scales, rotations, opacities, colours = (np.ascontiguousarray(a, np.float32) for a in arrays)
            blocks = slice(start // LANES, start // LANES + size)
            pack(means, scales, rotations, opacities, colours, packed[blocks], sh[blocks])
        self.blocks = packed.ravel()
        self.sh = sh.ravel()
        # softplus's inverse, x + ln(1 - e^-x), in doubles; what is smaller than the least bound is as good as 0.
        drawn = np.maximum(packed[: self.moving // LANES, S : S + 3].astype(np.float64), 1e-12)
        self.raw = (drawn + np.log(-np.expm1(-drawn))).astype(np.float32).ravel()
        self.still = np.zeros(DELTAS * self.moving, np.float32)


NO_SHIFTS = np.zeros(0, np.float32)


class Background:
    """A picture behind the Gaussians, converted once to all that a rasteriser copies or blends it from."""

    def __init__(self, rgb: Bytes) -> None:
        """rgb: (H, W, 3), H and W even."""
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.shape[0] % 2 or rgb.shape[1] % 2 or not rgb.size:
            raise ValueError(f"a background is (H, W, 3) with even H and W, and this is {rgb.shape}")
        self.height, self.width = rgb.shape[:2]
        across, down = padded(self.width, self.height)
        plates = np.zeros((3, down * TILE_H, across * TILE_W), np.float32)
        plates[:, : self.height, : self.width] = rgb.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        self.plates = plates.ravel()
        self.rgb24 = np.ascontiguousarray(rgb, np.uint8).ravel()
        self.i420 = np.empty(self.width * self.height * 3 // 2, np.uint8)
        # By the kernel that converts blended tiles too: there is no seam between copied and painted ones.
        none = np.zeros(across * down + 1, np.int64)
        paint(
            np.zeros(RECORD, np.float32),
            np.zeros(1, np.uint32),
            none,
            self.plates,
            np.zeros(0, np.uint8),
            I420,
            self.i420,
            np.zeros(0, np.uint8),
            self.width,
            self.height,
            across,
            tile_buffer(),
        )

    @classmethod
    def plain(cls, width: int, height: int, colour: tuple[int, int, int] = (0, 0, 0)) -> "Background":
        """One colour, 0 to 255."""
        return cls(np.full((height, width, 3), colour, np.uint8))


@dataclass(frozen=True, slots=True)
class Planes:
    """Blended floats, without the background. The arrays are the rasteriser's own, until its next picture."""

    colour: Floats
    """(3, H, W), premultiplied"""
    transmittance: Floats
    """(H, W): what is left of the background; alpha is 1 minus this"""


class Rasteriser:
    """One call's pictures of a cloud at one size: what a frame needs is allocated here, once.

    Not to be used by two threads at a time; the GIL is free while it works. A frame never waits for a compiler if
    `warm` has run in this process.
    """

    def __init__(self, cloud: Cloud, width: int, height: int) -> None:
        self.cloud = cloud
        self.width, self.height = width, height
        self.tiles_x, self.tiles_y = padded(width, height)
        tiles, n = self.tiles_x * self.tiles_y, cloud.layers.size
        self.records = np.zeros((n + 1) * RECORD, np.float32)
        self.ids = np.zeros(n + 1, np.uint32)
        self.keys = np.zeros(n + 1, np.uint64)
        self.spare = np.zeros(n + 1, np.uint64)
        self.touched = np.zeros(n + 1, np.uint32)
        self.order = np.zeros(n + 1, np.uint32)
        self.counts = np.zeros(tiles, np.int64)
        self.offsets = np.zeros(tiles + 1, np.int64)
        self.lists = np.zeros(4 * n + 1024, np.uint32)
        self.scratch = np.zeros(20 * LANES, np.float32)
        self.buffer = tile_buffer()
        self.visible = 0
        self._cameras = np.zeros((len(cloud.starts), NUMBERS), np.float32)
        self._deltas = cloud.still

    def arrange(
        self,
        camera: Camera | Sequence[Camera],
        deltas: Floats | None = None,
        low_pass: LowPass | None = None,
        shifts: Floats | None = None,
    ) -> None:
        """Project, sort and bin: what every picture begins with.

        camera: one for each part of the cloud. deltas: (10, cloud.moving) float32: added to mean (3), quaternion (4),
        scales before softplus (3). shifts: (3, n) float32, added to the means of the last n packed Gaussians, n a
        multiple of 8. What is not finite counts as 0. Raises ValueError if something does not fit.
        """
        cloud = self.cloud
        cameras = [camera] if isinstance(camera, Camera) else camera
        if len(cameras) != len(cloud.starts):
            raise ValueError(f"{len(cameras)} cameras for a cloud of {len(cloud.starts)} parts")
        for each in cameras:
            if (each.width, each.height) != (self.width, self.height):
                raise ValueError(
                    f"the camera sees {each.width} x {each.height} pixels, and {self.width} x {self.height} are drawn"
                )
        if deltas is None:
            self._deltas = cloud.still
        elif deltas.shape != (DELTAS, cloud.moving) or deltas.dtype != np.float32:
            raise ValueError(
                f"deltas must be float32 ({DELTAS}, {cloud.moving}), and are {deltas.dtype} {deltas.shape}"
            )
        else:
            self._deltas = np.ascontiguousarray(deltas).ravel()
        places = cloud.layers.size
        moved = NO_SHIFTS if shifts is None else np.ascontiguousarray(shifts).reshape(-1)
        if shifts is not None and (
            shifts.dtype != np.float32
            or shifts.ndim != 2
            or len(shifts) != 3
            or shifts.shape[1] % LANES
            or shifts.shape[1] > places
        ):
            raise ValueError(
                f"shifts must be float32 (3, a multiple of 8 up to {places}), not {shifts.dtype} {shifts.shape}"
            )
        for k, each in enumerate(cameras):
            self._cameras[k] = numbers(each, low_pass or LowPass())
        self.visible = project(
            cloud.blocks,
            cloud.sh,
            cloud.bands,
            cloud.raw,
            self._deltas,
            cloud.moving,
            moved,
            places - len(moved) // 3,
            cloud.views,
            self._cameras.reshape(-1),
            self.width,
            self.height,
            self.records,
            self.ids,
            self.keys,
            self.touched,
            self.counts,
            self.tiles_x,
            self.scratch,
        )
        needed = int(self.counts.sum())
        if needed > self.lists.size:  # at most splats times tiles; seen only when a head fills the picture and more
            self.lists = np.zeros(needed + needed // 2, np.uint32)
        sort(self.visible, self.keys, self.spare, self.ids, cloud.layers, self.order)
        bin_(self.visible, self.order, self.touched, self.counts, self.offsets, self.lists, self.tiles_x)

    def i420(self, background: Background, out: Bytes | None = None, alpha: Bytes | None = None) -> Bytes:
        """What was arranged, over the background: (3 H / 2, W) BT.601 limited. alpha: (H, W), filled if given."""
        shape = (self.height * 3 // 2, self.width)
        return self._paint(I420, background, background.i420, shape, out, alpha)

    def rgb24(self, background: Background, out: Bytes | None = None, alpha: Bytes | None = None) -> Bytes:
        """What was arranged, over the background: (H, W, 3). alpha: (H, W), filled if given."""
        return self._paint(RGB24, background, background.rgb24, (self.height, self.width, 3), out, alpha)

    def _paint(
        self,
        kind: int,
        background: Background,
        copied: Bytes,
        shape: tuple[int, ...],
        out: Bytes | None,
        alpha: Bytes | None,
    ) -> Bytes:
        if (background.width, background.height) != (self.width, self.height):
            raise ValueError(
                f"a background of {background.width} x {background.height} for {self.width} x {self.height} pixels"
            )
        target = np.empty(shape, np.uint8) if out is None else out
        matte = np.zeros(0, np.uint8) if alpha is None else alpha
        for array, wanted in ((target, shape), (matte, (0,) if alpha is None else (self.height, self.width))):
            if array.shape != wanted or array.dtype != np.uint8 or not array.flags.c_contiguous:
                raise ValueError(f"the picture goes into contiguous bytes {wanted}, not {array.dtype} {array.shape}")
        paint(
            self.records,
            self.lists,
            self.offsets,
            background.plates,
            copied,
            kind,
            target.reshape(-1),
            matte.reshape(-1),
            self.width,
            self.height,
            self.tiles_x,
            self.buffer,
        )
        return target

    def planes(self) -> Planes:
        """What was arranged, as floats."""
        colour, transmittance = self.blended
        paint_planes(self.records, self.lists, self.offsets, self.tiles_x, colour, transmittance, self.buffer)
        full = (self.tiles_y * TILE_H, self.tiles_x * TILE_W)
        return Planes(
            colour.reshape(3, *full)[:, : self.height, : self.width],
            transmittance.reshape(full)[: self.height, : self.width],
        )

    @cached_property
    def blended(self) -> tuple[Floats, Floats]:
        """What `planes` fills: colour and transmittance, flat, in whole tiles."""
        plane = self.tiles_x * TILE_W * self.tiles_y * TILE_H
        return np.zeros(3 * plane, np.float32), np.zeros(plane, np.float32)

    def geometry(self) -> tuple[Floats, Floats]:
        """What was arranged: depth (H, W), the sum of alpha * T * view depth, not divided by alpha; and blended
        world-space normals (3, H, W), of length 1 where anything is drawn. The colours of this frame are used up."""
        normals = np.zeros((self.visible, 3), np.float32)
        depths = np.zeros((self.visible, 3), np.float32)
        self.shapes(normals, depths)
        recolour(self.records, self.visible, depths)
        depth = self.planes().colour[0].copy()
        recolour(self.records, self.visible, normals)
        blended = self.planes().colour
        return depth, blended / np.maximum(np.linalg.norm(blended, axis=0), np.float32(1e-12))

    def shapes(self, normals: Floats, depths: Floats) -> None:
        """Fill (visible, 3) each: normals, and depth 0 0. Raises ValueError for a cloud of several parts."""
        cloud = self.cloud
        if len(cloud.starts) > 1:
            raise ValueError("depth and normals are drawn of clouds in one part only")
        shape_features(
            cloud.blocks,
            cloud.raw,
            self._deltas,
            cloud.moving,
            self._cameras[0],
            self.visible,
            self.ids,
            normals,
            depths,
        )


def warm() -> None:
    """Compile every kernel of this module, or load it from disk: seconds the first time, then a fraction of one."""
    one = np.ones((1, 3), np.float32)
    sh = np.zeros((1, 9, 3), np.float32)
    gaussians = Gaussians(one * 0, one * 0.01, np.ones((1, 4), np.float32), one[:, 0], sh)
    rasteriser = Rasteriser(Cloud(gaussians, moving=1), TILE_W, TILE_H)
    looking = np.eye(3, 4, dtype=np.float32)
    looking[2, 3] = 1
    camera = Camera(looking, (64.0, 64.0), (32.0, 16.0), TILE_W, TILE_H)
    background = Background.plain(TILE_W, TILE_H)
    alpha = np.zeros((TILE_H, TILE_W), np.uint8)
    rasteriser.arrange(camera, np.zeros((DELTAS, LANES), np.float32))
    rasteriser.i420(background, alpha=alpha)
    rasteriser.rgb24(background)
    rasteriser.planes()
    rasteriser.geometry()
