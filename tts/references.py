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
KEPT = 8  # references in memory: each clause needs one, and a thread to read it may have to wait for its turn
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
        self._kept: dict[str, Reference] = {}

    def names(self) -> list[str]:
        """Voices that are complete, sorted."""
        if self._folder is None or not self._folder.is_dir():
            return []
        names = sorted(
            entry.name
            for entry in self._folder.iterdir()
            if NAME.fullmatch(entry.name) and (entry / SHEET).is_file() and _sound(entry)
        )
        for deleted in self._kept.keys() - set(names):
            del self._kept[deleted]
        return names

    async def read(self, name: str) -> Reference | None:
        """None: there is none of that name, or it cannot be read."""
        if self._folder is None or not NAME.fullmatch(name):
            return None
        folder = self._folder / name
        kept = self._kept.get(name)
        if kept is not None and kept.stamp == _stamp(folder):
            return kept
        reference = await anyio.to_thread.run_sync(_read, folder)
        self._kept.pop(name, None)
        if reference is not None:
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = reference
        return reference


def _sound(folder: Path) -> Path | None:
    return next((file for kind in KINDS if (file := folder / f"reference{kind}").is_file()), None)


def _stamp(folder: Path) -> float | None:
    """When the voice was last changed; None: it is not there any more."""
    file = _sound(folder)
    try:
        return max(file.stat().st_mtime, (folder / SHEET).stat().st_mtime) if file is not None else None
    except OSError:
        return None


def _read(folder: Path) -> Reference | None:
    file = _sound(folder)
    try:
        if file is None or file.stat().st_size > SIZE_LIMIT:
            return None
        stamp = _stamp(folder) or 0.0  # before it is read: what changes meanwhile is read anew
        sheet: Any = json.loads((folder / SHEET).read_text("utf-8"))
        text, language = str(sheet.get("transcript", "")), str(sheet.get("language", ""))
        return Reference(folder.name, file.read_bytes(), KINDS[file.suffix], text, language, stamp)
    except (OSError, ValueError, AttributeError):
        return None
