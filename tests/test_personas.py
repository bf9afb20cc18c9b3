"""The characters: ours are complete, in English and Chinese; a folder adds more; a mistake is named by its file."""

import re
from pathlib import Path

import pytest

from server.config import Config, load_config
from server.core.errors import ConfigError
from server.core.history import History, Item
from server.llm.scripted import ScriptedLlm
from server.personas import SHIPPED, load_personas

STYLES = ("friend", "wit", "teacher", "interviewer", "shopkeeper", "storyteller")
CJK = re.compile("[\u4e00-\u9fff]")


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, "utf-8")
    return folder


def test_every_style_speaks_english_and_chinese() -> None:
    ours = load_personas(SHIPPED)
    assert sorted(ours) == sorted([*STYLES, *(f"{style}-zh" for style in STYLES)])
    for name, persona in ours.items():
        chinese = name.endswith("-zh")
        assert persona.language == ("zh" if chinese else "en")
        for text in (persona.system_prompt, persona.opening, persona.about):
            assert text
            assert bool(CJK.search(text)) == chinese, f"{name}: {text}"
        assert persona.title
        assert persona.title in persona.system_prompt or persona.title.split()[-1] in persona.system_prompt
        assert persona.avatar in ("mia", "leo")
        assert persona.voices
        # Nothing that a voice would read out.
        assert not re.search(r"[*#`|]|\n\s*-", persona.system_prompt)
        assert ("念出来" if chinese else "spoken aloud") in persona.system_prompt
        assert len(persona.system_prompt) < 1000
        assert len(persona.opening) < 120


async def test_each_of_them_answers_without_a_language_model() -> None:
    config = load_config(environment={})
    for name in ("mia", "leo", *STYLES, *(f"{style}-zh" for style in STYLES)):
        persona = config.persona(name)
        text = "".join([token.text async for token in ScriptedLlm().reply(History(), persona)])
        assert bool(CJK.search(text)) == (persona.language == "zh")
        who = History(items=[Item("1", "user", "你是谁" if persona.language == "zh" else "who are you")])
        text = "".join([token.text async for token in ScriptedLlm().reply(who, persona)])
        assert persona.title in text


def test_the_first_ones_stay_the_first() -> None:
    config = load_config(environment={})
    assert list(config.personas)[:2] == ["mia", "leo"]
    assert config.personas["mia"] == Config().personas["mia"]


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", "zoe.toml", 'language = "de"\nsystem_prompt = "Du bist Zoe."\nspeed = 1.2\n')
    write(folder, "wit.toml", 'title = "Bert"\nsystem_prompt = "You are Bert."\n')
    write(folder, "notes.txt", "nothing")
    config = load_config(assignments=[f"call.personas={folder}"], environment={})
    zoe = config.persona("zoe")
    assert (zoe.title, zoe.language, zoe.system_prompt, zoe.speed) == ("Zoe", "de", "Du bist Zoe.", 1.2)
    assert config.persona("wit").title == "Bert"
    assert config.persona("teacher").title == "Ms Lindgren"
    overlay = tmp_path / "my.toml"
    overlay.write_text(f"[call]\npersonas = {str(folder)!r}\n[personas.zoe]\nspeed = 0.8\n")
    zoe = load_config([overlay], environment={}).persona("zoe")
    assert (zoe.speed, zoe.system_prompt) == (0.8, "Du bist Zoe.")  # a table of the configuration changes one thing
    environment = {"VISAVIS__CALL__PERSONAS": str(folder)}
    assert "zoe" in load_config(environment=environment).personas


def test_a_table_changes_one_of_ours(tmp_path: Path) -> None:
    config = load_config(assignments=["personas.wit.avatar=mia"], environment={})
    assert config.persona("wit").avatar == "mia"
    assert config.persona("wit").title == "Edgar"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("zoe.toml", "system_prompt = 7", "zoe.toml: system_prompt: Expected `str`"),
        ("zoe.toml", 'system_prompt = "x"\nspeed = "fast"', "zoe.toml: speed: Expected `float`"),
        ("zoe.toml", 'system_prompt = "x"\nspeed = 9.0', "zoe.toml: speed must lie between 0.5 and 2"),
        ("zoe.toml", 'system_prompt = "x"\nlanguage = "English"', "zoe.toml: language must be a primary subtag"),
        ("zoe.toml", 'system_prompt = "x"\nvoices = "slt"', "zoe.toml: voices: Expected `array`"),
        ("zoe.toml", 'system_promt = "x"', "There is no field system_promt. Did you mean system_prompt?"),
        ("zoe.toml", 'zzz = "x"', "There are title, about, language"),
        ("zoe.toml", 'title = "Zoe"', "zoe.toml: system_prompt is missing"),
        ("zoe.toml", f'system_prompt = "{"x" * 20_000}"', "system_prompt may have"),
        ("zoe.toml", f'system_prompt = "x"\nopening = "{"x" * 2000}"', "opening may have"),
        ("zoe.toml", "system_prompt = ", "zoe.toml is not TOML"),
        ("zoe.toml", "#" * 70_000, "64 KiB"),
        ("Zoé.toml", 'system_prompt = "x"', "a persona's file is named by"),
    ],
)
def test_a_mistake_is_named_by_file_and_field(tmp_path: Path, name: str, text: str, words: str) -> None:
    folder = write(tmp_path / "mine", name, text)
    with pytest.raises(ConfigError) as caught:
        load_config(assignments=[f"call.personas={folder}"], environment={})
    assert words in caught.value.message
    assert str(folder) in caught.value.message


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no folder .*nowhere with personas \(call\.personas\)"):
        load_config(assignments=[f"call.personas={tmp_path / 'nowhere'}"], environment={})
    with pytest.raises(ConfigError, match=r"call\.personas"):
        load_config(assignments=["call.personas=7"], environment={})


def test_bytes_that_are_no_text_are_said(tmp_path: Path) -> None:
    (tmp_path / "zoe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"zoe\.toml cannot be read"):
        load_personas(tmp_path)


def test_too_many_are_too_many(tmp_path: Path) -> None:
    for i in range(201):
        (tmp_path / f"p{i}.toml").write_text('system_prompt = "x"')
    with pytest.raises(ConfigError, match="there may be 200"):
        load_personas(tmp_path)
