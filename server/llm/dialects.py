"""The kinds of servers that speak the OpenAI dialect: how to tell them apart, how each turns thinking off."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# The newest models can be told not to think at all, the first GPT-5 ones to think little; o1, o3 and o4 always think.
_EFFORT = (
    (re.compile(r"^(?:gpt-5(?:-mini|-nano)?|gpt-5-\d{4}.*|gpt-5-(?:mini|nano)-\d{4}.*)$"), "minimal"),
    (re.compile(r"^gpt-[5-9](?!.*chat)"), "none"),
    (re.compile(r"^o\d"), "low"),
)


def _openai(model: str) -> dict[str, Any]:
    found = next((effort for name, effort in _EFFORT if name.search(model.rpartition("/")[2])), None)
    return {"reasoning_effort": found} if found else {}


def _template(model: str) -> dict[str, Any]:
    # Qwen's, GLM's and most templates read the first name, DeepSeek's and Granite's the second; none minds the other.
    return {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server."""

    name: str
    quiet: Callable[[str], dict[str, Any]]
    """model -> what a request says so that the model answers without thinking first"""
    limit: str = "max_tokens"
    """the field that bounds the answer's length"""
    usage: bool = True
    """whether it knows `stream_options`: what a reply has cost then comes behind it"""


DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        # OpenAI's newer models refuse the old name of the limit; other servers do not know the new one.
        Dialect("openai", _openai, "max_completion_tokens"),
        Dialect("vllm", _template),
        Dialect("sglang", _template),
        Dialect("llamacpp", _template),
        Dialect("ollama", lambda model: {"reasoning_effort": "none"}),
        Dialect("dashscope", lambda model: {"enable_thinking": False}),
        Dialect("deepseek", lambda model: {"thinking": {"type": "disabled"}}),
        # Nothing that a strict server would refuse.
        Dialect("other", lambda model: {}, usage=False),
    )
}
OTHER = DIALECTS["other"]

_HOSTS = (
    (re.compile(r"(?:^|\.)api\.openai\.com$|\.openai\.azure\.com$"), "openai"),
    (re.compile(r"(?:^|\.)dashscope(?:-[a-z]+)?\.aliyuncs\.com$"), "dashscope"),
    (re.compile(r"(?:^|\.)deepseek\.com$"), "deepseek"),
)
_OLLAMA_PORT = 11434
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "library": "ollama", "deepseek": "deepseek"}


def by_address(url: str) -> Dialect | None:
    """The dialect of a well-known server; None: ask it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    name = next((name for pattern, name in _HOSTS if pattern.search(host)), "ollama" if port == _OLLAMA_PORT else "")
    return DIALECTS.get(name)


def by_models(answer: Any) -> Dialect | None:
    """The dialect by who a server's list of models says they belong to; None: it does not tell."""
    listed = answer.get("data") if isinstance(answer, dict) else None
    for entry in listed if isinstance(listed, list) else ():
        owner = entry.get("owned_by") if isinstance(entry, dict) else None
        if isinstance(owner, str) and owner.lower() in _OWNERS:
            return DIALECTS[_OWNERS[owner.lower()]]
    return None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins; objects in both are merged in turn."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out
