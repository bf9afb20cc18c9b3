"""Finding a language model: the environment's, a local Ollama's, or none; with words that say why."""

from typing import Any

import pytest

from server.llm.discover import HOW, choose_model, discover
from tests.fakes.llm_server import llm_server

NOWHERE = {"OLLAMA_HOST": "127.0.0.1:9"}  # nobody listens at the discard port


def entry(name: str, size: str = "4.0B", family: str = "qwen3") -> dict[str, Any]:
    return {"name": name, "details": {"parameter_size": size, "family": family, "families": [family]}}


async def test_nothing_is_found_and_it_says_how_to_change_that() -> None:
    found = await discover(NOWHERE)
    assert found.settings is None
    assert "OPENAI_API_KEY is not set" in found.reason
    assert "no Ollama answers at 127.0.0.1:9" in found.reason
    assert found.how == HOW
    assert "OPENAI_API_KEY" in HOW
    assert "Ollama" in HOW


async def test_the_environments_server_is_used_if_it_answers() -> None:
    async with llm_server(key="sk-1", models=["text-embedding-3", "chatty-7b"]) as server:
        found = await discover({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": server.base_url + "/", **NOWHERE})
        assert found.settings is not None
        assert found.settings.base_url == server.base_url
        assert found.settings.api_key == "sk-1"
        assert found.settings.model == "chatty-7b"
        assert found.reason == "OPENAI_BASE_URL is set and answers"
        named = await discover({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": server.base_url, "OPENAI_MODEL": "mine"})
        assert named.settings is not None
        assert named.settings.model == "mine"


async def test_a_found_server_holds_a_conversation() -> None:
    from server.core.history import History, Item
    from server.core.media import Persona

    async with llm_server(models=["chatty"]) as server:
        found = await discover({"OPENAI_BASE_URL": server.base_url, **NOWHERE})
        assert found.settings is not None
        async with found.settings.load() as llm:
            history = History(items=[Item("1", "user", "Hello")])
            assert "".join([token.text async for token in llm.reply(history, Persona(name="Mia"))]) == "Hello there."


async def test_a_refused_key_is_named_and_ollama_taken_instead() -> None:
    async with llm_server(key="sk-right", ollama=[entry("qwen3:4b")]) as server:
        environ = {
            "OPENAI_API_KEY": "sk-wrong",
            "OPENAI_BASE_URL": server.base_url,
            "OLLAMA_HOST": f"127.0.0.1:{server.port}",
        }
        found = await discover(environ)
        assert found.settings is not None
        assert found.settings.model == "qwen3:4b"
        assert "does not accept OPENAI_API_KEY (status 401)" in found.reason
        assert "sk-wrong" not in found.reason


async def test_a_dead_server_is_not_used() -> None:
    found = await discover({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_MODEL": "m", **NOWHERE})
    assert found.settings is None
    assert "http://127.0.0.1:9/v1 does not answer" in found.reason


@pytest.mark.parametrize(
    "url", ["not a url", "ftp://127.0.0.1", "http://", "http://[::1", "http://127.0.0.1:99999/v1"]
)
async def test_a_senseless_address_is_said_to_be_one(url: str) -> None:
    found = await discover({"OPENAI_BASE_URL": url, **NOWHERE})
    assert found.settings is None
    assert "OPENAI_BASE_URL" in found.reason or "does not answer" in found.reason


async def test_ollama_answers() -> None:
    async with llm_server(ollama=[entry("nomic-embed-text:latest", "137M"), entry("qwen3:4b")]) as server:
        found = await discover({"OLLAMA_HOST": f"127.0.0.1:{server.port}"})
        settings = found.settings
        assert settings is not None
        assert settings.base_url == f"http://127.0.0.1:{server.port}/v1"
        assert settings.dialect == "ollama"
        assert settings.keep_loaded
        assert f"Ollama answers at 127.0.0.1:{server.port}" in found.reason


async def test_an_ollama_without_a_chat_model_is_no_use() -> None:
    async with llm_server(ollama=[entry("bge-m3")]) as server:
        found = await discover({"OLLAMA_HOST": f"0.0.0.0:{server.port}"})
        assert found.settings is None
        assert "ollama pull" in found.reason


async def test_something_else_at_ollamas_port_is_no_use() -> None:
    async with llm_server(ollama=None) as server:
        found = await discover({"OLLAMA_HOST": f"http://127.0.0.1:{server.port}/"})
        assert found.settings is None


async def test_nothing_leaves_the_machine_where_that_is_wished() -> None:
    async with llm_server(ollama=[entry("qwen3:4b")]) as server:
        key_only = {"OPENAI_API_KEY": "sk-1", "OLLAMA_HOST": f"127.0.0.1:{server.port}"}
        found = await discover(key_only, local_only=True)
        assert found.settings is not None
        assert found.settings.model == "qwen3:4b"
        assert "nothing may leave this machine" in found.reason
        assert server.paths == ["/api/tags"]
        far = {"OPENAI_BASE_URL": "http://192.0.2.1/v1", "OLLAMA_HOST": "192.0.2.1"}
        assert (await discover(far, local_only=True)).settings is None
        near = await discover({"OPENAI_BASE_URL": server.base_url}, local_only=True)
        assert near.settings is not None


@pytest.mark.parametrize(
    ("models", "wanted", "chosen"),
    [
        ([entry("a", "70B"), entry("b", "8.2B"), entry("c", "1B")], "", "b"),
        ([entry("a", "70B"), entry("b", "32B")], "", "b"),
        ([entry("deepseek-r1:7b", "7B"), entry("llama3.2:3b", "3B")], "", "llama3.2:3b"),
        ([entry("deepseek-r1:7b", "7B")], "", "deepseek-r1:7b"),
        ([entry("a", "7B"), entry("b", "494.03M")], "b", "b"),
        ([entry("llama3:latest", "8B"), entry("b", "1B")], "llama3", "llama3"),
        ([entry("a", "7B")], "gpt-4o", "a"),
        ([entry("mxbai", "334M", family="bert")], "", ""),
        ([{"name": "x", "size": 4_000_000_000}, {"name": "y", "size": 40_000_000_000}], "", "x"),
        ([{"nome": "x"}, "junk"], "", ""),
        ([], "", ""),
    ],
)
def test_the_model_is_chosen_for_a_talk(models: list[Any], wanted: str, chosen: str) -> None:
    assert choose_model({"models": models}, wanted) == chosen


@pytest.mark.parametrize("junk", [None, [], "x", {"models": None}, {"models": {"a": 1}}])
def test_a_strange_list_is_no_list(junk: Any) -> None:
    assert choose_model(junk) == ""
