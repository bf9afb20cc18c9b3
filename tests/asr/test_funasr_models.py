"""Where FunASR's models come from: names, folders, a hub that is asked once, and files that are not trusted."""

import os
import pickle
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from server.asr import models
from server.asr.funasr import FunasrSettings
from server.asr.funasr_worker import Models
from server.asr.hotwords import CHARACTERS_LIMIT, WORDS_LIMIT, chinese, hot_words
from server.asr.models import KNOWN, ModelPlace, Progress, check_class, fetch, languages, place
from server.core.errors import RequestError, StageError
from tests.asr.conftest import Settings
from tests.asr.tiny_funasr import quiet
from tests.fakes.modelscope_hub import Hub

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the libraries' own
    pytest.mark.timeout(600),  # importing them takes 7 s of a free core, and minutes of a busy one
]
needs_modelscope = pytest.mark.skipif(find_spec("modelscope") is None, reason="modelscope is not installed")
FILES = {
    "configuration.json": b'{"file_path_metas": {"config": "config.yaml"}}',
    "config.yaml": b"model: FsmnVADStreaming\n",
    "example/zh.wav": bytes(200_000),
}


def nobody(text: str) -> None:
    """Nothing is told."""


# ---- names -----------------------------------------------------------------------------------------


def test_a_model_is_a_short_name_an_id_or_a_folder(tmp_path: Path) -> None:
    known = place("sensevoice", "finaliser", str(tmp_path))
    assert (known.id, known.folder) == ("iic/SenseVoiceSmall", tmp_path / "iic" / "SenseVoiceSmall")
    own = place(str(tmp_path / "mine"), "vad", "/elsewhere")
    assert (own.id, own.folder, own.here) == ("", tmp_path / "mine", False)
    assert place("you/yours.v2", "streaming", str(tmp_path)).folder == tmp_path / "you" / "yours.v2"
    assert place("~/x", "vad", "").folder == Path.home() / "x"


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "../../etc/passwd/", "https://x/y", "a/..", "iic/", "a b/c"])
def test_a_name_is_not_anything_else(name: str) -> None:
    if name.startswith("."):
        assert place(name, "vad", "/m").id == ""  # a folder, and said to be one
        return
    with pytest.raises(ValueError, match="ModelScope id"):
        place(name, "vad", "/m")


def test_a_known_model_has_one_role() -> None:
    with pytest.raises(ValueError, match="fsmn-vad cannot be the finaliser model; there is sensevoice"):
        FunasrSettings(finaliser="fsmn-vad")


def test_languages_follow_the_model() -> None:
    chosen = FunasrSettings()
    assert chosen.partial_languages() == ("zh",)
    assert "en" in chosen.final_languages()
    assert languages("iic/SenseVoiceSmall", "finaliser") == KNOWN["sensevoice"].languages
    assert FunasrSettings(finaliser="").final_languages() == ()
    assert FunasrSettings(streaming="").partial_languages() == ()
    own = FunasrSettings(streaming="/m/mine", streaming_languages=("en", "de"))
    assert own.partial_languages() == ("en", "de")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"streaming": "", "finaliser": ""}, "both be empty"),
        ({"chunk": (1, 10, 5)}, "chunk must be"),
        ({"chunk": (0, 0, 5)}, "chunk must be"),
        ({"device": "gpu"}, "device must be"),
        ({"threads": 65}, "threads must"),
        ({"capacity": 0}, "capacity must"),
        ({"backlog_s": 0.1}, "backlog_s must"),
        ({"answer_s": 0.0}, "answer_s must"),
        ({"encoder_look_back": -1}, "look_back must"),
        ({"hot_words": ("热词.txt/",)}, "hot_words: "),
    ],
)
def test_settings_say_what_is_wrong(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FunasrSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, FunasrSettings)


# ---- the hub ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The library reads the hub's address once a process."""
    with pytest.MonkeyPatch.context() as patch, Hub("iic/tiny", dict(FILES)).running() as running:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("MODELSCOPE_ENDPOINT", running.address)
        yield running


@pytest.fixture
def hub(address: Hub) -> Hub:
    address.asked.clear()
    address.broken.clear()
    return address


def fetched(model: ModelPlace, tell: object = nobody, *, offline: bool = False) -> Path:
    with quiet():
        return fetch(model, offline, tell)  # type: ignore[arg-type]


@needs_modelscope
def test_a_model_is_fetched_once_into_the_stated_folder_and_offline_afterwards(hub: Hub, tmp_path: Path) -> None:
    told: list[str] = []
    model = place("iic/tiny", "vad", str(tmp_path / "models"))
    assert not model.here
    folder = fetched(model, told.append)
    assert folder == tmp_path / "models" / "iic" / "tiny"
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert "into" in told[0]
    assert "complete" in told[-1]
    assert sorted(hub.asked) == sorted([*FILES, "the list"])
    hub.asked.clear()
    assert model.here
    assert fetched(model) == fetched(model, offline=True) == folder
    assert hub.asked == []


@needs_modelscope
def test_a_broken_off_fetch_is_no_model_and_goes_on_where_it_was(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quiet():
        import modelscope_hub._download as downloads
    monkeypatch.setattr(downloads, "DOWNLOAD_RETRY_TIMES", 0)
    model = place("iic/tiny", "vad", str(tmp_path / "models"))
    hub.broken.add("example/zh.wav")
    with pytest.raises(StageError, match=r"start again: it goes on") as failed:
        fetched(model)
    assert failed.value.code == "asr_download"
    assert not model.here
    hub.broken.clear()
    fetched(model)
    assert (model.folder / "example" / "zh.wav").read_bytes() == FILES["example/zh.wav"]
    assert model.here


@needs_modelscope
def test_a_model_that_is_not_on_the_hub_is_said_in_a_sentence(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"iic/other could not be fetched into .*404"):
        fetched(place("iic/other", "vad", str(tmp_path)))


def test_offline_nothing_is_asked(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"asr.offline forbids"):
        fetched(place("iic/tiny", "vad", str(tmp_path)), offline=True)
    with pytest.raises(StageError, match="There is no folder"):
        fetched(place(str(tmp_path / "gone"), "vad", ""))
    assert hub.asked == []


def test_progress_is_told_every_few_seconds() -> None:
    now = 100.0
    told: list[str] = []
    progress = Progress("iic/tiny", told.append, clock=lambda: now)
    for _ in range(20):
        now += 1.0
        progress.add(5_000_000, "model.pt", 200_000_000)
    assert told == [
        "iic/tiny: 25 MB (12 % of model.pt)",
        "iic/tiny: 50 MB (25 % of model.pt)",
        "iic/tiny: 75 MB (37 % of model.pt)",
        "iic/tiny: 100 MB (50 % of model.pt)",
    ]
    progress.add(1, "unknown", 0)
    assert progress.total == 100_000_001


# ---- what is in a folder ---------------------------------------------------------------------------


def load(chosen: FunasrSettings) -> Models:
    with quiet():
        return Models(chosen, nobody)


@pytest.fixture
def mine(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny / "paraformer", tmp_path / "mine")


def test_a_folder_s_code_is_never_run(mine: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are its requirements installed, nor further models fetched, nor files written where it likes."""
    monkeypatch.chdir(mine)
    (mine / "model.py").write_text(f"open({str(mine / 'ran')!r}, 'w')\n")
    (mine / "requirements.txt").write_text("nothing-that-exists-anywhere\n")
    with (mine / "config.yaml").open("a") as config:
        config.write(
            f"trust_remote_code: true\nremote_code: {mine / 'model.py'}\noutput_dir: {mine / 'written'}\n"
            "vad_model: iic/nobody\npunc_model: iic/nobody\nspk_model: iic/nobody\nhub: hf\n"
        )
    chosen = settings("streaming", streaming=str(mine))
    loaded = load(chosen)
    loaded.warm(chosen)
    assert not (mine / "ran").exists()
    assert not (mine / "written").exists()


def test_weights_are_never_unpickled_into_anything(mine: Path, settings: Settings) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {mine / 'ran'}",)

    (mine / "model.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(StageError, match="cannot be loaded"):
        load(settings("streaming", streaming=str(mine)))
    assert not (mine / "ran").exists()


def test_only_the_classes_of_a_role_are_loaded(tiny: Path, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(
        StageError, match="holds a SenseVoiceSmall; the streaming model must be a ParaformerStreaming"
    ):
        load(settings("streaming", streaming=str(tiny / "sense_voice")))
    broken = tmp_path / "broken"
    broken.mkdir()
    for content in (None, "model: [", "- 1", ""):
        if content is not None:
            (broken / "config.yaml").write_text(content)
        with pytest.raises(StageError, match="is not a FunASR model"):
            check_class(place(str(broken), "vad", ""), broken)


def test_missing_or_foreign_weights_are_refused(mine: Path, tiny: Path, settings: Settings) -> None:
    """The library goes on with random ones, and would talk nonsense."""
    config = (mine / "config.yaml").read_text()
    (mine / "config.yaml").write_text(config.replace("linear_units: 64", "linear_units: 48"))
    with pytest.raises(StageError, match="cannot be loaded"):
        load(settings("streaming", streaming=str(mine)))
    bare = shutil.copytree(tiny / "sense_voice", mine.parent / "bare")
    (bare / "model.pt").unlink()
    with pytest.raises(StageError, match=r"no weights"):
        load(settings("finaliser", finaliser=str(bare)))


def test_a_device_that_is_not_there_is_said(settings: Settings) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(StageError, match="torch finds no CUDA device"):
        load(settings("streaming", device="cuda:1"))


# ---- hot words -------------------------------------------------------------------------------------


def test_hot_words_are_names_without_doubles() -> None:
    words = hot_words(["阿里巴巴", " VisAvis ", "Jean-Luc O’Neil", "阿里巴巴", "C3PO"])
    assert words == ("阿里巴巴", "VisAvis", "Jean-Luc O’Neil", "C3PO")
    assert chinese((*words, "张")) == ("阿里巴巴",)


@pytest.mark.parametrize(
    "word",
    [
        "http://example.org/words.txt",
        "//host/share",
        "/etc/passwd",
        "../words",
        "words.txt",
        "~",
        "C:\\words",
        "wrong=>right",
        "wrong->right",
        "a→b",
        "one,two",
        "one\ntwo",
        "# comment",
        "two  spaces",
        "_x",
        "",
        "x" * (CHARACTERS_LIMIT + 1),
    ],
)
def test_a_hot_word_is_never_a_path_an_address_or_a_rule(word: str) -> None:
    with pytest.raises(RequestError, match="cannot be a hot word"):
        hot_words(["fine", word])


def test_hot_words_are_bounded() -> None:
    assert len(hot_words([f"word {i}" for i in range(WORDS_LIMIT)])) == WORDS_LIMIT
    with pytest.raises(RequestError, match="At most"):
        hot_words([f"word {i}" for i in range(WORDS_LIMIT + 1)])


def test_nothing_heavy_is_needed_to_look_where_a_model_lies() -> None:
    assert "modelscope" not in models.__dict__
    assert "yaml" not in models.__dict__
