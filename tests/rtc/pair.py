"""A real aiortc client in this process, on loopback, that can lose packets and write down what comes."""

import asyncio
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import anyio
import av
import numpy as np
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import RtcpSrPacket, RtpPacket, is_rtcp

from server.core.media import EncodedFrame, Samples
from server.rtc.aiortc_fixes import bind_ice
from server.rtc.opus import OpusEncoder
from server.rtc.peer import RtcSettings

LOOPBACK = RtcSettings(addresses=["127.0.0.1"])


def tone(index: int, hz: float = 440.0) -> bytes:
    """Packet `index` of an endless tone at half scale: 960 samples s16le mono 48 kHz."""
    n = np.arange(960 * index, 960 * (index + 1))
    return bytes((16384 * np.sin(2 * np.pi * hz * n / 48_000)).astype("<i2"))


class Hum:
    """AudioSource: a tone, and a list of when it was asked."""

    def __init__(self) -> None:
        self.read_at: list[int] = []

    def read(self, at: Samples) -> bytes:
        self.read_at.append(at)
        return tone(at // 960)


class Film:
    """VideoSource: every frame is there in time: one H.264 NAL unit with its index in place of a picture."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.keys_asked = 0
        self._key = False

    def take(self, index: int) -> EncodedFrame | None:
        if self.taken and self.taken[-1] >= index:
            return None
        self.taken.append(index)
        key, self._key = self._key, False
        return EncodedFrame(index=index, data=b"\0\0\0\1\x65" + b"%016x" % index, key=key)

    def request_key(self) -> None:
        self.keys_asked += 1
        self._key = True


class Ear:
    """Listener that writes everything down and wakes whoever waits for it."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._changed = asyncio.Event()

    def _note(self, what: str) -> None:
        self.heard.append(what)
        self._changed.set()

    def on_connected(self) -> None:
        self._note("connected")

    def on_message(self, text: str) -> None:
        self._note(f"message {text}")

    def on_quiet(self) -> None:
        self._note("quiet")

    def on_back(self) -> None:
        self._note("back")

    async def until(self, what: str) -> None:
        with anyio.fail_after(10):
            while what not in self.heard:
                self._changed.clear()
                await self._changed.wait()


class Voice(MediaStreamTrack):
    """A client's microphone: `packets` Opus packets of a tone, one every `pace_s`, then nothing."""

    kind = "audio"

    def __init__(self, packets: int = 0, pace_s: float = 0.02) -> None:
        super().__init__()
        self.finished = asyncio.Event()
        self._packets = packets
        self._pace_s = pace_s
        self._encoder = OpusEncoder()
        self._index = 0
        self._started_s: float | None = None

    async def recv(self) -> "av.Packet[Any]":
        if self._started_s is None:
            self._started_s = anyio.current_time()
        await anyio.sleep_until(self._started_s + self._index * self._pace_s)
        if self._index >= self._packets:
            self.finished.set()
            await anyio.sleep_forever()
        packet = av.Packet(self._encoder.encode(tone(self._index)))
        packet.pts, packet.time_base = self._index * 960, Fraction(1, 48_000)
        self._index += 1
        return packet


class Client:
    """The other side. Media that comes is written down as packets, not decoded."""

    def __init__(self) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel: RTCDataChannel | None = None
        self.messages: list[str] = []
        self.rtp: dict[str, list[RtpPacket]] = {"audio": [], "video": []}
        self.reports: dict[str, list[RtcpSrPacket]] = {"audio": [], "video": []}
        self.sent = 0
        """RTP packets on their way"""
        self.lost = 0
        """... and those that did not get there"""
        self.changed = asyncio.Event()

    async def offer(
        self, microphone: MediaStreamTrack | None = None, *, video: bool = False, data: bool = True
    ) -> str:
        if microphone is not None:
            self.pc.addTrack(microphone)
        else:
            self.pc.addTransceiver("audio", direction="recvonly")
        if video:
            self.pc.addTransceiver("video", direction="recvonly")
        if data:
            self.channel = self.pc.createDataChannel("oai-events")
            self.channel.on("message", self._on_message)
            self.channel.on("open", self.changed.set)
        self.pc.on("connectionstatechange", self.changed.set)
        for transceiver in self.pc.getTransceivers():
            bind_ice(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
            self._listen(transceiver.kind, transceiver.receiver)
        if self.pc.sctp is not None:
            bind_ice(self.pc.sctp.transport.transport._connection, ["127.0.0.1"])
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return str(self.pc.localDescription.sdp)

    async def accept(self, answer: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))

    def lose(self, share: float, seed: int) -> None:
        """Lose RTP packets of the microphone at random, from now on."""
        chance = random.Random(seed)
        transport = self.pc.getSenders()[0].transport
        send = transport._send_rtp

        async def send_most(data: bytes) -> None:
            if not is_rtcp(data):
                self.sent += 1
                if chance.random() < share:
                    self.lost += 1
                    return
            await send(data)

        transport._send_rtp = send_most  # type: ignore[method-assign]

    async def until(self, true: Callable[[], bool], within_s: float = 10.0) -> None:
        with anyio.fail_after(within_s):
            while not true():
                self.changed.clear()
                await self.changed.wait()

    async def connected(self) -> None:
        await self.until(lambda: self.pc.connectionState == "connected")

    async def say(self, text: str) -> None:
        """Send text as soon as the channel is open."""
        assert self.channel is not None
        channel = self.channel
        await self.until(lambda: channel.readyState == "open")
        channel.send(text)

    async def aclose(self) -> None:
        await self.pc.close()

    def _on_message(self, text: str) -> None:
        self.messages.append(text)
        self.changed.set()

    def _listen(self, kind: str, receiver: Any) -> None:
        async def note_rtp(packet: RtpPacket, arrival_time_ms: int) -> None:
            self.rtp[kind].append(packet)
            self.changed.set()

        handle_rtcp = receiver._handle_rtcp_packet

        async def note_rtcp(packet: Any) -> None:
            if isinstance(packet, RtcpSrPacket):
                self.reports[kind].append(packet)
                self.changed.set()
            await handle_rtcp(packet)

        receiver._handle_rtp_packet = note_rtp
        receiver._handle_rtcp_packet = note_rtcp
