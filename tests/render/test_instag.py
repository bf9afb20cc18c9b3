"""The InsTaG face in a call: its painter, the real worker process, a smaller picture where the machine is slow."""

import functools
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import anyio
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba", reason="numba paints the InsTaG face; it comes with the instag extra")

from render.avatar import save
from render.encode import Encoder
from render.instag import AVATARS, InstagPainter, folders, people, stacked
from render.person import Person
from render.remote import InstagSettings, RemoteEngine
from render.score import Score
from render.wire import Key
from render.worker import Call
from server.core.errors import StageError
from server.core.media import FRAME_SAMPLES
from tests.render import procedural
from tests.render.procedural import BACKGROUND, SIDE
from tests.render.test_encode import decode
from tests.render.test_hearing import voice
from tests.render.test_remote import at_frame, speech, take


@pytest.fixture(scope="module")
def person() -> Person:
    return Person(procedural.person())


def painted(person: Person, **other: object) -> tuple[InstagPainter, Score]:
    score = Score()
    return InstagPainter(person, score, 3, **other), score  # type: ignore[arg-type]


# ---- the painter -----------------------------------------------------------------------------------


def test_however_the_voice_comes_the_frames_are_those_of_the_whole_clip(person: Person) -> None:
    pcm = voice(1.6)
    whole, all_of_it = painted(person)
    pieces, growing = painted(person)
    all_of_it.push(10 * FRAME_SAMPLES, 1, pcm)
    at = 0
    for index in range(45):
        while at < len(pcm) and at < (index - 10 + 6) * FRAME_SAMPLES:
            growing.push(10 * FRAME_SAMPLES + at, 1, pcm[at : at + 1700])
            at += 1700
        expected = whole.frame(index)[0]
        assert np.abs(pieces.frame(index)[0] - expected).max() < 1e-5


def test_a_late_voice_catches_up_within_four_frames(person: Person) -> None:
    pcm = voice(1.6)
    known, early = painted(person)
    late, score = painted(person)
    early.push(10 * FRAME_SAMPLES, 1, pcm)
    away = []
    for index in range(30):
        if index == 14:
            score.push(10 * FRAME_SAMPLES, 1, pcm)
        away.append(float(np.abs(late.frame(index)[0] - known.frame(index)[0]).max()))
    assert max(away[12:14]) > 0.05  # it did not know
    assert away[14] < 0.8 * max(away[12:14])
    assert max(away[17:]) < 1e-5


def test_after_a_cut_the_mouth_closes_over_four_frames(person: Person) -> None:
    painter, score = painted(person)
    score.push(5 * FRAME_SAMPLES, 1, voice(3.0))
    rest = painter._hearing._rest
    shown = [painter.frame(index)[0] for index in range(27)]
    painter.cut(27)
    score.cut(27 * FRAME_SAMPLES)
    away, steps = [], []
    for index in range(27, 42):
        shown.append(painter.frame(index)[0])
        away.append(float(np.abs(shown[-1] - rest).max()))
        steps.append(float(np.abs(shown[-1] - shown[-2]).max()))
    spoken = [float(np.abs(b - a).max()) for a, b in pairwise(shown[8:27])]
    assert max(steps) <= 1.5 * max(spoken)  # no leap
    assert max(away[10:]) < 1e-5  # at rest for good
    assert max(away[7:]) < 0.3 * away[0]


def test_the_matte_lies_below_the_colours(person: Person) -> None:
    painter, _ = painted(person, alpha=True)
    assert (painter.width, painter.height) == (SIDE, 2 * SIDE)
    picture = painter.paint(0)
    assert picture.shape == (3 * SIDE, SIDE)
    rgb = cv2.cvtColor(picture, cv2.COLOR_YUV2RGB_I420)
    assert rgb[:8, :8].max() <= 1  # nothing, over black
    matte = rgb[SIDE:]
    assert matte[4, 4].max() == 0
    assert matte[SIDE // 2, SIDE // 2].min() == 255
    assert np.abs(matte.astype(int) - matte[:, :, :1]).max() <= 1  # grey
    plain, _ = painted(person, background=np.array([[[255, 255, 255]]], np.uint8))
    over = rgb[:SIDE] + (255 - matte.astype(int))
    white = cv2.cvtColor(plain.paint(0), cv2.COLOR_YUV2RGB_I420)
    assert np.abs(over - white).mean() < 1.0
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    both = stacked(np.full((24, 16), 128, np.uint8), ramp)
    assert both.shape == (48, 16)
    assert (both[16:32].min(), both[16:32].max()) == (16, 235)


def test_people_are_found_and_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    save(procedural.person("anna"), tmp_path / "own" / "anna")
    save(procedural.person("otto"), tmp_path / "otto")
    (tmp_path / "own" / "broken").mkdir()
    (tmp_path / "own" / "broken" / "manifest.json").write_text("{}")
    found = folders([tmp_path / "own", tmp_path / "otto", tmp_path / "nowhere"])
    assert set(found) == {"anna", "broken", "otto"}
    shown, notes = people(found)
    assert set(shown) == {"anna", "otto"}
    assert len(notes) == 1
    assert notes[0].startswith("broken: ")
    again = folders([tmp_path / "own", tmp_path / "own" / "anna"])
    assert again["anna"] == tmp_path / "own" / "anna"


# ---- a machine that is too slow ----------------------------------------------------------------------


class Slow:
    """A painter that takes as long as it is told, on a clock that only it moves."""

    def __init__(self, painter: InstagPainter, cost: dict[int, float]) -> None:
        self._painter = painter
        self.cost = cost
        self.now = 0.0
        self.painted: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._painter, name)

    def paint(self, index: int) -> NDArray[np.uint8]:
        self.now += self.cost[self._painter.width]
        self.painted.append(index)
        return self._painter.paint(index)


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_a_slow_machine_shows_a_smaller_picture_before_it_leaves_frames_out(person: Person, codec: str) -> None:
    painter, score = painted(person)
    large, middle, small = painter.sides
    assert (large, middle, small) == (256, 192, 128)
    slow = Slow(painter, {large: 0.036, middle: 0.020, small: 0.010})
    encode = functools.partial(Encoder, codec, bitrate=1_200_000)
    call = Call(slow, score, encode, 0.0)
    call.take(Key(), 0.0)
    frames = []
    while len(frames) < 300:
        slow.now = max(slow.now, call.due(call.next) - 0.05)
        frame = call.frame(slow.now, 0.05, 1, lambda: slow.now)
        assert frame is not None
        frames.append(frame)
        if len(frames) == 120:
            slow.cost = {large: 0.008, middle: 0.005, small: 0.003}
    assert slow.painted == list(range(300))  # none was left out
    keys = [k for k, frame in enumerate(frames) if frame.key]
    sizes = []
    for picture in decode(codec, [f.data for f in frames]):
        sizes.append(picture.width)
        assert picture.height == picture.width
    assert len(sizes) == len(frames)
    changes = [k for k in range(1, 300) if sizes[k] != sizes[k - 1]]
    assert [sizes[k] for k in changes] == [middle, large]
    assert keys == [0, *changes]  # one key frame each
    assert changes[0] <= 30
    assert [f.reduced for f in frames] == [size < large for size in sizes]


LOADED = """
import json, sys
from pathlib import Path
from render import worker
worker.instags(worker.Look([Path(sys.argv[1])], "", None, None))
print(json.dumps([m for m in ("torch", "render.raster.backward", "scipy.optimize") if m in sys.modules]))
"""


def test_a_worker_holds_nothing_of_training(tmp_path: Path) -> None:
    save(procedural.person("anna"), tmp_path / "anna")
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path)], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


# ---- the worker process ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("avatars")
    save(procedural.person("anna"), place / "anna")
    return place


@pytest.fixture
async def engine(avatars: Path) -> AsyncIterator[RemoteEngine]:
    async with InstagSettings(avatars=(str(avatars),), background="#3c78c8").load() as remote:
        yield remote


@pytest.mark.usefixtures("no_leaked_tasks")
async def test_the_worker_paints_a_person_with_and_without_a_matte(engine: RemoteEngine) -> None:
    shown = {a.name: a for a in engine.avatars}
    assert "anna" in shown
    assert {path.parent.name for path in AVATARS.glob("*/manifest.json")} <= shown.keys()
    assert (shown["anna"].width, shown["anna"].height, shown["anna"].alpha) == (SIDE, SIDE, True)
    poster = cv2.imdecode(np.frombuffer(shown["anna"].poster, np.uint8), cv2.IMREAD_COLOR)
    assert poster.shape == (SIDE, SIDE, 3)
    now = anyio.current_time()
    plain = await engine.open("anna", "H264", now)
    matted = await engine.open("anna", "VP8", now, alpha=True)
    for renderer in (plain, matted):
        renderer.request_key()
        await renderer.attend(True)
        await renderer.push(speech(0.5), at_frame(12), 7)
    frames = await take(plain, 20)
    picture = decode("H264", [f.data for f in frames])[-1]
    rgb = cv2.cvtColor(picture.to_ndarray(format="yuv420p"), cv2.COLOR_YUV2RGB_I420)
    assert rgb.shape == (SIDE, SIDE, 3)
    assert np.abs(rgb[6:20, 6:20].reshape(-1, 3).mean(0) - BACKGROUND).max() <= 3
    assert (picture.color_range, picture.colorspace) == (1, 6)  # limited, BT.601: as it says in the stream
    assert {f.generation for f in frames} == {0, 7}
    assert not any(f.reduced for f in frames)
    below = decode("VP8", [f.data for f in await take(matted, 20)])[-1].to_ndarray(format="yuv420p")
    assert below.shape == (3 * SIDE, SIDE)
    assert below[SIDE + 4 : SIDE + 12, 4:12].max() <= 18
    assert below[SIDE + SIDE // 2, SIDE // 2] >= 230
    await plain.aclose()
    await matted.aclose()


@pytest.mark.usefixtures("no_leaked_tasks")
async def test_a_face_without_a_matte_is_not_shown_with_one(engine: RemoteEngine) -> None:
    engine.avatars = [a for a in engine.avatars if a.name == "anna"]
    object.__setattr__(engine.avatars[0], "alpha", False)
    with pytest.raises(StageError, match="has no matte"):
        await engine.open("anna", "H264", 0.0, alpha=True)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"background": "#12"}, "is no colour"),
        ({"background": "/nowhere/beach.jpg"}, "cannot be read"),
    ],
)
@pytest.mark.usefixtures("no_leaked_tasks")
async def test_what_cannot_be_set_up_is_told_in_a_sentence(
    avatars: Path, settings: dict[str, str], sentence: str
) -> None:
    with pytest.raises(StageError, match=sentence):
        async with InstagSettings(avatars=(str(avatars),), **settings).load():  # type: ignore[arg-type]
            pass


def test_sides_are_checked() -> None:
    for side in (0, 100, 513, 2048):
        with pytest.raises(ValueError, match="multiple of 16"):
            InstagSettings(side=side)
