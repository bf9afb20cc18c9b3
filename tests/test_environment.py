"""What `make run` says on a machine that lacks something: a sentence with the fix, never a compiler's output."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "dirname", "sed", "rm", "tail", "touch", "cat")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy of the scripts, and a PATH with nothing but the shell's own tools."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    return tmp_path


def python(folder: Path, body: str, name: str = "python3") -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "scripts" / "environment.sh"), "run"],
        env={"PATH": str(folder / "bin"), "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_python_it_says_which_and_how(bare: Path) -> None:
    done = run(bare)
    assert done.returncode != 0
    assert "3.11, 3.12 or 3.13" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_old_python_is_not_taken(bare: Path) -> None:
    python(bare, "exit 1")
    assert "3.11, 3.12 or 3.13" in run(bare).stderr


def test_a_named_python_that_does_not_fit_is_refused(bare: Path) -> None:
    python(bare, "exit 1", "python3.9")
    assert "3.11, 3.12 or 3.13" in run(bare, PYTHON="python3.9").stderr


def test_without_venv_it_names_the_package(bare: Path) -> None:
    python(bare, 'case "$*" in *venv*) exit 1;; --version) echo "Python 3.11.2";; *) exit 0;; esac')
    done = run(bare)
    assert done.returncode != 0
    assert "Python 3.11.2 has no venv module" in done.stderr
    assert "python3-venv" in done.stderr


def test_a_missing_wheel_is_said_and_nothing_is_compiled(bare: Path) -> None:
    """pip is a stand-in that has no wheel for one package: it must be asked for wheels only."""
    log = bare / "pip.log"
    venv_python = f"""#!/usr/bin/env bash
case "$*" in
  *"-m pip"*)
    echo "$*" >> {log}
    case "$*" in *$REFUSE*) echo "ERROR: No matching distribution found for it"; exit 1;; esac;;
  *requirements.py*) exec {sys.executable} "$@";;
  --version) echo "Python 3.13.1";;
esac
exit 0
"""
    (bare / ".venv" / "bin").mkdir(parents=True)
    (bare / ".venv" / "bin" / "python").write_text(venv_python)
    (bare / ".venv" / "bin" / "python").chmod(0o755)

    without_ears = run(bare, REFUSE="requirements-pocketsphinx.txt")
    assert without_ears.returncode == 0
    assert "text input" in without_ears.stdout
    installs = [line for line in log.read_text().splitlines() if "-r " in line]
    assert installs
    assert all("--only-binary :all:" in line for line in installs)

    without_core = run(bare, REFUSE="requirements.txt")
    assert without_core.returncode != 0
    assert "has no wheel" in without_core.stderr
    assert "PYTHON=python3.12" in without_core.stderr
