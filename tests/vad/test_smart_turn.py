"""Silero and smart-turn as they are shipped: alone, and in their worker over the real protocol."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from server.config import Config
from server.core.errors import StageError
from server.core.media import MIC_RATE
from server.vad import smart_turn
from server.vad.logmel import BANDS, FRAMES, SAMPLES, last_seconds, log_mel
from server.vad.smart_turn import SmartTurnEnds, SmartTurnSession, SmartTurnSettings
from server.vad.webrtc import WebrtcVad
from server.workers.process import Worker
from tests.asr.spoken import frames, noise, pause, say
from tests.fakes.providers import FakeVad

needs_onnx = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs: pip install -e .[endpointing]")
PATIENT = SmartTurnSettings(answer_s=1.0)


def spoken(voice: str, text: str) -> NDArray[np.int16]:
    """From 50 ms before the first word to 0.2 s of silence behind the last: what is there at the soft end."""
    sound = np.frombuffer(say(voice, text), np.int16)
    loud = np.flatnonzero(np.abs(sound) > 300)
    return np.concatenate([sound[max(0, loud[0] - 800) : loud[-1] + 200], np.zeros(3200, np.int16)])


# ---- the spectrogram -------------------------------------------------------------------------------


def by_definition(sound: NDArray[np.float64], frame: int) -> NDArray[np.float64]:
    """Band energies of one frame before the compression: sums over sines, triangles drawn one by one."""
    mirrored = np.concatenate([sound[200:0:-1], sound, sound[-2:-202:-1]])
    piece = [mirrored[160 * frame + n] * (0.5 - 0.5 * np.cos(2 * np.pi * n / 400)) for n in range(400)]
    n = np.arange(400)
    power = [abs(np.sum(piece * np.exp(-2j * np.pi * k * n / 400))) ** 2 for k in range(201)]
    mel_top = 15 + np.log(8.0) / (np.log(6.4) / 27)
    edges = [
        mel / 3 * 200 if mel < 15 else 1000 * np.exp((mel - 15) * np.log(6.4) / 27)
        for mel in np.linspace(0, mel_top, 82)
    ]
    bands = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        total = 0.0
        for k, energy in enumerate(power):
            hz = 40.0 * k
            if low < hz <= middle:
                total += energy * (hz - low) / (middle - low)
            elif middle < hz < high:
                total += energy * (high - hz) / (high - middle)
        bands.append(total * 2 / (high - low))
    return np.array(bands)


def test_the_spectrogram_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(3)
    time = np.arange(SAMPLES) / MIC_RATE
    sound = (0.3 * rng.standard_normal(SAMPLES) + np.sin(2 * np.pi * 300 * time * (1 + time / 8))).astype(np.float32)
    made = log_mel(sound)
    assert made.shape == (BANDS, FRAMES)
    assert made.dtype == np.float32
    for frame in (0, 1, 400, 798, 799):
        expected = (np.log10(np.maximum(by_definition(sound.astype(np.float64), frame), 1e-10)) + 4) / 4
        assert made[:, frame] == pytest.approx(expected, abs=2e-4)


def test_nothing_lies_more_than_eight_decades_below_the_loudest() -> None:
    sound = np.zeros(SAMPLES, np.float32)
    sound[64_000:64_400] = 1.0
    made = log_mel(sound)
    assert made.max() - made.min() == pytest.approx(2.0)


def test_eight_seconds_end_with_the_sound() -> None:
    short = 30 * np.arange(1, 1001, dtype=np.int16)
    sound = last_seconds(short)
    assert sound.shape == (SAMPLES,)
    assert np.ptp(sound[:-1000]) == 0
    assert np.all(np.diff(sound[-1000:]) > 0)
    assert (sound.mean(), sound.std()) == (pytest.approx(0, abs=1e-4), pytest.approx(1, abs=1e-2))
    long = np.concatenate([np.full(500, 9000, np.int16), np.tile(short, SAMPLES // 1000)])
    assert np.array_equal(last_seconds(long), last_seconds(long[500:]))
    assert np.all(last_seconds(np.zeros(0, np.int16)) == 0)


# ---- the models ------------------------------------------------------------------------------------


@needs_onnx
@pytest.mark.parametrize("name", ["silero_vad.onnx", "smart-turn-v3.2-cpu.onnx"])
def test_another_file_is_refused(name: str, tmp_path: Path) -> None:
    from server.vad.endpoint_worker import MODELS, load_model

    data = bytearray((MODELS / name).read_bytes())
    data[-1] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="SHA-256"):
        load_model(name, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(name, tmp_path)


@needs_onnx
def test_broken_off_sentences_rank_below_finished_ones() -> None:
    from server.vad.endpoint_worker import SmartTurn

    model = SmartTurn()
    finished = [
        "i would like to book a table for two people",
        "what is the weather like in london",
        "my name is arthur",
        "we arrived on tuesday evening",
    ]
    unfinished = [
        "i would like to book a table for two people and",
        "um so i was thinking that maybe",
        "what is the weather like in the",
        "we arrived on tuesday evening because",
    ]
    of = {text: model.finished(spoken("slt", text)) for text in (*finished, *unfinished)}
    pairs = [(f, u) for f in finished for u in unfinished]
    assert sum(of[f] > of[u] for f, u in pairs) >= 0.9 * len(pairs), of


@needs_onnx
def test_silero_hears_words_and_not_noise_whatever_the_frames() -> None:
    from server.vad.endpoint_worker import Ear, Silero

    model = Silero()

    def windows(pcm: bytes, frame: int) -> list[float]:
        ear, told = Ear(model), []
        for start in range(0, len(pcm), 2 * frame):
            told += ear.hear(start // 2, pcm[start : start + 2 * frame])
        assert [(w.start, w.end) for w in told] == [(512 * i, 512 * i + 512) for i in range(len(pcm) // 1024)]
        return [w.speech for w in told]

    words = spoken("rms", "what is the weather like in london").tobytes()
    assert np.mean(np.array(windows(words, 320)) > 0.5) > 0.6
    assert max(windows(noise(1.0, -30.0), 320)[3:]) < 0.1
    assert windows(words, 320) == pytest.approx(windows(words, 1234), abs=1e-4)


@needs_onnx
def test_an_ear_keeps_eight_seconds() -> None:
    from server.vad.endpoint_worker import Ear

    ear = Ear(None)
    for i in range(500):
        ear.hear(320 * i, np.full(320, i, np.int16).tobytes())
    assert ear.last(0.04).tolist() == [498] * 320 + [499] * 320
    assert ear.last(100.0).size == SAMPLES
    assert ear.last(0.0).size == ear.last(-1.0).size == 0


# ---- the worker ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def ends() -> AsyncIterator[SmartTurnEnds]:
    if find_spec("onnxruntime") is None:
        pytest.skip("needs: pip install -e .[endpointing]")
    async with PATIENT.load() as engine:
        yield engine


@asynccontextmanager
async def opened(ends: SmartTurnEnds, fake: bool = False) -> AsyncIterator[SmartTurnSession]:
    session = ends.open(FakeVad().open() if fake else WebrtcVad(2).open())
    try:
        yield session
    finally:
        await session.aclose()


async def opinion(session: SmartTurnSession, seconds: float) -> float | None:
    """However busy the machine is."""
    with anyio.fail_after(60):
        while (told := await session.finished(seconds)) is None:
            pass
        return told


async def test_opinions_come_over_the_wire_and_do_not_mix(ends: SmartTurnEnds) -> None:
    from server.vad.endpoint_worker import SmartTurn

    model = SmartTurn()
    whole = spoken("slt", "we arrived on tuesday evening")
    broken = spoken("slt", "we arrived on tuesday evening because")
    async with opened(ends) as one, opened(ends) as two:
        for session, sound in ((one, whole), (two, broken)):
            for frame in frames(pause(1.0) + sound.tobytes()):
                session.process(frame)
        for session, sound in ((one, whole), (two, broken)):
            count = sound.size // 320 * 320
            told = await opinion(session, count / MIC_RATE)
            heard = np.frombuffer(b"".join(frames(pause(1.0) + sound.tobytes())), np.int16)[-count:]
            assert told == pytest.approx(model.finished(heard), abs=1e-5)


async def test_what_silero_calls_noise_is_silenced(ends: SmartTurnEnds) -> None:
    """A detector that calls everything speech: Silero's word comes over the wire."""
    async with opened(ends, fake=True) as session:
        hiss = frames(noise(1.0, -40.0, seed=2))
        assert all(session.process(frame) for frame in hiss[:3])
        for frame in hiss[3:10]:
            session.process(frame)
        await opinion(session, 0.1)  # all windows before it have been told
        assert not session.process(hiss[10])


async def test_a_killed_worker_costs_opinions_and_nothing_else(no_leaked_tasks: None) -> None:
    if find_spec("onnxruntime") is None:
        pytest.skip("needs: pip install -e .[endpointing]")
    async with PATIENT.load() as ends, opened(ends, fake=True) as session:
        assert ends.worker.pid is not None
        frame = frames(noise(0.1, -30.0))[0]
        os.kill(ends.worker.pid, signal.SIGKILL)
        assert await session.finished(1.0) is None
        assert session.process(frame)
        with anyio.fail_after(60):
            await ends.worker.ready(60)
        for _ in range(50):
            session.process(frame)
        assert await opinion(session, 1.0) is not None


async def test_a_worker_that_stands_still_is_not_waited_for() -> None:
    if find_spec("onnxruntime") is None:
        pytest.skip("needs: pip install -e .[endpointing]")
    async with SmartTurnSettings(answer_s=0.05).load() as ends, opened(ends, fake=True) as session:
        assert ends.worker.pid is not None
        os.kill(ends.worker.pid, signal.SIGSTOP)
        try:
            with anyio.fail_after(5):
                assert await session.finished(1.0) is None
        finally:
            os.kill(ends.worker.pid, signal.SIGCONT)


@needs_onnx
async def test_a_worker_with_wrong_models_says_so(tmp_path: Path) -> None:
    from server.vad.endpoint_wire import FromEndpointer

    for name in ("silero_vad.onnx", "smart-turn-v3.2-cpu.onnx"):
        (tmp_path / name).write_bytes(b"not a model")
    arguments = ["--threads=1", f"--models={tmp_path}"]
    with pytest.raises(StageError, match="not the published file"):
        async with Worker("endpointing", "server.vad.endpoint_worker", FromEndpointer, arguments):
            pass


async def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smart_turn, "find_spec", lambda name: None)
    with pytest.raises(StageError, match=r"pip install -e \.\[endpointing\]"):
        async with SmartTurnSettings().load():
            pass


async def test_without_the_package_silence_and_words_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import AsyncExitStack

    from server.engines import _ends
    from server.providers import Auto

    monkeypatch.setattr(smart_turn, "find_spec", lambda name: None)
    async with AsyncExitStack() as stack:
        ends, choice = await _ends(Config(endpointing=Auto()), stack)
        assert ends is None
        assert "pip install" in choice.better
        with pytest.raises(StageError):
            await _ends(Config(endpointing=SmartTurnSettings()), stack)


@pytest.mark.parametrize("wrong", [{"noise_below": 0.9}, {"threads": 0}, {"answer_s": 5.0}])
def test_settings_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie"):
        SmartTurnSettings(**wrong)  # type: ignore[arg-type]
