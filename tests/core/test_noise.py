"""A quick detector's word against a slower one's: noise is silenced after it, speech out of silence never."""

from server.core.media import MIC_FRAME_SAMPLES
from server.core.noise import NoiseCheck

WINDOW = 512


def run(levels: list[float], slow: list[float], speech: bool = True, delay: int = 2) -> list[bool]:
    """Each frame's verdict; the slow detector's `slow` come `delay` frames after their windows."""
    check, told, verdicts = NoiseCheck(), 0, []
    for i, level in enumerate(levels):
        while told < len(slow) and (told + 1) * WINDOW + delay * MIC_FRAME_SAMPLES <= i * MIC_FRAME_SAMPLES:
            check.judged(told * WINDOW, (told + 1) * WINDOW, slow[told])
            told += 1
        verdicts.append(check.confirm(speech, level))
    return verdicts


def test_without_judgements_the_quick_one_is_believed() -> None:
    assert run([-30.0] * 50, []) == [True] * 50
    assert run([-30.0] * 50, [], speech=False) == [False] * 50


def test_what_the_slow_one_calls_speech_stays_speech() -> None:
    assert all(run([-30.0] * 50, [0.9] * 31))


def test_noise_is_silenced_once_three_windows_are_known() -> None:
    verdicts = run([-30.0] * 50, [0.02] * 31)
    first = verdicts.index(False)
    assert verdicts[first:] == [False] * (50 - first)
    assert first == 7  # 96 ms of windows and 40 ms of delay


def test_a_voice_out_of_silence_is_never_delayed() -> None:
    quiet, loud = [-70.0] * 50, [-35.0] * 6
    assert run(quiet + loud, [0.01] * 31 + [0.9] * 9)[50:] == [True] * 6


def test_a_voice_over_noise_is_heard_as_soon_as_it_is_louder() -> None:
    assert run([-45.0] * 50 + [-38.0], [0.01] * 40)[49:] == [False, True]
    assert run([-45.0] * 50 + [-40.0], [0.01] * 40)[49:] == [False, False]


def test_speech_that_is_hardly_louder_is_heard_with_its_first_window() -> None:
    slow = [0.01] * 31 + [0.8] * 20
    verdicts = run([-45.0] * 80, slow)
    back = verdicts.index(True, 20)
    assert 50 <= back <= 54


def test_old_judgements_say_nothing() -> None:
    assert run([-30.0] * 50, [0.02] * 10)[-20:] == [True] * 20


def test_windows_with_a_hole_between_them_are_not_in_a_row() -> None:
    check = NoiseCheck()
    for _ in range(10):
        check.confirm(True, -30.0)
    for start in (0, 512, 2048):
        check.judged(start, start + 512, 0.0)
    assert check.confirm(True, -30.0)
