"""The training of the mel encoder, the weights that ship, and the speech they were made from."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from render.features import BANDS, CONTEXT, FRAME, MODEL, RATE, SHIFT, MelEncoder  # noqa: E402
from render.train import encoder  # noqa: E402
from render.train.encoder import Example, Net, Plan, Scale  # noqa: E402

Floats = NDArray[np.float32]
PLAN = Plan(("jaw", "press"), (1.0, 1.0), steps=8)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "BATCH", 6)
    monkeypatch.setattr(encoder, "CROP", 24)
    torch.set_num_threads(1)


def examples(count: int = 6) -> list[Example]:
    """Spectra whose low bands say how far the jaw is open, and whose silence says that the lips are pressed."""
    draw = np.random.default_rng(0)
    out = []
    for k in range(count):
        frames = 60
        loud = np.repeat(draw.random(frames + 10), 4)[: CONTEXT + 4 * (frames - 1)]
        x = np.clip(loud[:, None] * np.linspace(1, 0.2, BANDS), 0, 1)
        now = loud[CONTEXT - 12 :: 4][:frames]
        y = np.stack([now, now < 0.2], 1)
        out.append(Example(x.astype(np.float16), y.astype(np.float32), ("a", "b")[k % 2]))
    return out


def test_training_learns(tmp_path: Path) -> None:
    made, seen = examples(), []
    encoder.train(
        Plan(PLAN.names, PLAN.weights, steps=40), made, tmp_path / "c", None, lambda step, loss: seen.append(loss)
    )
    assert seen[-1] < 0.75 * seen[0]


def test_going_on_after_a_stop_is_the_same_as_never_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = examples()
    whole = encoder.train(PLAN, made, tmp_path / "whole")
    monkeypatch.setattr(encoder, "CHECKPOINT_S", -1.0)

    def stop(step: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder.train(PLAN, made, tmp_path / "part", None, stop)
    resumed = encoder.train(PLAN, made, tmp_path / "part")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_families_have_equal_shares() -> None:
    made = examples(6)
    many = [*made, *(e._replace(targets=e.targets * 0 + 5, family="c") for e in made * 3)]
    _, targets, _ = encoder._Draw(many)(np.random.default_rng(0))
    assert float((targets[:, 0, 0] == 5).float().mean()) == pytest.approx(1 / 3, abs=0.05)


def test_too_short_utterances_are_refused() -> None:
    with pytest.raises(ValueError, match="24 frames"):
        encoder._Draw([e._replace(targets=e.targets[:10]) for e in examples()])


def test_closures_count_more_and_so_does_movement() -> None:
    scale = Scale(torch.zeros(2), torch.ones(2))
    targets = torch.zeros(1, 20, 2)
    targets[0, 10, 1] = 1.0
    off = targets.transpose(1, 2).clone()
    at_closure, elsewhere, steady = off.clone(), off.clone(), off.clone()
    at_closure[0, 0, 10] += 0.5
    elsewhere[0, 0, 3] += 0.5
    steady[0, 0, :] += 0.5 / 20**0.5
    still = Plan(PLAN.names, PLAN.weights, velocity=0.0)
    losses = [float(encoder.loss_of(still, scale, p, targets)) for p in (at_closure, elsewhere)]
    assert losses[0] == pytest.approx(still.closed * losses[1])
    moved = [float(encoder.loss_of(PLAN, scale, p, targets)) for p in (elsewhere, steady)]
    assert moved[0] > 1.5 * moved[1]


def test_what_is_exported_is_what_was_trained() -> None:
    torch.manual_seed(1)
    net = Net(2).eval()
    pcm = np.asarray(0.1 * np.random.default_rng(0).normal(size=20 * FRAME + 100), np.float32)
    with torch.no_grad():
        code, _ = net(torch.from_numpy(encoder.spectra(pcm)).float().T[None])
    shipped = MelEncoder.of_tensors(net.tensors()).clip(pcm)[..., 0]
    assert code.shape == (1, encoder.WIDTH, 21)
    np.testing.assert_allclose(shipped[SHIFT:], code[0].T.numpy()[:-SHIFT], atol=2e-3)  # spectra are kept in half


def test_the_shipped_weights_load_and_are_small() -> None:
    ours = MelEncoder.shipped()
    assert (ours.width, MODEL.stat().st_size < 2 << 20) == (64, True)
    features = ours.clip(np.asarray(0.1 * np.random.default_rng(0).normal(size=RATE), np.float32))
    assert np.abs(features).max() <= 1
    assert features.std() > 0.05


# ---------------------------------------------------------------- with the generator of synthetic people at hand

GENERATOR = Path(os.environ.get("VISAVIS_GENERATOR") or Path(__file__).parents[3] / "shared" / "prototypes" / "heads")
speaking = pytest.mark.skipif(not (GENERATOR / "anim.py").exists(), reason="the generator of people is not here")


@pytest.fixture
def speech(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("VISAVIS_GENERATOR", str(GENERATOR))
    from recipes.universal import speech as module

    try:
        module._flite()
        module._espeak()
    except OSError as error:
        pytest.skip(f"a synthesiser is missing: {error}")
    return module


@speaking
def test_lips_close_where_the_sound_is_shut_off(speech) -> None:  # type: ignore[no-untyped-def]
    """The middle of the truth's closure lies within the quiet of p, b, m, for both engines."""
    for pcm, phones in (
        speech.flite("Papa, a baby may be happy. Bob moped about a map.", "rms"),
        speech.espeak("Papa, a baby may be happy. Bob moped about a map.", "en-us+m3"),
    ):
        curves = speech.controls(pcm, phones)
        assert len(curves["press"]) == -(-len(pcm) // FRAME)
        power = np.convolve(np.diff(pcm, prepend=0) ** 2, np.ones(320) / 320, "same")  # 20 ms
        quiet = 0
        lips = [p for p in phones if p.symbol in ("p", "b", "m") and 0.1 < p.start < len(pcm) / RATE - 0.2]
        for phone in lips:
            middle = (phone.start + phone.end) / 2 - 0.035
            frame = int(middle * 25)
            assert curves["press"][max(0, frame - 1) : frame + 2].max() > 0.25
            at = int((middle + 0.015) * RATE)
            quiet += power[at] < 0.5 * power[at - 1600 : at + 1600].max()
        assert len(lips) >= 10
        assert quiet >= 0.9 * len(lips)


@speaking
def test_augmentation_keeps_the_truth_beside_the_sound(speech) -> None:  # type: ignore[no-untyped-def]
    pcm, phones = speech.flite("Mom and Bob map a bumpy path.", "rms")
    recording = speech.Recording("r", speech.levelled(pcm), phones, "rms", "flite", "")
    for seed in range(6):
        draw = np.random.default_rng(seed)
        made = speech.augmented(recording, draw, recording.pcm)
        assert len(made.pcm) == FRAME * len(made.controls["jaw"])
        assert np.isfinite(made.pcm).all()
        assert np.abs(made.pcm).max() <= 1
        again = speech.augmented(recording, np.random.default_rng(seed), recording.pcm)
        assert np.array_equal(made.pcm, again.pcm)
        assert set(speech.speech_controls()) <= set(made.controls)


@speaking
def test_the_shipped_weights_hear_closed_lips(speech) -> None:  # type: ignore[no-untyped-def]
    """A linear reading of the features tells pressed lips and the jaw in sentences that they were not fitted on."""
    ours = MelEncoder.shipped()

    def both(text: str, voice: str) -> tuple[Floats, Floats]:
        pcm, phones = speech.flite(text, voice) if "+" not in voice else speech.espeak(text, voice)
        pcm = speech.levelled(pcm)
        curves = speech.controls(pcm, phones)
        padded = np.concatenate([pcm, np.zeros(SHIFT * FRAME, np.float32)])
        heard = ours.clip(padded)[SHIFT : SHIFT + len(curves["jaw"]), :, 0]
        return heard, np.stack([curves["jaw"], curves["press"]], 1)

    fitted = [
        both(text, voice)
        for text in (
            "The public pump broke in the middle of April, but Pam mended it. Maybe we may go home by the map.",
            "Six noisy children shouted at the yellow bus. Five fresh leaves fell over the garden wall.",
        )
        for voice in ("slt", "rms", "en-us+f3", "en-us+m3")
    ]
    x = np.concatenate([np.c_[f, np.ones(len(f))] for f, _ in fitted])
    y = np.concatenate([t for _, t in fitted])
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
    heard, truth = both("My umbrella is probably in a blue box by the bed. Could you bring it, please?", "rms")
    said = np.c_[heard, np.ones(len(heard))] @ weights
    assert np.corrcoef(said[:, 0], truth[:, 0])[0, 1] > 0.7
    assert np.corrcoef(said[:, 1], truth[:, 1])[0, 1] > 0.7
