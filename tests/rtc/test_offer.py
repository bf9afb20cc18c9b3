"""Offers: what is read out of them, what is cleaned, and what is refused with a sentence."""

import contextlib

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.core.errors import RequestError
from server.rtc.offer import MAX_CANDIDATES, MAX_OFFER_CHARS, parse_offer
from tests.rtc.pair import Client

CHROME = """v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=msid-semantic: WMS
m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:AbCd
a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaaaa
a=ice-options:trickle
a=fingerprint:sha-256 {f}
a=setup:actpass
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=sendrecv
a=msid:- 7a1c
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
m=video 9 UDP/TLS/RTP/SAVPF 96 97 103 104 109 114
c=IN IP4 0.0.0.0
a=ice-ufrag:AbCd
a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaaaa
a=fingerprint:sha-256 {f}
a=setup:actpass
a=mid:1
a=recvonly
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:96 VP8/90000
a=rtcp-fb:96 goog-remb
a=rtcp-fb:96 nack pli
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=rtpmap:103 H264/90000
a=rtcp-fb:103 nack pli
a=fmtp:103 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
a=rtpmap:104 rtx/90000
a=fmtp:104 apt=103
a=rtpmap:109 H264/90000
a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f
a=rtpmap:114 AV1/90000
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:AbCd
a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaaaa
a=fingerprint:sha-256 {f}
a=setup:actpass
a=mid:2
a=sctp-port:5000
a=max-message-size:262144
""".replace("{f}", ":".join(["AB"] * 32)).replace("\n", "\r\n")


def without(*lines: str) -> str:
    return "\r\n".join(line for line in CHROME.splitlines() if not line.startswith(lines)) + "\r\n"


def refusal(sdp: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_offer(sdp)
    assert caught.value.status == 400
    assert caught.value.message.endswith(".")
    return caught.value


def test_a_browsers_offer() -> None:
    offer = parse_offer(CHROME)
    assert (offer.has_audio, offer.has_microphone, offer.has_video, offer.has_data) == (True, True, True, True)
    assert offer.codec == "H264"


@pytest.mark.parametrize(
    ("drop", "codec"),
    [
        (("a=rtpmap:103", "a=fmtp:103", "a=rtcp-fb:103", "a=rtpmap:104", "a=fmtp:104"), "VP8"),
        (("a=rtpmap:96", "a=rtcp-fb:96", "a=rtpmap:97", "a=fmtp:97"), "H264"),
    ],
)
def test_the_codec_is_one_that_the_browser_can_play(drop: tuple[str, ...], codec: str) -> None:
    assert parse_offer(without(*drop)).codec == codec


def test_high_profile_is_not_what_we_send() -> None:
    high = CHROME.replace(
        "packetization-mode=1;profile-level-id=42e01f", "packetization-mode=1;profile-level-id=64001f"
    )
    assert parse_offer(high).codec == "VP8"


def test_without_a_face_or_a_microphone() -> None:
    voice_only = CHROME.split("m=video")[0].replace("BUNDLE 0 1 2", "BUNDLE 0")
    offer = parse_offer(voice_only)
    assert (offer.has_video, offer.codec, offer.has_data) == (False, None, False)
    assert not parse_offer(CHROME.replace("a=sendrecv", "a=recvonly")).has_microphone
    assert not parse_offer(CHROME.replace("a=recvonly", "a=inactive")).has_video


def test_a_direction_left_out_means_both_ways() -> None:
    offer = parse_offer(CHROME.replace("a=sendrecv\r\n", "").replace("a=recvonly\r\n", ""))
    assert (offer.has_audio, offer.has_microphone, offer.has_video) == (True, True, True)


def test_only_usable_candidates_are_left_and_in_every_section() -> None:
    lines = [
        "a=candidate:1 1 udp 2113937151 192.0.2.7 50000 typ host",
        "a=candidate:2 1 udp 2113937151 0b3c6f1e.local 50001 typ host",
        "a=candidate:3 1 tcp 1518280447 192.0.2.7 9 typ host tcptype active",
        "a=candidate:4 2 udp 2113937150 192.0.2.7 50003 typ host",
        "a=candidate:5 1 udp 2113937151 192.0.2.7 70000 typ host",
        "a=candidate:6 1 udp many 192.0.2.7 50005 typ host",
        "a=candidate:rubbish",
        "a=end-of-candidates",
    ]
    offer = parse_offer(CHROME.replace("a=mid:0", "\r\n".join(["a=mid:0", *lines])))
    left = [line for line in offer.sdp.splitlines() if "candidate" in line]
    assert left == [lines[0]] * 3
    # those of a section whose transport is not the bundle's are nobody's address
    other = parse_offer(CHROME.replace("a=mid:1", "\r\n".join(["a=mid:1", lines[0]])))
    assert "candidate" not in other.sdp
    many = [f"a=candidate:{i} 1 udp 1 192.0.2.7 {50_000 + i} typ host" for i in range(1, 200)]
    flood = parse_offer(CHROME.replace("a=mid:0", "\r\n".join(["a=mid:0", *many])))
    assert flood.sdp.count("a=candidate") == 3 * MAX_CANDIDATES


@pytest.mark.parametrize(
    ("sdp", "code", "says"),
    [
        ("", "offer_invalid", "v=0"),
        ('{"sdp": "v=0"}', "offer_invalid", "v=0"),
        ("v=0\r\n", "offer_invalid", "no media"),
        ("v=0\r\nm=audio nine\r\n", "offer_invalid", "unchanged"),
        (CHROME + "a=" + "x" * MAX_OFFER_CHARS, "offer_too_large", "characters"),
        ("v=0\r\n" + CHROME[CHROME.index("a=group") : CHROME.index("m=audio")] + CHROME[CHROME.index("m=video") :]
         .replace("BUNDLE 0 1 2", "BUNDLE 1 2"), "offer_without_audio", "microphone"),
        (without("a=rtpmap:111", "a=fmtp:", "a=rtcp-fb:111"), "offer_without_opus", "Opus"),
        (without("a=rtpmap:96", "a=rtpmap:103", "a=rtpmap:97", "a=rtpmap:104", "a=fmtp", "a=rtcp-fb"),
         "offer_codecs", "H.264"),
        (without("a=ice-ufrag"), "offer_invalid", "ice-ufrag"),
        (without("a=fingerprint"), "offer_invalid", "fingerprint"),
        (without("a=setup"), "offer_invalid", "setup"),
        (without("a=rtcp-mux"), "offer_invalid", "rtcp-mux"),
        (without("a=sctp-port"), "offer_invalid", "sctp-port"),
        (without("a=mid"), "offer_invalid", "mid"),
        (without("a=group"), "offer_invalid", "BUNDLE"),
        (CHROME.replace("m=application", "m=text"), "offer_invalid", "'text'"),
        (CHROME.replace("a=mid:1", "a=mid:0"), "offer_invalid", "mid"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_a_reason(sdp: str, code: str, says: str) -> None:
    error = refusal(sdp)
    assert error.code == code
    assert says in error.message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_mutilated_offer_is_read_or_refused(data: st.DataObject) -> None:
    lines = CHROME.splitlines()
    for _ in range(data.draw(st.integers(1, 5))):
        i = data.draw(st.integers(0, len(lines) - 1))
        what = data.draw(st.sampled_from(["drop", "double", "cut", "swap", "text"]))
        if what == "drop":
            del lines[i]
        elif what == "double":
            lines.insert(i, lines[i])
        elif what == "cut":
            lines[i] = lines[i][: data.draw(st.integers(0, len(lines[i])))]
        elif what == "swap":
            j = data.draw(st.integers(0, len(lines) - 1))
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines[i] = lines[i][:4] + data.draw(st.text(max_size=20))
    with contextlib.suppress(RequestError):
        parse_offer("\r\n".join(lines))


async def test_what_aiortc_offers_is_read() -> None:
    client = Client()
    offer = parse_offer(await client.offer(video=True))
    assert (offer.has_microphone, offer.has_video, offer.codec) == (False, True, "H264")
    await client.aclose()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.createDataChannel("oai-events")
    assert refusal((await pc.createOffer()).sdp).code == "offer_without_audio"
    await pc.close()
