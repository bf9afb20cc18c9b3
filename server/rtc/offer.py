"""An SDP offer: checked, cleaned of what would make aiortc wait or fail, and summed up."""

import ipaddress
from dataclasses import dataclass

from aiortc import RTCRtpCodecParameters
from aiortc.codecs import CODECS
from aiortc.rtcdtlstransport import X509_DIGEST_ALGORITHMS
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import MediaDescription, SessionDescription

from server.core.errors import RequestError

MAX_OFFER_CHARS = 100_000
"""a browser's offer of everything it knows has 10 000"""
MAX_SECTIONS = 16
MAX_CANDIDATES = 32
_DIRECTIONS = ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a peer wants, from the server's side."""

    sdp: str
    """the offer to answer: no end-of-candidates, only candidates that can be used"""
    has_audio: bool
    """it offers to hear us"""
    has_microphone: bool
    """it offers to be heard"""
    has_video: bool
    """it offers to see us"""
    codec: str | None
    """`H264` (constrained baseline or baseline, packetization-mode 1), else `VP8`; None: no video"""
    has_data: bool
    """it has a data channel"""


def parse_offer(sdp: str) -> Offer:
    """Read an offer. RequestError(400) says what is wrong with it and what to do."""
    if len(sdp) > MAX_OFFER_CHARS:
        raise RequestError(
            400, "offer_too_large", f"The SDP offer has {len(sdp)} characters; at most {MAX_OFFER_CHARS} are read."
        )
    if not sdp.startswith("v=0"):
        raise _invalid("It must begin with 'v=0': send the text of RTCPeerConnection.createOffer().sdp.")
    cleaned = _clean(sdp)
    try:
        description = SessionDescription.parse(cleaned)
    except Exception as error:  # aiortc's parser lets anything through, from AssertionError to StopIteration
        raise _invalid("It cannot be read as SDP: send the text of createOffer() unchanged.") from error
    _check(description)
    audio = next((m for m in description.media if m.kind == "audio"), None)
    if audio is None:
        raise RequestError(
            400,
            "offer_without_audio",
            "The offer has no audio: add a microphone track, or pc.addTransceiver('audio', {direction: 'recvonly'}).",
        )
    if not any(codec.mimeType.lower() == "audio/opus" for codec in _common(audio)):
        raise RequestError(400, "offer_without_opus", "The offer's audio has no Opus (RFC 7874): offer opus/48000/2.")
    video = next((m for m in description.media if m.kind == "video"), None)
    has_video = video is not None and video.direction in ("recvonly", "sendrecv")
    codec = None
    if video is not None and has_video:
        names = {codec.name.upper() for codec in _common(video)}
        codec = "H264" if "H264" in names else "VP8"
    return Offer(
        sdp=cleaned,
        has_audio=audio.direction in ("recvonly", "sendrecv"),
        has_microphone=audio.direction in ("sendonly", "sendrecv"),
        has_video=has_video,
        codec=codec,
        has_data=any(m.kind == "application" for m in description.media),
    )


def _invalid(why: str) -> RequestError:
    return RequestError(400, "offer_invalid", f"This is not an SDP offer that can be answered. {why}")


def _common(media: MediaDescription) -> list[RTCRtpCodecParameters]:
    return find_common_codecs(CODECS[media.kind], media.rtp.codecs)


def _check(description: SessionDescription) -> None:
    """What aiortc would trip over later, in a task of its own where nobody sees it."""
    media = description.media
    if not media:
        raise _invalid("It has no media sections.")
    if len(media) > MAX_SECTIONS:
        raise _invalid(f"It has {len(media)} media sections; at most {MAX_SECTIONS} are answered.")
    mids = [m.rtp.muxId for m in media]
    if not all(mids) or len(set(mids)) != len(mids):
        raise _invalid("Every media section needs a mid of its own.")
    bundled = {mid for group in description.group if group.semantic == "BUNDLE" for mid in group.items}
    if len(mids) > 1 and not bundled.issuperset(mids):
        raise _invalid("All media sections must be in one BUNDLE group.")
    if sum(m.kind == "application" for m in media) > 1:
        raise _invalid("It has more than one section for data channels.")
    for section in media:
        if section.kind not in ("audio", "video", "application"):
            raise _invalid(f"Sections of kind '{section.kind[:20]}' are not known here.")
        if section.ice is None or not section.ice.usernameFragment or not section.ice.password:
            raise _invalid("ice-ufrag or ice-pwd is missing.")
        if section.dtls is None or not any(
            f.algorithm.lower() in X509_DIGEST_ALGORITHMS for f in section.dtls.fingerprints
        ):
            raise _invalid("a=setup or a=fingerprint (sha-256) is missing: only DTLS-SRTP is spoken here.")
        if section.kind == "application":
            if section.profile not in ("UDP/DTLS/SCTP", "TCP/DTLS/SCTP") or not section.sctp_port:
                raise _invalid("The application section is not a data channel (UDP/DTLS/SCTP with a=sctp-port).")
        else:
            if not section.rtcp_mux:
                raise _invalid("a=rtcp-mux is missing.")
            if not _common(section):
                raise RequestError(
                    400,
                    "offer_codecs",
                    f"No {section.kind} codec in common: offer Opus for sound, H.264 or VP8 for video.",
                )


def _clean(sdp: str) -> str:
    """The offer without what would hold aiortc up.

    `a=end-of-candidates` makes aioice give up at once if no candidate is left, though the peer would be found by
    its own checks. `.local` candidates make it wait a second for an mDNS answer. The candidates of the section
    whose transport all are bundled on are given to every section: aiortc listens to the last one's. A direction
    that is left out is `sendrecv` (RFC 8866 section 6.7); aiortc does not know.
    """
    head: list[str] = []
    sections: list[list[str]] = []
    for line in sdp.splitlines():
        if line.startswith("m="):
            sections.append([])
        (sections[-1] if sections else head).append(line.rstrip())
    tag = next((line.split()[1] for line in head if line.startswith("a=group:BUNDLE ")), None)
    candidates: list[str] = []
    for section in sections:
        if tag is None or f"a=mid:{tag}" in section:
            candidates = [line for line in section if line.startswith("a=candidate:") and _usable(line)]
            break
    out = list(head)
    direction = next((line for line in head if line in _DIRECTIONS), "a=sendrecv")
    for section in sections:
        if not any(line in _DIRECTIONS for line in section):
            section.append(direction)
        out += [line for line in section if not line.startswith(("a=candidate:", "a=end-of-candidates"))]
        out += candidates[:MAX_CANDIDATES]
    return "\r\n".join(out) + "\r\n"


def _usable(line: str) -> bool:
    """Whether an `a=candidate` line (RFC 8839 section 5.1) names a UDP address that can be sent to."""
    fields = line.removeprefix("a=candidate:").split()
    if len(fields) < 8 or fields[1] != "1" or fields[2].lower() != "udp" or fields[6] != "typ":
        return False
    try:
        ipaddress.ip_address(fields[4])
        return fields[3].isdigit() and 0 < int(fields[5]) < 65536
    except ValueError:
        return False
