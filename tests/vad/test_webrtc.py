"""The real detector, warmed: noise is no speech from the first frame on, speech is."""

import pytest

from server.core.protocols import VadSession
from server.vad.webrtc import WebrtcVadSettings
from tests.asr.spoken import SENTENCES, frames, noise, pause, say


async def session() -> VadSession:
    async with WebrtcVadSettings().load() as engine:
        return engine.open()


@pytest.mark.parametrize("dbfs", [-50.0, -40.0, -30.0])
async def test_steady_noise_is_no_speech_from_the_first_frame_on(dbfs: float) -> None:
    vad = await session()
    assert not any(vad.process(frame) for frame in frames(noise(1.0, dbfs, seed=1)))


async def test_speech_is_heard_and_sessions_adapt_alone() -> None:
    loud, fresh, quiet = await session(), await session(), await session()
    for frame in frames(noise(2.0, -15.0)):
        loud.process(frame)
    said = frames(say("slt", SENTENCES[0]))
    assert sum(fresh.process(frame) for frame in said) > 0.5 * len(said)
    assert not any(quiet.process(frame) for frame in frames(pause(0.5)))


async def test_a_frame_of_another_length_is_refused() -> None:
    vad = await session()
    with pytest.raises(ValueError, match="640"):
        vad.process(bytes(320))


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="mode"):
        WebrtcVadSettings(mode=4)
