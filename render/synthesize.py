"""`visavis synthesize`: an avatar and a recording become a film, painted by the same hand as in a call.

    mp4            H.264 and AAC
    webm           VP9 with alpha and Opus: a face without a background, for editors and pages
    a folder       PNG frames with alpha, and the sound as a WAV beside them

Frame k owns the sound of [k / 25, (k + 1) / 25) seconds. Everything streams: a long film takes no more memory than a
short one.
"""

import argparse
import sys
import time
import wave
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Protocol

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from render.encode import LIMITED, SMPTE170M
from render.instag import AVATARS, InstagPainter
from render.person import Canvas, Person, backdrop
from render.raster.gaussians import Bytes
from render.score import Score
from server.core.errors import VisavisError
from server.core.media import FRAME_SAMPLES, MEDIA_RATE, VIDEO_FPS

Pcm = NDArray[np.int16]

LEAD_FRAMES = 10  # of voice known ahead of the frame that is painted; the motion looks three ahead, loudness none
BEHIND_FRAMES = 8  # that may be painted and not yet encoded, 3 MB
KINDS = (".mp4", ".webm")


class SynthesisError(VisavisError):
    """synthesis_ avatar, audio, out: what cannot be read or written, in a sentence."""


def sound(path: Path) -> Iterator[Pcm]:
    """A recording at 48 kHz, mono, a frame of video (FRAME_SAMPLES) at a time; the last is filled up with silence.

    Anything that FFmpeg reads; the first audio stream counts. Raises SynthesisError.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise SynthesisError("synthesis_audio", f"{path} has no sound in it. Name a recording of a voice.")
            yield from _pieces(_resampled(container))
    except (av.FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SynthesisError(
            "synthesis_audio", f"{path} cannot be read: {why}. Name a recording, such as a WAV, MP3 or Ogg file."
        ) from None


def _resampled(container: Any) -> Iterator[Pcm]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=MEDIA_RATE)
    for frame in container.decode(audio=0):
        frame.pts = None  # gaps in a file's time stamps are none in its sound
        for out in resampler.resample(frame):
            yield out.to_ndarray()[0]
    for out in resampler.resample(None):
        yield out.to_ndarray()[0]


def _pieces(arrays: Iterator[Pcm]) -> Iterator[Pcm]:
    rest = np.zeros(0, np.int16)
    for array in arrays:
        rest = np.concatenate([rest, array])
        while len(rest) >= FRAME_SAMPLES:
            yield rest[:FRAME_SAMPLES]
            rest = rest[FRAME_SAMPLES:]
    if len(rest):
        yield np.concatenate([rest, np.zeros(FRAME_SAMPLES - len(rest), np.int16)])


def duration_s(path: Path) -> float | None:
    """How long a recording says that it is; None where it does not say."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.audio[0] if container.streams.audio else None
            if stream is not None and stream.duration and stream.time_base:
                return float(stream.duration * stream.time_base)
            return container.duration / 1e6 if container.duration else None
    except (av.FFmpegError, OSError):
        return None  # told when it is read


@dataclass(frozen=True, slots=True)
class Take:
    """One frame of the film: its picture and its sound."""

    index: int
    picture: Bytes
    """I420 (3 H / 2, W), or with alpha RGBA (H, W, 4), not premultiplied"""
    pcm: Pcm
    """FRAME_SAMPLES of 48 kHz"""


def takes(
    person: Person,
    pieces: Iterator[Pcm],
    *,
    alpha: bool = False,
    background: Bytes | None = None,
    side: int | None = None,
    seed: int = 1,
) -> Iterator[Take]:
    """The film, frame by frame, as a call would have painted it with the voice known in time.

    pieces: FRAME_SAMPLES each. seed: of blinks and idle motion. side: width in pixels, None: the avatar's own.
    """
    score = Score(lips=False)
    painter = InstagPainter(person, score, seed, background=background, side=side)
    matted = Canvas(person, painter.width) if alpha else None
    known: deque[Pcm] = deque()
    pushed = index = 0
    more = True
    while more or known:
        while more and len(known) <= LEAD_FRAMES:
            piece = next(pieces, None)
            if piece is None:
                more = False
                break
            score.push(pushed * FRAME_SAMPLES, 1, piece)
            known.append(piece)
            pushed += 1
        if not known:
            return
        if matted is None:
            picture = painter.paint(index)
        else:
            codes, expression = painter.frame(index)
            picture = matted.rgba(codes, expression)
        score.forget(index * FRAME_SAMPLES)
        yield Take(index, picture, known.popleft())
        index += 1


class Sink(Protocol):
    """Where a film goes."""

    def add(self, take: Take) -> None: ...

    def close(self) -> None:
        """All of it is there."""
        ...

    def abandon(self) -> None:
        """It was not finished: what can be taken for a whole film goes away again. Never raises."""
        ...


class Film:
    """An mp4, or a webm with alpha."""

    def __init__(self, path: Path, width: int, height: int) -> None:
        self._alpha = path.suffix.lower() == ".webm"
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._container: Any = av.open(str(self._part), "w", format=path.suffix.lower()[1:])
        video, audio = ("libvpx-vp9", "libopus") if self._alpha else ("libx264", "aac")
        self._video = _stream(self._container, video, rate=VIDEO_FPS)
        self._video.width, self._video.height = width, height
        self._video.pix_fmt = "yuva420p" if self._alpha else "yuv420p"
        context = self._video.codec_context
        context.thread_count = 1
        context.color_range = LIMITED
        context.colorspace = context.color_primaries = context.color_trc = SMPTE170M
        if self._alpha:
            # Alpha needs no alternate reference frames: FFmpeg cannot split them.
            self._video.options = {
                "deadline": "realtime",
                "cpu-used": "7",
                "crf": "24",
                "b": "0",
                "auto-alt-ref": "0",
            }
        else:
            self._video.options = {"preset": "superfast", "crf": "17"}
        self._audio = _stream(self._container, audio, rate=MEDIA_RATE, layout="mono")
        self._audio.bit_rate = 96_000

    def add(self, take: Take) -> None:
        if self._alpha:
            picture = VideoFrame.from_ndarray(take.picture, "rgba")
            picture = picture.reformat(format="yuva420p", dst_colorspace="ITU601", dst_color_range="MPEG")
        else:
            picture = VideoFrame.from_numpy_buffer(take.picture, "yuv420p")
        picture.pts, picture.time_base = take.index, Fraction(1, VIDEO_FPS)
        sounding = AudioFrame.from_ndarray(take.pcm[None], "s16", "mono")
        sounding.sample_rate = MEDIA_RATE
        sounding.pts, sounding.time_base = take.index * FRAME_SAMPLES, Fraction(1, MEDIA_RATE)
        self._container.mux(self._video.encode(picture))
        self._container.mux(self._audio.encode(sounding))

    def close(self) -> None:
        self._container.mux(self._video.encode(None))
        self._container.mux(self._audio.encode(None))
        self._container.close()
        self._part.replace(self._path)

    def abandon(self) -> None:
        with suppress(OSError, av.FFmpegError):
            self._container.close()
        with suppress(OSError):
            self._part.unlink()


def _stream(container: Any, codec: str, **options: Any) -> Any:
    return container.add_stream(codec, **options)


class Frames:
    """A folder of PNG frames, `000000.png` and on, and `sound.wav`."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._wave = wave.open(str(path / "sound.wav"), "wb")  # noqa: SIM115 - closed in close
        self._wave.setparams((1, 2, MEDIA_RATE, 0, "NONE", ""))

    def add(self, take: Take) -> None:
        picture = cv2.cvtColor(take.picture, cv2.COLOR_RGBA2BGRA)
        if not cv2.imwrite(str(self._path / f"{take.index:06d}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"{self._path} takes no pictures")
        self._wave.writeframes(take.pcm.astype("<i2").tobytes())

    def close(self) -> None:
        self._wave.close()

    def abandon(self) -> None:
        with suppress(OSError):
            self._wave.close()


class Behind:
    """A sink that a thread of its own fills, a few frames behind: they are painted and encoded at the same time."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._takes: Queue[Take | None] = Queue(BEHIND_FRAMES)
        self._error: Exception | None = None
        self._abandoned = False
        self._thread = Thread(target=self._write, name="film", daemon=True)
        self._thread.start()

    def add(self, take: Take) -> None:
        """Waits while many frames are behind. Raises what the sink raised for an earlier one."""
        if self._error is not None:
            raise self._error
        self._takes.put(take)

    def close(self) -> None:
        self._end()
        if self._error is not None:
            raise self._error
        self._sink.close()

    def abandon(self) -> None:
        self._abandoned = True
        self._end()
        self._sink.abandon()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._takes.put(None)
            self._thread.join()

    def _write(self) -> None:
        while (take := self._takes.get()) is not None:
            if self._error is None and not self._abandoned:  # else only emptied, so that nobody waits for room
                try:
                    self._sink.add(take)
                except Exception as error:  # raised where frames are added
                    self._error = error


def synthesize(
    person: Person,
    audio: Path,
    out: Path,
    *,
    background: Bytes | None = None,
    side: int | None = None,
    seed: int = 1,
    tell: Callable[[int], None] = lambda frames: None,
) -> int:
    """Make the film; returns its number of frames. tell: hears after each how many there are.

    An unfinished film is removed again. Raises SynthesisError.
    """
    alpha = out.suffix.lower() != ".mp4"
    pieces = sound(audio)
    film = takes(person, pieces, alpha=alpha, background=background, side=side, seed=seed)
    first = next(film, None)
    if first is None:
        raise SynthesisError("synthesis_audio", f"There is no sound in {audio}. Name a recording of a voice.")
    frames = 0
    sink: Sink | None = None
    try:
        wide = first.picture.shape[1]
        high = first.picture.shape[0] if alpha else first.picture.shape[0] * 2 // 3
        sink = Behind(Film(out, wide, high) if out.suffix.lower() in KINDS else Frames(out))
        for take in chain([first], film):
            sink.add(take)
            frames += 1
            tell(frames)
        sink.close()
        sink = None
    except (OSError, av.FFmpegError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SynthesisError("synthesis_out", f"{out} cannot be written: {why}. Choose another place.") from None
    finally:
        if sink is not None:
            sink.abandon()
    return frames


def find(name: str, places: Sequence[Path] = (AVATARS,)) -> Path:
    """An avatar's folder, by its path or by the name of one that comes with visavis. Raises SynthesisError."""
    for path in (Path(name), *(place / name for place in places)):
        if (path / "manifest.json").is_file():
            return path
    known = sorted(p.parent.name for place in places for p in place.glob("*/manifest.json"))
    there = f" there are {', '.join(known)}, or" if known else ""
    raise SynthesisError(
        "synthesis_avatar", f"There is no avatar {name}:{there} give the path of an avatar's folder."
    )


class Progress:
    """A line on the terminal: how much is done, how fast, how long it will take; nothing where it is no terminal."""

    def __init__(self, seconds: float | None) -> None:
        """seconds: of the whole film, if it is known."""
        self._total = seconds
        self._began = self._told = time.monotonic()
        self._shown = sys.stderr.isatty()

    def __call__(self, frames: int) -> None:
        now = time.monotonic()
        if not self._shown or now - self._told < 0.1:
            return
        self._told = now
        done, taken = frames / VIDEO_FPS, now - self._began
        line = f"{done:6.1f} s   {done / max(taken, 1e-3):4.1f} x real time"
        if self._total:
            share = min(done / self._total, 1.0)
            filled = round(30 * share)
            left = (self._total - done) * taken / max(done, 1e-3)
            line = f"[{'#' * filled}{'-' * (30 - filled)}] {share:4.0%} {line}   {max(left, 0):4.0f} s left"
        sys.stderr.write(f"\r{line}  ")
        sys.stderr.flush()

    def done(self, frames: int, out: Path) -> None:
        taken = time.monotonic() - self._began
        seconds = frames / VIDEO_FPS
        if self._shown:
            sys.stderr.write("\r" + " " * 90 + "\r")
        print(f"{out}: {seconds:.2f} s, {frames} frames, {seconds / max(taken, 1e-3):.1f} times real time")


Speak = Callable[[argparse.Namespace, Path], None]
"""Writes a WAV in which what `text` says is spoken by `voice`; raises VisavisError."""


def main(argv: Sequence[str] | None = None, speak: Speak | None = None) -> int:
    """The command: 0 when the film is there, 1 with a sentence on stderr when not.

    speak: who can speak a text; None: there are only recordings.
    """
    parser = argparse.ArgumentParser(prog="visavis synthesize", description="An avatar says a recording: a film.")
    parser.add_argument("avatar", help="the name of an avatar that comes with visavis, or an avatar's folder")
    parser.add_argument(
        "audio", type=Path, nargs="?", help="a recording: WAV, MP3, Ogg, or whatever FFmpeg reads; or give --text"
    )
    parser.add_argument(
        "out", type=Path, help="FILM.mp4; FILM.webm (with alpha); or a folder for PNG frames with alpha"
    )
    parser.add_argument("--alpha", choices=("webm", "png"), help="with alpha: as the kind of OUT would say anyway")
    parser.add_argument("--background", default="", help="#rrggbb or a picture (mp4 only); default: the avatar's own")
    parser.add_argument("--size", type=int, help="width in pixels, a multiple of 16, at most the avatar's own")
    parser.add_argument(
        "--seed", type=int, default=1, help="of blinks and idle motion; the same film for the same one"
    )
    parser.add_argument("--extractors", type=Path, help="folder with AVE's or HuBERT's weights, for imported avatars")
    parser.add_argument("--text", help="what is spoken, instead of a recording")
    parser.add_argument("--voice", default="", help="who speaks it, cloned voices included; default: the avatar's")
    parser.add_argument("--language", default="", help="of the text, such as en or zh; default: the avatar's")
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="where the voices are set, for --text",
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="one setting, for --text")
    options = parser.parse_intermixed_args(argv)
    with ExitStack() as stack:
        return _make(options, speak, stack)


def _make(options: argparse.Namespace, speak: Speak | None, stack: ExitStack) -> int:
    try:
        if options.text is not None and speak is not None:
            if options.audio is not None:
                raise SynthesisError("synthesis_audio", "There is a recording and a --text: one of them is enough.")
            options.audio = Path(stack.enter_context(TemporaryDirectory())) / "text.wav"
            _check(options, spoken=True)
            speak(options, options.audio)
        _check(options)
        person = Person.load(find(options.avatar), options.extractors)
        _ = person.rest_code  # it can hear
        if options.size is not None and options.size > person.avatar.width:
            raise SynthesisError(
                "synthesis_out",
                f"--size {options.size} is more than the {person.avatar.width} pixels of this avatar.",
            )
        person.warm()
        progress = Progress(duration_s(options.audio))
        frames = synthesize(
            person,
            options.audio,
            options.out,
            background=backdrop(options.background),
            side=options.size,
            seed=options.seed,
            tell=progress,
        )
        progress.done(frames, options.out)
    except VisavisError as error:
        print(f"visavis synthesize: {error.message}", file=sys.stderr)
        return 1
    return 0


def _check(options: argparse.Namespace, spoken: bool = False) -> None:
    """Before anything is loaded. spoken: the recording is still to be made. Raises SynthesisError."""
    if options.audio is None:
        raise SynthesisError("synthesis_audio", "Name a recording, or give --text and what is to be said.")
    kind = options.out.suffix.lower()
    if kind and kind not in KINDS and not options.out.is_dir():
        raise SynthesisError("synthesis_out", f"{options.out}: films are .mp4 or .webm; PNG frames go to a folder.")
    if options.alpha and {"webm": ".webm", "png": ""}[options.alpha] != kind:
        wanted = "a .webm file" if options.alpha == "webm" else "a folder"
        raise SynthesisError("synthesis_out", f"--alpha {options.alpha} needs {wanted} as OUT, not {options.out}.")
    if options.background and kind != ".mp4":
        raise SynthesisError(
            "synthesis_out", "A film with alpha has no background; leave --background, or make an mp4."
        )
    if options.size is not None and (options.size < 64 or options.size % 16):
        raise SynthesisError("synthesis_out", "--size must be a multiple of 16, at least 64 pixels.")
    if not spoken and not options.audio.is_file():
        raise SynthesisError("synthesis_audio", f"There is no recording {options.audio}.")
    if kind in KINDS and not options.out.absolute().parent.is_dir():
        raise SynthesisError("synthesis_out", f"There is no folder {options.out.absolute().parent}.")


if __name__ == "__main__":
    raise SystemExit(main())
