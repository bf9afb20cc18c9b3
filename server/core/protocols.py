"""The seams: what a provider must be able to do. Structural; nothing inherits from these."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

from server.core.history import History
from server.core.media import (
    AvatarInfo,
    Clause,
    EncodedFrame,
    Persona,
    Samples,
    Speech,
    Token,
    Transcript,
    Voice,
)
from server.core.tools import NOTHING, Tool, ToolCall, ToolOffer, ToolResult


class VadSession(Protocol):
    """One call's voice detector; it adapts to its microphone."""

    def process(self, pcm: bytes) -> bool:
        """Whether these 20 ms (s16le mono 16 kHz) hold speech. Takes well under a millisecond."""
        ...


class Vad(Protocol):
    def open(self) -> VadSession: ...


class TurnEndSession(Protocol):
    """One call's ear for the ends of turns. It stands around the call's voice detector, whose place it takes."""

    def process(self, pcm: bytes) -> bool:
        """As VadSession: the detector's word, but for what has turned out to be noise by now."""
        ...

    async def finished(self, seconds: float) -> float | None:
        """How likely the person has finished (0 to 1) by the last `seconds` of sound; None: it cannot be told.

        Never raises, and never lasts for more than a second.
        """
        ...

    async def aclose(self) -> None: ...


class TurnEnds(Protocol):
    """Shared by all calls; loaded once."""

    def open(self, vad: VadSession) -> TurnEndSession: ...


class AsrSession(Protocol):
    """One call's listener. Utterances follow each other; `commit` or `drop` ends one and begins the next."""

    async def push(self, pcm16k: bytes) -> None:
        """20 ms of the open utterance (s16le mono). Bounded: waits, at most briefly, when the engine is behind."""
        ...

    def partials(self) -> AsyncGenerator[Transcript, None]:
        """The open utterance's text each time it changes; over the session's whole life; one reader."""
        ...

    async def provisional(self) -> Transcript:
        """Best text of everything pushed; the utterance stays open and unharmed."""
        ...

    async def commit(self) -> Transcript:
        """Final text; the next utterance begins."""
        ...

    async def drop(self) -> None:
        """Forget the open utterance; the next one begins."""
        ...

    async def aclose(self) -> None: ...


class Asr(Protocol):
    """Shared by all calls; loaded once."""

    languages: Sequence[str]
    """primary subtags it understands"""

    async def open(self, language: str, words: Sequence[str] = ()) -> AsrSession:
        """One call's listener.

        words: what this call is likely to be about and is easily misheard, checked (hotwords.py); who has no use for
        them passes over them.
        """
        ...


class Llm(Protocol):
    @property
    def history_tokens(self) -> int:
        """How much of a conversation it is sent at the most; 0: it minds no length, and writes no summaries."""
        ...

    def reply(self, history: History, persona: Persona, offer: ToolOffer = NOTHING) -> AsyncGenerator[Token, None]:
        """The answer as it streams; the functions that it wants called come last. Closing the iterator stops the
        server's work too.

        Raises StageError("llm", code, ...): `llm_unreachable`, `llm_timeout`, `llm_broken_off`, `llm_refused`.
        """
        ...

    async def warm(self) -> None:
        """Make the next reply's connection ready; called when the person begins to speak. Never raises."""
        ...


class Tools(Protocol):
    """The functions that one reply may call."""

    def offer(self, number: int) -> ToolOffer:
        """What is offered in the reply's request of that number (from 0); NOTHING when it has asked often enough."""
        ...

    async def answer(self, calls: Sequence[ToolCall], cover: Callable[[int], Awaitable[bool]]) -> list[ToolResult]:
        """Every call's result; none if the page answers them and asks for another reply then.

        Nothing is called before the turn is committed. While there is no result, `cover` is asked to say something,
        given how often it did; False: enough is being said already.
        """
        ...


class Function(Protocol):
    """A function of this server's that the model may call."""

    @property
    def tool(self) -> Tool: ...

    async def call(self, arguments: str) -> str:
        """The result as text. arguments: JSON of an object. Raises ToolError with a sentence for the model."""
        ...


class Tts(Protocol):
    languages: Sequence[str]
    """primary subtags it can say; `*`: any"""

    @property
    def voices(self) -> Sequence[str]:
        """Names that may be asked for; more may come (a voice is cloned)."""
        ...

    def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        """The clause as voice, in pieces as they are made. Closing the iterator cancels it.

        Raises StageError("tts", ...).
        """
        ...


class Renderer(Protocol):
    """One call's face. It paints frame k ahead of its due time and encodes it; idle motion when nobody speaks."""

    async def push(self, speech: Speech, at: Samples, generation: int) -> None:
        """This voice (48 kHz) is heard from media time `at` on: move the lips with it. May lie in the future."""
        ...

    async def cut(self, at: Samples) -> None:
        """From `at` on nothing that was pushed so far is heard any more: close the mouth over about 4 frames."""
        ...

    async def attend(self, hearing: bool) -> None:
        """Whether the person is speaking from now on: the face listens, and nods now and then."""
        ...

    def packets(self) -> AsyncGenerator[EncodedFrame, None]:
        """Encoded frames in order of their index, ahead of their due time; gaps where it fell behind."""
        ...

    def request_key(self) -> None:
        """The next frame must be decodable on its own. The first call also starts the encoder."""
        ...

    async def aclose(self) -> None: ...


class RenderEngine(Protocol):
    """One device's faces, shared by all calls."""

    avatars: Sequence[AvatarInfo]

    async def open(self, avatar: str, codec: str, origin_s: float, alpha: bool = False) -> Renderer:
        """A face for one call.

        avatar: a name in `avatars`. codec: `H264` or `VP8`. origin_s: loop time (CLOCK_MONOTONIC) of media
        sample 0, so that the worker knows when each frame is due. alpha: twice as high, the face over black and
        below it its matte; only for an avatar that says that it can.
        """
        ...
