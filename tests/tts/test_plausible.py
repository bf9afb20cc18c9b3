"""How long texts take: real voices lie within the bounds, halves and runaways without."""

from itertools import pairwise

import numpy as np
import pytest

from server.core.media import Voice
from tests.tts.conftest import clause, hear, seconds
from tts.plausible import Sounding, span
from tts.remote import RemoteVoice

TEXTS = {
    "en": ("Yes.", "I.", "The train to London leaves at half past seven.", "It costs $1,234.50 on 2024-03-15.",
           "NASA, the BBC and the WWW.", "https://example.com/a?b=1"),
    "de": ("Ja.", "Donaudampfschifffahrtsgesellschaft ist ein langes Wort.", "Das kostet 45,50 Euro."),
    "fr": ("Oui.", "Qu'est-ce que vous voulez manger ce soir?", "Beaucoup d'eau."),
    "es": ("Hola.", "Quisiera reservar una mesa para dos personas."),
    "it": ("Sì.", "Vorrei un caffè, per favore."),
    "pl": ("Tak.", "Chrząszcz brzmi w trzcinie."),
    "tr": ("Evet.", "Bugün hava çok güzel."),
    "vi": ("Vâng.", "Hôm nay trời đẹp quá."),
    "zh": ("好。", "我想预订一张两个人的桌子，今天晚上七点。", "二零二四年", "价格是128.50元"),
    "ja": ("はい。", "わたしはにほんごをはなします。", "カタカナ"),
    "ko": ("네.", "저는 한국어를 할 수 있습니다."),
    "ru": ("Да.", "Сегодня очень хорошая погода."),
    "el": ("Ναι.", "Καλημέρα, τι κάνετε σήμερα;"),
    "ar": ("نعم", "مرحبا كيف حالك اليوم"),
    "he": ("כן", "מה שלומך היום"),
    "hi": ("हाँ", "आप कैसे हैं आज"),
    "ta": ("ஆம்", "இன்று வானிலை நன்றாக உள்ளது"),
    "ka": ("დიახ", "დღეს კარგი ამინდია"),
}  # fmt: skip
SPARE = 1.5


async def test_espeak_lies_within_the_bounds_in_every_language(espeak: RemoteVoice) -> None:
    for language, texts in TEXTS.items():
        for text in texts:
            took_s = seconds(await hear(espeak, clause(text, language)))
            bounds = span(text)
            assert SPARE * bounds.least_s < took_s < bounds.most_s / SPARE, (language, text, took_s, bounds)


async def test_flite_lies_within_the_bounds_at_any_speed(flite: RemoteVoice) -> None:
    for text in TEXTS["en"][2:4]:
        for speed in (0.5, 2.0):
            took_s = seconds(await hear(flite, clause(text), Voice("rms", speed)))
            bounds = span(text, speed)
            assert bounds.least_s < took_s < bounds.most_s, (text, speed, took_s, bounds)


@pytest.mark.parametrize(
    ("text", "seconds_said", "swallowed", "runaway"),
    [
        ("The train to London leaves at half past seven.", 0.8, True, False),
        ("The train to London leaves at half past seven.", 15.0, False, True),
        ("我想预订一张两个人的桌子，今天晚上七点。", 1.5, True, False),  # 18 characters
        ("我想预订一张两个人的桌子，今天晚上七点。", 4.0, False, False),
        ("我想预订一张两个人的桌子，今天晚上七点。", 20.0, False, True),
        ("わたしはにほんごをはなします。", 0.5, True, False),
        ("저는 한국어를 할 수 있습니다.", 0.5, True, False),
        ("...", 0.0, False, False),
        ("Yes.", 6.0, False, True),
    ],
)
def test_halves_and_runaways_lie_without(text: str, seconds_said: float, swallowed: bool, runaway: bool) -> None:
    bounds = span(text)
    assert (seconds_said < bounds.least_s, seconds_said > bounds.most_s) == (swallowed, runaway)


def test_silence_is_not_counted_however_it_is_cut() -> None:
    loud = np.full(8000, 3000, "<i2").tobytes()
    quiet = np.full(8000, 20, "<i2").tobytes()
    for size in (1, 79, 160, 161, 5000):
        sounding = Sounding(8000)
        voice = quiet + loud + quiet
        for at in range(0, len(voice), 2 * size):
            sounding.feed(voice[at : at + 2 * size])
        assert sounding.seconds == pytest.approx(1.0)


def test_a_longer_text_takes_longer() -> None:
    text = "你好 world 42!"
    spans = [span(text[:i]) for i in range(1, len(text) + 1)]
    assert all(a.least_s <= b.least_s and a.most_s <= b.most_s for a, b in pairwise(spans))
