"""Scripted stand-ins at the seams, for tests on virtual time; the contract tests run on them too."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field

import anyio
import numpy as np

from server.core.errors import StageError
from server.core.history import History
from server.core.media import (
    MEDIA_RATE,
    MIC_FRAME_BYTES,
    MIC_FRAME_SAMPLES,
    Clause,
    EncodedFrame,
    MicFrame,
    Persona,
    Phone,
    Samples,
    Speech,
    Token,
    Transcript,
    Voice,
    Word,
)

# Loud and restless, as a voice is: steady sound is no speech to the voice gate.
VOICED = tuple(
    np.tile(np.array([level, -level], "<i2"), MIC_FRAME_SAMPLES // 2).tobytes()
    for level in (6000, 12000, 3500, 9000, 5000)
)
QUIET = bytes(MIC_FRAME_BYTES)
FRAME_S = 0.02


class ScriptedMicrophone:
    """Frames on time: voiced within the given spans of seconds (from its first frame on), else silence."""

    def __init__(self, *spans: tuple[float, float]) -> None:
        self._spans = spans
        self._origin: float | None = None
        self._count = 0

    def __aiter__(self) -> "ScriptedMicrophone":
        return self

    async def __anext__(self) -> MicFrame:
        if self._origin is None:
            self._origin = anyio.current_time()
        start = self._count * FRAME_S
        await anyio.sleep_until(self._origin + start + FRAME_S)
        self._count += 1
        voiced = any(a - 1e-9 <= start < b - 1e-9 for a, b in self._spans)
        return MicFrame(VOICED[self._count % len(VOICED)] if voiced else QUIET, anyio.current_time())


class FakeVad:
    def open(self) -> "FakeVad":
        return self

    def process(self, pcm: bytes) -> bool:
        return pcm != QUIET


class FakeAsr:
    """Hears the given texts, one an utterance, a word for every third of a second of voice."""

    languages: Sequence[str] = ("en", "zh")

    def __init__(self, *texts: str, answer_s: float = 0.02) -> None:
        self._texts = list(texts)
        self._answer_s = answer_s
        self._voiced = 0
        self._send, self._receive = anyio.create_memory_object_stream[Transcript](100)

    async def open(self, language: str) -> "FakeAsr":
        return self

    def _so_far(self) -> str:
        words = self._texts[0].split() if self._texts else []
        return " ".join(words[: int(self._voiced * FRAME_S * 3 + 0.5)])

    async def push(self, pcm16k: bytes) -> None:
        before = self._so_far()
        self._voiced += pcm16k != QUIET
        if self._so_far() != before:
            self._send.send_nowait(Transcript(self._so_far(), len(before)))

    async def partials(self) -> AsyncGenerator[Transcript, None]:
        async for transcript in self._receive:
            yield transcript

    async def provisional(self) -> Transcript:
        await anyio.sleep(self._answer_s)
        return Transcript(self._so_far())

    async def commit(self) -> Transcript:
        text = self._so_far()
        await anyio.sleep(self._answer_s)
        self._next(bool(text))
        return Transcript(text, len(text), final=True)

    async def drop(self) -> None:
        self._next(False)

    def _next(self, heard: bool) -> None:
        if heard and self._texts:
            del self._texts[0]
        self._voiced = 0

    async def aclose(self) -> None:
        self._send.close()
        self._receive.close()


@dataclass
class FakeLlm:
    """Answers with the given texts in turn, word by word; `StageError`s in their place are raised there."""

    answers: list[list[str | StageError | float]]
    """pieces: text, an error to raise, or seconds to wait"""
    asked: list[list[tuple[str, str]]] = field(default_factory=list)
    """the messages of each request"""
    finished: int = 0
    closed: int = 0
    """streams that were closed before their end"""
    warmed: int = 0

    async def reply(self, history: History, persona: Persona) -> AsyncGenerator[Token, None]:
        self.asked.append(list(history.messages()))
        pieces = self.answers[min(len(self.asked), len(self.answers)) - 1]
        ended = False
        try:
            for piece in pieces:
                if isinstance(piece, StageError):
                    ended = True
                    raise piece
                if isinstance(piece, float):
                    await anyio.sleep(piece)
                else:
                    for word in piece.split(" "):
                        await anyio.sleep(0.01)
                        yield Token(word + " ")
            ended = True
            self.finished += 1
        finally:
            self.closed += not ended

    async def warm(self) -> None:
        self.warmed += 1


@dataclass
class FakeTts:
    """A ramp of samples instead of a voice, so that each one can be told apart; 20 characters a second."""

    languages: Sequence[str] = ("*",)
    voices: Sequence[str] = ("fake",)
    first_s: float = 0.05
    fails: bool = False
    said: list[str] = field(default_factory=list)
    _next: int = 0

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        await anyio.sleep(self.first_s)
        if self.fails:
            raise StageError("tts", "tts_broken", "it was asked to fail")
        self.said.append(clause.text)
        samples = max(1, len(clause.text)) * MEDIA_RATE // 20
        # Loud throughout, so that trimming leaves it alone; unique, so that a lost sample is noticed.
        ramp = 1000 + (np.arange(self._next, self._next + samples) % 30000)
        self._next += samples
        words, at = [], 0
        for word in clause.raw.split():
            at = clause.raw.index(word, at)
            end = at + len(word)
            words.append(Word(at, end, at * samples // len(clause.raw), end * samples // len(clause.raw)))
            at = end
        yield Speech(clause, ramp.astype("<i2").tobytes(), MEDIA_RATE, (Phone("a", "aa", 0, samples),), tuple(words))


@dataclass
class FakeRenderer:
    """Remembers what it was told."""

    pushed: list[tuple[Speech, Samples, int]] = field(default_factory=list)
    cuts: list[Samples] = field(default_factory=list)
    keys: int = 0

    async def push(self, speech: Speech, at: Samples, generation: int) -> None:
        self.pushed.append((speech, at, generation))

    async def cut(self, at: Samples) -> None:
        self.cuts.append(at)

    async def packets(self) -> AsyncIterator[EncodedFrame]:
        await anyio.sleep_forever()
        yield EncodedFrame(0, b"", True)

    def request_key(self) -> None:
        self.keys += 1

    async def aclose(self) -> None:
        pass
