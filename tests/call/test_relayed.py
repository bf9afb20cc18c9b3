"""A call whose media go through a real coturn and nothing else, set up as compose.yaml does."""

from pathlib import Path

import aiohttp
import anyio
import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from benchmarks.server import running
from tests.call.test_process import LIGHT
from tests.test_endpoints import needs_coturn, running_coturn, until_up

pytestmark = [pytest.mark.slow, needs_coturn]

KEY = "house-secret"
COTURN = (
    *("--use-auth-secret", "--static-auth-secret=hush", "--allow-loopback-peers"),
    *("--denied-peer-ip=0.0.0.0-255.255.255.255", "--allowed-peer-ip=127.0.0.1"),
)


async def test_a_call_needs_nothing_but_the_relays_port(tmp_path: Path) -> None:
    with running_coturn(tmp_path, *COTURN) as port:
        await until_up(port)
        settings = (
            *(*LIGHT, f"http.api_key={KEY}", "ice.addresses=['127.0.0.1']"),
            f'ice.ice_servers=[{{urls=["turn:127.0.0.1:{port}"], secret="hush", page_only=true}}]',
        )
        async with running(*settings) as server, aiohttp.ClientSession(server.address) as http:
            bearer = {"Authorization": f"Bearer {KEY}"}
            async with http.get("/v1/visavis") as answer:
                assert (await answer.json())["ice_servers"] == []  # who may not call gets no relay
            async with http.get("/v1/visavis", headers=bearer) as answer:
                text = await answer.text()
                assert "hush" not in text
                (relay,) = (await answer.json())["ice_servers"]
            client = RTCPeerConnection(
                RTCConfiguration(
                    iceServers=[RTCIceServer(relay["urls"], relay["username"], relay["credential"])],
                    iceTransportPolicy=RTCIceTransportPolicy.RELAY,
                )
            )
            try:
                client.addTransceiver("audio", direction="recvonly")
                client.createDataChannel("oai-events")
                await client.setLocalDescription(await client.createOffer())
                candidates = [x for x in client.localDescription.sdp.splitlines() if x.startswith("a=candidate")]
                assert candidates
                assert all("typ relay" in line for line in candidates)
                headers = bearer | {"Content-Type": "application/sdp"}
                sdp = client.localDescription.sdp
                async with http.post("/v1/realtime/calls", data=sdp, headers=headers) as answer:
                    assert answer.status == 201
                    answered = await answer.text()
                assert "typ relay" not in answered  # our side asked for none: page_only
                await client.setRemoteDescription(RTCSessionDescription(answered, "answer"))
                with anyio.fail_after(20):
                    frames = [await client.getReceivers()[0].track.recv() for _ in range(10)]
                assert frames[-1].sample_rate == 48_000
            finally:
                await client.close()
