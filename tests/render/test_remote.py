"""The real worker process, its real encoders, and the renderer that the server holds."""

import os
import signal
from collections.abc import AsyncIterator, Iterator

import anyio
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from render.remote import QUEUE_FRAMES, RemoteEngine, RemoteRenderer, StillSettings, TestcardSettings
from render.testcard import read
from server.core.errors import StageError
from server.core.media import (
    FRAME_SAMPLES,
    MEDIA_RATE,
    Clause,
    EncodedFrame,
    Phone,
    Samples,
    Speech,
)
from tests.render.test_encode import decode

pytestmark = pytest.mark.usefixtures("no_leaked_tasks")

CLAUSE = Clause(0, "ah", "ah", "en")
MOUTH = (slice(272, 330), slice(210, 302))  # rows and columns that hold Mia's mouth, whatever the head does


@pytest.fixture
async def still() -> AsyncIterator[RemoteEngine]:
    async with StillSettings().load() as engine:
        yield engine


@pytest.fixture
async def cards() -> AsyncIterator[RemoteEngine]:
    async with TestcardSettings().load() as engine:
        yield engine


def speech(seconds: float, viseme: str = "", level: int = 8000, rate: int = MEDIA_RATE) -> Speech:
    samples = round(seconds * rate)
    pcm = np.full(samples, level, "<i2")
    pcm[::2] *= -1
    phones = (Phone(viseme, viseme, 0, samples),) if viseme else ()
    return Speech(CLAUSE, pcm.tobytes(), rate, phones)


def at_frame(index: int) -> Samples:
    return Samples(index * FRAME_SAMPLES)


async def take(renderer: RemoteRenderer, until: int) -> list[EncodedFrame]:
    """Frames up to index `until`."""
    out = []
    with anyio.fail_after(15):
        async for frame in renderer.packets():
            out.append(frame)
            if frame.index >= until:
                break
    return out


def lumas(codec: str, frames: list[EncodedFrame]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    decoded = decode(codec, [f.data for f in frames])
    assert len(decoded) == len(frames)
    for frame, picture in zip(frames, decoded, strict=True):
        yield frame.index, picture.to_ndarray(format="yuv420p")[:512]


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_frames_come_ahead_of_their_time_and_decode(still: RemoteEngine, codec: str) -> None:
    origin = anyio.current_time() - 0.5
    renderer = await still.open("mia", codec, origin)
    renderer.request_key()
    frames = await take(renderer, 45)
    assert frames[0].key
    assert not any(f.key for f in frames[1:])
    assert 12 <= frames[0].index <= 15  # the frame of the moment
    indices = [f.index for f in frames]
    assert indices == sorted(set(indices))
    assert len(indices) >= 0.8 * (indices[-1] - indices[0] + 1)
    early = [origin + f.index / 25 - f.painted_s for f in frames[3:]]
    assert np.median(early) > 0
    assert max(early) <= 0.0501  # never more than its lead
    assert len(list(lumas(codec, frames))) == len(frames)
    await renderer.aclose()


async def test_nothing_is_encoded_before_the_first_request(still: RemoteEngine) -> None:
    now = anyio.current_time()
    waiting = await still.open("mia", "H264", now)
    shown = await still.open("leo", "H264", now)
    shown.request_key()
    await take(shown, 15)
    assert not waiting._frames
    waiting.request_key()
    assert (await take(waiting, 0))[0].index >= 12
    await waiting.aclose()
    await shown.aclose()


async def test_a_key_frame_comes_on_request(still: RemoteEngine) -> None:
    renderer = await still.open("mia", "H264", anyio.current_time())
    renderer.request_key()
    first = await take(renderer, 10)
    renderer.request_key()
    then = await take(renderer, first[-1].index + 12)
    keys = [f.index for f in then if f.key]
    assert len(keys) == 1
    assert keys[0] <= first[-1].index + 4
    # Joining there is enough.
    joined = then[[f.key for f in then].index(True) :]
    assert len(list(lumas("H264", joined))) == len(joined)
    await renderer.aclose()


async def test_two_people_at_once_do_not_mix(still: RemoteEngine) -> None:
    origin = anyio.current_time()
    renderers = {name: await still.open(name, codec, origin) for name, codec in (("mia", "H264"), ("leo", "VP8"))}
    posters = {a.name: cv2.imdecode(np.frombuffer(a.poster, np.uint8), cv2.IMREAD_GRAYSCALE) for a in still.avatars}
    await renderers["mia"].push(speech(10, "aa"), at_frame(0), 7)
    for renderer in renderers.values():
        renderer.request_key()
    for name, codec in (("mia", "H264"), ("leo", "VP8")):
        frames = await take(renderers[name], 25)
        assert {f.generation for f in frames} == ({7} if name == "mia" else {0})
        _, picture = list(lumas(codec, frames))[-1]
        far = {n: np.abs(picture.astype(float) * 1.164 - 19 - p).mean() for n, p in posters.items()}
        assert min(far, key=lambda n: far[n]) == name
    for renderer in renderers.values():
        await renderer.aclose()


async def test_the_card_counts_and_flashes_with_the_voice_to_the_frame(cards: RemoteEngine) -> None:
    renderer = await cards.open("mia", "H264", anyio.current_time())
    lit = {12, 13, 14, 20, 21, 30}
    # Two milliseconds of a neighbour are enough.
    start = 13 * FRAME_SAMPLES - 96
    end = 14 * FRAME_SAMPLES + 96
    await renderer.push(speech((end - start) / MEDIA_RATE), Samples(start), 1)
    await renderer.push(speech(2 * 0.04), at_frame(20), 2)
    await renderer.push(speech(0.04), at_frame(30), 3)
    await renderer.push(speech(0.04, level=500), at_frame(34), 4)  # too soft to light it
    renderer.request_key()
    frames = await take(renderer, 40)
    generations = {f.index: f.generation for f in frames}
    seen = {}
    for index, picture in lumas("H264", frames):
        counted, flash = read(picture)
        assert counted == index
        seen[index] = flash
    assert len(seen) > 25
    assert {k for k, flash in seen.items() if flash} == lit & set(seen)
    assert {k: g for k, g in generations.items() if g} == {
        k: g for k, g in {12: 1, 13: 1, 14: 1, 20: 2, 21: 2, 30: 3, 34: 4}.items() if k in seen
    }
    await renderer.aclose()


async def test_speech_planned_ahead_can_be_cut_and_planned_again(cards: RemoteEngine) -> None:
    renderer = await cards.open("testcard", "VP8", anyio.current_time())
    await renderer.push(speech(0.2), at_frame(15), 1)
    await renderer.cut(at_frame(0))
    await renderer.push(speech(0.4), at_frame(25), 1)
    await renderer.cut(at_frame(29))
    await renderer.push(speech(0.08), at_frame(32), 2)
    renderer.request_key()
    seen = {read(p)[0]: read(p)[1] for _, p in lumas("VP8", await take(renderer, 40))}
    assert {k for k, flash in seen.items() if flash} == {25, 26, 27, 28, 32, 33} & set(seen)
    assert set(range(15, 20)) & set(seen)
    await renderer.aclose()


async def test_a_cut_closes_the_mouth(still: RemoteEngine) -> None:
    renderer = await still.open("mia", "H264", anyio.current_time())
    renderer.request_key()
    await renderer.push(speech(5, "aa"), at_frame(10), 1)
    before = await take(renderer, 28)
    cut = before[-1].index + 1
    await renderer.cut(at_frame(cut))
    after = await take(renderer, cut + 12)
    assert all(f.generation == 0 for f in after if f.index > cut + 3)

    rest, opened = None, {}
    for index, picture in lumas("H264", before + after):
        mouth = picture[MOUTH]
        # An open mouth has a dark inside; a closed one has none.
        opened[index] = float((mouth < 60).mean())
        if index < 5:
            rest = opened[index]
    assert rest is not None
    spoken = [v for k, v in opened.items() if 16 <= k < cut]
    later = [v for k, v in opened.items() if k >= cut + 8]
    assert min(spoken) > rest + 0.03
    assert max(later) < rest + 0.01
    await renderer.aclose()


async def test_a_killed_worker_is_back_painting_with_its_speech(cards: RemoteEngine) -> None:
    origin = anyio.current_time()
    renderer = await cards.open("testcard", "H264", origin)
    renderer.request_key()
    await renderer.push(speech(30), at_frame(0), 5)
    await renderer.cut(at_frame(20 * 25))
    before = await take(renderer, 10)
    pid = cards.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    after = await take(renderer, before[-1].index + 25)
    again = next(i for i, f in enumerate(after) if f.key)
    assert after[again].index > before[-1].index
    assert cards.worker.pid != pid
    for index, picture in lumas("H264", after[again:]):
        assert read(picture) == (index, True)
    assert after[again].generation == 5
    # What was cut off is not told again.
    assert sum(len(p.pcm) for p in renderer._pushed) == 2 * 20 * MEDIA_RATE
    await renderer.aclose()


async def test_a_slow_reader_loses_whole_runs_and_goes_on_with_a_key_frame(cards: RemoteEngine) -> None:
    renderer = await cards.open("testcard", "H264", anyio.current_time())
    other = await cards.open("testcard", "H264", anyio.current_time())
    renderer.request_key()
    other.request_key()
    first = (await take(renderer, 0))[0]
    await take(other, first.index + 3 * QUEUE_FRAMES)  # meanwhile nobody reads the first
    frames = await take(renderer, first.index + 3 * QUEUE_FRAMES + 5)
    assert renderer.dropped > 0
    assert frames[0].key
    decoded = list(lumas("H264", frames))
    assert [index for index, _ in decoded] == [read(p)[0] for _, p in decoded]
    assert len(frames) <= QUEUE_FRAMES + 10
    await renderer.aclose()
    await other.aclose()


async def test_what_cannot_be_shown_is_refused_with_a_sentence(still: RemoteEngine) -> None:
    assert [(a.name, a.title, a.width, a.height) for a in still.avatars] == [
        ("leo", "Leo", 512, 512),
        ("mia", "Mia", 512, 512),
    ]
    with pytest.raises(StageError, match=r"no avatar 'nobody'; try leo, mia") as caught:
        await still.open("nobody", "H264", 0.0)
    assert (caught.value.stage, caught.value.code, caught.value.retryable) == ("render", "unknown_avatar", False)
    with pytest.raises(StageError, match="H264 or VP8"):
        await still.open("mia", "AV1", 0.0)
    renderer = await still.open("mia", "H264", anyio.current_time())
    with pytest.raises(StageError, match="48000 Hz"):
        await renderer.push(speech(0.1, rate=16000), at_frame(0), 1)
    await renderer.aclose()


async def test_a_fault_ends_only_its_own_face(still: RemoteEngine) -> None:
    origin = anyio.current_time()
    sound, faulty = await still.open("mia", "H264", origin), await still.open("leo", "H264", origin)
    sound.request_key()
    faulty.request_key()
    await take(faulty, 3)
    odd = Speech(CLAUSE, b"\0\0\0", MEDIA_RATE)  # one sample and a half: cannot be read
    await faulty.push(odd, at_frame(5), 1)
    with pytest.raises(StageError, match="could not be followed"):
        await take(faulty, 100)
    assert (await take(sound, 20))[-1].index >= 20
    await faulty.aclose()
    await sound.aclose()


async def test_closing_ends_the_stream_and_the_session(still: RemoteEngine) -> None:
    renderer = await still.open("mia", "H264", anyio.current_time())
    renderer.request_key()
    stream = renderer.packets()
    assert (await anext(stream)).key
    await renderer.aclose()
    assert [f async for f in stream] == []
    assert not still.worker._sessions


async def test_settings_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="lead_ms"):
        StillSettings(lead_ms=0)
    with pytest.raises(ValueError, match="bitrate"):
        TestcardSettings(bitrate=5)


async def test_the_cards_bar_tells_when_the_voice_begins(cards: RemoteEngine) -> None:
    """Within a third of a millisecond: what call.av_skew_ms is read from."""
    renderer = await cards.open("testcard", "H264", anyio.current_time())
    start = 14 * FRAME_SAMPLES + 1000
    await renderer.push(speech(0.2), Samples(start), 1)
    renderer.request_key()
    pictures = dict(lumas("H264", await take(renderer, 30)))
    await renderer.aclose()
    lit = np.flatnonzero(pictures[14][480] > 128)
    assert lit[0] * FRAME_SAMPLES / 512 == pytest.approx(1000, abs=16)
    assert lit[-1] == 511
    assert not (pictures[13][480] > 128).any()
