"""The opinion on how a turn sounds: it shortens or lengthens the silence after it, and does nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.endpointing import ended, looks_unfinished, normalise, silence_needed
from server.core.events import EndJudged, TakeProvisional, VoiceStarted, VoiceStopped
from server.core.sentence_ends import SHARES
from server.core.settings import TurnSettings
from server.core.turns import STRETCH_MIN_S, TurnTaker
from tests.core.scenario import Scenario, Sound

S = TurnSettings(guard_s=0.0)
PLAIN = "what is the weather in paris"  # neither finished nor unfinished
WHOLE = "what time is it"
OPEN = "i would like a coffee and"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(PLAIN, S.endpoint_s), (WHOLE, S.endpoint_min_s), (OPEN, S.endpoint_max_s), ("", S.endpoint_s)],
)
def test_without_an_opinion_the_words_choose(text: str, seconds: float) -> None:
    assert silence_needed(text, "en", S) == seconds


@pytest.mark.parametrize("opinion", [0.0, 1.0])
def test_sound_without_words_is_judged_by_silence_alone(opinion: float) -> None:
    assert silence_needed("", "en", S, opinion) == S.endpoint_s


@pytest.mark.parametrize(
    ("text", "finished", "over"),
    [
        (PLAIN, 0.5, 0.696),  # 12 * 0.16 / 0.84 = 2.286 to 1; the sound says nothing
        (PLAIN, 8 / 9, 0.820),  # ... times the cube root of 8
        (OPEN, 0.5, 0.197),  # 12 * 0.02 / 0.98
        (OPEN, 8 / 9, 0.329),
        (WHOLE, 0.5, 0.850),  # 12 * 0.32 / 0.68
        (WHOLE, 1 / 9, 0.738),
    ],
)
def test_words_and_sound_multiply_their_odds(text: str, finished: float, over: float) -> None:
    assert ended(text, "en", finished) == pytest.approx(over, abs=1e-3)


def test_between_the_two_silences_in_proportion() -> None:
    half = TurnSettings(finished_above=0.99, unfinished_below=2 * ended(PLAIN, "en", 0.5) - 0.99)
    assert silence_needed(PLAIN, "en", half, 0.5) == pytest.approx((S.endpoint_sure_s + S.endpoint_patient_s) / 2)
    assert silence_needed(WHOLE, "en", S, 0.99) == S.endpoint_sure_s
    assert silence_needed(OPEN, "en", S, 0.01) == S.endpoint_patient_s


@given(st.sampled_from([PLAIN, WHOLE, OPEN, "我想去北京但是", "你好"]), st.floats(0, 1), st.floats(0, 1))
def test_what_sounds_more_finished_never_waits_longer(text: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    for language in ("en", "zh", "de"):
        assert silence_needed(text, language, S, more) <= silence_needed(text, language, S, less)
        assert 0 < ended(text, language, less) < 1


def test_words_that_are_seldom_the_last_promise_more() -> None:
    for text in ("i think we should", "the doctor said you would", "these are their"):
        assert looks_unfinished(text, "en")
        assert not looks_unfinished(text, "de")
        assert silence_needed(text, "en", S, 0.5) > silence_needed("i think we agree", "en", S, 0.5)
    for text in ("come in", "yes i can", "what should i take", "no i haven't", "probably"):
        assert not looks_unfinished(text, "en")


def test_the_table_of_last_words_is_sound() -> None:
    assert len(SHARES) > 600
    assert set(SHARES.values()) == {0.01, 0.02, 0.04, 0.08, 0.32}
    assert all(normalise(word) == word for word in SHARES)
    assert SHARES["the"] < SHARES["about"] < SHARES["today"]


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
    assert orders(PLAIN, (0.1, 0.001)) == [
        "2.20 take 1",
        f"2.25 prepare #1 to 1 for 2.50: {PLAIN}",
        "2.30 replan #1 for 3.30",
        f"3.30 commit 1 at 2.00: {PLAIN}",
        "3.30 release #1",
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
        "3.10 release #1",
    ]


def test_a_sound_that_contradicts_the_words_moves_the_end_towards_the_middle() -> None:
    sure, patient = S.endpoint_sure_s, S.endpoint_patient_s
    assert sure < silence_needed(WHOLE, "en", S, 0.03) < S.endpoint_s
    assert S.endpoint_s < silence_needed(OPEN, "en", S, 0.99) < patient
    commit = orders(OPEN, (0.1, 0.99))[-2]
    assert commit == f"{2.0 + silence_needed(OPEN, 'en', S, 0.99):.2f} commit 1 at 2.00: {OPEN}"


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
    sounds = (Sound(1.0, 2.0, "what is the weather"), Sound(2.9, 4.0, "in paris"))
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


def asked_since(voices: list[tuple[float, float]]) -> list[float]:
    """Behind each of these voices: from when on the sound is judged."""
    taker, since = TurnTaker(S, "en", 0.0), []
    told = [event for on, off in voices for event in ((on, VoiceStarted(on)), (off, VoiceStopped(off)))]
    for at, event in told:
        orders = taker.handle(event, at)
        if isinstance(event, VoiceStopped):
            orders = taker.tick(at + S.soft_end_s)
            since += [order.since for order in orders if isinstance(order, TakeProvisional)]
    return since


def test_what_was_said_since_the_last_pause_is_judged() -> None:
    assert asked_since([(1.0, 2.0), (2.25, 3.0), (3.4, 4.0)]) == [1.0, 2.25, 3.4]


def test_a_pause_too_short_to_ask_in_divides_nothing() -> None:
    taker = TurnTaker(S, "en", 0.0)
    for event in (VoiceStarted(1.0), VoiceStopped(2.0), VoiceStarted(2.15), VoiceStopped(3.0)):
        taker.handle(event, event.at)
    assert [order.since for order in taker.tick(3.2) if isinstance(order, TakeProvisional)] == [1.0]


def test_a_single_word_behind_a_pause_is_judged_with_what_stood_before_it() -> None:
    enough = STRETCH_MIN_S - S.soft_end_s
    assert asked_since([(1.0, 2.0), (2.25, 2.25 + enough - 0.01)]) == [1.0, 1.0]
    assert asked_since([(1.0, 2.0), (2.25, 2.25 + enough + 0.01)]) == [1.0, 2.25]
