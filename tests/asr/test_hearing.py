"""The decoding side on its own: long utterances, and what is promised when the decoder changes its mind."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from server.asr import pocketsphinx_worker
from server.asr.pocketsphinx_worker import Hearing, new_decoder
from server.asr.wire import Ask, Audio
from tests.asr.spoken import SENTENCES, error_rate, frames, pause, say


def test_an_utterance_without_end_is_cut_into_parts_and_keeps_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocketsphinx_worker, "UTTERANCE_MAX_S", 2.0)
    hearing = Hearing(new_decoder(), partial_s=0.2)
    for text in SENTENCES[1:4]:
        for frame in frames(pause(0.3) + say("rms", text) + pause(0.5)):
            hearing.hear(Audio(1, frame))
    text, stable = hearing.answer(Ask(1, 1, end=True))
    assert error_rate([(" ".join(SENTENCES[1:4]), text)]) < 0.35
    assert stable == len(text)
    assert hearing.answer(Ask(2, 2, end=True)) == ("", 0)


@dataclass
class Segment:
    word: str
    start_frame: int
    end_frame: int


class Script:
    """A decoder that has a hypothesis for each piece of audio, whatever it hears."""

    def __init__(self, *hypotheses: str) -> None:
        self._hypotheses = iter(hypotheses)
        self._segments: list[Segment] = []

    def process_raw(self, pcm: bytes, no_search: bool, full_utt: bool) -> None:
        words = next(self._hypotheses).split()
        self._segments = [Segment(word, 20 * i, 20 * i + 19) for i, word in enumerate(words)]

    def seg(self) -> Iterator[Segment]:
        return iter(self._segments)

    def start_utt(self) -> None: ...

    def end_utt(self) -> None: ...

    def get_cmn(self, update: bool) -> str:
        return ""

    def set_cmn(self, means: str) -> None: ...


def test_what_three_hypotheses_agree_on_is_kept_though_the_decoder_goes_back_on_it() -> None:
    hypotheses = ["<s> i", "<s> i can(2)", "<s> i can see", "<s> i can see", "<s> eye cans see [NOISE] you"]
    hearing = Hearing(Script(*hypotheses), partial_s=0.02)  # type: ignore[arg-type]
    told = [hearing.hear(Audio(1, bytes(640))) for _ in hypotheses]
    assert [(heard.text, heard.stable) for heard in told if heard is not None] == [
        ("i", 0),
        ("i can", 0),
        ("i can see", 1),
        ("i can see", 5),
        ("i can see you", 5),
    ]
    assert hearing.answer(Ask(1, 1, end=True)) == ("i can see you", 13)
