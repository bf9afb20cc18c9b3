"""Think: the history so far -> clauses, as the language model's answer streams in; the functions that it calls."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from server.core.chunker import QUEUED_ENOUGH_S, Chunker
from server.core.errors import StageError
from server.core.history import History, Item
from server.core.marks import Marks
from server.core.media import Clause, Persona, Token
from server.core.phrases import filler, phrase
from server.core.protocols import Llm, Tools
from server.core.tools import NOTHING, ToolCall, ToolOffer, ToolResult

FLUSH_S = 0.15  # a sentence mark at the end of what has come so far counts after this long without a token
TOKENS_AHEAD = 64  # a model faster than the voice waits here
COVERED_S = 0.3  # with more voice than this waiting, nothing needs to be said while a function takes its time


async def think(
    llm: Llm,
    history: History,
    persona: Persona,
    out: MemoryObjectSendStream[Clause],
    marks: Marks,
    queued_s: Callable[[], float],
    failed: Callable[[StageError], None],
    unspoken: Callable[[str], None],
    tools: Tools | None = None,
) -> None:
    """Ends when the answer does. A failing model is excused aloud, in the same reply, and told to `failed`.

    `history` is this reply's own: what its functions gave is added to it. `queued_s` tells how many seconds of voice
    are made and not yet heard. `unspoken` is told the end of the visible text that no voice says: a closing emoji, a
    code block.
    """
    said = _Said(out, marks)
    marks.note("llm_request", anyio.current_time())

    async def cover(number: int) -> bool:
        if queued_s() > COVERED_S:
            return False
        await said.say(filler(number, persona.language), persona.language)
        return True

    async with out:
        number = 0
        while True:
            chunker = Chunker(persona.language)
            offer = tools.offer(number) if tools is not None else NOTHING
            answer = _Answer(llm, history, persona, offer)
            before = len(said.text)
            error = await _stream(answer, chunker, said, marks, queued_s)
            if error is not None:
                failed(error)
            await said.hand_on(chunker.flush())
            said.leave(chunker.tail)
            if error is not None:
                await said.say(phrase(error.code, persona.language), persona.language)
                return
            if tools is None or not offer.tools or not answer.calls:
                break
            results = await tools.answer(answer.calls, cover)
            if not results:
                break
            _take_in(history, number, said.text[before:], results)
            number += 1
        unspoken(said.tail)


def _take_in(history: History, number: int, text: str, results: Sequence[ToolResult]) -> None:
    """What the model said and called, and what came of it, as it is told when it goes on."""
    if text.strip():
        history.items.append(Item(f"said{number}", "assistant", text))
    for result in results:
        call = result.call
        history.items.append(
            Item(
                call.call_id, "assistant", call.arguments, kind="function_call", call_id=call.call_id, name=call.name
            )
        )
    for result in results:
        call_id = result.call.call_id
        history.items.append(
            Item(call_id + "=", "system", result.output, kind="function_call_output", call_id=call_id)
        )


class _Said:
    """The way out of the clauses, and how far the reply has come. Their raws and then `tail` join to its text."""

    def __init__(self, out: MemoryObjectSendStream[Clause], marks: Marks) -> None:
        self.text = ""
        """raw text of all clauses so far"""
        self.tail = ""
        """text behind them that no voice says"""
        self._count = 0
        self._apart = False  # whether the next clause begins another stretch of text
        self._out = out
        self._marks = marks

    async def hand_on(self, clauses: list[Clause]) -> None:
        for clause in clauses:
            self._marks.note("clause", anyio.current_time())
            raw = self._joint() + clause.raw
            await self._out.send(replace(clause, index=self._count, raw=raw))
            self._count += 1
            self.text += raw

    def leave(self, tail: str) -> None:
        """A stretch of text is over; `tail` is what of it no voice says: the next clause covers it, too."""
        self.tail = self._joint() + tail if tail else self.tail
        self._apart = True

    async def say(self, sentence: str, language: str) -> None:
        """Words of the house's own.

        A chunker of their own: the model may have broken off inside a code block, a link or its reasoning.
        """
        chunker = Chunker(language)
        await self.hand_on(chunker.feed(sentence) + chunker.flush())
        self.leave(chunker.tail)

    def _joint(self) -> str:
        """What stands between the last clause and the next."""
        tail, apart = self.tail, self._apart
        self.tail, self._apart = "", False
        before = self.text + tail
        if apart and before and not before[-1].isspace():
            tail += "\n" if "\n" in tail else " "
        return tail


class _Answer:
    """One request to the model, and the functions that it wants called."""

    def __init__(self, llm: Llm, history: History, persona: Persona, offer: ToolOffer) -> None:
        self.calls: list[ToolCall] = []
        self._llm = llm
        self._asked = history, persona
        self._offer = offer

    def tokens(self) -> AsyncGenerator[Token, None]:
        return self._llm.reply(*self._asked, self._offer) if self._offer.tools else self._llm.reply(*self._asked)


async def _stream(
    answer: _Answer, chunker: Chunker, said: _Said, marks: Marks, queued_s: Callable[[], float]
) -> StageError | None:
    """Every token through the chunker; returns what the model failed of, if it did."""
    # Tokens pass through a channel, because a wait on the model's own iterator cannot be given up and repeated.
    send, receive = anyio.create_memory_object_stream[Token](TOKENS_AHEAD)
    failures: list[StageError] = []

    async def pump() -> None:
        async with send:
            try:
                async with aclosing(answer.tokens()) as tokens:
                    async for token in tokens:
                        marks.note("llm_token", anyio.current_time())
                        if token.call is not None:
                            answer.calls.append(token.call)
                        else:
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
