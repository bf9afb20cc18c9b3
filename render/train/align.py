"""The first alignment of a face: from where its landmarks rest to where they stand in the universal field.

Between the landmarks the shift is that of the thin plate which bends least (Bookstein 1989; in space the kernel is
the distance itself), so that lips, chin and cheeks go along. The aligners learn it from points all over the head.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.spatial.distance import cdist
from torch import Tensor

from render.motion.networks import Aligner
from render.train.adam import Adam
from render.train.planes import fast_align, taps

Floats = NDArray[np.float32]

PLACES = Path(__file__).resolve().parents[1] / "models" / "landmarks.safetensors"
STIFFNESS = 1e-4
"""metres: landmarks are not believed to the last tenth of a millimetre"""
STEPS, RATE = 400, 4e-3
FARTHEST = 0.012
"""metres: no point is led farther than that"""


def standing(path: Path = PLACES) -> Floats | None:
    """(68, 3): where the landmarks are on the face that the shipped field is laid out on, metres, if known."""
    if not path.is_file():
        return None
    places = load_file(path)["places"].astype(np.float32)
    return places if places.shape == (68, 3) and np.isfinite(places).all() else None


class ThinPlate:
    """The smoothest shift of space that leads landmarks from `rest` (n, 3) to `places` (n, 3)."""

    def __init__(self, rest: Floats, places: Floats) -> None:
        n = len(rest)
        self.rest = rest.astype(np.float64)
        affine = np.concatenate([np.ones((n, 1)), self.rest], 1)
        bend = cdist(self.rest, self.rest) + STIFFNESS * np.eye(n)
        whole = np.block([[bend, affine], [affine.T, np.zeros((4, 4))]])
        right = np.concatenate([places.astype(np.float64) - self.rest, np.zeros((4, 3))])
        self.weights = np.linalg.solve(whole, right)

    def __call__(self, xyz: Floats) -> Floats:
        """(m, 3) points -> (m, 3) metres by which they are shifted, bounded."""
        n = len(self.rest)
        flat = np.concatenate([np.ones((len(xyz), 1)), xyz], 1)
        shift = cdist(xyz, self.rest) @ self.weights[:n] + flat @ self.weights[n:]
        length = np.linalg.norm(shift, axis=1, keepdims=True)
        return np.asarray(shift * np.minimum(1, FARTHEST / np.maximum(length, 1e-9)), np.float32)


def teach(aligner: Aligner, xyz: Floats, shift: Floats, device: str) -> float:
    """The aligner learns to shift points (n, 3) so, and to leave their motion alone. Returns the error in mm."""
    at, wanted = torch.from_numpy(xyz).to(device), torch.from_numpy(shift).to(device)
    known = taps(xyz, aligner.encoder_xy.levels) if device == "cpu" else None
    net = Adam(dict(aligner.named_parameters()), epsilon=1e-12)
    off = torch.zeros(())
    for step in range(STEPS):
        placed = fast_align(aligner, at, known)
        off = (placed.offset - wanted).square().sum(-1).mean()
        loss: Tensor = 1e6 * off + 10 * (placed.scale - 1).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        net.step(dict.fromkeys(net.tensors, RATE * 0.05 ** (step / STEPS)))
    return 1e3 * float(np.sqrt(float(off.detach())))
