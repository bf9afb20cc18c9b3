"""The voice gate behind the real detector: speech said by flite and read by people, and what is no speech."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from server.core.events import VoiceStarted, VoiceStopped
from server.core.media import MIC_FRAME_SAMPLES, MIC_RATE
from server.core.voicegate import FRAME_S, VoiceGate, level_dbfs
from server.vad.webrtc import WebrtcVadSettings
from tests.asr.spoken import SENTENCES, frames, noise, pause, people, say

Sound = npt.NDArray[np.float64]
ORIGIN_S = 1000.0


@dataclass
class Told:
    event: VoiceStarted | VoiceStopped
    at: float
    """seconds into the sound"""
    when: float
    """... at which it was told"""


async def gate(sound: Sound | bytes, voice_gate: VoiceGate | None = None) -> list[Told]:
    """What the gate tells about it, behind a fresh detector."""
    pcm = sound if isinstance(sound, bytes) else sound.clip(-32768, 32767).astype(np.int16).tobytes()
    voice_gate = voice_gate or VoiceGate()
    told: list[Told] = []
    async with WebrtcVadSettings().load() as engine:
        vad = engine.open()
        for i, frame in enumerate(frames(pcm), 1):
            events = voice_gate.feed(frame, vad.process(frame), ORIGIN_S + i * FRAME_S)
            told += [Told(event, event.at - ORIGIN_S, i * FRAME_S) for event in events]
    return told


def wave(pcm: bytes) -> Sound:
    return np.frombuffer(pcm, np.int16).astype(np.float64)


def bounds(sound: Sound, below_peak_db: float = 40.0) -> tuple[float, float]:
    """Seconds of the first and behind the last sample within so much of the peak."""
    loud = np.nonzero(np.abs(sound) > np.abs(sound).max() * 10 ** (-below_peak_db / 20))[0]
    return float(loud[0]) / MIC_RATE, float(loud[-1] + 1) / MIC_RATE


def tone(hz: float, seconds: float, dbfs: float) -> Sound:
    """A sine of that RMS level."""
    t = np.arange(round(seconds * MIC_RATE)) / MIC_RATE
    return np.sqrt(2) * 32768 * 10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * t)


def burst(seconds: float, dbfs: float, decay_s: float) -> Sound:
    """A cough: coloured noise that starts at once and dies away, in a quiet room."""
    hiss = np.convolve(wave(noise(seconds, dbfs, seed=3)), np.ones(6) / np.sqrt(6), mode="same")
    return np.concatenate([wave(pause(0.6)), hiss * np.exp(-np.arange(len(hiss)) / (decay_s * MIC_RATE))])


def voiced_s(told: list[Told]) -> float:
    """Length of the longest voice that was told of; one that never stopped counts as an hour."""
    longest, started = 0.0, None
    for item in told:
        if isinstance(item.event, VoiceStarted):
            started = item.at
        else:
            assert started is not None
            longest, started = max(longest, item.at - started), None
    return longest if started is None else 3600.0


@pytest.mark.parametrize("voice", ["slt", "rms"])
async def test_a_sentence_starts_and_ends_where_its_sound_does(voice: str) -> None:
    onsets, ends = [], []
    for text in SENTENCES:
        said = wave(pause(0.6) + say(voice, text) + pause(1.0))
        first, last = bounds(said)
        told = await gate(said)
        assert isinstance(told[0].event, VoiceStarted)
        assert isinstance(told[-1].event, VoiceStopped)
        onsets.append(told[0].at - first)
        ends.append(told[-1].at - last)
        assert told[0].when - told[0].at < 0.2  # before an overlap counts as one
        assert told[-1].when - told[-1].at == pytest.approx(0.1)
    assert np.abs(np.median(onsets)) <= 0.02
    assert np.abs(onsets).max() <= 0.06
    assert np.abs(np.median(ends)) <= 0.02
    assert max(ends) <= 0.04  # webrtcvad alone: 0.1 to 0.14
    assert min(ends) >= -0.1  # a stop's release after its silence may be too short to count


async def test_people_are_heard_to_their_end() -> None:
    for _, pcm in people():
        said = wave(pause(0.5) + pcm + pause(1.0))
        told = await gate(said)
        first, last = bounds(said, 25.0)  # their rooms are noisy
        assert told[0].at <= first + 0.1
        assert last - 0.12 <= told[-1].at <= bounds(said)[1] + 0.04


async def test_events_alternate_and_move_forward() -> None:
    told = await gate(b"".join(pause(0.4) + pcm for _, pcm in people()[:4]) + pause(1.0))
    assert [type(t.event) for t in told] == [VoiceStarted, VoiceStopped] * (len(told) // 2)
    assert [t.at for t in told] == sorted(t.at for t in told)
    assert all(t.at <= t.when for t in told)


async def test_a_pause_inside_speech_is_told() -> None:
    one = say("rms", SENTENCES[1])
    told = await gate(pause(0.5) + one + pause(0.3) + one + pause(0.5))
    first, last = bounds(wave(one))
    length = len(one) / 2 / MIC_RATE
    stops = [t.at for t in told if isinstance(t.event, VoiceStopped)]
    starts = [t.at for t in told if isinstance(t.event, VoiceStarted)]
    assert min(abs(at - (0.5 + last)) for at in stops) < 0.06
    assert min(abs(at - (0.8 + length + first)) for at in starts) < 0.06


@pytest.mark.parametrize("gain_db", [6.0, -10.0, -20.0])
async def test_loud_and_soft_speakers(gain_db: float) -> None:
    said = wave(say("rms", SENTENCES[4]) + pause(1.0)) * 10 ** (gain_db / 20)
    said = np.concatenate([wave(pause(0.6)), said])
    first, last = bounds(said, 20.0)
    told = await gate(said)
    assert abs(told[0].at - first) < 0.1
    assert abs(told[-1].at - last) < 0.15


async def test_a_soft_voice_soon_after_a_loud_one_is_heard() -> None:
    loud, soft = wave(say("slt", SENTENCES[0])), wave(say("rms", SENTENCES[1])) * 10 ** (-20 / 20)
    told = await gate(np.concatenate([wave(pause(0.5)), loud, wave(pause(1.0)), soft, wave(pause(0.5))]))
    begin = 1.5 + len(loud) / MIC_RATE
    assert any(isinstance(t.event, VoiceStarted) and t.at > begin for t in told)


@pytest.mark.parametrize("dbfs", [-55.0, -45.0])
async def test_speech_in_a_noisy_room(dbfs: float) -> None:
    said = wave(pause(3.0) + say("rms", SENTENCES[4]) + pause(1.0))
    first, last = bounds(said, 20.0)
    told = await gate(said + wave(noise(len(said) / MIC_RATE + 0.1, dbfs, seed=2))[: len(said)])
    assert abs(told[0].at - first) < 0.1
    assert abs(told[-1].at - last) < 0.15


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(np.concatenate([wave(pause(0.6)), wave(noise(5.0, -30.0, seed=5))]), id="hiss"),
        pytest.param(np.concatenate([wave(pause(0.6)), wave(noise(5.0, -18.0, seed=5))]), id="loud hiss"),
        pytest.param(wave(noise(5.0, -18.0, seed=6)), id="loud hiss from the beginning"),
        pytest.param(np.concatenate([wave(pause(0.6)), tone(200.0, 5.0, -20.0)]), id="hum of 200 Hz"),
        pytest.param(np.concatenate([wave(pause(0.6)), tone(50.0, 5.0, -20.0)]), id="hum of 50 Hz"),
    ],
)
async def test_steady_noises_are_over_before_they_count_as_an_interruption(sound: Sound) -> None:
    told = await gate(np.concatenate([sound, wave(pause(1.0))]))
    assert voiced_s(told) < 0.2
    assert sum(isinstance(t.event, VoiceStarted) for t in told) <= 1


@pytest.mark.parametrize("dbfs", [-12.0, -25.0])
async def test_a_cough_is_no_longer_than_it_sounds(dbfs: float) -> None:
    cough = burst(0.4, dbfs, 0.05)
    told = await gate(np.concatenate([cough, wave(pause(1.0))]))
    first, last = bounds(cough)
    assert voiced_s(told) < min(last - first + 0.04, 0.3)


async def test_clicks_do_not_start() -> None:
    sound = wave(pause(3.0))
    for i in range(4):
        sound[8000 + 9000 * i :][:80] = 20000.0 * (-1.0) ** np.arange(80)
    assert await gate(sound) == []


async def test_quiet_breathing_does_not_start() -> None:
    breath = np.sin(np.pi * np.arange(MIC_RATE) / MIC_RATE) * wave(noise(1.0, -52.0, seed=7))
    assert await gate(np.concatenate([wave(pause(0.5)), breath, wave(pause(0.5)), breath])) == []


def loud(vary: float = 0) -> bytes:
    """A frame at about -10 dBFS; `vary` in dB."""
    return np.full(MIC_FRAME_SAMPLES, round(10362 * 10 ** (vary / 20)), np.int16).tobytes()


def test_the_start_is_that_of_the_first_voiced_frame_and_one_frame_may_miss() -> None:
    gate = VoiceGate()
    pattern = [False, True, False, True, True]
    told = [gate.feed(loud(-3 * (i % 3)), speech, (i + 1) * FRAME_S) for i, speech in enumerate(pattern)]
    assert [e for events in told for e in events] == [VoiceStarted(pytest.approx(FRAME_S))]
    assert told[4]


def test_two_voiced_frames_are_no_voice() -> None:
    gate = VoiceGate()
    pattern = [True, True, False, False, False] * 5
    assert not any(gate.feed(loud(-3 * (i % 3)), s, (i + 1) * FRAME_S) for i, s in enumerate(pattern))


def test_a_hole_in_the_microphone_ends_the_voice_where_it_was_last_heard() -> None:
    gate = VoiceGate()
    for i in range(10):
        gate.feed(loud(-3 * (i % 3)), True, (i + 1) * FRAME_S)
    assert gate.speaking
    assert gate.feed(loud(), True, 5.0) == [VoiceStopped(pytest.approx(10 * FRAME_S))]
    told = [e for i in range(1, 5) for e in gate.feed(loud(-3 * (i % 3)), True, 5.0 + i * FRAME_S)]
    assert told == [VoiceStarted(pytest.approx(5.0 - FRAME_S))]


def test_a_sound_that_steps_in_and_stays_the_same_does_not_start() -> None:
    gate = VoiceGate()
    sound = [(bytes(640), False)] * 10 + [(loud(), True)] * 50
    assert not any(gate.feed(pcm, speech, (i + 1) * FRAME_S) for i, (pcm, speech) in enumerate(sound))


def test_the_quiet_end_of_a_voice_belongs_to_it_though_it_could_not_have_started_there() -> None:
    quiet = [(loud(-44 - i % 4), True) for i in range(10)]  # -54 to -57 dBFS
    silence = [(bytes(640), False)] * 10
    sound = [*quiet, *silence, *((loud(-20 - 3 * (i % 3)), True) for i in range(10)), *quiet, *silence]
    gate = VoiceGate()
    told = [e for i, (pcm, s) in enumerate(sound) for e in gate.feed(pcm, s, (i + 1) * FRAME_S)]
    assert told == [VoiceStarted(pytest.approx(20 * FRAME_S)), VoiceStopped(pytest.approx(40 * FRAME_S))]


@pytest.mark.parametrize(("pause_s", "heard"), [(0.5, False), (6.0, True)])
def test_a_loud_voice_hides_a_soft_one_only_for_a_while(pause_s: float, heard: bool) -> None:
    shout = [(loud(5 - 3 * (i % 3)), True) for i in range(10)]
    murmur = [(loud(-34 - i % 3), True) for i in range(10)]
    sound = [*shout, *[(bytes(640), False)] * round(pause_s / FRAME_S), *murmur]
    gate = VoiceGate()
    told = [e for i, (pcm, s) in enumerate(sound) for e in gate.feed(pcm, s, (i + 1) * FRAME_S)]
    assert sum(isinstance(e, VoiceStarted) for e in told) == (2 if heard else 1)


def test_levels_are_relative_to_full_scale() -> None:
    assert level_dbfs(np.full(320, -32768, np.int16).tobytes()) == pytest.approx(0.0)
    assert level_dbfs(noise(1.0, -30.0)) == pytest.approx(-30.0, abs=0.2)
    assert level_dbfs(bytes(640)) == -96.0
    assert level_dbfs(b"") == -96.0
