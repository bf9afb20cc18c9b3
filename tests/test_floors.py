"""The server process stays light: what must live in workers is never imported by it."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numba", "onnxruntime", "funasr", "pocketsphinx", "cv2", "modelscope")


@pytest.mark.parametrize("module", ["server.app", "server.__main__", "render.remote", "tts.routed"])
def test_heavy_libraries_are_not_imported(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_quick_to_say() -> None:
    """`visavis --help` imports neither aiortc nor openai."""
    code = (
        "import sys, server.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('aiortc', 'openai', 'aiohttp', 'av') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
