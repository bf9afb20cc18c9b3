"""Configuration: overlays, the environment, assignments, and every mistake named by its path."""

import importlib.util
import tomllib
from pathlib import Path

import msgspec
import pytest

from server.config import Config, load_config
from server.core.errors import ConfigError, RequestError
from server.llm.openai_compatible import OpenAiSettings
from tts.tone import ToneSettings

ROOT = Path(__file__).parent.parent


def write(folder: Path, text: str, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_default_toml_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("default_config", ROOT / "scripts" / "default_config.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "configs" / "default.toml").read_text("utf-8")
    assert written == module.render(), "run: python scripts/default_config.py"
    assert msgspec.convert(tomllib.loads(written), Config) == Config()


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_shipped_overlay_is_valid(file: Path) -> None:
    load_config([file], environment={})


def test_later_sources_win(tmp_path: Path) -> None:
    one = write(tmp_path, "[turns]\nendpoint_s = 0.6\nsoft_end_s = 0.3\n")
    two = write(tmp_path, "[turns]\nendpoint_s = 0.7\n", "two.toml")
    environment = {"VISAVIS__TURNS__ENDPOINT_S": "0.8", "VISAVIS__LLM__TYPE": "openai", "VISAVIS__LLM__API_KEY": "k"}
    assert load_config([one, two], environment={}).turns.endpoint_s == 0.7
    assert load_config([one, two], environment=environment).turns.endpoint_s == 0.8
    config = load_config([one, two], ["turns.endpoint_s=0.9", "llm.model=qwen3", "llm.type=openai"], environment={})
    assert config.turns.endpoint_s == 0.9
    assert config.turns.soft_end_s == 0.3
    assert isinstance(config.llm, OpenAiSettings)
    assert config.llm.model == "qwen3"


def test_a_changed_type_starts_from_its_own_defaults(tmp_path: Path) -> None:
    first = write(tmp_path, '[tts]\ntype = "flite"\nvoice = "rms"\n')
    second = write(tmp_path, '[tts]\ntype = "tone"\nfrequency = 880.0\n', "two.toml")
    assert load_config([first, second], environment={}).tts == ToneSettings(frequency=880.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trurns = 1", "There is no setting trurns. Did you mean turns?"),
        ("[turns]\nendpont_s = 0.5", "There is no setting turns.endpont_s. Did you mean turns.endpoint_s?"),
        ("[turns]\nendpoint_s = 'long'", "turns.endpoint_s"),
        ('[tts]\ntype = "flyte"', "tts"),
        ('[tts]\ntype = "tone"\nfrequncy = 1.0', "There is no setting tts.frequncy. Did you mean tts.frequency?"),
        ("[turns", "not TOML"),
    ],
)
def test_a_mistake_is_named_by_file_and_path(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config([path], environment={})
    assert message in caught.value.message
    assert "my.toml" in caught.value.message


def test_a_missing_file_and_a_broken_assignment_are_said() -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config([Path("/nowhere/at-all.toml")], environment={})
    with pytest.raises(ConfigError, match="path=value"):
        load_config(assignments=["turns.endpoint_s"], environment={})
    with pytest.raises(ConfigError, match=r"environment.*turns\.endpont_s"):
        load_config(environment={"VISAVIS__TURNS__ENDPONT_S": "1"})


def test_unknown_personas_are_refused_with_those_there_are() -> None:
    with pytest.raises(RequestError, match="leo and mia"):
        Config().persona("zoe")
