"""A voice's sentences judged: clean ones pass, each kind of fault is found."""

import json
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import pytest

from evaluation.tts_check import Said, Verdict, check, ends_there, main, plain, read, resampled, spoken
from evaluation.tts_ear import AlignedEar, AsrEar, EarError, Hearing, Sound, distance, unlike, words
from evaluation.tts_proof import FAULTS, VOICES, extent, injected
from evaluation.tts_sentences import FRESH, SENTENCES
from server.core.errors import StageError
from server.core.media import Voice
from server.core.protocols import Tts
from tests.fakes.providers import FakeAsr
from tts.flite import FliteSettings

TEXT = "Peter opened the big window."


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def flite() -> AsyncIterator[Tts]:
    try:
        async with FliteSettings().load() as voice:
            yield voice
    except StageError as error:
        if error.code != "worker_refused":
            raise
        pytest.skip(error.message)


@pytest.fixture(scope="module")
def ear() -> AlignedEar:
    pytest.importorskip("pocketsphinx")
    return AlignedEar()


class Told:
    """An ear that hears what it is told to."""

    languages = ("en", "zh")

    def __init__(self, heard: Hearing) -> None:
        self._heard = heard

    async def hear(self, sound: Sound, text: str, language: str) -> Hearing:
        return self._heard


def voiced(seconds: float, rate: int = 16_000, head_s: float = 0.1) -> Said:
    """Something like a voice, with silence at both ends."""
    time = np.arange(int(seconds * rate)) / rate
    swell = np.clip(np.minimum(time, time[::-1]) / 0.03, 0, 1)
    sound = 9000 * swell * np.sin(2 * np.pi * 180 * time) * (1 + 0.5 * np.sin(2 * np.pi * 4 * time))
    edge = np.zeros(int(head_s * rate))
    return Said(TEXT, np.concatenate([edge, sound, edge]).astype(np.int16), rate)


async def faults(said: Said, heard: Hearing) -> tuple[str, ...]:
    return (await check(said, "en", Told(heard))).faults


# ---- flite through pocketsphinx: a cut of the proof ----------------------------------------------------------------


async def test_clean_sentences_pass(flite: Tts, ear: AlignedEar) -> None:
    for i in range(9):
        verdict = await check(await spoken(flite, FRESH[i], "en", Voice(VOICES[i % 3])), "en", ear)
        assert not verdict.faults, verdict
        assert verdict.cer < 0.1
        assert 0.04 < verdict.per_character < 0.12


SIGNS = {
    "first_120_ms_cut": {"cut_start", "first_word"},
    "half_the_text": {"text"},
    "prompt_read_aloud": {"extra_sound"},
    "babble_appended": {"extra_sound"},
    "noise_at_the_end": {"cut_end"},
}


@pytest.mark.parametrize("kind", FAULTS)
async def test_every_fault_is_found(flite: Tts, ear: AlignedEar, kind: str) -> None:
    for said in await injected(flite, kind, 4):
        verdict = await check(said, "en", ear)
        assert SIGNS[kind] & set(verdict.faults), (said.text, said.name, verdict)


async def test_figures_and_names_are_spelled_by_flite(flite: Tts, ear: AlignedEar) -> None:
    said = await spoken(flite, "Zorbalu bought 42 tickets.", "en", Voice("slt"))
    assert not (await check(said, "en", ear)).faults
    wrong = Said("Zorbalu bought 17 pencils.", said.pcm, said.rate)
    assert "text" in (await check(wrong, "en", ear)).faults


async def test_another_rate_is_heard_as_well(flite: Tts, ear: AlignedEar) -> None:
    said = await spoken(flite, TEXT, "en", Voice("slt"))
    at = np.arange(int(len(said.pcm) * 1.5)) / 1.5
    faster = np.interp(at, np.arange(len(said.pcm)), said.pcm).astype(np.int16)
    assert not (await check(Said(TEXT, faster, 24_000), "en", ear)).faults


def test_a_sentence_must_be_one(ear: AlignedEar) -> None:
    for text in ("", "...", "word " * 100):
        with pytest.raises(EarError, match="must have words"):
            ear.listen(np.zeros(16_000, np.float32), text)


async def command(*arguments: str) -> int:
    """`python -m evaluation.tts_check`, in a thread that has no event loop yet."""
    return await anyio.to_thread.run_sync(main, arguments)


async def test_the_command_judges_a_folder(flite: Tts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pocketsphinx")
    for name, text in (("a", TEXT), ("b", "No, not at all.")):
        said = await spoken(flite, text, "en", Voice("rms"))
        write(tmp_path / f"{name}.wav", said.pcm[extent(said)[0] + 1920 if name == "b" else 0 :], said.rate)
        (tmp_path / f"{name}.txt").write_text(text, "utf-8")
    assert await command("--folder", str(tmp_path)) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("name") for line in lines] == ["a.wav", "b.wav", None]
    assert lines[0]["faults"] == []
    assert "cut_start" in lines[1]["faults"]
    assert lines[2] == {"figure": "tts_check.faulty", "sentences": 2, "faulty": 1, "share": 0.5}


async def test_the_command_judges_a_configured_voice(flite: Tts, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pocketsphinx")
    assert await command("--set", "tts.type=flite", "--voice", "rms", "--count", "2") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines[:2]] == list(FRESH[:2])
    assert lines[2]["faulty"] == 0


def write(file: Path, pcm: np.ndarray, rate: int) -> None:
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.astype("<i2").tobytes())


async def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pocketsphinx")
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    for arguments, says in (
        (["--folder", str(tmp_path)], "no sound file"),
        (["--folder", str(tmp_path / "none")], "nothing to judge"),
        (["--folder", str(tmp_path), "--language", "zh"], "--ear asr"),
        (["--set", "tts.type=nonsense"], "tts"),
    ):
        assert await command(*arguments) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(EarError, match="cannot be read"):
        read(tmp_path / "a.wav", TEXT)


# ---- any other ear -------------------------------------------------------------------------------------------------


async def test_a_recogniser_that_only_writes_is_enough() -> None:
    assert await faults(voiced(1.6), Hearing("peter opened the big window")) == ()
    assert await faults(voiced(1.6), Hearing("opened the big window")) == ("text", "first_word")
    assert await faults(voiced(1.6), Hearing("peter opened the")) == ("text", "last_word")
    assert await faults(voiced(1.6), Hearing("you are a helpful voice peter opened the big window")) == (
        "text",
        "first_word",
    )


async def test_a_recogniser_of_the_call_can_be_the_ear() -> None:
    heard = await AsrEar(FakeAsr(TEXT)).hear(resampled(voiced(2.0).pcm, 16_000), TEXT, "en")
    assert heard == Hearing("Peter opened the big window.")


async def test_too_short_too_long_and_silent() -> None:
    right = Hearing("peter opened the big window")
    assert await faults(voiced(0.3), right) == ("too_short",)
    assert await faults(voiced(12.0), right) == ("too_long",)
    assert await faults(Said(TEXT, np.zeros(32_000, np.int16), 16_000), right) == ("silent",)
    assert await faults(Said(TEXT, np.zeros(0, np.int16), 16_000), right) == ("silent",)


async def test_edges() -> None:
    right, said = Hearing("anna opened the big window"), voiced(1.6)
    said = Said("Anna opened the big window.", said.pcm, said.rate)
    assert await faults(said, right) == ()
    sudden = said.pcm[2400:]
    assert await faults(Said(said.text, sudden, said.rate), right) == ("cut_start",)
    behind = np.concatenate([np.zeros(1600, np.int16), sudden])
    assert await faults(Said(said.text, behind, said.rate), right) == ("cut_start",)
    assert await faults(Said(said.text, said.pcm[:-2400], said.rate), right) == ("cut_end",)


async def test_a_faster_voice_is_given_less_time() -> None:
    verdict = await check(voiced(6.0), "en", Told(Hearing(TEXT.lower())), speed=2.0)
    assert verdict.faults == ("too_long",)
    assert isinstance(verdict, Verdict)


@pytest.mark.parametrize(
    ("text", "heard", "there"),
    [
        ("Hello, my friend.", "hello my friend", (True, True)),
        ("Hello, my friend.", "well hello my friends", (True, True)),
        ("Hello, my friend.", "my friend", (False, True)),
        ("今天天气很好。", "今天天气很好", (True, True)),
        ("今天天气很好。", "天气很", (False, False)),
        ("Hello.", "", (False, False)),
    ],
)
def test_first_and_last_word(text: str, heard: str, there: tuple[bool, bool]) -> None:
    assert ends_there(text, heard) == there


def test_words_and_distances() -> None:
    assert words("Don’t pay $3.50 for “it”, Zoë!") == ["don't", "pay", "3.50", "for", "it", "zoe"]
    assert plain("Hello, Wörld — ４2!") == "hellowörld42"
    assert distance("kitten", "sitting") == 3
    assert distance("", "abc") == 3
    assert unlike(["K", "OW", "L", "D"], ["TH", "AW", "L", "D"]) == pytest.approx(1.3)
    assert unlike(["S", "IY"], ["S", "IY"]) == 0


def test_the_sentences_of_the_proof_are_others() -> None:
    assert not set(FRESH) & set(SENTENCES)
    assert len(set(FRESH)) * len(VOICES) >= 200
