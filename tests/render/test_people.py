"""Pre-training from pictures: two tiny people, filmed by our own rasteriser, teach a field that adaptation takes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")
pytest.importorskip("scipy")

from render.avatar import AudioFeature, load_field, save_field  # noqa: E402
from render.motion.networks import PersonalMouthField  # noqa: E402
from render.train import adapt, align, dataset, people, pretrain  # noqa: E402
from render.train.adaptation import Adaptation  # noqa: E402
from render.train.adaptation import Plan as AdaptationPlan  # noqa: E402
from render.train.align import standing  # noqa: E402
from render.train.head import FACE, HAIR, MOUTH  # noqa: E402
from render.train.individual import contrast  # noqa: E402
from render.train.people import Filmed, Plan, Pretraining, feature_of, people_of, windowed  # noqa: E402
from render.train.planes import own_mouth  # noqa: E402
from render.train.smaller import shortened, smaller  # noqa: E402
from server.core.errors import VisavisError  # noqa: E402
from tests.render.clips import SIDE, Person, film  # noqa: E402
from tests.render.people import motion_field  # noqa: E402
from tests.render.test_adapt import Silent  # noqa: E402

SMALL = Plan(iterations=85, side=64, frames=30, face=260, hair=70, eyes=0, mouth=50)


class Kept(Silent):
    """Progress; the losses are kept. It may stop at a step of a stage."""

    def __init__(self, stop: tuple[str, int] = ("", 0)) -> None:
        super().__init__()
        self.stop, self.losses, self.stage, self.pictures = stop, {}, "", 0

    def begin(self, what: str, total: int, done: int) -> None:
        self.stage, self.step = what, done
        self.losses.setdefault(what, [])

    def advance(self, loss: float) -> None:
        assert np.isfinite(loss)
        self.step += 1
        self.losses[self.stage].append(loss)
        if (self.stage, self.step) == self.stop:
            raise KeyboardInterrupt

    def picture(self, step: int, sheet: Any) -> None:
        assert sheet.dtype == np.uint8
        self.pictures += 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two people: the other's colours are turned round, and the mouth opens half as far again."""
    at, who = tmp_path_factory.mktemp("people"), Person.make()
    other = replace(who, colour=who.colour[:, ::-1].copy(), falls=1.5 * who.falls)
    return [film(at / "ann", 30, 6), film(at / "bob", 30, 6, who=other)]


@cache
def given(*folders: Path) -> list[Filmed]:
    return people_of(folders)


def begin(folders: list[Path], work: Path, plan: Plan = SMALL, told: Any = None) -> Pretraining:
    return Pretraining(given(*folders), None, plan, work, told or Kept())


@pytest.fixture(scope="module")
def trained(
    folders: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pretraining, Kept, dict[str, float]]:
    told = Kept()
    run = begin(folders, tmp_path_factory.mktemp("work"), told=told)
    before, _ = run.figures()
    run.run()
    return run, told, before


def test_it_learns_what_both_have_in_common(trained: tuple[Pretraining, Kept, dict[str, float]]) -> None:
    run, told, before = trained
    for stage in ("face", "mouth"):
        losses = told.losses[stage]
        assert len(losses) == 2 * SMALL.iterations
        assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
    after, sheet = run.figures()
    for name in ("ann", "bob"):
        assert after[f"{name}/head_psnr"] > before[f"{name}/head_psnr"] + 5
    summary = run.summary(None)
    assert summary["ann/mouth_over_static_db"] > 0.3
    assert summary["ann/shared_over_static_db"] > 0.2  # the field that all share learned it, not ann's own alone
    assert summary["lpips"] == "absent (no weight file)"
    assert told.pictures >= 8
    assert sheet.shape[2] == 3


def test_alpha_is_learned_from_random_backgrounds(trained: tuple[Pretraining, Kept, dict[str, float]]) -> None:
    run, _, _ = trained
    for person, f in zip(run.people, run.judged, strict=True):
        shot = f.shots[2]
        with torch.no_grad():
            splats = person.drawn_as(person.moved(run.average, shot), shot)
            drawn = person.painter.draw(f.box.camera(person.data, shot.pose), splats)
        assert np.abs(1 - drawn.transmittance.numpy() - f.head[2] / 255).mean() < 0.03


def test_adaptation_starts_from_the_field(
    trained: tuple[Pretraining, Kept, dict[str, float]], folders: list[Path], tmp_path: Path
) -> None:
    run, _, _ = trained
    save_field(run.field("CC0-1.0", "Drawn."), tmp_path / "field.safetensors")
    found = load_field(tmp_path / "field.safetensors")
    assert found.layout == "own"  # nobody has landmarks: nobody knows where its lips are
    for name, tensor in run.average.tensors().items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    about = adapt.About("ann", "Ann", "CC0-1.0", "Drawn.")
    plan = AdaptationPlan(iterations=3, torso_iterations=2, face=200, hair=60, eyes=0, mouth=40, torso=100)
    data = dataset.load(folders[0])
    adapt.adapt(data, tmp_path / "field.safetensors", tmp_path / "ann", about, plan, tmp_path / "w", Silent())
    assert (tmp_path / "ann").is_dir()
    narrow = replace(
        found,
        audio=AudioFeature(name="mel", width=32),
        tensors=motion_field(AudioFeature(name="mel", width=32)).tensors,
    )
    save_field(narrow, tmp_path / "narrow.safetensors")
    with pytest.raises(VisavisError, match="Give the field made for it"):
        adapt.adapt(data, tmp_path / "narrow.safetensors", tmp_path / "no", about, plan, tmp_path / "x", Silent())


def test_a_stopped_training_ends_as_one_that_was_not(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in both stages, at steps that are no round numbers; Gaussians are split on the way."""
    plan = replace(SMALL, iterations=3, face=120, hair=40, mouth=30)
    whole = begin(folders, tmp_path / "a", plan)
    whole.run()
    monkeypatch.setattr(people, "CHECKPOINT_S", 0.0)
    for stop in (("face", 3), ("mouth", 3)):
        with pytest.raises(KeyboardInterrupt):
            begin(folders, tmp_path / "b", plan, Kept(stop)).run()
    monkeypatch.setattr(people, "CHECKPOINT_S", 1e9)
    parts = begin(folders, tmp_path / "b", plan)
    assert (parts.stage, parts.step) == ("mouth", 2)
    parts.run()
    theirs = parts.state()
    assert any("person1.own_adam" in name for name in theirs)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, theirs[name]), name
    again = begin(folders, tmp_path / "b", plan)
    again.run()
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in theirs.items())
    with pytest.raises(VisavisError, match="of another training"):
        begin(folders, tmp_path / "b", replace(plan, seed=1))


# What a step is made of


def test_the_contrast_is_the_formula_and_so_is_its_gradient() -> None:
    """Mean over points of relu(own . other), in centimetres; by own: other / N where the two agree, else nothing."""
    own = torch.tensor([[0.01, 0, 0], [0, -0.02, 0], [0, 0, 0.03]], requires_grad=True)
    others = [
        torch.tensor([[0.02, 0.5, 0], [0, 0.01, 0], [0, 0, 0.01]], requires_grad=True),
        torch.tensor([[-0.01, 0, 0], [0, -0.01, 0], [0.7, 0, -0.01]]),
    ]
    value = contrast(own, others)
    # centimetres: 1*2 and 3*1 of the first, 2*1 of the second; the rest points the other way, or at a right angle
    assert float(value.detach()) == pytest.approx((2 + 3 + 2) / 3)
    value.backward()
    assert own.grad is not None
    cm = 100 * 100 / 3
    wanted = [[0.02 * cm, 0.5 * cm, 0], [0, -0.01 * cm, 0], [0, 0, 0.01 * cm]]
    np.testing.assert_allclose(own.grad.numpy(), np.array(wanted), rtol=1e-5)
    assert others[0].grad is None
    assert float(contrast(own, [])) == 0


def test_the_contrast_keeps_people_s_own_motion_apart(folders: list[Path], tmp_path: Path) -> None:
    """Two own fields that do the same: by the contrast alone, ann's turns away from bob's."""
    run = begin(folders, tmp_path)
    ann, bob = run.people
    rows = torch.full((1, 32), 0.2)
    for person in (ann, bob):
        with torch.no_grad():
            person.face.sigma_net.net[2].weight[:3] = rows
    shot, draw = ann.footage.shots[0], np.random.default_rng(0)
    first = ann.face_contrast([bob], shot, draw)
    assert float(first.detach()) > 0
    for _ in range(30):
        ann.face_contrast([bob], shot, np.random.default_rng(0)).backward()
        ann.own_adam.step(dict.fromkeys(ann.own_adam.tensors, 3e-3))
    assert float(ann.face_contrast([bob], shot, np.random.default_rng(0)).detach()) < 0.1 * float(first.detach())
    assert bob.face.sigma_net.net[2].weight.grad is None


def test_hair_is_drawn_only_where_it_is_looked_at(folders: list[Path], tmp_path: Path) -> None:
    run = begin(folders, tmp_path)
    ann = run.people[0]
    for haired in (False, True):
        parts, rows = ann.face_loss(run.fields, 3, haired, np.random.default_rng(0))
        torch.stack(list(parts.values())).sum().backward()
        gradient = ann.head.tensors["sh"].grad
        assert gradient is not None
        assert bool(gradient[ann.head.span(FACE)].any())
        assert bool(gradient[ann.head.span(HAIR)].any()) == haired
        assert not gradient[ann.head.span(MOUTH)].any()
        assert ("hair" in parts) == haired
        assert len(rows) == len(ann.head) - ann.head.counts[MOUTH] - (0 if haired else ann.head.counts[HAIR])
        for tensor in ann.head.tensors.values():
            tensor.grad = None


def test_a_person_who_never_opens_the_mouth_does_not_hold_up_the_others(folders: list[Path], tmp_path: Path) -> None:
    """InsTaG's search for an open mouth would last for ever. So would that for a blink."""
    run = begin(folders, tmp_path, replace(SMALL, iterations=3))
    run._open[0] = run._open[0][:0]
    run.stage = "mouth"
    run.run()
    assert run.step == 6
    assert run.people[0].adam.steps["xyz"] == 0
    run._open[1] = run._open[1][:0]
    run.step = 0
    run.run()
    assert "nobody opens the mouth" in run.told.said[-1]  # type: ignore[attr-defined]
    draw = np.random.default_rng(0)
    assert 0 <= windowed(np.zeros(4), 0.7, draw) < 4
    assert windowed(np.array([0.0, 1.0, 10.0]), 0.5, draw) == 1
    assert {windowed(np.arange(10.0), 1.0, draw) for _ in range(20)} == {8, 9}


def test_own_mouths_are_the_module_s() -> None:
    torch.manual_seed(0)
    net = PersonalMouthField(AudioFeature(name="mel", width=5))
    for name, tensor in net.named_parameters():
        if "embeddings" in name:
            torch.nn.init.uniform_(tensor, -0.3, 0.3)
    xyz, window = torch.rand(40, 3) * 0.1, torch.randn(8, 5, 1)
    fast, slow = own_mouth(net, xyz, window), net(xyz, window)
    assert (fast.xyz - slow.xyz).abs().max() < 1e-8
    (a,), (b,) = (torch.autograd.grad(v.xyz.square().sum(), net.sigma_net.net[0].weight) for v in (fast, slow))
    assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_a_smaller_dataset_is_the_same_scene(folders: list[Path]) -> None:
    full = dataset.load(folders[0])
    small = smaller(full, SIDE // 2)
    assert (small.width, small.height, small.focal_px) == (SIDE // 2, SIDE // 2, full.focal_px / 2)
    mean = full.picture(3).reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean((1, 3))
    assert np.abs(small.picture(3) - mean).max() <= 1
    assert set(np.unique(small.labels(3))) <= set(np.unique(full.labels(3)))
    depth = small.depth(3)
    assert depth is not None
    assert depth.shape == (SIDE // 2, SIDE // 2)
    assert smaller(full, SIDE) is full
    few = shortened(full, 5).train
    assert [few[0].index, few[-1].index, len(few)] == [full.train[0].index, full.train[-1].index, 5]


def test_unequal_extractors_are_refused(folders: list[Path]) -> None:
    both = given(*folders)
    wide = replace(both[1].heard, feature=AudioFeature(name="mel", width=32))
    with pytest.raises(
        VisavisError, match=r"bob is heard by mel of width 32, ann of 64\. Give one extractor for all\."
    ):
        feature_of([both[0], replace(both[1], heard=wide)], None)
    field = motion_field(AudioFeature(name="mel", width=32))
    with pytest.raises(VisavisError, match="The field to start from listens to mel of width 32"):
        feature_of(both, field)
    assert feature_of(both, motion_field()).width == 64


WRONG: dict[str, tuple[Callable[[list[Path]], list[str]], str]] = {
    "one person": (lambda f: [str(f[0])], "One person was given. Give the folders of 2 to 64."),
    "one twice": (lambda f: [str(f[0]), str(f[0])], "given twice"),
    "nobody there": (lambda f: [str(f[0]), str(f[0].parent / "eve")], "eve is not a folder"),
    "no steps": (lambda f: [*map(str, f), "--iterations", "0"], "--iterations is 0. Give 1 or more."),
    "a negative size": (lambda f: [*map(str, f), "--mouth", "-1"], "--mouth is -1. Give 0 or more."),
    "no such field": (lambda f: [*map(str, f), "--start", str(f[0] / "no.safetensors")], "no.safetensors is missing"),
    "no such weights": (lambda f: [*map(str, f), "--lpips", str(f[0] / "alex.pth")], "alex.pth is not a file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told_in_a_sentence(
    name: str, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = WRONG[name]
    out = ["--out", str(tmp_path / "f.safetensors"), "--work", str(tmp_path / "w"), "--quiet"]
    assert pretrain.main(["pictures", *make(folders), *out]) == 1
    told = capsys.readouterr().err
    assert words in told
    assert told.strip().endswith(".")
    assert not (tmp_path / "f.safetensors").exists()


def test_kinds_of_data_are_told_apart(folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VisavisError, match="train pretrain pictures"):
        pretrain.load_data(folders[0])
    (tmp_path / "clips.npz").touch()
    with pytest.raises(VisavisError, match="train pretrain train"):
        people_of([folders[0], tmp_path])
    monkeypatch.setattr(people, "MOST_BYTES", 1000)
    with pytest.raises(VisavisError, match="Use fewer --frames or a smaller --side"):
        begin(folders, tmp_path)


def test_the_command(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice: the second time there is nothing left to do, and the field is the same."""
    small = ["--iterations", "2", "--side", "64", "--face", "120", "--hair", "30", "--eyes", "0", "--mouth", "30"]
    fields = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.safetensors"
        argv = ["pictures", *map(str, folders), "--out", str(out), "--work", str(tmp_path / "w"), "--quiet", *small]
        assert pretrain.main(argv) == 0
        told = capsys.readouterr().out
        assert "absent (no weight file)" in told
        fields.append(load_field(out).tensors)
    assert all(np.array_equal(tensor, fields[1][name]) for name, tensor in fields[0].items())
    assert list((tmp_path / "w" / "board").iterdir())
    assert (tmp_path / "w" / "summary.json").is_file()


def test_fields_of_both_layouts_are_adapted(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for a field laid out on the mean face is an aligner taught where that face's landmarks are."""
    data = dataset.load(folders[0])
    asked: list[str] = []
    monkeypatch.setattr("render.train.adaptation.standing", lambda: asked.append("places"))
    for layout in ("mean-face", "own"):
        run = Adaptation(
            data,
            given(*folders)[0].heard,
            motion_field().tensors,
            AdaptationPlan(),
            tmp_path,
            Silent(),
            layout,
        )
        moves = type("Moves", (), {"face": staticmethod(lambda xyz, shot: 0 * xyz), "motion": run.universal})
        seen = np.full((46, 51, 2), np.nan, np.float32)
        assert run._laid(moves, seen) is None  # type: ignore[arg-type]
    assert asked == ["places"]


def test_with_landmarks_and_depth_faces_are_laid_over_the_mean_face(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Landmarks on the surface, where the mean face has them or near: the aligners lead the lips to its lips."""
    places = standing()
    assert places is not None
    marked = []
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
        marked.append(tmp_path / folder.name)
        data = dataset.load(marked[-1])
        skin = Person.make()
        skin.xyz = skin.xyz[skin.part == 0]
        near = skin.xyz[((places[:, None] - skin.xyz[None]) ** 2).sum(-1).argmin(1)]
        (marked[-1] / "ori_imgs").mkdir()
        for shot in data.train:
            view = near @ shot.pose[:3, :3].T + shot.pose[:3, 3]
            pixels = view[:, :2] / view[:, 2:] * data.focal_px + data.width / 2
            np.savetxt(marked[-1] / f"ori_imgs/{shot.index}.lms", pixels)
    monkeypatch.setattr(align, "STEPS", 120)
    run = begin(marked, tmp_path / "work")
    assert run.layout == run.field("x", "y").layout == "mean-face"
    for person, filmed in zip(run.people, run.filmed, strict=True):
        rest = run._rest(filmed.data)
        assert rest is not None
        assert person.aligners is not None
        with torch.no_grad():
            led = rest + person.aligners[0](torch.from_numpy(rest)).offset.numpy()
        before, after = (np.linalg.norm(at - places[17:], axis=1)[31:].mean() for at in (rest, led))
        assert after < 0.5 * before
    kept = {name: t.clone() for name, t in run.people[0].aligners[0].state_dict().items()}  # type: ignore[index]
    for _ in range(4):
        run.advance(0.5)
    assert all(torch.equal(kept[n], t) for n, t in run.people[0].aligners[0].state_dict().items())  # type: ignore[index]
    run.save()
    again = begin(marked, tmp_path / "work")
    assert all(torch.equal(t, again.state()[name]) for name, t in run.state().items())
