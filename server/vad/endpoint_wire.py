"""What the server and the worker that listens for the ends of turns say to each other."""

import msgspec


class Audio(msgspec.Struct, tag="audio", frozen=True):
    """Server -> worker: the next frame of a call's microphone."""

    at: int
    """samples of this call before it"""
    pcm: bytes
    """s16le mono 16 kHz"""


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """Server -> worker: has the person finished? A call's newer question takes the older one's place."""

    request: int
    seconds: float
    """how much of the sound before this message is the turn's"""


class Judged(msgspec.Struct, tag="judged", frozen=True):
    """Worker -> server: whether a window of 32 ms was speech."""

    start: int
    end: int
    """samples of this call"""
    speech: float
    """probability"""


class Answer(msgspec.Struct, tag="answer", frozen=True):
    """Worker -> server."""

    request: int
    finished: float | None
    """probability; None: it could not be told"""


ToEndpointer = Audio | Ask
FromEndpointer = Judged | Answer
