"""Cutting a clause into pieces while it is made: nothing is lost, nothing comes twice."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tts.pieces import Cutter
from tts.wire import Piece

RATE = 1000  # one sample is a millisecond: pieces of 200


@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=30),
    chunk=st.integers(1, 500),
    behind=st.integers(0, 900),
)
def test_pieces_join_to_the_clause(lengths: list[int], chunk: int, behind: int) -> None:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    total = sum(lengths)
    pcm = b"".join(i.to_bytes(2, "little") for i in range(total))
    out: list[Piece] = []
    cutter = Cutter(RATE, out.append)
    told = 0
    for made in range(0, total, chunk):
        end = min(made + chunk, total)
        while told < len(lengths) and starts[told] <= end:  # as they come, in order
            cutter.phone(str(told), starts[told])
            told += 1
        cutter.feed(pcm[2 * made : 2 * end], settled=max(end - behind, 0))
    for i in range(len(lengths)):
        cutter.word(i, i + 1, starts[i], starts[i] + lengths[i])
    cutter.finish()

    assert b"".join(piece.pcm for piece in out) == pcm
    assert [piece.last for piece in out] == [False] * (len(out) - 1) + [True]
    at = 0
    covered: dict[str, list[tuple[int, int]]] = {}
    words = []
    for piece in out:
        samples = len(piece.pcm) // 2
        assert samples <= 400
        assert piece.phones[0][1] == 0
        assert piece.phones[-1][2] == samples
        for symbol, start, end in piece.phones:
            covered.setdefault(symbol, []).append((at + start, at + end))
        words += [(first, at + start, at + end) for first, _, start, end in piece.words]
        assert all(end <= samples for *_, end in piece.words)
        at += samples
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        stretches = covered[str(i)]
        assert (stretches[0][0], stretches[-1][1]) == (start, start + length)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(stretches))
        if 100 <= length <= 200:
            assert len(stretches) == 1, "a phone of ordinary length is not cut"
    assert words == [
        (i, start, start + length) for i, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


def test_a_word_comes_with_the_piece_in_which_it_ends() -> None:
    out: list[Piece] = []
    cutter = Cutter(RATE, out.append)
    for start in (0, 150, 300, 450):
        cutter.phone("x", start)
    cutter.word(0, 5, 0, 300)
    cutter.word(6, 9, 300, 600)
    cutter.feed(bytes(2 * 600))
    cutter.finish()
    assert [piece.words for piece in out] == [[], [(0, 5, -150, 150)], [], [(6, 9, -150, 150)]]


def test_nothing_beyond_the_settled_is_let_go() -> None:
    out: list[Piece] = []
    cutter = Cutter(RATE, out.append)
    cutter.phone("a", 0)
    cutter.feed(bytes(2 * 900), settled=100)
    assert not out
    cutter.phone("b", 120)
    cutter.feed(b"", settled=900)
    assert out[0].phones == [("a", 0, 120)]
