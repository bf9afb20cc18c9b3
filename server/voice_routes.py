"""`/v1/audio/voices`: voices are cloned from recordings, listed and deleted."""

import logging
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from aiohttp import BodyPartReader, web

from server.core.errors import RequestError, StageError
from server.core.media import MIC_FRAME_BYTES, MIC_RATE, SAMPLE_BYTES
from server.core.notices import listing
from server.core.protocols import Asr
from server.engines import Engines
from tts.references import Reference
from tts.scripts import primary
from tts.voices import (
    CONSENT,
    VOICES_LIMIT,
    Hear,
    Sheet,
    Voices,
    check_consent,
    check_language,
    check_name,
    check_transcript,
    prepare,
)

log = logging.getLogger(__name__)

UPLOAD_LIMIT = 64 * 1024 * 1024  # bytes of a recording: half a minute of film from a telephone
FORM_LIMIT = 64 * 1024  # bytes of all that is not the recording
FIELDS_LIMIT = 16
WRITE_BLOCK = 1024 * 1024  # bytes that go to the disk at once
UPLOAD_S = 300.0  # for the whole of it
HEAR_BLOCK_S = 1.0  # of speech given to the recogniser before it is waited for
SOUND_FIELDS = ("audio_sample", "file", "audio")
TICKED = ("true", "on", "1", "yes")
NO_CLONES = (
    'The voices of this server cannot be cloned: it takes [tts] type = "cosyvoice" or "openai_speech", and a folder'
    " for them in tts.clones."
)


class VoiceRoutes:
    """Where a voice comes in, and where it goes."""

    def __init__(
        self, folder: str, engines: Engines, authorize: Callable[[web.Request], object | None], language: str
    ) -> None:
        """folder: of the cloned voices; empty: none can be cloned here.

        authorize: raises what a request without a key gets; returns the minted token that it came with, if any.
        language: of a recording of which nothing is said.
        """
        self._voices = Voices(folder) if folder else None
        self._engines = engines
        self._authorize = authorize
        self._language = primary(language)
        self._desk = anyio.Semaphore(1)  # one recording at a time: calls go on meanwhile

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/audio/voices", self._list),
            web.post("/v1/audio/voices", self._add),
            web.delete("/v1/audio/voices/{voice}", self._delete),
        ]

    # ---- the routes --------------------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.Response:
        self._authorize(request)
        sheets = await self._voices.sheets() if self._voices is not None else {}
        others = [name for name in self._engines.tts.voices if name not in sheets]
        return web.json_response(
            {
                "object": "list",
                "data": [_told(name, sheet) for name, sheet in sheets.items()]
                + [{"object": "audio.voice", "id": name, "name": name, "cloned": False} for name in others],
                "voices": [*sheets, *others],
                "can_clone": self._voices is not None,
                "why_not": "" if self._voices is not None else NO_CLONES,
                "understood": list(self._engines.asr.languages),
                "consent": CONSENT,
                "limits": {"bytes": UPLOAD_LIMIT, "voices": VOICES_LIMIT},
            }
        )

    async def _add(self, request: web.Request) -> web.Response:
        voices = self._owned(request)
        if (request.content_length or 0) > UPLOAD_LIMIT + FORM_LIMIT:
            raise _too_large()
        if request.content_type != "multipart/form-data":
            what = (
                "Send multipart/form-data: name, audio_sample (a file), consent=true; if known transcript, language."
            )
            raise RequestError(415, "unsupported_media_type", what)
        try:
            self._desk.acquire_nowait()
        except anyio.WouldBlock:
            raise RequestError(429, "busy", "Another voice is being made. Please try again in a moment.") from None
        folder = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, None, "visavis-"))
        try:
            file = folder / "recording"
            with anyio.move_on_after(UPLOAD_S) as patience:
                fields = await _receive(request, file)
            if patience.cancelled_caught:
                raise RequestError(408, "too_slow", f"The upload took longer than {UPLOAD_S:.0f} s.")
            return await self._make(voices, fields, file)
        finally:
            self._desk.release()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_remove, folder)

    async def _make(self, voices: Voices, fields: dict[str, str], file: Path) -> web.Response:
        consent = check_consent(fields.get("consent", "").strip().lower() in TICKED, fields.get("consent_text", ""))
        if not fields.get("name", "").strip():
            raise RequestError(400, "bad_name", "Give the voice a name, in the field name.")
        name = check_name(fields["name"])
        transcript = check_transcript(fields.get("transcript", "") or fields.get("ref_text", ""))
        language = check_language(fields.get("language", ""))
        if "recording" not in fields:
            raise RequestError(400, "no_recording", "The form has no file: send the recording as audio_sample.")
        await voices.check_room(name)
        if name in self._engines.tts.voices:
            raise RequestError(409, "voice_exists", f"There is a voice {name!r} already. Choose another name.")
        spoken = language or ("" if transcript else self._language)
        voice = await prepare(
            file,
            name,
            transcript=transcript,
            language=spoken,
            consent=consent,
            hear=listener(self._engines.asr, spoken),
        )
        await voices.add(voice)
        log.info("voice %s was added", name)
        told = _told(name, voice.sheet) | {"advice": list(voice.advice)}
        return web.json_response(told, status=201, headers={"Location": f"/v1/audio/voices/{name}"})

    async def _delete(self, request: web.Request) -> web.Response:
        voices = self._owned(request)
        name = check_name(request.match_info["voice"])
        await forget(voices, name, self._engines.forget_voice, force=request.query.get("force") == "true")
        log.info("voice %s was deleted", name)
        return web.json_response({"object": "audio.voice.deleted", "id": name, "deleted": True})

    def _owned(self, request: web.Request) -> Voices:
        """A minted token is a visitor's, for a call."""
        if self._authorize(request) is not None:
            raise RequestError(403, "forbidden", "Voices are added and deleted with the API key, not with a token.")
        if self._voices is None:
            raise RequestError(409, "no_clones", NO_CLONES)
        return self._voices


async def forget(
    voices: Voices, name: str, tell: Callable[[Reference], Awaitable[None]], force: bool = False
) -> None:
    """Delete a voice here and at the voice server; both or, unless it is forced, nothing.

    tell: makes the voice server forget it.
    Raises RequestError if there is none, StageError if the voice server cannot be told.
    """
    sound = await voices.reference(name)
    taken = await voices.take_away(name)  # no clause finds it any more, so it is not sent there again
    try:
        if sound is not None:
            await tell(sound)
    except StageError as error:
        if not force:
            await voices.put_back(taken, name)
            what = (
                f"{error.message} It may keep a copy of {name!r}, so nothing was deleted: try again when it runs,"
                " or with ?force=true (on the command line --force) to delete what is here."
            )
            raise StageError("tts", "voice_kept", what) from error
        log.warning("voice %s is deleted here only: %s", name, error.message)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await voices.put_back(taken, name)
        raise
    with anyio.CancelScope(shield=True):
        await voices.destroy(taken)


def listener(asr: Asr, language: str) -> Hear | None:
    """What writes a transcript down; None if nobody here understands the language (empty: any)."""
    known = [primary(one) for one in asr.languages]
    if not known or (language and language not in known):
        return None

    async def hear(pcm: bytes, spoken: str) -> str:
        if primary(spoken) not in known:
            return ""
        session = await asr.open(spoken)
        try:
            block = int(HEAR_BLOCK_S * MIC_RATE) * SAMPLE_BYTES // MIC_FRAME_BYTES * MIC_FRAME_BYTES
            padded = pcm + bytes(-len(pcm) % MIC_FRAME_BYTES + MIC_RATE * SAMPLE_BYTES // 5)
            for at in range(0, len(padded), MIC_FRAME_BYTES):
                frame = padded[at : at + MIC_FRAME_BYTES]
                if len(frame) == MIC_FRAME_BYTES:
                    await session.push(frame)
                if at and at % block == 0:
                    await session.provisional()  # wait until it has caught up: a listener drops what is too much
            return (await session.commit()).text
        finally:
            with anyio.CancelScope(shield=True):
                await session.aclose()

    return hear


def _told(name: str, sheet: Sheet) -> dict[str, Any]:
    return {
        "object": "audio.voice",
        "id": name,
        "name": name,
        "cloned": True,
        "language": sheet.language,
        "transcript": sheet.transcript,
        "transcribed": sheet.transcribed,
        "seconds": round(sheet.seconds, 2),
        "consent": {"text": sheet.consent.text, "time": sheet.consent.time} if sheet.consent else None,
    }


def _too_large() -> RequestError:
    return RequestError(
        413, "too_large", f"A recording may have {UPLOAD_LIMIT // 2**20} MiB; 3 to 30 s of speech are enough."
    )


async def _receive(request: web.Request, file: Path) -> dict[str, str]:
    """The form's fields; the recording goes to `file`, and is the field `recording`."""
    fields: dict[str, str] = {}
    left = FORM_LIMIT
    reader = await request.multipart()
    count = 0
    while (part := await reader.next()) is not None:
        count += 1
        if count > FIELDS_LIMIT or not isinstance(part, BodyPartReader):
            raise RequestError(400, "bad_form", f"The form has at most {FIELDS_LIMIT} plain fields.")
        if part.name in SOUND_FIELDS and "recording" not in fields:
            await _store(part, file)
            fields["recording"] = part.filename or ""
            continue
        data = bytearray()
        while chunk := await part.read_chunk():
            left -= len(chunk)
            if left < 0:
                raise RequestError(413, "too_large", f"The form's text may have {FORM_LIMIT // 1024} KiB.")
            data += chunk
        if part.name and part.name != "recording":
            fields[part.name] = data.decode("utf-8")
    return fields


async def _store(part: BodyPartReader, file: Path) -> None:
    size = 0
    block = bytearray()
    while True:
        chunk = await part.read_chunk(2**16)
        size += len(chunk)
        if size > UPLOAD_LIMIT:
            raise _too_large()
        block += chunk
        if len(block) >= WRITE_BLOCK or not chunk:
            await anyio.to_thread.run_sync(_append, file, bytes(block))
            block.clear()
        if not chunk:
            return


def _append(file: Path, data: bytes) -> None:
    with file.open("ab") as out:
        out.write(data)


def _remove(folder: Path) -> None:
    for entry in folder.iterdir():
        entry.unlink()
    folder.rmdir()


def known(names: list[str]) -> str:
    """For messages: the voices there are, not all of a thousand."""
    return listing(names if len(names) <= 20 else [*names[:20], f"{len(names) - 20} more"])
