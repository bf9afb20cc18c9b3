"""Many calls at once are what each of them alone would be; needs no GPU."""

import numpy as np
import pytest
import torch

from render.crowd import Crowd, Crowds, Motion
from render.instag import InstagPainter
from render.person import Canvas, Expression, Person
from render.raster.gaussians import ALPHA_MAX
from render.score import Score
from render.worker import _on_gpu
from tests.gpu.kernels import DenseKernels
from tests.render import procedural

SIDE = 64


@pytest.fixture(scope="module")
def person() -> Person:
    return Person(procedural.person(faces=250, side=SIDE))


def asked(person: Person, batch: int) -> tuple[np.ndarray, list[Expression]]:
    rng = np.random.default_rng(3)
    codes = rng.normal(size=(batch, 8, 2, 32)).astype(np.float32)
    idle = person.avatar.idle
    shown = [
        Expression(
            np.asarray(idle.poses[7 * k], np.float64),
            rng.uniform(0, 2, 6).astype(np.float32),
            gaze=(0.2 * k - 0.1, 0.1),
            sway=(0.5 * k, -1.0),
            breath=0.3 * k,
        )
        for k in range(batch)
    ]
    return codes, shown


def test_motion_is_the_baked_one(person: Person) -> None:
    codes, shown = asked(person, 3)
    units = torch.tensor(np.stack([e.action_units for e in shown]))
    face, mouth = Motion(person.baked, torch.device("cpu"))(torch.tensor(codes), units)
    for k, e in enumerate(shown):
        wanted = person.baked.reference(codes[k], e.action_units)
        for found, expected in ((face[k].numpy().T, wanted.face), (mouth[k].numpy().T, wanted.mouth)):
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("side", [SIDE, SIDE // 2])
def test_each_picture_is_the_one_of_its_call_alone(person: Person, side: int) -> None:
    codes, shown = asked(person, 2)
    crowd = Crowd(person, side, "cpu", DenseKernels(cap=ALPHA_MAX))
    pictures = crowd.i420(codes, shown).numpy()
    assert pictures.shape == (2, side * 3 // 2, side)
    canvas = Canvas(person, side)
    for k in range(2):
        alone = canvas.i420(codes[k], shown[k])
        off = np.abs(pictures[k].astype(int) - alone)
        assert np.quantile(off, 0.99) <= 2
        assert off.mean() < 0.3
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 1  # two calls, two faces


def test_backgrounds_may_differ_from_call_to_call(person: Person) -> None:
    codes, shown = asked(person, 1)
    crowd = Crowd(person, SIDE, "cpu", DenseKernels())
    grounds = [crowd.behind(np.full((4, 4, 3), level, np.uint8)) for level in (0, 255)]
    both = crowd.i420(codes.repeat(2, 0), shown * 2, torch.stack(grounds)).numpy()
    assert both[0, 0, 0] == 16
    assert both[1, 0, 0] == 235


def test_as_many_windows_as_expressions(person: Person) -> None:
    codes, shown = asked(person, 2)
    with pytest.raises(ValueError, match="2 windows of codes for 1"):
        Crowd(person, SIDE, "cpu", DenseKernels()).planes(codes, shown[:1])


def test_torsos_of_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="only the CPU"):
        Crowd(
            Person(procedural.person(faces=50, side=SIDE, torso=False, plates=2)),
            device="cpu",
            kernels=DenseKernels(),
        )


def test_a_call_is_painted_by_its_seat_as_by_its_canvas(person: Person) -> None:
    """As the render worker does with `render.device`: colours, matte, and again at another size."""
    crowds = Crowds("cpu", DenseKernels(cap=ALPHA_MAX))
    score = Score()
    for alpha in (False, True):
        seated, alone = (
            InstagPainter(person, score, 3, alpha=alpha, side=SIDE, easel=easel) for easel in (crowds.seat, Canvas)
        )
        for index, side in enumerate((seated.sides[0], seated.sides[-1])):
            for painter in (seated, alone):
                painter.resize(side)
            found, wanted = seated.paint(index), alone.paint(index)
            assert found.shape == wanted.shape
            off = np.abs(found.astype(int) - wanted)
            assert np.quantile(off, 0.99) <= 3
            assert off.mean() < 0.5
    assert crowds.seat(person, SIDE, None)._crowd is crowds.seat(person, SIDE, None)._crowd  # weights are shared


def test_where_there_is_no_gpu_the_cpu_paints_and_says_so() -> None:
    notes: list[str] = []
    assert _on_gpu("cpu", notes) is None
    assert notes == []
    if not torch.cuda.is_available():
        assert _on_gpu("cuda:0", notes) is None
        assert notes == ["The CPU paints, cuda:0 does not: There is no CUDA device here: use the CPU rasteriser."]
