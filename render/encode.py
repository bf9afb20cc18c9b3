"""I420 pictures in, H.264 or VP8 out, one thread, made for a call: no delay, key frames only when asked for."""

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from numpy.typing import NDArray

from server.core.media import VIDEO_FPS

CODECS = ("H264", "VP8")
RARELY = 100_000  # frames between key frames that nobody asked for: more than an hour
LIMITED, SMPTE170M = 1, 6  # FFmpeg's numbers for limited range, and for BT.601 as primaries, transfer and matrix


def _options(codec: str, bitrate: int) -> tuple[str, dict[str, str]]:
    rate = str(bitrate)
    if codec == "H264":
        return "libx264", {
            "preset": "superfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "forced-idr": "1",
            # 43 dB on the portraits, at the mouth too; higher begins to show there. The server pays by the packet.
            "crf": "27",
            "maxrate": rate,
            "bufsize": str(bitrate // 2),  # half a second: a key frame may be as large as a good picture needs
            # What is finer than quantiser 18 nobody sees, and a face at rest would be given it: a fifth of the time.
            "x264-params": "scenecut=0:keyint=infinite:qpmin=18",
        }
    if codec == "VP8":
        return "libvpx", {
            "deadline": "realtime",
            "cpu-used": "-8",
            "lag-in-frames": "0",
            "minrate": rate,
            "maxrate": rate,
            "bufsize": rate,
            "rc_init_occupancy": rate,
            "qmin": "10",  # finer than this nobody sees; a third of the time, half the bits
            "qmax": "52",
            "undershoot-pct": "95",
            "noise-sensitivity": "0",
            "auto-alt-ref": "0",
            "error-resilient": "default",
        }
    raise ValueError(f"no encoder for {codec!r}; there are {', '.join(CODECS)}")


class Encoder:
    """One call's encoder. H.264 comes as Annex B, parameter sets in front of every key frame."""

    def __init__(self, codec: str, width: int, height: int, bitrate: int) -> None:
        """bitrate: bits per second at the most. Raises ValueError for a codec it does not have."""
        name, options = _options(codec, bitrate)
        context: Any = av.CodecContext.create(name, "w")
        context.width, context.height = width, height
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, VIDEO_FPS)
        context.framerate = Fraction(VIDEO_FPS, 1)
        if codec == "VP8":
            context.bit_rate = bitrate
        context.gop_size = RARELY
        context.max_b_frames = 0
        context.thread_count = 1
        context.color_range = LIMITED
        context.colorspace = context.color_primaries = context.color_trc = SMPTE170M
        context.options = options
        context.open()
        self._context = context

    def encode(self, picture: NDArray[np.uint8], index: int, key: bool) -> tuple[bytes, bool]:
        """picture: I420, (3 h / 2, w). Returns (the encoded frame, whether it is a key frame)."""
        frame = VideoFrame.from_numpy_buffer(picture, "yuv420p")  # not copied: nobody paints over it
        frame.pts = index
        frame.time_base = self._context.time_base
        frame.pict_type = PictureType.I if key else PictureType.NONE
        packets = self._context.encode(frame)
        return b"".join(bytes(p) for p in packets), any(p.is_keyframe for p in packets)
