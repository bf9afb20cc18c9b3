"""Real voices in real workers, and a way to hear a whole clause."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import groupby

import numpy as np
import pytest

from server.core.errors import StageError
from server.core.media import Clause, Phone, Speech, Voice, Word
from server.core.protocols import Tts
from tts.espeak import EspeakSettings
from tts.flite import FliteSettings
from tts.remote import RemoteVoice


@pytest.fixture
async def flite() -> AsyncIterator[RemoteVoice]:
    try:
        async with FliteSettings().load() as voice:
            yield voice
    except StageError as error:
        if error.code != "worker_refused":
            raise
        pytest.skip(error.message)


@pytest.fixture
async def espeak() -> AsyncIterator[RemoteVoice]:
    async with EspeakSettings().load() as voice:
        yield voice


def clause(text: str, language: str = "en", raw: str | None = None) -> Clause:
    return Clause(0, text, text if raw is None else raw, language)


async def hear(tts: Tts, what: Clause, voice: Voice | None = None) -> list[Speech]:
    async with aclosing(tts.say(what, voice or Voice())) as pieces:
        return [piece async for piece in pieces]


def seconds(pieces: list[Speech]) -> float:
    return sum(piece.samples / piece.rate for piece in pieces)


def peak(pieces: list[Speech]) -> int:
    return max(int(np.abs(np.frombuffer(p.pcm, np.int16).astype(int)).max(initial=0)) for p in pieces)


def timeline(pieces: list[Speech]) -> tuple[list[Phone], list[Word]]:
    """Phones and words of the whole clause, counted from its first sample."""
    phones: list[Phone] = []
    words: list[Word] = []
    at = 0
    for piece in pieces:
        phones += [Phone(p.symbol, p.viseme, p.start + at, p.end + at) for p in piece.phones]
        words += [Word(w.char_start, w.char_end, w.start + at, w.end + at) for w in piece.words]
        at += piece.samples
    return phones, words


def said(pieces: list[Speech]) -> list[str]:
    """The clause's words as their timings point at them."""
    return [pieces[0].clause.raw[w.char_start : w.char_end] for w in timeline(pieces)[1]]


def spoken(pieces: list[Speech]) -> list[str]:
    """The clause's phones; one that two pieces share counts once."""
    return [symbol for symbol, _ in groupby(phone.symbol for phone in timeline(pieces)[0])]
