"""`visavis doctor` on every overlay that ships, with the servers of an overlay at work and with nobody there."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.config import load_config
from server.doctor import look_over
from tests.call.test_process import LIGHT, ROOT
from tests.fakes.llm_server import llm_server
from tests.fakes.speech_server import speech_server
from tests.test_endpoints import clone, dead_port, needs_coturn, running_coturn, until_up

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leaked_tasks")]

GPU = ROOT / "configs" / "gpu.toml"
OVERLAYS = sorted(path for path in (ROOT / "configs").glob("*.toml") if path != GPU)


@dataclass(frozen=True)
class Seen:
    status: int
    said: str


async def doctor(capsys: pytest.CaptureFixture[str], file: Path, *settings: str) -> Seen:
    """In this process: to start another for each takes longer than to look."""
    capsys.readouterr()
    status = await look_over(load_config([file], ["http.port=0", *settings], {}))
    return Seen(status, capsys.readouterr().out)


def said(done: Seen, what: str) -> tuple[bool, str]:
    """Whether the line about it is a good one, and the line."""
    (line,) = [line for line in done.said.splitlines() if line[4:].startswith(what)]
    return line.startswith("ok"), line


@pytest.mark.parametrize("file", OVERLAYS, ids=lambda path: path.stem)
async def test_every_overlay_that_needs_no_server_works(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [setting for setting in LIGHT if not setting.startswith("personas")]
    done = await doctor(capsys, file, *settings)
    assert done.status == 0, done.said
    assert done.said.splitlines()[-1] == "visavis serve works here."
    assert not re.search("(?m)^-- ", done.said)


async def test_the_overlay_for_one_gpu_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No servers, no models, no GPU: a sentence for each, and what to do."""
    llm, tts, turn = dead_port(), dead_port(), dead_port()
    done = await doctor(
        capsys,
        GPU,
        *("asr.offline=true", f"asr.models_dir={tmp_path}", f"tts.clones={tmp_path}", "render.type=testcard"),
        *(f"llm.base_url=http://127.0.0.1:{llm}/v1", f"tts.base_url=http://127.0.0.1:{tts}"),
        f'ice.ice_servers=[{{urls=["turn:127.0.0.1:{turn}?transport=tcp"], secret="hush"}}]',
    )
    assert done.status == 1
    assert "does not work here yet" in done.said.splitlines()[-1]
    for what, advice in (
        ("reach callers: TURN", "start coturn"),
        ("transcribe: funasr", "asr.offline"),
        ("think: the model's server", "start the language model's server"),
        ("speak: the voice server", "docs/cosyvoice.md"),
    ):
        good, line = said(done, what)
        assert not good
        assert advice in line
    assert "hush" not in done.said


@needs_coturn
async def test_the_overlay_for_one_gpu_with_its_servers_at_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for nvidia-smi, real HTTP servers, a real coturn; the ears are a server's, too."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, NVIDIA GeForce RTX 4090, 24564, 9000'\n")
    smi.chmod(0o755)
    (tmp_path / "voices").mkdir()
    clone(tmp_path / "voices", "anna")
    with running_coturn(tmp_path, "--use-auth-secret", "--static-auth-secret=hush") as turn:
        await until_up(turn)
        async with (
            llm_server(models=["Qwen/Qwen3-8B-AWQ", "sensevoice"], owner="vllm") as llm,
            speech_server() as tts,
        ):
            settings = (
                *("asr.type=transcriptions", f"asr.base_url={llm.base_url}", "render.type=testcard"),
                *(f"llm.base_url={llm.base_url}", f"tts.base_url={tts.url}", f"tts.clones={tmp_path / 'voices'}"),
                f'ice.ice_servers=[{{urls=["turn:127.0.0.1:{turn}"], secret="hush"}}]',
            )
            monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
            done = await doctor(capsys, GPU, *settings)
            assert done.status == 0, done.said
            assert not re.search("(?m)^-- ", done.said)
            for what in ("reach callers: TURN", "transcribe: the server", "think: the model", "speak: the voice"):
                assert said(done, what)[0]
            assert "RTX 4090, 24.0 GiB, 8.8 in use: asr 3.5 + llm 12 + tts 5.5" in said(done, "gpu cuda:0")[1]
            # The same with a voice that is not there, and with more than the card has.
            done = await doctor(capsys, GPU, *settings, "tts.voice=bert", "gpu.llm.memory_gib=16")
            assert done.status == 1
            assert "'anna'" in said(done, "speak: the voice server")[1]
            assert said(done, "speak: flite")[0] or said(done, "speak: espeak-ng")[0]  # which is who speaks then
            assert "more than there is" in said(done, "gpu cuda:0")[1]
