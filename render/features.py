"""What the motion fields listen to: from 16 kHz sound to features at 25 a second, on the spot or for a whole clip.

Our own encoder is a small convolutional net over a mel spectrum. Nothing but numpy is needed to run it. The
encoders of others (AVE, HuBERT), whose weights a user brings, are in `render.extractors`.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from server.core.errors import VisavisError

Floats = NDArray[np.float32]

RATE = 16_000  # samples a second
FPS = 25
FRAME = RATE // FPS  # samples
HOP = 160  # samples: a spectrum every 10 ms
SPAN = 400  # samples in one spectrum: 25 ms
FFT = 512
BANDS = 40
LOWEST_HZ, HIGHEST_HZ = 60.0, 7600.0
SPECTRA_PER_FRAME = FRAME // HOP

LAYERS = ((5, 1), (5, 2), (5, 2), (5, 1), (3, 1))
"""Kernel and stride of each convolution over time; the strides make 25 a second out of 100."""
CONTEXT = 41  # spectra that one feature depends on: what the kernels and strides of LAYERS come to
SHIFT = 3
"""Feature j is the encoder's output for frame j - SHIFT: the window of frame i, i - 4 to i + 3, ends with its own."""
LOOK_AHEAD_SPECTRA = SHIFT * SPECTRA_PER_FRAME
LOOK_AHEAD_S = LOOK_AHEAD_SPECTRA * HOP / RATE
"""How long after the start of a displayed frame the sound must be known, the window of eight features included."""

QUIET = 0.008
"""RMS (-42 dBFS) below which sound is not raised to the level of speech"""
FALL_PER_SPECTRUM = 0.02 * np.log(10) / 10
"""The remembered level of a voice falls by 2 dB a second."""
RANGE = 1e5  # 50 dB below the voice's level are told apart from silence
BLOCK = 500  # frames of a long clip that are worked on at a time

MODEL = Path(__file__).with_name("models") / "encoder.safetensors"


class FeatureError(VisavisError):
    """Weights of an encoder do not fit, or are missing: `feature_weights`, `feature_missing`."""


@cache
def filters() -> Floats:
    """Triangles of equal width on the mel scale, one at their peaks: (FFT // 2 + 1, BANDS)."""
    edges = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2)
    place = _mel(np.arange(FFT // 2 + 1) * (RATE / FFT))[:, None]
    rise = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    return np.asarray(np.clip(np.minimum(rise, fall), 0, None), np.float32)


@cache
def _lift() -> Floats:
    """Speech falls by some 6 dB an octave above 1 kHz: (BANDS,) of power put back."""
    edges = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2)
    centre = 700 * (10 ** (edges[1:-1] / 2595) - 1)
    return np.asarray(np.maximum(1, centre / 1000) ** 2, np.float32)


def _mel(hertz: float | NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(2595 * np.log10(1 + np.asarray(hertz) / 700))


_HANN = np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(SPAN) + 0.5) / SPAN), np.float32)
_QUIET_POWER = float(FFT / 2 * np.sum(_HANN.astype(np.float64) ** 2) * QUIET**2)


class MelStream:
    """The spectra of one stream of sound; spectrum k ends with sample HOP * (k + 1) and knows nothing later."""

    def __init__(self) -> None:
        self._rest: Floats = np.zeros(SPAN - HOP, np.float32)
        self._level = np.log(_QUIET_POWER)

    def push(self, pcm: Floats) -> Floats:
        """Further samples (n,), full scale 1 -> the spectra that they complete, (k, BANDS), from 0 (silence) to 1."""
        self._rest = np.concatenate([self._rest, np.asarray(pcm, np.float32)])
        count = (len(self._rest) - SPAN) // HOP + 1
        if count <= 0:
            return np.zeros((0, BANDS), np.float32)
        spans = sliding_window_view(self._rest, SPAN)[::HOP][:count]
        self._rest = self._rest[count * HOP :].copy()
        spectrum = np.fft.rfft(spans * _HANN, FFT)
        bands = (spectrum.real**2 + spectrum.imag**2).astype(np.float32) @ filters()
        level = self._levels(bands.sum(1, dtype=np.float64))
        heard = np.log10(1 + RANGE * bands * _lift() / np.exp(level)[:, None])
        return np.asarray(heard / np.log10(RANGE), np.float32)

    def _levels(self, power: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithm of the loudest power so far, forgotten slowly, never less than that of a quiet room: (k,)."""
        fallen = FALL_PER_SPECTRUM * np.arange(1, len(power) + 1)
        risen = np.maximum.accumulate(np.log(np.maximum(power, _QUIET_POWER)) + fallen)
        level = np.maximum(np.maximum(risen, self._level) - fallen, np.log(_QUIET_POWER))
        self._level = level[-1]
        return np.asarray(level)


@dataclass(frozen=True)
class MelEncoder:
    """Our own encoder: a spectrum every 10 ms in, `width` values a frame of video out. One serves many calls."""

    width: int
    look_ahead_s: float = field(default=LOOK_AHEAD_S, init=False)
    _kernels: tuple[Floats, ...]  # of each layer (in * kernel, out)
    _biases: tuple[Floats, ...]
    _lips: Floats | None = None  # (width + 1,): weights of the features and a bias

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Floats]) -> "MelEncoder":
        """From `conv.K.weight` (out, in, kernel), `conv.K.bias` and `code.weight` (width, in), `code.bias`;
        `opening.weight` (width,) and `opening.bias` (1,) may be there.

        Raises FeatureError where one is missing, misshapen or not finite.
        """
        kernels, biases = [], []
        width = BANDS
        for name, taps in [*((f"conv.{k}", kernel) for k, (kernel, _) in enumerate(LAYERS)), ("code", 1)]:
            weight, bias = (_tensor(tensors, f"{name}.{part}") for part in ("weight", "bias"))
            weight = weight[..., None] if weight.ndim == 2 else weight
            out = len(bias)
            if weight.shape != (out, width, taps) or bias.shape != (out,) or not out:
                raise FeatureError(
                    "feature_weights",
                    f"{name}.weight has the shape {weight.shape}, not {(out, width, taps)}: these are weights of "
                    "another encoder. Take those that came with the face.",
                )
            kernels.append(np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(taps * width, out)))
            biases.append(bias)
            width = out
        lips = None
        if "opening.weight" in tensors:
            lips = np.concatenate([_tensor(tensors, f"opening.{part}").ravel() for part in ("weight", "bias")])
            if lips.shape != (width + 1,):
                raise FeatureError(
                    "feature_weights",
                    f"The encoder's opening takes {len(lips) - 1} features, not {width}. "
                    "Take the weights that came with it.",
                )
        return cls(width, tuple(kernels), tuple(biases), lips)

    @classmethod
    def shipped(cls, path: Path = MODEL) -> "MelEncoder":
        """The one that comes with the product."""
        from safetensors.numpy import load_file

        return cls.of_tensors(load_file(path))

    def clip(self, pcm16k: Floats) -> Floats:
        """All of a clip: samples (n,), full scale 1 -> (frames, width, 1), frames = n / 640 rounded up.

        What lies before and after the clip is silence. Long clips are worked on in blocks.
        """
        frames = -(-len(pcm16k) // FRAME)
        stream, out = self.stream(), np.empty((frames, self.width, 1), np.float32)
        done = 0
        for begin in range(0, max(frames, 1), BLOCK):
            block = np.zeros(min(BLOCK, frames - begin) * FRAME, np.float32)
            piece = pcm16k[begin * FRAME : (begin + BLOCK) * FRAME]
            block[: len(piece)] = piece
            new = stream.push(block)[: frames - done]
            out[done : done + len(new)] = new
            done += len(new)
        return out

    def stream(self) -> "FeatureStream":
        return FeatureStream(self)

    def opening(self, features: Floats) -> Floats:
        """Features (n, width, 1) -> (n,): how far apart the lips are that say this, 1 for what is usual in speech.

        It is heard more surely than a field of motion shows it. Encoders that were not taught it say 1.
        """
        if self._lips is None:
            return np.ones(len(features), np.float32)
        return np.asarray(features[..., 0] @ self._lips[:-1] + self._lips[-1], np.float32)

    def of_spectra(self, spectra: Floats) -> Floats:
        """(CONTEXT + 4 * (n - 1), BANDS) spectra -> (n, width): the net itself."""
        return self.further(spectra, ())[0]

    def further(self, spectra: Floats, waiting: tuple[Floats, ...]) -> tuple[Floats, tuple[Floats, ...]]:
        """Features (n, width) that further spectra (k, BANDS) complete, and what each layer has still to use.

        waiting: what the spectra before left, none at the beginning. The arrays are not written to.
        """
        x, left = spectra, []
        for k, (taps, stride) in enumerate(LAYERS):
            if waiting:
                x = np.concatenate([waiting[k], x])
            count = max((len(x) - taps) // stride + 1, 0)
            left.append(x[count * stride :])
            if count:
                spans = sliding_window_view(x, taps, axis=0)[: count * stride : stride]  # (n, in, taps)
                rows = spans.transpose(0, 2, 1).reshape(count, -1)
                x = np.maximum(rows @ self._kernels[k] + self._biases[k], 0)
            else:
                x = np.zeros((0, len(self._biases[k])), np.float32)
        return np.asarray(np.tanh(x @ self._kernels[-1] + self._biases[-1]), np.float32), tuple(left)


class FeatureStream:
    """The features of one call. Feature j comes as soon as 640 * j samples have been pushed."""

    def __init__(self, encoder: MelEncoder) -> None:
        self._encoder = encoder
        self._mel = MelStream()
        self._waiting: tuple[Floats, ...] = ()

    def push(self, pcm16k: Floats) -> Floats:
        """Further samples (n,) -> the features that they complete, (k, width, 1); the first call brings one more."""
        spectra = self._mel.push(pcm16k)
        if not self._waiting:
            # Before the first sample there was silence. Feature 0 ends with spectrum -1.
            spectra = np.concatenate([np.zeros((CONTEXT, BANDS), np.float32), spectra])
        features, self._waiting = self._encoder.further(spectra, self._waiting)
        return features[..., None]

    def fork(self) -> "FeatureStream":
        """Another one in the same state, to go back to: arrays are replaced here and never written to."""
        twin = copy(self)
        twin._mel = copy(self._mel)
        return twin


def _tensor(tensors: Mapping[str, Floats], name: str) -> Floats:
    tensor = tensors.get(name)
    if tensor is None:
        raise FeatureError(
            "feature_weights", f"The encoder has no tensor {name}. Take the weights that came with it."
        )
    tensor = np.asarray(tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise FeatureError("feature_weights", f"The encoder's {name} holds numbers that are not finite. Train anew.")
    return tensor
