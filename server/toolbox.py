"""One conversation's functions: what the model may call, the calls that are under way, and what comes of them."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import anyio

from server.core.errors import RequestError, ToolError
from server.core.history import History, Item
from server.core.notices import FunctionCalled, FunctionChanged, ItemAdded, ItemRemoved, Notice
from server.core.protocols import Function
from server.core.settings import ToolSettings
from server.core.tools import (
    AUTO,
    CANCELLED,
    NONE,
    NOTHING,
    REQUIRED,
    TIMED_OUT,
    Tool,
    ToolCall,
    ToolOffer,
    ToolResult,
    clipped,
    failure,
    late,
)

log = logging.getLogger(__name__)

AGAIN_S = 5.0  # between two sentences that cover one wait
RETRY_S = 0.3  # after which it is looked again whether something must be said
ALIVE_S = 1.0  # how often a reply that waits shows that it is getting on
LATE_KEPT = 64  # calls given up whose results may still come
LATE_S = 2.0  # a request for a reply so soon after a late result belongs to it


class _Running:
    """A call of a function of this server's."""

    def __init__(self, call: ToolCall) -> None:
        self.call = call
        self.output: str | None = None
        self.done = anyio.Event()
        self.abandoned = False
        """whether nobody waits for it any more"""

    def finish(self, output: str) -> None:
        self.output = output
        self.done.set()


class Toolbox:
    """The page's functions and this server's. Bounded in everything: see ToolSettings.

    A call enters the history at once, and with it, whatever happens, exactly one output: the result; that it failed,
    took too long or was cancelled; and if a result comes after that, the result with a note that it came late.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        settings: ToolSettings,
        history: History,
        tell: Callable[[Notice], None],
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        quiet: Callable[[], bool],
        cover: Callable[[int], None],
        go_on: Callable[[], None],
    ) -> None:
        """spawn: runs something beside the conversation, until its end. quiet: whether nobody speaks and nothing is
        being said. cover: says the sentence of that number over the page's calls. go_on: asks for a reply to what
        there is, because the page does not."""
        self.settings = settings
        self.page = ToolOffer()
        """what the page has declared"""
        self.fresh = False
        """whether the page has answered calls since the last reply began"""
        self._functions = functions
        self._history = history
        self._tell = tell
        self._spawn = spawn
        self._quiet = quiet
        self._cover = cover
        self._go_on = go_on
        self._pending: dict[str, ToolCall] = {}  # the page's, unanswered
        self._answered = anyio.Event()
        self._running: set[_Running] = set()
        self._late: dict[str, None] = {}  # the page's, given up
        self._forgiven_s = float("-inf")

    def declare(self, tools: Sequence[Tool] | None, choice: str | None) -> None:
        """The page's functions; None leaves one alone. Raises RequestError; nothing changes then."""
        self.page = self.checked(tools, choice)

    def checked(self, tools: Sequence[Tool] | None, choice: str | None) -> ToolOffer:
        """What the page offers with these instead. Raises RequestError."""
        new = ToolOffer(self.page.tools if tools is None else tuple(tools), choice or self.page.choice)
        names = [tool.name for tool in new.tools]
        taken = next((name for name in names if name in self._functions), None)
        if taken is not None:
            raise RequestError(400, "name_taken", f"The server has a function {taken!r} itself; choose another name.")
        if len(set(names)) < len(names):
            raise RequestError(400, "name_taken", "Two functions have one name.")
        if new.choice not in (AUTO, NONE, REQUIRED) and new.choice not in (*names, *self._functions):
            if choice:
                raise RequestError(400, "unknown_function", f"There is no function {new.choice!r} to choose.")
            return ToolOffer(new.tools)  # the one that had to be called is gone
        return new

    def rounds(self) -> int:
        """How often the model has called functions since the person last said something."""
        count, before = 0, ""
        for item in reversed(self._history.items):
            if item.kind == "message" and item.role == "user":
                break
            count += item.kind == "function_call" != before
            before = item.kind
        return count

    def offer(self, rounds: int, page: ToolOffer | None = None) -> ToolOffer:
        """What the model may call when it has done so `rounds` times already. page: instead of what is declared."""
        page = page or self.page
        tools = (*(function.tool for function in self._functions.values()), *page.tools)
        if not tools or rounds >= self.settings.rounds:
            return NOTHING
        # Who must call a function would do nothing else for ever.
        return ToolOffer(tools, AUTO if rounds and page.choice != NONE else page.choice)

    @property
    def pending(self) -> bool:
        """Whether the page owes results."""
        return bool(self._pending)

    @property
    def first_pending(self) -> str | None:
        """The item of the oldest call that the page owes a result for."""
        item = self._history.find_call(next(iter(self._pending), ""))
        return item.id if item is not None else None

    def begin(self) -> None:
        """The model is asked for a reply that will be heard: there is nothing else to wait for."""
        self.fresh = False
        self.give_up()

    # ---- the page's --------------------------------------------------------------------------------

    def hand_over(self, calls: Sequence[ToolCall], response_id: str, after: str) -> None:
        """The page is asked to answer these calls."""
        for call in calls:
            item = _call_item(call)
            previous = self._history.add(item, after)
            after = item.id
            self._pending[call.call_id] = call
            self._tell(FunctionCalled(response_id, item.id, previous))
        self._spawn(lambda: self._watch([call.call_id for call in calls]))

    async def _watch(self, call_ids: Sequence[str]) -> None:
        """Cover the wait for the page's results, and end it."""

        def open_calls() -> list[ToolCall]:
            return [self._pending[i] for i in call_ids if i in self._pending]

        with anyio.move_on_after(self.settings.timeout_s):
            said, wait_s = 0, self.settings.filler_s
            while open_calls():
                with anyio.move_on_after(wait_s) as waiting:
                    await self._answered.wait()
                if waiting.cancelled_caught:
                    wait_s = RETRY_S
                    if self._quiet():
                        self._cover(said)
                        said, wait_s = said + 1, AGAIN_S
        if unanswered := open_calls():
            log.info("the page did not answer %s in time", ", ".join(call.name for call in unanswered))
            for call in unanswered:
                self._give_up(call, TIMED_OUT)
            self.fresh = True
            self._go_on()

    def answer(self, call_id: str, output: str, item_id: str) -> None:
        """The page's result. Raises RequestError if nobody asked for it."""
        output = clipped(output, self.settings.result_chars)
        if call_id in self._pending:
            self._close(self._pending.pop(call_id), output, item_id)
            self.fresh = True
        elif call_id in self._late:
            del self._late[call_id]
            self._forgiven_s = anyio.current_time()
            old = self._history.find_call(call_id, "function_call_output")
            if old is None:
                return  # so long ago that it is forgotten
            item = _output_item(call_id, late(output), item_id)
            previous = self._history.add_before(item, old.id)
            self._history.remove(old.id)
            self._tell(ItemRemoved(old.id))
            self._tell(ItemAdded(item.id, previous))
        else:
            known = self._history.find_call(call_id) is not None
            what = "has its result already" if known else "was never asked for"
            raise RequestError(404, "unknown_call_id", f"The function call {call_id[:60]!r} {what}.")

    def is_late(self) -> bool:
        """Whether a request for a reply is about a result that came too late; told once for each."""
        late_now = anyio.current_time() - self._forgiven_s < LATE_S
        self._forgiven_s = float("-inf")
        return late_now

    def give_up(self) -> None:
        """Nobody waits for the page's results any more."""
        for call in list(self._pending.values()):
            self._give_up(call, CANCELLED)

    def _give_up(self, call: ToolCall, output: str) -> None:
        del self._pending[call.call_id]
        self._late[call.call_id] = None
        while len(self._late) > LATE_KEPT:
            del self._late[next(iter(self._late))]
        self._close(call, output)

    def _close(self, call: ToolCall, output: str, item_id: str = "") -> None:
        """A call of the page's has its output: behind all the calls that were made with it."""
        item = _output_item(call.call_id, output, item_id)
        items = self._history.items
        index = next(
            (i for i, it in enumerate(items) if it.kind == "function_call" and it.call_id == call.call_id), None
        )
        if index is not None:
            while index + 1 < len(items) and items[index + 1].kind != "message":
                index += 1
            self._tell(ItemAdded(item.id, self._history.add(item, items[index].id)))
        answered, self._answered = self._answered, anyio.Event()
        answered.set()

    # ---- this server's -----------------------------------------------------------------------------

    def start(self, call: ToolCall, before: str) -> _Running:
        """Begin a call; it enters the history before the item `before`."""
        running = _Running(call)
        item = _call_item(call)
        self._tell(ItemAdded(item.id, self._history.add_before(item, before)))
        function = self._functions.get(call.name)
        if call.problem or function is None:
            running.finish(failure(call.problem or f"there is no function {call.name!r}"))
        elif len(self._running) >= self.settings.calls:
            running.finish(failure("too many functions are running; try again later"))
        else:
            self._running.add(running)
            self._tell(FunctionChanged(call.call_id, call.name, "called"))
            self._spawn(lambda: self._run(function, running))
        return running

    async def _run(self, function: Function, running: _Running) -> None:
        call, status = running.call, "done"
        output = TIMED_OUT
        try:
            with anyio.move_on_after(self.settings.timeout_s) as waiting:
                output = clipped(await function.call(call.arguments), self.settings.result_chars)
            if waiting.cancelled_caught:
                log.warning("the function %s took longer than %.0f s", call.name, self.settings.timeout_s)
                status = "failed"
        except ToolError as error:
            output, status = failure(error.message), "failed"
        except (Exception, SystemExit):  # a fault of a function's must not end the person's call
            log.exception("the function %s failed", call.name)
            output, status = failure("the function failed"), "failed"
        finally:
            self._running.discard(running)
        running.finish(output)
        if not running.abandoned:
            self._tell(FunctionChanged(call.call_id, call.name, "done" if status == "done" else "failed"))
            return
        item = self._history.find_call(call.call_id, "function_call_output")
        if item is not None and status == "done":
            item.text = late(output)
        self._tell(FunctionChanged(call.call_id, call.name, "late"))

    def close(self, running: Sequence[_Running], before: str) -> list[ToolResult]:
        """The outputs enter the history before the item `before`; what has none yet is given up."""
        results = []
        for one in running:
            one.abandoned = one.output is None
            result = ToolResult(one.call, CANCELLED if one.output is None else one.output)
            item = _output_item(one.call.call_id, result.output)
            self._tell(ItemAdded(item.id, self._history.add_before(item, before)))
            results.append(result)
        return results


class ReplyTools:
    """What one reply may call (core.protocols.Tools)."""

    def __init__(
        self,
        box: Toolbox,
        response_id: str,
        item_id: str,
        rounds: int,
        alive: Callable[[], None],
        page: ToolOffer | None = None,
    ) -> None:
        """rounds: how often functions were called already for what this reply answers. alive: told now and then
        while the reply waits for results. page: what the page offers for this reply; None: what it has declared."""
        self.handed = False
        """whether the page was asked for results"""
        self._box = box
        self._response_id = response_id
        self._item_id = item_id
        self._rounds = rounds
        self._alive = alive
        self._page = page
        self._released = anyio.Event()
        self._open: list[_Running] = []

    def release(self) -> None:
        """The turn is committed: functions may be called."""
        self._released.set()

    def cancel(self) -> None:
        """The reply is cut: what it waits for is given up. Every call has its output then."""
        running, self._open = self._open, []
        self._box.close(running, self._item_id)
        if self.handed:
            self._box.give_up()

    def offer(self, number: int) -> ToolOffer:
        return self._box.offer(self._rounds + number, self._page)

    async def answer(self, calls: Sequence[ToolCall], cover: Callable[[int], Awaitable[bool]]) -> list[ToolResult]:
        await self._released.wait()
        box = self._box
        if len(calls) > box.settings.calls:
            log.warning("the model wants %d functions called at once; %d are", len(calls), box.settings.calls)
            calls = calls[: box.settings.calls]
        calls = [_bounded(call, box.settings.argument_bytes) for call in calls]
        names = {tool.name for tool in (self._page or box.page).tools}
        theirs = [call for call in calls if not call.problem and call.name in names]
        self._open = [box.start(call, self._item_id) for call in calls if call not in theirs]
        await self._wait(cover)
        running, self._open = self._open, []
        results = box.close(running, self._item_id)
        if not theirs:
            return results
        self.handed = True
        box.hand_over(theirs, self._response_id, self._item_id)
        return []

    async def _wait(self, cover: Callable[[int], Awaitable[bool]]) -> None:
        """Until every call has its output; each of them has a time limit."""
        said = 0
        due = anyio.current_time() + self._box.settings.filler_s
        for running in self._open:
            while running.output is None:
                wait_s = due - anyio.current_time()
                with anyio.move_on_after(max(0.0, min(wait_s, ALIVE_S))):
                    await running.done.wait()
                    continue
                self._alive()
                if wait_s <= ALIVE_S:
                    if await cover(said):
                        said += 1
                        due = anyio.current_time() + AGAIN_S
                    else:
                        due = anyio.current_time() + RETRY_S


def _bounded(call: ToolCall, longest: int) -> ToolCall:
    if len(call.arguments.encode()) <= longest:
        return call
    return ToolCall(call.call_id, call.name, "{}", f"the arguments are longer than {longest} bytes")


def _call_item(call: ToolCall) -> Item:
    return Item(
        "item_" + secrets.token_hex(12),
        "assistant",
        call.arguments,
        spoken=False,
        kind="function_call",
        call_id=call.call_id,
        name=call.name,
    )


def _output_item(call_id: str, output: str, item_id: str = "") -> Item:
    item_id = item_id or "item_" + secrets.token_hex(12)
    return Item(item_id, "system", output, spoken=False, kind="function_call_output", call_id=call_id)
