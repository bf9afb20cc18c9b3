"""The client of our CosyVoice server and of the stock one, against servers that speak their protocols."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from server.core.errors import StageError
from server.core.media import Voice
from tests.fakes.speech_server import Answer, Die, FakeSpeechServer, Hang, speech_server, tone
from tests.tts.conftest import clause, hear, seconds
from tts.cosyvoice import CosyVoice, CosyVoiceSettings
from tts.remote import RemoteVoice
from tts.routed import RoutedTts

PCM = tone(1.0)


@pytest.fixture
def clones(tmp_path: Path) -> Path:
    """Anna (English) and 小明 (Chinese), and one without a transcript."""
    for name, transcript, language in (
        ("anna", "I am Anna.", "en"),
        ("xiaoming", "我是小明。", "zh"),
        ("mute", "", "en"),
    ):
        (tmp_path / name).mkdir()
        sheet = {"transcript": transcript, "language": language}
        (tmp_path / name / "voice.json").write_text(json.dumps(sheet), "utf-8")
        (tmp_path / name / "reference.wav").write_bytes(f"RIFF {name}".encode())
    (tmp_path / "incomplete").mkdir()
    return tmp_path


@asynccontextmanager
async def speaking(
    *answers: Answer, saved: list[str] | None = None, key: str = "", **options: Any
) -> AsyncIterator[tuple[CosyVoice, FakeSpeechServer]]:
    async with speech_server(*answers or [Answer((PCM,))], saved=saved or [], key=key) as server:
        settings = CosyVoiceSettings(base_url=server.url, normalize=False, **options)
        async with settings.load() as voice:
            yield voice, server


async def test_a_cloned_voice_is_sent_once_and_named_afterwards(clones: Path) -> None:
    async with speaking(clones=str(clones)) as (voice, server):
        await voice.prepare()
        assert {form["transcript"] for form in server.voices.values()} == {"I am Anna.", "我是小明。", ""}
        pieces = await hear(voice, clause("Hello."), Voice("anna")) + await hear(voice, clause("Bye."), Voice("anna"))
    assert b"".join(piece.pcm for piece in pieces) == PCM + PCM
    anna = next(known for known, form in server.voices.items() if form["audio"] == b"RIFF anna")
    assert server.requests == [
        ("/v1/speech/zero-shot", {"text": "Hello.", "voice": anna}),
        ("/v1/speech/zero-shot", {"text": "Bye.", "voice": anna}),
    ]


async def test_voices_are_listed_and_the_first_speaks_by_default(clones: Path) -> None:
    async with speaking(clones=str(clones), saved=["中文女"]) as (voice, server):
        await voice.prepare()
        assert voice.voices == ["anna", "mute", "xiaoming", "中文女"]
        await hear(voice, clause("Hello."), Voice("nobody"))
        assert server.requests[-1][1]["voice"] in server.voices
        await hear(voice, clause("Hello."), Voice("中文女"))
        assert server.requests[-1] == ("/v1/speech/saved", {"text": "Hello.", "voice": "中文女"})
        (clones / "anna" / "voice.json").unlink()
        assert "anna" not in voice.voices


async def test_the_way_to_speak_fits_the_reference(clones: Path) -> None:
    async with speaking(clones=str(clones)) as (voice, server):
        for name, text, language in (
            ("anna", "Hello.", "en"),
            ("anna", "你好。", "zh"),
            ("xiaoming", "你好。", "zh-CN"),
            ("mute", "Hello.", "en"),
        ):
            await hear(voice, clause(text, language), Voice(name))
    paths = [path.rpartition("/")[2] for path, _ in server.requests]
    assert paths == ["zero-shot", "cross-lingual", "zero-shot", "cross-lingual"]
    async with speaking(clones=str(clones), instruct="whisper") as (voice, server):
        await hear(voice, clause("Hello."), Voice("anna"))
    path, body = server.requests[0]
    assert (path, body["instruct"]) == ("/v1/speech/instruct", "whisper")


async def test_a_server_that_forgot_a_voice_is_given_it_again(clones: Path) -> None:
    async with speaking(clones=str(clones)) as (voice, server):
        await voice.prepare()
        await hear(voice, clause("Hello."), Voice("anna"))
        server.voices.clear()  # it was started again
        await hear(voice, clause("Hello."), Voice("anna"))
        assert len(server.requests) == 3
        assert [form["audio"] for form in server.voices.values()] == [b"RIFF anna"]


async def test_a_voice_that_changed_is_sent_again_and_a_deleted_one_forgotten(clones: Path) -> None:
    async with speaking(clones=str(clones)) as (voice, server):
        await hear(voice, clause("Hello."), Voice("anna"))
        old = server.requests[-1][1]["voice"]
        (clones / "anna" / "voice.json").write_text('{"transcript": "I am Ann.", "language": "en"}')
        await hear(voice, clause("Hello."), Voice("anna"))
        new = server.requests[-1][1]["voice"]
        assert new != old
        await voice.forget("anna")
        assert server.deleted == [new]
        await voice.forget("nobody")
        assert server.deleted == [new]


async def test_numbers_are_spelled_out_first() -> None:
    pytest.importorskip("wetext", reason="wetext is not installed (pip install -e .[tts])")
    async with (
        speech_server(Answer((PCM,)), saved=["a"]) as server,
        CosyVoiceSettings(base_url=server.url).load() as voice,
    ):
        pieces = await hear(voice, clause("It costs $5.", raw="It *costs* $5."))
    assert server.requests[0][1]["text"] == "It costs five dollars."
    words = pieces[-1].words
    assert ["It *costs* $5."[word.char_start : word.char_end].strip("*") for word in words] == ["It", "costs", "$5."]


async def test_speed_is_made_here() -> None:
    async with speaking(saved=["a"]) as (voice, server):
        assert seconds(await hear(voice, clause("Hello."), Voice(speed=1.25))) == pytest.approx(0.8, abs=0.05)
    assert "speed" not in server.requests[0][1]


async def test_without_any_voice_it_says_what_to_do() -> None:
    async with speaking() as (voice, server):
        with pytest.raises(StageError, match="visavis voice add") as error:
            await hear(voice, clause("Hello."))
        assert not error.value.retryable
        assert not server.requests


async def test_the_key_is_sent() -> None:
    async with speaking(saved=["a"], key="secret", api_key="secret") as (voice, _):
        await hear(voice, clause("Hello."))
    async with speaking(saved=["a"], key="secret") as (voice, _):
        with pytest.raises(StageError, match=r"tts\.api_key"):
            await hear(voice, clause("Hello."))


async def test_a_server_that_comes_later_is_used_then() -> None:
    async with speech_server(Answer((PCM,)), saved=["a"]) as server:
        settings = CosyVoiceSettings(base_url="http://127.0.0.1:1", normalize=False)
        async with settings.load() as voice:
            with pytest.raises(StageError, match="cannot be reached"):
                await hear(voice, clause("Hello."))
            voice.server.base_url = server.url
            assert await hear(voice, clause("Hello."))
            assert voice.voices == ["a"]


async def test_another_server_is_told_apart(clones: Path) -> None:
    async with (
        speech_server() as server,
        CosyVoiceSettings(base_url=f"{server.url}/v2", normalize=False, clones=str(clones)).load() as voice,
    ):
        with pytest.raises(StageError, match=r"tts\.base_url"):
            await hear(voice, clause("Hello."))


# ---- the stock server --------------------------------------------------------------------------------------------


async def test_the_stock_server_is_spoken_in_its_shape(clones: Path) -> None:
    async with speaking(server="stock", voice="中文女", clones=str(clones)) as (voice, server):
        await hear(voice, clause("Hello."), Voice("中文女"))
        await hear(voice, clause("Hello."), Voice("anna"))
        await hear(voice, clause("你好。", "zh"), Voice("anna"))
    async with speaking(server="stock", clones=str(clones), instruct="whisper") as (voice, other):
        await hear(voice, clause("Hello."), Voice("anna"))
    assert server.requests + other.requests == [
        ("/inference_sft", {"tts_text": "Hello.", "spk_id": "中文女"}),
        (
            "/inference_zero_shot",
            {"tts_text": "Hello.", "prompt_wav": b"RIFF anna", "prompt_text": "I am Anna."},
        ),
        ("/inference_cross_lingual", {"tts_text": "你好。", "prompt_wav": b"RIFF anna"}),
        (
            "/inference_instruct2",
            {"tts_text": "Hello.", "prompt_wav": b"RIFF anna", "instruct_text": "whisper"},
        ),
    ]
    assert not server.voices


async def test_its_silence_is_explained(clones: Path) -> None:
    async with speaking(Answer(()), server="stock", clones=str(clones)) as (voice, server):
        with pytest.raises(StageError, match="fails with every reference") as error:
            await hear(voice, clause("Hello."))
        assert not error.value.retryable
        assert len(server.requests) == 1


# ---- slow, dead, cancelled -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken", [Answer((Hang(),)), Answer((Die(),)), Answer(status=500)], ids=["slow", "dead", "500"]
)
async def test_after_one_more_try_a_spare_voice_speaks_and_says_so(broken: Answer, espeak: RemoteVoice) -> None:
    async with speaking(broken, saved=["a"], first_s=0.2) as (voice, server):
        routed = RoutedTts([voice], [espeak])
        pieces = await hear(routed, clause("Good morning."), Voice("a"))
        assert {piece.note for piece in pieces} == {"a spare voice is speaking"}
        assert {piece.rate for piece in pieces} == {22_050}
        assert len(server.requests) == 2
        again = await hear(routed, clause("Good morning."), Voice("a"))  # it rests now: nobody waits for it
        assert {piece.note for piece in again} == {"a spare voice is speaking"}
        assert len(server.requests) == 2


async def test_a_spare_voice_is_no_choice(espeak: RemoteVoice) -> None:
    async with speaking(saved=["a"]) as (voice, server):
        routed = RoutedTts([voice], [espeak])
        await voice.prepare()
        assert routed.voices == ["a"]
        assert not any(piece.note for piece in await hear(routed, clause("Good morning."), Voice("en-us")))
        assert len(server.requests) == 1
        german = await hear(routed, clause("Guten Morgen.", "de"), Voice("a"))
        assert {piece.rate for piece in german} == {22_050}
        assert {piece.note for piece in german} == {""}  # its own language, not a failure


async def test_after_a_cancel_nothing_more_is_asked_or_sent() -> None:
    async with speaking(Answer((PCM[:9600], Hang(), PCM[9600:])), saved=["a"]) as (voice, server):
        pieces = voice.say(clause("Hello there."), Voice())
        await anext(pieces)
        await pieces.aclose()
        with anyio.fail_after(5):
            await server.disconnected.wait()
        assert server.sent == 9600
        assert len(server.requests) == 1


def test_settings_are_checked() -> None:
    assert CosyVoiceSettings().remote == ""
    assert CosyVoiceSettings(base_url="http://gpu.lan:50000").remote == "http://gpu.lan:50000"
    assert "secret" not in repr(CosyVoiceSettings(api_key="secret"))
    for wrong in ({"base_url": ""}, {"server": "grpc"}, {"mode": "sing"}, {"mode": "instruct"}, {"gap_s": 0}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"type": "cosyvoice"} | wrong, CosyVoiceSettings)
