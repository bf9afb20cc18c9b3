"""The plain nets: names and shapes of a checkpoint, audio windows, the order of one frame."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the plain motion nets are torch's; an extra of training")

from render.avatar import (  # noqa: E402
    AudioFeature,
    Shapes,
    aligner_shapes,
    audio_shapes,
    field_shapes,
    motion_shapes,
)
from render.motion.audio import AudioAttention, audio_net, windows  # noqa: E402
from render.motion.networks import (  # noqa: E402
    Aligner,
    FaceField,
    HeadMotion,
    MouthField,
    PersonalFaceField,
    PersonalMouthField,
    hook,
)
from tests.render.motion.heads import FEATURES, feature, scene  # noqa: E402


def shapes_of(net: "torch.nn.Module") -> Shapes:
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


@pytest.mark.parametrize("audio", FEATURES, ids=lambda audio: audio.name)
def test_tensors_are_named_and_shaped_as_an_avatars(audio: AudioFeature) -> None:
    """Which the importer fills from checkpoints (specification, section 3.2)."""
    assert shapes_of(HeadMotion(audio)) == motion_shapes(audio)
    assert shapes_of(FaceField(audio)) == field_shapes("face", audio)
    assert shapes_of(MouthField(audio)) == field_shapes("mouth", audio)
    assert shapes_of(Aligner(32)) == aligner_shapes("face")
    assert shapes_of(Aligner(16)) == aligner_shapes("mouth")


def test_personal_nets_are_a_fields_and_an_aligners() -> None:
    """Some spelt out, as the tables of the specification have them."""
    audio = feature("ave")
    face = shapes_of(PersonalFaceField(audio))
    assert face == field_shapes("face", audio) | aligner_shapes("face") | {
        "sigma_net.net.0.weight": (32, 74),
        "sigma_net.net.1.weight": (32, 32),
        "sigma_net.net.2.weight": (11, 32),
    }
    mouth = shapes_of(PersonalMouthField(audio))
    assert mouth == audio_shapes(audio) | aligner_shapes("mouth") | {
        "sigma_net.net.0.weight": (16, 68),
        "sigma_net.net.1.weight": (16, 16),
        "sigma_net.net.2.weight": (7, 16),
    }
    points = torch.rand(5, 3) * 0.2 - 0.1
    window = torch.randn(8, 512, 1)
    assert PersonalFaceField(audio)(points, window, torch.rand(6)).xyz.shape == (5, 3)
    assert PersonalMouthField(audio)(points, window).xyz.shape == (5, 3)


@pytest.mark.parametrize("part", ["face", "mouth"])
def test_an_aligner_takes_its_part_of_a_personal_net(part: str) -> None:
    audio = feature("ave")
    personal, aligner = (
        (PersonalFaceField(audio), Aligner(32)) if part == "face" else (PersonalMouthField(audio), Aligner(16))
    )
    personal.encoder_xy.embeddings.data.uniform_(-1, 1)
    kept = {n: v for n, v in personal.state_dict().items() if n.startswith(("encoder_", "align_net."))}
    aligner.load_state_dict(kept)
    xyz = torch.rand(5, 3) * 0.2 - 0.1
    for one, other in zip(aligner(xyz), personal.align(xyz), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("audio", FEATURES, ids=lambda audio: audio.name)
def test_audio_nets_give_one_code_for_each_frame(audio: AudioFeature) -> None:
    net = audio_net(audio)
    features = torch.randn(8, audio.width, audio.steps)
    codes = net(features)
    assert codes.shape == (8, 32)
    torch.testing.assert_close(codes[3:4], net(features[3:4]))  # frames do not mix
    assert AudioAttention()(codes[None]).shape == (1, 32)


def test_attention_is_a_mean_over_the_window() -> None:
    torch.manual_seed(3)
    attention = AudioAttention()
    codes = torch.randn(2, 8, 32)
    weights = attention.weights(codes)
    assert weights.shape == (2, 8)
    assert weights.min() > 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(2))
    torch.testing.assert_close(attention(codes)[1], weights[1] @ codes[1])


def test_windows_reach_four_back_and_three_ahead() -> None:
    features = torch.arange(1.0, 7.0)[:, None, None].expand(6, 2, 3)
    seen = windows(features)
    assert seen.shape == (6, 8, 2, 3)
    assert seen[0, :, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    assert seen[4, :, 1, 2].tolist() == [1, 2, 3, 4, 5, 6, 0, 0]
    assert windows(features[:1])[0, :, 0, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


def test_the_hook_takes_the_tenth_from_either_end() -> None:
    xyz = torch.zeros(30, 3)
    xyz[:, 1] = torch.linspace(-1.1, 1.8, 30)[torch.randperm(30)]
    xyz.requires_grad_()
    move = hook(xyz)
    assert move.tolist() == pytest.approx([90.0, -20.0, 110.0], rel=1e-5)
    assert not move.requires_grad
    assert hook(xyz[:4]).tolist() == pytest.approx([hook(xyz[:4], 4)[k].item() for k in range(3)])
    assert hook(xyz, 1)[0].item() == pytest.approx(180.0)


def test_one_frame_goes_in_the_order_of_the_specification() -> None:
    """The same from its parts, one point at a time for the nets, by hand."""
    s = scene(frames=1)
    head, xyz, mouth_xyz = s.head, torch.from_numpy(s.face_xyz), torch.from_numpy(s.mouth_xyz)
    window, action_units = windows(torch.from_numpy(s.features))[0], torch.from_numpy(s.action_units)[0]
    got = head(xyz, mouth_xyz, window, action_units)
    aligned = head.face_aligner.align_net(head.face_aligner.encode(xyz))
    placed = xyz + 0.01 * aligned[:, :3]
    face = head.face
    encoding = face.encode(placed)
    code = face.audio_att_net(face.audio_net(window)[None])[0]
    blink = action_units[5:]
    expression = torch.cat([face.exp_encode_net(action_units[:5]), blink])
    heard = face.aud_ch_att_net(encoding) * code
    seen = face.eye_att_net(encoding).clamp(min=0) * expression
    w0, w1, w2 = (layer.weight for layer in face.sigma_net.net)
    out = (w2 @ (w1 @ (w0 @ torch.cat([encoding, heard, seen], 1).T).clamp(min=0)).clamp(min=0)).T
    moved = 0.01 * out[:, :3] * (1 + 0.25 * torch.tanh(aligned[:, 3:] / 5))
    torch.testing.assert_close(got.face_xyz, moved, rtol=0, atol=1e-7)
    torch.testing.assert_close(got.face_rotation, out[:, 3:7], rtol=0, atol=1e-6)
    torch.testing.assert_close(got.face_scale, out[:, 8:11], rtol=0, atol=1e-6)

    y = moved[:, 1].sort().values
    move = 100 * torch.stack([y[-10], y[9], y[-10] - y[9]])
    mouth = head.mouth
    encoding = mouth.encode(mouth_xyz + head.mouth_aligner(mouth_xyz).offset)
    code = mouth.audio_att_net(mouth.audio_net(window)[None])[0]
    beside = [v.expand(len(mouth_xyz), -1) for v in (code, move)]
    out = mouth.sigma_net(torch.cat([encoding, *beside], 1))[:, :3] * torch.tensor([0.002, 0.01, 0.002])
    out = out * 2 * torch.sigmoid(mouth.scaler_net(torch.cat([encoding, beside[1]], 1)))
    torch.testing.assert_close(got.mouth_xyz, out, rtol=0, atol=1e-7)


def test_frames_may_be_evaluated_together() -> None:
    s = scene("hubert", frames=4)
    points = torch.from_numpy(s.face_xyz), torch.from_numpy(s.mouth_xyz)
    clip, action_units = windows(torch.from_numpy(s.features)), torch.from_numpy(s.action_units)
    together = s.head(*points, clip, action_units)
    for k in range(4):
        alone = s.head(*points, clip[k], action_units[k])
        for many, one in zip(together, alone, strict=True):
            torch.testing.assert_close(many[k], one, rtol=0, atol=1e-6)


def test_motion_teaches_nets_grids_and_aligner() -> None:
    """Everything that rendering uses gets a gradient, through the encoder's positions too."""
    s = scene(frames=1)
    window = windows(torch.from_numpy(s.features))[0]
    action_units = torch.from_numpy(s.action_units)[0]
    out = s.head(torch.from_numpy(s.face_xyz), torch.from_numpy(s.mouth_xyz), window, action_units)
    sum(part.square().sum() for part in out).backward()
    idle = {name for name, value in s.head.named_parameters() if value.grad is None}
    assert not idle
    for value in (s.head.face.encoder_yz.embeddings, s.head.face_aligner.encoder_xz.embeddings):
        assert value.grad is not None
        assert value.grad.abs().max() > 0
    attention = s.head.face(torch.from_numpy(s.face_xyz), window, action_units)
    assert attention.audio_attention.shape == attention.eye_attention.shape == (len(s.face_xyz), 1)
    assert np.isfinite(attention.audio_attention.detach().numpy()).all()
