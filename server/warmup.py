"""The first sentence, said to nobody: voice -> ears -> language model -> voice -> face, before the server is ready.

What is loaded with the first use (a model's first batch, a connection, an encoder) is paid for here and not by the
first caller; what does not work is known before anybody calls. It leaves nothing behind: no history, no counts.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio
import av
import numpy as np

from server.config import Config
from server.core.chunker import Chunker
from server.core.clock import MediaClock
from server.core.errors import StageError
from server.core.history import History, Item
from server.core.media import (
    MEDIA_RATE,
    MIC_FRAME_BYTES,
    MIC_RATE,
    SAMPLE_BYTES,
    Clause,
    EncodedFrame,
    Persona,
    Samples,
    Speech,
    Voice,
)
from server.core.phrases import WARM_UP
from server.core.protocols import Renderer
from server.engines import Engines
from server.llm.openai_compatible import OpenAiLlm
from server.providers import Auto
from server.stages.speak import MediaRate
from tts.routed import RoutedTts

log = logging.getLogger(__name__)

STAGE_S = 20.0  # for one step; each has shorter limits of its own
RETRY_S = 3.0  # between two attempts: a server that is still loading needs longer than that
VOICE_S = 3.0  # seconds of voice that are made at each step
AHEAD_S = 0.2  # the voice is placed so far ahead of the face: as a call's is
FRAMES = 50  # pictures in which the voice must show

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Fault:
    """A stage that failed."""

    stage: str
    """as the table at the start names it"""
    message: str
    """a sentence"""
    fatal: bool
    """whether no call can be held without it"""
    retryable: bool = True


async def warm_up(config: Config, engines: Engines) -> list[Fault]:
    """One attempt, each stage at its turn; a failure spares no later one. Takes 5 * STAGE_S at most."""
    faults: list[Fault] = []
    persona = config.persona(next(iter(config.personas)))
    sentence = WARM_UP.get(persona.language, WARM_UP["en"])

    async def step(stage: str, fatal: bool, work: Awaitable[Result], otherwise: Result) -> Result:
        try:
            with anyio.fail_after(STAGE_S):
                return await work
        except StageError as error:
            faults.append(Fault(stage, error.message, fatal, error.retryable))
        except TimeoutError:
            faults.append(Fault(stage, f"It took longer than {STAGE_S:.0f} s.", fatal))
        except Exception:  # what breaks here need not break a call, and must not keep the server from starting
            log.exception("the warm-up broke at %s", stage)
            faults.append(Fault(stage, "It broke; the server's log says how.", fatal=False))
        return otherwise

    voice = Voice(engines.voice_for(persona), persona.speed)
    said = await step("speak", True, _say(engines, sentence, persona, voice), [])
    if any(piece.note for piece in said):
        reason = engines.tts.failure if isinstance(engines.tts, RoutedTts) else ""
        faults.append(Fault("speak", f"{reason} A spare voice speaks until it works.", fatal=False))
    heard = await step("transcribe", False, _hear(engines, persona.language, said), "")
    no_model = not isinstance(config.llm, Auto)  # where it was not asked for, calls get by without
    answer = await step("think", no_model, _think(engines, persona, heard or sentence), sentence)
    if said:
        said = await step("speak", True, _say(engines, answer, persona, voice), said)
    await step("face", False, _show(engines, persona, said), None)
    if isinstance(engines.llm, OpenAiLlm):
        await engines.llm.forget_usage()
    return faults


async def warmed_up(config: Config, engines: Engines, tell: Callable[[str], None]) -> tuple[list[Fault], str]:
    """Attempts until one shows that calls can be held, for `call.warm_up_s` seconds.

    The faults that are left, each with something that steps in; and, if there is one without, a sentence: the server
    cannot be used then. tell: is given a sentence for each fault as it is found.
    """
    limit_s = config.call.warm_up_s
    if not limit_s:
        return [], ""
    deadline = anyio.current_time() + limit_s
    told: set[str] = set()
    while True:
        faults = await warm_up(config, engines)
        for fault in faults:
            sentence = f"{fault.stage}: {fault.message}"
            if sentence not in told:
                told.add(sentence)
                tell(sentence)
        fatal = [fault for fault in faults if fault.fatal]
        if not fatal:
            return faults, ""
        why = " ".join(dict.fromkeys(fault.message for fault in fatal))
        if not all(fault.retryable for fault in fatal):
            return faults, why
        if anyio.current_time() + RETRY_S > deadline:
            return faults, f"{why} That has not changed for {limit_s:.0f} s (call.warm_up_s)."
        await anyio.sleep(RETRY_S)


async def _say(engines: Engines, text: str, persona: Persona, voice: Voice) -> list[Speech]:
    """The first seconds of a text's first clause, at 48 kHz. Raises StageError."""
    chunker = Chunker(persona.language)
    clauses = chunker.feed(text) + chunker.flush()
    clause = clauses[0] if clauses else Clause(0, text, text, persona.language)
    made: list[Speech] = []
    rate, samples = MediaRate(), 0
    async with aclosing(engines.tts.say(clause, voice)) as pieces:
        async for piece in pieces:
            made.append(rate.convert(piece))
            samples += made[-1].samples
            if samples > VOICE_S * MEDIA_RATE:
                break
    return made


async def _hear(engines: Engines, language: str, said: list[Speech]) -> str:
    """What the ears make of it. Raises StageError."""
    session = await engines.asr.open(language)
    ear = engines.ends.open(engines.vad.open()) if engines.ends is not None else None
    try:
        pcm = _for_ears(said)
        for start in range(0, len(pcm), MIC_FRAME_BYTES):
            frame = pcm[start : start + MIC_FRAME_BYTES].ljust(MIC_FRAME_BYTES, b"\0")
            if ear is not None:
                ear.process(frame)
            await session.push(frame)
        if ear is not None:
            await ear.finished(len(pcm) / SAMPLE_BYTES / MIC_RATE)
        return (await session.commit()).text
    finally:
        with anyio.move_on_after(1.0, shield=True):
            await session.aclose()
            if ear is not None:
                await ear.aclose()


def _for_ears(said: list[Speech]) -> bytes:
    """The voice at 16 kHz; where there is none, noise that comes and goes as syllables do."""
    samples = np.frombuffer(b"".join(piece.pcm for piece in said), "<i2")
    if not samples.any():
        at = np.arange(MIC_RATE) / MIC_RATE
        noise = np.random.default_rng(0).normal(0, 2000, MIC_RATE) * (0.5 + 0.5 * np.sin(8 * np.pi * at))
        return noise.astype("<i2").tobytes()
    resampler = av.AudioResampler(format="s16", layout="mono", rate=MIC_RATE)
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = MEDIA_RATE
    return b"".join(part.to_ndarray().tobytes() for part in [*resampler.resample(frame), *resampler.resample(None)])


async def _think(engines: Engines, persona: Persona, words: str) -> str:
    """The first clause of an answer; its stream is closed then. Raises StageError."""
    chunker, history = Chunker(persona.language), History(items=[Item("warm-up", "user", words)])
    clauses: list[Clause] = []
    async with aclosing(engines.llm.reply(history, persona)) as tokens:
        async for token in tokens:
            clauses += chunker.feed(token.text)
            if clauses:
                break
    clauses += chunker.flush()
    await engines.llm.warm()  # a stream that was closed has taken its connection along
    return clauses[0].text if clauses else words


async def _show(engines: Engines, persona: Persona, said: list[Speech]) -> None:
    """Lips that move with the voice, painted and encoded. Raises StageError."""
    avatar = persona.avatar if engines.avatar(persona.avatar) else engines.avatars[0].name
    clock = MediaClock(anyio.current_time())
    renderer = await engines.renderer.open(avatar, "H264", clock.origin_s)
    try:
        at = clock.at(anyio.current_time() + AHEAD_S)
        for piece in said:
            await renderer.push(replace(piece, note=""), at, 1)
            at = Samples(at + piece.samples)
        renderer.request_key()
        await _seen(renderer, bool(said))
    finally:
        with anyio.move_on_after(1.0, shield=True):
            await renderer.aclose()


async def _seen(renderer: Renderer, speaking: bool) -> EncodedFrame:
    count = 0
    async with aclosing(renderer.packets()) as frames:
        async for frame in frames:
            count += 1
            if frame.generation == 1 or not speaking:
                return frame
            if count == FRAMES:
                break
    raise StageError("render", "render_still", "The face did not move with the voice.")
