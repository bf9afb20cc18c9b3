"""An engine that understands nothing: for machines without a recogniser the call runs on text input."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec

from server.core.media import Transcript


class TextOnlySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="none"):
    """No speech recognition."""

    @asynccontextmanager
    async def load(self) -> AsyncIterator["TextOnlyAsr"]:
        yield TextOnlyAsr()


class TextOnlyAsr:
    languages: Sequence[str] = ()

    async def open(self, language: str, words: Sequence[str] = ()) -> "TextOnlySession":
        """Any language is not understood alike."""
        return TextOnlySession()


class TextOnlySession:
    """Hears without a word: every turn turns out empty."""

    def __init__(self) -> None:
        self._closed = anyio.Event()

    async def push(self, pcm16k: bytes) -> None:
        """Nothing is kept."""

    async def partials(self) -> AsyncGenerator[Transcript, None]:
        """Ends with the session; there is never one."""
        await self._closed.wait()
        for _ in ():
            yield Transcript("")

    async def provisional(self) -> Transcript:
        return Transcript("")

    async def commit(self) -> Transcript:
        return Transcript("", final=True)

    async def drop(self) -> None:
        """There is nothing to forget."""

    async def aclose(self) -> None:
        self._closed.set()
