"""View-dependent colours are held to their surroundings, part by part."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from render.train.sheen import NEAR, neighbours, roughness  # noqa: E402


def test_neighbours_are_the_nearest_of_the_same_part() -> None:
    line = torch.zeros(30, 3)
    line[:, 0] = torch.arange(30.0) % 15 + (torch.arange(30) >= 15) * 0.1  # two parts among each other
    around = neighbours(line, [15, 15]).numpy()
    assert around.shape == (30, NEAR)
    assert sorted(around[7]) == [4, 5, 6, 8, 9, 10]
    assert sorted(around[15 + 7]) == [19, 20, 21, 23, 24, 25]


def test_a_part_of_few_points_is_its_own_company() -> None:
    around = neighbours(torch.rand(4, 3), [0, 3, 1]).numpy()
    assert around.shape == (4, NEAR)
    assert set(around[:3].ravel()) <= {0, 1, 2}
    assert set(around[3]) == {3}


def test_only_what_differs_from_its_surroundings_counts() -> None:
    rng = np.random.default_rng(0)
    xyz = torch.from_numpy(rng.random((50, 3)).astype(np.float32))
    around = neighbours(xyz, [50])
    even = torch.zeros(50, 4, 3)
    even[:, 0] = torch.rand(50, 3)  # the colour itself may be anything
    even[:, 1:] = 0.7
    assert float(roughness(even, around)) < 1e-10
    odd = even.clone()
    odd[9, 2, 1] += 1
    odd.requires_grad_()
    value = roughness(odd, around)
    near_it = int((around == 9).sum())
    assert float(value.detach()) == pytest.approx((1 + near_it / NEAR**2) / 50, rel=1e-4)
    value.backward()
    assert float(odd.grad[9, 2, 1]) > 0
    assert torch.count_nonzero(odd.grad[:, 0]) == 0
