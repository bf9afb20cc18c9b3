"""The talking portrait's pictures, painted without a worker."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from render import portrait
from render.idle import Idle
from render.lips import PP, SIL
from render.portrait import Portrait
from render.score import Score
from render.still import CLOSE_FRAMES, StillPainter
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, VISEMES
from tests.render.test_lips import phones

SPEECH = phones(("aa", 0.2), ("PP", 0.08), ("aa", 0.2), ("SS", 0.1), ("oh", 0.2), ("FF", 0.1), ("EE", 0.2))


@pytest.fixture(scope="module", params=portrait.names())
def person(request: pytest.FixtureRequest) -> Portrait:
    return portrait.load(request.param)


def say(score: Score, at: int, seconds: float = 1.08, generation: int = 1) -> None:
    t = np.arange(round(seconds * MEDIA_RATE))
    score.push(at, generation, (9000 * np.sin(t / 30)).astype(np.int16), SPEECH)


def luma(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    return picture[:512].astype(np.int64)


def lips(picture: NDArray[np.uint8], person: Portrait) -> NDArray[np.int64]:
    return luma(picture)[person.planes[0].mouth]


def test_both_people_are_there() -> None:
    assert portrait.names() == ["leo", "mia"]


def test_a_portrait_is_complete(person: Portrait) -> None:
    assert person.poster[:2] == b"\xff\xd8"
    y = person.planes[0]
    assert len(y.textures) == len(VISEMES)
    # At its border the mouth's picture is the base, so that it has no edge.
    assert max(y.mask[0].max(), y.mask[-1].max(), y.mask[:, 0].max(), y.mask[:, -1].max()) == 0
    assert not any(edge.any() for edge in (y.lids[:, 0], y.lids[:, -1], y.lids[:, :, 0], y.lids[:, :, -1]))
    # The reference is in its own frame already.
    assert np.abs(y.leftovers[VISEMES.index("aa")]).max() < 1


def test_the_same_seed_paints_the_same_and_another_seed_does_not(person: Portrait) -> None:
    def run(seed: int) -> list[NDArray[np.uint8]]:
        score = Score()
        say(score, 20 * FRAME_SAMPLES)
        painter = StillPainter(person, score, seed)
        return [painter.paint(k) for k in range(0, 60, 6)]

    first, again, other = run(1), run(1), run(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[-1], other[-1])


def test_idle_never_jumps_and_never_stands_still_for_long(person: Portrait) -> None:
    painter = StillPainter(person, Score(), 5)
    pictures = [luma(painter.paint(k)) for k in range(150)]
    steps = np.array([np.abs(b - a).mean() for a, b in itertools.pairwise(pictures)])
    assert steps.max() < 1.2  # a blink is the fastest thing there is
    second = np.array([np.abs(b - a).mean() for a, b in zip(pictures, pictures[25:], strict=False)])
    assert second.min() > 0.05


def test_the_mouth_rests_in_silence(person: Portrait) -> None:
    painter = StillPainter(person, Score(), 5)
    assert all(painter.mouth(k)[SIL] == 1.0 for k in range(100))


def test_closures_look_closed(person: Portrait) -> None:
    """The frame of a `p` between two `a` must look like the photograph of `PP`, not like a half-open mouth."""
    plane = person.planes[0]
    pure = np.stack([np.clip(base_and(plane, v), 0, 255) for v in (PP, VISEMES.index("aa"))])
    score = Score()
    say(score, 0)
    painter = StillPainter(person, score, 1)
    nearest = []
    for k in range(15):
        painter.paint(k)
        shown = painter._canvases[0][plane.mouth].astype(float)
        nearest.append([np.abs(shown - p).mean() for p in pure])
    table = np.array(nearest)
    assert table[:, 0].min() < 0.6  # some frame is the closed mouth
    apart = np.abs(pure[0] - pure[1]).mean()
    assert table[:, 1].min() < 0.35 * apart  # and some frame is nearly the open one


def base_and(plane: portrait.Plane, viseme: int) -> NDArray[np.float32]:
    """What a pure viseme must look like: its photograph within the mask."""
    warped = portrait.warp(plane.textures[viseme], plane.grid + plane.back[viseme], 1)
    own = warped + plane.leftovers[viseme]
    base = plane.base[plane.mouth]
    out: NDArray[np.float32] = base + (own - base) * plane.mask
    return out


def test_painting_a_mouth_changes_nothing_outside_it(person: Portrait) -> None:
    score = Score()
    say(score, 0)
    painter = StillPainter(person, score, 1)
    for k in range(20):
        painter.paint(k)
        for canvas, plane in zip(painter._canvases, person.planes, strict=True):
            changed = canvas != plane.base
            changed[plane.mouth] = False
            changed[plane.eyes] = False
            assert not changed.any()


def test_a_cut_closes_the_mouth_over_four_frames(person: Portrait) -> None:
    score = Score()
    say(score, 0)
    painter = StillPainter(person, score, 1)
    open_at = next(k for k in range(25) if painter.mouth(k)[VISEMES.index("aa")] > 0.6)
    before = painter.mouth(open_at)
    painter.cut(open_at)
    score.cut(open_at * FRAME_SAMPLES)
    rest = [painter.mouth(open_at + k)[SIL] for k in range(8)]
    assert rest == sorted(rest)
    assert before[SIL] < rest[0] < 0.5  # not at once
    assert rest[CLOSE_FRAMES] > 0.9
    assert rest[-1] > 0.99


def test_speech_may_be_cut_before_it_begins_and_pushed_elsewhere(person: Portrait) -> None:
    score = Score()
    painter = StillPainter(person, score, 1)
    say(score, 50 * FRAME_SAMPLES, generation=3)
    assert score.generation(55) == 3
    painter.cut(0)
    score.cut(0)
    assert all(painter.mouth(k)[SIL] > 0.99 for k in range(100))
    say(score, 70 * FRAME_SAMPLES, generation=3)
    assert [score.generation(k) for k in (55, 69, 70, 96, 97)] == [0, 0, 3, 3, 0]
    assert painter.mouth(72)[SIL] < 0.2


def test_blinks_are_natural() -> None:
    idle = Idle(11)
    lids = np.array([idle.at(k, 0.0).lids for k in range(25 * 120)])
    shut = lids > 0.15
    starts = np.flatnonzero(shut[1:] & ~shut[:-1])
    assert 15 <= len(starts) <= 60  # in two minutes
    lengths = [int(np.argmin(shut[s + 1 :])) for s in starts]
    assert max(lengths) <= 7  # frames
    assert lids.max() > 0.9
    gaps = np.diff(starts) / 25
    assert gaps.min() > 0.25
    assert gaps.max() < 7


def test_idle_motion_is_small_smooth_and_livelier_in_speech() -> None:
    def track(loud: float) -> NDArray[np.float64]:
        idle = Idle(4)
        return np.array([[(m := idle.at(k, loud)).x, m.y, m.yaw, m.pitch, m.roll] for k in range(25 * 60)])

    still, lively = track(0.0), track(0.8)
    for motion in (still, lively):
        assert np.abs(motion).max() < 6
        assert np.abs(np.diff(motion, axis=0)).max() < 0.5  # pixels a frame
    assert np.abs(np.diff(lively, axis=0)).mean() > 1.5 * np.abs(np.diff(still, axis=0)).mean()


def test_the_pose_does_not_depend_on_frames_left_out() -> None:
    every, some = Idle(9), Idle(9)
    full = [every.at(k, 0.3) for k in range(200)]
    assert [some.at(k, 0.3) for k in range(0, 200, 7)] == full[::7]


def test_the_score_forgets_what_is_over_and_refuses_too_much() -> None:
    score = Score()
    say(score, 0)
    say(score, 100 * FRAME_SAMPLES)
    score.forget(100 * FRAME_SAMPLES)
    assert [p.at for p in score.pieces] == [100 * FRAME_SAMPLES]
    assert not score.push(0, 1, np.zeros(3600 * MEDIA_RATE, np.int16))
    assert len(score.pieces) == 1
