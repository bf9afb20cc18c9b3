"""`python -m benchmarks.speech_caller ADDRESS TURNS`: somebody who talks to the server, and notes what comes when.

A process of its own: its WebRTC must not take the time of what is measured. One JSON line an event on stdout, every
time from time.monotonic(), which is one clock for all processes of a machine.
"""

import asyncio
import json
import sys
import time
from fractions import Fraction
from typing import Any

import aiohttp
import anyio
import av
import numpy as np
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import RtpPacket

from benchmarks.utterances import RATE, extent, say
from server.core.media import PACKET_SAMPLES
from server.rtc.opus import OpusEncoder
from tests.call.dialled import dial, events
from tests.rtc.pair import Client

SENTENCES = ("what time is it", "could you please tell me now what time it is today")
"""a short one, and one of more than a second: only that is worth a final judgement if no words were heard in it"""
LEAD_S = 1.5  # of silence before the first word
PAUSE_S = 0.4  # between the face's last word and the next sentence
PATIENCE_S = 12.0
AUDIBLE = 10 ** (-45 / 20) * 32768
QUIET_S = 0.3  # a sound after so much silence is a new one


class Talker(MediaStreamTrack):
    """A microphone: silence, and a sentence when it is told to say one."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._encoder = OpusEncoder()
        self._sound = np.zeros(0, np.int16)
        self._index = 0
        self._began = 0.0
        self.silent = asyncio.Event()

    def say(self, sound: np.ndarray) -> None:
        self.silent.clear()
        self._sound = (sound * 32767).astype(np.int16)

    async def recv(self) -> "av.Packet[Any]":
        self._began = self._began or time.monotonic()
        await anyio.sleep_until(self._began + self._index * PACKET_SAMPLES / RATE)
        pcm, self._sound = self._sound[:PACKET_SAMPLES], self._sound[PACKET_SAMPLES:]
        if not len(self._sound):
            self.silent.set()
        packet = av.Packet(self._encoder.encode(pcm.astype("<i2").tobytes().ljust(2 * PACKET_SAMPLES, b"\0")))
        packet.pts, packet.time_base = self._index * PACKET_SAMPLES, Fraction(1, RATE)
        self._index += 1
        return packet


class Ear:
    """Tells when, after a silence, the first packet comes in which something is to be heard."""

    def __init__(self, client: Client) -> None:
        receiver = next(t.receiver for t in client.pc.getTransceivers() if t.kind == "audio")
        receiver._handle_rtp_packet = self._take  # type: ignore[method-assign]
        codec = av.CodecContext.create("libopus", "r")
        assert isinstance(codec, av.AudioCodecContext)
        codec.sample_rate, codec.format, codec.layout = RATE, "s16", "mono"
        self._codec = codec
        self._loud_at = float("-inf")

    async def _take(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        now = time.monotonic()
        if not packet.payload:
            return
        peak = max(
            int(np.abs(f.to_ndarray().astype(np.int32)).max()) for f in self._codec.decode(av.Packet(packet.payload))
        )
        if peak < AUDIBLE:
            return
        if now - self._loud_at > QUIET_S:
            tell("packet", at=now)
        self._loud_at = now


def tell(what: str, **more: Any) -> None:
    print(json.dumps({"what": what, **more}), flush=True)


async def talk(address: str, turns: int) -> None:
    sounds = []
    for sentence in SENTENCES:
        sound = say(sentence)
        first, last = extent(sound)
        sounds.append(sound[first : last + 1])
    microphone = Talker()
    async with aiohttp.ClientSession(address) as http:
        client = await dial(http, microphone, session={"visavis": {"greet": False}})
    Ear(client)
    await asyncio.sleep(LEAD_S)
    known = 0
    for turn in range(turns):
        heard = len(events(client, "output_audio_buffer.stopped"))
        tell("turn", at=time.monotonic(), number=turn, sentence=turn % len(sounds))
        microphone.say(sounds[turn % len(sounds)])
        await microphone.silent.wait()
        try:
            await client.until(lambda: len(events(client, "output_audio_buffer.stopped")) > heard, PATIENCE_S)  # noqa: B023
        except TimeoutError:
            tell("no answer", number=turn)
        marks = events(client, "visavis.marks")
        for one in marks[known:]:
            tell("marks", speech_end_s=one["speech_end_s"], steps_ms=one["steps_ms"])
        known = len(marks)
        client.messages[:] = [m for m in client.messages if '"visavis.marks"' in m or "buffer.stopped" in m]
        await asyncio.sleep(PAUSE_S)
    tell("end", at=time.monotonic())
    await client.aclose()


if __name__ == "__main__":
    anyio.run(talk, sys.argv[1], int(sys.argv[2]))
