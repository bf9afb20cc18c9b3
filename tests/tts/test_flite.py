"""flite: numbers, voices, what happens to a worker that dies or hangs."""

import os
import signal
from contextlib import aclosing

import anyio
import numpy as np
import pytest

from server.core.errors import StageError, WorkerLost
from server.core.media import Voice
from tests.tts.conftest import clause, hear, peak, said, seconds, timeline
from tts.flite import VOICES, FliteSettings
from tts.remote import RemoteVoice
from tts.visemes import CMU


def cpu_s(voice: RemoteVoice) -> float:
    """Processor time of the voice's worker so far."""
    with open(f"/proc/{voice.worker.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_number_is_one_word_of_the_text(flite: RemoteVoice) -> None:
    text = 'I paid $12.50 on May 3rd, for 1,234 "apples"; e.g. a café’s.'
    assert said(await hear(flite, clause(text))) == [
        "I", "paid", "$12.50", "on", "May", "3rd", "for", "1,234", "apples", "e.g", "a", "café’s",
    ]  # fmt: skip


@pytest.mark.parametrize("name", VOICES)
async def test_every_voice_speaks_with_known_phones(flite: RemoteVoice, name: str) -> None:
    text = "The quick brown fox jumps over the lazy dog, and I enjoyed watching those two young boys measure oil."
    pieces = await hear(flite, clause(text), Voice(name))
    phones, words = timeline(pieces)
    assert {phone.symbol for phone in phones} <= set(CMU)
    assert len(words) == len(text.split())
    assert 4 < seconds(pieces) < 9
    # Word timings are true: the sound between the first and the last word is nearly all of it.
    assert phones[0].symbol == phones[-1].symbol == "pau"
    assert words[0].start == phones[0].end


async def test_voices_differ_and_an_unknown_one_is_the_default(
    flite: RemoteVoice, caplog: pytest.LogCaptureFixture
) -> None:
    text = clause("Good morning.")
    length = {name: seconds(await hear(flite, text, Voice(name))) for name in ("slt", "rms", "nobody", "")}
    assert length["slt"] != length["rms"]
    assert length["nobody"] == length[""] == length["slt"]
    await hear(flite, text, Voice("nobody"))
    assert [record.getMessage() for record in caplog.records] == ["no voice is named 'nobody'; 'slt' speaks"]


async def test_text_that_it_would_leave_silent_is_refused(flite: RemoteVoice) -> None:
    with pytest.raises(StageError) as error:
        await hear(flite, clause("你好", "zh"))
    assert (error.value.stage, error.value.code, error.value.retryable) == ("tts", "tts_language", False)
    with pytest.raises(StageError) as error:
        await hear(flite, clause("word " * 500))
    assert error.value.code == "tts_text_too_long"


async def test_a_killed_worker_is_back_for_the_next_clause(flite: RemoteVoice) -> None:
    before = await hear(flite, clause("Good morning."))
    for _ in range(2):
        assert flite.worker.pid is not None
        os.kill(flite.worker.pid, signal.SIGKILL)
        assert said(await hear(flite, clause("Good morning."))) == said(before)


@pytest.mark.parametrize("name", VOICES)
async def test_all_voices_are_about_as_loud(flite: RemoteVoice, name: str) -> None:
    pieces = await hear(
        flite, clause("The weather was warm, so we shared coffee and jokes by the pool."), Voice(name)
    )
    pcm = np.concatenate([np.frombuffer(p.pcm, np.int16) for p in pieces]) / 32768
    power = (pcm[: len(pcm) // 160 * 160].reshape(-1, 160) ** 2).mean(1)
    speaking = power[power > power.max() / 1000]
    assert -21.5 < 10 * np.log10(speaking.mean()) < -17  # dBFS
    assert np.abs(pcm).max() < 0.99


async def test_death_in_the_middle_of_a_clause_is_told(flite: RemoteVoice) -> None:
    async with aclosing(flite.say(clause("On and on it goes. " * 40), Voice())) as pieces:
        await anext(pieces)
        assert flite.worker.pid is not None
        os.kill(flite.worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost) as error:
            async for _ in pieces:
                pass
    assert error.value.stage == "tts"
    assert peak(await hear(flite, clause("Good morning."))) > 3000


async def test_a_clause_that_is_not_wanted_any_more_is_not_made(flite: RemoteVoice) -> None:
    long = clause("On and on it goes. " * 40)
    began = cpu_s(flite)
    await hear(flite, long)
    whole = cpu_s(flite) - began
    began = cpu_s(flite)
    for _ in range(3):
        async with aclosing(flite.say(long, Voice())) as pieces:
            await anext(pieces)
    await hear(flite, clause("Yes."))
    # The text is analysed before the first sound, and that cannot be broken off.
    assert cpu_s(flite) - began < 2 * whole


async def test_calls_take_turns(flite: RemoteVoice) -> None:
    """The clauses of three calls at once, each whole and unmixed."""
    texts = ["One two three.", "Good morning to you all.", "Certainly."]
    heard: dict[str, list[str]] = {}

    async def call(text: str) -> None:
        for _ in range(3):
            heard[text] = said(await hear(flite, clause(text)))

    async with anyio.create_task_group() as calls:
        for text in texts:
            calls.start_soon(call, text)
    assert heard == {text: text.rstrip(".").split() for text in texts}


async def test_a_hung_worker_does_not_hang_the_reply(flite: RemoteVoice) -> None:
    async with FliteSettings(first_s=0.3).load() as hung:
        assert hung.worker.pid is not None
        os.kill(hung.worker.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StageError) as error:
                await hear(hung, clause("Good morning."))
        finally:
            os.kill(hung.worker.pid, signal.SIGCONT)
        assert (error.value.stage, error.value.code) == ("tts", "tts_slow")
        assert said(await hear(hung, clause("Yes."))) == ["Yes"]


async def test_a_voice_that_is_not_there_is_named(flite: RemoteVoice) -> None:
    with pytest.raises(StageError, match="no voice 'mia' here; it has slt, rms") as error:
        async with FliteSettings(voice="mia").load():
            pass
    assert error.value.stage == "tts"
