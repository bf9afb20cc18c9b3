"""The rooms of one call and the channels between them, and what the TurnTaker's orders do. No network in it.

microphone -> hear -> transcribe -> converse -> reply (think -> speak -> place) -> timeline -> read()
                                                                        animate -> renderer -> take()
"""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from server.core.clock import MediaClock
from server.core.endpointing import units
from server.core.errors import RequestError, StageError
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
    OpenTurn,
    Order,
    PauseReply,
    PeerLost,
    PrepareReply,
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
)
from server.core.history import History, Item
from server.core.media import (
    MEDIA_RATE,
    PACKET_SAMPLES,
    Clause,
    EncodedFrame,
    MicFrame,
    Persona,
    Samples,
    Speech,
    Transcript,
    Voice,
)
from server.core.notices import (
    ItemAdded,
    Measured,
    Notice,
    Problem,
    ReplyAudioCleared,
    ReplyAudioStarted,
    ReplyAudioStopped,
    ReplyCaption,
    ReplyCreated,
    ReplyDone,
    ReplyText,
    ReplyTruncated,
    SpeechStarted,
    SpeechStopped,
    StateChanged,
    TurnAbandoned,
    TurnCommitted,
    UserHeard,
    UserSaid,
)
from server.core.phrases import filler, phrase
from server.core.protocols import AsrSession, Function, Llm, Renderer, Tts, TurnEnds, TurnEndSession, VadSession
from server.core.settings import ToolSettings, TurnSettings
from server.core.timeline import Timeline
from server.core.turns import TurnTaker
from server.core.voicegate import VoiceGate
from server.memory import Memory
from server.reply import Makers, Reply
from server.stages.animate import Attend, Close, Pictures, Show, animate
from server.stages.converse import converse
from server.stages.hear import hear
from server.stages.transcribe import PREROLL_S, Listening, Transcriber
from server.toolbox import ReplyTools, Toolbox

log = logging.getLogger(__name__)

EVENTS = 256  # events between the rooms and the TurnTaker; it never waits, so a few suffice
LISTENED = 500  # 10 s of microphone: an ASR worker that is being started again must not lose the turn
SHOWN = 256  # pieces of voice on their way to the face
CAPTION_SAMPLES = MEDIA_RATE // 10  # captions follow the voice ten times a second
PROGRESS_SAMPLES = MEDIA_RATE
PLAN_MARGIN_S = 0.03  # a planned reply begins so much after its endpoint: the decision itself takes time
TURNS_KEPT = 8


class Conversation:
    """One person and one face. `run` owns every task; `read` and `take` feed the tracks."""

    def __init__(
        self,
        *,
        llm: Llm,
        tts: Tts,
        persona: Persona,
        voice: Voice,
        turns: TurnSettings,
        clock: MediaClock,
        lead_ms: float,
        tell: Callable[[Notice], None],
        functions: Mapping[str, Function] | None = None,
        tools: ToolSettings | None = None,
    ) -> None:
        """tell: hears every notice; never waits. functions: this server's, by name."""
        self.persona = persona
        self.voice = voice
        self.history = History()
        self.state = State.LISTENING
        self.taker = TurnTaker(turns, persona.language, clock.origin_s)
        self.timeline = Timeline(lead_samples=int(lead_ms * MEDIA_RATE / 1000))
        self.pictures = Pictures(self._request_key)
        self._llm = llm
        self._tts = tts
        self._clock = clock
        self._tell = tell
        self._renderer: Renderer | None = None
        self._reply: Reply | None = None
        self._turns: dict[int, str] = {}
        """turn -> the message that it will become"""
        self._speech_end_s = self._soft_end_s = 0.0
        self._finished: Callable[[float], Awaitable[float | None]] | None = None
        self._attends = False
        self._caption = ""
        self._captioned: Samples = Samples(0)
        self._progressed: Samples = Samples(0)
        self.toolbox = Toolbox(
            functions or {},
            tools or ToolSettings(),
            self.history,
            tell,
            self._spawn,
            lambda: self._reply is None and self.state is State.LISTENING,
            self._cover,
            self._go_on_anyway,
        )
        self._tools: ReplyTools | None = None
        """of the current reply"""
        self._covering = ""
        """what is to be said while the page owes a result"""
        self._wanted: ReplyRequested | None = None
        """a reply that waits for the page's results, and for its turn"""
        self._going_on = False
        """whether such a reply is under way, nothing of it was heard, and nothing came in between"""
        self._memory = Memory(self.history, llm)
        self._tasks: TaskGroup | None = None
        self._events: MemoryObjectSendStream[Event] | None = None
        self._listening: MemoryObjectSendStream[Listening] | None = None
        self._face: MemoryObjectSendStream[Show | Close | Attend] | None = None

    async def run(
        self,
        microphone: AsyncIterator[MicFrame],
        vad: VadSession,
        asr: AsrSession,
        renderer: Renderer | None,
        beside: Callable[[], Awaitable[object]],
        ends: TurnEnds | None = None,
    ) -> None:
        """Every room at work until `beside` returns. ends: who listens for the ends of turns, if anybody does."""
        events_in, events = anyio.create_memory_object_stream[Event](EVENTS)
        listening_in, listening = anyio.create_memory_object_stream[Listening](LISTENED)
        face_in, face = anyio.create_memory_object_stream[Show | Close | Attend](SHOWN)
        with ExitStack() as stack:
            for stream in (events_in, events, listening_in, listening, face_in, face):
                stack.callback(stream.close)
            self._events, self._listening, self._face = events_in, listening_in, face_in
            self._renderer = renderer
            transcriber = Transcriber(asr, self.happened)
            ear = ends.open(vad) if ends is not None else None
            self._finished = ear.finished if ear is not None else None
            async with _closing(ear), anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._llm.warm)
                tasks.start_soon(hear, microphone, ear or vad, VoiceGate(), self._listen, self.happened)
                tasks.start_soon(self._guarded, "asr", transcriber.run, listening)
                tasks.start_soon(self._guarded, "asr", transcriber.follow, self._heard_so_far)
                tasks.start_soon(converse, events, self.taker, self._execute)
                if renderer is not None:
                    tasks.start_soon(self._guarded, "render", animate, face, renderer)
                    tasks.start_soon(self._guarded, "render", self.pictures.collect, renderer)
                else:
                    tasks.start_soon(_discard, face)
                await beside()
                tasks.cancel_scope.cancel()
        self._tasks = self._events = self._listening = self._face = self._renderer = self._finished = None

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(work)

    async def _guarded(self, stage: str, room: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """A room whose provider fails falls silent or stands still, and the person is told; the call goes on."""
        try:
            await room(*arguments)
        except StageError as error:
            log.error("%s failed for good: %s", stage, error.message)
            self._tell(Problem(error.code, phrase(stage, self.persona.language)))

    @property
    def replying(self) -> bool:
        return self._reply is not None

    # ---- what the tracks take --------------------------------------------------------------------

    def read(self, at: Samples) -> bytes:
        """The voice of media time [at, at + 20 ms)."""
        pcm = self.timeline.read(at)
        if self._reply is not None:
            self._follow(self._reply, Samples(at + PACKET_SAMPLES))
        return pcm

    def take(self, index: int) -> EncodedFrame | None:
        """The next picture that is due by frame `index`."""
        frame = self.pictures.take(index)
        reply = self._reply
        if frame is not None and reply is not None and reply.audible and frame.generation == reply.generation:
            reply.marks.note("lips_packet", anyio.current_time())
        return frame

    def request_key(self) -> None:
        self.pictures.request_key()

    def _request_key(self) -> None:
        if self._renderer is not None:
            self._renderer.request_key()

    def _follow(self, reply: Reply, now: Samples) -> None:
        """Notice what the packet that goes out now means for the reply."""
        if not reply.audible:
            if not self.timeline.started:
                return
            reply.audible = True
            self._going_on = False
            self._captioned = self._progressed = Samples(0)
            reply.marks.note("audio_packet", anyio.current_time())
            self.happened(ReplyStarted(reply.generation))
            self._tell(ReplyAudioStarted(reply.response_id))
            if steps := reply.marks.since("speech_end"):
                self._tell(Measured(reply.response_id, steps, reply.marks.times["speech_end"]))
        if now - self._captioned >= CAPTION_SAMPLES:
            self._captioned = now
            self._show_caption(reply, now)
        if now - self._progressed >= PROGRESS_SAMPLES and self.timeline.playing(now):
            self._progressed = now
            self.happened(ReplyProgressed(reply.generation))
        if self.timeline.drained(now):
            self._finish(reply, now)

    def _show_caption(self, reply: Reply, now: Samples) -> None:
        heard = self.timeline.heard(now)
        if heard.text != self._caption:
            self._caption = heard.text
            self._tell(ReplyCaption(reply.response_id, reply.item_id, heard.text, heard.note))

    # ---- what happens, told from anywhere ----------------------------------------------------------

    def happened(self, event: Event) -> None:
        """Tell the TurnTaker. Never waits."""
        if isinstance(event, FinalHeard):
            self._record_final(event)
        elif isinstance(event, Interrupted | PeerLost):
            self._wanted, self._going_on = None, False
            self.toolbox.give_up()
        if not _put(self._events, event):
            log.error("too many events at once; %s is lost", type(event).__name__)

    def add_item(self, item: Item, after: str | None = None) -> None:
        """Put a message into the history."""
        self._going_on = False
        self._tell(ItemAdded(item.id, self.history.add(item, after)))

    def request(self, event: ReplyRequested) -> None:
        """A reply is wanted. One to the page's results waits until they are all there, and until nobody speaks.

        Raises RequestError if all there is to answer is a result that came too late.
        """
        plain = not event.text and not event.say
        if plain and self._going_on:
            return  # a page asks once for every result that it gives; one reply speaks of them all
        if plain and self.toolbox.is_late():
            raise RequestError(
                409, "late_result", "The result came too late; it is noted, and will not be spoken of."
            )
        if plain and (self.toolbox.pending or self.toolbox.fresh):
            self._wanted = event
            self._go_on()
        else:
            self.happened(event)

    def answer(self, call_id: str, output: str, item_id: str) -> None:
        """The page's result of a function call. Raises RequestError if nobody asked for it."""
        self.toolbox.answer(call_id, output, item_id)
        self._go_on()

    def _go_on(self) -> None:
        """The reply that waited, if it need not wait any more."""
        speaking = self._reply is not None or self.state in (State.HEARING, State.PAUSED)
        if self._wanted is not None and not self.toolbox.pending and not speaking:
            event, self._wanted = self._wanted, None
            self._going_on = True
            self.happened(event)

    def _go_on_anyway(self) -> None:
        """The page gave no result and asks for nothing; the person waits for an answer all the same."""
        self._wanted = ReplyRequested("")
        self._go_on()

    def _cover(self, number: int) -> None:
        """Say something over a call that the page answers slowly."""
        self._covering = filler(number, self.persona.language)
        self.happened(ReplyRequested("", say=self._covering))

    def _listen(self, item: Listening) -> None:
        if not _put(self._listening, item) and not isinstance(item, MicFrame):
            log.error("the ASR is %d items behind; an order to it is lost", LISTENED)

    def _animate(self, item: Show | Close | Attend) -> None:
        if not _put(self._face, item):
            log.warning("the face is behind; a piece of its lips is lost")

    def _heard_so_far(self, turn: int, heard: Transcript) -> None:
        item_id = self._turns.get(turn)
        if item_id is not None:
            self._tell(UserHeard(item_id, heard.text, heard.stable))

    # ---- what the TurnTaker orders -----------------------------------------------------------------

    def _execute(self, order: Order) -> None:
        now = self._clock.at(anyio.current_time())
        match order:
            case ChangeState(state):
                self.state = state
                self._tell(StateChanged(state))
                hearing = state in (State.HEARING, State.PAUSED)
                if hearing is not self._attends:
                    self._attends = hearing
                    self._animate(Attend(hearing))
                if state is State.LISTENING:
                    self._go_on()
                    if self._reply is None:
                        self._spawn(self._memory.tidy)
            case OpenTurn(turn, at):
                kept = {t: item for t, item in self._turns.items() if t > turn - TURNS_KEPT}
                self._turns = {**kept, turn: item_id()}
                self._listen(order)
                self._tell(SpeechStarted(self._turns[turn], self._audio_ms(at)))
                self._memory.rest()
                self._spawn(self._llm.warm)
            case TakeProvisional():
                self._soft_end_s = anyio.current_time()
                self._listen(order)
                if self._finished is not None:
                    self._spawn(partial(self._judge_end, self._finished, order))
            case CommitTurn():
                self._listen(order)
                self._commit(order)
            case AbandonTurn(turn):
                self._listen(order)
                abandoned = self._turns.pop(turn, None)
                if abandoned is not None:
                    self._tell(TurnAbandoned(abandoned))
            case PrepareReply():
                self._prepare(order)
            case ReplanReply(generation, planned_s):
                if self._current(generation):
                    self._replan(generation, self._clock.at(planned_s + PLAN_MARGIN_S), now)
            case ReleaseReply(generation):
                if reply := self._current(generation):
                    self._release(reply, now)
            case PauseReply(generation):
                if self._current(generation):
                    self._animate(Close(self.timeline.pause(now)))
            case ResumeReply(generation):
                if self._current(generation):
                    for placed in self.timeline.resume(now):
                        self._animate(Show(placed.speech, placed.at, generation))
            case DropReply(generation, reason) | CutReply(generation, reason):
                if reply := self._current(generation):
                    self._end(reply, reason, now)

    async def _judge_end(self, finished: Callable[[float], Awaitable[float | None]], order: TakeProvisional) -> None:
        """Does this pause sound like the end of the turn?"""
        opinion = await finished(anyio.current_time() - order.since + PREROLL_S)
        if opinion is not None:
            self.happened(EndJudged(order.turn, order.pause, opinion))

    def _replan(self, generation: int, planned: Samples, now: Samples) -> None:
        """What was told to the face already is told anew."""
        moved = self.timeline.replan(planned)
        if moved:
            self._animate(Close(now))
            for placed in moved:
                self._animate(Show(placed.speech, placed.at, generation))

    def _current(self, generation: int) -> Reply | None:
        return self._reply if self._reply is not None and self._reply.generation == generation else None

    def _commit(self, order: CommitTurn) -> None:
        committed = self._turns.get(order.turn)
        if committed is None:
            return
        self._speech_end_s = order.at
        if self._reply is not None and self._reply.turn == order.turn:
            self._reply.marks.note("speech_end", order.at)
            self._reply.marks.note("endpoint", anyio.current_time())
        self._tell(SpeechStopped(committed, self._audio_ms(order.at)))
        self._tell(TurnCommitted(committed, self.history.items[-1].id if self.history.items else None))
        if order.text is not None:
            self.history.add(Item(committed, "user", order.text))

    def _record_final(self, final: FinalHeard) -> None:
        """The turn's text for good; if its reply is already being heard, this only corrects the record."""
        said = self._turns.pop(final.turn, None)
        if said is None:
            return
        if self._reply is not None and self._reply.turn == final.turn:
            self._reply.marks.note("asr_final", anyio.current_time())
        item = self.history.find(said)
        if item is not None:
            item.text = final.text or item.text
        elif units(final.text):
            item = Item(said, "user", final.text)
            self.history.add(item)
        if item is None:
            self._tell(TurnAbandoned(said))
        else:
            self._tell(UserSaid(said, item.text))

    # ---- replies -----------------------------------------------------------------------------------

    def _prepare(self, order: PrepareReply) -> None:
        if self._tasks is None:
            return
        if order.turn is None and order.text:
            self.add_item(Item(item_id(), "user", order.text, spoken=False))
        said = self._turns.get(order.turn) if order.turn is not None and order.planned_s is None else None
        if said is not None and order.text and self.history.find(said) is None:
            # The final words never came: what was understood before them is answered, and must stand there.
            self.history.add(Item(said, "user", order.text))
        self._memory.rest()
        self.history.fit(self._llm.history_tokens)
        prompt = self.history.copy()
        if order.planned_s is not None:
            # The turn is not over yet, and may never become a message.
            prompt.items.append(Item("speculation", "user", order.text))
        persona = self.persona
        if order.instructions:
            persona = replace(persona, system_prompt=order.instructions)
        response_id, message_id = "resp_" + secrets.token_hex(12), item_id()
        goes_on = order.turn is None and not order.text
        self._going_on = self._going_on and goes_on
        self._tools = ReplyTools(
            self.toolbox,
            response_id,
            message_id,
            self.toolbox.rounds() if goes_on else 0,
            lambda: self.happened(ReplyProgressed(order.generation)),
            order.tools,
        )
        reply = Reply(
            order.generation,
            response_id,
            message_id,
            prompt,
            Makers(self._llm, self._tts, persona, self.voice),
            say=order.say,
            turn=order.turn,
            tools=self._tools,
            place=self._place,
            queued=self._queued,
            told=self._told,
            failed=self._failed,
            made=self._made,
        )
        self._reply = reply
        self._caption = ""
        if order.planned_s is not None:
            reply.marks.note("soft_end", self._soft_end_s)
            reply.marks.note("provisional", anyio.current_time())
            self.timeline.hold(order.generation, self._clock.at(order.planned_s + PLAN_MARGIN_S))
        else:
            self.timeline.begin(order.generation)
            if order.turn is not None:
                reply.marks.note("speech_end", self._speech_end_s)
        self._tasks.start_soon(reply.run)

    def _release(self, reply: Reply, now: Samples) -> None:
        reply.released = True
        item = Item(reply.item_id, "assistant", "", status="in_progress")
        cover = self.toolbox.first_pending if reply.say and reply.say == self._covering else None
        if not reply.say:
            self._wanted = None
            self.toolbox.begin()
        # What covers a call is said before it has a result: there it stands, too.
        previous = self.history.add(item) if cover is None else self.history.add_before(item, cover)
        self._tell(ReplyCreated(reply.response_id, reply.item_id, previous))
        if reply.text:
            self._tell(ReplyText(reply.response_id, reply.item_id, reply.text))
        moved = self.timeline.release(now)
        if moved:
            # Its planned time has passed: the face must move with it now instead.
            self._animate(Close(now))
            for placed in moved:
                self._animate(Show(placed.speech, placed.at, reply.generation))
        if self._tools is not None:
            self._tools.release()
        if reply.complete:
            self._tell_made(reply)

    def _end(self, reply: Reply, reason: str, now: Samples) -> None:
        """Cut what is heard, drop what is not; the history keeps what was heard."""
        self._reply = None
        self._going_on = False
        reply.cancel()
        if self._tools is not None:
            self._tools.cancel()
        if not reply.released:
            # Nobody knows of it: pictures of it that are already encoded must not be shown either.
            self.pictures.discard(reply.generation)
            self.timeline.drop()
            self._animate(Close(now))
            return
        heard = self.timeline.cut(now)
        self._animate(Close(self.timeline.silent_from))
        if reply.audible:
            self._tell(ReplyCaption(reply.response_id, reply.item_id, heard.text))
            self._tell(ReplyAudioCleared(reply.response_id))
        item = self.history.find(reply.item_id)
        if item is not None and heard.text.strip():
            item.text, item.status = heard.text, "completed" if heard.complete else "incomplete"
            self._tell(ReplyTruncated(item.id, heard.audio_ms, heard.text))
        elif item is not None:
            self.history.remove(item.id)
        if not reply.complete:
            why = "turn_detected" if reason in ("barge_in", "continued") else "client_cancelled"
            self._tell(ReplyDone(reply.response_id, reply.item_id, "cancelled", why, heard.text, reply.usage))
        if reason == "watchdog":
            excuse = phrase("watchdog", self.persona.language)
            self._tell(Problem("watchdog", excuse))
            self.happened(ReplyRequested("", say=excuse))

    def _finish(self, reply: Reply, now: Samples) -> None:
        """Everything was heard."""
        self._show_caption(reply, now)
        self._reply = None
        item = self.history.find(reply.item_id)
        if item is not None:
            item.text, item.status = reply.text + reply.unspoken, "completed"
        self._tell(ReplyAudioStopped(reply.response_id))
        self.happened(ReplyFinished(reply.generation))

    # ---- what a reply tells while it is made -------------------------------------------------------

    def _place(self, reply: Reply, speech: Speech) -> None:
        if reply is not self._reply:
            return
        at = self.timeline.append(speech, self._clock.at(anyio.current_time()))
        if at is not None:  # else it is paused: the face is told when the voice goes on
            self._animate(Show(speech, at, reply.generation))
        if not reply.voiced:
            reply.marks.note("placed", anyio.current_time())
            self.happened(ReplyPrepared(reply.generation))

    def _queued(self) -> Samples:
        return self.timeline.queued(self._clock.at(anyio.current_time()))

    def _told(self, reply: Reply, clause: Clause) -> None:
        if reply.released and reply is self._reply:
            self._tell(ReplyText(reply.response_id, reply.item_id, clause.raw))

    def _made(self, reply: Reply) -> None:
        if reply is self._reply:
            self.timeline.finish(reply.generation)
            if reply.released:
                self._tell_made(reply)

    def _tell_made(self, reply: Reply) -> None:
        """All of it is made; without any voice it is over, and the page has to say it."""
        text = reply.text + reply.unspoken
        item = self.history.find(reply.item_id)
        if reply.voiced:
            self._tell(ReplyDone(reply.response_id, reply.item_id, "completed", "", text, reply.usage))
            return
        self._reply = None
        self._going_on = False
        self.timeline.drop()
        if text.strip():
            self._tell(ReplyCaption(reply.response_id, reply.item_id, text))
            if item is not None:
                item.text, item.status = text, "completed"
        elif item is not None:
            self.history.remove(item.id)
        if self._tools is not None and self._tools.handed and not text.strip():
            self._tell(ReplyDone(reply.response_id, reply.item_id, "completed", "", "", reply.usage))
        else:
            self._tell(ReplyDone(reply.response_id, reply.item_id, "failed", "no_voice", text, reply.usage))
        self.happened(ReplyFinished(reply.generation))

    def _failed(self, reply: Reply, error: StageError) -> None:
        log.warning("%s: %s: %s", error.stage, error.code, error.message)
        if reply is not self._reply:
            return
        if reply.released:
            self._tell(Problem(error.code, phrase(error.code, self.persona.language)))
        else:
            # Nobody knows of it yet: it is thrown away, and asked for anew when the turn is really over.
            self.happened(ReplyFailed(reply.generation, error.code))

    def _audio_ms(self, at: float) -> int:
        return max(0, round((at - self._clock.origin_s) * 1000))


def item_id() -> str:
    return "item_" + secrets.token_hex(12)


def _put(stream: MemoryObjectSendStream[Any] | None, item: object) -> bool:
    """Whether it went in, or nobody is there any more; False: there was no room."""
    try:
        if stream is not None:
            stream.send_nowait(item)
    except anyio.WouldBlock:
        return False
    except (anyio.ClosedResourceError, anyio.BrokenResourceError):
        pass
    return True


@asynccontextmanager
async def _closing(ear: TurnEndSession | None) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if ear is not None:
            await ear.aclose()


async def _discard(stream: MemoryObjectReceiveStream[Show | Close | Attend]) -> None:
    """A call without a picture."""
    async for _ in stream:
        pass
