"""Converse: events in, the TurnTaker decides, orders out."""

from collections.abc import Callable

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from server.core.events import Event, Order
from server.core.turns import TurnTaker


async def converse(
    inbox: MemoryObjectReceiveStream[Event], taker: TurnTaker, execute: Callable[[Order], None]
) -> None:
    """Runs until the channel ends. `execute` never waits."""
    while True:
        event: Event | None = None
        deadline = taker.deadline()
        try:
            if deadline is None:
                event = await inbox.receive()
            else:
                with anyio.move_on_at(deadline):
                    event = await inbox.receive()
        except anyio.EndOfStream:
            return
        now = anyio.current_time()
        orders = taker.tick(now) if event is None else taker.handle(event, now)
        for order in orders:
            execute(order)
