"""One of several people from whose pictures a universal field is learned: what is theirs alone, and their losses.

After InsTaG's pre-training (Li et al., CVPR 2025): a person's face moves by the universal field, which all share, and
by a field of their own; the contrast loss takes from the latter what others have, too, so that it goes to the former.
Mended here: backgrounds are random colours instead of green, so that alpha is right; hair, which no field moves, has
Gaussians of its own; attention is looked at where the points are, not in a picture over a background that counts as
attentive; the mouth hears of a face that blinks and frowns, as it will in a call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from render.motion.networks import (
    Aligner,
    Alignment,
    FaceDeformation,
    Mouth,
    PersonalFaceField,
    PersonalMouthField,
    hook,
)
from render.motion.tables import METRES
from render.train.adam import Adam
from render.train.checkpoint import named, under
from render.train.dataset import HAIR as LABEL_HAIR
from render.train.dataset import MOUTH as LABEL_MOUTH
from render.train.dataset import Dataset, Shot
from render.train.draw import Painter, Splats
from render.train.footage import Footage, ring
from render.train.grow import Growing
from render.train.head import EYE, FACE, HAIR, MOUTH, OTHER_EYE, Cloud
from render.train.loss import pixels
from render.train.planes import encode, fast_align, fast_face, fast_mouth, own_mouth
from render.train.pretrain import AWAKE, Universal
from render.train.trainer import Clip

Floats = NDArray[np.float32]

SMALL_MOTION = 1e-5
"""weight of the mean size of what the fields put out"""
COVERAGE = 1e-3
"""weight of what is see-through in the head, or opaque beside it"""
LIPS_LOOK = 5e-3
"""weight of the attention to action units at the lips"""
HAIR_LISTENS = 1e-4
"""weight of the attention to voice and action units at the hair"""
CONTRAST = 1.0
"""of the contrast loss, which is in the fields' own unit, centimetres: in square metres it would weigh nothing"""
CONTRAST_POINTS = 2000
MOUTH_PX = 20 / 512**2
"""share of the picture: a mouth that is open by less shows nothing"""


@dataclass(frozen=True, eq=False)
class Moved:
    """What is added to a person's raw Gaussians in one frame; zeros where nothing moves."""

    xyz: Tensor  # (face points, 3) metres
    rotation: Tensor  # (face points, 4)
    scale: Tensor  # (face points, 3)
    inside: Tensor  # (mouth points, 3) metres
    shared: FaceDeformation | None = None
    own: FaceDeformation | None = None


@dataclass
class Individual(Growing):
    """A person, their Gaussians and their own fields."""

    name: str
    data: Dataset
    footage: Footage
    clip: Clip
    head: Cloud
    face: PersonalFaceField
    mouth: PersonalMouthField
    aligners: tuple[Aligner, Aligner] | None
    """of face and mouth, which lead to the places of the mean face; they stay as they are"""
    fields: Universal | None = None
    """what moves this person when Gaussians are counted; None: nothing"""
    adam: Adam = field(init=False)
    own_adam: Adam = field(init=False)
    painter: Painter = field(init=False)
    screen: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.adam = Adam(self.head.tensors)
        self.own_adam = Adam(dict(self._nets().named_parameters()), epsilon=1e-12)
        self.painter = Painter(self.footage.box.width, self.footage.box.height)
        self.screen = torch.zeros(len(self.head))
        self.rng = np.random.default_rng(0)  # the run sets another before each use

    def _nets(self) -> nn.ModuleDict:
        nets: dict[str, nn.Module] = {"face": self.face, "mouth": self.mouth}
        if self.aligners is not None:
            face, mouth = (net.requires_grad_(False) for net in self.aligners)
            nets |= {"face_aligner": face, "mouth_aligner": mouth}
        return nn.ModuleDict(nets)

    # --- how a frame is made ---

    def placed(self, part: int) -> Alignment | None:
        """Where the points of FACE or MOUTH are in the universal field; without gradient."""
        if self.aligners is None:
            return None
        with torch.no_grad():
            return fast_align(self.aligners[part == MOUTH], self.head.tensors["xyz"][self.head.span(part)])

    def _shared_face(self, fields: Universal, shot: Shot, window: Tensor) -> tuple[FaceDeformation, Tensor]:
        """The universal field's answer, and its displacement as this person scales it."""
        at, placed = self.head.tensors["xyz"][self.head.span(FACE)], self.placed(FACE)
        units = self.clip.action_units[shot.index]
        if placed is None:
            out = fast_face(fields.face, at, window, units)
            return out, out.xyz
        out = fast_face(fields.face, at + placed.offset, window, units)
        return out, out.xyz * placed.scale

    def face_moved(self, fields: Universal, shot: Shot, window: Tensor, *, own: bool = True) -> Moved:
        """The face by the universal field, and by its own if `own`; the mouth stays."""
        xyz = self.head.tensors["xyz"]
        shared, shifted = self._shared_face(fields, shot, window)
        turned, grown, its = shared.rotation, shared.scale, None
        if own:
            its = fast_face(self.face, xyz[self.head.span(FACE)], window, self.clip.action_units[shot.index])
            shifted, turned, grown = shifted + its.xyz, turned + its.rotation, grown + its.scale
        return Moved(shifted, turned, grown, torch.zeros_like(xyz[self.head.span(MOUTH)]), shared, its)

    def moved(self, fields: Universal | None, shot: Shot, window: Tensor | None = None, *, own: bool = True) -> Moved:
        """All of it. fields: None for a head that stands still; window: of another voice."""
        if fields is None:
            f, t = self.head.span(FACE), self.head.tensors
            xyz, turned, grown = (torch.zeros_like(t[name][f]) for name in ("xyz", "rotation", "scale"))
            return Moved(xyz, turned, grown, torch.zeros_like(t["xyz"][self.head.span(MOUTH)]))
        window = self.clip.windows[shot.index] if window is None else window
        shared, its = self.mouth_moved(fields, fields, shot, window, own=own)
        face = self.face_moved(fields, shot, window, own=own)
        return replace(face, inside=shared.xyz if its is None else shared.xyz + its.xyz)

    def mouth_moved(
        self, fields: Universal, opening: Universal, shot: Shot, window: Tensor, *, own: bool = True
    ) -> tuple[Mouth, Mouth | None]:
        """The inner mouth by the universal field, and by its own. opening: whose face tells how far it opens."""
        at, placed = self.head.tensors["xyz"][self.head.span(MOUTH)], self.placed(MOUTH)
        if not len(at):
            return Mouth(at, at.new_zeros(0, 4)), None
        with torch.no_grad():
            how_far = hook(self._shared_face(opening, shot, window)[1])
        shared = fast_mouth(fields.mouth, at if placed is None else at + placed.offset, window, how_far)
        return shared, own_mouth(self.mouth, at, window) if own else None

    def drawn_as(self, moved: Moved, shot: Shot) -> Splats:
        return self.head.assembled(moved.xyz, moved.rotation, moved.scale, moved.inside, shot.gaze)

    def splats(self, shot: Shot) -> Splats:
        return self.drawn_as(self.moved(self.fields, shot), shot)

    # --- the losses ---

    def face_loss(
        self, fields: Universal | None, k: int, haired: bool, draw: np.random.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The parts for footage's frame k, and the rows of the Gaussians that were drawn. haired: hair among them."""
        f = self.footage
        shot = f.shots[k]
        if fields is None:
            moved = self.moved(None, shot)
        else:
            moved = self.face_moved(fields, shot, self.clip.windows[shot.index])
        parts_drawn = (FACE, HAIR, EYE, OTHER_EYE) if haired else (FACE, EYE, OTHER_EYE)
        splats, rows = self._some(self.drawn_as(moved, shot), *parts_drawn)
        head, weight = f.head[k].astype(np.float32) / 255, f.weight[k].astype(np.float32)
        colour, paint = draw.random((3, 1, 1)).astype(np.float32), draw.random((3, 1)).astype(np.float32)
        behind = np.broadcast_to(colour, (3, *head.shape)).copy()
        truth = f.rgb[k].astype(np.float32) / 255 * head + (1 - head) * behind
        inside, hair = f.labels[k] == LABEL_MOUTH, f.labels[k] == LABEL_HAIR
        behind[:, inside], truth[:, inside] = paint, paint
        head = np.where(inside, 0, head).astype(np.float32)
        weight[ring(inside)] = 0
        if not haired:  # what hair hides is not known
            weight[hair | ring(hair)] = 0
        parts = self._pictured(splats, shot, behind, truth, head, weight)
        if moved.shared is None or moved.own is None:
            return parts, rows
        sizes = [v.abs().mean() for d in (moved.shared, moved.own) for v in (d.xyz, d.rotation, d.opacity, d.scale)]
        parts["motion"] = SMALL_MOTION * torch.stack(sizes).sum()
        lips = self._within(splats.means[: self.head.counts[FACE]].detach(), shot, f.mouth_boxes[k])
        if lips.any():
            parts["lips"] = LIPS_LOOK * sum(
                (d.eye_attention[lips].mean() for d in (moved.shared, moved.own)),
                lips.new_zeros((), dtype=torch.float),
            )
        if fields is not None and not lips.all():
            at, placed = self.head.tensors["xyz"][self.head.span(FACE)].detach(), self.placed(FACE)
            at = at if placed is None else at + placed.offset
            eyes = fields.face.eye_att_net(encode(fields.face, at[~lips]))  # before its ReLU, under which it is dead
            parts["awake"] = LIPS_LOOK * (AWAKE - eyes).clamp(min=0).mean()
        if fields is not None and haired and self.head.counts[HAIR]:
            at, listens = self.head.tensors["xyz"][self.head.span(HAIR)].detach(), []
            for net in (fields.face, self.face):
                code = encode(net, at)
                listens += [net.aud_ch_att_net(code).norm(dim=-1).mean()]
                listens += [net.eye_att_net(code).relu().norm(dim=-1).mean()]
            parts["hair"] = HAIR_LISTENS * torch.stack(listens).sum()
        return parts, rows

    def mouth_loss(
        self, fields: Universal | None, opening: Universal, k: int, draw: np.random.Generator
    ) -> tuple[dict[str, Tensor], Tensor, Mouth | None]:
        """As `face_loss`, of the inner mouth alone: where the picture shows it. And how it moved by its own field."""
        f = self.footage
        shot, still = f.shots[k], self.moved(None, f.shots[k])
        shared = own = None
        if fields is not None:
            shared, own = self.mouth_moved(fields, opening, shot, self.clip.windows[shot.index])
            shift = shared.xyz if own is None else shared.xyz + own.xyz
            still = replace(still, inside=shift)
        splats, rows = self._some(self.drawn_as(still, shot), MOUTH)
        inside = f.labels[k] == LABEL_MOUTH
        behind = np.broadcast_to(draw.random((3, 1, 1)).astype(np.float32), (3, *inside.shape)).copy()
        head = inside.astype(np.float32)
        truth = np.where(inside, f.rgb[k].astype(np.float32) / 255, behind)
        weight = np.ones_like(head)
        box = np.zeros_like(inside)
        box[f.mouth_boxes[k]] = True
        weight[box & ~inside] = 0  # lips hide what is behind them
        parts = self._pictured(splats, shot, behind, truth, head, weight, box)
        if shared is not None and own is not None:
            parts["motion"] = SMALL_MOTION * (shared.xyz.abs().mean() + own.xyz.abs().mean())
        return parts, rows, own

    def _pictured(
        self,
        splats: Splats,
        shot: Shot,
        behind: Floats,
        truth: Floats,
        head: Floats,
        weight: Floats,
        covered: NDArray[np.bool_] | None = None,
    ) -> dict[str, Tensor]:
        """L1 and SSIM over what is behind, and alpha against `head`; covered: where alpha counts, else by weight."""
        f = self.footage
        drawn = self.painter.draw(f.box.camera(self.data, shot.pose), splats)
        w = self.tensor(weight)
        made = drawn.colour + drawn.transmittance * self.tensor(behind)
        known = (w > 0).float() if covered is None else self.tensor(covered.astype(np.float32))
        solid, alpha = self.tensor(head), 1 - drawn.transmittance
        off = known * ((1 - alpha) * solid + alpha * (1 - solid))
        return {
            "pixels": pixels(made, self.tensor(truth.astype(np.float32)), w),
            "coverage": COVERAGE * off.sum() / known.sum().clamp_min(1),
        }

    def _some(self, splats: Splats, *parts: int) -> tuple[Splats, Tensor]:
        """Of some parts only, in their order; and their rows."""
        spans = [self.head.span(p) for p in parts]
        rows = torch.cat([torch.arange(s.start, s.stop) for s in spans])
        here = rows.to(self.device)
        s = splats
        each = (s.means, s.scales, s.rotations, s.opacities, s.sh, s.layers)
        return Splats(*(t[here] for t in each)), rows

    def _within(self, means: Tensor, shot: Shot, box: tuple[slice, slice]) -> Tensor:
        """(n,) whether points are seen in a box of the footage."""
        pose = torch.from_numpy(shot.pose).to(means)
        view = means @ pose[:3, :3].T + pose[:3, 3]
        data, frame = self.data, self.footage.box
        middle = means.new_tensor([data.width / 2 - frame.left, data.height / 2 - frame.top])
        x, y = (view[:, :2] / view[:, 2:].clamp_min(1e-3) * data.focal_px + middle).unbind(1)
        rows, columns = box
        seen: Tensor = (y >= rows.start) & (y < rows.stop) & (x >= columns.start) & (x < columns.stop)
        return seen

    # --- what differs from others ---

    def face_contrast(self, others: Sequence["Individual"], shot: Shot, draw: np.random.Generator) -> Tensor:
        """`contrast` with others' own motion of this face's points, in this frame."""
        span = self.head.span(FACE)
        rows = draw.permutation(span.stop - span.start)[:CONTRAST_POINTS]
        at = self.head.tensors["xyz"][span][torch.from_numpy(np.sort(rows)).to(self.device)].detach()
        drive = self.clip.windows[shot.index], self.clip.action_units[shot.index]
        with torch.no_grad():
            theirs = [fast_face(other.face, at, *drive).xyz for other in others]
        return contrast(fast_face(self.face, at, *drive).xyz, theirs)

    def mouth_contrast(self, own: Mouth, other: "Individual", shot: Shot) -> Tensor:
        at = self.head.tensors["xyz"][self.head.span(MOUTH)].detach()
        with torch.no_grad():
            theirs = own_mouth(other.mouth, at, self.clip.windows[shot.index]).xyz
        return contrast(own.xyz, [theirs])

    # --- checkpoints ---

    def state(self) -> dict[str, Tensor]:
        out = self.head.kept() | named("nets", self._nets().state_dict())
        return (
            out
            | named("adam", self.adam.state())
            | named("own_adam", self.own_adam.state())
            | {"screen": self.screen}
        )

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Of all but the Gaussians, which `head` was made of."""
        self._nets().load_state_dict(under("nets", state))
        self.adam.restore(under("adam", state))
        self.own_adam.restore(under("own_adam", state))
        self.screen = state["screen"].clone()

    def open_frames(self) -> NDArray[np.int64]:
        """Footage's frames that show an inner mouth, the widest last."""
        seen = self.footage.openness * self.data.width
        order = np.argsort(self.footage.openness, kind="stable")
        return order[seen[order] >= MOUTH_PX * self.data.width * self.data.height]


def contrast(own: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Sum over others j of mean_N relu(own . other_j): displacements (N, 3) in metres, compared in centimetres.

    Only what goes the same way costs; others have no gradient.
    """
    each = [((own / METRES) * (other.detach() / METRES)).sum(-1).clamp(min=0).mean() for other in others]
    return torch.stack(each).sum() if each else own.new_zeros(())
