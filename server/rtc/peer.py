"""One WebRTC peer: its offer answered, its microphone heard, its tracks fed, its end noticed."""

import asyncio
import base64
import hmac
import ipaddress
import logging
import time
from collections import deque
from typing import Protocol

import anyio
import msgspec
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidStateError

from server.core.clock import MediaClock
from server.core.errors import RequestError
from server.core.media import MEDIA_RATE
from server.rtc import aiortc_fixes
from server.rtc.microphone import Microphone
from server.rtc.offer import Offer, parse_offer
from server.rtc.tracks import VIDEO_RATE, AudioSource, FaceTrack, VideoSource, VoiceTrack

__all__ = ["IceServer", "Listener", "Offer", "Peer", "RtcSettings", "parse_offer"]

log = logging.getLogger(__name__)

BACKLOG_CHARS = 1 << 20
"""text kept for a data channel that is not open yet"""
UNREAD_BYTES = 1 << 20
"""text that waits in an open channel for a peer that does not read it"""
LOGIN_S = 6 * 3600
"""for which a TURN server lets a caller in again: longer than a call"""
CLOSE_S = 5.0
"""a connection that has not closed by then is given up"""


class IceServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A STUN or TURN server, for us and for the page alike."""

    urls: list[str]
    """`stun:host:port`, `turn:host:port?transport=udp`"""
    username: str = ""
    credential: str = ""
    secret: str = ""
    """coturn's static-auth-secret, in place of username and credential: whoever may call gets ones that expire"""
    page_only: bool = False
    """only the page uses it: where this server and the TURN server reach each other, one relay is enough"""

    def __post_init__(self) -> None:
        if not self.urls or not all(url.startswith(("stun:", "turn:", "turns:")) for url in self.urls):
            raise ValueError("urls begin with stun:, turn: or turns:")
        if self.secret and (self.username or self.credential):
            raise ValueError("a secret takes the place of username and credential")

    def __repr__(self) -> str:
        return f"IceServer(urls={self.urls!r})"  # never what is secret

    def login(self, now_s: float) -> tuple[str, str]:
        """Username and credential; of a secret, valid for LOGIN_S (draft-uberti-behave-turn-rest-00, section 2.2).

        now_s: of the wall clock, in UTC.
        """
        if not self.secret:
            return self.username, self.credential
        username = f"{int(now_s + LOGIN_S)}:visavis"
        digest = hmac.digest(self.secret.encode(), username.encode(), "sha1")
        return username, base64.b64encode(digest).decode()


class RtcSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How peers reach the server and when they count as gone."""

    addresses: list[str] = []
    """local IP addresses that ICE binds; empty: the one that HTTP listens on"""
    port_min: int = 0
    """first UDP port for media; 0: any port"""
    port_max: int = 0
    """last UDP port for media"""
    ice_servers: list[IceServer] = []
    """asked for candidates by us, and handed to the page; none by default"""
    ice_deadline_s: float = 15.0
    """a peer that is not connected so long after its offer is dropped"""
    lost_s: float = 5.0
    """a peer from which nothing at all came for so long is lost for now"""
    gone_s: float = 20.0
    """... and for so long, for good"""

    def __post_init__(self) -> None:
        for address in self.addresses:
            ipaddress.ip_address(address)  # ValueError names it
        if (self.port_min or self.port_max) and not 0 < self.port_min <= self.port_max < 65536:
            raise ValueError("port_min and port_max must be a range within 1 to 65535")
        if not 0 < self.lost_s <= self.gone_s:
            raise ValueError("lost_s must be above 0 and at most gone_s")

    def listening_on(self, http_host: str) -> "RtcSettings":
        """These settings for an HTTP server on `http_host`: ICE uses its address unless told otherwise."""
        host = "127.0.0.1" if http_host == "localhost" else http_host
        try:
            unspecified = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            unspecified = True  # a name: what it stands for is the resolver's affair
        if self.addresses or unspecified:
            return self
        return msgspec.structs.replace(self, addresses=[host])


class Listener(Protocol):
    """Whoever the peer talks to. None of these may wait."""

    def on_connected(self) -> None:
        """Media flows. Text can be sent; it waits for the data channel, if there is one."""
        ...

    def on_message(self, text: str) -> None:
        """A text message on the data channel."""
        ...

    def on_quiet(self) -> None:
        """Nothing at all has come for lost_s."""
        ...

    def on_back(self) -> None:
        """It came back in time."""
        ...


class Peer:
    """One peer connection. `answer()`, then `run()` until the peer is gone; `aclose()` in any case.

    The first data channel that the peer opens carries the messages, whatever its label (OpenAI: `oai-events`).
    """

    def __init__(
        self,
        settings: RtcSettings,
        clock: MediaClock,
        offer: Offer,
        audio: AudioSource,
        video: VideoSource | None,
        listener: Listener,
    ) -> None:
        self.microphone = Microphone()
        """frames of the person's voice, for one reader; ends when the peer is closed"""
        self.unsent = 0
        """messages dropped because the channel never opened or the peer does not read"""
        self.voice = VoiceTrack(clock, audio)
        self.face = FaceTrack(clock, video) if video is not None and offer.has_video else None
        self._settings = settings
        self._clock = clock
        self._offer = offer
        self._video = video
        self._listener = listener
        self._pc: RTCPeerConnection | None = None
        self._channel: RTCDataChannel | None = None
        self._backlog: deque[str] = deque()
        self._backlog_chars = 0
        self._offered_s = anyio.current_time()
        self._heard_s = self._offered_s
        self._quiet = False
        self._connected = False
        self._hung_up: str | None = None
        self._changed = asyncio.Event()

    async def answer(self) -> str:
        """The SDP answer, with every candidate in it. RequestError if the offer cannot be answered."""
        servers = [
            RTCIceServer(urls=s.urls, username=username or None, credential=credential or None)
            for s in self._settings.ice_servers
            if not s.page_only
            for username, credential in [s.login(time.time())]
        ]
        pc = self._pc = RTCPeerConnection(
            RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        pc.on("connectionstatechange", self._changed.set)
        pc.on("datachannel", self._on_channel)
        # Codecs are filtered inside setRemoteDescription: tracks and preferences must be there before.
        pc.addTrack(self.voice)
        self._prefer("audio", "opus")
        if self.face is not None:
            pc.addTrack(self.face)
            self._prefer("video", self._offer.codec or "VP8")
        first = pc.getTransceivers()[0]
        # All sections share the first transceiver's transport. Unless it says so of itself too, aiortc stops that
        # very transport when the offer's first section is another one.
        first._bundled = True
        try:
            await pc.setRemoteDescription(RTCSessionDescription(sdp=self._offer.sdp, type="offer"))
            first._bundled = False
            for transceiver in pc.getTransceivers():
                track = transceiver.sender.track
                if track is not self.voice:  # no picture of the person is looked at, so none is asked for
                    transceiver.direction = "inactive" if track is None else "sendonly"
            self._mend(pc)
            await pc.setLocalDescription(await pc.createAnswer())
        except Exception as error:  # what the checks let through and aiortc trips over
            log.exception("an offer passed the checks but cannot be answered")
            raise RequestError(400, "offer_invalid", f"The offer cannot be answered: {error}.") from error
        ice = first.receiver.transport.transport._connection
        if not ice.local_candidates:
            where = ", ".join(self._settings.addresses) or "any address"
            raise RequestError(503, "no_media_port", f"No UDP port for media is free on {where}: see ice.addresses.")
        aiortc_fixes.hear_datagrams(ice, self._heard)
        return pc.localDescription.sdp

    def _prefer(self, kind: str, name: str) -> None:
        assert self._pc is not None
        wanted = [f"{kind}/{name}".lower(), f"{kind}/rtx"]
        codecs = [c for c in RTCRtpSender.getCapabilities(kind).codecs if c.mimeType.lower() in wanted]
        # Constrained baseline first: every browser has it.
        codecs.sort(key=lambda c: c.parameters.get("profile-level-id") != "42e01f")
        next(t for t in self._pc.getTransceivers() if t.kind == kind).setCodecPreferences(codecs)

    def _mend(self, pc: RTCPeerConnection) -> None:
        wall_origin_s = time.time() - anyio.current_time() + self._clock.origin_s
        for transceiver in pc.getTransceivers():
            if transceiver.sender.track is self.voice:
                aiortc_fixes.deliver_in_order(transceiver.receiver, self.microphone.decode)
                aiortc_fixes.report_media_time(transceiver.sender, wall_origin_s, MEDIA_RATE)
            elif self._video is not None and transceiver.sender.track is self.face:
                aiortc_fixes.report_media_time(transceiver.sender, wall_origin_s, VIDEO_RATE)
                aiortc_fixes.hear_key_requests(transceiver.sender, self._video.request_key)
            aiortc_fixes.ignore_bitrate_estimates(transceiver)
        if pc.sctp is not None:
            aiortc_fixes.drop_bad_messages(pc.sctp)
        ice = pc.getTransceivers()[0].receiver.transport.transport._connection
        settings = self._settings
        aiortc_fixes.bind_ice(ice, settings.addresses, settings.port_min, settings.port_max)

    # ---- the data channel

    def send(self, text: str) -> bool:
        """Send text on the data channel, or keep it until that opens; False: it had to be dropped."""
        channel = self._channel
        if channel is None or channel.readyState == "connecting":
            if self._offer.has_data and self._backlog_chars + len(text) <= BACKLOG_CHARS:
                self._backlog.append(text)
                self._backlog_chars += len(text)
                return True
        elif channel.readyState == "open" and channel.bufferedAmount <= UNREAD_BYTES:
            try:
                channel.send(text)
                return True
            except (InvalidStateError, ValueError) as error:  # closed meanwhile; larger than the peer takes
                log.warning("a message of %d characters cannot be sent: %s", len(text), error)
        self.unsent += 1
        return False

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            return
        self._channel = channel
        channel.on("message", self._on_message)
        self._backlog_chars = 0
        while self._backlog:
            self.send(self._backlog.popleft())

    def _on_message(self, data: str | bytes) -> None:
        if not isinstance(data, str):
            return
        try:
            self._listener.on_message(data)
        except Exception:  # one bad message must not end the connection
            log.exception("a message of %d characters was not understood", len(data))

    # ---- its life

    def hang_up(self, reason: str = "closed") -> None:
        """Have `run()` close and return `reason`."""
        if self._hung_up is None:
            self._hung_up = reason
        self._changed.set()

    def _heard(self) -> None:
        self._heard_s = time.monotonic()
        if self._quiet:
            self._changed.set()

    async def run(self) -> str:
        """Live until the peer is gone, and close.

        Why: what `hang_up` was given, else `closed` (it hung up), `ice_timeout` (never connected in time), `failed`
        (DTLS refused), `lost` (nothing came any more).
        """
        try:
            return await self._live()
        finally:
            with anyio.CancelScope(shield=True):
                await self.aclose()

    async def _live(self) -> str:
        assert self._pc is not None, "answer() comes first"
        settings = self._settings
        while True:
            self._changed.clear()
            state = self._pc.connectionState
            now = anyio.current_time()
            if self._hung_up is not None:
                return self._hung_up
            if state == "closed":
                return "closed"
            if state == "failed":
                return "lost" if self._connected else "failed"
            if state == "connected" and not self._connected:
                self._connected = True
                self._heard_s = now
                self._listener.on_connected()
            if not self._connected:
                wake_s = self._offered_s + settings.ice_deadline_s
                if now >= wake_s:
                    return "ice_timeout"
            else:
                quiet = now - self._heard_s >= settings.lost_s
                if now - self._heard_s >= settings.gone_s:
                    return "lost"
                if quiet != self._quiet:
                    self._quiet = quiet
                    (self._listener.on_quiet if quiet else self._listener.on_back)()
                wake_s = self._heard_s + (settings.gone_s if quiet else settings.lost_s)
            with anyio.move_on_after(wake_s - now):
                await self._changed.wait()

    async def aclose(self) -> None:
        """Hang up and free everything. Safe to call at any time, and twice."""
        self.hang_up()
        self.microphone.close()
        if self._pc is None:
            return
        with anyio.move_on_after(CLOSE_S) as scope:
            await self._pc.close()
        if scope.cancelled_caught:
            log.error("a peer connection did not close within %g s", CLOSE_S)
