"""The HTTP surface of a real server process: what is refused, with which words; tokens, limits, hanging up."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from benchmarks.server import Running, running

pytestmark = pytest.mark.slow

LIGHT = ("asr.type=none", "tts.type=tone", "llm.type=scripted", "render.type=testcard", "personas.mia.opening=")


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Running]:
    async with running(*LIGHT, "call.max_calls=2") as server:
        yield server


@pytest.fixture
async def http(server: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.address) as session:
        yield session


async def offer(video: bool = True) -> tuple[RTCPeerConnection, str]:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio", direction="recvonly")
    if video:
        pc.addTransceiver("video", direction="recvonly")
    pc.createDataChannel("oai-events")
    await pc.setLocalDescription(await pc.createOffer())
    return pc, pc.localDescription.sdp


async def place(http: aiohttp.ClientSession, sdp: str, **headers: str) -> aiohttp.ClientResponse:
    response = await http.post("/v1/realtime/calls", data=sdp, headers={"Content-Type": "application/sdp", **headers})
    await response.read()
    return response


async def refusal(response: aiohttp.ClientResponse) -> tuple[int, str, str]:
    error = (await response.json())["error"]
    return response.status, error["code"], error["message"]


def form(sdp: str, session: Any = None) -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("sdp", sdp, content_type="application/sdp")
    if session is not None:
        text = session if isinstance(session, str) else json.dumps(session)
        data.add_field("session", text, content_type="application/json")
    return data


async def test_a_call_is_placed_and_hung_up(http: aiohttp.ClientSession) -> None:
    pc, sdp = await offer()
    try:
        response = await place(http, sdp)
        assert response.status == 201
        assert response.content_type == "application/sdp"
        location = response.headers["Location"]
        assert location.startswith("/v1/realtime/calls/rtc_")
        await pc.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))
        assert (await http.post(location + "/hangup")).status == 200
        for _ in range(100):
            if (await (await http.get("/health")).json())["calls"] == 0:
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail("the call is still there")
        assert (await refusal(await http.delete(location)))[:2] == (404, "unknown_call")
    finally:
        await pc.close()


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        ("hello", "application/sdp", 400, None),
        ("", "application/sdp", 400, None),
        ("v=0\r\n", "application/sdp", 400, None),
        ("{}", "application/json", 415, "unsupported_media_type"),
        ("x" * 300_000, "application/sdp", 413, "too_large"),
        (b"\xff\xfe\x00", "application/sdp", 400, None),
    ],
)
async def test_what_is_no_offer_is_refused_in_words(
    http: aiohttp.ClientSession, body: str | bytes, content_type: str, status: int, code: str | None
) -> None:
    response = await http.post("/v1/realtime/calls", data=body, headers={"Content-Type": content_type})
    got, got_code, message = await refusal(response)
    assert got == status
    assert code in (None, got_code)
    assert len(message) > 15
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("session", "status", "code"),
    [
        ({"visavis": {"avatar": "zoe"}}, 404, "unknown_avatar"),
        ({"visavis": {"persona": "zoe"}}, 404, "unknown_persona"),
        ({"visavis": {"avatar": 7}}, 400, "bad_session"),
        ({"visavis": {"hot_words": ["Mia", "/etc/passwd"]}}, 400, "bad_hot_word"),
        ("{not json", 400, "bad_json"),
        ("[]", 400, "bad_json"),
    ],
)
async def test_unknown_faces_and_personas(http: aiohttp.ClientSession, session: Any, status: int, code: str) -> None:
    pc, sdp = await offer()
    await pc.close()
    response = await http.post("/v1/realtime/calls", data=form(sdp, session))
    assert (await refusal(response))[:2] == (status, code)


async def test_a_form_without_sdp(http: aiohttp.ClientSession) -> None:
    data = aiohttp.FormData()
    data.add_field("session", "{}", content_type="application/json")
    data.add_field("other", "x", filename="x")
    assert (await refusal(await http.post("/v1/realtime/calls", data=data)))[:2] == (400, "no_sdp")


async def test_one_call_too_many_is_told_that_all_lines_are_busy(http: aiohttp.ClientSession) -> None:
    offers = [await offer() for _ in range(3)]
    try:
        responses = await asyncio.gather(*(place(http, sdp) for _, sdp in offers))
        assert sorted(r.status for r in responses) == [201, 201, 429]
        busy = next(r for r in responses if r.status == 429)
        assert (await refusal(busy))[1] == "busy"
        assert "Retry-After" in busy.headers
        for response in responses:
            if response.status == 201:
                await http.delete(response.headers["Location"])
    finally:
        for pc, _ in offers:
            await pc.close()


async def test_other_sites_may_not_call_unless_allowed(server: Running, http: aiohttp.ClientSession) -> None:
    pc, sdp = await offer()
    await pc.close()
    response = await place(http, sdp, Origin="https://evil.example")
    assert (await refusal(response))[:2] == (403, "origin_not_allowed")
    assert "Access-Control-Allow-Origin" not in response.headers
    rebound = await http.get("/health", headers={"Host": "evil.example"})
    assert (await refusal(rebound))[:2] == (403, "host_not_allowed")
    assert (await http.get("/health", headers={"Origin": server.address})).status == 200


async def test_tokens_carry_a_session_and_do_not_mint_others(http: aiohttp.ClientSession) -> None:
    wanted = {"expires_after": {"anchor": "created_at", "seconds": 60}, "session": {"visavis": {"persona": "leo"}}}
    response = await http.post("/v1/realtime/client_secrets", json=wanted)
    assert response.status == 200
    secret = await response.json()
    assert secret["value"].startswith("ek_")
    bearer = {"Authorization": f"Bearer {secret['value']}"}
    assert (await http.post("/v1/realtime/client_secrets", json={}, headers=bearer)).status == 403
    short = await http.post("/v1/realtime/client_secrets", json={"expires_after": {"seconds": 1}})
    assert (await refusal(short))[:2] == (400, "bad_expiry")
    broken = await http.post("/v1/realtime/client_secrets", data="{")
    assert (await refusal(broken))[:2] == (400, "bad_request")


async def test_a_key_is_asked_for_where_one_is_set() -> None:
    async with (
        running(*LIGHT, "http.api_key=s3cret") as server,
        aiohttp.ClientSession(server.address) as http,
    ):
        pc, sdp = await offer()
        await pc.close()
        assert (await refusal(await place(http, sdp)))[:2] == (401, "unauthorized")
        assert (await place(http, sdp, Authorization="Bearer wrong")).status == 401
        response = await http.post("/v1/realtime/client_secrets", json={}, headers={"Authorization": "Bearer s3cret"})
        value = (await response.json())["value"]
        assert (await place(http, sdp, Authorization=f"Bearer {value}")).status == 201


async def test_what_there_is(http: aiohttp.ClientSession) -> None:
    about = await (await http.get("/v1/visavis")).json()
    assert about["avatars"][0]["name"] == "testcard"
    assert [p["name"] for p in about["personas"]][:2] == ["mia", "leo"]
    assert {"name": "wit", "title": "Edgar", "about": "dry wit", "language": "en", "avatar": "leo"} in about[
        "personas"
    ]
    assert {p["language"] for p in about["personas"]} == {"en", "zh"}
    assert about["providers"]["think"]["where"] == "here"
    page = await (await http.get("/")).text()
    assert "<talking-head" in page
    assert (await http.get("/client/element.js")).content_type in ("text/javascript", "application/javascript")
    metrics = await (await http.get("/metrics")).text()
    assert "visavis_calls_total" in metrics


@pytest.mark.parametrize("path", ["/client/../server/app.py", "/client/..%2fserver%2fapp.py", "/nothing"])
async def test_nothing_else_is_served(http: aiohttp.ClientSession, path: str) -> None:
    response = await http.get(path)
    assert response.status in (403, 404)
    assert "import" not in await response.text()
