"""Stand-ins for what upstream imports but needs only to train, to download or to read text; real ones win.

For CosyVoice's test environment only. torchaudio has no build for our torch: its three functions are made of
soundfile, soxr and kaldi-native-fbank here.
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

NEVER_USED = (
    *("modelscope", "gdown", "wget", "inflect", "hydra", "hydra.core", "hydra.core.hydra_config"),
    *("lightning", "lightning.pytorch", "lightning.pytorch.loggers", "lightning.pytorch.utilities"),
    *("rich", "rich.syntax", "rich.tree", "rich.prompt", "matplotlib", "matplotlib.pyplot"),
)


class NeverUsed(ModuleType):
    """Any name may be imported from it; what is called raises, unless it only decorates or is made and kept."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "rank_zero_only":
            return lambda function: function
        if name == "engine":  # inflect's, which upstream's front end keeps
            return lambda: None

        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"{self.__name__}.{name} is a stand-in")

        return refuse


def module(name: str, kind: type[ModuleType] = ModuleType, **names: Any) -> None:
    made = kind(name)
    made.__spec__ = ModuleSpec(name, None, is_package=True)
    made.__path__ = []
    made.__dict__.update(names)
    sys.modules[name] = made
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, made)


def load(file: Any, backend: str | None = None, **_: Any) -> tuple[Any, int]:
    """torchaudio.load. A tensor in the place of the file raises TypeError, as with torchaudio's own backend."""
    import soundfile
    import torch

    wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return torch.from_numpy(wave.T.copy()), rate


class Resample:
    """torchaudio.transforms.Resample"""

    def __init__(self, orig_freq: int, new_freq: int) -> None:
        self._rates = orig_freq, new_freq

    def __call__(self, wave: Any) -> Any:
        import soxr
        import torch

        return torch.from_numpy(soxr.resample(wave.numpy().T, *self._rates).T.copy())


def fbank(wave: Any, num_mel_bins: int = 23, dither: float = 0.0, sample_frequency: float = 16_000.0) -> Any:
    """torchaudio.compliance.kaldi.fbank"""
    import kaldi_native_fbank
    import numpy as np
    import torch

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = sample_frequency
    options.frame_opts.dither = dither
    options.mel_opts.num_bins = num_mel_bins
    stream = kaldi_native_fbank.OnlineFbank(options)
    stream.accept_waveform(sample_frequency, wave[0].tolist())
    stream.input_finished()
    return torch.from_numpy(np.stack([stream.get_frame(i) for i in range(stream.num_frames_ready)]))


def log_mel(wave: Any, n_mels: int = 80) -> Any:
    """whisper.log_mel_spectrogram, as far as a random tokenizer cares: its shape and range."""
    import torch
    from librosa.filters import mel

    spectrum = torch.stft(wave, 400, 160, window=torch.hann_window(400), return_complex=True)[..., :-1].abs() ** 2
    logs = (torch.from_numpy(mel(sr=16_000, n_fft=400, n_mels=n_mels)) @ spectrum).clamp(min=1e-10).log10()
    return (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0


def install(upstream: Path) -> None:
    """Put upstream's tree and the stand-ins in place."""
    sys.path[:0] = [str(upstream), str(upstream / "third_party/Matcha-TTS")]

    def missing(name: str) -> bool:
        top = name.partition(".")[0]
        return top not in sys.modules and find_spec(top) is None

    if missing("torchaudio"):
        module("torchaudio", load=load)
        module("torchaudio.transforms", Resample=Resample)
        module("torchaudio.compliance")
        module("torchaudio.compliance.kaldi", fbank=fbank)
    if missing("whisper"):
        module("whisper", log_mel_spectrogram=log_mel)
        module("whisper.tokenizer", Tokenizer=type("Tokenizer", (), {}))
    unused: Callable[[str], bool] = lambda name: missing(name) or name == "inflect"  # noqa: E731  takes 5 s to import
    for top in [name for name in NEVER_USED if "." not in name and unused(name)]:
        for name in NEVER_USED:
            if name.partition(".")[0] == top:
                module(name, NeverUsed)
