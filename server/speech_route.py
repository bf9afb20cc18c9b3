"""`POST /v1/audio/speech`: any text in any voice, streamed as it is made; live calls go first."""

import io
import logging
import struct
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread
import av
import msgspec
import numpy as np
from aiohttp import web
from anyio.streams.memory import MemoryObjectSendStream

from server.core.chunker import Chunker
from server.core.errors import RequestError, StageError
from server.core.events import State
from server.core.media import SAMPLE_BYTES, Clause, Speech, Voice
from server.core.notices import Notice, StateChanged
from server.core.protocols import Tts
from server.core.resampling import Resampler
from server.core.spoken import sayable
from server.core.trim import Trimmer
from server.engines import Engines
from server.voice_routes import known

log = logging.getLogger(__name__)

RATE = 24_000  # Hz of what is sent, as the OpenAI API says of `pcm`
INPUT_LIMIT = 4096  # characters, as the OpenAI API bounds it
REQUESTS = 4  # at once; one more is told to come later
PIECES = 64  # of at most 200 ms, made ahead of a slow reader
YIELD_S = 20.0  # a clause waits so long for the calls, and is made then: slowly, but it ends
WRITE_S = 30.0  # for a reader who does not read
PIECE_CHARS = 64  # of the text cut into clauses at once
SPEEDS = (0.5, 2.0)
KINDS = {
    "pcm": f"audio/pcm;rate={RATE}",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
}
CODERS = {
    "mp3": ("mp3", "libmp3lame", {"write_xing": "0"}),
    "opus": ("ogg", "libopus", {"page_duration": "100000"}),
    "aac": ("adts", "aac", {}),
    "flac": ("flac", "flac", {}),
}
"""container, codec and options that do without going back in the file"""


class SpeechRequest(msgspec.Struct):
    """What of OpenAI's request is read; `model` and unknown fields are passed over."""

    input: str
    voice: str | dict[str, Any] = ""
    response_format: str = "mp3"
    speed: float = 1.0
    language: str = ""
    """ours: what Latin letters are to be read as; empty: as the first persona"""


class Attention:
    """Which calls are being spoken in, or will be in a moment. Told by each call's notices."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._changed = anyio.Event()

    @property
    def free(self) -> bool:
        return not self._busy

    def follow(self, call_id: str) -> "_Ear":
        """A narrator for the call."""
        return _Ear(self, call_id)

    def note(self, call_id: str, busy: bool) -> None:
        """busy: somebody speaks in this call, or thinks."""
        if busy:
            self._busy.add(call_id)
        else:
            self._busy.discard(call_id)
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self, within_s: float) -> bool:
        """Until nobody speaks in any call; False: somebody still does after so long."""
        with anyio.move_on_after(within_s):
            while self._busy:
                await self._changed.wait()
            return True
        return False


class _Ear:
    def __init__(self, attention: Attention, call_id: str) -> None:
        self._attention = attention
        self._call_id = call_id

    def tell(self, notice: Notice) -> None:
        if isinstance(notice, StateChanged):
            self._attention.note(self._call_id, notice.state is not State.LISTENING)


class SpeechRoute:
    def __init__(
        self,
        engines: Engines,
        authorize: Callable[[web.Request], object | None],
        attention: Attention,
        language: str,
    ) -> None:
        """authorize: raises what a request without a key gets. language: of Latin letters, where nothing is said."""
        self._engines = engines
        self._authorize = authorize
        self._attention = attention
        self._language = language
        self._requests = 0
        self._making = anyio.Lock()  # one clause at a time: a call never waits for more than one

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/audio/speech", self._speak)]

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        self._authorize(request)
        try:
            wanted = msgspec.json.decode(await request.read(), type=SpeechRequest)
        except msgspec.MsgspecError as error:
            raise RequestError(400, "bad_request", f"The request's JSON cannot be used: {error}") from None
        voice = self._check(wanted)
        if self._requests >= REQUESTS:
            raise RequestError(429, "busy", f"{REQUESTS} texts are being spoken. Please try again in a moment.")
        self._requests += 1
        try:
            return await self._stream(request, wanted, voice)
        finally:
            self._requests -= 1

    def _check(self, wanted: SpeechRequest) -> Voice:
        if not sayable(wanted.input):
            raise RequestError(400, "no_text", "There is nothing to say in input.")
        if len(wanted.input) > INPUT_LIMIT:
            what = f"input may have {INPUT_LIMIT} characters; this has {len(wanted.input)}. Send it in parts."
            raise RequestError(400, "too_long", what)
        if wanted.response_format not in KINDS:
            raise RequestError(400, "bad_format", f"response_format is one of {', '.join(KINDS)}.")
        if not SPEEDS[0] <= wanted.speed <= SPEEDS[1]:
            raise RequestError(400, "bad_speed", "speed lies between 0.5 and 2.")
        name = wanted.voice if isinstance(wanted.voice, str) else wanted.voice.get("id", "")
        voices = list(self._engines.tts.voices)
        if not isinstance(name, str) or (name and name not in voices):
            raise RequestError(404, "unknown_voice", f"There is no voice {name!r} here; there is {known(voices)}.")
        return Voice(name, wanted.speed)

    async def _stream(self, request: web.Request, wanted: SpeechRequest, voice: Voice) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": KINDS[wanted.response_format],
                "Cache-Control": "no-store",
                "X-Sample-Rate": str(RATE),
                "X-Accel-Buffering": "no",
            }
        )
        coder = _coder(wanted.response_format)
        failure: StageError | None = None
        send, receive = anyio.create_memory_object_stream[bytes](PIECES)

        async def make() -> None:
            nonlocal failure
            async with send:
                try:
                    await self._make(request, wanted, voice, send)
                except StageError as error:
                    failure = error
                except anyio.BrokenResourceError:
                    pass  # nobody reads any more

        async with send, receive, anyio.create_task_group() as tasks:
            tasks.start_soon(make)
            try:
                async for pcm in receive:
                    await _write(request, response, await coder.feed(pcm))
                if failure is None:
                    await _write(request, response, await coder.finish())
                    await response.write_eof()
            except (ConnectionError, TimeoutError):
                log.info("a reader of speech went away")
            finally:
                tasks.cancel_scope.cancel()
        if failure is not None:
            if not response.prepared:
                raise failure
            # The status has gone out: a body that breaks off is all that can still say it.
            log.warning("speech broke off: %s", failure.message)
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _make(
        self, request: web.Request, wanted: SpeechRequest, voice: Voice, out: MemoryObjectSendStream[bytes]
    ) -> None:
        for clause in clauses(wanted.input, wanted.language or self._language):
            async with self._making:
                await self._attention.wait(YIELD_S)
                if request.transport is None or request.transport.is_closing():
                    return
                async with aclosing(said(self._engines.tts, clause, voice)) as pieces:
                    async for pcm in pieces:
                        await out.send(pcm)
            await anyio.lowlevel.checkpoint()


def clauses(text: str, language: str) -> Generator[Clause, None, None]:
    """Cut as they are needed: a whole page at once would hold the event loop up."""
    chunker = Chunker(language)
    for at in range(0, len(text), PIECE_CHARS):
        yield from chunker.feed(text[at : at + PIECE_CHARS])
    yield from chunker.flush()


async def said(tts: Tts, clause: Clause, voice: Voice) -> AsyncGenerator[bytes, None]:
    """The clause at RATE, without long silence at its ends."""
    trimmer, rate = Trimmer(), _Rate()
    async with aclosing(tts.say(clause, voice)) as pieces:
        async for piece in pieces:
            for audible in trimmer.feed(piece):
                if pcm := rate.convert(audible):
                    yield pcm


class _Rate:
    """One clause's pieces at RATE."""

    def __init__(self) -> None:
        self._resampler: Resampler | None = None

    def convert(self, speech: Speech) -> bytes:
        if speech.rate == RATE:
            return speech.pcm
        self._resampler = self._resampler or Resampler(RATE)
        frames = self._resampler.resample(_frame(speech.pcm, speech.rate)) if speech.samples else []
        if speech.last:
            frames += self._resampler.resample(None)
        return b"".join(frame.to_ndarray().tobytes() for frame in frames)


def _frame(pcm: bytes, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, np.int16).reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = rate
    return frame


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    if not data:
        return
    with anyio.fail_after(WRITE_S):
        if not response.prepared:
            await response.prepare(request)
        await response.write(data)


# ---- what it is sent as --------------------------------------------------------------------------------------------


class _Coder(Protocol):
    async def feed(self, pcm: bytes) -> bytes: ...

    async def finish(self) -> bytes: ...


def _coder(kind: str) -> _Coder:
    return _Plain(wav=kind == "wav") if kind in ("pcm", "wav") else _Encoder(kind)


class _Plain:
    """PCM, or a WAV file whose length is not known when it begins (all ones, as streaming writers do)."""

    def __init__(self, wav: bool) -> None:
        self._head = _wav_header() if wav else b""

    async def feed(self, pcm: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + pcm

    async def finish(self) -> bytes:
        return b""


def _wav_header() -> bytes:
    unknown = 0xFFFFFFFF
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE, RATE * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)
    return b"RIFF" + struct.pack("<I", unknown) + b"WAVEfmt " + form + b"data" + struct.pack("<I", unknown)


class _Encoder:
    """A coded file that is written from front to back; the work is done in a thread."""

    def __init__(self, kind: str) -> None:
        container, codec, options = CODERS[kind]
        self._out = _Sink()
        self._container: Any = av.open(self._out, "w", format=container, options=options)
        self._stream: Any = self._container.add_stream(codec, rate=RATE, layout="mono")
        context: Any = self._stream.codec_context
        self._resampler = av.AudioResampler(format=context.format.name, layout="mono", rate=context.sample_rate)
        self._samples = 0

    async def feed(self, pcm: bytes) -> bytes:
        return await anyio.to_thread.run_sync(self._feed, pcm)

    async def finish(self) -> bytes:
        return await anyio.to_thread.run_sync(self._finish)

    def _feed(self, pcm: bytes) -> bytes:
        frame = _frame(pcm, RATE)
        frame.pts = self._samples
        self._samples += frame.samples
        for one in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(one))
        return self._out.take()

    def _finish(self) -> bytes:
        for one in self._resampler.resample(None):
            self._container.mux(self._stream.encode(one))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._out.take()


class _Sink(io.RawIOBase):
    """Collects what is written; there is no going back in it."""

    def __init__(self) -> None:
        self._data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data
