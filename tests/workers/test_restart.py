"""Workers that will not start, or not stay: how often they are tried, and what the server is told."""

from pathlib import Path

import anyio
import pytest

from server.core.errors import StageError, WorkerLost
from server.workers.process import START_ATTEMPTS, Worker
from tests.workers.echo_worker import Said, Say


def broken(how: str, folder: Path, ready_s: float = 30.0) -> Worker[Say, Said]:
    return Worker("echo", "tests.workers.broken_worker", Said, [how, str(folder)], ready_s=ready_s)


def lives(folder: Path) -> int:
    return len(list(folder.iterdir()))


async def talk(worker: Worker[Say, Said], text: str) -> str:
    session = worker.open()
    session.send(Say(text))
    return (await session.receive()).text


async def test_one_that_dies_whenever_it_starts_is_given_up_with_its_status(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="3 times while it started \\(exit status 7\\)") as raised:
        async with broken("dies at once", tmp_path):
            pass
    assert not raised.value.retryable
    assert lives(tmp_path) == START_ATTEMPTS == 3


async def test_one_that_refuses_is_not_asked_again(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="it will not work here"):
        async with broken("refuses", tmp_path):
            pass
    assert lives(tmp_path) == 1


async def test_one_that_dies_at_its_first_start_is_there_at_its_second(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        async with broken("dies at first", tmp_path) as worker:
            assert await talk(worker, "hello") == "hello"


async def test_one_that_refuses_later_is_left_alone(tmp_path: Path) -> None:
    async with broken("refuses later", tmp_path) as worker:
        with pytest.raises(WorkerLost):
            await talk(worker, "die")
        with pytest.raises(StageError, match="it will not work here"):
            await worker.ready(20)
        assert not worker.is_ready
        with pytest.raises(WorkerLost):
            worker.open()
        assert lives(tmp_path) == 2


async def test_one_that_never_comes_back_costs_little(tmp_path: Path) -> None:
    async with broken("never again", tmp_path) as worker:
        with pytest.raises(WorkerLost):
            await talk(worker, "die")
        await anyio.sleep(3)
        assert 2 <= lives(tmp_path) <= 6  # tried again, and less and less often; without a pause it would be 30


async def test_one_that_is_not_understood_is_started_again(tmp_path: Path) -> None:
    async with broken("babbles", tmp_path) as worker:
        with pytest.raises(WorkerLost):
            await talk(worker, "babble")
        await worker.ready(20)
        assert await talk(worker, "again") == "again"
        assert lives(tmp_path) == 2


async def test_one_that_hangs_while_it_starts_again_is_ended(tmp_path: Path) -> None:
    async with broken("stays silent later", tmp_path, ready_s=1.5) as worker:
        with pytest.raises(WorkerLost):
            await talk(worker, "die")
        with anyio.fail_after(20):
            while lives(tmp_path) < 3:
                await anyio.sleep(0.05)
