"""The proof of tts_check: flite, clean and with injected faults, on sentences on which no threshold was chosen."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evaluation.tts_check import Pcm, Said, Verdict, check, spoken
from evaluation.tts_ear import AlignedEar, Transcriber
from evaluation.tts_sentences import FRESH, SENTENCES
from server.core.media import Voice
from server.core.protocols import Tts
from tts.flite import FliteSettings

VOICES = ("slt", "rms", "awb")
"""not kal16: its sentences begin and end in the middle of a sound by themselves"""
CLEAN = 200
FALSE_ALARMS = 0.02
CUT_S, NOISE_S = 0.12, 0.04
SYLLABLES = ("ga", "mib", "tor", "nesh", "loo", "vank", "dree", "pom", "zil", "shay", "kef", "woon")


async def prove(count: int = 40, clean: int = CLEAN) -> bool:
    """Prints JSON lines; whether at most 2 % of `clean` sentences are called faulty, and each of `count` faults of a
    kind is found. Raises StageError where flite is missing, EarError where pocketsphinx is."""
    ear = AlignedEar()
    good = True
    async with FliteSettings().load() as tts:
        sentences = [(text, voice) for voice in VOICES for text in FRESH][:clean]
        tally = await _judge_all(ear, [await spoken(tts, t, "en", Voice(v)) for t, v in sentences], "tts_check.clean")
        good &= len(sentences) - tally <= FALSE_ALARMS * len(sentences)
        for kind in FAULTS:
            tally = await _judge_all(ear, await injected(tts, kind, count), f"tts_check.{kind}")
            good &= tally == 0
    return good


async def _judge_all(ear: Transcriber, sentences: Sequence[Said], figure: str) -> int:
    """How many of them are called right; prints the figure, and each sentence that is judged wrongly."""
    verdicts = [await check(said, "en", ear) for said in sentences]
    right = sum(not verdict.faults for verdict in verdicts)
    clean = figure.endswith(".clean")
    for said, verdict in zip(sentences, verdicts, strict=True):
        if clean == bool(verdict.faults):
            print(json.dumps({"wrong": figure} | verdict.line(said)), flush=True)
    print(json.dumps({"figure": figure, "sentences": len(sentences)} | _summary(verdicts, clean)), flush=True)
    return right


def _summary(verdicts: Sequence[Verdict], clean: bool) -> dict[str, object]:
    faulty = [verdict for verdict in verdicts if verdict.faults]
    by = Counter(fault for verdict in faulty for fault in verdict.faults)
    name = "false_alarms" if clean else "found"
    return {
        name: len(faulty),
        "share": round(len(faulty) / max(len(verdicts), 1), 4),
        "by": dict(by),
        "cer_median": round(float(np.median([verdict.cer for verdict in verdicts])), 3),
    }


# ---- the faults -------------------------------------------------------------------------------------------------


async def injected(tts: Tts, kind: str, count: int) -> list[Said]:
    """So many sentences with this fault, always the same ones; the voices take turns."""
    rng = np.random.default_rng(11)
    texts = [FRESH[int(k)] for k in rng.permutation(len(FRESH))[:count]]
    said = [await spoken(tts, text, "en", Voice(VOICES[i % 3])) for i, text in enumerate(texts)]
    return [replace(one, pcm=await FAULTS[kind](tts, one, i, rng)) for i, one in enumerate(said)]


async def _cut(tts: Tts, said: Said, number: int, rng: np.random.Generator) -> Pcm:
    """The first 120 ms are missing; for every other one silence stands before the rest."""
    first, _ = extent(said)
    rest = said.pcm[first + int(CUT_S * said.rate) :]
    return np.concatenate([silence(0.1, said.rate), rest]) if number % 2 else rest


async def _half(tts: Tts, said: Said, number: int, rng: np.random.Generator) -> Pcm:
    """The first or the second half of the words."""
    tokens = said.text.split()
    middle = len(tokens) // 2
    half = " ".join(tokens[:middle] if number % 2 else tokens[middle:])
    return (await spoken(tts, half, "en", Voice(said.name))).pcm


async def _prompt(tts: Tts, said: Said, number: int, rng: np.random.Generator) -> Pcm:
    """What a cloned voice's reference says comes first."""
    other = await spoken(tts, SENTENCES[number % len(SENTENCES)], "en", Voice(said.name))
    return np.concatenate([other.pcm, said.pcm])


async def _babble(tts: Tts, said: Said, number: int, rng: np.random.Generator) -> Pcm:
    """Half a second or more of syllables, or of speech backwards, after the last word."""
    if number % 2:
        text = " ".join(SYLLABLES[int(k)] for k in rng.permutation(len(SYLLABLES))[: 3 + number % 5])
    else:
        text = SENTENCES[number % len(SENTENCES)]
    other = await spoken(tts, text, "en", Voice(said.name))
    first, past = extent(other)
    sound = other.pcm[first:past] if number % 2 else other.pcm[first:past][::-1]
    sound = sound[: int(rng.uniform(0.5, 1.5) * said.rate)]
    _, end = extent(said)
    return np.concatenate([said.pcm[:end], silence(rng.uniform(0, 0.15), said.rate), sound, silence(0.2, said.rate)])


async def _noise(tts: Tts, said: Said, number: int, rng: np.random.Generator) -> Pcm:
    """The last 40 ms are noise, 10 to 20 dB below the speech: right behind the last word or after its silence."""
    _, end = extent(said)
    level = np.sqrt(np.mean(said.pcm.astype(float) ** 2)) * 10 ** (-rng.uniform(10, 20) / 20)
    noise = (rng.standard_normal(int(NOISE_S * said.rate)) * level).clip(-32768, 32767).astype(np.int16)
    return np.concatenate([said.pcm[:end] if number % 2 else said.pcm, noise])


FAULTS = {
    "first_120_ms_cut": _cut,
    "half_the_text": _half,
    "prompt_read_aloud": _prompt,
    "babble_appended": _babble,
    "noise_at_the_end": _noise,
}


def extent(said: Said) -> tuple[int, int]:
    """The first and one past the last sample that is loud (within 36 dB of the peak)."""
    level = np.abs(said.pcm.astype(np.int32))
    loud: NDArray[np.intp] = np.flatnonzero(level > level.max() / 64)
    return int(loud[0]), int(loud[-1]) + 1


def silence(seconds: float, rate: int) -> Pcm:
    return np.zeros(int(seconds * rate), np.int16)
