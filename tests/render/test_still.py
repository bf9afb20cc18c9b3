"""The talking portrait's pictures, painted without a worker."""

import itertools
import math

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from render import portrait
from render.idle import Idle
from render.lips import PP, SIL
from render.portrait import Portrait
from render.score import Score
from render.still import CLOSE_FRAMES, MOVED, StillPainter
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
    return luma(picture)[person.luma.mouth]


def test_both_people_are_there() -> None:
    assert portrait.names() == ["leo", "mia"]


def test_a_portrait_is_complete(person: Portrait) -> None:
    assert person.poster[:2] == b"\xff\xd8"
    y = person.luma
    assert len(y.skins) == len(y.insides) == len(VISEMES)
    assert person.eyelids == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert len(y.lids) == len(person.eyelids)
    # At its border the mouth's picture is the base, so that it has no edge.
    assert max(y.mask[0].max(), y.mask[-1].max(), y.mask[:, 0].max(), y.mask[:, -1].max()) == 0
    for side in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        assert (y.lids[side] == y.lids[0][side[1:]]).all()
        assert not y.gaze[side[1:]].any()
    assert 0.95 < y.gaze.max() <= 1


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


def photographs(person: Portrait) -> NDArray[np.float32]:
    """What the lips of each viseme must look like: its photograph within the mask. (16, h, w), luma."""
    folder = portrait.FOLDER / person.name
    sheet = msgspec.json.decode((folder / "portrait.json").read_bytes(), type=portrait.Sheet)
    stored = cv2.imread(str(folder / "mouths.webp"), cv2.IMREAD_COLOR)
    assert stored is not None
    plane = person.luma
    pictures = stored.reshape(len(sheet.mouths), *plane.mask.shape, 3)
    base = plane.base[plane.mouth]
    return np.stack(
        [base + (portrait.planes_of(pictures[sheet.mouths.index(v)])[0] - base) * plane.mask for v in VISEMES]
    )


def plain(canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The luma canvas at the picture's size."""
    return portrait.halve(canvas.astype(np.float32))


def test_a_pure_viseme_is_its_photograph(person: Portrait) -> None:
    painter = StillPainter(person, Score(), 1)
    for viseme, photograph in enumerate(photographs(person)):
        painter._paint_mouth(np.eye(len(VISEMES))[viseme])
        error = np.abs(plain(painter._canvases[0])[person.luma.mouth] - photograph)
        assert error.mean() < 0.6
        assert np.percentile(error, 99.5) < 8


def test_what_is_behind_the_lips_is_not_seen_through_them(person: Portrait) -> None:
    """Halfway between closed and wide open the teeth are as white as those of the open mouth: no lips over them."""
    painter = StillPainter(person, Score(), 1)
    teeth = []
    for closed in (0.0, 0.5):
        mixture = np.zeros(len(VISEMES))
        mixture[VISEMES.index("aa")], mixture[PP] = 1 - closed, closed
        painter._paint_mouth(mixture)
        teeth.append(np.percentile(plain(painter._canvases[0])[person.luma.mouth][person.luma.hole], 95))
    assert teeth[1] > teeth[0] - 12


def test_the_teeth_stay_while_the_lips_move(person: Portrait) -> None:
    jaw = person.jaw
    for viseme in range(len(VISEMES)):
        lower = float(jaw.lower_teeth[viseme])
        rows = jaw.unfolded(lower)
        above = np.arange(len(rows)) <= jaw.upper_teeth
        assert (rows[above] == np.arange(len(rows))[above]).all()
        assert (np.diff(rows) >= 0).all()
        first = math.ceil(max(lower, jaw.upper_teeth) + 0.01)  # the lower teeth's own, below the upper ones
        assert rows[first] == pytest.approx(first + jaw.reference - lower, abs=0.01)
        if lower > jaw.upper_teeth + 4:
            there_and_back = np.interp(rows, np.arange(len(rows)), jaw.folded(lower))
            inside = rows < len(rows) - 1
            assert there_and_back[inside] == pytest.approx(np.arange(len(rows))[inside], abs=1.0)


def test_closures_look_closed(person: Portrait) -> None:
    """The frame of a `p` between two `a` must look like the photograph of `PP`, not like a half-open mouth."""
    pure = photographs(person)[[PP, VISEMES.index("aa")]]
    score = Score()
    say(score, 0)
    painter = StillPainter(person, score, 1)
    nearest = []
    for k in range(15):
        painter.paint(k)
        shown = plain(painter._canvases[0])[person.luma.mouth]
        nearest.append([np.abs(shown - p).mean() for p in pure])
    table = np.array(nearest)
    assert table[:, 0].min() < 0.6  # some frame is the closed mouth
    apart = np.abs(pure[0] - pure[1]).mean()
    assert table[:, 1].min() < 0.35 * apart  # and some frame is nearly the open one


def test_painting_a_mouth_changes_nothing_outside_it(person: Portrait) -> None:
    score = Score()
    say(score, 0)
    painter = StillPainter(person, score, 1)
    untouched = [canvas.copy() for canvas in painter._canvases]
    for k in range(60):  # a blink too
        painter.paint(k)
        for canvas, before, plane in zip(
            painter._canvases, untouched, (person.luma, person.chroma, person.chroma), strict=True
        ):
            times = len(canvas) // len(plane.base)
            changed = canvas != before
            for rows, columns in (plane.mouth, plane.eyes):
                changed[rows.start * times : rows.stop * times, columns.start * times : columns.stop * times] = False
            assert not changed.any()


def test_voice_that_comes_late_does_not_make_the_mouth_leap(person: Portrait) -> None:
    early, late = Score(), Score()
    say(early, 10 * FRAME_SAMPLES)
    ahead, behind = StillPainter(person, early, 1), StillPainter(person, late, 1)
    for k in range(20):
        if k == 10:
            say(late, 10 * FRAME_SAMPLES)  # only now, when it is heard
        ahead.paint(k)
        behind.paint(k)
        rest = behind._mouth_shown[SIL]
        if k == 10:
            assert ahead._mouth_shown[SIL] + 0.2 < rest < 0.95
        if k >= 12:
            assert rest == ahead._mouth_shown[SIL]


def test_the_whole_person_moves_and_the_backdrop_does_not(person: Portrait) -> None:
    stored = cv2.imread(str(portrait.FOLDER / person.name / "base.webp"), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    still = np.ones(stored.shape[:2], bool)
    for place in MOVED:
        still[place] = False
    assert not stored[still][:, 3].any()
    painter = StillPainter(person, Score(), 5)
    first, later = painter.paint(0), painter.paint(60)
    assert (luma(first)[still] == person.luma.base[still]).all()
    assert (luma(later)[still] == person.luma.base[still]).all()
    assert (first != later).any()
    # Where the two meet nothing is torn: the picture is as smooth there as beside it.
    rows = np.abs(np.diff(luma(later), axis=0)).mean(1)
    assert rows[391] < 1.5 * rows[380:404].mean()
    columns = np.abs(np.diff(luma(later)[:392], axis=1)).mean(0)
    assert columns[87] < 1.5
    assert columns[423] < 1.5


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


def test_the_eyes_rest_on_the_person_and_leap() -> None:
    idle = Idle(3)
    looks = np.array([((m := idle.at(k, 0.0)).gaze_x, m.gaze_y) for k in range(25 * 120)])
    leaps = np.flatnonzero(np.abs(np.diff(looks, axis=0)).sum(1))
    assert 40 < len(leaps) < 200  # in two minutes
    assert np.abs(looks).max() < 2.5  # the white stays on both sides of an iris
    assert (np.abs(looks[:, 0]) < 1.2).mean() > 0.75
    assert (np.abs(looks[:, 0]) > 1.5).any()


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
