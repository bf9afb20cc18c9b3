"""The size of the picture follows what the machine can do. All time is virtual."""

from itertools import pairwise

from render.pace import CALM_S, FRAMES, RELAPSE_S, Pace

SIDES = (512, 384, 256)


def run(
    pace: Pace, cost: dict[int, float], seconds: float, now: float = 0.0, calls: int = 1
) -> list[tuple[float, int]]:
    """Frame after frame at the cost of the side of the moment; every change of side, and when."""
    times = [now + k / 25 for k in range(round(seconds * 25))]
    return [(t, pace.side) for t in times if pace.took(cost[pace.side], calls, t)]


def test_a_quick_machine_keeps_the_full_size() -> None:
    pace = Pace(SIDES)
    assert run(pace, dict.fromkeys(SIDES, 0.020), 60) == []
    assert not pace.reduced


def test_a_few_slow_frames_do_not_matter() -> None:
    pace = Pace(SIDES)
    for k in range(500):
        assert not pace.took(0.2 if k % 25 in (3, 4) else 0.015, 1, k / 25)


def test_a_slow_machine_goes_down_within_a_second_or_two_and_stays() -> None:
    pace = Pace(SIDES)
    changes = run(pace, {512: 0.060, 384: 0.045, 256: 0.030}, 60)
    assert [side for _, side in changes] == [384, 256]
    assert changes[0][0] <= 1.0
    assert changes[1][0] <= 2.1
    assert pace.reduced


def test_calls_share_the_budget() -> None:
    cost = {512: 0.012, 384: 0.009, 256: 0.006}
    assert run(Pace(SIDES), cost, 20, calls=2) == []
    assert [side for _, side in run(Pace(SIDES), cost, 20, calls=4)][:1] == [384]


def test_after_a_calm_while_it_goes_up_again() -> None:
    pace = Pace(SIDES)
    run(pace, {512: 0.060, 384: 0.030, 256: 0.020}, 2)
    assert pace.side == 384
    quick = {512: 0.014, 384: 0.010, 256: 0.006}
    changes = run(pace, quick, 30, now=2)
    assert [side for _, side in changes] == [512]
    assert changes[0][0] >= 2 + CALM_S
    assert not pace.reduced


def test_it_does_not_go_up_and_down_for_ever() -> None:
    """Quick enough at 384 to hope for 512, but never quick enough there: each try is twice as long in coming."""
    pace = Pace(SIDES)
    changes = run(pace, {512: 0.036, 384: 0.013, 256: 0.006}, 300)
    ups = [now for now, side in changes if side == 512]
    gaps = [b - a for a, b in pairwise(ups)]
    assert 2 <= len(ups) <= 6
    assert all(b > 1.5 * a for a, b in pairwise(gaps[:3]))
    assert sum(side != 512 for _, side in changes) >= len(ups)


def test_one_size_is_never_changed() -> None:
    assert run(Pace((512,)), {512: 1.0}, 5) == []
    assert RELAPSE_S > FRAMES / 25
