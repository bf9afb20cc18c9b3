"""From phonemes and from sound to mouth shapes, without pictures."""

import numpy as np
import pytest
from numpy.typing import NDArray

from render.lips import PP, SIL, Ear, Gestures, of_phones, weights
from render.score import Score
from server.core.media import MEDIA_RATE, VISEMES, Phone

FRAME_S = 0.04


def phones(*shapes: tuple[str, float]) -> tuple[Phone, ...]:
    out, at = [], 0.0
    for viseme, seconds in shapes:
        out.append(Phone(viseme, viseme, round(at * MEDIA_RATE), round((at + seconds) * MEDIA_RATE)))
        at += seconds
    return tuple(out)


def over(gestures: Gestures, seconds: float, shift: float = 0.0) -> NDArray[np.float64]:
    """The weights of every frame, (frames, 16)."""
    return np.array([weights([gestures], shift + (k + 0.5) * FRAME_S) for k in range(round(seconds / FRAME_S))])


@pytest.mark.parametrize("shift", [0.0, 0.013, 0.027, 0.039])
@pytest.mark.parametrize("closed", ["PP", "FF"])
@pytest.mark.parametrize("seconds", [0.03, 0.06, 0.12])
def test_lips_that_must_touch_do_in_at_least_one_frame(closed: str, seconds: float, shift: float) -> None:
    spoken = of_phones(phones(("aa", 0.12), (closed, seconds), ("aa", 0.12)))
    shown = over(spoken, 0.4, shift)[:, VISEMES.index(closed)]
    assert shown.max() > 0.999
    assert shown[-3:].max() < 0.5  # and open again


def test_a_vowel_is_seen_and_a_mouth_at_rest_is_exactly_at_rest() -> None:
    spoken = of_phones(phones(("aa", 0.2), ("EE", 0.2))).moved(1.0)
    assert weights([spoken], 1.08)[VISEMES.index("aa")] > 0.7
    assert weights([spoken], 1.28)[VISEMES.index("EE")] > 0.7
    for t in (0.0, 0.7, 1.8, 3.0):
        assert weights([spoken], t)[SIL] == 1.0
    assert weights([], 0.0)[SIL] == 1.0


def test_weights_are_a_mixture_and_change_smoothly() -> None:
    spoken = of_phones(phones(("kk", 0.06), ("aa", 0.15), ("nn", 0.07), ("oh", 0.15), ("SS", 0.1), ("EE", 0.15)))
    fine = np.array([weights([spoken], t) for t in np.arange(-0.3, 1.2, 0.004)])
    assert np.allclose(fine.sum(1), 1)
    assert fine.min() >= 0
    assert np.abs(np.diff(fine, axis=0)).max() < 0.2  # in 4 ms


def test_a_short_pause_does_not_close_the_mouth_a_long_one_does() -> None:
    short = of_phones(phones(("aa", 0.2), ("sil", 0.05), ("aa", 0.2)))
    long = of_phones(phones(("aa", 0.2), ("sil", 0.5), ("aa", 0.2)))
    assert weights([short], 0.195)[SIL] < 0.5
    assert weights([long], 0.42)[SIL] > 0.95


def tone(hertz: float, seconds: float, level: float = 0.3) -> NDArray[np.float64]:
    t = np.arange(round(seconds * MEDIA_RATE)) / MEDIA_RATE
    return level * np.sin(2 * np.pi * hertz * t)


def of_sound(pcm: NDArray[np.int16]) -> Gestures:
    ear = Ear()
    ear.hear(pcm, joined=False)
    return ear.shapes(len(pcm))


def test_without_phonemes_the_sound_moves_the_lips() -> None:
    rng = np.random.default_rng(1)
    voice = tone(700, 0.3) + tone(1300, 0.3) * 0.5
    hiss = np.diff(rng.normal(0, 0.2, int(0.2 * MEDIA_RATE)), 2)
    quiet = np.zeros(int(0.3 * MEDIA_RATE))
    pcm = (np.concatenate([quiet, voice, hiss, quiet]) * 20000).clip(-32768, 32767).astype(np.int16)
    shown = over(of_sound(pcm), 1.1)
    assert shown[:4, SIL].min() > 0.99
    assert shown[10:13, SIL].max() < 0.4
    assert shown[16:18, VISEMES.index("SS")].min() > 0.5
    assert shown[-3:, SIL].min() > 0.99


def test_a_dip_between_loud_parts_is_a_closure() -> None:
    loud = tone(650, 0.16) + tone(1200, 0.16) * 0.6
    murmur = tone(180, 0.08, 0.04)
    pcm = (np.concatenate([loud, murmur, loud]) * 25000).astype(np.int16)
    assert over(of_sound(pcm), 0.4)[:, PP].max() > 0.9


def test_empty_and_silent_sound_rest() -> None:
    assert len(of_sound(np.zeros(0, np.int16)).start) == 0
    rest = of_sound(np.zeros(MEDIA_RATE, np.int16))
    assert weights([rest], 0.5)[SIL] == 1.0
    assert Ear().hear(np.zeros(4800, np.int16), False).max() == 0


def test_a_voice_in_small_pieces_is_heard_as_one() -> None:
    """The voice engines hand over a few hundred milliseconds at a time."""
    loud, soft = tone(700, 0.3) + tone(1300, 0.3) * 0.5, tone(500, 0.3, 0.02)
    pcm = (np.concatenate([loud, soft, loud]) * 20000).astype(np.int16)
    score = Score()
    for start in range(0, len(pcm), 7000):
        score.push(start, 1, pcm[start : start + 7000])
    pieces = [p.gestures for p in score.pieces]
    times = np.arange(0.02, 0.9, 0.04)
    whole, split = (np.array([weights(g, t)[[SIL, PP]].sum() for t in times]) for g in ([of_sound(pcm)], pieces))
    assert np.abs(whole - split).mean() < 0.16  # as open at the same times, whatever the vowel
    assert weights(pieces, 0.45)[SIL] > 0.5 > weights(pieces, 0.15)[SIL]


def test_a_long_vowel_is_held() -> None:
    spoken = of_phones(phones(("aa", 5.0)))
    assert min(weights([spoken], t)[VISEMES.index("aa")] for t in np.arange(0.1, 4.9, 0.1)) > 0.95
