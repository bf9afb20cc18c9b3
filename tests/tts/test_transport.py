"""PCM from a voice server to the call's packets: not a sample lost, doubled or moved, however it was cut."""

import random

import anyio
import pytest

from server.core.errors import StageError
from server.core.marks import Marks
from server.core.media import MEDIA_RATE, PACKET_SAMPLES, Clause, Samples, Speech, Voice
from server.core.timeline import Timeline
from server.stages.speak import MediaRate, speak
from tests.fakes.speech_server import Answer, cut, speech_server, tone
from tts.openai_speech import OpenAiSpeechSettings


async def packets(answers: list[Answer], clauses: list[Clause]) -> bytes:
    """What the call's audio track would send for these clauses, without the lead before them."""
    timeline = Timeline(lead_samples=0, margin_samples=0)
    timeline.begin(1)
    failures: list[StageError] = []
    given, source = anyio.create_memory_object_stream[Clause](len(clauses))
    out, pieces = anyio.create_memory_object_stream[Speech](4)
    async with (
        speech_server(*answers) as server,
        OpenAiSpeechSettings(base_url=f"{server.url}/v1").load() as voice,
        given,
        source,
        out,
        pieces,
        anyio.create_task_group() as tasks,
    ):
        for clause in clauses:
            given.send_nowait(clause)
        given.close()
        tasks.start_soon(speak, source, voice, Voice(), out, Marks(1), failures.append)
        async for piece in pieces:
            timeline.append(piece, Samples(0))
    assert not failures
    timeline.finish(1)
    sent = b""
    while not timeline.drained(Samples(len(sent) // 2)):
        sent += timeline.read(Samples(len(sent) // 2))
    assert timeline.statistics.underruns == 0
    return sent


def clauses(count: int) -> list[Clause]:
    return [Clause(i, f"Sentence {i} is here.", f"Sentence {i} is here. ", "en") for i in range(count)]


def sizes(seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.choice([1, 2, 3, 5, 639, 641, 4096, 16_384, rng.randrange(1, 40_000)]) for _ in range(60)]


@pytest.mark.parametrize("seed", range(4))
async def test_at_the_media_rate_every_sample_arrives(seed: int) -> None:
    voices = [tone(0.45 + 0.37 * i, MEDIA_RATE) for i in range(3)]
    headers = {"Content-Type": f"audio/pcm;rate={MEDIA_RATE}"}
    answers = [Answer(cut(pcm, *sizes(seed + i)), headers=headers) for i, pcm in enumerate(voices)]
    sent = await packets(answers, clauses(3))
    whole = b"".join(voices)
    assert sent[: len(whole)] == whole
    assert not any(sent[len(whole) :])
    assert len(sent) - len(whole) < 2 * PACKET_SAMPLES


@pytest.mark.parametrize("rate", [24_000, 22_050, 16_000])
async def test_at_another_rate_it_is_as_if_resampled_in_one_go(rate: int) -> None:
    pcm = tone(1.1, rate)
    answers = [Answer(cut(pcm, *sizes(rate)), headers={"Content-Type": f"audio/pcm;rate={rate}"})]
    (clause,) = clauses(1)
    expected = MediaRate().convert(Speech(clause, pcm, rate)).pcm
    sent = await packets(answers, [clause])
    assert sent[: len(expected)] == expected
    assert not any(sent[len(expected) :])
