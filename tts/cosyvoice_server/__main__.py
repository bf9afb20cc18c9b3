"""`python -m cosyvoice_server --model DIR`: load CosyVoice, check it, warm it up, serve it."""

import argparse
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from . import checks

log = logging.getLogger("cosyvoice_server")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cosyvoice_server", description="A streaming voice server around CosyVoice."
    )
    parser.add_argument("--model", required=True, help="a model's folder, or a ModelScope id (iic/CosyVoice2-0.5B)")
    parser.add_argument("--folder", default="models", help="where a model named by id is downloaded to, once")
    parser.add_argument("--cosyvoice", default=os.environ.get("COSYVOICE", ""), help="upstream's source tree")
    parser.add_argument("--voices", default="", help="folder in which prepared voices outlive the process")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=50000)
    parser.add_argument("--places", type=int, default=4, help="utterances at once")
    parser.add_argument("--first-tokens", type=int, default=15, help="fewest speech tokens (40 ms) of a first piece")
    parser.add_argument(
        "--stall", type=float, default=20.0, help="seconds without a token after which one is given up"
    )
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--vllm", action="store_true", help="the language model in vLLM")
    parser.add_argument("--trt", action="store_true", help="the flow model in TensorRT")
    parser.add_argument("--memory-gib", type=float, default=0.0, help="of the GPU, at most; 0: as much as there is")
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0: its own choice")
    return parser.parse_args(given)


def load(options: argparse.Namespace) -> Any:
    """Upstream's AutoModel. Raises checks.Unsound."""
    checks.check_versions()
    if options.cosyvoice:
        tree = Path(options.cosyvoice).resolve()
        sys.path[:0] = [str(tree), str(tree / "third_party/Matcha-TTS")]
    os.environ.setdefault("TQDM_DISABLE", "1")
    folder = Path(options.model)
    if not folder.is_dir():
        folder = Path(options.folder) / options.model.replace("/", "--")
        if not any(folder.glob("cosyvoice*.yaml")):
            from modelscope import snapshot_download  # type: ignore[import-not-found,unused-ignore]

            log.info("downloading %s into %s", options.model, folder)
            snapshot_download(options.model, local_dir=str(folder))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options.model = str(folder)
    try:
        from cosyvoice.cli.cosyvoice import AutoModel
    except ImportError as error:
        raise checks.Unsound(
            f"CosyVoice cannot be imported ({error}): name its source tree with --cosyvoice"
        ) from error
    logging.getLogger().setLevel(logging.WARNING)  # upstream sets it to DEBUG
    wanted = {"fp16": options.fp16, "load_vllm": options.vllm, "load_trt": options.trt}
    try:
        return AutoModel(model_dir=str(folder), **{name: True for name, value in wanted.items() if value})
    except (TypeError, ValueError, FileNotFoundError) as error:
        raise checks.Unsound(f"{folder} is no CosyVoice model that can be loaded: {error}") from error


def engine(options: argparse.Namespace) -> Any:
    """Loaded, checked and warm. Raises checks.Unsound."""
    import torch

    from .app import Engine
    from .speakers import Speakers

    if options.threads:
        torch.set_num_threads(options.threads)
    keep_to(options.memory_gib, torch.cuda)
    cosyvoice = load(options)
    generation = checks.generation(cosyvoice)
    checks.check_decoding(cosyvoice.model.llm)
    folder = Path(options.voices) if options.voices else None
    speakers = Speakers(cosyvoice, generation, checks.fingerprint(Path(options.model)), folder)
    made = Engine(
        cosyvoice,
        generation,
        Path(options.model).name,
        speakers,
        places=options.places,
        key=os.environ.get("VISAVIS_TTS_KEY", ""),
        fewest=options.first_tokens,
        stall_s=options.stall,
    )
    _warm(made)
    return made


def keep_to(memory_gib: float, cuda: Any) -> None:
    """What PyTorch allocates beyond that fails here, and not in another process on the same GPU.

    onnxruntime's speech tokenizer and CUDA itself come on top: half a GiB or so.
    """
    if memory_gib > 0 and cuda.is_available():
        total = cuda.get_device_properties(0).total_memory
        cuda.set_per_process_memory_fraction(min(1.0, memory_gib * 2**30 / total), 0)


def _warm(made: Any) -> None:
    """The first utterance pays for what is loaded late; nobody should wait for it. Raises checks.Unsound."""
    import numpy as np

    from .speakers import Speakers
    from .utterance import Failed

    start = time.monotonic()
    at = np.arange(made.rate * 2) / made.rate
    buzz = 0.1 * np.sign(np.sin(2 * np.pi * 120 * at)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * at))
    speakers: Speakers = made.speakers
    name, _ = speakers.add(_wav(buzz, made.rate), "Hello.")
    voice = speakers.get(name)
    speakers.delete(name)
    assert voice is not None
    try:
        for _ in made.utterance("zero-shot", "Hello.", voice, "").chunks():
            pass
    except Failed as error:
        raise checks.Unsound(f"the model cannot speak here: {error}") from error
    made.tokens = 0
    log.info("warm after %.1f s", time.monotonic() - start)


def _wav(wave: Any, rate: int) -> bytes:
    import io

    import soundfile

    out = io.BytesIO()
    soundfile.write(out, wave, rate, format="WAV", subtype="PCM_16")
    return out.getvalue()


def serve(app: Any, host: str, port: int) -> None:
    """Until a signal ends it."""
    import uvicorn

    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_keep_alive=300, timeout_graceful_shutdown=2
    )
    listening = config.bind_socket()
    listening.listen(64)
    name, number = listening.getsockname()[:2]
    print(f"ready: http://{name}:{number}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def main(given: list[str] | None = None) -> int:
    from .app import application

    options = arguments(given)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while it loads; uvicorn sets its own
    try:
        made = engine(options)
    except checks.Unsound as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    if options.host not in ("127.0.0.1", "localhost", "::1") and not made.key:
        log.warning(
            "whoever reaches %s:%d may speak: set VISAVIS_TTS_KEY to ask for a key", options.host, options.port
        )
    serve(application(made), options.host, options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
