"""CosyVoice in the call: the client of our own streaming server (tts/cosyvoice_server) and of the stock one."""

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import anyio
import msgspec

from server.core.errors import StageError
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
from tts.scripts import primary
from tts.spoken import Spoken

log = logging.getLogger(__name__)

MODES = ("auto", "zero_shot", "cross_lingual", "instruct")
PREPARED_LIMIT = 16  # cloned voices that are sent to the server ahead of their first clause
LIST_LIMIT = 1000  # voices of a server that are believed


class CosyVoiceSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="cosyvoice"
):
    """CosyVoice 2 or 3 behind a server; cloned voices."""

    base_url: str = "http://127.0.0.1:50000"
    """the voice server; empty is not allowed"""
    api_key: str = ""
    """what our own server was given as VISAVIS_TTS_KEY"""
    server: str = "visavis"
    """`visavis`: our own streaming server; `stock`: CosyVoice's runtime/python/fastapi (no streaming: first_s must
    then last for a whole sentence)"""
    voice: str = ""
    """who speaks if nobody else is asked for: a cloned voice, or a speaker saved in the model; empty: the first"""
    clones: str = ""
    """folder of cloned voices (a folder each: voice.json, reference.wav)"""
    mode: str = "auto"
    """`zero_shot`; `cross_lingual`: without the transcript; `instruct`; `auto`: instruct where an instruction is
    set, cross_lingual where the reference has no transcript or another language, else zero_shot"""
    instruct: str = ""
    """how to speak, e.g. "speak slowly and warmly" """
    languages: tuple[str, ...] = ("zh", "en", "ja", "ko", "yue")
    """primary subtags that the model can say"""
    normalize: bool = True
    """spell numbers, dates and units out before they are sent (the `tts` extra)"""
    rate: int = 24_000
    """Hz of the stock server's PCM: 24000; 22050 for the first CosyVoice"""
    first_s: float = 3.0
    """the first sound of a clause must come within so many seconds"""
    gap_s: float = 2.0
    """... and each further piece within so many"""
    spare: bool = True
    """the voices of this machine step in when the server fails"""

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url must begin with http:// or https://")
        if self.server not in ("visavis", "stock"):
            raise ValueError('server must be "visavis" or "stock"')
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}")
        if self.mode == "instruct" and not self.instruct:
            raise ValueError('mode "instruct" needs an instruction in `instruct`')
        if min(self.first_s, self.gap_s) <= 0 or not 8000 <= self.rate <= 192_000:
            raise ValueError("first_s and gap_s must be greater than 0, rate between 8000 and 192000")
        advised(self.languages, "cosyvoice")

    def __repr__(self) -> str:
        return f"CosyVoiceSettings(base_url={self.base_url!r}, server={self.server!r})"  # never the key

    @property
    def remote(self) -> str:
        """The machine that words go to; empty: this one."""
        return "" if is_local(self.base_url) else self.base_url

    @asynccontextmanager
    async def load(self) -> AsyncGenerator["CosyVoice", None]:
        """Works without the server, too: it may still be loading its model. What it lacks is logged."""
        spell = await spelling() if self.normalize else as_it_stands
        async with http_session(self.base_url, self.api_key) as session:
            advice = "Check tts.base_url, tts.server, tts.voice and tts.api_key."
            server = VoiceServer(session, self.base_url, Patience(self.first_s, self.gap_s), advice)
            voice = CosyVoice(self, server, spell, References(self.clones))
            ahead = asyncio.create_task(voice.prepare())
            try:
                yield voice
            finally:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)


class CosyVoice:
    """The Tts protocol over a CosyVoice server; shared by all calls."""

    def __init__(
        self,
        settings: CosyVoiceSettings,
        server: VoiceServer,
        spell: Callable[[Clause], Awaitable[Spoken]],
        references: References,
    ) -> None:
        self.languages: Sequence[str] = settings.languages
        self.server = server
        self._settings = settings
        self._spell = spell
        self._references = references
        self._saved: tuple[str, ...] = ()  # speakers that came with the model
        self._listed = False
        self._ids: dict[str, tuple[float, str]] = {}  # cloned voice -> (its stamp, the server's id for it)
        self._sending = anyio.Lock()

    @property
    def voices(self) -> Sequence[str]:
        """Cloned voices first; a voice that was added meanwhile is among them."""
        named = (*self._references.names(), *self._saved, self._settings.voice)
        return [name for name in dict.fromkeys(named) if name]

    async def prepare(self) -> None:
        """Learn the server's speakers and give it our cloned voices: no clause waits for that then. Never raises."""
        try:
            await self._list()
            for name in self._references.names()[:PREPARED_LIMIT]:
                if self._settings.server == "visavis" and (reference := await self._references.read(name)):
                    await self._id(reference)
        except StageError as error:
            log.warning("%s Until then the voices of this machine speak.", error.message)

    async def forget(self, name: str, reference: Reference | None = None) -> None:
        """A cloned voice was deleted: the server's cache of it goes, too. Raises StageError("tts", ...).

        reference: what was deleted; the server may have it from another process's life, under an id that only it can
        tell: it is given it once more for that.
        """
        async with self._sending:
            _, known = self._ids.get(name, (0.0, ""))
            if not known and reference is not None and self._settings.server == "visavis":
                known = await self._give(reference)
            if known:
                await self.server.ask("DELETE", f"/v1/voices/{known}")
            self._ids.pop(name, None)

    def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        """The clause in pieces of at most 200 ms, as they come; see http_voice.say."""
        return say(
            clause, self._settings.rate, self._spell, partial(self._sound, clause, voice), voice.speed, voice.speed
        )

    async def _sound(self, clause: Clause, voice: Voice, text: str) -> AsyncGenerator[Sound, None]:
        if not self._listed:
            await self._list()
        name = voice.name if voice.name in self.voices else self._settings.voice or next(iter(self.voices), "")
        if not name:
            what = (
                "No voice is there to speak with: add a cloned voice (visavis voice add), or name one in tts.voice."
            )
            raise StageError("tts", "tts_voice_unknown", what, retryable=False)
        reference = await self._references.read(name)
        mode = self._mode(clause, reference)
        ask = self._stock if self._settings.server == "stock" else self._ours
        async with aclosing(ask(mode, text, name, reference)) as sounds:
            async for sound in sounds:
                yield sound

    def _mode(self, clause: Clause, reference: Reference | None) -> str:
        settings = self._settings
        if settings.mode != "auto":
            return settings.mode
        if settings.instruct:
            return "instruct"
        if reference is None:
            return "saved"
        foreign = reference.language and primary(reference.language) != primary(clause.language)
        return "cross_lingual" if foreign or not reference.transcript else "zero_shot"

    # ---- our own server ------------------------------------------------------------------------------------------

    async def _ours(
        self, mode: str, text: str, name: str, reference: Reference | None
    ) -> AsyncGenerator[Sound, None]:
        for attempt in (1, 2):
            body = {"text": text, "voice": await self._id(reference) if reference else name}
            if mode == "instruct":
                body["instruct"] = self._settings.instruct
            path = f"/v1/speech/{mode.replace('_', '-')}"
            try:
                async with aclosing(self.server.stream(path, self._settings.rate, json=body)) as sounds:
                    async for sound in sounds:
                        yield sound
                return
            except StageError as error:
                # It was started again, or its cache was emptied: give it the voice once more.
                if error.code != "tts_voice_unknown" or reference is None or attempt == 2:
                    raise
                self._ids.pop(name, None)

    async def _id(self, reference: Reference) -> str:
        """The server's id for a cloned voice, which it has now."""
        async with self._sending:
            stamp, known = self._ids.get(reference.name, (0.0, ""))
            if known and stamp == reference.stamp:
                return known
            if reference.name not in self._references.names():  # it was deleted after it was read
                what = f"The voice {reference.name!r} was deleted."
                raise StageError("tts", "tts_voice_unknown", what, retryable=False)
            known = await self._give(reference)
            self._ids[reference.name] = (reference.stamp, known)
            return known

    async def _give(self, reference: Reference) -> str:
        form = aiohttp.FormData({"transcript": reference.transcript, "name": reference.name})
        form.add_field("audio", io.BytesIO(reference.audio), filename="reference", content_type=reference.kind)
        answer = await self.server.ask("POST", "/v1/voices", data=form)
        known = str(answer.get("id", "")) if isinstance(answer, dict) else ""
        if not known:
            what = f"The voice server at {self.server.where} is not ours: it takes no voices. Check tts.server."
            raise StageError("tts", "tts_refused", what, retryable=False)
        return known

    async def _list(self) -> None:
        if self._settings.server == "visavis":
            answer = await self.server.ask("GET", "/v1/voices")
            listed: Any = answer.get("saved", []) if isinstance(answer, dict) else []
            self._saved = tuple(str(name) for name in listed[:LIST_LIMIT])
        self._listed = True

    # ---- the stock server, as of commit ace7c47 ------------------------------------------------------------------

    async def _stock(
        self, mode: str, text: str, name: str, reference: Reference | None
    ) -> AsyncGenerator[Sound, None]:
        form = aiohttp.FormData({"tts_text": text})
        if reference is None:
            path = "/inference_sft"
            form.add_field("spk_id", name)
        else:
            form.add_field(
                "prompt_wav", io.BytesIO(reference.audio), filename="prompt.wav", content_type=reference.kind
            )
            if mode == "instruct":
                path = "/inference_instruct2"
                form.add_field("instruct_text", self._settings.instruct)
            elif mode == "cross_lingual":
                path = "/inference_cross_lingual"
            else:
                path = "/inference_zero_shot"
                form.add_field("prompt_text", reference.transcript)
        try:
            async with aclosing(self.server.stream(path, self._settings.rate, data=form)) as sounds:
                async for sound in sounds:
                    yield sound
        except StageError as error:
            if error.code != "tts_empty":
                raise
            # Status 200 and no sound is all that it says when it fails: its own prompts have done so since 2025-12
            # (load_wav is given a tensor), and so does a speaker that it does not know.
            what = (
                f"CosyVoice's stock server at {self.server.where} answered without a sound: it fails with every"
                f" reference, and with speakers it does not know ({name}). Ours does not: see docker/cosyvoice."
            )
            raise StageError("tts", "tts_empty", what, retryable=False) from error
