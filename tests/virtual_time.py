"""An asyncio event loop whose clock jumps to the next timer when nothing is ready: minutes pass in milliseconds.

Like trio's MockClock with autojump. `loop.time()` (and so `anyio.current_time()`, `anyio.sleep`, `fail_after` ...)
is virtual; it stands still while tasks run. Meant for code without sockets and threads: the loop cannot know that
a thread or another process is about to answer, and jumps or reports a deadlock instead of waiting.

    @virtual_time                      # or for a whole module: pytestmark = virtual_time
    async def test_watchdog() -> None:
        await anyio.sleep(3600)

    virtual_run(main())                # outside an async test
"""

import asyncio
import os
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio
import pytest

T = TypeVar("T")

START_S = 1000.0
"""loop time at the start; not zero, so that code which takes the clock's zero for an origin is found out"""
LIMIT_S = 48 * 3600.0
"""virtual seconds after which a loop is taken to run in circles"""


class NothingLeftToDo(RuntimeError):
    """Every task waits for something that no timer and no other task will bring."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: where the loop would sleep for `timeout`, it moves the loop's clock on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:
            waiting = "\n".join(f"  {_where(task)}" for task in asyncio.all_tasks(asyncio.get_running_loop()))
            raise NothingLeftToDo(f"at virtual time {self.now - START_S:.3f} s every task waits for ever:\n{waiting}")
        self.now += timeout
        if self.now - START_S > LIMIT_S:
            raise NothingLeftToDo(f"{LIMIT_S:.0f} virtual seconds have passed: something runs in circles")
        return ready


_LIBRARIES = tuple(os.path.dirname(module.__file__) for module in (asyncio, anyio) if module.__file__)


def _where(task: "asyncio.Task[Any]") -> str:
    """The task's name and the innermost line of ours that it waits in."""
    place = "?"
    step: Any = task.get_coro()
    while (frame := getattr(step, "cr_frame", None)) is not None:
        if not frame.f_code.co_filename.startswith(_LIBRARIES):
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        step = step.cr_await
    return f"{task.get_name()} at {place}"


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop itself; `anyio.run(..., backend_options={"loop_factory": VirtualLoop})`."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


VIRTUAL_BACKEND = ("asyncio", {"loop_factory": VirtualLoop})

virtual_time = pytest.mark.parametrize("anyio_backend", [pytest.param(VIRTUAL_BACKEND, id="virtual")])
"""Marks an async test (or, as `pytestmark`, a module) to run on virtual time, its async fixtures too."""


def virtual_run(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a fresh virtual loop and return its result."""

    async def main() -> T:
        return await coro

    return anyio.run(main, backend_options={"loop_factory": VirtualLoop})
