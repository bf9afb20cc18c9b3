"""The figures of speech: the traps of the chunker, a judge that finds what is wrong, and moments put into turns."""

import random

import pytest

from benchmarks import chunking
from benchmarks.chunking import Trap, faults, read, tokens, trap
from benchmarks.speech_stages import Turn, delays, gather
from server.core.chunker import Chunker
from server.core.media import Clause


@pytest.mark.parametrize("one", read(), ids=lambda one: one.text[:24])
def test_a_trap_as_a_whole_and_letter_by_letter(one: Trap) -> None:
    assert faults(one, [one.text]) == []
    assert faults(one, list(one.text)) == []


def test_random_tokens_join_to_the_text() -> None:
    chance = random.Random(3)
    for one in read():
        assert "".join(tokens(one.text, chance)) == one.text


def test_there_are_a_thousand_texts_in_both_languages() -> None:
    assert chunking.count(1000) >= 1000
    assert {one.language for one in read()} >= {"en", "zh"}
    assert chunking.run(1, seed=5) == []


class Careless(Chunker):
    """Cuts behind every full stop that has a character behind it, says everything as it stands."""

    def feed(self, text: str) -> list[Clause]:
        self._raw += text
        out = []
        while "." in self._raw[:-1]:
            end = self._raw.index(".") + 1
            out.append(Clause(0, self._raw[:end], self._raw[:end], "en"))
            self._raw = self._raw[end:]
        return out

    def flush(self) -> list[Clause]:
        rest, self._raw = self._raw, ""
        return [Clause(0, rest, rest, "en")] if rest else []


class Late(Careless):
    """One clause, at the end."""

    def feed(self, text: str) -> list[Clause]:
        self._raw += text
        return []


class Deaf(Careless):
    """Loses what comes behind a mark."""

    def flush(self) -> list[Clause]:
        self._raw = ""
        return []


@pytest.mark.parametrize(
    ("chunker", "text", "said", "wrong"),
    [
        (Careless, "It is 3.5 meters.‖ Yes.", None, "it is cut behind 'It is 3.'"),
        (Careless, "It is **good**.‖ Yes.", "It is good. Yes.", "is said instead of"),
        (Late, "It is good.‖ Yes.", None, "the first sentence is kept back"),
        (
            Late,
            "So.‖ " + "All of this is one sentence that is quite long, for it goes on.‖ Yes.",
            None,
            "a long sent",
        ),
        (Deaf, "It is good.‖ Yes.", None, "the text is not whole"),
    ],
)
def test_the_judge_finds_what_is_wrong(
    chunker: type[Chunker], text: str, said: str | None, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "Chunker", chunker)
    row: dict[str, object] = {"text": text} | ({"said": said} if said else {})
    one = trap(row, "en")
    assert any(fault.startswith(wrong) or wrong in fault for fault in faults(one, list(one.text)))


def test_the_first_sentence_must_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Careless):
        def feed(self, text: str) -> list[Clause]:
            self._raw += text
            return super().feed("") if len(self._raw) > 40 else []

    monkeypatch.setattr(chunking, "Chunker", Slow)
    one = trap({"text": "It is good.‖ And so is this, which is said behind it."}, "en")
    assert any("comes late" in fault for fault in faults(one, list(one.text)))


def test_moments_are_put_into_their_turns() -> None:
    turns = [Turn(True, 10.0), Turn(False, 20.0), Turn(True, 30.0)]
    gather(
        turns,
        words=[("words", 11.0), ("words", 11.5), ("words", 21.0), ("words", 31.0)],
        model=[("asked", 11.004), ("clause", 11.3), ("asked", 21.010), ("clause", 21.3), ("asked", 31.2)],
        voice=[("asked", 11.307), ("pcm", 11.5), ("asked", 11.6), ("asked", 21.309), ("pcm", 21.5), ("pcm", 21.9)],
        packets=[9.0, 11.560, 21.555],
        marks=[
            {"speech_end_s": 10.5, "steps_ms": {"placed": 1004.0}},
            {"speech_end_s": 20.5, "steps_ms": {"placed": 1006.0}},
            {"speech_end_s": 30.5, "steps_ms": {"clause": 900.0}},
        ],
    )
    found = {name: [round(one, 3) for one in some] for name, some in delays(turns, 40.0).items()}
    assert found == {
        "asr_to_llm": [10.0],
        "provisional_to_llm": [4.0, 200.0],
        "clause_to_tts": [7.0, 9.0],
        "pcm_to_timeline": [4.0, 6.0],
        "pcm_to_packet": [20.0, 15.0],
    }
    waited = {11.0: 1.0, 11.004: 1.001, 21.0: 2.0, 21.010: 2.004, 31.0: 4.0}
    alone = delays(turns, 40.0, waited)
    assert [round(one, 3) for one in alone["asr_to_llm"]] == [6.0]
    assert [round(one, 3) for one in alone["provisional_to_llm"]] == [3.0]
    assert alone["pcm_to_timeline"] == []
