"""Python functions of this server's that the language model may call: their schemas, and how they are called.

    from server.llm.functions import function

    @function("Tells the weather at a place.")
    async def weather(place: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str: ...

`[tools] functions = ["my_module"]` offers every function that the module registers so, `["my_module:weather"]` this
one; there a plain function will do, too: its docstring then says what it does.
"""

import importlib
import inspect
import logging
import re
import typing
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import msgspec

from server.core.errors import ConfigError, ToolError
from server.core.tools import Tool

log = logging.getLogger(__name__)

Plain = TypeVar("Plain", bound=Callable[..., Any])

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
THREADS = 8
"""functions that are not `async` run in threads, so many at once; one that hangs keeps its thread"""
_MARK = "__visavis_function__"


def function(
    description: str = "", *, name: str = "", parameters: dict[str, Any] | None = None
) -> Callable[[Plain], Plain]:
    """Marks a function as one that the model may call.

    description: empty: the docstring's first paragraph. name: empty: its own. parameters: JSON Schema of an object;
    None: from the type hints (`Annotated[str, msgspec.Meta(description="a town")]` says what a parameter means).
    """

    def mark(plain: Plain) -> Plain:
        setattr(plain, _MARK, (description, name, parameters))
        return plain

    return mark


class PythonFunction:
    """One of them (core.protocols.Function). Its result is a text, or anything that JSON can hold."""

    def __init__(
        self,
        plain: Callable[..., Any],
        description: str = "",
        name: str = "",
        parameters: dict[str, Any] | None = None,
    ) -> None:
        """Raises ConfigError where no schema can be made."""
        name = name or getattr(plain, "__name__", "")
        if not NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be a function's name: 1 to 64 of A-Z a-z 0-9 _ - can.")
        self._plain = plain
        self._arguments = _arguments(plain, name) if parameters is None else None
        if self._arguments is not None:
            parameters = _schema(self._arguments, name)
        text = description or (inspect.getdoc(plain) or "").partition("\n\n")[0]
        self._tool = Tool(name, " ".join(text.split()), parameters or {})

    @property
    def tool(self) -> Tool:
        return self._tool

    async def call(self, arguments: str) -> str:
        """Raises ToolError where the arguments do not fit, whatever the function raises else."""
        given = self._read(arguments)
        if inspect.iscoroutinefunction(self._plain):
            result = await self._plain(**given)
        else:
            limiter = _threads()
            result = await anyio.to_thread.run_sync(
                lambda: self._plain(**given), abandon_on_cancel=True, limiter=limiter
            )
        if isinstance(result, str):
            return result
        try:
            return msgspec.json.encode(result).decode()
        except (TypeError, UnicodeEncodeError) as error:
            raise TypeError(f"{self._tool.name} returned what JSON cannot hold: {error}") from error

    def _read(self, arguments: str) -> dict[str, Any]:
        try:
            if self._arguments is None:
                return msgspec.json.decode(arguments, type=dict[str, Any])
            read = msgspec.json.decode(arguments, type=self._arguments)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ToolError(f"the arguments do not fit: {error}") from None
        return {field: getattr(read, field) for field in read.__struct_fields__}


_limiter: anyio.CapacityLimiter | None = None


def _threads() -> anyio.CapacityLimiter:
    global _limiter
    if _limiter is None:
        _limiter = anyio.CapacityLimiter(THREADS)
    return _limiter


def _arguments(plain: Callable[..., Any], name: str) -> type[msgspec.Struct]:
    """A struct with the function's parameters as its fields."""
    try:
        hints = typing.get_type_hints(plain, include_extras=True)
        signature = inspect.signature(plain)
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"The type hints of the function {name} cannot be read: {error}.") from None
    required: list[Any] = []
    optional: list[Any] = []
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(
                f"The function {name} takes *{parameter.name}; the model passes arguments by name only."
            )
        if parameter.name not in hints:
            raise ConfigError(f"The parameter {parameter.name} of the function {name} has no type hint.")
        hint = hints[parameter.name]
        if parameter.default is parameter.empty:
            required.append((parameter.name, hint))
        else:
            optional.append((parameter.name, hint, parameter.default))
    try:
        return msgspec.defstruct(
            name.replace("-", "_"), required + optional, forbid_unknown_fields=True, kw_only=True
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The parameters of the function {name} cannot be described: {error}.") from None


def _schema(arguments: type[msgspec.Struct], name: str) -> dict[str, Any]:
    try:
        _, components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The parameters of the function {name} cannot be described: {error}.") from None
    schema = dict(components.pop(arguments.__name__))
    schema.pop("title", None)
    return {**schema, "$defs": components} if components else schema


def load_functions(paths: Sequence[str]) -> dict[str, PythonFunction]:
    """The functions by name. paths: `package.module:function` or `package.module`.

    Raises ConfigError that names the path. The modules are imported here, in the server's process.
    """
    found: dict[str, PythonFunction] = {}
    for path in paths:
        module_name, _, attribute = path.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # whatever a stranger's module does when it is imported
            raise ConfigError(f"tools.functions: {module_name!r} cannot be imported: {error!r}.") from error
        for one in _of_module(module, attribute, path):
            if one.tool.name in found:
                raise ConfigError(f"tools.functions: {path!r}: there are two functions {one.tool.name!r}.")
            found[one.tool.name] = one
    return found


def _of_module(module: ModuleType, attribute: str, path: str) -> list[PythonFunction]:
    if attribute:
        plain = getattr(module, attribute, None)
        if not callable(plain):
            raise ConfigError(f"tools.functions: there is no function {path!r}.")
        return [PythonFunction(plain, *getattr(plain, _MARK, ("", "", None)))]
    marked = [thing for thing in vars(module).values() if callable(thing) and hasattr(thing, _MARK)]
    if not marked:
        raise ConfigError(f"tools.functions: {path!r} registers no function; name one, as in {path}:my_function.")
    return [PythonFunction(plain, *getattr(plain, _MARK)) for plain in marked]
