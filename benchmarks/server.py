"""The real server as a process of its own, and what its processes cost."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Running:
    """A server that said it is ready."""

    process: asyncio.subprocess.Process
    address: str
    start_s: float
    output: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> dict[str, int]:
        """Module name -> pid of the worker processes."""
        found = {}
        for child in _children(self.pid):
            match = re.search(r"-m\0([\w.]+)(?:\0([\w.]+))?", _command(child))
            if match:
                name = match[1] if match[1] in ("render.worker",) or not match[2] else f"{match[1]} {match[2]}"
                found[name] = child
        return found

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far: `server`, `render`, `others`."""
        used = {"server": _cpu_s(self.pid), "render": 0.0, "others": 0.0}
        for name, pid in self.workers().items():
            used["render" if name.startswith("render") else "others"] += _cpu_s(pid)
        return used

    def resident_mb(self) -> dict[str, float]:
        return {"server": _resident_mb(self.pid)} | {n: _resident_mb(p) for n, p in self.workers().items()}

    async def stop(self) -> float:
        """As Ctrl-C does; returns the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        await asyncio.wait_for(self.process.wait(), 10)
        return time.monotonic() - began


@asynccontextmanager
async def running(
    *settings: str,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    warm_up: bool = False,
) -> AsyncIterator[Running]:
    """`visavis serve` on a free port with `--set` for each of `settings`; ended on leaving.

    environment: variables besides this process's own, of which those of OpenAI are left out.
    warm_up: whether a sentence goes through everything first, as it does where nothing else is said.
    """
    command = [sys.executable, "-m", "server", "serve", "--port", "0", *arguments]
    for setting in (*settings, *(() if warm_up else ("call.warm_up_s=0",))):
        command += ["--set", setting]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")} | dict(environment or {})
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output: list[str] = []
    try:
        address = await asyncio.wait_for(_ready(process, output), 60)
        server = Running(process, address, time.monotonic() - began, output)
        reader = asyncio.create_task(_drain(process, output))
        try:
            yield server
        finally:
            reader.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _ready(process: asyncio.subprocess.Process, output: list[str]) -> str:
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode(errors="replace"):
        output.append(line)
        match = re.search(r"Open (http://\S+)", line)
        if match:
            return match[1]
    raise RuntimeError("the server ended before it was ready:\n" + "".join(output))


async def _drain(process: asyncio.subprocess.Process, output: list[str]) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        output.append(line.decode(errors="replace"))
        del output[:-500]


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except FileNotFoundError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
