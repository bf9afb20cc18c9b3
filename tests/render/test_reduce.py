"""A face's motion as a few shapes: near the nets' where kept, dropped where the check fails, refused if broken."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba paints the InsTaG face; it comes with the instag extra")
pytest.importorskip("torch", reason="training takes torch")

from render.avatar import Avatar, save
from render.motion.bake import bake
from render.motion.baked import CHANNELS, Baked
from render.motion.lowrank import PREFIX, LowRank
from render.person import Canvas, Person
from render.train import reduce
from render.train.prune import pruned
from render.train.rehearsal import other_voices
from tests.render import procedural


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    plain = procedural.person(faces=1500, side=64)
    return dataclasses.replace(plain, baked=bake(plain.motion, plain.audio, plain.face.xyz, plain.mouth.xyz).arrays())


@pytest.fixture(scope="module")
def kept(avatar: Avatar) -> Avatar:
    small, said = reduce.reduced(avatar, least_db=25.0)
    assert list(said.values())[-1] >= 25
    return small


def moved(person: Person, seed: int) -> np.ndarray:
    voices = other_voices(person.avatar.audio)[-500:]
    drive = reduce.moments(person, voices, 20, seed)
    return np.stack([person.baked.frame(*moment).face.copy() for moment in drive])


def test_few_shapes_move_a_face_as_the_nets_do(avatar: Avatar, kept: Avatar, tmp_path: Path) -> None:
    save(kept, tmp_path / "small")
    nets, few = Person(avatar), Person.load(tmp_path / "small")
    assert few.baked.few is not None
    assert few.baked.few.decibels >= 25
    a, b = moved(nets, 9)[:, :3], moved(few, 9)[:, :3]
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.35 * np.sqrt(np.mean((a - a.mean(0)) ** 2))
    assert not np.array_equal(a, b)
    mouths = [
        p.baked.frame(*next(iter(reduce.moments(p, other_voices(avatar.audio), 1, 3)))).mouth for p in (nets, few)
    ]
    np.testing.assert_allclose(mouths[0], mouths[1], atol=2e-3)  # it hangs on the face's heights


def test_what_differs_too_much_is_not_kept(avatar: Avatar) -> None:
    none, said = reduce.reduced(avatar, least_db=100.0)
    assert list(said) == list(reduce.SHAPES)
    assert not any(name.startswith(PREFIX) for name in none.baked)


def test_the_check_sees_a_difference(avatar: Avatar, kept: Avatar) -> None:
    few = Person(kept).baked.few
    assert few is not None
    plain = Person(avatar)
    drive = list(reduce.moments(plain, other_voices(avatar.audio), 4, 1))
    honest = reduce.check(plain, few, drive)
    wrong = dataclasses.replace(few, fit=-few.fit)
    assert reduce.check(plain, wrong, drive) < honest - 3
    assert plain.baked.few is None


def test_shapes_of_other_points_are_not_used(kept: Avatar) -> None:
    assert Person(kept).baked.few is not None
    assert not any(name.startswith(PREFIX) for name in pruned(kept, 0.05).baked)
    again, _ = reduce.reduced(kept, least_db=150.0)
    assert not any(name.startswith(PREFIX) for name in again.baked)
    Canvas(Person(again))


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("asked", lambda a: a[::-1].copy()),
        ("asked", lambda a: a + 100_000),
        ("steps", lambda a: a[:0]),
        ("shapes", lambda a: a[1:]),
        ("fit", lambda a: a * np.float32(np.nan)),
        ("mean", lambda a: a.astype(np.float64)),
    ],
)
def test_broken_tensors_are_refused(kept: Avatar, name: str, broken: object) -> None:
    assert callable(broken)
    baked = dict(kept.baked)
    baked[PREFIX + name] = broken(np.asarray(baked[PREFIX + name]))
    with pytest.raises(ValueError, match="low-rank motion"):
        Baked.of_arrays(baked, kept.audio)
    del baked[PREFIX + name]
    with pytest.raises(ValueError, match="low-rank motion"):
        Baked.of_arrays(baked, kept.audio)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_an_odd_number_of_numbers_comes_back(count: int) -> None:
    rng = np.random.default_rng(count)
    few = LowRank(
        np.array([0, 4], np.int32),
        rng.normal(size=(count, CHANNELS * 2)).astype(np.float32),
        rng.normal(size=(CHANNELS, 5)).astype(np.float32),
        rng.integers(-999, 999, (count, CHANNELS, 5)).astype(np.int16),
        np.ones((count, CHANNELS), np.float32),
        50.0,
    )
    again = LowRank.of_arrays(few.arrays(), CHANNELS, 5)
    np.testing.assert_array_equal(again.shapes, few.shapes)
    asked = rng.normal(size=(CHANNELS, 2)).astype(np.float32)
    amounts, out = few.amounts(asked), np.empty((CHANNELS, 5), np.float32)
    again.move(amounts, out)
    wanted = few.mean + np.einsum("k,kcn->cn", amounts, few.shapes.astype(np.float64))
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-2)
