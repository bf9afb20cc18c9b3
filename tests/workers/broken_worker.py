"""Workers that go wrong, for the tests: `python -m tests.workers.broken_worker HOW FOLDER`.

Each life leaves a file in FOLDER, named by its number.
"""

import os
import sys
from pathlib import Path

from server.workers.channel import LENGTH, Hello, Refused, WorkerEnd
from server.workers.process import ignore_interrupts
from tests.workers.echo_worker import Said, Say


def main(how: str, folder: Path) -> None:
    ignore_interrupts()
    lives = len(list(folder.iterdir())) + 1
    (folder / str(lives)).touch()
    if how == "dies at once" or (how == "dies at first" and lives == 1) or (how == "never again" and lives > 1):
        os._exit(7)
    end: WorkerEnd[Say] = WorkerEnd(Say)
    if how == "refuses" or (how == "refuses later" and lives > 1):
        end.send(0, Refused("it will not work here"))
    elif how != "stays silent later" or lives == 1:
        end.send(0, Hello())
    for session, message in end:
        if isinstance(message, Say) and message.text == "babble":
            end._socket.sendall(LENGTH.pack(5) + b"\xff" * 5)
        elif isinstance(message, Say) and message.text == "die":
            os._exit(7)
        elif isinstance(message, Say):
            end.send(session, Said(message.text, os.getpid()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
