"""What of a Gaussian's colour depends on the view: few degrees of it are seen, and what is learned must hold beyond.

Light falls alike on what lies together. Held to its surroundings, the share of the colour that changes as the head
turns is that of the skin and the hair there, not the noise of one Gaussian's few views.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

NEAR = 6
"""neighbours of a Gaussian"""


def roughness(sh: Tensor, around: Tensor) -> Tensor:
    """The mean over Gaussians of how far the coefficients after the first are from their neighbours' mean, squared.

    sh (N, K, 3); around (N, NEAR) as `neighbours` gives.
    """
    sheen = sh[:, 1:].flatten(1)
    return (sheen - sheen[around].mean(1)).square().sum(1).mean()


def neighbours(xyz: Tensor, counts: Sequence[int]) -> Tensor:
    """(N, NEAR): for each point (N, 3) the nearest others of its part; parts stand one after another.

    A part with fewer points repeats its last one.
    """
    at, rows, first = xyz.detach().cpu().numpy(), [np.zeros((0, NEAR), np.int64)], 0
    for count in counts:
        if count:
            part = at[first : first + count]
            near = cKDTree(part).query(part, range(2, NEAR + 2))[1]
            rows.append(first + np.minimum(near, count - 1))
        first += count
    return torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(xyz.device)
