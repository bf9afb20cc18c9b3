"""What aiortc 1.16 gets wrong for a live conversation, mended on single objects; no other call sees any of it.

Each function names its fault. All of them reach into private names, which is why aiortc is pinned.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import aioice.ice
import aiortc
from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aiortc import RTCRtpReceiver, RTCRtpSender, RTCRtpTransceiver, RTCSctpTransport, clock
from aiortc.rtp import RTCP_PSFB_APP, RTP_HISTORY_SIZE, AnyRtcpPacket, RtcpPsfbPacket, RtcpSrPacket, RtpPacket

if not aiortc.__version__.startswith("1.16."):
    raise ImportError(
        f"aiortc {aiortc.__version__} is installed, but server/rtc/aiortc_fixes.py mends the insides of 1.16: "
        "pip install 'aiortc==1.16.*'"
    )

log = logging.getLogger(__name__)

T = TypeVar("T")

HOLE_PACKETS = 3
"""a missing packet is given up when so many newer ones have come"""
HOLE_S = 0.06
"""... or when the first newer one has waited so long"""
MAX_MISORDER = 100
"""a sequence number further off than this is a new beginning, not a late packet"""
KEY_GAP_S = 0.5
"""NACKs that cannot be answered are repeated for as long as the picture is broken; one key frame mends it"""
SOCKET_BUFFER = 1 << 20
"""bytes asked for as receive buffer, as aioice does"""
UNASSEMBLED_BYTES = 2 << 20
"""parts of messages that may wait for the rest: twice the window that aiortc announces"""


def _wrap(owner: object, name: str, make: Callable[[Any], Any]) -> None:
    """Put `make(what is there)` in the place of one object's attribute; its class is left alone."""
    setattr(owner, name, make(getattr(owner, name)))


# ---- 1. the microphone's jitter buffer -------------------------------------------------------------


class ReorderBuffer(Generic[T]):
    """Packets in order: at once while none is missing; a hole is waited for briefly, then skipped.

    Everything that piled up behind a hole comes out together when the hole is filled or given up, so no delay
    outlives it. Pure: time is an argument.
    """

    def __init__(self, depth: int = HOLE_PACKETS, wait_s: float = HOLE_S) -> None:
        self.lost = 0
        """packets given up"""
        self.late = 0
        """packets that came after they were given up, or twice"""
        self._depth = depth
        self._wait_s = wait_s
        self._next: int | None = None
        self._waiting: dict[int, tuple[T, float]] = {}

    def push(self, sequence: int, item: T, now: float) -> list[T]:
        """What can go on now that `item` is here, in order."""
        out = self.expire(now)
        ahead = 0 if self._next is None else (sequence - self._next) & 0xFFFF
        if self._next is None:
            self._next = sequence
        elif MAX_MISORDER <= ahead <= 0x10000 - MAX_MISORDER:
            out += [waiting for _, (waiting, _) in self._in_order()]
            self._waiting.clear()
            self._next = sequence
        elif ahead >= 0x8000 or sequence in self._waiting:
            self.late += 1
            return out
        self._waiting[sequence] = (item, now)
        out += self._run()
        while len(self._waiting) >= self._depth:
            out += self._skip()
        return out

    def expire(self, now: float) -> list[T]:
        """What can go on because its hole has been waited for long enough."""
        out: list[T] = []
        while (deadline := self.deadline()) is not None and now >= deadline:
            out += self._skip()
        return out

    def deadline(self) -> float | None:
        """When to call `expire`; None: nothing waits."""
        return min(came for _, came in self._waiting.values()) + self._wait_s if self._waiting else None

    def _in_order(self) -> list[tuple[int, tuple[T, float]]]:
        first = self._next or 0
        return sorted(self._waiting.items(), key=lambda entry: (entry[0] - first) & 0xFFFF)

    def _run(self) -> list[T]:
        out = []
        while self._next in self._waiting:
            out.append(self._waiting.pop(self._next)[0])
            self._next = (self._next + 1) & 0xFFFF
        return out

    def _skip(self) -> list[T]:
        assert self._next is not None
        first = self._in_order()[0][0]
        self.lost += (first - self._next) & 0xFFFF
        self._next = first
        return self._run()


class _InOrder:
    """Stands where aiortc has its JitterBuffer, and hands it nothing: `deliver` gets the packets instead."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self.buffer: ReorderBuffer[bytes] = ReorderBuffer()
        self._deliver = deliver
        self._ssrc: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        if packet.ssrc != self._ssrc:  # another microphone on the same line: its numbers begin anew
            self._ssrc = packet.ssrc
            self.buffer = ReorderBuffer()
        self._hand_on(self.buffer.push(packet.sequence_number, packet._data, time.monotonic()))  # type: ignore[attr-defined]
        return False, None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._hand_on(self.buffer.expire(time.monotonic()))

    def _hand_on(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            self._deliver(payload)
        self.stop()
        deadline = self.buffer.deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)


def deliver_in_order(receiver: RTCRtpReceiver, deliver: Callable[[bytes], None]) -> None:
    """Fault: the jitter buffer keeps four packets (80 ms) back, and at 5 % loss throws 24 % of the sound away.

    A hole blocks its 16 places until everything older is dropped, and it hands out one frame for each packet that
    comes, so what piled up never drains. Instead `deliver` gets each payload as soon as the ones before it are
    there or given up. aiortc's decoder thread, not a daemon and the reason why a process may hang at its exit, is
    left without work and ended at once; so nothing waits in the track that nobody reads either.
    """
    buffer = _InOrder(deliver)
    _wrap(receiver, "_RTCRtpReceiver__jitter_buffer", lambda _: buffer)

    def without_thread(receive: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def receive_and_end_thread(parameters: Any) -> None:
            await receive(parameters)
            receiver._RTCRtpReceiver__stop_decoder()  # type: ignore[attr-defined]

        return receive_and_end_thread

    def with_timer(stop: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def stop_both() -> None:
            buffer.stop()
            await stop()

        return stop_both

    _wrap(receiver, "receive", without_thread)
    _wrap(receiver, "stop", with_timer)


# ---- 2. sender reports -----------------------------------------------------------------------------


def ntp(wall_s: float) -> int:
    """64-bit NTP time (RFC 3550 section 4) of a Unix time."""
    return clock.datetime_to_ntp(datetime.fromtimestamp(wall_s, UTC))


def report_media_time(sender: RTCRtpSender, wall_origin_s: float, rate: int) -> None:
    """Fault: sender reports pair an RTP timestamp with the time its packet was sent, encoder delay and all.

    A receiver then believes that sound sent early is in time, and getStats cannot see the skew. Here a report
    says when the timestamp's *media* is due: Unix time `wall_origin_s` is media time 0 of the call, for every
    track. `rate` is the RTP clock in Hz. Before the first packet nothing is reported (stock: zeros).
    """
    last: int | None = None  # RTP units since media time 0 of the packet sent last; never wraps

    def remember(next_frame: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def next_and_remember(codec: Any) -> Any:
            nonlocal last
            frame = await next_frame(codec)
            if frame is not None:
                last = frame.timestamp
            return frame

        return next_and_remember

    def amend(send: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def send_amended(packets: list[AnyRtcpPacket]) -> None:
            for packet in packets:
                if not isinstance(packet, RtcpSrPacket):
                    continue
                if last is None:
                    return
                at = ntp(wall_origin_s + last / rate)
                packet.sender_info.ntp_timestamp = at
                # ... and what the receiver will quote back, for the round-trip time
                sender._RTCRtpSender__lsr = (at >> 16) & 0xFFFFFFFF  # type: ignore[attr-defined]
            await send(packets)

        return send_amended

    _wrap(sender, "_next_encoded_frame", remember)
    _wrap(sender, "_send_rtcp", amend)


# ---- 3. key frames ---------------------------------------------------------------------------------


def hear_key_requests(sender: RTCRtpSender, request_key: Callable[[], None]) -> None:
    """Fault: PLI and FIR reach aiortc's own encoder only, which packets pass by; and a NACK too old is ignored.

    A receiver that asks for a packet no longer in the history (128 packets, 1 to 2 s) would freeze until its PLI
    timer runs out (3 s in Chrome): it gets a key frame instead, at most one in 0.5 s.
    """
    history: dict[int, RtpPacket] = sender._RTCRtpSender__rtp_history  # type: ignore[attr-defined]
    asked_s = float("-inf")

    def or_key(retransmit: Callable[[int], Awaitable[None]]) -> Callable[[int], Awaitable[None]]:
        async def retransmit_or_key(sequence: int) -> None:
            nonlocal asked_s
            packet = history.get(sequence % RTP_HISTORY_SIZE)
            if packet is not None and packet.sequence_number == sequence:
                await retransmit(sequence)
            elif (now := time.monotonic()) - asked_s >= KEY_GAP_S:
                asked_s = now
                request_key()

        return retransmit_or_key

    _wrap(sender, "_send_keyframe", lambda _: request_key)
    _wrap(sender, "_retransmit", or_key)


# ---- 4. bit rate -----------------------------------------------------------------------------------


def ignore_bitrate_estimates(transceiver: RTCRtpTransceiver) -> None:
    """Fault: every REMB step of 10 % re-creates the encoder, a key frame and a dip in quality each time.

    Our packets are encoded elsewhere at a fixed rate: REMB is not offered, and does nothing if it comes. To be
    called between setRemoteDescription and createAnswer.
    """
    for codec in transceiver._codecs:
        codec.rtcpFeedback = [feedback for feedback in codec.rtcpFeedback if feedback.type != "goog-remb"]

    def without_remb(handle: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def handle_others(packet: AnyRtcpPacket) -> None:
            if not (isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP):
                await handle(packet)

        return handle_others

    _wrap(transceiver.sender, "_handle_rtcp_packet", without_remb)


# ---- ICE -------------------------------------------------------------------------------------------


async def _open_socket(
    connection: aioice.ice.Connection, address: str, ports: Sequence[int]
) -> aioice.ice.StunProtocol:
    """Bind a datagram socket to the first free of `ports`. OSError if none is."""
    loop = asyncio.get_running_loop()
    failure: OSError = OSError("no port")
    for port in ports:
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: aioice.ice.StunProtocol(connection), local_addr=(address, port)
            )
        except OSError as error:
            failure = error
            continue
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        return protocol
    raise failure


def bind_ice(connection: aioice.ice.Connection, chosen: Sequence[str], port_min: int = 0, port_max: int = 0) -> None:
    """Fault: aioice binds every interface but loopback, at any port.

    Binds `chosen` instead (none: aioice's choice, and loopback where that finds nothing), at a port from
    `port_min` to `port_max` where they are given. To be called before candidates are gathered.
    """

    ports = list(range(port_min, port_max + 1)) if port_min else [0]

    def gather_here(gather: Callable[..., Awaitable[list[Candidate]]]) -> Callable[..., Any]:
        async def gather_candidates(*, component: int, addresses: Sequence[str], timeout: int = 5) -> list[Candidate]:
            protocols = []
            for address in chosen or addresses or ["127.0.0.1"]:
                try:
                    protocol = await _open_socket(connection, address, random.sample(ports, len(ports)))
                except OSError as error:
                    log.warning("ICE cannot use %s: %s", address, error)
                    continue
                host, port = protocol.transport.get_extra_info("sockname")[:2]
                protocol.local_candidate = Candidate(
                    foundation=candidate_foundation("host", "udp", host),
                    component=component,
                    transport="udp",
                    priority=candidate_priority(component, "host"),
                    host=host,
                    port=port,
                    type="host",
                )
                protocols.append(protocol)
            connection._protocols += protocols
            candidates = [protocol.local_candidate for protocol in protocols]
            if connection.stun_server:
                queries = [
                    asyncio.wait_for(aioice.ice.server_reflexive_candidate(p, connection.stun_server), timeout)
                    for p in protocols
                    if ":" not in p.local_candidate.host
                ]
                for answer in await asyncio.gather(*queries, return_exceptions=True):
                    if isinstance(answer, BaseException):
                        log.warning("the STUN server did not answer: %r", answer)
                    else:
                        candidates.append(answer[0])
            # aioice's own way for the rest: a TURN server, if there is one
            candidates += await gather(component=component, addresses=[], timeout=timeout)
            return candidates

        return gather_candidates

    _wrap(connection, "get_component_candidates", gather_here)


def hear_datagrams(connection: aioice.ice.Connection, heard: Callable[[], None]) -> None:
    """Fault: aiortc tells that a peer has vanished after 30 s, when six consent checks have failed.

    `heard` is called for everything that comes (STUN, DTLS, SCTP, RTP, RTCP). To be called when candidates have
    been gathered.
    """

    def listening(receive: Callable[..., None]) -> Callable[..., None]:
        def datagram_received(data: bytes, address: Any) -> None:
            heard()
            receive(data, address)

        return datagram_received

    for protocol in connection._protocols:
        _wrap(protocol, "datagram_received", listening)


# ---- the data channel ------------------------------------------------------------------------------


def drop_bad_messages(sctp: RTCSctpTransport) -> None:
    """A text that is not UTF-8, or a channel opened twice, must not end the call; endless messages must.

    aiortc lets the exception of one message end the task that receives everything, media too, and keeps the parts
    of unfinished messages without a limit.
    """
    window = sctp._advertised_rwnd

    def make(handle: Callable[[bytes], Awaitable[None]]) -> Callable[[bytes], Awaitable[None]]:
        async def handle_carefully(data: bytes) -> None:
            try:
                await handle(data)
            except ConnectionError:
                raise
            except Exception as error:
                log.warning("a message of the peer was dropped: %r", error)
            if window - sctp._advertised_rwnd > UNASSEMBLED_BYTES:
                raise ConnectionError("the peer sends messages without an end")

        return handle_carefully

    _wrap(sctp, "_handle_data", make)
