"""Recordings are judged by what is wrong with them, and cut between words."""

import numpy as np
import pytest

from tests.tts.recordings import SENTENCES, Spoken, clipped, hiss, music, noisy, spoken, tone
from tts.recording import KEPT_S, RATE, Fault, Stretch, choose, examine, keep
from tts.transcripts import fits, part


@pytest.fixture
def said() -> Spoken:
    return spoken(*SENTENCES[:3])


@pytest.fixture
def long() -> Spoken:
    """Longer than what is kept."""
    return spoken(*SENTENCES)


def codes(pcm: np.ndarray) -> list[str]:
    return [fault.code for fault in examine(pcm.astype(np.float32)).faults]


def test_each_fault_is_named(said: Spoken) -> None:
    pcm = said.pcm
    assert codes(pcm) == []
    assert codes(clipped(pcm)) == ["clipped"]
    assert codes(noisy(pcm, 8.0)) == ["noisy"]
    assert codes(pcm * 0.03) == ["too_quiet"]
    assert codes(pcm[: 2 * RATE]) == ["too_short"]
    assert codes(np.tile(pcm, 4)) == ["too_long"]
    assert codes(np.zeros(6 * RATE)) == ["no_speech"]
    assert codes(hiss(6)) == ["no_speech"]
    assert codes(tone(6)) == ["music"]
    assert codes(music(6)) == ["music"]
    word = spoken("Hello.").pcm
    assert codes(np.pad(word, (0, 6 * RATE))) == ["little_speech"]
    assert all(len(fault.message) > 40 for fault in examine(clipped(pcm)).faults)


@pytest.mark.parametrize("name", ["slt", "rms", "awb", "kal16"])
def test_a_good_recording_is_taken(name: str) -> None:
    found = examine(spoken(*SENTENCES[:3], name=name).pcm)
    assert found.faults == ()
    assert found.pauses


def test_a_telephone_and_a_hiss_are_advised_against() -> None:
    rng = np.random.default_rng(0)
    assert examine(np.zeros(RATE, np.float32)).faults[0].code == "too_short"
    assert codes(rng.standard_normal(4 * RATE) * 1e-4) == ["no_speech"]


def test_advice(said: Spoken) -> None:
    assert examine(said.pcm, 0.0, 8000).advice
    assert "Noise" in " ".join(examine(noisy(said.pcm, 19.0)).advice)


@pytest.mark.parametrize("name", ["slt", "kal16"])
def test_it_is_cut_at_pauses_only(name: str) -> None:
    long = spoken(*SENTENCES, name=name)
    found = examine(long.pcm)
    stretch = choose(found)
    assert isinstance(stretch, Stretch)
    assert stretch.cut_before or stretch.cut_after
    for word, start, end in long.words:
        inside = stretch.start_s <= start and end <= stretch.end_s
        outside = end <= stretch.start_s or start >= stretch.end_s
        assert inside or outside, word
    speech = np.sqrt(np.mean(long.pcm[np.abs(long.pcm) > 0.02] ** 2))
    for at in (stretch.start_s, stretch.end_s):
        around = long.pcm[max(round((at - 0.02) * RATE), 0) : round((at + 0.02) * RATE)]
        assert np.sqrt(np.mean(around**2)) < speech / 30
    kept = keep(long.pcm, stretch, found)
    assert len(kept) % RATE == 0
    assert KEPT_S[0] <= len(kept) / RATE <= KEPT_S[1]
    assert np.abs(kept).max() <= 0.9


def test_without_a_pause_nothing_is_cut(said: Spoken) -> None:
    voiced = said.pcm[round(0.4 * RATE) : round(1.9 * RATE)]
    unbroken = np.tile(voiced, 9)
    found = examine(unbroken)
    if not found.faults:
        assert not found.pauses
        assert isinstance(choose(found), Fault)


def test_short_speech_is_filled_up_with_silence() -> None:
    short = spoken(SENTENCES[0], "It is late.")
    found = examine(short.pcm)
    assert found.faults == ()
    stretch = choose(found)
    assert isinstance(stretch, Stretch)
    assert (stretch.cut_before, stretch.cut_after) == (False, False)
    kept = keep(short.pcm, stretch, found)
    assert len(kept) == 5 * RATE
    assert not kept[-RATE // 4 :].any()


def truth(spoken_: Spoken, stretch: Stretch) -> str:
    """The words whose middle lies in it."""
    return " ".join(w for w, start, end in spoken_.words if stretch.start_s < (start + end) / 2 < stretch.end_s)


def share(recording: Spoken, at_s: float) -> float:
    whole = sum(end - start for _, start, end in recording.words)
    return sum(end - start for _, start, end in recording.words if end <= at_s) / whole


def letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum() or c == " ")


def test_the_transcript_is_cut_with_it(long: Spoken) -> None:
    found = examine(long.pcm)
    stretch = choose(found)
    assert isinstance(stretch, Stretch)
    cuts = (
        share(long, stretch.start_s) if stretch.cut_before else None,
        share(long, stretch.end_s) if stretch.cut_after else None,
    )
    seconds = sum(end - start for _, start, end in long.words)
    wanted = letters(truth(long, stretch))
    unheard = part(long.text, cuts, seconds, None)
    assert unheard is not None
    assert letters(unheard) == wanted
    before = " ".join(w for w, _, end in long.words if end <= stretch.start_s)
    after = " ".join(w for w, start, _ in long.words if start >= stretch.end_s)
    # A recogniser mistakes words; those at the cut, too.
    heard = [text.replace("the", "a").replace("fog", "dog") for text in (before, wanted[4:-5], after)]
    assert letters(part(long.text, cuts, seconds, heard) or "") == wanted


def test_a_transcript_that_cannot_be_cut_for_certain_is_not() -> None:
    text = "one two three four five six seven eight nine ten"
    assert part(text, (None, 0.5), 12.0, None) is None  # no mark
    assert part(text, (None, 0.5), 12.0, ["", "one two three four five", "six seven eight nine ten"]) == (
        "one two three four five"
    )
    assert part(text, (None, 0.5), 12.0, ["", "quite another text", "of somebody else"]) is None
    assert part("今天天气很好，我们一起去公园散步吧。路上有很多花，孩子们都很高兴。", (None, 0.57), 9.0, None) == (
        "今天天气很好，我们一起去公园散步吧。"
    )
    assert part("A, b, c, d, e, f, g.", (None, 0.5), 3.0, None) is None  # marks everywhere


def test_whether_words_fit() -> None:
    assert fits("Nobody was on deck, and the fog hid the lights.", "nobody was on that and the fog had delights")
    assert not fits("Nobody was on deck, and the fog hid the lights.", "hello this is something else")
