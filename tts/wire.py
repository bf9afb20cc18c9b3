"""What a voice's worker and the server say to each other."""

import msgspec


class Say(msgspec.Struct, tag="say", frozen=True):
    """Server -> worker: one clause. One session says one clause; End takes it back."""

    text: str
    voice: str
    """a voice of the worker's own; never empty"""
    pace: float
    """flite: times the voice's own pace; espeak-ng: words per minute"""
    pitch: int = 50
    """0 to 100; espeak-ng only"""


class Piece(msgspec.Struct, tag="piece", frozen=True):
    """Worker -> server: the next piece of the session's clause."""

    pcm: bytes
    """s16le mono at the worker's rate"""
    phones: list[tuple[str, int, int]]
    """the voice's own symbol, start and end in samples of this piece; they cover it without a gap"""
    words: list[tuple[int, int, int, int]]
    """first and one past the last character in Say.text, start and end in samples from the piece's first;
    a word comes with the piece in which it ends, so its start may be negative"""
    last: bool


class About(msgspec.Struct, frozen=True):
    """What a worker says of itself in its Hello."""

    rate: int
    """Hz"""
    voices: list[str]
    languages: list[str]
    """primary subtags"""
    defaults: dict[str, str] = {}
    """the voice for each of the languages, where the worker has several"""
