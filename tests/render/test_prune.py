"""What hardly anybody sees is dropped, and nobody sees the difference."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba paints the InsTaG face; it comes with the instag extra")
pytest.importorskip("torch", reason="training takes torch")

from render.avatar import Gaussians, load, save
from render.motion.bake import bake
from render.person import Canvas, Expression, Person
from render.raster.gaussians import SH_C0
from render.train.prune import main, pruned, tinted
from tests.render import procedural
from tests.render.procedural import FIELDS


def test_what_is_hidden_goes_and_the_picture_stays(tmp_path: Path) -> None:
    avatar = procedural.person(faces=600, side=64)
    inside = Gaussians(*(np.concatenate([getattr(avatar.face, f), getattr(avatar.face, f)[:200]]) for f in FIELDS))
    inside.xyz[-200:] = procedural.MIDDLE + 0.2 * (inside.xyz[-200:] - procedural.MIDDLE)  # deep in the head
    assert avatar.eyeballs is not None
    assert avatar.torso is not None
    index = np.concatenate([avatar.eyeballs.index, np.zeros(200, np.uint8)])
    full = dataclasses.replace(avatar, face=inside, eyeballs=dataclasses.replace(avatar.eyeballs, index=index))
    full = dataclasses.replace(full, baked=bake(full.motion, full.audio, inside.xyz, full.mouth.xyz).arrays())
    save(full, tmp_path / "test")
    assert main([str(tmp_path / "test"), "--least", "0.01"]) == 0
    kept = load(tmp_path / "test")
    assert len(kept.face) <= len(full.face) - 150
    assert kept.eyeballs is not None
    assert (np.bincount(kept.eyeballs.index, minlength=3)[1:] > 20).all()
    people = [Person(a) for a in (full, kept)]
    codes = np.repeat(people[0].rest_code[None], 8, 0)
    e = Expression(people[0].rest_pose, full.idle.action_units[0], (0.1, 0.0))
    a, b = (Canvas(p).planes(codes, e).colour.copy() for p in people)
    assert -10 * np.log10(np.mean((a - b) ** 2)) > 40
    assert len(pruned(kept, 0.3).face) < len(kept.face)


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_a_colour_that_nobody_around_has_goes() -> None:
    face = procedural.person(faces=600, side=64).face
    sh = np.zeros_like(face.sh)
    sh[:, 0, 0] = 0.4 / SH_C0  # red hair
    sh[7, 0] = np.array([-0.4, -0.4, 0.3]) / SH_C0
    sh[9, 0] = np.array([-0.4, -0.4, -0.4]) / SH_C0  # black: darker, and hardly bluer
    sh[11, 0] = sh[7, 0]
    which = np.ones(len(sh), bool)
    which[11] = False  # an eye may be blue
    after = tinted(dataclasses.replace(face, sh=sh), which).sh
    assert after[7, 0] == pytest.approx(sh[0, 0])
    assert np.array_equal(after[11], sh[11])
    assert np.array_equal(np.delete(after, [7, 9], 0), np.delete(sh, [7, 9], 0))
