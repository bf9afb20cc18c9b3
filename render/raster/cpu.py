"""Gaussian splatting on one CPU core: numba kernels from packed Gaussians to float planes, RGB24 or I420.

project -> sort by layer and depth -> bin into tiles of 64 x 32 px -> blend each tile -> convert it. Within a tile a
splat is cut into columns eight pixels wide; down a column its exponential follows from the row above by two
multiplications. A pixel is not stopped at T < 1e-4: that skips next to nothing and costs a test.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from render.raster.compiled import exact, fast, inlined
from render.raster.gaussians import (
    ALPHA_MAX,
    ALPHA_MIN,
    NEAR,
    SH_C0,
    SH_C1,
    SH_C2,
    Bytes,
    Camera,
    Floats,
    Gaussians,
    LowPass,
)
from render.raster.simd import (
    LANES,
    Vector,
    at_least,
    count,
    every,
    exp,
    finite,
    greatest,
    least,
    load,
    log,
    prefetch,
    softplus,
    sqrt,
    store,
)

Longs = NDArray[np.int64]
Words = NDArray[np.uint32]
Keys = NDArray[np.uint64]
Index = int | np.int64

f32 = np.float32
u32 = np.uint32
u64 = np.uint64

TILE_W, TILE_H = 64, 32  # of 16x16 up to 64x64 this was the fastest at 512x512
STRIDE = TILE_W + LANES  # a column that begins at the tile's last pixel writes eight wide all the same
ROW = 4 * STRIDE  # one row of a tile: T, red, green, blue
RESTART = 8  # rows between two evaluations of the exponential: underflow and rounding do not add up

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

DEPTH_BITS, DIGIT_BITS = 20, 11  # of the sorting key: depth below two bits of layer, two passes of eleven bits
DIGITS = 1 << DIGIT_BITS

# Bounds that keep every intermediate within float32, whatever comes in: 1e4 units away, a 1e4-fold quaternion.
FAR, SHORT, LONG = f32(1e4), f32(1e-12), f32(1e3)
# The rules in float32.
LN_255 = f32(np.log(255.0))
NEAREST, CAP, FAINT = f32(NEAR), f32(ALPHA_MAX), f32(ALPHA_MIN)
C0, C1 = f32(SH_C0), f32(SH_C1)
C2A, C2B, C2C = (f32(c) for c in SH_C2)

RGB24, I420 = 1, 2


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
    layers: Bytes,
    camera: Floats,  # as `_numbers` writes it
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
    """Gaussians to splats on the screen; returns how many are visible."""
    w00, w01, w02, tx = camera[0], camera[1], camera[2], camera[3]
    w10, w11, w12, ty = camera[4], camera[5], camera[6], camera[7]
    w20, w21, w22, tz = camera[8], camera[9], camera[10], camera[11]
    fx, fy, cx, cy = camera[12], camera[13], camera[14], camera[15]
    variance, trained = camera[16], camera[17]
    px = -(w00 * tx + w10 * ty + w20 * tz)
    py = -(w01 * tx + w11 * ty + w21 * tz)
    pz = -(w02 * tx + w12 * ty + w22 * tz)
    zero, one, two, half = every(f32(0)), f32(1), f32(2), f32(0.5)
    near, tiny = every(NEAREST), every(SHORT)
    far, back, long = every(FAR), every(-FAR), every(LONG)
    left, right, top, bottom = every(camera[18]), every(camera[19]), every(camera[20]), every(camera[21])
    x_last, y_last = every(f32(width - 1)), every(f32(height - 1))
    counts[:] = 0
    visible = 0
    for b in range(blocks.shape[0] // (VALUES * 8)):
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


@exact
def sort(visible: int, keys: Keys, spare: Keys, ids: Words, layers: Bytes, order: Words) -> None:
    """Records near to far, lower layers first: two stable passes of a radix sort.

    The bits of a positive float rise with it. Twenty bits of what lies between the nearest and the farthest splat
    tell depths apart to a few millionths, however deep the scene is.
    """
    lowest, highest = u32(0xFFFFFFFF), u32(0)
    for i in range(visible):
        bits = u32(keys[i] >> u64(32))
        lowest, highest = min(lowest, bits), max(highest, bits)
    shift = u32(0)
    while visible and ((highest - lowest) >> shift) >> u32(DEPTH_BITS):
        shift += u32(1)
    low = np.zeros(DIGITS, np.uint32)
    high = np.zeros(DIGITS, np.uint32)
    mask = u32(DIGITS - 1)
    for i in range(visible):
        rank = ((u32(keys[i] >> u64(32)) - lowest) >> shift) | (u32(layers[ids[i]]) << u32(DEPTH_BITS))
        keys[i] = (u64(rank) << u64(32)) | u64(i)
        low[rank & mask] += u32(1)
        high[rank >> u32(DIGIT_BITS)] += u32(1)
    below, above = u32(0), u32(0)
    for i in range(DIGITS):
        low[i], below = below, u32(below + low[i])
        high[i], above = above, u32(above + high[i])
    for i in range(visible):
        digit = u32(keys[i] >> u64(32)) & mask
        spare[low[digit]] = keys[i]
        low[digit] += u32(1)
    for i in range(visible):
        digit = u32(spare[i] >> u64(32 + DIGIT_BITS))
        order[high[digit]] = u32(spare[i] & u64(0xFFFFFFFF))
        high[digit] += u32(1)


@exact
def bin_(
    visible: int, order: Words, touched: Words, counts: Longs, offsets: Longs, lists: Words, tiles_x: int
) -> None:
    """For each tile the records that touch it, near to far: lists[offsets[t]:offsets[t + 1]]. `counts` is used up."""
    at = np.int64(0)
    for t in range(counts.shape[0]):
        offsets[t] = at
        at += counts[t]
        counts[t] = offsets[t]
    offsets[counts.shape[0]] = at
    byte = u32(255)
    for i in range(visible):
        box = touched[order[i]]
        x0, x1 = np.int64(box & byte), np.int64((box >> u32(8)) & byte)
        y0, y1 = np.int64((box >> u32(16)) & byte), np.int64(box >> u32(24))
        for tile_y in range(y0, y1 + 1):
            for t in range(tile_y * tiles_x + x0, tile_y * tiles_x + x1 + 1):
                lists[counts[t]] = order[i]
                counts[t] += 1


@inlined
def corners(records: Floats, r: Index) -> tuple[Index, Index, Index, Index]:
    """First and last column, first and last row of a record's box in the picture."""
    columns = np.int64(f32(records[r + R_COLUMNS]).view(np.uint32))
    rows = np.int64(f32(records[r + R_ROWS]).view(np.uint32))
    return columns & 0xFFFF, columns >> 16, rows & 0xFFFF, rows >> 16


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
def blend(buffer: Floats, records: Floats, lists: Words, first: int, end: int, tile_x: int, tile_y: int) -> None:
    """One tile from nothing: `buffer` gets T and the premultiplied colour. tile_x, tile_y: its first pixel."""
    one, zero, half = every(f32(1)), every(f32(0)), f32(0.5)
    cap, threshold = every(CAP), every(FAINT)
    for y in range(TILE_H):
        for x in range(0, STRIDE, LANES):
            store(buffer, y * ROW + x, one)
        for x in range(STRIDE, ROW, LANES):
            store(buffer, y * ROW + x, zero)
    for j in range(first, end):
        if j + 6 < end:
            prefetch(records, np.int64(lists[j + 6]) * RECORD)
        r = np.int64(lists[j]) * RECORD
        x0, x1, y0, y1 = corners(records, r)
        x0, x1 = max(x0 - tile_x, 0), min(x1 - tile_x, TILE_W - 1)
        y0, y1 = max(y0 - tile_y, 0), min(y1 - tile_y, TILE_H - 1)
        mx, my = records[r + R_X] - f32(tile_x) - half, records[r + R_Y] - f32(tile_y) - half
        a, b, c = records[r + R_A], records[r + R_B], records[r + R_C]
        red, green, blue = every(records[r + R_RED]), every(records[r + R_RED + 1]), every(records[r + R_RED + 2])
        step = every(records[r + R_STEP])
        wide = x1 - x0 >= LANES
        for x in range(x0, x1 + 1, LANES):
            top, last = y0, y1
            if wide:
                top, last = rows_of(records, r, mx, my, x, x1, y0, y1)
            u = count() + (f32(x) - mx)
            base, slope = records[r + R_LN_O] - half * a * (u * u), b * u
            dy = f32(top) - my
            at = top * ROW + x
            left = last - top + 1
            while left > 0:
                rows = min(left, RESTART)
                left -= rows
                # e = o exp(-(A u² + 2 B u dy + C dy²) / 2); a row further down it is e * ratio, and ratio * exp(-C).
                e = exp(base - dy * slope - half * c * dy * dy)
                ratio = exp(f32(-1) * slope - c * (dy + half))
                dy += f32(rows)
                for _ in range(rows):
                    t = load(buffer, at)
                    weight = at_least(least(e, cap), threshold) * t
                    store(buffer, at, t - weight)
                    store(buffer, at + STRIDE, load(buffer, at + STRIDE) + weight * red)
                    store(buffer, at + 2 * STRIDE, load(buffer, at + 2 * STRIDE) + weight * green)
                    store(buffer, at + 3 * STRIDE, load(buffer, at + 3 * STRIDE) + weight * blue)
                    e = e * ratio
                    ratio = ratio * step
                    at += ROW


@inlined
def composite(buffer: Floats, plates: Floats, at: int, pixel: int, plane: int, channel: int) -> Vector:
    """Eight pixels of a channel over the background, 0 to 1."""
    value = load(buffer, at + (channel + 1) * STRIDE) + load(buffer, at) * load(plates, channel * plane + pixel)
    return least(greatest(value, every(f32(0))), every(f32(1)))


@fast
def to_rgb24(
    buffer: Floats, plates: Floats, out: Bytes, tile_x: int, tile_y: int, width: int, height: int, padded: int
) -> None:
    """A blended tile over the background, rounded to bytes. plates: (3, padded height, padded) flat."""
    plane = plates.shape[0] // 3
    line = TILE_H * ROW  # of the buffer: three lines of scratch
    for y in range(min(TILE_H, height - tile_y)):
        pixel = (tile_y + y) * padded + tile_x
        for channel in range(3):
            for x in range(0, TILE_W, LANES):
                value = composite(buffer, plates, y * ROW + x, pixel + x, plane, channel)
                store(buffer, line + channel * TILE_W + x, value * f32(255) + f32(0.5))
        at = ((tile_y + y) * width + tile_x) * 3
        for x in range(min(TILE_W, width - tile_x)):
            for channel in range(3):
                out[at + x * 3 + channel] = np.uint8(np.int32(buffer[line + channel * TILE_W + x]))


@fast
def to_i420(
    buffer: Floats, plates: Floats, out: Bytes, tile_x: int, tile_y: int, width: int, height: int, padded: int
) -> None:
    """A blended tile over the background as BT.601 limited range; chroma is the mean of two by two pixels."""
    plane = plates.shape[0] // 3
    luma = TILE_H * ROW  # lines of scratch: luma, then red, green, blue of the upper row, then the two chromas
    sums, chroma = luma + TILE_W, luma + 4 * TILE_W
    columns = min(TILE_W, width - tile_x)
    for y in range(0, min(TILE_H, height - tile_y), 2):
        for row in range(2):
            pixel = (tile_y + y + row) * padded + tile_x
            for x in range(0, TILE_W, LANES):
                at = (y + row) * ROW + x
                r = composite(buffer, plates, at, pixel + x, plane, 0)
                g = composite(buffer, plates, at, pixel + x, plane, 1)
                b = composite(buffer, plates, at, pixel + x, plane, 2)
                store(buffer, luma + x, f32(65.481) * r + f32(128.553) * g + f32(24.966) * b + f32(16.5))
                if row == 0:
                    store(buffer, sums + x, r)
                    store(buffer, sums + TILE_W + x, g)
                    store(buffer, sums + 2 * TILE_W + x, b)
                else:
                    r = r + load(buffer, sums + x)
                    g = g + load(buffer, sums + TILE_W + x)
                    b = b + load(buffer, sums + 2 * TILE_W + x)
                    # A quarter of -37.797 -74.203 112 and of 112 -93.786 -18.214.
                    store(buffer, chroma + x, f32(-9.44925) * r - f32(18.55075) * g + f32(28) * b)
                    store(buffer, chroma + TILE_W + x, f32(28) * r - f32(23.4465) * g - f32(4.5535) * b)
            at = (tile_y + y + row) * width + tile_x
            for x in range(columns):
                out[at + x] = np.uint8(np.int32(buffer[luma + x]))
        at = width * height + ((tile_y + y) // 2) * (width // 2) + tile_x // 2
        second = at + width * height // 4
        for x in range(columns // 2):
            pair = chroma + 2 * x
            out[at + x] = np.uint8(np.int32(buffer[pair] + buffer[pair + 1] + f32(128.5)))
            pair += TILE_W
            out[second + x] = np.uint8(np.int32(buffer[pair] + buffer[pair + 1] + f32(128.5)))


@inlined
def copy_tile(
    source: Bytes, out: Bytes, kind: int, tile_x: int, tile_y: int, columns: int, rows: int, width: int, height: int
) -> None:
    """The background's bytes where nothing is drawn."""
    if kind == RGB24:
        for y in range(tile_y, tile_y + rows):
            at = (y * width + tile_x) * 3
            out[at : at + 3 * columns] = source[at : at + 3 * columns]
        return
    for y in range(tile_y, tile_y + rows):
        at = y * width + tile_x
        out[at : at + columns] = source[at : at + columns]
    for plane in range(2):
        for y in range(tile_y // 2, (tile_y + rows) // 2):
            at = width * height * (4 + plane) // 4 + y * (width // 2) + tile_x // 2
            out[at : at + columns // 2] = source[at : at + columns // 2]


@fast
def paint(
    records: Floats,
    lists: Words,
    offsets: Longs,
    plates: Floats,  # flat (3, padded height, padded width): the background
    bytes_: Bytes,  # flat: the background in the kind that is painted; empty: convert it
    kind: int,  # RGB24 or I420
    out: Bytes,  # flat
    alpha: Bytes,  # flat (height, width), or empty
    width: int,
    height: int,
    tiles_x: int,
    buffer: Floats,
) -> None:
    """Blend and convert every tile."""
    padded = tiles_x * TILE_W
    for t in range(offsets.shape[0] - 1):
        tile_x, tile_y = (t % tiles_x) * TILE_W, (t // tiles_x) * TILE_H
        columns, rows = min(TILE_W, width - tile_x), min(TILE_H, height - tile_y)
        empty = offsets[t] == offsets[t + 1]
        if alpha.shape[0] and empty:
            for y in range(tile_y, tile_y + rows):
                alpha[y * width + tile_x : y * width + tile_x + columns] = np.uint8(0)
        if empty and bytes_.shape[0]:
            copy_tile(bytes_, out, kind, tile_x, tile_y, columns, rows, width, height)
            continue
        blend(buffer, records, lists, offsets[t], offsets[t + 1], tile_x, tile_y)
        if kind == RGB24:
            to_rgb24(buffer, plates, out, tile_x, tile_y, width, height, padded)
        else:
            to_i420(buffer, plates, out, tile_x, tile_y, width, height, padded)
        if alpha.shape[0] and not empty:
            for y in range(rows):
                at = (tile_y + y) * width + tile_x
                for x in range(columns):
                    alpha[at + x] = np.uint8(np.int32((f32(1) - buffer[y * ROW + x]) * f32(255) + f32(0.5)))


@fast
def paint_planes(
    records: Floats,
    lists: Words,
    offsets: Longs,
    tiles_x: int,
    colour: Floats,  # flat (3, padded height, padded width), out
    transmittance: Floats,  # flat (padded height, padded width), out
    buffer: Floats,
) -> None:
    """Blend every tile and keep the floats."""
    padded, plane = tiles_x * TILE_W, transmittance.shape[0]
    for t in range(offsets.shape[0] - 1):
        tile_x, tile_y = (t % tiles_x) * TILE_W, (t // tiles_x) * TILE_H
        blend(buffer, records, lists, offsets[t], offsets[t + 1], tile_x, tile_y)
        for y in range(TILE_H):
            at = (tile_y + y) * padded + tile_x
            for x in range(0, TILE_W, LANES):
                store(transmittance, at + x, load(buffer, y * ROW + x))
                for channel in range(3):
                    store(colour, channel * plane + at + x, load(buffer, y * ROW + (channel + 1) * STRIDE + x))


@exact
def recolour(records: Floats, visible: int, features: Floats) -> None:
    """Blend something else with the same splats. features: (visible, 3)."""
    for i in range(visible):
        for channel in range(3):
            records[i * RECORD + R_RED + channel] = features[i, channel]


@exact
def shape_features(
    blocks: Floats,
    raw: Floats,
    deltas: Floats,
    moving: int,
    camera: Floats,
    visible: int,
    ids: Words,
    normals: Floats,
    depths: Floats,
) -> None:
    """Per splat: (visible, 3) the shortest own axis in the world, turned to the camera; (visible, 3) depth 0 0."""
    own = np.zeros(10, np.float32)
    for k in range(visible):
        i = np.int64(ids[k])
        b, lane = (i >> 3) * VALUES * 8, i & 7
        for v in range(10):
            own[v] = blocks[b + v * 8 + lane]
            if i < moving and np.isfinite(deltas[v * moving + i]):
                own[v] = own[v] + deltas[v * moving + i]
        if i < moving:  # softplus rises with its argument: the order of the scales is all that matters here
            for v in range(3):
                own[S + v] = raw[(i >> 3) * 24 + v * 8 + lane]
                if np.isfinite(deltas[(S + v) * moving + i]):
                    own[S + v] = own[S + v] + deltas[(S + v) * moving + i]
        axis = shortest(own[S], own[S + 1], own[S + 2])
        w, x, y, z = own[Q], own[Q + 1], own[Q + 2], own[Q + 3]
        nx, ny, nz = axis_of(w, x, y, z, axis)
        toward = f32(0)
        for c in range(3):
            place = -(camera[c] * camera[3] + camera[4 + c] * camera[7] + camera[8 + c] * camera[11])
            toward += (own[X + c] - place) * (nx if c == 0 else ny if c == 1 else nz)
        sign = f32(-1) if toward > 0 else f32(1)
        normals[k, 0], normals[k, 1], normals[k, 2] = sign * nx, sign * ny, sign * nz
        depths[k, 0] = camera[8] * own[X] + camera[9] * own[X + 1] + camera[10] * own[X + 2] + camera[11]
        depths[k, 1] = depths[k, 2] = f32(0)


@inlined
def shortest(a: np.float32, b: np.float32, c: np.float32) -> int:
    """Which of three scales is the smallest: z if smaller than both, else y, else x, as InsTaG has it."""
    if c < a and c < b:
        return 2
    return 1 if b < a else 0


@inlined
def axis_of(
    w: np.float32, x: np.float32, y: np.float32, z: np.float32, axis: int
) -> tuple[np.float32, np.float32, np.float32]:
    """A column of the rotation matrix of a quaternion of any length."""
    s = f32(2) / max(w * w + x * x + y * y + z * z, SHORT)
    if axis == 0:
        return f32(1) - s * (y * y + z * z), s * (x * y + w * z), s * (x * z - w * y)
    if axis == 1:
        return s * (x * y - w * z), f32(1) - s * (x * x + z * z), s * (y * z + w * x)
    return s * (x * z + w * y), s * (y * z - w * x), f32(1) - s * (x * x + y * y)


def padded(width: int, height: int) -> tuple[int, int]:
    """Tiles across and down."""
    return -(-width // TILE_W), -(-height // TILE_H)


def numbers(camera: Camera, low_pass: LowPass) -> Floats:
    """Camera and filter as the kernels take them: 12 of world_to_camera, focal, centre, variances, limits."""
    matrix = np.asarray(camera.world_to_camera, np.float64).ravel()
    rest = [*camera.focal, *camera.centre, low_pass.variance, low_pass.trained, *camera.limits()]
    return np.concatenate([matrix, rest]).astype(np.float32)


class Cloud:
    """An avatar's Gaussians packed for the kernels: read-only, shared by every call that shows it."""

    def __init__(self, gaussians: Gaussians, moving: int = 0) -> None:
        """moving: the first so many Gaussians may be deformed; rounded up to a multiple of 8."""
        n = len(gaussians)
        if not 0 <= moving <= n:
            raise ValueError(f"{moving} of {n} Gaussians cannot move")
        blocks = -(-n // LANES)
        self.size = n
        self.bands = gaussians.sh.shape[1]
        self.moving = -(-moving // LANES) * LANES
        self.layers = np.zeros(blocks * LANES, np.uint8)
        if gaussians.layers is not None:
            self.layers[:n] = gaussians.layers
        packed = np.empty((blocks, VALUES, LANES), np.float32)
        sh = np.empty((blocks, 3 * self.bands, LANES), np.float32)
        arrays = (gaussians.means, gaussians.scales, gaussians.rotations, gaussians.opacities, gaussians.sh)
        means, scales, rotations, opacities, colours = (np.ascontiguousarray(a, np.float32) for a in arrays)
        pack(means, scales, rotations, opacities, colours, packed, sh)
        self.blocks = packed.ravel()
        self.sh = sh.ravel()
        # softplus's inverse, x + ln(1 - e^-x), in doubles; what is smaller than the least bound is as good as 0.
        drawn = np.maximum(packed[: self.moving // LANES, S : S + 3].astype(np.float64), 1e-12)
        self.raw = (drawn + np.log(-np.expm1(-drawn))).astype(np.float32).ravel()
        self.still = np.zeros(DELTAS * self.moving, np.float32)


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
            _buffer(),
        )

    @classmethod
    def plain(cls, width: int, height: int, colour: tuple[int, int, int] = (0, 0, 0)) -> "Background":
        """One colour, 0 to 255."""
        return cls(np.full((height, width, 3), colour, np.uint8))


def _buffer() -> Floats:
    """A tile and six lines of scratch."""
    return np.zeros(TILE_H * ROW + 6 * TILE_W + LANES, np.float32)


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
        self.buffer = _buffer()
        self.visible = 0
        self._camera = np.zeros(22, np.float32)
        self._deltas = cloud.still

    def arrange(self, camera: Camera, deltas: Floats | None = None, low_pass: LowPass | None = None) -> None:
        """Project, sort and bin: what every picture begins with.

        deltas: (10, cloud.moving) float32: added to mean (3), quaternion (4), scales before softplus (3); what is not
        finite counts as 0. Raises ValueError if camera or deltas do not fit.
        """
        cloud = self.cloud
        if (camera.width, camera.height) != (self.width, self.height):
            raise ValueError(
                f"the camera sees {camera.width} x {camera.height} pixels, and {self.width} x {self.height} are drawn"
            )
        if deltas is None:
            self._deltas = cloud.still
        elif deltas.shape != (DELTAS, cloud.moving) or deltas.dtype != np.float32:
            raise ValueError(
                f"deltas must be float32 ({DELTAS}, {cloud.moving}), and are {deltas.dtype} {deltas.shape}"
            )
        else:
            self._deltas = np.ascontiguousarray(deltas).ravel()
        self._camera = numbers(camera, low_pass or LowPass())
        self.visible = project(
            cloud.blocks,
            cloud.sh,
            cloud.bands,
            cloud.raw,
            self._deltas,
            cloud.moving,
            cloud.layers,
            self._camera,
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
        """Fill (visible, 3) each: normals, and depth 0 0."""
        cloud = self.cloud
        shape_features(
            cloud.blocks,
            cloud.raw,
            self._deltas,
            cloud.moving,
            self._camera,
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
