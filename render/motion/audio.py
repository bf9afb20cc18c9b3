"""From audio features to the code that drives one frame: the audio nets, and the attention over eight frames."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from render.avatar import AudioFeature
from render.motion.tables import CODE, WINDOW, WINDOW_BEFORE

SLOPE = 0.02
"""of every leaky ReLU"""


class LinearAudioNet(nn.Module):
    """For features of one step (AVE, mel): (n, width, 1) -> (n, CODE)."""

    def __init__(self, feature: AudioFeature) -> None:
        super().__init__()
        self.encoder_fc1 = nn.Sequential(
            nn.Linear(feature.width, 256),
            nn.LeakyReLU(SLOPE),
            nn.Linear(256, 128),
            nn.LeakyReLU(SLOPE),
            nn.Linear(128, CODE),
        )

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.encoder_fc1(features[..., 0])
        return code


class ConvAudioNet(nn.Module):
    """For DeepSpeech, wav2vec 2.0 (Esperanto) and HuBERT: (n, width, steps) -> (n, CODE); at most 16 steps."""

    def __init__(self, feature: AudioFeature) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        hidden = 32 if feature.width < 128 else 128
        widths = (feature.width, hidden, hidden, 64, 64)
        for before, after in pairwise(widths):
            layers += [nn.Conv1d(before, after, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        self.encoder_conv = nn.Sequential(*layers)
        self.encoder_fc1 = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(SLOPE), nn.Linear(64, CODE))

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.encoder_fc1(self.encoder_conv(features)[..., 0])
        return code


def audio_net(feature: AudioFeature) -> nn.Module:
    return LinearAudioNet(feature) if feature.steps == 1 else ConvAudioNet(feature)


class AudioAttention(nn.Module):
    """Smooths the code over time: (b, WINDOW, CODE) -> (b, CODE), a weighted mean of the window."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (CODE, 16, 8, 4, 2, 1)
        for before, after in pairwise(widths):
            layers += [nn.Conv1d(before, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
        self.attentionConvNet = nn.Sequential(*layers)
        self.attentionNet = nn.Sequential(nn.Linear(WINDOW, WINDOW), nn.Softmax(dim=-1))

    def weights(self, codes: Tensor) -> Tensor:
        """(b, WINDOW), summing to one."""
        weights: Tensor = self.attentionNet(self.attentionConvNet(codes.transpose(1, 2))[:, 0])
        return weights

    def forward(self, codes: Tensor) -> Tensor:
        return (self.weights(codes)[..., None] * codes).sum(1)


def windows(features: Tensor) -> Tensor:
    """Features of a clip, (frames, width, steps), to what each frame is driven by: (frames, WINDOW, ...).

    Window i holds frames i - 4 to i + 3; before the first and after the last there are zeros.
    """
    after = WINDOW - 1 - WINDOW_BEFORE
    padded = F.pad(features, (0, 0, 0, 0, WINDOW_BEFORE, after))
    return torch.stack([padded[k : k + len(features)] for k in range(WINDOW)], dim=1)
