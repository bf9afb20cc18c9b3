"""Cloned voices: a folder each with a reference, its words, and the consent of who spoke; made, listed, removed."""

import json
import os
import secrets
import shutil
import time
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec

from server.core.errors import RequestError
from tts.decoding import Decoded, decode
from tts.recording import RATE, Examination, Fault, Stretch, choose, keep, resampled, s16, wav
from tts.references import NAME, SHEET, Reference, References
from tts.scripts import primary, runs, speakable
from tts.transcripts import fits, part

VOICES_LIMIT = 200
TRANSCRIPT_LIMIT = 1000  # characters; 30 s have some 500
CONSENT_LIMIT = 2000  # characters
LANGUAGE_LIMIT = 16  # characters
HEARD_RATE = 16_000  # Hz, of what a recogniser is given
STALE_S = 3600.0
NEW, GONE = ".new-", ".gone-"  # folders that are being written, and deleted
CONSENT = (
    "This is my own voice, or its owner has given me explicit permission to clone it. "
    "I agree that speech which this person never said is made with it on this server. "
    "The voice and everything that was derived from it can be deleted at any time."
)

Hear = Callable[[bytes, str], Awaitable[str]]
"""Speech (s16le mono, 16 kHz) and its language -> its words; empty: none were understood."""


class Consent(msgspec.Struct, frozen=True):
    text: str
    """what was agreed to, as it was shown"""
    time: str
    """ISO 8601, UTC"""


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """voice.json"""

    transcript: str
    """what is said in the reference, exactly"""
    language: str
    """primary subtag"""
    seconds: float = 0.0
    """length of the reference, the silence around it included"""
    transcribed: bool = False
    """whether a recogniser wrote the transcript"""
    consent: Consent | None = None
    """None: the folder was made by hand"""
    recording: Examination | None = None
    """what was found in the recording that it was made from"""


@dataclass(frozen=True, slots=True)
class NewVoice:
    """A voice that is ready to be kept."""

    name: str
    sheet: Sheet
    sound: bytes
    """a WAV file"""
    advice: tuple[str, ...]
    """what would make it better"""


def check_name(name: str) -> str:
    """The name as it is written to disk. Raises RequestError for what cannot be one."""
    plain = unicodedata.normalize("NFC", name.strip())
    if not NAME.fullmatch(plain) or not plain.isprintable() or len(plain.encode()) > 200:
        what = "The name of a voice has 1 to 64 letters, digits, - and _; dots not at the beginning."
        raise RequestError(400, "bad_name", what)
    return plain


def check_consent(given: bool, text: str) -> str:
    """Raises RequestError unless it was agreed to something."""
    if not given:
        what = f"A voice is cloned only with consent: tick the box (consent=true), which says: {CONSENT}"
        raise RequestError(400, "no_consent", what)
    text = text.strip() or CONSENT
    if len(text) > CONSENT_LIMIT:
        raise RequestError(400, "bad_consent", f"The text of the consent may have {CONSENT_LIMIT} characters.")
    return text


def check_transcript(transcript: str) -> str:
    text = " ".join(transcript.split())
    if len(text) > TRANSCRIPT_LIMIT:
        raise RequestError(400, "bad_transcript", f"A transcript may have {TRANSCRIPT_LIMIT} characters.")
    if text and not speakable(text):
        raise RequestError(
            400, "bad_transcript", "The transcript has no words. Leave it out, and it will be written."
        )
    return text


def check_language(language: str) -> str:
    subtag = primary(language.strip())
    if subtag and (not subtag.isalpha() or not subtag.isascii() or not 2 <= len(subtag) <= 8):
        raise RequestError(400, "bad_language", "The language is a subtag such as en or zh.")
    return subtag


async def prepare(
    file: Path, name: str, *, transcript: str, language: str, consent: str, hear: Hear | None
) -> NewVoice:
    """A voice from any recording or film of 3 to 30 s.

    transcript: of all that is said in it; empty: `hear` writes it. hear: None: nobody here understands the language.
    consent: the text that was agreed to. Raises RequestError with what is wrong and what to do.
    """
    decoded = await decode(file)
    found = decoded.examination
    stretch = _usable(found)
    language = language or (_language_of(transcript) if transcript else "en")
    advice = list(found.advice)
    text, transcribed = transcript, False
    if transcript and (stretch.cut_before or stretch.cut_after):
        text = await _cut_transcript(decoded, stretch, transcript, language, hear)
        advice.append(f'It was cut at its pauses; kept is: "{text}"')
    elif not transcript:
        if hear is None:
            what = (
                f"Nobody on this server understands speech in {language!r}: send the transcript,"
                " word by word what is said in the recording."
            )
            raise RequestError(400, "no_transcript", what)
        text = await hear(await _heard(decoded, stretch.start_s, stretch.end_s), language)
        if not text.strip():
            what = "No words were understood in it. Send the transcript, word by word what is said in the recording."
            raise RequestError(400, "no_transcript", what)
        text, transcribed = _ended(text.strip()), True
        advice.append(f'Check the transcript; it must be exact: "{text}"')
    elif hear is not None:
        heard = await hear(await _heard(decoded, stretch.start_s, stretch.end_s), language)
        if heard.strip() and not await anyio.to_thread.run_sync(fits, transcript, heard):
            advice.append(f'Is the transcript exact? What was heard is: "{heard.strip()[:200]}"')
    sound = await anyio.to_thread.run_sync(keep, decoded.pcm, stretch, found)
    sheet = Sheet(
        transcript=text,
        language=language,
        seconds=len(sound) / RATE,
        transcribed=transcribed,
        consent=Consent(consent, datetime.now(UTC).isoformat(timespec="seconds")),
        recording=msgspec.structs.replace(found, pauses=()),
    )
    return NewVoice(name, sheet, wav(sound), tuple(advice))


def _usable(found: Examination) -> Stretch:
    if found.faults:
        raise RequestError(400, found.faults[0].code, " ".join(fault.message for fault in found.faults))
    stretch = choose(found)
    if isinstance(stretch, Fault):
        raise RequestError(400, stretch.code, stretch.message)
    return stretch


async def _cut_transcript(
    decoded: Decoded, stretch: Stretch, transcript: str, language: str, hear: Hear | None
) -> str:
    found = decoded.examination
    heard: list[str] | None = None
    if hear is not None:
        heard = []
        for start, end in ((0.0, stretch.start_s), (stretch.start_s, stretch.end_s), (stretch.end_s, found.seconds)):
            quiet = (start == 0.0 and not stretch.cut_before) or (end == found.seconds and not stretch.cut_after)
            heard.append("" if quiet else await hear(await _heard(decoded, start, end), language))
        if not any(text.strip() for text in heard):
            heard = None
    cuts = (
        _share(found, stretch.start_s) if stretch.cut_before else None,
        _share(found, stretch.end_s) if stretch.cut_after else None,
    )
    speech_s = _spoken_s(found, found.seconds)
    text = await anyio.to_thread.run_sync(part, transcript, cuts, speech_s, heard)
    if text is None and heard is not None:
        text = await anyio.to_thread.run_sync(part, transcript, cuts, speech_s, None)
    if text is None:
        what = (
            f"It lasts {found.seconds:.0f} s, of which {stretch.start_s:.1f} to {stretch.end_s:.1f} s would be kept,"
            " but where the transcript has to be cut cannot be told: send only that part with its words, or leave the"
            " transcript out where speech is understood."
        )
        raise RequestError(400, "transcript_uncut", what)
    return text


def _spoken_s(found: Examination, until_s: float) -> float:
    """Seconds of speech before a point, its pauses left out."""
    whole = max(min(until_s, found.last_s) - found.first_s, 0.0)
    return whole - sum(max(min(pause.end_s, until_s) - pause.start_s, 0.0) for pause in found.pauses)


def _share(found: Examination, at_s: float) -> float:
    return _spoken_s(found, at_s) / max(_spoken_s(found, found.seconds), 1e-6)


async def _heard(decoded: Decoded, start_s: float, end_s: float) -> bytes:
    pcm = decoded.pcm[round(start_s * RATE) : round(end_s * RATE)]
    return s16(await anyio.to_thread.run_sync(resampled, pcm, HEARD_RATE))


def _language_of(transcript: str) -> str:
    found = runs(transcript, "en")
    return max(found, key=lambda run: run.end - run.start).language if found else "en"


def _ended(text: str) -> str:
    """A recogniser's words end where a sentence does: the voice stops there, too."""
    if text[-1] in ".!?。！？…":
        return text
    return text + ("。" if not text[-1].isascii() else ".")


class Voices:
    """The folder of cloned voices. What it holds is complete at any moment: it is written beside and renamed."""

    def __init__(self, folder: str) -> None:
        """folder: need not exist yet. Raises ValueError if it is empty."""
        if not folder:
            raise ValueError("there is no folder for cloned voices")
        self.folder = Path(folder).expanduser()
        self._references = References(folder)

    def names(self) -> list[str]:
        return self._references.names()

    async def sheets(self) -> dict[str, Sheet]:
        """What is known of each voice, by name."""
        return await anyio.to_thread.run_sync(self._sheets)

    async def reference(self, name: str) -> Reference | None:
        """As the clients of voice servers read it."""
        return await self._references.read(name)

    async def check_room(self, name: str) -> None:
        """Raises RequestError if there is such a voice, or no room for another."""
        names = await anyio.to_thread.run_sync(self.names)
        if name in names or (self.folder / name).exists():
            what = f"There is a voice {name!r} already. Delete it first, or choose another name."
            raise RequestError(409, "voice_exists", what)
        if len(names) >= VOICES_LIMIT:
            raise RequestError(409, "too_many_voices", f"There are {VOICES_LIMIT} voices. Delete one first.")

    async def add(self, voice: NewVoice) -> None:
        """Raises RequestError if it cannot be kept."""
        await self.check_room(voice.name)
        await anyio.to_thread.run_sync(self._write, voice)

    async def take_away(self, name: str) -> Path:
        """Nobody finds the voice any more; put_back or destroy it then. Raises RequestError if there is none."""
        check_name(name)
        return await anyio.to_thread.run_sync(self._take_away, name)

    async def put_back(self, taken: Path, name: str) -> None:
        await anyio.to_thread.run_sync(taken.rename, self.folder / name)

    async def destroy(self, taken: Path) -> None:
        await anyio.to_thread.run_sync(shutil.rmtree, taken, True)

    def _sheets(self) -> dict[str, Sheet]:
        found: dict[str, Sheet] = {}
        for name in self.names():
            try:
                found[name] = msgspec.json.decode((self.folder / name / SHEET).read_bytes(), type=Sheet)
            except (OSError, msgspec.MsgspecError):
                continue
        return found

    def _write(self, voice: NewVoice) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sweep()
            new = self.folder / f"{NEW}{secrets.token_hex(8)}"
            new.mkdir(mode=0o700)
            try:
                _put(new / "reference.wav", voice.sound)
                sheet: Any = msgspec.to_builtins(voice.sheet)
                _put(new / SHEET, json.dumps(sheet, ensure_ascii=False, indent=1).encode())
                new.rename(self.folder / voice.name)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        except OSError as error:
            what = f"The voice cannot be kept in {self.folder}: {error.strerror}."
            raise RequestError(507 if error.errno == 28 else 409, "not_kept", what) from error

    def _sweep(self) -> None:
        """What a process left that was killed while it wrote or deleted."""
        for entry in self.folder.iterdir():
            if entry.name.startswith((NEW, GONE)) and time.time() - entry.stat().st_mtime > STALE_S:
                shutil.rmtree(entry, ignore_errors=True)

    def _take_away(self, name: str) -> Path:
        if name not in self.names():
            raise RequestError(404, "unknown_voice", f"There is no cloned voice {name!r} here.")
        taken = self.folder / f"{GONE}{secrets.token_hex(8)}"
        (self.folder / name).rename(taken)
        os.utime(taken)
        return taken


def _put(file: Path, data: bytes) -> None:
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
