"""A served voice in the server: spare voices behind it, `--local`, and what the table at the start says."""

from contextlib import AsyncExitStack

import anyio
import pytest

from server.config import Config
from server.core.errors import ConfigError
from server.core.media import Voice
from server.engines import _refuse_leaving, _tts
from tests.fakes.speech_server import Answer, speech_server, tone
from tests.tts.conftest import clause, hear
from tts.cosyvoice import CosyVoiceSettings
from tts.espeak import EspeakSettings
from tts.openai_speech import OpenAiSpeechSettings
from tts.routed import RoutedTts


async def test_a_served_voice_has_the_machines_own_as_spares() -> None:
    async with (
        speech_server(Answer((tone(0.5),)), Answer(status=400), saved=["anna"]) as server,
        AsyncExitStack() as stack,
    ):
        settings = CosyVoiceSettings(base_url=server.url, normalize=False)
        tts, choice = await _tts(Config(tts=settings), stack)
        assert isinstance(tts, RoutedTts)
        assert (choice.stage, choice.provider, choice.where) == ("speak", "cosyvoice", "here")
        assert "espeak" in choice.why
        with anyio.fail_after(5):
            while not tts.voices:
                await anyio.sleep(0.01)
        assert tts.voices == ["anna"]
        assert not any(piece.note for piece in await hear(tts, clause("Hello."), Voice("slt")))
        assert {piece.note for piece in await hear(tts, clause("Hello."))} == {"a spare voice is speaking"}


async def test_without_spares_the_failure_comes_out() -> None:
    async with AsyncExitStack() as stack:
        settings = OpenAiSpeechSettings(base_url="http://127.0.0.1:1/v1", spare=False)
        tts, choice = await _tts(Config(tts=settings), stack)
        assert isinstance(tts, RoutedTts)
        assert len(tts.engines) == 1
        assert choice.why == "configured"


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (CosyVoiceSettings(), False),
        (CosyVoiceSettings(base_url="http://gpu.lan:50000"), True),
        (OpenAiSpeechSettings(base_url="https://api.example.com/v1"), True),
        (OpenAiSpeechSettings(base_url="http://localhost:8091/v1"), False),
        (EspeakSettings(), False),
    ],
)
def test_local_refuses_a_voice_on_another_machine(
    settings: CosyVoiceSettings | OpenAiSpeechSettings | EspeakSettings, refused: bool
) -> None:
    config = Config(tts=settings)
    if refused:
        with pytest.raises(ConfigError, match=r"tts\.base_url is on another machine"):
            _refuse_leaving(config)
    else:
        _refuse_leaving(config)
