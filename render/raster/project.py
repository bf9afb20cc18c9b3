"""Gaussians packed eight by eight, and their projection to splats on the screen: the first half of a CPU frame."""

import numpy as np
from numpy.typing import NDArray

from render.raster.compiled import exact, fast
from render.raster.gaussians import (
    NEAR,
    SH_C0,
    SH_C1,
    SH_C2,
    Camera,
    Floats,
    LowPass,
)
from render.raster.simd import (
    every,
    exp,
    finite,
    greatest,
    least,
    load,
    log,
    softplus,
    sqrt,
    store,
)

Longs = NDArray[np.int64]
Words = NDArray[np.uint32]
Keys = NDArray[np.uint64]

f32 = np.float32
u32 = np.uint32
u64 = np.uint64

TILE_W, TILE_H = 64, 64  # of 32x32 up to 128x64 this was the fastest at 512x512

# A Gaussian packed for `project`, eight of them interleaved: block b, value v, lane i at [b, v, i].
VALUES = 11
X, Q, S, LN_O = 0, 3, 7, 10  # first value of: mean, quaternion w x y z, scales, natural logarithm of the opacity
HIDDEN = -100.0  # as LN_O: never drawn
DELTAS = 10  # a deformation, in the same order: mean 3, quaternion 4, scales before softplus 3

# A splat, sixteen floats (one cache line): middle, conic (A B C), exp(-C), ln o, colour, half extents, box, 1/C, t.
RECORD = 16
R_X, R_Y, R_A, R_B, R_C, R_STEP, R_LN_O, R_RED, R_EX, R_EY = 0, 1, 2, 3, 4, 5, 6, 7, 10, 11
R_COLUMNS, R_ROWS = 12, 13  # first | last << 16, as bits
R_INV_C, R_SPREAD = 14, 15  # spread t = 2 ln(255 o): the ellipse where alpha is 1/255 is x' conic x = t

NUMBERS = 22  # of a camera and its filter: 12 of world_to_camera, focal, centre, variances, limits

# Bounds that keep every intermediate within float32, whatever comes in: 1e4 units away, a 1e4-fold quaternion.
FAR, SHORT, LONG = f32(1e4), f32(1e-12), f32(1e3)
# The rules in float32.
LN_255 = f32(np.log(255.0))
NEAREST = f32(NEAR)
C0, C1 = f32(SH_C0), f32(SH_C1)
C2A, C2B, C2C = (f32(c) for c in SH_C2)


@exact
def pack(
    means: Floats, scales: Floats, rotations: Floats, opacities: Floats, sh: Floats, blocks: Floats, sh_blocks: Floats
) -> None:
    """Interleave eight by eight; whatever is not finite or out of bounds is hidden or clipped.

    blocks: (ceil(n/8), VALUES, 8); sh_blocks: (ceil(n/8), 3 K, 8). Lanes beyond n are hidden.
    """
    n, bands = sh.shape[0], sh.shape[1]
    for i in range(blocks.shape[0] * 8):
        b, k = i >> 3, i & 7
        good = i < n
        if good:
            good = bool(np.isfinite(opacities[i])) and opacities[i] > f32(0)
            for c in range(3):
                good = good and bool(np.isfinite(means[i, c])) and abs(means[i, c]) < FAR
                good = good and bool(np.isfinite(scales[i, c]))
                for j in range(bands):
                    good = good and bool(np.isfinite(sh[i, j, c])) and abs(sh[i, j, c]) < FAR
            for c in range(4):
                good = good and bool(np.isfinite(rotations[i, c])) and abs(rotations[i, c]) < FAR
        if not good:
            blocks[b, :, k] = f32(0)
            blocks[b, LN_O, k] = f32(HIDDEN)
            sh_blocks[b, :, k] = f32(0)
            continue
        for c in range(3):
            blocks[b, X + c, k] = means[i, c]
            blocks[b, S + c, k] = min(max(scales[i, c], f32(0)), LONG)
            for j in range(bands):
                sh_blocks[b, 3 * j + c, k] = sh[i, j, c]
        for c in range(4):
            blocks[b, Q + c, k] = rotations[i, c]
        blocks[b, LN_O, k] = np.log(min(opacities[i], f32(1)))


@fast
def project(
    blocks: Floats,  # flat, as `pack` writes them
    sh: Floats,  # flat
    bands: int,
    raw: Floats,  # flat [moving/8, 3, 8]: scales before softplus
    deltas: Floats,  # flat [DELTAS, moving]
    moving: int,  # so many Gaussians from the first are deformed; a multiple of 8
    shifts: Floats,  # flat [3, those from `shifted` on]: added to the means
    shifted: int,  # a multiple of 8; beyond the last Gaussian: none is shifted
    views: Longs,  # first block of each view's range, and behind the last
    cameras: Floats,  # one after the other, as `numbers` writes them
    width: int,
    height: int,
    records: Floats,  # flat, out
    ids: Words,  # out: the Gaussian of each record
    keys: Keys,  # out: bits of the depth << 32 | record
    touched: Words,  # out: the tiles of each record: first and last column, first and last row, a byte each
    counts: Longs,  # out: splats of each tile
    tiles_x: int,
    scratch: Floats,  # 20 x 8
) -> int:
    """Gaussians to splats on the screen, each range of them by its own camera; returns how many are visible."""
    zero, one, two, half = every(f32(0)), f32(1), f32(2), f32(0.5)
    near, tiny = every(NEAREST), every(SHORT)
    far, back, long = every(FAR), every(-FAR), every(LONG)
    x_last, y_last = every(f32(width - 1)), every(f32(height - 1))
    counts[:] = 0
    visible = 0
    for view in range(views.shape[0] - 1):
        camera = cameras[view * NUMBERS : (view + 1) * NUMBERS]
        w00, w01, w02, tx = camera[0], camera[1], camera[2], camera[3]
        w10, w11, w12, ty = camera[4], camera[5], camera[6], camera[7]
        w20, w21, w22, tz = camera[8], camera[9], camera[10], camera[11]
        fx, fy, cx, cy = camera[12], camera[13], camera[14], camera[15]
        variance, trained = camera[16], camera[17]
        px = -(w00 * tx + w10 * ty + w20 * tz)
        py = -(w01 * tx + w11 * ty + w21 * tz)
        pz = -(w02 * tx + w12 * ty + w22 * tz)
        left, right, top, bottom = every(camera[18]), every(camera[19]), every(camera[20]), every(camera[21])
        for b in range(views[view], views[view + 1]):
            o = b * VALUES * 8
            x, y, z = load(blocks, o), load(blocks, o + 8), load(blocks, o + 16)
            qw, qx, qy, qz = load(blocks, o + 24), load(blocks, o + 32), load(blocks, o + 40), load(blocks, o + 48)
            s0, s1, s2 = load(blocks, o + 56), load(blocks, o + 64), load(blocks, o + 72)
            if b * 8 < moving:
                d, q = b * 8, b * 24
                x = least(greatest(x + finite(load(deltas, d)), back), far)
                y = least(greatest(y + finite(load(deltas, d + moving)), back), far)
                z = least(greatest(z + finite(load(deltas, d + 2 * moving)), back), far)
                qw = least(greatest(qw + finite(load(deltas, d + 3 * moving)), back), far)
                qx = least(greatest(qx + finite(load(deltas, d + 4 * moving)), back), far)
                qy = least(greatest(qy + finite(load(deltas, d + 5 * moving)), back), far)
                qz = least(greatest(qz + finite(load(deltas, d + 6 * moving)), back), far)
                s0 = least(softplus(load(raw, q) + finite(load(deltas, d + 7 * moving))), long)
                s1 = least(softplus(load(raw, q + 8) + finite(load(deltas, d + 8 * moving))), long)
                s2 = least(softplus(load(raw, q + 16) + finite(load(deltas, d + 9 * moving))), long)
            if b * 8 >= shifted:
                d, behind = b * 8 - shifted, shifts.shape[0] // 3
                x = least(greatest(x + finite(load(shifts, d)), back), far)
                y = least(greatest(y + finite(load(shifts, d + behind)), back), far)
                z = least(greatest(z + finite(load(shifts, d + 2 * behind)), back), far)

            depth = w20 * x + w21 * y + w22 * z + tz
            iz = one / greatest(depth, near)
            u = (w00 * x + w01 * y + w02 * z + tx) * iz
            v = (w10 * x + w11 * y + w12 * z + ty) * iz
            mx, my = fx * u + cx, fy * v + cy
            # V = J W R S, a half of the covariance: cov = V V'.
            u, v = least(greatest(u, left), right), least(greatest(v, top), bottom)
            fz, gz = fx * iz, fy * iz
            a0, a1, a2 = fz * (w00 - u * w20), fz * (w01 - u * w21), fz * (w02 - u * w22)
            b0, b1, b2 = gz * (w10 - v * w20), gz * (w11 - v * w21), gz * (w12 - v * w22)
            s = two / greatest(qw * qw + qx * qx + qy * qy + qz * qz, tiny)
            xs, ys, zs = qx * s, qy * s, qz * s
            wx, wy, wz = qw * xs, qw * ys, qw * zs
            xx, xy, xz, yy, yz, zz = qx * xs, qx * ys, qx * zs, qy * ys, qy * zs, qz * zs
            p0 = (a0 * (one - (yy + zz)) + a1 * (xy + wz) + a2 * (xz - wy)) * s0
            p1 = (a0 * (xy - wz) + a1 * (one - (xx + zz)) + a2 * (yz + wx)) * s1
            p2 = (a0 * (xz + wy) + a1 * (yz - wx) + a2 * (one - (xx + yy))) * s2
            q0 = (b0 * (one - (yy + zz)) + b1 * (xy + wz) + b2 * (xz - wy)) * s0
            q1 = (b0 * (xy - wz) + b1 * (one - (xx + zz)) + b2 * (yz + wx)) * s1
            q2 = (b0 * (xz + wy) + b1 * (yz - wx) + b2 * (one - (xx + yy))) * s2
            ca, cb, cd = p0 * p0 + p1 * p1 + p2 * p2, p0 * q0 + p1 * q1 + p2 * q2, q0 * q0 + q1 * q1 + q2 * q2
            # |V V'| as a sum of squares: ca cd - cb cb cancels for needles, and can even come out negative.
            m0, m1, m2 = p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0
            bare, trace = m0 * m0 + m1 * m1 + m2 * m2, ca + cd
            det = bare + variance * (trace + variance)
            ca, cd = ca + variance, cd + variance
            ln_o = load(blocks, o + 80)
            if trained != variance:
                ln_o = ln_o + half * log(greatest((bare + trained * (trace + trained)) / det, tiny))
            spread = two * (ln_o + LN_255)
            reach = greatest(spread, zero)
            ex, ey = sqrt(reach * ca), sqrt(reach * cd)
            idet = one / det
            c = ca * idet

            store(scratch, 0, mx)
            store(scratch, 8, my)
            store(scratch, 16, cd * idet)
            store(scratch, 24, zero - cb * idet)
            store(scratch, 32, c)
            store(scratch, 40, exp(zero - c))
            store(scratch, 48, ln_o)
            store(scratch, 80, ex)
            store(scratch, 88, ey)
            store(scratch, 96, one / c)
            store(scratch, 104, spread)
            store(scratch, 112, depth)
            # Pixels whose middles lie within the ellipse's box, in the picture.
            store(scratch, 120, greatest(mx - ex - half, zero))
            store(scratch, 128, least(mx + ex - half, x_last))
            store(scratch, 136, greatest(my - ey - half, zero))
            store(scratch, 144, least(my + ey - half, y_last))

            dx, dy, dz = x - px, y - py, z - pz
            il = one / sqrt(greatest(dx * dx + dy * dy + dz * dz, tiny))
            dx, dy, dz = dx * il, dy * il, dz * il
            for k in range(3):
                h = b * bands * 24 + k * 8
                colour = half + C0 * load(sh, h)
                if bands > 1:
                    colour = colour + C1 * (dz * load(sh, h + 48) - dy * load(sh, h + 24) - dx * load(sh, h + 72))
                if bands > 4:
                    colour = colour + C2A * (
                        dx * (dy * load(sh, h + 96) - dz * load(sh, h + 168)) - dy * dz * load(sh, h + 120)
                    )
                    colour = colour + C2B * (two * dz * dz - dx * dx - dy * dy) * load(sh, h + 144)
                    colour = colour + C2C * (dx * dx - dy * dy) * load(sh, h + 192)
                store(scratch, 56 + k * 8, greatest(colour, zero))

            for i in range(8):
                if scratch[104 + i] <= f32(0) or scratch[112 + i] <= NEAREST:
                    continue
                if scratch[128 + i] < scratch[120 + i] or scratch[144 + i] < scratch[136 + i]:
                    continue
                x0, x1 = np.int32(np.ceil(scratch[120 + i])), np.int32(scratch[128 + i])
                y0, y1 = np.int32(np.ceil(scratch[136 + i])), np.int32(scratch[144 + i])
                # Integers, which nothing overflowing before can trick: no record ever points outside the picture.
                if x0 < 0 or y0 < 0 or x1 >= width or y1 >= height or x0 > x1 or y0 > y1:
                    continue
                r = visible * RECORD
                for k in range(12):
                    records[r + k] = scratch[k * 8 + i]
                records[r + R_COLUMNS] = np.int32(x0 | (x1 << 16)).view(np.float32)
                records[r + R_ROWS] = np.int32(y0 | (y1 << 16)).view(np.float32)
                records[r + R_INV_C] = scratch[96 + i]
                records[r + R_SPREAD] = scratch[104 + i]
                ids[visible] = u32(b * 8 + i)
                keys[visible] = (u64(f32(scratch[112 + i]).view(np.uint32)) << u64(32)) | u64(visible)
                tx0, tx1, ty0, ty1 = x0 // TILE_W, x1 // TILE_W, y0 // TILE_H, y1 // TILE_H
                touched[visible] = u32(tx0) | (u32(tx1) << u32(8)) | (u32(ty0) << u32(16)) | (u32(ty1) << u32(24))
                visible += 1
                for tile_y in range(ty0, ty1 + 1):
                    for tile_x in range(tx0, tx1 + 1):
                        counts[tile_y * tiles_x + tile_x] += 1
    return visible


def numbers(camera: Camera, low_pass: LowPass) -> Floats:
    """Camera and filter as the kernels take them: 12 of world_to_camera, focal, centre, variances, limits."""
    matrix = np.asarray(camera.world_to_camera, np.float64).ravel()
    rest = [*camera.focal, *camera.centre, low_pass.variance, low_pass.trained, *camera.limits()]
    return np.concatenate([matrix, rest]).astype(np.float32)
