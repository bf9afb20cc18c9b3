"""The audio nets and the attention over eight frames, in numpy: a few thousand numbers a frame, without torch."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from render.motion.tables import WINDOW, WINDOW_BEFORE

Floats = NDArray[np.float32]
SLOPE = np.float32(0.02)


def codes(weights: Mapping[str, Floats], features: Floats) -> Floats:
    """(n, width, steps) of audio features -> (n, CODE). `weights` bear their checkpoint's names."""
    if features.shape[2] == 1:
        x = features[..., 0]
        for layer in (0, 2):
            x = _leaky(_affine(weights, f"audio_net.encoder_fc1.{layer}", x))
        return _affine(weights, "audio_net.encoder_fc1.4", x)
    x = features
    for layer in (0, 2, 4, 6):
        x = _leaky(_conv(weights, f"audio_net.encoder_conv.{layer}", x, stride=2))
    x = _leaky(_affine(weights, "audio_net.encoder_fc1.0", x[..., 0]))
    return _affine(weights, "audio_net.encoder_fc1.2", x)


def attend(weights: Mapping[str, Floats], window: Floats) -> Floats:
    """The codes of one frame's window, (WINDOW, CODE) -> (CODE,)."""
    x = window.T[None]
    for layer in (0, 2, 4, 6, 8):
        x = _leaky(_conv(weights, f"audio_att_net.attentionConvNet.{layer}", x, stride=1))
    scores = _affine(weights, "audio_att_net.attentionNet.0", x[0])[0]
    share = np.exp(scores - scores.max())
    return np.asarray(share / share.sum() @ window, np.float32)


def windows(codes: Floats, silence: Floats) -> Floats:
    """A clip's codes (frames, ...) -> (frames, WINDOW, ...): frames i - 4 to i + 3, `silence` beyond either end.

    `silence` is the code of features that are zero, which is not zero.
    """
    before = np.repeat(silence[None], WINDOW_BEFORE, 0)
    after = np.repeat(silence[None], WINDOW - 1 - WINDOW_BEFORE, 0)
    padded = np.concatenate([before, codes, after])
    return np.stack([padded[k : k + len(codes)] for k in range(WINDOW)], axis=1)


def _leaky(x: Floats) -> Floats:
    return np.asarray(np.maximum(x, SLOPE * x), np.float32)


def _affine(weights: Mapping[str, Floats], name: str, x: Floats) -> Floats:
    return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], np.float32)


def _conv(weights: Mapping[str, Floats], name: str, x: Floats, stride: int) -> Floats:
    """Kernel 3, one zero on either side: (n, width, steps) -> (n, out, steps / stride)."""
    kernel, steps = weights[f"{name}.weight"], x.shape[2]
    padded = np.zeros((*x.shape[:2], steps + 2), np.float32)
    padded[:, :, 1:-1] = x
    taps = np.stack([padded[:, :, k : k + steps : stride] for k in range(3)], axis=2)  # (n, width, 3, steps / stride)
    columns = taps.reshape(len(x), -1, taps.shape[3])
    return np.asarray(kernel.reshape(len(kernel), -1) @ columns + weights[f"{name}.bias"][:, None], np.float32)
