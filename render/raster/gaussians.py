"""What a rasteriser draws: Gaussians, the camera that sees them, and the low-pass filter of the screen."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# The rules of 3D Gaussian splatting (Kerbl et al. 2023), the same in every rasteriser here.
ALPHA_MAX = 0.99
ALPHA_MIN = 1 / 255  # what is fainter is skipped
T_MIN = 1e-4  # a pixel is finished when less than this would shine through
NEAR = 0.2  # Gaussians with a smaller view depth are culled, in the camera's unit
DILATION = 0.3  # px², added to both axes of a projected covariance
WIDEST = 1.3  # the projection is linearised no farther out than this many half pictures

LAYERS = 4
LARGEST = 8192  # pixels across or down a picture
SH_COUNTS = (1, 4, 9)  # spherical harmonics of degree 0, 1 and 2

# Real spherical harmonics with the signs of 3DGS: colour = 0.5 + sum of C * polynomial(direction) * coefficient.
SH_C0 = 0.28209479177387814
SH_C1 = 0.4886025119029199
SH_C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)


@dataclass(frozen=True, slots=True)
class Gaussians:
    """N Gaussians as they are drawn, activations done. Anything that is not finite hides its Gaussian."""

    means: Floats
    """(N, 3), in the world's unit"""
    scales: Floats
    """(N, 3) standard deviations along the own axes, not negative, same unit"""
    rotations: Floats
    """(N, 4) quaternions w x y z of any length: own axes to the world's"""
    opacities: Floats
    """(N,), 0 to 1"""
    sh: Floats
    """(N, K, 3) spherical harmonics of red, green and blue, K = 1, 4 or 9"""
    layers: Bytes | None = None
    """(N,), 0 to 3: a lower layer lies over a higher one whatever the depths (face 0, inner mouth 1); None: all 0"""

    def __post_init__(self) -> None:
        n = len(self.means)
        shapes = {"means": (n, 3), "scales": (n, 3), "rotations": (n, 4), "opacities": (n,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must be {shape}, and is {getattr(self, name).shape}")
        if self.sh.ndim != 3 or self.sh.shape[0] != n or self.sh.shape[1] not in SH_COUNTS or self.sh.shape[2] != 3:
            raise ValueError(f"sh must be ({n}, 1, 4 or 9, 3), and is {self.sh.shape}")
        if self.layers is not None and (self.layers.shape != (n,) or (n and int(self.layers.max()) >= LAYERS)):
            raise ValueError(f"layers must be ({n},) of 0 to {LAYERS - 1}")

    def __len__(self) -> int:
        return len(self.means)


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole in OpenCV axes (x right, y down, z forward); the first pixel's middle is at (0.5, 0.5)."""

    world_to_camera: Floats
    """(3, 4)"""
    focal: tuple[float, float]
    """Pixels"""
    centre: tuple[float, float]
    """Pixels; the middle of the picture is (width / 2, height / 2)"""
    width: int
    height: int

    def __post_init__(self) -> None:
        if np.shape(self.world_to_camera) != (3, 4):
            raise ValueError(f"world_to_camera must be (3, 4), and is {np.shape(self.world_to_camera)}")
        numbers = np.abs([*np.ravel(self.world_to_camera), *self.focal, *self.centre])
        if not (numbers < 1e5).all() or min(self.focal) < 1:  # so that float32 is enough in the kernels
            raise ValueError("a camera needs focal lengths of 1 to 100,000 px, and nothing larger or not finite")
        if not (0 < self.width <= LARGEST and 0 < self.height <= LARGEST):
            raise ValueError(f"a picture of {self.width} x {self.height} pixels cannot be drawn")

    def shrunk(self, factor: float) -> Self:
        """The same view with 1/factor of the pixels each way."""
        (fx, fy), (cx, cy) = self.focal, self.centre
        size = round(self.width / factor), round(self.height / factor)
        return type(self)(self.world_to_camera, (fx / factor, fy / factor), (cx / factor, cy / factor), *size)

    def limits(self) -> tuple[float, float, float, float]:
        """Least and greatest x/z, then y/z, at which the projection is linearised; beyond, the nearest is used."""
        out = []
        for size, focal, centre in zip((self.width, self.height), self.focal, self.centre, strict=True):
            margin = (WIDEST - 1) * size / 2
            out += [(-centre - margin) / focal, (size - centre + margin) / focal]
        return out[0], out[1], out[2], out[3]


@dataclass(frozen=True, slots=True)
class LowPass:
    """The blur that stands for a pixel's area, and the opacity that goes with it (Mip-splatting, Yu et al. 2024).

    A projected covariance S is drawn as S + variance, its opacity times sqrt(|S + trained| / |S + variance|): the
    splat keeps the weight that it had when S + trained was drawn. With both alike the opacity stays as it is.
    """

    variance: float = DILATION
    """px² of this picture"""
    trained: float = DILATION
    """px² of this picture: what the Gaussians were trained with"""

    def __post_init__(self) -> None:
        if not (0.01 <= self.variance <= 100 and 0 <= self.trained <= 100):
            raise ValueError(f"a low-pass of {self.variance} px² after {self.trained} px² is out of range")

    @classmethod
    def shrunk(cls, factor: float) -> Self:
        """For a picture with 1/factor of the pixels each way that it was trained with.

        What was trained shrinks with the picture; the mean over factor x factor pixels then adds the variance of
        that many samples, (1 - 1/factor²) / 12. At factor 1 this is the plain rule.
        """
        if factor < 1:
            raise ValueError(f"a picture larger than it was trained (factor {factor:g}) needs no low-pass of its own")
        trained = DILATION / factor**2
        return cls(trained + (1 - 1 / factor**2) / 12, trained)
