"""The voice server over HTTP, on upstream's real code: voices, ways to speak, streaming, cancellation, refusals."""

import io
import json
import wave
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import numpy as np
import pytest

from server.core.errors import StageError
from server.core.media import Voice
from tests.tts.conftest import clause, hear, seconds
from tts.cosyvoice import CosyVoiceSettings

pytestmark = pytest.mark.timeout(300)  # the first of them waits for the server, too

RATE = 24_000
PIECE = "The fox."  # 3 text tokens: 60 speech tokens
SECONDS = 2.4
LONG = "The quick brown fox jumps over the lazy dog. " * 5
KEY = {"Authorization": "Bearer secret"}


def sound(length_s: float = 2.4, rate: int = RATE) -> bytes:
    at = np.arange(round(length_s * rate)) / rate
    samples = 6000 * np.sign(np.sin(2 * np.pi * 120 * at)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * at))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


@pytest.fixture
async def http(served: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(served, headers=KEY, timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def health(http: aiohttp.ClientSession) -> dict[str, Any]:
    async with http.get("/health") as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def idle(http: aiohttp.ClientSession) -> int:
    """Wait until no utterance is at work; tokens made since the start."""
    with anyio.fail_after(30):
        while (found := await health(http))["active"]:
            await anyio.sleep(0.05)
    return int(found["tokens"])


async def add(http: aiohttp.ClientSession, audio: bytes, transcript: str) -> dict[str, Any]:
    form = aiohttp.FormData({"transcript": transcript})
    form.add_field("audio", io.BytesIO(audio), filename="a.wav")
    async with http.post("/v1/voices", data=form) as answer:
        assert answer.status == 200, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def test_health_needs_no_key_and_says_what_is_there(served: str) -> None:
    async with aiohttp.ClientSession(served) as session:
        found = await health(session)
        assert (found["ready"], found["generation"], found["rate"], found["places"]) == (True, 2, RATE, 2)
        async with session.get("/v1/voices") as answer:
            assert answer.status == 401


async def test_a_voice_is_made_once_and_named_by_what_it_is_made_of(http: aiohttp.ClientSession) -> None:
    audio = sound()
    first = await add(http, audio, "Hello, it is me.")
    assert not first["cached"]
    assert await add(http, audio, "Hello, it is me.") == {"id": first["id"], "cached": True}
    other = await add(http, audio, "Hello, it is you.")  # the same sound, other words
    another = await add(http, sound(2.5), "Hello, it is me.")
    assert len({first["id"], other["id"], another["id"]}) == 3
    async with http.get("/v1/voices") as answer:
        listed = await answer.json()
    assert "tiny" in listed["saved"]
    assert {first["id"], other["id"], another["id"]} <= {voice["id"] for voice in listed["voices"]}
    async with http.delete(f"/v1/voices/{first['id']}") as answer:
        assert answer.status == 204
    async with http.delete(f"/v1/voices/{first['id']}") as answer:
        assert answer.status == 404
    async with http.post("/v1/speech/zero-shot", json={"text": PIECE, "voice": first["id"]}) as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "voice_unknown"
    assert not (await add(http, audio, "Hello, it is me."))["cached"]


@pytest.mark.parametrize("mode", ["zero-shot", "cross-lingual", "instruct", "saved"])
async def test_every_way_to_speak_streams_pcm(http: aiohttp.ClientSession, mode: str) -> None:
    name = "tiny" if mode == "saved" else (await add(http, sound(), "Hello, it is me."))["id"]
    body = {"text": PIECE, "voice": name} | ({"instruct": "speak softly"} if mode == "instruct" else {})
    async with http.post(f"/v1/speech/{mode}", json=body) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["X-Sample-Rate"] == str(RATE)
        assert answer.content_type == "audio/pcm"
        data = await answer.read()
    assert len(data) == 2 * round(SECONDS * RATE)
    assert np.abs(np.frombuffer(data, "<i2")).max() > 100


async def test_a_reference_may_come_with_the_text(http: aiohttp.ClientSession) -> None:
    form = aiohttp.FormData({"text": PIECE, "transcript": "Words of my own."})
    form.add_field("audio", sound(1.5), filename="a.wav")
    async with http.post("/v1/speech/zero-shot", data=form) as answer:
        assert answer.status == 200, await answer.text()
        assert len(await answer.read()) == 2 * round(SECONDS * RATE)
    assert (await add(http, sound(1.5), "Words of my own."))["cached"]


async def test_sound_comes_while_the_rest_is_being_made(http: aiohttp.ClientSession) -> None:
    before = await idle(http)
    async with http.post("/v1/speech/saved", json={"text": LONG, "voice": "tiny"}) as answer:
        first = await answer.content.readany()
        assert first
        found = await health(http)
        assert found["active"] == 1
        assert found["tokens"] - before < 500  # of 900
        answer.close()
    await idle(http)


async def test_a_listener_who_leaves_stops_the_language_model(http: aiohttp.ClientSession) -> None:
    before = await idle(http)
    async with http.post("/v1/speech/saved", json={"text": LONG, "voice": "tiny"}) as answer:
        await answer.content.readany()
        answer.close()
    made = await idle(http) - before
    assert made < 600  # of 900


async def test_a_listener_who_leaves_before_the_first_sound_stops_it_too(http: aiohttp.ClientSession) -> None:
    before = await idle(http)

    async def listen() -> None:
        async with http.post("/v1/speech/saved", json={"text": LONG, "voice": "tiny"}):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        with anyio.fail_after(30):
            while (await health(http))["tokens"] == before:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert await idle(http) - before < 600  # of 900


async def test_more_than_there_are_places_for_is_refused(http: aiohttp.ClientSession) -> None:
    async with (
        http.post("/v1/speech/saved", json={"text": LONG, "voice": "tiny"}) as one,
        http.post("/v1/speech/saved", json={"text": LONG, "voice": "tiny"}) as two,
    ):
        async with http.post("/v1/speech/saved", json={"text": PIECE, "voice": "tiny"}) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["code"] == "busy"
        one.close()
        two.close()
    await idle(http)
    async with http.post("/v1/speech/saved", json={"text": "The.", "voice": "tiny"}) as answer:
        assert answer.status == 200
        await answer.read()


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/speech/saved", {"text": "", "voice": "tiny"}, 400, "something to say"),
        ("/v1/speech/saved", {"text": "x" * 1001, "voice": "tiny"}, 400, "1000 characters"),
        ("/v1/speech/saved", {"text": "...", "voice": "tiny"}, 400, "something to say"),
        ("/v1/speech/saved", {"text": PIECE, "voice": "../../etc/passwd"}, 404, "voice"),
        ("/v1/speech/saved", {"text": PIECE}, 404, "voice"),
        ("/v1/speech/sing", {"text": PIECE, "voice": "tiny"}, 404, "zero-shot"),
        ("/v1/speech/instruct", {"text": PIECE, "voice": "tiny"}, 400, "instruct"),
        ("/v1/speech/saved", [], 400, "JSON object"),
    ],
)
async def test_wrong_requests_are_told_what_is_wrong(
    http: aiohttp.ClientSession, path: str, body: Any, status: int, says: str
) -> None:
    async with http.post(path, json=body) as answer:
        assert answer.status == status
        assert says in (await answer.json())["error"]["message"]


@pytest.mark.parametrize(
    ("audio", "says"),
    [
        (b"no sound at all", "no sound file"),
        (sound(0.5), "1 to 30 s"),
        (sound(31), "1 to 30 s"),
        (sound(2, 8000), "16000"),
        (b"\0" * (9 * 1024 * 1024), "at most"),
    ],
    ids=["text", "short", "long", "low", "large"],
)
async def test_references_that_cannot_be_used_are_told_why(
    http: aiohttp.ClientSession, audio: bytes, says: str
) -> None:
    form = aiohttp.FormData({"transcript": "Hello."})
    form.add_field("audio", io.BytesIO(audio), filename="a.wav")
    async with http.post("/v1/voices", data=form) as answer:
        assert answer.status in (400, 413)
        assert says in (await answer.json())["error"]["message"]


def test_the_probe_measures_it(
    served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tts.cosyvoice_server import probe

    monkeypatch.setenv("VISAVIS_TTS_KEY", "secret")
    monkeypatch.setattr(probe, "TEXTS", ("The fox.", "The quick fox."))
    assert probe.main([served, "--count", "1"]) == 0
    lines = {line["figure"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert lines["cosyvoice.about"]["mode"] == "saved"
    assert lines["cosyvoice.first_ms"]["p50"] > 0
    assert lines["cosyvoice.seconds_per_character"]["least"] == pytest.approx(SECONDS / 8, abs=0.01)
    assert lines["cosyvoice.cancel"]["tokens_after_cancel"] < 200


# ---- our client on it, and on the stock server -------------------------------------------------------------------


@pytest.fixture
def clones(tmp_path: Path) -> str:
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "voice.json").write_text('{"transcript": "Hello, it is me.", "language": "en"}', "utf-8")
    (tmp_path / "anna" / "reference.wav").write_bytes(sound())
    return str(tmp_path)


async def test_our_client_speaks_with_a_cloned_voice(served: str, clones: str) -> None:
    settings = CosyVoiceSettings(
        base_url=served, api_key="secret", clones=clones, normalize=False, first_s=30, gap_s=30
    )
    async with settings.load() as voice:
        pieces = await hear(voice, clause(PIECE), Voice("anna"))
        assert seconds(pieces) == pytest.approx(SECONDS)
        assert {piece.rate for piece in pieces} == {RATE}
        assert len(pieces[-1].words) == 2
        await voice.prepare()
        assert voice.voices == ["anna", "tiny"]
        async with aclosing(voice.say(clause(LONG), Voice("tiny"))) as spoken:
            assert (await anext(spoken)).samples
        await voice.forget("anna")
    async with aiohttp.ClientSession(served, headers=KEY) as session:
        await idle(session)


async def test_the_stock_server_speaks_with_saved_speakers_and_fails_with_references(
    served: str, clones: str
) -> None:
    settings = CosyVoiceSettings(
        base_url=f"{served}/stock", server="stock", voice="tiny", clones=clones, normalize=False, first_s=60, gap_s=60
    )
    async with settings.load() as voice:
        pieces = await hear(voice, clause(PIECE), Voice("tiny"))
        assert seconds(pieces) == pytest.approx(SECONDS)
        with pytest.raises(StageError, match=r"fails with every reference|broke off|failed"):
            await hear(voice, clause(PIECE), Voice("anna"))
