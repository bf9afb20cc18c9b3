"""FunASR's own servers, run for real on tiny models: funasr-server's OpenAI route, and the Nano realtime server."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from server.asr.funasr_worker import TAGS, Model, samples
from server.asr.funasr_ws import FunasrWsAsr, FunasrWsSettings
from server.asr.transcriptions import TranscriptionsAsr, TranscriptionsSettings
from server.core.errors import StageError
from server.core.media import MIC_FRAME_BYTES, Transcript
from server.core.protocols import AsrSession
from tests.asr.tiny_funasr import melody, quiet

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the libraries' own
    pytest.mark.timeout(600),  # importing them takes 7 s of a free core, and minutes of a busy one
]
needs_server = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("fastapi", "uvicorn", "multipart")),
    reason="fastapi, uvicorn or python-multipart is not installed",
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def sense_voice(tiny: Path) -> Model:
    with quiet():
        return Model(tiny / "sense_voice", "cpu")


def by_hand(model: Model, pcm: bytes, **options: Any) -> str:
    return TAGS.sub("", model(samples(pcm), **options)["text"]).strip()


async def say(session: AsrSession, pcm: bytes) -> None:
    for first in range(0, len(pcm), MIC_FRAME_BYTES):
        await session.push(pcm[first : first + MIC_FRAME_BYTES])


# ---- funasr-server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def funasr_server(tiny: Path, free_port: Callable[[], int]) -> AsyncIterator[str]:
    """The command that the package installs, with a folder of its own, on loopback."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "funasr.bin.server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--model-path", str(tiny / "sense_voice")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = bytearray()
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: said.extend(process.stdout.read()), daemon=True)  # type: ignore[union-attr]
    reader.start()
    try:
        async with aiohttp.ClientSession() as http:
            with anyio.fail_after(300):
                while True:
                    assert process.poll() is None, said.decode(errors="replace")[-2000:]
                    try:
                        async with http.get(f"http://127.0.0.1:{port}/health") as answer:
                            if answer.status == 200:
                                break
                    except aiohttp.ClientError:
                        await anyio.sleep(0.2)  # a foreign process tells in no other way that it is there
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
        reader.join()


@pytest.fixture(scope="module")
def free_port() -> Callable[[], int]:
    import socket

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return find


@pytest.mark.slow
@needs_server
async def test_funasr_server_transcribes_over_openai_s_route(funasr_server: str, sense_voice: Model) -> None:
    pcm = melody(1).tobytes()
    async with TranscriptionsSettings(base_url=funasr_server, model="custom", answer_s=30.0).load() as engine:
        texts = {}
        for language in ("zh", "en"):
            session = await engine.open(language)
            await say(session, pcm)
            provisional = await session.provisional()
            final = await session.commit()
            assert provisional == Transcript(final.text)
            assert final.final
            assert final.stable == len(final.text)
            assert await session.commit() == Transcript("", final=True)
            await session.aclose()
            texts[language] = final.text
        assert texts == {name: by_hand(sense_voice, pcm, language=name) for name in texts}
        assert texts["zh"] != texts["en"]


@pytest.mark.slow
@needs_server
async def test_a_model_that_the_server_does_not_know_leaves_no_words(funasr_server: str) -> None:
    async with TranscriptionsSettings(base_url=funasr_server, model="nonsense").load() as engine:
        with pytest.raises(StageError, match=r"400.*nonsense"):
            await engine.transcribe(melody(1).tobytes(), "zh")
        session = await engine.open("zh")
        await say(session, melody(1).tobytes())
        assert await session.commit() == Transcript("", final=True)
        await session.aclose()


# ---- the route, where it fails ---------------------------------------------------------------------


@asynccontextmanager
async def serving(handle: Callable[[web.Request], Any], **more: Any) -> AsyncIterator[TranscriptionsAsr]:
    app = web.Application()
    app.router.add_post("/v1/audio/transcriptions", handle)
    app.router.add_get("/v1/models", lambda request: models(request))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/"
        async with TranscriptionsSettings(base_url=url, **more).load() as engine:
            yield engine
    finally:
        await runner.cleanup()


async def models(request: web.Request) -> web.Response:
    return web.Response(status=401 if request.headers.get("Authorization") == "Bearer wrong" else 200)


async def test_a_text_that_does_not_come_is_the_one_known(no_leaked_tasks: None) -> None:
    asked, over = 0, asyncio.Event()

    async def first_quick_then_never(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked > 1:
            await over.wait()
        form = await request.post()
        assert form["model"] == "sensevoice"
        assert form["language"] == "zh"
        return web.json_response({"text": " hello "})

    async with serving(first_quick_then_never, answer_s=0.2) as engine:
        session = await engine.open("zh")
        await say(session, melody(1, 1.0).tobytes())
        assert await session.provisional() == Transcript("hello")
        assert await session.commit() == Transcript("hello", 5, final=True)
        await session.aclose()
        over.set()


@pytest.mark.parametrize("body", ["no json", '{"words": []}', '{"text": 3}', "[]"])
async def test_nonsense_from_the_server_is_no_words(body: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async with serving(answer) as engine:
        session = await engine.open("zh")
        await say(session, melody(1, 1.0).tobytes())
        assert (await session.commit()).text == ""
        await session.aclose()


async def test_too_little_and_too_much_sound() -> None:
    lengths: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        form = await request.post()
        lengths.append(len(form["file"].file.read()))  # type: ignore[union-attr]
        return web.json_response({"text": "x"})

    async with serving(answer, utterance_s=1.0) as engine:
        session = await engine.open("zh")
        await say(session, bytes(MIC_FRAME_BYTES))
        assert (await session.commit()).text == ""
        await say(session, melody(1, 3.0).tobytes())
        assert (await session.commit()).text == "x"
        await say(session, melody(1, 1.0).tobytes())
        await session.drop()
        assert (await session.commit()).text == ""
        await session.aclose()
        await session.aclose()
        await session.push(bytes(MIC_FRAME_BYTES))
        assert [partial async for partial in session.partials()] == []
    assert lengths == [32_000 + 44]


async def test_who_is_not_there_or_refuses_is_said() -> None:
    async def never(request: web.Request) -> web.Response:
        return web.Response()

    with pytest.raises(StageError, match=r"refuses asr\.api_key"):
        async with serving(never, api_key="wrong"):
            pass
    with pytest.raises(StageError, match="No transcription server answers"):
        async with TranscriptionsSettings(base_url="http://127.0.0.1:9/v1").load():
            pass
    async with serving(never, capacity=1, languages=("en",)) as engine:
        with pytest.raises(StageError, match="not 'zh'"):
            await engine.open("zh")
        session = await engine.open("en")
        with pytest.raises(StageError, match="already"):
            await engine.open("en")
        await session.aclose()


# ---- funasr-realtime-server ------------------------------------------------------------------------


class TinyEngine:
    """What stands where vLLM does: the tiny SenseVoice, asked the way Fun-ASR-Nano is."""

    class _Tokenizer:
        def encode(self, text: str) -> list[str]:
            return list(text)

        def decode(self, tokens: list[str], skip_special_tokens: bool) -> str:
            return "".join(tokens)

    def __init__(self, model: Model) -> None:
        self.tokenizer = self._Tokenizer()
        self.asked: list[tuple[Any, Any]] = []
        self._engine = self
        self._model = model

    def generate(self, inputs: list[Any], **options: Any) -> list[dict[str, str]]:
        self.asked.append((options.get("language"), options.get("hotwords")))
        return [{"text": TAGS.sub("", self._model(sound)["text"])} for sound in inputs]


@pytest.fixture(scope="module")
def nano(sense_voice: Model) -> Iterator[tuple[str, TinyEngine]]:
    """The package's server loop and protocol, batching included; only the weights are not Nano's."""
    with quiet():
        import websockets
        from funasr.bin import realtime_ws

        args = realtime_ws.build_arg_parser().parse_args(["--endpoint-mode", "client", "--decode-interval", "0.1"])
        tiny = TinyEngine(sense_voice)
        realtime_ws._vllm_engine = realtime_ws.RealtimeBatchingEngine(tiny)
        realtime_ws._asr_kwargs = {}
    ready, over = threading.Event(), asyncio.Event()
    address: list[Any] = []

    async def serve() -> None:
        async with websockets.serve(
            lambda socket: realtime_ws.handle_client(socket, args),
            "127.0.0.1",
            0,
            **realtime_ws.build_websocket_serve_kwargs(args),
        ) as server:
            address.extend([asyncio.get_running_loop(), server.sockets[0].getsockname()[1]])
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"ws://127.0.0.1:{address[1]}", tiny
    address[0].call_soon_threadsafe(over.set)
    thread.join(20)
    assert not thread.is_alive()


@asynccontextmanager
async def at_nano(url: str, **more: Any) -> AsyncIterator[FunasrWsAsr]:
    with anyio.fail_after(300):
        async with FunasrWsSettings(url=url, dialect="nano", answer_s=30.0, **more).load() as engine:
            yield engine


async def test_the_realtime_server_hears_two_utterances(nano: tuple[str, TinyEngine], sense_voice: Model) -> None:
    url, tiny = nano
    async with at_nano(url) as engine:
        assert engine.languages == ("zh", "en", "ja")
        session = await engine.open("en", ["VisAvis", "Mia"])
        for seed in (1, 2):
            pcm = melody(seed, 1.8).tobytes()
            seen: list[Transcript] = []
            async with aclosing(session.partials()) as partials:
                await say(session, pcm[: len(pcm) // 2])
                seen.append(await anext(partials))
            assert (await session.provisional()).text == by_hand(sense_voice, pcm[: len(pcm) // 2])
            await say(session, pcm[len(pcm) // 2 :])
            final = await session.commit()
            assert final.text == by_hand(sense_voice, pcm)
            assert final.final
            assert seen[0].text
        await session.aclose()
    assert set(map(str, tiny.asked)) == {str(("English", ["VisAvis", "Mia"]))}


async def test_eight_calls_at_once_at_the_realtime_server(nano: tuple[str, TinyEngine], sense_voice: Model) -> None:
    url, _ = nano
    heard: dict[int, str] = {}
    async with at_nano(url) as engine:

        async def call(seed: int) -> None:
            session = await engine.open("zh")
            await say(session, melody(seed, 1.2).tobytes())
            heard[seed] = (await session.commit()).text
            await session.aclose()

        async with anyio.create_task_group() as tasks:
            for seed in range(8):
                tasks.start_soon(call, seed)
    assert heard == {seed: by_hand(sense_voice, melody(seed, 1.2).tobytes()) for seed in range(8)}
