"""Functions that the language model may call: what is offered, what it asks for, what comes back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

AUTO, NONE, REQUIRED = "auto", "none", "required"
"""choices of the model's; anything else is the name of the function that it must call"""


def _no_parameters() -> dict[str, Any]:
    return {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """One function as the model is told of it."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=_no_parameters)
    """JSON Schema of an object"""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants a function called."""

    call_id: str
    name: str
    arguments: str = "{}"
    """JSON text of an object, as the model wrote it"""
    problem: str = ""
    """why it cannot be called, a sentence for the model; empty: it can"""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call."""

    call: ToolCall
    output: str


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """What the model may call in one request, and whether it must."""

    tools: Sequence[Tool] = ()
    choice: str = AUTO


NOTHING = ToolOffer()


def failure(message: str) -> str:
    """The output of a call that came to nothing, as the model reads it."""
    return json.dumps({"error": message}, ensure_ascii=False)


CANCELLED = failure("cancelled: the person interrupted before there was a result")
TIMED_OUT = failure("there was no result in time")


def late(output: str) -> str:
    """The output of a call that nobody waited for any more."""
    return json.dumps({"note": "this came too late to be said", "output": output}, ensure_ascii=False)


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters, the middle left out."""
    if len(text) <= limit:
        return text
    mark = " … [shortened] … "
    keep = max(0, limit - len(mark))
    return text[: keep - keep // 3] + mark + (text[-(keep // 3) :] if keep // 3 else "")
