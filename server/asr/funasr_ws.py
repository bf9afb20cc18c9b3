"""Transcribing with a FunASR server over a websocket: the 2pass protocol in two dialects, and Fun-ASR-Nano's own."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import aiohttp
import anyio
import msgspec

from server.asr.hotwords import hot_words
from server.asr.parts import agreed, joined
from server.core.errors import RequestError, StageError
from server.core.media import MIC_RATE, SAMPLE_BYTES, Transcript

log = logging.getLogger(__name__)

DialectName = Literal["cpp", "python", "nano"]
BYTES_PER_S = MIC_RATE * SAMPLE_BYTES
# The Python server counts messages, and takes each for as long as the one before it.
MESSAGE_BYTES = BYTES_PER_S * 60 // 1000
MESSAGE_LIMIT = 2**20  # bytes of one answer
TEXT_LIMIT = 20_000  # characters of one utterance
HOT_WORD_WEIGHT = 20
RECONNECT_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)  # after failures in a row
NANO_LANGUAGES = {"zh": "中文", "en": "English", "ja": "日本語"}


class FunasrWsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="funasr_ws"):
    """A FunASR server. Its own default is to listen on every address, without a key: give it 127.0.0.1."""

    url: str = "ws://127.0.0.1:10095"
    """wss:// for one with TLS, which is these servers' default"""
    dialect: DialectName = "cpp"
    """cpp: funasr-wss-server-2pass (the runtime image); python: funasr_wss_server.py; nano: funasr-realtime-server
    --endpoint-mode client"""
    verify_tls: bool = True
    """false: for the servers' self-signed certificate, on a network that you trust"""
    languages: tuple[str, ...] = ()
    """primary subtags that it understands; empty: zh, and for nano en and ja too"""
    chunk: tuple[int, int, int] = (5, 10, 5)
    """2pass: look-back, step and look-ahead of the streaming model, of 60 ms each"""
    hot_words: tuple[str, ...] = ()
    """words of every call that are easily misheard; the python server knows none"""
    speculate: bool = True
    """whether a text for now is had by saying the utterance once more over a second connection; if not, it is what is
    known by then, without punctuation"""
    capacity: int = 8
    """sessions at once"""
    backlog_s: float = 30.0
    """speech of an utterance that is kept, to be said again over a new connection"""
    connect_s: float = 3.0
    answer_s: float = 2.0
    """an answer that takes longer is replaced by the text known so far"""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError("url must be ws://host:port or wss://host:port")
        if not (0 <= self.chunk[0] <= 50 and 1 <= self.chunk[1] <= 50 and 0 <= self.chunk[2] <= 50):
            raise ValueError("chunk must be three numbers of 60 ms each, as in (5, 10, 5)")
        if self.capacity < 1:
            raise ValueError("capacity must be at least 1")
        if not 1.0 <= self.backlog_s <= 120.0:
            raise ValueError("backlog_s must lie between 1 and 120")
        if not 0.1 <= self.connect_s <= 30.0 or not 0.1 <= self.answer_s <= 30.0:
            raise ValueError("connect_s and answer_s must lie between 0.1 and 30")
        try:
            hot_words(self.hot_words)
        except RequestError as error:
            raise ValueError(f"hot_words: {error.message}") from None

    @property
    def address(self) -> str:
        """Where voice goes."""
        return self.url

    @asynccontextmanager
    async def load(self) -> AsyncIterator["FunasrWsAsr"]:
        """Raises StageError if no websocket server answers there."""
        async with aiohttp.ClientSession(trust_env=False) as http:
            engine = FunasrWsAsr(http, self)
            try:
                async with engine.connect():
                    pass
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise StageError(
                    "asr",
                    "asr_unreachable",
                    f"No FunASR server answers at {self.url} ({error or type(error).__name__}). Start it, or correct "
                    "asr.url (wss:// if it was started with a certificate).",
                ) from None
            try:
                yield engine
            finally:
                await engine.aclose()


class FunasrWsAsr:
    """Shared by all calls: the client. Each utterance has a connection of its own, made ready before it begins."""

    def __init__(self, http: aiohttp.ClientSession, settings: FunasrWsSettings) -> None:
        usual = tuple(NANO_LANGUAGES) if settings.dialect == "nano" else ("zh",)
        self.languages: Sequence[str] = settings.languages or usual
        self.settings = settings
        self._http = http
        self._sessions: set[FunasrWsSession] = set()

    async def open(self, language: str, words: Sequence[str] = ()) -> "FunasrWsSession":
        """Never waits for the server.

        Raises StageError for another language and above the capacity, RequestError for words that may not be any.
        """
        subtag = language.lower().split("-")[0]
        if subtag not in self.languages:
            known = ", ".join(self.languages)
            raise StageError(
                "asr",
                "asr_language",
                f"asr.languages names {known} for this server, not {language!r}.",
                retryable=False,
            )
        if len(self._sessions) >= self.settings.capacity:
            raise StageError("asr", "asr_full", f"{self.settings.capacity} calls are being listened to already.")
        checked = tuple(dict.fromkeys((*self.settings.hot_words, *hot_words(words))))
        session = FunasrWsSession(self, subtag, checked, self._sessions.discard)
        self._sessions.add(session)
        return session

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """One connection. Raises aiohttp.ClientError, OSError or TimeoutError."""
        verify = self.settings.verify_tls
        with anyio.fail_after(self.settings.connect_s):
            socket = await self._http.ws_connect(
                self.settings.url,
                protocols=("binary",) if self.settings.dialect != "nano" else (),
                max_msg_size=MESSAGE_LIMIT,
                compress=0,
                ssl=verify,
                timeout=aiohttp.ClientWSTimeout(ws_close=0.2),
            )
        try:
            yield socket
        finally:
            with anyio.CancelScope(shield=True):
                await socket.close()

    async def aclose(self) -> None:
        for session in list(self._sessions):
            await session.aclose()


class Dialect(Protocol):
    """What is said and understood over one connection, which serves one utterance. Does no IO."""

    @property
    def partial(self) -> str:
        """The text so far."""
        ...

    @property
    def stable(self) -> int:
        """Its characters that later partials keep."""
        ...

    @property
    def final(self) -> str:
        """The text of what is final so far."""
        ...

    def begin(self) -> list[str]:
        """Messages before the audio."""
        ...

    def end(self) -> list[str]:
        """Messages after it."""
        ...

    def take(self, message: dict[str, Any], ended: bool) -> bool:
        """Read an answer; whether it is the last one. ended: whether the end was sent."""
        ...


class TwoPass:
    """The 2pass protocol. Pieces of text come while somebody speaks, then whole sentences in their place."""

    def __init__(self, settings: FunasrWsSettings, language: str, words: Sequence[str]) -> None:
        self.partial = ""
        self._cpp = settings.dialect == "cpp"
        self._begin: dict[str, Any] = {
            "mode": "2pass",
            "wav_name": "visavis",
            "wav_format": "pcm",
            "audio_fs": MIC_RATE,
            "is_speaking": True,
            "chunk_size": list(settings.chunk),
            "chunk_interval": 10,
            "encoder_chunk_look_back": 4,
            "decoder_chunk_look_back": 1,
            "itn": True,
            "svs_lang": language,
            "svs_itn": True,
        }
        # Not to the Python server: it hands them to a model that opens paths and addresses.
        if words and self._cpp:
            self._begin["hotwords"] = json.dumps(dict.fromkeys(words, HOT_WORD_WEIGHT), ensure_ascii=False)
        self._final: list[str] = []

    @property
    def stable(self) -> int:
        return len(self.partial)

    @property
    def final(self) -> str:
        return joined(self._final)

    def begin(self) -> list[str]:
        return [json.dumps(self._begin, ensure_ascii=False)]

    def end(self) -> list[str]:
        # `is_end` asks newer Python servers for an acknowledgement; all others pass over it.
        return [json.dumps({"is_speaking": False, "is_end": True})]

    def take(self, message: dict[str, Any], ended: bool) -> bool:
        """`mode` tells what it is; `is_final` means another thing to each server.

        The C++ server: this was all. The Python server: somebody was still speaking when it was made.
        """
        text, mode = str(message.get("text") or ""), message.get("mode")
        if mode == "2pass-online":
            self.partial = joined([self.partial, text])[:TEXT_LIMIT]
        elif mode == "2pass-offline" and text:
            self._final.append(text[:TEXT_LIMIT])
        if message.get("error"):
            log.warning("asr: the FunASR server says: %.200s", message["error"])
        if not ended:
            return False
        if self._cpp:
            return message.get("is_final") is True
        return bool(message.get("is_end")) or (mode == "2pass-offline" and message.get("is_final") is False)


class Nano:
    """funasr-realtime-server with our endpoints: the whole text each time it is heard again, one final at COMMIT."""

    def __init__(self, settings: FunasrWsSettings, language: str, words: Sequence[str]) -> None:
        self.partial = ""
        self.stable = 0
        self.final = ""
        self._begin = [f"LANGUAGE:{NANO_LANGUAGES.get(language, language)}"]
        if words:
            self._begin.append(f"HOTWORDS:{','.join(words)}")
        self._begin.append("START")

    def begin(self) -> list[str]:
        return self._begin

    def end(self) -> list[str]:
        return ["COMMIT"]

    def take(self, message: dict[str, Any], ended: bool) -> bool:
        if message.get("event") == "error":
            log.warning("asr: the FunASR server says: %.200s", message.get("error"))
            return ended
        sentences = message.get("sentences")
        if not isinstance(sentences, list):  # an acknowledgement
            return False
        said = [str(sentence.get("text", "")) for sentence in sentences if isinstance(sentence, dict)]
        text = joined([*said, str(message.get("partial") or "")])[:TEXT_LIMIT]
        if message.get("is_final") is True:
            self.final = text
            return ended
        # Each partial is decoded anew: what two in a row agree upon is promised, and kept if a third disagrees.
        if text.startswith(self.partial[: self.stable]):
            self.stable = max(self.stable, agreed(self.partial, text))
            self.partial = text
        return False


DIALECTS: dict[DialectName, Callable[[FunasrWsSettings, str, Sequence[str]], Dialect]] = {
    "cpp": TwoPass,
    "python": TwoPass,
    "nano": Nano,
}


class Said:
    """An utterance as far as it is known here: its audio, bounded, and whether it is over."""

    def __init__(self, limit_bytes: int) -> None:
        self.ended = False
        self.first = 0
        """bytes that were dropped from its beginning"""
        self._limit = limit_bytes
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._changed = anyio.Event()

    @property
    def last(self) -> int:
        """bytes that were said in all"""
        return self.first + self._bytes

    def append(self, pcm: bytes) -> None:
        self._pieces.append(pcm)
        self._bytes += len(pcm)
        while self._bytes > self._limit:
            dropped = self._pieces.popleft()
            self._bytes -= len(dropped)
            self.first += len(dropped)
        self._tell()

    def end(self) -> None:
        self.ended = True
        self._tell()

    def copy(self) -> "Said":
        """What was said so far, as an utterance that is over."""
        other = Said(self._limit)
        other.first = self.first
        other._pieces = self._pieces.copy()
        other._bytes = self._bytes
        other.ended = True
        return other

    async def after(self, position: int) -> tuple[int, bytes]:
        """Waits for more than `position` bytes, or the end; what there is from there on, and where that begins."""
        while position >= self.last and not self.ended:
            self._changed = anyio.Event()
            await self._changed.wait()
        position = max(position, self.first)
        return position, b"".join(self._pieces)[position - self.first :]

    def _tell(self) -> None:
        self._changed.set()


class Line:
    """One utterance's way to the server and back: a connection, and another one if it breaks."""

    def __init__(
        self,
        engine: FunasrWsAsr,
        language: str,
        words: Sequence[str],
        said: Said,
        heard: "Callable[[Line], None] | None" = None,
    ) -> None:
        self.said = said
        self._new_dialect = partial(DIALECTS[engine.settings.dialect], engine.settings, language, words)
        self.dialect = self._new_dialect()
        self._known = ""
        """of connections that broke"""
        self._engine = engine
        self._heard = heard
        self._ended = False
        self._answered = anyio.Event()
        # A plain task, ended in aclose: the session is opened by one task and may be closed by another.
        self._task = asyncio.create_task(self._run(), name="asr line")

    @property
    def known(self) -> str:
        """The best there is without waiting."""
        final, partial = self.dialect.final, self.dialect.partial
        return max(final, partial, self._known, key=len)

    async def answer(self, answer_s: float) -> str:
        """The final text; after `answer_s` what is known. The utterance must be over."""
        with anyio.move_on_after(answer_s) as patience:
            await self._answered.wait()
        if patience.cancelled_caught:
            log.warning("asr: no final text within %.1f s from %s", answer_s, self._engine.settings.url)
            return self.known
        return self.dialect.final

    async def aclose(self) -> None:
        self._task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        failures = 0
        while not self._answered.is_set():
            await self._pause(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
            try:
                async with self._engine.connect() as socket:
                    self._known, self.dialect, self._ended = self.known, self._new_dialect(), False
                    for text in self.dialect.begin():
                        await socket.send_str(text)
                    await self._talk(socket)
                    if socket.close_code is not None and not self._answered.is_set():
                        log.warning("asr: %s closed the connection", self._engine.settings.url)
                # A server that takes a connection and drops it is not there either.
                failures = 1 if self.dialect.partial or self.dialect.final else failures + 1
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                failures += 1
                if failures in (1, len(RECONNECT_S)):
                    log.warning("asr: %s: %s", self._engine.settings.url, error or type(error).__name__)

    async def _pause(self, seconds: float) -> None:
        """Between attempts; ends at once if somebody begins to speak."""
        with anyio.move_on_after(seconds):
            if self.said.last == 0:
                await self.said.after(0)
            else:
                await anyio.sleep(seconds)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Until the last answer, or the connection's end."""
        writer = asyncio.create_task(self._write(socket), name="asr line writer")
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT and self._take(message.data):
                    self._answered.set()
                    return
        finally:
            writer.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([writer])
            if not writer.cancelled() and (error := writer.exception()) is not None:
                log.debug("asr line writer: %s", error)  # the reader met the same end

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        position, waiting = 0, b""
        while True:
            at, pcm = await self.said.after(position)
            position = at + len(pcm)
            waiting += pcm
            while len(waiting) >= MESSAGE_BYTES:
                await socket.send_bytes(waiting[:MESSAGE_BYTES])
                waiting = waiting[MESSAGE_BYTES:]
            if self.said.ended and position >= self.said.last:
                if waiting:
                    await socket.send_bytes(waiting.ljust(MESSAGE_BYTES, b"\0"))
                self._ended = True
                for text in self.dialect.end():
                    await socket.send_str(text)
                return

    def _take(self, text: str) -> bool:
        before = self.dialect.partial
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            log.warning("asr: %s said what nobody understands: %.100r", self._engine.settings.url, text)
            return False
        last = self.dialect.take(message, self._ended)
        if self.dialect.partial != before and self._heard is not None:
            self._heard(self)
        return last


class FunasrWsSession:
    """One call's listener. While the server is away what is said is kept, and said again to it."""

    def __init__(
        self,
        engine: FunasrWsAsr,
        language: str,
        words: Sequence[str],
        closed: "Callable[[FunasrWsSession], None]",
    ) -> None:
        self._engine = engine
        self._language = language
        self._words = words
        self._tell_closed = closed
        self._closed = False
        self._partial: Transcript | None = None
        self._changed = anyio.Event()
        self._leaving: set[asyncio.Task[None]] = set()
        self._line = self._new_line()

    async def push(self, pcm16k: bytes) -> None:
        """Never waits; what is too long is dropped from its beginning."""
        if not self._closed:
            self._line.said.append(pcm16k)

    async def partials(self) -> AsyncGenerator[Transcript, None]:
        """Only the latest is kept for a slow reader."""
        while not self._closed:
            if self._partial is None:
                self._changed = anyio.Event()
                await self._changed.wait()
            else:
                partial, self._partial = self._partial, None
                yield partial

    async def provisional(self) -> Transcript:
        """From a second connection, to which all is said once more: the utterance's own is never told to end."""
        line = self._line
        settings = self._engine.settings
        if self._closed or line.said.last == 0:
            return Transcript("")
        if not settings.speculate or line.said.first:
            return Transcript(line.known)
        copy = Line(self._engine, self._language, self._words, line.said.copy())
        try:
            text = await copy.answer(settings.answer_s)
        finally:
            self._leave(copy)
        return Transcript(text or line.known)

    async def commit(self) -> Transcript:
        """What comes too late for it is not heard of again: the next utterance has another connection."""
        if self._closed:
            return Transcript("", final=True)
        line, self._line, self._partial = self._line, self._new_line(), None
        try:
            text = ""
            if line.said.last:
                line.said.end()
                text = await line.answer(self._engine.settings.answer_s)
        finally:
            self._leave(line)
        return Transcript(text, len(text), final=True)

    async def drop(self) -> None:
        if not self._closed and self._line.said.last:
            self._leave(self._line)
            self._line, self._partial = self._new_line(), None

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._leave(self._line)
        with anyio.CancelScope(shield=True):
            await asyncio.wait(self._leaving)
        self._tell_closed(self)

    def _leave(self, line: Line) -> None:
        """Nobody waits for a connection's polite end."""
        task = asyncio.create_task(line.aclose(), name="asr line end")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _new_line(self) -> Line:
        said = Said(int(self._engine.settings.backlog_s * BYTES_PER_S))
        return Line(self._engine, self._language, self._words, said, self._heard_so_far)

    def _heard_so_far(self, line: Line) -> None:
        if line is self._line:
            self._partial = Transcript(line.dialect.partial, line.dialect.stable)
            self._changed.set()
