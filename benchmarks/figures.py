"""One JSON line a figure: a spread of values, or a single one."""

import json
import math
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: a value that was really measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(name: str, unit: str, values: Sequence[float]) -> None:
    """Print n, p50, p95 and p99; with no values, say so rather than nothing."""
    line: dict[str, object] = {"name": name, "unit": unit, "n": len(values)}
    if values:
        line |= {f"p{round(100 * s)}": round(percentile(values, s), 2) for s in (0.5, 0.95, 0.99)}
    print(json.dumps(line), flush=True)


def value(name: str, unit: str, figure: float) -> None:
    print(json.dumps({"name": name, "unit": unit, "value": round(figure, 4)}), flush=True)
