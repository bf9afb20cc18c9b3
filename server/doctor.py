"""`visavis doctor`: what works on this machine, what is missing, and how to get it."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from render.remote import InstagSettings, StillSettings
from server.app import listen
from server.asr.funasr import FunasrSettings
from server.asr.pocketsphinx import PocketsphinxSettings
from server.asr.transcriptions import TranscriptionsSettings
from server.config import Config, load_config
from server.core.errors import StageError, VisavisError
from server.endpoints import check_ice, check_llm, check_transcriptions, check_voice
from server.engines import tag
from server.gpus import Finding, found_here
from server.llm.discover import discover
from server.llm.openai_compatible import OpenAiSettings
from server.providers import Auto
from server.vad.smart_turn import SmartTurnSettings
from tts.cosyvoice import CosyVoiceSettings
from tts.espeak import EspeakSettings
from tts.flite import FliteSettings
from tts.openai_speech import OpenAiSpeechSettings


def examine(files: Sequence[Path], assignments: Sequence[str]) -> int:
    """Prints a line for each thing looked at; returns 1 if `visavis serve` would not work."""
    return anyio.run(look_over, load_config(files, assignments))


async def look_over(config: Config) -> int:
    """As `examine`."""
    works = True
    _tell(True, "python", f"{platform.python_version()} on {platform.machine()} {sys.platform}")
    try:
        listen(config).close()
        _tell(True, "address", f"{config.http.host}:{config.http.port} is free")
    except VisavisError as error:
        works = False
        _tell(False, "address", error.message)
    if config.http.host not in ("127.0.0.1", "::1", "localhost") and not config.http.api_key:
        _tell(False, "address", "others can reach this server, and no http.api_key protects it")
    addresses = config.ice.listening_on(config.http.host).addresses
    _tell(True, "calls are offered at", ", ".join(addresses) or "every address of this machine")
    for server in config.ice.ice_servers:
        works &= _show(await check_ice(server, time.time()))
    devices = {"asr": config.asr.device} if isinstance(config.asr, FunasrSettings) else {}
    if isinstance(config.render, InstagSettings):
        devices["render"] = config.render.device
    works &= _show(await anyio.to_thread.run_sync(found_here, config.gpu, devices))

    works &= await _hear(config)
    works &= await _think(config)
    works &= await _speak(config)
    works &= await _face(config)
    print("\nvisavis serve works here." if works else "\nvisavis serve does not work here yet; see above.")
    return 0 if works else 1


async def _hear(config: Config) -> bool:
    """Recogniser, and who listens for the ends of turns if that was asked for."""
    works = True
    if isinstance(config.endpointing, SmartTurnSettings):
        otherwise = 'endpointing.type = "silence" goes on without'
        works = await _try(f"take turns: {tag(config.endpointing)}", config.endpointing.load(), otherwise)
    if isinstance(config.asr, Auto):
        await _try("transcribe: pocketsphinx", PocketsphinxSettings().load(), "without it calls run on text input")
        return works
    if not await _try(f"transcribe: {tag(config.asr)}", config.asr.load(), 'asr.type = "auto" goes on without'):
        return False
    if isinstance(config.asr, TranscriptionsSettings):
        works &= _show([await check_transcriptions(config.asr)])
    return works


async def _think(config: Config) -> bool:
    """Whether a language model is there, if one is configured; `auto` always works: without any, a script answers."""
    if not isinstance(config.llm, Auto):
        where = f", {config.llm.address}" if isinstance(config.llm, OpenAiSettings) else ""
        if not await _try(f"think: {tag(config.llm)}{where}", config.llm.load(), "see [llm] in configs/default.toml"):
            return False
        return _show([await check_llm(config.llm)]) if isinstance(config.llm, OpenAiSettings) else True
    found = await discover(os.environ)
    if found.settings is not None:
        _tell(True, "think: language model", f"{found.settings.model} at {found.settings.base_url}")
    else:
        _tell(False, "think: language model", f"{found.reason}; to get one, {found.how}")
    return True


async def _speak(config: Config) -> bool:
    """The configured voice and its server; with a spare, or with `auto`, one of this machine's must work."""
    settings = config.tts
    if isinstance(settings, Auto):
        return await _voices_here()
    if not await _try(f"speak: {tag(settings)}", settings.load(), 'tts.type = "auto" takes what there is'):
        return False
    if not isinstance(settings, CosyVoiceSettings | OpenAiSpeechSettings):
        return True
    finding = await check_voice(settings)
    works = _show([finding])
    if not finding.good and settings.spare:
        works = await _voices_here()
    return works


async def _voices_here() -> bool:
    voices = [
        await _try("speak: flite", FliteSettings().load(), "apt-get install libflite1 brings it"),
        await _try("speak: espeak-ng", EspeakSettings().load(), "pip install espeakng-loader brings it"),
    ]
    return any(voices)


async def _face(config: Config) -> bool:
    """The InsTaG face has the portraits as its spare."""
    settings = config.render
    name = f"face: {tag(settings)}"
    if isinstance(settings, InstagSettings):
        if await _try(name, settings.load(), "the portraits stand in"):
            return True
        settings = StillSettings()
        name = f"face: {tag(settings)}"
    return await _try(name, settings.load(), "the face is part of the project: reinstall it")


async def _try(name: str, manager: AbstractAsyncContextManager[Any], otherwise: str) -> bool:
    began = anyio.current_time()
    try:
        async with manager as engine:
            _tell(True, name, f"ready in {anyio.current_time() - began:.1f} s")
            for note in getattr(engine, "notes", ()):
                _tell(False, name, note)
            return True
    except StageError as error:
        _tell(False, name, f"{error.message} ({otherwise})")
        return False


def _show(findings: Sequence[Finding]) -> bool:
    """Whether none of them is in the way."""
    for finding in findings:
        _tell(finding.good, finding.what, finding.sentence)
    return all(finding.good or not finding.needed for finding in findings)


def _tell(good: bool, what: str, detail: str) -> None:
    print(f"{'ok ' if good else '-- '} {what:28} {detail}", flush=True)
