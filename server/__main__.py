"""The `visavis` command: serve a conversation, or say what works on this machine."""

import argparse
import logging
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

STARTED = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after a sentence that says what was wrong."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # Imported late, so that `--help` and mistakes on the command line answer at once.
    from server.core.errors import VisavisError

    try:
        if options.command == "doctor":
            from server.doctor import examine

            return examine(options.config, options.set)
        return _serve(options)
    except VisavisError as error:
        print(f"visavis: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visavis", description="A video call with an AI face, on your own machine.")
    parser.add_argument("--verbose", action="store_true", help="log what happens inside")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the page and the calls")
    doctor = commands.add_parser("doctor", help="say what works here, what is missing, and how to get it")
    for command in (serve, doctor):
        command.add_argument(
            "--config", type=Path, action="append", default=[], metavar="FILE", help="TOML overlay; may be repeated"
        )
        command.add_argument(
            "--set", action="append", default=[], metavar="PATH=VALUE", help="one setting, as in turns.endpoint_s=0.6"
        )
    serve.add_argument("--host", help="address to listen on (http.host)")
    serve.add_argument("--port", type=int, help="port to listen on (http.port); 0: any free one")
    serve.add_argument("--local", action="store_true", help="refuse whatever sends words or voice to another machine")
    return parser


def _serve(options: argparse.Namespace) -> int:
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

        stop = anyio.Event()
        with listen(config) as listener:
            async with load_engines(config, options.local) as engines:
                print(table([(c.stage, c.provider, c.why, c.where, c.better) for c in engines.choices]))

                def ready(address: str) -> None:
                    seconds = time.monotonic() - STARTED
                    print(f"\nReady after {seconds:.1f} s. Open {address} and talk. Ctrl-C ends it.", flush=True)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_stop_on_signal, stop)
                    await serve(config, engines, listener, stop, ready)
                    tasks.cancel_scope.cancel()

    # Another thread's turn at the interpreter delays a packet by as long; 5 ms is Python's own interval.
    sys.setswitchinterval(0.0005)
    anyio.run(run)
    return 0


async def _stop_on_signal(stop: "anyio.Event") -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            stop.set()
            return


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
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        for i in range(max(map(len, cells))):
            parts = [(c[i] if i < len(c) else "").ljust(w) for c, w in zip(cells, widths, strict=True)]
            lines.append("  ".join(parts).rstrip())
    lines.insert(1, "-" * min(sum(widths) + 8, width))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
