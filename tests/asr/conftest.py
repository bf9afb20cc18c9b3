"""Tiny FunASR models, built once for all tests that hear with them."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from server.asr.funasr import NEEDED, FunasrSettings

Settings = Callable[..., FunasrSettings]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one folder for each model."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: pip install -e .[asr]")
    from tests.asr import tiny_funasr

    folder = tmp_path_factory.mktemp("funasr")
    tiny_funasr.paraformer(folder / "paraformer")
    tiny_funasr.vad(folder / "vad")
    tiny_funasr.punctuation(folder / "punctuation")
    tiny_funasr.sense_voice(folder / "sense_voice")
    return folder


@pytest.fixture(scope="session")
def settings(tiny: Path) -> Settings:
    """Settings with the tiny models that are named: streaming, finaliser, vad, punctuation."""
    folders = {"streaming": "paraformer", "finaliser": "sense_voice", "vad": "vad", "punctuation": "punctuation"}

    def make(*roles: str, **more: object) -> FunasrSettings:
        chosen = {role: str(tiny / name) if role in roles else "" for role, name in folders.items()}
        # The tests speak faster than people and on busy machines: nothing may be late unless a test wants it.
        patient = {"device": "cpu", "backlog_s": 60.0, "answer_s": 30.0}
        return FunasrSettings(**{**patient, **chosen, **more})  # type: ignore[arg-type]

    return make
