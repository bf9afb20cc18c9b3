"""What every face must do, whoever paints it."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from statistics import median

import anyio
import numpy as np
import pytest

from render.remote import StillSettings, TestcardSettings
from server.core.errors import StageError
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, Clause, EncodedFrame, Samples, Speech
from server.core.protocols import RenderEngine, Renderer
from tests.fakes.providers import FakeRenderEngine

pytestmark = pytest.mark.usefixtures("no_leaked_tasks")

FRAME_S = FRAME_SAMPLES / MEDIA_RATE


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["fake", "testcard", "still"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[RenderEngine]:
    if request.param == "fake":
        yield FakeRenderEngine()
    else:
        settings = TestcardSettings() if request.param == "testcard" else StillSettings()
        async with settings.load() as remote:
            yield remote


@asynccontextmanager
async def opened(engine: RenderEngine, origin_s: float, codec: str = "H264") -> AsyncIterator[Renderer]:
    renderer = await engine.open(engine.avatars[0].name, codec, origin_s)
    try:
        with anyio.fail_after(30):
            yield renderer
    finally:
        await renderer.aclose()


async def until(frames: AsyncGenerator[EncodedFrame, None], index: int) -> list[EncodedFrame]:
    """Frames up to `index`."""
    out: list[EncodedFrame] = []
    while not out or out[-1].index < index:
        out.append(await anext(frames))
    return out


def voice(frames: int) -> Speech:
    """So many frames of sound."""
    pcm = np.tile(np.array([8000, -8000], "<i2"), frames * FRAME_SAMPLES // 2).tobytes()
    return Speech(Clause(0, "ah", "ah", "en"), pcm, MEDIA_RATE)


async def test_it_shows_its_faces(engine: RenderEngine) -> None:
    assert engine.avatars
    for avatar in engine.avatars:
        assert avatar.width % 2 == avatar.height % 2 == 0  # I420
        assert min(avatar.width, avatar.height) > 0
        assert avatar.poster.startswith(b"\xff\xd8")


@pytest.mark.parametrize(("avatar", "codec"), [("zoe", "H264"), ("", "H264"), (None, "AV1")])
async def test_what_it_does_not_have_is_refused(engine: RenderEngine, avatar: str | None, codec: str) -> None:
    with pytest.raises(StageError) as refused:
        await engine.open(engine.avatars[0].name if avatar is None else avatar, codec, anyio.current_time())
    assert refused.value.stage == "render"
    assert not refused.value.retryable


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_frames_come_in_order_and_ahead_of_their_time(engine: RenderEngine, codec: str) -> None:
    origin = anyio.current_time() - 2.0
    async with opened(engine, origin, codec) as renderer, aclosing(renderer.packets()) as packets:
        renderer.request_key()
        first = await anext(packets)
        assert first.key
        assert first.index >= 50  # not what was due before
        frames = [first, *await until(packets, first.index + 15)]
    assert all(a.index < b.index for a, b in pairwise(frames))
    assert all(frame.data and frame.generation == 0 for frame in frames)
    assert sum(frame.key for frame in frames) == 1
    assert 0 < median(origin + f.index * FRAME_S - f.painted_s for f in frames[1:]) <= 0.2


async def test_the_first_request_starts_it_and_each_brings_a_key_frame(engine: RenderEngine) -> None:
    async with opened(engine, anyio.current_time()) as renderer, aclosing(renderer.packets()) as packets:
        with anyio.move_on_after(0.2):
            await anext(packets)
            pytest.fail("a frame that nobody asked for")
    async with opened(engine, anyio.current_time()) as renderer, aclosing(renderer.packets()) as packets:
        renderer.request_key()
        assert (await anext(packets)).key
        for _ in range(2):
            renderer.request_key()
            while not (await anext(packets)).key:
                pass


async def test_frames_tell_whose_voice_is_heard(engine: RenderEngine) -> None:
    async with opened(engine, anyio.current_time()) as renderer, aclosing(renderer.packets()) as packets:
        renderer.request_key()
        now = (await anext(packets)).index
        begin, cut, end = now + 10, now + 20, now + 30
        await renderer.attend(True)
        await renderer.push(voice(15), Samples(begin * FRAME_SAMPLES), 7)
        await renderer.push(voice(5), Samples((begin + 15) * FRAME_SAMPLES), 7)
        await until(packets, begin + 3)
        await renderer.cut(Samples(cut * FRAME_SAMPLES))
        await renderer.push(voice(10), Samples(end * FRAME_SAMPLES), 8)
        heard = {frame.index: frame.generation for frame in await until(packets, end + 3)}
    expected = {i: 7 if i < cut else 0 if i < end else 8 for i in heard}
    assert heard == expected
    assert set(expected.values()) == {0, 7, 8}


async def test_packets_end_with_the_renderer(engine: RenderEngine) -> None:
    renderer = await engine.open(engine.avatars[0].name, "H264", anyio.current_time())
    ended = anyio.Event()
    shown = anyio.Event()

    async def read() -> None:
        async for _ in renderer.packets():
            shown.set()
        ended.set()

    with anyio.fail_after(15):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            renderer.request_key()
            await shown.wait()
            await renderer.aclose()
            await ended.wait()
        await renderer.aclose()
