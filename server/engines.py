"""Loads each shared engine once, chooses where the configuration says `auto`, and says why."""

import logging
import os
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio

from render.remote import InstagSettings, StillSettings
from server.asr.funasr import FunasrSettings
from server.asr.funasr_ws import FunasrWsSettings
from server.asr.pocketsphinx import PocketsphinxSettings
from server.asr.textonly import TextOnlySettings
from server.asr.transcriptions import TranscriptionsSettings
from server.config import Config
from server.core.errors import ConfigError, StageError, VisavisError
from server.core.media import AvatarInfo, Persona
from server.core.protocols import Asr, Function, Llm, RenderEngine, Tts, TurnEnds, Vad
from server.llm.discover import discover
from server.llm.functions import load_functions
from server.llm.openai_compatible import OpenAiLlm, OpenAiSettings, is_local
from server.llm.scripted import ScriptedSettings
from server.providers import Auto
from server.vad.smart_turn import SilenceSettings, SmartTurnSettings
from server.workers.process import live_workers
from tts.cosyvoice import CosyVoiceSettings
from tts.espeak import EspeakSettings
from tts.flite import FliteSettings
from tts.openai_speech import OpenAiSpeechSettings
from tts.references import Reference
from tts.routed import RoutedTts

log = logging.getLogger(__name__)

Engine = TypeVar("Engine")


@dataclass(frozen=True, slots=True)
class Choice:
    """One row of the table at the start."""

    stage: str
    provider: str
    why: str
    where: str = "here"
    """host and model if words or voice leave the machine"""
    better: str = ""
    """how to get something better"""


@dataclass(slots=True)
class Engines:
    """What all calls share."""

    vad: Vad
    asr: Asr
    deaf: Asr
    """for a call whose language the ASR does not understand, or for which it has no room"""
    llm: Llm
    llm_name: str
    tts: Tts
    renderer: RenderEngine
    ends: TurnEnds | None = None
    """who listens for the ends of turns; None: nobody, silence and words must do"""
    functions: Mapping[str, Function] = field(default_factory=dict)
    """what the language model may call here, by name"""
    choices: list[Choice] = field(default_factory=list)

    @property
    def avatars(self) -> Sequence[AvatarInfo]:
        return self.renderer.avatars

    def avatar(self, name: str) -> AvatarInfo | None:
        return next((a for a in self.avatars if a.name == name), None)

    def workers(self) -> dict[str, bool]:
        """Each worker process by name, and whether it is ready at the moment."""
        return {worker.name: worker.is_ready for worker in live_workers()}

    def llm_usage(self) -> dict[str, int]:
        """What the language model has cost since the start, as its server counts it; empty where it tells nothing."""
        usage = self.llm.usage if isinstance(self.llm, OpenAiLlm) else None
        if usage is None:
            return {}
        return {
            "replies": usage.replies,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "answer_tokens": usage.answer_tokens,
        }

    async def forget_voice(self, reference: Reference) -> None:
        """A cloned voice was deleted: its server forgets it. Raises StageError("tts", ...) if it cannot be told."""
        if isinstance(self.tts, RoutedTts):
            await self.tts.forget(reference)

    def voice_for(self, persona: Persona) -> str:
        """The first voice of the persona's that there is; empty: the engine's own choice."""
        return next((v for v in persona.voices if v in self.tts.voices), "")


@asynccontextmanager
async def load_engines(config: Config, local: bool = False) -> AsyncIterator[Engines]:
    """Everything loaded and warm inside.

    local: refuse whatever sends words or voice to another machine.
    Raises ConfigError or StageError with a sentence that says what to do.
    """
    if local:
        _refuse_leaving(config)
    async with AsyncExitStack() as stack:
        functions = load_functions(config.tools.functions)
        vad = await stack.enter_async_context(config.vad.load())
        # Started side by side: most of the time each of them waits for a process to come up.
        (
            (asr, asr_choice),
            (llm, llm_name, llm_choice),
            (tts, tts_choice),
            (renderer, face_choice),
            (ends, ends_choice),
        ) = await _gather(
            _asr(config, stack),
            _llm(config, stack, local),
            _tts(config, stack),
            _renderer(config, stack),
            _ends(config, stack),
        )
        choices = [
            Choice("hear", tag(config.vad), "small and quick, behind an energy gate"),
            ends_choice,
            asr_choice,
            llm_choice,
            tts_choice,
            face_choice,
        ]
        deaf = await stack.enter_async_context(TextOnlySettings().load())
        yield Engines(vad, asr, deaf, llm, llm_name, tts, renderer, ends, functions=functions, choices=choices)


def clones(config: Config) -> str:
    """The folder of the cloned voices; empty: the configured voice cannot be cloned."""
    return config.tts.clones if isinstance(config.tts, CosyVoiceSettings | OpenAiSpeechSettings) else ""


def _refuse_leaving(config: Config) -> None:
    """Before anything is loaded: to load may be to contact. Raises ConfigError."""
    if isinstance(config.llm, OpenAiSettings) and not is_local(config.llm.address):
        host = urlsplit(config.llm.address).hostname
        raise ConfigError(f"llm.base_url is on another machine, {host}; --local forbids that.")
    if isinstance(config.asr, FunasrWsSettings | TranscriptionsSettings) and not is_local(config.asr.address):
        host = urlsplit(config.asr.address).hostname
        raise ConfigError(f"asr hears on another machine, {host}; --local forbids that.")
    if isinstance(config.tts, CosyVoiceSettings | OpenAiSpeechSettings) and config.tts.remote:
        host = urlsplit(config.tts.remote).hostname
        raise ConfigError(f"tts.base_url is on another machine, {host}; --local forbids that.")
    for server in config.ice.ice_servers:
        for url in server.urls:
            if not is_local(url.partition(":")[2]):
                raise ConfigError(f"ice.ice_servers names another machine, {url}; --local forbids that.")


async def _gather(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """All results, or the first's failure after the others have come to rest."""
    results: list[Any] = [None] * len(coroutines)

    async def run(i: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            results[i] = await coroutine
        except VisavisError as error:
            results[i] = error

    async with anyio.create_task_group() as tasks:
        for i, coroutine in enumerate(coroutines):
            tasks.start_soon(run, i, coroutine)
    for result in results:
        if isinstance(result, VisavisError):
            raise result
    return results


async def _ends(config: Config, stack: AsyncExitStack) -> tuple[TurnEnds | None, Choice]:
    settings = config.endpointing
    if isinstance(settings, SilenceSettings):
        return None, Choice("take turns", "silence and words", "configured")
    try:
        chosen = SmartTurnSettings() if isinstance(settings, Auto) else settings
        ends: TurnEnds = await stack.enter_async_context(chosen.load())
    except StageError as error:
        if not isinstance(settings, Auto):
            raise
        return None, Choice("take turns", "silence and words", "works everywhere", better=error.message)
    heard = "hears whether a turn sounds finished" + (", and what is noise" if chosen.silero else "")
    return ends, Choice("take turns", tag(chosen), heard)


async def _asr(config: Config, stack: AsyncExitStack) -> tuple[Asr, Choice]:
    settings = config.asr
    if isinstance(settings, FunasrSettings):
        here: Asr = await stack.enter_async_context(settings.load(config.gpu.asr.memory_gib))
        return here, Choice("transcribe", tag(settings), "configured")
    if not isinstance(settings, Auto):
        configured: Asr = await stack.enter_async_context(settings.load())
        where = "here"
        if isinstance(settings, FunasrWsSettings | TranscriptionsSettings) and not is_local(settings.address):
            where = urlsplit(settings.address).hostname or settings.address
        return configured, Choice("transcribe", tag(settings), "configured", where)
    try:
        engine: Asr = await stack.enter_async_context(PocketsphinxSettings().load())
        return engine, Choice("transcribe", "pocketsphinx", "works offline; English")
    except StageError as error:
        engine = await stack.enter_async_context(TextOnlySettings().load())
        return engine, Choice("transcribe", "none: type instead", error.message)


@asynccontextmanager
async def load_asr(config: Config) -> AsyncIterator[Asr]:
    """What understands speech here, by itself. Raises StageError."""
    async with AsyncExitStack() as stack:
        yield (await _asr(config, stack))[0]


@asynccontextmanager
async def load_tts(config: Config) -> AsyncIterator[Tts]:
    """The voices that are configured, by themselves. Raises StageError."""
    async with AsyncExitStack() as stack:
        yield (await _tts(config, stack))[0]


async def _llm(config: Config, stack: AsyncExitStack, local: bool) -> tuple[Llm, str, Choice]:
    settings = config.llm
    if isinstance(settings, Auto):
        found = await discover(os.environ, local)
        if found.settings is None:
            scripted = await stack.enter_async_context(ScriptedSettings().load())
            return scripted, "scripted", Choice("think", "scripted", found.reason, better=found.how)
        settings, why = found.settings, found.reason
    else:
        why = "configured"
    if isinstance(settings, OpenAiSettings):
        engine = await stack.enter_async_context(settings.load())
        where = engine.where if engine.leaves_machine else "here"
        return engine, engine.model, Choice("think", f"openai: {engine.model}", why, where)
    scripted = await stack.enter_async_context(settings.load())
    return scripted, "scripted", Choice("think", "scripted", why)


async def _tts(config: Config, stack: AsyncExitStack) -> tuple[Tts, Choice]:
    settings = config.tts
    if isinstance(settings, CosyVoiceSettings | OpenAiSpeechSettings):
        served: Tts = await stack.enter_async_context(settings.load())
        spares, names, _ = await _voices_here(stack) if settings.spare else ([], [], [])
        why = f"configured; {' + '.join(names)} step in if it fails" if spares else "configured"
        where = urlsplit(settings.remote).hostname or "here"
        return RoutedTts([served], spares), Choice("speak", tag(settings), why, where)
    if not isinstance(settings, Auto):
        engine: Tts = await stack.enter_async_context(settings.load())
        return engine, Choice("speak", tag(settings), "configured")
    engines, names, reasons = await _voices_here(stack)
    if not engines:
        raise StageError("tts", "no_voice", "No voice works here. " + " ".join(reasons), retryable=False)
    better = "" if "flite" in names else "apt-get install libflite1 brings a more human voice"
    return RoutedTts(engines), Choice("speak", " + ".join(names), " ".join(reasons) or "works offline", better=better)


async def _voices_here(stack: AsyncExitStack) -> tuple[list[Tts], list[str], list[str]]:
    """The voices that this machine has by itself, their names, and why others do not work."""
    engines: list[Tts] = []
    names: list[str] = []
    reasons: list[str] = []
    candidates: tuple[FliteSettings | EspeakSettings, ...] = (FliteSettings(), EspeakSettings())
    for candidate in candidates:
        try:
            engines.append(await stack.enter_async_context(candidate.load()))
            names.append(tag(candidate))
        except StageError as error:
            reasons.append(error.message)
    return engines, names, reasons


async def _renderer(config: Config, stack: AsyncExitStack) -> tuple[RenderEngine, Choice]:
    settings = config.render
    better = ""
    loading = settings.load(config.gpu.render.memory_gib) if isinstance(settings, InstagSettings) else settings.load()
    try:
        engine = await stack.enter_async_context(loading)
        better = " ".join(engine.notes)
    except StageError as error:
        if not isinstance(settings, InstagSettings):
            raise
        log.warning("the portraits stand in: %s", error.message)
        better = error.message
        settings = StillSettings(bitrate=settings.bitrate, lead_ms=settings.lead_ms)
        engine = await stack.enter_async_context(settings.load())
    faces = ", ".join(a.name for a in engine.avatars)
    return engine, Choice("face", tag(settings), f"offers {faces}", better=better)


def tag(settings: Any) -> str:
    """The `type` of a provider's settings, as configurations write it."""
    return str(settings.__struct_config__.tag)
