"""Whether the servers that a configuration names answer, and with what it expects of them; one sentence each."""

import asyncio
import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import anyio
from aioice import stun, turn

from server.asr.transcriptions import TranscriptionsSettings
from server.core.notices import listing
from server.gpus import Finding
from server.llm.openai_compatible import OpenAiSettings, is_local
from server.rtc.peer import IceServer
from tts.cosyvoice import CosyVoiceSettings
from tts.openai_speech import OpenAiSpeechSettings
from tts.references import References

ASK_S = 5.0
RETRY_S = 0.5  # after which a datagram is sent again
ANSWER_LIMIT = 2**20  # bytes of an answer that are read
NAMED = 8  # models or voices that a sentence lists


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    """0: nobody answered"""
    body: Any = None
    """JSON, if it was any"""
    trouble: str = ""
    """why nobody answered"""


async def check_llm(settings: OpenAiSettings) -> Finding:
    """Its list of models."""
    what, where = "think: the model's server", settings.address
    answer = await _ask(f"{where.rstrip('/')}/models", settings.key)
    start = "start the language model's server, or correct llm.base_url"
    if refusal := _refusal(answer, where, "llm.api_key (VISAVIS__LLM__API_KEY)", start):
        return Finding(False, what, refusal)
    names = _ids(answer.body)
    model = settings.name
    if answer.status in (404, 405) or not names:
        return Finding(True, what, f"{where} answers, and lists no models: a call will show whether it knows {model}")
    if model not in names and f"{model}:latest" not in names:
        known = _some(names)
        return Finding(False, what, f"{where} serves {known}, not {model!r}: set llm.model to what it serves.")
    return Finding(True, what, f"{model} at {where}")


async def check_transcriptions(settings: TranscriptionsSettings) -> Finding:
    """Its list of models."""
    what, where = "transcribe: the server", settings.base_url
    answer = await _ask(f"{where.rstrip('/')}/models", settings.api_key)
    start = "start the transcription server, or correct asr.base_url"
    if refusal := _refusal(answer, where, "asr.api_key (VISAVIS__ASR__API_KEY)", start):
        return Finding(False, what, refusal)
    names = _ids(answer.body)
    if names and settings.model not in names:
        return Finding(False, what, f"{where} serves {_some(names)}, not {settings.model!r}: correct asr.model.")
    return Finding(True, what, f"{settings.model} at {where}")


async def check_voice(settings: CosyVoiceSettings | OpenAiSpeechSettings) -> Finding:
    """The voice server, and whether it has the voice. A spare voice makes it less than needed."""
    if isinstance(settings, OpenAiSpeechSettings):
        finding = await _speech_server(settings)
    elif settings.server == "stock":
        finding = await _stock(settings)
    else:
        finding = await _cosyvoice(settings)
    if finding.good or not settings.spare:
        return finding
    spare = "Until then a voice of this machine speaks."
    return Finding(False, finding.what, f"{finding.sentence} {spare}", needed=False)


async def _cosyvoice(settings: CosyVoiceSettings) -> Finding:
    what, where = "speak: the voice server", settings.base_url.rstrip("/")
    start = "start it (docs/cosyvoice.md), or correct tts.base_url"
    answer = await _ask(f"{where}/health", "")
    if refusal := _refusal(answer, where, "tts.api_key", start):
        return Finding(False, what, refusal)
    if not isinstance(answer.body, dict) or "generation" not in answer.body:
        sentence = f'{where} is not our voice server: set tts.server = "stock" for CosyVoice\'s own, or {start}.'
        return Finding(False, what, sentence)
    if answer.body.get("ready") is not True:
        return Finding(False, what, f"{where} is still loading its model: wait, or look into its log.")
    voices = await _ask(f"{where}/v1/voices", settings.api_key)
    key = "tts.api_key (VISAVIS__TTS__API_KEY): it is the server's VISAVIS_TTS_KEY"
    if refusal := _refusal(voices, where, key, start):
        return Finding(False, what, refusal)
    saved = voices.body.get("saved") if isinstance(voices.body, dict) else None
    known = [*References(settings.clones).names(), *(map(str, saved) if isinstance(saved, list) else ())]
    return _with_voice(what, f"{answer.body.get('model')} at {where}", settings.voice, known)


async def _stock(settings: CosyVoiceSettings) -> Finding:
    what, where = "speak: the voice server", settings.base_url.rstrip("/")
    answer = await _ask(f"{where}/openapi.json", "")
    if refusal := _refusal(answer, where, "tts.api_key", "start CosyVoice's server, or correct tts.base_url"):
        return Finding(False, what, refusal)
    paths = answer.body.get("paths", {}) if isinstance(answer.body, dict) else {}
    if "/inference_zero_shot" not in paths:
        sentence = f'{where} is not CosyVoice\'s stock server: set tts.server = "visavis" for ours.'
        return Finding(False, what, sentence)
    return Finding(True, what, f"CosyVoice's own server at {where}; which speakers it has it does not say")


async def _speech_server(settings: OpenAiSpeechSettings) -> Finding:
    what, where = "speak: the voice server", settings.address.rstrip("/")
    answer = await _ask(f"{where}/models", settings.key)
    start = "start the voice server, or correct tts.base_url"
    if refusal := _refusal(answer, where, "tts.api_key (VISAVIS__TTS__API_KEY)", start):
        return Finding(False, what, refusal)
    names = _ids(answer.body)
    if names and settings.model not in names:
        return Finding(False, what, f"{where} serves {_some(names)}, not {settings.model!r}: correct tts.model.")
    voices = await _ask(f"{where}/audio/voices", settings.key)
    listed = voices.body.get("voices") if voices.status == 200 and isinstance(voices.body, dict) else None
    if not isinstance(listed, list):
        return Finding(True, what, f"{settings.model} at {where}; which voices it has it does not say")
    there = [str(v.get("id") or v.get("name")) if isinstance(v, dict) else str(v) for v in listed]
    known = [*References(settings.clones).names(), *there]
    return _with_voice(what, f"{settings.model} at {where}", settings.voice, known)


def _with_voice(what: str, server: str, voice: str, known: Sequence[str]) -> Finding:
    if not known:
        sentence = (
            f"{server} has no voice to speak with: clone one (visavis voice add FILE --consent), docs/voices.md."
        )
        return Finding(False, what, sentence)
    if voice and voice not in known:
        sentence = (
            f"{server} has no voice {voice!r}: set tts.voice to {_some(known, 'or')}, or clone one of that name."
        )
        return Finding(False, what, sentence)
    return Finding(True, what, f"{server}, voice {voice or known[0]}")


# ---- STUN and TURN -----------------------------------------------------------------------------------------------


async def check_ice(server: IceServer, now_s: float) -> list[Finding]:
    """Each of its addresses: a binding from STUN, an allocation from TURN. now_s: of the wall clock."""
    username, credential = server.login(now_s)
    return [await _check_url(url, username, credential) for url in server.urls]


async def _check_url(url: str, username: str, credential: str) -> Finding:
    kind, _, rest = url.partition(":")
    address, _, query = rest.partition("?")
    what = "reach callers: STUN" if kind == "stun" else "reach callers: TURN"
    transport = parse_qs(query).get("transport", ["tcp" if kind == "turns" else "udp"])[0]
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", parts.port or (5349 if kind == "turns" else 3478)
    except ValueError:
        host, port = "", 0
    if not host or transport not in ("udp", "tcp"):
        return Finding(False, what, f"{url} is no address: write turn:host:port?transport=udp (ice.ice_servers).")
    silent = (
        f"{url} does not answer over {transport.upper()}: start coturn, and open {port}/{transport} on its machine"
        " and in between."
    )
    try:
        with anyio.fail_after(ASK_S):
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            place = found[0][4][:2]
            if kind == "stun":
                seen = await _bind((str(place[0]), port))
                return Finding(True, what, f"{url} sees us as {seen}")
            relay = await _allocate((str(place[0]), port), username, credential, transport, kind == "turns", host)
            return Finding(True, what, f"{url} relays from {relay}")
    except socket.gaierror:
        return Finding(False, what, f"{url}: the name {host} has no address; correct ice.ice_servers.")
    except stun.TransactionFailed as error:
        code = error.response.attributes.get("ERROR-CODE", (0, ""))
        if code[0] in (401, 403, 441):
            sentence = (
                f"{url} does not accept the credentials ({code[0]}): ice.ice_servers' secret must be coturn's"
                " --static-auth-secret (or username and credential its user), and both clocks must agree."
            )
        else:
            sentence = f"{url} refuses to relay ({code[0]} {code[1]}): look into coturn's log."
        return Finding(False, what, sentence)
    except ssl.SSLError as error:
        return Finding(False, what, f"{url}: no TLS with it ({error.reason}); give coturn a certificate for {host}.")
    except (TimeoutError, OSError, stun.TransactionTimeout):
        return Finding(False, what, silent)


async def _bind(place: tuple[str, int]) -> str:
    """How a STUN server sees us. Raises OSError; for ever patient."""
    async with await anyio.create_connected_udp_socket(*place) as udp:
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        while True:
            await udp.send(bytes(request))
            with anyio.move_on_after(RETRY_S):
                answer = stun.parse_message(await udp.receive())
                if answer.transaction_id == request.transaction_id:
                    host, port = answer.attributes["XOR-MAPPED-ADDRESS"]
                    return f"{host}:{port}"


class _Relay(asyncio.DatagramProtocol):
    """Who listens to a relay that is given up again at once."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()


async def _allocate(
    place: tuple[str, int], username: str, credential: str, transport: str, tls: bool, host: str
) -> str:
    """The address that it would relay from; given up again. Raises stun.TransactionError, OSError."""
    relay, listener = await turn.create_turn_endpoint(
        _Relay,
        server_addr=(host, place[1]) if tls else place,
        username=username or None,
        password=credential or None,
        ssl=tls,
        transport=transport,
    )
    address = relay.get_extra_info("sockname")
    relay.close()
    with anyio.move_on_after(1.0):
        await listener.ended.wait()
    return f"{address[0]}:{address[1]}"


# ---- HTTP --------------------------------------------------------------------------------------------------------


async def _ask(url: str, key: str) -> Answer:
    """GET, with the key if there is one. Never raises; takes ASK_S at most."""
    local = is_local(url)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S), trust_env=not local) as session,
            session.get(url, headers=headers) as answer,
        ):
            content = await answer.content.read(ANSWER_LIMIT)
            while not answer.content.at_eof() and len(content) < ANSWER_LIMIT:
                content += await answer.content.read(ANSWER_LIMIT)
            try:
                return Answer(answer.status, json.loads(content))
            except ValueError:
                return Answer(answer.status)
    except TimeoutError:
        return Answer(0, trouble=f"no answer within {ASK_S:.0f} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        cause = getattr(error, "os_error", error)
        refused = isinstance(cause, ConnectionRefusedError)
        return Answer(0, trouble="connection refused" if refused else str(cause) or type(cause).__name__)


def _refusal(answer: Answer, where: str, key: str, start: str) -> str:
    """A sentence, if the answer is none of a server that is at work; else empty.

    key: which setting holds it. start: what to do where nobody answers.
    """
    if answer.status == 0:
        return f"Nobody answers at {where} ({answer.trouble}): {start}."
    if answer.status in (401, 403):
        return f"{where} does not accept the key: check {key}."
    if answer.status == 429 or answer.status >= 500:
        return f"{where} answers with status {answer.status}: it may still be loading; wait, or look into its log."
    return ""


def _ids(body: Any) -> list[str]:
    """The names in a list of models."""
    listed = body.get("data") if isinstance(body, dict) else None
    return [str(one.get("id")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _some(names: Sequence[str], joint: str = "and") -> str:
    shown = [repr(name[:80]) for name in names[:NAMED]]
    return listing(shown).replace(" and ", f" {joint} ") + (" ..." if len(names) > NAMED else "")
