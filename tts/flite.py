"""flite: four English voices at 16 kHz with exact timings, where the system has its library (apt: flite)."""

import ctypes as c
import unicodedata
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from server.core.errors import StageError
from server.core.media import SAMPLE_BYTES, Clause, Voice
from tts.pieces import Cutter
from tts.remote import Asked, Names, RemoteVoice, started
from tts.scripts import speakable, without_pictures
from tts.visemes import of_cmu
from tts.wire import About, Say

RATE = 16_000  # Hz, of all four voices
VOICES = ("slt", "rms", "awb", "kal16")
CORE_LIBRARIES = ("libflite.so.1", "libflite_usenglish.so.1", "libflite_cmulex.so.1")
MISSING = "flite's library is not on this system: install it (Debian, Ubuntu: apt install flite), or use espeak"
CALLBACK_SAMPLES = RATE // 10
# By themselves slt speaks at -14 dBFS (RMS while speaking), rms at -20, awb at -19, kal16 at -27; espeak-ng at -19.
GAIN = {"slt": 0.55, "rms": 1.15, "kal16": 2.0}
GO_ON, STOP = 0, -1  # what the callback answers


class FliteSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="flite"
):
    """flite in a worker process. English only."""

    voice: str = "slt"
    """who speaks if nobody else is asked for: slt (a woman), rms, awb (men), kal16 (an old robot)"""
    first_s: float = 5.0
    """the first sound of a clause must come within so many seconds"""
    gap_s: float = 5.0
    """... and each further piece within so many"""

    @asynccontextmanager
    async def load(self) -> AsyncGenerator[RemoteVoice, None]:
        """Raises StageError("tts", ...) where flite's library or the voice is missing."""
        async with started("flite", []) as (worker, about):
            if self.voice not in about.voices:
                there = ", ".join(about.voices)
                raise StageError("tts", "tts_voice", f"flite has no voice {self.voice!r} here; it has {there}", False)
            names = Names(about.voices)

            def ask(clause: Clause, voice: Voice) -> Asked | None:
                text, place = ascii_of(without_pictures(clause.text))
                if not speakable(text):
                    if speakable(clause.text):
                        raise StageError("tts", "tts_language", "flite speaks English only", retryable=False)
                    return None
                return Asked(Say(text, names.choose(voice.name, self.voice), voice.speed), place)

            yield RemoteVoice(worker, about, ask, of_cmu, self.first_s, self.gap_s)


# What decomposition does not bring to ASCII. flite drops other bytes without a word.
ASCII = {
    "‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": ", ", "…": "...", "•": ", ", "×": " times ",
    "°": " degrees ", "€": " euro ", "£": " pound ", "¥": " yen ", "±": " plus or minus ", "÷": " divided by ",
    "ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ł": "l", "Ł": "L", "đ": "d",
    "ð": "th", "þ": "th", "ı": "i", "\n": " ", "\t": " ", "\r": " ",
}  # fmt: skip


def ascii_of(text: str) -> tuple[str, list[int]]:
    """The text as flite can read it, and for each of its characters, and its end, the index in `text`."""
    out: list[str] = []
    place: list[int] = []
    for i, character in enumerate(text):
        plain = ASCII.get(character)
        if plain is None:
            plain = "".join(ch for ch in unicodedata.normalize("NFKD", character) if " " <= ch <= "~") or " "
        out.append(plain)
        place += [i] * len(plain)
    return "".join(out), [*place, len(text)]


class _Wave(c.Structure):
    """cst_wave"""

    _fields_ = (
        ("type", c.c_char_p),
        ("sample_rate", c.c_int),
        ("num_samples", c.c_int),
        ("num_channels", c.c_int),
        ("samples", c.c_void_p),
    )


class _Streaming(c.Structure):
    """cst_audio_streaming_info"""


# (wave, start, size, last, info) -> GO_ON or STOP
_Callback = c.CFUNCTYPE(c.c_int, c.POINTER(_Wave), c.c_int, c.c_int, c.c_int, c.POINTER(_Streaming))
_Streaming._fields_ = (
    ("min_buffsize", c.c_int),
    ("asc", _Callback),
    ("utt", c.c_void_p),
    ("item", c.c_void_p),
    ("userdata", c.c_void_p),
)


class _Voice(c.Structure):
    """cst_voice, as far as we need it"""

    _fields_ = (("name", c.c_char_p), ("features", c.c_void_p))


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "flite_init": (c.c_int, []),
    "flite_synth_text": (c.c_void_p, [c.c_char_p, c.c_void_p]),
    "delete_utterance": (None, [c.c_void_p]),
    "utt_relation": (c.c_void_p, [c.c_void_p, c.c_char_p]),
    "relation_head": (c.c_void_p, [c.c_void_p]),
    "item_next": (c.c_void_p, [c.c_void_p]),
    "item_daughter": (c.c_void_p, [c.c_void_p]),
    "item_feat_string": (c.c_char_p, [c.c_void_p, c.c_char_p]),
    "item_feat_float": (c.c_float, [c.c_void_p, c.c_char_p]),
    "ffeature_float": (c.c_float, [c.c_void_p, c.c_char_p]),
    "feat_set": (None, [c.c_void_p, c.c_char_p, c.c_void_p]),
    "feat_set_float": (None, [c.c_void_p, c.c_char_p, c.c_float]),
    "new_audio_streaming_info": (c.POINTER(_Streaming), []),
    "audio_streaming_info_val": (c.c_void_p, [c.POINTER(_Streaming)]),
}


class Flite:
    """The library, in the worker's process: one clause at a time."""

    def __init__(self) -> None:
        """Raises OSError where it is not installed."""
        try:
            libraries = [c.CDLL(name, mode=c.RTLD_GLOBAL) for name in CORE_LIBRARIES]
        except OSError as error:
            raise OSError(MISSING) from error
        self._library = libraries[0]
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._library.flite_init()
        # Kept for the process's life: the library goes on pointing to it.
        self._callback = _Callback(self._take)
        self._voices: dict[str, int] = {}
        for name in VOICES:
            self._register(name)
        if not self._voices:
            raise OSError(MISSING)
        self.about = About(RATE, list(self._voices), ["en"])
        self.greeting = Say("Hello.", next(iter(self._voices)), 1.0)
        self._cutter: Cutter | None = None
        self._go_on: Callable[[], bool] = lambda: True

    def _register(self, name: str) -> None:
        try:
            register = getattr(c.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
        except OSError:
            return  # a system may have some of the voices
        register.restype, register.argtypes = c.c_void_p, [c.c_char_p]
        voice = register(None)
        info = self._library.new_audio_streaming_info()
        info.contents.asc = self._callback
        info.contents.min_buffsize = CALLBACK_SAMPLES
        value = self._library.audio_streaming_info_val(info)
        self._library.feat_set(_features(voice), b"streaming_info", value)
        self._voices[name] = voice

    def say(self, say: Say, cutter: Cutter, go_on: Callable[[], bool]) -> None:
        voice = self._voices[say.voice]
        self._library.feat_set_float(_features(voice), b"duration_stretch", 1.0 / min(max(say.pace, 0.5), 2.0))
        self._text, self._cutter, self._go_on, self._begun = say.text, cutter, go_on, False
        self._gain = GAIN.get(say.voice, 1.0)
        utterance = self._library.flite_synth_text(say.text.encode("ascii", "replace"), voice)
        if not utterance:
            raise ValueError("flite could not read the text")
        self._library.delete_utterance(utterance)

    def _take(self, wave: Any, start: int, size: int, last: int, info: Any) -> int:
        """flite's callback: `size` samples from `start` on are ready; all timings are known before the first."""
        assert self._cutter is not None
        if not self._begun:
            self._begun = True
            self._timings(info.contents.utt, self._cutter)
        pcm = c.string_at(wave.contents.samples + SAMPLE_BYTES * start, SAMPLE_BYTES * size)
        self._cutter.feed(_scaled(pcm, self._gain))
        return GO_ON if self._go_on() else STOP

    def _timings(self, utterance: int, cutter: Cutter) -> None:
        begin = 0
        for segment in self._items(utterance, b"Segment"):
            cutter.phone(self._library.item_feat_string(segment, b"name").decode("ascii", "replace"), begin)
            begin = _samples(self._library.item_feat_float(segment, b"end"))
        cursor = 0
        for token in self._items(utterance, b"Token"):
            # A number is one token and several words: `$12.50` is heard when `cents` is over.
            name = self._library.item_feat_string(token, b"name").decode("ascii", "replace")
            first = self._text.find(name, cursor)
            first = cursor if first < 0 else first
            cursor = first + len(name)
            words = list(self._chain(self._library.item_daughter(token)))
            if words:
                start = self._library.ffeature_float(words[0], b"R:SylStructure.daughter.daughter.R:Segment.p.end")
                end = self._library.ffeature_float(words[-1], b"R:SylStructure.daughtern.daughtern.R:Segment.end")
                if end > start:
                    cutter.word(first, cursor, _samples(start), _samples(end))

    def _items(self, utterance: int, relation: bytes) -> Iterator[int]:
        return self._chain(self._library.relation_head(self._library.utt_relation(utterance, relation)))

    def _chain(self, item: int | None) -> Iterator[int]:
        while item:
            yield item
            item = self._library.item_next(item)


def _scaled(pcm: bytes, gain: float) -> bytes:
    """s16 samples, those that would be too loud at the limit. A tenth of a second takes 0.2 ms."""
    if gain == 1.0:
        return pcm
    return array("h", [min(max(round(gain * s), -32768), 32767) for s in array("h", pcm)]).tobytes()


def _features(voice: int) -> int:
    features: int = c.cast(voice, c.POINTER(_Voice)).contents.features
    return features


def _samples(seconds: float) -> int:
    return round(seconds * RATE)
