"""A text instead of a recording: spoken by a voice of this machine, by a cloned one, or refused in a sentence."""

import json
import wave
from pathlib import Path

import anyio
import numpy as np
import pytest

from server.core.errors import VisavisError
from server.spoken_text import write
from tests.fakes.speech_server import Answer, speech_server, tone


def read(file: Path) -> np.ndarray:
    with wave.open(str(file)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 24_000)
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2")


def test_a_voice_of_this_machine(tmp_path: Path) -> None:
    out = tmp_path / "text.wav"
    text = "Hello there. This is a whole text, and it has two sentences."
    write(text, "mia", "", "", [], ["tts.type=flite"], out)
    pcm = read(out)
    assert 2.0 < len(pcm) / 24_000 < 8.0
    assert np.abs(pcm.astype(int)).max() > 3000


@pytest.mark.parametrize(
    ("text", "voice", "sentence"),
    [
        ("…", "", "nothing to say"),
        ("a" * 100_001, "", "100000 characters"),
        ("Hello.", "nobody", "no voice 'nobody'"),
    ],
)
def test_what_cannot_be_said_is_refused(
    tmp_path: Path, text: str, voice: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.spoken_text.VOICES_S", 0.1)
    with pytest.raises(VisavisError, match=sentence):
        write(text, "mia", voice, "", [], ["tts.type=tone"], tmp_path / "text.wav")


def clone(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    sheet = {"transcript": "This is my voice.", "language": "en"}
    (folder / name / "voice.json").write_text(json.dumps(sheet))
    with wave.open(str(folder / name / "reference.wav"), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(tone(1.0))


async def test_a_cloned_voice_and_no_other_in_its_place(tmp_path: Path) -> None:
    clone(tmp_path, "anna")
    out = tmp_path / "text.wav"
    async with speech_server(Answer((tone(0.8),)), Answer(status=500)) as server:
        settings = ["tts.type=cosyvoice", f"tts.base_url={server.url}", f"tts.clones={tmp_path}"]

        def say() -> None:
            write("Hello there.", "mia", "anna", "", [], settings, out)

        await anyio.to_thread.run_sync(say)
        path, body = server.requests[0]
        assert path == "/v1/speech/zero-shot"
        assert server.voices[body["voice"]]["transcript"] == "This is my voice."
        assert len(read(out)) == pytest.approx(0.8 * 24_000, abs=480)
        with pytest.raises(VisavisError, match="failed"):  # and nobody else says it
            await anyio.to_thread.run_sync(say)
