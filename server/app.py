"""The HTTP surface: signalling, tokens, the page, health and metrics."""

import errno
import gc
import hmac
import json
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import msgspec
from aiohttp import web
from anyio.abc import TaskGroup, TaskStatus

from server.asr.hotwords import hot_words
from server.call import Call
from server.config import Config
from server.core.errors import ConfigError, RequestError, VisavisError
from server.core.media import Persona
from server.core.notices import listing
from server.engines import Engines, clones
from server.looplag import LoopLag
from server.rtc.peer import parse_offer
from server.speech_route import Attention, SpeechRoute
from server.voice_routes import VoiceRoutes
from server.warmup import Fault, warmed_up

log = logging.getLogger(__name__)

BODY_LIMIT = 256 * 1024  # bytes; an offer has some 5 kB
TOKENS_LIMIT = 1000
TOKEN_SECONDS = (10, 7200)  # as the OpenAI API bounds it
CLOSING_S = 0.7  # for the calls to end by themselves when the server is stopped
PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
CLIENT = Path(__file__).parent.parent / "client"


class VisavisSession(msgspec.Struct):
    """Our own part of a `session` object."""

    avatar: str | None = None
    persona: str | None = None
    greet: bool = True
    alpha: bool = False
    """whether the face is wanted with its matte below it"""
    voice: str = ""
    """who speaks; empty, or if there is none of that name: the persona's own"""
    hot_words: tuple[str, ...] = ()
    """words that are easily misheard in this call: names, products; for a recogniser that has a use for them"""


class SessionRequest(msgspec.Struct):
    """What of the OpenAI `session` object is read when a call begins; unknown fields are ignored."""

    instructions: str | None = None
    avatar: str | None = None
    persona: str | None = None
    visavis: VisavisSession | None = None


class ExpiresAfter(msgspec.Struct):
    seconds: int = 600


class SecretRequest(msgspec.Struct):
    expires_after: ExpiresAfter | None = None
    session: dict[str, Any] | None = None


@dataclass(slots=True)
class Secret:
    expires_at: float
    session: dict[str, Any]


class Server:
    """The calls that are live, and the routes that begin and end them."""

    def __init__(self, config: Config, engines: Engines, tasks: TaskGroup) -> None:
        self._config = config
        self._engines = engines
        self._tasks = tasks
        self._calls: dict[str, Call] = {}
        self._secrets: dict[str, Secret] = {}
        self._ended = anyio.Event()
        self._attention = Attention()
        self._closing = False
        self._warm = False
        self._faults: list[Fault] = []
        self._started = time.time()
        self._lag = LoopLag()
        self._counts = {"calls_total": 0, "calls_refused_total": 0, "calls_failed_total": 0}

    async def warm_up(self, tell: Callable[[str], None]) -> str:
        """Until it returns, no call begins. A sentence if none can ever be held; else empty."""
        self._faults, failure = await warmed_up(self._config, self._engines, tell)
        self._warm = not failure
        return failure

    async def watch(self) -> None:
        """What runs beside the calls."""
        if self._config.call.measure_lag:
            await self._lag.run()

    def application(self) -> web.Application:
        language = next(iter(self._config.personas.values())).language
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._errors, self._guard])
        app.add_routes(
            [
                web.post("/v1/realtime/calls", self._begin),
                web.post("/v1/realtime/calls/{call}/hangup", self._hang_up),
                web.delete("/v1/realtime/calls/{call}", self._hang_up),
                web.post("/v1/realtime/client_secrets", self._mint),
                *VoiceRoutes(clones(self._config), self._engines, self._authorize, language).routes(),
                *SpeechRoute(self._engines, self._authorize, self._attention, language).routes(),
                web.get("/v1/visavis", self._describe),
                web.get("/v1/visavis/avatars/{avatar}/poster.jpg", self._poster),
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/", self._index),
                web.static("/client", CLIENT),
            ]
        )
        return app

    # ---- calls ----------------------------------------------------------------------------------

    async def _begin(self, request: web.Request) -> web.Response:
        sdp, session = await self._read_offer(request)
        if self._closing:
            raise RequestError(503, "closing", "The server is being stopped. Please try again in a moment.")
        if not self._warm:
            raise RequestError(503, "warming_up", "The server is still warming up. Please try again in a moment.")
        offer = parse_offer(sdp)
        persona, avatar, ours = self._choose(session)
        if len(self._calls) >= self._config.call.max_calls:
            self._counts["calls_refused_total"] += 1
            raise RequestError(429, "busy", "All lines are busy. Please try again in a moment.")
        call_id = "rtc_" + secrets.token_urlsafe(18)
        call = Call(
            call_id,
            self._config,
            self._engines,
            persona,
            avatar,
            greet=ours.greet,
            alpha=ours.alpha,
            voice=ours.voice,
            hot_words=ours.hot_words,
        )
        # Counted before anything is awaited: two offers at once cannot both take the last line.
        self._calls[call.id] = call
        call.follow(self._attention.follow(call.id))
        self._counts["calls_total"] += 1
        answer = await self._tasks.start(self._live, call, offer)
        return web.Response(
            status=201,
            text=answer,
            content_type="application/sdp",
            headers={"Location": f"/v1/realtime/calls/{call.id}"},
        )

    def close(self, reason: str) -> None:
        """Hang up every call; no other begins."""
        self._closing = True
        for call in self._calls.values():
            call.hang_up(reason)

    async def empty(self) -> None:
        """Wait until no call is left."""
        while self._calls:
            self._ended = anyio.Event()
            await self._ended.wait()

    async def _live(self, call: Call, offer: Any, *, task_status: TaskStatus[str]) -> None:
        """One call's task. What breaks in it ends this call only."""
        try:
            reason = await call.run(offer, task_status=task_status)
            log.info("%s ended: %s", call.id, reason)
        except Exception:
            if not call.answered:
                raise
            self._counts["calls_failed_total"] += 1
            log.exception("%s broke", call.id)
        finally:
            self._calls.pop(call.id, None)
            self._attention.note(call.id, busy=False)
            self._ended.set()

    async def _read_offer(self, request: web.Request) -> tuple[str, dict[str, Any]]:
        session: dict[str, Any] = {}
        secret = self._authorize(request)
        if secret is not None:
            session = secret.session
        if request.content_type == "application/sdp":
            return await request.text(), session
        if request.content_type != "multipart/form-data":
            raise RequestError(
                415,
                "unsupported_media_type",
                "Send the SDP offer as application/sdp, or as multipart/form-data with the fields sdp and session.",
            )
        form = await request.post()
        sdp, given = (_text(form.get("sdp")), _text(form.get("session")))
        if sdp is None:
            raise RequestError(400, "no_sdp", "The form has no field sdp.")
        if given is not None:
            session = {**session, **_json_object(given, "session")}
        return sdp, session

    def _choose(self, session: dict[str, Any]) -> tuple[Persona, str, VisavisSession]:
        try:
            wanted = msgspec.convert(session, SessionRequest)
        except msgspec.ValidationError as error:
            raise RequestError(400, "bad_session", f"session: {error}") from None
        ours = wanted.visavis
        name = (ours.persona if ours else None) or wanted.persona or next(iter(self._config.personas))
        persona = self._config.persona(name)
        if wanted.instructions:
            persona = replace(persona, system_prompt=wanted.instructions)
        known = [a.name for a in self._engines.avatars]
        avatar = (ours.avatar if ours else None) or wanted.avatar
        if avatar is None:
            avatar = persona.avatar if persona.avatar in known else known[0]
        elif avatar not in known:
            raise RequestError(
                404, "unknown_avatar", f"There is no avatar {avatar!r} here; there is {listing(known)}."
            )
        if ours is not None:
            hot_words(ours.hot_words)
        return persona, avatar, ours or VisavisSession(greet=False)

    async def _hang_up(self, request: web.Request) -> web.Response:
        call = self._calls.get(request.match_info["call"])
        if call is None:
            raise RequestError(404, "unknown_call", "There is no such call; it may have ended already.")
        call.hang_up("hung_up")
        return web.Response(status=200)

    # ---- tokens ---------------------------------------------------------------------------------

    def _authorize(self, request: web.Request) -> Secret | None:
        """The minted token that the request came with, if any. Raises 401 where a key is needed and missing."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        now = time.time()
        self._secrets = {t: s for t, s in self._secrets.items() if s.expires_at > now}
        secret = self._secrets.get(token)
        key = self._config.http.api_key
        if secret is None and key and not hmac.compare_digest(token.encode(), key.encode()):
            raise RequestError(401, "unauthorized", "This server needs an API key, or a token minted with one.")
        return secret

    async def _mint(self, request: web.Request) -> web.Response:
        if self._authorize(request) is not None:
            raise RequestError(403, "forbidden", "A minted token cannot mint another; use the API key.")
        body = await request.text()
        try:
            wanted = msgspec.json.decode(body or "{}", type=SecretRequest)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise RequestError(400, "bad_request", f"The request's JSON cannot be used: {error}") from None
        seconds = wanted.expires_after.seconds if wanted.expires_after else self._config.http.token_s
        if not TOKEN_SECONDS[0] <= seconds <= TOKEN_SECONDS[1]:
            raise RequestError(400, "bad_expiry", "expires_after.seconds lies between 10 and 7200.")
        session = wanted.session or {}
        self._choose(session)
        if len(self._secrets) >= TOKENS_LIMIT:
            raise RequestError(429, "too_many_tokens", f"{TOKENS_LIMIT} tokens are valid at the moment; try later.")
        value = "ek_" + secrets.token_urlsafe(24)
        self._secrets[value] = Secret(time.time() + seconds, session)
        return web.json_response(
            {"value": value, "expires_at": int(time.time() + seconds), "session": {"type": "realtime", **session}}
        )

    # ---- what there is --------------------------------------------------------------------------

    async def _describe(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "avatars": [
                    {
                        "name": a.name,
                        "title": a.title or a.name.capitalize(),
                        "poster": f"/v1/visavis/avatars/{a.name}/poster.jpg" if a.poster else None,
                        "width": a.width,
                        "height": a.height,
                        "alpha": a.alpha,
                    }
                    for a in self._engines.avatars
                ],
                "personas": [
                    {
                        "name": n,
                        "title": p.title or n.capitalize(),
                        "about": p.about,
                        "language": p.language,
                        "avatar": p.avatar,
                    }
                    for n, p in self._config.personas.items()
                ],
                "ice_servers": self._ice_servers(request),
                "limits": {"max_calls": self._config.call.max_calls, "max_s": self._config.call.max_s},
                "providers": {c.stage: {"name": c.provider, "where": c.where} for c in self._engines.choices},
            }
        )

    def _ice_servers(self, request: web.Request) -> list[dict[str, Any]]:
        """As RTCPeerConnection takes them; those with a secret only for who may call."""
        try:
            self._authorize(request)
        except RequestError:
            may_call = False
        else:
            may_call = True
        servers = []
        for server in self._config.ice.ice_servers:
            if may_call or not server.secret:
                username, credential = server.login(time.time())
                servers.append({"urls": server.urls, "username": username, "credential": credential})
        return servers

    async def _poster(self, request: web.Request) -> web.Response:
        avatar = self._engines.avatar(request.match_info["avatar"])
        if avatar is None or not avatar.poster:
            raise RequestError(404, "unknown_avatar", "There is no such picture.")
        return web.Response(body=avatar.poster, content_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})

    async def _health(self, request: web.Request) -> web.Response:
        """200 once the warm-up is over; `degraded`: with something that steps in for what failed then."""
        status = "degraded" if self._faults else "ok"
        return web.json_response(
            {
                "status": status if self._warm else "warming_up",
                "problems": [f"{fault.stage}: {fault.message}" for fault in self._faults],
                "calls": len(self._calls),
                "max_calls": self._config.call.max_calls,
                "workers": self._engines.workers(),
                "uptime_s": round(time.time() - self._started, 1),
            },
            status=200 if self._warm else 503,
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        lines = [f"visavis_{name} {value}" for name, value in self._counts.items()]
        lines.append(f"visavis_calls {len(self._calls)}")
        lines += [f"visavis_llm_{name}_total {value}" for name, value in self._engines.llm_usage().items()]
        totals: dict[str, int] = {}
        for call in self._calls.values():
            for name, value in call.statistics().items():
                totals[name] = totals.get(name, 0) + value
        lines += [f"visavis_live_{name} {value}" for name, value in sorted(totals.items())]
        if self._config.call.measure_lag:
            lines += [f"visavis_loop_lag_ms_{name} {number}" for name, number in self._lag.figures().items()]
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    async def _index(self, request: web.Request) -> web.StreamResponse:
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": PAGE_POLICY}
        return web.FileResponse(CLIENT / "index.html", headers=headers)

    # ---- around every request -------------------------------------------------------------------

    @web.middleware
    async def _errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Errors as the OpenAI API words them; no traceback leaves the server."""
        try:
            response = await handler(request)
        except RequestError as error:
            response = _error(error.status, error.code, error.message)
        except VisavisError as error:
            response = _error(503, error.code, error.message)
        except web.HTTPRequestEntityTooLarge:
            response = _error(413, "too_large", f"A request may have {BODY_LIMIT // 1024} KiB.")
        except web.HTTPException as error:
            response = _error(error.status, "http_error", error.reason)
        except (UnicodeDecodeError, ValueError) as error:
            response = _error(400, "bad_request", f"The request cannot be read: {error}")
        except Exception:
            log.exception("%s %s broke", request.method, request.path)
            response = _error(500, "internal", "Something broke on the server; its log says what.")
        self._allow(request, response)
        return response

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Other web sites must not place calls through a visitor's browser unless they are allowed to."""
        if not self._is_our_host(request):
            raise RequestError(403, "host_not_allowed", f"This server does not answer to the name {request.host}.")
        origin = request.headers.get("Origin")
        if origin is not None and not self._is_allowed(origin, request):
            raise RequestError(
                403, "origin_not_allowed", f"Pages of {origin} may not use this server; see http.origins."
            )
        if request.method == "OPTIONS":
            return web.Response(status=204)  # a browser asks before it calls from another origin
        return await handler(request)

    def _is_our_host(self, request: web.Request) -> bool:
        """A server on loopback answers to loopback's names only: any other name is a page's trick on a resolver."""
        if self._config.http.host not in LOOPBACK:
            return True
        name = request.url.host
        return name in LOOPBACK or any(urlsplit(origin).hostname == name for origin in self._config.http.origins)

    def _is_allowed(self, origin: str, request: web.Request) -> bool:
        allowed = self._config.http.origins
        return "*" in allowed or origin in allowed or origin.partition("://")[2] == request.host

    def _allow(self, request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        if origin is None or response.prepared or not self._is_allowed(origin, request):
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "Location"
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = request.headers.get(
            "Access-Control-Request-Headers", "Authorization, Content-Type"
        )
        response.headers["Vary"] = "Origin"


def _error(status: int, code: str, message: str) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    headers = {"Retry-After": "5"} if status in (429, 503) else None
    return web.json_response(
        {"error": {"type": kind, "code": code, "message": message}}, status=status, headers=headers
    )


def _text(field: Any) -> str | None:
    """A form field's text; it comes as text, as bytes, or as an uploaded file, by its headers."""
    if field is None or isinstance(field, str):
        return field
    content = field if isinstance(field, (bytes, bytearray)) else field.file.read()
    return bytes(content).decode("utf-8")


def _json_object(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(400, "bad_json", f"{name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(400, "bad_json", f"{name} must be a JSON object.")
    return value


def listen(config: Config) -> socket.socket:
    """The bound socket. Raises ConfigError if the address cannot be had."""
    host, port = config.http.host, config.http.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OverflowError:
        raise ConfigError(f"http.port is {port}; it must lie between 0 and 65535.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        if error.errno == errno.EADDRINUSE:
            hint = "Is another visavis running? --port 0 takes any free port."
        elif error.errno == errno.EACCES:
            hint = "Ports below 1024 are the administrator's; choose another with --port."
        else:
            hint = "http.host must be an address of this machine."
        raise ConfigError(f"Cannot listen on {host}:{port}: {reason}. {hint}") from None


async def serve(
    config: Config,
    engines: Engines,
    listener: socket.socket,
    stop: anyio.Event,
    ready: Callable[[str], None],
    tell: Callable[[str], None] = log.warning,
) -> str:
    """Serve until `stop` is set, then hang up every call; `ready` is told the address once all of it is warm.

    tell: a sentence for each stage that the warm-up finds broken. Returns why no call could be held, else nothing.
    """
    failure = ""
    async with anyio.create_task_group() as tasks:
        server = Server(config, engines, tasks)
        tasks.start_soon(server.watch)
        runner = web.AppRunner(server.application(), access_log=None, handle_signals=False, shutdown_timeout=0.3)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            async with anyio.create_task_group() as warming:

                async def until_stopped() -> None:
                    await stop.wait()
                    warming.cancel_scope.cancel()

                warming.start_soon(until_stopped)
                failure = await server.warm_up(tell)
                warming.cancel_scope.cancel()
            if not stop.is_set() and not failure:
                host, port = listener.getsockname()[:2]
                # What was loaded stays: a collection that walked through it all would hold the voice up for 50 ms.
                gc.collect()
                gc.freeze()
                gc.set_threshold(10_000, 20, 20)
                ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
                await stop.wait()
            server.close("shutdown")
            with anyio.move_on_after(CLOSING_S):
                await server.empty()
        finally:
            tasks.cancel_scope.cancel()
            with anyio.move_on_after(1.0, shield=True):
                await runner.cleanup()
    return failure
