"""Turn-taking: the pure state machine that decides from what happened when to listen, to answer and to be quiet."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from server.core.endpointing import asks_to_stop, first_units, normalise, only_backchannel, silence_needed, units
from server.core.events import (
    AbandonTurn,
    ChangeState,
    CommitTurn,
    CutReply,
    DropReply,
    EndJudged,
    Event,
    FinalHeard,
    Interrupted,
    MicrophoneLost,
    OpenTurn,
    Order,
    PartialHeard,
    PauseReply,
    PeerLost,
    PrepareReply,
    ProvisionalHeard,
    ReleaseReply,
    ReplanReply,
    ReplyFailed,
    ReplyFinished,
    ReplyPrepared,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    ResumeReply,
    State,
    TakeProvisional,
    TurnCleared,
    TurnClosed,
    VoiceStarted,
    VoiceStopped,
)
from server.core.settings import TurnSettings
from server.core.tools import ToolOffer

# Whether somebody has finished is heard in what was said since the last pause. Less than this, with the silence
# behind it, is not enough to tell from: then the whole turn is listened to again.
STRETCH_MIN_S = 0.7

# Every change of state there is, and what brings it about. What is open in each state:
#
#   state      the person's turn   the reply
#   LISTENING  none                none
#   HEARING    open                none, or one held back (prepared in a pause, dropped if the person goes on)
#   THINKING   none                none while the final words are awaited, else one that is not audible yet
#   SPEAKING   none                audible
#   PAUSED     open                stopped in the middle
MOVES: dict[State, dict[State, str]] = {
    State.LISTENING: {
        State.HEARING: "a voice begins",
        State.THINKING: "a reply is asked for without a spoken turn, or an earlier question is taken up again",
    },
    State.HEARING: {
        State.THINKING: "the silence lasted, the turn was closed or too long; or a reply is asked for",
        State.LISTENING: "there were no words, they were cleared, or nobody wants a reply; the peer is lost",
    },
    State.THINKING: {
        State.SPEAKING: "the reply's first sample is played",
        State.HEARING: "the person goes on speaking for overlap_s",
        State.LISTENING: "the final had no words, the reply was empty, failed, late or interrupted",
    },
    State.SPEAKING: {
        State.PAUSED: "a voice over the reply for overlap_s",
        State.HEARING: "the reply ends while the person is speaking; push-to-talk: a voice for overlap_s",
        State.THINKING: "another reply is asked for",
        State.LISTENING: "the reply was played to its end, failed, fell silent or was interrupted",
    },
    State.PAUSED: {
        State.SPEAKING: "no words came of it",
        State.HEARING: "words, or confirm_s of speech; or nothing of the reply is left",
        State.THINKING: "another reply is asked for",
        State.LISTENING: "the peer is lost",
    },
}


@dataclass(slots=True)
class _Voice:
    """The person is making sound now."""

    at: float
    spent: bool = False
    """the turn that it belonged to was ended while it went on: it interrupts nothing any more"""


@dataclass(slots=True)
class _Turn:
    """The person's open turn."""

    number: int
    at: float
    voiced_s: float = 0.0
    """length of its voice, without the one that is going on now"""
    text: str = ""
    """the last words that were heard in it, certain or not"""
    paused_at: float = 0.0
    """when it stopped a reply"""
    pauses: int = 0
    """how many of its pauses were long enough to ask for its words"""
    stretch_at: float = 0.0
    """beginning of the voice behind the last of these"""
    silence_at: float | None = None
    """end of its last voice; None: the person is speaking. The rest is about this pause alone."""
    asked_at: float | None = None
    """when TakeProvisional was ordered"""
    provisional: str | None = None
    """the answer to that"""
    finished: float | None = None
    """how likely it is over by the sound of it; None: nobody said so, or not yet"""
    endpoint_at: float | None = None
    """when the turn ends, judged from those words"""


@dataclass(slots=True)
class _Question:
    """What a reply answers."""

    turn: int | None
    text: str
    say: str = ""
    instructions: str = ""
    tools: ToolOffer | None = None
    heard: bool = True
    """whether the words are good enough to answer; False: the final ones are awaited"""
    requested: bool = False
    """whether someone asked for this reply: it is then made even if there were no words"""


@dataclass(frozen=True, slots=True)
class _Reply:
    """The one reply that is alive."""

    generation: int
    question: _Question


class TurnTaker:
    """One call's turn-taking. Every point in time is the caller's loop time in seconds.

    The caller hands each event to `handle`, wakes up at `deadline()` for `tick`, and carries out the orders that both
    return, in their order. Events about turns and replies that are over are ignored, so late answers do no harm.
    """

    def __init__(self, settings: TurnSettings, language: str, now: float) -> None:
        self.settings = settings
        self.language = language
        """BCP 47; whose kept lists of words hold"""
        self.create_response = True
        """False: turns are committed, but only ReplyRequested makes a reply"""
        self.interrupt_response = True
        """False: a voice does not stop an audible reply; what goes on when it ends becomes a turn"""
        self._state = State.LISTENING
        self._now = now
        self._alive_at = now  # the last sign that THINKING or SPEAKING is getting on
        self._guard_until: float | None = None  # None: no reply was audible yet
        self._voice: _Voice | None = None
        self._turn: _Turn | None = None
        self._reply: _Reply | None = None
        self._question: _Question | None = None  # the last turn's, until its reply is audible
        self._unanswered: _Question | None = None  # its reply was dropped because the person seemed to go on
        self._turns = 0
        self._generations = 0
        self._orders: list[Order] = []

    @property
    def state(self) -> State:
        return self._state

    def configure(self, settings: TurnSettings) -> None:
        """Change the numbers in the middle of a call. Deadlines may move: ask for `deadline()` again."""
        self.settings = settings

    def handle(self, event: Event, now: float) -> list[Order]:
        """What is to be done about an event, and about whatever else is due by now."""
        self._now = now = max(now, self._now)
        match event:
            case VoiceStarted(at):
                self._voice_started(min(at, now), now)
            case VoiceStopped(at):
                self._voice_stopped(min(at, now))
            case PartialHeard(turn, text, stable_units):
                self._partial_heard(turn, text, stable_units, now)
            case ProvisionalHeard(turn, text):
                self._provisional_heard(turn, text, now)
            case EndJudged(turn, pause, finished):
                self._end_judged(turn, pause, finished, now)
            case FinalHeard(turn, text):
                self._final_heard(turn, text, now)
            case ReplyPrepared():
                pass  # it is released by the clock, not by being ready
            case ReplyStarted(generation):
                self._reply_started(generation, now)
            case ReplyProgressed(generation):
                self._reply_progressed(generation, now)
            case ReplyFinished(generation):
                self._reply_finished(generation, now)
            case ReplyFailed(generation):
                self._reply_failed(generation, now)
            case ReplyRequested():
                self._reply_requested(event, now)
            case Interrupted():
                self._interrupted(now)
            case TurnClosed():
                self._turn_closed(now)
            case TurnCleared():
                self._turn_cleared(now)
            case MicrophoneLost():
                self._microphone_lost(now)
            case PeerLost():
                self._peer_lost()
        return self.tick(now)

    def deadline(self) -> float | None:
        """When `tick` must be called at the latest; None: nothing will happen by itself."""
        return min((due for due, _ in self._timers()), default=None)

    def tick(self, now: float) -> list[Order]:
        """What is to be done because time has passed."""
        self._now = now = max(now, self._now)
        while overdue := [timer for timer in self._timers() if timer[0] <= now]:
            _, act = min(overdue, key=lambda timer: timer[0])
            act(now)
        orders, self._orders = self._orders, []
        return orders

    def _timers(self) -> Iterator[tuple[float, Callable[[float], None]]]:
        """Everything that time alone will bring in this state. Each one, once acted upon, is gone."""
        s, turn, voice = self.settings, self._turn, self._voice
        hands_free = s.mode != "push_to_talk"
        match self._state:
            case State.HEARING:
                assert turn is not None
                yield turn.at + s.turn_max_s, self._end_turn
                if turn.silence_at is not None and hands_free:
                    if turn.asked_at is None:
                        yield turn.silence_at + s.soft_end_s, self._take_provisional
                    elif turn.provisional is None:
                        endpoint = max(turn.silence_at + s.endpoint_s, turn.asked_at)
                        yield endpoint + s.provisional_wait_s, self._end_turn
                    elif turn.endpoint_at is not None:
                        yield turn.endpoint_at, self._end_turn
                    else:  # the pause began over a reply that has ended since
                        yield turn.silence_at, self._plan
            case State.THINKING:
                if self._reply is None:
                    yield self._alive_at + s.final_wait_s, self._final_missing
                else:
                    yield self._alive_at + s.think_max_s, self._watchdog
                if voice is not None and not voice.spent:
                    yield voice.at + s.overlap_s, self._go_on
            case State.SPEAKING:
                yield self._alive_at + s.gap_max_s, self._watchdog
                if voice is not None and not voice.spent and self.interrupt_response:
                    yield self._counted_from(voice) + s.overlap_s, self._pause if hands_free else self._barge_in
            case State.PAUSED:
                assert turn is not None
                if turn.silence_at is None:
                    assert voice is not None
                    yielding = only_backchannel(turn.text, self.language)
                    enough_s = max(s.confirm_s, s.backchannel_s) if yielding else s.confirm_s
                    yield self._counted_from(voice) + enough_s, self._confirm
                else:
                    if turn.asked_at is None:
                        yield turn.silence_at + s.soft_end_s, self._take_provisional
                    quiet_s = s.resume_quiet_s + (s.provisional_wait_s if turn.provisional is None else 0.0)
                    yield min(turn.silence_at + quiet_s, turn.paused_at + s.resume_s), self._resume

    # ---- the person's voice ------------------------------------------------------------------------

    def _voice_started(self, at: float, now: float) -> None:
        if self._voice is not None:
            return
        self._voice = _Voice(at)
        match self._state:
            case State.LISTENING:
                self._open_turn(now)
                self._change(State.HEARING)
            case State.HEARING | State.PAUSED:
                assert self._turn is not None
                turn = self._turn
                if turn.asked_at is not None:
                    turn.stretch_at = at
                turn.silence_at = turn.asked_at = turn.provisional = turn.finished = turn.endpoint_at = None
                if self._state is State.HEARING and self._reply is not None:
                    self._end_reply("continued")
            case State.THINKING | State.SPEAKING:
                pass  # it must last for overlap_s first

    def _voice_stopped(self, at: float) -> None:
        voice, turn = self._voice, self._turn
        self._voice = None
        if voice is not None and turn is not None:
            turn.silence_at = max(at, turn.at)
            turn.voiced_s += max(0.0, turn.silence_at - max(voice.at, turn.at))

    def _go_on(self, now: float) -> None:
        """THINKING: the turn was not over after all. The executor joins its words to the next turn's."""
        question = self._question
        if self._reply is not None:
            self._end_reply("continued")
        if question is not None and (question.heard or self._unanswered is None):
            # Typed words have entered the history by now: taking them up again must not enter them twice.
            self._unanswered = replace(question, text="") if question.turn is None else question
        self._open_turn(now)
        self._change(State.HEARING)

    def _pause(self, now: float) -> None:
        """SPEAKING: a voice that may or may not mean it."""
        assert self._reply is not None
        self._orders.append(PauseReply(self._reply.generation))
        self._open_turn(now).paused_at = now
        self._change(State.PAUSED)

    def _barge_in(self, now: float) -> None:
        """SPEAKING, push-to-talk: who presses the button means it."""
        self._end_reply("barge_in")
        self._open_turn(now)
        self._change(State.HEARING)

    def _confirm(self, now: float) -> None:
        """PAUSED: they mean it."""
        self._end_reply("barge_in")
        self._change(State.HEARING)

    def _resume(self, now: float) -> None:
        """PAUSED: it was nothing."""
        assert self._reply is not None
        self._orders.append(ResumeReply(self._reply.generation))
        self._drop_turn()
        self._alive_at = now
        self._change(State.SPEAKING)

    # ---- the person's words ------------------------------------------------------------------------

    def _take_provisional(self, now: float) -> None:
        turn = self._turn
        assert turn is not None
        turn.asked_at = now
        turn.pauses += 1
        since = turn.stretch_at if now - turn.stretch_at >= STRETCH_MIN_S else turn.at
        self._orders.append(TakeProvisional(turn.number, turn.pauses, max(since, turn.at)))

    def _partial_heard(self, number: int, text: str, stable_units: int, now: float) -> None:
        self._remember(number, text)
        if self._turn is not None and self._turn.number == number and self._state is State.PAUSED:
            stable = first_units(text, stable_units)
            counted = 0 if only_backchannel(stable, self.language) else units(stable)
            if counted >= self.settings.confirm_units or asks_to_stop(stable, self.language):
                self._confirm(now)

    def _provisional_heard(self, number: int, text: str, now: float) -> None:
        self._remember(number, text)
        turn = self._turn
        if turn is None or turn.number != number or turn.asked_at is None:
            return  # an answer that came too late; if the person went on, another will follow
        turn.provisional = text
        if self._state is State.PAUSED and self._means_it(text):
            self._confirm(now)
        if self._state is State.HEARING:
            self._plan(now)

    def _end_judged(self, number: int, pause: int, finished: float, now: float) -> None:
        """Shortens or lengthens the silence that is still awaited; what is over is over, and nothing waits for it."""
        turn = self._turn
        if turn is None or (turn.number, turn.pauses) != (number, pause) or turn.asked_at is None:
            return
        turn.finished = finished
        if self._state is not State.HEARING or turn.endpoint_at is None:
            return  # the words will be the occasion
        before, turn.endpoint_at = turn.endpoint_at, self._endpoint(turn)
        if self._reply is not None and turn.endpoint_at != before:
            self._orders.append(ReplanReply(self._reply.generation, max(turn.endpoint_at, now)))

    def _endpoint(self, turn: _Turn) -> float:
        """In a pause whose words are known: when the turn ends."""
        assert turn.silence_at is not None
        assert turn.provisional is not None
        return turn.silence_at + silence_needed(turn.provisional, self.language, self.settings, turn.finished)

    def _plan(self, now: float) -> None:
        """HEARING, in a pause whose words are known: when the turn ends, and what will then be said."""
        turn = self._turn
        assert turn is not None
        assert turn.provisional is not None
        text, reply = turn.provisional, self._reply
        if reply is not None:
            if not units(text) or normalise(text) == normalise(reply.question.text):
                return
            self._end_reply("reheard")
        turn.endpoint_at = self._endpoint(turn)
        if units(text) and self.create_response and turn.endpoint_at > now:
            self._prepare(_Question(turn.number, text), turn.endpoint_at)

    def _final_heard(self, number: int, text: str, now: float) -> None:
        question, earlier = self._question, self._unanswered
        if earlier is not None and earlier.turn == number:
            if units(text) or earlier.requested:
                self._unanswered = replace(earlier, text=text, heard=True)
            elif not earlier.heard:
                self._unanswered = None
        if question is None or question.turn != number:
            return
        if question.heard:
            if units(text):
                question.text = text  # the reply was made from the provisional words; this corrects the record
        elif self._state is State.THINKING:
            self._settle(replace(question, text=text), now)
        else:
            self._question = None

    def _final_missing(self, now: float) -> None:
        """THINKING: the ASR owes the final words for too long; the last ones it gave must do."""
        assert self._question is not None
        self._settle(self._question, now)

    def _settle(self, question: _Question, now: float) -> None:
        """Answer a turn whose words will not become any better, or go on as if it had not been."""
        self._question = None
        if question.requested or (units(question.text) and self.create_response):
            self._unanswered = None
            self._answer(replace(question, heard=True), now)
        else:
            self._take_up_again(now)

    def _remember(self, number: int, text: str) -> None:
        """Keep the words: if nothing better comes, they must do."""
        if not units(text):
            return
        if self._turn is not None and self._turn.number == number:
            self._turn.text = text
        for question in (self._question, self._unanswered):
            if question is not None and question.turn == number and not question.heard:
                question.text = text

    def _means_it(self, text: str) -> bool:
        return units(text) > 0 and not only_backchannel(text, self.language)

    # ---- a turn's beginning and end ----------------------------------------------------------------

    def _open_turn(self, now: float) -> _Turn:
        """The voice that goes on now becomes a turn; the pre-roll bounds how far back it can begin."""
        assert self._voice is not None
        assert self._turn is None
        if self._voice.spent:
            self._voice = _Voice(now)  # what came before belonged to another turn
        self._question = None
        self._turns += 1
        self._turn = _Turn(self._turns, max(self._voice.at, now - self.settings.preroll_s))
        self._orders.append(OpenTurn(self._turn.number, self._turn.at))
        return self._turn

    def _end_turn(self, now: float) -> None:
        """HEARING: the turn is over, by silence or because it was too long."""
        turn = self._turn
        assert turn is not None
        noise = (
            self._voice is None
            and turn.provisional is not None
            and not units(turn.provisional)
            and not units(turn.text)
            and turn.voiced_s < self.settings.noise_s
        )
        if noise and self._reply is None:
            self._drop_turn()
            self._take_up_again(now)
        else:
            self._commit(now)

    def _commit(self, now: float) -> None:
        """HEARING: the turn stands. If its words are known, the reply to them is let go in the same breath."""
        turn = self._turn
        assert turn is not None
        at = now if turn.silence_at is None else turn.silence_at
        if self._voice is not None:
            self._voice.spent = True
        if self._reply is not None and not self.create_response:
            self._end_reply("unwanted")
        self._turn = None
        if self._reply is not None:
            self._unanswered = None
            self._question = self._reply.question
            self._orders.append(CommitTurn(turn.number, at, self._question.text))
            self._release(now)
        elif turn.provisional and units(turn.provisional) and self.create_response:
            self._unanswered = None
            self._orders.append(CommitTurn(turn.number, at, turn.provisional))
            self._answer(_Question(turn.number, turn.provisional), now)
        else:
            self._orders.append(CommitTurn(turn.number, at))
            self._await_final(_Question(turn.number, turn.text, heard=False), now)

    def _drop_turn(self) -> None:
        assert self._turn is not None
        self._orders.append(AbandonTurn(self._turn.number))
        self._turn = None

    def _await_final(self, question: _Question, now: float) -> None:
        self._question = question
        if self.create_response or question.requested:
            self._alive_at = now
            self._change(State.THINKING)
        else:
            self._rest(now)

    def _take_up_again(self, now: float) -> None:
        """Nothing came of a turn. If it had stopped the reply to an earlier one, that one still wants its answer."""
        question, self._unanswered = self._unanswered, None
        if question is None:
            self._rest(now)
        elif question.heard:
            self._answer(question, now)
        else:
            self._await_final(question, now)

    def _rest(self, now: float) -> None:
        """No turn and no reply is left: listen, or hear whoever is speaking already."""
        voice = self._voice
        if voice is not None and not (voice.spent and self.settings.mode == "push_to_talk"):
            self._open_turn(now)
            self._change(State.HEARING)
        else:
            self._change(State.LISTENING)

    # ---- replies -----------------------------------------------------------------------------------

    def _prepare(self, question: _Question, planned_s: float | None) -> None:
        assert self._reply is None
        self._generations += 1
        self._reply = _Reply(self._generations, question)
        self._orders.append(
            PrepareReply(
                self._generations,
                question.turn,
                question.text,
                planned_s=planned_s,
                say=question.say,
                instructions=question.instructions,
                tools=question.tools,
            )
        )

    def _release(self, now: float) -> None:
        assert self._reply is not None
        self._orders.append(ReleaseReply(self._reply.generation))
        self._alive_at = now
        self._change(State.THINKING)

    def _answer(self, question: _Question, now: float) -> None:
        """Prepare and release at once."""
        self._question = question
        self._prepare(question, None)
        self._release(now)

    def _end_reply(self, reason: str) -> None:
        """Cut it if it was heard, drop it if not; the state is for the caller to change."""
        assert self._reply is not None
        heard = self._state in (State.SPEAKING, State.PAUSED)
        self._orders.append((CutReply if heard else DropReply)(self._reply.generation, reason))
        self._reply = None

    def _is_alive(self, generation: int) -> bool:
        return self._reply is not None and self._reply.generation == generation

    def _reply_started(self, generation: int, now: float) -> None:
        if self._is_alive(generation) and self._state is State.THINKING:
            if self._guard_until is None:
                self._guard_until = now + self.settings.guard_s if self.settings.guard_s else -math.inf
            self._question = self._unanswered = None
            self._alive_at = now
            self._change(State.SPEAKING)

    def _reply_progressed(self, generation: int, now: float) -> None:
        if self._is_alive(generation) and self._state is State.SPEAKING:
            self._alive_at = now

    def _reply_finished(self, generation: int, now: float) -> None:
        if self._is_alive(generation):
            self._reply = None
            self._after_reply(now)

    def _reply_failed(self, generation: int, now: float) -> None:
        if self._is_alive(generation):
            self._end_reply("failed")
            self._after_reply(now)

    def _watchdog(self, now: float) -> None:
        """THINKING or SPEAKING without a sign of life."""
        self._end_reply("watchdog")
        self._after_reply(now)

    def _after_reply(self, now: float) -> None:
        """A reply is gone; an open turn goes on without it."""
        self._question = None
        if self._turn is None:
            self._unanswered = None
            self._rest(now)
        else:
            self._change(State.HEARING)

    def _counted_from(self, voice: _Voice) -> float:
        """From when on a voice counts as overlap: its first voiced frame, or the end of the guard."""
        return voice.at if self._guard_until is None else max(voice.at, self._guard_until)

    # ---- orders from outside -----------------------------------------------------------------------

    def _reply_requested(self, event: ReplyRequested, now: float) -> None:
        awaited = self._question
        if not event.text and not event.say and awaited is not None and not awaited.heard:
            # "Answer the history as it stands", but the last turn's words are still on their way to it.
            awaited.requested = True
            awaited.instructions = event.instructions
            awaited.tools = event.tools
            if self._state is State.LISTENING:
                self._await_final(awaited, now)
            return
        if self._reply is not None:
            self._end_reply("replaced")
        if self._turn is not None:
            self._drop_turn()
        if self._voice is not None:
            self._voice.spent = True
        self._unanswered = None
        self._answer(_Question(None, event.text, event.say, event.instructions, event.tools, requested=True), now)

    def _interrupted(self, now: float) -> None:
        """Silence now. In HEARING there is silence already: nothing of a held reply was promised to anyone."""
        if self._state in (State.THINKING, State.SPEAKING, State.PAUSED):
            if self._reply is not None:
                self._end_reply("interrupted")
            self._after_reply(now)

    def _turn_closed(self, now: float) -> None:
        if self._state is State.PAUSED:
            self._confirm(now)
        if self._state is State.HEARING:
            self._commit(now)

    def _turn_cleared(self, now: float) -> None:
        if self._turn is None:
            return
        if self._voice is not None:
            self._voice.spent = True
        if self._state is State.PAUSED:
            self._resume(now)
        else:
            if self._reply is not None:
                self._end_reply("cleared")
            self._drop_turn()
            self._unanswered = None
            self._change(State.LISTENING)

    def _microphone_lost(self, now: float) -> None:
        if self._voice is not None:
            self._voice_stopped(now)
        if self._state is State.PAUSED:
            assert self._turn is not None
            if self._means_it(self._turn.text):
                self._confirm(now)
            else:
                self._resume(now)
        if self._state is State.HEARING:
            self._end_turn(now)

    def _peer_lost(self) -> None:
        self._voice = None
        if self._reply is not None:
            self._end_reply("peer_lost")
        if self._turn is not None:
            self._drop_turn()
        self._question = self._unanswered = None
        self._change(State.LISTENING)

    def _change(self, state: State) -> None:
        if state is not self._state:
            assert state in MOVES[self._state], f"{self._state} -> {state}"
            self._state = state
            self._orders.append(ChangeState(state))
