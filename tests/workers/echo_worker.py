"""A worker for the tests: says back what it is told, or misbehaves on request."""

import os
import time

import msgspec

from server.workers.channel import Failed, Hello, WorkerEnd
from server.workers.process import ignore_interrupts


class Say(msgspec.Struct, tag="say", frozen=True):
    text: str


class Said(msgspec.Struct, tag="said", frozen=True):
    text: str
    pid: int


def main() -> None:
    ignore_interrupts()
    end: WorkerEnd[Say] = WorkerEnd(Say)
    end.send(0, Hello({"what": "echo"}))
    for session, message in end:
        if not isinstance(message, Say):
            continue
        if message.text == "die":
            os._exit(3)
        if message.text == "hang":
            time.sleep(60)
        if message.text == "fail":
            end.send(session, Failed("nope", "it was asked to"))
        else:
            end.send(session, Said(message.text, os.getpid()))


if __name__ == "__main__":
    main()
