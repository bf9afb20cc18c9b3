"""Adapting: a tiny person, filmed by our own rasteriser, is learned in seconds, resumed after a stop, saved whole."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")
pytest.importorskip("scipy")

from safetensors.numpy import load_file  # noqa: E402

from render.avatar import MotionField, load, load_field, save_field  # noqa: E402
from render.features import MODEL  # noqa: E402
from render.motion import voice  # noqa: E402
from render.motion.networks import Aligner, hook  # noqa: E402
from render.person import Canvas, Expression, Person  # noqa: E402
from render.train import adapt, adaptation, checkpoint, dataset  # noqa: E402
from render.train.adam import Adam  # noqa: E402
from render.train.adaptation import Adaptation, Plan, hear  # noqa: E402
from render.train.align import ThinPlate, standing, teach  # noqa: E402
from render.train.judge import Judge, behind, perceived, psnr  # noqa: E402
from render.train.loss import pixels, plain, scales, sharpness  # noqa: E402
from render.train.lpips import Lpips  # noqa: E402
from render.train.planes import fast_face, fast_mouth  # noqa: E402
from render.train.trainer import Trainer  # noqa: E402
from server.core.errors import VisavisError  # noqa: E402
from tests.render.clips import MOUTH, OPEN_M, film, loudness  # noqa: E402
from tests.render.clips import Person as Somebody  # noqa: E402
from tests.render.people import motion_field  # noqa: E402
from tests.render.test_lpips import weights  # noqa: E402

SMALL = Plan(iterations=220, torso_iterations=150, face=420, hair=140, eyes=10, mouth=90, torso=260)


class Silent:
    """Progress that goes nowhere; may stop the training at a step."""

    def __init__(self, stop_at: int = -1) -> None:
        self.stop_at, self.step, self.said = stop_at, 0, []

    def begin(self, what: str, total: int, done: int) -> None:
        self.step = done if what == "head" else -(10**9)

    def advance(self, loss: float) -> None:
        assert np.isfinite(loss)
        self.step += 1
        if self.step == self.stop_at:
            raise KeyboardInterrupt

    def scalars(self, step: int, figures: Any) -> None: ...

    def picture(self, step: int, sheet: Any) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("clips") / "tiny")


def begin(folder: Path, work: Path, plan: Plan = SMALL, told: Any = None) -> Adaptation:
    data = dataset.load(folder)
    return Adaptation(data, hear(data, load_file(MODEL)), None, plan, work, told or Silent())


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A universal field that knows somebody else, who opens her mouth half as wide at the same voice."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("fields")
    data = dataset.load(film(path / "her", depth=False))
    heard = hear(data, load_file(MODEL))
    motion = adaptation.universal(None, heard.feature, "cpu")
    nobody = torch.zeros(len(heard.features), 6)
    windows = adaptation.windows(torch.from_numpy(heard.features))
    her, loud = Somebody.make(), torch.from_numpy(loudness(len(heard.features)))
    face, mouth = (torch.from_numpy(her.part == p) for p in (0, MOUTH))
    xyz, falls = torch.from_numpy(her.xyz), torch.from_numpy(her.falls)
    net = Adam(dict(motion.named_parameters()), epsilon=1e-10)
    rng = np.random.default_rng(0)
    for step in range(250):
        k = rng.integers(0, len(windows), 8)
        y = -OPEN_M / 2 * loud[k][:, None] * falls
        moved = fast_face(motion.face, xyz[face], windows[k], nobody[k])
        inside = fast_mouth(motion.mouth, xyz[mouth], windows[k], hook(moved.xyz)).xyz
        off = (moved.xyz[..., 1] - y[:, face]).square().mean() + (inside[..., 1] - y[:, mouth]).square().mean()
        off = off + moved.xyz[..., ::2].square().mean() + inside[..., ::2].square().mean()
        (1e6 * off + moved.rotation.square().mean() + moved.scale.square().mean()).backward()
        net.step(dict.fromkeys(net.tensors, 5e-3 * 0.1 ** (step / 250)))
    fields = {n: t for n, t in motion.tensors().items() if "aligner" not in n}
    save_field(MotionField("CC0-1.0", "Drawn.", heard.feature, fields), path / "field.safetensors")
    return path / "field.safetensors"


@pytest.fixture(scope="module")
def trained(
    clip: Path, taught: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Trainer, Judge, dict[str, Any]]:
    """A whole run by the command's own function."""
    work, out = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("avatars") / "tiny"
    kept: dict[str, Any] = {}
    summarise = adapt.summarise

    def keep(trainer: Trainer, judge: Judge, plan: Plan, lpips: Any) -> dict[str, Any]:
        kept.update(trainer=trainer, judge=judge)
        return summarise(trainer, judge, plan, lpips)

    adapt.summarise = keep
    try:
        about = adapt.About("tiny", "Tiny", "CC0-1.0", "Drawn.")
        summary = adapt.adapt(dataset.load(clip), taught, out, about, SMALL, work, Silent())
    finally:
        adapt.summarise = summarise
    return out, kept["trainer"], kept["judge"], summary


def test_it_learns_far_more_than_a_face_that_stands_still(trained: Any) -> None:
    _, trainer, judge, summary = trained
    mean = trainer.footage.rgb.mean(0) / 255
    f = judge.footage
    still = np.mean(
        [psnr(np.asarray(mean)[:, f.head[k] > 127], f.rgb[k][:, f.head[k] > 127] / 255) for k in range(len(f))]
    )
    assert summary["head_psnr"] > still + 6
    assert 0.5 < summary["head_ms_ssim"] < 1
    assert 0.3 < summary["mouth_gms"] < 1
    assert summary["mouth_over_static_db"] > 1
    assert summary["lpips"] == "absent (no weight file)"
    assert summary["moving"] > 0


def test_alpha_is_learned_from_random_backgrounds(trained: Any) -> None:
    _, trainer, judge, _ = trained
    f, off = judge.footage, []
    for k, shot in enumerate(f.shots):
        with torch.no_grad():
            drawn = trainer.painter.draw(f.box.camera(trainer.data, shot.pose), trainer.posed(shot).splats)
        alpha = 1 - drawn.transmittance.numpy() * judge.behind[k][3].astype(np.float32)
        off.append(np.abs(alpha - f.person[k] / 255).mean())
    assert np.mean(off) < 0.02


def test_calls_show_what_was_trained(trained: Any) -> None:
    out, trainer, judge, _ = trained
    avatar = load(out)
    assert avatar.torso is not None
    assert avatar.eyeballs is None
    assert avatar.idle.poses.shape[0] > 10
    person = Person(avatar)
    codes = voice.windows(person.baked.codes(hear(trainer.data, load_file(MODEL)).features), person.baked.silence)
    canvas = Canvas(person)
    shot = judge.footage.shots[3]
    planes = canvas.planes(np.ascontiguousarray(codes[shot.index]), Expression(shot.pose, shot.action_units))
    whole = np.concatenate([planes.colour, planes.transmittance[None]])
    with torch.no_grad():
        box = judge.footage.box
        drawn = trainer.painter.draw(box.camera(trainer.data, shot.pose), trainer.posed(shot).splats)
    torso = judge.behind[3].astype(np.float32)
    made = np.concatenate(
        [
            drawn.colour.numpy() + drawn.transmittance.numpy() * torso[:3],
            (drawn.transmittance.numpy() * torso[3])[None],
        ]
    )
    shown = whole[:, box.top : box.top + box.height, box.left : box.left + box.width]
    assert psnr(shown, made) > 45


def test_a_stopped_training_goes_on_as_if_it_had_not(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(SMALL, iterations=24, torso_iterations=20)
    one, _ = begin(clip, tmp_path / "a", plan).head(None)
    monkeypatch.setattr(adaptation, "CHECKPOINT_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        begin(clip, tmp_path / "b", plan, Silent(stop_at=15)).head(None)
    kept = checkpoint.read(tmp_path / "b" / "head.safetensors", begin(clip, tmp_path / "b", plan).fingerprint())
    assert kept is not None
    assert kept.notes["step"] == 14
    monkeypatch.setattr(adaptation, "CHECKPOINT_S", 1e9)
    other, _ = begin(clip, tmp_path / "b", plan).head(None)
    assert one.head.counts == other.head.counts
    for name, tensor in one.state().items():
        np.testing.assert_allclose(
            tensor.detach().numpy(), other.state()[name].detach().numpy(), 1e-4, 1e-6, err_msg=name
        )


def test_the_torso_is_kept_between_runs(clip: Path, tmp_path: Path) -> None:
    plan = replace(SMALL, torso_iterations=5)
    first, again = (
        begin(clip, tmp_path, plan).torso(),
        begin(clip, tmp_path, replace(plan, torso_iterations=999)).torso(),
    )
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first.finish().basis, again.finish().basis)
    assert first.finish().basis[:, 1, 8].min() < -1e-3  # shoulders rise with the breath


def test_a_clip_without_depth_starts_from_its_masks(tmp_path: Path) -> None:
    folder = film(tmp_path / "flat", depth=False)
    trainer, judge = begin(folder, tmp_path / "work", replace(SMALL, iterations=110)).head(None)
    assert trainer.head.counts[0] > 50
    before = begin(folder, tmp_path / "other", replace(SMALL, iterations=1)).head(None)
    assert judge.look(trainer).figures["head_psnr"] > before[1].look(before[0]).figures["head_psnr"] + 5


def test_another_training_s_checkpoint_is_refused(clip: Path, tmp_path: Path) -> None:
    begin(clip, tmp_path, replace(SMALL, torso_iterations=2)).torso()
    with pytest.raises(VisavisError, match="of another training"):
        begin(clip, tmp_path, replace(SMALL, seed=1)).torso()
    (tmp_path / "torso.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(VisavisError, match="is damaged"):
        begin(clip, tmp_path).torso()


def of_another_width(path: Path) -> list[str]:
    from render.avatar import AudioFeature

    save_field(motion_field(AudioFeature(name="mel", width=32)), path / "field.safetensors")
    return ["--field", str(path / "field.safetensors")]


WRONG: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no field": (lambda p: ["--field", str(p / "none.safetensors")], "none.safetensors is missing"),
    "a field of another encoder": (of_another_width, "Give the field made for it."),
    "no data": (lambda p: ["--data", str(p / "nobody")], "is not a folder"),
    "a second that is empty": (lambda p: ["--seconds", "0"], "frames for training"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told_in_a_sentence(
    name: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = WRONG[name]
    argv = ["--data", str(clip), "--out", str(tmp_path / "a"), "--quiet", *make(tmp_path)]
    assert adapt.main(argv) == 1
    told = capsys.readouterr().err
    assert words in told
    assert told.strip().endswith(".")
    assert not (tmp_path / "a").exists()


def test_a_thin_plate_leads_landmarks_where_they_stand_and_the_aligner_learns_it() -> None:
    rng = np.random.default_rng(4)
    rest = rng.uniform(-0.06, 0.06, (51, 3)).astype(np.float32)
    places = (rest * 0.97 + (0.001, -0.004, 0.002) + 0.0005 * np.sin(40 * rest)).astype(np.float32)
    plate = ThinPlate(rest, places)
    assert np.abs(rest + plate(rest) - places).max() < 2e-4
    between = rng.uniform(-0.05, 0.05, (300, 3)).astype(np.float32)
    true = between * -0.03 + (0.001, -0.004, 0.002) + 0.0005 * np.sin(40 * between)
    assert np.abs(plate(between) - true).mean() < 2e-4
    assert np.linalg.norm(plate(between * 50), axis=1).max() < 0.0121
    aligner = Aligner(32)
    assert teach(aligner, between, plate(between), "cpu") < 0.4
    with torch.no_grad():
        placed = aligner(torch.from_numpy(between))
    assert np.abs(placed.offset.numpy() - plate(between)).mean() < 3e-4
    assert (placed.scale - 1).abs().mean() < 0.05


def test_where_landmarks_stand_is_known_for_the_shipped_field(tmp_path: Path) -> None:
    places = standing()
    assert places is not None
    assert places.shape == (68, 3)
    assert abs(float(places[36:48, 1].mean())) < 0.005  # the origin is between the eyes
    assert places[62, 1] < -0.05
    assert standing(tmp_path / "none") is None


def test_the_universal_field_is_rehearsed(clip: Path, tmp_path: Path) -> None:
    """Held to what it was at other voices, the field stays near it; the aligner may go where it likes."""
    save_field(motion_field(), tmp_path / "field.safetensors")
    field = load_field(tmp_path / "field.safetensors").tensors
    data = dataset.load(clip)
    run = Adaptation(data, hear(data, load_file(MODEL)), field, SMALL, tmp_path, Silent())
    trainer = run._trainer(None)
    trainer.behind = behind(trainer, None, trainer.footage)
    assert trainer.rehearsal is not None
    places = trainer._places()
    assert (
        float(trainer.rehearsal.loss(trainer.head.motion, *places).detach()) < 1e-4
    )  # its own noise among calm points
    with torch.no_grad():
        trainer.head.motion.face.sigma_net.net[2].weight.mul_(30)  # a field that hardly moves moves a lot
    strayed = float(trainer.rehearsal.loss(trainer.head.motion, *places).detach())
    assert strayed > 1e-3
    net = Adam(dict(trainer.head.motion.face.named_parameters()))
    for _ in range(40):
        trainer.rehearsal.loss(trainer.head.motion, *places).backward()
        net.step(dict.fromkeys(net.tensors, 2e-3))
    assert float(trainer.rehearsal.loss(trainer.head.motion, *places).detach()) < strayed / 3


def test_lpips_is_learned_and_reported_where_its_weights_are(clip: Path, tmp_path: Path) -> None:
    """Late in the training, and of head and mouth on held-out frames; without weights there is no word of it."""
    torch.save({name: torch.from_numpy(a) for name, a in weights("alex").items()}, tmp_path / "alex.pth")
    run = begin(clip, tmp_path)
    trainer = run._trainer(None)
    trainer.behind = behind(trainer, None, trainer.footage)
    judge = Judge(trainer, None, frames=5)
    assert "lpips" not in trainer.step(0.9)
    assert not any("lpips" in name for name in judge.look(trainer).figures)
    run.lpips = Lpips.of_files([tmp_path / "alex.pth"])
    other = run._trainer(None)
    other.behind = trainer.behind
    assert "lpips" not in other.step(0.1)
    assert other.step(0.9)["lpips"] > 0
    figures = judge.look(other, lpips=run.lpips).figures
    assert figures["head_lpips"] > 0
    assert figures["mouth_lpips"] > 0
    picture = np.random.default_rng(0).random((3, 50, 60)).astype(np.float32)
    mask = np.zeros((50, 60), bool)
    mask[10:20, 10:20] = True
    elsewhere = np.where(mask, picture, 0)
    assert perceived(run.lpips, elsewhere, picture, mask, other.device) == 0


# What a step is made of


@pytest.mark.parametrize("size", [(48, 64), (31, 40)])
def test_the_loss_and_its_gradient_are_those_of_plain_torch(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, y, weight = torch.rand(3, *size, requires_grad=True), torch.rand(3, *size), torch.rand(size)
    weight[5:9] = 0
    fast, slow = pixels(x, y, weight), plain(x, y, weight)
    assert float(fast.detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    (a,), (b,) = (torch.autograd.grad(value, x) for value in (fast, slow))
    assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_blurring_costs_scale_and_edge_losses() -> None:
    rng = torch.Generator().manual_seed(1)
    y = torch.rand(3, 96, 96, generator=rng)
    weight = torch.ones(96, 96)
    blurred = torch.nn.functional.avg_pool2d(y, 3, 1, 1)
    assert float(sharpness(y, y, weight)) == 0
    assert float(scales(y, y, weight)) == pytest.approx(0, abs=1e-5)
    assert float(sharpness(blurred, y, weight)) > 0.1
    assert float(scales(blurred, y, weight)) > 0.05


def test_adam_is_torch_s(tmp_path: Path) -> None:
    torch.manual_seed(2)
    ours = torch.randn(50, 3, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    own, other = Adam({"a": ours}, epsilon=1e-8), torch.optim.Adam([theirs], 0.01, (0.9, 0.99), eps=1e-8)
    for _ in range(20):
        for x in (ours, theirs):
            x.grad = None
            ((x - 1) ** 4).sum().backward()
        own.step({"a": 0.01})
        other.step()
    assert (ours - theirs).abs().max() < 1e-5
    checkpoint.write(tmp_path / "a.safetensors", "x", own.state(), {})
    found = checkpoint.read(tmp_path / "a.safetensors", "x")
    assert found is not None
    again = Adam({"a": ours})
    again.restore(found.tensors)
    assert again.steps == {"a": 20}
    assert torch.equal(again.second["a"], own.second["a"])
