"""The virtual clock itself: jumps, order, deadlines, deadlocks."""

import asyncio
import time

import anyio
import pytest

from tests.virtual_time import NothingLeftToDo, virtual_run, virtual_time


@virtual_time
async def test_hours_pass_at_once() -> None:
    real, virtual = time.monotonic(), anyio.current_time()
    await anyio.sleep(8 * 3600)
    assert anyio.current_time() - virtual == pytest.approx(8 * 3600, abs=1e-6)
    assert time.monotonic() - real < 60


@virtual_time
async def test_timers_fire_in_order_and_on_time() -> None:
    start = anyio.current_time()
    fired: list[float] = []

    async def after(delay: float) -> None:
        await anyio.sleep(delay)
        fired.append(round(anyio.current_time() - start, 6))

    async with anyio.create_task_group() as tasks:
        for delay in (3.0, 0.02, 100.0, 0.5, 0.02):
            tasks.start_soon(after, delay)
    assert fired == [0.02, 0.02, 0.5, 3.0, 100.0]


@virtual_time
async def test_clock_stands_still_while_tasks_run() -> None:
    start = anyio.current_time()
    for _ in range(1000):
        await anyio.lowlevel.checkpoint()
    assert anyio.current_time() == start


@virtual_time
async def test_deadline_cancels_what_waits() -> None:
    start = anyio.current_time()
    with anyio.move_on_after(2.5) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert anyio.current_time() - start == pytest.approx(2.5)
    with pytest.raises(TimeoutError):
        with anyio.fail_after(1):
            await anyio.Event().wait()


@virtual_time
async def test_channels_hand_over_between_tasks() -> None:
    send, receive = anyio.create_memory_object_stream[float](1)

    async def produce() -> None:
        async with send:
            for _ in range(5):
                await anyio.sleep(0.02)
                await send.send(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        async with receive:
            ages = [anyio.current_time() - sent async for sent in receive]
    assert ages == [0.0] * 5


def test_run_returns_the_result() -> None:
    async def main() -> str:
        await asyncio.sleep(60)
        return "done"

    assert virtual_run(main()) == "done"


def test_a_deadlock_is_named_instead_of_hanging() -> None:
    async def main() -> None:
        await anyio.Event().wait()

    with pytest.raises(NothingLeftToDo, match=r"test_virtual_time\.py"):
        virtual_run(main())


def test_running_in_circles_ends() -> None:
    async def main() -> None:
        while True:
            await anyio.sleep(3600)

    with pytest.raises(NothingLeftToDo, match="circles"):
        virtual_run(main())


def test_errors_come_out() -> None:
    async def main() -> None:
        await anyio.sleep(1)
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        virtual_run(main())
