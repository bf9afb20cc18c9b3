"""The timeline against a renderer's view of it: every sample, through pauses, cuts, underruns and stalls."""

import random
from collections.abc import Iterable

import numpy as np
import pytest

from server.core.errors import StageError
from server.core.media import MEDIA_RATE, PACKET_SAMPLES, Clause, Phone, Samples, Speech, Word
from server.core.timeline import FADE_IN_SAMPLES, SILENCE, Placed, Timeline, TimelineStatistics

LEAD = 2 * PACKET_SAMPLES
MS = MEDIA_RATE // 1000
_PERIOD = 32_749  # prime: a sample's value tells its place


def marked(start: int, samples: int) -> bytes:
    """Voice whose every sample is loud enough to be seen and tells its place."""
    return ((np.arange(start, start + samples) * 7919 % _PERIOD) + 10).astype("<i2").tobytes()


def clause(raw: str = "Hello there. ", index: int = 0, language: str = "en") -> Clause:
    return Clause(index, raw.strip(), raw, language)


def speech(
    start: int,
    samples: int,
    of: Clause | None = None,
    *,
    last: bool = True,
    words: Iterable[Word] = (),
    phones: Iterable[Phone] = (),
    note: str = "",
) -> Speech:
    pcm = marked(start, samples)
    return Speech(of or clause(), pcm, MEDIA_RATE, phones=tuple(phones), words=tuple(words), last=last, note=note)


def at(samples: int) -> Samples:
    return Samples(samples)


def read(timeline: Timeline, start: int, end: int) -> bytes:
    """All packets of [start, end), each at its due time."""
    return b"".join(timeline.read(at(t)) for t in range(start, end, PACKET_SAMPLES))


def playing(samples: int = MEDIA_RATE, **settings: int) -> tuple[Timeline, int]:
    """A timeline with one reply from media time 0 on, and when it is heard."""
    timeline = Timeline(**settings)
    timeline.begin(1)
    place = timeline.append(speech(0, samples), at(0))
    assert place is not None
    return timeline, place


# ---- placing and reading ---------------------------------------------------------------------------------


def test_silence_when_nobody_speaks() -> None:
    timeline = Timeline()
    assert timeline.read(at(0)) == SILENCE
    assert len(SILENCE) == 2 * PACKET_SAMPLES
    assert timeline.generation == 0
    assert not timeline.playing(at(0))
    assert not timeline.drained(at(0))


@pytest.mark.parametrize("samples", [1, 959, 960, 961, 12_345])
@pytest.mark.parametrize("now", [0, 1, 500, 960])
def test_voice_is_heard_at_its_place_and_unchanged(samples: int, now: int) -> None:
    timeline = Timeline(lead_samples=LEAD)
    timeline.begin(7)
    place = timeline.append(speech(0, samples), at(now))
    assert place == now + LEAD
    heard = read(timeline, 0, 40 * PACKET_SAMPLES)
    assert heard == bytes(2 * place) + marked(0, samples) + bytes(2 * (40 * PACKET_SAMPLES - place - samples))


def test_pieces_join_without_a_seam() -> None:
    timeline, place = playing(1000)
    assert timeline.append(speech(1000, 777), at(0)) == place + 1000
    assert timeline.append(speech(1777, 2000), at(960)) == place + 1777
    heard = read(timeline, 0, 10 * PACKET_SAMPLES)
    assert heard[2 * place : 2 * (place + 3777)] == marked(0, 3777)
    assert timeline.statistics == TimelineStatistics()


def test_underrun_shifts_what_follows_and_is_counted() -> None:
    timeline, place = playing(960)
    read(timeline, 0, 9600)
    assert timeline.append(speech(960, 960), at(9500)) == 9500 + LEAD
    assert timeline.statistics.underruns == 1
    assert timeline.statistics.underrun_samples == 9500 + LEAD - (place + 960)
    heard = read(timeline, 9600, 19200)
    start = 2 * (9500 + LEAD - 9600)
    assert heard[start : start + 1920] == marked(960, 960)


def test_a_piece_that_comes_before_the_end_is_read_is_no_underrun() -> None:
    timeline, place = playing(960)
    read(timeline, 0, place + 960)  # the next packet is the one behind the voice
    assert timeline.append(speech(960, 960), at(place + 960)) == place + 960
    assert timeline.read(at(place + 960)) == marked(960, 960)
    assert timeline.statistics.underruns == 0


def test_a_piece_is_never_placed_where_packets_have_gone() -> None:
    timeline, place = playing(500)
    read(timeline, 0, place + 960)
    # its end is 500 samples into a packet that is gone, though `now` has not reached it
    assert timeline.append(speech(500, 960), at(place + 400)) == place + 400 + LEAD
    assert timeline.statistics.underruns == 1


def test_skipped_packets_do_not_shift_the_rest() -> None:
    timeline, place = playing(MEDIA_RATE)
    read(timeline, 0, place + 960)
    assert timeline.read(at(place + 9600)) == marked(9600, 960)
    assert timeline.statistics.skipped_samples == 9600 - 960
    assert timeline.read(at(place + 10560)) == marked(10560, 960)


def test_a_stall_over_several_pieces_and_the_end() -> None:
    timeline, place = playing(1000)
    for start in range(1000, 5000, 1000):
        timeline.append(speech(start, 1000), at(0))
    timeline.finish(1)
    assert timeline.read(at(place - 960)) == SILENCE
    assert timeline.read(at(place + 2880)) == marked(2880, 960)
    assert timeline.statistics.skipped_samples == 2880
    assert timeline.read(at(place + 48000)) == SILENCE
    assert timeline.statistics.skipped_samples == 2880 + 1160
    assert timeline.drained(at(place + 48000))


def test_packets_are_read_in_order() -> None:
    timeline = Timeline()
    timeline.read(at(960))
    with pytest.raises(ValueError, match="960"):
        timeline.read(at(960))


def test_another_rate_is_refused() -> None:
    timeline = Timeline()
    timeline.begin(1)
    with pytest.raises(AssertionError):
        timeline.append(Speech(clause(), b"\0\0", 16_000), at(0))


def test_voice_without_a_reply_has_nowhere_to_go() -> None:
    timeline = Timeline()
    with pytest.raises(StageError):
        timeline.append(speech(0, 960), at(0))
    timeline.begin(1)
    timeline.cut(at(0))
    with pytest.raises(StageError):
        timeline.append(speech(0, 960), at(0))
    timeline.begin(2)
    timeline.finish(1)  # late word of the reply before: nothing happens
    timeline.append(speech(0, 960), at(0))
    timeline.finish(2)
    with pytest.raises(StageError):
        timeline.append(speech(960, 960), at(0))


def test_the_queue_is_bounded() -> None:
    timeline = Timeline(limit_samples=3 * MEDIA_RATE)
    timeline.begin(1)
    for start in range(3):
        timeline.append(speech(start * MEDIA_RATE, MEDIA_RATE), at(0))
    with pytest.raises(StageError) as refused:
        timeline.append(speech(3 * MEDIA_RATE, 1), at(0))
    assert refused.value.code == "reply_too_long"
    read(timeline, 0, LEAD + 960)
    timeline.append(speech(3 * MEDIA_RATE, 960), at(LEAD + 960))


# ---- state -----------------------------------------------------------------------------------------------


def test_state_through_a_reply() -> None:
    timeline = Timeline(lead_samples=LEAD)
    timeline.begin(3)
    assert (timeline.generation, timeline.started, timeline.finished) == (3, False, False)
    timeline.append(speech(0, 2400), at(0))
    assert timeline.queued(at(0)) == 2400
    assert not timeline.playing(at(0))  # nothing of it has sounded
    read(timeline, 0, LEAD)
    assert not timeline.started
    timeline.read(at(LEAD))
    assert timeline.started
    assert timeline.playing(at(LEAD))
    assert timeline.queued(at(LEAD)) == 2400 - 960
    assert not timeline.drained(at(LEAD))
    read(timeline, LEAD + 960, LEAD + 2880)
    assert timeline.queued(at(LEAD + 1920)) == 0
    assert timeline.playing(at(LEAD + 2000))
    assert not timeline.playing(at(LEAD + 2400))  # an underrun
    assert not timeline.drained(at(LEAD + 2400))
    timeline.finish(3)
    assert timeline.drained(at(LEAD + 2400))
    assert timeline.generation == 3
    assert timeline.heard(at(LEAD + 2400)).complete


def test_an_empty_reply_is_drained_at_once() -> None:
    timeline = Timeline()
    timeline.begin(1)
    assert not timeline.drained(at(0))
    timeline.finish(1)
    assert timeline.drained(at(0))
    assert not timeline.started


def test_a_reply_that_nobody_reads_is_drained_in_the_end() -> None:
    timeline, place = playing(MEDIA_RATE)
    timeline.finish(1)
    assert not timeline.drained(at(place + MEDIA_RATE))
    assert timeline.queued(at(place + MEDIA_RATE)) == 0
    assert timeline.drained(at(place + 3 * MEDIA_RATE))
    assert not timeline.heard(at(place + 3 * MEDIA_RATE)).complete


# ---- held replies ----------------------------------------------------------------------------------------


def held(planned: int, pieces: int = 2) -> Timeline:
    timeline = Timeline(lead_samples=LEAD, margin_samples=960)
    timeline.hold(5, at(planned))
    for i in range(pieces):
        assert timeline.append(speech(i * 1000, 1000), at(100 * i)) == planned + i * 1000
    return timeline


def test_held_voice_is_not_read() -> None:
    timeline = held(1920)
    assert read(timeline, 0, 9600) == bytes(2 * 9600)
    assert timeline.queued(at(9600)) == 2000
    assert timeline.held
    assert not timeline.drained(at(9600))
    assert timeline.statistics.skipped_samples == 0


def test_release_in_time_keeps_the_plan() -> None:
    timeline = held(9600)
    read(timeline, 0, 4800)
    assert timeline.release(at(4800)) == []
    assert timeline.append(speech(2000, 1000), at(4800)) == 9600 + 2000
    assert read(timeline, 4800, 13440)[2 * 4800 : 2 * 7800] == marked(0, 3000)


@pytest.mark.parametrize("now", [9600 - 959, 9600, 20_000])
def test_late_release_moves_everything(now: int) -> None:
    timeline = held(9600)
    due = -(-now // 960) * 960
    read(timeline, 0, due)
    placed = timeline.release(at(now))
    assert [p.at for p in placed] == [now + LEAD, now + LEAD + 1000]
    assert b"".join(p.speech.pcm for p in placed) == marked(0, 2000)
    assert timeline.append(speech(2000, 1000), at(now)) == now + LEAD + 2000
    heard = read(timeline, due, due + 9600)
    start = 2 * (now + LEAD - due)
    assert heard[:start] == bytes(start)
    assert heard[start : start + 6000] == marked(0, 3000)
    assert timeline.statistics == TimelineStatistics()


def test_release_before_the_first_voice() -> None:
    timeline = held(9600, pieces=0)
    assert timeline.release(at(9000)) == []
    assert timeline.append(speech(0, 1000), at(30_000)) == 30_000 + LEAD
    assert timeline.statistics.underruns == 0
    assert timeline.release(at(31_000)) == []


def test_drop_leaves_no_trace() -> None:
    timeline = held(1920)
    timeline.drop()
    assert timeline.generation == 0
    assert read(timeline, 0, 9600) == bytes(2 * 9600)
    assert timeline.heard(at(9600)).text == ""
    assert timeline.cut(at(9600)).text == ""
    timeline.begin(6)
    assert timeline.append(speech(0, 960), at(9600)) == 9600 + LEAD


# ---- pause, resume, cut ----------------------------------------------------------------------------------


def loudness(pcm: bytes, start: int) -> np.ndarray:
    """Gain of each sample against the marked voice from `start` on."""
    voice = np.frombuffer(marked(start, len(pcm) // 2), dtype="<i2").astype(float)
    return np.frombuffer(pcm, dtype="<i2") / voice


def test_pause_fades_one_packet_and_resume_repeats_it() -> None:
    timeline, place = playing(MEDIA_RATE)
    read(timeline, 0, place + 4800)
    silent = timeline.pause(at(place + 4000))
    assert silent == place + 4800 + 960
    assert timeline.paused
    assert timeline.pause(at(place + 4100)) == silent  # once is enough
    assert not timeline.playing(at(place + 4100))
    faded = loudness(timeline.read(at(place + 4800)), 4800)
    assert faded[0] > 0.99
    assert abs(faded[-1]) < 0.01
    coarse = faded.reshape(-1, 96).mean(axis=1)
    assert (np.diff(coarse) < 0).all()
    assert read(timeline, place + 5760, place + 9600) == bytes(2 * (9600 - 5760))
    assert timeline.queued(at(place + 9600)) == MEDIA_RATE - 4800

    placed = timeline.resume(at(place + 9600))
    assert [p.at for p in placed] == [place + 9600 + LEAD]
    assert placed[0].speech.pcm == marked(4800, MEDIA_RATE - 4800)
    heard = read(timeline, place + 9600, place + 9600 + LEAD + MEDIA_RATE)
    voice = heard[2 * LEAD : 2 * (LEAD + MEDIA_RATE - 4800)]
    gain = loudness(voice[: 2 * FADE_IN_SAMPLES], 4800)
    assert gain[0] == 0
    assert gain[-1] > 0.99
    assert (np.diff(gain.reshape(-1, 24).mean(axis=1)) > 0).all()
    assert voice[2 * FADE_IN_SAMPLES :] == marked(4800, MEDIA_RATE - 4800)[2 * FADE_IN_SAMPLES :]
    assert timeline.statistics == TimelineStatistics()


def test_resume_moves_phones_and_words_along() -> None:
    timeline = Timeline()
    timeline.begin(1)
    timeline.append(speech(0, 960), at(0))
    second = speech(
        960,
        4800,
        clause("Two words", 1),
        phones=[Phone("t", "DD", 0, 1000), Phone("u", "ou", 1000, 4800)],
        words=[Word(0, 3, 0, 2000), Word(4, 9, 2000, 4800)],
    )
    timeline.append(second, at(0))
    read(timeline, 0, LEAD + 2 * 960)
    timeline.pause(at(LEAD + 960))
    placed = timeline.resume(at(LEAD + 960))
    assert [p.speech.clause.index for p in placed] == [1]
    assert placed[0].speech.phones == (Phone("t", "DD", -960, 40), Phone("u", "ou", 40, 3840))
    assert placed[0].speech.words == (Word(0, 3, -960, 1040), Word(4, 9, 1040, 3840))


def test_resume_before_the_fade_was_read() -> None:
    timeline, place = playing(MEDIA_RATE, lead_samples=0)
    read(timeline, 0, place + 960)
    silent = timeline.pause(at(place + 500))
    placed = timeline.resume(at(place + 501))
    assert placed[0].at == silent  # not over the fade
    assert loudness(timeline.read(at(place + 960)), 960)[-1] < 0.01
    voice = timeline.read(at(silent))
    assert voice[2 * FADE_IN_SAMPLES :] == marked(960, 960)[2 * FADE_IN_SAMPLES :]


def test_pause_before_the_first_sample_needs_no_fade_and_resume_none_either() -> None:
    timeline, place = playing(4800)
    timeline.read(at(0))
    assert timeline.pause(at(100)) == 960
    assert read(timeline, 960, 9600) == bytes(2 * (9600 - 960))
    assert [p.at for p in timeline.resume(at(9600))] == [9600 + LEAD]
    assert read(timeline, 9600, 9600 + LEAD + 4800)[2 * LEAD :] == marked(0, 4800)
    assert place == LEAD


def test_pause_in_the_packet_before_the_first_sample() -> None:
    timeline, place = playing(4800)
    read(timeline, 0, place)
    assert timeline.pause(at(place - 900)) == place
    assert timeline.read(at(place)) == SILENCE
    assert timeline.resume(at(place))[0].at == place + LEAD
    assert read(timeline, place + 960, place + LEAD + 960)[-1920:] == marked(0, 960)


def test_pause_with_no_packet_read_yet_is_on_the_grid() -> None:
    timeline, _ = playing(4800)
    assert timeline.pause(at(961)) == 1920


def test_voice_that_comes_during_a_pause_waits_behind_the_rest() -> None:
    timeline, place = playing(4800)
    read(timeline, 0, place + 960)
    timeline.pause(at(place))
    assert timeline.append(speech(4800, 1000), at(place + 960)) is None
    timeline.finish(1)
    read(timeline, place + 960, 96_000)
    assert not timeline.drained(at(96_000 + MEDIA_RATE))
    placed = timeline.resume(at(96_000))
    assert b"".join(p.speech.pcm for p in placed) == marked(960, 4840)
    assert [p.at for p in placed] == [96_000 + LEAD, 96_000 + LEAD + 3840]
    heard = read(timeline, 96_000, 96_000 + LEAD + 5760)[2 * LEAD :]
    assert heard[2 * FADE_IN_SAMPLES : 2 * 4840] == marked(960, 4840)[2 * FADE_IN_SAMPLES :]
    assert timeline.drained(at(96_000 + LEAD + 5760))


def test_pause_when_the_voice_has_run_dry() -> None:
    timeline, place = playing(960)
    read(timeline, 0, place + 1920)
    assert timeline.pause(at(place + 1900)) == place + 1920
    assert timeline.read(at(place + 1920)) == SILENCE
    assert timeline.resume(at(place + 2880)) == []
    assert timeline.append(speech(960, 960), at(place + 2900)) == place + 2880 + LEAD


def test_a_stall_during_a_pause_loses_nothing() -> None:
    timeline, place = playing(MEDIA_RATE)
    read(timeline, 0, place + 960)
    timeline.pause(at(place + 960))
    assert loudness(timeline.read(at(place + 48_000)), 960)[0] > 0.99  # the fade comes late, but comes
    placed = timeline.resume(at(place + 48_000))
    assert placed[0].speech.pcm == marked(960, MEDIA_RATE - 960)
    assert timeline.statistics.skipped_samples == 0


def test_the_fade_never_covers_voice_after_a_stall() -> None:
    timeline, place = playing(MEDIA_RATE)
    read(timeline, 0, place + 960)
    timeline.pause(at(place + 960))
    resumed = timeline.resume(at(place + 1000))[0].at
    packet = timeline.read(at(resumed + 1920))
    assert packet == marked(960 + 1920, 960)
    assert timeline.read(at(resumed + 2880)) == marked(960 + 2880, 960)


def test_cut_fades_and_drops() -> None:
    timeline, place = playing(MEDIA_RATE)
    read(timeline, 0, place + 4800)
    heard = timeline.cut(at(place + 4000))
    assert heard.generation == 1
    assert heard.audio_ms == 100
    assert not heard.complete
    assert timeline.silent_from == place + 5760
    assert timeline.generation == 0
    assert timeline.cut(at(place + 4100)) == heard
    assert timeline.heard(at(place + 9999)) == heard
    assert loudness(timeline.read(at(place + 4800)), 4800)[0] > 0.99
    assert read(timeline, place + 5760, place + 96_000) == bytes(2 * (96_000 - 5760))


def test_cut_while_paused_does_not_sound_again() -> None:
    timeline, place = playing(MEDIA_RATE)
    read(timeline, 0, place + 4800)
    timeline.pause(at(place + 4000))
    read(timeline, place + 4800, place + 9600)
    assert timeline.cut(at(place + 9600)).audio_ms == 100
    assert timeline.read(at(place + 9600)) == SILENCE


def test_cut_right_after_a_pause_keeps_its_fade() -> None:
    timeline, place = playing(MEDIA_RATE)
    read(timeline, 0, place + 4800)
    timeline.pause(at(place + 4000))
    assert timeline.cut(at(place + 4010)).audio_ms == 100
    assert timeline.silent_from == place + 5760
    assert loudness(timeline.read(at(place + 4800)), 4800)[0] > 0.99


def test_a_new_reply_does_not_overlap_the_fade_of_the_old() -> None:
    timeline, place = playing(MEDIA_RATE, lead_samples=0)
    read(timeline, 0, place + 960)
    timeline.begin(2)  # without a cut
    assert timeline.generation == 2
    assert timeline.append(speech(0, 960), at(place + 100)) == place + 1920
    assert loudness(timeline.read(at(place + 960)), 960)[0] > 0.99
    assert timeline.read(at(place + 1920)) == marked(0, 960)  # no fade-in at a reply's start


def test_pause_without_a_reply_is_harmless() -> None:
    timeline = Timeline()
    timeline.read(at(960))
    assert timeline.pause(at(1000)) == 1920
    assert not timeline.paused
    assert timeline.resume(at(1000)) == []
    assert timeline.cut(at(1000)).generation == 0


# ---- what was heard --------------------------------------------------------------------------------------

ENGLISH = "Hello, my friend. "  # words at 0-5, 7-9, 10-16
WORDS = (Word(0, 5, 4800, 14_400), Word(7, 9, 14_400, 19_200), Word(10, 16, 19_200, 38_400))


def heard_after(timeline: Timeline, place: int, samples: int) -> str:
    return timeline.heard(at(place + samples)).text


def test_heard_by_words() -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, MEDIA_RATE, clause(ENGLISH), words=WORDS), at(0))
    assert place is not None
    timeline.finish(1)
    read(timeline, 0, place + 2 * MEDIA_RATE)
    told = {samples: heard_after(timeline, place, samples) for samples in range(0, MEDIA_RATE + 1, 100)}
    assert told[0] == ""
    assert told[9500] == ""
    assert told[9600] == "Hello"  # half of the word
    assert told[16_700] == "Hello"
    assert told[16_800] == "Hello, my"
    assert told[28_700] == "Hello, my"
    assert told[28_800] == ENGLISH  # only the full stop is left
    assert not timeline.cut(at(0)).text.endswith("!")
    assert timeline.heard(at(0)).complete


def test_asking_earlier_takes_nothing_back() -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, MEDIA_RATE, clause(ENGLISH), words=WORDS), at(0))
    assert place is not None
    read(timeline, 0, place + MEDIA_RATE)
    assert heard_after(timeline, place, 17_000) == "Hello, my"
    assert heard_after(timeline, place, 10_000) == "Hello, my"
    assert timeline.heard(at(place)).audio_ms == 17_000 // MS


@pytest.mark.parametrize(
    ("raw", "language", "steps"),
    [
        ("One two three four. ", "en", ["One", "One two", "One two three", "One two three four."]),
        ("你好，世界。", "zh", ["你", "你好，", "你好，世"]),
        ("我用Python写字。", "zh", ["我", "我用", "我用Python", "我用Python写"]),
        ("1 000 000", "en", ["1", "1 000"]),
    ],
)
def test_heard_in_proportion_snaps_to_units(raw: str, language: str, steps: list[str]) -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, MEDIA_RATE, clause(raw, language=language)), at(0))
    assert place is not None
    timeline.finish(1)
    read(timeline, 0, place + 2 * MEDIA_RATE)
    told = [heard_after(timeline, place, samples) for samples in range(0, MEDIA_RATE + 1, 480)]
    assert list(dict.fromkeys(text for text in told if text not in ("", raw))) == steps
    assert told[0] == ""
    assert told[-1] == raw


@pytest.mark.parametrize("blanks", ["", "  \n  "])
def test_half_of_a_word_is_enough(blanks: str) -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, 9000, clause(f"{blanks}aaaa bbbb")), at(0))
    assert place is not None
    read(timeline, 0, place + 9000)
    steps = {samples: heard_after(timeline, place, samples) for samples in (1999, 2000, 6999, 7000)}
    assert steps == {1999: "", 2000: f"{blanks}aaaa", 6999: f"{blanks}aaaa", 7000: f"{blanks}aaaa bbbb"}


def test_a_clause_without_sound_is_heard_with_what_follows() -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, 0, clause("😀 ", 0)), at(0))
    timeline.append(speech(0, 9600, clause("One. ", 1)), at(0))
    timeline.append(speech(9600, 0, clause("🙂 ", 2)), at(0))
    timeline.append(speech(9600, 9600, clause("Two.", 3)), at(0))
    timeline.append(speech(19_200, 0, clause(" 👋", 4)), at(0))
    assert place is not None
    read(timeline, 0, place + 19_200)
    assert heard_after(timeline, place, 0) == ""
    assert heard_after(timeline, place, 1) == "😀 "
    assert heard_after(timeline, place, 9600) == "😀 One. "
    assert heard_after(timeline, place, 9601) == "😀 One. 🙂 "
    assert heard_after(timeline, place, 19_200) == "😀 One. 🙂 Two."
    timeline.finish(1)
    assert heard_after(timeline, place, 19_200) == "😀 One. 🙂 Two. 👋"


def test_a_clause_ends_at_the_latest_where_the_next_begins() -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, 9600, clause("one two three four. "), last=False), at(0))
    timeline.append(speech(9600, 9600, clause("five.", 1)), at(0))
    assert place is not None
    read(timeline, 0, place + 19_200)
    assert heard_after(timeline, place, 9600) == "one two three four. "
    assert heard_after(timeline, place, 19_200) == "one two three four. five."


def test_the_full_stop_waits_until_no_more_can_come() -> None:
    timeline = Timeline()
    timeline.begin(1)
    one = clause("Hi.")
    place = timeline.append(speech(0, 9600, one, last=False, words=[Word(0, 2, 0, 4800)]), at(0))
    assert place is not None
    read(timeline, 0, place + 9600)
    assert heard_after(timeline, place, 9600) == "Hi"
    timeline.append(speech(9600, 9600, one), at(place + 9600))
    assert heard_after(timeline, place, 9600) == "Hi."


def test_a_voice_that_broke_off_did_not_say_it_all() -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, 9600, clause("one two three four five six"), last=False), at(0))
    timeline.finish(1)
    assert place is not None
    read(timeline, 0, place + 9600)
    assert timeline.drained(at(place + 9600))
    heard = timeline.heard(at(place + 9600))
    assert not heard.complete
    assert heard.text in ("", "one")


def test_heard_across_clauses_is_a_prefix_and_only_grows() -> None:
    raws = ["Well. ", "那么，", "we *begin* here ", "😀 ", "and end."]
    timeline = Timeline()
    timeline.begin(1)
    start = 0
    for index, raw in enumerate(raws):
        samples = 0 if raw == "😀 " else 20_000
        timeline.append(speech(start, samples, clause(raw, index)), at(0))
        start += samples
    timeline.finish(1)
    whole, before = "".join(raws), ""
    for t in range(0, LEAD + start + 960, 960):
        timeline.read(at(t))
        heard = timeline.heard(at(t + 960))
        assert whole.startswith(heard.text)
        assert len(heard.text) >= len(before)
        assert heard.audio_ms == max(0, min(t + 960 - LEAD, start)) // MS
        before = heard.text
    assert before == whole
    assert timeline.heard(at(10**6)).complete


def test_a_clause_in_parts() -> None:
    timeline = Timeline()
    timeline.begin(1)
    one = clause("alpha beta gamma delta")
    place = timeline.append(speech(0, 9600, one, last=False, words=[Word(0, 5, 0, 9600)]), at(0))
    assert place is not None
    timeline.append(speech(9600, 9600, one, last=False, words=[Word(6, 10, 0, 9600)]), at(0))
    timeline.append(speech(19_200, 9600, one, last=False, words=[Word(11, 16, 0, 9600)]), at(0))
    read(timeline, 0, place + 28_800)
    assert heard_after(timeline, place, 14_399) == "alpha"
    assert heard_after(timeline, place, 14_400) == "alpha beta"
    assert heard_after(timeline, place, 28_800) == "alpha beta gamma"
    timeline.append(speech(28_800, 0, one, last=True), at(place + 28_800))
    assert heard_after(timeline, place, 28_800) == "alpha beta gamma delta"
    timeline.append(speech(28_800, 960, clause(" omega", 1)), at(place + 28_800))
    timeline.finish(1)
    read(timeline, place + 28_800, place + 29_760)
    assert timeline.heard(at(place + 29_760)).text == "alpha beta gamma delta omega"
    assert timeline.heard(at(place + 29_760)).complete


def test_parts_without_timings_do_not_claim_what_was_not_made() -> None:
    timeline = Timeline()
    timeline.begin(1)
    one = clause("one two three four five six seven eight nine ten")
    place = timeline.append(speech(0, MEDIA_RATE, one, last=False), at(0))
    assert place is not None
    read(timeline, 0, place + MEDIA_RATE)
    early = heard_after(timeline, place, MEDIA_RATE)
    assert one.raw.startswith(early)
    assert 1 <= len(early.split()) <= 4
    timeline.append(speech(MEDIA_RATE, 2 * MEDIA_RATE, one, last=True), at(place + MEDIA_RATE))
    assert heard_after(timeline, place, MEDIA_RATE).startswith(early)


def test_heard_after_pause_and_resume() -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, MEDIA_RATE, clause(ENGLISH), words=WORDS), at(0))
    assert place is not None
    timeline.finish(1)
    read(timeline, 0, place + 9600)
    timeline.pause(at(place + 9600))
    read(timeline, place + 9600, place + 48_000)
    assert heard_after(timeline, place, 48_000) == "Hello"
    assert timeline.heard(at(place + 48_000)).audio_ms == 200  # the faded packet does not count
    resumed = timeline.resume(at(place + 48_000))[0].at
    read(timeline, place + 48_000, resumed + MEDIA_RATE)
    assert timeline.heard(at(resumed)).text == "Hello"
    assert timeline.heard(at(resumed + 7199)).text == "Hello"
    assert timeline.heard(at(resumed + 7200)).text == "Hello, my"
    assert timeline.heard(at(resumed + MEDIA_RATE)).complete


def test_playout_delay_is_subtracted() -> None:
    timeline, place = playing(MEDIA_RATE, playout_ms=100)
    read(timeline, 0, place + 9600)
    assert timeline.heard(at(place + 4800)).audio_ms == 0
    assert timeline.heard(at(place + 7200)).audio_ms == 50
    assert timeline.cut(at(place + 9000)).audio_ms == 100


def test_playout_delay_over_a_pause() -> None:
    timeline, place = playing(MEDIA_RATE, playout_ms=100)
    read(timeline, 0, place + 9600)
    timeline.pause(at(place + 9600))
    read(timeline, place + 9600, place + 48_000)
    resumed = timeline.resume(at(place + 48_000))[0].at
    read(timeline, place + 48_000, resumed + 9600)
    assert timeline.heard(at(resumed + 2400)).audio_ms == 200
    assert timeline.heard(at(resumed + 4800 + 480)).audio_ms == 210


def test_what_was_skipped_at_the_end_was_not_heard() -> None:
    timeline, place = playing(MEDIA_RATE)
    timeline.finish(1)
    read(timeline, 0, place + 9600)
    timeline.read(at(place + 2 * MEDIA_RATE))
    heard = timeline.heard(at(place + 3 * MEDIA_RATE))
    assert heard.audio_ms == 200
    assert not heard.complete


def test_the_note_comes_with_its_clause() -> None:
    timeline = Timeline()
    timeline.begin(1)
    place = timeline.append(speech(0, 4800, clause("Plain. ", 0)), at(0))
    timeline.append(speech(4800, 4800, clause("Spare. ", 1), note="a spare voice is speaking"), at(0))
    assert place is not None
    read(timeline, 0, place + 9600)
    assert timeline.heard(at(place + 4800)).note == ""
    assert timeline.heard(at(place + 4900)).note == "a spare voice is speaking"


def test_a_spare_voice_that_starts_the_clause_again_does_not_double_its_text() -> None:
    timeline = Timeline()
    timeline.begin(1)
    timeline.append(speech(0, 960, clause("Again. ", 0)), at(0))
    timeline.append(speech(960, 960, clause("Again. ", 0)), at(0))
    timeline.append(speech(1920, 960, clause("Next.", 1)), at(0))
    timeline.finish(1)
    read(timeline, 0, 9600)
    assert timeline.heard(at(9600)).text == "Again. Next."
    assert timeline.heard(at(9600)).complete


def test_memory_stays_bounded_though_nobody_asks() -> None:
    timeline = Timeline()
    timeline.begin(1)
    now = 0
    for index in range(2000):
        timeline.append(speech(index * 4800, 4800, clause("word ", index)), at(now))
        read(timeline, now, now + 4800)
        now += 4800
        if index % 7 == 0:  # breaks the voice, so that spans come about
            timeline.pause(at(now))
            timeline.resume(at(now))
    reply = timeline._reply
    assert reply is not None
    assert len(reply.pieces) < 400
    assert len(reply.spans) < 20
    assert len(reply.text._clauses) < 400


# ---- hours ------------------------------------------------------------------------------------------------

SLOT = 40 * MEDIA_RATE
"""media time for each reply of the long trial"""


class RenderersView:
    """What the renderer was told: voice pushed to media times, and cuts. Slow and clear; it judges the packets."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.voice = np.zeros(SLOT, dtype="<i2")
        self.places = np.full(SLOT, -1, dtype=np.int32)
        self.end = 0

    def push(self, piece: Speech, at: int, place: int) -> None:
        there = slice(at - self.base, at - self.base + piece.samples)
        assert (self.places[there] == -1).all(), "two pieces at one time"
        self.voice[there] = np.frombuffer(piece.pcm, dtype="<i2")
        self.places[there] = np.arange(place, place + piece.samples)
        self.end = max(self.end, there.stop)

    def cut(self, at: int) -> None:
        self.voice[at - self.base : self.end] = 0
        self.places[at - self.base : self.end] = -1

    def left_out(self, start: int, end: int) -> int:
        """Samples of voice in packets that nobody read."""
        return int(np.count_nonzero(self.places[start - self.base : end - self.base] >= 0))

    def packet(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        there = slice(at - self.base, at - self.base + PACKET_SAMPLES)
        return self.voice[there], self.places[there]


class Trial:
    """One reply with random production, pauses, stalls and end; every packet is judged."""

    def __init__(self, timeline: Timeline, generation: int, start: int, rng: random.Random) -> None:
        self.timeline = timeline
        self.generation = generation
        self.rng = rng
        self.now = start
        self.due = start
        """media time of the packet to be read next"""
        self.gone = start
        """media time behind the last packet read"""
        self.view = RenderersView(start)
        self.made = 0
        self.place = 0
        """the place to be heard next"""
        self.heard = 0
        """the place behind the last one heard"""
        self.skipped = 0
        self.skipped_before = timeline.statistics.skipped_samples
        self.fading = False
        self.ramp = -FADE_IN_SAMPLES
        """the place at which the latest fade began"""
        self.raws: list[str] = []
        self.open = False
        self.text = ""
        self.fades = 0
        self.packets = 0

    def run(self) -> str:
        """Returns how it ended."""
        rng, timeline = self.rng, self.timeline
        timeline.read(at(self.due))  # the packet before: the grid is known
        self.gone = self.due = self.due + PACKET_SAMPLES
        if rng.random() < 0.4:
            timeline.hold(self.generation, at(self.now + rng.randrange(0, 40_000)))
        else:
            timeline.begin(self.generation)
        hunger = rng.choice([0.01, 0.05, 0.3])  # pieces per packet: from many underruns to none
        ending = rng.choice(["cut", "cut", "drain"])
        for _ in range(rng.randrange(0, 400)):
            if rng.random() < hunger and self.made - self.place < 3 * MEDIA_RATE:
                self.produce(last=rng.random() < 0.5)
            if timeline.held and rng.random() < 0.05:
                if rng.random() < 0.2:
                    timeline.drop()
                    self.view.cut(self.gone)
                    self.step()
                    return "drop"
                self.release()
            if not timeline.held and not timeline.paused and rng.random() < 0.02:
                self.pause()
            elif timeline.paused and rng.random() < 0.1:
                self.resume()
            if rng.random() < 0.01:
                self.stall()
            self.step()
        self.release()
        return self.drain() if ending == "drain" else self.cut()

    def drain(self) -> str:
        timeline = self.timeline
        self.resume()
        self.produce(last=True)
        timeline.finish(self.generation)
        while not timeline.drained(at(self.now)):
            self.step()
        assert self.place == self.made
        assert timeline.statistics.skipped_samples - self.skipped_before == self.skipped
        heard = timeline.heard(at(self.now + PACKET_SAMPLES))
        assert heard.audio_ms == self.heard // MS
        assert heard.complete == (self.heard == self.made)
        assert not heard.complete or heard.text == "".join(self.raws)
        return "drain"

    def cut(self) -> str:
        paused = self.timeline.paused
        heard = self.timeline.cut(at(self.now))
        assert (heard.generation, heard.audio_ms, heard.complete) == (self.generation, self.heard // MS, False)
        assert heard.text.startswith(self.text)
        if not paused:
            self.stopped(self.timeline.silent_from)
        for _ in range(3):
            self.step()
        return "cut"

    def produce(self, last: bool) -> None:
        samples = self.rng.choice([0, 1, 100, 960, 4321, 48_000, self.rng.randrange(1, 70_000)])
        if not self.open:
            self.raws.append(f"one {len(self.raws)} two. ")
        piece = speech(self.made, samples, clause(self.raws[-1], len(self.raws)), last=last)
        self.open = not last
        place = self.timeline.append(piece, at(self.now))
        assert (place is None) == self.timeline.paused
        if place is not None and samples:
            assert place >= self.gone or self.timeline.held
            self.view.push(piece, place, self.made)
        self.made += samples

    def release(self) -> None:
        placed = self.timeline.release(at(self.now))
        if placed:
            self.view.cut(self.gone)
            self.placed_again(placed)

    def pause(self) -> None:
        self.stopped(self.timeline.pause(at(self.now)))

    def resume(self) -> None:
        self.placed_again(self.timeline.resume(at(self.now)))

    def stopped(self, silent: int) -> None:
        assert silent in (self.gone, self.gone + PACKET_SAMPLES)
        if silent > self.gone and not self.fading:
            self.fading = True
            self.fades += 1
            self.ramp = self.place
        self.view.cut(self.gone)

    def placed_again(self, placed: list[Placed]) -> None:
        """Everything not yet heard, and nothing else, comes again."""
        if not placed:
            return
        assert b"".join(p.speech.pcm for p in placed) == marked(self.place, self.made - self.place)
        place = self.place
        for p in placed:
            assert p.at >= self.gone + PACKET_SAMPLES * self.fading
            self.view.push(p.speech, p.at, place)
            place += p.speech.samples

    def stall(self) -> None:
        """The reader sleeps; then it catches up, or leaves out what is past."""
        packets = self.rng.randrange(1, 30)
        self.now += packets * PACKET_SAMPLES
        if self.rng.random() < 0.5:
            self.due += packets * PACKET_SAMPLES

    def step(self) -> None:
        self.now = max(self.now, self.due + self.rng.randrange(0, 900))
        packet = np.frombuffer(self.timeline.read(at(self.due)), dtype="<i2")
        self.packets += 1
        voice, places = self.view.packet(self.due)
        voiced = places >= 0
        if self.due > self.gone and not self.timeline.held:
            lost = self.view.left_out(self.gone, self.due)
            self.skipped += lost
            self.place += lost
        if self.timeline.held:
            assert not packet.any()
            voiced = voiced & False
        elif self.fading and not voiced.any():
            unfaded = np.frombuffer(marked(self.ramp, PACKET_SAMPLES), dtype="<i2")
            assert (packet >= 0).all()
            assert (packet <= unfaded).all()
            assert (packet[-10:] <= unfaded[-10:] / 100).all()
        else:
            ramp = (places >= self.ramp) & (places < self.ramp + FADE_IN_SAMPLES)
            assert (packet[~ramp] == voice[~ramp]).all()
            assert (packet[ramp] <= voice[ramp]).all()
        self.fading = False
        if voiced.any():
            heard = places[voiced]
            assert heard[0] == self.place
            assert (np.diff(heard) == 1).all()
            self.place = self.heard = int(heard[-1]) + 1
        self.due += PACKET_SAMPLES
        self.gone = self.due
        text = self.timeline.heard(at(self.now)).text
        assert text.startswith(self.text)
        self.text = text
        assert "".join(self.raws).startswith(text)


def trials(seed: int, lead: int, until: int) -> tuple[Timeline, dict[str, int], int]:
    """Replies until media time `until`: the timeline, how often each end came, and how many fades there were."""
    rng = random.Random(seed)
    timeline = Timeline(lead_samples=lead, margin_samples=960)
    ends = {"cut": 0, "drain": 0, "drop": 0}
    fades = generation = now = 0
    while now < until:
        generation += 1
        trial = Trial(timeline, generation, now, rng)
        ends[trial.run()] += 1
        fades += trial.fades
        assert trial.now < now + SLOT
        now += SLOT + rng.randrange(0, 10) * PACKET_SAMPLES
    return timeline, ends, fades


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lead", [0, 1234, LEAD])
def test_voice_is_heard_where_the_renderer_was_told(seed: int, lead: int) -> None:
    _, ends, _ = trials(seed, lead, 12 * SLOT)
    assert sum(ends.values()) >= 10


@pytest.mark.slow
@pytest.mark.timeout(400)  # 174000 packets, beside whatever else the machine does
def test_eight_hours_of_calls() -> None:
    """Exact to the sample through stalls, underruns, pauses and 500 cuts; nothing is lost unaccounted."""
    timeline, ends, fades = trials(2026, LEAD, 9 * 3600 * MEDIA_RATE)
    assert ends["cut"] >= 500
    assert ends["drain"] >= 100
    assert ends["drop"] >= 5
    assert fades >= 1000
    assert timeline.statistics.underruns >= 500
    assert timeline.statistics.skipped_samples > 0
