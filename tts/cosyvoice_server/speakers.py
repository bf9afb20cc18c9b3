"""Voices to speak with, prepared once: cached by what they were made of, in memory and on disk."""

import hashlib
import io
import logging
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from . import texts

log = logging.getLogger(__name__)

SECONDS = (1.0, 30.0)  # upstream refuses more than 30 s; less than 1 s is no voice
LEAST_RATE = 16_000  # Hz; upstream's own
AUDIO_LIMIT = 8 * 1024 * 1024  # bytes of a reference
TRANSCRIPT_LIMIT = 1000  # characters
KEPT = 64  # in memory; some 0.2 MB each
KEPT_ON_DISK = 256


class Unfit(ValueError):
    """A reference that cannot be used; the message is for people."""


class Speakers:
    """What the front end makes of references. Safe from any thread; one reference is prepared at a time."""

    def __init__(self, cosyvoice: Any, generation: int, model: str, folder: Path | None) -> None:
        """model: the model's fingerprint. folder: where prepared voices outlive the process; None: nowhere."""
        self._cosyvoice = cosyvoice
        self._generation = generation
        self._fingerprint = model
        self._folder = folder
        self._preparing = threading.Lock()
        self._guard = threading.Lock()
        self._prepared: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.saved: dict[str, dict[str, Any]] = dict(cosyvoice.frontend.spk2info)
        """speakers that came with the model, by name"""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def ids(self) -> list[str]:
        """Prepared voices, those on disk too."""
        with self._guard:
            known = set(self._prepared)
        on_disk = {file.stem for file in self._folder.glob("*.pt")} if self._folder else set()
        return sorted(known | on_disk)

    def name(self, audio: bytes, transcript: str) -> str:
        """A voice's id: a hash of its sound, its words and the model."""
        told = hashlib.sha256()
        for part in (audio, transcript.encode(), self._fingerprint.encode()):
            told.update(len(part).to_bytes(8, "little") + part)
        return told.hexdigest()[:32]

    def get(self, name: str) -> dict[str, Any] | None:
        """A saved or prepared voice; None: there is none."""
        with self._guard:
            if name in self._prepared:
                self._prepared.move_to_end(name)
                return self._prepared[name]
        if name in self.saved:
            return self.saved[name]
        file = self._file(name)
        if file is None or not file.is_file():
            return None
        try:
            loaded: dict[str, Any] = torch.load(file, map_location=self._cosyvoice.model.device, weights_only=True)
        except Exception as error:  # a torn file must not keep a voice away: it is prepared anew
            log.warning("%s cannot be read (%r): thrown away", file, error)
            file.unlink(missing_ok=True)
            return None
        self._keep(name, loaded)
        return loaded

    def add(self, audio: bytes, transcript: str) -> tuple[str, bool]:
        """Prepare a voice; (its id, whether it was there already). Raises Unfit."""
        if len(transcript) > TRANSCRIPT_LIMIT:
            raise Unfit(f"The transcript may have {TRANSCRIPT_LIMIT} characters at most.")
        name = self.name(audio, transcript)
        with self._preparing:
            if self.get(name) is not None:
                return name, True
            words = texts.transcript(transcript, self._generation)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "reference.wav")
                _write(file, *reference(audio))
                prepared = self._cosyvoice.frontend.frontend_zero_shot(
                    "", words, str(file), self._cosyvoice.sample_rate, ""
                )
            del prepared["text"], prepared["text_len"]
            self._keep(name, prepared)
            self._write_down(name, prepared)
        return name, False

    def delete(self, name: str) -> bool:
        """Forget a prepared voice, on disk too; whether it was there."""
        with self._preparing, self._guard:
            there = self._prepared.pop(name, None) is not None
            file = self._file(name)
            if file is not None and file.is_file():
                file.unlink()
                there = True
        return there

    def _keep(self, name: str, prepared: dict[str, Any]) -> None:
        with self._guard:
            self._prepared[name] = prepared
            self._prepared.move_to_end(name)
            while len(self._prepared) > KEPT:
                self._prepared.popitem(last=False)

    def _write_down(self, name: str, prepared: dict[str, Any]) -> None:
        file = self._file(name)
        if file is None or self._folder is None:
            return
        part = file.with_suffix(".part")
        torch.save(prepared, part)
        part.replace(file)
        files = sorted(self._folder.glob("*.pt"), key=lambda one: one.stat().st_mtime)
        for old in files[:-KEPT_ON_DISK]:
            old.unlink(missing_ok=True)

    def _file(self, name: str) -> Path | None:
        """Ids are hexadecimal: no other name leads to a file."""
        fits = len(name) == 32 and all(c in "0123456789abcdef" for c in name)
        return self._folder / f"{name}.pt" if self._folder is not None and fits else None


def reference(audio: bytes) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    """A sound file as mono samples and their rate, silence behind it up to a whole second. Raises Unfit.

    Behind a prompt of whole seconds the first piece of voice needs the fewest tokens (hops.py).
    """
    if len(audio) > AUDIO_LIMIT:
        raise Unfit(f"The reference is larger than {AUDIO_LIMIT // 1024 // 1024} MB: 5 to 10 s are best.")
    try:
        with soundfile.SoundFile(io.BytesIO(audio)) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            if rate < LEAST_RATE:
                raise Unfit(f"The reference has {rate} samples per second; it needs {LEAST_RATE} at least.")
            if not SECONDS[0] <= seconds <= SECONDS[1]:
                raise Unfit(f"The reference is {seconds:.1f} s long; 1 to 30 s can be used, 5 to 10 s are best.")
            wave = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise Unfit(f"The reference is no sound file that can be read (WAV, FLAC): {error}") from error
    if not np.isfinite(wave).all() or float(np.abs(wave).max(initial=0.0)) < 1e-3:
        raise Unfit("The reference is silent.")
    padding = -len(wave) % rate
    if (len(wave) + padding) / rate > SECONDS[1]:
        padding = 0
    return np.concatenate([wave, np.zeros(padding, np.float32)]), rate


def _write(file: Path, wave: np.ndarray[Any, np.dtype[np.float32]], rate: int) -> None:
    soundfile.write(file, wave, rate, subtype="PCM_16")
