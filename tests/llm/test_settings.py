"""The language model's settings, and what counts as this machine."""

import subprocess
import sys

import pytest

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
