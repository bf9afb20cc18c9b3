"""InsTaG's motion nets in plain torch, named and shaped as their checkpoints; the judge of the baked path.

Order of one frame (`HeadMotion.forward`): the aligner places a person's points in the universal field; the face field
moves them; the aligner scales that motion; the hook measures how far the face opens; the mouth field moves what is
inside. Written from a specification of names, shapes and order (Li et al., CVPR 2025), not from the original's code.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from render.avatar import AudioFeature
from render.motion.audio import AudioAttention, audio_net
from render.motion.grid import TriPlaneEncoder
from render.motion.tables import (
    CODE,
    ENCODING,
    FACE_LEVELS,
    HOOK_RANK,
    METRES,
    MOUTH_LEVELS,
    SIDEWAYS,
    Levels,
)


class Mlp(nn.Module):
    """Linear layers without bias, ReLU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        pairs = pairwise(widths)
        self.net = nn.ModuleList(nn.Linear(before, after, bias=False) for before, after in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.net):
            x = layer(x if i == 0 else F.relu(x))
        return x


class FaceDeformation(NamedTuple):
    """What a face field asks of N points; leading dimensions are frames."""

    xyz: Tensor  # [..., N, 3] metres
    rotation: Tensor  # [..., N, 4] added to the raw quaternion
    opacity: Tensor  # [..., N, 1] regularised in training, never applied
    scale: Tensor  # [..., N, 3] added to the raw scale, before softplus
    audio_attention: Tensor  # [N, 1] how much each point listens
    eye_attention: Tensor  # [N, 1] how much it follows the action units


class Drive(TriPlaneEncoder):
    """A field that listens: the parts that all four kinds share."""

    def __init__(self, levels: Levels, feature: AudioFeature) -> None:
        super().__init__(levels)
        self.audio_net = audio_net(feature)
        self.audio_att_net = AudioAttention()

    def code(self, window: Tensor) -> Tensor:
        """(..., WINDOW, width, steps) of features -> (..., CODE)."""
        frames = window.shape[:-3]
        codes = self.audio_net(window.flatten(0, -3)).view(-1, window.shape[-3], CODE)
        smooth: Tensor = self.audio_att_net(codes).view(*frames, CODE)
        return smooth


def _beside(*parts: Tensor) -> Tensor:
    """Concatenated along the last dimension, all others broadcast."""
    shape = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], dim=-1)


class FaceField(Drive):
    """The universal motion field of the face (`hidden` 64), and with 32 the body of a person's own."""

    def __init__(self, feature: AudioFeature, hidden: int = 64) -> None:
        super().__init__(FACE_LEVELS, feature)
        self.aud_ch_att_net = Mlp(ENCODING, 32, CODE)
        self.exp_encode_net = Mlp(5, 16, 5)
        self.eye_att_net = Mlp(ENCODING, 16, 6)
        self.sigma_net = Mlp(ENCODING + CODE + 6, hidden, hidden, 11)

    def forward(self, xyz: Tensor, window: Tensor, action_units: Tensor) -> FaceDeformation:
        """xyz (N, 3) metres; window (..., WINDOW, width, steps); action_units (..., 6), see ACTION_UNITS."""
        encoding = self.encode(xyz)
        hears = self.aud_ch_att_net(encoding)  # [N, CODE]
        sees = F.relu(self.eye_att_net(encoding))  # [N, 6]
        expression = torch.cat([self.exp_encode_net(action_units[..., :5]), action_units[..., 5:]], dim=-1)
        audio = hears * self.code(window)[..., None, :]
        out = self.sigma_net(_beside(encoding, audio, sees * expression[..., None, :]))
        return FaceDeformation(
            xyz=out[..., :3] * METRES,
            rotation=out[..., 3:7],
            opacity=out[..., 7:8],
            scale=out[..., 8:11],
            audio_attention=hears.norm(dim=-1, keepdim=True),
            eye_attention=sees.norm(dim=-1, keepdim=True),
        )


class Mouth(NamedTuple):
    """What a mouth field asks of N points."""

    xyz: Tensor  # [..., N, 3] metres
    rotation: Tensor  # [..., N, 4] put out but not applied


class MouthField(Drive):
    """The universal motion field of the inner mouth.

    A checkpoint holds an attention to audio for it too (`aud_ch_att_net`), which the original never asks.
    """

    def __init__(self, feature: AudioFeature) -> None:
        super().__init__(MOUTH_LEVELS, feature)
        self.sigma_net = Mlp(ENCODING + CODE + 3, 32, 32, 7)
        self.scaler_net = Mlp(ENCODING + 3, 16, 16, 1)

    def forward(self, xyz: Tensor, window: Tensor, move: Tensor) -> Mouth:
        """xyz (N, 3) metres; window as in FaceField; move (..., 3) of the `hook`."""
        encoding, move = self.encode(xyz), move[..., None, :]
        out = self.sigma_net(_beside(encoding, self.code(window)[..., None, :], move))
        gain = 2 * torch.sigmoid(self.scaler_net(_beside(encoding, move)))
        return Mouth(_mouth_metres(out) * gain, out[..., 3:7])


def _mouth_metres(out: Tensor) -> Tensor:
    return out[..., :3] * out.new_tensor([SIDEWAYS, 1.0, SIDEWAYS]) * METRES


class Alignment(NamedTuple):
    """Where a person's points lie in the universal field, and how large their motion is."""

    offset: Tensor  # [N, 3] metres, added before the field is asked
    scale: Tensor  # [N, 3] times the field's motion, 0.75 to 1.25


def _alignment(out: Tensor) -> Alignment:
    return Alignment(out[..., :3] * METRES, 1 + 0.25 * torch.tanh(out[..., 3:6] / 5))


class Aligner(TriPlaneEncoder):
    """What rendering keeps of a personal net: a constant for each point. `hidden`: 32 (face) or 16 (mouth)."""

    def __init__(self, hidden: int) -> None:
        super().__init__(FACE_LEVELS)
        self.align_net = Mlp(ENCODING, hidden, 6)

    def forward(self, xyz: Tensor) -> Alignment:
        return _alignment(self.align_net(self.encode(xyz)))


class PersonalFaceField(FaceField):
    """A person's own motion beside the universal field: trained in pre-training, where both are added."""

    def __init__(self, feature: AudioFeature) -> None:
        super().__init__(feature, hidden=32)
        self.align_net = Mlp(ENCODING, 32, 6)

    def align(self, xyz: Tensor) -> Alignment:
        return _alignment(self.align_net(self.encode(xyz)))


class PersonalMouthField(Drive):
    """A person's own mouth motion, for pre-training."""

    def __init__(self, feature: AudioFeature) -> None:
        super().__init__(FACE_LEVELS, feature)
        self.sigma_net = Mlp(ENCODING + CODE, 16, 16, 7)
        self.align_net = Mlp(ENCODING, 16, 6)

    def forward(self, xyz: Tensor, window: Tensor) -> Mouth:
        out = self.sigma_net(_beside(self.encode(xyz), self.code(window)[..., None, :]))
        return Mouth(_mouth_metres(out), out[..., 3:7])

    def align(self, xyz: Tensor) -> Alignment:
        return _alignment(self.align_net(self.encode(xyz)))


def hook(face_xyz: Tensor, rank: int = HOOK_RANK) -> Tensor:
    """How far the face opens: its displacements (..., N, 3) in metres -> (..., 3), in centimetres, without gradient.

    [up, down, up - down], the `rank`-th largest and smallest displacement in y (of fewer points, the least).
    """
    y = face_xyz[..., 1].detach()
    rank = min(rank, y.shape[-1])
    up = y.kthvalue(y.shape[-1] - rank + 1, dim=-1).values
    down = y.kthvalue(rank, dim=-1).values
    return 100 * torch.stack([up, down, up - down], dim=-1)


class HeadDeformation(NamedTuple):
    """What is added to the points of a head in one frame; leading dimensions are frames."""

    face_xyz: Tensor  # [..., N, 3] metres
    face_rotation: Tensor  # [..., N, 4] to the raw quaternion
    face_scale: Tensor  # [..., N, 3] to the raw scale
    mouth_xyz: Tensor  # [..., M, 3] metres


class HeadMotion(nn.Module):
    """A person's head in motion: both universal fields and that person's aligners.

    Its `state_dict` is what an avatar's motion.safetensors holds, name by name (`render.avatar.motion_shapes`).
    """

    def __init__(self, feature: AudioFeature) -> None:
        super().__init__()
        self.face, self.mouth = FaceField(feature), MouthField(feature)
        self.face_aligner, self.mouth_aligner = Aligner(32), Aligner(16)

    def forward(self, face_xyz: Tensor, mouth_xyz: Tensor, window: Tensor, action_units: Tensor) -> HeadDeformation:
        """Points (N, 3) and (M, 3) at rest, metres; window (..., WINDOW, width, steps); action_units (..., 6)."""
        placed = self.face_aligner(face_xyz)
        face = self.face(face_xyz + placed.offset, window, action_units)
        moved = face.xyz * placed.scale
        inside = self.mouth_aligner(mouth_xyz).offset + mouth_xyz  # its scale is not used
        mouth = self.mouth(inside, window, hook(moved))  # after the face's scale, as the original does at inference
        return HeadDeformation(moved, face.rotation, face.scale, mouth.xyz)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """A copy of `state_dict` for an avatar, and for `render.motion.bake`."""
        return {name: np.array(value.cpu(), np.float32) for name, value in self.state_dict().items()}
