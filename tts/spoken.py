"""What a voice is given to say, and which characters of the clause's text each of its characters stands for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spoken:
    """`$5` may be said as `five dollars`: then each of those characters stands for both of `$5`."""

    text: str
    starts: tuple[int, ...]
    """for each character, the first character of the clause's text that it stands for"""
    ends: tuple[int, ...]
    """... and one past the last"""

    @staticmethod
    def plain(text: str) -> "Spoken":
        """Every character stands for itself."""
        return Spoken(text, tuple(range(len(text))), tuple(range(1, len(text) + 1)))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The clause's characters that text[start:end] stands for; not empty."""
        return min(self.starts[start:end]), max(self.ends[start:end])
