"""Think: the history so far -> clauses, as the language model's answer streams in."""

from collections.abc import Callable
from contextlib import aclosing

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from server.core.chunker import Chunker
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

    `unspoken` is told the end of the visible text that no voice says: a closing emoji, a code block.
    """
    chunker = Chunker(persona.language)
    marks.note("llm_request", anyio.current_time())
    async with out:
        try:
            await _stream(llm, history, persona, chunker, out, marks, queued_s)
        except StageError as error:
            failed(error)
            for clause in chunker.feed(" " + phrase(error.code, persona.language)):
                await out.send(clause)
        for clause in chunker.flush():
            marks.note("clause", anyio.current_time())
            await out.send(clause)
        unspoken(chunker.tail)


async def _stream(
    llm: Llm,
    history: History,
    persona: Persona,
    chunker: Chunker,
    out: MemoryObjectSendStream[Clause],
    marks: Marks,
    queued_s: Callable[[], float],
) -> None:
    # Tokens pass through a channel, because a wait on the model's own iterator cannot be given up and repeated.
    send, receive = anyio.create_memory_object_stream[Token](TOKENS_AHEAD)
    failures: list[StageError] = []

    async def pump() -> None:
        async with send:
            try:
                async with aclosing(llm.reply(history, persona)) as tokens:  # type: ignore[type-var]
                    async for token in tokens:
                        marks.note("llm_token", anyio.current_time())
                        await send.send(token)
            except StageError as error:
                failures.append(error)

    async with send, receive, anyio.create_task_group() as tasks:
        tasks.start_soon(pump)
        settled = False
        while True:
            token: Token | None = None
            try:
                with anyio.move_on_after(None if settled else FLUSH_S):
                    token = await receive.receive()
            except anyio.EndOfStream:
                break
            settled = token is None
            chunker.queued_s = queued_s()
            for clause in chunker.feed(token.text) if token is not None else chunker.stale(FLUSH_S):
                marks.note("clause", anyio.current_time())
                await out.send(clause)
    if failures:
        raise failures[0]


async def recite(text: str, language: str, out: MemoryObjectSendStream[Clause], marks: Marks) -> None:
    """These very words instead of the model's."""
    chunker = Chunker(language)
    async with out:
        for clause in [*chunker.feed(text), *chunker.flush()]:
            marks.note("clause", anyio.current_time())
            await out.send(clause)
