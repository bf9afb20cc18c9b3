"""The characters that answer: a small TOML file each, ours in configs/personas and what a folder of yours adds."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from server.core.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "configs" / "personas"
FILES = 200
"""characters that a folder may hold"""
FILE_BYTES = 64 * 1024
PROMPT_CHARS = 16_000
OPENING_CHARS = 1000
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


class PersonaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A character that answers."""

    title: str = ""
    """what it calls itself; empty: the name"""
    about: str = ""
    """what kind of character it is, in a few words for the page"""
    language: str = "en"
    """primary subtag of the language that it hears and speaks"""
    system_prompt: str = ""
    voices: tuple[str, ...] = ()
    """voices in order of preference: the first that the voice engine has"""
    avatar: str = ""
    """its face; empty: the first there is"""
    opening: str = ""
    """what it says first on our own page; empty: it waits"""
    speed: float = 1.0
    """of its voice, 0.5 to 2"""

    def __post_init__(self) -> None:
        if not 0.5 <= self.speed <= 2.0:
            raise ValueError("speed must lie between 0.5 and 2")
        if not _LANGUAGE.fullmatch(self.language):
            raise ValueError("language must be a primary subtag, as en or zh")
        if len(self.system_prompt) > PROMPT_CHARS:
            raise ValueError(f"system_prompt may have {PROMPT_CHARS} characters")
        if len(self.opening) > OPENING_CHARS:
            raise ValueError(f"opening may have {OPENING_CHARS} characters")
        if max(len(self.title), len(self.about)) > 100:
            raise ValueError("title and about may have 100 characters")


def load_personas(folder: Path) -> dict[str, PersonaSettings]:
    """Every `NAME.toml` of a folder, by name. Raises ConfigError that names the file and the field."""
    try:
        files = sorted(folder.glob("*.toml"), key=lambda file: file.stem)
    except OSError as error:
        raise ConfigError(f"The personas in {folder} cannot be read: {error.strerror}.") from None
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder} with personas (call.personas).")
    if len(files) > FILES:
        raise ConfigError(f"{folder} holds {len(files)} personas; there may be {FILES}.")
    return {file.stem: _load(file) for file in files}


def _load(file: Path) -> PersonaSettings:
    if not NAME.fullmatch(file.stem):
        raise ConfigError(f"{file}: a persona's file is named by 1 to 40 of a-z 0-9 _ - and .toml.")
    try:
        if file.stat().st_size > FILE_BYTES:
            raise ConfigError(f"{file}: a persona's file may have {FILE_BYTES // 1024} KiB.")
        given = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}.") from None
    try:
        persona = msgspec.convert(given, PersonaSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {_explain(str(error), given)}") from None
    if not persona.system_prompt.strip():
        raise ConfigError(f"{file}: system_prompt is missing: it says who the character is and how it speaks.")
    return msgspec.structs.replace(persona, system_prompt=persona.system_prompt.strip())


def _explain(message: str, given: dict[str, Any]) -> str:
    text, _, place = message.partition(" - at `")
    unknown = re.match(r"Object contains unknown field `(.+)`", text)
    if unknown is None:
        field = place.rstrip("`").removeprefix("$").lstrip(".")
        return f"{field}: {text}." if field else f"{text}."
    near = difflib.get_close_matches(unknown.group(1), PersonaSettings.__struct_fields__, n=1)
    hint = f" Did you mean {near[0]}?" if near else f" There are {', '.join(PersonaSettings.__struct_fields__)}."
    return f"There is no field {unknown.group(1)}.{hint}"
