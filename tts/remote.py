"""A voice that lives in a worker process, as the calls see it."""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import anyio
import msgspec

from server.core.errors import StageError, WorkerLost
from server.core.media import SAMPLE_BYTES, Clause, Phone, Speech, Voice, Word
from server.workers.process import Worker, WorkerSession
from tts import words
from tts.wire import About, Piece, Say

log = logging.getLogger(__name__)

TEXT_LIMIT = 2000  # characters; a longer text is not a clause
INBOX = 4096  # pieces of at most 200 ms: what the longest text takes at half speed
SILENCE_S = 0.02  # what is said of a clause with nothing to say
RESTART_S = 2.0  # how long a clause waits for a worker that is being started again
NAMES_REMEMBERED = 64  # unknown voice names that were logged; clients choose them


@dataclass(frozen=True, slots=True)
class Asked:
    """What the worker is asked, and where its characters stand in Clause.text."""

    say: Say
    place: list[int]


def silence(clause: Clause, rate: int) -> Speech:
    """A clause that has nothing to say, said."""
    samples = int(rate * SILENCE_S)
    return Speech(clause, bytes(samples * SAMPLE_BYTES), rate, phones=(Phone("", "sil", 0, samples),))


class Names:
    """Chooses among a voice's names, and says once which one it does not know."""

    def __init__(self, voices: Sequence[str]) -> None:
        self._voices = voices
        self._unknown: set[str] = set()

    def known(self, name: str) -> bool:
        """Whether `name` (espeak-ng: with or without a `+variant`) is one of ours."""
        return name.partition("+")[0] in self._voices

    def choose(self, name: str, default: str) -> str:
        if self.known(name):
            return name
        if name and name not in self._unknown and len(self._unknown) < NAMES_REMEMBERED:
            self._unknown.add(name)
            log.warning("no voice is named %r; %r speaks", name, default)
        return default


class RemoteVoice:
    """The Tts protocol over a worker's channel. One session says one clause."""

    def __init__(
        self,
        worker: Worker[Say, Piece],
        about: About,
        ask: Callable[[Clause, Voice], Asked | None],
        visemes: Callable[[str], tuple[str, ...]],
        first_s: float,
        gap_s: float,
    ) -> None:
        """ask: the worker's request for a clause; None: there is nothing to say in it."""
        self.languages: Sequence[str] = about.languages
        self.voices: Sequence[str] = about.voices
        self.worker = worker
        self._rate = about.rate
        self._ask = ask
        self._visemes = visemes
        self._first_s = first_s
        self._gap_s = gap_s

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        """The clause in pieces of at most 200 ms, as they are made.

        Raises StageError("tts", ...): `worker_lost` (once more is tried if nothing was heard yet), `tts_slow`,
        `tts_text_too_long`, `tts_language`.
        """
        if len(clause.text) > TEXT_LIMIT:
            raise StageError("tts", "tts_text_too_long", f"a clause may have {TEXT_LIMIT} characters at most", False)
        asked = self._ask(clause, voice)
        if asked is None:
            yield silence(clause, self._rate)
            return
        raw = words.places(clause.text, clause.raw)
        place = [raw[i] for i in asked.place]
        heard = False
        for attempt in (1, 2):
            try:
                async with aclosing(self._pieces(asked.say)) as pieces:
                    async for piece in pieces:
                        heard = True
                        yield self._speech(clause, piece, place)
                return
            except WorkerLost:
                if heard or attempt == 2:
                    raise

    async def _pieces(self, say: Say) -> AsyncGenerator[Piece, None]:
        """What the worker answers; its errors become this stage's."""
        session: WorkerSession[Say, Piece] | None = None
        try:
            await self.worker.ready(RESTART_S)
            session = self.worker.open(INBOX)
            session.send(say)
            within_s, last = self._first_s, False
            while not last:
                piece = await self._next(session, within_s)
                within_s, last = self._gap_s, piece.last
                yield piece
        except WorkerLost as error:
            raise WorkerLost("tts", error.message) from error
        except StageError as error:
            raise StageError("tts", error.code, error.message, error.retryable) from error
        finally:
            if session is not None:
                session.close()

    async def _next(self, session: WorkerSession[Say, Piece], within_s: float) -> Piece:
        with anyio.move_on_after(within_s):
            return await session.receive()
        raise StageError("tts", "tts_slow", f"{self.worker.name} made no sound for {within_s:.0f} s")

    def _speech(self, clause: Clause, piece: Piece, place: list[int]) -> Speech:
        phones: list[Phone] = []
        for symbol, start, end in piece.phones:
            shapes = self._visemes(symbol)
            edges = [start + (end - start) * i // len(shapes) for i in range(len(shapes) + 1)]
            phones += [
                Phone(symbol, shape, edges[i], edges[i + 1])
                for i, shape in enumerate(shapes)
                if edges[i + 1] > edges[i]
            ]
        return Speech(
            clause,
            piece.pcm,
            self._rate,
            tuple(phones),
            tuple(Word(*words.span(place, first, past), start, end) for first, past, start, end in piece.words),
            piece.last,
        )


@asynccontextmanager
async def started(name: str, arguments: Sequence[str]) -> AsyncGenerator[tuple[Worker[Say, Piece], About], None]:
    """A voice's worker, ready, and what it offers. Raises StageError("tts", ...) if it cannot work here."""
    async with AsyncExitStack() as stack:
        try:
            worker = await stack.enter_async_context(
                Worker[Say, Piece](name, "tts.worker", Piece, [name, *arguments])
            )
            about = msgspec.convert(worker.about, About)
        except StageError as error:
            raise StageError("tts", error.code, error.message, error.retryable) from error
        yield worker, about
