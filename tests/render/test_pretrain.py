"""The universal field is learnt from displacements: a small made-up data set, resuming, and the figures by hand."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")
pytest.importorskip("tqdm")

from render.avatar import load_field  # noqa: E402
from render.train import pretrain  # noqa: E402
from render.train.pretrain import (  # noqa: E402
    REGIONS,
    DataError,
    Plan,
    Run,
    align,
    closed_share,
    evaluate,
    field_of,
    judge,
    lag_and_correlation,
    load_data,
    summary,
    table,
    train,
    universal_of,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
WIDTH = 4
SHORT = Plan(
    steps=60,
    taught_steps=140,
    listening_steps=80,
    listening_frames=64,
    runs=4,
    run_frames=3,
    aligned_from=0.2,
)
BRIEF = replace(SHORT, steps=4, taught_steps=4, listening_steps=3, runs=2, aligned_from=0.25)


def write(folder: Path, heads: int = 3, truth: bool = True, canon: bool = False) -> Path:
    """Heads whose lower half drops as far as the voice says, and whose lids fall with AU45; the last is held out."""
    draw = np.random.default_rng(0)
    lengths = (60, 45, 70, 50)
    opening = np.concatenate([np.clip(np.sin(np.arange(n) * 0.9 + n) + 0.3, 0, None) for n in lengths])
    blink = np.concatenate([(np.arange(n) % 20 < 3) * 2.0 for n in lengths])
    features = np.stack([opening, opening**2, 1 - opening, draw.normal(0, 0.1, len(opening))], 1)
    units = np.zeros((len(opening), 6))
    units[:, 5] = blink
    folder.mkdir(exist_ok=True)
    np.savez(
        folder / "clips.npz",
        features=features,
        action_units=units,
        starts=np.cumsum([0, *lengths]),
        held_out=np.array([False, False, False, True]),
        **({"truth": opening[:, None]} if truth else {}),
    )
    for k in range(heads):
        judged = k == heads - 1
        region = np.repeat(np.arange(len(REGIONS)), 12).astype(np.uint8)
        rest = draw.uniform(-0.05, 0.05, (len(region), 3))
        rest[:, 1] = np.where(np.isin(region, [REGIONS.index(n) for n in ("lips", "jaw", "teeth")]), -0.05, 0.05)
        upper, lower = np.array([12, 13]), np.array([14, 15])  # of the lips
        rest[upper] = [[-0.01, -0.02, 0.05], [0.01, -0.02, 0.05]]
        rest[lower] = rest[upper] - [0, 0.001, 0]
        basis = np.zeros((2, len(region), 3))
        basis[0, np.isin(region, [REGIONS.index(n) for n in ("lips", "jaw", "teeth")]), 1] = -0.01
        basis[0, upper] = 0
        basis[1, region == REGIONS.index("lids"), 1] = -0.004
        frames = np.arange(175, 225) if judged else np.arange(175)
        np.savez(
            folder / f"head-{k}.npz",
            name=np.array(f"person-{k}"),
            held_out=np.array(judged),
            rest=rest,
            region=region,
            frames=frames,
            basis=basis,
            coefficients=np.stack([opening, blink], 1)[frames],
            upper=upper,
            lower=lower,
            **({"canon": rest * 0.9} if canon else {}),
        )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pretrain") / "data")


def test_windows_end_with_their_clip(folder: Path) -> None:
    clips = load_data(folder).clips
    window = clips.window(np.array([0, 59, 60]))[..., 0]
    assert window.shape == (3, 8, WIDTH)
    assert torch.equal(window[0, :4], torch.zeros(4, WIDTH))
    assert torch.equal(window[0, 4], clips.features[0, :, 0])
    assert torch.equal(window[1, 5:], torch.zeros(3, WIDTH))
    assert torch.equal(window[2, 4], clips.features[60, :, 0])
    assert torch.equal(window[2, :4], torch.zeros(4, WIDTH))


@pytest.fixture(scope="module")
def taught(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[float]]:
    """All three stages; and the losses."""
    losses: list[float] = []
    work = tmp_path_factory.mktemp("taught")
    run = train(load_data(folder), SHORT, work, report=lambda step, parts: losses.append(parts.get("loss", np.inf)))
    return run, losses


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[float]]:
    """The last stage alone, where the data set does not know why a face moves."""
    losses: list[float] = []
    work = tmp_path_factory.mktemp("untaught")
    data = load_data(write(work / "data", truth=False))
    plan = replace(SHORT, steps=150)
    return train(data, plan, work, report=lambda step, parts: losses.append(parts.get("loss", np.inf))), losses


@pytest.mark.parametrize("how", ["taught", "untaught"])
def test_learns(how: str, request: pytest.FixtureRequest) -> None:
    """Far better than a face that keeps its mean, on a head and clips that it never met."""
    run, losses = request.getfixturevalue(how)
    data = run.data
    assert run.step == run.steps == (200 if how == "taught" else 150)
    assert losses[-1] < 0.6 * losses[0]
    score = judge(run.averaged(), None, data.judged[0], data.clips)
    assert score.error_mm["jaw"] < 0.5 * score.static_mm["jaw"]
    assert score.error_mm["teeth"] < 0.7 * score.static_mm["teeth"]
    # This head's still points lie among its lids, at places that no head in training had.
    assert score.error_mm["still"] < 0.1 * score.static_mm["jaw"]
    assert score.aperture_r > 0.9
    assert abs(score.aperture_lag_ms) < 20


def test_aligning_helps_a_head_of_another_size(taught: tuple[Run, list[float]], folder: Path) -> None:
    data, fields = load_data(folder), taught[0].averaged()
    head = data.judged[0]
    vars(head)["rest"] = head.rest * 1.15
    before = judge(fields, None, head, data.clips)
    weights = fields.state_dict()
    kept = {name: value.clone() for name, value in weights.items()}
    after = judge(fields, align(fields, head, data.clips, SHORT, steps=60), head, data.clips)
    assert sum(after.error_mm.values()) < sum(before.error_mm.values())
    assert all(torch.equal(kept[name], value) for name, value in weights.items())


def test_resumed_is_uninterrupted(folder: Path, tmp_path: Path) -> None:
    plan = BRIEF
    data = load_data(folder)
    whole = train(data, plan, tmp_path / "whole")
    for until in (2, 4, 6):
        train(data, plan, tmp_path / "parts", until=until)
    parts = train(data, plan, tmp_path / "parts")
    assert parts.step == whole.step == 8
    assert all(torch.equal(value, parts.average[name]) for name, value in whole.average.items())
    for name, (personal, _) in whole.people.items():
        theirs = parts.people[name][0].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in personal.state_dict().items())
    with pytest.raises(DataError, match="other settings"):
        train(data, replace(plan, steps=9), tmp_path / "parts")


def test_taught_once_for_other_features(folder: Path, tmp_path: Path) -> None:
    """What the teacher has taught serves again when the voice is heard by another encoder."""
    train(load_data(folder), BRIEF, tmp_path / "first")
    other = write(tmp_path / "other")
    with np.load(other / "clips.npz") as file:
        clips = dict(file)
    clips["features"] = clips["features"][:, ::-1]
    np.savez(other / "clips.npz", **clips)
    (tmp_path / "second").mkdir()
    shutil.copy(tmp_path / "first" / pretrain.TAUGHT, tmp_path / "second")
    steps: list[int] = []
    second = train(load_data(other), BRIEF, tmp_path / "second", report=lambda step, parts: steps.append(step))
    assert steps[0] > BRIEF.taught_steps
    whole = train(load_data(other), BRIEF, tmp_path / "whole")
    assert all(torch.equal(value, second.average[name]) for name, value in whole.average.items())


def test_fields_are_laid_out_on_the_face_that_stands_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a data set knows the true places, no head has aligners, and those places are where the field is right."""
    monkeypatch.setattr(pretrain, "ALIGNMENT_STEPS", 3)
    data = load_data(write(tmp_path / "data", canon=True))
    run = train(data, replace(SHORT, taught_steps=90, steps=20), tmp_path)
    assert not run.people
    results = evaluate(run.averaged(), data, SHORT)
    assert results["placed"][0].error_mm["jaw"] < results["placed"][0].static_mm["jaw"] * 0.5
    assert results["placed"][0].error_mm["jaw"] != results["alone"][0].error_mm["jaw"]


def test_another_seed_is_another_field(folder: Path, tmp_path: Path) -> None:
    data = load_data(folder)
    runs = [train(data, replace(BRIEF, steps=2, seed=seed), tmp_path / str(k)) for k, seed in enumerate((1, 1, 2))]
    first, same, other = (run.average["face.sigma_net.net.0.weight"] for run in runs)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_field_passes_through_its_file(folder: Path, tmp_path: Path) -> None:
    """And asks for no rotation, opacity or scale: there is no truth for those."""
    from render.avatar import save_field

    data = load_data(folder)
    fields = train(data, replace(BRIEF, steps=3), tmp_path).averaged()
    save_field(field_of(fields, "a test"), tmp_path / "field.safetensors")
    again = universal_of(load_field(tmp_path / "field.safetensors"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in fields.state_dict().items())
    window, units = data.clips.window(np.array([9])), data.clips.action_units[[9]]
    out = again.face(data.heads[0].rest, window, units)
    assert out.xyz.abs().max() > 0
    assert not any(part.any() for part in (out.rotation, out.opacity, out.scale))


def test_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "ALIGNMENT_STEPS", 3)
    monkeypatch.setattr(pretrain, "BLINKS", -math.inf)  # six steps teach nobody to blink

    out = tmp_path / "field.safetensors"
    short = ["--taught", "2", "--listening", "2", "--steps", "2"]
    common = ["--threads", "1"]
    assert pretrain.main(["train", str(folder), "--out", str(out), "--work", str(tmp_path), *short, *common]) == 0
    trained = capsys.readouterr().out.splitlines()
    assert pretrain.main(["evaluate", str(folder), str(out), *common]) == 0
    judged = capsys.readouterr().out.splitlines()
    assert trained[-2:] == judged[-2:]
    assert "universal.aligned.lips.error_mm" in json.loads(judged[-1])
    assert pretrain.main(["evaluate", str(tmp_path), str(out)]) == 1
    assert "displacements.py" in capsys.readouterr().err


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    with np.load(folder / "head-1.npz") as file:
        head = dict(file)
    np.savez(folder / "head-1.npz", **{**head, "frames": head["frames"] + 200})
    with pytest.raises(DataError, match=r"head-1\.npz does not fit"):
        load_data(folder)
    np.savez(folder / "head-1.npz", **head)
    with np.load(folder / "clips.npz") as file:
        clips = dict(file)
    clips["features"][3, 0] = np.nan
    np.savez(folder / "clips.npz", **clips)
    with pytest.raises(DataError, match="not finite"):
        load_data(folder)


def put_eyes_out(fields: pretrain.Universal) -> None:
    """Every attention to action units below its ReLU, wherever a point lies: what no gradient passes."""
    with torch.no_grad():
        last = list(fields.face.eye_att_net.parameters())[-1]
        last.fill_(-0.05)


def live(fields: pretrain.Universal, data: pretrain.Data) -> float:
    """The share of the lids' points that attend to AU45."""
    head = data.learnt[0]
    at = head.rest[torch.from_numpy(head.of_region[REGIONS.index("lids")])]
    with torch.no_grad():
        return float((fields.face.eye_att_net(fields.face.encode(at))[:, 5] > 0).float().mean())


def test_dead_eyes_wake(folder: Path, tmp_path: Path) -> None:
    """Without the weight on being awake they stay shut for ever; with it they open."""
    data = load_data(folder)
    shares = {}
    for weight in (0.0, 1.0):
        plan = replace(SHORT, steps=100, runs=2, together_runs=2, together=1.0, awake=weight)
        fields = pretrain.Universal(pretrain.AudioFeature(name="mel", width=WIDTH))
        put_eyes_out(fields)
        assert live(fields, data) == 0
        shares[weight] = live(train(data, plan, tmp_path / str(weight), start=fields).fields, data)
    assert shares[0.0] == 0
    assert shares[1.0] > 0.5


def test_a_field_that_does_not_blink_is_refused(folder: Path) -> None:
    data = load_data(folder)
    torch.manual_seed(0)
    fields = pretrain.Universal(pretrain.AudioFeature(name="mel", width=WIDTH))
    put_eyes_out(fields)
    with pytest.raises(DataError, match="of a blink"):
        pretrain.refuse_dead_eyes(fields, data)


def test_blinking_is_the_part_of_the_true_motion(folder: Path) -> None:
    data = load_data(folder)
    head = data.learnt[0]
    rows = np.arange(40)
    truth = head.displacement(rows, np.arange(len(head.rest)))
    assert pretrain.blinking(truth * 0.25, truth, head, data.clips, rows) == pytest.approx(0.25)
    elsewhere = truth.clone()
    elsewhere[:, torch.from_numpy(head.of_region[REGIONS.index("lids")])] = 0
    assert pretrain.blinking(elsewhere, truth, head, data.clips, rows) == 0
    assert pretrain.blinking(truth, truth, head, data.clips, np.array([5])) == 1  # nobody blinks


def test_the_shipped_field_is_whole() -> None:
    """It loads, it hears what our encoder says, and at the lids it attends to blinks."""
    models = Path(pretrain.__file__).parents[1] / "models"
    motion = load_field(models / "universal.safetensors")
    assert (motion.audio.name, motion.audio.width) == ("mel", 64)
    fields = universal_of(motion)
    from safetensors.numpy import load_file

    marks = torch.from_numpy(load_file(models / "landmarks.safetensors")["places"])
    upper_lids = marks[[38, 43]]  # in the middle; the outer two hardly move, in the truth either
    units = torch.zeros(2, 6)
    units[1, 5] = 2
    with torch.no_grad():
        open_, shut = fields.face(upper_lids, torch.zeros(2, 8, 64, 1), units).xyz[..., 1] * 1000
    assert float((shut - open_).mean()) < -3


def test_lag_and_correlation() -> None:
    t = np.arange(200)
    true = np.sin(t / 5).astype(np.float32)
    clip = np.zeros(200, np.int64)
    lag, r = lag_and_correlation(true, true, clip)
    assert (round(lag, 6), round(r, 6)) == (0, 1)
    late = np.sin((t - 2) / 5).astype(np.float32)
    lag, r = lag_and_correlation(late, true, clip)
    assert lag == pytest.approx(80, abs=1)
    assert r == pytest.approx(math.cos(0.4), abs=0.02)
    early = np.sin((t + 1.5) / 5).astype(np.float32)
    assert lag_and_correlation(early, true, clip)[0] == pytest.approx(-60, abs=3)
    assert lag_and_correlation(-true, true, clip)[1] == pytest.approx(-1)


def test_closed_share() -> None:
    """Limit 0.15 of the median of 10: 1.5. Three closures; one is met, one a frame late, one missed."""
    true = np.array([10, 10, 0, 10, 10, 1, 1, 10, 10, 10, 0, 10, 10, 10], np.float32)
    own = np.array([10, 10, 1, 10, 10, 9, 9, 1, 10, 10, 2, 10, 1, 10], np.float32)
    assert closed_share(own, true, np.zeros(14, np.int64)) == (pytest.approx(2 / 3), 3)
    clip = np.array([0] * 7 + [1] * 7)  # the late one lies in another clip
    assert closed_share(own, true, clip) == (pytest.approx(1 / 3), 3)
    assert closed_share(own, np.full(14, 9, np.float32), clip) == (1.0, 0)


def test_summary_pools_closures() -> None:
    scores = [
        pretrain.Score("a", {"lips": 1.0}, {"lips": 2.0}, 0.8, 10.0, 1.0, 30, 0.9, 0.0),
        pretrain.Score("mia", {"lips": 3.0}, {"lips": 4.0}, 0.6, -10.0, 0.5, 10, 0.7, 0.02),
    ]
    figures = summary(scores)
    assert figures["lips.error_mm"] == 2
    assert figures["closure"] == 0.875
    assert figures["blink"] == pytest.approx(0.8)
    assert figures["aperture_lag_ms"] == 0
    assert "mia, alone: lips 3.000 of 4.000 mm" in table({"alone": scores})


# --- the generator, where it is at hand ---


UNCLOSED = pytest.mark.filterwarnings(  # the generator leaves files to be closed by the collector
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> object:
    pytest.importorskip("scipy")
    pytest.importorskip("PIL")
    if not (SHARED / "prototypes" / "heads").is_dir():
        pytest.skip("the generator of synthetic people is not beside the checkout")
    monkeypatch.setenv("VISAVIS_GENERATOR", str(SHARED / "prototypes" / "heads"))
    monkeypatch.setenv("VISAVIS_MAKEHUMAN", str(SHARED / "data" / "makehuman"))
    from recipes.universal import generator

    return generator


@UNCLOSED
def test_landmarks_are_those_of_the_pictures(generator: object) -> None:
    """Against what was stored with Mia's rendered clip, the head's pose taken out.

    In the middle of a blink two landmarks of the upper lids differ by 0.3 mm: those frames are left out.
    """
    meta = json.loads((SHARED / "data" / "people" / "mia" / "meta.json").read_text())
    frames = [frame for frame in meta["frames"][::40] if frame["ctrl"]["blinkL"] < 0.5]
    controls = {k: np.array([f["ctrl"][k] for f in frames], np.float32) for k in frames[0]["ctrl"]}
    ours = generator.landmarks("mia", controls).astype(np.float64)  # type: ignore[attr-defined]
    face = np.arange(17, 68)
    for points, frame in zip(ours[:, face], frames, strict=True):
        theirs = np.array(frame["lms3d"])[face] / 10
        a, b = points - points.mean(0), theirs - theirs.mean(0)
        u, _, vt = np.linalg.svd(a.T @ b)
        turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
        assert np.abs(a @ turn.T - b).max() < 5e-5
    assert ours.shape == (len(frames), 68, 3)


@UNCLOSED
def test_lips_close_in_the_generator(generator: object) -> None:
    controls = {"jaw": np.array([0.0, 0.4, 0.0]), "press": np.array([0.0, 0.0, 0.38])}
    rest, open_, pressed = generator.aperture("leo", controls) * 1000  # type: ignore[attr-defined]
    assert abs(rest) < 0.6
    assert open_ > 4
    assert pressed < rest


@UNCLOSED
def test_points_of_a_random_head(generator: object) -> None:
    """The quick way of moving points is the generator's own way of moving the whole mesh."""
    g = generator
    person = g.head(g.random_identity(3))  # type: ignore[attr-defined]
    cloud = g.cloud(person, 0)  # type: ignore[attr-defined]
    controls = {"jaw": np.array([0.3]), "blinkL": np.array([0.9]), "smile": np.array([0.3])}
    moved = cloud.displacement(controls)[0]
    base = g._base()  # type: ignore[attr-defined]
    person.generated.lidids = person.lids
    whole = person.generated.evalbase({name: float(curve[0]) for name, curve in controls.items()})
    mesh = base.subdivide @ whole[base.used]
    face = (cloud.vertices >= 0) & ~cloud.lash & (cloud.region < g.FACE_REGIONS)  # type: ignore[attr-defined]
    expected = mesh[cloud.vertices[face]] / 10
    np.testing.assert_allclose(cloud.rest[face] + moved[face], expected, atol=2e-6)
    assert not moved[cloud.region == g.REGIONS.index("fixed")].any()  # type: ignore[attr-defined]
    assert np.abs(cloud.rest).max() < 0.3
    assert g.REGIONS == REGIONS  # type: ignore[attr-defined]
