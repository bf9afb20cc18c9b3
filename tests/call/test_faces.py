"""Which face a server shows: the InsTaG face, or the portraits where that cannot be had."""

from pathlib import Path

import pytest

from server.config import Config, load_config
from server.engines import load_engines

LIGHT = ("asr.type=none", "tts.type=tone", "llm.type=scripted")

pytestmark = pytest.mark.usefixtures("no_leaked_tasks")


def configured(*more: str) -> Config:
    return load_config([], [*LIGHT, *more], {})


async def test_the_instag_face_is_shown_with_people_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="numba paints the InsTaG face; it comes with the instag extra")
    from render.avatar import save
    from tests.render import procedural

    save(procedural.person("anna"), tmp_path / "anna")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{}")
    config = configured("render.type=instag", f"render.avatars=['{tmp_path}']")
    async with load_engines(config) as engines:
        face = next(c for c in engines.choices if c.stage == "face")
        assert face.provider == "instag"
        assert "anna" in face.why
        assert "broken" in face.better  # why it is not there
        assert {"mia", "leo"} <= {a.name for a in engines.avatars}  # painted, or at least as portraits
        anna = engines.avatar("anna")
        assert anna is not None
        assert anna.alpha


async def test_where_it_cannot_be_had_the_portraits_stand_in() -> None:
    async with load_engines(configured("render.type=instag", "render.background='#beach'")) as engines:
        face = next(c for c in engines.choices if c.stage == "face")
        assert face.provider == "still"
        assert {a.name for a in engines.avatars} >= {"mia", "leo"}
        assert "is no colour" in face.better  # and why
        assert not any(a.alpha for a in engines.avatars)
