"""The engine that understands nothing."""

import anyio

from server.asr.textonly import TextOnlySettings
from server.core.media import Transcript


async def test_every_turn_is_empty_and_nothing_hangs() -> None:
    async with TextOnlySettings().load() as engine:
        assert list(engine.languages) == []
        session = await engine.open("zh")
        seen = []

        async def follow() -> None:
            seen.extend([p async for p in session.partials()])

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await session.push(bytes(640))
                assert await session.provisional() == Transcript("")
                await session.drop()
                assert await session.commit() == Transcript("", final=True)
                await session.aclose()
        assert seen == []
