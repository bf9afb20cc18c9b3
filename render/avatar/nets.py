"""The tensors of the motion fields (InsTaG's, /specs/instag.md §3.2); Linear weights are (out, in), without bias."""

from typing import Literal

from render.avatar.model import AudioFeature

Shapes = dict[str, tuple[int, ...]]

PLANES = ("xy", "yz", "xz")
ROWS = {"face": 9464, "mouth": 46600, "face_aligner": 9464, "mouth_aligner": 9464}
"""entries of each plane of the tri-planes"""


def audio_shapes(audio: AudioFeature) -> Shapes:
    """The audio net and the attention over eight of its codes."""
    net: Shapes = {}

    def layer(name: str, *weight: int) -> None:
        net[f"{name}.weight"], net[f"{name}.bias"] = weight, weight[:1]

    if audio.steps == 1:
        for index, out, into in ((0, 256, audio.width), (2, 128, 256), (4, 32, 128)):
            layer(f"audio_net.encoder_fc1.{index}", out, into)
    else:
        hidden = 32 if audio.width < 128 else 128
        for index, out, into in ((0, hidden, audio.width), (2, hidden, hidden), (4, 64, hidden), (6, 64, 64)):
            layer(f"audio_net.encoder_conv.{index}", out, into, 3)
        layer("audio_net.encoder_fc1.0", 64, 64)
        layer("audio_net.encoder_fc1.2", 32, 64)
    for index, out, into in ((0, 16, 32), (2, 8, 16), (4, 4, 8), (6, 2, 4), (8, 1, 2)):
        layer(f"audio_att_net.attentionConvNet.{index}", out, into, 3)
    layer("audio_att_net.attentionNet.0", 8, 8)
    return net


def _mlp(name: str, *widths: int) -> Shapes:
    return {f"{name}.net.{i}.weight": (widths[i + 1], widths[i]) for i in range(len(widths) - 1)}


def _planes(part: str) -> Shapes:
    return {f"encoder_{plane}.embeddings": (ROWS[part], 1) for plane in PLANES}


def field_shapes(part: Literal["face", "mouth"], audio: AudioFeature) -> Shapes:
    """The tensors of one universal motion field, without prefix."""
    shapes = audio_shapes(audio) | _planes(part)
    if part == "face":
        shapes |= _mlp("exp_encode_net", 5, 16, 5) | _mlp("eye_att_net", 36, 16, 6)
        return shapes | _mlp("aud_ch_att_net", 36, 32, 32) | _mlp("sigma_net", 74, 64, 64, 11)
    return shapes | _mlp("sigma_net", 71, 32, 32, 7) | _mlp("scaler_net", 39, 16, 16, 1)


def aligner_shapes(part: Literal["face", "mouth"]) -> Shapes:
    """The tensors of one aligner, without prefix."""
    return _planes(f"{part}_aligner") | _mlp("align_net", 36, 32 if part == "face" else 16, 6)


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def motion_shapes(audio: AudioFeature) -> Shapes:
    """Every tensor of motion.safetensors: `face.`, `mouth.`, `face_aligner.`, `mouth_aligner.`"""
    shapes = prefixed("face", field_shapes("face", audio)) | prefixed("mouth", field_shapes("mouth", audio))
    return (
        shapes | prefixed("face_aligner", aligner_shapes("face")) | prefixed("mouth_aligner", aligner_shapes("mouth"))
    )
