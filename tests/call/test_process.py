"""The server process as the person at the terminal meets it: its end, its words, and calls that go wrong."""

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
import av
import numpy as np
import pytest
from aiortc.codecs import depayload
from aiortc.rtcsctptransport import WEBRTC_STRING
from numpy.typing import NDArray

from benchmarks.server import Running, running
from tests.call.dialled import (
    answered,
    dial,
    events,
    health,
    place,
    until_calls,
    until_gone,
    written,
)
from tests.fakes.llm_server import FakeLlmServer, Hang, llm_server, says
from tests.rtc.pair import Client, Voice

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIGHT = ("asr.type=none", "tts.type=tone", "llm.type=scripted", "render.type=testcard", "personas.mia.opening=")
ENDS_S = 5.0  # 2 s are promised; the machine may be busy
REMOTE = "http://203.0.113.1/v1"  # of the block for documentation: nobody's


# ---- the command ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    status: int
    said: str
    complained: str


async def visavis(*arguments: str, **environment: str) -> Done:
    """`visavis ARGUMENTS` to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", *arguments),
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complained = await asyncio.wait_for(process.communicate(), 40)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, said.decode(), complained.decode())


def family(server: Running) -> list[int]:
    workers = server.workers()
    assert workers
    return [server.pid, *workers.values()]


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def free_port() -> int:
    with taken_port() as port:
        return port


TYPO = "[turns]\nendpont_s = 0.5\n"
ROOT_TYPO = "[htpp]\nport = 1\n"


@pytest.mark.parametrize(
    ("file", "arguments", "words"),
    [
        (TYPO, [], ["overlay.toml", "turns.endpont_s", "Did you mean turns.endpoint_s?"]),
        (ROOT_TYPO, [], ["overlay.toml", "htpp", "Did you mean http?"]),
        ("[http\n", [], ["overlay.toml", "is not TOML"]),
        (None, ["--config", "no/such.toml"], ["no/such.toml"]),
        (None, ["--config", "."], ["cannot be read"]),
        (None, ["--set", "turns.endpoint_s"], ["turns.endpoint_s", "path=value"]),
        (None, ["--set", "tts.type=nightingale"], ["tts.type", "nightingale"]),
        (None, ["--port", "70000"], ["http.port", "65535"]),
        (None, ["--host", "203.0.113.1"], ["203.0.113.1", "http.host"]),
    ],
)
async def test_a_mistake_is_one_sentence(
    tmp_path: Path, file: str | None, arguments: list[str], words: list[str]
) -> None:
    if file is not None:
        (tmp_path / "overlay.toml").write_text(file)
        arguments = ["--config", str(tmp_path / "overlay.toml")]
    done = await visavis("serve", "--port", "0", *arguments)
    assert done.status == 1
    assert done.said == ""
    assert "Traceback" not in done.complained
    assert len(done.complained.splitlines()) == 1
    for word in words:
        assert word in done.complained


async def test_a_port_in_use_is_named() -> None:
    with taken_port() as port:
        done = await visavis("serve", "--port", str(port))
    assert done.status == 1
    assert len(done.complained.splitlines()) == 1
    assert f"127.0.0.1:{port}" in done.complained
    assert "--port 0" in done.complained


async def test_help() -> None:
    done = await visavis("serve", "--help")
    assert done.status == 0
    for option in ("--config", "--set", "--local", "--port", "--verbose"):
        assert option in done.said


async def test_doctor_says_a_line_for_each_thing() -> None:
    done = await visavis("doctor", "--set", "http.port=0")
    assert done.status == 0, done.said
    lines = done.said.splitlines()
    looked_at = ["python", "address", "calls", "transcribe", "think", "speak: flite", "speak: espeak-ng", "face"]
    for line, what in zip(lines, looked_at, strict=False):
        assert re.match(rf"(ok |--) +{what}", line)
    assert lines[-1] == "visavis serve works here."
    assert done.complained == ""


async def test_doctor_tells_what_would_not_work() -> None:
    settings = [x for setting in LIGHT for x in ("--set", setting)]
    with taken_port() as port:
        done = await visavis("doctor", *settings, "--set", f"http.port={port}")
    assert done.status == 1
    assert re.search(rf"(?m)^-- +address .*127.0.0.1:{port}", done.said)
    assert re.search(r"(?m)^ok +speak: tone", done.said)  # what is configured, not what would be chosen
    assert "does not work" in done.said.splitlines()[-1]


# ---- its end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_everything(number: signal.Signals) -> None:
    """With a call that is live and another that is being set up."""
    unfinished = Client()
    async with running("ice.ice_deadline_s=60") as server, aiohttp.ClientSession(server.address) as http:
        live = await dial(http, Voice(packets=3000))
        assert (await place(http, unfinished, video=True))[0] == 201
        pids = family(server)
        assert len(pids) >= 3  # ears, voices, face
        server.process.send_signal(number)
        assert await until_gone(pids, ENDS_S) == []
        assert await server.process.wait() == 0
        assert "Traceback" not in "".join(server.output)
        assert events(live, "visavis.closing")
        await live.aclose()
        await unfinished.aclose()
    if number == signal.SIGINT:
        port = server.address.rpartition(":")[2]
        async with running(*LIGHT, arguments=["--port", port]) as again, aiohttp.ClientSession(again.address) as http:
            assert again.address == server.address
            assert (await health(http))["status"] == "ok"


async def test_no_worker_survives_a_killed_server() -> None:
    async with running("personas.mia.opening=") as server, aiohttp.ClientSession(server.address) as http:
        client = await dial(http, Voice(packets=3000))
        pids = family(server)
        server.process.kill()
        assert await until_gone(pids, ENDS_S) == []
        await client.aclose()


async def test_interrupted_while_it_loads(tmp_path: Path) -> None:
    """The terminal tells the whole process group; a name server that does not answer keeps nobody waiting."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\n"
        "ask = socket.getaddrinfo\n"
        "def dead(host, *arguments, **options):\n"
        "    if host == 'slow.example':\n"
        "        time.sleep(30)\n"
        "    return ask(host, *arguments, **options)\n"
        "socket.getaddrinfo = dead\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "serve", "--port", "0"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OPENAI_BASE_URL": "http://slow.example/v1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids: list[int] = []
    try:
        with anyio.fail_after(30):
            while len(pids) < 3:
                await anyio.sleep(0.02)
                pids = [int(pid) for pid in children.read_text().split()]
        os.killpg(process.pid, signal.SIGINT)
        with anyio.fail_after(ENDS_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert await until_gone(pids, ENDS_S) == []
    assert said == b""
    assert process.returncode == 0


@pytest.mark.parametrize("way", ["closed", "broken"])
async def test_nobody_reads_what_it_says(way: str, tmp_path: Path) -> None:
    """Without an output, and with one whose reader has gone, it serves all the same."""
    port = free_port()
    settings = [x for setting in LIGHT for x in ("--set", setting)]
    shell = 'exec 0<&- 1>&- 2>&-; exec "$@"' if way == "closed" else 'exec "$@"'
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "server", "serve", "--port", str(port), *settings]
    read, write = os.pipe()
    os.close(read)  # before anything is said
    with (tmp_path / "complaints").open("wb") as complaints:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=write, stderr=complaints)
    os.close(write)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            with anyio.fail_after(30):
                while True:
                    try:
                        told = await health(http)
                        assert told["calls"] == 0
                        if told["status"] == "ok":  # after the warm-up, whose news nobody reads either
                            break
                    except aiohttp.ClientConnectionError:
                        assert process.returncode is None
                    await anyio.sleep(0.05)
            client = await dial(http)
            await hears_on(client)
            await client.aclose()
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(ENDS_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert (tmp_path / "complaints").read_text() == ""


async def test_doctor_without_a_reader() -> None:
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "doctor", "--set", "http.port=0"),
        cwd=ROOT,
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(write)
    with anyio.fail_after(30):
        _, complained = await process.communicate()
    assert complained == b""
    assert process.returncode == 1


# ---- what leaves the machine ----------------------------------------------------------------------


class Witness:
    """Stands where all requests to other machines must pass: a proxy that writes down whom they are for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        self.asked.append(line.decode().split()[1])
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    @property
    def environment(self) -> dict[str, str]:
        proxy = f"http://127.0.0.1:{self.port}"
        names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
        return dict.fromkeys(names, proxy) | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@pytest.fixture
async def witness() -> AsyncIterator[Witness]:
    witness = Witness()
    async with await asyncio.start_server(witness.take, "127.0.0.1", 0) as listener:
        witness.port = listener.sockets[0].getsockname()[1]
        yield witness


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["llm.type=openai", f"llm.base_url={REMOTE}", "llm.model=m", "llm.keep_loaded=true"], "203.0.113.1"),
        (["llm.type=openai", "llm.model=m"], "api.openai.com"),
        (["llm.type=scripted", 'ice.ice_servers=[{urls=["stun:203.0.113.1:3478"]}]'], "stun:203.0.113.1"),
    ],
)
async def test_local_refuses_what_leaves(witness: Witness, settings: list[str], word: str) -> None:
    given = [x for setting in settings for x in ("--set", setting)]
    done = await visavis("serve", "--port", "0", "--local", *given, **witness.environment, OPENAI_API_KEY="sk-1")
    assert done.status == 1
    assert word in done.complained
    assert "--local" in done.complained
    assert len(done.complained.splitlines()) == 1
    assert witness.asked == []


@pytest.mark.parametrize("local", [True, False])
async def test_a_remote_model_of_the_environment(witness: Witness, local: bool) -> None:
    """With --local it is not even asked; without (so that we know the witness sees it) it is."""
    environment = witness.environment | {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": REMOTE}
    settings = [setting for setting in LIGHT if not setting.startswith("llm")]
    arguments = ["--local"] if local else []
    async with running(*settings, arguments=arguments, environment=environment) as server:
        provider, why, where, _ = stages(server)["think"]
        assert provider == "scripted"
        assert where == "here"
        assert ("nothing may leave this machine" if local else f"{REMOTE} does not answer") in why
    assert witness.asked == [] if local else [f"{REMOTE}/models"]


async def test_local_accepts_this_machine() -> None:
    async with llm_server() as fake:
        settings = ["llm.type=openai", f"llm.base_url={fake.base_url}", "llm.model=fake-model"]
        async with running(*LIGHT, *settings, arguments=["--local"]) as server:
            provider, _, where, _ = stages(server)["think"]
            assert (provider, where) == ("openai: fake-model", "here")
            assert fake.paths == []  # nothing is asked before somebody talks


async def test_the_table_tells_where_words_go_and_no_log_tells_the_key() -> None:
    """The fake stands for the proxy, and so for a host far away."""
    async with llm_server(says("Nice to", " meet you.")) as fake:
        environment = dict.fromkeys(("HTTP_PROXY", "http_proxy"), f"http://127.0.0.1:{fake.port}") | {
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "OPENAI_BASE_URL": "http://llm.example/v1",
            "OPENAI_API_KEY": "sk-very-secret",
            "VISAVIS__HTTP__API_KEY": "house-secret",
        }
        settings = [setting for setting in LIGHT if not setting.startswith("llm")]
        async with running(*settings, arguments=["--verbose"], environment=environment) as server:
            rows = stages(server)
            assert list(rows) == ["hear", "take turns", "transcribe", "think", "speak", "face"]
            where = {stage: cells[2] for stage, cells in rows.items()}
            assert where.pop("think") == "llm.example, model fake-model"
            assert set(where.values()) == {"here"}
            bearer = {"Authorization": "Bearer house-secret"}
            async with aiohttp.ClientSession(server.address, headers=bearer) as http:
                client = await dial(http)
                assert await answered(client, "Hello") == "Nice to meet you."
                await client.aclose()
            await server.stop()
            log = "".join(server.output)
            assert "DEBUG" in log
            assert "very-secret" not in log
            assert "house-secret" not in log
        assert "Bearer sk-very-secret" in [headers.get("Authorization") for headers in fake.headers]


def stages(server: Running) -> dict[str, list[str]]:
    """The table at the start: stage -> its other cells, each on one line again."""
    said = itertools.dropwhile(lambda line: not line.startswith("stage "), server.output)  # after the log
    head, _, *lines = itertools.takewhile(str.strip, said)
    places = [head.index(name) for name in ("stage", "provider", "why", "words", "better")]
    table: list[list[str]] = []
    for line in lines:
        cells = [line[i:j].strip() for i, j in itertools.zip_longest(places, places[1:])]
        if cells[0]:
            table.append(cells)
        else:
            table[-1] = [f"{above} {cell}".strip() for above, cell in zip(table[-1], cells, strict=True)]
    return {row[0]: row[1:] for row in table}


# ---- what is missing ------------------------------------------------------------------------------


NOT_INSTALLED = "sys.modules['pocketsphinx'] = None\n"  # as find_spec and import see it
DIES_LOADING = """
worker = 'VISAVIS_WORKER_FD' in os.environ
class Broken:
    def find_spec(name, path, target=None):
        if name == 'pocketsphinx' and worker:
            os.kill(os.getpid(), 4)  # SIGILL: a wheel for a newer processor
sys.meta_path.insert(0, Broken)
"""
WITHOUT_FLITE = """
import ctypes
load = ctypes.CDLL.__init__
def missing(self, name, *arguments, **options):
    if 'flite' in str(name):
        raise OSError(f'{name}: cannot open shared object file')
    load(self, name, *arguments, **options)
ctypes.CDLL.__init__ = missing
"""


@pytest.mark.parametrize(
    ("shim", "transcribe", "speak"),
    [
        (NOT_INSTALLED + WITHOUT_FLITE, "pocketsphinx is not installed", "espeak"),
        (DIES_LOADING, "SIGILL", "flite + espeak"),
    ],
)
async def test_what_is_missing_is_told_and_gone_without(
    tmp_path: Path, shim: str, transcribe: str, speak: str
) -> None:
    """The call runs on text input; another voice speaks."""
    (tmp_path / "sitecustomize.py").write_text("import os, sys\n" + shim)
    settings = [setting for setting in LIGHT if not setting.startswith(("asr", "tts"))]
    async with running(*settings, environment={"PYTHONPATH": str(tmp_path)}) as server:
        table = stages(server)
        assert table["transcribe"][0] == "none: type instead"
        assert transcribe in table["transcribe"][1]
        assert table["speak"][0] == speak
        if "flite" not in speak:
            assert "libflite" in " ".join(table["speak"])
        async with aiohttp.ClientSession(server.address) as http, call(http) as client:
            for event in written("What is two and two?"):
                await client.say(event)
            await client.until(lambda: bool(events(client, "output_audio_buffer.started")), 15)
            await client.until(lambda: loudness(client) > 1000)
        assert "Traceback" not in "".join(server.output)


def loudness(client: Client) -> float:
    """Of the newest second that came: the largest sample, of 32768."""
    decoder = av.CodecContext.create("opus", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.sample_rate = 48_000
    frames = [f for p in client.rtp["audio"][-50:] for f in decoder.decode(av.Packet(p.payload))]
    return max((np.abs(f.to_ndarray()).max() * 32768 for f in frames), default=0.0)


# ---- calls that go wrong --------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeLlmServer]:
    async with llm_server() as fake:
        yield fake


@pytest.fixture(scope="module")
async def server(fake: FakeLlmServer) -> AsyncIterator[Running]:
    """With short patience, two lines, and a language model that the tests direct."""
    async with running(
        *("asr.type=none", "tts.type=tone", "personas.mia.opening="),
        *("llm.type=openai", f"llm.base_url={fake.base_url}", "llm.model=fake-model", "llm.first_token_s=60"),
        *("ice.ice_deadline_s=2", "ice.lost_s=2", "ice.gone_s=4", "call.max_calls=2"),
    ) as server:
        yield server
        assert "Traceback" not in "".join(server.output)


@pytest.fixture
async def http(server: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.address) as http:
        yield http
        await until_calls(http, 0, 10)


@asynccontextmanager
async def call(http: aiohttp.ClientSession, persona: str = "mia") -> AsyncIterator[Client]:
    client = await dial(http, Voice(packets=3000), {"visavis": {"persona": persona, "greet": False}})
    try:
        yield client
    finally:
        await client.aclose()


def missed(client: Client) -> int:
    """Packets of voice that did not come, of those between the first and the last that did."""
    numbers = [packet.sequence_number for packet in client.rtp["audio"]]
    return (numbers[-1] - numbers[0]) % 65536 + 1 - len(numbers)


async def hears_on(client: Client, packets: int = 25) -> None:
    have = len(client.rtp["audio"])
    await client.until(lambda: len(client.rtp["audio"]) >= have + packets)


async def test_a_peer_that_never_connects_frees_its_line(http: aiohttp.ClientSession) -> None:
    silent = [Client() for _ in range(3)]
    try:
        assert (await place(http, silent[0]))[0] == 201
        assert (await place(http, silent[1], video=True))[0] == 201
        assert (await place(http, silent[2]))[0] == 429
        assert (await health(http))["calls"] == 2
        await until_calls(http, 0, 8)
        async with call(http) as client:
            await hears_on(client)
    finally:
        for client in silent:
            await client.aclose()


async def test_a_peer_that_vanishes(http: aiohttp.ClientSession, server: Running, fake: FakeLlmServer) -> None:
    """Its reply stops, then its line is free; the other call hears on all the while."""
    fake.answers[:] = [says("One moment.", Hang())]
    fake.asked.clear()
    fake.disconnected.clear()
    async with call(http) as other:
        vanishing = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.call.caller", server.address, "Tell me a long story."), cwd=ROOT
        )
        try:
            with anyio.fail_after(30):
                await fake.asked.wait()
            assert (await health(http))["calls"] == 2
            before = len(other.rtp["audio"])
        finally:
            vanishing.kill()
            await vanishing.wait()
        with anyio.fail_after(10):
            await fake.disconnected.wait()
        assert (await health(http))["calls"] == 2  # it may come back
        await until_calls(http, 1, 10)
        await hears_on(other)
        assert missed(other) == 0
        assert len(other.rtp["audio"]) - before > 100  # 4 s of them


async def test_two_faces_at_once(http: aiohttp.ClientSession) -> None:
    """Each sees its own person; one hangs up, the other does not notice."""
    posters = {name: await poster(http, name) for name in ("mia", "leo")}
    async with call(http, "leo") as leo:
        async with call(http, "mia") as mia:
            for client, name in ((leo, "leo"), (mia, "mia")):
                (created,) = events(client, "session.created")
                assert created["session"]["visavis"]["avatar"] == name
                await client.until(lambda c=client: len(c.rtp["video"]) > 30)
                picture = first_picture(client)
                apart = {other: np.abs(picture - posters[other]).mean() for other in posters}
                assert min(apart, key=lambda other: apart[other]) == name
                assert apart[name] < 12  # of 255
        have = len(leo.rtp["video"])
        await leo.until(lambda: len(leo.rtp["video"]) > have + 30)
        await hears_on(leo)
        assert missed(leo) == missed(mia) == 0


async def poster(http: aiohttp.ClientSession, name: str) -> NDArray[np.float32]:
    async with http.get(f"/v1/visavis/avatars/{name}/poster.jpg") as response:
        packet = av.Packet(await response.read())
    return small(av.CodecContext.create("mjpeg", "r").decode(packet)[0])


def first_picture(client: Client) -> NDArray[np.float32]:
    """The first that can be decoded of the packets that came, small and grey."""
    codec = client.pc.getTransceivers()[1]._codecs[0]
    decoder = av.CodecContext.create(codec.name.lower(), "r")
    for _, packets in itertools.groupby(client.rtp["video"], key=lambda packet: packet.timestamp):
        data = b"".join(depayload(codec, packet.payload) for packet in packets)
        for frame in decoder.decode(av.Packet(data)):
            return small(frame)
    pytest.fail("no picture came")


def small(frame: av.VideoFrame) -> NDArray[np.float32]:
    return frame.reformat(64, 64, "gray").to_ndarray().astype(np.float32)


async def test_garbage_harms_nobody(http: aiohttp.ClientSession, fake: FakeLlmServer) -> None:
    fake.answers[:] = [says("Still", " here.")]
    async with call(http) as other, call(http, "leo") as rude:
        assert rude.channel is not None
        channel = rude.channel
        deep = "[" * 100_000
        for garbage in (b"\x00\xff" * 5000, "", "{", "null", "[]", '{"type": 7}', '{"type": "no.such"}', deep):
            channel.send(garbage)
        for kind in ("session.update", "conversation.item.create", "response.create", "conversation.item.truncate"):
            channel.send(json.dumps({"type": kind, "session": [], "item": 7, "response": "x", "item_id": {}}))
        channel.transport._remote_max_message_size = 0  # 256 KiB, as the server said; a rude client sends more
        channel.send(json.dumps({"type": "x" * 1_000_000}))
        await channel.transport._send(channel.id, WEBRTC_STRING, b"\xff\xfe no text")
        for i in range(3000):
            channel.send(json.dumps({"type": "input_audio_buffer.clear", "event_id": str(i)}))
        with anyio.fail_after(20):
            while not events(rude, "session.updated"):  # until the limit of events a second lets one through
                channel.send(json.dumps({"type": "session.update", "session": {}}))
                await anyio.sleep(0.2)
        codes = {event["error"]["code"] for event in events(rude, "error")}
        assert {"unknown_event", "event_too_large", "rate_limit_exceeded"} <= codes
        assert await answered(rude, "Are you there?") == "Still here."
        assert await answered(other, "And you?") == "Still here."
        await hears_on(rude)
        channel.send("x" * 4_000_000)
        await until_calls(http, 1, 15)  # what has no end ends the call that sends it
        await hears_on(other)
        assert missed(other) == 0
