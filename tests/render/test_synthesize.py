"""Films: sound and picture to the sample, with alpha, of any length in little memory, or a clear refusal."""

import dataclasses
import wave
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("numba", reason="numba paints the InsTaG face; it comes with the instag extra")

from render import synthesize
from render.avatar import save
from render.person import Person
from render.score import Score
from server.__main__ import main as visavis
from server.core.media import FRAME_SAMPLES, MEDIA_RATE
from tests.render import procedural
from tests.render.test_hearing import voice

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("avatars") / "small"
    save(procedural.person("small", faces=400, side=SIDE), place)
    return place


def record(path: Path, pcm: np.ndarray, rate: int = MEDIA_RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(np.repeat(pcm.astype("<i2"), channels).tobytes())
    return path


def clicks(seconds: float, at: list[float], rate: int = MEDIA_RATE) -> np.ndarray:
    """Bursts of 6 ms in silence: where they are can be read off to a few samples."""
    pcm = np.zeros(round(seconds * rate))
    burst = 20000 * np.sin(2 * np.pi * 1000 * np.arange(round(0.006 * rate)) / rate)
    for second in at:
        start = round(second * rate)
        pcm[start : start + len(burst)] = burst
    return pcm.astype(np.int16)


def film(path: Path) -> tuple[list[tuple[float, np.ndarray]], np.ndarray]:
    """Pictures with their times, and the sound from time 0 on at 48 kHz."""
    with av.open(str(path)) as container:
        pictures = [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    sound = np.zeros(0)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            data = frame.to_ndarray().mean(0)
            data = data / 32768 if frame.format.name.startswith("s16") else data
            start = round(float(frame.pts * frame.time_base) * MEDIA_RATE)
            sound = np.pad(sound, (0, max(start + len(data) - len(sound), 0)))
            sound[max(start, 0) : start + len(data)] = data[max(-start, 0) :]
    return pictures, sound


def starts(sound: np.ndarray, at: list[float]) -> list[int]:
    """How many samples late each burst is: where it fits best."""
    out = []
    burst = np.sin(2 * np.pi * 1000 * np.arange(288) / MEDIA_RATE)
    for second in at:
        middle = round(second * MEDIA_RATE)
        around = np.pad(sound, 3000)[middle + 3000 - 2000 : middle + 3000 + 2300]
        out.append(int(np.argmax(np.correlate(around, burst, "valid"))) - 2000)
    return out


@pytest.mark.parametrize(("rate", "channels"), [(48000, 1), (22050, 2), (8000, 1)])
def test_an_mp4_is_in_time_to_the_sample(
    folder: Path, tmp_path: Path, rate: int, channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    at = [0.1, 0.5, 1.31]
    recording = record(tmp_path / "voice.wav", clicks(1.63, at, rate), rate, channels)
    out = tmp_path / "film.mp4"
    assert visavis(["synthesize", str(folder), str(recording), str(out)]) == 0
    assert "41 frames" in capsys.readouterr().out
    pictures, sound = film(out)
    assert [round(t * 25, 3) for t, _ in pictures] == list(range(41))
    assert pictures[0][1].shape == (SIDE, SIDE, 3)
    late = starts(sound, at)
    assert max(abs(n) for n in late) <= (2 if rate == 48000 else 8)
    assert abs(len(sound) - 41 * FRAME_SAMPLES) <= 1024  # the codec's last frame may be filled up
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_frames_are_those_of_a_call(folder: Path) -> None:
    person = Person.load(folder)
    pcm = voice(1.0)
    pieces = iter(pcm.reshape(-1, FRAME_SAMPLES))
    made = [take.picture.copy() for take in synthesize.takes(person, pieces, seed=5)]
    score = Score()
    for k, piece in enumerate(pcm.reshape(-1, FRAME_SAMPLES)):
        score.push(k * FRAME_SAMPLES, 1, piece)
    call = synthesize.InstagPainter(person, score, 5)
    assert len(made) == 25
    worst = [np.abs(call.paint(k).astype(int) - made[k]).max() for k in range(25)]
    assert max(worst) == 0
    assert any(not np.array_equal(made[0], m) for m in made)


def test_alpha_comes_as_webm_or_as_pictures(folder: Path, tmp_path: Path) -> None:
    recording = record(tmp_path / "voice.wav", voice(0.4))
    for out in ("film.webm", "frames"):
        assert visavis(["synthesize", str(folder), str(recording), str(tmp_path / out)]) == 0
    with av.open(str(tmp_path / "film.webm")) as container:
        assert container.streams.video[0].metadata.get("alpha_mode") == "1"
        assert container.streams.audio[0].codec_context.name in ("opus", "libopus")
    names = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert names == [*(f"{k:06d}.png" for k in range(10)), "sound.wav"]
    png = cv2.imread(str(tmp_path / "frames" / "000003.png"), cv2.IMREAD_UNCHANGED)
    assert png.shape == (SIDE, SIDE, 4)
    assert png[2, 2, 3] == 0
    assert png[SIDE // 2, SIDE // 2, 3] == 255
    codec = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own decoder leaves the alpha out
    with av.open(str(tmp_path / "film.webm")) as container:
        frames = [f for packet in container.demux(video=0) for f in codec.decode(packet)]
    assert len(frames) == 10
    alpha = frames[3].to_ndarray(format="rgba")[:, :, 3]
    assert np.abs(alpha.astype(int) - png[:, :, 3]).mean() < 6
    with wave.open(str(tmp_path / "frames" / "sound.wav")) as file:
        assert (file.getframerate(), file.getnframes()) == (MEDIA_RATE, 10 * FRAME_SAMPLES)


def test_size_background_and_seed_are_heeded(folder: Path, tmp_path: Path) -> None:
    recording = record(tmp_path / "voice.wav", np.zeros(FRAME_SAMPLES * 3, np.int16))
    big = tmp_path / "large"
    save(dataclasses.replace(procedural.person("large", faces=400, side=128)), big)
    corner = {}
    for name, more in (("own", []), ("red", ["--background", "#ff0000"]), ("half", ["--size", "64"])):
        out = tmp_path / f"{name}.mp4"
        assert visavis(["synthesize", str(big), str(recording), str(out), *more]) == 0
        picture = film(out)[0][0][1]
        assert picture.shape[0] == (64 if name == "half" else 128)
        corner[name] = picture[3:8, 3:8].reshape(-1, 3).mean(0)
    assert np.abs(corner["own"] - procedural.BACKGROUND).max() < 5
    assert np.abs(corner["red"] - (255, 0, 0)).max() < 5


def test_a_long_recording_takes_no_more_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read, painted and forgotten on the way."""
    person = Person.load(folder)
    monkeypatch.setattr(synthesize.InstagPainter, "paint", lambda self, index: np.zeros((96, 64), np.uint8))
    kept: list[int] = []
    score = synthesize.Score

    class Watched(score):  # type: ignore[misc,valid-type]
        def forget(self, before: int) -> None:
            super().forget(before)
            kept.append(sum(len(p.pcm) for p in self.pieces))

    monkeypatch.setattr(synthesize, "Score", Watched)
    asked = 0

    def minutes() -> object:
        nonlocal asked
        for _ in range(25 * 30):
            asked += 1
            yield np.zeros(FRAME_SAMPLES, np.int16)

    for take in synthesize.takes(person, minutes()):  # type: ignore[arg-type]
        assert asked <= take.index + synthesize.LEAD_FRAMES + 2
    assert take.index == 25 * 30 - 1
    assert max(kept) <= 3 * MEDIA_RATE


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nobody", "voice.wav", "film.mp4"], "There is no avatar nobody"),
        (["small", "silent.wav", "film.mp4"], "no sound in"),
        (["small", "text.wav", "film.mp4"], "cannot be read"),
        (["small", "none.wav", "film.mp4"], "no recording"),
        (["small", "film.mp4"], "give --text"),
        (["small", "voice.wav", "film.mp4", "--text", "Hello."], "one of them is enough"),
        (
            ["small", "film.mp4", "--text", "Hello.", "--voice", "nobody", "--set", "tts.type=tone"],
            "no voice 'nobody'",
        ),
        (["small", "voice.wav", "film.avi"], "films are .mp4 or .webm"),
        (["small", "voice.wav", "away/film.mp4"], "no folder"),
        (["small", "voice.wav", "film.webm", "--background", "#ff0000"], "has no background"),
        (["small", "voice.wav", "film.mp4", "--alpha", "png"], "needs a folder"),
        (["small", "voice.wav", "film.mp4", "--size", "100"], "multiple of 16"),
        (["small", "voice.wav", "film.mp4", "--size", "1024"], "more than the 64 pixels"),
        (["small", "voice.wav", "film.mp4", "--background", "#f"], "is no colour"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "voice.wav", voice(0.1))
    record(tmp_path / "silent.wav", np.zeros(0, np.int16))
    (tmp_path / "text.wav").write_text("no recording at all")
    (tmp_path / "small").symlink_to(folder)
    assert visavis(["synthesize", *arguments]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert not list(tmp_path.glob("film*"))
    assert not list(tmp_path.glob(".film*"))


def test_a_text_is_spoken_instead_of_a_recording(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "film.mp4"
    said = ["--set", "tts.type=tone", "--set", "tts.clause_s=0.6", "--text", "Hello there."]
    assert visavis(["synthesize", str(folder), *said, str(out)]) == 0
    pictures, sound = film(out)
    assert 0.5 < len(pictures) / 25 < 0.9
    assert np.abs(sound).max() > 0.05


def test_a_film_that_breaks_off_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: synthesize.Film, take: synthesize.Take) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthesize.Film, "add", full)
    recording = record(tmp_path / "voice.wav", voice(0.1))
    assert visavis(["synthesize", str(folder), str(recording), str(tmp_path / "film.mp4")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["voice.wav"]


class Recorder:
    """A sink that fails at one frame, and remembers who called it."""

    def __init__(self, fails_at: int = -1) -> None:
        self.seen: list[int] = []
        self.ended = ""
        self._fails_at = fails_at

    def add(self, take: synthesize.Take) -> None:
        if take.index == self._fails_at:
            raise OSError("the disk is full")
        self.seen.append(take.index)

    def close(self) -> None:
        self.ended += "closed"

    def abandon(self) -> None:
        self.ended += "abandoned"


def take(index: int) -> synthesize.Take:
    return synthesize.Take(index, np.zeros((3, 2), np.uint8), np.zeros(FRAME_SAMPLES, np.int16))


def test_frames_behind_come_in_order_and_all_of_them() -> None:
    recorder = Recorder()
    behind = synthesize.Behind(recorder)
    for index in range(50):
        behind.add(take(index))
    behind.close()
    assert recorder.seen == list(range(50))
    assert recorder.ended == "closed"


def test_what_fails_behind_is_raised_in_front() -> None:
    recorder = Recorder(fails_at=3)
    behind = synthesize.Behind(recorder)

    def all_of_them() -> None:
        for index in range(100):  # more than may wait
            behind.add(take(index))
        behind.close()

    with pytest.raises(OSError, match="full"):
        all_of_them()
    behind.abandon()
    assert recorder.seen == [0, 1, 2]
    assert recorder.ended == "abandoned"
