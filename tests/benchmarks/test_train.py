"""What training and painting on a GPU cost: what is said where something is missing, and what is printed."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import render_gpu, train

TRAINER = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
work = pathlib.Path(given["--work"])
work.mkdir(parents=True)
print(given)
if given["--seconds"] == "10":
    sys.exit("no room for ten seconds")
(work / "summary.json").write_text(json.dumps({"peak_mb": 321, "head_psnr": 30.5, "asked": given["--iterations"]}))
"""


def lines(text: str) -> dict[str, dict[str, object]]:
    return {line["name"]: line for line in map(json.loads, text.splitlines())}


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of the training: its protocol is its arguments and summary.json."""
    path = tmp_path / "python"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[1:] = [a for a in sys.argv[3:] if a != '--quiet']\n{TRAINER}"
    )
    path.chmod(0o755)
    monkeypatch.setattr(train.sys, "executable", str(path))


@pytest.mark.usefixtures("trainer")
def test_each_length_is_a_process_of_its_own_and_a_failure_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mia").mkdir()
    assert train.main(["mia", "--quick", "--data", str(tmp_path)]) == 1
    out = capsys.readouterr()
    found = lines(out.out)
    assert found["train.mia_5s_quick.peak_mb"]["value"] == 321
    assert found["train.mia_5s_quick.head_psnr"]["unit"] == "dB"
    assert 0 < float(str(found["train.mia_5s_quick.adapt_s"]["value"])) < 60
    assert not any("10s" in name for name in found)
    assert "no room for ten seconds" in out.err


def test_people_who_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "FOLDER", tmp_path / "none")
    assert train.main([]) == 1
    assert "set VISAVIS_PEOPLE" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which is measured and not missed")
def test_a_machine_without_a_gpu_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert render_gpu.main([]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "no CUDA device" in json.loads(line)["note"]
