"""One frame of the motion fields on one core: the small MLPs, 128 points side by side, compiled by numba.

The kernels see blocks: (blocks, features, LANES). Weights are scalars there and points fill the vector registers, so
that nothing is summed across lanes and no reordering of sums is allowed; only a product and its sum may be fused.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

LANES = 128
"""points in a block: its layers stay in the second cache, and the loops over it are long enough to vectorise well"""

Floats = NDArray[np.float32]

ZERO = np.float32(0)
ONE = np.float32(1)
TWO = np.float32(2)
LOWEST = np.float32(-np.inf)
SLOPE = np.float32(0.02)  # of a leaky rectifier, as in `voice`


@njit(inline="always")
def _dense(weights: Floats, x: Floats, out: Floats, outputs: int, inputs: int, lanes: int) -> None:
    """out (outputs, lanes) += weights (outputs, inputs) @ x; both counts are multiples of four.

    Measured: counts written down where this is called, and lanes that are not known when it is compiled, give the
    quickest code (1.4 times as quick as with shapes read from the arrays).
    """
    for j in range(0, outputs, 4):
        for k in range(0, inputs, 4):
            # Four outputs by four inputs for each pass over the lanes: 16 products for 12 loads and stores.
            a0, a1, a2, a3 = weights[j, k], weights[j, k + 1], weights[j, k + 2], weights[j, k + 3]
            b0, b1, b2, b3 = weights[j + 1, k], weights[j + 1, k + 1], weights[j + 1, k + 2], weights[j + 1, k + 3]
            c0, c1, c2, c3 = weights[j + 2, k], weights[j + 2, k + 1], weights[j + 2, k + 2], weights[j + 2, k + 3]
            d0, d1, d2, d3 = weights[j + 3, k], weights[j + 3, k + 1], weights[j + 3, k + 2], weights[j + 3, k + 3]
            for lane in range(lanes):
                x0, x1, x2, x3 = x[k, lane], x[k + 1, lane], x[k + 2, lane], x[k + 3, lane]
                out[j, lane] = out[j, lane] + a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                out[j + 1, lane] = out[j + 1, lane] + b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
                out[j + 2, lane] = out[j + 2, lane] + c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
                out[j + 3, lane] = out[j + 3, lane] + d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3


@njit(inline="always")
def _relu(x: Floats, rows: int, lanes: int) -> None:
    for j in range(rows):
        for lane in range(lanes):
            x[j, lane] = max(x[j, lane], ZERO)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def face(
    static: Floats, driven: Floats, gain: Floats, first: Floats, second: Floats, third: Floats, out: Floats
) -> None:
    """Moves the face's points: `out` (10, points) is written; rows as in `baked.Deformation.face`.

    static (blocks, 64, LANES): the first layer's constant part; driven (blocks, 40, LANES): attentions, which `first`
    (64, 40), made anew for each frame, turns into the rest of it; gain (blocks, 3, LANES) multiplies the motion.
    """
    points, lanes = out.shape[1], static.shape[2]
    one = np.empty((64, lanes), np.float32)
    two = np.empty((64, lanes), np.float32)
    three = np.empty((12, lanes), np.float32)
    for block in range(static.shape[0]):
        one[:] = static[block]
        _dense(first, driven[block], one, 64, 40, lanes)
        _relu(one, 64, lanes)
        two[:] = ZERO
        _dense(second, one, two, 64, 64, lanes)
        _relu(two, 64, lanes)
        three[:] = ZERO
        _dense(third, two, three, 12, 64, lanes)
        at = block * lanes
        count = min(lanes, points - at)
        for row in range(3):
            for lane in range(count):
                out[row, at + lane] = three[row, lane] * gain[block, row, lane]
        for row in range(3, 10):
            for lane in range(count):
                out[row, at + lane] = three[row, lane]


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def mouth(
    static: Floats,
    pushed: Floats,
    second: Floats,
    third: Floats,
    gate_static: Floats,
    gate_pushed: Floats,
    gate_second: Floats,
    gate_third: Floats,
    out: Floats,
) -> None:
    """Moves the mouth's points: `out` (3, points) is written.

    static (blocks, 32, LANES) and gate_static (blocks, 16, LANES): the first layers' constant parts; pushed (32,) and
    gate_pushed (16,): what this frame adds to every point alike.
    """
    points, lanes = out.shape[1], static.shape[2]
    one = np.empty((32, lanes), np.float32)
    two = np.empty((32, lanes), np.float32)
    three = np.empty((4, lanes), np.float32)
    gate_one = np.empty((16, lanes), np.float32)
    gate_two = np.empty((16, lanes), np.float32)
    gate_three = np.empty((4, lanes), np.float32)
    for block in range(static.shape[0]):
        for j in range(32):
            for lane in range(lanes):
                one[j, lane] = max(static[block, j, lane] + pushed[j], ZERO)
        two[:] = ZERO
        _dense(second, one, two, 32, 32, lanes)
        _relu(two, 32, lanes)
        three[:] = ZERO
        _dense(third, two, three, 4, 32, lanes)
        for j in range(16):
            for lane in range(lanes):
                gate_one[j, lane] = max(gate_static[block, j, lane] + gate_pushed[j], ZERO)
        gate_two[:] = ZERO
        _dense(gate_second, gate_one, gate_two, 16, 16, lanes)
        _relu(gate_two, 16, lanes)
        gate_three[:] = ZERO
        _dense(gate_third, gate_two, gate_three, 4, 16, lanes)
        at = block * lanes
        for lane in range(min(lanes, points - at)):
            gain = TWO / (ONE + np.exp(-gate_three[0, lane]))
            for row in range(3):
                out[row, at + lane] = three[row, lane] * gain


@njit(nogil=True, cache=True, error_model="numpy")
def attend(
    window: Floats, kernels: tuple[Floats, ...], biases: tuple[Floats, ...], weight: Floats, bias: Floats, out: Floats
) -> None:
    """`voice.attend` without numpy's forty calls: window (WINDOW, CODE) -> out (CODE,).

    kernels and biases: of the five convolutions; weight and bias: of the scores.
    """
    steps, width = window.shape
    x = np.zeros((width, steps + 2), np.float32)
    x[:, 1:-1] = window.T
    for layer in range(len(kernels)):
        kernel = kernels[layer]
        y = np.zeros((kernel.shape[0], steps + 2), np.float32)
        for j in range(kernel.shape[0]):
            for t in range(steps):
                total = biases[layer][j]
                for c in range(kernel.shape[1]):
                    for k in range(3):
                        total += kernel[j, c, k] * x[c, t + k]
                y[j, t + 1] = max(total, SLOPE * total)
        x = y
    shares = np.empty(steps, np.float32)
    highest = LOWEST
    for t in range(steps):
        score = bias[t]
        for s in range(steps):
            score += weight[t, s] * x[0, s + 1]
        shares[t] = score
        highest = max(highest, score)
    whole = ZERO
    for t in range(steps):
        shares[t] = np.exp(shares[t] - highest)
        whole += shares[t]
    for c in range(width):
        total = ZERO
        for t in range(steps):
            total += shares[t] * window[t, c]
        out[c] = total / whole


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def add_shapes(mean: Floats, shapes: NDArray[np.int16], amounts: Floats, out: Floats) -> None:
    """out (channels, points) = mean + the sum over k of amounts (K, channels) times shapes (channels, K, points)."""
    channels, points = out.shape
    count = amounts.shape[0]
    for channel in range(channels):
        row = out[channel]
        row[:] = mean[channel]
        for k in range(0, count - 3, 4):
            a, b, c, d = (
                amounts[k, channel],
                amounts[k + 1, channel],
                amounts[k + 2, channel],
                amounts[k + 3, channel],
            )
            w, x, y, z = shapes[channel, k], shapes[channel, k + 1], shapes[channel, k + 2], shapes[channel, k + 3]
            for n in range(points):
                row[n] = (
                    row[n] + a * np.float32(w[n]) + b * np.float32(x[n]) + c * np.float32(y[n]) + d * np.float32(z[n])
                )
        for k in range(count - count % 4, count):
            a, w = amounts[k, channel], shapes[channel, k]
            for n in range(points):
                row[n] = row[n] + a * np.float32(w[n])


@njit(nogil=True, cache=True, error_model="numpy")
def largest(values: Floats, sign: np.float32, others: Floats, rank: int) -> np.float32:
    """The `rank`-th largest of sign * values and `others` together, ranks from 1."""
    best = np.full(rank, LOWEST, np.float32)  # falling
    for n in range(values.shape[0] + others.shape[0]):
        v = sign * values[n] if n < values.shape[0] else others[n - values.shape[0]]
        if v > best[rank - 1]:
            at = rank - 1
            while at > 0 and best[at - 1] < v:
                best[at] = best[at - 1]
                at -= 1
            best[at] = v
    return np.float32(best[rank - 1])


def blocks(rows: Floats, features: int) -> Floats:
    """(points, k) -> (blocks, features, LANES), filled up with zeros."""
    count = -(-len(rows) // LANES)
    padded = np.zeros((count * LANES, features), np.float32)
    padded[: len(rows), : rows.shape[1]] = rows
    return np.ascontiguousarray(padded.reshape(count, LANES, features).transpose(0, 2, 1))


def padded(weights: Floats, outputs: int, inputs: int) -> Floats:
    """Weights with rows and columns of zeros added up to (outputs, inputs)."""
    out = np.zeros((outputs, inputs), np.float32)
    out[: weights.shape[0], : weights.shape[1]] = weights
    return out
