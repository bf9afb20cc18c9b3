"""The voice server's HTTP side: speech as it is made, voices, health."""

import asyncio
import contextlib
import hmac
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from . import texts
from .hops import FEWEST
from .speakers import AUDIO_LIMIT, Speakers, Unfit
from .utterance import Failed, Utterance

log = logging.getLogger(__name__)

TEXT_LIMIT = 1000  # characters of one request: a sentence or two; what is made ahead of the listener is bounded by it
BODY_LIMIT = AUDIO_LIMIT + 64 * 1024
WAIT_S = 2.0  # for one of the places, when all are taken
MODES = ("zero-shot", "cross-lingual", "instruct", "saved")


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = JSONResponse({"error": {"code": code, "message": message}}, status)


@dataclass
class Engine:
    """The loaded model and what is going on on it."""

    cosyvoice: Any
    generation: int
    model: str
    """its name, for people"""
    speakers: Speakers
    places: int = 4
    """utterances at once"""
    key: str = ""
    """asked of every request but health; empty: none"""
    fewest: int = FEWEST
    stall_s: float = 20.0
    tokens: int = 0
    """made by the language model since the start"""
    active: set[Utterance] = field(default_factory=set)
    """utterances whose threads are at work, cancelled ones too"""

    @property
    def rate(self) -> int:
        return int(self.cosyvoice.sample_rate)

    def utterance(self, mode: str, text: str, voice: dict[str, Any], instruct: str) -> Utterance:
        return Utterance(
            self.cosyvoice.model,
            self.request(mode, text, voice, instruct),
            stall_s=self.stall_s,
            fewest=self.fewest,
            counted=self._count,
        )

    def request(self, mode: str, text: str, voice: dict[str, Any], instruct: str) -> dict[str, Any]:
        """What the model is asked for. The text is spelled out and cut by whoever asks: upstream's front end isn't
        run (it would read `3.14` as `3。14`)."""
        front, generation = self.cosyvoice.frontend, self.generation
        prompted = {key: value for key, value in voice.items() if key != "embedding"}
        if not prompted:  # a speaker of the first kind: an embedding and nothing else
            prompted = {"llm_embedding": voice["embedding"], "flow_embedding": voice["embedding"]}
            mode = "instruct" if mode == "instruct" else "cross-lingual"
        said = texts.sayable(text)
        if mode == "instruct":
            told, length = front._extract_text_token(texts.instruction(instruct, generation))
            prompted |= {"prompt_text": told, "prompt_text_len": length}
        elif mode == "cross-lingual":
            said = texts.without_prompt(said, generation)
            prompted = {k: v for k, v in prompted.items() if not k.startswith("prompt_text")}
        if mode in ("instruct", "cross-lingual"):
            prompted = {k: v for k, v in prompted.items() if not k.startswith("llm_prompt_speech_token")}
        tokens, length = front._extract_text_token(said)
        return {**prompted, "text": tokens, "text_len": length}

    def _count(self) -> None:
        self.tokens += 1


class Sound(Response):
    """An utterance as an ASGI answer: headers with the first piece, errors before it as JSON, an end when the
    listener goes away. A failure in the middle breaks the connection: half a sentence must not look whole."""

    def __init__(self, rate: int, utterance: Utterance, done: Callable[[], None]) -> None:
        """done: called on the loop when the utterance's threads have ended, which is not waited for."""
        self._rate = rate
        self._utterance = utterance
        self._done = done
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ready = _begin(self._utterance, self._done)
        gone = asyncio.create_task(_gone(receive))
        try:
            begun = False
            while True:
                piece = asyncio.create_task(ready.get())
                await asyncio.wait([piece, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    piece.cancel()
                    return
                data = piece.result()
                if isinstance(data, Failed):
                    if begun:
                        raise data
                    await Refused(500, "speech_failed", str(data)).answer(scope, receive, send)
                    return
                if not begun:
                    await send({"type": "http.response.start", "status": 200, "headers": self._head()})
                    begun = True
                await send({"type": "http.response.body", "body": data, "more_body": bool(data)})
                if not data:
                    return
        finally:
            self._utterance.cancel()
            gone.cancel()

    def _head(self) -> list[tuple[bytes, bytes]]:
        rate = str(self._rate).encode()
        kind = b"audio/pcm;rate=" + rate + b";channels=1"
        return [(b"content-type", kind), (b"x-sample-rate", rate), (b"cache-control", b"no-store")]


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _begin(utterance: Utterance, done: Callable[[], None]) -> "asyncio.Queue[bytes | Failed]":
    """Pieces as a thread of its own makes them; empty at the end. As many as a text of TEXT_LIMIT can become."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[bytes | Failed] = asyncio.Queue()

    def on_loop(call: Callable[..., None], *given: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the server is gone
            loop.call_soon_threadsafe(call, *given)

    def make() -> None:
        try:
            for data in utterance.chunks():
                on_loop(ready.put_nowait, data)
            on_loop(ready.put_nowait, b"")
        except Failed as error:
            on_loop(ready.put_nowait, error)
        except BaseException as error:  # whoever waits must hear of it
            log.exception("an utterance broke")
            on_loop(ready.put_nowait, Failed(repr(error)))
        finally:
            utterance.join(60.0)
            on_loop(done)

    threading.Thread(target=make, name="cosyvoice-speech", daemon=True).start()
    return ready


def application(engine: Engine) -> Starlette:
    """The routes; `engine` is loaded and warm."""
    places = asyncio.Semaphore(engine.places)

    def guarded(work: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                given = request.headers.get("authorization", "")
                if engine.key and not hmac.compare_digest(given.encode(), f"Bearer {engine.key}".encode()):
                    raise Refused(401, "key", "The key is wrong or missing: it is VISAVIS_TTS_KEY of this server.")
                response: Response = await work(request)
                return response
            except Refused as refusal:
                return refusal.answer

        return answer

    async def health(_: Request) -> Response:
        return JSONResponse(
            {
                "ready": True,
                "model": engine.model,
                "generation": engine.generation,
                "rate": engine.rate,
                "active": len(engine.active),
                "places": engine.places,
                "tokens": engine.tokens,
                "voices": len(engine.speakers.ids()),
            }
        )

    async def speech(request: Request) -> Response:
        mode = request.path_params["mode"]
        if mode not in MODES:
            raise Refused(404, "mode_unknown", f"There is no way to speak named {mode}: {', '.join(MODES)}.")
        fields = await _fields(request)
        text, instruct = fields.get("text", ""), fields.get("instruct", "")
        if not any(map(str.isalnum, text)) or len(text) > TEXT_LIMIT:
            raise Refused(400, "text", f"`text` must have something to say, and {TEXT_LIMIT} characters at most.")
        if (mode == "instruct") != bool(instruct.strip()) or len(instruct) > TEXT_LIMIT:
            raise Refused(400, "instruct", "`instruct` says how to speak, for /v1/speech/instruct and only there.")
        voice = await _voice(fields)
        if mode in ("zero-shot", "cross-lingual") and "flow_prompt_speech_token" not in voice:
            raise Refused(400, "voice", "This voice has no reference; ask for it with /v1/speech/saved.")
        if mode == "saved":
            mode = "zero-shot"
        try:
            await asyncio.wait_for(places.acquire(), WAIT_S)
        except asyncio.TimeoutError:  # noqa: UP041  Python 3.10: not the built-in one
            raise Refused(503, "busy", f"All {engine.places} places are taken.") from None
        utterance: Utterance | None = None

        def done() -> None:
            if utterance is not None:
                engine.active.discard(utterance)
            places.release()

        try:
            utterance = await asyncio.to_thread(engine.utterance, mode, text, voice, instruct)
        except BaseException:
            done()
            raise
        engine.active.add(utterance)
        return Sound(engine.rate, utterance, done)

    async def _voice(fields: dict[str, Any]) -> dict[str, Any]:
        name = fields.get("voice", "")
        if "audio" in fields:
            name, _ = await _add(fields)
        found = await asyncio.to_thread(engine.speakers.get, name)
        if found is None:
            raise Refused(404, "voice_unknown", f"There is no voice {name[:64]!r}: POST /v1/voices makes one.")
        return found

    async def _add(fields: dict[str, Any]) -> tuple[str, bool]:
        audio = fields.get("audio")
        if not isinstance(audio, bytes):
            raise Refused(400, "audio", "`audio` must be a sound file.")
        try:
            return await asyncio.to_thread(engine.speakers.add, audio, fields.get("transcript", "").strip())
        except Unfit as error:
            raise Refused(400, "reference", str(error)) from None

    async def add_voice(request: Request) -> Response:
        name, cached = await _add(await _fields(request))
        return JSONResponse({"id": name, "cached": cached})

    async def list_voices(_: Request) -> Response:
        return JSONResponse(
            {"saved": sorted(engine.speakers.saved), "voices": [{"id": i} for i in engine.speakers.ids()]}
        )

    async def delete_voice(request: Request) -> Response:
        name = request.path_params["name"]
        if not await asyncio.to_thread(engine.speakers.delete, name):
            raise Refused(404, "voice_unknown", f"There is no voice {name[:64]!r}.")
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/speech/{mode}", guarded(speech), methods=["POST"]),
            Route("/v1/voices", guarded(add_voice), methods=["POST"]),
            Route("/v1/voices", guarded(list_voices), methods=["GET"]),
            Route("/v1/voices/{name}", guarded(delete_voice), methods=["DELETE"]),
        ]
    )


async def _fields(request: Request) -> dict[str, Any]:
    """JSON or a form: strings, and `audio` as bytes. Raises Refused."""
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > BODY_LIMIT:
        raise Refused(413, "too_large", f"The request may have {BODY_LIMIT} bytes at most, and must say how many.")
    fields: dict[str, Any] = {}
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            given = await request.json()
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise Refused(400, "json", "The body must be a JSON object.")
        fields = {key: value for key, value in given.items() if isinstance(value, str) and key != "audio"}
    else:
        try:
            form = await request.form(max_files=1, max_fields=8)
        except Exception as error:
            raise Refused(400, "form", f"The form cannot be read: {error}") from None
        for key, value in form.items():
            fields[key] = await value.read() if isinstance(value, UploadFile) else value
        await form.close()
    if any(key != "audio" and not isinstance(value, str) for key, value in fields.items()):
        raise Refused(400, "form", "Only `audio` may be a file.")
    return fields
