"""One call: a conversation, the peer it is held with, and what the wire protocols may ask of it."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import TaskStatus

from server.config import Config
from server.conversation import Conversation
from server.core.clock import MediaClock
from server.core.errors import RequestError, StageError
from server.core.events import Interrupted, PeerLost, ReplyRequested, TurnCleared, TurnClosed
from server.core.history import History, Item
from server.core.media import VIDEO_FPS, Persona, Voice
from server.core.notices import Closing, Narrator, Notice, Problem, StateChanged
from server.core.phrases import phrase
from server.core.protocols import AsrSession
from server.core.tools import Tool, ToolOffer
from server.engines import Engines
from server.rtc.peer import Offer, Peer
from server.rtc.realtime import RealtimeChannel

log = logging.getLogger(__name__)

TEXT_LIMIT = 8000  # characters of one typed message
INSTRUCTIONS_LIMIT = 32_000
CLOSE_S = 1.0
WARNING_S = 60.0  # how long before its end a call is told


class Call:
    """What a peer and the wire protocols see of a conversation (rtc.peer.Listener, core.notices.CallControl)."""

    def __init__(
        self,
        call_id: str,
        config: Config,
        engines: Engines,
        persona: Persona,
        avatar: str,
        *,
        greet: bool = False,
        alpha: bool = False,
        voice: str = "",
        hot_words: Sequence[str] = (),
    ) -> None:
        """greet: whether the persona speaks its opening unasked, as our own page expects.

        alpha: whether the face is wanted with its matte below it, for the page to put over something.
        voice: who speaks instead of the persona's own.
        hot_words: what is easily misheard in this call, checked.
        """
        self.id = call_id
        self.answered = False
        """whether the caller has our answer: what breaks afterwards is the call's own affair"""
        self._config = config
        self._engines = engines
        self._avatar = avatar
        self._greet = greet
        self._hot_words = hot_words
        shown = engines.avatar(avatar)
        self._alpha = alpha and shown is not None and shown.alpha
        self._turns = config.turns
        self._narrators: list[Narrator] = []
        self._clock = MediaClock(anyio.current_time())
        self._conversation = Conversation(
            llm=engines.llm,
            tts=engines.tts,
            persona=persona,
            voice=Voice(voice if voice in engines.tts.voices else engines.voice_for(persona), persona.speed),
            turns=config.turns,
            clock=self._clock,
            lead_ms=config.call.lead_ms,
            tell=self._tell,
            functions=engines.functions,
            tools=config.tools,
        )
        self._peer: Peer | None = None
        self._deaf: Problem | None = None

    def follow(self, narrator: Narrator) -> None:
        """Tell it what happens from now on."""
        self._narrators.append(narrator)

    async def run(self, offer: Offer, *, task_status: TaskStatus[str]) -> str:
        """From the offer to the hang-up; returns why it ended. The answer's SDP is the task's status."""
        conversation = self._conversation
        async with AsyncExitStack() as stack:
            asr = await self._open_asr(conversation.persona.language)
            stack.push_async_callback(_close, asr.aclose)
            renderer = None
            if offer.codec is not None:
                renderer = await self._engines.renderer.open(
                    self._avatar, offer.codec, self._clock.origin_s, self._alpha
                )
                stack.push_async_callback(_close, renderer.aclose)
            ice = self._config.ice.listening_on(self._config.http.host)
            peer = Peer(ice, self._clock, offer, conversation, conversation if renderer else None, self)
            self._peer = peer
            stack.push_async_callback(_close, peer.aclose)
            self._channel = RealtimeChannel(self, peer.send)
            self._narrators.append(self._channel)
            answer = await peer.answer()

            reason = ""

            async def live() -> None:
                nonlocal reason
                self.answered = True
                task_status.started(answer)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._limit_duration)
                    reason = await peer.run()
                    tasks.cancel_scope.cancel()

            await conversation.run(peer.microphone, self._engines.vad.open(), asr, renderer, live, self._engines.ends)
        return reason

    async def _open_asr(self, language: str) -> AsrSession:
        """The ASR's ear for this call; where it has none, the call runs on text input and says so."""
        try:
            return await self._engines.asr.open(language, self._hot_words)
        except StageError as error:
            log.warning("%s runs on text input: %s", self.id, error.message)
            self._deaf = Problem(error.code, phrase("asr", language))
            return await self._engines.deaf.open(language)

    async def _limit_duration(self) -> None:
        limit_s = self._config.call.max_s
        warning_s = min(WARNING_S, limit_s / 2)
        await anyio.sleep(limit_s - warning_s)
        self._tell(Closing("time_limit", warning_s))
        await anyio.sleep(warning_s)
        self.hang_up("time_limit")

    def statistics(self) -> dict[str, int]:
        """Counts for the metrics."""
        voice, pictures = self._conversation.timeline.statistics, self._conversation.pictures
        return {
            "frames_dropped": pictures.dropped,
            "frames_missed": pictures.missed,
            "frames_reduced": pictures.reduced,
            "voice_underruns": voice.underruns,
            "voice_skipped_samples": voice.skipped_samples,
        }

    def _tell(self, notice: Notice) -> None:
        for narrator in self._narrators:
            narrator.tell(notice)

    # ---- what the peer tells (server.rtc.peer.Listener) --------------------------------------------

    def on_connected(self) -> None:
        self._channel.open()
        if self._deaf is not None:
            self._tell(self._deaf)
        self._tell(StateChanged(self._conversation.state))
        opening = self._conversation.persona.opening
        if self._greet and opening:
            self._conversation.happened(ReplyRequested("", say=opening))

    def on_message(self, text: str) -> None:
        self._channel.receive(text)

    def on_quiet(self) -> None:
        self._conversation.happened(PeerLost())

    def on_back(self) -> None:
        """Nothing to undo: what was being said when the peer was lost has been cut to what was heard."""

    # ---- what the outside may ask (server.core.notices.CallControl) --------------------------------

    @property
    def history(self) -> History:
        return self._conversation.history

    def session(self) -> dict[str, Any]:
        conversation, face = self._conversation, self._engines.avatar(self._avatar)
        return {
            "model": self._engines.llm_name,
            "instructions": conversation.persona.system_prompt,
            "voice": conversation.voice.name,
            "speed": conversation.voice.speed,
            "language": conversation.persona.language,
            "avatar": self._avatar,
            "persona": conversation.persona.name,
            "avatars": [a.name for a in self._engines.avatars],
            "personas": list(self._config.personas),
            "voices": list(self._engines.tts.voices),
            "turn_mode": self._turns.mode,
            "silence_ms": round(self._turns.endpoint_s * 1000),
            "fps": VIDEO_FPS,
            "width": face.width if face else 0,
            "height": face.height * (2 if self._alpha else 1) if face else 0,
            "alpha": self._alpha,
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
        tools: Sequence[Tool] | None = None,
        tool_choice: str | None = None,
    ) -> None:
        conversation, taker = self._conversation, self._conversation.taker
        new_persona, new_voice, turns = conversation.persona, conversation.voice, self._turns
        if persona is not None and persona != new_persona.name:
            new_persona = self._config.persona(persona)
            new_voice = Voice(self._engines.voice_for(new_persona), new_persona.speed)
        if avatar is not None and avatar != self._avatar:
            raise RequestError(400, "avatar_fixed", "The face is chosen when the call begins. Hang up and call anew.")
        if instructions is not None and instructions.strip():  # agents without any send an empty text
            _check_instructions(instructions)
            new_persona = replace(new_persona, system_prompt=instructions)
        if voice == "":  # back to the persona's own
            new_voice = replace(new_voice, name=self._engines.voice_for(new_persona))
        elif voice is not None and voice in self._engines.tts.voices:
            new_voice = replace(new_voice, name=voice)
        if speed is not None:
            if not 0.5 <= speed <= 2.0:
                raise RequestError(400, "bad_speed", "The speed of the voice lies between 0.5 and 2.")
            new_voice = replace(new_voice, speed=speed)
        if silence_ms is not None and not 200 <= silence_ms <= 5000:
            raise RequestError(400, "bad_silence", "The silence that ends a turn lies between 200 and 5000 ms.")
        if turn_mode is not None:
            turns = msgspec.structs.replace(turns, mode=turn_mode)
        if silence_ms is not None:
            turns = msgspec.structs.replace(turns, endpoint_s=silence_ms / 1000)
        if tools is not None or tool_choice is not None:
            conversation.toolbox.declare(tools, tool_choice)
        conversation.persona, conversation.voice = new_persona, new_voice
        taker.language = new_persona.language
        if turns != self._turns:
            self._turns = turns
            taker.configure(turns)
        if create_response is not None:
            taker.create_response = create_response
        if interrupt_response is not None:
            taker.interrupt_response = interrupt_response

    def add_item(
        self, role: Literal["user", "assistant", "system"], text: str, item_id: str, after: str | None
    ) -> None:
        _check_length(text)
        self._conversation.add_item(Item(item_id, role, text, spoken=False), after)

    def offer(self) -> ToolOffer:
        return self._conversation.toolbox.page

    def add_output(self, call_id: str, output: str, item_id: str) -> None:
        self._conversation.answer(call_id, output, item_id)

    def delete_item(self, item_id: str) -> None:
        self._find(item_id)
        self.history.remove(item_id)

    def create_reply(
        self,
        text: str = "",
        say: str = "",
        instructions: str = "",
        tools: Sequence[Tool] | None = None,
        tool_choice: str | None = None,
    ) -> None:
        _check_length(text)
        _check_length(say)
        _check_instructions(instructions)
        own = None
        if tools is not None or tool_choice is not None:
            own = self._conversation.toolbox.checked(tools, tool_choice)
        self._conversation.request(ReplyRequested(text, say=say, instructions=instructions, tools=own))

    def cancel_reply(self) -> bool:
        there = self._conversation.replying or self._conversation.toolbox.pending
        self._conversation.happened(Interrupted())
        return there

    def clear_output(self) -> None:
        self._conversation.happened(Interrupted())

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """The timeline has cut it already, at what was heard; a client's figure could only be worse."""
        self._find(item_id)

    def commit_input(self) -> None:
        self._conversation.happened(TurnClosed())

    def clear_input(self) -> None:
        self._conversation.happened(TurnCleared())

    def hang_up(self, reason: str) -> None:
        if self._peer is not None:
            self._tell(Closing(reason, 0.0))  # a page that is not told dials again
            self._peer.hang_up(reason)

    def _find(self, item_id: str) -> Item:
        item = self.history.find(item_id)
        if item is None:
            raise RequestError(404, "item_not_found", f"There is no message {item_id!r} in this call.")
        return item


def _check_length(text: str) -> None:
    if len(text) > TEXT_LIMIT:
        raise RequestError(400, "too_long", f"A message may have {TEXT_LIMIT} characters; this has {len(text)}.")


def _check_instructions(instructions: str) -> None:
    if len(instructions) > INSTRUCTIONS_LIMIT:
        raise RequestError(400, "too_long", f"Instructions may have {INSTRUCTIONS_LIMIT} characters.")


async def _close(close: Callable[[], Awaitable[None]]) -> None:
    """Also when the call is being cancelled; bounded, since nobody waits for it any more."""
    with anyio.move_on_after(CLOSE_S, shield=True):
        await close()
