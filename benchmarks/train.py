"""`python -m benchmarks.train [mia leo] [--data DIR] [--quick]`: what adapting a person costs, JSON lines.

`visavis train adapt` on the first 5 s and 10 s of a clip, each in a process of its own that must not be cut off:
train.adapt_s is its wall time from start to written avatar folder (decoding and baking included), train.peak_mb its
greatest resident memory, and beside them what it says of itself on held-out frames. The plan is the product's own;
--quick takes a hundredth of the steps, which shows that it runs, and peak_mb nearly as it will be.

--data holds NAME/ as recipes/people.py lays a person out (without it they are laid out for this run: 1 GB each, two
minutes). CUDA is measured too, where there is a device (--device cuda).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import value
from benchmarks.truth import FOLDER

SECONDS = (5, 10)
QUICK = {"iterations": 90, "torso-iterations": 15}
LONGEST_S = 3 * 3600
SHOWN = ("head_psnr", "mouth_psnr", "mouth_over_static_db", "gaussians", "megabytes")


def adapted(data: Path, folder: Path, seconds: float, arguments: Sequence[str]) -> dict[str, Any]:
    """The summary of one training, with its wall time as `adapt_s`. Raises RuntimeError with what it said."""
    out, work = folder / "avatar", folder / "work"
    command = [
        sys.executable,
        "-m",
        "render.train.adapt",
        "--data",
        str(data),
        "--out",
        str(out),
        "--work",
        str(work),
    ]
    command += ["--seconds", f"{seconds:g}", "--name", data.name, "--quiet", *arguments]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "it said nothing")[-2000:])
    summary: dict[str, Any] = json.loads((work / "summary.json").read_text())
    return summary | {"adapt_s": time.monotonic() - began}


def laid_out(name: str, folder: Path) -> Path:
    """The clip of `name` as training reads it, in a folder that is there or is made now."""
    if not (folder / name).is_dir():
        command = [sys.executable, "-m", "recipes.people", str(FOLDER / name), str(folder / name)]
        subprocess.run(command, check=True, timeout=1800)
    return folder / name


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a training failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.train", description="What adapting a person costs.")
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="mia, leo; default: mia")
    parser.add_argument("--data", type=Path, help="the folder that holds NAME/ as recipes/people.py lays it out")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps")
    given = parser.parse_args(arguments)
    machine = {"name": "machine", "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    print(json.dumps(machine), flush=True)
    options = ["--device", given.device]
    if given.quick:
        options += [part for name, count in QUICK.items() for part in (f"--{name}", str(count))]
    with tempfile.TemporaryDirectory(prefix="visavis-") as scratch:
        for name in given.names or ("mia",):
            if given.data is None and not (FOLDER / name / "meta.json").is_file():
                print(f"{name} cannot be trained: set VISAVIS_PEOPLE, or give --data.", file=sys.stderr)
                return 1
            data = laid_out(name, given.data or Path(scratch))
            for seconds in SECONDS:
                line = f"train.{name}_{seconds}s" + ("_quick" if given.quick else "")
                with tempfile.TemporaryDirectory(prefix="visavis-") as folder:
                    try:
                        summary = adapted(data, Path(folder), seconds, options)
                    except RuntimeError as error:
                        print(f"{line}: {error}", file=sys.stderr)
                        return 1
                value(f"{line}.adapt_s", "s", summary["adapt_s"])
                value(f"{line}.peak_mb", "MB", summary["peak_mb"])
                for shown in SHOWN:
                    if shown in summary:
                        value(f"{line}.{shown}", "dB" if shown.endswith(("psnr", "db")) else shown, summary[shown])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
