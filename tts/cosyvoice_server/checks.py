"""What must hold before CosyVoice is believed: libraries that run, but compute something else, are refused."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PINNED = "4.51.3"
FITS = ((4, 40), (4, 58))
"""transformers from, and below. 4.51.3 is upstream's own; 5.x gives another result from upstream's attention mask:
the speech is gibberish, and nothing says so."""
TOLERANCE = 0.01
"""of the hidden states' size. With the tests' tiny model 4.51.3: 1e-7, 5.23: 3e-2"""


class Unsound(RuntimeError):
    """This environment would speak nonsense; the message says what to do."""


def check_versions(installed: str | None = None) -> None:
    """Before anything is loaded. installed: transformers' version; None: looked up. Raises Unsound."""
    if installed is None:
        try:
            installed = version("transformers")
        except PackageNotFoundError:
            raise Unsound(f"transformers is not installed: pip install transformers=={PINNED}") from None
    numbers = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
    if not FITS[0] <= numbers < FITS[1]:
        raise Unsound(
            f"transformers {installed} is installed; CosyVoice's language model computes nonsense with it, silently."
            f" Install the version that it was made with: pip install transformers=={PINNED}"
        )


def cached_decoding_error(llm: Any) -> float:
    """How far decoding token by token is from decoding at once, as a share of the hidden states' size.

    llm: upstream's Qwen2LM. The two must agree; upstream passes a mask of one element beside the cache, and what a
    transformers version makes of that decides.
    """
    encoder = llm.llm
    weight = next(encoder.parameters())
    width = int(encoder.model.config.hidden_size)
    seeded = torch.Generator().manual_seed(0)
    x = torch.randn(1, 12, width, generator=seeded).to(weight)

    def mask(n: int) -> torch.Tensor:
        return torch.tril(torch.ones(1, n, n, device=weight.device)).bool()

    with torch.inference_mode():
        whole, _ = encoder.forward_one_step(x, mask(12))
        step, cache = encoder.forward_one_step(x[:, :8], mask(8))
        for i in range(8, 12):
            step, cache = encoder.forward_one_step(x[:, i : i + 1], mask(1), cache)
    return float((whole[:, -1] - step[:, -1]).abs().max() / whole[:, -1].abs().max().clamp(min=1e-6))


def check_decoding(llm: Any) -> None:
    """Raises Unsound. Not with vLLM, which has its own decoder and took the layers away."""
    if hasattr(llm, "vllm"):
        return
    try:
        error = cached_decoding_error(llm)
    except Exception as failure:
        raise Unsound(
            f"CosyVoice's language model does not run with these libraries ({failure!r}):"
            f" pip install transformers=={PINNED}"
        ) from failure
    if not error <= TOLERANCE:
        raise Unsound(
            f"CosyVoice's language model computes nonsense here: decoding step by step is off by {error:.2g} of its"
            f" size. It was made with transformers {PINNED}: pip install transformers=={PINNED}"
        )


def generation(cosyvoice: Any) -> int:
    """2 or 3. Raises Unsound for the first CosyVoice, whose streaming is another."""
    name = type(cosyvoice).__name__
    if name not in ("CosyVoice2", "CosyVoice3"):
        raise Unsound(f"{name} is not served here: take a CosyVoice 2 or 3 model (iic/CosyVoice2-0.5B).")
    return int(name[-1])


def fingerprint(model_dir: Path) -> str:
    """Tells models apart: a hash of the configuration and of the ends of its weights."""
    told = hashlib.sha256()
    for file in sorted([*model_dir.glob("cosyvoice*.yaml"), *model_dir.glob("*.pt"), *model_dir.glob("*.onnx")]):
        if file.name == "spk2info.pt":
            continue
        size = file.stat().st_size
        told.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            told.update(stream.read(65_536))
            stream.seek(max(size - 65_536, 0))
            told.update(stream.read(65_536))
    return told.hexdigest()[:32]
