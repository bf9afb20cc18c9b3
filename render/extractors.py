"""Audio features of others, from weights that a user brings: AVE (SyncTalk's) and HuBERT. Both take torch.

They look much farther ahead than `render.features`: a call with them answers that much later, or moves its lips late.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from render.features import FRAME, RATE, FeatureError
from render.torchfile import numbers, opened

Floats = NDArray[np.float32]


class Extractor(Protocol):
    """What `render.features.MelEncoder` is too."""

    @property
    def width(self) -> int: ...

    @property
    def look_ahead_s(self) -> float:
        """How long after the start of a displayed frame its sound must be known, the window of eight included."""

    def clip(self, pcm16k: Floats) -> Floats:
        """All of a clip, (n,) at 16 kHz -> (frames, width, steps), frames = n / 640 rounded up."""


WINDOW_AFTER = 3  # frames after its own that a displayed frame's window of features holds

# ---------------------------------------------------------------- AVE

HOP, SPAN, BANDS, ROWS = 200, 800, 80, 16
ROWS_PER_FRAME = FRAME / HOP  # 3.2
AVE_SHIFT = 2
"""Feature j is the encoder's output for frame j - 2: two copies of the first output stand in front."""
AVE_LAYERS = (
    (1, 32, 1, 1, False), (32, 32, 1, 1, True), (32, 32, 1, 1, True), (32, 64, (3, 1), 1, False),
    (64, 64, 1, 1, True), (64, 64, 1, 1, True), (64, 128, 3, 1, False), (128, 128, 1, 1, True),
    (128, 128, 1, 1, True), (128, 256, (3, 2), 1, False), (256, 256, 1, 1, True), (256, 512, 1, 0, False),
    (512, 512, 1, 0, False),
)  # fmt: skip
"""In, out, stride, padding, residual of each block; kernels are 3, but 1 in the last."""
BLOCK = 64  # frames at a time


@cache
def ave_filters() -> Floats:
    """Slaney's mel bands from 55 to 7600 Hz, of equal area, as librosa makes them: (SPAN // 2 + 1, BANDS)."""
    linear, step = 200 / 3, np.log(6.4) / 27  # Hz a mel below 1 kHz; logarithmic above

    def mel(hertz: float) -> float:
        return hertz / linear if hertz < 1000 else 1000 / linear + float(np.log(hertz / 1000)) / step

    mels = np.linspace(mel(55.0), mel(7600.0), BANDS + 2)
    edges = np.where(mels < 1000 / linear, mels * linear, 1000 * np.exp(step * (mels - 1000 / linear)))
    hertz = np.arange(SPAN // 2 + 1)[:, None] * (RATE / SPAN)
    rise = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.asarray(np.clip(np.minimum(rise, fall), 0, None) * 2 / (edges[2:] - edges[:-2]), np.float32)


class AveMel:
    """Rows of AVE's mel spectrum, of one stream: row m is centred on sample HOP * m."""

    def __init__(self) -> None:
        self._last = np.float32(0)
        self._rest: Floats = np.zeros(SPAN // 2, np.float32)
        self._window = np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SPAN) / SPAN), np.float32)

    def push(self, pcm: Floats) -> Floats:
        """Further samples -> the rows that they complete, (k, BANDS)."""
        if len(pcm):
            before = np.concatenate([[self._last], pcm[:-1]])
            self._last = np.float32(pcm[-1])
            self._rest = np.concatenate([self._rest, pcm - np.float32(0.97) * before]).astype(np.float32)
        count = (len(self._rest) - SPAN) // HOP + 1
        if count <= 0:
            return np.zeros((0, BANDS), np.float32)
        spans = sliding_window_view(self._rest, SPAN)[::HOP][:count]
        self._rest = self._rest[count * HOP :].copy()
        heard = np.abs(np.fft.rfft(spans * self._window)).astype(np.float32) @ ave_filters()
        decibels = 20 * np.log10(np.maximum(heard, 1e-5)) - 20
        return np.asarray(np.clip(8 * (decibels + 100) / 100 - 4, -4, 4), np.float32)


class AveEncoder:
    """SyncTalk's audio-visual encoder. Its published weights are for non-commercial use: none come with us."""

    width = 512
    look_ahead_s = ((WINDOW_AFTER - AVE_SHIFT) * FRAME + (ROWS - 1) * HOP + SPAN // 2) / RATE

    def __init__(self, net: Any) -> None:
        self._net = net

    @classmethod
    def of_file(cls, path: Path) -> "AveEncoder":
        """From `audio_visual_encoder.pth`, which is read without running anything in it. Raises CheckpointError."""
        with opened(path) as state:
            found = {name: numbers(value) for name, value in state.items()} if isinstance(state, dict) else {}
        return cls.of_tensors({str(name): value for name, value in found.items() if value is not None})

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> "AveEncoder":
        """Names as in the checkpoint, `0.conv_block.0.weight` to `12.conv_block.1.running_var`."""
        import torch

        net = _ave_net()
        plain = {name.removeprefix("audio_encoder."): value for name, value in tensors.items()}
        wanted = {name: t for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")}
        for name, tensor in wanted.items():
            if name not in plain or plain[name].shape != tuple(tensor.shape):
                raise FeatureError(
                    "feature_weights",
                    f"The AVE weights lack {name} of the shape {tuple(tensor.shape)}. Give SyncTalk's "
                    "audio_visual_encoder.pth.",
                )
        net.load_state_dict({n: torch.from_numpy(np.asarray(plain[n], np.float32)) for n in wanted}, strict=False)
        return cls(net.eval())

    def clip(self, pcm16k: Floats) -> Floats:
        """As the official code has it: near the end the spectrum's last rows are used again."""
        frames = -(-len(pcm16k) // FRAME)
        sound = np.zeros(max(len(pcm16k), ROWS * HOP) + SPAN // 2, np.float32)
        sound[: len(pcm16k)] = pcm16k
        mel = AveMel()
        rows = np.concatenate(
            [mel.push(sound[at : at + BLOCK * FRAME]) for at in range(0, len(sound), BLOCK * FRAME)]
        )
        rows = rows[: 1 + max(len(pcm16k), ROWS * HOP) // HOP]
        count = int((len(rows) - ROWS) / 80 * 25) + 2
        encoded = np.concatenate(
            [
                self._encode([rows[_first(f, len(rows)) :][:ROWS] for f in range(at, min(at + BLOCK, count))])
                for at in range(0, count, BLOCK)
            ]
        )
        places = np.clip(np.arange(frames) - AVE_SHIFT, 0, count - 1)
        return encoded[places][..., None]

    def stream(self) -> "AveStream":
        return AveStream(self)

    def _encode(self, crops: list[Floats]) -> Floats:
        import torch

        if not crops:
            return np.zeros((0, self.width), np.float32)
        with torch.inference_mode():
            x = torch.from_numpy(np.stack(crops).transpose(0, 2, 1)[:, None].copy())
            return np.asarray(self._net(x).flatten(1).numpy(), np.float32)


class AveStream:
    """The features of one call, each as soon as the 16 rows that it needs are there."""

    def __init__(self, encoder: AveEncoder) -> None:
        self._encoder, self._mel = encoder, AveMel()
        self._rows: Floats = np.zeros((0, BANDS), np.float32)
        self._dropped = self._frame = 0

    def push(self, pcm16k: Floats) -> Floats:
        """Further samples (n,) -> the features that they complete, (k, 512, 1)."""
        self._rows = np.concatenate([self._rows, self._mel.push(pcm16k)])
        crops, begun = [], self._frame
        while (at := int(ROWS_PER_FRAME * self._frame) - self._dropped) + ROWS <= len(self._rows):
            crops.append(self._rows[at : at + ROWS])
            self._frame += 1
        done = self._encoder._encode(crops)
        done = np.concatenate([np.repeat(done[:1], AVE_SHIFT, 0), done]) if begun == 0 and len(done) else done
        keep = min(int(ROWS_PER_FRAME * self._frame) - self._dropped, len(self._rows))
        self._rows, self._dropped = self._rows[keep:].copy(), self._dropped + keep
        return done[..., None]


def _first(frame: int, rows: int) -> int:
    return min(int(ROWS_PER_FRAME * frame), rows - ROWS)


def _ave_net() -> Any:
    from torch import Tensor, nn

    class Block(nn.Module):
        def __init__(self, into: int, out: int, kernel: int, stride: Any, padding: int, residual: bool) -> None:
            super().__init__()
            self.conv_block = nn.Sequential(nn.Conv2d(into, out, kernel, stride, padding), nn.BatchNorm2d(out))
            self.residual = residual

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv_block(x)
            return (y + x if self.residual else y).relu()

    last = len(AVE_LAYERS) - 1
    return nn.Sequential(
        *(Block(i, o, 1 if k == last else 3, s, p, r) for k, (i, o, s, p, r) in enumerate(AVE_LAYERS))
    )


# ---------------------------------------------------------------- HuBERT

HUBERT_BLOCK = 4
"""Frames that are encoded at a time"""
HUBERT_BEFORE, HUBERT_AFTER = 25, 3
"""Frames of sound around a block that the model hears with it"""
HUBERT_TAIL = 80  # samples that its convolutions reach beyond 20 ms steps
QUIET = 0.01  # RMS; quieter sound is not raised to the level of speech


class HubertEncoder:
    """A HuBERT of the `transformers` library, in blocks of 160 ms with 1 s before and 120 ms after each.

    The blocks are its definition, in a clip as in a call; official InsTaG's are 20 s long. Two steps a frame.
    """

    look_ahead_s = ((HUBERT_BLOCK + HUBERT_AFTER + WINDOW_AFTER) * FRAME + HUBERT_TAIL) / RATE

    def __init__(self, model: Any) -> None:
        self._model = model.eval()
        self.width = int(model.config.hidden_size)

    @classmethod
    def of_folder(cls, folder: Path) -> "HubertEncoder":
        """From a local folder with config.json and safetensors weights. Nothing is downloaded."""
        try:
            from transformers import HubertModel
        except ImportError as error:
            raise FeatureError("feature_missing", "HuBERT needs transformers: pip install transformers") from error
        if not (folder / "config.json").is_file():
            raise FeatureError("feature_missing", f"{folder} has no config.json; give the folder of a HuBERT model.")
        return cls(HubertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True))

    def clip(self, pcm16k: Floats) -> Floats:
        frames = -(-len(pcm16k) // FRAME)
        out = [np.zeros((0, self.width, 2), np.float32)]
        for at in range(0, frames, HUBERT_BLOCK):
            begin, end = (at - HUBERT_BEFORE) * FRAME, (at + HUBERT_BLOCK + HUBERT_AFTER) * FRAME + HUBERT_TAIL
            piece = np.zeros(end - begin, np.float32)
            known = pcm16k[max(begin, 0) : end]
            piece[max(-begin, 0) :][: len(known)] = known
            out.append(self._encode(piece))
        return np.concatenate(out)[:frames]

    def stream(self) -> "HubertStream":
        return HubertStream(self)

    def _encode(self, piece: Floats) -> Floats:
        """A block with the sound around it -> (HUBERT_BLOCK, width, 2)."""
        import torch

        level = max(float(piece.std()), QUIET)
        with torch.inference_mode():
            hidden = self._model(
                torch.from_numpy((piece - piece.mean()) / np.float32(level))[None]
            ).last_hidden_state[0]
        steps = np.asarray(hidden.numpy(), np.float32)
        return steps.reshape(-1, 2, self.width)[HUBERT_BEFORE:][:HUBERT_BLOCK].transpose(0, 2, 1)


class HubertStream:
    """The features of one call, four frames at a time."""

    def __init__(self, encoder: HubertEncoder) -> None:
        self._encoder = encoder
        self._sound: Floats = np.zeros(HUBERT_BEFORE * FRAME, np.float32)

    def push(self, pcm16k: Floats) -> Floats:
        """Further samples (n,) -> the features that they complete, (k, width, 2)."""
        self._sound = np.concatenate([self._sound, np.asarray(pcm16k, np.float32)])
        need = (HUBERT_BEFORE + HUBERT_BLOCK + HUBERT_AFTER) * FRAME + HUBERT_TAIL
        out = [np.zeros((0, self._encoder.width, 2), np.float32)]
        while len(self._sound) >= need:
            out.append(self._encoder._encode(self._sound[:need]))
            self._sound = self._sound[HUBERT_BLOCK * FRAME :].copy()
        return np.concatenate(out)
