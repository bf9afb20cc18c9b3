"""Several voices as one: each script is said by a voice that can say it, and a spare one steps in for a lost one."""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import anyio
import av
import numpy as np

from server.core.errors import StageError
from server.core.media import Clause, Speech, Voice, Word
from server.core.phrases import phrase
from server.core.protocols import Tts
from server.core.resampling import Resampler
from server.core.trim import Trimmer
from tts.references import Cloning, Reference
from tts.remote import silence
from tts.scripts import primary, runs
from tts.words import places, span

log = logging.getLogger(__name__)

REST_S = 10.0  # a voice that failed is asked last for so long, twice as long each time it fails again ...
REST_LONGEST_S = 160.0  # ... up to this: to ask a server that hangs costs its deadline
JOINT_MS = 60.0  # silence left where two voices meet within a clause
QUIET_RATE = 24_000  # Hz, of a clause with nothing to say


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a clause's text that one voice says."""

    start: int
    end: int
    language: str
    engines: tuple[int, ...]
    """who can say it, best first"""


class RoutedTts:
    """The Tts protocol over several engines, in order of preference.

    The chunker gives clauses of one script; one of several is said by the first voice that can say all of it, and
    only where there is none by several, brought to one rate.
    """

    def __init__(self, engines: Sequence[Tts], spares: Sequence[Tts] = ()) -> None:
        """spares: asked only where none of `engines` can or does; their voices are not on offer."""
        self.engines = [*engines, *spares]
        self.languages: Sequence[str] = list(dict.fromkeys(x for one in self.engines for x in one.languages))
        self.failure = ""
        """what the latest voice that failed said of itself"""
        self._offered = len(engines)
        self._rests_until = [0.0] * len(self.engines)
        self._rest_s = [REST_S] * len(self.engines)  # the next time

    @property
    def voices(self) -> Sequence[str]:
        """Asked anew each time: a voice may have been added."""
        return list(dict.fromkeys(x for engine in self.engines[: self._offered] for x in engine.voices))

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        """The clause. If a voice fails before it made a sound, the next one that can says it, with a note.

        Raises StageError("tts", ...): the last voice's own error, or `tts_language` when nobody can say it.
        """
        parts = self._parts(clause, voice)
        if not parts:
            yield silence(clause, QUIET_RATE)
        elif len(parts) == 1:
            async with aclosing(self._part(replace(clause, language=parts[0].language), voice, parts[0])) as pieces:
                async for piece in pieces:
                    yield replace(piece, clause=clause)
        else:
            async with aclosing(self._joined(clause, voice, parts)) as pieces:
                async for piece in pieces:
                    yield piece

    async def forget(self, reference: Reference) -> None:
        """A cloned voice was deleted: no server keeps a copy of it. Raises StageError("tts", ...)."""
        for engine in self.engines:
            if isinstance(engine, Cloning):
                await engine.forget(reference.name, reference)

    def _parts(self, clause: Clause, voice: Voice) -> list[Part]:
        found = runs(clause.text, clause.language)
        if not found:
            return []
        if whole := self._able({run.language for run in found}, voice):
            home = primary(clause.language)
            language = home if any(run.language == home for run in found) else found[0].language
            return [Part(0, len(clause.text), language, whole)]
        parts: list[Part] = []
        for run in found:
            engines = self._able({run.language}, voice)
            if engines:
                parts.append(Part(run.start, run.end, run.language, engines))
            else:
                log.warning("no voice here can say %r", clause.text[run.start : run.end])
        if not parts:
            languages = ", ".join(sorted({run.language for run in found}))
            raise StageError("tts", "tts_language", f"no voice here speaks {languages}", retryable=False)
        return parts

    def _able(self, languages: set[str], voice: Voice) -> tuple[int, ...]:
        """Engines that can say all of these; one that has the voice asked for comes first."""
        able = [
            number
            for number, engine in enumerate(self.engines)
            if "*" in engine.languages or languages <= set(engine.languages)
        ]
        return tuple(sorted(able, key=lambda number: not self._has(number, voice.name)))

    def _has(self, number: int, name: str) -> bool:
        if number >= self._offered:
            return False
        return name in self.engines[number].voices or name.partition("+")[0] in self.engines[number].voices

    async def _part(self, clause: Clause, voice: Voice, part: Part) -> AsyncGenerator[Speech, None]:
        now = anyio.current_time()
        order = sorted(part.engines, key=lambda number: self._rests_until[number] > now)
        for number in order:
            # A name that only another engine knows would make this one wonder.
            asked = voice if self._has(number, voice.name) or len(self.engines) == 1 else replace(voice, name="")
            note = "" if number == part.engines[0] else phrase("spare_voice", clause.language)
            begun = False
            try:
                async with aclosing(self.engines[number].say(clause, asked)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield replace(piece, note=piece.note or note)
                self._rest_s[number] = REST_S
                return
            except StageError as error:
                self.failure = error.message
                if error.retryable:
                    self._rests_until[number] = anyio.current_time() + self._rest_s[number]
                    self._rest_s[number] = min(2 * self._rest_s[number], REST_LONGEST_S)
                if begun or number == order[-1]:
                    raise
                log.warning("a voice failed (%s); the next one speaks", error.message)

    async def _joined(self, clause: Clause, voice: Voice, parts: list[Part]) -> AsyncGenerator[Speech, None]:
        """Several voices in one clause: at the first one's rate, without their long silences in between."""
        place = places(clause.text, clause.raw)
        rate = 0
        for part in parts:
            text = clause.text[part.start : part.end]
            trimmer, converter = Trimmer(JOINT_MS, JOINT_MS), None
            async with aclosing(self._part(Clause(clause.index, text, text, part.language), voice, part)) as pieces:
                async for piece in pieces:
                    for heard in trimmer.feed(piece):
                        rate = rate or heard.rate
                        converter = converter or _Converter(heard.rate, rate)
                        speech = converter.convert(heard)
                        words = tuple(_moved(word, place, part.start) for word in speech.words)
                        yield replace(speech, clause=clause, words=words, last=speech.last and part is parts[-1])


def _moved(word: Word, place: list[int], by: int) -> Word:
    """A word of a part, in the clause's raw text."""
    first, past = span(place, by + word.char_start, by + word.char_end)
    return replace(word, char_start=first, char_end=past)


class _Converter:
    """One part's pieces at another rate; the whole keeps its length."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._resampler = Resampler(target)
        self._given = 0
        self._made = 0

    def convert(self, speech: Speech) -> Speech:
        if self._source == self._target:
            return speech
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(speech.pcm, np.int16).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = self._source
        frames = self._resampler.resample(frame)
        if speech.last:
            frames += self._resampler.resample(None)
        pcm = b"".join(frame.to_ndarray().tobytes() for frame in frames)
        before, shift = self._made, self._given * self._target // self._source
        self._given += speech.samples
        if speech.last:
            wanted = 2 * (self._given * self._target // self._source - before)
            pcm = pcm[:wanted].ljust(wanted, b"\0")
        self._made += len(pcm) // 2

        def at(samples: int) -> int:
            return samples * self._target // self._source + shift - before

        return replace(
            speech,
            pcm=pcm,
            rate=self._target,
            phones=tuple(replace(p, start=at(p.start), end=at(p.end)) for p in speech.phones),
            words=tuple(replace(w, start=at(w.start), end=at(w.end)) for w in speech.words),
        )
