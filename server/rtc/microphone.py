"""The person's microphone: Opus packets in, 20 ms frames of 16 kHz mono out, in a bounded stream."""

import asyncio
import logging
import time
from collections import deque

import av
from av.audio.codeccontext import AudioCodecContext

from server.core import resampling
from server.core.media import MEDIA_RATE, MIC_FRAME_BYTES, MIC_RATE, SAMPLE_BYTES, MicFrame

log = logging.getLogger(__name__)

LIMIT = 50
"""frames kept for a reader that is behind: one second, then the oldest go"""


class Resampler:
    """Sound of any rate, format and channel count -> 20 ms frames of s16le mono 16 kHz."""

    def __init__(self) -> None:
        self._shape: tuple[str, str, int] | None = None
        self._rest = b""

    def push(self, frame: av.AudioFrame) -> list[bytes]:
        """The 20 ms frames that this sound completes; the filter needs 1 ms of what follows."""
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            self._shape = shape
            self._rest = b""
            self._resampler = resampling.Resampler(MIC_RATE)
        frame.pts = None  # holes in time are the caller's affair; the resampler would refuse them
        pcm = b"".join(bytes(out.planes[0])[: out.samples * SAMPLE_BYTES] for out in self._resampler.resample(frame))
        if not self._rest and len(pcm) % MIC_FRAME_BYTES:
            # Its first output lacks the filter's delay (16 samples). Filled up with silence once, 20 ms in are
            # 20 ms out from then on; else every frame would wait for the next packet.
            pcm = bytes(-len(pcm) % MIC_FRAME_BYTES) + pcm
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % MIC_FRAME_BYTES
        self._rest = pcm[whole:]
        return [pcm[i : i + MIC_FRAME_BYTES] for i in range(0, whole, MIC_FRAME_BYTES)]


class Microphone:
    """Frames as they come, for one reader. Bounded: a reader that is behind loses the oldest ones."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.frames = 0
        """frames that came"""
        self.overflow = 0
        """frames that the reader was too slow for"""
        self.undecodable = 0
        """packets that were not Opus"""
        self._frames: deque[MicFrame] = deque()
        self._limit = limit
        self._wake = asyncio.Event()
        self._closed = False
        self._resampler = Resampler()
        codec = av.CodecContext.create("libopus", "r")
        assert isinstance(codec, AudioCodecContext)
        codec.format = "s16"
        codec.layout = "mono"  # libopus itself mixes stereo packets down
        codec.sample_rate = MEDIA_RATE
        self._decoder = codec

    def decode(self, payload: bytes) -> None:
        """An Opus packet, in order. Costs about 0.08 ms, less than handing it to a thread."""
        if self._closed or not payload:
            return
        try:
            frames = self._decoder.decode(av.Packet(payload))
        except av.FFmpegError:
            self.undecodable += 1
            return
        for frame in frames:
            self.push(frame)

    def push(self, frame: av.AudioFrame) -> None:
        """Sound of any rate, format and channel count."""
        now = time.monotonic()
        for pcm in self._resampler.push(frame):
            if len(self._frames) >= self._limit:
                self._frames.popleft()
                if self.overflow == 0:
                    log.warning("nobody reads the microphone fast enough; dropping the oldest frames")
                self.overflow += 1
            self._frames.append(MicFrame(pcm=pcm, end_s=now))
            self.frames += 1
        self._wake.set()

    def close(self) -> None:
        """End the stream; what is in it can still be read."""
        self._closed = True
        self._wake.set()

    def __aiter__(self) -> "Microphone":
        return self

    async def __anext__(self) -> MicFrame:
        while not self._frames:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._frames.popleft()
