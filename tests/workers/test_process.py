"""A real worker process: sessions, death, hanging, and the server's own end."""

import os
import signal
import subprocess
import sys
import time

import anyio
import pytest

from server.core.errors import StageError, WorkerLost
from server.workers.process import Worker
from tests.workers.echo_worker import Said, Say

MODULE = "tests.workers.echo_worker"


async def test_sessions_do_not_mix() -> None:
    async with Worker[Say, Said]("echo", MODULE, Said) as worker:
        assert worker.about == {"what": "echo"}
        sessions = [worker.open() for _ in range(3)]
        for i, session in enumerate(sessions):
            session.send(Say(str(i)))
        assert [(await s.receive()).text for s in reversed(sessions)] == ["2", "1", "0"]


async def test_a_refused_request_leaves_the_worker_alive() -> None:
    async with Worker[Say, Said]("echo", MODULE, Said) as worker:
        session = worker.open()
        session.send(Say("fail"))
        with pytest.raises(StageError, match="it was asked to"):
            await session.receive()
        session.send(Say("on"))
        assert (await session.receive()).text == "on"


@pytest.mark.parametrize("way", ["exit", "SIGKILL", "hang"])
async def test_a_dead_worker_is_back_and_its_sessions_know(way: str) -> None:
    async with Worker[Say, Said]("echo", MODULE, Said, hang_s=2.0) as worker:
        session = worker.open()
        pid = worker.pid
        assert pid is not None
        if way == "SIGKILL":
            os.kill(pid, signal.SIGKILL)
        else:
            session.send(Say("die" if way == "exit" else "hang"))
        with pytest.raises(WorkerLost):
            await session.receive()
        with pytest.raises(WorkerLost):
            session.send(Say("anyone?"))
        await worker.ready(10)
        again = worker.open()
        again.send(Say("back"))
        assert (await again.receive()).pid == worker.pid != pid


async def test_leaving_ends_the_process() -> None:
    async with Worker[Say, Said]("echo", MODULE, Said) as worker:
        pid = worker.pid
    assert pid is not None
    assert not os.path.exists(f"/proc/{pid}")


async def test_a_module_that_does_not_exist_is_an_error_not_a_wait() -> None:
    with pytest.raises(StageError, match="not ready"):
        async with Worker[Say, Said]("ghost", "tests.workers.no_such_module", Said, ready_s=1.0):
            pass


async def test_workers_die_with_a_killed_server() -> None:
    code = (
        "import anyio\n"
        "from server.workers.process import Worker\n"
        "from tests.workers.echo_worker import Said\n"
        "async def main():\n"
        f"    async with Worker('echo', {MODULE!r}, Said) as w:\n"
        "        print(w.pid, flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid = int(await anyio.to_thread.run_sync(server.stdout.readline))
        server.kill()
    deadline = time.monotonic() + 2
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        await anyio.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")
