"""Scripted stand-ins at the seams, for tests on virtual time; the contract tests run on them too."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

import anyio
import numpy as np

from server.core.clock import MediaClock
from server.core.errors import StageError
from server.core.history import History, Message
from server.core.media import (
    FRAME_SAMPLES,
    MEDIA_RATE,
    MIC_FRAME_BYTES,
    MIC_FRAME_SAMPLES,
    AvatarInfo,
    Clause,
    EncodedFrame,
    MicFrame,
    Persona,
    Samples,
    Speech,
    Token,
    Transcript,
    Voice,
)
from server.core.tools import NOTHING, ToolCall, ToolOffer
from tts.tone import Tone, ToneSettings

# Loud and restless, as a voice is: steady sound is no speech to the voice gate.
VOICED = tuple(
    np.tile(np.array([level, -level], "<i2"), MIC_FRAME_SAMPLES // 2).tobytes()
    for level in (6000, 12000, 3500, 9000, 5000)
)
QUIET = bytes(MIC_FRAME_BYTES)
FRAME_S = 0.02
LEAD_S = 0.05  # how long before it is due a picture is painted


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
    """Opens sessions that hear the given texts."""

    languages: Sequence[str] = ("en", "zh")

    def __init__(self, *texts: str, answer_s: float = 0.02) -> None:
        self.words: tuple[str, ...] = ()
        """hot words of the latest call"""
        self._texts = texts
        self._answer_s = answer_s

    async def open(self, language: str, words: Sequence[str] = ()) -> "FakeAsrSession":
        self.words = tuple(words)
        return FakeAsrSession(*self._texts, answer_s=self._answer_s)


class FakeAsrSession:
    """Hears the given texts, one an utterance, three words a second of voice."""

    def __init__(self, *texts: str, answer_s: float = 0.02) -> None:
        self._texts = list(texts)
        self._answer_s = answer_s
        self._voiced = 0
        self._partial: Transcript | None = None
        self._changed = anyio.Event()
        self._closed = False

    def _so_far(self) -> str:
        words = self._texts[0].split() if self._texts else []
        return " ".join(words[: int(self._voiced * FRAME_S * 3 + 0.5)])

    async def push(self, pcm16k: bytes) -> None:
        before = self._so_far()
        self._voiced += pcm16k != QUIET
        if self._so_far() != before:
            self._partial = Transcript(self._so_far(), len(before))
            self._changed.set()

    async def partials(self) -> AsyncGenerator[Transcript, None]:
        while not self._closed:
            if self._partial is None:
                self._changed = anyio.Event()
                await self._changed.wait()
            else:
                partial, self._partial = self._partial, None
                yield partial

    async def provisional(self) -> Transcript:
        text = self._so_far()
        await anyio.sleep(self._answer_s)
        return Transcript(text)

    async def commit(self) -> Transcript:
        text = self._so_far()
        self._next(bool(text))
        await anyio.sleep(self._answer_s)
        return Transcript(text, len(text), final=True)

    async def drop(self) -> None:
        self._next(False)

    def _next(self, heard: bool) -> None:
        if heard:
            del self._texts[0]
        self._voiced = 0
        self._partial = None

    async def aclose(self) -> None:
        self._closed = True
        self._changed.set()


@dataclass
class FakeLlm:
    """Answers with the given texts in turn, word by word; `StageError`s in their place are raised there."""

    answers: list[list[str | StageError | float | ToolCall]]
    """pieces: text, an error to raise, seconds to wait, or a function that it wants called"""
    asked: list[list[tuple[str, str]]] = field(default_factory=list)
    """the messages of each request"""
    finished: int = 0
    closed: int = 0
    """streams that were closed before their end"""
    warmed: int = 0
    history_tokens: int = 0
    offers: list[ToolOffer] = field(default_factory=list)
    prompts: list[list[Message]] = field(default_factory=list)
    systems: list[str] = field(default_factory=list)
    """the persona's system prompt of each request"""
    cost: tuple[int, int, int] = (0, 0, 0)
    """tokens that each request takes: of the prompt, those known of it, of the answer"""

    async def reply(
        self, history: History, persona: Persona, offer: ToolOffer = NOTHING
    ) -> AsyncGenerator[Token, None]:
        self.asked.append(list(history.messages()))
        self.offers.append(offer)
        self.prompts.append(history.prompt())
        self.systems.append(persona.system_prompt)
        if any(self.cost):
            history.spent.add(*self.cost)
        pieces = self.answers[min(len(self.asked), len(self.answers)) - 1]
        ended = False
        try:
            for piece in pieces:
                if isinstance(piece, StageError):
                    ended = True
                    raise piece
                if isinstance(piece, float):
                    await anyio.sleep(piece)
                elif isinstance(piece, ToolCall):
                    yield Token("", piece)
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
    closed: int = 0
    """clauses whose iterator was closed before its end"""
    _tone: Tone = field(default_factory=lambda: Tone(ToneSettings(rate=MEDIA_RATE, characters_per_s=20)))
    _next: int = 0

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        ended = False
        try:
            await anyio.sleep(self.first_s)
            if self.fails:
                ended = True
                raise StageError("tts", "tts_broken", "it was asked to fail")
            self.said.append(clause.text)
            async for piece in self._tone.say(clause, voice):
                yield replace(piece, pcm=self._ramp(piece.samples)) if any(piece.pcm) else piece
            ended = True
        finally:
            self.closed += not ended

    def _ramp(self, samples: int) -> bytes:
        # Loud throughout, so that trimming leaves it alone; unique, so that a lost sample is noticed.
        ramp = 1000 + (np.arange(self._next, self._next + samples) % 30000)
        self._next += samples
        return ramp.astype("<i2").tobytes()


@dataclass
class FakeRenderEngine:
    """Faces without a picture."""

    avatars: Sequence[AvatarInfo] = (AvatarInfo("nobody", 64, 64, poster=b"\xff\xd8\xff\xd9"),)

    async def open(self, avatar: str, codec: str, origin_s: float, alpha: bool = False) -> "FakeRenderer":
        if avatar not in [a.name for a in self.avatars]:
            raise StageError("render", "unknown_avatar", f"there is no avatar {avatar!r}", retryable=False)
        if codec not in ("H264", "VP8"):
            raise StageError("render", "unknown_codec", f"video does not come as {codec!r}", retryable=False)
        return FakeRenderer(origin_s, alpha)


@dataclass
class FakeRenderer:
    """Remembers what it was told. Its frames are empty, but come on time and know whose voice is heard."""

    origin_s: float = 0.0
    alpha: bool = False
    attended: list[bool] = field(default_factory=list)
    pushed: list[tuple[Speech, Samples, int]] = field(default_factory=list)
    cuts: list[Samples] = field(default_factory=list)
    keys: int = 0
    _heard: list[tuple[int, int, int]] = field(default_factory=list)
    """(first sample, one past the last, generation)"""
    _key: bool = False
    _closed: bool = False
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _over: anyio.Event = field(default_factory=anyio.Event)

    async def push(self, speech: Speech, at: Samples, generation: int) -> None:
        self.pushed.append((speech, at, generation))
        self._heard.append((at, at + speech.samples, generation))

    async def cut(self, at: Samples) -> None:
        self.cuts.append(at)
        self._heard = [(start, min(end, at), generation) for start, end, generation in self._heard if start < at]

    async def attend(self, hearing: bool) -> None:
        self.attended.append(hearing)

    async def packets(self) -> AsyncGenerator[EncodedFrame, None]:
        await self._changed.wait()  # for the first key frame, or the end
        clock = MediaClock(self.origin_s)
        index = max(clock.at(anyio.current_time()) // FRAME_SAMPLES, 0)
        while not self._closed:
            start = Samples(index * FRAME_SAMPLES)
            with anyio.move_on_at(clock.due(start) - LEAD_S):
                await self._over.wait()
            if self._closed:
                return
            key, self._key = self._key, False
            yield EncodedFrame(index, b"frame", key, self._generation(start), anyio.current_time())
            index += 1

    def _generation(self, start: int) -> int:
        heard = [g for first, end, g in self._heard if first < start + FRAME_SAMPLES and end > start]
        return heard[-1] if heard else 0

    def request_key(self) -> None:
        self.keys += 1
        self._key = True
        self._changed.set()

    async def aclose(self) -> None:
        self._closed = True
        self._changed.set()
        self._over.set()
