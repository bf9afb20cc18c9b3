"""Voices over HTTP in the OpenAI dialect: odd pieces, deadlines, cancellation, errors in words."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest

from server.core.errors import StageError
from server.core.media import Voice
from tests.fakes.speech_server import Answer, Die, FakeSpeechServer, Hang, Until, cut, speech_server, tone
from tests.tts.conftest import clause, hear, seconds, timeline
from tts.http_voice import Events, Pcm
from tts.openai_speech import OpenAiSpeech, OpenAiSpeechSettings

PCM = tone(1.3)


@asynccontextmanager
async def speaking(*answers: Answer, **options: Any) -> AsyncIterator[tuple[OpenAiSpeech, FakeSpeechServer]]:
    async with speech_server(*answers) as server:
        settings = OpenAiSpeechSettings(base_url=f"{server.url}/v1", **options)
        async with settings.load() as voice:
            yield voice, server


@pytest.mark.parametrize("sizes", [(1,), (3, 1, 4, 1, 5), (959, 961), (48_000,), (2**16 - 1, 7)], ids=str)
async def test_odd_pieces_come_out_sample_exact(sizes: tuple[int, ...]) -> None:
    pcm = PCM if sizes != (1,) else PCM[:2000]
    async with speaking(Answer(cut(pcm, *sizes))) as (voice, _):
        pieces = await hear(voice, clause("I."))
    assert b"".join(piece.pcm for piece in pieces) == pcm
    assert all(len(piece.pcm) % 2 == 0 and piece.pcm for piece in pieces)
    assert {piece.rate for piece in pieces} == {24_000}
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(piece.samples for piece in pieces) <= 4800


async def test_half_a_sample_at_the_end_is_dropped() -> None:
    async with speaking(Answer((PCM[:8001],))) as (voice, _):
        assert b"".join(piece.pcm for piece in await hear(voice, clause("Hello."))) == PCM[:8000]


async def test_the_request_is_what_the_servers_understand() -> None:
    async with speaking(instructions="cheerful", extra_body={"seed": 7}) as (voice, server):
        await hear(voice, clause("Hello."), Voice("alloy", 1.25))
        await hear(voice, clause("Bye."), Voice("nobody"))
    common = {
        "model": "gpt-4o-mini-tts",
        "voice": "alloy",
        "response_format": "pcm",
        "stream_format": "audio",
        "instructions": "cheerful",
        "seed": 7,
    }
    assert server.requests == [
        ("/v1/audio/speech", {"input": "Hello.", "speed": 1.25} | common),
        ("/v1/audio/speech", {"input": "Bye."} | common),
    ]


async def test_a_server_that_knows_one_speed_is_played_faster_here() -> None:
    async with speaking(Answer((PCM,)), speed=False) as (voice, server):
        fast = await hear(voice, clause("Hello there."), Voice(speed=1.6))
        slow = await hear(voice, clause("Hello there."), Voice(speed=0.7))
    assert "speed" not in server.requests[0][1]
    assert seconds(fast) == pytest.approx(1.3 / 1.6, abs=0.05)
    assert seconds(slow) == pytest.approx(1.3 / 0.7, abs=0.05)


async def test_a_cloned_voice_goes_along(tmp_path: Any) -> None:
    folder = tmp_path / "anna"
    folder.mkdir()
    (folder / "voice.json").write_text(json.dumps({"transcript": "I am Anna.", "language": "en"}), "utf-8")
    (folder / "reference.wav").write_bytes(b"RIFFsound")
    async with speaking(clones=str(tmp_path)) as (voice, server):
        assert list(voice.voices) == ["alloy", "anna"]
        await hear(voice, clause("Hello."), Voice("anna"))
    body = server.requests[0][1]
    assert body["ref_text"] == "I am Anna."
    assert body["ref_audio"] == "data:audio/wav;base64," + base64.b64encode(b"RIFFsound").decode()
    assert "voice" not in body


@pytest.mark.parametrize(
    ("headers", "rate"),
    [
        ({"Content-Type": "audio/pcm"}, 24_000),
        ({"Content-Type": "audio/pcm;rate=22050;channels=1"}, 22_050),
        ({"Content-Type": "audio/L16; rate=16000"}, 16_000),
        ({"Content-Type": "application/octet-stream", "X-Sample-Rate": "48000"}, 48_000),
        ({"Content-Type": "audio/pcm", "X-Sample-Rate": "3"}, 24_000),
    ],
)
async def test_the_server_may_say_its_rate(headers: dict[str, str], rate: int) -> None:
    async with speaking(Answer((PCM,), headers=headers)) as (voice, _):
        assert {piece.rate for piece in await hear(voice, clause("Hello."))} == {rate}


def wav(rate: int = 22_050, channels: int = 1, bits: int = 16, junk: bytes = b"") -> bytes:
    shape = struct.pack("<HHIIHH", 1, channels, rate, rate * 2, 2, bits)
    fmt = b"fmt " + struct.pack("<I", len(shape)) + shape
    extra = b"LIST" + struct.pack("<I", len(junk)) + junk if junk else b""
    return b"RIFF\xff\xff\xff\xffWAVE" + fmt + extra + b"data\xff\xff\xff\xff"


@pytest.mark.parametrize("size", [1, 3, 44, 5000])
def test_a_wav_header_is_no_sound(size: int) -> None:
    pcm = Pcm(24_000)
    sounds = [sound for piece in cut(wav(junk=b"abcdef") + PCM[:4000], size) for sound in pcm.feed(piece)]
    assert b"".join(sound.pcm for sound in sounds) == PCM[:4000]
    assert {sound.rate for sound in sounds} == {22_050}


@pytest.mark.parametrize("data", [wav(channels=2), wav(bits=24), b"RIFF\0\0\0\0WAVE" + b"junk\x10\0\0\0" * 600])
def test_other_wav_files_are_refused(data: bytes) -> None:
    pcm = Pcm(24_000)
    with pytest.raises(StageError, match=r"16 bit mono|without sound"):
        pcm.feed(data + PCM[:100])


async def test_events_carry_sound_too() -> None:
    events = b": hello\n\n"
    for piece in cut(PCM, 1001):
        body = {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}
        events += b"data: " + json.dumps(body).encode() + b"\n\n"
    events += b'data: {"type": "speech.audio.done", "usage": {}}\n\ndata: [DONE]\n\n'
    answer = Answer(cut(events, 7777), headers={"Content-Type": "text/event-stream"})
    async with speaking(answer, stream_format="sse") as (voice, server):
        assert b"".join(piece.pcm for piece in await hear(voice, clause("Hello."))) == PCM
    assert server.requests[0][1]["stream_format"] == "sse"


def test_broken_events_are_told() -> None:
    for line in (b"data: {nonsense\n", b'data: {"type": "error", "error": {"message": "no memory"}}\n', b"data: 7\n"):
        with pytest.raises(StageError):
            Events().feed(line)
    with pytest.raises(StageError, match="no end"):
        Events().feed(b"data: " + b"x" * (Events.LIMIT + 1))


async def test_the_first_sound_is_handed_on_while_the_rest_is_being_made() -> None:
    rest = asyncio.Event()
    async with speaking(Answer((PCM[:9600], Until(rest), PCM[9600:]))) as (voice, server):
        pieces = voice.say(clause("Hello there."), Voice())
        async with aclosing(pieces):
            early = await anext(pieces)
            assert early.samples >= 4000
            assert server.sent == 9600
            rest.set()
            pcm = early.pcm + b"".join([piece.pcm async for piece in pieces])
    assert pcm == PCM


async def test_words_lie_in_proportion_along_the_whole_clause() -> None:
    raw = "Well, **this** is\nit."
    async with speaking(Answer((PCM,))) as (voice, _):
        pieces = await hear(voice, clause("Well, this is it.", raw=raw))
    words = timeline(pieces)[1]
    assert [raw[w.char_start : w.char_end].strip("*") for w in words] == ["Well,", "this", "is", "it."]
    assert words[0].start == 0
    assert words[-1].end == len(PCM) // 2
    assert all(a.end == b.start for a, b in pairwise(words))


@pytest.mark.parametrize("text", ["😀 👍🏽", "...", "", "—"])
async def test_nothing_to_say_is_not_asked_for(text: str) -> None:
    async with speaking() as (voice, server):
        pieces = await hear(voice, clause(text))
    assert [piece.last for piece in pieces] == [True]
    assert not np.frombuffer(pieces[0].pcm, np.int16).any()
    assert not server.requests


# ---- deadlines, cancellation, failures ----------------------------------------------------------------------------


async def test_closing_closes_the_connection_and_nothing_comes_after() -> None:
    hang = Answer((PCM[:9600], Hang(), PCM[9600:]))
    async with speaking(hang) as (voice, server):
        pieces = voice.say(clause("Hello there."), Voice())
        await anext(pieces)
        await pieces.aclose()
        with anyio.fail_after(5):
            await server.disconnected.wait()
        assert server.sent == 9600
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)


async def test_a_cancelled_wait_for_the_first_sound_closes_the_connection() -> None:
    async with speaking(Answer((Hang(),))) as (voice, server):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear, voice, clause("Hello there."))
            await server.asked.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            await server.disconnected.wait()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer((Hang(),)), "tts_slow"),
        (Answer((b"\0", Hang())), "tts_slow"),  # half a sample is no sound
        (Answer((Die(),)), "tts_broken_off"),
        (Answer(()), "tts_empty"),
        (Answer(status=500, error="out of memory"), "tts_failed"),
        (Answer(status=503), "tts_unreachable"),
        (Answer(status=429, error="slow down"), "tts_busy"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
async def test_an_unheard_clause_is_tried_once_more(answer: Answer, code: str) -> None:
    async with speaking(answer, Answer((PCM,)), first_s=0.3) as (voice, server):
        assert b"".join(piece.pcm for piece in await hear(voice, clause("Hello."))) == PCM
        assert len(server.requests) == 2
    async with speaking(answer, first_s=0.2) as (voice, server):
        with pytest.raises(StageError) as error:
            await hear(voice, clause("Hello."))
        assert (error.value.stage, error.value.code, error.value.retryable) == ("tts", code, True)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(status=401, error="Incorrect API key"), "Incorrect API key"),
        (Answer(status=404, error="no such model"), "tts.base_url"),
        (Answer(status=400, error="bad voice"), "bad voice"),
        (Answer((PCM,), headers={"Content-Type": "audio/mpeg"}), "audio/mpeg instead of PCM"),
        (Answer((PCM,), headers={"Content-Type": "text/html"}), "text/html"),
    ],
)
async def test_a_refusal_is_told_and_not_repeated(answer: Answer, says: str) -> None:
    async with speaking(answer) as (voice, server):
        with pytest.raises(StageError, match=says) as error:
            await hear(voice, clause("Hello."))
        assert (error.value.code, error.value.retryable) == ("tts_refused", False)
        assert len(server.requests) == 1


@pytest.mark.parametrize("end", [Hang(), Die()])
async def test_a_clause_begun_is_not_begun_again(end: Hang | Die) -> None:
    async with speaking(Answer((PCM[:9600], end)), gap_s=0.2) as (voice, server):
        heard = b""

        async def listen() -> None:
            nonlocal heard
            async with aclosing(voice.say(clause("Hi."), Voice())) as pieces:
                async for piece in pieces:
                    heard += piece.pcm

        with pytest.raises(StageError) as error:
            await listen()
        assert error.value.code == ("tts_slow" if isinstance(end, Hang) else "tts_broken_off")
        assert heard
        assert PCM.startswith(heard)
        assert len(server.requests) == 1


async def test_nobody_there_is_told() -> None:
    async with speech_server() as server:
        url = server.url
    async with OpenAiSpeechSettings(base_url=f"{url}/v1").load() as voice:
        with pytest.raises(StageError, match="cannot be reached") as error:
            await hear(voice, clause("Hello."))
        assert error.value.code == "tts_unreachable"


async def test_a_voice_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tts.http_voice.SECONDS_LIMIT", 2.0)
    async with speaking(Answer((PCM,) * 40)) as (voice, _):
        assert seconds(await hear(voice, clause("Hello."))) < 4


def test_keys_do_not_show_and_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert "secret" not in repr(OpenAiSpeechSettings(api_key="secret"))
    assert OpenAiSpeechSettings().remote == "https://api.openai.com/v1"
    assert OpenAiSpeechSettings(base_url="http://127.0.0.1:8091/v1").remote == ""
    for wrong in ({"base_url": "ftp://x"}, {"stream_format": "mp3"}, {"first_s": 0}, {"languages": []}, {"rate": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"type": "openai_speech"} | wrong, OpenAiSpeechSettings)


async def test_a_key_from_the_environment_goes_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    async with speech_server(key="from-environment") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        async with OpenAiSpeechSettings().load() as voice:
            await hear(voice, clause("Hello."))
        async with OpenAiSpeechSettings(base_url=f"{server.url}/v1").load() as voice:
            with pytest.raises(StageError, match="wrong key"):
                await hear(voice, clause("Hello."))
