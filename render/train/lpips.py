"""LPIPS (Zhang et al., CVPR 2018): how unlike two pictures look, by the features of a net that was trained to see.

Its weights come from a file that the user names, never from anywhere else: without them the figure is absent. Read
are the package's own `state_dict` (`net.slice1.0.weight` ..., `lin0.model.1.weight` ...), or the two parts that it is
made of: torchvision's AlexNet or VGG16 (`features.0.weight` ...) and the linear layers; as safetensors, or as torch's
.pth, which is read without running anything in it.

    d(x, y) = sum over layers l, mean over pixels of w_l . (u_l(x) - u_l(y))^2

with u_l the net's activations at five depths, scaled to unit length over the channels at each pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional as F

from render import torchfile
from server.core.errors import VisavisError

Floats = NDArray[np.float32]

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""of the colours, -1 to 1, before they go into the net"""
TINY = 1e-10
"""beside the length of the activations, which may be zero"""
SMALLEST = 32
"""pixels: smaller pictures are continued beyond their edges, as the nets need them"""
MAX_BYTES = 1 << 30  # VGG16 with its classifier has 553 MB


@dataclass(frozen=True)
class Layer:
    """A convolution with ReLU after it."""

    index: int  # in torchvision's `features`
    out: int
    into: int
    side: int
    stride: int = 1
    padding: int = 1
    pooled: int = 0
    """side of the max pooling before it, stride 2; 0: none"""


NETS: dict[str, tuple[tuple[Layer, ...], ...]] = {
    "alex": (
        (Layer(0, 64, 3, 11, 4, 2),),
        (Layer(3, 192, 64, 5, 1, 2, 3),),
        (Layer(6, 384, 192, 3, pooled=3),),
        (Layer(8, 256, 384, 3),),
        (Layer(10, 256, 256, 3),),
    ),
    "vgg": (
        (Layer(0, 64, 3, 3), Layer(2, 64, 64, 3)),
        (Layer(5, 128, 64, 3, pooled=2), Layer(7, 128, 128, 3)),
        (Layer(10, 256, 128, 3, pooled=2), Layer(12, 256, 256, 3), Layer(14, 256, 256, 3)),
        (Layer(17, 512, 256, 3, pooled=2), Layer(19, 512, 512, 3), Layer(21, 512, 512, 3)),
        (Layer(24, 512, 512, 3, pooled=2), Layer(26, 512, 512, 3), Layer(28, 512, 512, 3)),
    ),
}
"""by name: slices, after each of which the activations are compared"""


class LpipsError(VisavisError):
    """The weights cannot be used: `lpips`."""


def _refuse(what: str) -> LpipsError:
    return LpipsError("lpips", f"{what}. Give the weights of LPIPS with AlexNet or VGG16, or leave --lpips out.")


class Lpips:
    """Distances by one net; `name` is alex or vgg."""

    def __init__(self, name: str, tensors: dict[str, Tensor]) -> None:
        """tensors: named as `wanted` says."""
        self.name = name
        self._t = {key: t.float().requires_grad_(False) for key, t in tensors.items()}
        self._shift, self._scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))

    @classmethod
    def of_files(cls, paths: Sequence[Path], device: str = "cpu") -> "Lpips":
        """Raises VisavisError with a sentence."""
        found: dict[str, Floats] = {}
        for path in paths:
            found |= _read(path)
        label = " and ".join(path.name for path in paths)
        alike = {name: wanted(name) for name in NETS}
        last = found.get("lin1.model.1.weight")
        name = next(
            (n for n, w in alike.items() if last is not None and last.shape == w["lin1.model.1.weight"]), None
        )
        if name is None:
            raise _refuse(f"{label} holds no linear layers of LPIPS (lin1.model.1.weight)")
        tensors = {}
        for key, shape in alike[name].items():
            if key not in found:
                also = ": the net's own weights are in a file of their own, name both" if "features" in key else ""
                raise _refuse(f"{label} lacks {key}{also}")
            if found[key].shape != shape:
                raise _refuse(f"{label}: {key} is {found[key].shape}, not {shape}")
            if not np.isfinite(found[key]).all():
                raise _refuse(f"{label}: {key} holds numbers that are not finite")
            tensors[key] = torch.from_numpy(found[key].astype(np.float32)).to(device)
        if any((t < 0).any() for key, t in tensors.items() if key.startswith("lin")):
            raise _refuse(f"{label}: linear layers of LPIPS are not negative, and these are")
        out = cls(name, tensors)
        out._shift, out._scale = out._shift.to(device), out._scale.to(device)
        return out

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Pictures (3, H, W), 0 to 1 -> a distance; 0: alike. With a gradient by both."""
        value = x.new_zeros(())
        pairs = zip(self._activations(x), self._activations(y), strict=True)
        for k, (a, b) in enumerate(pairs):
            a, b = (v / (v.square().sum(1, keepdim=True) + TINY**2).sqrt() for v in (a, b))
            value = value + F.conv2d((a - b).square(), self._t[f"lin{k}.model.1.weight"]).mean()
        return value

    def _activations(self, picture: Tensor) -> list[Tensor]:
        v = (_at_least(picture[None], SMALLEST) * 2 - 1 - self._shift) / self._scale
        out = []
        for layers in NETS[self.name]:
            for layer in layers:
                if layer.pooled:
                    v = F.max_pool2d(v, layer.pooled, 2)
                weight, bias = (self._t[f"features.{layer.index}.{kind}"] for kind in ("weight", "bias"))
                v = F.relu(F.conv2d(v, weight, bias, layer.stride, layer.padding))
            out.append(v)
        return out


def wanted(name: str) -> dict[str, tuple[int, ...]]:
    """The tensors of LPIPS by a net, and their shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, layers in enumerate(NETS[name]):
        for layer in layers:
            key = f"features.{layer.index}"
            shapes |= {f"{key}.weight": (layer.out, layer.into, layer.side, layer.side), f"{key}.bias": (layer.out,)}
        shapes[f"lin{k}.model.1.weight"] = (1, layers[-1].out, 1, 1)
    return shapes


def _at_least(pictures: Tensor, side: int) -> Tensor:
    """The last column and row again until no side is shorter."""
    high, wide = pictures.shape[-2:]
    more = max(side - wide, 0), max(side - high, 0)
    return F.pad(pictures, (0, more[0], 0, more[1]), "replicate") if any(more) else pictures


def _read(path: Path) -> dict[str, Floats]:
    """All float tensors by the names that `wanted` has."""
    try:
        if not path.is_file():
            raise _refuse(f"{path} is not a file")
        if path.stat().st_size > MAX_BYTES:
            raise _refuse(f"{path} is larger than {MAX_BYTES >> 30} GiB")
        if path.suffix == ".safetensors":
            found = load_file(path)
            return {name: a for key, a in found.items() if (name := _name(key)) and a.dtype.kind == "f"}
        with torchfile.opened(path) as content:
            if not isinstance(content, dict):
                raise _refuse(f"{path.name} holds no names")
            names = {_name(key): key for key in content if isinstance(key, str)}
            arrays = {name: torchfile.numbers(content[key]) for name, key in names.items() if name}
        return {name: a for name, a in arrays.items() if a is not None and a.dtype.kind == "f"}
    except (OSError, SafetensorError, ValueError) as e:
        raise _refuse(f"{path.name} cannot be read: {e}") from e


def _name(key: str) -> str | None:
    """What `wanted` calls a tensor of the package, of torchvision or of the linear layers; None: not at all."""
    parts = key.split(".")
    if parts[0] == "net" and len(parts) == 4:
        return f"features.{parts[2]}.{parts[3]}"  # a slice keeps torchvision's numbers
    if parts[0] == "features" and len(parts) == 3:
        return key
    return key if parts[0] in {f"lin{k}" for k in range(5)} else None
