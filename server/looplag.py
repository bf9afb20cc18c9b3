"""How late the event loop is: the overshoot of a 5 ms sleeper, for the metrics and the benchmark."""

from collections import deque

import anyio

SLEEP_S = 0.005
KEPT = 60_000  # five minutes of samples


class LoopLag:
    """Runs beside the calls when asked to (`call.measure_lag`): it costs 200 wake-ups a second."""

    def __init__(self) -> None:
        self._late_ms: deque[float] = deque(maxlen=KEPT)

    async def run(self) -> None:
        while True:
            due = anyio.current_time() + SLEEP_S
            await anyio.sleep(SLEEP_S)
            self._late_ms.append((anyio.current_time() - due) * 1000)

    def figures(self) -> dict[str, float]:
        """n, and p50, p95, p99 in milliseconds."""
        ordered = sorted(self._late_ms)
        if not ordered:
            return {"n": 0, "p50": 0.0, "p95": 0.0, "p99": 0.0}
        found = {f"p{p}": round(ordered[len(ordered) * p // 100], 3) for p in (50, 95, 99)}
        return {"n": len(ordered), **found}
