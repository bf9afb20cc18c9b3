"""The tri-plane encoder against the reference kernel's figures, an independent loop, and finite differences."""

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the plain motion nets are torch's; an extra of training")

from render.motion.grid import PlaneEncoder, TriPlaneEncoder  # noqa: E402
from render.motion.tables import BOUND, FACE_LEVELS, LEVELS, MOUTH_LEVELS, Levels  # noqa: E402

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
STEP = 1e-6


@pytest.mark.parametrize(("net", "levels"), [("face", FACE_LEVELS), ("mouth", MOUTH_LEVELS)])
def test_a_plane_equals_the_golden_vectors(net: str, levels: Levels) -> None:
    golden = np.load(GOLDEN / f"grid_golden_{net}.npz")
    plane = PlaneEncoder(levels)
    assert levels.growth == pytest.approx(float(golden["per_level_scale"]), abs=1e-12)
    np.testing.assert_array_equal(plane.offsets.numpy(), golden["offsets"])
    assert plane.offsets.dtype == torch.int32
    plane.load_state_dict({"embeddings": torch.from_numpy(golden["embeddings"])}, strict=False)
    out = plane(torch.from_numpy(golden["xy"])).detach().numpy()
    np.testing.assert_allclose(out, golden["out"], rtol=0, atol=5e-5)
    assert not out[-1].any()  # 0.151 lies outside
    assert out[:-1].any(1).all()


def test_planes_stand_in_order_and_see_their_own_coordinates() -> None:
    encoder = TriPlaneEncoder(FACE_LEVELS).double()
    point = torch.tensor([[0.03, -0.07, 0.11]], dtype=torch.float64, requires_grad=True)
    out = encoder.encode(point)
    assert out.shape == (1, 3 * LEVELS)
    for plane, pair, missing in (("xy", (0, 1), 2), ("yz", (1, 2), 0), ("xz", (0, 2), 1)):
        part = out[0, :LEVELS] if plane == "xy" else out[0, LEVELS : 2 * LEVELS] if plane == "yz" else out[0, 24:]
        torch.testing.assert_close(part, getattr(encoder, f"encoder_{plane}")(point[:, list(pair)])[0])
        (slope,) = torch.autograd.grad(part.sum(), point, retain_graph=True)
        assert slope[0, missing] == 0
        assert slope[0, list(pair)].abs().min() > 0


@pytest.mark.parametrize("levels", [FACE_LEVELS, MOUTH_LEVELS, Levels(16, 38.4, rows_at_most=400)])
def test_gradients_agree_with_finite_differences(levels: Levels) -> None:
    """The last one is hashed from its fifth level on."""
    torch.manual_seed(1)
    plane = PlaneEncoder(levels).double()
    plane.embeddings.data.uniform_(-1, 1)
    points = torch.empty(20, 2, dtype=torch.float64).uniform_(-0.149, 0.149)
    points[0] = torch.tensor([0.2, 0.0])
    points[1] = torch.tensor([0.01, -0.1501])
    points.requires_grad_()
    weight = torch.randn(20, LEVELS, dtype=torch.float64)
    (plane(points) * weight).sum().backward()
    assert points.grad is not None
    assert plane.embeddings.grad is not None

    def loss() -> float:
        return float((plane(points) * weight).sum())

    with torch.no_grad():
        slopes = torch.zeros_like(points)
        for n in range(20):
            for axis in range(2):
                kept = points[n, axis].item()
                points[n, axis] = kept + STEP
                above = loss()
                points[n, axis] = kept - STEP
                slopes[n, axis] = (above - loss()) / (2 * STEP)
                points[n, axis] = kept
        torch.testing.assert_close(points.grad, slopes, rtol=1e-5, atol=1e-5)
        assert not points.grad[:2].any()  # outside
        assert points.grad[2:].abs().min() > 0
        table, slope = plane.embeddings[:, 0], plane.embeddings.grad[:, 0]
        touched = slope.nonzero()[:, 0]
        assert len(touched) > 100
        untouched = (slope == 0).nonzero()[:5, 0]
        for row in torch.cat([touched[:: len(touched) // 40], untouched]):
            kept = table[row].item()
            table[row] = kept + STEP
            above = loss()
            table[row] = kept - STEP
            assert (above - loss()) / (2 * STEP) == pytest.approx(slope[row].item(), abs=1e-6)
            table[row] = kept


def test_a_table_that_is_too_small_is_hashed() -> None:
    """Against the formula, written as a loop in whole numbers."""
    levels = Levels(16, 38.4, rows_at_most=400)
    plane = PlaneEncoder(levels).double()
    plane.embeddings.data.uniform_(-1, 1)
    position = (0.031, -0.072)
    expected = []
    for level in range(LEVELS):
        scale = float(levels.scales[level])
        stride = math.ceil(scale) + 2
        start, end = levels.offsets[level : level + 2]
        p = [(x + BOUND) / (2 * BOUND) * scale + 0.5 for x in position]
        total = 0.0
        for dx in (0, 1):
            for dy in (0, 1):
                x, y = math.floor(p[0]) + dx, math.floor(p[1]) + dy
                row = x + y * stride
                if stride * stride > end - start:
                    row = (x ^ (y * 2654435761 % 2**32)) % (end - start)
                wx, wy = (abs(1 - d - (v - math.floor(v))) for d, v in ((dx, p[0]), (dy, p[1])))
                total += wx * wy * plane.embeddings[start + row, 0].item()
        expected.append(total)
    assert levels.offsets[-1] < FACE_LEVELS.offsets[-1]
    out = plane(torch.tensor(position, dtype=torch.float64)).tolist()
    assert out == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [FACE_LEVELS, MOUTH_LEVELS])
def test_every_level_of_instag_is_dense(levels: Levels) -> None:
    for stride, start, end in zip(levels.strides, levels.offsets, levels.offsets[1:], strict=False):
        assert 0 <= end - start - stride**2 < 8
