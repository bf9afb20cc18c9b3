"""espeak-ng: many languages, Chinese among them, and data in a deep directory."""

import os
import shutil
import signal
from contextlib import aclosing
from pathlib import Path

import espeakng_loader
import pytest

from server.core.errors import StageError
from server.core.media import Voice
from tests.tts.conftest import clause, hear, peak, said, seconds, spoken
from tests.tts.test_flite import cpu_s
from tts.espeak import EspeakSettings
from tts.remote import RemoteVoice


async def test_it_speaks_chinese_and_english_in_one_clause(espeak: RemoteVoice) -> None:
    pieces = await hear(espeak, clause("我喜欢 Python 编程，你好。", "zh"))
    assert said(pieces) == ["我", "喜", "欢", "Python", "编", "程", "你好"]
    assert {"ɕ", "θ", "(en)"} <= set(spoken(pieces))
    assert 1.5 < seconds(pieces) < 5
    assert peak(pieces) > 3000


async def test_the_script_chooses_the_voice_even_against_the_name(espeak: RemoteVoice) -> None:
    async def phones(text: str, language: str, voice: str) -> list[str]:
        return spoken(await hear(espeak, clause(text, language), Voice(voice)))

    chinese = await phones("你好", "zh", "")
    assert await phones("你好", "en", "en-us") == chinese  # not "Chinese letter, Chinese letter"
    assert await phones("你好", "en", "en-us+f3") == chinese
    assert await phones("Bonjour", "fr", "") != await phones("Bonjour", "en", "")
    assert await phones("Привет", "en", "") == await phones("Привет", "ru", "")


async def test_languages_and_voices(espeak: RemoteVoice) -> None:
    assert {"en", "zh", "de", "fr", "ru", "ja"} <= set(espeak.languages)
    assert {"en-us", "cmn", "en-us+f3"} <= set(espeak.voices)


async def test_a_variant_colours_the_voice() -> None:
    async with EspeakSettings(variant="f3", speed=120, pitch=70).load() as woman, EspeakSettings().load() as man:
        for what in (clause("Good morning to you."), clause("你好", "zh")):
            theirs, his = await hear(woman, what), await hear(man, what)
            assert theirs[0].pcm != his[0].pcm
        assert seconds(await hear(woman, clause("Good morning to you."))) > 1.15 * seconds(
            await hear(man, clause("Good morning to you."))
        )


async def test_numbers_and_punctuation(espeak: RemoteVoice) -> None:
    assert said(await hear(espeak, clause('I paid $12.50 (really), on "May" 3rd — 20% off.'))) == [
        "I", "paid", "$12.50", "really", "on", "May", "3rd", "20%", "off",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "language"),
    [("Guten Tag, schönes Wetter.", "de"), ("Où est la gare ?", "fr"), ("Добрый день", "ru"), ("こんにちは", "ja"),
     ("안녕하세요", "ko"), ("नमस्ते", "hi"), ("مرحبا", "ar"), ("今天天气很好，是不是？", "zh"), ("Ĉu vi?", "eo")],
)  # fmt: skip
async def test_other_languages_have_sound_and_a_moving_mouth(espeak: RemoteVoice, text: str, language: str) -> None:
    pieces = await hear(espeak, clause(text, language))
    assert peak(pieces) > 2000
    assert len({phone.viseme for piece in pieces for phone in piece.phones}) >= 4


async def test_a_killed_worker_is_back_for_the_next_clause(espeak: RemoteVoice) -> None:
    assert espeak.worker.pid is not None
    os.kill(espeak.worker.pid, signal.SIGKILL)
    assert said(await hear(espeak, clause("Good morning."))) == ["Good", "morning"]


async def test_a_clause_is_broken_off_in_its_middle(espeak: RemoteVoice) -> None:
    long = clause("On and on it goes. " * 100)
    began = cpu_s(espeak)
    await hear(espeak, long)
    whole = cpu_s(espeak) - began
    began = cpu_s(espeak)
    for _ in range(3):
        async with aclosing(espeak.say(long, Voice())) as pieces:
            await anext(pieces)
    await hear(espeak, clause("Yes."))
    assert cpu_s(espeak) - began < 1.5 * whole


async def test_data_in_a_deep_directory(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    shutil.copytree(espeakng_loader.get_data_path(), deep / "espeak-ng-data")
    async with EspeakSettings(data=str(deep / "espeak-ng-data")).load() as espeak:
        assert peak(await hear(espeak, clause("你好", "zh"))) > 3000


async def test_missing_data_is_said_so(tmp_path: Path) -> None:
    for data in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StageError, match="pip install") as error:
            async with EspeakSettings(data=str(data)).load():
                pass
        assert (error.value.stage, error.value.retryable) == ("tts", False)
