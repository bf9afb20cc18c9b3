"""The encoders, decoded back by FFmpeg's decoders."""

from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from render.encode import Encoder

DECODERS = {"H264": "h264", "VP8": "vp8"}


def decode(codec: str, packets: Sequence[bytes]) -> list[Any]:
    """One decoded frame a packet."""
    decoder: Any = av.CodecContext.create(DECODERS[codec], "r")
    decoder.flags |= 0x80000  # AV_CODEC_FLAG_LOW_DELAY
    decoder.thread_count = 1
    frames = [frame for data in packets for frame in decoder.decode(av.Packet(data))]
    frames += decoder.decode(None)
    return frames


def patches(shift: int) -> NDArray[np.uint8]:
    """I420 of 256 x 256: four quarters in colours that move with `shift`."""
    out = np.empty((384, 256), np.uint8)
    luma = out[:256]
    chroma = out[256:].reshape(2, 128, 128)
    for q, (y, u, v) in enumerate([(40, 90, 200), (120, 200, 100), (180, 60, 130), (220, 128, 128)]):
        r, c = divmod(q, 2)
        luma[r * 128 : (r + 1) * 128, c * 128 : (c + 1) * 128] = y + shift
        chroma[0, r * 64 : (r + 1) * 64, c * 64 : (c + 1) * 64] = u
        chroma[1, r * 64 : (r + 1) * 64, c * 64 : (c + 1) * 64] = v
    return out


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_colours_survive(codec: str) -> None:
    encoder = Encoder(codec, 256, 256, 1_200_000)
    sent = [patches(i % 5) for i in range(25)]
    packets = [encoder.encode(p, i, i == 0)[0] for i, p in enumerate(sent)]
    frames = decode(codec, packets)
    assert len(frames) == len(sent)
    for picture, frame in list(zip(sent, frames, strict=True))[5:]:
        error = np.abs(frame.to_ndarray(format="yuv420p").astype(int) - picture)
        assert np.percentile(error, 99) <= 3
    if codec == "H264":
        first = frames[0]
        assert (first.color_range, first.colorspace) == (1, 6)  # limited, BT.601


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_key_frames_come_when_asked_for_and_only_then(codec: str) -> None:
    encoder = Encoder(codec, 256, 256, 1_200_000)
    rng = np.random.default_rng(0)
    asked = {0, 7, 40}
    packets, keys = [], set()
    for i in range(60):
        picture = rng.integers(16, 235, (384, 256)).astype(np.uint8) if i == 20 else patches(i % 7)  # 20: a new scene
        data, key = encoder.encode(picture, i, i in asked)
        packets.append(data)
        if key:
            keys.add(i)
    assert keys == asked
    # Joining at a key frame is enough to decode.
    assert len(decode(codec, packets[40:])) == 20


def test_h264_is_annex_b_with_parameter_sets_before_every_key_frame() -> None:
    encoder = Encoder("H264", 256, 256, 1_200_000)
    for i in range(10):
        data, key = encoder.encode(patches(i), i, i in (0, 5))
        kinds = [nal[0] & 31 for nal in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]]
        assert ([k for k in kinds if k in (7, 8, 5)] == [7, 8, 5]) == key
        if not key:
            assert 1 in kinds
        else:
            sps = data[data.index(b"\0\0\0\1\x67") + 4 :]
            assert sps[1] == 66  # baseline


def test_frames_left_out_do_not_matter() -> None:
    encoder = Encoder("H264", 256, 256, 1_200_000)
    packets = [encoder.encode(patches(i % 3), i, i == 0)[0] for i in (0, 1, 2, 9, 10, 30)]
    assert len(decode("H264", packets)) == 6


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="H264, VP8"):
        Encoder("AV1", 256, 256, 1_000_000)
