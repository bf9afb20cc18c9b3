"""FunASR's models: what each one is for and in which languages, where its files lie, and how they get there."""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.core.errors import StageError

log = logging.getLogger(__name__)

Role = Literal["streaming", "finaliser", "vad", "punctuation"]
CLASSES: dict[Role, tuple[str, ...]] = {
    "streaming": ("ParaformerStreaming",),
    "finaliser": ("SenseVoiceSmall",),
    "vad": ("FsmnVADStreaming",),
    "punctuation": ("CTTransformer", "CTTransformerStreaming"),
}
"""What a folder's config.yaml may name: these are driven here; the library knows many more, some of which fetch and
run code."""

SENSE_VOICE_LANGUAGES = ("zh", "yue", "en", "ja", "ko")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model by its short name."""

    id: str
    """on ModelScope"""
    role: Role
    languages: tuple[str, ...]
    """primary subtags in which its words can be relied upon; empty: it makes no words"""


KNOWN = {
    "paraformer-zh-streaming": KnownModel(
        "iic/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-online", "streaming", ("zh",)
    ),
    "sensevoice": KnownModel("iic/SenseVoiceSmall", "finaliser", SENSE_VOICE_LANGUAGES),
    "fsmn-vad": KnownModel("iic/speech_fsmn_vad_zh-cn-16k-common-pytorch", "vad", ()),
    "ct-punc": KnownModel("iic/punc_ct-transformer_cn-en-common-vocab471067-large", "punctuation", ()),
    "ct-punc-streaming": KnownModel(
        "iic/punc_ct-transformer_zh-cn-common-vad_realtime-vocab272727", "punctuation", ()
    ),
}
COMPLETE = ".visavis.json"  # written last: without it a download was broken off, and goes on where it was
PROGRESS_S = 5.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where a configured model's files are, or will be."""

    name: str
    """as configured: a short name, a ModelScope id, or a folder"""
    role: Role
    folder: Path
    id: str = ""
    """on ModelScope; empty: a folder of the user's own"""

    @property
    def here(self) -> bool:
        """Whether it can be used without the network."""
        if self.id:
            return (self.folder / COMPLETE).is_file()
        return self.folder.is_dir()


def place(name: str, role: Role, models_dir: str) -> ModelPlace:
    """Raises ValueError, with a sentence, for what is neither a known name, an id nor a folder's path."""
    known = KNOWN.get(name)
    if known is not None:
        if known.role != role:
            names = ", ".join(n for n, k in KNOWN.items() if k.role == role)
            raise ValueError(f"{name} cannot be the {role} model; there is {names}")
        name_or_id = known.id
    else:
        name_or_id = name
    if name_or_id.startswith(("/", "./", "../", "~")):
        return ModelPlace(name, role, Path(name_or_id).expanduser())
    if _ID.fullmatch(name_or_id) is None:
        raise ValueError(
            f"{name!r} is neither a short name ({', '.join(KNOWN)}), a ModelScope id (owner/name) nor a folder "
            "(beginning with /, ./ or ~)"
        )
    owner, _, model = name_or_id.partition("/")
    return ModelPlace(name, role, Path(models_dir).expanduser() / owner / model, name_or_id)


def languages(name: str, role: Role) -> tuple[str, ...]:
    """What a model of this name understands; of an unknown one it is assumed to be what its kind usually does."""
    known = KNOWN.get(name) or next((k for k in KNOWN.values() if k.id == name), None)
    if known is not None:
        return known.languages
    return {"streaming": ("zh",), "finaliser": SENSE_VOICE_LANGUAGES}.get(role, ())


def fetch(model: ModelPlace, offline: bool, tell: Tell) -> Path:
    """The model's folder, downloaded from ModelScope first if it is not here. Runs for minutes; for a worker.

    Once complete it is never asked for again. Raises StageError with a sentence that says what to do.
    """
    if model.here:
        return model.folder
    if not model.id:
        raise StageError(
            "asr", "asr_model_missing", f"There is no folder {model.folder} ({model.role} model).", retryable=False
        )
    if offline:
        raise StageError(
            "asr",
            "asr_model_missing",
            f"{model.id} is not in {model.folder}, and asr.offline forbids fetching it: copy it there, or start once "
            "with asr.offline = false.",
            retryable=False,
        )
    try:
        _download(model, tell)
    except Exception as error:  # whatever the hub's library raises: requests, its own kinds, OSError
        reason = re.sub(r"\s+", " ", str(error)).strip()[:300]
        raise StageError(
            "asr",
            "asr_download",
            f"{model.id} could not be fetched into {model.folder} ({type(error).__name__}: {reason}). Check the "
            "network and the disk and start again: it goes on where it stopped.",
            retryable=False,
        ) from error
    return model.folder


def _download(model: ModelPlace, tell: Tell) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars drawn into a log; what is told here takes their place
    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
    from modelscope.hub.callback import ProgressCallback
    from modelscope.hub.snapshot_download import snapshot_download

    model.folder.mkdir(parents=True, exist_ok=True)
    tell(f"fetching {model.id} into {model.folder}")
    progress = Progress(model.id, tell)

    class Report(ProgressCallback):  # type: ignore[misc]
        """Bytes of one file, as the library wants it: made by it, once a file, in several threads."""

        def update(self, size: int) -> None:
            progress.add(size, self.filename, self.file_size)

    snapshot_download(model.id, local_dir=str(model.folder), progress_callbacks=[Report])
    if not any((model.folder / name).is_file() for name in ("configuration.json", "config.yaml")):
        raise FileNotFoundError("it has neither configuration.json nor config.yaml")
    facts = {"id": model.id, "fetched": time.strftime("%Y-%m-%d")}
    (model.folder / COMPLETE).write_text(json.dumps(facts))
    tell(f"{model.id} is complete: {progress.total / 1e6:.0f} MB")


class Progress:
    """Says how far a download is, every few seconds."""

    def __init__(self, name: str, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        """bytes so far"""
        self._name = name
        self._tell = tell
        self._clock = clock
        self._told = clock()
        self._files: dict[str, int] = {}

    def add(self, size: int, file: str, file_size: int) -> None:
        self.total += size
        self._files[file] = self._files.get(file, 0) + size
        if self._clock() - self._told >= PROGRESS_S:
            self._told = self._clock()
            share = f" ({100 * self._files[file] // file_size} % of {file})" if file_size > 0 else ""
            self._tell(f"{self._name}: {self.total / 1e6:.0f} MB{share}")


def check_class(model: ModelPlace, folder: Path) -> None:
    """Raises StageError if the folder's configuration names a class that is not for this role."""
    import yaml

    described = folder / "configuration.json"
    config = folder / "config.yaml"
    try:
        if described.is_file():
            metas = json.loads(described.read_text()).get("file_path_metas", {})
            config = folder / metas.get("config", "config.yaml")
        found = yaml.safe_load(config.read_text()).get("model")
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise StageError(
            "asr",
            "asr_model_broken",
            f"{folder} is not a FunASR model: its configuration cannot be read ({error}).",
            retryable=False,
        ) from error
    if found not in CLASSES[model.role]:
        wanted = " or ".join(CLASSES[model.role])
        raise StageError(
            "asr",
            "asr_model_wrong",
            f"{folder} holds a {found}; the {model.role} model must be a {wanted}.",
            retryable=False,
        )


def say(text: str) -> None:
    """For a worker: its standard error is the server's."""
    print(f"funasr: {text}", file=sys.stderr, flush=True)
