"""One process of our voice server on upstream's real code, for all tests of this room."""

import hashlib
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTED_S = 110.0


def surroundings() -> tuple[Path, Path]:
    """(upstream's tree, a Python with CosyVoice's libraries); skips where there is none."""
    tree = os.environ.get("VISAVIS_COSYVOICE", "")
    if not tree:
        pytest.skip("VISAVIS_COSYVOICE does not name CosyVoice's source tree (.ci/run does where it is there)")
    upstream = Path(tree).resolve()
    if not (upstream / "cosyvoice/cli/model.py").is_file():
        pytest.skip(f"VISAVIS_COSYVOICE: {upstream} is not CosyVoice's source tree")
    python = Path(os.environ.get("VISAVIS_COSYVOICE_PYTHON", "") or ROOT / ".venv/cosyvoice/bin/python")
    if not python.is_file():
        pytest.skip("CosyVoice's libraries are not installed: scripts/cosyvoice.sh")
    return upstream, python


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address. The tiny model is made once for each state of its maker."""
    upstream, python = surroundings()
    made_of = b"".join((Path(__file__).parent / name).read_bytes() for name in ("tiny.py", "stand_ins.py"))
    model = python.parents[1] / f"tiny-{hashlib.sha256(made_of).hexdigest()[:12]}"
    voices = tmp_path_factory.mktemp("voices")
    process = subprocess.Popen(
        [python, "-m", "tests.cosyvoice.serve", upstream, model, "--voices", voices, "--places", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=(log := (voices / "log").open("w+", encoding="utf-8")),
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "VISAVIS_TTS_KEY": "secret"},
    )
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        try:
            line = lines.get(timeout=STARTED_S)
        except queue.Empty:
            line = ""
        if not line.startswith("ready: "):
            process.kill()
            log.seek(0)
            pytest.fail(f"the server did not start:\n{log.read()[-4000:]}")
        yield line.split()[1]
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        reader.join(5)
        if process.stdout is not None:
            process.stdout.close()
        log.close()
