"""Calls to a real server process, and what one needs in order to judge its end."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from aiortc.mediastreams import MediaStreamTrack

from tests.rtc.pair import Client


def form(sdp: str, session: Any = None) -> aiohttp.FormData:
    """An offer as the OpenAI API takes it; a text stands for the session as it is."""
    data = aiohttp.FormData()
    data.add_field("sdp", sdp, content_type="application/sdp")
    if session is not None:
        text = session if isinstance(session, str) else json.dumps(session)
        data.add_field("session", text, content_type="application/json")
    return data


async def place(http: aiohttp.ClientSession, client: Client, session: Any = None, **offer: Any) -> tuple[int, str]:
    """Post the client's offer; (status, answer)."""
    response = await http.post("/v1/realtime/calls", data=form(await client.offer(**offer), session))
    return response.status, await response.text()


async def dial(
    http: aiohttp.ClientSession, microphone: MediaStreamTrack | None = None, session: Any = None, video: bool = True
) -> Client:
    """A connected client whose data channel is open."""
    client = Client()
    status, answer = await place(http, client, session, microphone=microphone, video=video)
    assert status == 201, answer
    await client.accept(answer)
    await client.connected()
    await client.until(lambda: bool(events(client, "session.created")))
    return client


def written(text: str) -> list[str]:
    """The events with which a client types."""
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    return [
        json.dumps({"type": "conversation.item.create", "item": item}),
        json.dumps({"type": "response.create"}),
    ]


def events(client: Client, kind: str) -> list[dict[str, Any]]:
    """The server's events of this type so far."""
    return [event for event in map(json.loads, client.messages) if event["type"] == kind]


async def answered(client: Client, text: str) -> str:
    """What the server says to a typed text, once it has been said."""
    done = len(events(client, "response.done"))
    stopped = len(events(client, "output_audio_buffer.stopped"))
    for event in written(text):
        await client.say(event)
    await client.until(lambda: len(events(client, "response.done")) > done, 20)
    await client.until(lambda: len(events(client, "output_audio_buffer.stopped")) > stopped, 20)
    response = events(client, "response.done")[done]["response"]
    assert response["status"] == "completed", response
    return str(events(client, "response.output_audio_transcript.done")[-1]["transcript"])


async def health(http: aiohttp.ClientSession) -> dict[str, Any]:
    async with http.get("/health") as response:
        told: dict[str, Any] = await response.json()
        return told


async def until_calls(http: aiohttp.ClientSession, count: int, within_s: float) -> None:
    """Wait until the server has so many calls."""
    with anyio.fail_after(within_s):
        while (await health(http))["calls"] != count:
            await anyio.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process still runs; one that nobody has asked about since its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:  # gone, perhaps while it was read
        return False


async def until_gone(pids: list[int], within_s: float) -> list[int]:
    """Wait until all have ended; returns those that have not."""
    with anyio.move_on_after(within_s):
        while any(map(alive, pids)):
            await anyio.sleep(0.02)
    return [pid for pid in pids if alive(pid)]
