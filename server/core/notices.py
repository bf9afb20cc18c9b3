"""What a call tells the outside, and what the outside may ask of it; every wire protocol translates these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from server.core.events import State
from server.core.history import History
from server.core.tokens import Usage
from server.core.tools import Tool, ToolOffer


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: State


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A turn of the person began; `item_id` is the message that it will become."""

    item_id: str
    audio_start_ms: int
    """since the call's first microphone sample"""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class TurnCommitted:
    """The turn is over; its transcript follows."""

    item_id: str
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class TurnAbandoned:
    """There were no words in it; no message comes of it."""

    item_id: str


@dataclass(frozen=True, slots=True)
class UserHeard:
    """The text of the open turn so far; may still change behind `stable`."""

    item_id: str
    text: str
    stable: int
    """characters at its beginning that will not change"""


@dataclass(frozen=True, slots=True)
class UserSaid:
    """The turn's final text; it is in the history now."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ItemAdded:
    """A message came into the history otherwise: typed, or created by the client."""

    item_id: str
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class ReplyCreated:
    response_id: str
    item_id: str
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class ReplyText:
    """A piece of the reply's text as it is made, ahead of the voice."""

    response_id: str
    item_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class ReplyCaption:
    """What of the reply has been heard so far; told at the time it is heard."""

    response_id: str
    item_id: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ReplyAudioStarted:
    response_id: str


@dataclass(frozen=True, slots=True)
class ReplyAudioStopped:
    """Everything was played."""

    response_id: str


@dataclass(frozen=True, slots=True)
class ReplyAudioCleared:
    """What was not yet played has been dropped."""

    response_id: str


@dataclass(frozen=True, slots=True)
class ReplyTruncated:
    """The history's message was cut to what was heard."""

    item_id: str
    audio_end_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyDone:
    """Nothing more will be made for this reply (it may still be playing if completed)."""

    response_id: str
    item_id: str
    status: Literal["completed", "cancelled", "failed"]
    reason: str
    """`turn_detected`, `client_cancelled`, or an error code; empty when completed"""
    text: str
    usage: Usage | None = None
    """what the language model's server counted for it; None: it told nothing (yet)"""


@dataclass(frozen=True, slots=True)
class FunctionCalled:
    """The model wants a function of the page's called; the call is in the history now."""

    response_id: str
    item_id: str
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class FunctionChanged:
    """A function of this server's was called by the model, or came to its end."""

    call_id: str
    name: str
    status: Literal["called", "done", "failed", "late"]


@dataclass(frozen=True, slots=True)
class ItemRemoved:
    """An item left the history; something else takes its place."""

    item_id: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something went wrong that the person should know; the call goes on."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Closing:
    """The server will end the call."""

    reason: str
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds from the end of the person's speech to each step of a reply (see core/marks.py)."""

    response_id: str
    steps_ms: dict[str, float]
    speech_end_s: float = 0.0
    """the end of speech on the server's own monotonic clock, for measurements on the same machine"""


Notice = (
    StateChanged
    | SpeechStarted
    | SpeechStopped
    | TurnCommitted
    | TurnAbandoned
    | UserHeard
    | UserSaid
    | ItemAdded
    | ReplyCreated
    | ReplyText
    | ReplyCaption
    | ReplyAudioStarted
    | ReplyAudioStopped
    | ReplyAudioCleared
    | ReplyTruncated
    | ReplyDone
    | FunctionCalled
    | FunctionChanged
    | ItemRemoved
    | Problem
    | Closing
    | Measured
)


class CallControl(Protocol):
    """A call as a wire protocol may use it. None of these wait; their effects come back as notices."""

    @property
    def id(self) -> str: ...

    @property
    def history(self) -> History: ...

    def session(self) -> dict[str, Any]:
        """The call's settings as the protocol's `session.visavis` and defaults need them:
        `model`, `instructions`, `voice`, `speed`, `language`, `avatar`, `persona`, `avatars`, `personas`,
        `voices`, `turn_mode`, `silence_ms`, `fps`, `width`, `height`."""
        ...

    def offer(self) -> ToolOffer:
        """The functions that the page has declared."""
        ...

    def update(
        self,
        *,
        instructions: str | None = None,
        voice: str | None = None,
        speed: float | None = None,
        turn_mode: str | None = None,
        silence_ms: int | None = None,
        create_response: bool | None = None,
        interrupt_response: bool | None = None,
        avatar: str | None = None,
        persona: str | None = None,
        tools: Sequence[Tool] | None = None,
        tool_choice: str | None = None,
    ) -> None:
        """Change settings; None leaves one alone. Raises RequestError; nothing changes then."""
        ...

    def add_item(
        self, role: Literal["user", "assistant", "system"], text: str, item_id: str, after: str | None
    ) -> None:
        """Put a message into the history (notice: ItemAdded)."""
        ...

    def add_output(self, call_id: str, output: str, item_id: str) -> None:
        """The page's answer to a function call (notice: ItemAdded). Raises RequestError if nobody asked for it."""
        ...

    def delete_item(self, item_id: str) -> None: ...

    def create_reply(
        self,
        text: str = "",
        say: str = "",
        instructions: str = "",
        tools: Sequence[Tool] | None = None,
        tool_choice: str | None = None,
    ) -> None:
        """Answer the history, after adding `text` as the user's message if given; `say`: speak these very words.

        tools, tool_choice: of this one reply, instead of the session's.
        Waits, in its turn, for function calls that the page has not answered yet. Raises RequestError where all there
        is to answer is a result that came too late.
        """
        ...

    def cancel_reply(self) -> bool:
        """Stop making and playing the current reply; False if there is none."""
        ...

    def clear_output(self) -> None: ...

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """Cut an assistant message to what was heard until then. The server knows better what was heard."""
        ...

    def commit_input(self) -> None:
        """End the open turn now (push-to-talk)."""
        ...

    def clear_input(self) -> None:
        """Drop the open turn."""
        ...

    def hang_up(self, reason: str) -> None: ...


class Narrator(Protocol):
    """One wire protocol's ear on a call."""

    def tell(self, notice: Notice) -> None: ...


def listing(names: Sequence[str]) -> str:
    """`a, b and c`, for messages to people."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
