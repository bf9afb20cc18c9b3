"""Splats sorted, binned into tiles, blended and converted: the second half of a CPU frame."""

import numpy as np

from render.raster.compiled import exact, fast, inlined
from render.raster.gaussians import ALPHA_MAX, ALPHA_MIN, Bytes, Floats
from render.raster.project import (
    R_A,
    R_B,
    R_C,
    R_COLUMNS,
    R_EY,
    R_INV_C,
    R_LN_O,
    R_RED,
    R_ROWS,
    R_SPREAD,
    R_STEP,
    R_X,
    R_Y,
    RECORD,
    TILE_H,
    TILE_W,
    Keys,
    Longs,
    Words,
    f32,
    u32,
    u64,
)
from render.raster.simd import LANES, Vector, at_least, count, every, exp, greatest, least, load, prefetch, store

Index = int | np.int64

STRIDE = TILE_W + LANES  # a column that begins at the tile's last pixel writes eight wide all the same
ROW = 4 * STRIDE  # one row of a tile: T, red, green, blue
RESTART = 8  # rows between two evaluations of the exponential of a steep splat: it would underflow and stay zero
GENTLE = f32(0.15)  # 1/px²: with a smaller C the exponent falls by less than 80 over a tile, C 32² / 2

DEPTH_BITS, DIGIT_BITS = 20, 11  # of the sorting key: depth below two bits of layer, two passes of eleven bits
DIGITS = 1 << DIGIT_BITS

CAP, FAINT = f32(ALPHA_MAX), f32(ALPHA_MIN)  # the rules in float32

RGB24, I420 = 1, 2


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
        run = RESTART if c > GENTLE else TILE_H
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
                rows = min(left, run)
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


def padded(width: int, height: int) -> tuple[int, int]:
    """Tiles across and down."""
    return -(-width // TILE_W), -(-height // TILE_H)


def tile_buffer() -> Floats:
    """A tile and six lines of scratch."""
    return np.zeros(TILE_H * ROW + 6 * TILE_W + LANES, np.float32)
