"""Whether a voice says what it was given: no gibberish, no swallowed beginnings. Any voice, any recogniser.

    python -m evaluation.tts_check                              # the proof: flite, clean and with injected faults
    python -m evaluation.tts_check --config my.toml --voice anna  # a configured voice says our English sentences
    python -m evaluation.tts_check --config my.toml --texts zh.txt --language zh --ear asr
    python -m evaluation.tts_check --folder said/               # NAME.wav (any sound file) beside NAME.txt

Each sentence is written down again by a recogniser and judged: errors per character, first and last word, seconds for
what its text can take at all, and the levels where it begins and ends. JSON lines; the exit status is 1 if more than
`--allow` of the sentences are faulty.
"""

import argparse
import json
import sys
import unicodedata
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import av
import numpy as np
from numpy.typing import NDArray

from evaluation.tts_ear import (
    AlignedEar,
    AsrEar,
    EarError,
    Hearing,
    Sound,
    Transcriber,
    distance,
    frame_levels,
    words,
)
from evaluation.tts_sentences import FRESH, SENTENCES
from server.config import load_config
from server.core.errors import VisavisError
from server.core.media import MIC_RATE, Clause, Voice
from server.core.protocols import Tts
from server.engines import load_asr, load_tts
from tts.plausible import span
from tts.scripts import primary
from tts.transcripts import tokens

CER_LIMIT = 0.15
"""errors per character from which on the text counts as another: our ear knows the sentence and is right but for a
short word now and then. A recogniser that does not know it needs a limit of its own (--cer)"""
EXTRA_S = 0.25
"""sound that belongs to no word; two words that meet leave 0.2 s at the most"""
EDGE_S = 0.005
EDGE_DB = -30.0
"""level of the first and the last 5 ms against the speech, from which on they lie in the middle of a sound"""
RISE_S = 0.001
"""no sound but a plosive comes from 40 dB below the speech to 15 dB below in less (flite slt, rms, awb: 1.2 ms)"""
STEP_S = 0.0006
"""nothing comes out of nothing (60 dB below the speech) to 35 dB below in less (0.8 ms)"""
PLOSIVES = tuple("bcdgjkpqt")
"""letters that may stand for one, at the beginning of a word; `th` does not"""
FILE_LIMIT_S = 120.0

Pcm = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Said:
    """One sentence as a voice said it."""

    text: str
    pcm: Pcm
    rate: int
    """Hz"""
    name: str = ""
    """the voice or the file"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with it, and the figures that say so."""

    faults: tuple[str, ...]
    """`text`, `first_word`, `last_word`, `extra_sound`, `too_short`, `too_long`, `cut_start`, `cut_end`, `silent`"""
    heard: str = ""
    cer: float = 0.0
    """errors per character of the text"""
    seconds: float = 0.0
    """from the first sound to the last"""
    per_character: float = 0.0
    """seconds for each letter or figure"""
    start_db: float = 0.0
    end_db: float = 0.0
    """level of the first and last 5 ms against the speech"""
    rise_ms: float = 0.0
    """how soon its first sound is loud"""
    step_ms: float = 0.0
    """how soon it is there at all; 99: it comes out of noise"""
    extra_s: float | None = None

    def line(self, said: Said) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "text": said.text,
            "name": said.name,
            "faults": list(self.faults),
            "heard": self.heard,
            "cer": round(self.cer, 3),
            "seconds": round(self.seconds, 2),
            "per_character": round(self.per_character, 3),
            "start_db": round(self.start_db, 1),
            "end_db": round(self.end_db, 1),
            "rise_ms": round(self.rise_ms, 2),
            "step_ms": round(self.step_ms, 2),
            "extra_s": self.extra_s,
        }


async def check(
    said: Said, language: str, ear: Transcriber, cer_limit: float = CER_LIMIT, speed: float = 1.0
) -> Verdict:
    """The whole judgement of one sentence. Raises EarError for a text that the ear cannot be asked about."""
    sound = resampled(said.pcm, said.rate)
    levels = frame_levels(sound)
    if not levels.size or levels.max() < -60.0:
        return Verdict(("silent",))
    heard = await ear.hear(sound, said.text, language)
    return judge(said, sound, heard, cer_limit, speed)


def judge(said: Said, sound: Sound, heard: Hearing, cer_limit: float = CER_LIMIT, speed: float = 1.0) -> Verdict:
    """sound: as the ear was given it, 16 kHz."""
    faults: list[str] = []
    expected = plain(" ".join(words(said.text)) if heard.missing is not None else said.text)
    cer = distance(expected, plain(heard.text)) / max(len(expected), 1)
    if cer > cer_limit:
        faults.append("text")
    begun, ended = heard.begun, heard.ended
    if begun is None or ended is None:
        begun, ended = ends_there(said.text, heard.text)
    faults += [] if begun else ["first_word"]
    faults += [] if ended else ["last_word"]
    if heard.extra_s is not None and heard.extra_s >= EXTRA_S:
        faults.append("extra_sound")
    edge = edges(said.pcm, said.rate, sound)
    bounds = span(said.text, speed)
    if edge.seconds < bounds.least_s:
        faults.append("too_short")
    if len(said.pcm) / said.rate > bounds.most_s:
        faults.append("too_long")
    first = plain(said.text)[:2]
    plosive = first.startswith(PLOSIVES) and first != "th"
    abrupt = first.isascii() and first.isalpha() and not plosive and edge.rise_ms < RISE_S * 1000
    if edge.start_db > EDGE_DB or abrupt or edge.step_ms < STEP_S * 1000:
        faults.append("cut_start")
    if edge.end_db > EDGE_DB:
        faults.append("cut_end")
    characters = sum(map(str.isalnum, said.text))
    return Verdict(
        tuple(faults),
        heard.text,
        cer,
        edge.seconds,
        edge.seconds / max(characters, 1),
        edge.start_db,
        edge.end_db,
        edge.rise_ms,
        edge.step_ms,
        heard.extra_s,
    )


def plain(text: str) -> str:
    """What of a text two spellings of it have in common: small letters and figures."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def ends_there(text: str, heard: str) -> tuple[bool, bool]:
    """Whether the first and the last word are among the first and the last two that were heard, or nearly so."""
    wanted, got = [t.word for t in tokens(text)], [t.word for t in tokens(heard)]
    if not wanted or not got:
        return False, False

    def near(word: str, others: Iterable[str]) -> bool:
        return any(distance(word, other) <= len(word) // 3 for other in others)

    return near(wanted[0], got[:2]), near(wanted[-1], got[-2:])


@dataclass(frozen=True, slots=True)
class Edges:
    """Where a sentence's sound begins and ends; levels against the speech."""

    start_db: float
    end_db: float
    rise_ms: float
    step_ms: float
    seconds: float


def edges(pcm: Pcm, rate: int, sound: Sound) -> Edges:
    """sound: the same at 16 kHz."""
    levels = frame_levels(sound)
    speech_db = float(np.percentile(levels, 90))
    samples = pcm.astype(np.float64) / 32768
    edge = max(int(rate * EDGE_S), 1)
    loud = np.flatnonzero(levels > speech_db - 40.0)
    return Edges(
        _level_db(samples[:edge]) - speech_db,
        _level_db(samples[-edge:]) - speech_db,
        _climb_ms(sound, 0.005, speech_db - 40.0, speech_db - 15.0, 0.0),
        _climb_ms(sound, 0.001, speech_db - 60.0, speech_db - 35.0, 99.0),
        float(loud[-1] + 1 - loud[0]) * 0.01 if loud.size else 0.0,
    )


def _level_db(part: NDArray[np.float64]) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(part**2)) + 1e-9))


def _climb_ms(sound: Sound, window_s: float, from_db: float, to_db: float, never: float) -> float:
    """From the last moment below the one level to the first above the other; `never` if there is no such moment."""
    window = int(window_s * MIC_RATE)
    power = np.convolve(sound.astype(np.float64) ** 2, np.ones(window) / window)[: len(sound)]
    levels = 10 * np.log10(power + 1e-12)
    there = int(np.argmax(levels > to_db))
    below = np.flatnonzero(levels[:there] < from_db)
    return (there - int(below[-1])) / MIC_RATE * 1000 if below.size else never


def resampled(pcm: Pcm, rate: int) -> Sound:
    """(samples,) at 16 kHz, -1 to 1."""
    if rate == MIC_RATE:
        return pcm.astype(np.float32) / np.float32(32768)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=MIC_RATE)
    frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = rate
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    sound: Sound = np.concatenate([f.to_ndarray().reshape(-1) for f in frames]).astype(np.float32)
    return sound


# ---- where sentences come from ----------------------------------------------------------------------------------


async def spoken(tts: Tts, text: str, language: str, voice: Voice) -> Said:
    """The voice says it, unabridged: the call would take the silence off both ends."""
    parts, rate = [], MIC_RATE
    async with aclosing(tts.say(Clause(0, text, text, language), voice)) as pieces:
        async for piece in pieces:
            parts.append(piece.pcm)
            rate = piece.rate
    return Said(text, np.frombuffer(b"".join(parts), np.int16), rate, voice.name)


async def from_voice(tts: Tts, texts: Sequence[str], language: str, voice: Voice) -> AsyncGenerator[Said, None]:
    for text in texts:
        yield await spoken(tts, text, language, voice)


async def from_folder(folder: Path) -> AsyncGenerator[Said, None]:
    """Every NAME.txt with a sound file of that name."""
    for file, text in await anyio.to_thread.run_sync(pairs, folder):
        yield await anyio.to_thread.run_sync(read, file, text)


def pairs(folder: Path) -> list[tuple[Path, str]]:
    """Sound files and what they should say. Raises EarError."""
    found: list[tuple[Path, str]] = []
    for note in sorted(folder.glob("*.txt")):
        file = next((f for f in sorted(folder.glob(f"{note.stem}.*")) if f != note), None)
        if file is None:
            raise EarError(f"There is no sound file {note.stem}.* beside {note}.")
        found.append((file, note.read_text("utf-8").strip()))
    return found


def read(file: Path, text: str) -> Said:
    """Raises EarError if the file is no sound."""
    try:
        with av.open(str(file)) as container:
            stream = container.streams.audio[0]
            rate = stream.rate or MIC_RATE
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            frames = []
            for frame in container.decode(stream):
                frames += resampler.resample(frame)
                if sum(f.samples for f in frames) > FILE_LIMIT_S * rate:
                    raise EarError(f"{file} is longer than {FILE_LIMIT_S:.0f} s: one sentence a file.")
            frames += resampler.resample(None)
    except (av.FFmpegError, IndexError) as error:
        raise EarError(f"{file} cannot be read as sound: {error}") from None
    pcm = np.concatenate([f.to_ndarray().reshape(-1) for f in frames]) if frames else np.zeros(0, np.int16)
    return Said(text, pcm.astype(np.int16), rate, file.name)


# ---- the command ------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return anyio.run(_run, options)
    except VisavisError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evaluation.tts_check", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, help="judge NAME.wav by NAME.txt")
    parser.add_argument("--config", type=Path, action="append", default=[], metavar="FILE", help="judge its voice")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="... with this setting")
    parser.add_argument("--voice", default="", help="one of its voices; its default if not given")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--texts", type=Path, help="sentences, one a line; ours (English) if not given")
    parser.add_argument("--language", default="en")
    parser.add_argument(
        "--ear", choices=("aligned", "asr"), default="aligned",
        help="pocketsphinx, told the sentence (English), or the configured recogniser, which is not",
    )  # fmt: skip
    parser.add_argument("--cer", type=float, default=CER_LIMIT, help="errors per character that are still right")
    parser.add_argument("--allow", type=float, default=0.02, help="share of sentences that may be faulty")
    parser.add_argument("--count", type=int, default=0, help="sentences at most; of the proof: of each fault")
    return parser


async def _run(options: argparse.Namespace) -> int:
    if options.folder is None and not options.config and not options.set:
        from evaluation.tts_proof import prove

        return 0 if await prove(options.count or 40) else 1
    async with AsyncExitStack() as stack:
        config = load_config(options.config, options.set)
        if options.ear == "aligned":
            ear: Transcriber = AlignedEar()
        else:
            ear = AsrEar(await stack.enter_async_context(load_asr(config)))
        if primary(options.language) not in ear.languages:
            raise EarError(
                f"This ear does not understand {options.language!r}: try --ear asr with a recogniser for it."
            )
        if options.folder is not None:
            source = from_folder(options.folder)
        else:
            tts = await stack.enter_async_context(load_tts(config))
            texts = _texts(options)
            source = from_voice(tts, texts, options.language, Voice(options.voice, options.speed))
        faulty = count = 0
        async with aclosing(source) as sentences:
            async for said in sentences:
                verdict = await check(said, options.language, ear, options.cer, options.speed)
                print(json.dumps(verdict.line(said), ensure_ascii=False), flush=True)
                count += 1
                faulty += bool(verdict.faults)
                if count == options.count:
                    break
    if not count:
        raise EarError("There is nothing to judge: no sentences.")
    share = faulty / count
    print(json.dumps({"figure": "tts_check.faulty", "sentences": count, "faulty": faulty, "share": round(share, 4)}))
    return 0 if share <= options.allow else 1


def _texts(options: argparse.Namespace) -> Sequence[str]:
    if options.texts is not None:
        return [line.strip() for line in options.texts.read_text("utf-8").splitlines() if line.strip()]
    if primary(options.language) != "en":
        raise EarError("Our own sentences are English: give others with --texts, one a line.")
    return [*FRESH, *SENTENCES]


if __name__ == "__main__":
    sys.exit(main())
