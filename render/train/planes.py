"""The motion fields for training on one CPU core: the same modules and numbers as `render.motion`, computed sooner.

Three things make it quick. The corners that a position touches in the grids are found once for a set of positions,
not once for each frame or level; the part of the first layer that no frame changes is computed once for all frames;
and the layers after it run over some hundred points at a time, so that what lies between them stays in the cache and
is computed again on the way back instead of being kept.

Nothing here has weights of its own. On tensors that are not float32 in main memory, each function is the module's
own `forward`, so that training code is the same on a GPU.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from render.motion.grid import TriPlaneEncoder
from render.motion.networks import (
    Aligner,
    Alignment,
    FaceDeformation,
    FaceField,
    HeadDeformation,
    HeadMotion,
    Mlp,
    Mouth,
    MouthField,
    PersonalFaceField,
    PersonalMouthField,
    hook,
)
from render.motion.tables import BOUND, CODE, ENCODING, LEVELS, METRES, SIDEWAYS, Levels

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

PLANES = 3
OUTSIDE = np.int32(-1)
SIDE = np.float32(2 * BOUND)
EDGE = np.float32(BOUND)
HALF = np.float32(0.5)
ONE = np.float32(1)
ZERO = np.float32(0)

CHUNK = 1024
"""points that go through the layers at a time: 64 wide, they and their gradients fill half a megabyte"""

# --- the grids ---


@dataclass(frozen=True, eq=False)
class Taps:
    """What positions touch in the grids: good for as long as neither the positions nor the levels change."""

    row: Ints  # (N, PLANES, LEVELS); of the corner nearest to the origin of the plane, OUTSIDE beyond the square
    fx: Floats  # (N, PLANES, LEVELS); share of the next corner along the first coordinate
    fy: Floats  # (N, PLANES, LEVELS); along the second
    strides: Ints  # (LEVELS,)
    slopes: Floats  # (LEVELS,); cells per metre
    rows: int
    """of one plane's table"""

    def __len__(self) -> int:
        return len(self.row)


def taps(xyz: Tensor | Floats, levels: Levels) -> Taps:
    """Positions (N, 3) in metres -> what they touch; as `render.motion.grid.PlaneEncoder`, which explains it."""
    strides = np.array(levels.strides, np.int32)
    starts = np.array(levels.offsets, np.int32)
    if (strides.astype(np.int64) ** 2 > np.diff(starts)).any():
        raise ValueError("These levels are hashed: ask render.motion.grid for them")
    points = xyz.detach().numpy() if isinstance(xyz, Tensor) else xyz
    points = np.ascontiguousarray(points, np.float32)
    shape = (len(points), PLANES, LEVELS)
    row, fx, fy = np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    _taps(points, levels.scales, starts, strides, row, fx, fy)
    return Taps(row, fx, fy, strides, levels.scales / SIDE, int(starts[-1]))


@njit(nogil=True, cache=True, error_model="numpy")
def _taps(xyz: Floats, scales: Floats, starts: Ints, strides: Ints, row: Ints, fx: Floats, fy: Floats) -> None:
    for n in range(xyz.shape[0]):
        for plane in range(3):
            u = (xyz[n, 1 if plane == 1 else 0] + EDGE) / SIDE
            v = (xyz[n, 1 if plane == 0 else 2] + EDGE) / SIDE
            inside = u >= ZERO and u <= ONE and v >= ZERO and v <= ONE  # false for NaN, too
            for level in range(scales.shape[0]):
                if not inside:
                    row[n, plane, level] = OUTSIDE
                    fx[n, plane, level] = ZERO
                    fy[n, plane, level] = ZERO
                    continue
                x = u * scales[level] + HALF
                y = v * scales[level] + HALF
                corner_x, corner_y = np.int32(x), np.int32(y)  # both positive: towards zero is down
                row[n, plane, level] = starts[level] + corner_x + corner_y * strides[level]
                fx[n, plane, level] = x - np.float32(corner_x)
                fy[n, plane, level] = y - np.float32(corner_y)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _read(xy: Floats, yz: Floats, xz: Floats, row: Ints, fx: Floats, fy: Floats, strides: Ints, out: Floats) -> None:
    """out (N, ENCODING) is written; tables (rows, 1)."""
    for n in range(row.shape[0]):
        for plane in range(3):
            table = xy if plane == 0 else (yz if plane == 1 else xz)
            for level in range(row.shape[2]):
                r = row[n, plane, level]
                value = ZERO
                if r >= 0:
                    below = r + strides[level]
                    x, y = fx[n, plane, level], fy[n, plane, level]
                    low = table[r, 0] + x * (table[r + 1, 0] - table[r, 0])
                    high = table[below, 0] + x * (table[below + 1, 0] - table[below, 0])
                    value = low + y * (high - low)
                out[n, plane * row.shape[2] + level] = value


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _read_back(
    grad: Floats, row: Ints, fx: Floats, fy: Floats, strides: Ints, xy: Floats, yz: Floats, xz: Floats
) -> None:
    """The gradient of `out`, (N, ENCODING), is added to those of the tables, (rows, 1)."""
    for n in range(row.shape[0]):
        for plane in range(3):
            table = xy if plane == 0 else (yz if plane == 1 else xz)
            for level in range(row.shape[2]):
                r = row[n, plane, level]
                if r >= 0:
                    below = r + strides[level]
                    g = grad[n, plane * row.shape[2] + level]
                    x, y = fx[n, plane, level], fy[n, plane, level]
                    high, low = g * y, g * (ONE - y)
                    table[r, 0] += low * (ONE - x)
                    table[r + 1, 0] += low * x
                    table[below, 0] += high * (ONE - x)
                    table[below + 1, 0] += high * x


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _move_back(
    grad: Floats,
    xy: Floats,
    yz: Floats,
    xz: Floats,
    row: Ints,
    fx: Floats,
    fy: Floats,
    strides: Ints,
    slopes: Floats,
    out: Floats,
) -> None:
    """out (N, 3): the gradient of the positions. On a corner of a cell it is that of the cell behind it."""
    for n in range(row.shape[0]):
        for k in range(3):
            out[n, k] = ZERO
        for plane in range(3):
            table = xy if plane == 0 else (yz if plane == 1 else xz)
            along, across = ZERO, ZERO
            for level in range(row.shape[2]):
                r = row[n, plane, level]
                if r >= 0:
                    below = r + strides[level]
                    g = grad[n, plane * row.shape[2] + level] * slopes[level]
                    x, y = fx[n, plane, level], fy[n, plane, level]
                    first, second = table[r, 0], table[r + 1, 0]
                    third, fourth = table[below, 0], table[below + 1, 0]
                    along += g * ((ONE - y) * (second - first) + y * (fourth - third))
                    across += g * ((ONE - x) * (third - first) + x * (fourth - second))
            out[n, 1 if plane == 1 else 0] += along
            out[n, 1 if plane == 0 else 2] += across


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xyz: Tensor, xy: Tensor, yz: Tensor, xz: Tensor, at: Taps) -> Tensor:
        ctx.at = at
        ctx.save_for_backward(xy, yz, xz)
        out = np.empty((len(at), ENCODING), np.float32)
        _read(*(t.detach().numpy() for t in (xy, yz, xz)), at.row, at.fx, at.fy, at.strides, out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        at: Taps = ctx.at
        tables = [table.detach().numpy() for table in ctx.saved_tensors]
        g = grad.contiguous().numpy()
        moved: Tensor | None = None
        if ctx.needs_input_grad[0]:
            out = np.empty((len(at), 3), np.float32)
            _move_back(g, *tables, at.row, at.fx, at.fy, at.strides, at.slopes, out)
            moved = torch.from_numpy(out)
        if not any(ctx.needs_input_grad[1:4]):
            return moved, None, None, None, None
        grads = [np.zeros_like(table) for table in tables]
        _read_back(g, at.row, at.fx, at.fy, at.strides, *grads)
        return moved, *(torch.from_numpy(table) for table in grads), None


def _quick(*tensors: Tensor) -> bool:
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def encode(net: TriPlaneEncoder, xyz: Tensor, at: Taps | None = None) -> Tensor:
    """`net.encode(xyz)`: (N, 3) -> (N, ENCODING). `at`: the `taps` of just these positions, if they are known."""
    if not _quick(xyz, net.encoder_xy.embeddings):
        return net.encode(xyz)
    at = at or taps(xyz, net.encoder_xy.levels)
    planes = (net.encoder_xy, net.encoder_yz, net.encoder_xz)
    out: Tensor = _Encode.apply(xyz, *(plane.embeddings for plane in planes), at)  # type: ignore[no-untyped-call]
    return out


# --- the layers ---


class _Layers(torch.autograd.Function):
    """Three layers over many frames of the same points.

    out[f] = relu(relu(static + driven @ first[f].T) @ second.T) @ third.T, with static (N, H), driven (N, D),
    first (F, H, D), second (H, H), third (K, H) -> (F, N, K).
    """

    @staticmethod
    def forward(ctx: Any, static: Tensor, driven: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        ctx.save_for_backward(static, driven, first, second, third)
        points, hidden = static.shape
        out = static.new_empty(len(first), points, len(third))
        one, two = (static.new_empty(min(CHUNK, points), hidden) for _ in range(2))
        for start in range(0, points, CHUNK):
            stop = min(start + CHUNK, points)
            a, b = one[: stop - start], two[: stop - start]
            for f in range(len(first)):
                torch.addmm(static[start:stop], driven[start:stop], first[f].T, out=a).relu_()
                torch.mm(a, second.T, out=b).relu_()
                torch.mm(b, third.T, out=out[f, start:stop])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        static, driven, first, second, third = ctx.saved_tensors
        points, hidden = static.shape
        grads = [torch.zeros_like(t) for t in ctx.saved_tensors]
        g_static, g_driven, g_first, g_second, g_third = grads
        one, two, g_one, g_two = (static.new_empty(min(CHUNK, points), hidden) for _ in range(4))
        for start in range(0, points, CHUNK):
            stop = min(start + CHUNK, points)
            a, b, g_a, g_b = (t[: stop - start] for t in (one, two, g_one, g_two))
            s, d = static[start:stop], driven[start:stop]
            for f in range(len(first)):
                torch.addmm(s, d, first[f].T, out=a).relu_()
                torch.mm(a, second.T, out=b).relu_()
                g = grad[f, start:stop]
                g_third.addmm_(g.T, b)
                torch.mm(g, third, out=g_b)
                g_b.mul_(b > 0)
                g_second.addmm_(g_b.T, a)
                torch.mm(g_b, second, out=g_a)
                g_a.mul_(a > 0)
                g_static[start:stop] += g_a
                g_driven[start:stop].addmm_(g_a, first[f])
                g_first[f].addmm_(g_a.T, d)
        return tuple(grads)


def _layers(static: Tensor, driven: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    out: Tensor = _Layers.apply(static, driven, first, second, third)  # type: ignore[no-untyped-call]
    return out


def fast_face(
    field: FaceField, xyz: Tensor, window: Tensor, action_units: Tensor, at: Taps | None = None
) -> FaceDeformation:
    """`field(xyz, window, action_units)`, which explains them, with its gradients. `at` as in `encode`."""
    if not _quick(xyz, window, action_units, field.encoder_xy.embeddings):
        whole: FaceDeformation = field(xyz, window, action_units)
        return whole
    return face_of_code(field, xyz, field.code(window), action_units, at)


def face_of_code(
    field: FaceField, xyz: Tensor, code: Tensor, action_units: Tensor, at: Taps | None = None
) -> FaceDeformation:
    """What `field` makes of codes (..., CODE), whoever gives them; on any device."""
    encoding = encode(field, xyz, at)
    hears = field.aud_ch_att_net(encoding)  # [N, CODE]
    sees = F.relu(field.eye_att_net(encoding))  # [N, 6]
    expression = torch.cat([field.exp_encode_net(action_units[..., :5]), action_units[..., 5:]], dim=-1)
    drive = torch.cat([code, expression], dim=-1)  # [..., CODE + 6]
    frames = drive.shape[:-1]
    first, second, third = field.sigma_net.parameters()
    # Attention times code, then weights: the code may as well go into the weights, once for all points.
    heard = first[:, ENCODING:] * drive.reshape(-1, 1, drive.shape[-1])  # [F, H, CODE + 6]
    out = _layers(encoding @ first[:, :ENCODING].T, torch.cat([hears, sees], dim=-1), heard, second, third)
    out = out.view(*frames, len(xyz), out.shape[-1])
    return FaceDeformation(
        xyz=out[..., :3] * METRES,
        rotation=out[..., 3:7],
        opacity=out[..., 7:8],
        scale=out[..., 8:11],
        audio_attention=hears.norm(dim=-1, keepdim=True),
        eye_attention=sees.norm(dim=-1, keepdim=True),
    )


def fast_mouth(field: MouthField, xyz: Tensor, window: Tensor, move: Tensor, at: Taps | None = None) -> Mouth:
    """`field(xyz, window, move)`, with its gradients. `at` as in `encode`."""
    if not _quick(xyz, window, move, field.encoder_xy.embeddings):
        whole: Mouth = field(xyz, window, move)
        return whole
    return mouth_of_code(field, xyz, field.code(window), move, at)


def mouth_of_code(field: MouthField, xyz: Tensor, code: Tensor, move: Tensor, at: Taps | None = None) -> Mouth:
    """What `field` makes of codes (..., CODE), whoever gives them; on any device."""
    encoding, frames = encode(field, xyz, at), move.shape[:-1]
    drive = torch.cat([code, move], dim=-1).reshape(-1, CODE + 3)  # [F, CODE + 3]
    out = _pushed(field.sigma_net, encoding, drive)
    out = out.view(*frames, len(xyz), out.shape[-1])
    gate = _pushed(field.scaler_net, encoding, drive[:, CODE:]).view(*frames, len(xyz), 1)
    metres = out[..., :3] * out.new_tensor([SIDEWAYS, 1.0, SIDEWAYS]) * METRES
    return Mouth(metres * (2 * torch.sigmoid(gate)), out[..., 3:7])


def _pushed(net: Mlp, encoding: Tensor, drive: Tensor) -> Tensor:
    """A net of (encoding, drive) where the drive, (F, D), is the same for all points: (F, N, outputs)."""
    first, second, third = net.parameters()
    pushed = (drive @ first[:, ENCODING:].T)[..., None]  # [F, H, 1], for points that all are driven by one
    return _layers(encoding @ first[:, :ENCODING].T, encoding.new_ones(len(encoding), 1), pushed, second, third)


def fast_align(
    net: Aligner | PersonalFaceField | PersonalMouthField, xyz: Tensor, at: Taps | None = None
) -> Alignment:
    """`net.align(xyz)`, or what an `Aligner` itself says; with gradients. `at` as in `encode`."""
    if not _quick(xyz, net.encoder_xy.embeddings):
        whole: Alignment = net(xyz) if isinstance(net, Aligner) else net.align(xyz)
        return whole
    out = net.align_net(encode(net, xyz, at))
    return Alignment(out[..., :3] * METRES, 1 + 0.25 * torch.tanh(out[..., 3:6] / 5))


def fast_head(
    motion: HeadMotion, face_xyz: Tensor, mouth_xyz: Tensor, window: Tensor, action_units: Tensor
) -> HeadDeformation:
    """`motion(face_xyz, mouth_xyz, window, action_units)`, with its gradients."""
    placed = fast_align(motion.face_aligner, face_xyz)
    face = fast_face(motion.face, face_xyz + placed.offset, window, action_units)
    moved = face.xyz * placed.scale
    inside = fast_align(motion.mouth_aligner, mouth_xyz).offset + mouth_xyz
    mouth = fast_mouth(motion.mouth, inside, window, hook(moved))
    return HeadDeformation(moved, face.rotation, face.scale, mouth.xyz)


def own_mouth(field: PersonalMouthField, xyz: Tensor, window: Tensor) -> Mouth:
    """`field(xyz, window)`, with its gradients: window (WINDOW, width, steps) of one frame."""
    if not _quick(xyz, window, field.encoder_xy.embeddings):
        whole: Mouth = field(xyz, window)
        return whole
    out = _pushed(field.sigma_net, encode(field, xyz), field.code(window)[None])[0]
    return Mouth(out[..., :3] * out.new_tensor([SIDEWAYS, 1.0, SIDEWAYS]) * METRES, out[..., 3:7])
