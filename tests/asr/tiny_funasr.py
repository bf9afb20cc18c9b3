"""Tiny FunASR models with random weights, built on the spot through the real library, and sounds for them."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from server.core.media import MIC_RATE

TONE_S = 0.1
LETTERS = [chr(0x4E00 + i) for i in range(60)] + list("abcdefghijklmnopqrstuvwxyz")
TOKENS = ["<blank>", "<s>", "</s>", *LETTERS, "<unk>"]
PUNCTUATION = ["<unk>", "_", "，", "。", "？", "、"]
WIDTH = 32
SPREAD = 3.0
"""Times the matrices' usual random weights: sharper, so that different sounds give different texts"""
LOUD = 9.0
"""mean log-mel energy (of samples in the s16 range) from which on the tiny VAD hears speech: -60 dBFS or so"""

FRONT = {"fs": MIC_RATE, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10, "dither": 0.0}


def melody(seed: int, seconds: float = 2.4, level: float = 1.0) -> np.ndarray:
    """Chords that change every tenth of a second, as s16 samples: no two seeds sound alike to the models."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * MIC_RATE)) / MIC_RATE
    sound = np.zeros(len(times))
    step = round(TONE_S * MIC_RATE)
    for first in range(0, len(times), step):
        part = slice(first, first + step)
        for frequency, loudness in zip(rng.uniform(120, 3500, 3), rng.uniform(0.02, 0.3, 3), strict=True):
            sound[part] += loudness * np.sin(2 * np.pi * frequency * times[part])
    return (level * sound * 32767).clip(-32768, 32767).astype("<i2")


def quiet() -> warnings.catch_warnings:  # type: ignore[type-arg]
    """funasr and what it imports warn a good deal; those are not ours to mend."""
    return warnings.catch_warnings(action="ignore")


def auto_model(**options: Any) -> Any:
    with quiet():
        from funasr import AutoModel

        return AutoModel(
            device="cpu", ncpu=1, disable_update=True, disable_pbar=True, log_level="ERROR", seed=0, **options
        )


def _san(**more: Any) -> dict[str, Any]:
    return {
        "attention_heads": 2,
        "linear_units": 64,
        "num_blocks": 2,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "kernel_size": 11,
        **more,
    }


def _encoder(**more: Any) -> dict[str, Any]:
    return _san(
        output_size=WIDTH,
        attention_dropout_rate=0.0,
        normalize_before=True,
        pos_enc_class="SinusoidalPositionEncoder",
        selfattention_layer_type="sanm",
        **more,
    )


def paraformer(folder: Path) -> Path:
    """Streaming Paraformer, 100,000 parameters; its text depends on every sound before."""
    config = {
        "model": "ParaformerStreaming",
        "model_conf": {"ctc_weight": 0.0, "lsm_weight": 0.1, "predictor_weight": 1.0, "predictor_bias": 1},
        "encoder": "SANMEncoderChunkOpt",
        "encoder_conf": _encoder(
            input_layer="pe_online",
            sanm_shfit=0,
            chunk_size=[12, 15],
            stride=[8, 10],
            pad_left=[0, 0],
            encoder_att_look_back_factor=[4, 4],
            decoder_att_look_back_factor=[1, 1],
        ),
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": _san(
            self_attention_dropout_rate=0.0, src_attention_dropout_rate=0.0, att_layer_num=2, sanm_shfit=5
        ),
        "predictor": "CifPredictorV2",
        "predictor_conf": {"idim": WIDTH, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
        "frontend": "WavFrontendOnline",
        "frontend_conf": {**FRONT, "lfr_m": 7, "lfr_n": 6},
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }
    return _write(folder, config, TOKENS, _spread)


def vad(folder: Path) -> Path:
    """fsmn-vad whose weights were set by hand: it hears speech where it is loud."""
    config = {
        "model": "FsmnVADStreaming",
        "model_conf": {
            "sample_rate": MIC_RATE,
            "max_end_silence_time": 800,
            "sil_to_speech_time_thres": 150,
            "speech_to_sil_time_thres": 150,
            "lookback_time_start_point": 200,
            "lookahead_time_end_point": 100,
            "max_single_segment_time": 60000,
        },
        "encoder": "FSMN",
        "encoder_conf": {
            "input_dim": 400,
            "input_affine_dim": 4,
            "fsmn_layers": 2,
            "linear_dim": 4,
            "proj_dim": 4,
            "lorder": 20,
            "rorder": 0,
            "lstride": 1,
            "rstride": 0,
            "output_affine_dim": 4,
            "output_dim": 8,
        },
        "frontend": "WavFrontendOnline",
        "frontend_conf": {**FRONT, "lfr_m": 5, "lfr_n": 1},
    }

    def energy_gate(state: dict[str, Any]) -> None:
        for weights in state.values():
            weights.zero_()
        for name, weights in state.items():
            if name.endswith("weight") and "conv" not in name:  # the first unit is handed through
                weights[0, 0] = 1.0
        state["encoder.in_linear1.linear.weight"][0, :] = 1 / 400
        state["encoder.in_linear1.linear.bias"][0] = -LOUD
        state["encoder.out_linear2.linear.weight"][0, 0] = -3.0
        state["encoder.out_linear2.linear.bias"][0] = 8.0  # the first output is silence

    return _write(folder, config, None, energy_gate)


def punctuation(folder: Path, streaming: bool = True) -> Path:
    """CT-Transformer, the streaming or the offline one."""
    config = {
        "model": "CTTransformerStreaming" if streaming else "CTTransformer",
        "model_conf": {
            "punc_list": PUNCTUATION,
            "embed_unit": WIDTH,
            "att_unit": WIDTH,
            "dropout_rate": 0.0,
            "punc_weight": [1.0] * len(PUNCTUATION),
            "ignore_id": 0,
            "sentence_end_id": 3,
        },
        "encoder": "SANMVadEncoder" if streaming else "SANMEncoder",
        "encoder_conf": _encoder(input_size=WIDTH, input_layer="pe", sanm_shfit=5 if streaming else 0),
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>"},
    }

    def never_unknown(state: dict[str, Any]) -> None:
        _spread(state)
        state["decoder.bias"][0] = -100.0

    return _write(folder, config, [*LETTERS, "<unk>"], never_unknown)


def sense_voice(folder: Path) -> Path:
    """SenseVoiceSmall, 90,000 parameters, over sentence pieces that begin with its tags."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "words.txt"
    words.write_text("\n".join(" ".join(LETTERS[i : i + 8]) for i in range(0, len(LETTERS), 8)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(words),
        model_prefix=str(folder / "bpe"),
        vocab_size=len(LETTERS) + 8,
        character_coverage=1.0,
        model_type="char",
        user_defined_symbols=["<|zh|>", "<|en|>", "<|NEUTRAL|>", "<|Speech|>"],
        minloglevel=2,
    )
    (folder / "bpe.model").rename(folder / "chn_jpn_yue_eng_ko_spectok.bpe.model")
    (folder / "bpe.vocab").unlink()
    words.unlink()
    config = {
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": _encoder(input_layer="pe", sanm_shfit=0, tp_blocks=1),
        "frontend": "WavFrontend",
        "frontend_conf": {**FRONT, "lfr_m": 7, "lfr_n": 6},
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>"},
    }
    # The real one is described this way, not by a plain config.yaml.
    metas = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": "chn_jpn_yue_eng_ko_spectok.bpe.model"},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    description = {"framework": "pytorch", "task": "auto-speech-recognition", "file_path_metas": metas}
    (folder / "configuration.json").write_text(json.dumps(description))
    return _write(folder, config, None, _spread)


def _spread(state: dict[str, Any]) -> None:
    for weights in state.values():
        if weights.dim() > 1:
            weights *= SPREAD


def _write(
    folder: Path, config: dict[str, Any], tokens: list[str] | None, shape: Callable[[dict[str, Any]], None]
) -> Path:
    """config.yaml, tokens.json, am.mvn and model.pt, as AutoModel(model=folder) reads them."""
    import torch
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    options = dict(config)
    tokenizer: dict[str, Any] = dict(config.get("tokenizer_conf", {}))
    if tokens is not None:
        (folder / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False))
        tokenizer["token_list"] = tokens
    if (pieces := folder / "chn_jpn_yue_eng_ko_spectok.bpe.model").exists():
        tokenizer["bpemodel"] = str(pieces)
    if tokenizer:
        options["tokenizer_conf"] = tokenizer
    if "frontend" in config and config["model"] != "FsmnVADStreaming":
        mean = " ".join(["-8.0"] * 80 * config["frontend_conf"]["lfr_m"])
        scale = " ".join(["0.2"] * 80 * config["frontend_conf"]["lfr_m"])
        (folder / "am.mvn").write_text(
            "<Nnet>\n<Splice> 560 560\n[ 0 ]\n<AddShift> 560 560\n"
            f"<LearnRateCoef> 0 [ {mean} ]\n<Rescale> 560 560\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet>\n"
        )
    model = auto_model(**options).model
    with torch.no_grad():
        state = model.state_dict()
        shape(state)
    torch.save(state, folder / "model.pt")
    return folder
