"""An unmodified @openai/agents-realtime client on the real server: connects, hears, sees, is answered, is called."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page

from benchmarks import chromium
from benchmarks.server import running
from benchmarks.utterances import compose
from tests.browser.agents import built_page, buzzing_microphone
from tests.fakes.llm_server import Chunk, llm_server, says

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@asynccontextmanager
async def another_site(folder: Path) -> AsyncIterator[str]:
    """The client's page on an origin of its own."""
    app = web.Application()
    app.router.add_get("/", lambda _: web.FileResponse(folder / "index.html"))
    app.router.add_static("/", folder)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def until(page: Page, expression: str, seconds: float = 30) -> Any:
    return await (await page.wait_for_function(f"() => {expression}", timeout=seconds * 1000)).json_value()


async def test_the_agents_sdk_talks_to_the_real_server(tmp_path: Path) -> None:
    folder = built_page()
    microphone = tmp_path / "question.wav"
    compose(microphone, ["what is seven times eight"], [20.0], lead_s=4.0)
    async with (
        another_site(folder) as site,
        running(f'http.origins=["{site}"]', "llm.type=scripted") as server,
        chromium.launch(microphone) as browser,
    ):
        page = await browser.new_page()
        await page.goto(site)
        await until(page, "window.agents !== undefined")
        call_id = await page.evaluate(
            "url => agents.connect({ url, instructions: '' })", f"{server.address}/v1/realtime/calls"
        )
        assert call_id.startswith("rtc_")
        await until(page, "agents.picture()[2] > 10")
        assert (await page.evaluate("agents.picture()"))[:2] == [512, 512]
        # It is heard, answered, and hears it.
        await until(page, "agents.history.some(item => item.role === 'user' && /seven|times|eight/.test(item.text))")
        await until(page, "agents.loudness() > 0.02")
        assert await until(page, "agents.history.find(item => item.role === 'assistant' && item.text)?.text")
        await until(page, "agents.events.includes('output_audio_buffer.stopped')")
        # It writes and is answered, and interrupts.
        await page.evaluate("agents.say('tell me what you can do')")
        await until(page, "agents.events.filter(type => type === 'output_audio_buffer.started').length === 2")
        await page.evaluate("agents.interrupt()")
        await until(page, "agents.events.includes('output_audio_buffer.cleared')")
        assert await page.evaluate("agents.errors") == []
        await page.evaluate("agents.close()")


def calling(arguments: str) -> Chunk:
    """As OpenAI's models ask for a function."""
    function = {"name": "weather", "arguments": arguments}
    delta = {"content": None, "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
    return Chunk({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]})


async def test_the_agents_sdk_is_asked_for_its_function(tmp_path: Path) -> None:
    folder = built_page()
    answers = says("One look.", calling('{"place": "Oslo"}'), finish="tool_calls"), says("It is sunny in Oslo.")
    async with (
        llm_server(*answers) as model,
        another_site(folder) as site,
        running(
            f'http.origins=["{site}"]',
            *("llm.type=openai", f"llm.base_url={model.base_url}", "llm.model=fake-model"),
            *("asr.type=none", "tts.type=tone", "tts.clause_s=0.5", "render.type=testcard"),
        ) as server,
        chromium.launch(buzzing_microphone(tmp_path / "buzz.wav", 5.0)) as browser,
    ):
        page = await browser.new_page()
        await page.goto(site)
        await until(page, "window.agents !== undefined")
        url = f"{server.address}/v1/realtime/calls"
        await page.evaluate("url => agents.connect({ url, weather: 'sunny, 20 degrees' })", url)
        await page.evaluate("agents.session.mute(true)")
        await page.evaluate("agents.say('What is the weather in Oslo?')")
        await until(page, "agents.calls.length === 1")
        assert await page.evaluate("agents.calls") == [{"place": "Oslo"}]
        await until(page, "agents.history.some(({ text }) => text === 'It is sunny in Oslo.')")
        assert await page.evaluate("agents.errors") == []
        events = await page.evaluate("agents.events")
        assert "response.function_call_arguments.done" in events
        assert events.count("response.created") == events.count("response.done") == 2
        asked, told = (request["messages"] for request in model.requests)
        assert asked[-1] == {"role": "user", "content": "What is the weather in Oslo?"}
        assert [message["role"] for message in told] == ["system", "user", "assistant", "tool"]
        assert told[-1] == {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 20 degrees"}
        assert model.requests[0]["tools"][0]["function"]["parameters"]["required"] == ["place"]
        await page.evaluate("agents.close()")
