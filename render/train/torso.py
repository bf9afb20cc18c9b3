"""Torso and neck while they are trained: Gaussians in the camera's frame that follow the head's pose, linearly.

How a Gaussian follows is a smooth function over the torso: a few nodes hold the coefficients, and every Gaussian has
fixed shares of them. So a pose beyond the training's moves the torso as a whole, and no single splat runs away.
What the pose does not explain gets two latents for each frame, learned with it, of unit variance: the sway.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from render.avatar import DRIVERS, Gaussians, Torso
from render.raster.gaussians import Camera
from render.train.adam import Adam
from render.train.dataset import CLOTH, NECK, Dataset, Shot
from render.train.draw import Painter, Picture, Splats
from render.train.footage import ALIGN, Box, ring
from render.train.loss import pixels
from render.train.start import LARGEST, Points, gaussians

Floats = NDArray[np.float32]

POSE, SWAY = 6, 2
BREATH_M = 0.0015
"""by which the shoulders rise on a full breath"""
SPREAD = np.array([0.07, 0.07, 0.07, 0.004, 0.004, 0.004], np.float32)
"""what the pose drivers usually come to (radians, metres): coefficients are learned by these"""
NODES = 40
RIDGE = 2e-3
LEAST_ROWS = 8
"""of a picture with neck or cloth, to speak of a torso"""
PRIOR = 1e-3
"""of the latents"""
NAMES = "xyz", "sh", "scale", "rotation", "opacity"
RATES = {
    "xyz": (4e-5, 4e-6),
    "sh": (5e-3, 5e-4),
    "scale": (1e-2, 1e-3),
    "rotation": (3e-3, 5e-4),
    "opacity": (3e-2, 5e-3),
    "nodes": (1e-4, 1e-5),
    "sway": (3e-2, 3e-3),
}
"""first and last learning rate"""


@dataclass(frozen=True, eq=False)
class Views:
    """Frames of the torso within a box: with the head hidden (`whole`), or only what the head leaves to be seen."""

    box: Box
    shots: tuple[Shot, ...]
    rgb: NDArray[np.uint8]  # (F, 3, H, W), over the plate
    alpha: NDArray[np.uint8]  # (F, H, W)
    seen: NDArray[np.bool_]  # (F, H, W)
    whole: NDArray[np.bool_]  # (F,)
    plate: Floats  # (3, H, W)


def view(data: Dataset, shots: Sequence[Shot]) -> Views | None:
    """None if no frame shows a torso."""
    some = shots[:: max(1, len(shots) // 20)]
    rows = np.zeros(data.height, bool)
    for shot in some:
        behind = data.torso(shot.index)
        seen = np.isin(data.labels(shot.index), (CLOTH, NECK))
        rows |= (seen if behind is None else behind[..., 3] > 0).any(1)
    if rows.sum() < LEAST_ROWS:
        return None
    top = max(int(np.flatnonzero(rows)[0]) - 4, 0)
    height = min(-(-(data.height - top) // ALIGN[1]) * ALIGN[1], data.height)
    box = Box(data.height - height, 0, height, data.width)
    n, size = len(shots), (box.height, box.width)
    rgb, alpha = np.empty((n, 3, *size), np.uint8), np.empty((n, *size), np.uint8)
    visible, whole = np.ones((n, *size), bool), np.zeros(n, bool)
    for k, shot in enumerate(shots):
        behind = data.torso(shot.index)
        if behind is not None:
            whole[k] = True
            part = box.cut(behind)
            rgb[k], alpha[k] = part[..., :3].transpose(2, 0, 1), part[..., 3]
            continue
        labels = data.labels(shot.index)
        rgb[k] = box.cut(data.picture(shot.index)).transpose(2, 0, 1)
        alpha[k] = box.cut(data.coverage(shot.index, "person", labels))
        head = box.cut(data.coverage(shot.index, "head", labels)) > 0
        visible[k] = ~(head | ring(head, 2))
    plate = np.asarray(box.cut(data.background).transpose(2, 0, 1) / 255, np.float32)
    return Views(box, tuple(shots), rgb, alpha, visible, whole, plate)


def rest_pose(shots: Sequence[Shot]) -> Floats:
    """The training pose that is nearest to all others."""
    poses = np.stack([s.pose for s in shots]).astype(np.float64)
    poses[:, :3, 3] *= 4  # a centimetre counts like 2.3 degrees
    return shots[int(np.argmin(((poses - poses.mean(0)) ** 2).sum((1, 2))))].pose


class TorsoFit:
    """Everything about a torso that is learned."""

    def __init__(self, tensors: Mapping[str, Tensor], shares: Tensor, rest: Floats, shots: Sequence[Shot]) -> None:
        self.tensors = {name: t.requires_grad_() for name, t in tensors.items()}
        self.shares = shares  # (N, NODES)
        self.rest = rest
        self.adam = Adam(self.tensors)
        empty = Gaussians(*(np.zeros((0, 3), np.float32),) * 5)
        drive = Torso(empty, np.zeros((0, 3, len(DRIVERS)), np.float32), rest).drive
        self.place = {shot.index: k for k, shot in enumerate(shots)}
        self._drive: Callable[[Floats], Floats] = lambda pose: drive(pose)[:POSE] / SPREAD

    @classmethod
    def begin(cls, data: Dataset, views: Views, most: int, device: str, rng: np.random.Generator) -> "TorsoFit":
        rest = rest_pose(views.shots)
        far = [np.abs(s.pose - rest).sum() + (0 if w else 1e3) for s, w in zip(views.shots, views.whole, strict=True)]
        points, nodes, shares = _points(data, views, int(np.argmin(far)), most, rng)
        arrays = gaussians(points, 4)
        # a picture's worth of flat splats: as thick as wide, since they are seen from one side only
        tensors = {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}
        tensors["nodes"] = torch.zeros(len(nodes), 3 * (POSE + SWAY), device=device)
        tensors["nodes"].view(len(nodes), 3, -1)[:, :, POSE:].normal_(0, 1e-4)
        tensors["sway"] = torch.zeros(len(views.shots), SWAY, device=device)
        return cls(tensors, torch.from_numpy(shares).to(device), rest, views.shots)

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], shots: Sequence[Shot], device: str) -> "TorsoFit":
        """What `state` gave."""
        tensors = {name: state[name].to(device) for name in (*NAMES, "nodes", "sway")}
        return cls(tensors, state["shares"].to(device), state["rest"].numpy(), shots)

    def state(self) -> dict[str, Tensor]:
        return self.tensors | {"shares": self.shares, "rest": torch.from_numpy(self.rest)}

    def splats(self, shot: Shot, sway: Tensor | None = None) -> Splats:
        """sway: (2,); None: the frame's own if it was learned, else none."""
        t = self.tensors
        pose = torch.from_numpy(self._drive(shot.pose)).to(t["xyz"])
        if sway is None:
            k = self.place.get(shot.index)
            sway = t["sway"][k] if k is not None else t["sway"].new_zeros(SWAY)
        moves = t["nodes"].view(-1, 3, POSE + SWAY) @ torch.cat([pose, sway])  # (NODES, 3)
        return Splats(
            t["xyz"] + self.shares @ moves,
            F.softplus(t["scale"]),
            t["rotation"],
            torch.sigmoid(t["opacity"]),
            t["sh"],
            torch.full((len(t["xyz"]),), 2, dtype=torch.uint8, device=t["xyz"].device),
        )

    def camera(self, data: Dataset, box: Box) -> Camera:
        return box.camera(data, np.eye(4, dtype=np.float32))

    def step(self, data: Dataset, views: Views, painter: Painter, k: int, share: float, backdrop: Tensor) -> float:
        """One frame. share: of the training that is done; backdrop: (3,) the colour behind."""
        t = self.tensors
        drawn = painter.draw(self.camera(data, views.box), self.splats(views.shots[k]))
        plate = torch.from_numpy(views.plate).to(backdrop)
        clear = 1 - torch.from_numpy(views.alpha[k]).to(backdrop) / 255
        behind = backdrop[:, None, None]
        truth = torch.from_numpy(views.rgb[k]).to(backdrop) / 255 + clear * (behind - plate)
        seen = torch.from_numpy(views.seen[k]).to(backdrop)
        made = drawn.colour + drawn.transmittance * behind
        truth = torch.where(seen > 0, truth, made.detach())
        loss = pixels(made, truth, seen)
        loss = loss + RIDGE * (t["nodes"] / 0.01).square().mean() + PRIOR * t["sway"][k].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        if t["sh"].grad is not None:
            t["sh"].grad[:, 1:] = 0  # seen from one side only
        self.adam.step({name: a * (b / a) ** share for name, (a, b) in RATES.items()})
        with torch.no_grad():
            t["scale"].clamp_(max=float(np.log(np.expm1(2 * LARGEST))))
        return float(loss.detach())

    @torch.no_grad()
    def behind(self, data: Dataset, box: Box, shot: Shot, painter: Painter) -> Picture:
        return painter.draw(self.camera(data, box), self.splats(shot))

    @torch.no_grad()
    def finish(self) -> Torso:
        """For the avatar: one basis for each Gaussian, sway of unit variance, breath made by hand."""
        t = self.tensors
        sway = t["sway"] - t["sway"].mean(0)
        nodes = t["nodes"].view(-1, 3, POSE + SWAY).clone()
        nodes[:, :, POSE:] *= sway.square().mean(0).sqrt().clamp_min(1e-6)
        nodes[:, :, :POSE] /= torch.from_numpy(SPREAD).to(nodes)
        learned = torch.einsum("nk,kcd->ncd", self.shares, nodes).cpu().numpy()
        arrays = {name: t[name].detach().cpu().numpy().astype(np.float32) for name in NAMES}
        y = arrays["xyz"][:, 1]  # down
        low, high = np.quantile(y, [0.35, 0.75])
        rise = np.clip((y - low) / max(high - low, 1e-6), 0, 1)
        breath = np.zeros((len(y), 3, 1), np.float32)
        breath[:, 1, 0] = -BREATH_M * rise * rise * (3 - 2 * rise)
        return Torso(Gaussians(**arrays), np.concatenate([learned, breath], 2).astype(np.float32), self.rest)


def _points(
    data: Dataset, views: Views, k: int, most: int, rng: np.random.Generator
) -> tuple[Points, Floats, Floats]:
    """Points in the camera's frame from frame k, nodes among them, and each point's shares of the nodes."""
    box = views.box
    inside = (views.alpha[k] > 100) & views.seen[k]
    rows, columns = np.nonzero(inside)
    some = rng.choice(len(rows), min(most, len(rows)), replace=False)
    rows, columns = rows[some], columns[some]
    z = _depths(data, views)[rows, columns]
    x = (columns + box.left + 0.5 - data.width / 2) / data.focal_px * z
    y = (rows + box.top + 0.5 - data.height / 2) / data.focal_px * z
    xyz = np.stack([x, y, z], 1).astype(np.float32)
    colour = views.rgb[k].transpose(1, 2, 0)[rows, columns].astype(np.float32) / 255
    nodes = xyz[:1]
    for _ in range(min(NODES, len(xyz)) - 1):  # the farthest point from all nodes is the next
        far = cKDTree(nodes).query(xyz)[0]
        nodes = np.concatenate([nodes, xyz[np.argmax(far)][None]])
    near = cKDTree(nodes).query(nodes, 2)[0][:, 1].mean() if len(nodes) > 1 else 1.0
    apart = ((xyz[:, None] - nodes[None]) ** 2).sum(2)
    shares = np.exp(-apart / (2 * near**2)) + 1e-9
    return Points(xyz, colour, np.zeros_like(xyz)), nodes, (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def _depths(data: Dataset, views: Views) -> Floats:
    """(H, W) metres: the median of what frames know of neck and cloth, elsewhere that of the nearest known pixel."""
    known = []
    for shot in views.shots[:: max(1, len(views.shots) // 12)]:
        depth = data.depth(shot.index)
        if depth is not None:
            torso = np.isin(data.labels(shot.index), (CLOTH, NECK)) & (depth > 0)
            known.append(np.where(views.box.cut(torso), views.box.cut(depth), np.nan))
    shape = views.rgb.shape[2:]
    if not known or not np.isfinite(known).any():
        return np.full(shape, float(np.median([s.pose[2, 3] for s in views.shots])), np.float32)
    stack = np.stack(known)
    some = np.isfinite(stack).any(0)
    middle = np.zeros(shape, np.float32)
    middle[some] = np.nanmedian(stack[:, some], axis=0)
    rows, columns = np.nonzero(some)
    every = np.indices(shape).reshape(2, -1).T
    nearest = cKDTree(np.stack([rows, columns], 1)).query(every)[1]
    return np.asarray(middle[rows[nearest], columns[nearest]].reshape(shape), np.float32)
