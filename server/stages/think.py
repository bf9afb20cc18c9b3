"""Think: the history so far -> clauses, as the language model's answer streams in."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from server.core.chunker import QUEUED_ENOUGH_S, Chunker
from server.core.errors import StageError
from server.core.history import History
from server.core.marks import Marks
from server.core.media import Clause, Persona, Token
from server.core.phrases import phrase
from server.core.protocols import Llm

FLUSH_S = 0.15  # a sentence mark at the end of what has come so far counts after this long without a token
TOKENS_AHEAD = 64  # a model faster than the voice waits here


async def think(
    llm: Llm,
    history: History,
    persona: Persona,
    out: MemoryObjectSendStream[Clause],
    marks: Marks,
    queued_s: Callable[[], float],
    failed: Callable[[StageError], None],
    unspoken: Callable[[str], None],
) -> None:
    """Ends when the answer does. A failing model is excused aloud, in the same reply, and told to `failed`.

    `queued_s` tells how many seconds of voice are made and not yet heard. `unspoken` is told the end of the visible
    text that no voice says: a closing emoji, a code block.
    """
    chunker = Chunker(persona.language)
    said = _Said(out, marks)
    marks.note("llm_request", anyio.current_time())
    async with out:
        error = await _stream(llm, history, persona, chunker, said, marks, queued_s)
        if error is not None:
            failed(error)
        await said.hand_on(chunker.flush())
        if error is not None:
            await _excuse(said, chunker.tail, phrase(error.code, persona.language), persona.language)
        else:
            unspoken(chunker.tail)


class _Said:
    """The way out of the clauses, and how far the reply has come."""

    def __init__(self, out: MemoryObjectSendStream[Clause], marks: Marks) -> None:
        self.count = 0
        self.end = ""
        """raw text of the last clause"""
        self._out = out
        self._marks = marks

    async def hand_on(self, clauses: list[Clause]) -> None:
        for clause in clauses:
            self._marks.note("clause", anyio.current_time())
            await self._out.send(clause)
            self.count += 1
            self.end = clause.raw


async def _excuse(said: _Said, tail: str, sentence: str, language: str) -> None:
    """Say `sentence` behind `tail`, the text of the model's that no voice says; its first clause covers both.

    A chunker of its own: the model may have broken off inside a code block, a link or its reasoning.
    """
    chunker = Chunker(language)
    before = said.end + tail
    if before and not before[-1].isspace():
        tail += "\n" if "\n" in tail else " "
    for clause in chunker.feed(sentence) + chunker.flush():
        await said.hand_on([replace(clause, index=said.count, raw=tail + clause.raw)])
        tail = ""


async def _stream(
    llm: Llm,
    history: History,
    persona: Persona,
    chunker: Chunker,
    said: _Said,
    marks: Marks,
    queued_s: Callable[[], float],
) -> StageError | None:
    """Every token through the chunker; returns what the model failed of, if it did."""
    # Tokens pass through a channel, because a wait on the model's own iterator cannot be given up and repeated.
    send, receive = anyio.create_memory_object_stream[Token](TOKENS_AHEAD)
    failures: list[StageError] = []

    async def pump() -> None:
        async with send:
            try:
                async with aclosing(llm.reply(history, persona)) as tokens:
                    async for token in tokens:
                        marks.note("llm_token", anyio.current_time())
                        await send.send(token)
            except StageError as error:
                failures.append(error)

    async with send, receive, anyio.create_task_group() as tasks:
        tasks.start_soon(pump)
        wait_s: float | None = FLUSH_S
        while True:
            token: Token | None = None
            try:
                with anyio.move_on_after(wait_s):
                    token = await receive.receive()
            except anyio.EndOfStream:
                break
            chunker.queued_s = queued_s()
            if token is not None:
                await said.hand_on(chunker.feed(token.text))
                wait_s = FLUSH_S
                continue
            await said.hand_on(chunker.stale(FLUSH_S))
            # What is complete has been said now, or waits until less voice does: ask again when it will be so.
            # (A voice that is held or paused grows no shorter, hence a shortest wait.)
            excess_s = chunker.queued_s - QUEUED_ENOUGH_S
            wait_s = max(excess_s, FLUSH_S) if excess_s > 0 else None
    return failures[0] if failures else None


async def recite(
    text: str,
    language: str,
    out: MemoryObjectSendStream[Clause],
    marks: Marks,
    unspoken: Callable[[str], None],
) -> None:
    """These very words instead of the model's; `unspoken` as in `think`."""
    chunker = Chunker(language)
    async with out:
        await _Said(out, marks).hand_on(chunker.feed(text) + chunker.flush())
        unspoken(chunker.tail)
