"""The resampler of the event loop: the samples of PyAV's own, and no threads."""

import os

import av
import numpy as np
import pytest

from server.core.resampling import Resampler


def pieces(rate: int, layout: str, sizes: tuple[int, ...]) -> list[av.AudioFrame]:
    noise = np.random.default_rng(rate)
    channels = 2 if layout == "stereo" else 1
    out = []
    for size in sizes:
        samples = noise.integers(-9000, 9000, (1, size * channels)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = rate
        out.append(frame)
    return out


@pytest.mark.parametrize(
    ("rate", "target", "layout"),
    [(24_000, 48_000, "mono"), (22_050, 48_000, "mono"), (48_000, 16_000, "stereo"), (24_000, 24_000, "mono")],
)
def test_the_samples_are_those_of_pyav(rate: int, target: int, layout: str) -> None:
    heard = []
    for resampler in (av.AudioResampler(format="s16", layout="mono", rate=target), Resampler(target)):
        frames = [f for piece in pieces(rate, layout, (441, 960, 7, 480)) for f in resampler.resample(piece)]
        frames += resampler.resample(None)
        heard.append(np.concatenate([frame.to_ndarray()[0] for frame in frames]))
    np.testing.assert_array_equal(*heard)


def test_no_thread_is_started() -> None:
    before = len(os.listdir("/proc/self/task"))
    resampler = Resampler(48_000)
    for piece in pieces(24_000, "mono", (480, 480)):
        resampler.resample(piece)
    assert len(os.listdir("/proc/self/task")) == before


def test_a_frame_of_another_shape_is_refused() -> None:
    resampler = Resampler(48_000)
    resampler.resample(pieces(24_000, "mono", (480,))[0])
    with pytest.raises(ValueError, match="made for"):
        resampler.resample(pieces(16_000, "mono", (480,))[0])


def test_nothing_in_nothing_out() -> None:
    assert Resampler(48_000).resample(None) == []
