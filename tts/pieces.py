"""Cuts a clause, while it is being made, into pieces that begin and end where a phone does."""

from collections import deque
from collections.abc import Callable

from server.core.media import SAMPLE_BYTES
from tts.wire import Piece

PIECE_S = 0.2


class Cutter:
    """One clause's sound and timings in, Pieces out. Positions are samples from the clause's beginning."""

    def __init__(self, rate: int, send: Callable[[Piece], None]) -> None:
        self._send = send
        self._longest = int(rate * PIECE_S)
        self._pcm = bytearray()
        self._at = 0  # where _pcm begins
        self._phones: deque[tuple[str, int]] = deque()  # symbol and start; each lasts until the next
        self._words: deque[tuple[int, int, int, int]] = deque()

    def phone(self, symbol: str, start: int) -> None:
        """A phone begins; in order of time."""
        self._phones.append((symbol, start))

    def word(self, char_start: int, char_end: int, start: int, end: int) -> None:
        self._words.append((char_start, char_end, start, end))

    def feed(self, pcm: bytes, settled: int | None = None) -> None:
        """The next sound. settled: no phone or word that is still to come begins or ends before it; None: any."""
        self._pcm += pcm
        made = self._made()
        self._cut_until(made if settled is None else min(settled, made), self._longest)

    def finish(self) -> None:
        """The clause is complete."""
        made = self._made()
        self._cut_until(made, self._longest + 1)
        self._cut(made, last=True)

    def _made(self) -> int:
        return self._at + len(self._pcm) // SAMPLE_BYTES

    def _cut_until(self, settled: int, least: int) -> None:
        """Cut off what has its final timings, while there is at least so much of it."""
        while settled - self._at >= least and (end := self._boundary(settled)) is not None:
            self._cut(end, last=False)

    def _boundary(self, settled: int) -> int | None:
        """Where the next piece ends: the last beginning of a phone in the second half of the usual length, or the
        first one after it, up to double the length (a diphthong moves the mouth once). None: not known yet."""
        usual, longest = self._at + self._longest, self._at + 2 * self._longest
        starts = [start for _, start in self._phones if self._at + self._longest // 2 <= start <= settled]
        within = [start for start in starts if start <= usual]
        if within:
            return within[-1]
        if starts and starts[0] <= longest:
            return starts[0]
        return usual if settled >= longest else None

    def _cut(self, end: int, last: bool) -> None:
        length = end - self._at
        phones = []
        while self._phones and self._phones[0][1] < end:
            symbol, start = self._phones[0]
            over = self._phones[1][1] if len(self._phones) > 1 else end + 1
            if min(over, end) > max(start, self._at):
                phones.append((symbol, max(start, self._at) - self._at, min(over, end) - self._at))
            if over > end:
                break  # it goes on in the next piece
            self._phones.popleft()
        words = []
        while self._words and (last or self._words[0][3] <= end):
            first, past, start, stop = self._words.popleft()
            start, stop = min(start, end), min(stop, end)
            if stop > start:
                words.append((first, past, start - self._at, stop - self._at))
        self._send(Piece(bytes(self._pcm[: length * SAMPLE_BYTES]), phones, words, last))
        del self._pcm[: length * SAMPLE_BYTES]
        self._at = end
