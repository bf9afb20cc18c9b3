"""The servers of a configuration, looked at as the doctor does: real ones, and ports where nobody is."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import web

from server.asr.transcriptions import TranscriptionsSettings
from server.endpoints import check_ice, check_llm, check_transcriptions, check_voice
from server.gpus import Finding
from server.llm.openai_compatible import OpenAiSettings
from server.rtc.peer import IceServer
from tests.fakes.llm_server import llm_server
from tests.fakes.speech_server import speech_server
from tts.cosyvoice import CosyVoiceSettings
from tts.openai_speech import OpenAiSpeechSettings

pytestmark = pytest.mark.usefixtures("no_leaked_tasks")


def dead_port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def is_wrong(finding: Finding, *words: str) -> None:
    assert not finding.good
    for word in words:
        assert word in finding.sentence
    assert finding.sentence[-1] == "."


@asynccontextmanager
async def answering(status: int, body: Any = None) -> AsyncIterator[str]:
    """A server that says the same to everything."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


# ---- language model --------------------------------------------------------------------------------


async def test_a_language_model() -> None:
    async with llm_server(models=["one", "two:latest"], key="sesame") as server:

        def settings(model: str, key: str = "sesame") -> OpenAiSettings:
            return OpenAiSettings(base_url=server.base_url, model=model, api_key=key)

        for name in ("one", "two"):
            finding = await check_llm(settings(name))
            assert finding.good
            assert name in finding.sentence
        is_wrong(await check_llm(settings("three")), "'one' and 'two:latest'", "not 'three'", "llm.model")
        is_wrong(await check_llm(settings("one", "wrong")), "does not accept the key", "VISAVIS__LLM__API_KEY")
        assert "wrong" not in (await check_llm(settings("one", "wrong"))).sentence


async def test_a_language_model_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{dead_port()}/v1"
    finding = await check_llm(OpenAiSettings(base_url=url, model="m"))
    is_wrong(finding, "Nobody answers at", url, "connection refused", "llm.base_url")
    assert finding.needed


@pytest.mark.parametrize(("status", "good"), [(404, True), (503, False), (429, False)])
async def test_what_a_model_server_says_instead(status: int, good: bool) -> None:
    async with answering(status) as url:
        finding = await check_llm(OpenAiSettings(base_url=f"{url}/v1", model="m"))
    assert finding.good is good
    assert ("lists no models" if good else f"status {status}") in finding.sentence


# ---- voice -----------------------------------------------------------------------------------------


def clone(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "voice.json").write_text('{"transcript": "Hello.", "language": "en"}')
    (folder / name / "reference.wav").write_bytes(b"RIFF")


async def test_a_voice_server_and_its_voice(tmp_path: Path) -> None:
    clone(tmp_path, "anna")
    async with speech_server(saved=["radio"], key="sesame") as server:

        def settings(voice: str, **more: Any) -> CosyVoiceSettings:
            given = {"api_key": "sesame", "clones": str(tmp_path), "spare": False, **more}
            return CosyVoiceSettings(base_url=server.url, voice=voice, **given)

        for voice, speaks in (("anna", "anna"), ("radio", "radio"), ("", "anna")):
            finding = await check_voice(settings(voice))
            assert finding.good, finding
            assert finding.sentence.endswith(f"voice {speaks}")
        is_wrong(await check_voice(settings("bert")), "no voice 'bert'", "'anna' or 'radio'")
        is_wrong(await check_voice(settings("anna", api_key="x")), "does not accept the key", "VISAVIS_TTS_KEY")
        server.saved.clear()
        is_wrong(await check_voice(settings("", clones="")), "no voice to speak with", "visavis voice add")
        server.health = {"ready": False, "model": "m", "generation": 2}
        is_wrong(await check_voice(settings("anna")), "still loading")
        server.health = None
        is_wrong(await check_voice(settings("anna")), "not our voice server", 'tts.server = "stock"')


async def test_a_voice_server_that_is_not_there_is_in_the_way_only_without_a_spare() -> None:
    url = f"http://127.0.0.1:{dead_port()}"
    finding = await check_voice(CosyVoiceSettings(base_url=url, spare=False))
    is_wrong(finding, "Nobody answers", "tts.base_url")
    assert finding.needed
    finding = await check_voice(CosyVoiceSettings(base_url=url))
    is_wrong(finding, "Nobody answers", "a voice of this machine speaks")
    assert not finding.needed


async def test_our_own_voice_server_as_it_is() -> None:
    """Its real routes, over a model that is not asked for anything."""
    pytest.importorskip("torch", reason="the voice server needs torch")
    pytest.importorskip("soundfile", reason="the voice server needs soundfile")
    uvicorn = pytest.importorskip("uvicorn", reason="the voice server runs in uvicorn")
    from tts.cosyvoice_server.app import Engine, application

    speakers: Any = SimpleNamespace(saved={"radio": {}}, ids=lambda: ["radio"])
    engine = Engine(SimpleNamespace(sample_rate=24_000), 2, "CosyVoice2-0.5B", speakers, key="sesame")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(application(engine), log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            finding = await check_voice(CosyVoiceSettings(base_url=url, api_key="sesame", voice="radio"))
            assert finding.good, finding
            assert finding.sentence == f"CosyVoice2-0.5B at {url}, voice radio"
            is_wrong(await check_voice(CosyVoiceSettings(base_url=url)), "does not accept the key")
        finally:
            server.should_exit = True
            await serving


async def test_voice_servers_of_others() -> None:
    async with answering(200, {"paths": {"/inference_zero_shot": {}}}) as url:
        assert (await check_voice(CosyVoiceSettings(base_url=url, server="stock"))).good
    async with answering(200, {}) as url:
        is_wrong(await check_voice(CosyVoiceSettings(base_url=url, server="stock")), "not CosyVoice's stock server")
    lists = {"data": [{"id": "kokoro"}], "voices": [{"id": "af_heart"}, "bm_lewis"]}
    async with answering(200, lists) as url:

        def settings(**more: str) -> OpenAiSpeechSettings:
            return OpenAiSpeechSettings(**{"base_url": f"{url}/v1", "model": "kokoro", "voice": "bm_lewis", **more})

        assert (await check_voice(settings())).good
        is_wrong(await check_voice(settings(model="bark")), "'kokoro'", "tts.model")
        is_wrong(await check_voice(settings(voice="alloy")), "'af_heart' or 'bm_lewis'", "tts.voice")
    async with answering(404) as url:
        assert (await check_voice(OpenAiSpeechSettings(base_url=url))).good  # it says nothing, but is there


# ---- ears ------------------------------------------------------------------------------------------


async def test_a_transcription_server() -> None:
    async with llm_server(models=["sensevoice"], key="sesame") as server:

        def settings(**more: str) -> TranscriptionsSettings:
            return TranscriptionsSettings(**{"base_url": server.base_url, "api_key": "sesame", **more})

        assert (await check_transcriptions(settings())).good
        is_wrong(await check_transcriptions(settings(model="whisper")), "'sensevoice'", "asr.model")
        is_wrong(await check_transcriptions(settings(api_key="x")), "does not accept the key")
    url = f"http://127.0.0.1:{dead_port()}/v1"
    is_wrong(await check_transcriptions(TranscriptionsSettings(base_url=url)), "Nobody answers", "asr.base_url")


# ---- TURN: a real coturn ---------------------------------------------------------------------------

TURNSERVER = shutil.which("turnserver")
needs_coturn = pytest.mark.skipif(TURNSERVER is None, reason="coturn is not installed (scripts/system.sh)")


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Its port; with a secret, as compose.yaml starts it."""
    folder = tmp_path_factory.mktemp("coturn")
    with running_coturn(folder, "--use-auth-secret", "--static-auth-secret=hush") as port:
        yield port


@contextmanager
def running_coturn(folder: Path, *options: str) -> Iterator[int]:
    assert TURNSERVER is not None
    port = dead_port()
    command = [TURNSERVER, "-n", "--no-cli", "--no-tls", "--no-dtls", "--realm=visavis", "--log-file=stdout"]
    command += ["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}", "--simple-log"]
    command += [f"--pidfile={folder / 'pid'}", f"--userdb={folder / 'db'}", *options]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)})
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def until_up(port: int) -> None:
    for _ in range(100):
        (finding,) = await check_ice(IceServer(urls=[f"stun:127.0.0.1:{port}"]), time.time())
        if finding.good:
            return
    pytest.fail("coturn did not start")


@needs_coturn
async def test_a_relay(coturn: int) -> None:
    await until_up(coturn)
    urls = [f"turn:127.0.0.1:{coturn}?transport={transport}" for transport in ("udp", "tcp")]
    for finding in await check_ice(IceServer(urls=urls, secret="hush"), time.time()):
        assert finding.good, finding
        assert "relays from 127.0.0.1:" in finding.sentence


@needs_coturn
@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "louder"},
        {"username": "somebody", "credential": "hush"},
        {},
    ],
    ids=["another secret", "a user that it does not know", "nothing"],
)
async def test_a_relay_that_does_not_let_us_in(coturn: int, wrong: dict[str, str]) -> None:
    await until_up(coturn)
    (finding,) = await check_ice(IceServer(urls=[f"turn:127.0.0.1:{coturn}"], **wrong), time.time())
    is_wrong(finding, "does not accept the credentials", "--static-auth-secret")
    assert "louder" not in finding.sentence


@needs_coturn
async def test_credentials_expire(coturn: int) -> None:
    await until_up(coturn)
    server = IceServer(urls=[f"turn:127.0.0.1:{coturn}"], secret="hush")
    (finding,) = await check_ice(server, time.time() - 7 * 3600)
    is_wrong(finding, "credentials")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("turn:127.0.0.1:{port}?transport=tcp", "{port}/tcp"),
        ("turn:no-such-host.invalid:3478", "no address"),
        ("turn:?transport=udp", "turn:host:port"),
        ("turn:127.0.0.1:{port}?transport=sctp", "turn:host:port"),
    ],
)
async def test_a_relay_that_is_not_there(url: str, words: str) -> None:
    port = dead_port()
    (finding,) = await check_ice(IceServer(urls=[url.format(port=port)]), time.time())
    is_wrong(finding, words.format(port=port))


async def test_a_relay_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.endpoints.ASK_S", 0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        for kind in ("turn", "stun"):
            (finding,) = await check_ice(IceServer(urls=[f"{kind}:127.0.0.1:{port}"]), time.time())
            is_wrong(finding, "does not answer over UDP", "coturn")


async def test_a_secret_is_never_shown() -> None:
    server = IceServer(urls=["turn:turn.example"], secret="hush")
    assert "hush" not in repr(server)
    username, credential = server.login(1_700_000_000)
    assert username == f"{1_700_000_000 + 6 * 3600}:visavis"
    assert credential == "1oHLRyGulUl+ioTUTAXOurH6pH4="  # as openssl dgst -sha1 -hmac hush says of the username
    for bad in ({"urls": ["turn:a"], "secret": "s", "username": "u"}, {"urls": []}, {"urls": ["http://a"]}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, IceServer)
