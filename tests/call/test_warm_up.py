"""The first sentence: through ears, model, voice and face before the server says that it is ready, and for nobody."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import anyio
import pytest

from benchmarks.server import running
from server.app import listen, serve
from server.config import Config, load_config
from server.core.errors import StageError
from server.core.history import History
from server.core.media import Persona
from server.core.tokens import Usage
from server.engines import Engines, load_engines
from server.warmup import STAGE_S, warm_up, warmed_up
from tests.call.test_process import LIGHT, visavis
from tests.fakes.llm_server import Chunk, Until, llm_server, says
from tests.fakes.providers import FakeAsr, FakeAsrSession, FakeLlm, FakeRenderEngine, FakeRenderer, FakeTts, FakeVad
from tests.virtual_time import virtual_time
from tts.routed import RoutedTts

pytestmark = pytest.mark.usefixtures("no_leaked_tasks")

ASKED = ("llm.type=openai", "llm.base_url=http://127.0.0.1:9/v1", "llm.model=m")
USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
UNREACHABLE = StageError("llm", "llm_unreachable", "The language model cannot be reached.")
REFUSED = StageError("llm", "llm_refused", "It does not accept the key.", retryable=False)


@dataclass
class Ears(FakeAsr):
    """Remember what they heard, in samples that are not silence; understand one sentence."""

    heard: int = 0
    closed: int = 0
    fails: str = ""

    async def open(self, language: str, words: Any = ()) -> FakeAsrSession:
        if self.fails:
            raise StageError("asr", "asr_language", self.fails, retryable=False)
        ears = self

        class Session(FakeAsrSession):
            async def push(self, pcm16k: bytes) -> None:
                ears.heard += any(pcm16k)
                await super().push(pcm16k)

            async def aclose(self) -> None:
                ears.closed += 1
                await super().aclose()

        return Session("well how are you today")


@dataclass
class Faces(FakeRenderEngine):
    opened: list[FakeRenderer] = field(default_factory=list)

    async def open(self, avatar: str, codec: str, origin_s: float, alpha: bool = False) -> FakeRenderer:
        self.opened.append(await super().open(avatar, codec, origin_s, alpha))
        return self.opened[-1]


def fakes(llm: FakeLlm | None = None, tts: Any = None) -> Engines:
    llm = llm or FakeLlm([["Very well indeed, thank you. ", "And ", "so ", "on."]])
    return Engines(FakeVad(), Ears(), FakeAsr(), llm, "fake", tts or FakeTts(), Faces())


def config(*settings: str) -> Config:
    return load_config([], settings, {})


# ---- what goes through -----------------------------------------------------------------------------


@virtual_time
async def test_a_sentence_goes_through_everything_and_stays_nowhere() -> None:
    engines = fakes()
    asr, llm, tts, faces = engines.asr, engines.llm, engines.tts, engines.renderer
    assert isinstance(asr, Ears)
    assert isinstance(llm, FakeLlm)
    assert isinstance(tts, FakeTts)
    assert isinstance(faces, Faces)
    assert await warm_up(config(), engines) == []
    assert asr.heard > 20  # 20 ms each, of the voice itself
    assert asr.closed == 1
    assert llm.asked == [[("user", "well how are you")]]  # what was understood
    assert llm.closed == 1  # with its first clause
    assert llm.warmed == 1  # the connection that went with it
    assert tts.said == ["Hello, how are you today?", "Very well indeed,"]
    (face,) = faces.opened
    assert face.pushed
    assert face.keys == 1
    assert face._closed


@virtual_time
async def test_one_stage_that_fails_does_not_keep_the_others_cold() -> None:
    engines = fakes(FakeLlm([[UNREACHABLE]]), FakeTts(fails=True))
    asr = engines.asr
    assert isinstance(asr, Ears)
    faults = await warm_up(config(*ASKED), engines)
    assert [(f.stage, f.fatal) for f in faults] == [("speak", True), ("think", True)]
    assert asr.heard > 20  # noise, where there is no voice
    assert isinstance(engines.renderer, Faces)
    assert engines.renderer.opened  # it painted a face at rest


@virtual_time
async def test_what_breaks_unforeseen_is_logged_and_the_server_starts(caplog: pytest.LogCaptureFixture) -> None:
    engines = fakes()
    engines.llm = cast(Any, None)
    (fault,) = await warm_up(config(*ASKED), engines)
    assert (fault.stage, fault.fatal) == ("think", False)
    assert "AttributeError" in caplog.text


@virtual_time
async def test_what_hangs_is_given_up() -> None:
    began = anyio.current_time()
    (fault,) = await warm_up(config(*ASKED), fakes(FakeLlm([[3600.0]])))
    assert (fault.stage, fault.fatal, fault.retryable) == ("think", True, True)
    assert anyio.current_time() - began < STAGE_S + 10


@virtual_time
async def test_where_something_steps_in_the_fault_is_said_and_calls_can_be_held() -> None:
    engines = fakes(FakeLlm([[UNREACHABLE]]), RoutedTts([FakeTts(fails=True)], [FakeTts()]))
    assert isinstance(engines.asr, Ears)
    engines.asr.fails = "It understands zh."
    told: list[str] = []
    faults, failure = await warmed_up(config("llm.type=auto"), engines, told.append)
    assert failure == ""
    assert [f.stage for f in faults] == ["speak", "transcribe", "think"]
    assert told[0] == "speak: it was asked to fail A spare voice speaks until it works."
    assert "zh" in told[1]
    assert len(told) == 3


# ---- when it does not work -------------------------------------------------------------------------


@virtual_time
async def test_a_server_that_is_still_loading_is_waited_for() -> None:
    llm = FakeLlm([[UNREACHABLE], [UNREACHABLE], [UNREACHABLE], ["Here I am."]])
    told: list[str] = []
    assert await warmed_up(config(*ASKED), fakes(llm), told.append) == ([], "")
    assert len(llm.asked) == 4
    assert told == ["think: The language model cannot be reached."]  # once


@virtual_time
async def test_one_that_never_comes_ends_it_in_time() -> None:
    began = anyio.current_time()
    _, failure = await warmed_up(config(*ASKED, "call.warm_up_s=30"), fakes(FakeLlm([[UNREACHABLE]])), print)
    assert failure.startswith("The language model cannot be reached.")
    assert "call.warm_up_s" in failure
    assert 20 < anyio.current_time() - began <= 30 + STAGE_S


@virtual_time
async def test_what_no_waiting_mends_ends_it_at_once() -> None:
    llm = FakeLlm([[REFUSED]])
    _, failure = await warmed_up(config(*ASKED), fakes(llm), print)
    assert failure == "It does not accept the key."
    assert len(llm.asked) == 1


@virtual_time
async def test_it_can_be_left_out() -> None:
    llm = FakeLlm([[REFUSED]])
    assert await warmed_up(config(*ASKED, "call.warm_up_s=0"), fakes(llm), print) == ([], "")
    assert llm.asked == []


# ---- the server ------------------------------------------------------------------------------------


@dataclass
class Gate(FakeLlm):
    """Answers when it is let."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    asked_once: asyncio.Event = field(default_factory=asyncio.Event)

    async def reply(self, history: History, persona: Any, offer: Any = None) -> AsyncIterator[Any]:  # type: ignore[override]
        self.asked_once.set()
        await self.open.wait()
        async for token in super().reply(history, persona):
            yield token


@dataclass
class Served:
    """A server in this process."""

    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str = ""


@asynccontextmanager
async def served(settings: Config, engines: Engines) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    stop, seen = anyio.Event(), Served()
    with listen(settings) as listener:
        address = "http://{}:{}".format(*listener.getsockname()[:2])

        async def run() -> None:
            seen.failure = await serve(settings, engines, listener, stop, lambda _: seen.ready.set(), print)
            seen.ended.set()

        async with aiohttp.ClientSession(address) as http, anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield seen, http
            stop.set()


async def test_nothing_is_ready_before_it_is_through() -> None:
    gate = Gate([["Fine."]])
    async with served(config("http.port=0", *ASKED), fakes(gate)) as (seen, http):
        await gate.asked_once.wait()
        async with http.get("/health") as answer:
            assert answer.status == 503
            assert (await answer.json())["status"] == "warming_up"
        offer = {"data": "v=0\r\n", "headers": {"Content-Type": "application/sdp"}}
        async with http.post("/v1/realtime/calls", **offer) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "warming_up")
            assert answer.headers["Retry-After"]
        assert not seen.ready.is_set()
        gate.open.set()
        await asyncio.wait_for(seen.ready.wait(), 20)
        async with http.get("/health") as answer:
            health = await answer.json()
            assert (answer.status, health["status"], health["problems"]) == (200, "ok", [])
        async with http.get("/metrics") as answer:
            assert "visavis_calls_total 0" in await answer.text()
        async with http.post("/v1/realtime/calls", **offer) as answer:
            assert answer.status == 400  # now the offer itself is looked at
    assert seen.failure == ""


async def test_a_stop_does_not_wait_for_it() -> None:
    gate = Gate([["Fine."]])
    began = time.monotonic()
    async with served(config("http.port=0", *ASKED), fakes(gate)) as (seen, _):
        await gate.asked_once.wait()
    assert time.monotonic() - began < STAGE_S / 2
    assert not seen.ready.is_set()


async def test_health_says_what_something_else_steps_in_for() -> None:
    engines = fakes(tts=RoutedTts([FakeTts(fails=True)], [FakeTts()]))
    async with served(config("http.port=0"), engines) as (seen, http):
        await asyncio.wait_for(seen.ready.wait(), 20)
        async with http.get("/health") as answer:
            health = await answer.json()
    assert (answer.status, health["status"]) == (200, "degraded")
    assert health["problems"] == ["speak: it was asked to fail A spare voice speaks until it works."]


async def test_the_server_that_cannot_hold_a_call_ends() -> None:
    async with served(config("http.port=0", *ASKED), fakes(FakeLlm([[REFUSED]]))) as (seen, _):
        await asyncio.wait_for(seen.ended.wait(), 20)
    assert not seen.ready.is_set()
    assert seen.failure == "It does not accept the key."


# ---- with real parts -------------------------------------------------------------------------------


async def test_what_it_costs_is_counted_for_nobody() -> None:
    """The language model's real client, whose server tells the usage behind the answer."""
    hold = asyncio.Event()
    bill = Chunk({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    long = says("Well, it is a long story. ", "And a sad one.", Until(hold))
    async with llm_server(says("Fine.", tail=(bill,)), long, says("Fine.", tail=(bill,))) as server:
        settings = config(
            *("asr.type=none", "tts.type=tone", "render.type=testcard", "llm.type=openai"),
            *(f"llm.base_url={server.base_url}", "llm.model=fake-model"),
        )
        async with load_engines(settings) as engines:
            assert await warm_up(settings, engines) == []
            assert engines.llm_usage()["replies"] == 0
            assert await warm_up(settings, engines) == []  # one that is closed in its middle
            assert engines.llm_usage()["replies"] == 0
            history = History()
            async with aclosing(engines.llm.reply(history, Persona("mia"))) as tokens:
                assert [token.text async for token in tokens] == ["Fine."]
            while engines.llm_usage()["replies"] == 0:  # what follows is counted
                await asyncio.sleep(0.01)
            assert history.spent == Usage(1, 20, 0, 3)  # and told to whoever asked
        assert len(server.requests) == 3
        hold.set()


@pytest.mark.slow
async def test_the_command_says_why_and_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # nobody answers there once it is closed
    more = ("llm.type=openai", f"llm.base_url=http://127.0.0.1:{port}/v1", "llm.model=m", "call.warm_up_s=1")
    settings = [x for s in (*LIGHT, *more) for x in ("--set", s)]
    done = await visavis("serve", "--port", "0", *settings)
    assert done.status == 1
    assert "Not everything works: think:" in done.said
    assert "Ready" not in done.said
    assert len(done.complained.splitlines()) == 1
    assert done.complained.startswith("visavis: ")
    assert f"127.0.0.1:{port}" in done.complained


@pytest.mark.slow
async def test_the_embedded_parts_hear_themselves() -> None:
    """pocketsphinx, the script, flite or espeak-ng, and a face, as they are on a fresh machine."""
    async with running("llm.type=scripted", "render.type=still", warm_up=True) as server:
        async with aiohttp.ClientSession(server.address) as http, http.get("/health") as answer:
            health = await answer.json()
        assert (health["status"], health["problems"], health["calls"]) == ("ok", [], 0)
        assert not any("Not everything" in line for line in server.output)
