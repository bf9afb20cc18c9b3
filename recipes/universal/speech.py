"""Speech with the times of its phones: for the voice encoder, the universal field, and for judging them.

Three families are made on the spot by free synthesisers (flite, espeak-ng, festival's diphones); `human` is people
recorded, whose phones a forced aligner has placed: to judge by, never to train on. The truth about a face that says a
recording is the generator's control curves for those phones (VISAVIS_GENERATOR names the generator's folder).
"""

import ctypes as c
import gzip
import importlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recipes.universal.sentences import sentence

Floats = NDArray[np.float32]

RATE = 16_000
FPS = 25
FRAME = RATE // FPS
LEVEL = 0.1
"""RMS of every recording while somebody speaks"""


class Phone(NamedTuple):
    symbol: str
    """as espeak-ng writes IPA; empty for silence"""
    start: float
    """seconds"""
    end: float


class Recording(NamedTuple):
    name: str
    pcm: Floats
    """16 kHz, full scale 1"""
    phones: list[Phone]
    voice: str
    family: str
    text: str


class Utterance(NamedTuple):
    """One example to learn from: sound as it may arrive, and the face that goes with it."""

    pcm: Floats
    """16 kHz, a whole number of frames"""
    controls: dict[str, Floats]
    """the generator's control curves, by name: (frames,)"""
    voice: str
    family: str
    clean: Floats | None = None
    """the same as the synthesiser made it, without line, room and noise"""


FLITE = ("slt", "rms", "awb", "kal16")
DIPHONE = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
ESPEAK_ACCENTS = ("en-us", "en-us", "en", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan")
ESPEAK_VARIANTS = """
f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 klatt klatt2 klatt4 adam Alex Alicia Andrea Andy Annie antonio aunty belinda
benjamin boris caleb david ed edward Gene grandma grandpa Henrique Hugo iven Jacky john linda Marco max Michael
miguel Mike Nguyen norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 steph3 travis victor zac
""".split()  # noqa: SIM905
HELD_OUT = ("kal16", "ked_diphone", "hy_fi_mv_diphone", "+f4", "+m7", "+Annie", "+paul", "+steph")
"""Voices that nothing is trained on (espeak-ng's by their variant)."""
FAMILIES = ("flite", "espeak", "diphone", "foreign")

CMU = {
    "aa": "ɑː", "ae": "æ", "ah": "ʌ", "ao": "ɔː", "aw": "aʊ", "ax": "ə", "axr": "ɚ", "ay": "aɪ", "b": "b", "ch": "tʃ",
    "d": "d", "dh": "ð", "dx": "ɾ", "eh": "ɛ", "el": "l", "em": "m", "en": "n", "er": "ɜː", "ey": "eɪ", "f": "f",
    "g": "ɡ", "hh": "h", "hv": "h", "ih": "ɪ", "ix": "ɪ", "iy": "iː", "jh": "dʒ", "k": "k", "l": "l", "m": "m",
    "n": "n", "ng": "ŋ", "nx": "n", "ow": "oʊ", "oy": "ɔɪ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t",
    "th": "θ", "uh": "ʊ", "uw": "uː", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ", "pau": "", "sil": "",
    "h#": "", "brth": "", "ssil": "", "+spn+": "", "+nsn+": "",
}  # fmt: skip
"""CMU's (and radio's, festival's) phones as espeak-ng writes them: the generator's visemes know those."""

LATIN = {
    "#": "", "pau": "", "_": "", "E": "ɛ", "J": "n", "O": "ɔ", "S": "ʃ", "Z": "ʒ", "a": "a", "ax": "ə", "b": "b",
    "c": "t", "ch": "x", "d": "d", "dZ": "dʒ", "dz": "z", "d~": "d", "e": "e", "f": "f", "g": "ɡ", "h": "h", "i": "i",
    "j": "j", "k": "k", "l": "l", "L": "l", "m": "m", "n": "n", "n~": "n", "o": "o", "p": "p", "r": "r", "rr": "r",
    "s": "s", "t": "t", "tS": "tʃ", "ts": "s", "t~": "t", "u": "u", "v": "v", "w": "w", "y": "uː", "z": "z",
    "s~": "ʃ", "z~": "ʒ", "c~": "tʃ", "r~": "ʒ", "N": "ŋ", "ng": "ŋ", "n*": "ŋ", "nf": "n", "@": "æ", "7": "ɜː",
    "?": "ʔ", "0": "",
}  # fmt: skip
RUSSIAN = {
    "aa": "a", "ae": "ə", "ay": "ɪ", "yy": "ɪ", "y": "ɪ", "oo": "ɔ", "o": "ɔ", "ee": "ɛ", "e": "ɛ", "ii": "iː",
    "uu": "uː", "ur": "ʊ", "bb": "b", "dd": "d", "ff": "f", "gg": "ɡ", "hh": "x", "h": "x", "kk": "k", "ll": "l",
    "mm": "m", "nn": "n", "pp": "p", "rr": "r", "ss": "s", "tt": "t", "vv": "v", "zz": "z", "ch": "tʃ", "sh": "ʃ",
    "zh": "ʒ", "sch": "ʃ", "c": "s",
}  # fmt: skip
INDIAN = {
    "pau": "", "D": "d", "T": "t", "a": "ʌ", "aa": "ɑː", "b": "b", "bh": "b", "ch": "tʃ", "dh": "d",
    "eh": "ɛ", "ee": "e", "g": "ɡ", "h": "h", "ih": "ɪ", "iy": "iː", "j": "dʒ", "k": "k", "l": "l", "m": "m",
    "n": "n", "oh": "o", "oo": "o", "p": "p", "r": "r", "s": "s", "sh": "ʃ", "th": "t", "uh": "ʊ", "uw": "uː",
    "v": "v", "w": "w", "y": "j",
}  # fmt: skip


class Syllables(NamedTuple):
    """Of what nonsense in a foreign voice is made, so that it speaks all its sounds, and many of the lips."""

    consonants: str
    vowels: str
    phones: dict[str, str]


ITALIAN = Syllables("p b m p b m t d n c g f v s z r l gn gl sc ch pp mm bb", "a e i o u a o ia", LATIN)
FINNISH = Syllables("p m b p m t k d n s h j l r v f g", "a e i o u y aa ii uo ie", LATIN)
CZECH = Syllables("p b m p b m t d n k g f v s z h j l r c ch", "a e i o u ou", LATIN)
CATALAN = Syllables("p b m p b m t d n c g f v s z r l ny ll x", "a e i o u ia", LATIN)
CYRILLIC = Syllables("п б м п б м т д н к г ф в с з ш ж ч х л р й ц", "а е и о у ы ю я э", {**LATIN, **RUSSIAN})
DEVANAGARI = Syllables("प ब म प ब म भ त द न क ग व स ज र ल य ह च श ट ड", "ा ि ी ु े ो ू", INDIAN)
TELUGU = Syllables("ప బ మ ప బ మ త ద న క గ వ స జ ర ల య హ చ శ ట డ", "ా ి ీ ు ే ో ూ", INDIAN)
FOREIGN = {
    "lp_diphone": ITALIAN, "pc_diphone": ITALIAN, "suo_fi_lj_diphone": FINNISH, "hy_fi_mv_diphone": FINNISH,
    "czech_dita": CZECH, "czech_krb": CZECH, "czech_machac": CZECH, "czech_ph": CZECH, "upc_ca_ona_hts": CATALAN,
    "msu_ru_nsh_clunits": CYRILLIC, "hindi_NSK_diphone": DEVANAGARI, "marathi_NSK_diphone": DEVANAGARI,
    "telugu_NSK_diphone": TELUGU,
}  # fmt: skip
"""Festival's voices of other languages: more speakers than English has. They talk nonsense."""

OFFSET_S = {
    **dict.fromkeys(FLITE, 0.021), "kal_diphone": 0.032, "ked_diphone": 0.019, "cmu_us_slt_arctic_hts": 0.019,
    **dict.fromkeys(FOREIGN, 0.025), "msu_ru_nsh_clunits": 0.018, "lp_diphone": 0.032,
    "espeak": 0.0, "human": 0.021,
}  # fmt: skip
"""What is added to the times of a source, so that the sound of closed lips lies where espeak-ng has it: `closures`
measures it. espeak-ng's own times are the standard, because the people's clips were made by them."""


# ---------------------------------------------------------------- the synthesisers


class _Wave(c.Structure):
    _fields_ = (
        ("type", c.c_char_p),
        ("rate", c.c_int),
        ("count", c.c_int),
        ("channels", c.c_int),
        ("samples", c.POINTER(c.c_short)),
    )


class _Voice(c.Structure):
    _fields_ = (("name", c.c_char_p), ("features", c.c_void_p))


@cache
def _flite() -> tuple[c.CDLL, dict[str, int]]:
    """The library, and its voices. Raises OSError where it is not installed (Debian: flite)."""
    names = ("libflite.so.1", "libflite_usenglish.so.1", "libflite_cmulex.so.1")
    library, *_ = (c.CDLL(name, mode=c.RTLD_GLOBAL) for name in names)
    for name, result, arguments in (
        ("flite_synth_text", c.c_void_p, [c.c_char_p, c.c_void_p]),
        ("utt_wave", c.POINTER(_Wave), [c.c_void_p]),
        ("utt_relation", c.c_void_p, [c.c_void_p, c.c_char_p]),
        ("relation_head", c.c_void_p, [c.c_void_p]),
        ("item_next", c.c_void_p, [c.c_void_p]),
        ("item_feat_string", c.c_char_p, [c.c_void_p, c.c_char_p]),
        ("item_feat_float", c.c_float, [c.c_void_p, c.c_char_p]),
        ("delete_utterance", None, [c.c_void_p]),
        ("feat_set_float", None, [c.c_void_p, c.c_char_p, c.c_float]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.flite_init()
    voices = {}
    for name in FLITE:
        register = getattr(c.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
        register.restype, register.argtypes = c.c_void_p, [c.c_char_p]
        voices[name] = register(None)
    return library, voices


def flite(text: str, voice: str, stretch: float = 1.0) -> tuple[Floats, list[Phone]]:
    library, voices = _flite()
    features = c.cast(voices[voice], c.POINTER(_Voice)).contents.features
    library.feat_set_float(features, b"duration_stretch", stretch)
    utterance = library.flite_synth_text(text.encode("ascii", "replace"), voices[voice])
    sound = library.utt_wave(utterance).contents
    pcm = np.ctypeslib.as_array(sound.samples, (sound.count,)).astype(np.float32) / 32768
    rate = sound.rate
    ends: list[tuple[str, float]] = []
    item = library.relation_head(library.utt_relation(utterance, b"Segment"))
    while item:
        ends.append((library.item_feat_string(item, b"name").decode(), library.item_feat_float(item, b"end")))
        item = library.item_next(item)
    library.delete_utterance(utterance)
    return _at_rate(pcm, rate), _phones_of_ends(ends, voice)


class _Identity(c.Union):
    _fields_ = (("number", c.c_int), ("name", c.c_char_p), ("string", c.c_char * 8))


class _Event(c.Structure):
    _fields_ = (
        ("type", c.c_int),
        ("uid", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_position", c.c_int),
        ("sample", c.c_int),
        ("user_data", c.c_void_p),
        ("id", _Identity),
    )


_ESPEAK_CALLBACK = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(_Event))
_PHONEME_EVENT, _RATE_PARAMETER, _PITCH_PARAMETER, _PITCH_RANGE_PARAMETER = 7, 1, 3, 4


@cache
def _espeak() -> tuple[c.CDLL, int]:
    library = c.CDLL("libespeak-ng.so.1")
    synchronous, phonemes_in_ipa_go_on = 2, 1 | 2 | 0x8000
    return library, library.espeak_Initialize(synchronous, 400, None, phonemes_in_ipa_go_on)


def espeak(
    text: str, voice: str = "en-us", rate: int = 160, pitch: int = 50, span: int = 50
) -> tuple[Floats, list[Phone]]:
    """`voice` is espeak-ng's, a variant after a plus sign; rate in words a minute, pitch and its range 0 to 99."""
    library, sample_rate = _espeak()
    pieces: list[NDArray[np.int16]] = []
    begins: list[tuple[float, str]] = []

    def take(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        k = 0
        while events[k].type:
            if events[k].type == _PHONEME_EVENT:
                symbol = events[k].id.string.decode("utf8", "replace").replace("ˈ", "").replace("ˌ", "")
                begins.append((events[k].audio_position / 1000, symbol.strip()))
            k += 1
        return 0

    callback = _ESPEAK_CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()):
        raise ValueError(f"espeak-ng has no voice {voice}")
    for parameter, value in ((_RATE_PARAMETER, rate), (_PITCH_PARAMETER, pitch), (_PITCH_RANGE_PARAMETER, span)):
        library.espeak_SetParameter(parameter, value, 0)
    spoken = text.encode()
    library.espeak_Synth(spoken, len(spoken) + 1, 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    pcm = np.concatenate(pieces).astype(np.float32) / 32768
    end = len(pcm) / sample_rate
    shift = OFFSET_S["espeak"]
    nexts = [begin for begin, _ in begins[1:]] + [end]
    phones = [
        Phone(symbol, begin + shift, after + shift)
        for (begin, symbol), after in zip(begins, nexts, strict=True)
        if after > begin
    ]
    return _at_rate(pcm, sample_rate), phones


def diphone(lines: Sequence[tuple[str, str, float, float]]) -> list[tuple[Floats, list[Phone]]]:
    """Festival says the lines, each (text, voice, duration stretch, pitch in Hz or 0 for the voice's own way)."""
    said: dict[int, tuple[Floats, list[Phone]]] = {}
    for voice in sorted({line[1] for line in lines}):  # a process each: languages leave traces in each other
        said |= _festival(voice, [(k, line) for k, line in enumerate(lines) if line[1] == voice])
    return [said[k] for k in range(len(lines))]


def _festival(
    voice: str, lines: Sequence[tuple[int, tuple[str, str, float, float]]]
) -> dict[int, tuple[Floats, list[Phone]]]:
    with tempfile.TemporaryDirectory(prefix="visavis-") as folder:
        script = [f"(voice_{voice})"]
        for k, (text, _, stretch, pitch) in lines:
            quoted = text.replace("\\", " ").replace('"', " ")
            script.append(f"(Parameter.set 'Duration_Stretch {stretch:.3f})")
            if pitch:
                script.append(
                    f"(set! int_lr_params '((target_f0_mean {pitch:.0f}) (target_f0_std {pitch * 0.13:.0f})"
                    " (model_f0_mean 170) (model_f0_std 34)))"
                )
            script.append(
                f'(set! said (utt.synth (Utterance Text "{quoted}")))'
                f'(utt.save.wave said "{folder}/{k}.wav" \'riff)(utt.save.segs said "{folder}/{k}.segs")'
            )
        path = Path(folder, "script.scm")
        path.write_text("\n".join(script))
        done = subprocess.run(["festival", "-b", str(path)], capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise RuntimeError(f"festival's {voice} failed: {done.stderr[-300:]}")
        out = {}
        for k, _ in lines:
            ends = [
                (fields[2], float(fields[0]))
                for line in Path(folder, f"{k}.segs").read_text().splitlines()
                if len(fields := line.split()) == 3
            ]
            out[k] = (read_wave(Path(folder, f"{k}.wav")), _phones_of_ends(ends, voice))
        return out


def read_wave(path: Path) -> Floats:
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        return _at_rate(pcm, file.getframerate())


def _phones_of_ends(ends: Sequence[tuple[str, float]], voice: str) -> list[Phone]:
    names = FOREIGN[voice].phones if voice in FOREIGN else CMU
    phones, begin, shift = [], 0.0, OFFSET_S[voice]
    for name, end in ends:
        if end > begin:
            known = name.rstrip(":1") if voice in FOREIGN else name.lower()
            phones.append(Phone(names[known], begin + shift, end + shift))
            begin = end
    return phones


def nonsense(rng: random.Random, syllables: Syllables) -> str:
    consonants, vowels = syllables.consonants.split(), syllables.vowels.split()
    words = [
        "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.choice((1, 2, 2, 3))))
        for _ in range(rng.randint(4, 10))
    ]
    if len(words) > 6:
        words[3] += ","
    return " ".join(words) + "."


def _at_rate(pcm: Floats, rate: int) -> Floats:
    return pcm if rate == RATE else resampled(pcm, RATE / rate)


def resampled(pcm: Floats, factor: float) -> Floats:
    """`factor` times as many samples, by the Fourier transform, so that nothing folds back."""
    padded = -(-(len(pcm) + 400) // 960) * 960  # a length that transforms fast, and silence for the ringing
    out = round(padded * factor)
    spectrum = np.fft.rfft(pcm, padded)
    bins = min(len(spectrum), out // 2 + 1)
    result = np.fft.irfft(spectrum[:bins], out)[: round(len(pcm) * factor)] * (out / padded)
    return np.asarray(result, np.float32)


# ---------------------------------------------------------------- corpora


def recordings(
    family: str, count: int, seed: int = 0, folder: Path | None = None, held_out: bool = False
) -> list[Recording]:
    """`count` recordings of one family (fewer of `human`, if there are fewer), made once and kept in `folder`.

    `held_out` says whether by the voices that training never hears; another seed gives other sentences.
    """
    if family == "human":
        return human(folder)[:count]
    kept = _cache(folder) / f"{family}-{'unheard' if held_out else 'heard'}-{seed}-{count}.npz"
    if kept.exists():
        return _load(kept)
    made = _made(family, count, seed, held_out)
    _save(kept, made)
    return made


def _made(family: str, count: int, seed: int, held_out: bool) -> list[Recording]:
    rng = random.Random(f"{family} {seed} {held_out}")

    def chosen(voices: Sequence[str]) -> str:
        wanted = [v for v in voices if (v in HELD_OUT or f"+{v}" in HELD_OUT) == held_out]
        return rng.choice(wanted)

    lines = []
    for _ in range(count):
        text = sentence(rng)
        if family == "foreign":
            voice = chosen(tuple(FOREIGN))
            lines.append((nonsense(rng, FOREIGN[voice]), voice, rng.triangular(0.75, 1.2, 0.95), 0.0))
        elif family == "espeak":
            voice = f"{rng.choice(ESPEAK_ACCENTS)}+{chosen(ESPEAK_VARIANTS)}"
            lines.append((text, voice, round(rng.triangular(115, 220, 160)), rng.randint(25, 75)))
        elif family == "flite":
            voice = chosen(FLITE)
            lines.append((text, voice, rng.triangular(0.8, 1.3, 1.0), 0.0))
        else:
            voice = chosen(DIPHONE)
            pitch = 0.0 if voice.endswith("hts") else rng.triangular(80, 170, 110)
            lines.append((text, voice, rng.triangular(0.8, 1.3, 1.0), pitch))
    if family == "espeak":
        sounds = [espeak(text, voice, int(rate), int(pitch)) for text, voice, rate, pitch in lines]
    elif family == "flite":
        sounds = [flite(text, voice, stretch) for text, voice, stretch, _ in lines]
    elif family in ("diphone", "foreign"):
        sounds = diphone(lines)
    else:
        raise ValueError(f"no family {family!r}; there are {', '.join(FAMILIES)} and human")
    return [
        Recording(f"{family}-{seed}-{k}", levelled(pcm), phones, line[1], family, line[0])
        for k, (line, (pcm, phones)) in enumerate(zip(lines, sounds, strict=True))
    ]


def levelled(pcm: Floats) -> Floats:
    """Brought to LEVEL: the RMS of those tenths of a second that are not much quieter than the loudest."""
    power = np.add.reduceat(pcm.astype(np.float64) ** 2, np.arange(0, len(pcm), RATE // 10)) / (RATE // 10)
    loud = power[power > 0.03 * power.max()].mean()
    return np.asarray(pcm * (LEVEL / np.sqrt(max(loud, 1e-12))), np.float32)


def _cache(folder: Path | None) -> Path:
    place = folder or Path(os.environ.get("VISAVIS_CACHE") or Path.home() / ".cache" / "visavis")
    (place / "speech").mkdir(parents=True, exist_ok=True)
    return place / "speech"


def _save(path: Path, made: Sequence[Recording]) -> None:
    about = [{"name": r.name, "phones": r.phones, "voice": r.voice, "family": r.family, "text": r.text} for r in made]
    pcm = np.concatenate([np.clip(r.pcm, -1, 1) for r in made])
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        pcm=np.round(pcm * 32767).astype(np.int16),
        lengths=np.array([len(r.pcm) for r in made]),
        about=np.array(json.dumps(about)),
    )
    partial.replace(path)


def _load(path: Path) -> list[Recording]:
    with np.load(path) as kept:
        pcm, lengths, about = kept["pcm"], kept["lengths"], json.loads(str(kept["about"]))
    out, begin = [], 0
    for entry, length in zip(about, lengths, strict=True):
        sound = pcm[begin : begin + length].astype(np.float32) / 32767
        begin += length
        phones = [Phone(*phone) for phone in entry["phones"]]
        out.append(Recording(entry["name"], sound, phones, entry["voice"], entry["family"], entry["text"]))
    return out


PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")  # Debian: asterisk-core-sounds-en-g722
PROMPT_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")  # asterisk-core-sounds-en
READ = Path("/usr/share/pocketsphinx/test/data")  # pocketsphinx-testdata
DIGITS = "zero one two three four five six seven eight nine".split()  # noqa: SIM905
SANE_SCORE = -17.0
"""An alignment whose phones score less for each hundredth of a second is not believed: other words were said."""


def human(folder: Path | None = None) -> list[Recording]:
    """What Debian has of people who speak English, with the times of its phones. CC BY-SA and BSD: to judge by only.

    A woman's telephone prompts (some ten minutes), a novel and playing cards read aloud. Empty where the packages
    asterisk-core-sounds-en, asterisk-core-sounds-en-g722 and pocketsphinx-testdata are missing.
    """
    kept = _cache(folder) / "human.npz"
    if kept.exists():
        return _load(kept)
    made = []
    for name, path, text in _spoken():
        words = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", text.lower())
        words = re.sub(r"[^a-z' ]+", " ", words).split()
        pcm = _decoded(path)
        phones = _aligned(pcm, words)
        if phones:
            made.append(Recording(name, levelled(pcm), phones, name.split("-")[0], "human", " ".join(words)))
    if made:
        _save(kept, made)
    return made


def _spoken() -> Iterator[tuple[str, Path, str]]:
    """(name, sound, text) of everything that is long enough, and whose text has no signs that are read aloud."""
    if PROMPT_TEXTS.exists() and PROMPTS.exists():
        for line in gzip.decompress(PROMPT_TEXTS.read_bytes()).decode().splitlines():
            entry = re.fullmatch(r"([\w/.-]+): +(.+)", line)
            if not entry or re.search(r"[\[(*#<@]|\d\d", entry[2]) or len(entry[2].split()) < 3:
                continue
            path = PROMPTS / f"{entry[1]}.g722"
            if path.exists():
                yield f"allison-{entry[1].replace('/', '.')}", path, entry[2]
    for reader, file in (("librivox", "librivox/transcription"), ("cards", "cards/cards.transcription")):
        if (READ / file).exists():
            for line in (READ / file).read_text().splitlines():
                if entry := re.fullmatch(r"<s>(.*)</s> *\((.+)\)", line):
                    yield f"{reader}-{entry[2][-4:]}", READ / reader / f"{entry[2]}.wav", entry[1]


def _decoded(path: Path) -> Floats:
    if path.suffix == ".wav":
        return read_wave(path)
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "f32le", "-ar", str(RATE), "-ac", "1", "-"]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, "<f4")


@cache
def _decoder() -> Any:
    from pocketsphinx import Decoder

    return Decoder(samprate=float(RATE), bestpath=False, lm=None, loglevel="FATAL")


def _aligned(pcm: Floats, words: Sequence[str]) -> list[Phone]:
    """The phones of these words, found in two passes (words, then phones); none if they do not fit the sound."""
    decoder = _decoder()
    if any(decoder.lookup_word(word) is None for word in words):
        return []
    raw = np.round(np.clip(levelled(pcm), -1, 1) * 32767).astype("<i2").tobytes()
    try:
        decoder.set_align_text(" ".join(words))
        for second in (False, True):
            if second:
                decoder.set_alignment()
            decoder.start_utt()
            decoder.process_raw(raw, full_utt=True)
            decoder.end_utt()
        found = [phone for word in decoder.get_alignment() for phone in word]
    except RuntimeError:  # no path through the sound
        return []
    if not found or np.mean([phone.score / phone.duration for phone in found]) < SANE_SCORE:
        return []
    shift = OFFSET_S["human"]
    return [
        Phone(CMU[phone.name.lower()], phone.start / 100 + shift, (phone.start + phone.duration) / 100 + shift)
        for phone in found
    ]


# ---------------------------------------------------------------- the truth


@cache
def generator() -> ModuleType:
    """The generator's `anim`, from the folder that VISAVIS_GENERATOR names."""
    folder = os.environ.get("VISAVIS_GENERATOR")
    if not folder or not Path(folder, "anim.py").exists():
        raise RuntimeError(
            "Set VISAVIS_GENERATOR to the folder of the generator of synthetic people (it has anim.py)."
        )
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("anim")
    finally:
        sys.path.remove(folder)


def controls(pcm: Floats, phones: Sequence[Phone], seed: int = 0) -> dict[str, Floats]:
    """The generator's control curves of a face that says this: each (frames,), frames = n / 640 rounded up.

    The generator wants the sound only for its loudness over 60 ms: an eighth of the samples, of the same power,
    serve it as well.
    """
    frames = -(-len(pcm) // FRAME)
    padded = np.zeros(frames * FRAME, np.float32)
    padded[: len(pcm)] = pcm
    envelope = np.sqrt((padded.reshape(-1, 8) ** 2).mean(1)) * 32768
    events: list[tuple[float, str]] = []
    for phone, after in zip(phones, [*phones[1:], None], strict=True):
        events.append((phone.start, phone.symbol))
        if after is None or after.start > phone.end + 1e-3:
            events.append((phone.end, ""))
    track = generator().track(envelope, RATE // 8, events, fps=FPS, seed=seed, dur=frames / FPS - 1e-9)
    return {name: np.asarray(curve, np.float32) for name, curve in track["C"].items()}


@cache
def speech_controls() -> tuple[str, ...]:
    """The controls that speech moves; the others (brows, lids, smile) go their own way."""
    return tuple(sorted({name for weights in generator().VIS.values() for name in weights}))


# ---------------------------------------------------------------- as it may arrive


def utterances(seed: int, count: int, folder: Path | None = None, held_out: bool = False) -> Iterator[Utterance]:
    """Examples to learn from: recordings of all families in turn, augmented, with the truth. Deterministic.

    The recordings behind them are made once: PER_FAMILY of each family.
    """
    rng = np.random.default_rng([seed, held_out])
    families = {f: recordings(f, n, 1, folder, held_out) for f, n in PER_FAMILY.items()}
    voices = {f: sorted({r.voice for r in made}) for f, made in families.items()}
    everything = [r for made in families.values() for r in made]
    order = tuple(families)
    for k in range(count):
        family = order[k % len(order)]
        made = families[family]
        if family != "espeak":  # its many voices come by chance
            voice = voices[family][int(rng.integers(len(voices[family])))]
            made = [r for r in made if r.voice == voice]
        recording = made[int(rng.integers(len(made)))]
        babble = everything[int(rng.integers(len(everything)))].pcm
        yield augmented(recording, rng, babble)


PER_FAMILY = {"flite": 400, "espeak": 500, "diphone": 240, "foreign": 400}


def augmented(recording: Recording, rng: np.random.Generator, babble: Floats) -> Utterance:
    """Another speaker, room, line and noise for the same words."""
    pcm, phones = recording.pcm, recording.phones
    if rng.random() < 0.75:
        factor = float(np.clip(np.exp(rng.normal(0, 0.1)), 0.75, 1.35))  # < 1: a smaller, faster speaker
        pcm = resampled(pcm, factor)
        phones = [Phone(p.symbol, p.start * factor, p.end * factor) for p in phones]
    before, after = rng.uniform(0.02, 0.6), rng.uniform(0.1, 0.6)
    frames = int(np.ceil((before + len(pcm) / RATE + after) * FPS))
    clean = np.zeros(frames * FRAME, np.float32)
    begin = int(before * RATE)
    clean[begin : begin + len(pcm)] = pcm
    phones = [Phone(p.symbol, p.start + begin / RATE, p.end + begin / RATE) for p in phones]
    if rng.random() < 0.12:  # the voice stops short
        end = rng.uniform(0.3, 0.9) * len(clean) / RATE
        clean[int(end * RATE) :] = 0
        phones = [Phone(p.symbol, p.start, min(p.end, end)) for p in phones if p.start < end]
    curves = controls(clean, phones, int(rng.integers(1 << 31)))
    return Utterance(_heard(clean, rng, babble), curves, recording.voice, recording.family, clean)


def _heard(clean: Floats, rng: np.random.Generator, babble: Floats) -> Floats:
    sound = clean
    if rng.random() < 0.3:  # a compressor, as on the radio: quiet sounds are raised
        width = RATE // 50
        loud = np.sqrt(np.convolve(sound**2, np.full(width, 1 / width, np.float32), "same") + 1e-5)
        sound = sound * (loud / loud.max()) ** -rng.uniform(0.1, 0.5)
        sound = sound * (LEVEL / np.sqrt(np.mean(sound[loud > 0.2 * loud.max()] ** 2) + 1e-9))
    room = _room(rng) if rng.random() < 0.35 else None
    sound = _filtered(sound, _line(rng), room)
    if rng.random() < 0.65:
        noise = _noise(len(sound), rng, babble)
        sound = sound + noise * (LEVEL * 10 ** (-rng.uniform(6, 45) / 20))
    sound = sound * 10 ** (rng.uniform(-16, 12) / 20)
    if rng.random() < 0.08:
        sound = np.tanh(sound * 4) / 4
    kind = rng.random()
    if kind < 0.06:  # mu-law, as on the telephone
        folded = np.sign(sound) * np.log1p(255 * np.minimum(np.abs(sound), 1)) / np.log(256)
        folded = np.round(folded * 127) / 127
        sound = np.sign(folded) * (256 ** np.abs(folded) - 1) / 255
    elif kind < 0.12:
        steps = 2.0 ** rng.integers(7, 12)
        sound = np.round(sound * steps) / steps
    return np.asarray(np.clip(sound, -1, 1), np.float32)


def _line(rng: np.random.Generator) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A random frequency response: gain at each of the given frequencies."""
    knots = np.log2([60, 200, 450, 900, 1800, 3600, 8000])
    level = rng.normal(0, 4, len(knots)) + rng.normal(0, 1.5) * (knots - knots.mean())
    low = rng.uniform(100, 350) if rng.random() < 0.2 else 0.0
    high = rng.uniform(3300, 7500) if rng.random() < 0.35 else 8000.0

    def gain(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
        decibels = np.interp(np.log2(np.maximum(hertz, 30)), knots, level)
        shaped = 10 ** (decibels / 20)
        shaped /= np.sqrt(np.mean(shaped[(hertz > 200) & (hertz < 3000)] ** 2))
        return np.asarray(shaped / (1 + (low / np.maximum(hertz, 1)) ** 6) * (1 / (1 + (hertz / high) ** 24)))

    return gain


def _room(rng: np.random.Generator) -> Floats:
    """The response of a small room: the direct sound, then noise that dies away within 0.08 to 0.5 s."""
    decay = rng.uniform(0.08, 0.5)
    t = np.arange(int(decay * RATE)) / RATE
    tail = rng.normal(size=len(t)) * 10 ** (-3 * t / decay) * (t > rng.uniform(0.001, 0.006))
    tail *= 10 ** (-rng.uniform(2, 16) / 20) / np.sqrt(np.sum(tail**2) + 1e-9)
    tail[0] = 1
    return np.asarray(tail / np.sqrt(np.sum(tail**2)), np.float32)


def _filtered(
    sound: Floats, gain: Callable[[NDArray[np.float64]], NDArray[np.float64]], room: Floats | None
) -> Floats:
    length = -(-(len(sound) + 8000) // 3200) * 3200
    spectrum = np.fft.rfft(sound, length) * gain(np.fft.rfftfreq(length, 1 / RATE))
    if room is not None:
        spectrum = spectrum * np.fft.rfft(room, length)
    return np.asarray(np.fft.irfft(spectrum, length)[: len(sound)], np.float32)


def _noise(count: int, rng: np.random.Generator, babble: Floats) -> Floats:
    """Of RMS 1: white, pink, brown, the hum of the mains, or somebody else who talks."""
    kind = rng.integers(5)
    if kind == 4:
        noise = np.resize(np.roll(babble, int(rng.integers(len(babble)))), count)
        noise = noise + np.resize(np.roll(babble[::-1], int(rng.integers(len(babble)))), count)
    elif kind == 3:
        t = np.arange(count) / RATE
        mains = rng.choice([50, 60])
        noise = sum(rng.uniform(0, 1) * np.sin(2 * np.pi * (mains * h * t + rng.random())) for h in range(1, 9))
        noise = noise + 0.05 * rng.normal(size=count)
    else:
        spectrum = np.fft.rfft(rng.normal(size=count))
        hertz = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 40)
        noise = np.fft.irfft(spectrum * hertz ** (-0.5 * kind), count)
    return np.asarray(noise / np.sqrt(np.mean(noise**2) + 1e-12), np.float32)
