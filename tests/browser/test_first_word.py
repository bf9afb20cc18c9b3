"""The first word of a reply in real Chromium: the page plays what the voice made, from its first sound on."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.async_api import Page

from benchmarks import chromium
from benchmarks.call import page, place_call
from benchmarks.server import running
from benchmarks.utterances import compose
from server.core.chunker import Chunker
from server.core.errors import StageError
from server.core.marks import Marks
from server.core.media import MEDIA_RATE, Clause, Speech, Voice
from server.stages.speak import speak
from tests.browser.test_conversation import until
from tests.fakes.llm_server import llm_server, says
from tts.flite import FliteSettings

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING),
]

SETTINGS = ("personas.mia.opening=", "render.type=still", "tts.type=flite")
RECORDER = Path(__file__).with_name("recorder.js")
FIRST = MEDIA_RATE * 150 // 1000  # the beginning that is judged
WHOLE = MEDIA_RATE // 2  # by this much of the sentence its place is found
SLACK = MEDIA_RATE * 40 // 1000  # the jitter buffer may stretch the voice

Sound = NDArray[np.float64]


async def made(text: str) -> Sound:
    """The first clause as the server places it in time, 48 kHz."""
    clauses = Chunker("en")
    first = (clauses.feed(text) + clauses.flush())[0]
    given, source = anyio.create_memory_object_stream[Clause](1)
    out, pieces = anyio.create_memory_object_stream[Speech](50)
    failures: list[StageError] = []
    async with FliteSettings().load() as tts, given, source, out, pieces:
        given.send_nowait(first)
        given.close()
        await speak(source, tts, Voice("slt"), out, Marks(1), failures.append)
        pcm = b"".join([piece.pcm async for piece in pieces])
    assert not failures
    return np.frombuffer(pcm, "<i2").astype(np.float64)


class Likeness(NamedTuple):
    """Of what was played to what was made."""

    whole: float
    """correlation of the sentence's first half second"""
    first: float
    """... of its first 150 ms"""
    faintest_db: float
    """how much fainter the faintest 10 ms of those were played than the rest, both as they were made; silence and
    what is 30 dB below the loudest of them left out"""
    at: int
    """sample of the recording in which it begins"""


def compare(recording: Sound, wanted: Sound) -> Likeness:
    whole, at = best(recording, wanted[:WHOLE])
    start = max(at - SLACK, 0)
    near = recording[start : at + FIRST + SLACK]
    first, offset = best(near, wanted[:FIRST])
    played, beginning = powers(recording[start + offset :]), powers(wanted)
    rest = power(recording[at + FIRST : at + WHOLE]) / power(wanted[FIRST:WHOLE])
    faintest_db = 10 * np.log10((played / beginning / rest)[beginning > beginning.max() / 1000].min())
    return Likeness(whole, first, float(faintest_db), start + offset)


def powers(sound: Sound) -> Sound:
    """Of each 10 ms of the beginning."""
    block = MEDIA_RATE // 100
    return np.array([power(sound[at : at + block]) for at in range(0, FIRST, block)])


def audible(sound: Sound) -> int:
    """Its first sample that is not silence (the closure of a "p" is)."""
    return int(np.argmax(np.abs(sound) > np.abs(sound[:FIRST]).max() / 30))


def power(sound: Sound) -> float:
    return float(np.mean(sound**2)) + 1e-3


def best(recording: Sound, wanted: Sound) -> tuple[float, int]:
    """How well it fits (normalised cross-correlation: 1 if it is the same but for gain), and where that is best."""
    size = 1 << (len(recording) + len(wanted)).bit_length()
    products = np.fft.irfft(np.fft.rfft(recording, size) * np.conj(np.fft.rfft(wanted, size)), size)
    places = len(recording) - len(wanted) + 1
    squares = np.concatenate([[0.0], np.cumsum(recording**2)])
    energy = squares[len(wanted) :] - squares[: -len(wanted)]
    fit = products[:places] / np.sqrt((energy + 1e5 * len(wanted) / 1000) * np.sum(wanted**2))
    at = int(np.argmax(fit))
    return float(fit[at]), at


def survived(likeness: Likeness) -> bool:
    return likeness.whole > 0.6 and likeness.first > 0.7 and likeness.faintest_db > -8.0


async def taken(tab: Page) -> Sound:
    data = base64.b64decode(await tab.evaluate("recorder.take()"))
    return np.frombuffer(data, "<i2").astype(np.float64)


def assert_survived(recording: Sound, wanted: Sound) -> None:
    likeness = compare(recording, wanted)
    assert survived(likeness), likeness
    # The measure notices what it is there for: the first 40 ms that sound swallowed, or 80 faded in.
    for gain in (np.zeros(MEDIA_RATE // 25), np.linspace(0, 1, MEDIA_RATE * 2 // 25) ** 2):
        spoilt = recording.copy()
        at = likeness.at + audible(wanted)
        spoilt[at : at + len(gain)] *= gain
        assert not survived(compare(spoilt, wanted)), compare(spoilt, wanted)


@asynccontextmanager
async def recorded(microphone: Path | None, *settings: str) -> AsyncIterator[Page]:
    async with running(*SETTINGS, *settings) as server, page(server, microphone) as tab:
        await tab.add_script_tag(path=str(RECORDER))
        await place_call(tab)
        await tab.evaluate("recorder.start()")
        yield tab


SAY = "text => document.querySelector('talking-head').say(text)"


async def test_after_silence() -> None:
    async with recorded(None, "llm.type=scripted") as tab:
        for text in ("Peter opened the big window.", "I have never seen it before."):
            wanted = await made(text)
            for last in (False, True):  # once more, should the machine have been too busy to play it without a gap
                already = await tab.evaluate("recorder.seconds")
                await until(tab, f"recorder.seconds > {already + 2.5}")
                sounds = len(await tab.evaluate("bench.voice"))
                await tab.evaluate(SAY, text)
                await until(tab, f"bench.voice.length >= {sounds + 2}")
                recording = (await taken(tab))[int(already * MEDIA_RATE) :]
                if last or survived(compare(recording, wanted)):
                    assert_survived(recording, wanted)
                    break


async def test_after_a_barge_in(tmp_path: Path) -> None:
    answer = "Tigers are big cats with stripes."
    microphone = tmp_path / "microphone.wav"
    compose(microphone, ["please stop that now"], [12.0], lead_s=7.5)
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen " * 4
    async with llm_server(says(answer)) as llm:
        model = ("llm.type=openai", f"llm.base_url={llm.base_url}", "llm.model=test")
        async with recorded(microphone, *model) as tab:
            await tab.evaluate(SAY, long.strip())
            await until(tab, "head.transcript.some(line => line.role === 'user' && line.final)", 40)
            await until(
                tab, "head.transcript.filter(line => line.role === 'assistant' && line.final).length >= 2", 40
            )
            events = await tab.evaluate("bench.voice")
            mic = await tab.evaluate("bench.mic")
            recording = await taken(tab)
    # It was a barge-in: the person began while the face spoke, and it fell silent.
    person = mic[0]["on"]
    assert any("off" in event and person < event["off"] < person + 2.0 for event in events), (mic, events)
    assert_survived(recording, await made(answer))
