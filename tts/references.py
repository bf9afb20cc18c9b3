"""Cloned voices as the clients of voice servers read them: a folder each, with a sound and what is said in it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import anyio.to_thread

NAME = re.compile(r"[A-Za-z0-9_\-\u0080-\uffff][A-Za-z0-9_.\-\u0080-\uffff]{0,63}")
SHEET = "voice.json"
KINDS = {".wav": "audio/wav", ".flac": "audio/flac"}
SIZE_LIMIT = 8 * 1024 * 1024  # bytes of a reference's sound; 30 s at 48 kHz are 2.9 MB


@dataclass(frozen=True, slots=True)
class Reference:
    """Somebody's voice to speak with."""

    name: str
    audio: bytes
    """a sound file"""
    kind: str
    """its MIME type"""
    transcript: str
    """what is said in it, exactly; empty: not known"""
    language: str
    """primary subtag; empty: not known"""
    stamp: float
    """changes when the voice does"""


@runtime_checkable
class Cloning(Protocol):
    """A voice engine whose server keeps copies of cloned voices."""

    async def forget(self, name: str, reference: Reference | None = None) -> None:
        """Empty its server's caches of this voice. Raises StageError("tts", ...)."""
        ...


class References:
    """A folder of voices: `<name>/voice.json` (transcript, language) and `<name>/reference.wav` (or .flac)."""

    def __init__(self, folder: str) -> None:
        """folder: may be empty (no voices), and may come to exist later."""
        self._folder = Path(folder).expanduser() if folder else None

    def names(self) -> list[str]:
        """Voices that are complete, sorted."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self._folder.iterdir()
            if NAME.fullmatch(entry.name) and (entry / SHEET).is_file() and _sound(entry)
        )

    async def read(self, name: str) -> Reference | None:
        """None: there is none of that name, or it cannot be read."""
        if self._folder is None or not NAME.fullmatch(name):
            return None
        return await anyio.to_thread.run_sync(_read, self._folder / name)


def _sound(folder: Path) -> Path | None:
    return next((file for kind in KINDS if (file := folder / f"reference{kind}").is_file()), None)


def _read(folder: Path) -> Reference | None:
    file = _sound(folder)
    try:
        if file is None or file.stat().st_size > SIZE_LIMIT:
            return None
        sheet: Any = json.loads((folder / SHEET).read_text("utf-8"))
        stamp = max(file.stat().st_mtime, (folder / SHEET).stat().st_mtime)
        text, language = str(sheet.get("transcript", "")), str(sheet.get("language", ""))
        return Reference(folder.name, file.read_bytes(), KINDS[file.suffix], text, language, stamp)
    except (OSError, ValueError, AttributeError):
        return None
