"""How often turns are cut off and how long their ends are waited for: spoken turns, real ears, and what they decide.

    python -m evaluation.turn_taking                # three sets of turns, the policies side by side
    python -m evaluation.turn_taking judged         # only that which nobody tuned for
    python -m evaluation.turn_taking --tune         # looks for better settings on the set `tuning`, judges them, too
    python -m evaluation.turn_taking --words known  # what was said, instead of what pocketsphinx heard of it
    python -m evaluation.turn_taking --cost         # the processor time that Silero and smart-turn take in a call

Each turn (evaluation/spoken_turns.py) goes through webrtcvad, Silero, smart-turn and pocketsphinx once; what they say
of it is kept in a folder (--cache). What a policy makes of that is replayed: the call's own voice gate, noise check
and TurnTaker, on a clock of events. One replay takes milliseconds, so that settings can be tried by the hundred.
A turn is cut off if it is committed before its last sound; if not, its delay lasts from there to its commit.
"""

import argparse
import hashlib
import heapq
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np

from evaluation.spoken_turns import RECORDINGS, Turn, people, turns
from server.asr.pocketsphinx_worker import CEPSTRAL_MEANS, Hearing, new_decoder
from server.asr.wire import Ask
from server.asr.wire import Audio as AsrAudio
from server.core.endpointing import units
from server.core.events import (
    AbandonTurn,
    CommitTurn,
    CutReply,
    DropReply,
    EndJudged,
    Event,
    FinalHeard,
    OpenTurn,
    Order,
    PartialHeard,
    ProvisionalHeard,
    ReleaseReply,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    TakeProvisional,
)
from server.core.media import MIC_FRAME_BYTES, MIC_FRAME_SAMPLES, MIC_RATE
from server.core.noise import NoiseCheck
from server.core.settings import TurnSettings
from server.core.turns import TurnTaker
from server.core.voicegate import VoiceGate, level_dbfs
from server.stages.transcribe import KEPT_FRAMES, PREROLL_S
from server.vad.endpoint_worker import SHA256, Ear, Silero, SmartTurn
from server.vad.smart_turn import SmartTurnSettings
from server.vad.webrtc import WebrtcVad

FRAME_S = MIC_FRAME_SAMPLES / MIC_RATE
# What the answers take on a machine that is not idle.
ASR_S = 0.04
SILERO_S = 0.03
SMART_TURN_S = 0.1
PARTIAL_S = 0.2
TEXT_FRAMES = 2  # the words are asked for every 40 ms


# ---- what the models say ---------------------------------------------------------------------------


class Heard(msgspec.Struct):
    """All that was ever asked about one sound."""

    quick: list[bool]
    """webrtcvad's, of each frame"""
    windows: list[tuple[int, int, float]]
    """Silero's: first and last sample, probability of speech"""
    opinions: dict[str, float] = {}
    """smart-turn's: "first:last" sample -> how likely the turn is over"""
    texts: dict[str, list[str]] = {}
    """pocketsphinx's: first frame -> the words after each TEXT_FRAMES of it, up to a second behind the last word"""


class Models:
    """Loaded when something is asked that is not in the folder."""

    def __init__(self, folder: Path, listen: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.listen = listen
        """whether pocketsphinx listens; if not, the words are known"""

    @cached_property
    def smart_turn(self) -> SmartTurn:
        return SmartTurn()

    @cached_property
    def silero(self) -> Silero:
        return Silero()

    @cached_property
    def vad(self) -> WebrtcVad:
        return WebrtcVad(2)

    @cached_property
    def decoder(self) -> Any:
        return new_decoder()

    def hear(self, turn: Turn) -> "Ears":
        path = (
            self._folder
            / f"{hashlib.sha256(turn.pcm.tobytes() + ''.join(SHA256.values()).encode()).hexdigest()}.json"
        )
        if path.exists():
            return Ears(turn, self, path, msgspec.json.decode(path.read_bytes(), type=Heard))
        ear, vad = Ear(self.silero), self.vad.open()
        windows = [w for i, f in enumerate(turn.frames()) for w in ear.hear(i * MIC_FRAME_SAMPLES, f)]
        heard = Heard([vad.process(f) for f in turn.frames()], [(w.start, w.end, w.speech) for w in windows])
        return Ears(turn, self, path, heard)


class Ears:
    """One turn's sound, and what is heard of it."""

    def __init__(self, turn: Turn, models: Models, path: Path, heard: Heard) -> None:
        self.turn = turn
        self.heard = heard
        self._models = models
        self._path = path
        self._voices: dict[float, list[tuple[float, Event]]] = {}
        self._levels = [level_dbfs(frame) for frame in turn.frames()]
        self._changed = not path.exists()

    def keep(self) -> None:
        if self._changed:
            part = self._path.with_suffix(f".{os.getpid()}")
            part.write_bytes(msgspec.json.encode(self.heard))
            part.replace(self._path)
            self._changed = False

    def voices(self, noise_below: float) -> list[tuple[float, Event]]:
        """When the voice started and stopped, and when that was told. 0: nobody asked Silero."""
        if noise_below not in self._voices:
            check, gate = NoiseCheck(noise_below=noise_below), VoiceGate()
            told: list[tuple[float, Event]] = []
            windows = iter(self.heard.windows if noise_below else ())
            window = next(windows, None)
            for i, (frame, quick) in enumerate(zip(self.turn.frames(), self.heard.quick, strict=True)):
                at = (i + 1) * MIC_FRAME_SAMPLES
                while window is not None and window[1] + SILERO_S * MIC_RATE <= at:
                    check.judged(*window)
                    window = next(windows, None)
                end_s = (i + 1) * FRAME_S
                told += [(end_s, e) for e in gate.feed(frame, check.confirm(quick, self._levels[i]), end_s)]
            self._voices[noise_below] = told
        return self._voices[noise_below]

    def finished(self, now_s: float, seconds: float) -> float:
        """smart-turn's opinion on the last so many seconds."""
        last = int(now_s / FRAME_S + 1e-6) * MIC_FRAME_SAMPLES
        first = max(0, last - round(seconds * MIC_RATE))
        key = f"{first}:{last}"
        if key not in self.heard.opinions:
            self.heard.opinions[key] = self._models.smart_turn.finished(self.turn.pcm[first:last])
            self._changed = True
        return self.heard.opinions[key]

    def words(self, first: int, now_s: float) -> str:
        """Those from a frame on until now."""
        if not self._models.listen:
            return self.turn.words(now_s)
        if str(first) not in self.heard.texts:
            self.heard.texts[str(first)] = list(self._decode(first))
            self._changed = True
        texts = self.heard.texts[str(first)]
        asked = (int(now_s / FRAME_S + 1e-6) - first) // TEXT_FRAMES
        return texts[min(asked, len(texts)) - 1] if asked > 0 and texts else ""

    def _decode(self, first: int) -> Iterator[str]:
        """Each begins with the model's own means: no turn hears better for another."""
        decoder = self._models.decoder
        decoder.set_cmn(CEPSTRAL_MEANS)
        hearing = Hearing(decoder, 60.0)
        frames = self.turn.frames()
        for i in range(first, min(len(frames), int((self.turn.last_s + 1.0) / FRAME_S)), TEXT_FRAMES):
            hearing.hear(AsrAudio(1, b"".join(frames[i : i + TEXT_FRAMES])))
            yield hearing.answer(Ask(1, 1, end=False))[0]
        hearing.release()


# ---- replaying -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """Settings, and whether the sound is listened to."""

    name: str
    settings: TurnSettings
    noise_below: float = 0.0
    """under this Silero calls it noise; 0: Silero is not there"""
    listens: bool = False
    """whether smart-turn is there"""


@dataclass(frozen=True)
class Outcome:
    """What became of a turn."""

    kind: str
    committed_s: float | None = None
    """after its last word; negative: it was cut off; None: it was never committed"""
    reply_cut: bool = False
    asked: tuple[tuple[float, str, float | None], ...] = ()
    """in each pause that was long enough: seconds after the last word, the words, smart-turn's opinion"""


class Replay:
    """One turn in a call of its own, up to its commit; over a reply, up to the end of the sound."""

    def __init__(self, ears: Ears, policy: Policy) -> None:
        self._ears = ears
        self._policy = policy
        self._number = itertools.count()
        self._due: list[tuple[float, int, Event]] = []
        self._taker = TurnTaker(msgspec.structs.replace(policy.settings, guard_s=0.0), "en", 0.0)
        self._free_from = 0  # first frame that belongs to no earlier utterance
        self._first = 0
        self._asked: list[tuple[float, str, float | None]] = []
        self._outcome: Outcome | None = None

    def run(self) -> Outcome:
        turn = self._ears.turn
        for at, event in self._ears.voices(self._policy.noise_below):
            self._tell(at, event)
        if turn.kind == "backchannel":
            self._tell(0.0, ReplyRequested("", say="a long story"))
        end_s = len(self._ears.heard.quick) * FRAME_S
        while self._outcome is None:
            deadline = self._taker.deadline()
            at = min(self._due[0][0] if self._due else end_s, end_s if deadline is None else deadline)
            if at >= end_s:
                break
            if self._due and self._due[0][0] <= at:
                orders = self._taker.handle(heapq.heappop(self._due)[2], at)
            else:
                orders = self._taker.tick(at)
            for order in orders:
                self._execute(order, at)
        return self._outcome or Outcome(turn.kind, asked=tuple(self._asked))

    def _tell(self, at: float, event: Event) -> None:
        heapq.heappush(self._due, (at, next(self._number), event))

    def _execute(self, order: Order, now: float) -> None:
        turn = self._ears.turn
        match order:
            case OpenTurn(number, at):
                heard = int(now / FRAME_S + 1e-6)
                self._first = max(self._free_from, heard - KEPT_FRAMES, int((at - PREROLL_S) / FRAME_S + 1e-6))
                if turn.kind == "backchannel":
                    self._partials(number, now)
            case TakeProvisional(number, pause, since):
                text = self._ears.words(self._first, now)
                self._tell(now + ASR_S, ProvisionalHeard(number, text))
                opinion = None
                if self._policy.listens:
                    opinion = self._ears.finished(now, now - since + PREROLL_S)
                    self._tell(now + SMART_TURN_S, EndJudged(number, pause, opinion))
                self._asked.append((round(now - turn.last_s, 3), text, opinion))
            case AbandonTurn():
                self._close(now)
            case CommitTurn(number):
                if turn.kind == "backchannel":
                    self._tell(now + ASR_S, FinalHeard(number, self._ears.words(self._first, now)))
                    self._close(now)
                else:
                    self._outcome = Outcome(turn.kind, now - turn.last_s, asked=tuple(self._asked))
            case ReleaseReply(generation):
                self._tell(now + 0.05, ReplyStarted(generation))
                for second in range(1, 10):
                    self._tell(now + 0.05 + second, ReplyProgressed(generation))
            case CutReply() | DropReply() if turn.kind == "backchannel":
                self._outcome = Outcome(turn.kind, reply_cut=True)
            case _:
                pass

    def _partials(self, number: int, now: float) -> None:
        """A text every 0.2 s, to whom it may concern; its last word may yet become another."""
        told = ""
        for i in range(1, 20):
            at = now + i * PARTIAL_S
            text = self._ears.words(self._first, at)
            if text != told:
                told = text
                self._tell(at, PartialHeard(number, text, units(text.rpartition(" ")[0])))

    def _close(self, now: float) -> None:
        self._free_from = int(now / FRAME_S + 1e-6)


# ---- judging ---------------------------------------------------------------------------------------

PLAIN = TurnSettings(endpoint_fixed=True)
POLICIES = (
    Policy("silence_500", msgspec.structs.replace(PLAIN, endpoint_s=0.5)),
    Policy("silence_800", msgspec.structs.replace(PLAIN, endpoint_s=0.8)),
    Policy("words", TurnSettings()),
    Policy("words_and_voice", TurnSettings(), noise_below=SmartTurnSettings().noise_below, listens=True),
)
# What is tried, one setting after the other, twice round. endpoint_s holds where nobody listens to the voice, too.
TRIED: dict[str, tuple[float, ...]] = {
    "finished_above": (0.5, 0.6, 0.7, 0.8, 0.9),
    "unfinished_below": (0.1, 0.2, 0.3, 0.4, 0.45),
    "endpoint_sure_s": (0.3, 0.35, 0.4),
    "endpoint_patient_s": (1.0, 1.1, 1.2, 1.3, 1.4, 1.5),
}
CUT_OFF_S = 3.0
"""delay that one would bear to be spared one cut-off; what is tuned is the mean over all turns"""


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
        "delay_mean_s": round(statistics.mean(delays), 3) if delays else None,
        "delay_p90_s": round(delays[int(0.9 * (len(delays) - 1))], 3) if delays else None,
        "backchannels": len(replies),
        "replies_cut": sum(o.reply_cut for o in replies),
    }
    for kind in ("finished", "paused", "unfinished"):
        of = [o.committed_s for o in ended if o.kind == kind and o.committed_s is not None and o.committed_s >= 0]
        figure[f"{kind}_median_s"] = round(statistics.median(of), 3) if of else None
    return figure


def price(outcomes: list[Outcome]) -> float:
    """Mean seconds of a turn; less is better."""
    ends = [o.committed_s for o in outcomes if o.committed_s is not None]
    return statistics.mean(CUT_OFF_S if end < 0 else end for end in ends)


def tune(said: list[Ears], start: Policy, write: "Writer") -> Policy:
    """The best settings for these turns, from the defaults on: each setting in its turn, the others as they are."""
    turns_alone = [ears for ears in said if ears.turn.kind != "backchannel"]
    best = start
    for name, values in [*TRIED.items()] * 2:
        tried = []
        for value in values:
            settings = msgspec.structs.replace(best.settings, **{name: value})
            outcomes = [Replay(ears, replace(start, settings=settings)).run() for ears in turns_alone]
            tried.append((price(outcomes), value != getattr(best.settings, name), settings))
            write({"tried": name, "value": value, "price_s": round(tried[-1][0], 4), **figures(outcomes)})
        best = replace(start, name="tuned", settings=min(tried, key=lambda trial: trial[:2])[2])
    changed = {name: getattr(best.settings, name) for name in TRIED}
    write({"tuned": changed, "default": {name: getattr(start.settings, name) for name in TRIED}})
    return best


def report(options: argparse.Namespace, write: "Writer") -> None:
    models = Models(options.cache, options.words == "pocketsphinx")
    policies: tuple[Policy, ...] = POLICIES
    for name in options.sets:
        asked = people() if name == "people" else turns(name, options.turns)
        said = []
        for turn in asked:
            ears = models.hear(turn)
            said.append(ears)
            outcomes = {policy.name: Replay(ears, policy).run() for policy in policies}
            ears.keep()
            if options.detail:
                write(described(turn, outcomes))
        if options.tune and name == "tuning":
            policies = (*POLICIES, tune(said, POLICIES[-1], write))
        for policy in policies:
            of = figures([Replay(ears, policy).run() for ears in said])
            write({"set": name, "policy": policy.name, "words": options.words, **of})
        for ears in said:
            ears.keep()


def described(turn: Turn, outcomes: dict[str, Outcome]) -> dict[str, object]:
    """One turn, with what was thought of it when, in seconds from its last word."""
    return {
        "turn": turn.number,
        "kind": turn.kind,
        **turn.about,
        "pauses": next(reversed(outcomes.values())).asked,
        "committed_s": {
            name: None if o.committed_s is None else round(o.committed_s, 3) for name, o in outcomes.items()
        },
        "reply_cut": [name for name, o in outcomes.items() if o.reply_cut],
    }


async def cost(write: "Writer") -> None:
    """What the worker takes for a call in which somebody speaks all the time and pauses every five seconds."""
    seconds = 60
    said = next(turns("judged", 1))
    pcm = np.resize(said.pcm, seconds * MIC_RATE).tobytes()
    async with SmartTurnSettings(answer_s=1.0).load() as ends:
        session = ends.open(WebrtcVad(2).open())
        pid = ends.worker.pid
        assert pid is not None
        idle_s, opinion_s = processor_s(pid), 0.0
        for i in range(0, len(pcm), MIC_FRAME_BYTES):
            session.process(pcm[i : i + MIC_FRAME_BYTES])
            if i % MIC_RATE == 0:  # every half second: what was sent has been heard by then
                await session.finished(0.02)
        silero_s = processor_s(pid) - idle_s
        before_s, count = processor_s(pid), 12
        for _ in range(count):
            await session.finished(8.0)
        opinion_s = (processor_s(pid) - before_s) / count
        silero_s -= opinion_s * seconds * 2
        await session.aclose()
    write(
        {
            "silero_cpu_s_per_s": round(silero_s / seconds, 4),
            "opinion_cpu_s": round(opinion_s, 4),
            "cpu_s_per_s": round(silero_s / seconds + opinion_s / 5, 4),
        }
    )


def processor_s(pid: int) -> float:
    """Processor seconds that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Writer:
    """JSON lines, each as soon as it is known."""

    def __call__(self, line: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = ("tuning", "judged", "people")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"{', '.join(sets)}; all of them if none is named")
    parser.add_argument("--turns", type=int, default=240, help="how many turns of a set (default: %(default)s)")
    parser.add_argument(
        "--words", choices=("pocketsphinx", "known"), default="pocketsphinx", help="whose words the turns have"
    )
    parser.add_argument("--tune", action="store_true", help="look for the best settings on the tuning set")
    parser.add_argument("--detail", action="store_true", help="a line for each turn, too")
    parser.add_argument("--cost", action="store_true", help="instead: the processor time that the worker takes")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "visavis-turn-taking",
        help="folder in which what the models said is kept (default: %(default)s)",
    )
    options = parser.parse_args()
    options.sets = options.sets or list(sets)
    if unknown := set(options.sets) - set(sets):
        parser.error(f"there is no set {', '.join(sorted(unknown))}; there is {', '.join(sets)}")
    if not 1 <= options.turns <= 240:
        parser.error("--turns must be 1 to 240")
    if options.tune and "tuning" not in options.sets:
        parser.error("--tune needs the set tuning, too")
    if find_spec("onnxruntime") is None:
        parser.error("onnxruntime is not installed: pip install -e .[endpointing]")
    if options.words == "pocketsphinx" and find_spec("pocketsphinx") is None:
        parser.error("pocketsphinx is not installed: pip install pocketsphinx, or --words known")
    if "people" in options.sets and not RECORDINGS.is_dir():
        parser.error(f"{RECORDINGS} is not there: apt install pocketsphinx-testdata, or name the other sets")
    if options.cost:
        anyio.run(cost, Writer())
    else:
        options.sets.sort(key=sets.index)
        report(options, Writer())


if __name__ == "__main__":
    main()
