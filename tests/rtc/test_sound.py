"""Opus out and Opus in."""

import os
from fractions import Fraction

import anyio
import av
import numpy as np
import pytest
from aiortc.codecs.opus import OpusEncoder as StereoEncoder

from server.core.media import MIC_FRAME_BYTES
from server.rtc.microphone import Microphone, Resampler
from server.rtc.opus import PACKET_BYTES, OpusEncoder
from tests.rtc.pair import tone


def level(pcm: bytes) -> float:
    return float(np.sqrt(np.mean(np.frombuffer(pcm, "<i2").astype(float) ** 2)))


def sound(samples: int, rate: int, channels: int = 1, hz: float = 440.0) -> av.AudioFrame:
    wave = (16384 * np.sin(2 * np.pi * hz * np.arange(samples) / rate)).astype("<i2")
    layout = "mono" if channels == 1 else "stereo"
    frame = av.AudioFrame(format="s16", layout=layout, samples=samples)
    frame.planes[0].update(np.repeat(wave, channels).tobytes())
    frame.sample_rate = rate
    return frame


def test_one_packet_of_speech_size_for_each_20_ms() -> None:
    encoder = OpusEncoder()
    packets = [encoder.encode(tone(i)) for i in range(250)]
    kbps = sum(map(len, packets)) * 8 / 5 / 1000
    assert 15 < kbps < 45
    decoder = av.CodecContext.create("libopus", "r")
    frames = [f for p in packets for f in decoder.decode(av.Packet(p))]
    assert [f.samples for f in frames] == [960] * 250


def test_silence_is_encoded_once_and_the_voice_after_it_is_whole() -> None:
    encoder = OpusEncoder()
    sound = [tone(i) for i in range(25)] + [bytes(PACKET_BYTES)] * 50 + [tone(i) for i in range(25)]
    packets = [encoder.encode(pcm) for pcm in sound]
    assert len(set(packets[36:75])) == 1
    decoder = av.CodecContext.create("libopus", "r")
    decoder.format, decoder.layout, decoder.sample_rate = "s16", "mono", 48_000
    heard = [bytes(f.planes[0])[:PACKET_BYTES] for p in packets for f in decoder.decode(av.Packet(p))]
    assert max(level(pcm) for pcm in heard[30:75]) < 10
    # each packet after the silence sounds as its twin at the beginning does, from the first on
    for before, after in zip(heard[:25], heard[75:], strict=True):
        assert level(after) == pytest.approx(level(before), rel=0.1)


def test_an_odd_piece_of_sound_is_refused() -> None:
    with pytest.raises(ValueError, match="1920"):
        OpusEncoder().encode(bytes(PACKET_BYTES - 2))


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (48_000, 2), (44_100, 2), (16_000, 1), (8_000, 1)])
def test_any_sound_becomes_16_khz_mono(rate: int, channels: int) -> None:
    resampler = Resampler()
    frames = [pcm for _ in range(50) for pcm in resampler.push(sound(rate // 50, rate, channels))]
    assert 49 <= len(frames) <= 50
    assert {len(pcm) for pcm in frames} == {MIC_FRAME_BYTES}
    assert level(b"".join(frames[2:])) == pytest.approx(16384 / 2**0.5, rel=0.02)


def test_20_ms_in_are_20_ms_out_at_once() -> None:
    resampler = Resampler()
    assert [len(resampler.push(sound(960, 48_000))) for _ in range(20)] == [1] * 20
    assert [len(resampler.push(sound(2880, 48_000))) for _ in range(5)] == [3] * 5


async def test_a_microphone_may_change_its_format() -> None:
    microphone = Microphone()
    for rate, channels in ((48_000, 1), (44_100, 2), (16_000, 1)):
        for _ in range(5):
            microphone.push(sound(rate // 50, rate, channels))
    assert microphone.frames >= 14


async def test_stereo_packets_are_mixed_down() -> None:
    encoder, microphone = StereoEncoder(), Microphone()
    for i in range(20):
        frame = sound(960, 48_000, channels=2)
        frame.pts, frame.time_base = i * 960, Fraction(1, 48_000)
        for packet in encoder.encode(frame)[0]:
            microphone.decode(packet)
    microphone.close()
    frames = [frame async for frame in microphone]
    assert len(frames) >= 19
    assert level(frames[10].pcm) == pytest.approx(16384 / 2**0.5, rel=0.1)


async def test_what_is_not_opus_is_counted_and_forgotten() -> None:
    microphone, encoder = Microphone(), OpusEncoder()
    for length in (0, 1, 3, 40, 1400):
        microphone.decode(os.urandom(length) if length != 1 else b"\xff")
    bad = microphone.frames
    microphone.decode(encoder.encode(tone(0)))
    assert microphone.frames == bad + 1


async def test_a_slow_reader_loses_the_oldest() -> None:
    microphone = Microphone(limit=5)
    for i in range(8):
        microphone.push(sound(320, 16_000, hz=100.0 * (i + 1)))
    microphone.close()
    frames = [frame async for frame in microphone]
    assert len(frames) == 5
    assert microphone.overflow == 3
    assert frames[-1].pcm == Resampler().push(sound(320, 16_000, hz=800.0))[0]


async def test_a_reader_waits_and_is_told_of_the_end() -> None:
    microphone, heard = Microphone(), []

    async def read() -> None:
        heard.extend([frame async for frame in microphone])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        microphone.push(sound(320, 16_000))
        await anyio.wait_all_tasks_blocked()
        microphone.close()
    assert len(heard) == 1
    microphone.decode(OpusEncoder().encode(tone(0)))
    assert microphone.frames == 1
