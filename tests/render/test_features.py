"""The mel encoder: streaming equals offline, nothing looks further ahead than is stated, level does not matter."""

import numpy as np
import pytest
from numpy.typing import NDArray

from render import features
from render.features import CONTEXT, FPS, FRAME, LAYERS, LOOK_AHEAD_S, RATE, FeatureError, MelEncoder, MelStream
from render.hearing import closing
from render.motion.tables import WINDOW, WINDOW_BEFORE
from render.motion.voice import windows

Floats = NDArray[np.float32]
WIDTHS = (features.BANDS, 24, 24, 32, 32, 16)


def tensors(width: int = 8, seed: int = 0) -> dict[str, Floats]:
    draw = np.random.default_rng(seed)
    out: dict[str, Floats] = {}
    for k, (kernel, _) in enumerate(LAYERS):
        shape = (WIDTHS[k + 1], WIDTHS[k], kernel)
        out[f"conv.{k}.weight"] = draw.normal(0, (2 / (shape[1] * kernel)) ** 0.5, shape).astype(np.float32)
        out[f"conv.{k}.bias"] = draw.normal(0, 0.1, shape[0]).astype(np.float32)
    out["code.weight"] = draw.normal(0, 0.3, (width, WIDTHS[-1])).astype(np.float32)
    out["code.bias"] = draw.normal(0, 0.1, width).astype(np.float32)
    return out


def sound(seconds: float, seed: int = 1) -> Floats:
    """Syllables of a kind: a buzz whose pitch and loudness move, and some noise."""
    draw = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)
    buzz = sum(np.sin(2 * np.pi * np.cumsum(pitch) * h / RATE) / h for h in range(1, 20))
    loud = np.clip(np.sin(2 * np.pi * 3.1 * t + 1), 0, None)
    return np.asarray(0.1 * (buzz * loud + 0.02 * draw.normal(size=len(t))), np.float32)


def test_streaming_equals_offline() -> None:
    encoder, pcm = MelEncoder.of_tensors(tensors()), sound(3.013)
    clip = encoder.clip(pcm)
    assert clip.shape == (int(np.ceil(3.013 * FPS)), 8, 1)
    draw, stream, parts, at = np.random.default_rng(3), encoder.stream(), [], 0
    padded = np.concatenate([pcm, np.zeros(-len(pcm) % FRAME, np.float32)])
    while at < len(padded):
        size = int(draw.choice([0, 1, 37, 160, 320, 640, 5000]))
        parts.append(stream.push(padded[at : at + size]))
        at += size
    streamed = np.concatenate(parts)
    assert len(streamed) == len(clip) + 1  # the next one is already known
    np.testing.assert_allclose(streamed[:-1], clip, atol=1e-5)


def test_a_long_clip_is_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, pcm = MelEncoder.of_tensors(tensors()), sound(4.0)
    whole = encoder.clip(pcm)
    monkeypatch.setattr(features, "BLOCK", 7)
    np.testing.assert_allclose(encoder.clip(pcm), whole, atol=1e-5)


@pytest.mark.parametrize("frame", [4, 20, 21])
def test_nothing_later_than_the_look_ahead_counts_and_nothing_less_is_promised(frame: int) -> None:
    encoder, pcm = MelEncoder.of_tensors(tensors()), sound(2.0)
    silence = np.zeros((8, 1), np.float32)
    assert LOOK_AHEAD_S <= 0.120 + 1e-9
    limit = round((frame / FPS + LOOK_AHEAD_S) * RATE)  # the first sample that the frame must not know

    def window(changed: Floats) -> Floats:
        return windows(encoder.clip(changed), silence)[frame]

    later, within = pcm.copy(), pcm.copy()
    later[limit:] = sound(2.0, seed=5)[limit:]
    within[limit - 200 : limit] += 0.2
    assert np.array_equal(window(later), window(pcm))
    assert np.abs(window(within) - window(pcm)).max() > 1e-4
    assert WINDOW - 1 - WINDOW_BEFORE == features.SHIFT


def test_a_feature_comes_as_soon_as_its_sound_is_there() -> None:
    stream = MelEncoder.of_tensors(tensors()).stream()
    pcm = sound(1.0)
    assert len(stream.push(pcm[:0])) == 1
    assert len(stream.push(pcm[: FRAME - 1])) == 0
    assert len(stream.push(pcm[FRAME - 1 : FRAME])) == 1
    assert len(stream.push(pcm[FRAME : 5 * FRAME])) == 4


def test_before_the_clip_there_was_silence() -> None:
    encoder, pcm = MelEncoder.of_tensors(tensors()), sound(1.0)
    preceded = encoder.clip(np.concatenate([np.zeros(10 * FRAME, np.float32), pcm]))
    np.testing.assert_allclose(preceded[10:], encoder.clip(pcm), atol=1e-5)
    silent = encoder.of_spectra(np.zeros((CONTEXT, features.BANDS), np.float32))[0]
    np.testing.assert_allclose(preceded[0, :, 0], silent, atol=1e-6)


def test_loudness_does_not_matter_and_silence_is_zero() -> None:
    pcm = sound(2.0)
    loud = MelStream().push(pcm)
    np.testing.assert_allclose(MelStream().push(pcm * 0.3)[20:], loud[20:], atol=2e-3)
    assert loud.min() >= 0
    assert 0.6 < loud.max() < 1.5
    assert not MelStream().push(np.zeros(RATE, np.float32)).any()
    hiss = 1e-3 * np.random.default_rng(0).normal(size=RATE)  # -60 dBFS is no speech
    assert MelStream().push(hiss.astype(np.float32))[10:, :10].max() < 0.5 * loud[:, :10].max()


def test_the_spectrum_tells_pitch_from_pitch() -> None:
    t = np.arange(RATE) / RATE
    peaks = [
        int(MelStream().push(np.asarray(0.1 * np.sin(2 * np.pi * f * t), np.float32))[50].argmax())
        for f in (300, 900)
    ]
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + f / 700) for f in (60.0, 7600.0)), 42) / 2595) - 1)
    assert peaks == [int(np.abs(edges[1:-1] - f).argmin()) for f in (300, 900)]


@pytest.mark.parametrize("fault", ["missing", "shape", "nan"])
def test_weights_of_something_else_are_refused(fault: str) -> None:
    wrong = tensors()
    if fault == "missing":
        del wrong["conv.2.bias"]
    elif fault == "shape":
        wrong["conv.1.weight"] = wrong["conv.1.weight"][:, :, :3]
    else:
        wrong["code.weight"][0, 0] = np.nan
    with pytest.raises(FeatureError) as refused:
        MelEncoder.of_tensors(wrong)
    assert refused.value.code == "feature_weights"


def test_an_empty_clip_has_no_frames() -> None:
    assert MelEncoder.of_tensors(tensors()).clip(np.zeros(0, np.float32)).shape == (0, 8, 1)


def test_lips_that_should_touch_do_whatever_the_field_makes_of_it() -> None:
    rng = np.random.default_rng(5)
    windows = rng.standard_normal((4, 8, 2, 32)).astype(np.float32)
    rest = np.full((2, 32), 7, np.float32)
    shown = closing(windows, np.array([-0.05, 0.075, 0.16, -3.0], np.float32), rest)
    assert np.array_equal(shown[0], np.broadcast_to(rest, (8, 2, 32)))
    assert np.array_equal(shown[3], shown[0])
    assert np.allclose(shown[1], (windows[1] + rest) / 2, atol=1e-5)
    assert np.array_equal(shown[2], windows[2])


def test_the_shipped_encoder_hears_how_far_the_lips_are_apart() -> None:
    encoder = MelEncoder.shipped()
    silence = encoder.opening(encoder.clip(np.zeros(16000, np.float32)))
    assert silence.shape == (25,)
    assert silence[5:].max() < 0.3  # a mouth at rest

    untaught = MelEncoder.of_tensors(tensors(64))
    assert np.array_equal(untaught.opening(np.zeros((3, 64, 1), np.float32)), np.ones(3))
    short = {"opening.weight": np.zeros(3, np.float32), "opening.bias": np.zeros(1, np.float32)}
    with pytest.raises(FeatureError, match="opening takes 3 features, not 64"):
        MelEncoder.of_tensors(tensors(64) | short)
