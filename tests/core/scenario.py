"""Plays conversations against a TurnTaker on virtual time, and watches that its orders make sense."""

import heapq
import itertools
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from server.core.endpointing import units
from server.core.events import (
    AbandonTurn,
    ChangeState,
    CommitTurn,
    CutReply,
    DropReply,
    EndJudged,
    Event,
    FinalHeard,
    OpenTurn,
    Order,
    PartialHeard,
    PauseReply,
    PrepareReply,
    ProvisionalHeard,
    ReleaseReply,
    ReplanReply,
    ReplyFinished,
    ReplyPrepared,
    ReplyProgressed,
    ReplyStarted,
    ResumeReply,
    State,
    TakeProvisional,
    VoiceStarted,
    VoiceStopped,
)
from server.core.settings import TurnSettings
from server.core.turns import MOVES, TurnTaker


class Witness:
    """Sees every event and order of a call and fails when an order could not be carried out."""

    def __init__(self) -> None:
        self.state = State.LISTENING
        self.open_turn: int | None = None
        self.turns: dict[int, str] = {}
        """every turn: `open`, `committed` or `abandoned`"""
        self.reply: int | None = None
        self.phase = ""
        """of that reply: `held`, `released`, `audible`, `paused`"""
        self.replies = 0

    def saw(self, event: Event) -> None:
        match event:
            case ReplyStarted(generation):
                if generation == self.reply and self.phase == "released":
                    self.phase = "audible"
            case ReplyFinished(generation):
                if generation == self.reply:
                    self.reply = None

    def check(self, orders: Iterable[Order], taker: TurnTaker, now: float) -> None:
        promised: int | None = None
        for order in orders:
            match order:
                case OpenTurn(turn, at):
                    assert self.open_turn is None
                    assert turn == len(self.turns) + 1
                    assert now - taker.settings.preroll_s - 1e-9 <= at <= now
                    self.open_turn, self.turns[turn] = turn, "open"
                case TakeProvisional(turn):
                    assert turn == self.open_turn
                case CommitTurn(turn, at, text):
                    assert turn == self.open_turn
                    assert at <= now
                    self.open_turn, self.turns[turn] = None, "committed"
                    promised = turn if text is not None else None
                case AbandonTurn(turn):
                    assert turn == self.open_turn
                    self.open_turn, self.turns[turn] = None, "abandoned"
                case PrepareReply(generation, turn, _, planned_s, _):
                    assert self.reply is None, "two replies alive"
                    assert generation == self.replies + 1
                    if planned_s is not None:
                        assert planned_s > now
                        assert turn == self.open_turn
                    elif turn is not None:
                        assert self.turns[turn] == "committed"
                    self.replies, self.reply, self.phase = generation, generation, "held"
                case ReplanReply(generation, planned_s):
                    assert (generation, self.phase) == (self.reply, "held")
                    assert planned_s >= now
                case ReleaseReply(generation):
                    assert (generation, self.phase) == (self.reply, "held")
                    self.phase, promised = "released", None
                case PauseReply(generation):
                    assert (generation, self.phase) == (self.reply, "audible")
                    self.phase = "paused"
                case ResumeReply(generation):
                    assert (generation, self.phase) == (self.reply, "paused")
                    self.phase = "audible"
                case DropReply(generation):
                    assert generation == self.reply
                    assert self.phase in ("held", "released")
                    self.reply = None
                case CutReply(generation):
                    assert generation == self.reply
                    assert self.phase in ("audible", "paused")
                    self.reply = None
                case ChangeState(state):
                    assert state in MOVES[self.state]
                    self.state = state
        assert promised is None, "committed with text, but no reply was released"
        phase = self.phase if self.reply is not None else "none"
        expected = {
            State.LISTENING: (False, ("none",)),
            State.HEARING: (True, ("none", "held")),
            State.THINKING: (False, ("none", "released")),
            State.SPEAKING: (False, ("audible",)),
            State.PAUSED: (True, ("paused",)),
        }[self.state]
        assert taker.state is self.state
        assert (self.open_turn is not None) == expected[0]
        assert phase in expected[1]
        deadline = taker.deadline()
        assert deadline is None or deadline > now
        if self.state is State.LISTENING:
            assert deadline is None
        else:
            assert deadline is not None, f"{self.state} could last for ever"


@dataclass(frozen=True)
class Sound:
    """The person's voice, or a noise if it has no words; the words are spread evenly over it."""

    at: float
    until: float
    words: str = ""

    def pieces(self) -> list[tuple[float, str]]:
        """Each word (character, if it holds Chinese) and when its end is heard; punctuation stays with its word."""
        parts: list[str] = []
        for char in self.words:
            spaced = char == " "
            if parts and not spaced and (not units(char) or not units(parts[-1][-1]) or char.isascii()):
                parts[-1] += char
            elif not spaced or parts:
                parts.append(char)
        # a leading space stays with the word behind it, so that joined pieces read as written
        length = (self.until - self.at) / max(1, len(parts))
        return [(self.at + length * (k + 1), part) for k, part in enumerate(parts)]


@dataclass
class Scenario:
    """A call with a perfect executor: what it is told becomes events after fixed delays."""

    sounds: tuple[Sound, ...] = ()
    told: tuple[tuple[float, Event], ...] = ()
    settings: TurnSettings = field(default_factory=lambda: TurnSettings(guard_s=0.0))
    language: str = "en"
    create_response: bool = True
    interrupt_response: bool = True
    onset_s: float = 0.08
    """from a voice's first sample until VoiceStarted is told"""
    hang_s: float = 0.1
    """from a voice's last sample until VoiceStopped is told"""
    asr_s: float | None = 0.05
    """from TakeProvisional to its answer; None: it never comes"""
    final_s: float | None = 0.05
    stable_lag: int = 1
    """how many units of a partial are not stable yet"""
    make_s: float = 0.1
    """from PrepareReply to ReplyPrepared"""
    lasts_s: float = 4.0
    """length of every reply"""
    progress: bool = True
    opinions: tuple[tuple[float, float], ...] = ()
    """of each pause in turn: how long after TakeProvisional it comes, and the opinion on the sound"""
    silent_replies: bool = False
    """replies are made but never become audible"""

    def __post_init__(self) -> None:
        self.taker = TurnTaker(self.settings, self.language, 0.0)
        self.taker.create_response = self.create_response
        self.taker.interrupt_response = self.interrupt_response
        self.witness = Witness()
        self.now = 0.0
        self.orders: list[tuple[float, Order]] = []
        self.states: list[tuple[float, State]] = [(0.0, State.LISTENING)]
        self._queue: list[tuple[float, int, Event, bool]] = []  # the flag: planned here, and filled in when due
        self._order = itertools.count()  # events of one instant happen in the order in which they were planned
        self._pauses = 0
        self._opened: dict[int, float] = {}
        self._ended: dict[int, float] = {}
        self._ready: set[int] = set()
        self._released: set[int] = set()
        self._played_s: dict[int, float] = {}
        self._playing_since: dict[int, float] = {}
        for at, event in self.told:
            heapq.heappush(self._queue, (at, next(self._order), event, False))
        self._pieces = sorted(piece for sound in self.sounds for piece in sound.pieces())
        self._script()

    def _tell(self, at: float, event: Event) -> None:
        heapq.heappush(self._queue, (at, next(self._order), event, True))

    def _script(self) -> None:
        """The voice detector's part: VoiceStarted and VoiceStopped; it does not notice gaps shorter than hang_s."""
        runs: list[Sound] = []
        for sound in sorted(self.sounds, key=lambda s: s.at):
            if runs and sound.at + self.onset_s <= runs[-1].until + self.hang_s:
                runs[-1] = replace(runs[-1], until=sound.until)
            else:
                runs.append(sound)
        for run in runs:
            if run.until - run.at >= self.onset_s:
                self._tell(run.at + self.onset_s, VoiceStarted(run.at))
                self._tell(run.until + self.hang_s, VoiceStopped(run.until))
        for heard_at, _ in self._pieces:
            self._tell(heard_at + 0.05, PartialHeard(0, "", 0))  # filled in when it is due

    def text(self, turn: int, until: float) -> str:
        """What a perfect ASR has heard of a turn by then."""
        start = self._opened[turn] - 0.05
        until = min(until, self._ended.get(turn, until))
        joined = ""
        for heard_at, piece in self._pieces[bisect_right(self._pieces, (start, "\uffff")) :]:
            if heard_at > until:
                break
            gap = joined and joined[-1].isascii() and not joined.endswith(" ") and not piece.startswith(" ")
            joined += (" " if gap else "") + piece
        return joined.strip()

    def run(self, until: float) -> "Scenario":
        while True:
            deadline = self.taker.deadline()
            due = self._queue[0][0] if self._queue else None
            upcoming = [t for t in (deadline, due) if t is not None]
            if not upcoming or min(upcoming) > until:
                return self
            if due is not None and (deadline is None or due <= deadline):
                self.now = due
                _, _, told, planned = heapq.heappop(self._queue)
                event = self._fill_in(told) if planned else told
                if event is not None:
                    self.witness.saw(event)
                    self._carry_out(self.taker.handle(event, self.now))
            else:
                assert deadline is not None
                self.now = deadline
                self._carry_out(self.taker.tick(deadline))

    def _fill_in(self, event: Event) -> Event | None:
        """What a planned event has become by the time it is due; None: nothing."""
        turn = self.witness.open_turn
        match event:
            case PartialHeard(0):
                if turn is None or not (text := self.text(turn, self.now)):
                    return None
                return PartialHeard(turn, text, max(0, units(text) - self.stable_lag))
            case ReplyFinished(generation) | ReplyProgressed(generation):
                since = self._playing_since.get(generation)
                if since is None or self.witness.reply != generation:
                    return None
                if isinstance(event, ReplyProgressed):
                    self._tell(self.now + 1.0, event)
                elif self._played_s[generation] + self.now - since < self.lasts_s - 1e-6:
                    return None
            case ReplyStarted(generation):
                if self.witness.reply != generation:
                    return None
                self._play(generation)
            case ReplyPrepared(generation):
                self._ready.add(generation)
                self._start(generation)
        return event

    def _start(self, generation: int) -> None:
        if generation in self._ready and generation in self._released and not self.silent_replies:
            self._tell(self.now + 0.02, ReplyStarted(generation))  # the next packet

    def _play(self, generation: int) -> None:
        played = self._played_s.setdefault(generation, 0.0)
        self._playing_since[generation] = self.now
        if self.progress:
            self._tell(self.now + 1.0, ReplyProgressed(generation))
        self._tell(self.now + self.lasts_s - played, ReplyFinished(generation))

    def _carry_out(self, orders: list[Order]) -> None:
        self.witness.check(orders, self.taker, self.now)
        for order in orders:
            self.orders.append((self.now, order))
            match order:
                case OpenTurn(turn, at):
                    self._opened[turn] = at
                case TakeProvisional(turn, pause):
                    self._pauses += 1
                    for later_s, opinion in self.opinions[self._pauses - 1 : self._pauses]:
                        self._tell(self.now + later_s, EndJudged(turn, pause, opinion))
                    if self.asr_s is not None:
                        self._tell(self.now + self.asr_s, ProvisionalHeard(turn, self.text(turn, self.now)))
                case CommitTurn(turn):
                    self._ended[turn] = self.now
                    if self.final_s is not None:
                        self._tell(self.now + self.final_s, FinalHeard(turn, self.text(turn, self.now)))
                case PrepareReply(generation):
                    self._tell(self.now + self.make_s, ReplyPrepared(generation))
                case ReleaseReply(generation):
                    self._released.add(generation)
                    self._start(generation)
                case PauseReply(generation):
                    self._played_s[generation] += self.now - self._playing_since.pop(generation)
                case ResumeReply(generation):
                    self._play(generation)
                case ChangeState(state):
                    self.states.append((self.now, state))

    def timeline(self) -> list[str]:
        """One line an order: the time in seconds, then the order in words."""
        return [f"{at:.2f} {in_words(order)}" for at, order in self.orders]

    def of(self, *kinds: type) -> list[str]:
        return [f"{at:.2f} {in_words(order)}" for at, order in self.orders if isinstance(order, kinds)]


def in_words(order: Order) -> str:
    match order:
        case OpenTurn(turn, at):
            return f"open {turn} from {at:.2f}"
        case TakeProvisional(turn):
            return f"take {turn}"
        case CommitTurn(turn, at, text):
            return f"commit {turn} at {at:.2f}" + ("" if text is None else f": {text}")
        case AbandonTurn(turn):
            return f"abandon {turn}"
        case PrepareReply(generation, turn, text, planned_s, say):
            when = "now" if planned_s is None else f"for {planned_s:.2f}"
            return f"prepare #{generation} to {turn or 'all'} {when}: {say or text}"
        case ReplanReply(generation, planned_s):
            return f"replan #{generation} for {planned_s:.2f}"
        case ReleaseReply(generation):
            return f"release #{generation}"
        case DropReply(generation, reason):
            return f"drop #{generation} {reason}"
        case CutReply(generation, reason):
            return f"cut #{generation} {reason}"
        case PauseReply(generation):
            return f"pause #{generation}"
        case ResumeReply(generation):
            return f"resume #{generation}"
        case ChangeState(state):
            return f"-> {state}"
