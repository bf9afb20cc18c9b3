"""How often turns are cut off and how long their ends are waited for: speech through the real ears, on virtual time.

    python -m evaluation.turn_taking          # 120 turns; JSON lines; the policies side by side
    python -m evaluation.turn_taking --tune   # then tries thresholds on the other half of the turns
    python -m evaluation.turn_taking --words known   # without pocketsphinx, which takes most of the time

flite says the turns on the spot, at several levels and over several noises: finished, broken off, with a pause of 0.3
to 1.2 s inside (within a phrase, as people hesitate), and
back-channels over a reply. They go frame by frame through the stages `hear`, `transcribe` and `converse`, webrtcvad,
Silero, smart-turn and pocketsphinx, which compute here and answer after the fixed times below.
A turn is cut off if it is committed before its last sound; if not, its delay lasts from there to its commit.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec

import anyio
import msgspec
import numpy as np
from numpy.typing import NDArray

from server.asr.pocketsphinx_worker import CEPSTRAL_MEANS, Hearing, new_decoder
from server.asr.wire import Ask
from server.asr.wire import Audio as AsrAudio
from server.core.events import (
    AbandonTurn,
    CommitTurn,
    CutReply,
    DropReply,
    EndJudged,
    Event,
    OpenTurn,
    Order,
    ReleaseReply,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    TakeProvisional,
)
from server.core.media import MIC_FRAME_SAMPLES, MIC_RATE, MicFrame, Transcript
from server.core.noise import NoiseCheck
from server.core.protocols import VadSession
from server.core.settings import TurnSettings
from server.core.turns import TurnTaker
from server.core.voicegate import VoiceGate, level_dbfs
from server.stages.converse import converse
from server.stages.hear import hear
from server.stages.transcribe import PREROLL_S, Listening, Transcriber
from server.vad.endpoint_wire import Judged
from server.vad.endpoint_worker import Ear, Silero, SmartTurn
from server.vad.webrtc import WebrtcVad

Pcm = NDArray[np.int16]
Sound = NDArray[np.float32]

# What the answers take on a machine that is not idle.
ASR_S = 0.04
SILERO_S = 0.03
SMART_TURN_S = 0.1
LEAD_S, TAIL_S = 1.2, 3.0  # of noise before and behind the words

VOICES = ("slt", "rms", "awb", "kal16")
PAUSES_S = (0.3, 0.45, 0.6, 0.75, 0.9, 1.05, 1.2)
SPEECH_DBFS = (-18.0, -24.0, -30.0, -36.0)
NOISES = (("quiet", -75.0), ("hiss", -52.0), ("hum", -46.0), ("fan", -48.0), ("keyboard", -45.0), ("voices", -58.0))

FINISHED = (
    "what time is it", "my name is arthur", "i would like to book a table for two people", "how old are you",
    "thank you very much", "can you help me with my homework", "where is the nearest station",
    "tell me a story about a small dragon", "no i have never been there", "what is the capital of france",
    "i live in a little house by the sea", "how do you make pancakes", "yes please", "good morning",
    "i am looking for a present for my brother", "turn the music down a little", "we arrived on tuesday evening",
    "what did you have for breakfast", "the last bus leaves at eleven", "could you say that again please",
    "that was the best film i have ever seen", "how much does the green one cost", "i do not like the cold",
    "please remind me to call my mother",
)  # fmt: skip
PAUSED = (
    "i would like to book a table for | two people",
    "when i was in london i saw a | very old bridge",
    "tomorrow morning i have to go to | the dentist",
    "could you tell me how far it is | to the station",
    "my sister and her husband | are coming for dinner on friday",
    "first we went to the | museum by the river",
    "if it rains this afternoon we | will stay at home and read",
    "the thing that i like most about | this town is the market",
    "i think we should | leave at seven",
    "i wanted to ask you whether | the shop is open on sunday",
    "please send the letter to my | office in the city",
    "she said that the train was late because | of the snow",
    "the first one is | smaller than the others",
    "after the meeting with the doctor i | felt a lot better",
    "i need two tickets for | the show and a program",
    "it was the second | house on the right",
    "you should think about it for | a moment",
    "in my opinion the book is better than | the film",
    "we have bread and butter and | some cheese from the farm",
    "as far as i know nobody lives | there any more",
    "my phone number is five five two | three seven one nine",
    "he opened the | door and looked into the garden",
    "on the way home from work i bought | some flowers",
    "i would like to know if | there is a bank around here",
)
BACKCHANNELS = ("yeah", "okay", "uh huh", "mm hmm", "right", "i see", "really")


@dataclass
class Turn:
    """One spoken turn, and what the models said of it, so that no policy makes them say it again."""

    number: int
    kind: str
    """finished, paused, unfinished or backchannel"""
    about: dict[str, object]
    pcm: Pcm
    first_s: float
    """the beginning of its first word"""
    last_s: float
    """the end of its last word, from the beginning of `pcm`"""
    known: list[tuple[float, str]]
    """what has been said by when"""
    windows: list[Judged] = field(default_factory=list)
    """Silero's, all of them"""
    opinions: dict[int, float] = field(default_factory=dict)
    """smart-turn's: frames heard -> how likely it is finished"""
    texts: dict[tuple[int, int], str] = field(default_factory=dict)
    """pocketsphinx's: first frame and number of frames -> words"""

    def words(self, now_s: float) -> str:
        """What has been said by then, the words spread evenly over each part."""
        began_s, before = self.first_s, ""
        for end_s, text in self.known:
            if now_s < end_s:
                more = text.removeprefix(before).split()
                share = max(0.0, (now_s - began_s) / max(end_s - began_s, 0.01))
                return " ".join([*before.split(), *more[: int(share * len(more))]])
            began_s, before = end_s, text
        return before

    def frames(self) -> list[bytes]:
        count = self.pcm.size // MIC_FRAME_SAMPLES
        return [row.tobytes() for row in self.pcm[: count * MIC_FRAME_SAMPLES].reshape(count, MIC_FRAME_SAMPLES)]


# ---- the turns -------------------------------------------------------------------------------------


@cache
def say(voice: str, text: str) -> Sound:
    """(n,): as flite says it, without its silence at both ends; peak 1. Raises OSError if there is no flite."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True, timeout=60)
        with wave.open(file.name) as recording:
            assert (recording.getframerate(), recording.getnchannels()) == (MIC_RATE, 1)
            sound = np.frombuffer(recording.readframes(recording.getnframes()), np.int16).astype(np.float32)
    sound /= np.abs(sound).max()
    loud = np.flatnonzero(np.abs(sound) > 0.02)
    return sound[max(0, loud[0] - 160) : loud[-1] + 160]


@cache
def phones(voice: str, text: str) -> list[float]:
    """When each of its phones ends, in seconds from flite's first sample, silences left out."""
    told = subprocess.run(
        ["flite", "-voice", voice, "-t", text, "-psdur", "-o", "none"], check=True, timeout=60, capture_output=True
    )
    pairs = (phone.split(":") for phone in told.stdout.decode().split())
    return [float(pair[-1]) for pair in pairs if pair[0] != "pau"]


def split(voice: str, first: str, second: str) -> tuple[Sound, Sound]:
    """One sentence in two, between two of its words: the melody of the first part does not know of the pause."""
    whole = f"{first} {second}"
    ends = phones(voice, whole)
    sound = say(voice, whole)
    # The times count from flite's own silence on, which `say` left out.
    offset_s = sound.size / MIC_RATE - ends[-1]
    cut = round((ends[len(phones(voice, first)) - 1] + offset_s) * MIC_RATE)
    before, behind = sound[:cut].copy(), sound[cut:].copy()
    ramp = np.linspace(1, 0, 160, dtype=np.float32)
    before[-160:] *= ramp
    behind[:160] *= ramp[::-1]
    return before, behind


def noise(kind: str, dbfs: float, samples: int, rng: np.random.Generator) -> Sound:
    """(samples,) of that RMS level."""
    white = rng.standard_normal(samples).astype(np.float32)
    time = np.arange(samples) / MIC_RATE
    if kind == "hum":
        made = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in (1, 2, 3, 5)) + 0.05 * white
    elif kind == "fan":  # brown, and breathing slowly
        made = np.cumsum(white)
        made = made - np.convolve(made, np.ones(800) / 800, "same")
        made = made * (1 + 0.3 * np.sin(2 * np.pi * 0.7 * time))
    elif kind == "keyboard":
        made = 0.02 * white
        for at in rng.integers(0, max(1, samples - 400), max(1, samples // 4000)):
            length = min(400, samples - at)
            made[at : at + length] += rng.standard_normal(length) * np.exp(-np.arange(length) / 60)
    elif kind == "voices":  # people far away: several at once, backwards
        made = 0.02 * white
        for i in range(4):
            row = np.tile(say(VOICES[i % 4], FINISHED[(7 * i + int(rng.integers(20))) % len(FINISHED)])[::-1], 12)
            made = made + np.roll(np.resize(row, samples), int(rng.integers(samples)))
    else:
        made = white
    made = np.asarray(made, np.float32)
    return np.asarray(made * 10 ** (dbfs / 20) / np.sqrt(np.mean(made**2)), np.float32)


def turns(count: int, seed: int = 7) -> Iterator[Turn]:
    """Nine of twenty with a pause, six finished, two broken off, three back-channels; always the same ones."""
    rng = np.random.default_rng(seed)
    kinds = (("paused",) * 9 + ("finished",) * 6 + ("unfinished",) * 2 + ("backchannel",) * 3) * (count // 20 + 1)
    for number, kind in enumerate(rng.permutation(kinds)[:count].tolist()):
        voice = VOICES[int(rng.integers(4))]
        dbfs = SPEECH_DBFS[int(rng.integers(4))]
        name, noise_dbfs = NOISES[int(rng.integers(len(NOISES)))]
        noise_dbfs = min(noise_dbfs, dbfs - 15)
        pause_s = 0.0
        if kind in ("paused", "unfinished"):
            first, second = PAUSED[int(rng.integers(len(PAUSED)))].split(" | ")
            text = f"{first} {second}"
            before, behind = split(voice, first, second)
            parts = [(before.size / MIC_RATE, first)]
            if kind == "unfinished":
                text, speech = first, before
            else:
                pause_s = PAUSES_S[int(rng.integers(len(PAUSES_S)))]
                speech = np.concatenate([before, np.zeros(round(pause_s * MIC_RATE), np.float32), behind])
        else:
            texts = FINISHED if kind == "finished" else BACKCHANNELS
            text = texts[int(rng.integers(len(texts)))]
            speech, parts = say(voice, text), []
        if kind != "unfinished":
            parts.append((speech.size / MIC_RATE, text))
        lead = round((LEAD_S + (1.5 if kind == "backchannel" else 0.0)) * MIC_RATE) + int(rng.integers(320))
        sound = np.zeros(lead + speech.size + round(TAIL_S * MIC_RATE), np.float32)
        voiced = speech[np.abs(speech) > 0.02]
        sound[lead : lead + speech.size] = speech * 10 ** (dbfs / 20) / np.sqrt(np.mean(voiced**2))
        sound += noise(name, noise_dbfs, sound.size, rng)
        about = {
            "text": text,
            "voice": voice,
            "dbfs": dbfs,
            "noise": name,
            "noise_dbfs": noise_dbfs,
            "pause_s": pause_s,
        }
        pcm = (sound.clip(-1, 1) * 32767).astype(np.int16)
        known = [(lead / MIC_RATE + end_s - 0.05, words) for end_s, words in parts]
        yield Turn(number, kind, about, pcm, lead / MIC_RATE, (lead + speech.size - 160) / MIC_RATE, known)


# ---- the ears, on virtual time ---------------------------------------------------------------------


class Listener:
    """One call's pocketsphinx, in this process (server.core.protocols.AsrSession); without it, the known words."""

    def __init__(self, turn: Turn, decoder: object | None, frames: list[bytes]) -> None:
        self._turn = turn
        self._decoder = decoder
        self._all = frames
        self._pushed: list[bytes] = []
        self._hearing: Hearing | None = None
        self._decoded = 0

    async def push(self, pcm16k: bytes) -> None:
        self._pushed.append(pcm16k)

    async def partials(self) -> AsyncGenerator[Transcript, None]:
        """A text every 0.2 s; its last word may yet become another."""
        told = ""
        while True:
            await anyio.sleep(0.2)
            text = self._words()
            if text != told:
                told = text
                yield Transcript(text, len(text.rpartition(" ")[0]))

    async def provisional(self) -> Transcript:
        await anyio.sleep(ASR_S)
        return Transcript(self._words())

    async def commit(self) -> Transcript:
        words = await self.provisional()
        self._forget()
        return Transcript(words.text, len(words.text), final=True)

    async def drop(self) -> None:
        self._forget()

    async def aclose(self) -> None:
        self._forget()

    def _words(self) -> str:
        """Of the utterance so far. Each begins with the model's own means: no turn hears better for another."""
        if not self._pushed:
            return ""
        key = (self._all.index(self._pushed[0]), len(self._pushed))
        if self._decoder is None:
            now_s = sum(key) * MIC_FRAME_SAMPLES / MIC_RATE
            return self._turn.words(now_s)
        if key not in self._turn.texts:
            if self._hearing is None:
                self._decoder.set_cmn(CEPSTRAL_MEANS)  # type: ignore[attr-defined]
                self._hearing, self._decoded = Hearing(self._decoder, 60.0), 0
            self._hearing.hear(AsrAudio(1, b"".join(self._pushed[self._decoded :])))
            self._decoded = len(self._pushed)
            self._turn.texts[key] = self._hearing.answer(Ask(1, 1, end=False))[0]
        return self._turn.texts[key]

    def _forget(self) -> None:
        if self._hearing is not None:
            self._hearing.release()
        self._hearing = None
        self._pushed = []


class VirtualEar:
    """As SmartTurnSession, but the worker's part is done here, and told after the time that it takes there."""

    def __init__(self, turn: Turn, vad: VadSession, models: "Models") -> None:
        self._turn = turn
        self._vad = vad
        self._models = models
        self._check = NoiseCheck()
        self._heard = 0  # frames
        self._told = 0  # windows
        self._later: list[tuple[float, Judged]] = []

    def process(self, pcm: bytes) -> bool:
        self._heard += 1
        at = self._heard * MIC_FRAME_SAMPLES
        windows = self._turn.windows
        while self._told < len(windows) and windows[self._told].end + SILERO_S * MIC_RATE <= at:
            window = windows[self._told]
            self._check.judged(window.start, window.end, window.speech)
            self._told += 1
        return self._check.confirm(self._vad.process(pcm), level_dbfs(pcm))

    async def finished(self, seconds: float) -> float:
        frames = self._heard
        await anyio.sleep(SMART_TURN_S)
        if frames not in self._turn.opinions:
            end = frames * MIC_FRAME_SAMPLES
            sound = self._turn.pcm[max(0, end - round(seconds * MIC_RATE)) : end]
            self._turn.opinions[frames] = self._models.smart_turn.finished(sound)
        return self._turn.opinions[frames]


@dataclass
class Models:
    """Loaded once."""

    smart_turn: SmartTurn
    silero: Silero
    vad: WebrtcVad
    decoder: object | None
    """None: the words are known"""

    @classmethod
    def load(cls, listen: bool) -> "Models":
        decoder = new_decoder() if listen else None
        return cls(SmartTurn(), Silero(), WebrtcVad(2), decoder)

    def judge(self, turn: Turn) -> Turn:
        """With Silero's windows in it."""
        ear = Ear(self.silero)
        turn.windows = [w for i, f in enumerate(turn.frames()) for w in ear.hear(i * MIC_FRAME_SAMPLES, f)]
        return turn


@dataclass(frozen=True)
class Policy:
    """Settings, and whether the sound is listened to."""

    name: str
    settings: TurnSettings
    listens: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a turn."""

    kind: str
    committed_s: float | None = None
    """after its last word; negative: it was cut off; None: it was never committed"""
    reply_cut: bool = False


async def play(turn: Turn, policy: Policy, models: Models) -> Outcome:
    """One turn in a call of its own, up to its commit; over a reply, up to the end of the sound."""
    start = anyio.current_time()
    frames = turn.frames()
    taker = TurnTaker(msgspec.structs.replace(policy.settings, guard_s=0.0), "en", start)
    events_in, events = anyio.create_memory_object_stream[Event](256)
    listening_in, listening = anyio.create_memory_object_stream[Listening](2000)
    outcome = Outcome(turn.kind)
    opened_s = start
    vad: VadSession = models.vad.open()
    ear = VirtualEar(turn, vad, models) if policy.listens else None

    async def microphone() -> AsyncIterator[MicFrame]:
        for i, frame in enumerate(frames):
            await anyio.sleep_until(start + (i + 1) * MIC_FRAME_SAMPLES / MIC_RATE)
            yield MicFrame(frame, anyio.current_time())

    async def judge(listener: VirtualEar, order: TakeProvisional) -> None:
        finished = await listener.finished(anyio.current_time() - opened_s + PREROLL_S)
        events_in.send_nowait(EndJudged(order.turn, order.pause, finished))

    async def reply(generation: int) -> None:
        await anyio.sleep(0.05)
        events_in.send_nowait(ReplyStarted(generation))
        while True:
            await anyio.sleep(1.0)
            events_in.send_nowait(ReplyProgressed(generation))

    def execute(order: Order) -> None:
        nonlocal outcome, opened_s
        match order:
            case OpenTurn(_, at):
                opened_s = at
                listening_in.send_nowait(order)
            case TakeProvisional():
                listening_in.send_nowait(order)
                if ear is not None:
                    tasks.start_soon(judge, ear, order)
            case AbandonTurn():
                listening_in.send_nowait(order)
            case CommitTurn():
                if turn.kind == "backchannel":
                    listening_in.send_nowait(order)
                else:
                    outcome = Outcome(turn.kind, anyio.current_time() - start - turn.last_s)
                    tasks.cancel_scope.cancel()
            case ReleaseReply(generation):
                tasks.start_soon(reply, generation)
            case CutReply() | DropReply() if turn.kind == "backchannel":
                outcome = Outcome(turn.kind, reply_cut=True)
                tasks.cancel_scope.cancel()
            case _:
                pass

    listener = Listener(turn, models.decoder, frames)
    transcriber = Transcriber(listener, events_in.send_nowait)
    with events_in, events, listening_in, listening:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transcriber.run, listening)
            tasks.start_soon(transcriber.follow, lambda _turn, _heard: None)
            tasks.start_soon(converse, events, taker, execute)
            if turn.kind == "backchannel":
                events_in.send_nowait(ReplyRequested("", say="a long story"))
            await hear(microphone(), ear or vad, VoiceGate(), listening_in.send_nowait, events_in.send_nowait)
            tasks.cancel_scope.cancel()
        await listener.aclose()
    return outcome


# ---- judging ---------------------------------------------------------------------------------------

PLAIN = TurnSettings(endpoint_fixed=True)
POLICIES = (
    Policy("silence_500", msgspec.structs.replace(PLAIN, endpoint_s=0.5)),
    Policy("silence_800", msgspec.structs.replace(PLAIN, endpoint_s=0.8)),
    Policy("words", TurnSettings()),
    Policy("words_and_voice", TurnSettings(), listens=True),
)


def figures(outcomes: list[Outcome]) -> dict[str, object]:
    """Counts, and seconds from the last word to the commit of turns that were not cut off."""
    ended = [o for o in outcomes if o.committed_s is not None]
    delays = sorted(o.committed_s for o in ended if o.committed_s is not None and o.committed_s >= 0)
    replies = [o for o in outcomes if o.kind == "backchannel"]
    figure: dict[str, object] = {
        "turns": len(outcomes) - len(replies),
        "cut_offs": len(ended) - len(delays),
        "never_ended": len(outcomes) - len(replies) - len(ended),
        "delay_median_s": round(statistics.median(delays), 3) if delays else None,
        "delay_p90_s": round(delays[int(0.9 * (len(delays) - 1))], 3) if delays else None,
        "backchannels": len(replies),
        "replies_cut": sum(o.reply_cut for o in replies),
    }
    for kind in ("finished", "paused", "unfinished"):
        of = [o.committed_s for o in ended if o.kind == kind and o.committed_s is not None and o.committed_s >= 0]
        figure[f"{kind}_median_s"] = round(statistics.median(of), 3) if of else None
    return figure


def candidates() -> Iterator[Policy]:
    """Thresholds and silences around the defaults."""
    grid = itertools.product((0.5, 0.6, 0.7, 0.8, 0.9), (0.1, 0.2, 0.3, 0.5), (0.5, 0.8), (0.3, 0.35))
    for above, below, usual, sure in grid:
        if below < above:
            turns = TurnSettings(finished_above=above, unfinished_below=below, endpoint_s=usual, endpoint_sure_s=sure)
            yield Policy(f"above {above} below {below} usual {usual} sure {sure}", turns, listens=True)


async def report(count: int, listen: bool, tune: bool, detail: bool, write: "Writer") -> None:
    """Even turns are for tuning, odd ones for the report."""
    models = Models.load(listen)
    said: list[Turn] = []
    outcomes: dict[str, list[Outcome]] = {policy.name: [] for policy in POLICIES}
    for turn in turns(count):
        said.append(models.judge(turn))
        for policy in POLICIES:
            outcomes[policy.name].append(await play(turn, policy, models))
        if detail:
            write(described(turn, {name: of[-1] for name, of in outcomes.items()}))
    words = "pocketsphinx" if listen else "known"
    for policy in POLICIES:
        for half, first in (("tuning", 0), ("report", 1)):
            write({"half": half, "policy": policy.name, "words": words, **figures(outcomes[policy.name][first::2])})
    for policy in candidates() if tune else ():
        tried = [await play(turn, policy, models) for turn in said[0::2]]
        write({"half": "tuning", "policy": policy.name, "words": words, **figures(tried)})


def described(turn: Turn, outcomes: dict[str, Outcome]) -> dict[str, object]:
    """One turn, with what was thought of it when, in seconds from its last word."""
    frame_s = MIC_FRAME_SAMPLES / MIC_RATE
    return {
        "turn": turn.number,
        "kind": turn.kind,
        **turn.about,
        "opinions": {f"{n * frame_s - turn.last_s:.2f}": round(p, 3) for n, p in sorted(turn.opinions.items())},
        "texts": {f"{(at + n) * frame_s - turn.last_s:.2f}": text for (at, n), text in sorted(turn.texts.items())},
        "committed_s": {
            name: None if o.committed_s is None else round(o.committed_s, 3) for name, o in outcomes.items()
        },
        "reply_cut": [name for name, o in outcomes.items() if o.reply_cut],
    }


class Writer:
    """JSON lines, each as soon as it is known."""

    def __call__(self, line: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=120, help="how many turns; half of them are for tuning")
    parser.add_argument(
        "--words", choices=("pocketsphinx", "known"), default="pocketsphinx", help="whose words the turns have"
    )
    parser.add_argument("--tune", action="store_true", help="try thresholds on the tuning half")
    parser.add_argument("--detail", action="store_true", help="a line for each turn, too")
    options = parser.parse_args()
    if options.turns < 4:
        parser.error("--turns must be 4 or more")
    if find_spec("onnxruntime") is None:
        parser.error("onnxruntime is not installed: pip install -e .[endpointing]")
    listen = options.words == "pocketsphinx"
    if listen and find_spec("pocketsphinx") is None:
        parser.error("pocketsphinx is not installed: pip install pocketsphinx, or --words known")
    from tests.virtual_time import virtual_run  # the repository's, as all of this is its judge

    virtual_run(report(options.turns, listen, options.tune, options.detail, Writer()))


if __name__ == "__main__":
    main()
