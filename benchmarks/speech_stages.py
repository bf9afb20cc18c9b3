"""The time that we add between the stages of a call, from boundary to boundary of the real server process.

What the models themselves take is emulated by servers that speak their protocols over HTTP, in this process; somebody
who talks is another (benchmarks/speech_caller.py). Every moment is time.monotonic(), one clock for all of them:

    asr_to_llm       the recogniser's server begins to send the final text -> the request reaches the model's server
    clause_to_tts    the model's server sends the token with which the first clause's end can be known
                     -> the request reaches the voice server
    pcm_to_timeline  the voice server sends its first sound -> it is on the call's timeline (`visavis.marks`)
    pcm_to_packet    ... -> the first packet in which it can be heard arrives at the caller, less the look-ahead
                     that the face is given (call.lead_ms)

Half of the turns are answered on words that were asked for in the pause before the turn was over, as calls mostly are
(provisional_to_llm); in the other half the recogniser has no words before the final ones. Beside it a process that
does nothing else sends HTTP requests here: what a hop costs on this machine at that moment (idle_request). And the
kernel tells how long the server waited for a core (server_waits): above 0.2 the machine was busy with other things.
..._alone is the delay less the time that the server's loop waited for a core within it; what this process, in which
the models are emulated, had to wait is still in it.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.figures import percentile, spread, value
from benchmarks.server import ROOT, Running, running
from benchmarks.speech_caller import SENTENCES
from tests.fakes import llm_server as llm
from tests.fakes import speech_server as tts

TURNS = 84
WARM_TURNS = 2  # one of each kind, in which everything happens for the first time
LEAD_MS = 40.0  # call.lead_ms
ASR_S, TOKEN_S, TOKENS_S, SOUND_S = 0.08, 0.25, 0.02, 0.15
"""what models take: a final text, the first token, each further one, the first sound"""
IDLE_EVERY_S = 0.25  # seconds
CLAUSE, PCM, ASKED, WORDS = "clause", "pcm", "asked", "words"

# Where the end of the first clause can be known is marked: in English with the blank that follows it, in Chinese with
# the mark itself, and a comma ends the first clause if enough stands before it.
REPLIES = (
    ("It", " is", " seven", " o'clock", ".", CLAUSE, " What", " else", "?"),
    ("现在", "是", "七", "点", "钟", CLAUSE, "。", "还有", "吗", "？"),
    ("Well", ",", " as", " far", " as", " I", " know", ",", CLAUSE, " it", " is", " seven", "."),
    ("Dr", ".", " Lee", " says", " 7", ".", "30", "!", CLAUSE, " She", " is", " never", " late", "."),
)


def reply(tokens: Sequence[str]) -> llm.Answer:
    steps: list[llm.Step] = [llm.Pause(TOKEN_S)]
    for token in tokens:
        steps += [llm.Note(CLAUSE)] if token == CLAUSE else [token, llm.Pause(TOKENS_S)]
    return llm.Answer(tuple(steps))


SOUND = tts.Answer((tts.Pause(SOUND_S), tts.Note(PCM), *tts.cut(tts.tone(1.0), 9600)))
"""long enough for each clause: a shorter one would be taken for a failure and asked for anew"""


class Notes(list[tuple[str, float]]):
    """Moments, and how long the server had waited for a core by then."""

    def __init__(self, waited: dict[float, float], pids: list[int]) -> None:
        """waited: time.monotonic() -> seconds, filled here. pids: the server's, once it is known."""
        super().__init__()
        self._waited = waited
        self._pids = pids

    def append(self, note: tuple[str, float]) -> None:
        super().append(note)
        self._waited[note[1]] = sum(_scheduled(pid)[1] for pid in self._pids)


class Recogniser:
    """OpenAI's transcription route."""

    def __init__(self, notes: list[tuple[str, float]]) -> None:
        self.notes = notes
        """when the words of an answer went out; an answer without words is none"""
        self.sentence = 0
        self.hasty = False
        """whether the words are known before the turn is over"""
        self._asked = 0

    def next(self, number: int) -> None:
        self.sentence, self.hasty, self._asked = number, number == 0, 0

    async def transcribe(self, request: web.Request) -> web.Response:
        await request.read()
        self._asked += 1
        await asyncio.sleep(ASR_S)
        known = self.hasty or self._asked > 1
        if known:
            self.notes.append((WORDS, time.monotonic()))
        return web.json_response({"text": SENTENCES[self.sentence] if known else ""})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    @asynccontextmanager
    async def listening(self, idle: list[float]) -> AsyncIterator[int]:
        """Its port; what comes to /idle goes into `idle` as milliseconds."""

        async def hop(request: web.Request) -> web.Response:
            now = time.monotonic()
            idle.append((now - float(request.query["at"])) * 1000)
            await request.read()
            return web.Response()

        app = web.Application()
        app.router.add_post("/v1/audio/transcriptions", self.transcribe)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/idle", hop)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


@dataclass
class Turn:
    """When what happened, in seconds of the one clock; the first time of each counts."""

    hasty: bool
    at: float
    moments: dict[str, float] = field(default_factory=dict)


def gather(
    turns: Sequence[Turn],
    words: Sequence[tuple[str, float]],
    model: Sequence[tuple[str, float]],
    voice: Sequence[tuple[str, float]],
    packets: Sequence[float],
    marks: Sequence[dict[str, Any]],
) -> None:
    """Put each moment into the turn in which it lies."""
    placed = [m["speech_end_s"] + m["steps_ms"]["placed"] / 1000 for m in marks if "placed" in m["steps_ms"]]
    named = [*words, *((f"llm {n}", t) for n, t in model), *((f"tts {n}", t) for n, t in voice)]
    named += [("packet", t) for t in packets] + [("placed", t) for t in placed]
    for i, turn in enumerate(turns):
        end = turns[i + 1].at if i + 1 < len(turns) else float("inf")
        for name, moment in sorted(named, key=lambda one: one[1]):
            if turn.at <= moment < end:
                turn.moments.setdefault(name, moment)


def delays(
    turns: Sequence[Turn], lead_ms: float, waited: Mapping[float, float] | None = None
) -> dict[str, list[float]]:
    """Figure -> milliseconds, one for each turn in which both ends were seen.

    waited: seconds at each moment; only delays between two of these are found then, less what was waited in them.
    """
    found: dict[str, list[float]] = {
        "asr_to_llm": [], "provisional_to_llm": [], "clause_to_tts": [], "pcm_to_timeline": [], "pcm_to_packet": []
    }  # fmt: skip
    for turn in turns:
        for figure, start, end, less_ms in (
            ("provisional_to_llm" if turn.hasty else "asr_to_llm", WORDS, f"llm {ASKED}", 0.0),
            ("clause_to_tts", f"llm {CLAUSE}", f"tts {ASKED}", 0.0),
            ("pcm_to_timeline", f"tts {PCM}", "placed", 0.0),
            ("pcm_to_packet", f"tts {PCM}", "packet", lead_ms),
        ):
            if start not in turn.moments or end not in turn.moments:
                continue
            first, last = turn.moments[start], turn.moments[end]
            if waited is None:
                found[figure].append((last - first) * 1000 - less_ms)
            elif first in waited and last in waited:
                found[figure].append((last - first - (waited[last] - waited[first])) * 1000 - less_ms)
    return found


async def measure(count: int = TURNS, settings: Sequence[str] = ()) -> None:
    """Print the figures of `count` turns."""
    waited, pids, idle = dict[float, float](), list[int](), list[float]()
    recogniser = Recogniser(Notes(waited, pids))
    answers = [reply(REPLIES[i // 2 % len(REPLIES)]) for i in range(count + WARM_TURNS)]
    async with (
        recogniser.listening(idle) as port,
        llm.llm_server(*answers, notes=Notes(waited, pids)) as model,
        tts.speech_server(SOUND, saved=["narrator"], notes=Notes(waited, pids)) as voice,
        running(
            *("asr.type=transcriptions", f"asr.base_url=http://127.0.0.1:{port}/v1"),
            *("llm.type=openai", f"llm.base_url={model.base_url}", "llm.model=fake-model"),
            *("llm.history_tokens=100000", "tts.type=cosyvoice", f"tts.base_url={voice.url}", "tts.voice=narrator"),
            *("render.type=testcard", f"call.lead_ms={LEAD_MS}", "personas.mia.opening=", *settings),
        ) as server,
        _idling(f"http://127.0.0.1:{port}/idle"),
    ):
        pids.append(server.pid)
        before = _scheduled(server.pid)
        turns, packets, marks = await _talk(server, recogniser, count + WARM_TURNS)
        after = _scheduled(server.pid)
    gather(turns, recogniser.notes, model.notes, voice.notes, packets, marks)
    found = delays(turns[WARM_TURNS:], LEAD_MS)
    spread("speech.idle_request_ms", "ms", idle)
    value("speech.server_waits", "s for a core / s of work", (after[1] - before[1]) / max(after[0] - before[0], 1e-9))
    for figure, milliseconds in found.items():
        spread(f"speech.{figure}_ms", "ms", milliseconds)
    for figure, milliseconds in delays(turns[WARM_TURNS:], LEAD_MS, waited).items():
        if milliseconds:
            spread(f"speech.{figure}_alone_ms", "ms", milliseconds)
    for figure in ("asr_to_llm", "clause_to_tts"):
        if found[figure] and idle:
            ratio = percentile(found[figure], 0.5) / percentile(idle, 0.5)
            value(f"speech.{figure}_hops", "of idle_request_ms, p50", ratio)


async def _talk(
    server: Running, recogniser: Recogniser, count: int
) -> tuple[list[Turn], list[float], list[dict[str, Any]]]:
    """The turns without their moments, the packets, the server's own marks."""
    turns: list[Turn] = []
    packets: list[float] = []
    marks: list[dict[str, Any]] = []
    process = await _python("-m", "benchmarks.speech_caller", server.address, str(count))
    assert process.stdout is not None
    try:
        while line := await process.stdout.readline():
            told = json.loads(line)
            match told.pop("what"):
                case "turn":
                    recogniser.next(told["sentence"])
                    turns.append(Turn(recogniser.hasty, told["at"]))
                case "packet":
                    packets.append(told["at"])
                case "marks":
                    marks.append(told)
                case "no answer":
                    print(f"no answer in turn {told['number']}", file=sys.stderr)
        if await process.wait():
            raise RuntimeError("the caller broke off; what it said is above")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return turns, packets, marks


def _scheduled(pid: int) -> tuple[float, float]:
    """Seconds that the process's first thread has worked, and has waited for a core though it could have worked."""
    try:
        worked, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (FileNotFoundError, ValueError):  # a kernel that does not count it
        return 0.0, 0.0
    return int(worked) / 1e9, int(waited) / 1e9


IDLE = """
import asyncio, sys, time
import aiohttp
async def main(url, every_s):
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.post(url, params={"at": repr(time.monotonic())}, data=bytes(1000)) as answer:
                await answer.read()
            await asyncio.sleep(every_s)
asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


@asynccontextmanager
async def _idling(url: str) -> AsyncIterator[None]:
    process = await _python("-c", IDLE, url, str(IDLE_EVERY_S))
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _python(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, env=dict(os.environ), stdout=asyncio.subprocess.PIPE
    )
