"""Transcribing with a server that speaks OpenAI's `/v1/audio/transcriptions`: funasr-server, and others like it."""

import io
import logging
import wave
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
import anyio
import msgspec

from server.core.errors import StageError
from server.core.media import MIC_RATE, SAMPLE_BYTES, Transcript

log = logging.getLogger(__name__)

BYTES_PER_S = MIC_RATE * SAMPLE_BYTES
SHORTEST_S = 0.1  # less is no word, and some servers fail on it
ANSWER_LIMIT = 2**20  # bytes
TEXT_LIMIT = 20_000  # characters


class TranscriptionsSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="transcriptions"
):
    """A server with OpenAI's transcription route. There are no partials: a text is had of what is over."""

    base_url: str = "http://127.0.0.1:8000/v1"
    model: str = "sensevoice"
    """as the server calls it; funasr-server: sensevoice, paraformer, fun-asr-nano, custom"""
    api_key: str = ""
    languages: tuple[str, ...] = ("zh", "yue", "en", "ja", "ko")
    """primary subtags that the model understands"""
    send_language: bool = True
    """whether the server is told the language; if not, the model guesses"""
    capacity: int = 8
    """sessions at once"""
    utterance_s: float = 60.0
    """what is longer loses its beginning"""
    answer_s: float = 4.0
    """an answer that takes longer is replaced by the text known so far"""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must be http://host:port/v1 or https://...")
        if not self.model:
            raise ValueError("model must not be empty")
        if not self.languages:
            raise ValueError("languages must not be empty")
        if self.capacity < 1:
            raise ValueError("capacity must be at least 1")
        if not 1.0 <= self.utterance_s <= 600.0:
            raise ValueError("utterance_s must lie between 1 and 600")
        if not 0.1 <= self.answer_s <= 60.0:
            raise ValueError("answer_s must lie between 0.1 and 60")

    @property
    def address(self) -> str:
        """Where voice goes."""
        return self.base_url

    @asynccontextmanager
    async def load(self) -> AsyncIterator["TranscriptionsAsr"]:
        """Raises StageError if nobody answers there."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        # Idle connections are kept for the time of a conversation's pauses.
        connector = aiohttp.TCPConnector(keepalive_timeout=120.0)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
            engine = TranscriptionsAsr(http, self)
            try:
                async with http.get(f"{engine.root}/models", timeout=aiohttp.ClientTimeout(total=5.0)) as answer:
                    if answer.status in (401, 403):
                        raise StageError(
                            "asr", "asr_refused", f"{self.base_url} refuses asr.api_key.", retryable=False
                        )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise StageError(
                    "asr",
                    "asr_unreachable",
                    f"No transcription server answers at {self.base_url} ({error or type(error).__name__}). Start "
                    "it, or correct asr.base_url.",
                ) from None
            try:
                yield engine
            finally:
                await engine.aclose()


class TranscriptionsAsr:
    """Shared by all calls: the client."""

    def __init__(self, http: aiohttp.ClientSession, settings: TranscriptionsSettings) -> None:
        self.languages: Sequence[str] = settings.languages
        self.settings = settings
        self.root = settings.base_url.rstrip("/")
        self._http = http
        self._sessions: set[TranscriptionsSession] = set()

    async def open(self, language: str, words: Sequence[str] = ()) -> "TranscriptionsSession":
        """Never waits for the server. Raises StageError for another language, and above the capacity."""
        subtag = language.lower().split("-")[0]
        if subtag not in self.languages:
            known = ", ".join(self.languages)
            raise StageError(
                "asr", "asr_language", f"asr.languages names {known}, not {language!r}.", retryable=False
            )
        if len(self._sessions) >= self.settings.capacity:
            raise StageError("asr", "asr_full", f"{self.settings.capacity} calls are being listened to already.")
        session = TranscriptionsSession(self, subtag, self._sessions.discard)
        self._sessions.add(session)
        return session

    async def transcribe(self, pcm: bytes, language: str) -> str:
        """The text of s16le mono 16 kHz. Raises StageError."""
        form = aiohttp.FormData()
        form.add_field("file", as_wav(pcm), filename="speech.wav", content_type="audio/wav")
        form.add_field("model", self.settings.model)
        form.add_field("response_format", "json")
        if self.settings.send_language:
            form.add_field("language", language)
        try:
            async with self._http.post(f"{self.root}/audio/transcriptions", data=form) as answer:
                body = await answer.content.read(ANSWER_LIMIT)
                if answer.status != 200:
                    said = body.decode(errors="replace")[:200]
                    raise StageError("asr", "asr_refused", f"{self.root} answered {answer.status}: {said}")
                text = msgspec.json.decode(body, type=Transcribed).text
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            raise StageError("asr", "asr_unreachable", f"{self.root}: {error or type(error).__name__}") from error
        return text.strip()[:TEXT_LIMIT]

    async def aclose(self) -> None:
        for session in list(self._sessions):
            await session.aclose()


class Transcribed(msgspec.Struct):
    """The server's answer, as far as it is read."""

    text: str


class TranscriptionsSession:
    """One call's listener: it keeps the utterance, and asks for its text."""

    def __init__(
        self, engine: TranscriptionsAsr, language: str, closed: "Callable[[TranscriptionsSession], None]"
    ) -> None:
        self._engine = engine
        self._language = language
        self._tell_closed = closed
        self._limit = int(engine.settings.utterance_s * BYTES_PER_S)
        self._closed = anyio.Event()
        self._next_utterance()

    def _next_utterance(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._known = ""

    async def push(self, pcm16k: bytes) -> None:
        """Never waits; what is too long loses its beginning."""
        if self._closed.is_set():
            return
        self._pieces.append(pcm16k)
        self._bytes += len(pcm16k)
        while self._bytes > self._limit:
            self._bytes -= len(self._pieces.popleft())

    async def partials(self) -> AsyncGenerator[Transcript, None]:
        """Ends with the session; there is never one."""
        await self._closed.wait()
        for _ in ():
            yield Transcript("")

    async def provisional(self) -> Transcript:
        """Of what there is; the utterance goes on."""
        self._known = await self._ask()
        return Transcript(self._known)

    async def commit(self) -> Transcript:
        text = await self._ask()
        self._next_utterance()
        return Transcript(text, len(text), final=True)

    async def drop(self) -> None:
        self._next_utterance()

    async def aclose(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._next_utterance()
            self._tell_closed(self)

    async def _ask(self) -> str:
        """The server's word on all that is kept; what is known if it fails or takes too long."""
        if self._bytes < SHORTEST_S * BYTES_PER_S:
            return ""
        try:
            with anyio.fail_after(self._engine.settings.answer_s):
                return await self._engine.transcribe(b"".join(self._pieces), self._language)
        except TimeoutError:
            log.warning("asr: no text within %.1f s", self._engine.settings.answer_s)
        except StageError as error:
            log.warning("asr: %s", error.message)
        return self._known


def as_wav(pcm: bytes) -> bytes:
    """s16le mono 16 kHz with a header."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(SAMPLE_BYTES)
        writer.setframerate(MIC_RATE)
        writer.writeframes(pcm)
    return file.getvalue()
