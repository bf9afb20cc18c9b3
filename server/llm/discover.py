"""Finds a language model: the one that the environment names, else a local Ollama; only one that answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from server.llm.openai_compatible import OPENAI_URL, OpenAiSettings, is_local

OLLAMA_ADDRESS = "127.0.0.1:11434"  # not `localhost`: that may try IPv6 first
OPENAI_MODEL = "gpt-4.1-mini"  # quick, does not think first
LOCAL_TIMEOUT_S = 0.5
REMOTE_TIMEOUT_S = 3.0
HOW = "set OPENAI_API_KEY (and OPENAI_BASE_URL, OPENAI_MODEL for another server), or start Ollama with a chat model"

_NOT_CHAT = re.compile(
    r"embed|bge|minilm|e5-|rerank|whisper|tts|dall-e|moderation|image|audio|realtime|transcribe|sora|ocr|guard", re.I
)
_LESS_FIT = re.compile(r"deepseek-r1|qwq|thinking|reason|coder|code|math|-base\b|vision|-vl\b", re.I)
COMFORTABLE_BILLIONS = 9.0
"""the largest model that is likely to answer at the pace of a talk on an ordinary machine"""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, and the words for the start-up table."""

    settings: OpenAiSettings | None
    reason: str
    """why this one, or why none"""
    how: str = ""
    """how to get (a better) one"""


async def discover(environ: Mapping[str, str], local_only: bool = False) -> Found:
    """Ask the servers that are named or likely. Never raises; takes 3.5 s at most.

    local_only: nothing may leave this machine, not even the question.
    """
    named, why = await _named(environ, local_only)
    if named:
        return Found(named, why)
    ollama, why_not = await _ollama(environ, local_only)
    if ollama:
        return Found(ollama, "; ".join(filter(None, (why, why_not))))
    return Found(None, "; ".join(filter(None, (why, why_not))), HOW)


async def _named(environ: Mapping[str, str], local_only: bool) -> tuple[OpenAiSettings | None, str]:
    key = environ.get("OPENAI_API_KEY", "").strip()
    url = environ.get("OPENAI_BASE_URL", "").strip()
    model = environ.get("OPENAI_MODEL", "").strip()
    if not key and not url:
        return None, "OPENAI_API_KEY is not set"
    source = "OPENAI_BASE_URL" if url else "OPENAI_API_KEY"
    url = (url or OPENAI_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        return None, "OPENAI_BASE_URL does not begin with http:// or https://"
    if local_only and not is_local(url):
        return None, f"{source} is set, but nothing may leave this machine"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    status, answer = await _get(f"{url}/models", headers)
    if status in (401, 403):
        return None, f"{url} does not accept OPENAI_API_KEY (status {status})"
    if status not in (200, 404, 405):  # some servers have no list of models
        return None, f"{url} does not answer" + (f" (status {status})" if status else "")
    model = model or (OPENAI_MODEL if url == OPENAI_URL else _first_chat(answer))
    if not model:
        return None, f"{url} answers, but names no chat model: set OPENAI_MODEL"
    return OpenAiSettings(base_url=url, api_key=key, model=model), f"{source} is set and answers"


async def _ollama(environ: Mapping[str, str], local_only: bool) -> tuple[OpenAiSettings | None, str]:
    host = environ.get("OLLAMA_HOST", "").strip().rstrip("/") or OLLAMA_ADDRESS
    url = (host if "://" in host else f"http://{host}").replace("//0.0.0.0", "//127.0.0.1")
    if ":" not in url.split("://")[1]:
        url += ":11434"
    if local_only and not is_local(url):
        return None, "OLLAMA_HOST is another machine, but nothing may leave this one"
    status, answer = await _get(f"{url}/api/tags", {})
    if status != 200:
        return None, f"no Ollama answers at {url.split('://')[1]}"
    model = choose_model(answer, environ.get("OPENAI_MODEL", "").strip())
    if not model:
        return None, "Ollama answers, but has no chat model: try `ollama pull qwen3:4b`"
    # a model that is not loaded yet may take a while
    settings = OpenAiSettings(
        base_url=f"{url}/v1",
        api_key="ollama",
        model=model,
        dialect="ollama",
        keep_loaded=True,
        first_token_s=18.0,
    )
    return settings, f"Ollama answers at {url.split('://')[1]}"


def choose_model(tags: Any, wanted: str = "") -> str:
    """The model of an Ollama list to talk with: the wanted one, else the largest that is quick enough."""
    models = [m for m in _entries(tags, "models") if isinstance(m.get("name"), str)]
    names = [m["name"] for m in models]
    if wanted and (wanted in names or f"{wanted}:latest" in names):
        return wanted
    chat = [m for m in models if not _NOT_CHAT.search(m["name"]) and "bert" not in str(m.get("details"))]

    def rank(model: dict[str, Any]) -> tuple[bool, bool, float]:
        billions = _billions(model)
        slow = billions > COMFORTABLE_BILLIONS
        return bool(_LESS_FIT.search(model["name"])), slow, billions if slow else -billions

    return str(min(chat, key=rank)["name"]) if chat else ""


def _billions(model: dict[str, Any]) -> float:
    """Billions of parameters, as Ollama says them ("8.2B", "494.03M"), else from the file's size."""
    details = model.get("details")
    size = str(details.get("parameter_size", "")) if isinstance(details, dict) else ""
    if found := re.fullmatch(r"([\d.]+)\s*([BM])", size.strip(), re.I):
        return float(found.group(1)) / (1000 if found.group(2).upper() == "M" else 1)
    weight = model.get("size")
    return weight / 0.6e9 if isinstance(weight, int | float) else 0.0  # 4-bit weights and a little more


def _first_chat(answer: Any) -> str:
    names = [str(entry.get("id", "")) for entry in _entries(answer, "data")]
    return next((name for name in names if name and not _NOT_CHAT.search(name)), "")


def _entries(answer: Any, key: str) -> list[dict[str, Any]]:
    listed = answer.get(key) if isinstance(answer, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


async def _get(url: str, headers: dict[str, str]) -> tuple[int, Any]:
    """(status, JSON body or None); status 0 where nothing answers."""
    local = is_local(url)
    limit = aiohttp.ClientTimeout(total=LOCAL_TIMEOUT_S if local else REMOTE_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=not local) as session,
            session.get(url, headers=headers) as answer,
        ):
            try:
                return answer.status, await answer.json(content_type=None)
            except (ValueError, aiohttp.ClientPayloadError):
                return answer.status, None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return 0, None
