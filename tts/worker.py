"""`python -m tts.worker flite|espeak`: one library's voices, for all calls of the server."""

import sys
from collections.abc import Callable
from typing import Protocol

import msgspec

from server.workers.channel import Failed, Hello, Refused, WorkerEnd
from server.workers.process import ignore_interrupts
from tts.pieces import Cutter
from tts.wire import About, Say


class Library(Protocol):
    """A speech synthesiser that is loaded into this process."""

    about: About
    greeting: Say
    """a request that loads what is loaded late"""

    def say(self, say: Say, cutter: Cutter, go_on: Callable[[], bool]) -> None:
        """Speak into the cutter (all but its finish). `go_on` is asked now and then; False: stop at once.

        Raises ValueError if the text cannot be said.
        """
        ...


class Desk:
    """Requests in the order in which they came; a call asks for one clause at a time, so no call waits for a
    whole reply of another."""

    def __init__(self, end: WorkerEnd[Say], library: Library) -> None:
        self._end = end
        self._library = library
        self._waiting: dict[int, Say] = {}
        self._current = 0  # no session has this number
        self._taken_back = False

    def serve(self) -> None:
        while True:
            self._take(None if not self._waiting else 0.0)
            self._read()
            if self._waiting:
                self._speak(next(iter(self._waiting)))

    def _speak(self, session: int) -> None:
        say = self._waiting.pop(session)
        self._current, self._taken_back = session, False
        cutter = Cutter(self._library.about.rate, lambda piece: self._end.send(session, piece))
        try:
            self._library.say(say, cutter, self._go_on)
        except ValueError as error:
            self._end.send(session, Failed("tts_failed", str(error)))
        else:
            if not self._taken_back:
                cutter.finish()
        self._current = 0

    def _go_on(self) -> bool:
        self._read()
        return not self._taken_back

    def _read(self) -> None:
        """Everything that has come in by now."""
        while self._take(0.0):
            pass

    def _take(self, timeout_s: float | None) -> bool:
        received = self._end.receive(timeout_s)
        if received is None:
            return False
        session, message = received
        if isinstance(message, Say):
            self._waiting[session] = message
        elif session == self._current:
            self._taken_back = True
        else:
            self._waiting.pop(session, None)
        return True


def load(name: str, arguments: list[str]) -> Library:
    """Raises OSError, with a sentence for the person, where the library cannot work."""
    if name == "flite":
        from tts.flite import Flite

        return Flite()
    from tts.espeak import Espeak

    return Espeak(*arguments)


def main(arguments: list[str]) -> None:
    ignore_interrupts()
    end: WorkerEnd[Say] = WorkerEnd(Say)
    try:
        library = load(arguments[0], arguments[1:])
    except OSError as error:
        end.send(0, Refused(str(error)))
        return
    # The first clause pays for what is loaded late; nobody should wait for it.
    library.say(library.greeting, Cutter(library.about.rate, lambda _: None), lambda: True)
    end.send(0, Hello(msgspec.to_builtins(library.about)))
    Desk(end, library).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
