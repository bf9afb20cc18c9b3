"""The configuration tree: typed, every default in one place, every mistake named by its path."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from render.remote import InstagSettings
from server.core.errors import ConfigError, RequestError
from server.core.media import Persona
from server.core.notices import listing
from server.core.settings import GpuSettings, ToolSettings, TurnSettings
from server.personas import SHIPPED, PersonaSettings, load_personas
from server.providers import (
    AsrSettings,
    Auto,
    EndpointingSettings,
    LlmSettings,
    RenderSettings,
    TtsSettings,
    VadSettings,
)
from server.rtc.peer import RtcSettings
from server.vad.webrtc import WebrtcVadSettings

ENVIRONMENT_PREFIX = "VISAVIS__"  # VISAVIS__LLM__API_KEY=... sets llm.api_key


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server listens and whom it serves."""

    host: str = "127.0.0.1"
    """address; anything but loopback is reachable by others: set an api_key then"""
    port: int = 8080
    """0: any free port; the printed address says which"""
    api_key: str = ""
    """if set, calls need it (or a short-lived token minted with it) as a bearer token"""
    origins: tuple[str, ...] = ()
    """other web pages' origins that may place calls from a browser; "*" for all"""
    token_s: int = 600
    """how long a minted token is valid if its request does not say"""


class CallSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one call may take."""

    max_calls: int = 4
    """calls at once; one more is told that all lines are busy"""
    max_s: float = 3600.0
    """a call is ended, after a warning, at this age"""
    lead_ms: float = 40.0
    """how far ahead of being heard a piece of voice is placed: the face needs this long to move with it"""
    personas: str = ""
    """a folder of yours with further characters, one TOML file each, as in configs/personas"""
    warm_up_s: float = 60.0
    """how long the sentence that goes through everything at the start may take before the server gives up; 0: none"""
    measure_lag: bool = False
    """whether the metrics tell how late the event loop is; costs 200 wake-ups a second"""

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up_s <= 3600:
            raise ValueError("warm_up_s must lie between 0 and 3600")


def _personas() -> dict[str, PersonaSettings]:
    manner = (
        "You are in a spoken video call: the person sees your face and hears your voice. "
        "Answer in one to three short sentences of plain spoken English, warm and direct. "
        "No lists, no markdown, no emoji. Ask back when something is unclear."
    )
    return {
        "mia": PersonaSettings(
            title="Mia",
            system_prompt=f"You are Mia, a friendly and curious conversation partner. {manner}",
            voices=("slt", "en-us+f3"),
            avatar="mia",
            opening="Hi, I am Mia. Talk to me!",
        ),
        "leo": PersonaSettings(
            title="Leo",
            system_prompt=f"You are Leo, a calm and good-humoured conversation partner. {manner}",
            voices=("rms", "en-us"),
            avatar="leo",
            opening="Hello, I am Leo. What is on your mind?",
        ),
    }


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. `configs/default.toml` shows it all."""

    http: HttpSettings = HttpSettings()
    call: CallSettings = CallSettings()
    ice: RtcSettings = RtcSettings()
    turns: TurnSettings = TurnSettings()
    vad: VadSettings = WebrtcVadSettings()
    endpointing: EndpointingSettings = Auto()
    asr: AsrSettings = Auto()
    llm: LlmSettings = Auto()
    tools: ToolSettings = ToolSettings()
    tts: TtsSettings = Auto()
    render: RenderSettings = InstagSettings()
    gpu: GpuSettings = GpuSettings()
    personas: dict[str, PersonaSettings] = msgspec.field(default_factory=_personas)

    def persona(self, name: str) -> Persona:
        """Raises RequestError with the names there are."""
        settings = self.personas.get(name)
        if settings is None:
            known = listing(sorted(self.personas))
            raise RequestError(404, "unknown_persona", f"There is no persona {name!r} here; there is {known}.")
        return Persona(
            name=name,
            title=settings.title or name.capitalize(),
            language=settings.language,
            system_prompt=settings.system_prompt,
            voices=settings.voices,
            avatar=settings.avatar,
            opening=settings.opening,
            speed=settings.speed,
        )


def load_config(
    files: Sequence[Path] = (), assignments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Config:
    """The defaults, then each file, then the environment, then `path=value` assignments; later ones win.

    Raises ConfigError with the path of what is wrong.
    """
    sources: list[tuple[str, dict[str, Any]]] = [(str(file), _read(file)) for file in files]
    variables: dict[str, Any] = {}
    for name, value in (os.environ if environment is None else environment).items():
        if name.startswith(ENVIRONMENT_PREFIX):
            path = [part.lower() for part in name.removeprefix(ENVIRONMENT_PREFIX).split("__")]
            variables = _merge(variables, _nest(path, _value(value)))
    sources.append((f"the environment ({ENVIRONMENT_PREFIX}...)", variables))
    given: dict[str, Any] = {}
    for assignment in assignments:
        path_text, equals, value = assignment.partition("=")
        if not equals or not path_text:
            raise ConfigError("--set wants path=value, as in --set turns.endpoint_s=0.6")
        given = _merge(given, _nest(path_text.split("."), _value(value)))
    sources.append(("--set", given))
    tree: dict[str, Any] = msgspec.to_builtins(Config())
    for folder in _persona_folders(sources):
        tree["personas"] |= msgspec.to_builtins(load_personas(folder))
    config = Config()
    for source, overlay in sources:
        tree = _merge(tree, overlay)
        # Converted after each source, so that a mistake is told with the place where it stands.
        config = _convert(tree, source)
    return config


def _persona_folders(sources: Sequence[tuple[str, dict[str, Any]]]) -> list[Path]:
    """Ours (if this is not an installation without it), then the one that is set: its characters win."""
    folder = ""
    for _, overlay in sources:
        call = overlay.get("call")
        folder = call.get("personas", folder) if isinstance(call, Mapping) else folder
    named = [Path(folder).expanduser()] if isinstance(folder, str) and folder else []
    return [SHIPPED, *named] if SHIPPED.is_dir() else named


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {file}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def _merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged; a table whose `type` changes starts from the new type's defaults."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            changes_type = "type" in old and value.get("type", old["type"]) != old["type"]
            merged[key] = dict(value) if changes_type else _merge(old, value)
        else:
            merged[key] = value
    return merged


def _nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def _value(text: str) -> Any:
    """A TOML value if it reads as one, else the text itself: `--set llm.model=qwen3` needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _convert(tree: Mapping[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), tree)}") from None


def _explain(message: str, tree: Mapping[str, Any]) -> str:
    """msgspec's message with the setting's full path, and the name that was probably meant."""
    text, _, place = message.partition(" - at `")
    path = place.rstrip("`").removeprefix("$").lstrip(".")
    unknown = re.match(r"Object contains unknown field `(.+)`", text)
    if unknown is None:
        return f"{path}: {text}" if path else text
    name = unknown.group(1)
    full = f"{path}.{name}" if path else name
    known = _known_names(path, tree)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {path + '.' if path else ''}{near[0]}?" if near else ""
    return f"There is no setting {full}.{hint}"


def _known_names(path: str, tree: Mapping[str, Any]) -> list[str]:
    """The settings beside the unknown one: those of the defaults, of the same type if the table has one."""
    node: Any = msgspec.to_builtins(Config())
    given: Any = tree
    for key in path.split(".") if path else ():
        node = node.get(key, {}) if isinstance(node, Mapping) else {}
        given = given.get(key, {}) if isinstance(given, Mapping) else {}
    if isinstance(given, Mapping) and isinstance(node, Mapping) and given.get("type") != node.get("type"):
        for union in (EndpointingSettings, AsrSettings, LlmSettings, TtsSettings, RenderSettings):
            for settings in getattr(union, "__args__", ()):
                if settings.__struct_config__.tag == given.get("type"):
                    return list(settings.__struct_fields__)
    return list(node) if isinstance(node, Mapping) else []
