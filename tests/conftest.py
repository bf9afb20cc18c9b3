"""Fixtures for every test: asyncio as the only backend, and no task left behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fails a test that leaves tasks running."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    # anyio's own runner, which runs the test and this fixture, is not the test's to end.
    leaked = [t for t in asyncio.all_tasks() - before if not t.done() and "TestRunner" not in repr(t.get_coro())]
    assert not leaked, f"tasks left behind: {leaked}"
