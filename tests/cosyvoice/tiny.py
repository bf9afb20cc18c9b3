"""A complete CosyVoice 2 model directory with tiny random weights: upstream's real code says noise with it.

20 speech tokens (0.8 s) per text token, exactly, since its language model is not allowed to end early. Upstream's own
training configuration is read and narrowed; nothing of it is copied.
"""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

RATE = 24_000
SPEECH_TOKENS = 300
TEXT = "The quick brown fox jumps over the lazy dog."
PROMPT = "Hello, this is a short prompt."
NEVER = -100.0

# (where in the file, the value in upstream's file, ours); the encoder's 512 and its upper blocks are fixed in code.
NARROWED = (
    ("llm:", "llm_input_size", 64),
    ("llm:", "llm_output_size", 64),
    ("llm:", "speech_token_size", SPEECH_TOKENS),
    ("flow:", "vocab_size", SPEECH_TOKENS),
    ("flow:", "attention_heads", 2),
    ("flow:", "linear_units", 16),
    ("flow:", "num_blocks", 1),
    ("flow:", "channels", [16]),
    ("flow:", "attention_head_dim", 16),
    ("flow:", "n_blocks", 1),
    ("flow:", "num_mid_blocks", 1),
    ("flow:", "num_heads", 1),
    ("hift:", "base_channels", 16),
    ("hift:", "resblock_kernel_sizes", [3]),
    ("hift:", "resblock_dilation_sizes", [[1]]),
    ("hift:", "source_resblock_dilation_sizes", [[1], [1], [1]]),
    ("hift:", "cond_channels", 16),
)


def configuration(upstream: Path) -> str:
    """Upstream's cosyvoice2.yaml without what only trains, and narrow."""
    text = (upstream / "examples/libritts/cosyvoice2/conf/cosyvoice2.yaml").read_text("utf-8")
    blocks = {name: block(text, name) for name in ("llm:", "flow:", "hift:", "get_tokenizer:", "feat_extractor:")}
    for where, name, value in NARROWED:
        blocks[where], times = re.subn(rf"(?m)^(\s+{name}: ).*$", rf"\g<1>{value}", blocks[where])
        assert times, f"upstream's configuration has no {name} in {where}"
    head = f"sample_rate: {RATE}\nqwen_pretrain_path: ''\nspk_embed_dim: 192\ntoken_frame_rate: 25\n"
    head += "token_mel_ratio: 2\nchunk_size: 25\nnum_decoding_left_chunks: -1\nallowed_special: 'all'\n"
    head += "llm_input_size: 64\nllm_output_size: 64\n"
    return head + "".join(blocks.values())


def block(text: str, name: str) -> str:
    """A top-level entry with what is indented below it."""
    found = re.search(rf"(?m)^{name}.*\n(?:[ \t]+.*\n|[ \t]*\n|#.*\n)*", text)
    assert found is not None, name
    return found.group()


def reference(seconds: float = 3.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A buzz in syllables."""
    at = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 120 * k * at) / k for k in range(1, 20))
    return 0.1 * buzz * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * at))


def language_model(folder: Path) -> None:
    """A byte-level tokenizer that knows whole words, and a Qwen 2 of one layer."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast

    folder.mkdir()
    words = ByteLevelBPETokenizer()
    words.train_from_iterator(
        [TEXT, PROMPT, "你好，今天天气很好。"],
        vocab_size=900,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    words.save_model(str(folder))
    Qwen2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    shape = Qwen2Config(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=None,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(shape).save_pretrained(folder)


def onnx_files(folder: Path) -> None:
    """The speech tokenizer (25 tokens a second of its mel) and the speaker encoder (192 numbers)."""
    from onnx import TensorProto, helper, numpy_helper, save

    def write(name: str, steps: list[Any], inputs: list[Any], output: Any, constants: dict[str, Any]) -> None:
        graph = helper.make_graph(
            [helper.make_node(*step[0], **step[1]) for step in steps],
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*output)],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(model, str(folder / f"{name}.onnx"))

    write(
        "speech_tokenizer_v2",
        [
            (("AveragePool", ["feats"], ["pooled"]), {"kernel_shape": [4], "strides": [4], "ceil_mode": 1}),
            (("ReduceMean", ["pooled"], ["level"]), {"axes": [1], "keepdims": 0}),
            (("Mul", ["level", "scale"], ["scaled"]), {}),
            (("Abs", ["scaled"], ["size"]), {}),
            (("Cast", ["size"], ["whole"]), {"to": TensorProto.INT64}),
            (("Mod", ["whole", "codes"], ["code"]), {}),
            (("Cast", ["code"], ["tokens"]), {"to": TensorProto.INT32}),
        ],
        [("feats", TensorProto.FLOAT, [1, 128, "frames"]), ("feats_length", TensorProto.INT32, [1])],
        ("tokens", TensorProto.INT32, [1, "tokens"]),
        {"scale": np.float32(1e5), "codes": np.int64(SPEECH_TOKENS)},
    )
    write(
        "campplus",
        [
            (("Abs", ["feats"], ["size"]), {}),
            (("ReduceMean", ["size"], ["mean"]), {"axes": [1], "keepdims": 0}),
            (("MatMul", ["mean", "weight"], ["embedding"]), {}),
        ],
        [("feats", TensorProto.FLOAT, [1, "frames", 80])],
        ("embedding", TensorProto.FLOAT, [1, 192]),
        {"weight": np.random.default_rng(0).normal(size=(80, 192)).astype(np.float32)},
    )


def make(folder: Path, upstream: Path) -> None:
    """Write the model; `folder` is new. A speaker named `tiny` is saved in it."""
    import soundfile
    from hyperpyyaml import load_hyperpyyaml

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    text = configuration(upstream)
    (folder / "cosyvoice2.yaml").write_text(text, "utf-8")
    language_model(folder / "CosyVoice-BlankEN")
    onnx_files(folder)
    soundfile.write(folder / "prompt.wav", reference(), RATE, subtype="PCM_16")
    parts = load_hyperpyyaml(text, overrides={"qwen_pretrain_path": str(folder / "CosyVoice-BlankEN")})
    with torch.no_grad():
        parts["llm"].llm_decoder.bias[SPEECH_TOKENS:] = NEVER  # it never ends early
    for name in ("llm", "flow", "hift"):
        torch.save({k: v.half() for k, v in parts[name].state_dict().items()}, folder / f"{name}.pt")
    from cosyvoice.cli.cosyvoice import AutoModel

    cosyvoice = AutoModel(model_dir=str(folder))
    cosyvoice.add_zero_shot_spk(PROMPT, str(folder / "prompt.wav"), "tiny")
    speaker = cosyvoice.frontend.spk2info["tiny"]
    speaker["embedding"] = speaker["llm_embedding"]  # for inference_sft, as in the first generation's files
    cosyvoice.save_spkinfo()


if __name__ == "__main__":
    from tests.cosyvoice import stand_ins

    tree = Path(sys.argv[2])
    stand_ins.install(tree)
    make(Path(sys.argv[1]), tree)
