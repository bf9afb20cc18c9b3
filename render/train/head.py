"""A head while it is trained: raw Gaussians by part, the motion fields that move them, and how a frame is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from render.avatar import AudioFeature, Gaussians
from render.motion.gaze import turn, turn_matrices
from render.motion.networks import FaceDeformation, HeadMotion, hook
from render.train.checkpoint import named, under
from render.train.draw import Splats
from render.train.planes import fast_align, fast_face, fast_mouth
from render.train.start import LARGEST, SMALLEST, Parts, gaussians, unsoft

Floats = NDArray[np.float32]

FACE, HAIR, EYE, OTHER_EYE, MOUTH = range(5)
"""parts, in the order in which their Gaussians stand; the field moves face and mouth, hair is rigid"""
PARTS = 5
FIELDS = ("xyz", "sh", "scale", "rotation", "opacity")
NEEDLE, STRAND = 6.0, 14.0
"""an axis is at most so many times as long as the second longest, in hair more: needles flicker when they turn"""
BANDS = 4
"""spherical harmonics of degree 1"""


@dataclass
class Posed:
    """One frame's head."""

    splats: Splats
    face: FaceDeformation
    """as the field gave it, before the aligner's scale"""
    moved: Tensor  # (face points, 3), after it
    inside: Tensor  # (mouth points, 3)
    witnesses: Tensor | None = None  # (n, 3) where they are


class Cloud:
    """Raw parameters of N Gaussians, `counts` of each part; whoever moves them."""

    def __init__(self, tensors: Mapping[str, Tensor], counts: list[int], centres: Tensor) -> None:
        self.tensors = {name: tensors[name].requires_grad_() for name in FIELDS}
        self.counts = counts
        self.centres = centres  # (2, 3)

    @classmethod
    def of_parts(cls, parts: Parts, device: str) -> "Cloud":
        pieces = [gaussians(p, BANDS) for p in (parts.face, parts.hair, *parts.eyes, parts.mouth)]
        whole = {name: torch.from_numpy(np.concatenate([p[name] for p in pieces])).to(device) for name in FIELDS}
        return cls(whole, [len(p["xyz"]) for p in pieces], torch.from_numpy(parts.centres).to(device))

    @classmethod
    def of_tensors(cls, state: Mapping[str, Tensor], counts: list[int], device: str) -> "Cloud":
        """What `kept` gave."""
        tensors = {name: state[f"gaussians.{name}"].to(device) for name in FIELDS}
        return cls(tensors, list(counts), state["centres"].to(device))

    def kept(self) -> dict[str, Tensor]:
        """All tensors by name, for a checkpoint."""
        return named("gaussians", self.tensors) | {"centres": self.centres}

    def __len__(self) -> int:
        return sum(self.counts)

    def span(self, part: int) -> slice:
        start = sum(self.counts[:part])
        return slice(start, start + self.counts[part])

    def part_of(self) -> Tensor:
        """(N,) which part each belongs to."""
        return torch.repeat_interleave(torch.arange(PARTS), torch.tensor(self.counts))

    def assembled(self, moved: Tensor, rotation: Tensor, scale: Tensor, shift: Tensor, gaze: Floats) -> Splats:
        """As they are drawn in a frame. The face's: moved (n, 3) metres, rotation (n, 4) and scale (n, 3) are added
        to the raw ones; shift (m, 3) metres: the mouth's; gaze (2,) radians turns the eyeballs."""
        t, f, m = self.tensors, self.span(FACE), self.span(MOUTH)
        xyz = t["xyz"]
        turned, spin = (torch.from_numpy(a.astype(np.float32)).to(xyz) for a in turn_matrices(*map(float, gaze)))
        means = [xyz[f] + moved, xyz[self.span(HAIR)]]
        spun = [t["rotation"][f] + rotation, t["rotation"][self.span(HAIR)]]
        for eye in (EYE, OTHER_EYE):
            at, quaternion = turn(
                xyz[self.span(eye)], t["rotation"][self.span(eye)], self.centres[eye - EYE], turned, spin
            )
            means.append(at)
            spun.append(quaternion)
        means.append(xyz[m] + shift)
        spun.append(t["rotation"][m])
        raw = torch.cat([t["scale"][f] + scale, t["scale"][f.stop :]])
        layers = torch.zeros(len(self), dtype=torch.uint8, device=xyz.device)
        layers[m] = 1
        return Splats(
            torch.cat(means),
            F.softplus(raw),
            torch.cat(spun),
            torch.sigmoid(t["opacity"]),
            t["sh"],
            layers,
        )

    @torch.no_grad()
    def bound(self) -> None:
        """Keep sizes in range, and needles and view-dependent eyeballs out."""
        raw = self.tensors["scale"]
        size = F.softplus(raw)
        middle = size.sort(dim=1).values[:, 1:2]
        longest = torch.full_like(middle, NEEDLE)
        longest[self.span(HAIR)] = STRAND
        size = torch.minimum(size, middle * longest).clamp(SMALLEST / 2, LARGEST)
        raw.copy_(torch.from_numpy(unsoft(size.cpu().numpy().astype(np.float64))).to(raw))
        turned = self.tensors["rotation"]
        turned.div_(turned.norm(dim=1, keepdim=True).clamp_min(1e-6))
        self.tensors["opacity"].clamp_(-8, 8)
        eyes = slice(self.span(EYE).start, self.span(OTHER_EYE).stop)
        self.tensors["sh"][eyes, 1:] = 0  # an eyeball turns under its light

    def layer(self, *parts: int) -> Gaussians:
        """Some parts as an avatar holds them."""
        rows = np.concatenate([np.arange(len(self))[self.span(p)] for p in parts])
        arrays: dict[str, Any] = {
            name: np.ascontiguousarray(self.tensors[name].detach().cpu().numpy()[rows], np.float32) for name in FIELDS
        }
        return Gaussians(**arrays)


class Head(Cloud):
    """One person's Gaussians, and the fields that move them."""

    def __init__(self, tensors: Mapping[str, Tensor], counts: list[int], centres: Tensor, motion: HeadMotion) -> None:
        super().__init__(tensors, counts, centres)
        self.motion = motion

    @classmethod
    def begin(cls, parts: Parts, motion: HeadMotion, device: str) -> "Head":
        c = Cloud.of_parts(parts, device)
        return cls(c.tensors, c.counts, c.centres, motion.to(device))

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], counts: list[int], feature: AudioFeature, device: str) -> "Head":
        """What `state` gave."""
        motion = HeadMotion(feature)
        motion.load_state_dict(under("motion", state))
        c = Cloud.of_tensors(state, counts, device)
        return cls(c.tensors, c.counts, c.centres, motion.to(device))

    def state(self) -> dict[str, Tensor]:
        return self.kept() | named("motion", self.motion.state_dict())

    def pose(
        self,
        window: Tensor,
        action_units: Tensor,
        gaze: Floats,
        witnesses: Tensor | None = None,
    ) -> Posed:
        """window (WINDOW, width, steps); action_units (6,); gaze (2,) radians; witnesses (n, 3) follow the face."""
        f, m = self.span(FACE), self.span(MOUTH)
        xyz, net = self.tensors["xyz"], self.motion
        count = self.counts[FACE]
        at = xyz[f] if witnesses is None else torch.cat([xyz[f], witnesses])
        placed = fast_align(net.face_aligner, at)
        whole = fast_face(net.face, at + placed.offset, window, action_units)
        shifted = whole.xyz * placed.scale
        moved = shifted[:count]
        face = FaceDeformation(*(part[:count] for part in whole))
        inside = xyz[m]
        if self.counts[MOUTH]:
            inside = xyz[m] + fast_align(net.mouth_aligner, xyz[m]).offset
        shift = fast_mouth(net.mouth, inside, window, hook(moved)).xyz if self.counts[MOUTH] else inside
        splats = self.assembled(moved, face.rotation, face.scale, shift, gaze)
        return Posed(splats, face, moved, shift, None if witnesses is None else witnesses + shifted[count:])

    def without_mouth(self, posed: Posed) -> Splats:
        s, n = posed.splats, self.span(MOUTH).start
        return Splats(s.means[:n], s.scales[:n], s.rotations[:n], s.opacities[:n], s.sh[:n], s.layers[:n])
