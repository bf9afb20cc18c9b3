"""What a conversation keeps of its older turns: a summary that the language model writes between turns."""

import logging
from contextlib import aclosing

import anyio

from server.core.errors import StageError
from server.core.history import History, Item, transcript
from server.core.media import Persona
from server.core.protocols import Llm
from server.core.tools import clipped

log = logging.getLogger(__name__)

QUIET_S = 1.0  # after a reply, before a summary begins: people often go on at once
LIMIT_S = 30.0
REST = 4  # replies without an attempt after one that failed
SUMMARY_CHARS = 1500
TASK = (
    "You keep the memory of a spoken conversation. Write down, in at most 120 words and in the language of the"
    " conversation, what must be remembered to go on with it: names, facts, wishes, promises, what was decided and"
    " what is still open. Plain sentences only; no greeting, no comment, no list."
)


class Memory:
    """Takes the older turns of a history into its summary, never while a reply is wanted.

    A prompt that has grown too long meanwhile is simply cut (History.fit): no reply waits for a summary.
    """

    def __init__(self, history: History, llm: Llm) -> None:
        self._history = history
        self._llm = llm
        self._scope: anyio.CancelScope | None = None
        self._resting = 0

    def rest(self) -> None:
        """Something is said, or about to be: a summary that is being written is given up."""
        if self._scope is not None:
            self._scope.cancel()

    async def tidy(self) -> None:
        """Write a summary if there is enough to summarise. Never raises; takes LIMIT_S at most."""
        budget = self._llm.history_tokens
        old = self._history.old(budget)
        if not old or self._scope is not None:
            return
        if self._resting:
            self._resting -= 1
            return
        with anyio.CancelScope() as scope:
            self._scope = scope
            try:
                await anyio.sleep(QUIET_S)
                summary = ""
                with anyio.move_on_after(LIMIT_S):
                    summary = await self._write(old, budget)
                if summary:
                    self._history.take_in(clipped(summary, SUMMARY_CHARS), old[-1].id)
                else:
                    self._resting = REST
            except StageError as error:
                log.info("no summary: %s", error.message)
                self._resting = REST
            finally:
                self._scope = None

    async def _write(self, old: list[Item], budget: int) -> str:
        said = transcript(old, "Assistant")
        if self._history.summary:
            said = f"(Earlier: {self._history.summary})\n{said}"
        task = History(items=[Item("conversation", "user", said)])
        task.fit(2 * budget)  # one item may be longer than all the others together
        text = ""
        async with aclosing(self._llm.reply(task, Persona("memory", system_prompt=TASK))) as tokens:
            async for token in tokens:
                text += token.text
                if len(text) > 2 * SUMMARY_CHARS:
                    break
        return text.partition("</think>")[2].strip() or text.strip()
