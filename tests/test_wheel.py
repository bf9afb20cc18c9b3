"""What is installed from a wheel: everything that the running product reads, and nothing of the workshop."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("server", "tts", "render", "evaluation", "client", "configs")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built without a network, unpacked as pip would."""
    pytest.importorskip("setuptools", "77", reason="setuptools 77 builds the wheel")
    source, wheels, place = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "place"))
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(wheels)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_is_in_it(unpacked: Path, package: str) -> None:
    ours = subprocess.run(["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True, check=False)
    if ours.returncode:
        pytest.skip("this is no git checkout")
    # The page's own tests and the list of packages that they need are of the workshop.
    wanted = {name for name in ours.stdout.splitlines() if "/test/" not in name and not name.endswith("package.json")}
    missing = sorted(name for name in wanted if (ROOT / name).exists() and not (unpacked / name).is_file())
    assert missing == []


@pytest.mark.slow
def test_nothing_of_the_workshop_is_in_it(unpacked: Path) -> None:
    assert sorted(p.name for p in unpacked.iterdir() if not p.name.endswith(".dist-info")) == sorted(PACKAGES)


@pytest.mark.slow
def test_it_finds_its_characters(unpacked: Path) -> None:
    code = (
        "import server; from server.personas import SHIPPED, load_personas;"
        "print(server.__file__, len(load_personas(SHIPPED)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=unpacked,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("VISAVIS__")},
        capture_output=True,
        text=True,
        check=True,
    )
    where, personas = done.stdout.split()
    assert where.startswith(str(unpacked))
    assert int(personas) == len(list((ROOT / "configs" / "personas").glob("*.toml")))
    assert (unpacked / "client" / "index.html").is_file()
