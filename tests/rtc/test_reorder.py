"""The microphone's reorder buffer, on virtual time."""

import random

from hypothesis import given
from hypothesis import strategies as st

from server.rtc.aiortc_fixes import ReorderBuffer

PACKET_S = 0.02


def play(arrivals: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """(when, number) of what comes out; the buffer's deadlines are kept as its owner keeps them."""
    buffer: ReorderBuffer[int] = ReorderBuffer()
    out: list[tuple[float, int]] = []
    for now, number in sorted(arrivals):
        while (deadline := buffer.deadline()) is not None and deadline <= now:
            out += [(deadline, n) for n in buffer.expire(deadline)]
        out += [(now, n) for n in buffer.push(number & 0xFFFF, number, now)]
    while (deadline := buffer.deadline()) is not None:
        out += [(deadline, n) for n in buffer.expire(deadline)]
    return out


def test_in_order_everything_goes_on_at_once() -> None:
    arrivals = [(i * PACKET_S, 65_500 + i) for i in range(100)]
    assert play(arrivals) == arrivals


def test_what_is_only_late_is_put_back_in_its_place() -> None:
    out = play([(0.00, 0), (0.02, 2), (0.03, 1), (0.04, 3)])
    assert [n for _, n in out] == [0, 1, 2, 3]
    assert out[1:3] == [(0.03, 1), (0.03, 2)]


def test_a_hole_is_given_up_after_three_newer_packets() -> None:
    out = play([(0.00, 0), (0.04, 2), (0.06, 3), (0.08, 4), (0.10, 5)])
    assert out == [(0.00, 0), (0.08, 2), (0.08, 3), (0.08, 4), (0.10, 5)]


def test_a_hole_is_given_up_after_60_ms_though_nothing_more_comes() -> None:
    out = play([(0.00, 0), (0.04, 2)])
    assert out == [(0.00, 0), (0.04 + 0.06, 2)]


def test_the_delay_is_gone_when_the_hole_is() -> None:
    """5 % random loss: nothing but the lost is missing, and what comes out of no hole's shadow is not delayed."""
    chance = random.Random(5)
    sent = [(i * PACKET_S, i) for i in range(20_000)]
    arrived = [(t, i) for t, i in sent if chance.random() >= 0.05]
    out = play(arrived)
    assert [i for _, i in out] == [i for _, i in arrived]
    lost = {i for _, i in sent} - {i for _, i in arrived}
    for when, i in out:
        delay = when - i * PACKET_S
        assert delay <= 0.06 + 1e-9
        if not lost & set(range(i - 4, i)):
            assert delay == 0


def test_a_new_beginning_of_the_numbers_is_followed() -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    assert buffer.push(10, "a", 0.0) == ["a"]
    assert buffer.push(12, "c", 0.02) == []
    assert buffer.push(40_000, "x", 0.04) == ["c", "x"]
    assert buffer.push(40_001, "y", 0.06) == ["y"]


def test_counts() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer()
    for number in (0, 2, 3, 4, 1, 4, 5):
        buffer.push(number, number, 0.0)
    assert (buffer.lost, buffer.late) == (1, 2)


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.floats(0, 0.1)), max_size=200))
def test_holds_at_most_three_whatever_comes(packets: list[tuple[int, float]]) -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer()
    now, out = 0.0, 0
    for number, step_s in packets:
        now += step_s
        out += len(buffer.push(number, number, now))
        assert len(buffer._waiting) < 3
        deadline = buffer.deadline()
        assert deadline is None or now < deadline <= now + 0.06
    out += len(buffer.expire(now + 1))
    assert out + buffer.late == len(packets)
