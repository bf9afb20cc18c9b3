"""The `visavis` command: serve a conversation, say what works on this machine, or make films and faces."""

import argparse
import importlib
import logging
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from server.core.errors import VisavisError

STARTED = time.monotonic()
TOOLS = {
    "synthesize": "an avatar says a recording: a film",
    "train": "teach a face: a person, or the motion that all share",
    "voice": "voices that are cloned from recordings: add, list, remove",
    "import": "InsTaG's and TalkingGaussian's checkpoints become an avatar's folder",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after a sentence that says what was wrong."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while still importing: no traceback, there is no worker
    try:
        _open_standard_streams()
        given = list(sys.argv[1:] if arguments is None else arguments)
        if (tool := _tool(given[:1])) is not None:
            return tool(given[1:])
        options = _parser().parse_args(given)
        logging.basicConfig(
            level=logging.DEBUG if options.verbose else logging.WARNING,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        if options.command in TOOLS:
            raise VisavisError("usage", f"{options.command} comes first: visavis {options.command} ...")
        if options.command == "doctor":
            # Imported late, as all that follows: `--help` and mistakes on the command line answer at once.
            from server.doctor import examine

            return examine(options.config, options.set)
        return _serve(options)
    except VisavisError as error:
        print(f"visavis: {error.message}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `visavis doctor | head -1`
        _discard_output()
        return 1


def _tool(arguments: Sequence[str]) -> Callable[[Sequence[str]], int] | None:
    """What has a command line of its own, each imported when it is wanted: they need more than the server does."""
    name = arguments[0] if arguments else ""
    try:
        if name == "synthesize":
            for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(threads, "1")  # read when numpy is imported; they would only spin
            from render.synthesize import main as synthesize

            return partial(synthesize, speak=_speak)
        if name == "voice":
            from server.voice_command import main as voice

            return voice
        if name == "import":
            from render.importer import main as import_

            return import_
        if name == "train":
            return _train
    except ModuleNotFoundError as error:
        raise VisavisError("not_installed", _missing(name, error)) from None
    return None


def _speak(options: argparse.Namespace, file: Path) -> None:
    from server.spoken_text import write  # no film of a recording waits for what voices need

    write(options.text, options.avatar, options.voice, options.language, options.config, options.set, file)


def _missing(command: str, error: ModuleNotFoundError) -> str:
    extra = "train,instag" if command == "train" else "instag"
    return f"{command} needs {error.name}, which is not installed: pip install 'visavis[{extra}]' brings it."


def _train(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="visavis train", description="Teach a face: a person, or what all share.")
    parser.add_argument("what", choices=("pretrain", "adapt"), help="the universal motion field, or one person")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its own arguments; --help after it lists them")
    options = parser.parse_args(arguments)
    try:
        train = importlib.import_module(f"render.train.{options.what}")
    except ModuleNotFoundError as error:
        raise VisavisError("not_installed", _missing("train", error)) from None
    return int(train.main(options.rest))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visavis", description="A video call with an AI face, on your own machine.")
    verbose = "log what happens inside"
    parser.add_argument("--verbose", action="store_true", help=verbose)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the page and the calls")
    doctor = commands.add_parser("doctor", help="say what works here, what is missing, and how to get it")
    for name, tells in TOOLS.items():
        commands.add_parser(name, help=tells, add_help=False)  # `_tool` has taken them before
    for command in (serve, doctor):
        command.add_argument(
            "--config", type=Path, action="append", default=[], metavar="FILE", help="TOML overlay; may be repeated"
        )
        command.add_argument(
            "--set", action="append", default=[], metavar="PATH=VALUE", help="one setting, as in turns.endpoint_s=0.6"
        )
        # Suppressed where it is not given: a default here would undo a --verbose before the command.
        command.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=verbose)
    serve.add_argument("--host", help="address to listen on (http.host)")
    serve.add_argument("--port", type=int, help="port to listen on (http.port); 0: any free one")
    serve.add_argument("--local", action="store_true", help="refuse whatever sends words or voice to another machine")
    return parser


def _serve(options: argparse.Namespace) -> int:
    import asyncio

    import anyio

    from server.config import load_config

    assignments = list(options.set)
    if options.host is not None:
        assignments.append(f"http.host={options.host}")
    if options.port is not None:
        assignments.append(f"http.port={options.port}")
    config = load_config(options.config, assignments)

    async def run() -> None:
        from server.app import listen, serve
        from server.engines import load_engines

        failure = ""
        stop = anyio.Event()
        loading = anyio.CancelScope()

        def end() -> None:
            stop.set()
            loading.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end)
        with listen(config) as listener:
            async with AsyncExitStack() as stack:
                with loading:
                    engines = await stack.enter_async_context(load_engines(config, options.local))
                if not stop.is_set():
                    _print(table([(c.stage, c.provider, c.why, c.where, c.better) for c in engines.choices]))

                    def ready(address: str) -> None:
                        seconds = time.monotonic() - STARTED
                        _print(f"\nReady after {seconds:.1f} s. Open {address} and talk. Ctrl-C ends it.")

                    def tell(sentence: str) -> None:
                        _print(f"\nNot everything works: {sentence}")

                    failure = await serve(config, engines, listener, stop, ready, tell)
        if failure:
            print(f"visavis: {failure}", file=sys.stderr, flush=True)
        # Everything has ended by now, but for threads that wait for the resolver's answer: they cannot be told to
        # stop, and asyncio would wait for them, with a dead name server for half a minute.
        logging.shutdown()
        os._exit(1 if failure else 0)

    # Another thread's turn at the interpreter delays a packet by as long; 5 ms is Python's own interval.
    sys.setswitchinterval(0.0005)
    anyio.run(run)
    return 0


def _open_standard_streams() -> None:
    """Takes the numbers 0 to 2 where they are closed: a socket that got one would be sent what a library prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one


def _print(text: str) -> None:
    """A server goes on when whoever read its output has gone."""
    try:
        print(text, flush=True)
    except OSError:
        _discard_output()


def _discard_output() -> None:
    """What is still in the buffer goes nowhere, instead of breaking the pipe again at the exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Stage, provider, why, where and how to get better, wrapped to the terminal."""
    head = ("stage", "provider", "why", "words and voice go", "better")
    columns = [[head[i], *(row[i] for row in rows)] for i in range(len(head))]
    width = min(shutil.get_terminal_size((118, 24)).columns, 140)
    fixed = [max(map(len, columns[i])) for i in (0, 1)]
    rest = max((width - sum(fixed) - 8) // 3, 16)
    widths = [*fixed, rest, min(rest, max(map(len, columns[3]))), rest]
    lines = []
    for row in [head, *rows]:
        cells = [
            textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
            for cell, width in zip(row, widths, strict=True)
        ]
        for i in range(max(map(len, cells))):
            parts = [(c[i] if i < len(c) else "").ljust(w) for c, w in zip(cells, widths, strict=True)]
            lines.append("  ".join(parts).rstrip())
    lines.insert(1, "-" * min(sum(widths) + 8, width))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
