"""Cloned voices as a voice server's client reads them: from memory until they change, and not when they are gone."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tts import references
from tts.references import KEPT, References


def clone(folder: Path, name: str, transcript: str = "This is my voice.", sound: bytes = b"RIFF") -> Path:
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "voice.json").write_text(json.dumps({"transcript": transcript, "language": "en"}))
    (place / "reference.wav").write_bytes(sound)
    return place


async def test_a_voice_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = clone(tmp_path, "anna")
    read: list[Path] = []
    real = references._read
    monkeypatch.setattr(references, "_read", lambda folder: read.append(folder) or real(folder))
    voices = References(str(tmp_path))
    first = await voices.read("anna")
    assert first is not None
    assert await voices.read("anna") is first
    assert read == [place]
    clone(tmp_path, "anna", "Other words.", b"RIFX")
    later = (place / "voice.json").stat().st_mtime + 10
    os.utime(place / "voice.json", (later, later))
    second = await voices.read("anna")
    assert second is not None
    assert (second.transcript, second.audio) == ("Other words.", b"RIFX")


async def test_a_deleted_voice_is_neither_given_nor_kept(tmp_path: Path) -> None:
    clone(tmp_path, "anna")
    clone(tmp_path, "ben")
    voices = References(str(tmp_path))
    assert await voices.read("anna") is not None
    assert await voices.read("ben") is not None
    shutil.rmtree(tmp_path / "anna")
    shutil.rmtree(tmp_path / "ben")
    assert await voices.read("anna") is None
    assert voices.names() == []
    assert voices._kept == {}


async def test_no_more_than_a_few_are_kept(tmp_path: Path) -> None:
    voices = References(str(tmp_path))
    for number in range(KEPT + 3):
        clone(tmp_path, f"voice{number}")
        assert await voices.read(f"voice{number}") is not None
    assert len(voices._kept) == KEPT
    assert await voices.read("../voice0") is None
    assert await References("").read("voice0") is None
