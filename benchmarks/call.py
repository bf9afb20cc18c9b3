"""The figures of a call: real Chromium against the real server, a spoken WAV as the microphone.

Speech ends at the last sample within 40 dB of its peak; audible is the first sample above -50 dBFS at an AudioWorklet
behind the voice. The microphone is heard by the same kind of worklet in the same audio clock, so that both ends of a
measurement are read off one scale; browser processing of the microphone is off.
"""

import asyncio
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from benchmarks import chromium
from benchmarks.figures import percentile, spread, value
from benchmarks.server import Running, running
from benchmarks.utterances import Utterance, compose

TAP = Path(__file__).with_name("tap.js")
QUIET = ("personas.mia.opening=", "turns.endpoint_fixed=true")
AUDIBLE = 10 ** (-50 / 20)
MIC_THRESHOLD = 0.5 * 10 ** (-40 / 20)  # 40 dB below the peak that utterances.say writes
QUESTIONS = (
    "what time is it",
    "what is seven times eight",
    "how are you today",
    "what day is it today",
    "thank you very much",
)


@asynccontextmanager
async def page(server: Running, microphone: Path | None) -> AsyncIterator[Page]:
    """Our page, with the measuring ears. Without a file the person is silent (Chromium's own microphone beeps)."""
    async with AsyncExitStack() as stack:
        if microphone is None:
            microphone = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "silence.wav"
            compose(microphone, [], [], lead_s=1.0)
        browser = await stack.enter_async_context(chromium.launch(microphone))
        # The page's own animations would be measured too; its policy would keep our worklet out.
        tab = await browser.new_page(reduced_motion="reduce", bypass_csp=True)
        await tab.goto(server.address)
        await tab.add_script_tag(path=str(TAP))
        yield tab


async def place_call(
    tab: Page,
    mic_quiet: float = 0.6,
    voice_quiet: float = 0.3,
    frames: Any = None,
    voice_threshold: float = AUDIBLE,
) -> Any:
    return await tab.evaluate(
        "options => bench.call(options)",
        {
            "micThreshold": MIC_THRESHOLD,
            "micQuiet": mic_quiet,
            "voiceThreshold": voice_threshold,
            "voiceQuiet": voice_quiet,
            "frames": frames,
        },
    )


def onsets(events: list[dict[str, float]]) -> list[float]:
    return [e["on"] for e in events if "on" in e]


@asynccontextmanager
async def questions(n: int, *settings: str) -> AsyncIterator[tuple[Running, Page, list[Utterance]]]:
    """A call, just begun, in which the person asks `n` questions, eight seconds apart or so."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "questions.wav"
        spoken = compose(wav, [QUESTIONS[i % len(QUESTIONS)] for i in range(n)], [6.5] * n, lead_s=4.0)
        async with running(*QUIET, "llm.type=scripted", *settings) as server, page(server, wav) as tab:
            await place_call(tab, frames={"strips": None})
            yield server, tab, spoken


async def response(n: int = 40) -> None:
    """call.response_ms, and call.video_fps and call.cpu over the same call."""
    async with questions(n) as (server, tab, spoken):
        began, before = time.monotonic(), server.cpu_s()
        await asyncio.sleep(spoken[-1].end_s + 5.0)
        after, took = server.cpu_s(), time.monotonic() - began
        bench = await tab.evaluate("bench")
    spread("call.response_ms", "ms", _responses(spoken, bench))
    spread("call.video_fps", "1/s", _speaking_fps(bench))
    for role in ("server", "render", "others"):
        value(f"call.cpu.{role}", "CPU s/s", (after[role] - before[role]) / took)


async def loop_lag(n: int = 8) -> None:
    """call.loop_lag_ms during a call, and call.loop_lag_idle_ms in a process that does nothing else beside it."""
    async with questions(n, "call.measure_lag=true") as (server, _, spoken):
        idle = asyncio.create_task(_idle_lag(spoken[-1].end_s))
        await asyncio.sleep(spoken[-1].end_s + 3.0)
        lag = await asyncio.to_thread(_metrics, server)
    _print_lag("call.loop_lag_ms", lag)
    _print_lag("call.loop_lag_idle_ms", await idle)


def _responses(spoken: list[Utterance], bench: dict[str, Any]) -> list[float]:
    """Milliseconds from the end of each utterance to the next sound of the face."""
    heard, voice = onsets(bench["mic"]), onsets(bench["voice"])
    if len(heard) != len(spoken):
        raise RuntimeError(f"the microphone heard {len(heard)} utterances of {len(spoken)}: {bench['mic']}")
    delays = []
    for i, (onset, utterance) in enumerate(zip(heard, spoken, strict=True)):
        end = onset + utterance.end_s - utterance.start_s
        limit = heard[i + 1] if i + 1 < len(heard) else float("inf")
        answer = next((v for v in voice if onset < v < limit), None)
        if answer is None:
            print(f"no answer to {utterance.text!r}", file=sys.stderr)
        else:
            delays.append((answer - end) * 1000)
    return delays


def _speaking_fps(bench: dict[str, Any]) -> list[float]:
    """Pictures shown per second, over each whole second of each reply."""
    origin = percentile(bench["clock"], 0.5)
    shown = [f["shown"] for f in bench["frames"]]
    rates = []
    for start, end in _sounds(bench["voice"]):
        first, last = start * 1000 + origin, end * 1000 + origin
        inside = [t for t in shown if first <= t <= last]
        if last - first > 1000 and len(inside) > 2:
            rates.append((len(inside) - 1) / (inside[-1] - inside[0]) * 1000)
    return rates


def _sounds(events: list[dict[str, float]]) -> list[tuple[float, float]]:
    sounds, on = [], None
    for event in events:
        if "on" in event:
            on = event["on"]
        elif on is not None:
            sounds.append((on, event["off"]))
            on = None
    return sounds


async def barge_in(n: int = 20) -> None:
    """call.barge_in_ms: first sample of the person's speech over a tone reply -> the last sample of the tone."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "barge.wav"
        texts = ["tell me what you can do", *(["please stop that now", "wait i have a question"] * n)[:n]]
        spoken = compose(wav, texts, [4.5] * len(texts), lead_s=4.0)
        async with (
            running(*QUIET, "llm.type=scripted", "tts.type=tone", "tts.clause_s=20") as server,
            page(server, wav) as tab,
        ):
            await place_call(tab, mic_quiet=0.6, voice_quiet=0.1)
            await asyncio.sleep(spoken[-1].end_s + 3.0)
            bench = await tab.evaluate("bench")
        heard, sounds = onsets(bench["mic"]), _sounds(bench["voice"])
        delays = []
        for onset in heard[1:]:
            over = next(((a, b) for a, b in sounds if a < onset < b), None)
            if over is None:
                print(f"nobody spoke when the person did, at {onset:.2f} s", file=sys.stderr)
            else:
                delays.append((over[1] - onset) * 1000)
        spread("call.barge_in_ms", "ms", delays)


STRIPS = [16 / 512, 480 / 512]  # of the test card: the frame counter, and the bar that shows the sound
LIT = 128
COUNTER_BITS = 16


async def skew(seconds: int = 60) -> None:
    """call.av_skew_ms: the test card's pictures against the beeps they belong to, a figure for each second.

    Positive: the picture is late. The card shows its own frame number and, from left to right, when within the
    frame's 40 ms the voice it was given is loud: the media time of each beep's first sample, to a third of a
    millisecond. The worklet tells when that sample was heard; requestVideoFrameCallback when each picture was shown.
    """
    beeps = ("tts.type=tone", f"tts.clause_s={seconds}", "tts.beep_s=0.12", "tts.pause_s=0.88")
    async with (
        running(*QUIET, "llm.type=scripted", "render.type=testcard", *beeps) as server,
        page(server, None) as tab,
    ):
        await place_call(tab, voice_quiet=0.2, frames={"strips": STRIPS}, voice_threshold=0.05)
        await tab.evaluate("document.querySelector('talking-head').say('beep beep beep')")
        await asyncio.sleep(seconds + 2)
        bench = await tab.evaluate("bench")
    spread("call.av_skew_ms", "ms", [abs(s) for s in _skews(bench)])


def _skews(bench: dict[str, Any]) -> list[float]:
    origin = percentile(bench["clock"], 0.5)
    heard = [on * 1000 + origin for on in onsets(bench["voice"])]
    frames = [(_counter(f["rows"][0]), f["rows"][1], f["shown"]) for f in bench["frames"]]
    skews = []
    for (before, bar_before, _), (index, bar, shown) in itertools.pairwise(frames):
        lit = [level > LIT for level in bar]
        if index != before + 1 or bar_before[-1] > LIT or True not in lit:
            continue
        onset_ms = (index + lit.index(True) / len(lit)) * 40.0  # media time of the beep's first sample
        audible = min(heard, key=lambda t: abs(t - shown), default=None)
        if audible is None or abs(audible - shown) > 400:
            continue
        near = [s - i * 40.0 for i, _, s in frames if abs(i - index) <= 12]
        skews.append(statistics.median(near) - (audible - onset_ms))
    return skews


def _counter(row: list[int]) -> int:
    step = len(row) / COUNTER_BITS
    bits = [row[int((b + 0.5) * step)] > LIT for b in range(COUNTER_BITS)]
    return sum(bit << (COUNTER_BITS - 1 - b) for b, bit in enumerate(bits))


async def connect(n: int = 20) -> None:
    """call.connect_ms: microphone granted -> first video frame."""
    async with running(*QUIET, "llm.type=scripted") as server, page(server, None) as tab:
        times = []
        for _ in range(n):
            timings = await place_call(tab)
            times.append(timings["firstFrame"] - timings["microphone"])
            await tab.evaluate("bench.hangUp()")
        spread("call.connect_ms", "ms", times)


async def processes() -> None:
    """call.start_s (warm), call.stop_s, call.worker_back_s (the slowest of the workers)."""
    async with running("llm.type=scripted", warm_up=True):
        pass  # warms the file cache
    async with running("llm.type=scripted", warm_up=True) as server:
        value("call.start_s", "s", server.start_s)
        back = []
        for name, pid in server.workers().items():
            os.kill(pid, signal.SIGKILL)
            back.append(await _back(server, name, pid))
        value("call.worker_back_s", "s", max(back))
        value("call.stop_s", "s", await server.stop())


async def _back(server: Running, name: str, old: int) -> float:
    """Seconds until the worker of that name has a new process that says it is ready."""
    began = time.monotonic()
    while time.monotonic() - began < 15:
        await asyncio.sleep(0.02)
        ready = (await asyncio.to_thread(_health, server)).get("workers", {})
        if server.workers().get(name, old) != old and all(ready.values()):
            return time.monotonic() - began
    raise RuntimeError(f"{name} did not come back")


def _health(server: Running) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.address}/health", timeout=5) as answer:
        return dict(json.loads(answer.read()))


def _metrics(server: Running) -> dict[str, float]:
    with urllib.request.urlopen(f"{server.address}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(number) for name, _, number in (line.partition(" ") for line in lines)}


async def _idle_lag(seconds: float) -> dict[str, float]:
    """The same sleeper in a process that does nothing else: what the machine itself adds."""
    code = (
        "import anyio, server.looplag\n"
        "async def main():\n"
        "    lag = server.looplag.LoopLag()\n"
        f"    with anyio.move_on_after({seconds}): await lag.run()\n"
        "    print(*(f'visavis_loop_lag_ms_{k} {v}' for k, v in lag.figures().items()), sep='\\n')\n"
        "anyio.run(main)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    pairs = (line.partition(" ") for line in output.decode().splitlines())
    return {name: float(number) for name, _, number in pairs}


def _print_lag(name: str, metrics: dict[str, float]) -> None:
    prefix = "visavis_loop_lag_ms_"
    line: dict[str, object] = {"name": name, "unit": "ms", "n": int(metrics[prefix + "n"])}
    line |= {p: metrics[prefix + p] for p in ("p50", "p95", "p99")}
    print(json.dumps(line), flush=True)
