"""The judge: Gaussian splatting in float64 and plain numpy, one Gaussian after the other, exact by its rules."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from render.raster.gaussians import (
    ALPHA_MAX,
    ALPHA_MIN,
    NEAR,
    SH_C0,
    SH_C1,
    SH_C2,
    T_MIN,
    Camera,
    Gaussians,
    LowPass,
)

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Picture:
    """Blended planes; none of them has the background in it."""

    colour: Doubles
    """(3, H, W), premultiplied"""
    transmittance: Doubles
    """(H, W): what is left of the background; alpha is 1 minus this"""
    depth: Doubles
    """(H, W): sum of alpha * T * view depth, not divided by alpha"""
    normals: Doubles
    """(3, H, W): blended world-space directions of the shortest axes, turned to the camera, not normalised"""

    def over(self, background: Doubles) -> Doubles:
        """background: (3, H, W) or (3, 1, 1). The composite, clipped to 0..1."""
        return np.clip(self.colour + self.transmittance * background, 0, 1)


@dataclass(slots=True)
class Decisions:
    """What a picture decided: order, and per Gaussian the pixels blended and the pixels capped.

    Handed back to `draw`, they are held, so that finite differences see a smooth function: one pixel that crosses
    1/255 within the step would else make a jump that buries the derivative.
    """

    order: list[int] = field(default_factory=list)
    blended: dict[int, Bools] = field(default_factory=dict)
    capped: dict[int, Bools] = field(default_factory=dict)
    boxes: dict[int, tuple[slice, slice]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Projection:
    """Gaussians on the screen."""

    means: Doubles
    """(N, 2) px"""
    covariances: Doubles
    """(N, 2, 2) px², low-pass included"""
    opacities: Doubles
    """(N,), compensated"""
    colours: Doubles
    """(N, 3)"""
    depths: Doubles
    """(N,)"""
    normals: Doubles
    """(N, 3), world space"""
    visible: Bools
    """(N,): in front of the camera, and finite"""


def rotations(quaternions: Doubles) -> Doubles:
    """(N, 4) w x y z of any length to (N, 3, 3)."""
    length = np.linalg.norm(quaternions, axis=1, keepdims=True)
    w, x, y, z = (quaternions / np.where(length > 0, length, 1)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def harmonics(directions: Doubles, count: int) -> Doubles:
    """(N, 3) unit directions to the (N, count) values of the basis."""
    x, y, z = directions.T
    a, b, c = SH_C2
    basis = [np.full_like(x, SH_C0), -SH_C1 * y, SH_C1 * z, -SH_C1 * x]
    basis += [a * x * y, -a * y * z, b * (2 * z * z - x * x - y * y), -a * x * z, c * (x * x - y * y)]
    return np.stack(basis[:count], 1)


def project(camera: Camera, gaussians: Gaussians, low_pass: LowPass) -> Projection:
    """EWA splatting: the perspective linearised at each mean (Zwicker et al. 2001)."""
    arrays = [gaussians.means, gaussians.scales, gaussians.rotations, gaussians.opacities[:, None]]
    flat = np.concatenate([np.asarray(a, np.float64) for a in [*arrays, gaussians.sh.reshape(len(gaussians), -1)]], 1)
    finite = np.isfinite(flat).all(1)
    flat = np.where(finite[:, None], flat, 0.0)
    means, scales, quaternions, opacities = flat[:, :3], flat[:, 3:6], flat[:, 6:10], flat[:, 10]
    sh: Doubles = flat[:, 11:].reshape(gaussians.sh.shape)

    matrix = np.asarray(camera.world_to_camera, np.float64)
    turn, shift = matrix[:, :3], matrix[:, 3]
    (fx, fy), (cx, cy) = camera.focal, camera.centre
    seen = means @ turn.T + shift
    depths = seen[:, 2]
    visible = finite & (depths > NEAR)
    z = np.where(visible, depths, 1.0)
    u, v = seen[:, 0] / z, seen[:, 1] / z
    left, right, top, bottom = camera.limits()
    jacobian = np.zeros((len(z), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 0, 2] = fx / z, -fx * np.clip(u, left, right) / z
    jacobian[:, 1, 1], jacobian[:, 1, 2] = fy / z, -fy * np.clip(v, top, bottom) / z
    own = rotations(quaternions)
    half = jacobian @ turn @ (own * scales[:, None, :])
    bare = half @ half.transpose(0, 2, 1)
    covariances = bare + low_pass.variance * np.eye(2)
    weight = np.ones(len(z))
    if low_pass.trained != low_pass.variance:
        weight = np.sqrt(np.linalg.det(bare + low_pass.trained * np.eye(2)) / np.linalg.det(covariances))

    toward = means + turn.T @ shift  # from the camera's place to the mean
    toward = toward / np.maximum(np.linalg.norm(toward, axis=1, keepdims=True), 1e-12)
    basis = harmonics(toward, sh.shape[1])
    colours = np.maximum(0.5 + np.einsum("nk,nkc->nc", basis, sh), 0)

    a, b, c = scales.T
    shortest = np.where((c < a) & (c < b), 2, np.where(b < a, 1, 0))
    normals = own[np.arange(len(z)), :, shortest]
    normals = np.where((normals * toward).sum(1, keepdims=True) > 0, -normals, normals)
    middle = np.stack([fx * u + cx, fy * v + cy], 1)
    return Projection(middle, covariances, opacities * weight, colours, depths, normals, visible)


def draw(
    camera: Camera,
    gaussians: Gaussians,
    low_pass: LowPass | None = None,
    *,
    stop: float = T_MIN,
    keep: Decisions | None = None,
    held: Decisions | None = None,
) -> Picture:
    """Blend front to back, lower layers first, nearer first within a layer.

    stop: a pixel is finished when its transmittance would fall below; 0: never. keep: filled with the decisions
    made. held: these decisions are taken instead.
    """
    p = project(camera, gaussians, low_pass or LowPass())
    layers = gaussians.layers if gaussians.layers is not None else np.zeros(len(gaussians), np.uint8)
    height, width = camera.height, camera.width
    planes = np.zeros((7, height, width))  # colour, depth, normal
    left = np.ones((height, width))
    finished = np.zeros((height, width), bool)
    features = np.concatenate([p.colours, p.depths[:, None], p.normals], 1)
    drawn = p.visible & (p.opacities >= ALPHA_MIN)
    order = held.order if held else [int(i) for i in np.lexsort((p.depths, layers)) if drawn[i]]
    for i in order:
        box = held.boxes[i] if held else _box(p, i, width, height)
        if box is None:
            continue
        dy = np.arange(box[0].start, box[0].stop)[:, None] + 0.5 - p.means[i, 1]
        dx = np.arange(box[1].start, box[1].stop)[None, :] + 0.5 - p.means[i, 0]
        inverse = np.linalg.inv(p.covariances[i])
        power = -0.5 * (inverse[0, 0] * dx * dx + inverse[1, 1] * dy * dy) - inverse[0, 1] * dx * dy
        raw = p.opacities[i] * np.exp(power)
        capped = held.capped[i] if held else raw > ALPHA_MAX
        alpha = np.where(capped, ALPHA_MAX, raw)
        after = left[box] * (1 - alpha)
        if held:
            blended = held.blended[i]
        else:
            over = (alpha >= ALPHA_MIN) & ~finished[box]
            finished[box] |= over & (after < stop)
            blended = over & (after >= stop)
        weight = np.where(blended, alpha * left[box], 0)
        planes[:, box[0], box[1]] += weight * features[i][:, None, None]
        left[box] = np.where(blended, after, left[box])
        if keep is not None:
            keep.order.append(i)
            keep.boxes[i], keep.blended[i], keep.capped[i] = box, blended, capped
    return Picture(planes[:3], left, planes[3], planes[4:])


def _box(p: Projection, i: int, width: int, height: int) -> tuple[slice, slice] | None:
    """Every pixel where Gaussian i can reach 1/255, and one more each way; None if there is none in the picture."""
    spread = 2 * np.log(p.opacities[i] / ALPHA_MIN)
    reach = np.sqrt(spread * np.diag(p.covariances[i]))
    low = np.floor(p.means[i] - 0.5 - reach) - 1
    high = np.ceil(p.means[i] - 0.5 + reach) + 2
    x0, y0 = (int(v) for v in np.clip(low, 0, (width, height)))
    x1, y1 = (int(v) for v in np.clip(high, 0, (width, height)))
    return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None
