"""Adam over named tensors: its state can be saved as tensors, and follows when Gaussians are added or dropped."""

from collections.abc import Mapping

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
f32 = np.float32

BETAS = 0.9, 0.99
EPSILON = 1e-15


B1, B2 = f32(BETAS[0]), f32(BETAS[1])


@njit(nogil=True, cache=True, fastmath={"contract", "arcp", "nsz"}, error_model="numpy")
def fused(
    values: Floats,
    gradient: Floats,
    first: Floats,
    second: Floats,
    rate: np.float32,
    corrects: np.float32,
    epsilon: np.float32,
) -> None:
    """A step in one pass over memory; flat arrays. rate: corrected for the first moment, corrects: for the second."""
    rest1, rest2 = f32(1) - B1, f32(1) - B2
    for i in range(values.shape[0]):
        g = gradient[i]
        a = B1 * first[i] + rest1 * g
        b = B2 * second[i] + rest2 * g * g
        first[i], second[i] = a, b
        values[i] -= rate * a / (np.sqrt(b * corrects) + epsilon)


class Adam:
    """Kingma & Ba 2015, with decoupled weight decay left out; every tensor has its own learning rate each step."""

    def __init__(self, tensors: Mapping[str, Tensor], epsilon: float = EPSILON) -> None:
        self.tensors = dict(tensors)
        self.first = {name: torch.zeros_like(t) for name, t in self.tensors.items()}
        self.second = {name: torch.zeros_like(t) for name, t in self.tensors.items()}
        self.steps = dict.fromkeys(self.tensors, 0)
        self.epsilon = epsilon

    @torch.no_grad()
    def step(self, rates: Mapping[str, float]) -> None:
        """One step for every tensor that has a gradient and a rate; gradients are dropped."""
        b1, b2 = BETAS
        for name, tensor in self.tensors.items():
            gradient, rate = tensor.grad, rates.get(name, 0.0)
            tensor.grad = None
            if gradient is None or rate <= 0 or not tensor.numel():
                continue
            self.steps[name] += 1
            n = self.steps[name]
            first, second = self.first[name], self.second[name]
            if tensor.device.type == "cpu" and tensor.dtype == torch.float32:
                arrays = (t.detach().numpy().reshape(-1) for t in (tensor, gradient.contiguous(), first, second))
                fused(*arrays, f32(rate / (1 - b1**n)), f32(1 / (1 - b2**n)), f32(self.epsilon))
                continue
            first.lerp_(gradient, 1 - b1)
            second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            below = second.sqrt().div_((1 - b2**n) ** 0.5).add_(self.epsilon)
            tensor.addcdiv_(first, below, value=-rate / (1 - b1**n))

    @torch.no_grad()
    def replace(self, name: str, tensor: Tensor, rows: Tensor) -> None:
        """The tensor gets other rows: `rows` says from which old one each comes; -1, from none: its state is zero."""
        old = (rows >= 0).view(-1, *[1] * (tensor.dim() - 1))
        for state in (self.first, self.second):
            state[name] = torch.where(old, state[name][rows.clamp_min(0)], 0.0)
        self.tensors[name] = tensor

    def state(self) -> dict[str, Tensor]:
        """Everything by name, for a checkpoint."""
        out = {f"first.{name}": t for name, t in self.first.items()}
        out |= {f"second.{name}": t for name, t in self.second.items()}
        return out | {f"steps.{name}": torch.tensor([n]) for name, n in self.steps.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name in self.tensors:
            self.first[name] = state[f"first.{name}"].clone().to(self.tensors[name])
            self.second[name] = state[f"second.{name}"].clone().to(self.tensors[name])
            self.steps[name] = int(state[f"steps.{name}"])
