"""Training on one CPU core: what the CPU rasteriser draws, and the gradients of it. Not for the render worker.

The backward pass walks every tile a second time, front to back. With g = dL/dC at a pixel, v = g . c of a splat and
w = alpha T its weight there,

    rest = sum of w v of all splats behind + T_end dL/dT_end     (begins with the whole sum and is counted down)
    dL/dalpha = T v - rest / (1 - alpha)

so that neither lists per pixel nor a second sort are needed; the gradients of middle, conic and opacity are moments
of alpha dL/dalpha over the splat. What was skipped (alpha under 1/255), capped (0.99) or clipped has no gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from render.raster.compiled import exact, fast, inlined
from render.raster.cpu import Cloud, Rasteriser
from render.raster.gaussians import Camera, Floats, Gaussians, LowPass
from render.raster.project import (
    C0,
    C1,
    C2A,
    C2B,
    C2C,
    DELTAS,
    R_A,
    R_B,
    R_C,
    R_EY,
    R_INV_C,
    R_LN_O,
    R_RED,
    R_SPREAD,
    R_STEP,
    R_X,
    R_Y,
    RECORD,
    SHORT,
    TILE_H,
    TILE_W,
    Longs,
    Words,
    f32,
    numbers,
)
from render.raster.shapes import axis_of, shortest
from render.raster.simd import LANES, at_least, count, every, exp, least, load, store, total, where_at_most
from render.raster.tiles import CAP, FAINT, STRIDE, Index, corners, recolour

ROW = 5 * STRIDE  # one row of a tile: T, rest, and the gradients of red, green, blue
RESTART = 8  # rows between two evaluations of the exponential of a steep splat: it would underflow and stay zero
SHAPE = 6  # gradients of a splat's middle (x, y), conic (A, B, C) and ln o
G_X, G_Y, G_A, G_B, G_C, G_LN_O = range(SHAPE)


@inlined
def rows_of(
    records: Floats, r: Index, mx: np.float32, my: np.float32, x: Index, x_end: Index, y0: Index, y1: Index
) -> tuple[Index, Index]:
    """The rows that the splat's ellipse can touch within the columns x to x + 7, or x_end if that comes before.

    The ellipse's upper edge over a column is highest at the abscissa of its topmost point, or, if that lies outside,
    at the nearer border; likewise below.
    """
    a, b, c = records[r + R_A], records[r + R_B], records[r + R_C]
    ey, inverse, spread = records[r + R_EY], records[r + R_INV_C], records[r + R_SPREAD]
    summit = -b / a * ey
    first, last = f32(x) - mx, f32(min(x + LANES - 1, x_end)) - mx
    u = min(max(summit, first), last)
    root = np.sqrt(max(b * b * u * u - c * (a * u * u - spread), f32(0)))
    upper = ey if u == summit else (root - b * u) * inverse
    u = min(max(-summit, first), last)
    root = np.sqrt(max(b * b * u * u - c * (a * u * u - spread), f32(0)))
    lower = -ey if u == -summit else (-b * u - root) * inverse
    return max(y0, int(np.ceil(my + lower))), min(y1, int(np.floor(my + upper)))


@fast
def unblend(
    records: Floats,
    lists: Words,
    offsets: Longs,
    tiles_x: int,
    colour: Floats,  # flat (3, padded height, padded width): as `paint_planes` left it
    transmittance: Floats,  # flat (padded height, padded width)
    of_colour: Floats,  # as colour: dL/dcolour
    of_transmittance: Floats,  # as transmittance
    of_shapes: Floats,  # (visible, SHAPE), added to
    of_colours: Floats,  # (visible, 3), added to
    buffer: Floats,
) -> None:
    """From the gradients of the pixels to those of the splats."""
    one, zero, half = every(f32(1)), every(f32(0)), f32(0.5)
    cap, threshold = every(CAP), every(FAINT)
    padded, plane = tiles_x * TILE_W, transmittance.shape[0]
    for tile in range(offsets.shape[0] - 1):
        if offsets[tile] == offsets[tile + 1]:
            continue
        tile_x, tile_y = (tile % tiles_x) * TILE_W, (tile // tiles_x) * TILE_H
        for y in range(TILE_H):
            for x in range(0, TILE_W, LANES):
                at, pixel = y * ROW + x, (tile_y + y) * padded + tile_x + x
                rest = load(transmittance, pixel) * load(of_transmittance, pixel)
                for channel in range(3):
                    g = load(of_colour, channel * plane + pixel)
                    store(buffer, at + (2 + channel) * STRIDE, g)
                    rest = rest + g * load(colour, channel * plane + pixel)
                store(buffer, at, one)
                store(buffer, at + STRIDE, rest)
            for channel in range(5):
                store(buffer, y * ROW + channel * STRIDE + TILE_W, zero)  # the apron belongs to the next tile
        for j in range(offsets[tile], offsets[tile + 1]):
            k = np.int64(lists[j])
            r = k * RECORD
            x0, x1, y0, y1 = corners(records, r)
            x0, x1 = max(x0 - tile_x, 0), min(x1 - tile_x, TILE_W - 1)
            y0, y1 = max(y0 - tile_y, 0), min(y1 - tile_y, TILE_H - 1)
            mx, my = records[r + R_X] - f32(tile_x) - half, records[r + R_Y] - f32(tile_y) - half
            a, b, c = records[r + R_A], records[r + R_B], records[r + R_C]
            red, green, blue = every(records[r + R_RED]), every(records[r + R_RED + 1]), every(records[r + R_RED + 2])
            step = every(records[r + R_STEP])
            wide = x1 - x0 >= LANES
            # Moments of alpha dL/dalpha: 1, u, u², v, u v, v² with (u, v) the offset from the middle.
            m, m_u, m_uu, m_v, m_uv, m_vv = zero, zero, zero, zero, zero, zero
            of_red, of_green, of_blue = zero, zero, zero
            for x in range(x0, x1 + 1, LANES):
                top, last = y0, y1
                if wide:
                    top, last = rows_of(records, r, mx, my, x, x1, y0, y1)
                u = count() + (f32(x) - mx)
                base, slope = records[r + R_LN_O] - half * a * (u * u), b * u
                dy = f32(top) - my
                cell = top * ROW + x
                left = last - top + 1
                n, n_v, n_vv = zero, zero, zero  # of this column
                while left > 0:
                    rows = min(left, RESTART)
                    left -= rows
                    e = exp(base - dy * slope - half * c * dy * dy)
                    ratio = exp(f32(-1) * slope - c * (dy + half))
                    for _ in range(rows):
                        alpha = at_least(least(e, cap), threshold)
                        t = load(buffer, cell)
                        weight = alpha * t
                        store(buffer, cell, t - weight)
                        gr, gg = load(buffer, cell + 2 * STRIDE), load(buffer, cell + 3 * STRIDE)
                        gb = load(buffer, cell + 4 * STRIDE)
                        v = gr * red + gg * green + gb * blue
                        rest = load(buffer, cell + STRIDE) - weight * v
                        store(buffer, cell + STRIDE, rest)
                        of_red, of_green, of_blue = (
                            of_red + weight * gr,
                            of_green + weight * gg,
                            of_blue + weight * gb,
                        )
                        g = where_at_most(alpha * (t * v - rest / (one - alpha)), e, cap)
                        g_v = g * dy
                        n, n_v, n_vv = n + g, n_v + g_v, n_vv + g_v * dy
                        e = e * ratio
                        ratio = ratio * step
                        cell += ROW
                        dy += f32(1)
                n_u = n * u
                m, m_u, m_uu = m + n, m_u + n_u, m_uu + n_u * u
                m_v, m_uv, m_vv = m_v + n_v, m_uv + n_v * u, m_vv + n_vv
            su, sv = total(m_u), total(m_v)
            of_shapes[k, G_X] += a * su + b * sv
            of_shapes[k, G_Y] += b * su + c * sv
            of_shapes[k, G_A] -= half * total(m_uu)
            of_shapes[k, G_B] -= total(m_uv)
            of_shapes[k, G_C] -= half * total(m_vv)
            of_shapes[k, G_LN_O] += total(m)
            of_colours[k, 0] += total(of_red)
            of_colours[k, 1] += total(of_green)
            of_colours[k, 2] += total(of_blue)


@exact
def unproject(
    visible: int,
    ids: Words,
    records: Floats,
    colours: Floats,  # (visible, 3): what was blended as colour
    of_shapes: Floats,  # (visible, SHAPE)
    of_colours: Floats,  # (visible, 3)
    of_depths: Floats,  # (visible,)
    of_normals: Floats,  # (visible, 3)
    camera: Floats,  # as `numbers` writes it
    means: Floats,
    scales: Floats,
    rotations: Floats,
    opacities: Floats,
    sh: Floats,
    of_means: Floats,  # out, as are the following; rows of what is not visible are left alone
    of_scales: Floats,
    of_rotations: Floats,
    of_opacities: Floats,
    of_sh: Floats,
    of_screen: Floats,
) -> None:
    """From the gradients of the splats to those of the Gaussians: `project` backwards."""
    w00, w01, w02, tx = camera[0], camera[1], camera[2], camera[3]
    w10, w11, w12, ty = camera[4], camera[5], camera[6], camera[7]
    w20, w21, w22, tz = camera[8], camera[9], camera[10], camera[11]
    fx, fy, variance, trained = camera[12], camera[13], camera[16], camera[17]
    px = -(w00 * tx + w10 * ty + w20 * tz)
    py = -(w01 * tx + w11 * ty + w21 * tz)
    pz = -(w02 * tx + w12 * ty + w22 * tz)
    zero, one, two, half = f32(0), f32(1), f32(2), f32(0.5)
    bands = sh.shape[1]
    for k in range(visible):
        i = np.int64(ids[k])
        r = k * RECORD
        x, y, z = means[i, 0], means[i, 1], means[i, 2]
        depth = w20 * x + w21 * y + w22 * z + tz
        iz = one / depth
        u, v = (w00 * x + w01 * y + w02 * z + tx) * iz, (w10 * x + w11 * y + w12 * z + ty) * iz
        uc, vc = min(max(u, camera[18]), camera[19]), min(max(v, camera[20]), camera[21])
        # Rows of J W are (fx / z) e and (fy / z) h.
        e0, e1, e2 = w00 - uc * w20, w01 - uc * w21, w02 - uc * w22
        h0, h1, h2 = w10 - vc * w20, w11 - vc * w21, w12 - vc * w22
        fz, gz = fx * iz, fy * iz
        a0, a1, a2, b0, b1, b2 = fz * e0, fz * e1, fz * e2, gz * h0, gz * h1, gz * h2
        inverse = one / np.sqrt(
            max(rotations[i, 0] ** 2 + rotations[i, 1] ** 2 + rotations[i, 2] ** 2 + rotations[i, 3] ** 2, SHORT)
        )
        qw, qx, qy, qz = (
            rotations[i, 0] * inverse,
            rotations[i, 1] * inverse,
            rotations[i, 2] * inverse,
            rotations[i, 3] * inverse,
        )
        r00, r10, r20 = axis_of(qw, qx, qy, qz, 0)
        r01, r11, r21 = axis_of(qw, qx, qy, qz, 1)
        r02, r12, r22 = axis_of(qw, qx, qy, qz, 2)
        s0, s1, s2 = scales[i, 0], scales[i, 1], scales[i, 2]
        # P = J W R; the half covariance is P S.
        p0, p1, p2 = a0 * r00 + a1 * r10 + a2 * r20, a0 * r01 + a1 * r11 + a2 * r21, a0 * r02 + a1 * r12 + a2 * r22
        q0, q1, q2 = b0 * r00 + b1 * r10 + b2 * r20, b0 * r01 + b1 * r11 + b2 * r21, b0 * r02 + b1 * r12 + b2 * r22

        # cov is the conic's inverse, so dL/dcov = -conic G conic, G with half of dL/dB at either place beside.
        A, B, C = records[r + R_A], records[r + R_B], records[r + R_C]
        gA, gB, gC, g_ln_o = of_shapes[k, G_A], of_shapes[k, G_B] * half, of_shapes[k, G_C], of_shapes[k, G_LN_O]
        t0, t1, t2, t3 = A * gA + B * gB, A * gB + B * gC, B * gA + C * gB, B * gB + C * gC
        c00, c01, c11 = -(t0 * A + t1 * B), -(t0 * B + t1 * C), -(t2 * B + t3 * C)
        if trained != variance:  # ln o also holds half of ln |S + trained| - ln |S + variance|
            ca = (p0 * s0) ** 2 + (p1 * s1) ** 2 + (p2 * s2) ** 2
            cb = p0 * q0 * s0 * s0 + p1 * q1 * s1 * s1 + p2 * q2 * s2 * s2
            cd = (q0 * s0) ** 2 + (q1 * s1) ** 2 + (q2 * s2) ** 2
            m0 = (p1 * q2 - p2 * q1) * s1 * s2
            m1 = (p2 * q0 - p0 * q2) * s2 * s0
            m2 = (p0 * q1 - p1 * q0) * s0 * s1
            idet = one / max(m0 * m0 + m1 * m1 + m2 * m2 + trained * (ca + cd + trained), SHORT)
            c00 += half * g_ln_o * ((cd + trained) * idet - A)
            c01 += half * g_ln_o * (-cb * idet - B)
            c11 += half * g_ln_o * ((ca + trained) * idet - C)
        of_opacities[i] = g_ln_o / opacities[i] if opacities[i] <= one else zero
        # dL/d(P S), then scale and rotation from it.
        gp0, gp1 = two * (c00 * p0 + c01 * q0) * s0, two * (c00 * p1 + c01 * q1) * s1
        gp2 = two * (c00 * p2 + c01 * q2) * s2
        gq0, gq1 = two * (c01 * p0 + c11 * q0) * s0, two * (c01 * p1 + c11 * q1) * s1
        gq2 = two * (c01 * p2 + c11 * q2) * s2
        of_scales[i, 0] = gp0 * p0 + gq0 * q0
        of_scales[i, 1] = gp1 * p1 + gq1 * q1
        of_scales[i, 2] = gp2 * p2 + gq2 * q2
        gp0, gp1, gp2, gq0, gq1, gq2 = gp0 * s0, gp1 * s1, gp2 * s2, gq0 * s0, gq1 * s1, gq2 * s2
        g00, g01, g02 = gp0 * a0 + gq0 * b0, gp1 * a0 + gq1 * b0, gp2 * a0 + gq2 * b0
        g10, g11, g12 = gp0 * a1 + gq0 * b1, gp1 * a1 + gq1 * b1, gp2 * a1 + gq2 * b1
        g20, g21, g22 = gp0 * a2 + gq0 * b2, gp1 * a2 + gq1 * b2, gp2 * a2 + gq2 * b2

        dx, dy, dz = x - px, y - py, z - pz
        near = one / np.sqrt(max(dx * dx + dy * dy + dz * dz, SHORT))
        dx, dy, dz = dx * near, dy * near, dz * near
        n0, n1, n2 = of_normals[k, 0], of_normals[k, 1], of_normals[k, 2]
        axis = shortest(s0, s1, s2)
        if axis == 0:
            sign = -one if r00 * dx + r10 * dy + r20 * dz > 0 else one
            g00, g10, g20 = g00 + sign * n0, g10 + sign * n1, g20 + sign * n2
        elif axis == 1:
            sign = -one if r01 * dx + r11 * dy + r21 * dz > 0 else one
            g01, g11, g21 = g01 + sign * n0, g11 + sign * n1, g21 + sign * n2
        else:
            sign = -one if r02 * dx + r12 * dy + r22 * dz > 0 else one
            g02, g12, g22 = g02 + sign * n0, g12 + sign * n1, g22 + sign * n2
        gw = two * (-qz * g01 + qy * g02 + qz * g10 - qx * g12 - qy * g20 + qx * g21)
        gx = two * (qy * (g01 + g10) + qz * (g02 + g20) - two * qx * (g11 + g22) + qw * (g21 - g12))
        gy = two * (qx * (g01 + g10) + qz * (g12 + g21) - two * qy * (g00 + g22) + qw * (g02 - g20))
        gzq = two * (qx * (g02 + g20) + qy * (g12 + g21) - two * qz * (g00 + g11) + qw * (g10 - g01))
        along = gw * qw + gx * qx + gy * qy + gzq * qz  # the length of a quaternion does not matter
        of_rotations[i, 0] = (gw - along * qw) * inverse
        of_rotations[i, 1] = (gx - along * qx) * inverse
        of_rotations[i, 2] = (gy - along * qy) * inverse
        of_rotations[i, 3] = (gzq - along * qz) * inverse

        # Through J W to where the mean is seen.
        ga0, ga1 = gp0 * r00 + gp1 * r01 + gp2 * r02, gp0 * r10 + gp1 * r11 + gp2 * r12
        ga2 = gp0 * r20 + gp1 * r21 + gp2 * r22
        gb0, gb1 = gq0 * r00 + gq1 * r01 + gq2 * r02, gq0 * r10 + gq1 * r11 + gq2 * r12
        gb2 = gq0 * r20 + gq1 * r21 + gq2 * r22
        of_screen[i, 0], of_screen[i, 1] = of_shapes[k, G_X], of_shapes[k, G_Y]
        gu, gv = fx * of_shapes[k, G_X], fy * of_shapes[k, G_Y]
        if uc == u:
            gu -= fz * (ga0 * w20 + ga1 * w21 + ga2 * w22)
        if vc == v:
            gv -= gz * (gb0 * w20 + gb1 * w21 + gb2 * w22)
        g_iz = fx * (ga0 * e0 + ga1 * e1 + ga2 * e2) + fy * (gb0 * h0 + gb1 * h1 + gb2 * h2)
        g_depth = of_depths[k] - (gu * u + gv * v + g_iz * iz) * iz
        gu, gv = gu * iz, gv * iz

        # Colour, and what its direction owes to the mean.
        ddx, ddy, ddz = zero, zero, zero
        for c in range(3):
            g = of_colours[k, c] if colours[k, c] > zero else zero
            of_sh[i, 0, c] = C0 * g
            if bands > 1:
                of_sh[i, 1, c], of_sh[i, 2, c], of_sh[i, 3, c] = -C1 * dy * g, C1 * dz * g, -C1 * dx * g
                ddx -= C1 * sh[i, 3, c] * g
                ddy -= C1 * sh[i, 1, c] * g
                ddz += C1 * sh[i, 2, c] * g
            if bands > 4:
                of_sh[i, 4, c], of_sh[i, 5, c] = C2A * dx * dy * g, -C2A * dy * dz * g
                of_sh[i, 7, c] = -C2A * dx * dz * g
                of_sh[i, 6, c] = C2B * (two * dz * dz - dx * dx - dy * dy) * g
                of_sh[i, 8, c] = C2C * (dx * dx - dy * dy) * g
                k4, k5, k7 = C2A * sh[i, 4, c] * g, C2A * sh[i, 5, c] * g, C2A * sh[i, 7, c] * g
                k6, k8 = two * C2B * sh[i, 6, c] * g, two * C2C * sh[i, 8, c] * g
                ddx += k4 * dy - k7 * dz - k6 * dx + k8 * dx
                ddy += k4 * dx - k5 * dz - k6 * dy - k8 * dy
                ddz += two * k6 * dz - k5 * dy - k7 * dx
        along = ddx * dx + ddy * dy + ddz * dz
        of_means[i, 0] = w00 * gu + w10 * gv + w20 * g_depth + (ddx - along * dx) * near
        of_means[i, 1] = w01 * gu + w11 * gv + w21 * g_depth + (ddy - along * dy) * near
        of_means[i, 2] = w02 * gu + w12 * gv + w22 * g_depth + (ddz - along * dz) * near


@dataclass(frozen=True, slots=True)
class Blended:
    """A picture in floats, without the background; arrays of its own."""

    colour: Floats
    """(3, H, W), premultiplied"""
    transmittance: Floats
    """(H, W)"""
    depth: Floats | None
    """(H, W): sum of alpha * T * view depth, if geometry was asked for"""
    normals: Floats | None
    """(3, H, W): blended world-space normals, not normalised, if geometry was asked for"""
    features: tuple[Floats, ...]
    """(3, H, W) each"""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of a loss, by the Gaussians as they were drawn; zero for what was not visible."""

    means: Floats
    scales: Floats
    rotations: Floats
    opacities: Floats
    sh: Floats
    features: tuple[Floats, ...]
    screen: Floats
    """(N, 2): by the middle in pixels; what densification looks at"""

    def of_deltas(self, scales: Floats) -> Floats:
        """(10, N): by a deformation as the rasteriser takes it. scales: (N, 3) as drawn, softplus done.

        The derivative of softplus is 1 - exp(-softplus).
        """
        return np.concatenate([self.means, self.rotations, self.scales * -np.expm1(-scales)], 1).T.copy()


@dataclass(frozen=True, slots=True)
class _Pass:
    """One blending of three values."""

    values: Floats  # (visible, 3)
    blended: Floats  # flat, padded


class DifferentiableRasteriser:
    """Pictures of one size, and their gradients. `forward` keeps what `backward` needs until the next `forward`."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._rasteriser: Rasteriser | None = None
        self._gaussians: Gaussians | None = None
        self._passes: list[_Pass] = []
        self._numbers = np.zeros(22, np.float32)
        self._geometry = False
        self._buffer = np.zeros(TILE_H * ROW + LANES, np.float32)

    def forward(
        self,
        camera: Camera,
        gaussians: Gaussians,
        low_pass: LowPass | None = None,
        *,
        geometry: bool = False,
        features: Sequence[Floats] = (),
    ) -> Blended:
        """geometry: depth and normals too (two more passes). features: (N, 3) each, blended like colours."""
        cloud = Cloud(gaussians)
        rasteriser = self._rasteriser
        if rasteriser is None or rasteriser.cloud.layers.size != cloud.layers.size:
            rasteriser = self._rasteriser = Rasteriser(cloud, self.width, self.height)
        rasteriser.cloud = cloud
        rasteriser.arrange(camera, None, low_pass)
        n, ids = rasteriser.visible, rasteriser.ids[: rasteriser.visible]
        colours = rasteriser.records.reshape(-1, RECORD)[:n, R_RED : R_RED + 3].copy()
        values = [colours]
        if geometry:
            normals, depths = np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32)
            rasteriser.shapes(normals, depths)
            values += [depths, normals]
        for feature in features:
            if feature.shape != (len(gaussians), 3):
                raise ValueError(f"features must be ({len(gaussians)}, 3), and are {feature.shape}")
            values.append(np.ascontiguousarray(feature[ids], np.float32))
        pictures, passes = [], []
        for v in values:
            recolour(rasteriser.records, n, v)
            planes = rasteriser.planes()
            pictures.append(planes.colour.copy())
            passes.append(_Pass(v, rasteriser.blended[0].copy()))
        left = planes.transmittance.copy()
        self._passes = passes
        self._gaussians = gaussians
        self._numbers = numbers(camera, low_pass or LowPass())
        self._geometry = geometry
        shape = pictures[1:3] if geometry else []
        return Blended(
            pictures[0],
            left,
            shape[0][0] if geometry else None,
            shape[1] if geometry else None,
            tuple(pictures[1 + len(shape) :]),
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
        """The loss's gradients by what `forward` gave, in its shapes; None: zero.

        Raises RuntimeError before the first `forward`, ValueError for gradients of what `forward` did not make.
        """
        rasteriser, g = self._rasteriser, self._gaussians
        if rasteriser is None or g is None:
            raise RuntimeError("there is nothing to go back through: call forward first")
        if (not self._geometry and (depth is not None or normals is not None)) or len(features) > (
            len(self._passes) - 1 - 2 * self._geometry
        ):
            raise ValueError("gradients were given for what forward was not asked for")
        n, ids = rasteriser.visible, rasteriser.ids[: rasteriser.visible]
        wanted: list[Floats | None] = [colour]
        if self._geometry:
            deep: Floats | None = None
            if depth is not None:
                deep = np.zeros((3, self.height, self.width), np.float32)
                deep[0] = depth
            wanted += [deep, normals]
        wanted += [*features, *[None] * (len(self._passes) - len(wanted) - len(features))]
        of_shapes = np.zeros((n, SHAPE), np.float32)
        of_values = [np.zeros((n, 3), np.float32) for _ in self._passes]
        nothing = self._pad(None, 1)
        left = self._pad(transmittance, 1)
        for done, gradient, of_value in zip(self._passes, wanted, of_values, strict=True):
            if gradient is None:
                continue
            recolour(rasteriser.records, n, done.values)
            unblend(
                rasteriser.records,
                rasteriser.lists,
                rasteriser.offsets,
                rasteriser.tiles_x,
                done.blended,
                rasteriser.blended[1],
                self._pad(gradient, 3),
                left,
                of_shapes,
                of_value,
                self._buffer,
            )
            left = nothing
        given = (g.means, g.scales, g.rotations, g.opacities, g.sh)
        means, scales, rotations, opacities, sh = (np.ascontiguousarray(a, np.float32) for a in given)
        out = Gradients(
            np.zeros_like(means),
            np.zeros_like(scales),
            np.zeros_like(rotations),
            np.zeros_like(opacities),
            np.zeros_like(sh),
            tuple(np.zeros((len(g), 3), np.float32) for _ in of_values[1 + 2 * self._geometry :]),
            np.zeros((len(g), 2), np.float32),
        )
        flat = np.zeros((n, 3), np.float32)
        unproject(
            n,
            ids,
            rasteriser.records,
            self._passes[0].values,
            of_shapes,
            of_values[0],
            np.ascontiguousarray((of_values[1] if self._geometry else flat)[:, 0]),
            of_values[2] if self._geometry else flat,
            self._numbers,
            means,
            scales,
            rotations,
            opacities,
            sh,
            out.means,
            out.scales,
            out.rotations,
            out.opacities,
            out.sh,
            out.screen,
        )
        for feature, of_value in zip(out.features, of_values[1 + 2 * self._geometry :], strict=True):
            feature[ids] = of_value
        return out

    def _pad(self, planes: Floats | None, channels: int) -> Floats:
        """Flat planes of whole tiles; zero where the picture ends."""
        assert self._rasteriser is not None
        full = (channels, self._rasteriser.tiles_y * TILE_H, self._rasteriser.tiles_x * TILE_W)
        if planes is None:
            return np.zeros(full, np.float32).ravel()
        given = np.asarray(planes, np.float32).reshape(channels, self.height, self.width)
        if full[1:] == (self.height, self.width):
            return np.ascontiguousarray(given).ravel()
        whole = np.zeros(full, np.float32)
        whole[:, : self.height, : self.width] = given
        return whole.ravel()


def warm() -> None:
    """Compile the training kernels, or load them from disk. (Those of `cpu` come along with them.)"""
    one = np.ones((1, 3), np.float32)
    gaussians = Gaussians(
        one * 0, one * 0.01, np.ones((1, 4), np.float32), one[:, 0] * 0.5, np.zeros((1, 4, 3), np.float32)
    )
    looking = np.eye(3, 4, dtype=np.float32)
    looking[2, 3] = 1
    rasteriser = DifferentiableRasteriser(TILE_W, TILE_H)
    drawn = rasteriser.forward(Camera(looking, (64.0, 64.0), (32.0, 16.0), TILE_W, TILE_H), gaussians, geometry=True)
    gradients = rasteriser.backward(drawn.colour, drawn.transmittance, depth=drawn.depth, normals=drawn.normals)
    assert gradients.of_deltas(gaussians.scales).shape == (DELTAS, 1)
