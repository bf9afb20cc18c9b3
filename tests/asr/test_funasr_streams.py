"""FunASR's real code on tiny models: streams that run at once, copies of their state, parts, silence, hot words."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from server.asr import funasr_worker
from server.asr.funasr_worker import (
    BYTES_PER_S,
    Desk,
    Gate,
    Hearing,
    HotWordSpotter,
    Models,
    Stream,
    TokenRecorder,
    samples,
    stable_length,
    thread_count,
    words,
)
from server.asr.parts import joined
from server.asr.wire import Answer, Ask, Audio, Begin, Forget, Heard
from server.workers.channel import End
from tests.asr.conftest import Settings
from tests.asr.spoken import frames, pause
from tests.asr.tiny_funasr import melody, quiet

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the library's and torch's own
    pytest.mark.usefixtures("tiny"),  # skips without the library
    pytest.mark.timeout(600),  # importing it takes 7 s of a free core, and minutes of a busy one
]

STREAMS = 8
STEP = 9600  # samples of one step: (0, 10, 5)
OPTIONS = {"chunk_size": [0, 10, 5], "encoder_chunk_look_back": 4, "decoder_chunk_look_back": 1}


@pytest.fixture(scope="module")
def models(settings: Settings) -> Models:
    with quiet():
        return Models(settings("streaming", "finaliser", "vad", "punctuation"), lambda text: None)


def only(models: Models, *roles: str) -> Models:
    """The same weights with some of them away."""
    some = object.__new__(Models)
    some.device = models.device
    for role in ("streaming", "finaliser", "vad", "punctuation"):
        setattr(some, role, getattr(models, role) if role in roles else None)
    return some


def hear(hearing: Hearing, pcm: bytes, utterance: int = 1) -> list[Heard]:
    told = [hearing.hear(utterance, frame) for frame in frames(pcm)]
    return [heard for heard in told if heard is not None]


def final(hearing: Hearing, utterance: int = 1) -> str:
    return hearing.answer(Ask(1, utterance, end=True))[0]


# ---- eight at once ---------------------------------------------------------------------------------

Step = Callable[[Any, "np.ndarray[Any, Any]", dict[str, Any], bool], str]


def ours(model: Any, pcm: "np.ndarray[Any, Any]", cache: dict[str, Any], last: bool) -> str:
    return str(model(pcm, cache=cache, is_final=last, **OPTIONS)["text"])


def generate(model: Any, pcm: "np.ndarray[Any, Any]", cache: dict[str, Any], last: bool) -> str:
    """The library's own, as its documentation calls it."""
    return str(model.library.generate(input=pcm, cache=cache, is_final=last, **OPTIONS)[0]["text"])


def text_of(model: Any, seed: int, step: Step) -> str:
    pcm, cache, texts = samples(melody(seed).tobytes()), {}, []
    for i in range(0, len(pcm), STEP):
        try:
            texts.append(step(model, pcm[i : i + STEP], cache, i + STEP >= len(pcm)))
        except RuntimeError as error:  # torch met another stream's state, in another shape
            texts.append(f"({error})")
    return "|".join(texts)


@pytest.fixture(scope="module")
def alone(models: Models) -> list[str]:
    """What each stream says when there is no other. Without dither it says the same each time."""
    texts = [text_of(models.streaming, seed, ours) for seed in range(STREAMS)]
    assert len(set(texts)) == STREAMS
    assert texts == [text_of(models.streaming, seed, generate) for seed in range(STREAMS)]
    return texts


@pytest.fixture
def in_step(models: Models, monkeypatch: pytest.MonkeyPatch) -> threading.Barrier:
    """All streams meet in the middle of every step: where the features are made, and where options are set."""
    from funasr.auto.auto_model import AutoModel
    from funasr.models.fsmn_vad_streaming import model as vad
    from funasr.models.paraformer_streaming import model as paraformer
    from funasr.models.sense_voice import model as sense_voice

    barrier = threading.Barrier(STREAMS, timeout=20)
    extract = paraformer.extract_fbank
    reset, merge = AutoModel._reset_runtime_configs, AutoModel._merge_runtime_config

    def extract_together(*args: Any, **options: Any) -> Any:
        barrier.wait()
        return extract(*args, **options)

    stream = threading.local()

    def reset_together(library: Any) -> None:
        reset(library)
        stream.resets = getattr(stream, "resets", 0) + 1
        if stream.resets > 2:  # two a step; in the first one each stream gets a state at all
            barrier.wait()

    def merge_together(*options: Any) -> None:
        merge(*options)
        if stream.resets > 2:
            barrier.wait()

    for module in (paraformer, vad, sense_voice):
        monkeypatch.setattr(module, "extract_fbank", extract_together)
    monkeypatch.setattr(AutoModel, "_reset_runtime_configs", reset_together)
    monkeypatch.setattr(AutoModel, "_merge_runtime_config", staticmethod(merge_together))
    return barrier


def at_once(barrier: threading.Barrier, stream: Callable[[int], str]) -> list[str]:
    def run(seed: int) -> str:
        try:
            return stream(seed)
        except BaseException:
            barrier.abort()  # the others must not wait for this one
            raise

    with ThreadPoolExecutor(STREAMS) as pool:
        return list(pool.map(run, range(STREAMS)))


def assert_unmixed(texts: list[str], alone: list[str]) -> None:
    for number, (text, wanted) in enumerate(zip(texts, alone, strict=True)):
        assert text == wanted, f"stream {number} got words that are not its own: {text} instead of {wanted}"


def test_eight_streams_at_once_keep_their_words(models: Models, alone: list[str], in_step: threading.Barrier) -> None:
    assert_unmixed(at_once(in_step, lambda seed: text_of(models.streaming, seed, ours)), alone)


def test_the_librarys_own_call_mixes_them(models: Models, alone: list[str], in_step: threading.Barrier) -> None:
    """The test above on what the library's documentation calls: it fails, and says so."""
    with pytest.raises(AssertionError, match="got words that are not its own"):
        assert_unmixed(at_once(in_step, lambda seed: text_of(models.streaming, seed, generate)), alone)


@pytest.fixture(scope="module")
def utterance(models: Models, settings: Settings) -> Callable[[int], str]:
    """All that a call hears of one melody, from VAD, streaming model and finaliser; or with punctuation instead."""

    def hear_all(seed: int) -> str:
        said = []
        for roles in (("streaming", "finaliser", "vad"), ("streaming", "punctuation")):
            hearing = Hearing(only(models, *roles), Begin("zh"), settings(*roles))
            said += [heard.text for heard in hear(hearing, melody(seed, 1.5).tobytes())]
            said += [hearing.answer(Ask(1, 1, end=end))[0] for end in (False, True)]
        return "|".join(said)

    return hear_all


@pytest.fixture(scope="module")
def utterances_alone(utterance: Callable[[int], str]) -> list[str]:
    texts = [utterance(seed) for seed in range(STREAMS)]
    assert len(set(texts)) == STREAMS
    return texts


def test_eight_utterances_at_once_through_all_models_keep_their_words(
    utterance: Callable[[int], str], utterances_alone: list[str], in_step: threading.Barrier
) -> None:
    assert_unmixed(at_once(in_step, utterance), utterances_alone)


# ---- a text for now --------------------------------------------------------------------------------


def test_a_provisional_text_does_the_stream_no_harm(models: Models, settings: Settings) -> None:
    said = [melody(seed, 0.7).tobytes() for seed in range(4)]
    chosen = settings("streaming")
    unasked, asked = Stream(models.streaming, chosen), Stream(models.streaming, chosen)
    before = []
    for pcm in said:
        unasked.hear(pcm)
        asked.hear(pcm)
        before.append(asked.flushed())
        assert asked.flushed() == before[-1]
    assert asked.flushed() == unasked.flushed() == before[-1]
    assert asked.text == unasked.text
    assert len(set(before)) == 4


def test_flushing_in_place_would_change_the_words(models: Models, settings: Settings) -> None:
    """Why there is a copy."""
    first, second = melody(0, 1.3).tobytes(), melody(1, 1.3).tobytes()
    kept, flushed = Stream(models.streaming, settings("streaming")), Stream(models.streaming, settings("streaming"))
    kept.hear(first)
    kept.hear(second)
    flushed.hear(first)
    flushed._decode(bytes(flushed._waiting), flushed._cache, flushed._recorder, final=True)
    flushed._waiting.clear()
    flushed.hear(second)
    assert flushed.flushed() != kept.flushed()


def test_the_step_is_configurable(models: Models, settings: Settings) -> None:
    quick, slow = (Stream(models.streaming, settings("streaming", chunk=c)) for c in ((0, 5, 5), (0, 10, 5)))
    pcm = melody(3, 2.4).tobytes()
    for stream in (quick, slow):
        stream.hear(pcm[: int(0.4 * BYTES_PER_S)])
    assert quick._recorder.tokens
    assert not slow._recorder.tokens
    for stream in (quick, slow):
        stream.hear(pcm[int(0.4 * BYTES_PER_S) :])
        assert stream.flushed()
    assert quick.flushed() != slow.flushed()


def test_a_word_of_pieces_is_not_torn_where_two_steps_meet() -> None:
    class Vocabulary:
        def ids2tokens(self, ids: list[int]) -> list[str]:
            return [["hel@@", "lo", "there"][i] for i in ids]

    recorder = TokenRecorder(Vocabulary())
    assert recorder.ids2tokens([0]) == ["hel@@"]
    recorder.ids2tokens([1, 2])
    assert words(recorder.tokens) == "hello there"
    torn = words(["hel@@"]) + words(["lo", "there"])
    assert torn != "hello there"


def test_what_is_promised_stays_whatever_comes() -> None:
    rng = random.Random(1)
    vocabulary = ["你", "好", "世", "hel@@", "lo", "a", "b", "i", "there", "'s", "3", "ing"]
    promised = 0
    for _ in range(300):
        tokens = rng.choices(vocabulary, k=12)
        for count in range(1, 12):
            text = words(tokens[:count])
            stable = stable_length(tokens[:count])
            assert stable <= len(text)
            promised += stable
            for more in range(count, 13):
                assert words(tokens[:more]).startswith(text[:stable]), (tokens, count, more)
    assert promised > 5000


# ---- an utterance ----------------------------------------------------------------------------------


def test_partials_grow_and_the_second_pass_writes_the_final(models: Models, settings: Settings) -> None:
    chosen = settings("streaming", "finaliser")
    hearing = Hearing(only(models, "streaming", "finaliser"), Begin("zh"), chosen)
    pcm = melody(1).tobytes()
    told = hear(hearing, pcm)
    assert len(told) >= 3
    for earlier, later in pairwise(told):
        assert later.text.startswith(earlier.text[: earlier.stable])
        assert later.stable >= earlier.stable
    by_hand = models.finaliser.library.generate(input=samples(pcm), language="zh", use_itn=True)[0]["text"]
    assert "<|" in by_hand
    text, stable = hearing.answer(Ask(1, 1, end=False))
    assert text == funasr_worker.TAGS.sub("", by_hand)
    assert (text, len(text)) == hearing.answer(Ask(2, 1, end=True))
    assert stable == 0
    assert final(hearing, 2) == ""


def test_the_call_s_language_reaches_the_finaliser_and_decides_about_partials(
    models: Models, settings: Settings
) -> None:
    """paraformer-zh makes Chinese of English: an English call gets no partials, only SenseVoice's finals."""
    pcm = melody(1).tobytes()
    heard = {}
    for language in ("zh", "en"):
        hearing = Hearing(only(models, "streaming", "finaliser"), Begin(language), settings("streaming", "finaliser"))
        heard[language] = hear(hearing, pcm), final(hearing)
    assert heard["zh"][0]
    assert not heard["en"][0]
    assert heard["en"][1]
    assert heard["en"][1] != heard["zh"][1]


def test_without_a_finaliser_the_stream_s_text_is_punctuated(models: Models, settings: Settings) -> None:
    bare = Hearing(only(models, "streaming"), Begin("zh"), settings("streaming"))
    dotted = Hearing(only(models, "streaming", "punctuation"), Begin("zh"), settings("streaming", "punctuation"))
    pcm = melody(1).tobytes()
    hear(bare, pcm)
    hear(dotted, pcm)
    plain, text = final(bare), final(dotted)
    assert plain
    assert text != plain
    assert text.translate(str.maketrans("", "", "，。？、 ")) == plain.replace(" ", "")


def test_punctuation_is_never_given_an_address(
    models: Models, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would fetch it."""
    hearing = Hearing(only(models, "streaming", "punctuation"), Begin("zh"), settings("streaming", "punctuation"))
    hear(hearing, melody(1).tobytes())
    monkeypatch.setattr(Stream, "flushed", lambda self: "http://127.0.0.1:9/x")
    assert final(hearing) == "http://127.0.0.1:9/x"


def test_silence_and_noise_have_no_words_with_the_vad(models: Models, settings: Settings) -> None:
    hearing = Hearing(models, Begin("zh"), settings("streaming", "finaliser", "vad"))
    assert hear(hearing, pause(2.0)) == []
    assert hearing.answer(Ask(1, 1, end=False)) == ("", 0)
    assert final(hearing) == ""
    without = Hearing(only(models, "streaming", "finaliser"), Begin("zh"), settings("streaming", "finaliser"))
    hear(without, pause(2.0))
    assert final(without) != ""  # a tiny model with random weights has something to say to anything


def test_the_finaliser_hears_the_speech_without_the_silence_around_it(models: Models) -> None:
    gate = Gate(models.vad)
    pcm = pause(1.0) + melody(2, 1.0).tobytes() + pause(1.2)
    for frame in frames(pcm):
        gate.hear(frame)
    kept = len(gate.speech(pcm)) / BYTES_PER_S
    assert 1.0 <= kept <= 1.6
    assert gate.start_ms is not None
    assert 600 <= gate.start_ms <= 1000
    for frame in frames(melody(3, 1.0).tobytes()):  # and the person goes on
        gate.hear(frame)
    again = pcm + melody(3, 1.0).tobytes()
    assert len(gate.speech(again)) / BYTES_PER_S > 3.0


def test_a_new_utterance_remembers_nothing_of_a_forgotten_one(models: Models, settings: Settings) -> None:
    chosen = settings("streaming", "vad")
    fresh, used = (Hearing(only(models, "streaming", "vad"), Begin("zh"), chosen) for _ in range(2))
    hear(used, melody(5).tobytes(), 1)
    used.forget()
    hear(used, melody(6).tobytes(), 2)
    hear(used, melody(1).tobytes(), 3)  # a new number ends what was open
    hear(fresh, melody(1).tobytes(), 1)
    assert final(used, 3) == final(fresh, 1)


def test_a_long_utterance_is_closed_in_parts_where_it_is_quiet(
    models: Models, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funasr_worker, "PART_FROM_S", 2.0)
    monkeypatch.setattr(funasr_worker, "PART_MAX_S", 4.0)
    chosen = settings("streaming", "finaliser")
    some = only(models, "streaming", "finaliser")
    first, second = melody(1, 2.5).tobytes() + pause(0.2), melody(2, 1.5).tobytes()
    parts = [Hearing(some, Begin("zh"), chosen) for _ in range(2)]
    hear(parts[0], first)
    hear(parts[1], second)
    whole = Hearing(some, Begin("zh"), chosen)
    told = hear(whole, first + second)
    assert final(whole) == joined([final(parts[0]), final(parts[1])])
    for earlier, later in pairwise(told):
        assert later.text.startswith(earlier.text[: earlier.stable])
    endless = Hearing(some, Begin("zh"), chosen)
    hear(endless, melody(1, 9.0).tobytes())  # no quiet moment in it
    assert len(endless._final) == 2
    assert len(endless._part.pcm) < 4.0 * BYTES_PER_S


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (["你好", "世界"], "你好世界"),
        (["hi", "there"], "hi there"),
        (["你好。", "", "ok"], "你好。 ok"),
        ([], ""),
    ],
)
def test_parts_are_joined_as_their_script_wants(texts: list[str], text: str) -> None:
    assert joined(texts) == text


# ---- hot words -------------------------------------------------------------------------------------


def test_chinese_hot_words_are_corrected_by_their_sound() -> None:
    spotter = HotWordSpotter(("阿里巴巴", "魔搭", "VisAvis"))
    assert spotter.corrected("我在阿里爸爸工作") == "我在阿里巴巴工作"
    assert spotter.corrected("打开摩搭，好吗？") == "打开魔搭，好吗？"


@pytest.mark.parametrize(
    "text",
    ["我在阿里巴巴集团公司工作", "找张三，他在", "hello there, how are you", "ok，阿里巴巴集团公司。", ""],
)
def test_hot_words_do_no_harm_to_a_text_that_is_right(text: str) -> None:
    """Where the library alone does: it takes a neighbour into the word, a comma, or any English for English."""
    assert HotWordSpotter(("阿里巴巴集团公司", "张三", "VisAvis")).corrected(text) == text


def test_the_bare_library_would_do_harm() -> None:
    from funasr.utils.postprocess_hotwords import build_postprocess_hotword_matcher

    def bare(word: str, text: str) -> str:
        return str(build_postprocess_hotword_matcher([word]).apply_text(text)[0])

    assert bare("张三", "找张三，他在") != "找张三，他在"
    assert bare("阿里巴巴集团公司", "我在阿里巴巴集团公司工作") != "我在阿里巴巴集团公司工作"
    assert bare("VisAvis", "hello there") != "hello there"


def test_hot_words_work_on_finals_only(models: Models, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "flushed", lambda self: "阿里爸爸")
    plain = Hearing(only(models, "streaming"), Begin("zh"), settings("streaming"))
    told = Hearing(only(models, "streaming"), Begin("zh", ("阿里巴巴",)), settings("streaming"))
    for hearing in (plain, told):
        hear(hearing, melody(1).tobytes())
    assert (final(plain), final(told)) == ("阿里爸爸", "阿里巴巴")


# ---- the desk --------------------------------------------------------------------------------------


class End_:
    """The worker's end of a channel: what it sends is kept, and waited for."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Any]] = []
        self._changed = threading.Condition()

    def send(self, session: int, message: Any) -> None:
        with self._changed:
            self.sent.append((session, message))
            self._changed.notify_all()

    def answer(self, session: int, request: int) -> Answer:
        def found() -> Any:
            return next(
                (m for s, m in self.sent if s == session and isinstance(m, Answer) and m.request == request), None
            )

        with self._changed:
            assert self._changed.wait_for(found, timeout=30), "no answer"
            answer: Answer = found()
            return answer


@pytest.fixture
def held(models: Models, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[End_, Desk, Any]]:
    """A desk whose only thread waits until it is let go, so that everything behind it is waiting."""
    end, go = End_(), threading.Event()
    decode = Hearing.hear

    def hear_later(self: Hearing, utterance: int, pcm: bytes) -> Heard | None:
        assert go.wait(30)
        return decode(self, utterance, pcm)

    monkeypatch.setattr(Hearing, "hear", hear_later)
    desk = Desk(end, only(models, "streaming"), settings("streaming", backlog_s=2.0), threads=1)  # type: ignore[arg-type]
    yield end, desk, go
    go.set()


def test_a_forgotten_utterance_does_not_cost_the_one_before_it_its_answer(
    models: Models, settings: Settings, held: tuple[End_, Desk, Any]
) -> None:
    end, desk, go = held
    alone = Hearing(only(models, "streaming"), Begin("zh"), settings("streaming"))
    desk.arrive(1, Begin("zh"))
    for frame in frames(melody(1, 1.5).tobytes()):
        desk.arrive(1, Audio(1, frame))
    desk.arrive(1, Ask(1, 1, end=True))
    desk.arrive(1, Audio(2, frames(melody(2).tobytes())[0]))
    desk.arrive(1, Forget(2))
    desk.arrive(1, Ask(2, 2, end=True))
    go.set()
    assert end.answer(1, 1).text != ""
    assert end.answer(1, 2).text == ""
    hear(alone, melody(1, 1.5).tobytes())
    assert end.answer(1, 1).text == final(alone)


def test_what_is_too_late_is_dropped_from_its_beginning_and_counted(held: tuple[End_, Desk, Any]) -> None:
    end, desk, go = held
    desk.arrive(1, Begin("zh"))
    for frame in frames(melody(1, 5.0).tobytes()):
        desk.arrive(1, Audio(1, frame))
    desk.arrive(1, Ask(1, 1, end=True))
    go.set()
    assert 1.9 <= end.answer(1, 1).lost_s <= 3.1


def test_an_ended_session_leaves_nothing_behind(held: tuple[End_, Desk, Any]) -> None:
    end, desk, go = held
    desk.arrive(1, Begin("zh"))
    for frame in frames(melody(1, 1.0).tobytes()):
        desk.arrive(1, Audio(1, frame))
    desk.arrive(1, End())
    desk.arrive(2, Begin("zh"))
    desk.arrive(2, Ask(1, 1, end=True))
    go.set()
    assert end.answer(2, 1).text == ""
    assert list(desk._lines) == [2]


def test_threads_follow_the_device(settings: Settings) -> None:
    assert thread_count(settings("streaming", threads=3), "cpu") == 3
    assert thread_count(settings("streaming"), "cuda:0") == 1
    assert 1 <= thread_count(settings("streaming"), "cpu") <= funasr_worker.MOST_THREADS
