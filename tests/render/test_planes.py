"""The motion fields as training computes them on a CPU are those of `render.motion`, and so are their gradients."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from render.avatar import AudioFeature  # noqa: E402
from render.motion.networks import (  # noqa: E402
    Aligner,
    FaceField,
    HeadMotion,
    MouthField,
    PersonalFaceField,
    hook,
)
from render.motion.tables import FACE_LEVELS, MOUTH_LEVELS, WINDOW, Levels  # noqa: E402
from render.train.planes import (  # noqa: E402
    CHUNK,
    encode,
    fast_align,
    fast_face,
    fast_head,
    fast_mouth,
    taps,
)

Tensor = torch.Tensor
MEL = AudioFeature(name="mel", width=5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Nets are made at random: at the kink of a ReLU two ways to compute it may fall on either side."""
    torch.manual_seed(0)


def lively(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """With embeddings as large as after training: fresh ones would hide errors."""
    draw = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        if "embeddings" in name:
            value.data.normal_(generator=draw)
    return module


def points(count: int, reach: float = 0.14, seed: int = 1) -> Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * reach


def driven(*frames: int, seed: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    window = torch.randn(*frames, WINDOW, MEL.width, 1, generator=draw)
    return window, torch.rand(*frames, 6, generator=draw) * 2, torch.randn(*frames, 3, generator=draw)


def agree(
    fast: Callable[[], Iterable[Tensor]], plain: Callable[[], Iterable[Tensor]], leaves: Iterable[Tensor]
) -> None:
    """Outputs, and gradients of a random sum of them, relative to the largest."""
    wanted = list(leaves)
    grads = []
    outs = []
    for compute in (fast, plain):
        out = list(compute())
        draw = torch.Generator().manual_seed(9)
        total = sum((o * torch.randn(o.shape, generator=draw)).sum() for o in out)
        grads.append(torch.autograd.grad(total, wanted, allow_unused=True))
        outs.append(out)
    for a, b in zip(*outs, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))
    for a, b in zip(*grads, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.parametrize(("levels", "net"), [(FACE_LEVELS, FaceField), (MOUTH_LEVELS, MouthField)])
def test_encoding_is_the_grids_own(levels: Levels, net: type[FaceField]) -> None:
    field = lively(net(MEL))
    assert isinstance(field, FaceField | MouthField)
    xyz = points(300, reach=0.18)  # some lie outside
    xyz[0], xyz[1] = torch.tensor([0.15, 0.15, 0.15]), torch.tensor([-0.15, 0.0, 0.151])
    xyz.requires_grad_()
    tables = [p for n, p in field.named_parameters() if "embeddings" in n]
    agree(lambda: [encode(field, xyz)], lambda: [field.encode(xyz)], [xyz, *tables])


def test_taps_serve_again() -> None:
    """Known taps are used instead of the positions: as long as those stay, the encoding is the same."""
    field = lively(FaceField(MEL))
    xyz = points(50)
    at = taps(xyz, FACE_LEVELS)
    assert torch.equal(encode(field, xyz, at), encode(field, xyz))
    assert torch.equal(encode(field, xyz + 0.01, at), encode(field, xyz))
    assert len(at) == 50


def test_hashed_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="hashed"):
        taps(np.zeros((1, 3), np.float32), Levels(16, 40.0, rows_at_most=256))


@pytest.mark.parametrize("frames", [(), (3,), (2, 2)])
def test_face(frames: tuple[int, ...]) -> None:
    field = lively(FaceField(MEL))
    assert isinstance(field, FaceField)
    xyz = points(CHUNK + 70).requires_grad_()
    window, action_units, _ = driven(*frames)
    window.requires_grad_()
    leaves = [xyz, window, *field.parameters()]
    agree(lambda: fast_face(field, xyz, window, action_units), lambda: field(xyz, window, action_units), leaves)


@pytest.mark.parametrize("frames", [(), (3,)])
def test_mouth(frames: tuple[int, ...]) -> None:
    field = lively(MouthField(MEL))
    assert isinstance(field, MouthField)
    xyz = points(CHUNK + 70).requires_grad_()
    window, _, move = driven(*frames)
    agree(
        lambda: fast_mouth(field, xyz, window, move),
        lambda: field(xyz, window, move),
        [xyz, *field.parameters()],
    )


def test_aligners() -> None:
    xyz = points(90).requires_grad_()
    aligner = lively(Aligner(16))
    agree(lambda: fast_align(aligner, xyz), lambda: aligner(xyz), [xyz, *aligner.parameters()])
    person = lively(PersonalFaceField(MEL))
    assert isinstance(person, PersonalFaceField)
    agree(lambda: fast_align(person, xyz), lambda: person.align(xyz), [xyz, *person.parameters()])


def test_whole_head() -> None:
    """Gradients pass from the motion through the field's positions into the aligner."""
    motion = lively(HeadMotion(MEL))
    assert isinstance(motion, HeadMotion)
    face, mouth = points(200, 0.1), points(60, 0.05, seed=7)
    window, action_units, _ = driven(2)
    leaves = list(motion.parameters())
    agree(
        lambda: fast_head(motion, face, mouth, window, action_units),
        lambda: motion(face, mouth, window, action_units),
        leaves,
    )
    moved = fast_head(motion, face, mouth, window, action_units).face_xyz
    (grad,) = torch.autograd.grad(moved.square().sum(), [motion.face_aligner.encoder_xy.embeddings])
    assert grad.abs().max() > 0
    assert hook(moved).shape == (2, 3)


def test_other_precision_is_the_modules_own() -> None:
    """float64 takes the plain path, whose gradients finite differences confirm."""
    field = lively(FaceField(MEL)).double()
    assert isinstance(field, FaceField)
    xyz = points(4).double().requires_grad_()
    window, action_units, _ = (t.double() for t in driven(1))
    assert torch.autograd.gradcheck(
        lambda p: fast_face(field, p, window, action_units).xyz * 100, (xyz,), eps=1e-8, atol=1e-4
    )


def test_no_points_are_moved_nowhere() -> None:
    """As in a frame with closed lips, of which nothing can be said about the mouth."""
    window, units, move = driven(2)
    nobody = torch.zeros(0, 3)
    assert fast_face(FaceField(MEL), nobody, window, units).xyz.shape == (2, 0, 3)
    assert fast_mouth(MouthField(MEL), nobody, window, move).xyz.shape == (2, 0, 3)
