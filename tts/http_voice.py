"""A voice that comes over HTTP as it is made: deadlines, odd bytes, errors in words, and where its words lie."""

import asyncio
import base64
import json
import logging
import re
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import anyio
import numpy as np

from server.core.errors import StageError
from server.core.media import SAMPLE_BYTES, Clause, Speech, Word
from tts import words
from tts.plausible import Sounding, span
from tts.remote import TEXT_LIMIT, silence
from tts.scripts import speakable, without_pictures
from tts.spoken import Spoken
from tts.tempo import Tempo

log = logging.getLogger(__name__)

PIECE_S = 0.2
"""longest piece that is handed on: a slow server's chunk of seconds is not one lump"""
LEAST_S = 0.02
"""shortest piece, but for the last; as much is kept back, because it may be the last"""
SECONDS_LIMIT = 120.0
"""of one clause, however long its text; usually it is cut where its text cannot take longer (plausible.span)"""
PEEK_S = 0.003
"""how long the beginning of a clause waits for the server to end too early, where nothing is heard before it"""
SOON_S = 0.1
"""a clause that is held back is let go so long before what is heard before it ends"""
KEEP_ALIVE_S = 300.0
CONNECT_S = 2.0
ERROR_LIMIT = 4096  # bytes of an error's body that are read
HEADER_LIMIT = 4096  # bytes before a WAV file's sound
NOT_PCM = ("mpeg", "mp3", "ogg", "opus", "flac", "aac", "webm", "mp4")
CJK_WEIGHT = 3.5
"""how much longer a CJK character takes to say than a letter (0.23 s to 0.065 s)"""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for."""

    first_s: float
    """from the request to the first sound"""
    gap_s: float
    """from one piece of sound to the next"""


@dataclass(frozen=True, slots=True)
class Sound:
    """Whole samples, s16le mono."""

    pcm: bytes
    rate: int
    """Hz"""


@asynccontextmanager
async def http_session(
    base_url: str, api_key: str, headers: Mapping[str, str] = {}
) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """One client for all calls of one server: connections are kept, a proxy is only for what leaves the machine."""
    sent = dict(headers)
    if api_key:
        sent["Authorization"] = f"Bearer {api_key}"
    async with aiohttp.ClientSession(
        headers=sent,
        connector=aiohttp.TCPConnector(limit=100, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        trust_env=not is_local(base_url),
    ) as session:
        yield session


def is_local(url: str) -> bool:
    """Whether what is sent there stays on this machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.endswith(".localhost") or host == "::1" or host.startswith("127.")


class VoiceServer:
    """One server's voice, request by request."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, patience: Patience, advice: str) -> None:
        """advice: what a person should look at when the server refuses a request."""
        self.session = session
        self.base_url = base_url.rstrip("/")
        parts = urlsplit(base_url)
        self.where = f"{parts.hostname}{f':{parts.port}' if parts.port else ''}"
        self._patience = patience
        self._advice = advice

    async def stream(self, path: str, rate: int, **body: Any) -> AsyncGenerator[Sound, None]:
        """POST; the sound as it comes, at least one sample of it. Closing the iterator closes the connection.

        rate: Hz, where the server does not say. body: `json=` or `data=` of the request.
        Raises StageError("tts", ...): `tts_unreachable`, `tts_refused`, `tts_slow`, `tts_broken_off`, `tts_empty`.
        """
        deadline = anyio.current_time() + self._patience.first_s
        within_s = self._patience.first_s
        response = await self._within(within_s, self.session.post(self.base_url + path, **body))
        begun = False
        try:
            await self._check(response)
            decode = _decoder(response, rate)
            while data := await self._within(within_s, response.content.readany()):
                for sound in decode(data):
                    begun = True
                    yield sound
                # Bytes that are no sound yet (headers, comments, half a sample) do not buy a server time.
                within_s = self._patience.gap_s if begun else deadline - anyio.current_time()
        finally:
            response.close()
        if not begun:
            raise StageError(
                "tts", "tts_empty", f"The voice server at {self.where} answered without a sound. Look into its log."
            )

    async def ask(self, method: str, path: str, **body: Any) -> Any:
        """A small JSON answer; None if it has no body. Raises StageError("tts", ...) as `stream` does."""
        request = self.session.request(method, self.base_url + path, **body)
        response = await self._within(self._patience.first_s, request)
        try:
            await self._check(response)
            data = await self._within(self._patience.first_s, response.read())
        finally:
            response.close()
        try:
            return json.loads(data) if data else None
        except ValueError:
            raise self._refused(f"answers {path} with something that is not JSON") from None

    async def _within(self, seconds: float, work: Awaitable[Result]) -> Result:
        try:
            with anyio.fail_after(max(seconds, 0.0)):
                return await work
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            what = f"The voice server at {self.where} cannot be reached. Is it running, is the address right?"
            raise StageError("tts", "tts_unreachable", what) from error
        except TimeoutError:
            what = f"The voice server at {self.where} takes too long."
            raise StageError("tts", "tts_slow", what) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            what = f"The voice server at {self.where} broke off."
            raise StageError("tts", "tts_broken_off", what) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status < 400:
            kind = response.content_type
            if any(name in kind for name in NOT_PCM) or kind == "text/html":
                raise self._refused(f"answers with {kind} instead of PCM")
            return
        said = _short(await self._within(self._patience.gap_s, response.content.read(ERROR_LIMIT)))
        if status >= 500 and status != 501:
            what = f"The voice server at {self.where} failed ({status}{said}). Look into its log."
            raise StageError("tts", "tts_unreachable" if status in (502, 503, 504) else "tts_failed", what)
        code = "tts_voice_unknown" if status == 404 and "voice_unknown" in said else "tts_refused"
        if status == 429:
            raise StageError("tts", "tts_busy", f"The voice server at {self.where} is busy{said}.")
        raise self._refused(f"refused the request ({status}{said})", code)

    def _refused(self, what: str, code: str = "tts_refused") -> StageError:
        return StageError("tts", code, f"The voice server at {self.where} {what}. {self._advice}", retryable=False)


def _short(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())[:200]
    return f": {text}" if text else ""


def _decoder(response: aiohttp.ClientResponse, rate: int) -> Callable[[bytes], list[Sound]]:
    """Bytes as they come -> whole samples."""
    stated = response.headers.get("X-Sample-Rate", "")
    if found := re.search(r"rate=(\d{4,6})", response.headers.get("Content-Type", "")):
        stated = found.group(1)
    pcm = Pcm(int(stated) if stated.isdigit() and 8000 <= int(stated) <= 192_000 else rate)
    if response.content_type == "text/event-stream":
        events = Events()
        return lambda data: [sound for audio in events.feed(data) for sound in pcm.feed(audio)]
    return pcm.feed


class Pcm:
    """Puts bytes together to whole samples, however they were cut; takes a WAV file's header off."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._held = b""
        self._sounding = False  # whether what comes now is sound for certain

    def feed(self, data: bytes) -> list[Sound]:
        """One piece or none. Raises StageError("tts", "tts_refused") for a WAV file that is not 16 bit mono."""
        held = self._held + data
        if not self._sounding:
            if b"RIFF".startswith(held[:4]) and len(held) < 4:
                self._held = held
                return []
            if held[:4] == b"RIFF":
                start = self._after_header(held)
                if start is None:
                    self._held = held
                    return []
                held = held[start:]
            self._sounding = True
        whole = len(held) - len(held) % SAMPLE_BYTES
        self._held = held[whole:]
        return [Sound(held[:whole], self.rate)] if whole else []

    def _after_header(self, data: bytes) -> int | None:
        """Where the sound begins; None: not here yet. Chunk sizes of a streamed file are not to be relied on."""
        at = 12
        while len(data) >= at + 8:
            name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
            if name == b"data":
                return at + 8
            if name == b"fmt " and len(data) >= at + 24:
                kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, at + 8)
                if (kind, channels, bits) not in ((1, 1, 16), (0xFFFE, 1, 16)):
                    what = f"The voice server sends {channels} channels of {bits} bit; it must be 16 bit mono."
                    raise StageError("tts", "tts_refused", what, retryable=False)
                self.rate = rate
            at += 8 + size + size % 2
            if at > HEADER_LIMIT:
                break
        if len(data) > HEADER_LIMIT:
            raise StageError(
                "tts", "tts_refused", "The voice server sends a WAV file without sound.", retryable=False
            )
        return None


class Events:
    """Server-sent events with base64 audio (`speech.audio.delta`) -> the audio's bytes."""

    LIMIT = 4 * 1024 * 1024  # bytes of one event

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Raises StageError("tts", ...) for an error event, and for what is no event stream."""
        lines = (self._held + data).split(b"\n")
        self._held = lines.pop()
        if len(self._held) > self.LIMIT:
            raise StageError("tts", "tts_broken_off", "The voice server's events have no end.")
        found: list[bytes] = []
        for line in lines:
            if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                continue
            try:
                event = json.loads(line[5:])
                kind = str(event.get("type", ""))
                audio = event.get("audio") or event.get("delta") or ""
                if isinstance(audio, dict):
                    audio = audio.get("data", "")
                if "error" in event or kind == "error":
                    raise StageError("tts", "tts_failed", f"The voice server failed{_short(line[5:])}.")
                found += [base64.b64decode(audio, validate=True)] if audio else []
            except (ValueError, AttributeError, TypeError):
                raise StageError("tts", "tts_broken_off", "The voice server's events cannot be read.") from None
        return found


# ---- one clause --------------------------------------------------------------------------------------------------


async def say(
    clause: Clause,
    rate: int,
    spell: Callable[[Clause], Awaitable[Spoken]],
    sound: Callable[[str], AsyncGenerator[Sound, None]],
    tempo: float = 1.0,
    speed: float = 1.0,
) -> AsyncGenerator[Speech, None]:
    """The clause as Speech in pieces of at most PIECE_S; where its words lie comes with the last piece.

    As long as other voice is still to be heard before it (Clause.ahead_s), its beginning is held back until there is
    as much of it as its text must take. If the server ends before that, it has failed, and nothing of it was heard.

    rate: of a clause without anything to say. spell: what the voice is given instead of the clause's text.
    sound: asks the server; asked once more if it failed before any sound of it was handed on.
    tempo: how much faster what the server makes is to be played (pitch stays). speed: all in all, compared with the
    voice's own pace. Raises StageError("tts", ...): what `sound` raises, `tts_cut_short`.
    """
    if len(clause.text) > TEXT_LIMIT:
        raise StageError("tts", "tts_text_too_long", f"a clause may have {TEXT_LIMIT} characters at most", False)
    if not speakable(clause.text):
        yield silence(clause, rate)
        return
    spoken = await spell(clause)
    for attempt in (1, 2):
        begun = False
        try:
            async with aclosing(_pieces(clause, spoken, sound, tempo, speed)) as pieces:
                async for piece in pieces:
                    begun = True
                    yield piece
            return
        except StageError as error:
            if error.code == "tts_cut_short" and attempt == 2:  # this text's fault rather than the server's
                raise StageError("tts", error.code, error.message, retryable=False) from error
            if begun or attempt == 2 or not error.retryable:
                raise
            log.warning("%s The clause is tried once more.", error.message)


async def _pieces(
    clause: Clause,
    spoken: Spoken,
    sound: Callable[[str], AsyncGenerator[Sound, None]],
    tempo: float,
    speed: float,
) -> AsyncGenerator[Speech, None]:
    heard_from = anyio.current_time() + clause.ahead_s - SOON_S
    bounds = span(spoken.text, speed)
    held = b""
    rate, made = 0, 0  # made: samples handed on
    pace: Tempo | None = None
    until: float | None = None  # when it is let go whatever there is of it; None: it has been, or nothing has come
    over = False  # whether it was cut
    sounding = Sounding(1000)

    def ready(least: int) -> list[Speech]:
        nonlocal held, made
        out: list[Speech] = []
        while (samples := min(len(held) // SAMPLE_BYTES - kept, longest)) >= least:
            out.append(Speech(clause, held[: samples * SAMPLE_BYTES], rate, last=False))
            held, made = held[samples * SAMPLE_BYTES :], made + samples
        return out

    kept = longest = 0
    async with aclosing(sound(spoken.text)) as sounds, aclosing(_Next(sounds)) as following:
        while not over:
            part = await following.next(until)
            if part is _Next.LATE:
                until = None
            elif part is None:
                break
            else:
                if not rate:
                    rate = part.rate
                    kept, longest = int(rate * LEAST_S), int(rate * PIECE_S)
                    pace = Tempo(rate, tempo) if tempo != 1.0 else None
                    until = max(anyio.current_time() + PEEK_S, heard_from)
                    sounding = Sounding(rate)
                more = pace.feed(part.pcm) if pace else part.pcm
                sounding.feed(more)
                held += more
                room = int(min(bounds.most_s, SECONDS_LIMIT) * rate) - made
                if over := len(held) // SAMPLE_BYTES >= room:
                    log.warning("a clause of %d characters never came to an end: cut", len(clause.text))
                    held = held[: max(room, 1) * SAMPLE_BYTES]
                if sounding.seconds >= bounds.least_s or (until and anyio.current_time() >= until):
                    until = None
            for piece in ready(kept) if until is None and not over else ():
                yield piece
    if pace and not over:
        more = pace.flush()
        sounding.feed(more)
        held += more
    if sounding.seconds < bounds.least_s:
        what = f"{sounding.seconds:.1f} s of voice for {len(spoken.text)} characters: words were swallowed."
        if made == 0:
            raise StageError("tts", "tts_cut_short", what)
        log.warning("%s They are heard already.", what)
    for piece in ready(kept):
        yield piece
    if over:
        held = _faded(held)
    yield Speech(clause, held, rate, words=laid(clause, spoken, made, made + len(held) // SAMPLE_BYTES))


class _Next:
    """The next sound, waited for no longer than wanted: a wait that was given up is taken up again."""

    LATE = Sound(b"", 0)

    def __init__(self, sounds: AsyncGenerator[Sound, None]) -> None:
        self._sounds = sounds
        self._waiting: asyncio.Future[Sound | None] | None = None

    async def next(self, until: float | None) -> Sound | None:
        """None at the end, LATE if it did not come until then (loop time; None: however long it takes)."""
        if until is None and self._waiting is None:
            return await anext(self._sounds, None)
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(anext(self._sounds, None))
        left_s = None if until is None else max(until - anyio.current_time(), 0.0)
        done, _ = await asyncio.wait({self._waiting}, timeout=left_s)
        if not done:
            return self.LATE
        waited, self._waiting = self._waiting, None
        return waited.result()

    async def aclose(self) -> None:
        """Give the wait up for good; the sounds may be closed then."""
        if self._waiting is not None:
            self._waiting.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({self._waiting})
            if not self._waiting.cancelled():
                self._waiting.exception()  # nobody asks any more


def _faded(pcm: bytes) -> bytes:
    """Its end faded out over its last LEAST_S or so: what is cut may be loud."""
    samples = np.frombuffer(pcm, "<i2")
    gain = np.cos(np.linspace(0, np.pi / 2, samples.size, dtype=np.float32)) ** 2
    faded: bytes = (samples * gain).astype("<i2").tobytes()
    return faded


_TOKEN = re.compile(
    r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]|[^\s\u2e80-\u9fff\uac00-\ud7af]+"
)


def laid(clause: Clause, spoken: Spoken, before: int, total: int) -> tuple[Word, ...]:
    """The clause's words in proportion along its `total` samples, counted from its last piece, which begins at
    `before`: most of their places are negative. Known only at the end, and the voice is faster than its listener.

    What several spoken words stand for (`$5`) is one word.
    """
    found: list[tuple[int, int, float]] = []  # place in clause.text, weight
    for token in _TOKEN.finditer(spoken.text):
        if not any(map(str.isalnum, token.group())):
            continue
        start, end = spoken.span(token.start(), token.end())
        weight = CJK_WEIGHT if len(token.group()) == 1 and not token.group().isascii() else len(token.group()) + 1.0
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]), found[-1][2] + weight)
        else:
            found.append((start, end, weight))
    place = words.places(clause.text, clause.raw)
    whole = sum(weight for *_, weight in found)
    out: list[Word] = []
    done = 0.0
    for first, past, weight in found:
        start_at = int(total * done / whole)
        done += weight
        out.append(Word(*words.span(place, first, past), start_at - before, int(total * done / whole) - before))
    return tuple(out)


async def as_it_stands(clause: Clause) -> Spoken:
    """The clause's own text."""
    return Spoken.plain(without_pictures(clause.text))


def advised(languages: Sequence[str], name: str) -> tuple[str, ...]:
    """A setting's list of languages, checked. Raises ValueError."""
    if not languages or not all(language == "*" or language.isalpha() for language in languages):
        raise ValueError(f'{name}: languages must list primary subtags ("en", "zh"), or "*" for any')
    return tuple(languages)
