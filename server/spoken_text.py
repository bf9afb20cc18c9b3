"""A text spoken into a WAV file by any voice that is configured here, cloned ones included (`visavis synthesize`)."""

import wave
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import msgspec

from server.config import Config, load_config
from server.core.errors import RequestError
from server.core.media import SAMPLE_BYTES, Voice
from server.core.spoken import sayable
from server.engines import load_tts
from server.speech_route import RATE, clauses, said
from server.voice_routes import known
from tts.cosyvoice import CosyVoiceSettings
from tts.openai_speech import OpenAiSpeechSettings

TEXT_LIMIT = 100_000  # characters; some two hours
VOICES_S = 3.0  # for a voice server to tell which voices it has


def write(
    text: str, avatar: str, voice: str, language: str, files: Sequence[Path], assignments: Sequence[str], out: Path
) -> None:
    """Speak `text` into the WAV file `out`, s16le mono RATE.

    avatar: whose voice and language hold where `voice` and `language` are empty. files, assignments: as of `serve`.
    Raises VisavisError: a voice that is not there, one that fails; no other steps in for it.
    """
    if not sayable(text):
        raise RequestError(400, "no_text", "There is nothing to say in --text.")
    if len(text) > TEXT_LIMIT:
        raise RequestError(400, "too_long", f"--text may have {TEXT_LIMIT} characters; this has {len(text)}.")
    config = load_config(files, assignments)
    if isinstance(config.tts, CosyVoiceSettings | OpenAiSpeechSettings):
        config = msgspec.structs.replace(config, tts=msgspec.structs.replace(config.tts, spare=False))
    anyio.run(_write, config, text, Path(avatar).name, voice, language, out)


async def _write(config: Config, text: str, avatar: str, voice: str, language: str, out: Path) -> None:
    settings = next((p for p in config.personas.values() if p.avatar == avatar), None)
    async with load_tts(config) as tts:
        with anyio.move_on_after(VOICES_S):  # a voice server is asked for its own voices meanwhile
            while voice and voice not in tts.voices:
                await anyio.sleep(0.05)
        voices = list(tts.voices)
        if voice and voice not in voices:
            raise RequestError(404, "unknown_voice", f"There is no voice {voice!r} here; there is {known(voices)}.")
        if settings is not None:
            voice = voice or next((name for name in settings.voices if name in voices), "")
        spoken = language or (settings.language if settings is not None else "en")
        with wave.open(str(out), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(SAMPLE_BYTES)
            file.setframerate(RATE)
            for clause in clauses(text, spoken):
                async with aclosing(said(tts, clause, Voice(voice, 1.0))) as pieces:
                    async for pcm in pieces:
                        file.writeframes(pcm)
