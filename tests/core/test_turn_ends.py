"""The opinion on how a turn sounds: it shortens or lengthens the silence after it, and does nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.endpointing import silence_needed
from server.core.events import EndJudged, VoiceStarted, VoiceStopped
from server.core.settings import TurnSettings
from server.core.turns import TurnTaker
from tests.core.scenario import Scenario, Sound

S = TurnSettings(guard_s=0.0)
PLAIN = "what is the weather in paris"  # neither finished nor unfinished
WHOLE = "what time is it"
OPEN = "i would like a coffee and"


@pytest.mark.parametrize(
    ("text", "finished", "seconds"),
    [
        (PLAIN, None, S.endpoint_s),
        (PLAIN, 0.5, S.endpoint_s),
        (PLAIN, 0.99, S.endpoint_sure_s),
        (PLAIN, 0.01, S.endpoint_patient_s),
        (WHOLE, None, S.endpoint_min_s),
        (WHOLE, 0.5, S.endpoint_min_s),
        (WHOLE, 0.99, S.endpoint_sure_s),
        (WHOLE, 0.01, S.endpoint_s),
        (OPEN, None, S.endpoint_max_s),
        (OPEN, 0.99, S.endpoint_max_s),
        (OPEN, 0.01, S.endpoint_patient_s),
        ("", 0.01, S.endpoint_s),
        ("", 0.99, S.endpoint_s),
    ],
)
def test_words_and_sound_together(text: str, finished: float | None, seconds: float) -> None:
    assert silence_needed(text, "en", S, finished) == seconds


def test_an_opinion_counts_from_its_threshold_on() -> None:
    assert silence_needed(PLAIN, "en", S, S.finished_above) == S.endpoint_sure_s
    assert silence_needed(PLAIN, "en", S, S.finished_above - 0.01) == S.endpoint_s
    assert silence_needed(PLAIN, "en", S, S.unfinished_below) == S.endpoint_patient_s
    assert silence_needed(PLAIN, "en", S, S.unfinished_below + 0.01) == S.endpoint_s


def test_a_fixed_endpoint_listens_to_nothing() -> None:
    fixed = TurnSettings(endpoint_fixed=True)
    assert {silence_needed(text, "en", fixed, p) for text in (PLAIN, WHOLE, OPEN) for p in (None, 0.0, 1.0)} == {0.5}


@given(st.sampled_from([PLAIN, WHOLE, OPEN, ""]), st.none() | st.floats(0, 1), st.floats(0, 3), st.floats(0, 3))
def test_never_shorter_than_the_soft_end(text: str, finished: float | None, soft_s: float, usual_s: float) -> None:
    settings = TurnSettings(soft_end_s=soft_s, endpoint_s=usual_s)
    assert silence_needed(text, "en", settings, finished) >= soft_s


def test_thresholds_that_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="unfinished_below"):
        TurnSettings(finished_above=0.3, unfinished_below=0.4)


# ---- in time: the voice ends at 2.0, the words are known at 2.25 -----------------------------------


def orders(words: str, *opinions: tuple[float, float], asr_s: float | None = 0.05) -> list[str]:
    scenario = Scenario((Sound(1.0, 2.0, words),), opinions=opinions, asr_s=asr_s).run(10.0)
    kinds = ("take", "prepare", "replan", "commit", "release")
    return [line for line in scenario.timeline() if line.split()[1] in kinds]


def test_what_sounds_finished_is_answered_sooner() -> None:
    assert orders(PLAIN, (0.08, 0.97)) == [
        "2.20 take 1",
        f"2.25 prepare #1 to 1 for 2.50: {PLAIN}",
        "2.28 replan #1 for 2.30",
        f"2.30 commit 1 at 2.00: {PLAIN}",
        "2.30 release #1",
    ]


def test_an_opinion_before_the_words_waits_for_them() -> None:
    assert orders(PLAIN, (0.02, 0.97)) == [
        "2.20 take 1",
        f"2.25 prepare #1 to 1 for 2.30: {PLAIN}",
        f"2.30 commit 1 at 2.00: {PLAIN}",
        "2.30 release #1",
    ]


def test_what_sounds_unfinished_is_given_time() -> None:
    assert orders(PLAIN, (0.1, 0.03)) == [
        "2.20 take 1",
        f"2.25 prepare #1 to 1 for 2.50: {PLAIN}",
        "2.30 replan #1 for 3.50",
        f"3.50 commit 1 at 2.00: {PLAIN}",
        "3.50 release #1",
    ]


def test_a_late_opinion_may_still_end_the_turn_at_once() -> None:
    assert orders(PLAIN, (0.2, 0.97))[2:] == [
        "2.40 replan #1 for 2.40",
        f"2.40 commit 1 at 2.00: {PLAIN}",
        "2.40 release #1",
    ]


@pytest.mark.parametrize("opinion", [0.0, 1.0])
def test_an_opinion_after_the_end_changes_nothing(opinion: float) -> None:
    assert orders(PLAIN, (0.31, opinion)) == orders(PLAIN)


def test_without_an_opinion_the_words_decide() -> None:
    assert [orders(words)[-1] for words in (PLAIN, WHOLE, OPEN)] == [
        "2.50 release #1",
        "2.35 release #1",
        "3.20 release #1",
    ]


def test_a_sound_that_contradicts_complete_words_gets_the_usual_silence() -> None:
    assert orders(WHOLE, (0.1, 0.03))[2:] == [
        "2.30 replan #1 for 2.50",
        f"2.50 commit 1 at 2.00: {WHOLE}",
        "2.50 release #1",
    ]


def test_a_sound_that_contradicts_open_words_does_not_cut_them_off() -> None:
    assert orders(OPEN, (0.1, 0.99)) == orders(OPEN)


def test_an_undecided_opinion_moves_nothing() -> None:
    assert orders(PLAIN, (0.1, 0.5)) == orders(PLAIN)


@pytest.mark.parametrize("opinion", [0.0, 1.0])
def test_no_opinion_replaces_words_that_never_come(opinion: float) -> None:
    assert orders(PLAIN, (0.1, opinion), asr_s=None) == orders(PLAIN, asr_s=None)


def test_an_opinion_on_an_earlier_pause_is_worth_nothing() -> None:
    sounds = (Sound(1.0, 2.0, "what is the weather"), Sound(2.3, 3.0, "in paris"))
    late = Scenario(sounds, opinions=((1.05, 1.0),)).run(10.0)  # told in the second pause
    assert late.timeline() == Scenario(sounds).run(10.0).timeline()
    second = Scenario(sounds, opinions=((1.05, 0.0), (0.06, 1.0))).run(10.0)
    assert [line for line in second.timeline() if "commit" in line] == [
        "3.30 commit 1 at 3.00: what is the weather in paris"
    ]


def test_who_goes_on_during_the_patience_is_not_cut_off() -> None:
    sounds = (Sound(1.0, 2.0, "what is the weather"), Sound(3.2, 4.0, "in paris"))
    commits = [
        [line for line in Scenario(sounds, opinions=told).run(10.0).timeline() if "commit" in line]
        for told in ((), ((0.1, 0.02), (0.06, 0.98)))
    ]
    assert commits == [
        ["2.50 commit 1 at 2.00: what is the weather", "4.50 commit 2 at 4.00: in paris"],
        ["4.30 commit 1 at 4.00: what is the weather in paris"],
    ]


def test_an_opinion_while_the_voice_goes_on_is_ignored() -> None:
    taker = TurnTaker(S, "en", 0.0)
    taker.handle(VoiceStarted(1.0), 1.08)
    taker.handle(VoiceStopped(2.0), 2.1)
    taker.tick(2.2)
    taker.handle(VoiceStarted(2.25), 2.3)
    before = taker.deadline()
    assert taker.handle(EndJudged(1, 1, 1.0), 2.31) == []
    assert taker.deadline() == before
