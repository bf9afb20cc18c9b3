"""What is left of the nets per frame equals the plain path, without torch."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch", reason="the plain path is the judge, and it is torch's")
pytest.importorskip("numba", reason="the kernel is numba's")

from render.avatar import Extractor, load, save  # noqa: E402
from render.motion import kernel, voice  # noqa: E402
from render.motion.audio import windows  # noqa: E402
from render.motion.bake import bake, encode  # noqa: E402
from render.motion.baked import Baked, Deformation, settle  # noqa: E402
from render.motion.networks import HeadMotion  # noqa: E402
from render.motion.tables import FACE_LEVELS, MOUTH_LEVELS, PLANES, Levels  # noqa: E402
from tests.render.motion.heads import FEATURES, Floats, Scene, scene  # noqa: E402
from tests.render.people import person  # noqa: E402

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
MOTION = 1e-5
METRES = 1e-7
"""displacements are compared a hundred times as closely: they are hundredths of what the nets put out"""


def plain(s: Scene) -> list[Deformation]:
    """Every frame by the torch path."""
    with torch.no_grad():
        out = s.head(
            torch.from_numpy(s.face_xyz),
            torch.from_numpy(s.mouth_xyz),
            windows(torch.from_numpy(s.features)),
            torch.from_numpy(s.action_units),
        )
    faces = torch.cat([out.face_xyz, out.face_rotation, out.face_scale], dim=-1).numpy()
    return [Deformation(f.T, m.T) for f, m in zip(faces, out.mouth_xyz.numpy(), strict=True)]


def assert_equal(got: Deformation, wanted: Deformation) -> None:
    np.testing.assert_allclose(got.face, wanted.face, rtol=0, atol=MOTION)
    np.testing.assert_allclose(got.face[:3], wanted.face[:3], rtol=0, atol=METRES)
    np.testing.assert_allclose(got.mouth, wanted.mouth, rtol=0, atol=METRES)


def clip(baked: Baked, s: Scene) -> Floats:
    return voice.windows(baked.codes(s.features), baked.silence)


@pytest.mark.parametrize("name", [feature.name for feature in FEATURES])
def test_baked_frames_equal_the_plain_path(name: Extractor) -> None:
    s = scene(name, seed=len(name))
    baked = s.bake()
    codes = clip(baked, s)
    wanted = plain(s)
    assert np.ptp([d.face[1] for d in wanted], axis=0).max() > 1e-4  # it does move
    assert np.ptp([d.mouth[1] for d in wanted], axis=0).max() > 1e-4
    for k in range(len(s.features)):
        assert_equal(baked.reference(codes[k], s.action_units[k]), wanted[k])
        assert_equal(baked.frame(codes[k], s.action_units[k]), wanted[k])


@pytest.mark.parametrize(("faces", "mouths"), [(1, 1), (9, 0), (kernel.LANES, kernel.LANES), (kernel.LANES + 1, 3)])
def test_any_number_of_points(faces: int, mouths: int) -> None:
    s = scene(faces=faces, mouths=mouths, frames=1)
    baked = s.bake()
    assert_equal(baked.frame(clip(baked, s)[0], s.action_units[0]), plain(s)[0])


def test_a_frame_may_be_written_over() -> None:
    s = scene()
    baked = s.bake()
    codes = clip(baked, s)
    out = baked.frame(codes[0], s.action_units[0])
    again = baked.frame(codes[5], s.action_units[5], out)
    assert again is out
    fresh = baked.frame(codes[5], s.action_units[5])
    np.testing.assert_array_equal(out.face, fresh.face)
    np.testing.assert_array_equal(out.mouth, fresh.mouth)


def test_codes_may_come_one_by_one() -> None:
    """As in a call: each frame's code is made once, and silence stands at the ends."""
    s = scene("deepspeech")
    baked = s.bake()
    whole = clip(baked, s)
    row = [baked.silence] * 4
    for k in range(len(s.features)):
        row.append(baked.codes(s.features[k : k + 1])[0])
    row += [baked.silence] * 3
    assert baked.silence.any()
    for k in range(len(s.features)):
        np.testing.assert_allclose(np.stack(row[k : k + 8]), whole[k], atol=1e-6)


def test_the_hook_ranks_moving_and_still_points_together() -> None:
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    values[100:120] = values[0]
    for rank in (1, 10):
        up = kernel.largest(values[:300], np.float32(1), np.sort(values[300:])[-rank:].copy(), rank)
        down = -kernel.largest(values[:300], np.float32(-1), -np.sort(values[300:])[:rank], rank)
        assert (up, down) == (np.sort(values)[-rank], np.sort(values)[rank - 1])


def gaussians(count: int) -> tuple[Floats, Floats]:
    """Raw scaling (about 3 mm) and rotation."""
    random = np.random.default_rng(7)
    return np.full((count, 3), -5.8, np.float32), random.normal(size=(count, 4)).astype(np.float32)


def test_points_that_hardly_move_are_held_still() -> None:
    s = scene(faces=400)
    baked = s.bake()
    codes = clip(baked, s)
    drive = list(zip(codes, s.action_units, strict=True))
    scaling, rotation = gaussians(400)
    frames = np.array([baked.frame(*d).face for d in drive])  # (frames, channels, points)
    reach = np.linalg.norm(np.ptp(frames[:, :3], axis=0) / 2, axis=0)
    limit = float(np.quantile(reach, 0.5))
    settled = settle(baked, scaling, rotation, drive, still_m=limit)
    assert 0 < len(settled.still) <= 200  # turning and growing count too
    assert len(settled.moving) + len(settled.still) == 400
    assert reach[settled.still].max() < limit
    for k, d in enumerate(drive):
        now = settled.frame(*d)
        np.testing.assert_allclose(now.face, frames[k][:, settled.moving], atol=1e-6)
        assert np.abs(settled.rest.T - frames[k][:, settled.still])[:3].max() < limit
        assert_equal(now, settled.reference(*d))
    outside = np.abs(s.face_xyz[settled.still]).max(1) > 0.15
    assert outside.any()  # where two planes end, little is left to move

    # Settling again, harder, keeps what was still and where it stood.
    harder = settle(settled, scaling, rotation, drive, still_m=2 * limit)
    assert set(settled.still) < set(harder.still)
    assert np.all(np.diff(harder.still) > 0)
    where = np.searchsorted(harder.still, settled.still)
    np.testing.assert_array_equal(harder.rest[where], settled.rest)
    everything = settle(baked, scaling, rotation, drive, still_m=1.0)
    assert len(everything.moving) == 0
    assert_equal(everything.frame(*drive[0]), everything.reference(*drive[0]))


@pytest.mark.parametrize("channel", [0, 4, 7], ids=["shifts", "turns", "grows"])
def test_a_point_that_does_one_thing_only_still_moves(channel: int) -> None:
    s = scene(faces=50)
    s = replace(s, face_xyz=s.face_xyz * np.float32(0.9))  # all within the grids
    rows = {0: 0, 4: 4, 7: 8}  # channel -> row of the last layer
    with torch.no_grad():
        last = s.head.face.sigma_net.net[2].weight
        last[[k for k in range(11) if k != rows[channel]]] = 0
    baked = s.bake()
    drive = list(zip(clip(baked, s), s.action_units, strict=True))
    assert len(settle(baked, *gaussians(50), drive, still_m=1e-6).moving) >= 45
    with torch.no_grad():
        last[rows[channel]] = 0
    assert len(settle(s.bake(), *gaussians(50), drive, still_m=1e-9).moving) == 0


def tips(xyz: Floats, rotation: Floats, scaling: Floats) -> NDArray[np.float64]:
    """Where the axes of Gaussians (points, ...) end at one standard deviation: (points, 3, 3), metres."""
    w, x, y, z = (rotation / np.linalg.norm(rotation, axis=1, keepdims=True)).T.astype(np.float64)
    columns = [
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
        [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
    ]
    axes = np.moveaxis(np.array(columns), 2, 0)
    return np.asarray(xyz[:, None] + axes * np.log1p(np.exp(scaling))[:, :, None])


def test_the_surface_of_still_points_stays_where_it_is() -> None:
    s = scene(faces=400)
    baked = s.bake()
    drive = list(zip(clip(baked, s), s.action_units, strict=True))
    scaling, rotation = gaussians(400)
    limit = 0.0015
    settled = settle(baked, scaling, rotation, drive, still_m=limit)
    still = settled.still
    assert 40 < len(still) < 360

    def surface(d: Floats) -> NDArray[np.float64]:
        return tips(s.face_xyz[still] + d[:, :3], rotation[still] + d[:, 3:7], scaling[still] + d[:, 7:])

    rest = surface(settled.rest)
    off = [np.linalg.norm(surface(baked.frame(*d).face[:, still].T) - rest, axis=2).max(1) for d in drive]
    assert np.max(off) < limit
    assert np.max(off) > limit / 4  # the bound is not so wide that nothing is ever held


def test_settling_needs_a_drive() -> None:
    s = scene(faces=12)
    with pytest.raises(ValueError, match="at least one frame"):
        settle(s.bake(), *gaussians(12), drive=[])


def test_what_was_baked_does_not_follow_training() -> None:
    s = scene(frames=1)
    baked = s.bake()
    wanted = plain(s)[0]
    with torch.no_grad():
        for values in s.head.parameters():
            values += 1
    assert_equal(baked.reference(clip(baked, s)[0], s.action_units[0]), wanted)


def test_no_frame_waits_for_a_compiler_once_warm() -> None:
    """Whatever the arrays come from: read-only ones, as of a mapped file, would be a type of their own to numba."""
    s = scene(faces=60)
    baked = s.bake()
    drive = list(zip(clip(baked, s), s.action_units, strict=True))
    arrays = settle(baked, *gaussians(60), drive=drive, still_m=0.002).arrays()
    for array in arrays.values():
        array.flags.writeable = False
    baked.warm()
    kernels = (kernel.face, kernel.mouth, kernel.largest)
    compiled = [len(k.signatures) for k in kernels]
    loaded = Baked.of_arrays(arrays, s.feature)
    loaded.frame(*drive[0], loaded.frame(*drive[1]))
    assert [len(k.signatures) for k in kernels] == compiled == [1, 1, 1]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    s = scene(faces=60)
    baked = s.bake()
    drive = list(zip(clip(baked, s), s.action_units, strict=True))
    baked = settle(baked, *gaussians(60), drive=drive, still_m=0.002)
    save_file(baked.arrays(), tmp_path / "motion.safetensors")
    loaded = Baked.of_arrays(load_file(tmp_path / "motion.safetensors"), s.feature)
    assert 0 < len(loaded.still) < 60
    for name, array in baked.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array, strict=True)
    assert_equal(loaded.frame(*drive[2]), baked.frame(*drive[2]))


def broken(arrays: dict[str, NDArray[np.generic]], what: str) -> dict[str, NDArray[np.generic]]:
    match what:
        case "missing":
            del arrays["face.eye_att_net.net.1.weight"]
        case "unknown":
            arrays["mouth.aud_ch_att_net.net.0.weight"] = np.zeros((32, 36), np.float32)
        case "dtype":
            arrays["gain"] = arrays["gain"].astype(np.float64)
        case "shape":
            arrays["mouth.sigma_net.net.1.weight"] = np.zeros((32, 33), np.float32)
        case "nan":
            arrays["encoding"] = np.full_like(arrays["encoding"], np.nan)
        case "twice":
            arrays["moving"] = np.zeros_like(arrays["moving"])
        case "float index":
            arrays["still"] = arrays["still"].astype(np.float32)
        case "extractor":
            arrays["face.audio_net.encoder_fc1.0.weight"] = np.zeros((256, 511), np.float32)
    return arrays


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", "eye_att_net.net.1.weight"),
        ("unknown", "unknown tensors .*aud_ch_att_net"),
        ("dtype", "gain must be float32"),
        ("shape", r"sigma_net.net.1.weight must be float32 \(32, 32\)"),
        ("nan", "encoding holds numbers that are not finite"),
        ("twice", "each face Gaussian once"),
        ("float index", "still must be int32"),
        ("extractor", r"encoder_fc1.0.weight must be float32 \(256, 512\)"),
    ],
)
def test_broken_arrays_are_refused(what: str, says: str) -> None:
    s = scene(faces=20)
    arrays = s.bake().arrays()
    Baked.of_arrays(arrays, s.feature)
    with pytest.raises(ValueError, match=says):
        Baked.of_arrays(broken(arrays, what), s.feature)


def test_features_of_another_extractor_are_refused() -> None:
    s = scene("hubert", faces=20)
    with pytest.raises(ValueError, match=r"hubert features are \(n, 1024, 2\)"):
        s.bake().codes(np.zeros((1, 512, 1), np.float32))


def test_baking_and_painting_need_no_torch(tmp_path: Path) -> None:
    """From the tensors of an avatar to a frame, in a process that has no torch."""
    s = scene(faces=40)
    np.savez(tmp_path / "motion.npz", **s.head.tensors())  # type: ignore[arg-type]
    np.savez(
        tmp_path / "clip.npz", **{k: getattr(s, k) for k in ("face_xyz", "mouth_xyz", "features", "action_units")}
    )
    code = f"""
import json, sys
sys.modules["torch"] = None
import numpy as np
from render.avatar import AudioFeature
from render.motion import voice
from render.motion.bake import bake
motion, clip = (dict(np.load(f"{tmp_path}/{{name}}.npz")) for name in ("motion", "clip"))
baked = bake(motion, AudioFeature(name="ave", width=512), clip["face_xyz"], clip["mouth_xyz"])
codes = voice.windows(baked.codes(clip["features"]), baked.silence)
out = baked.frame(codes[3], clip["action_units"][3])
print(json.dumps([out.face.tolist(), out.mouth.tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    face, mouth = json.loads(done.stdout)
    assert_equal(Deformation(np.float32(face), np.float32(mouth)), plain(s)[3])


@pytest.mark.parametrize(("net", "levels"), [("face", FACE_LEVELS), ("mouth", MOUTH_LEVELS)])
def test_the_encoder_without_torch_equals_the_golden_vectors(net: str, levels: Levels) -> None:
    golden = np.load(GOLDEN / f"grid_golden_{net}.npz")
    tables = {f"encoder_{plane}.embeddings": golden["embeddings"] for plane in PLANES}
    a, b = golden["xy"].T
    # Each plane sees the golden pair in turn, with the third coordinate at rest.
    for k, points in enumerate(([a, b, 0 * a], [0 * a, a, b], [a, 0 * a, b])):
        out = encode(tables, levels, np.stack(points, axis=1))[:, 12 * k : 12 * k + 12]
        np.testing.assert_allclose(out, golden["out"], rtol=0, atol=5e-5)


def test_the_encoder_without_torch_equals_the_plain_one() -> None:
    s = scene(faces=3000)
    for net, levels in (("face", FACE_LEVELS), ("mouth", MOUTH_LEVELS)):
        plain_net = getattr(s.head, net)
        tables = {n: v for n, v in s.head.tensors().items() if n.startswith(net)}
        got = encode({n[len(net) + 1 :]: v for n, v in tables.items()}, levels, s.face_xyz)
        wanted = plain_net.encode(torch.from_numpy(s.face_xyz)).detach().numpy()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)
        assert not got[np.abs(s.face_xyz).min(1) > 0.15].any()


def test_a_person_from_an_avatar_folder_moves() -> None:
    someone = person()
    head = HeadMotion(someone.audio)
    head.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in someone.motion.items()})
    features = np.random.default_rng(0).normal(size=(3, someone.audio.width, someone.audio.steps)).astype(np.float32)
    units = someone.idle.action_units[:3]
    s = Scene(someone.audio, head, someone.face.xyz, someone.mouth.xyz, features, units)
    baked = bake(someone.motion, someone.audio, someone.face.xyz, someone.mouth.xyz)
    assert_equal(baked.frame(clip(baked, s)[1], units[1]), plain(s)[1])


def test_an_avatar_folder_keeps_what_was_baked(tmp_path: Path) -> None:
    someone = person()
    baked = bake(someone.motion, someone.audio, someone.face.xyz, someone.mouth.xyz)
    units = someone.idle.action_units
    codes = np.random.default_rng(0).normal(size=(len(units), 8, 2, 32)).astype(np.float32)
    drive = list(zip(codes, units, strict=True))
    settled = settle(baked, someone.face.scale, someone.face.rotation, drive, still_m=2e-4)
    save(replace(someone, baked=settled.arrays()), tmp_path / someone.name)
    loaded = load(tmp_path / someone.name)
    assert_equal(Baked.of_arrays(loaded.baked, loaded.audio).frame(*drive[0]), settled.frame(*drive[0]))
