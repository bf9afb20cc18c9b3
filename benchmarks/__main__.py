"""`python -m benchmarks [NAME ...]`: processes, connect, skew, barge_in, loop_lag, response; all if none is named."""

import argparse
import asyncio
import json
import os
import platform

from benchmarks import call

BENCHMARKS = {
    "processes": call.processes,
    "connect": call.connect,
    "skew": call.skew,
    "barge_in": call.barge_in,
    "loop_lag": call.loop_lag,
    "response": call.response,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME")
    names = parser.parse_args().names or list(BENCHMARKS)
    load = os.getloadavg()[0]
    machine = {
        "name": "machine",
        "cores": os.cpu_count(),
        "load": round(load, 2),
        "python": platform.python_version(),
    }
    print(json.dumps(machine), flush=True)
    for name in names:
        asyncio.run(BENCHMARKS[name]())


if __name__ == "__main__":
    main()
