"""Whatever sound or film a person sends, decoded and examined in a process that has little to take and no time."""

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import numpy.typing as npt

from server.core.errors import RequestError
from tts.recording import LONGEST_S, RATE, Examination, Wave, ceiling_share, examine

WAIT_S = 60.0
CPU_S = 20
MEMORY = 2 * 1024**3  # bytes of address space; libraries map most of it
OUTPUT_LIMIT = 8 * 1024 * 1024  # bytes: 31 s of float32 at 24 kHz are 3 MB
DECODED_S = LONGEST_S + 1.0  # no more is decoded, however long the file
PACKETS = 200_000  # ... nor more packets looked at
# Containers of sound and film. Not among them: playlists and the like, which make the library open other files.
CONTAINERS = (
    "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,"
    "nut,ogg,rm,tta,voc,w64,wav,wv,ape,dv,mxf"
)


class Told(msgspec.Struct):
    """The first line of what the process says; samples follow if there is an examination."""

    error: str = ""
    examination: Examination | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    pcm: Wave
    """mono at RATE"""
    examination: Examination


async def decode(file: Path) -> Decoded:
    """Raises RequestError with a sentence if there is no sound in it that could be decoded in time."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tts.decoding",
        str(file),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        limit=2**20,
        process_group=0,
    )
    try:
        output = b""
        with anyio.move_on_after(WAIT_S) as patience:
            assert process.stdout is not None
            while (piece := await process.stdout.read(2**18)) and len(output) <= OUTPUT_LIMIT:
                output += piece
        if patience.cancelled_caught:
            raise RequestError(400, "undecodable", f"The file could not be decoded within {WAIT_S:.0f} s.")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        with anyio.CancelScope(shield=True):
            await process.wait()
    line, _, samples = output.partition(b"\n")
    try:
        told = msgspec.json.decode(line, type=Told)
    except msgspec.MsgspecError:
        told = Told("The file cannot be read: it takes too much to decode it. Send it as WAV or MP3.")
    if told.examination is None:
        raise RequestError(400, "undecodable", told.error)
    return Decoded(np.frombuffer(samples[: len(samples) // 4 * 4], np.float32), told.examination)


# ---- in the process ------------------------------------------------------------------------------------------------


def _bound() -> None:
    os.nice(5)
    for what, most in (
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))


def read(file: Path) -> tuple[Wave, float, int]:
    """The sound, mono at RATE, at most DECODED_S of it; the share of clipped samples; the file's own rate.

    Raises ValueError with a sentence.
    """
    import av

    try:
        # Through a file object and without any protocol: nothing that the file names is opened.
        with (
            file.open("rb") as source,
            av.open(source, options={"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}) as container,
        ):
            if not container.streams.audio:
                raise ValueError("There is no sound in this file. Send a recording of somebody speaking.")
            stream = container.streams.audio[0]
            parts, clipped, rate = _decoded(container, stream)
    except av.FFmpegError as error:
        raise ValueError(
            f"The file cannot be read as sound or film ({error.strerror}). Send WAV, MP3, M4A, WebM or the like."
        ) from None
    if not parts:
        raise ValueError("There is no sound in this file. Send a recording of somebody speaking.")
    return np.concatenate(parts)[: round(DECODED_S * RATE)], clipped, rate


def _decoded(container: Any, stream: Any) -> tuple[list[Wave], float, int]:
    import av

    mixer = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    plain: Any = None
    parts: list[Wave] = []
    channels: list[npt.NDArray[Any]] = []
    samples = rate = 0
    for frame in _frames(container, stream):
        rate = frame.sample_rate
        plain = plain or av.AudioResampler(format="fltp", layout=frame.layout, rate=rate)
        channels += [one.to_ndarray() for one in plain.resample(frame)]
        frame.pts = None
        for one in mixer.resample(frame):
            parts.append(one.to_ndarray().reshape(-1).astype(np.float32, copy=False))
            samples += len(parts[-1])
        if samples > DECODED_S * RATE:
            break
    if rate:
        parts += [one.to_ndarray().reshape(-1).astype(np.float32, copy=False) for one in mixer.resample(None)]
    own = np.concatenate(channels, axis=1) if channels else np.zeros((1, 0), np.float32)
    return parts, max((ceiling_share(channel) for channel in own), default=0.0), rate


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """A damaged packet is passed over, as players do."""
    import av

    for count, packet in enumerate(container.demux(stream)):
        if count > PACKETS:
            return
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def main(file: str) -> None:
    _bound()
    out = sys.stdout.buffer
    try:
        pcm, clipped, rate = read(Path(file))
        found = examine(pcm, clipped, rate)
    except ValueError as error:
        out.write(msgspec.json.encode(Told(str(error))) + b"\n")
    except MemoryError:
        out.write(
            msgspec.json.encode(Told("The file takes too much memory to decode. Send it as WAV or MP3.")) + b"\n"
        )
    else:
        out.write(msgspec.json.encode(Told(examination=found)) + b"\n" + pcm.astype("<f4").tobytes())
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
