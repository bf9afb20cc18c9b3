"""A caller in a process of its own, so that it can vanish: `python -m tests.call.caller ADDRESS TEXT`."""

import sys

import aiohttp
import anyio

from tests.call.dialled import dial, written
from tests.rtc.pair import Voice


async def main(address: str, text: str) -> None:
    async with aiohttp.ClientSession(address) as http:
        client = await dial(http, Voice(packets=3000))
    for event in written(text):
        await client.say(event)
    print("talking", flush=True)
    await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
