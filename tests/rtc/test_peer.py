"""A peer against a real aiortc client on loopback: connecting, hearing, being heard, and going away."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest
from aiortc import clock as rtc_clock
from aiortc.rtp import RTCP_PSFB_APP, RTCP_PSFB_PLI, RTCP_RTPFB_NACK, RtcpPsfbPacket, RtcpRtpfbPacket, pack_remb_fci

from server.core.clock import MediaClock
from server.core.errors import RequestError
from server.core.media import MIC_FRAME_BYTES
from server.rtc.peer import Peer, RtcSettings, parse_offer
from tests.rtc.pair import LOOPBACK, Client, Ear, Film, Hum, Voice


@dataclass
class Call:
    peer: Peer
    client: Client
    ear: Ear
    hum: Hum
    film: Film
    answer: str
    reasons: list[str]


def edit(sdp: str, *, drop: tuple[str, ...] = (), add: tuple[str, ...] = ()) -> str:
    """The offer without lines that begin so, and with others at the end of each section."""
    out: list[str] = []
    for line in sdp.splitlines():
        if line.startswith("m=") and any(kept.startswith("m=") for kept in out):
            out += add
        if not line.startswith(drop or ("\0",)):
            out.append(line)
    return "\r\n".join([*out, *add]) + "\r\n"


@asynccontextmanager
async def calling(
    microphone: Voice | None = None,
    *,
    video: bool = False,
    data: bool = True,
    settings: RtcSettings = LOOPBACK,
    drop: tuple[str, ...] = (),
    add: tuple[str, ...] = (),
    origin_s: float | None = None,
    loss: tuple[float, int] | None = None,
) -> AsyncIterator[Call]:
    """A call that is connected, and closed on both sides afterwards."""
    client, ear, hum, film = Client(), Ear(), Hum(), Film()
    offer = parse_offer(edit(await client.offer(microphone, video=video, data=data), drop=drop, add=add))
    clock = MediaClock(anyio.current_time() if origin_s is None else origin_s)
    peer = Peer(settings, clock, offer, hum, film if video else None, ear)
    reasons: list[str] = []
    try:
        answer = await peer.answer()
        if loss is not None:
            client.lose(*loss)

        async def live() -> None:
            reasons.append(await peer.run())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            await client.accept(answer)
            await client.connected()
            await ear.until("connected")
            yield Call(peer, client, ear, hum, film, answer, reasons)
            peer.hang_up("test over")
    finally:
        await peer.aclose()
        await client.aclose()


@pytest.mark.parametrize(
    ("drop", "add"),
    [
        ((), ()),
        (("a=candidate:", "a=end-of-candidates"), ()),
        (("a=candidate:",), ("a=end-of-candidates",)),
        (
            ("a=candidate:",),
            (
                "a=candidate:1 1 udp 2113937151 0b3c6f1e-66a5-4f7b-8a53-5b6a0d9e3c11.local 51000 typ host",
                "a=end-of-candidates",
            ),
        ),
        (("a=candidate:",), ("a=candidate:1 1 tcp 1518280447 127.0.0.1 9 typ host tcptype active",)),
    ],
    ids=["as it is", "no candidates", "end of none", "mdns", "tcp only"],
)
async def test_connects_without_waiting(drop: tuple[str, ...], add: tuple[str, ...]) -> None:
    async with calling(drop=drop, add=add) as call:
        assert "a=candidate:" in call.answer
        assert ".local" not in call.answer
        await call.client.say("hello")
        await call.ear.until("message hello")
        assert call.ear.heard == ["connected", "message hello"]


async def test_binds_only_what_it_is_told_and_within_the_ports() -> None:
    settings = msgspec.structs.replace(LOOPBACK, port_min=42_100, port_max=42_139)
    async with calling(settings=settings, data=False) as call:
        candidates = [line.split() for line in call.answer.splitlines() if line.startswith("a=candidate:")]
        assert {c[4] for c in candidates} == {"127.0.0.1"}
        assert all(42_100 <= int(c[5]) <= 42_139 for c in candidates)


async def test_no_port_is_said_at_once() -> None:
    client = Client()
    offer = parse_offer(await client.offer())
    elsewhere = RtcSettings(addresses=["192.0.2.1"])  # an address this machine does not have (RFC 5737)
    peer = Peer(elsewhere, MediaClock(anyio.current_time()), offer, Hum(), None, Ear())
    with pytest.raises(RequestError, match=r"192\.0\.2\.1") as caught:
        await peer.answer()
    assert (caught.value.status, caught.value.code) == (503, "no_media_port")
    await peer.aclose()
    await client.aclose()


async def test_connects_when_the_data_channel_or_the_face_comes_first() -> None:
    for order in ([2, 0, 1], [1, 0, 2]):
        client, ear = Client(), Ear()
        sdp = await client.offer(video=True)
        head, *sections = sdp.split("m=")
        bundle = " ".join(str(i) for i in order)
        head = head.replace("a=group:BUNDLE 0 1 2", f"a=group:BUNDLE {bundle}")
        assert bundle in head
        offer = parse_offer(head + "".join("m=" + sections[i] for i in order))
        peer = Peer(LOOPBACK, MediaClock(anyio.current_time()), offer, Hum(), Film(), ear)
        async with anyio.create_task_group() as tasks:
            answer = await peer.answer()
            tasks.start_soon(peer.run)
            head, *sections = answer.split("m=")
            back = [sections[order.index(i)] for i in range(3)]
            head = head.replace(f"a=group:BUNDLE {bundle}", "a=group:BUNDLE 0 1 2")
            await client.accept(head + "".join("m=" + section for section in back))
            await client.connected()
            await client.say("hello")
            await ear.until("message hello")
            await client.until(lambda c=client: len(c.rtp["video"]) > 2 and len(c.rtp["audio"]) > 2)
            peer.hang_up()
        await client.aclose()


async def test_text_goes_both_ways_and_waits_for_the_channel() -> None:
    async with calling() as call:
        await call.client.say("from the client")
        await call.ear.until("message from the client")
        assert call.peer.send("from the server")
        await call.client.until(lambda: "from the server" in call.client.messages)
    client, ear = Client(), Ear()
    peer = Peer(LOOPBACK, MediaClock(anyio.current_time()), parse_offer(await client.offer()), Hum(), None, ear)
    answer = await peer.answer()
    assert all(peer.send(f"early {i}") for i in range(3))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(peer.run)
        await client.accept(answer)
        await client.until(lambda: len(client.messages) == 3)
        peer.hang_up()
    assert client.messages == ["early 0", "early 1", "early 2"]
    await client.aclose()


async def test_text_is_bounded() -> None:
    async with calling(data=False) as call:
        assert not call.peer.send("nobody will ever read this")
    client = Client()
    peer = Peer(LOOPBACK, MediaClock(anyio.current_time()), parse_offer(await client.offer()), Hum(), None, Ear())
    kept = [peer.send("x" * 100_000) for _ in range(20)]
    assert kept[0]
    assert not kept[-1]
    assert peer.unsent == kept.count(False)
    await client.aclose()
    await peer.aclose()
    async with calling() as call:
        await call.client.say("hello")
        await call.ear.until("message hello")
        took = [call.peer.send("y" * 200_000) for _ in range(20)]  # nothing leaves before the loop runs again
        assert took[0]
        assert not took[-1]


async def test_the_microphone_is_heard() -> None:
    async with calling(voice := Voice(packets=40)) as call:
        await voice.finished.wait()
        # One may have left before our side of DTLS was ready.
        with anyio.fail_after(5):
            frames = [await anext(call.peer.microphone) for _ in range(39)]
        assert all(len(frame.pcm) == MIC_FRAME_BYTES for frame in frames)
        sound = np.frombuffer(b"".join(f.pcm for f in frames[5:]), "<i2").astype(float)
        assert np.sqrt(np.mean(sound**2)) == pytest.approx(16384 / np.sqrt(2), rel=0.1)
        peak = np.argmax(np.abs(np.fft.rfft(sound * np.hanning(len(sound))))) * 16_000 / len(sound)
        assert peak == pytest.approx(440, abs=2)
        assert [t.name for t in threading.enumerate()].count("audio-decoder") == 1  # the client's own
    assert len([frame async for frame in call.peer.microphone]) <= 1  # it has ended


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_microphone_misses_no_more_than_was_lost(seed: int) -> None:
    """At 5 % random loss, ten times as fast as speech so that the test is short."""
    async with calling(voice := Voice(packets=600, pace_s=0.002), loss=(0.05, seed)) as call:

        async def read() -> None:
            async for _ in call.peer.microphone:
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await voice.finished.wait()
            await anyio.sleep(0.1)  # the last hole is waited for 60 ms
            tasks.cancel_scope.cancel()
        client, microphone = call.client, call.peer.microphone
        assert client.lost > 10
        missing = client.sent - microphone.frames
        assert missing <= client.lost + 0.01 * client.sent
        assert missing >= client.lost - 1  # nothing is made up
        assert microphone.overflow == 0


async def test_sender_reports_tell_media_time() -> None:
    """Media time 0 lies 1.7 s before the first packet, and what is sent is what the track stamped."""
    origin_s = anyio.current_time() - 1.7
    async with calling(video=True, origin_s=origin_s) as call:
        stamped: list[int] = []
        receive = call.peer.voice.recv

        async def recv() -> Any:
            packet = await receive()
            stamped.append(packet.pts)
            return packet

        call.peer.voice.recv = recv  # type: ignore[method-assign]
        before = len(call.client.rtp["audio"]) + 1  # one is being waited for already
        wall_origin_s = rtc_clock.current_datetime().timestamp() - (anyio.current_time() - origin_s)
        await call.client.until(lambda: all(len(r) >= 2 for r in call.client.reports.values()))
        await call.client.until(lambda: len(call.client.rtp["audio"]) > before + 5)
        first = call.client.rtp["audio"][before]
        audio_zero = first.timestamp - stamped[0]
        frame = call.client.rtp["video"][-1]
        index = int(frame.payload[-16:], 16)
        video_zero = frame.timestamp - index * 3600
        for kind, zero, rate in (("audio", audio_zero, 48_000), ("video", video_zero, 90_000)):
            for report in call.client.reports[kind]:
                told = rtc_clock.datetime_from_ntp(report.sender_info.ntp_timestamp).timestamp()
                media_s = ((report.sender_info.rtp_timestamp - zero) & 0xFFFFFFFF) / rate
                assert media_s > 1.7
                assert told - wall_origin_s == pytest.approx(media_s, abs=0.005)


async def test_the_track_stamps_come_out_on_the_wire() -> None:
    async with calling(video=True) as call:
        await call.client.until(lambda: len(call.client.rtp["video"]) >= 12)
        video, audio = call.client.rtp["video"], call.client.rtp["audio"]
        indices = [int(p.payload[-16:], 16) for p in video]
        for (one, two), (i, j) in zip(pairwise(video), pairwise(indices), strict=True):
            assert (two.timestamp - one.timestamp) & 0xFFFFFFFF == 3600 * (j - i)
        assert {(b.timestamp - a.timestamp) & 0xFFFFFFFF for a, b in pairwise(audio)} == {960}
        assert call.film.keys_asked >= 1


async def test_a_lost_picture_brings_a_key_frame() -> None:
    async with calling(video=True) as call:
        client, film = call.client, call.film
        await client.until(lambda: len(client.rtp["video"]) >= 3)
        receiver = next(t for t in client.pc.getTransceivers() if t.kind == "video").receiver
        ssrc = client.rtp["video"][-1].ssrc

        async def ask(packet: Any, times: int) -> None:
            asked = film.keys_asked
            await receiver._send_rtcp(packet)
            frames = len(client.rtp["video"])
            await client.until(lambda: len(client.rtp["video"]) >= frames + 3)
            assert film.keys_asked == asked + times

        await ask(RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=ssrc), 1)
        known = client.rtp["video"][-1].sequence_number
        await ask(RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=ssrc, lost=[known]), 0)
        forgotten = [(known - 5000) & 0xFFFF, (known - 4999) & 0xFFFF]
        await ask(RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=ssrc, lost=forgotten), 1)


async def test_bitrate_estimates_do_nothing() -> None:
    async with calling(video=True) as call:
        assert "goog-remb" not in call.answer
        await call.client.until(lambda: len(call.client.rtp["video"]) >= 2)
        pc = call.peer._pc
        assert pc is not None
        sender = next(t.sender for t in pc.getTransceivers() if t.kind == "video")
        encoder = sender._RTCRtpSender__encoder  # type: ignore[attr-defined]
        before = encoder.target_bitrate
        fci = pack_remb_fci(before // 2, [sender._ssrc])
        await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=fci))
        assert encoder.target_bitrate == before
        assert encoder.codec is None


async def test_a_peer_that_never_connects_is_dropped() -> None:
    client, ear = Client(), Ear()
    settings = msgspec.structs.replace(LOOPBACK, ice_deadline_s=0.2)
    peer = Peer(settings, MediaClock(anyio.current_time()), parse_offer(await client.offer()), Hum(), None, ear)
    await peer.answer()
    with anyio.fail_after(5):
        assert await peer.run() == "ice_timeout"
    assert ear.heard == []
    await client.aclose()


async def test_silence_of_the_peer_is_noticed_and_its_return() -> None:
    settings = msgspec.structs.replace(LOOPBACK, lost_s=0.6, gone_s=1.2)
    async with calling(Voice(packets=10_000), settings=settings) as call:
        protocols = call.client.pc.getSenders()[0].transport.transport._connection._protocols
        sends = {protocol: protocol.transport.sendto for protocol in protocols}

        def cut(lost: bool) -> None:
            for protocol, send in sends.items():
                protocol.transport.sendto = (lambda *a: None) if lost else send

        cut(True)
        await call.ear.until("quiet")
        assert call.reasons == []
        cut(False)
        await call.ear.until("back")
        call.ear.heard.clear()
        cut(True)
        await call.ear.until("quiet")
        with anyio.fail_after(5):
            while not call.reasons:
                await anyio.sleep(0.02)
        assert call.reasons == ["lost"]
        cut(False)


async def test_a_peer_that_hangs_up_is_gone_at_once() -> None:
    async with calling() as call:
        await call.client.aclose()
        with anyio.fail_after(5):
            while not call.reasons:
                await anyio.sleep(0.01)
        assert call.reasons == ["closed"]


async def test_hanging_up_says_why() -> None:
    async with calling() as call:
        call.peer.hang_up("time_limit")
        with anyio.fail_after(5):
            while not call.reasons:
                await anyio.sleep(0.01)
        assert call.reasons == ["time_limit"]


async def test_listeners_that_fail_do_not_end_the_call(caplog: pytest.LogCaptureFixture) -> None:
    async with calling() as call:
        note = call.ear.on_message

        def stumble(text: str) -> None:
            if text == "first":
                raise RuntimeError(text)
            note(text)

        call.ear.on_message = stumble  # type: ignore[method-assign]
        await call.client.say("first")
        await call.client.say("second")
        await call.ear.until("message second")
    assert "was not understood" in caplog.text


@pytest.mark.slow
async def test_twenty_rounds_leave_nothing_behind() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    counts = []
    for round_ in range(20):
        async with calling(Voice(packets=100), video=True) as call:
            await call.client.until(lambda c=call: len(c.client.rtp["video"]) >= 2)
            if round_ % 2:
                await call.client.aclose()
        await asyncio.sleep(0)
        gc.collect()
        counts.append((open_files(), len(asyncio.all_tasks()), threading.active_count()))
    assert counts[-1] == counts[2]
