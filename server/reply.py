"""One reply: think -> speak -> place in time, made as a whole and cancelled as a whole."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from server.core.errors import StageError
from server.core.history import History
from server.core.marks import Marks
from server.core.media import MEDIA_RATE, Clause, Persona, Samples, Speech, Voice
from server.core.protocols import Llm, Tools, Tts
from server.core.tokens import Usage
from server.stages.speak import speak
from server.stages.think import recite, think

log = logging.getLogger(__name__)

CLAUSES_AHEAD = 3  # the voice is faster than speech; more would only have to be thrown away at a barge-in
PIECES_AHEAD = 4
QUEUED_LIMIT = 20 * MEDIA_RATE  # samples of voice made ahead of being heard
WAIT_S = 0.1  # at least, for room: a voice that is held or paused grows no shorter


@dataclass(slots=True)
class Makers:
    """What a reply is made with."""

    llm: Llm
    tts: Tts
    persona: Persona
    voice: Voice


class Reply:
    """Its text and voice, from the request to the last placed sample.

    `place` puts a piece of voice on the call's timeline (and before the face); `queued` tells how much lies there
    unheard; `told` is called with each clause as it comes; `failed` with what could not be done.
    """

    def __init__(
        self,
        generation: int,
        response_id: str,
        item_id: str,
        prompt: History,
        makers: Makers,
        *,
        say: str = "",
        turn: int | None = None,
        tools: Tools | None = None,
        place: Callable[["Reply", Speech], None],
        queued: Callable[[], Samples],
        told: Callable[["Reply", Clause], None],
        failed: Callable[["Reply", StageError], None],
        made: Callable[["Reply"], None],
    ) -> None:
        self.generation = generation
        self.response_id = response_id
        self.item_id = item_id
        self.turn = turn
        self.marks = Marks(generation)
        self.text = ""
        """all of its raw text so far"""
        self.released = False
        """whether it may be heard, and the outside knows of it"""
        self.complete = False
        """whether everything is made and placed"""
        self.audible = False
        """whether its first sample has been handed to the track"""
        self.voiced = False
        """whether any voice was made"""
        self.unspoken = ""
        """what follows `text` on the page only"""
        self._prompt = prompt
        self._makers = makers
        self.say = say
        """the words to speak; empty: the model's"""
        self._tools = tools
        self._place = place
        self._queued = queued
        self._told = told
        self._failed = failed
        self._made = made
        self._scope = anyio.CancelScope()

    @property
    def usage(self) -> Usage | None:
        """What it cost as far as the language model's server has told; None: it has told nothing."""
        return self._prompt.spent if self._prompt.spent.replies else None

    def cancel(self) -> None:
        """Close its streams: the language model's, the voice's."""
        self._scope.cancel()

    async def run(self) -> None:
        """Ends when all of it is placed, or when it is cancelled. What breaks inside breaks this reply only."""
        with self._scope:
            try:
                await self._make()
            except Exception:
                log.exception("a reply broke")
                self._fail(StageError("reply", "internal", "A reply broke; the server's log says how."))
            self.complete = True
            self._made(self)

    async def _make(self) -> None:
        makers = self._makers
        with ExitStack() as stack:
            clauses_in, clauses = anyio.create_memory_object_stream[Clause](CLAUSES_AHEAD)
            texts_in, texts = anyio.create_memory_object_stream[Clause](CLAUSES_AHEAD)
            pieces_in, pieces = anyio.create_memory_object_stream[Speech](PIECES_AHEAD)
            for stream in (clauses_in, clauses, texts_in, texts, pieces_in, pieces):
                stack.callback(stream.close)  # also where a task was cancelled before it began

            async def note() -> None:
                async with texts, clauses_in:
                    async for clause in texts:
                        self.text += clause.raw
                        self._told(self, clause)
                        await clauses_in.send(clause)

            async with anyio.create_task_group() as tasks:
                if self.say:
                    tasks.start_soon(
                        recite, self.say, makers.persona.language, texts_in, self.marks, self._add_unspoken
                    )
                else:
                    tasks.start_soon(
                        think,
                        makers.llm,
                        self._prompt,
                        makers.persona,
                        texts_in,
                        self.marks,
                        self._queued_s,
                        self._fail,
                        self._add_unspoken,
                        self._tools,
                    )
                tasks.start_soon(note)
                tasks.start_soon(
                    speak, clauses, makers.tts, makers.voice, pieces_in, self.marks, self._fail, self._queued_s
                )
                await self._put(pieces)

    async def _put(self, pieces: MemoryObjectReceiveStream[Speech]) -> None:
        async with pieces:
            async for piece in pieces:
                # Made far ahead, it would only have to be thrown away; what is heard meanwhile makes room.
                while (ahead := self._queued() - QUEUED_LIMIT) > 0:
                    await anyio.sleep(max(ahead / MEDIA_RATE, WAIT_S))
                self._place(self, piece)
                self.voiced = True

    def _add_unspoken(self, text: str) -> None:
        self.unspoken = text

    def _queued_s(self) -> float:
        return self._queued() / MEDIA_RATE

    def _fail(self, error: StageError) -> None:
        self._failed(self, error)
