"""espeak-ng: a hundred languages, Chinese too, at 22.05 kHz, from pip alone. GPL: only ever its own process."""

import ctypes as c
import os
import re
import unicodedata
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from server.core.media import SAMPLE_BYTES, Clause, Voice
from tts.pieces import Cutter
from tts.remote import Asked, Names, RemoteVoice, started
from tts.scripts import NOT_LATIN, primary, runs, without_pictures
from tts.visemes import of_ipa
from tts.wire import About, Say

DEFAULTS = {"en": "en-us", "zh": "cmn"}  # where the first voice of a language is not the one people expect
VARIANTS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")
WORDS_PER_MINUTE = (80, 450)  # what espeak-ng takes


class EspeakSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="espeak"
):
    """espeak-ng in a worker process."""

    voice: str = ""
    """as `espeak-ng --voices` names its languages (en-us, cmn, de ...); empty: chosen by the clause's language"""
    variant: str = ""
    """a colour of voice added to whichever is chosen: f1 to f5 (women), m1 to m8; empty: the voice's own"""
    speed: int = 165
    """words per minute"""
    pitch: int = 50
    """0 to 100"""
    data: str = ""
    """directory of espeak-ng's data; empty: the pip package's own"""
    first_s: float = 5.0
    """the first sound of a clause must come within so many seconds"""
    gap_s: float = 5.0
    """... and each further piece within so many"""

    @asynccontextmanager
    async def load(self) -> AsyncGenerator[RemoteVoice, None]:
        """Raises StageError("tts", ...) where the library does not work."""
        async with started("espeak", [self.data] if self.data else []) as (worker, about):
            names = Names(about.voices)

            def ask(clause: Clause, voice: Voice) -> Asked | None:
                text = without_pictures(clause.text).replace("\0", " ")
                languages = [run.language for run in runs(text, clause.language)]
                if not languages:
                    return None
                named = names.choose(voice.name, self.voice)
                chosen = voice_for(named, languages, about.defaults)
                if self.variant and "+" not in chosen:
                    chosen += f"+{self.variant}"
                return Asked(Say(text, chosen, self.speed * voice.speed, self.pitch), list(range(len(text) + 1)))

            yield RemoteVoice(worker, about, ask, of_ipa, self.first_s, self.gap_s)


def voice_for(named: str, languages: list[str], defaults: dict[str, str]) -> str:
    """The voice that can say all of these: a voice of another script also reads Latin, not the other way round."""
    foreign = [language for language in languages if language in NOT_LATIN and language in defaults]
    if foreign and primary(named.partition("+")[0]) not in foreign:
        return "+".join([defaults[foreign[0]], *named.split("+")[1:]])  # the same colour of voice
    return named or defaults.get(languages[0]) or defaults["en"]


class _Id(c.Union):
    _fields_ = (("number", c.c_int), ("name", c.c_char_p), ("string", c.c_char * 8))


class _Event(c.Structure):
    """espeak_EVENT"""

    _fields_ = (
        ("type", c.c_int),
        ("unique_identifier", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_position", c.c_int),
        ("sample", c.c_int),
        ("user_data", c.c_void_p),
        ("id", _Id),
    )


class _VoiceInfo(c.Structure):
    """espeak_VOICE, as far as we need it"""

    _fields_ = (("name", c.c_char_p), ("languages", c.c_void_p), ("identifier", c.c_char_p))


_Callback = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int, c.POINTER(_Event))

# From espeak-ng's speak_lib.h.
SYNCHRONOUS = 2
PHONEME_EVENTS, PHONEME_IPA, DONT_EXIT = 1, 2, 0x8000
EVENT_END_OF_LIST, EVENT_WORD, EVENT_PHONEME = 0, 1, 7
RATE_PARAMETER, PITCH_PARAMETER = 1, 3
POSITION_CHARACTER, CHARACTERS_UTF8 = 1, 1
BUFFER_MS = 60

# A word as people count them: between white space, or one CJK character.
CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
TOKEN = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


class Espeak:
    """The library, in the worker's process: one clause at a time (it is a singleton)."""

    def __init__(self, data: str = "") -> None:
        """Raises OSError where it does not work."""
        import espeakng_loader

        try:
            self._library = c.CDLL(espeakng_loader.get_library_path())
            # The library keeps its data's path in 160 bytes: from inside the directory it is one character long.
            os.chdir(data or espeakng_loader.get_data_path())
        except (OSError, RuntimeError) as error:
            raise OSError(f"espeak-ng is not usable ({error}): pip install espeakng-loader") from error
        rate = self._library.espeak_Initialize(SYNCHRONOUS, BUFFER_MS, b".", PHONEME_EVENTS | PHONEME_IPA | DONT_EXIT)
        if rate <= 0:
            raise OSError(f"espeak-ng finds no data in {os.getcwd()}: pip install --force-reinstall espeakng-loader")
        self._library.espeak_Synth.argtypes = [
            c.c_char_p, c.c_size_t, c.c_uint, c.c_int, c.c_uint, c.c_uint, c.c_void_p, c.c_void_p,
        ]  # fmt: skip
        self._callback = _Callback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)
        self.about = self._about(rate)
        self.greeting = Say("Hello.", self.about.defaults["en"], 165.0)

    def _about(self, rate: int) -> About:
        self._library.espeak_ListVoices.restype = c.POINTER(c.POINTER(_VoiceInfo))
        listed = self._library.espeak_ListVoices(None)
        voices: list[str] = []
        best: dict[str, tuple[int, str]] = {}
        i = 0
        while listed[i]:
            codes = _codes(listed[i].contents.languages)
            voices.append(codes[0][1])
            for priority, code in codes:
                language = primary(code)
                # A voice that bears the language's plain name comes before those of regions.
                rank = -1 if codes[0][1] == DEFAULTS.get(language, language) else priority
                best[language] = min(best.get(language, (256, "")), (rank, codes[0][1]))
            i += 1
        defaults = {language: name for language, (_, name) in sorted(best.items())}
        coloured = [f"{name}+{variant}" for name in DEFAULTS.values() for variant in VARIANTS]
        return About(rate, voices + coloured, list(defaults), defaults)

    def say(self, say: Say, cutter: Cutter, go_on: Callable[[], bool]) -> None:
        if self._library.espeak_SetVoiceByName(say.voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {say.voice!r}")
        slowest, fastest = WORDS_PER_MINUTE
        self._library.espeak_SetParameter(RATE_PARAMETER, min(max(round(say.pace), slowest), fastest), 0)
        self._library.espeak_SetParameter(PITCH_PARAMETER, min(max(say.pitch, 0), 100), 0)
        self._cutter, self._go_on, self._made = cutter, go_on, 0
        self._words = _Words(say.text, cutter)
        cutter.phone("", 0)
        text = say.text.encode("utf-8", "replace")
        result = self._library.espeak_Synth(
            text, len(text) + 1, 0, POSITION_CHARACTER, 0, CHARACTERS_UTF8, None, None
        )
        if result != 0:
            raise ValueError(f"espeak-ng could not speak (its error {result})")
        self._words.finish(self._made)

    def _take(self, samples: int | None, count: int, events: Any) -> int:
        """espeak-ng's callback: the next sound, and what happens in it. 1 ends the clause at once."""
        i = 0
        while events[i].type != EVENT_END_OF_LIST:
            event = events[i]
            if event.type == EVENT_PHONEME:
                # 8 bytes, cut without regard to characters, and with a zero only if there is room for it.
                name = bytes(c.string_at(c.addressof(event.id), 8)).split(b"\0")[0].decode("utf-8", "ignore")
                self._cutter.phone(name, event.sample)
                self._words.phone(name, event.sample)
            elif event.type == EVENT_WORD:
                self._words.word(event.text_position - 1, event.sample)
            i += 1
        if samples and count > 0:
            self._made += count
            self._cutter.feed(c.string_at(samples, SAMPLE_BYTES * count), self._words.settled)
        return 0 if self._go_on() else 1


class _Words:
    """espeak-ng tells where words begin (several times within a number); this tells where they end."""

    def __init__(self, text: str, cutter: Cutter) -> None:
        self._text = text
        self._cutter = cutter
        self._starts = [match.start() for match in TOKEN.finditer(text)]
        self._open: tuple[int, int] | None = None  # first character, first sample
        self._pause: int | None = None  # where the pause began that now lasts

    @property
    def settled(self) -> int | None:
        return None if self._open is None else self._open[1]

    def phone(self, name: str, at: int) -> None:
        if name and not name.startswith("("):
            self._pause = None
        elif self._pause is None:
            self._pause = at

    def word(self, position: int, at: int) -> None:
        token = max((start for start in self._starts if start <= position), default=0)
        if self._open is not None:
            if token <= self._open[0]:
                return  # still the same number
            self._close(token, at)
        self._open = (token, at)

    def finish(self, at: int) -> None:
        if self._open is not None:
            self._close(len(self._text), at)

    def _close(self, until: int, at: int) -> None:
        assert self._open is not None
        first, start = self._open
        while until > first and _mark(self._text[until - 1]):
            until -= 1
        while first < until and _mark(self._text[first]):
            first += 1
        end = at if self._pause is None else self._pause
        if until > first and end > start:
            self._cutter.word(first, until, start, end)
        self._open = self._pause = None


def _mark(character: str) -> bool:
    """Punctuation and white space around a word; what is said (percent, at) belongs to it."""
    return unicodedata.category(character)[0] in "PZC" and character not in "%&@#"


def _codes(languages: int) -> list[tuple[int, str]]:
    """A voice's languages: each a byte of priority (low is better) and a zero-ended code; a zero ends the list."""
    codes = []
    while priority := c.string_at(languages, 1)[0]:
        code = c.string_at(languages + 1)
        codes.append((priority, code.decode("ascii", "replace")))
        languages += 2 + len(code)
    return codes
