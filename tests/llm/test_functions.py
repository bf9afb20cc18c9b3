"""Python functions that the model may call: schemas from type hints, arguments checked, loaded by dotted path."""

import asyncio
import json
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import msgspec
import pytest

from server.core.errors import ConfigError, ToolError
from server.llm.functions import PythonFunction, function, load_functions


@dataclass
class Place:
    town: str
    country: str = ""


async def weather(
    place: Annotated[str, msgspec.Meta(description="a town")],
    unit: Literal["celsius", "fahrenheit"] = "celsius",
    days: int = 1,
) -> dict[str, Any]:
    """Tells the weather
    at a place.

    Nothing more.
    """
    return {"place": place, "unit": unit, "days": days}


def test_the_schema_comes_from_the_type_hints() -> None:
    tool = PythonFunction(weather).tool
    assert (tool.name, tool.description) == ("weather", "Tells the weather at a place.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "place": {"type": "string", "description": "a town"},
            "unit": {"enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "integer", "default": 1},
        },
        "required": ["place"],
        "additionalProperties": False,
    }


def test_a_schema_may_be_given_and_may_nest() -> None:
    given = {"type": "object", "properties": {"x": {"type": "number"}}}
    assert PythonFunction(lambda x: x, "Doubles.", "double", given).tool.parameters == given

    def far(place: Place) -> str:
        return place.town

    parameters = PythonFunction(far).tool.parameters
    assert parameters["properties"]["place"] == {"$ref": "#/$defs/Place"}
    assert set(parameters["$defs"]) == {"Place"}
    json.dumps(parameters)


async def test_arguments_arrive_as_what_they_are() -> None:
    result = await PythonFunction(weather).call('{"place": "Oslo", "days": 3}')
    assert json.loads(result) == {"place": "Oslo", "unit": "celsius", "days": 3}

    def far(place: Place) -> str:
        return f"{place.town} in {place.country}"

    assert await PythonFunction(far).call('{"place": {"town": "Oslo", "country": "Norway"}}') == "Oslo in Norway"
    double = PythonFunction(lambda x: 2 * x, "", "double", {"type": "object"})
    assert await double.call('{"x": 4}') == "8"
    assert PythonFunction(lambda: None, "", "nothing").tool.parameters["properties"] == {}
    assert await PythonFunction(lambda: None, "", "nothing").call("{}") == "null"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("{}", "missing required field `place`"),
        ('{"place": 7}', "$.place"),
        ('{"place": "Oslo", "unit": "kelvin"}', "$.unit"),
        ('{"place": "Oslo", "when": "now"}', "unknown field `when`"),
        ("[]", "Expected `object`"),
        ("{", "do not fit"),
        ('{"place": ' + "[" * 50_000, "do not fit"),
    ],
)
async def test_arguments_that_do_not_fit_are_explained_to_the_model(arguments: str, words: str) -> None:
    with pytest.raises(ToolError) as caught:
        await PythonFunction(weather).call(arguments)
    assert words in caught.value.message


async def test_a_function_that_blocks_runs_in_a_thread_and_can_be_left() -> None:
    release, inside = threading.Event(), threading.Event()

    def blocking() -> str:
        inside.set()
        release.wait(20)
        return threading.current_thread().name

    slow = PythonFunction(blocking)
    with anyio.move_on_after(0.1) as left:
        await slow.call("{}")
    assert left.cancelled_caught
    assert inside.is_set()
    release.set()
    assert await slow.call("{}") != threading.main_thread().name


async def test_an_async_function_is_cancelled() -> None:
    over = asyncio.Event()

    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            over.set()

    with anyio.move_on_after(0.05):
        await PythonFunction(endless).call("{}")
    assert over.is_set()


async def test_what_json_cannot_hold_is_a_fault_of_the_function() -> None:
    with pytest.raises(TypeError, match="odd returned what JSON cannot hold"):
        await PythonFunction(lambda: object(), "", "odd").call("{}")


def _unhinted(place):  # type: ignore[no-untyped-def]
    return place


def _many(*places: str) -> None: ...


def _unknown(place: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


def _odd(place: threading.Thread) -> None: ...


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        (_unhinted, "place of the function _unhinted has no type hint"),
        (_many, "by name only"),
        (_unknown, "Nowhere"),
        (_odd, "cannot be described"),
        (lambda: None, "cannot be a function's name"),
    ],
)
def test_a_function_that_cannot_be_described_is_named(plain: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PythonFunction(plain)
    assert words in caught.value.message


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "house_tools.py").write_text(
        "from server.llm.functions import function\n\n"
        "@function('Opens the door.')\ndef open_door() -> str:\n    return 'open'\n\n"
        "@function('Tells the time.', name='clock')\nasync def _time() -> str:\n    return 'noon'\n\n"
        "def plain(x: int) -> int:\n    '''Adds one.'''\n    return x + 1\n\n"
        "nothing = 7\n"
    )
    (tmp_path / "broken_tools.py").write_text("1 / 0\n")
    (tmp_path / "empty_tools.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("house_tools", "broken_tools", "empty_tools"):
        sys.modules.pop(name, None)
    return "house_tools"


async def test_functions_are_loaded_by_their_path(module: str) -> None:
    found = load_functions([module, f"{module}:plain"])
    assert sorted(found) == ["clock", "open_door", "plain"]
    assert [found[n].tool.description for n in sorted(found)] == ["Tells the time.", "Opens the door.", "Adds one."]
    assert await found["clock"].call("{}") == "noon"
    assert await found["plain"].call('{"x": 2}') == "3"
    assert load_functions([]) == {}


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["no_such_module"], "'no_such_module' cannot be imported"),
        (["broken_tools"], "ZeroDivisionError"),
        (["empty_tools"], "registers no function; name one, as in empty_tools:my_function"),
        (["house_tools:nowhere"], "there is no function 'house_tools:nowhere'"),
        (["house_tools:nothing"], "there is no function 'house_tools:nothing'"),
        (["house_tools", "house_tools:open_door"], "there are two functions 'open_door'"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(module: str, paths: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_functions(paths)
    assert caught.value.message.startswith("tools.functions: ")
    assert words in caught.value.message


def test_a_marked_function_stays_a_function() -> None:
    @function("Says hello.")
    def hello() -> str:
        return "hello"

    assert hello() == "hello"
