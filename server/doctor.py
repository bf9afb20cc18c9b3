"""`visavis doctor`: what works on this machine, what is missing, and how to get it."""

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio

from render.remote import InstagSettings, StillSettings
from server.app import listen
from server.asr.pocketsphinx import PocketsphinxSettings
from server.config import Config, load_config
from server.core.errors import StageError, VisavisError
from server.engines import tag
from server.llm.discover import discover
from server.llm.openai_compatible import OpenAiSettings
from server.providers import Auto
from tts.espeak import EspeakSettings
from tts.flite import FliteSettings


def examine(files: Sequence[Path], assignments: Sequence[str]) -> int:
    """Prints a line for each thing looked at; returns 1 if `visavis serve` would not work."""
    config = load_config(files, assignments)
    return anyio.run(_examine, config)


async def _examine(config: Config) -> int:
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

    if isinstance(config.asr, Auto):
        await _try("transcribe: pocketsphinx", PocketsphinxSettings().load(), "without it calls run on text input")
    else:
        works &= await _try(f"transcribe: {tag(config.asr)}", config.asr.load(), 'asr.type = "auto" goes on without')
    works &= await _think(config)
    if isinstance(config.tts, Auto):
        voices = [
            await _try("speak: flite", FliteSettings().load(), "apt-get install libflite1 brings it"),
            await _try("speak: espeak-ng", EspeakSettings().load(), "pip install espeakng-loader brings it"),
        ]
    else:
        voices = [await _try(f"speak: {tag(config.tts)}", config.tts.load(), 'tts.type = "auto" takes what there is')]
    face = await _face(config)
    works &= any(voices) and face
    print("\nvisavis serve works here." if works else "\nvisavis serve does not work here yet; see above.")
    return 0 if works else 1


async def _think(config: Config) -> bool:
    """Whether a language model is there, if one is configured; `auto` always works: without any, a script answers."""
    if not isinstance(config.llm, Auto):
        where = f", {config.llm.address}" if isinstance(config.llm, OpenAiSettings) else ""
        return await _try(f"think: {tag(config.llm)}{where}", config.llm.load(), "see [llm] in configs/default.toml")
    found = await discover(os.environ)
    if found.settings is not None:
        _tell(True, "think: language model", f"{found.settings.model} at {found.settings.base_url}")
    else:
        _tell(False, "think: language model", f"{found.reason}; to get one, {found.how}")
    return True


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
        async with manager:
            _tell(True, name, f"ready in {anyio.current_time() - began:.1f} s")
            return True
    except StageError as error:
        _tell(False, name, f"{error.message} ({otherwise})")
        return False


def _tell(good: bool, what: str, detail: str) -> None:
    print(f"{'ok ' if good else '-- '} {what:28} {detail}", flush=True)
