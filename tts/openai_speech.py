"""A voice behind `POST /v1/audio/speech`, streamed as PCM: vLLM-Omni, OpenAI, Kokoro and others of that dialect."""

import base64
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from server.core.media import Clause, Speech, Voice
from tts.http_voice import (
    Patience,
    Sound,
    VoiceServer,
    advised,
    as_it_stands,
    http_session,
    is_local,
    say,
)
from tts.normalize import spelling
from tts.references import Reference, References
from tts.spoken import Spoken

OPENAI_URL = "https://api.openai.com/v1"
RATE = 24_000  # Hz; what every server of this dialect sends as `pcm`


class OpenAiSpeechSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="openai_speech"
):
    """A voice server of the OpenAI dialect: vLLM-Omni, OpenAI, Kokoro ..."""

    base_url: str = ""
    """up to and with `/v1`; empty: OPENAI_BASE_URL, else OpenAI itself"""
    api_key: str = ""
    """empty: OPENAI_API_KEY, but only where base_url is empty, too: a key goes nowhere it was not meant for"""
    model: str = "gpt-4o-mini-tts"
    """vLLM-Omni: the model that it serves; Kokoro: kokoro"""
    voice: str = "alloy"
    """who speaks if nobody else is asked for; Kokoro: af_heart ..."""
    voices: tuple[str, ...] = ()
    """further voices of the server that personas and pages may ask for"""
    languages: tuple[str, ...] = ("*",)
    """primary subtags that the model can say; `*`: any"""
    instructions: str = ""
    """how to speak, for models that listen to it"""
    clones: str = ""
    """folder of cloned voices; sound and transcript are sent with each clause (vLLM-Omni: ref_audio, ref_text)"""
    stream_format: str = "audio"
    """`audio`: raw PCM; `sse`: events; empty: not sent, for servers that do not know it"""
    speed: bool = True
    """whether the server can speak faster and slower; false (vLLM-Omni while streaming): it is done here"""
    normalize: bool = False
    """spell numbers, dates and units out before they are sent (the `tts` extra)"""
    extra_body: dict[str, Any] = {}
    """sent along"""
    rate: int = RATE
    """Hz of the server's PCM, where it does not say"""
    first_s: float = 4.0
    """the first sound of a clause must come within so many seconds"""
    gap_s: float = 3.0
    """... and each further piece within so many"""
    spare: bool = True
    """the voices of this machine step in when the server fails"""

    def __post_init__(self) -> None:
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url must begin with http:// or https://")
        if self.stream_format not in ("audio", "sse", ""):
            raise ValueError('stream_format must be "audio", "sse" or empty')
        if min(self.first_s, self.gap_s) <= 0 or not 8000 <= self.rate <= 192_000:
            raise ValueError("first_s and gap_s must be greater than 0, rate between 8000 and 192000")
        advised(self.languages, "openai_speech")

    def __repr__(self) -> str:
        return f"OpenAiSpeechSettings(base_url={self.base_url!r}, model={self.model!r})"  # never the key

    @property
    def address(self) -> str:
        """The URL that requests go to."""
        return self.base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL

    @property
    def key(self) -> str:
        """What requests are signed with; empty: nothing."""
        return self.api_key or ("" if self.base_url else os.environ.get("OPENAI_API_KEY", "").strip())

    @property
    def remote(self) -> str:
        """The machine that words go to; empty: this one."""
        return "" if is_local(self.address) else self.address

    @asynccontextmanager
    async def load(self) -> AsyncGenerator["OpenAiSpeech", None]:
        """Nothing is asked of the server yet: it may still be starting."""
        spell = await spelling() if self.normalize else as_it_stands
        async with http_session(self.address, self.key) as session:
            advice = "Check tts.base_url (it ends in /v1), tts.model, tts.voice and the key."
            server = VoiceServer(session, self.address, Patience(self.first_s, self.gap_s), advice)
            yield OpenAiSpeech(self, server, spell, References(self.clones))


class OpenAiSpeech:
    """The Tts protocol over the OpenAI dialect; shared by all calls."""

    def __init__(
        self,
        settings: OpenAiSpeechSettings,
        server: VoiceServer,
        spell: Callable[[Clause], Awaitable[Spoken]],
        references: References,
    ) -> None:
        self.languages: Sequence[str] = settings.languages
        self.server = server
        self._settings = settings
        self._spell = spell
        self._references = references

    @property
    def voices(self) -> Sequence[str]:
        named = (self._settings.voice, *self._settings.voices, *self._references.names())
        return [name for name in dict.fromkeys(named) if name]

    def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        """The clause in pieces of at most 200 ms, as they come; see http_voice.say."""
        tempo = 1.0 if self._settings.speed else voice.speed
        return say(clause, self._settings.rate, self._spell, partial(self._sound, voice), tempo, voice.speed)

    async def _sound(self, voice: Voice, text: str) -> AsyncGenerator[Sound, None]:
        settings = self._settings
        name = voice.name if voice.name in self.voices else settings.voice
        body: dict[str, Any] = {"model": settings.model, "input": text, "response_format": "pcm"}
        if (reference := await self._references.read(name)) is not None:
            body |= _cloned(reference)
        elif name:
            body["voice"] = name
        if settings.stream_format:
            body["stream_format"] = settings.stream_format
        if settings.speed and voice.speed != 1.0:
            body["speed"] = round(min(max(voice.speed, 0.25), 4.0), 3)
        if settings.instructions:
            body["instructions"] = settings.instructions
        body |= settings.extra_body
        async with aclosing(self.server.stream("/audio/speech", settings.rate, json=body)) as sounds:
            async for sound in sounds:
                yield sound


def _cloned(reference: Reference) -> dict[str, str]:
    """vLLM-Omni's fields."""
    data = base64.b64encode(reference.audio).decode()
    return {"ref_audio": f"data:{reference.kind};base64,{data}", "ref_text": reference.transcript}
