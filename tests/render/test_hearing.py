"""A call's voice as codes: whatever way it comes, it is what the whole clip would have given."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from render.avatar import AudioFeature, AvatarError
from render.features import MelEncoder
from render.hearing import MARGIN, Hearing, listener, thirds
from render.motion.bake import bake
from render.motion.baked import Baked
from render.motion.voice import windows
from render.score import Score
from server.core.media import FRAME_SAMPLES, MEDIA_RATE
from tests.render import procedural


@pytest.fixture(scope="module")
def baked() -> Baked:
    avatar = procedural.person()
    return bake(avatar.motion, avatar.audio, avatar.face.xyz, avatar.mouth.xyz)


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Syllables of noise and tones."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * MEDIA_RATE)) / MEDIA_RATE
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(3 * t)) / MEDIA_RATE
    tone = sum(np.sin(k * pitch) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 4 * t), 0, 1)
    return np.asarray(4000 * syllables * (tone + 0.1 * rng.normal(size=len(t))), np.int16)


def hearing(baked: Baked, score: Score) -> Hearing:
    ear = listener(procedural.person())
    return Hearing(score, ear.stream, baked.codes, ear.rest(baked.codes))


def offline(baked: Baked, pcm: np.ndarray, frames: int) -> np.ndarray:
    """(frames, 8, 2, 32): the whole clip at once, silence around it."""
    whole = np.zeros(frames * FRAME_SAMPLES + 2 * MARGIN + 8 * FRAME_SAMPLES, np.int16)
    whole[MARGIN : MARGIN + len(pcm)] = pcm
    features = MelEncoder.of_tensors(procedural.person().encoder).clip(thirds(whole))
    ear = listener(procedural.person())
    return windows(baked.codes(features), ear.rest(baked.codes))[:frames]


def test_it_is_what_the_whole_clip_gives_however_it_is_pushed(baked: Baked) -> None:
    pcm, frames = voice(2.0), 50
    wanted = offline(baked, pcm, frames)
    whole, pieces = Score(), Score()
    whole.push(0, 1, pcm)
    at = 0
    one, other = hearing(baked, whole), hearing(baked, pieces)
    for index in range(frames):
        while at < min((index + 4) * FRAME_SAMPLES + MARGIN, len(pcm)):  # as a voice makes it, and no earlier
            pieces.push(at, 1, pcm[at : at + 1234])
            at += 1234
        if index < frames - 8:  # at the end the mouth is closed, whatever the encoder says
            assert np.allclose(one.window(index), wanted[index], atol=1e-5)
            assert np.allclose(other.window(index), wanted[index], atol=1e-5)


def test_a_voice_that_is_late_or_cut_is_encoded_anew(baked: Baked) -> None:
    pcm = voice(2.0)
    score = Score()
    heard = hearing(baked, score)
    start = 5 * FRAME_SAMPLES
    for index in range(9):
        heard.window(index)  # silence, as far as anybody knows
    score.push(start, 1, pcm)
    late = offline(baked, np.concatenate([np.zeros(start, np.int16), pcm]), 60)
    for index in range(9, 20):
        assert np.allclose(heard.window(index), late[index], atol=1e-5)
    assert not np.allclose(late[10], heard._rest, atol=0.01)
    cut = 21 * FRAME_SAMPLES + 700
    score.cut(cut)
    kept = np.concatenate([np.zeros(start, np.int16), pcm])[:cut]
    short = offline(baked, kept, 60)
    for index in range(20, 24):
        assert np.allclose(heard.window(index), short[index], atol=1e-5)
    assert not np.allclose(short[22], late[22], atol=0.01)


def test_after_a_gap_it_goes_on_from_the_voice_that_is_there(baked: Baked) -> None:
    """Frames that were left out do not matter, and it never listens to minutes at once."""
    pcm = voice(1.0)
    score = Score()
    heard = hearing(baked, score)
    heard.window(3)
    heard.window(30)
    far = 10_000
    score.push(far * FRAME_SAMPLES, 1, pcm)
    states = len(heard._states)
    window = heard.window(far + 5)
    assert len(heard._states) <= states + 8
    wanted = offline(baked, np.concatenate([np.zeros(16 * FRAME_SAMPLES, np.int16), pcm]), 60)
    assert np.allclose(window, wanted[16 + 5], atol=1e-4)


def test_silence_is_rest_and_the_mouth_stirs_before_it_ends(baked: Baked) -> None:
    score = Score()
    heard = hearing(baked, score)
    rest = np.broadcast_to(heard._rest, (8, 2, 32))
    assert np.allclose(heard.window(0), rest, atol=1e-6)
    noise = np.random.default_rng(0).integers(-12, 13, 3 * MEDIA_RATE).astype(np.int16)  # a voice's own faint hiss
    noise[20 * FRAME_SAMPLES : 30 * FRAME_SAMPLES] = voice(0.4)
    score.push(0, 1, noise)
    away = [float(np.abs(heard.window(index) - rest).max()) for index in range(60)]
    assert max(away[8:17]) < 1e-6  # hiss is no voice
    assert min(away[22:30]) > 0.05
    assert away[20] > 0.01  # open in time
    assert max(away[38:]) < 1e-6
    steps = np.abs(np.diff(away[28:42]))
    assert steps.max() < 0.6 * max(away)


def test_every_third_sample_and_no_delay() -> None:
    t = (np.arange(4800 + 2 * MARGIN) - MARGIN) / 48000
    for hertz, gain in ((300, 1.0), (5000, 1.0), (9000, 0.0), (15000, 0.0)):
        out = thirds(np.asarray(16384 * np.sin(2 * np.pi * hertz * t), np.int16))
        wanted = 0.5 * gain * np.sin(2 * np.pi * hertz * np.arange(1600) / 16000)
        assert len(out) == 1600
        assert np.abs(out - wanted).max() < 0.003
    assert not thirds(np.zeros(300 + 2 * MARGIN, np.int16)).any()


def test_an_imported_person_needs_the_ears_that_it_was_trained_with(tmp_path: Path) -> None:
    avatar = dataclasses.replace(procedural.person(), audio=AudioFeature(name="ave", width=512))
    with pytest.raises(AvatarError, match=r"listens to ave.*audio_visual_encoder.pth"):
        listener(avatar)
    with pytest.raises(AvatarError, match=r"render.extractors"):
        listener(avatar, tmp_path)
    other = dataclasses.replace(avatar, audio=AudioFeature(name="esperanto", width=44))
    with pytest.raises(AvatarError, match="train the person again"):
        listener(other, tmp_path)


def test_ears_that_look_far_ahead_are_given_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AVE hears a quarter of a second ahead, in rows that a frame does not divide."""
    pytest.importorskip("torch", reason="AVE takes torch")
    from render import extractors

    def encode(self: extractors.AveEncoder, crops: list[np.ndarray]) -> np.ndarray:
        found = [np.resize(crop.mean(1), 512) for crop in crops]
        return np.stack(found).astype(np.float32) if found else np.zeros((0, 512), np.float32)

    monkeypatch.setattr(extractors.AveEncoder, "_encode", encode)
    monkeypatch.setattr(extractors.AveEncoder, "of_file", classmethod(lambda cls, path: cls(None)))
    (tmp_path / "audio_visual_encoder.pth").touch()
    avatar = dataclasses.replace(procedural.person(), audio=AudioFeature(name="ave", width=512))
    ear = listener(avatar, tmp_path)

    def codes(features: np.ndarray) -> np.ndarray:
        return np.stack([features[:, :32, 0], features[:, 32:64, 0]], 1)

    pcm = voice(1.6)
    score = Score()
    heard = Hearing(score, ear.stream, codes, ear.rest(codes))
    for index in range(4):
        heard.window(index)
    score.push(0, 1, pcm)
    whole = np.zeros(len(pcm) + 2 * MARGIN, np.int16)
    whole[MARGIN : MARGIN + len(pcm)] = pcm
    offline = codes(extractors.AveEncoder(None).clip(thirds(whole)))
    for index in range(8, 25):
        assert np.allclose(heard.window(index), offline[index - 4 : index + 4], atol=1e-5)
