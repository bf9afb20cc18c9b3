"""One call: its rooms, the channels between them, and what the TurnTaker's orders do. Read from `run` down."""

import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus
from anyio.streams.memory import MemoryObjectSendStream

from server.config import Config
from server.core.clock import MediaClock
from server.core.endpointing import units
from server.core.errors import RequestError, StageError
from server.core.events import (
    AbandonTurn,
    ChangeState,
    CommitTurn,
    CutReply,
    DropReply,
    Event,
    FinalHeard,
    Interrupted,
    OpenTurn,
    Order,
    PauseReply,
    PeerLost,
    PrepareReply,
    ReleaseReply,
    ReplyFailed,
    ReplyFinished,
    ReplyPrepared,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    ResumeReply,
    State,
    TakeProvisional,
    TurnClosed,
)
from server.core.history import History, Item
from server.core.media import (
    FRAME_SAMPLES,
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
    Closing,
    ItemAdded,
    Measured,
    Narrator,
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
from server.core.phrases import phrase
from server.core.timeline import Timeline
from server.core.turns import TurnTaker
from server.core.voicegate import VoiceGate
from server.engines import Engines
from server.reply import Makers, Reply
from server.rtc.peer import Offer, Peer
from server.rtc.realtime import RealtimeChannel
from server.stages.animate import Close, Pictures, Show, animate
from server.stages.converse import converse
from server.stages.hear import hear
from server.stages.transcribe import Listening, Transcriber

log = logging.getLogger(__name__)

EVENTS = 256  # events between the rooms and the TurnTaker; it never waits, so a few suffice
LISTENED = 500  # 10 s of microphone: an ASR worker that is being started again must not lose the turn
SHOWN = 256  # pieces of voice on their way to the face
CAPTION_S = 0.1
PROGRESS_S = 1.0
PLAN_MARGIN_S = 0.03  # a planned reply begins so much after its endpoint: the decision itself takes time
CLOSE_S = 1.0
TEXT_LIMIT = 8000  # characters of one typed message


class Call:
    """One person's conversation with one face; also the call as the wire protocols use it (CallControl)."""

    def __init__(
        self, config: Config, engines: Engines, persona: Persona, avatar: str, *, greet: bool = False
    ) -> None:
        """greet: whether the persona speaks its opening unasked, as our own page expects."""
        self.id = "rtc_" + secrets.token_urlsafe(18)
        self.history = History()
        self.state = State.LISTENING
        self.marks: list[dict[str, float]] = []
        """the last replies' steps, in milliseconds from the end of the person's speech"""
        self.answered = False
        """whether the caller has our answer: what breaks afterwards is the call's own affair"""
        self._config = config
        self._engines = engines
        self._persona = persona
        self._avatar = avatar
        self._greet = greet
        self._voice = Voice(engines.voice_for(persona), persona.speed)
        self._turn_settings = config.turns
        self._narrators: list[Narrator] = []
        self._clock = MediaClock(0.0)
        self._timeline = Timeline(lead_samples=int(config.call.lead_ms * MEDIA_RATE / 1000))
        self._pictures = Pictures(self._request_key)
        self._request: Callable[[], None] | None = None
        self._reply: Reply | None = None
        self._turns: dict[int, str] = {}  # turn -> item id
        self._taker = TurnTaker(config.turns, persona.language, 0.0)
        self._tasks: TaskGroup | None = None
        self._peer: Peer | None = None
        self._events: MemoryObjectSendStream[Event] | None = None
        self._listening: MemoryObjectSendStream[Listening] | None = None
        self._face: MemoryObjectSendStream[Show | Close] | None = None
        self._caption = ""
        self._captioned_at = 0
        self._progressed_at = 0
        self._opened_s = 0.0

    # ---- the call's life -------------------------------------------------------------------------

    async def run(self, offer: Offer, *, task_status: TaskStatus[str]) -> str:
        """From the offer to the hang-up; returns why it ended. The answer's SDP is the task's status."""
        async with AsyncExitStack() as stack:
            self._opened_s = anyio.current_time()
            self._clock = MediaClock(self._opened_s)
            self._taker = TurnTaker(self._turn_settings, self._persona.language, self._opened_s)
            asr = await self._engines.asr.open(self._persona.language)
            stack.push_async_callback(_close, asr.aclose)
            renderer = None
            if offer.codec is not None:
                renderer = await self._engines.renderer.open(self._avatar, offer.codec, self._opened_s)
                stack.push_async_callback(_close, renderer.aclose)
                self._request = renderer.request_key
            peer = Peer(self._config.ice, self._clock, offer, self, self if renderer is not None else None, self)
            self._peer = peer
            stack.push_async_callback(_close, peer.aclose)
            self._channel = RealtimeChannel(self, peer.send)
            self._narrators.append(self._channel)
            answer = await peer.answer()

            events_in, events = anyio.create_memory_object_stream[Event](EVENTS)
            listening_in, listening = anyio.create_memory_object_stream[Listening](LISTENED)
            face_in, face_out = anyio.create_memory_object_stream[Show | Close](SHOWN)
            for stream in (events_in, events, listening_in, listening, face_in, face_out):
                stack.callback(stream.close)
            self._events, self._listening, self._face = events_in, listening_in, face_in
            transcriber = Transcriber(asr, self._tell_event)

            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(
                    hear,
                    peer.microphone,
                    self._engines.vad.open(),
                    VoiceGate(),
                    self._listen,
                    self._tell_event,
                )
                tasks.start_soon(transcriber.run, listening)
                tasks.start_soon(transcriber.follow, self._heard_so_far)
                tasks.start_soon(converse, events, self._taker, self._execute)
                if renderer is not None:
                    tasks.start_soon(animate, face_out, renderer)
                    tasks.start_soon(self._pictures.collect, renderer)
                else:
                    tasks.start_soon(_discard, face_out)
                tasks.start_soon(self._limit_duration)
                self.answered = True
                task_status.started(answer)
                reason = await peer.run()
                tasks.cancel_scope.cancel()
            self._tasks = None
        return reason

    async def _limit_duration(self) -> None:
        limit_s = self._config.call.max_s
        warning_s = min(60.0, limit_s / 2)
        await anyio.sleep(limit_s - warning_s)
        self._tell(Closing("time_limit", warning_s))
        await anyio.sleep(warning_s)
        self.hang_up("time_limit")

    def statistics(self) -> dict[str, int]:
        """Counts for the metrics."""
        return {
            "frames_dropped": self._pictures.dropped,
            "frames_missed": self._pictures.missed,
            "voice_underruns": self._timeline.statistics.underruns,
            "voice_skipped_samples": self._timeline.statistics.skipped_samples,
        }

    # ---- what the peer tells (server.rtc.peer.PeerListener) ----------------------------------------

    def on_connected(self) -> None:
        """Media flows; the wire protocol speaks once its channel is open."""

    def on_open(self) -> None:
        self._channel.open()
        self._tell(StateChanged(self.state))
        if self._greet and self._persona.opening:
            self._tell_event(ReplyRequested("", say=self._persona.opening))

    def on_message(self, text: str) -> None:
        self._channel.receive(text)

    def on_quiet(self) -> None:
        log.info("%s: nothing comes from the peer any more", self.id)
        self._tell_event(PeerLost())

    def on_back(self) -> None:
        log.info("%s: the peer is back", self.id)

    # ---- what the tracks take (server.rtc.tracks.AudioSource, VideoSource) ------------------------

    def read(self, at: Samples) -> bytes:
        """The voice of media time [at, at + 20 ms)."""
        pcm = self._timeline.read(at)
        reply = self._reply
        if reply is not None:
            self._follow(reply, Samples(at + PACKET_SAMPLES))
        return pcm

    def take(self, index: int) -> EncodedFrame | None:
        frame = self._pictures.take(index)
        reply = self._reply
        if frame is not None and reply is not None and frame.generation == reply.generation and reply.audible:
            reply.marks.note("lips_packet", anyio.current_time())
        return frame

    def request_key(self) -> None:
        self._request_key()

    def _request_key(self) -> None:
        if self._request is not None:
            self._request()

    def _follow(self, reply: Reply, now: Samples) -> None:
        """Notice what the packet that goes out now means for the reply."""
        if not reply.audible:
            if not self._timeline.started:
                return
            reply.audible = True
            reply.marks.note("audio_packet", anyio.current_time())
            self._progressed_at = now
            self._captioned_at = 0
            self._tell_event(ReplyStarted(reply.generation))
            self._tell(ReplyAudioStarted(reply.response_id))
            steps = reply.marks.since("speech_end")
            if steps:
                self.marks = [*self.marks[-99:], steps]
                self._tell(Measured(reply.response_id, steps))
        if now - self._captioned_at >= CAPTION_S * MEDIA_RATE:
            self._captioned_at = now
            self._show_caption(reply, now)
        if now - self._progressed_at >= PROGRESS_S * MEDIA_RATE and self._timeline.playing(now):
            self._progressed_at = now
            self._tell_event(ReplyProgressed(reply.generation))
        if reply.complete and self._timeline.drained(now):
            self._finish(reply, now)

    def _show_caption(self, reply: Reply, now: Samples) -> None:
        heard = self._timeline.heard(now)
        if heard.text != self._caption:
            self._caption = heard.text
            self._tell(ReplyCaption(reply.response_id, reply.item_id, heard.text, heard.note))

    # ---- what happened, told from anywhere ---------------------------------------------------------

    def _tell_event(self, event: Event) -> None:
        if self._events is None:
            return
        if isinstance(event, FinalHeard):
            self._record_final(event)
        try:
            self._events.send_nowait(event)
        except anyio.WouldBlock:
            log.error("%s: too many events at once; %s is lost", self.id, type(event).__name__)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass

    def _listen(self, item: Listening) -> None:
        if self._listening is None:
            return
        try:
            self._listening.send_nowait(item)
        except anyio.WouldBlock:
            if not isinstance(item, MicFrame):
                log.error("%s: the ASR is %d items behind; an order to it is lost", self.id, LISTENED)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass

    def _animate(self, item: Show | Close) -> None:
        if self._face is None:
            return
        try:
            self._face.send_nowait(item)
        except anyio.WouldBlock:
            log.warning("%s: the face is behind; a piece of its lips is lost", self.id)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass

    def _tell(self, notice: Notice) -> None:
        for narrator in self._narrators:
            narrator.tell(notice)

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
            case OpenTurn(turn, at):
                self._turns = {t: i for t, i in self._turns.items() if t > turn - 8} | {turn: _item_id()}
                self._listen(order)
                self._tell(SpeechStarted(self._turns[turn], self._audio_ms(at)))
                if self._tasks is not None:
                    self._tasks.start_soon(self._engines.llm.warm)
            case TakeProvisional():
                self._listen(order)
            case CommitTurn(turn, at, text):
                self._listen(order)
                self._commit(turn, at, text)
            case AbandonTurn(turn):
                self._listen(order)
                item_id = self._turns.pop(turn, None)
                if item_id is not None:
                    self._tell(TurnAbandoned(item_id))
            case PrepareReply():
                self._prepare(order, now)
            case ReleaseReply(generation):
                self._release(generation, now)
            case PauseReply(generation):
                if self._is_current(generation):
                    self._animate(Close(self._timeline.pause(now)))
            case ResumeReply(generation):
                if self._is_current(generation):
                    for placed in self._timeline.resume(now):
                        self._animate(Show(placed.speech, placed.at, generation))
            case DropReply(generation, reason) | CutReply(generation, reason):
                self._end(generation, reason, now)

    def _is_current(self, generation: int) -> bool:
        return self._reply is not None and self._reply.generation == generation

    def _commit(self, turn: int, at: float, text: str | None) -> None:
        item_id = self._turns.get(turn)
        if item_id is None:
            return
        reply = self._reply
        if reply is not None and reply.turn == turn:
            reply.marks.note("speech_end", at)
            reply.marks.note("endpoint", anyio.current_time())
        self._speech_end = at
        self._tell(SpeechStopped(item_id, self._audio_ms(at)))
        previous = self.history.items[-1].id if self.history.items else None
        self._tell(TurnCommitted(item_id, previous))
        if text is not None:
            self.history.add(Item(item_id, "user", text))

    def _record_final(self, final: FinalHeard) -> None:
        """The turn's text for good; if its reply is already being heard, this only corrects the record."""
        item_id = self._turns.pop(final.turn, None)
        if item_id is None:
            return
        if self._reply is not None and self._reply.turn == final.turn:
            self._reply.marks.note("asr_final", anyio.current_time())
        item = self.history.find(item_id)
        if item is not None:
            item.text = final.text or item.text
        elif units(final.text):
            self.history.add(Item(item_id, "user", final.text))
        else:
            self._tell(TurnAbandoned(item_id))
            return
        self._tell(UserSaid(item_id, item.text if item is not None else final.text))

    # ---- replies -----------------------------------------------------------------------------------

    def _prepare(self, order: PrepareReply, now: Samples) -> None:
        if self._tasks is None:
            return
        if self._reply is not None:
            self._end(self._reply.generation, "replaced", now)
        prompt = History(items=list(self.history.items))
        if order.turn is not None and order.planned_s is not None:
            prompt.items.append(Item("speculation", "user", order.text))
        elif order.turn is None and order.text:
            self.add_item("user", order.text, _item_id(), None)
            prompt = History(items=list(self.history.items))
        reply = Reply(
            order.generation,
            "resp_" + secrets.token_hex(12),
            _item_id(),
            prompt,
            Makers(self._engines.llm, self._engines.tts, self._persona, self._voice),
            say=order.say,
            turn=order.turn,
            place=self._place,
            queued=self._queued,
            told=self._told,
            failed=self._failed,
            made=self._made,
        )
        self._reply = reply
        self._caption = ""
        if order.planned_s is not None:
            self._timeline.hold(order.generation, self._clock.at(order.planned_s + PLAN_MARGIN_S))
        else:
            self._timeline.begin(order.generation)
            if order.turn is not None:
                reply.marks.note("speech_end", self._speech_end)
        self._tasks.start_soon(reply.run)

    _speech_end = 0.0

    def _release(self, generation: int, now: Samples) -> None:
        reply = self._reply
        if reply is None or reply.generation != generation:
            return
        reply.released = True
        previous = self.history.add(Item(reply.item_id, "assistant", "", status="in_progress"))
        self._tell(ReplyCreated(reply.response_id, reply.item_id, previous))
        if reply.text:
            self._tell(ReplyText(reply.response_id, reply.item_id, reply.text))
        moved = self._timeline.release(now)
        if moved:
            self._animate(Close(now))
            for placed in moved:
                self._animate(Show(placed.speech, placed.at, generation))
        if reply.complete:
            self._tell_done(reply)

    def _end(self, generation: int, reason: str, now: Samples) -> None:
        """Cut what is heard, drop what is not; the history keeps what was heard."""
        reply = self._reply
        if reply is None or reply.generation != generation:
            return
        self._reply = None
        reply.cancel()
        if not reply.released:
            # Never shown: pictures of it that are already encoded must not be.
            self._pictures.discard(generation)
            self._timeline.drop()
            self._animate(Close(now))
            return
        heard = self._timeline.cut(now)
        self._animate(Close(self._timeline.silent_from))
        if reply.audible:
            self._tell(ReplyCaption(reply.response_id, reply.item_id, heard.text))
            self._tell(ReplyAudioCleared(reply.response_id))
        item = self.history.find(reply.item_id)
        if item is not None:
            if heard.text.strip():
                item.text, item.status = heard.text, "completed" if heard.complete else "incomplete"
                self._tell(ReplyTruncated(item.id, round(heard.audio_ms), heard.text))
            else:
                self.history.remove(item.id)
        if not reply.complete:
            why = "turn_detected" if reason in ("barge_in", "continued") else "client_cancelled"
            self._tell(ReplyDone(reply.response_id, reply.item_id, "cancelled", why, heard.text))
        if reason == "watchdog":
            self._tell(Problem("watchdog", phrase("watchdog", self._persona.language)))
            self._tell_event(ReplyRequested("", say=phrase("watchdog", self._persona.language)))

    def _finish(self, reply: Reply, now: Samples) -> None:
        """Everything was heard."""
        self._show_caption(reply, now)
        self._reply = None
        item = self.history.find(reply.item_id)
        if item is not None:
            item.text, item.status = reply.text + reply.unspoken, "completed"
        self._tell(ReplyAudioStopped(reply.response_id))
        self._tell_event(ReplyFinished(reply.generation))

    def _place(self, reply: Reply, speech: Speech) -> None:
        if reply is not self._reply:
            return
        at = self._timeline.append(speech, self._clock.at(anyio.current_time()))
        if at is not None:  # else it is paused: the face is told when the voice goes on
            self._animate(Show(speech, at, reply.generation))
        if not reply.voiced:
            self._tell_event(ReplyPrepared(reply.generation))

    def _queued(self) -> Samples:
        return self._timeline.queued(self._clock.at(anyio.current_time()))

    def _told(self, reply: Reply, clause: Clause) -> None:
        if reply.released and reply is self._reply:
            self._tell(ReplyText(reply.response_id, reply.item_id, clause.raw))

    def _made(self, reply: Reply) -> None:
        if reply is not self._reply:
            return
        self._timeline.finish(reply.generation)
        if reply.released:
            self._tell_done(reply)

    def _tell_done(self, reply: Reply) -> None:
        failed = not reply.voiced
        item = self.history.find(reply.item_id)
        if item is not None:
            item.text = reply.text
        self._tell(
            ReplyDone(
                reply.response_id,
                reply.item_id,
                "failed" if failed else "completed",
                "no_voice" if failed else "",
                reply.text,
            )
        )
        if failed:
            # There is nothing to hear: the caption says it all at once, and the turn goes back to the person.
            if reply.text.strip():
                self._tell(ReplyCaption(reply.response_id, reply.item_id, reply.text))
            self._reply = None
            self._timeline.drop()
            if item is not None:
                item.status = "completed"
            self._tell_event(ReplyFinished(reply.generation))

    def _failed(self, reply: Reply, error: StageError) -> None:
        log.warning("%s: %s: %s", self.id, error.code, error.message)
        if reply is self._reply:
            self._tell(Problem(error.code, phrase(error.code, self._persona.language)))
            if error.stage != "llm" and not reply.voiced and reply.complete:
                self._tell_event(ReplyFailed(reply.generation, error.code))

    # ---- what the outside may ask (server.core.notices.CallControl) ------------------------------

    def session(self) -> dict[str, Any]:
        face = self._engines.avatar(self._avatar)
        return {
            "model": self._engines.llm_name,
            "instructions": self._persona.system_prompt,
            "voice": self._voice.name,
            "speed": self._voice.speed,
            "language": self._persona.language,
            "avatar": self._avatar,
            "persona": self._persona.name,
            "avatars": [a.name for a in self._engines.avatars],
            "personas": sorted(self._config.personas),
            "voices": list(self._engines.tts.voices),
            "turn_mode": self._turn_settings.mode,
            "silence_ms": round(self._turn_settings.endpoint_s * 1000),
            "fps": MEDIA_RATE // FRAME_SAMPLES,
            "width": face.width if face is not None else 0,
            "height": face.height if face is not None else 0,
        }

    def update(
        self,
        *,
        instructions: str | None = None,
        voice: str | None = None,
        speed: float | None = None,
        turn_mode: str | None = None,
        silence_ms: int | None = None,
        create_response: bool | None = None,
        interrupt_response: bool | None = None,
        avatar: str | None = None,
        persona: str | None = None,
    ) -> None:
        new_persona, new_voice, turns = self._persona, self._voice, self._turn_settings
        if persona is not None and persona != new_persona.name:
            new_persona = self._config.persona(persona)
            new_voice = Voice(self._engines.voice_for(new_persona), new_persona.speed)
        if avatar is not None and avatar != self._avatar:
            raise RequestError(400, "avatar_fixed", "The face is chosen when the call begins. Hang up and call anew.")
        if instructions is not None:
            if len(instructions) > 4 * TEXT_LIMIT:
                raise RequestError(400, "too_long", f"Instructions may have {4 * TEXT_LIMIT} characters.")
            new_persona = replace(new_persona, system_prompt=instructions)
        if voice is not None and voice in self._engines.tts.voices:
            new_voice = replace(new_voice, name=voice)
        if speed is not None:
            if not 0.5 <= speed <= 2.0:
                raise RequestError(400, "bad_speed", "The speed of the voice lies between 0.5 and 2.")
            new_voice = replace(new_voice, speed=speed)
        if turn_mode is not None:
            turns = msgspec.structs.replace(turns, mode=turn_mode)
        if silence_ms is not None:
            if not 200 <= silence_ms <= 5000:
                raise RequestError(400, "bad_silence", "The silence that ends a turn lies between 200 and 5000 ms.")
            turns = msgspec.structs.replace(turns, endpoint_s=silence_ms / 1000)
        self._persona, self._voice = new_persona, new_voice
        if turns != self._turn_settings:
            self._turn_settings = turns
            self._taker.configure(turns)
        if create_response is not None:
            self._taker.create_response = create_response
        if interrupt_response is not None:
            self._taker.interrupt_response = interrupt_response

    def add_item(
        self, role: Literal["user", "assistant", "system"], text: str, item_id: str, after: str | None
    ) -> None:
        if len(text) > TEXT_LIMIT:
            raise RequestError(400, "too_long", f"A message may have {TEXT_LIMIT} characters; this has {len(text)}.")
        previous = self.history.add(Item(item_id, role, text, spoken=False), after)
        self._tell(ItemAdded(item_id, previous))

    def delete_item(self, item_id: str) -> None:
        if not self.history.remove(item_id):
            raise RequestError(404, "item_not_found", f"There is no message {item_id!r} in this call.")

    def create_reply(self, text: str = "", say: str = "", instructions: str = "") -> None:
        if len(text) > TEXT_LIMIT or len(say) > TEXT_LIMIT:
            raise RequestError(400, "too_long", f"A message may have {TEXT_LIMIT} characters.")
        self._tell_event(ReplyRequested(text, say=say))

    def cancel_reply(self) -> bool:
        there = self._reply is not None
        self._tell_event(Interrupted())
        return there

    def clear_output(self) -> None:
        self._tell_event(Interrupted())

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """The timeline has cut it already, at what was heard; a client's figure could only be worse."""
        if self.history.find(item_id) is None:
            raise RequestError(404, "item_not_found", f"There is no message {item_id!r} in this call.")

    def commit_input(self) -> None:
        self._tell_event(TurnClosed())

    def clear_input(self) -> None:
        self._tell_event(Interrupted())

    def hang_up(self, reason: str) -> None:
        if self._peer is not None:
            self._peer.hang_up(reason)

    def _audio_ms(self, at: float) -> int:
        return max(0, round((at - self._opened_s) * 1000))


async def _close(close: Callable[[], Awaitable[None]]) -> None:
    """Also when the call is being cancelled; bounded, since nobody waits for it any more."""
    with anyio.move_on_after(CLOSE_S, shield=True):
        await close()


async def _discard(stream: anyio.streams.memory.MemoryObjectReceiveStream[Show | Close]) -> None:
    """A call without a picture."""
    async for _ in stream:
        pass


def _item_id() -> str:
    return "item_" + secrets.token_hex(12)
