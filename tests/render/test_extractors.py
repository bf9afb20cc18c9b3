"""AVE and HuBERT with random weights: a call hears what a clip hears, no earlier and no later than stated."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from render import extractors  # noqa: E402
from render.extractors import AveEncoder, AveMel, HubertEncoder  # noqa: E402
from render.features import FRAME, RATE, FeatureError  # noqa: E402

Floats = NDArray[np.float32]


def sound(frames: float, seed: int = 0) -> Floats:
    draw = np.random.default_rng(seed)
    t = np.arange(int(frames * FRAME)) / RATE
    tone = 0.1 * np.sin(2 * np.pi * (200 + 80 * np.sin(5 * t)) * t)
    return np.asarray(tone + 0.01 * draw.normal(size=len(t)), np.float32)


def state(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    torch.manual_seed(seed)
    net = extractors._ave_net()
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


@pytest.fixture(scope="module")
def ave() -> AveEncoder:
    torch.set_num_threads(1)
    return AveEncoder.of_tensors(state())


def test_ave_has_the_published_topology() -> None:
    made = state()
    assert made["0.conv_block.0.weight"].shape == (32, 1, 3, 3)
    assert made["9.conv_block.0.weight"].shape == (256, 128, 3, 3)
    assert made["11.conv_block.1.running_var"].shape == (512,)
    assert made["12.conv_block.0.weight"].shape == (512, 512, 1, 1)


def test_ave_frames_are_counted_as_in_the_official_code(ave: AveEncoder) -> None:
    features = ave.clip(sound(12))
    assert features.shape == (12, 512, 1)
    assert np.array_equal(features[0], features[1])
    assert np.array_equal(features[0], features[2])
    assert not np.array_equal(features[2], features[3])


def test_ave_in_a_call_equals_ave_in_a_clip(ave: AveEncoder) -> None:
    pcm = sound(16)
    stream = ave.stream()
    streamed = np.concatenate([stream.push(pcm[at : at + 900]) for at in range(0, len(pcm), 900)])
    assert len(streamed) >= 11
    np.testing.assert_allclose(streamed, ave.clip(pcm)[: len(streamed)], atol=1e-5)


def test_ave_looks_as_far_ahead_as_it_says(ave: AveEncoder) -> None:
    pcm, frame = sound(20), 7
    window = slice(frame - 4, frame + extractors.WINDOW_AFTER + 1)
    limit = round(frame * FRAME + ave.look_ahead_s * RATE)
    later, within = pcm.copy(), pcm.copy()
    later[limit:] = 0
    within[limit - 240 : limit] += 0.3
    before = ave.clip(pcm)[window]
    np.testing.assert_allclose(ave.clip(later)[window], before, atol=1e-6)
    assert np.abs(ave.clip(within)[window] - before).max() > 1e-5
    assert 0.24 < ave.look_ahead_s < 0.26


def test_the_mel_bands_have_slaneys_areas() -> None:
    filters = extractors.ave_filters()
    areas = filters.sum(0) * (RATE / extractors.SPAN)
    assert np.all((areas[40:] > 0.9) & (areas[40:] < 1.1))
    tone = np.asarray(np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE), np.float32)
    peak = int(AveMel().push(tone)[40].argmax())
    centre = float((filters[:, peak] * np.arange(401) * 20).sum() / filters[:, peak].sum())
    assert abs(centre - 1000) < 40


def test_ave_weights_are_read_without_running_them(tmp_path: Path) -> None:
    pcm = sound(6)
    made = state(3)
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in made.items()}, tmp_path / "ave.pth")
    read = AveEncoder.of_file(tmp_path / "ave.pth").clip(pcm)
    np.testing.assert_array_equal(read, AveEncoder.of_tensors(made).clip(pcm))
    del made["5.conv_block.0.bias"]
    with pytest.raises(FeatureError, match=r"5\.conv_block\.0\.bias"):
        AveEncoder.of_tensors(made)


def test_hubert_in_a_call_equals_hubert_in_a_clip(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = transformers.HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    transformers.HubertModel(small).save_pretrained(tmp_path)
    hubert = HubertEncoder.of_folder(tmp_path)
    pcm = sound(18.5)
    offline = hubert.clip(pcm)
    assert offline.shape == (19, 16, 2)
    stream = hubert.stream()
    streamed = np.concatenate([stream.push(pcm[at : at + 700]) for at in range(0, len(pcm), 700)])
    assert len(streamed) >= 8
    np.testing.assert_allclose(streamed, offline[: len(streamed)], atol=1e-5)
    frame = 5  # its window ends with frame 8, the first of a block
    limit = round(frame * FRAME + hubert.look_ahead_s * RATE)
    later = pcm.copy()
    later[limit:] = 0
    np.testing.assert_allclose(hubert.clip(later)[1:9], offline[1:9], atol=1e-5)


def test_a_folder_that_holds_no_hubert_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureError) as refused:
        HubertEncoder.of_folder(tmp_path)
    assert refused.value.code == "feature_missing"
