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
from render.raster.simd import (
    LANES,
    Vector,
    at_least,
    ceil,
    count,
    every,
    exp,
    exp_coarse,
    floor,
    greatest,
    least,
    load,
    pairs,
    prefetch,
    sqrt,
    store,
    store_bytes,
    store_ints,
)

Index = int | np.int64

STRIDE = TILE_W + LANES  # planes lie apart, or those of many rows would share a few of the cache's sets
ROW = 4 * STRIDE  # one row of a tile: T, red, green, blue
SCRATCH = TILE_H * ROW  # behind the tile: what is used while it is painted
TOPS, LASTS, STRIPS_AT = SCRATCH, SCRATCH + LANES, SCRATCH + 2 * LANES
# e^-87 is the least that float32 holds: an exponential that begins below that is 0 and stays 0 down its strip. The
# exponent is -s²/2, and from one row to the next s changes by sqrt(C) at most; so from 13.2 it needs more rows than
# sqrt(STEEP / C) to come down to the 3.3 where a splat is seen.
STEEP = f32(97)

# A strip of a splat: eight pixels wide, from its first row down. Of twenty-four floats in a tile's buffer: e in the
# first row, its ratio to the next row, place | rows << 20 as bits, exp(-C), colour.
LONGEST = 32  # rows of a strip: the error of its recurrence grows with their square
STRIP, S_RATIO, S_PLACE, S_STEP, S_RED = 24, 8, 16, 17, 18
BATCH = 160  # strips found before they are blended, and those of one splat more
STRIPS = BATCH + TILE_W // LANES * TILE_H + 1  # a strip may have as little as one row, in pictures shrunk a lot

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


@fast
def cut(buffer: Floats, records: Floats, r: Index, tile_x: int, tile_y: int, n: int) -> int:
    """Cuts one splat into strips, behind the `n` that are there; returns how many there are then."""
    zero, half, last_lane = every(f32(0)), f32(0.5), f32(LANES - 1)
    x0, x1, y0, y1 = corners(records, r)
    x0, x1 = max(x0 - tile_x, 0) // LANES * LANES, min(x1 - tile_x, TILE_W - 1)
    y0, y1 = max(y0 - tile_y, 0), min(y1 - tile_y, TILE_H - 1)
    mx, my = records[r + R_X] - f32(tile_x) - half, records[r + R_Y] - f32(tile_y) - half
    a, b, c, ln_o = records[r + R_A], records[r + R_B], records[r + R_C], records[r + R_LN_O]
    inverse, spread = records[r + R_INV_C], records[r + R_SPREAD]
    step = records[r + R_STEP]
    red, green, blue = records[r + R_RED], records[r + R_RED + 1], records[r + R_RED + 2]
    # The rows that the ellipse touches within each column of eight pixels, all columns at once: its upper edge is
    # highest at the abscissa of its topmost point, or, if that lies outside, at the nearer border; likewise below.
    summit = every(-b / a * records[r + R_EY])
    first = count() * f32(LANES) + (f32(x0) - mx)
    last = least(first + last_lane, every(f32(x1) - mx))
    u = least(greatest(summit, first), last)
    bu = b * u
    upper = (sqrt(greatest(bu * bu - c * (a * u * u - spread), zero)) - bu) * inverse
    u = least(greatest(zero - summit, first), last)
    bu = b * u
    lower = (zero - bu - sqrt(greatest(bu * bu - c * (a * u * u - spread), zero))) * inverse
    store_ints(buffer, TOPS, ceil(lower + my))
    store_ints(buffer, LASTS, floor(upper + my))
    run = min(int(np.sqrt(STEEP * inverse)) + 1, LONGEST)
    for column in range((x1 - x0) // LANES + 1):
        top = max(int(f32(buffer[TOPS + column]).view(np.int32)), y0)
        end = min(int(f32(buffer[LASTS + column]).view(np.int32)), y1) + 1
        x = x0 + LANES * column
        u = count() + (f32(x) - mx)
        base, slope = ln_o - half * a * (u * u), b * u
        while True:
            rows = min(end - top, run)
            dy = f32(top) - my
            s = STRIPS_AT + n * STRIP
            # e = o exp(-(A u² + 2 B u dy + C dy²) / 2); a row further down it is e * ratio, and ratio * exp(-C).
            store(buffer, s, exp(base - dy * slope - half * c * dy * dy))
            store(buffer, s + S_RATIO, exp_coarse(f32(-1) * slope - c * (dy + half)))
            buffer[s + S_PLACE] = np.int32((top * ROW + x) | (rows << 20)).view(np.float32)
            buffer[s + S_STEP] = step
            buffer[s + S_RED] = red
            buffer[s + S_RED + 1] = green
            buffer[s + S_RED + 2] = blue
            n += 1 if rows > 0 else 0  # no branch: what is not counted is written over
            top += run
            if top >= end:
                break
    return n


@fast
def blend(buffer: Floats, records: Floats, lists: Words, first: int, end: int, tile_x: int, tile_y: int) -> None:
    """One tile from nothing: `buffer` gets T and the premultiplied colour. tile_x, tile_y: its first pixel.

    Strips are found many at a time, and then blended: how many rows the next one has is then long known, and the
    processor does not have to guess.
    """
    one, zero = every(f32(1)), every(f32(0))
    cap, threshold = every(CAP), every(FAINT)
    for y in range(TILE_H):
        for x in range(0, STRIDE, LANES):
            store(buffer, y * ROW + x, one)
        for x in range(STRIDE, ROW, LANES):
            store(buffer, y * ROW + x, zero)
    j = first
    while j < end:
        strips = 0
        while j < end and strips < BATCH:
            if j + 6 < end:
                prefetch(records, np.int64(lists[j + 6]) * RECORD)
            strips = cut(buffer, records, np.int64(lists[j]) * RECORD, tile_x, tile_y, strips)
            j += 1
        for k in range(strips):
            s = STRIPS_AT + k * STRIP
            e, ratio = load(buffer, s), load(buffer, s + S_RATIO)
            place = np.int64(f32(buffer[s + S_PLACE]).view(np.int32))
            at, rows = place & 0xFFFFF, place >> 20
            step = every(buffer[s + S_STEP])
            red, green, blue = every(buffer[s + S_RED]), every(buffer[s + S_RED + 1]), every(buffer[s + S_RED + 2])
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
    for y in range(min(TILE_H, height - tile_y)):
        pixel = (tile_y + y) * padded + tile_x
        for channel in range(3):
            for x in range(0, TILE_W, LANES):
                value = composite(buffer, plates, y * ROW + x, pixel + x, plane, channel)
                store(buffer, SCRATCH + channel * TILE_W + x, value * f32(255) + f32(0.5))
        at = ((tile_y + y) * width + tile_x) * 3
        for x in range(min(TILE_W, width - tile_x)):
            for channel in range(3):
                out[at + x * 3 + channel] = np.uint8(np.int32(buffer[SCRATCH + channel * TILE_W + x]))


@inlined
def luma(red: Vector, green: Vector, blue: Vector) -> Vector:
    """Y of BT.601, half a step added for rounding."""
    return f32(65.481) * red + f32(128.553) * green + f32(24.966) * blue + f32(16.5)


@fast
def convert(
    buffer: Floats,
    plates: Floats,
    pixel: int,  # of the plates, the tile's first
    padded: int,
    columns: int,  # a multiple of 16
    rows: int,  # even
    out: Bytes,
    lumas: int,  # where the tile begins in each plane of `out`
    blues: int,
    reds: int,
    width: int,  # of `out`
) -> None:
    """A blended tile over the background as BT.601 limited range; chroma is the mean of two by two pixels."""
    plane = plates.shape[0] // 3
    for y in range(0, rows, 2):
        for x in range(0, columns, 2 * LANES):
            for part in range(0, 2 * LANES, LANES):
                cell, behind, at = y * ROW + x + part, pixel + y * padded + x + part, lumas + y * width + x + part
                r = composite(buffer, plates, cell, behind, plane, 0)
                g = composite(buffer, plates, cell, behind, plane, 1)
                b = composite(buffer, plates, cell, behind, plane, 2)
                store_bytes(out, at, luma(r, g, b))
                r1 = composite(buffer, plates, cell + ROW, behind + padded, plane, 0)
                g1 = composite(buffer, plates, cell + ROW, behind + padded, plane, 1)
                b1 = composite(buffer, plates, cell + ROW, behind + padded, plane, 2)
                store_bytes(out, at + width, luma(r1, g1, b1))
                r, g, b = r + r1, g + g1, b + b1
                # A quarter of -37.797 -74.203 112 and of 112 -93.786 -18.214.
                blue = f32(-9.44925) * r - f32(18.55075) * g + f32(28) * b
                red = f32(28) * r - f32(23.4465) * g - f32(4.5535) * b
                store(buffer, SCRATCH + part, blue)
                store(buffer, SCRATCH + 2 * LANES + part, red)
            at = y // 2 * (width // 2) + x // 2
            blue = pairs(load(buffer, SCRATCH), load(buffer, SCRATCH + LANES))
            red = pairs(load(buffer, SCRATCH + 2 * LANES), load(buffer, SCRATCH + 3 * LANES))
            store_bytes(out, blues + at, blue + f32(128.5))
            store_bytes(out, reds + at, red + f32(128.5))


@fast
def to_i420(
    buffer: Floats, plates: Floats, out: Bytes, tile_x: int, tile_y: int, width: int, height: int, padded: int
) -> None:
    """A blended tile over the background into its place in a picture."""
    columns, rows = min(TILE_W, width - tile_x), min(TILE_H, height - tile_y)
    pixel = tile_y * padded + tile_x
    lumas, chroma = tile_y * width + tile_x, tile_y // 2 * (width // 2) + tile_x // 2
    blues, reds = width * height + chroma, width * height * 5 // 4 + chroma
    if columns % (2 * LANES) == 0:
        convert(buffer, plates, pixel, padded, columns, rows, out, lumas, blues, reds, width)
        return
    # A picture of an odd size: a whole tile, of which the picture's part is copied.
    whole = TILE_W * TILE_H
    tile = np.empty(whole * 3 // 2, np.uint8)
    convert(buffer, plates, pixel, padded, TILE_W, rows, tile, 0, whole, whole * 5 // 4, TILE_W)
    for y in range(rows):
        for x in range(columns):
            out[lumas + y * width + x] = tile[y * TILE_W + x]
    for y in range(rows // 2):
        for x in range(columns // 2):
            at, source = y * (width // 2) + x, whole + y * (TILE_W // 2) + x
            out[blues + at] = tile[source]
            out[reds + at] = tile[source + whole // 4]


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
                for x in range(0, columns - columns % LANES, LANES):
                    store_bytes(alpha, at + x, (f32(1) - load(buffer, y * ROW + x)) * f32(255) + f32(0.5))
                for x in range(columns - columns % LANES, columns):
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
    """A tile with what is used while it is painted, its lines where vectors are loaded fastest."""
    size, line = SCRATCH + max(STRIPS_AT - SCRATCH + STRIPS * STRIP, 3 * TILE_W), 16
    memory = np.zeros(size + line, np.float32)
    start = -memory.ctypes.data // 4 % line
    return memory[start : start + size]
