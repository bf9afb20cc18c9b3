"""What the TurnTaker is told (past tense) and what it orders (imperative)."""

from dataclasses import dataclass
from enum import StrEnum

from server.core.tools import ToolOffer


class State(StrEnum):
    """What the page shows of a call."""

    LISTENING = "listening"
    HEARING = "hearing"  # the person speaks
    THINKING = "thinking"  # the turn is over, nothing is audible yet
    SPEAKING = "speaking"
    PAUSED = "paused"  # the person spoke over the reply; it is not yet known whether they mean it


# ---- events: what happened -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VoiceStarted:
    """The person's voice was detected (told some frames later than it happened)."""

    at: float
    """loop time at which the first voiced frame began"""


@dataclass(frozen=True, slots=True)
class VoiceStopped:
    """No voice for some frames; only a pause so far."""

    at: float
    """loop time at which the last frame above the energy gate ended; silence counts from here"""


@dataclass(frozen=True, slots=True)
class PartialHeard:
    """The ASR's text of the open turn so far."""

    turn: int
    text: str
    stable_units: int
    """words (characters in CJK) at its beginning that will not change"""


@dataclass(frozen=True, slots=True)
class ProvisionalHeard:
    """The answer to TakeProvisional: complete up to the silence, though the turn is still open."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class EndJudged:
    """The second answer to TakeProvisional, where something listens for the end of turns. It may never come."""

    turn: int
    pause: int
    """as in the order: an opinion on an earlier pause is worth nothing"""
    finished: float
    """how likely the person has finished, 0 to 1, by the sound of it"""


@dataclass(frozen=True, slots=True)
class FinalHeard:
    """The answer to CommitTurn."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyPrepared:
    """The first voice of a held reply is there: it could start at once."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """A reply's first sample has been handed to the audio track."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReplyProgressed:
    """A reply has been audible since the last such event; told about once a second (it feeds the watchdog)."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReplyFinished:
    """A reply's last sample has been handed to the audio track (or it turned out to be empty)."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReplyFailed:
    """A reply cannot be made or completed; it is ended with DropReply or CutReply, reason `failed`.

    Told of an audible reply when what was voiced has been played, so that the cut takes nothing away. A reply that
    was still held is prepared anew from the final words: nobody needs an apology yet.
    """

    generation: int
    code: str


@dataclass(frozen=True, slots=True)
class ReplyRequested:
    """Someone (text input, an API, the persona's opening) wants a reply now, without a spoken turn."""

    text: str
    """the person's words, typed; empty: answer the history as it stands"""
    say: str = ""
    """if not empty: these very words are spoken, the language model is not asked"""
    instructions: str = ""
    """if not empty: the system prompt of this one reply"""
    tools: ToolOffer | None = None
    """what this one reply may call of the page's; None: what the page has declared"""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A button or an API call wants silence now."""


@dataclass(frozen=True, slots=True)
class TurnClosed:
    """Push-to-talk released, or input_audio_buffer.commit: the turn ends now, whatever the silence."""


@dataclass(frozen=True, slots=True)
class TurnCleared:
    """input_audio_buffer.clear: the open turn is thrown away; a voice that goes on does not open another."""


@dataclass(frozen=True, slots=True)
class MicrophoneLost:
    """No microphone media for a while; an open turn must not wait for its silence."""


@dataclass(frozen=True, slots=True)
class PeerLost:
    """Nothing at all has come from the peer for a while: nobody listens."""


Event = (
    VoiceStarted
    | VoiceStopped
    | PartialHeard
    | ProvisionalHeard
    | EndJudged
    | FinalHeard
    | ReplyPrepared
    | ReplyStarted
    | ReplyProgressed
    | ReplyFinished
    | ReplyFailed
    | ReplyRequested
    | Interrupted
    | TurnClosed
    | TurnCleared
    | MicrophoneLost
    | PeerLost
)


# ---- orders: what to do ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn of the person begins: the ASR's text belongs to it from the pre-roll on."""

    turn: int
    at: float


@dataclass(frozen=True, slots=True)
class TakeProvisional:
    """Ask the ASR for its best text now; the utterance stays open. Answer: ProvisionalHeard.

    Whatever listens for the end of turns is asked for its opinion, too. Answer: EndJudged, or nothing.
    """

    turn: int
    pause: int = 0
    """counts the pauses of the turn"""
    since: float = 0.0
    """beginning of the stretch of speech whose end this may be: behind the turn's last pause"""


@dataclass(frozen=True, slots=True)
class CommitTurn:
    """The turn is over at `at` (loop time of the last voice): close the ASR's utterance.

    Answer: FinalHeard. If `text` is given, a reply to that text is released in the same breath (it is prepared
    already, or just behind this order); the final text then only corrects the record.
    """

    turn: int
    at: float
    text: str | None = None


@dataclass(frozen=True, slots=True)
class AbandonTurn:
    """There were no words in it (a cough, a noise): drop the ASR's utterance, no trace in the history."""

    turn: int


@dataclass(frozen=True, slots=True)
class PrepareReply:
    """Start the language model, the voice and the first pictures; hold everything.

    `planned_s` is the loop time at which it will be released if the silence goes on: the first pictures can be
    painted for that very instant; its turn is still open then. None: it is released at once, and its turn, if it
    has one, was committed before; `text` then holds the best words that are known of it. A reply may be prepared
    more than once for the same turn: again, if the person only seemed to go on.
    """

    generation: int
    turn: int | None
    text: str
    planned_s: float | None = None
    say: str = ""
    instructions: str = ""
    tools: ToolOffer | None = None


@dataclass(frozen=True, slots=True)
class ReplanReply:
    """A prepared reply that is still held will be released at another time than was thought."""

    generation: int
    planned_s: float
    """loop time"""


@dataclass(frozen=True, slots=True)
class ReleaseReply:
    """Let a prepared reply be heard and seen, from now or from its planned time on."""

    generation: int


@dataclass(frozen=True, slots=True)
class DropReply:
    """Throw a reply away of which nothing was heard; close its streams; no trace in the history."""

    generation: int
    reason: str
    """`continued`, `reheard` (the words turned out differently), `unwanted` (replies were switched off), `cleared`
    (the turn was), or as in CutReply"""


@dataclass(frozen=True, slots=True)
class PauseReply:
    """Voice and lips stop together at the next packet (20 ms fade); everything is kept."""

    generation: int


@dataclass(frozen=True, slots=True)
class ResumeReply:
    """Go on from the sample at which it was paused."""

    generation: int


@dataclass(frozen=True, slots=True)
class CutReply:
    """End it: drop what was not heard, close its streams; the history keeps what was heard."""

    generation: int
    reason: str
    """`barge_in`, `interrupted`, `replaced`, `failed`, `watchdog`, `peer_lost`"""


@dataclass(frozen=True, slots=True)
class ChangeState:
    """Tell the page."""

    state: State


Order = (
    OpenTurn
    | TakeProvisional
    | CommitTurn
    | AbandonTurn
    | PrepareReply
    | ReplanReply
    | ReleaseReply
    | DropReply
    | PauseReply
    | ResumeReply
    | CutReply
    | ChangeState
)
