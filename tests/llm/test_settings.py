"""The language model's settings, what counts as this machine, and which server is which."""

import subprocess
import sys
from typing import Any

import pytest

from server.llm.dialects import DIALECTS, by_address, by_models, merged
from server.llm.openai_compatible import OpenAiSettings, is_local


def test_settings_are_checked_and_keep_their_secret() -> None:
    assert "sk-secret" not in repr(OpenAiSettings(api_key="sk-secret"))
    for wrong in ({"base_url": "localhost:80"}, {"max_tokens": 0}, {"gap_s": 0.0}, {"history_messages": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OpenAiSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:11434/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000", True),
        ("127.0.0.1:11434", True),
        ("http://192.168.1.5:8000/v1", False),
        ("https://api.openai.com/v1", False),
        ("http://127.0.0.1.example.com/v1", False),
        ("http://localhost.example.com", False),
        ("http://0.0.0.0:1", False),
        ("", False),
    ],
)
def test_is_local(url: str, local: bool) -> None:
    assert is_local(url) is local


def test_the_client_library_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, server.llm.discover, server.llm.scripted; assert 'openai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("model", "effort"),
    [
        ("gpt-4.1-mini", None),
        ("gpt-5-mini", "minimal"),
        ("gpt-5-2025-08-07", "minimal"),
        ("gpt-5.1", "none"),
        ("gpt-5.4-mini", "none"),
        ("gpt-5-chat-latest", None),
        ("o4-mini", "low"),
        ("openai/gpt-5.1", "none"),
    ],
)
def test_openais_models_think_as_little_as_they_can(model: str, effort: str | None) -> None:
    assert DIALECTS["openai"].quiet(model).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://api.deepseek.com", "deepseek"),
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("https://api.openai.com.example.com/v1", None),
        ("http://127.0.0.1:8000/v1", None),
        ("http://[::1", None),
    ],
)
def test_well_known_servers_are_known_by_their_address(url: str, name: str | None) -> None:
    found = by_address(url)
    assert (found.name if found else None) == name


@pytest.mark.parametrize("junk", [None, [], {"data": 7}, {"data": [7, {"owned_by": None}]}])
def test_a_strange_list_of_models_tells_nothing(junk: Any) -> None:
    assert by_models(junk) is None


@pytest.mark.parametrize(
    "field", ["max_tokens", "max_completion_tokens", "stream", "messages", "model", "tools", "n"]
)
def test_what_bounds_an_answer_cannot_be_undone(field: str) -> None:
    with pytest.raises(ValueError, match=f"extra_body must not set {field}"):
        OpenAiSettings(extra_body={field: None})


def test_what_is_sent_along_is_merged() -> None:
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert merged({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
