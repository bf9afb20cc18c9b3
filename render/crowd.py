"""Many calls that show one person, a frame of each painted at once on a GPU; beside `render.person` for one CPU core.

Motion and colours are plain torch, splatting is gsplat's (render/raster/gpu.py); I420 comes out on the GPU. Needs
torch, so it stays out of a render worker that paints on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from render.avatar import Gaussians
from render.motion.baked import Baked
from render.motion.gaze import turn_matrices
from render.motion.tables import HOOK_RANK
from render.motion.voice import SLOPE
from render.person import FACE, MOUTH, TORSO, Expression, Person, covering
from render.raster import gpu
from render.raster.gaussians import SH_COUNTS, Bytes, Camera, LowPass

Floats = NDArray[np.float32]


class Motion:
    """`Baked.frame` for many calls at once."""

    def __init__(self, baked: Baked, device: torch.device) -> None:
        def of(array: Floats) -> Tensor:
            return torch.tensor(np.asarray(array, np.float32), device=device)

        folded = baked._fold()
        self._face = {name: of(array) for name, array in baked.face.items()}
        self._mouth = {name: of(array) for name, array in baked.mouth.items()}
        self._static, self._driven, self._third = of(folded.static), of(folded.driven), of(folded.third)
        self._gain = of(baked.gain)
        self._mouth_static, self._mouth_third = of(folded.mouth_static), of(folded.mouth_third)
        self._gate_static, self._gate_second = of(folded.gate_static), of(folded.gate_second)
        self._gate_third = of(folded.gate_third)
        self._rest = of(baked.rest[:, 1])
        self._rank = min(HOOK_RANK, len(baked.moving) + len(baked.still))

    @torch.no_grad()
    def __call__(self, codes: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """codes (B, WINDOW, 2, CODE) and action units (B, 6) to (B, moving, CHANNELS) and (B, mouth, 3)."""
        heard, inside = _attend(self._face, codes[:, :, 0]), _attend(self._mouth, codes[:, :, 1])
        brows = functional.relu(units[:, :5] @ self._face["exp_encode_net.net.0.weight"].T)
        shown = torch.cat([heard, brows @ self._face["exp_encode_net.net.1.weight"].T, units[:, 5:]], 1)
        width = self._driven.shape[1]
        drive = self._face["sigma_net.net.0.weight"][:, -width:] * shown[:, None]
        hidden = functional.relu(self._static + self._driven @ drive.transpose(1, 2))
        hidden = functional.relu(hidden @ self._face["sigma_net.net.1.weight"].T)
        face = hidden @ self._third.T
        face[..., :3] *= self._gain
        heights = torch.cat([face[..., 1], self._rest.expand(len(face), -1)], 1)
        high = heights.topk(self._rank, 1).values[:, -1]
        low = heights.topk(self._rank, 1, largest=False).values[:, -1]
        move = torch.stack([high, low, high - low], 1) * 100
        first = self._mouth["sigma_net.net.0.weight"]
        encoded = first.shape[1] - inside.shape[1] - 3
        pushed = inside @ first[:, encoded : encoded + inside.shape[1]].T + move @ first[:, -3:].T
        hidden = functional.relu(self._mouth_static + pushed[:, None])
        hidden = functional.relu(hidden @ self._mouth["sigma_net.net.1.weight"].T)
        gate = self._gate_static + (move @ self._mouth["scaler_net.net.0.weight"][:, -3:].T)[:, None]
        gate = functional.relu(functional.relu(gate) @ self._gate_second.T) @ self._gate_third.T
        return face, hidden @ self._mouth_third.T * (2 * torch.sigmoid(gate))


def _attend(weights: dict[str, Tensor], window: Tensor) -> Tensor:
    """(B, WINDOW, CODE) -> (B, CODE)."""
    x = window.transpose(1, 2)
    for layer in (0, 2, 4, 6, 8):
        name = f"audio_att_net.attentionConvNet.{layer}"
        x = functional.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
        x = functional.leaky_relu(x, float(SLOPE))
    scores = functional.linear(
        x[:, 0], weights["audio_att_net.attentionNet.0.weight"], weights["audio_att_net.attentionNet.0.bias"]
    )
    return (scores.softmax(1)[:, None] @ window)[:, 0]


@dataclass(frozen=True)
class _Layer:
    """Some Gaussians of one part, as they rest."""

    xyz: Tensor
    scale: Tensor  # before softplus
    rotation: Tensor
    opacity: Tensor  # after the logistic function
    sh: Tensor
    number: int

    @classmethod
    def of(
        cls, layer: Gaussians, rows: NDArray[np.integer], number: int, bands: int, device: torch.device
    ) -> "_Layer":
        sh = np.zeros((len(rows), bands, 3), np.float32)
        common = min(bands, layer.sh.shape[1])
        sh[:, :common] = layer.sh[rows, :common]
        arrays = [torch.tensor(a, device=device) for a in (layer.xyz[rows], layer.scale[rows], layer.rotation[rows])]
        opacity = torch.sigmoid(torch.tensor(layer.opacity[rows], device=device))
        return cls(arrays[0], arrays[1], arrays[2], opacity, torch.tensor(sh, device=device), number)


class Crowd:
    """As many calls as fit the GPU's memory (15 MB each at 512 x 512, as reckoned). Not for two threads at a time."""

    def __init__(
        self, person: Person, side: int | None = None, device: str = "cuda", kernels: gpu.Kernels | None = None
    ) -> None:
        """side: as `render.person.Canvas`. Raises render.raster.gpu.GpuMissing, ValueError for torsos of pictures."""
        self.person = person
        self.kernels = kernels or gpu.gsplat_kernels()
        self.device = torch.device(device)
        avatar = person.avatar
        if avatar.plates.torso:
            raise ValueError(f"{avatar.name} has pictures for a torso, which only the CPU paints: train it anew")
        width, height = person.fully_shown
        self.width = side or width
        factor = width / self.width
        self.height = 2 * round(height / factor / 2)
        if self.width % 2 or not 16 <= self.width <= width:
            raise ValueError(f"a picture of {avatar.name} is 16 to {width} pixels wide, even, not {side}")
        focal, centre = avatar.camera.focal_px / factor, (avatar.camera.cx / factor, avatar.camera.cy / factor)
        self._camera = Camera(np.eye(3, 4, dtype=np.float32), (focal, focal), centre, self.width, self.height)
        self._low_pass = LowPass.shrunk(factor)
        baked = person.baked
        self._motion = Motion(baked, self.device)
        bands = max(k for k in SH_COUNTS if k <= avatar.face.sh.shape[1])
        eyes = avatar.eyeballs
        of_eyes = np.zeros(len(avatar.face), np.uint8) if eyes is None else eyes.index
        calm = of_eyes[baked.still] == 0

        def layer(gaussians: Gaussians, rows: NDArray[np.integer], number: int) -> _Layer:
            return _Layer.of(gaussians, rows, number, bands, self.device)

        self._face = layer(avatar.face, baked.moving, FACE)
        self._mouth = layer(avatar.mouth, np.arange(len(avatar.mouth)), MOUTH)
        still = layer(avatar.face, baked.still[calm], FACE)
        rest = torch.tensor(baked.rest[calm], device=self.device)
        self._still = _Layer(
            still.xyz + rest[:, :3],
            still.scale + rest[:, 7:],
            still.rotation + rest[:, 3:7],
            still.opacity,
            still.sh,
            FACE,
        )
        self._eyes = [] if eyes is None else [layer(avatar.face, np.flatnonzero(of_eyes == k), FACE) for k in (1, 2)]
        torso = avatar.torso
        self._torso = None if torso is None else layer(torso.gaussians, np.arange(len(torso.gaussians)), TORSO)
        self._follows = None if torso is None else torch.tensor(torso.basis, device=self.device)
        parts = [self._face, self._mouth, self._still, *self._eyes, *([self._torso] if self._torso else [])]
        numbers = [torch.full((len(part.xyz),), part.number) for part in parts]
        self._layers = torch.cat(numbers).to(self.device)
        self._opacities = torch.cat([part.opacity for part in parts])
        self._sh = torch.cat([part.sh for part in parts])
        self.background = self.behind(person.plate)

    def behind(self, picture: Bytes) -> Tensor:
        """(H, W, 3) bytes of any size -> (3, H, W) of 0 to 1 on the device, as `planes` and `i420` take it."""
        covered = covering(picture, self.width, self.height)
        return torch.tensor(covered, device=self.device).permute(2, 0, 1).float() / 255

    def seat(self, background: Bytes | None = None) -> "Seat":
        """A call's place; background as `render.person.Canvas` takes it."""
        return Seat(self, self.background if background is None else self.behind(background))

    @torch.no_grad()
    def planes(self, codes: Floats, expressions: Sequence[Expression]) -> gpu.Drawn:
        """codes (B, 8, 2, 32): premultiplied colours (B, 3, H, W) and what shines through (B, H, W)."""
        batch = len(expressions)
        if codes.shape[0] != batch:
            raise ValueError(f"{codes.shape[0]} windows of codes for {batch} expressions")
        units = torch.tensor(np.stack([e.action_units for e in expressions]), device=self.device)
        face, mouth = self._motion(torch.tensor(np.asarray(codes, np.float32), device=self.device), units.float())
        views = [torch.tensor(v, dtype=torch.float32, device=self.device) for v in self._views(expressions)]
        means, directions, projected = [], [], []

        def show(xyz: Tensor, scale: Tensor, rotation: Tensor, view: Tensor) -> None:
            place = -(view[:, :3, :3].transpose(1, 2) @ view[:, :3, 3:])[..., 0]
            means.append(xyz)
            directions.append(functional.normalize(xyz - place[:, None], dim=-1))
            projected.append(
                gpu.project(
                    self.kernels, xyz, functional.softplus(scale), rotation, view, self._camera, self._low_pass
                )
            )

        f, m, s = self._face, self._mouth, self._still
        show(f.xyz + face[..., :3], f.scale + face[..., 7:], f.rotation + face[..., 3:7], views[0])
        show(m.xyz + mouth, m.scale.expand(batch, -1, -1), m.rotation.expand(batch, -1, -1), views[0])
        show(s.xyz, s.scale, s.rotation, views[0])
        for eye, view in zip(self._eyes, views[1:], strict=True):
            show(eye.xyz, eye.scale, eye.rotation, view)
        torso, avatar = self._torso, self.person.avatar
        if torso is not None and self._follows is not None and avatar.torso is not None:
            drive = np.stack([avatar.torso.drive(e.pose, e.sway, e.breath) for e in expressions])
            shift = torch.einsum("ncd,bd->bnc", self._follows, torch.tensor(drive, device=self.device))
            upright = torch.eye(4, device=self.device).expand(batch, 4, 4)
            show(
                torso.xyz + shift,
                torso.scale.expand(batch, -1, -1),
                torso.rotation.expand(batch, -1, -1),
                upright,
            )
        return gpu.blend(
            self.kernels,
            gpu.Projected.joined(projected),
            self._opacities.expand(batch, -1),
            gpu.harmonics(torch.cat(directions, 1), self._sh),
            self._layers,
            self._camera,
            self._low_pass,
        )

    def i420(self, codes: Floats, expressions: Sequence[Expression], background: Tensor | None = None) -> Tensor:
        """(B, 3 H / 2, W) bytes on the device, BT.601 limited range.

        background: from `behind`, one (3, H, W) or one for each call (B, 3, H, W); None: the person's own.
        """
        drawn = self.planes(codes, expressions)
        ground = self.background if background is None else background
        return gpu.to_i420(drawn.values + drawn.transmittance[:, None] * ground)

    def _views(self, expressions: Sequence[Expression]) -> list[NDArray[np.float64]]:
        """(B, 4, 4) of the head, then of each eyeball, which is turned by turning the camera the other way."""
        views = [np.stack([e.pose for e in expressions]).astype(np.float64)]
        eyes = self.person.avatar.eyeballs
        if eyes is not None:
            for centre in eyes.centres:
                turned = np.tile(np.eye(4), (len(expressions), 1, 1))
                for k, e in enumerate(expressions):
                    rotation, _ = turn_matrices(*e.gaze)
                    turned[k, :3, :3] = rotation
                    turned[k, :3, 3] = centre - rotation @ centre
                views.append(views[0] @ turned)
        return views


class Seat:
    """One call's place in a crowd: what `render.person.Canvas` is on a CPU core."""

    def __init__(self, crowd: Crowd, ground: Tensor) -> None:
        """ground: from `Crowd.behind`."""
        self.width, self.height = crowd.width, crowd.height
        self._crowd = crowd
        self._ground = ground

    @torch.no_grad()
    def i420(self, codes: Floats, expression: Expression, alpha: Bytes | None = None) -> Bytes:
        """One frame over the background: (3 H / 2, W), BT.601 limited range.

        codes (8, 2, 32). alpha: (H, W), filled with 0 to 255 if given.
        """
        drawn = self._crowd.planes(codes[None], [expression])
        if alpha is not None:
            alpha[:] = ((1 - drawn.transmittance[0]).clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
        picture = gpu.to_i420(drawn.values + drawn.transmittance[:, None] * self._ground)
        return np.asarray(picture[0].cpu().numpy(), np.uint8)


class Crowds:
    """Every person's crowd in each size that is asked for, on one device."""

    def __init__(self, device: str, kernels: gpu.Kernels | None = None) -> None:
        """Compiles gsplat on its first use, which takes minutes. Raises render.raster.gpu.GpuMissing."""
        self._device = device
        self._kernels = kernels or gpu.gsplat_kernels()
        self._known: dict[tuple[str, int], Crowd] = {}
        gpu.warm(device, self._kernels)

    def seat(self, person: Person, side: int, background: Bytes | None) -> Seat:
        """Raises ValueError for torsos of pictures."""
        key = person.avatar.name, side
        if key not in self._known:
            self._known[key] = Crowd(person, side, self._device, self._kernels)
        return self._known[key].seat(background)
