"""Cloned voices over real HTTP, against a real server process and a voice server that speaks CosyVoice's protocol."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import av
import numpy as np
import pytest

from benchmarks.server import Running, running
from server.voice_routes import UPLOAD_LIMIT
from tests.call.dialled import dial, events, written
from tests.fakes.speech_server import Answer, FakeSpeechServer, Until, speech_server, tone
from tests.tts.recordings import SENTENCES, Spoken, noisy, spoken
from tts.recording import RATE, wav
from tts.voices import CONSENT

pytestmark = pytest.mark.slow

TEXT = "The first sentence is here and it is long enough. The second sentence comes a while after the first one."


@pytest.fixture(scope="module")
def said() -> Spoken:
    return spoken(*SENTENCES[:2])  # 7 s: nothing of it is cut


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeSpeechServer]:
    async with speech_server(Answer((tone(0.4),)), saved=["narrator"]) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="module")
async def server(fake: FakeSpeechServer, folder: Path) -> AsyncIterator[Running]:
    async with running(
        "tts.type=cosyvoice",
        f"tts.base_url={fake.url}",
        f"tts.clones={folder}",
        "tts.voice=narrator",
        "tts.normalize=false",
        "tts.spare=false",
        "tts.first_s=30",
        "tts.gap_s=30",
        "asr.type=none",
        "llm.type=scripted",
        "render.type=testcard",
    ) as server:
        yield server


@pytest.fixture
async def http(server: Running, fake: FakeSpeechServer) -> AsyncIterator[aiohttp.ClientSession]:
    fake.answers[:] = [Answer((tone(0.4),))]
    fake.requests.clear()
    fake.asked.clear()
    async with aiohttp.ClientSession(server.address) as session:
        yield session


def form(sound: bytes, **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData({"consent": "true", **fields})
    data.add_field("audio_sample", io.BytesIO(sound), filename="recording", content_type="application/octet-stream")
    return data


async def post(http: aiohttp.ClientSession, data: Any) -> tuple[int, dict[str, Any]]:
    async with http.post("/v1/audio/voices", data=data) as response:
        return response.status, await response.json()


def film(pcm: np.ndarray) -> bytes:
    """An MP4 with a picture and the sound as AAC."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        picture: Any = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        sound: Any = container.add_stream("aac", rate=RATE, layout="mono")
        for i in range(len(pcm) * 10 // RATE):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i % 255, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        for at in range(0, len(pcm) - 1024, 1024):
            audio = av.AudioFrame.from_ndarray(
                pcm[at : at + 1024].reshape(1, -1).astype(np.float32), format="fltp", layout="mono"
            )
            audio.sample_rate, audio.pts = RATE, at
            container.mux(sound.encode(audio))
        container.mux(sound.encode(None))
    return out.getvalue()


async def test_a_voice_comes_is_chosen_and_goes(
    http: aiohttp.ClientSession, fake: FakeSpeechServer, folder: Path, said: Spoken
) -> None:
    shown = "I, Anna, agree."
    status, told = await post(http, form(film(said.pcm), name="anna", transcript=said.text, consent_text=shown))
    assert status == 201, told
    assert (told["name"], told["language"], told["transcript"]) == ("anna", "en", said.text)
    sheet = json.loads((folder / "anna" / "voice.json").read_text())
    assert sheet["consent"]["text"] == shown
    assert sheet["consent"]["time"].startswith("20")
    kept = (folder / "anna" / "reference.wav").read_bytes()
    async with http.get("/v1/audio/voices") as response:
        listed = await response.json()
    assert listed["consent"] == CONSENT
    assert listed["voices"][:1] == ["anna"]

    # It can be chosen at once, for a text and in a call.
    speech = {"input": "Hello there.", "voice": "anna", "response_format": "pcm"}
    async with http.post("/v1/audio/speech", json=speech) as response:
        assert response.status == 200
        assert await response.read()
    path, body = fake.requests[-1]
    assert path == "/v1/speech/zero-shot"
    assert fake.voices[body["voice"]]["audio"] == kept
    client = await dial(http, session={"visavis": {"persona": "leo", "greet": False}}, video=False)
    try:
        update = {"type": "session.update", "session": {"audio": {"output": {"voice": "anna"}}}}
        await client.say(json.dumps(update))
        await client.until(lambda: bool(events(client, "session.updated")))
        assert events(client, "session.updated")[-1]["session"]["audio"]["output"]["voice"] == "anna"
        fake.requests.clear()
        for event in written("Tell me something."):
            await client.say(event)
        await client.until(lambda: bool(fake.requests), 20)
        assert fake.requests[0][1]["voice"] == body["voice"]
        own = {"type": "session.update", "session": {"audio": {"output": {"voice": ""}}}}
        await client.say(json.dumps(own))
        await client.until(lambda: len(events(client, "session.updated")) > 1)
        assert events(client, "session.updated")[-1]["session"]["audio"]["output"]["voice"] != "anna"
    finally:
        await client.aclose()
    chosen = {"visavis": {"persona": "leo", "greet": False, "voice": "anna"}}
    client = await dial(http, session=chosen, video=False)  # from the first word on
    try:
        assert events(client, "session.created")[0]["session"]["audio"]["output"]["voice"] == "anna"
    finally:
        await client.aclose()

    async with http.delete("/v1/audio/voices/anna") as response:
        assert response.status == 200
    assert not (folder / "anna").exists()
    assert fake.deleted == [body["voice"]]
    assert body["voice"] not in fake.voices
    async with http.delete("/v1/audio/voices/anna") as response:
        assert response.status == 404
    async with http.post("/v1/audio/speech", json=speech) as response:
        assert response.status == 404
    assert list(folder.iterdir()) == []


async def test_what_is_refused_and_why(http: aiohttp.ClientSession, folder: Path, said: Spoken) -> None:
    good = wav(said.pcm)
    for fields, code, word in (
        ({"consent": "false"}, "no_consent", "tick"),
        ({"name": ""}, "bad_name", "name"),
        ({"name": "../anna"}, "bad_name", "letters"),
        ({"name": ".anna"}, "bad_name", "letters"),
        ({"name": "a/b"}, "bad_name", "letters"),
        ({"name": "narrator"}, "voice_exists", "another name"),
        ({"language": "../x"}, "bad_language", "subtag"),
        ({"transcript": "x" * 5000}, "bad_transcript", "characters"),
        ({"transcript": ""}, "no_transcript", "send the transcript"),
    ):
        status, told = await post(http, form(good, **{"name": "bob", "transcript": said.text, **fields}))
        assert (status in (400, 409), told["error"]["code"]) == (True, code)
        assert word in told["error"]["message"]
    status, told = await post(http, form(wav(noisy(said.pcm, 6.0)), name="bob", transcript=said.text))
    assert (status, told["error"]["code"]) == (400, "noisy")
    assert "quiet room" in told["error"]["message"]
    secret = b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n"
    for junk in (b"", b"hello", secret, good[:3000]):
        status, told = await post(http, form(junk, name="bob", transcript=said.text))
        assert status == 400
        assert "Traceback" not in told["error"]["message"]
    async with http.delete("/v1/audio/voices/..%2Fbob") as response:
        assert response.status in (400, 404)
    assert list(folder.iterdir()) == []


async def test_a_hundred_megabytes_are_refused_before_they_come(http: aiohttp.ClientSession) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < UPLOAD_LIMIT + 40 * 2**20:
            sent += 2**16
            yield bytes(2**16)

    head = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(UPLOAD_LIMIT + 40 * 2**20)}
    async with http.post("/v1/audio/voices", data=endless(), headers=head) as response:
        assert response.status == 413
        assert "MiB" in (await response.json())["error"]["message"]
    assert sent < UPLOAD_LIMIT


async def test_speech_begins_before_all_of_it_is_made(http: aiohttp.ClientSession, fake: FakeSpeechServer) -> None:
    later = asyncio.Event()
    fake.answers[:] = [Answer((tone(1.3),)), Answer((Until(later), tone(1.3)))]
    speech = {"input": TEXT, "voice": "narrator", "response_format": "pcm"}
    async with http.post("/v1/audio/speech", json=speech) as response:
        assert response.headers["Content-Type"] == "audio/pcm;rate=24000"
        first = await response.content.readany()
        assert first
        assert not later.is_set()
        later.set()
        rest = await response.read()
    assert len(fake.requests) == 2
    assert 2.4 * 48_000 < len(first + rest) < 2.7 * 48_000


@pytest.mark.parametrize("kind", ["wav", "mp3", "opus", "flac", "aac"])
async def test_speech_as_a_file(http: aiohttp.ClientSession, fake: FakeSpeechServer, kind: str) -> None:
    speech = {"input": "Hello there.", "voice": "narrator", "response_format": kind}
    async with http.post("/v1/audio/speech", json=speech) as response:
        data = await response.read()
    with av.open(io.BytesIO(data)) as container:
        samples = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert samples == pytest.approx(0.4, abs=0.15)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"input": " "}, 400, "no_text"),
        ({"input": "a" * 5000}, 400, "too_long"),
        ({"voice": "../x"}, 404, "unknown_voice"),
        ({"speed": 9}, 400, "bad_speed"),
        ({"response_format": "exe"}, 400, "bad_format"),
        ({"input": 7}, 400, "bad_request"),
    ],
)
async def test_speech_that_is_refused(
    http: aiohttp.ClientSession, change: dict[str, Any], status: int, code: str
) -> None:
    speech = {"input": "Hello.", "voice": "narrator", "response_format": "pcm", **change}
    async with http.post("/v1/audio/speech", json=speech) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)


async def test_a_call_goes_first(http: aiohttp.ClientSession, fake: FakeSpeechServer) -> None:
    """While a call's reply is being made, no clause of a text is asked for; afterwards the text is."""
    client = await dial(http, session={"visavis": {"persona": "mia", "greet": False}}, video=False)
    try:
        made = asyncio.Event()
        fake.answers[:] = [Answer((Until(made), tone(1.0)))]
        fake.requests.clear()
        fake.asked.clear()
        for event in written("Tell me something."):
            await client.say(event)
        with anyio.fail_after(20):
            await fake.asked.wait()
        mine = "This is the text of somebody else."
        text = asyncio.create_task(
            _read(http, {"input": mine, "voice": "narrator", "response_format": "pcm"}), name="text"
        )
        # The server has taken the request by the time it answers another one.
        for _ in range(5):
            async with http.get("/health") as response:
                await response.json()
        assert mine not in [body["text"] for _, body in fake.requests]
        assert not text.done()
        made.set()
        assert await asyncio.wait_for(text, 60)
        assert fake.requests[-1][1]["text"] == mine
        assert len(events(client, "response.done")) >= 1
    finally:
        await client.aclose()


async def _read(http: aiohttp.ClientSession, speech: dict[str, Any]) -> bytes:
    async with http.post("/v1/audio/speech", json=speech) as response:
        assert response.status == 200
        return await response.read()


async def test_only_the_key_makes_voices(fake: FakeSpeechServer, tmp_path: Path) -> None:
    async with (
        running(
            "asr.type=none",
            "tts.type=tone",
            "llm.type=scripted",
            "render.type=testcard",
            "http.api_key=s3cret",
        ) as server,
        aiohttp.ClientSession(server.address) as http,
    ):
        key = {"Authorization": "Bearer s3cret"}
        minted = await (await http.post("/v1/realtime/client_secrets", json={}, headers=key)).json()
        token = {"Authorization": f"Bearer {minted['value']}"}
        speech = {"input": "Hello.", "response_format": "wav"}
        assert (await http.get("/v1/audio/voices")).status == 401
        assert (await http.post("/v1/audio/speech", json=speech)).status == 401
        assert (await http.post("/v1/audio/speech", json=speech, headers=token)).status == 200
        assert (await http.delete("/v1/audio/voices/anna", headers=token)).status == 403
        response = await http.delete("/v1/audio/voices/anna", headers=key)
        assert response.status == 409
        assert "tts.clones" in (await response.json())["error"]["message"]
