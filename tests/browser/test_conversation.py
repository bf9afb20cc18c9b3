"""The whole product: real Chromium, the real server with its workers, a spoken WAV as the microphone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from benchmarks import chromium
from benchmarks.call import page, place_call
from benchmarks.server import Running, running
from benchmarks.utterances import compose
from tests.fakes.llm_server import Answer, Die, llm_server, says

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING),
]

SILENT = "personas.mia.opening="
SCRIPTED = (SILENT, "llm.type=scripted", "render.type=still")  # the InsTaG face: test_face.py


@asynccontextmanager
async def call(
    folder: Path, *settings: str, says: tuple[str, ...] = (), gaps_s: tuple[float, ...] = (), lead_s: float = 3.0
) -> AsyncIterator[tuple[Running, Page]]:
    """A server and a page in a call in which the person says these things."""
    microphone = None
    if says:
        microphone = folder / "microphone.wav"
        compose(microphone, says, gaps_s, lead_s)
    async with running(*settings) as server, page(server, microphone) as tab:
        await place_call(tab, frames={"strips": None})
        yield server, tab


async def until(tab: Page, expression: str, seconds: float = 30.0) -> Any:
    """The expression's value once it is truthy; `head` is the element."""
    handle = await tab.wait_for_function(
        f"() => {{ const head = document.querySelector('talking-head'); return {expression}; }}",
        timeout=seconds * 1000,
    )
    return await handle.json_value()


async def lines(tab: Page, role: str) -> list[str]:
    transcript = await tab.evaluate("document.querySelector('talking-head').transcript")
    return [line["text"].strip() for line in transcript if line["role"] == role]


SAID = "head.transcript.filter(line => line.role === '{}' && line.final).length >= {}"


async def test_a_spoken_question_is_answered_aloud_by_a_moving_face(tmp_path: Path) -> None:
    async with call(tmp_path, *SCRIPTED, says=("what is seven times eight",), gaps_s=(15.0,)) as (_, tab):
        await until(tab, SAID.format("assistant", 1))
        question = (await lines(tab, "user"))[0]
        assert any(word in question for word in ("seven", "times", "eight"))
        assert (await lines(tab, "assistant"))[0]
        await until(tab, "bench.voice.length >= 2")
        bench = await tab.evaluate("bench")
        assert bench["voice"][0]["on"] > bench["mic"][0]["on"]
        assert len(bench["frames"]) > 50
        assert not bench["wrong"]


async def test_speaking_over_the_face_interrupts_it(tmp_path: Path) -> None:
    async with call(
        tmp_path, *SCRIPTED, "tts.type=tone", "tts.clause_s=12",
        says=("tell me what you can do", "please stop that now"), gaps_s=(4.5, 8.0),
    ) as (_, tab):  # fmt: skip
        await until(tab, SAID.format("user", 2))
        whole = await tab.evaluate("bench.voice")
        (first_on, first_off) = (whole[0]["on"], whole[1]["off"])
        second = (await tab.evaluate("bench.mic"))[2]["on"]
        assert first_on < second < first_off < second + 0.8
        # Half a tone was heard, so only a part of the sentence counts as said.
        assert (await lines(tab, "assistant"))[0]


async def test_without_a_microphone_one_writes(tmp_path: Path) -> None:
    async with running(*SCRIPTED) as server, page(server, None) as tab:
        await tab.evaluate("document.querySelector('talking-head').send('hello, what is your name?')")
        await until(tab, SAID.format("assistant", 1))
        assert (await lines(tab, "user"))[0] == "hello, what is your name?"


@pytest.mark.parametrize("dies", ["render", "asr", "flite"])
async def test_a_killed_worker_is_back_and_the_call_goes_on(tmp_path: Path, dies: str) -> None:
    async with call(
        tmp_path, *SCRIPTED, says=("what day is it today", "what is seven times eight"), gaps_s=(9.0, 15.0)
    ) as (server, tab):
        await until(tab, SAID.format("assistant", 1))
        victims = [pid for name, pid in server.workers().items() if dies in name]
        assert len(victims) == 1
        os.kill(victims[0], signal.SIGKILL)
        shown = await tab.evaluate("bench.frames.length")
        # What the recogniser makes of it on a busy machine is not the point: it hears, and she answers.
        await until(tab, SAID.format("assistant", 2))
        assert (await lines(tab, "user"))[1]
        assert (await lines(tab, "assistant"))[1]
        await until(tab, f"bench.frames.length > {shown} + 50")


async def written(tab: Page, text: str, answers: int) -> str:
    await tab.evaluate("text => document.querySelector('talking-head').send(text)", text)
    await until(tab, SAID.format("assistant", answers))
    return (await lines(tab, "assistant"))[-1]


@pytest.mark.parametrize(
    ("first", "heard"),
    [
        ([Answer(status=500)] * 2, "language model"),  # the client asks once more
        ([says("The answer ", "is that ", Die())], "train of thought"),
        ([Answer(status=401)], "refused"),
    ],
    ids=["down", "dies in mid-sentence", "refuses"],
)
async def test_a_language_model_that_fails_is_excused_and_the_call_goes_on(
    tmp_path: Path, first: list[Answer], heard: str
) -> None:
    async with llm_server(*first, says("All ", "is ", "well ", "again.")) as llm:
        settings = (SILENT, "llm.type=openai", f"llm.base_url={llm.base_url}", "llm.model=test")
        async with call(tmp_path, *settings) as (_, tab):
            assert heard in await written(tab, "hello", 1)
            assert await written(tab, "and now", 2) == "All is well again."


async def test_fifty_calls_leave_nothing_behind(tmp_path: Path) -> None:
    async with running(*SCRIPTED) as server, page(server, None) as tab:

        async def rounds(count: int) -> None:
            for _ in range(count):
                await place_call(tab)
                await tab.evaluate("bench.hangUp()")

        await rounds(10)
        before, files = server.resident_mb(), await settled(lambda: open_files(server.pid))
        await rounds(50)
        after, files_after = server.resident_mb(), await settled(lambda: open_files(server.pid))
        assert files_after <= files + 2
        assert set(after) == set(before)
        assert sum(after.values()) - sum(before.values()) < 20


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def settled(count: Callable[[], int]) -> int:
    """The count once it has not changed for half a second."""
    last, same = count(), 0
    for _ in range(100):
        await asyncio.sleep(0.1)
        same = same + 1 if count() == last else 0
        last = count()
        if same == 5:
            break
    return last
