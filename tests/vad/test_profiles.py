"""Hands-free, push-to-talk and kiosk as they are shipped: what each makes of the same sounds, and who listens."""

from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from server.config import Config, load_config
from server.core.events import CommitTurn, CutReply, ReplyRequested, TakeProvisional, TurnClosed
from server.engines import _ends
from server.vad.smart_turn import SmartTurnEnds
from tests.core.scenario import Scenario, Sound

CONFIGS = Path(__file__).parents[2] / "configs"
PLAIN = "what is the weather in paris"


def profile(name: str) -> Config:
    return load_config([CONFIGS / f"{name}.toml"] if name != "hands-free" else [])


def played(name: str, *sounds: Sound, **given: object) -> Scenario:
    settings = msgspec.structs.replace(profile(name).turns, guard_s=0.0)
    return Scenario(sounds, settings=settings, **given).run(30.0)  # type: ignore[arg-type]


def committed(scenario: Scenario) -> list[float]:
    return [round(at, 2) for at, order in scenario.orders if isinstance(order, CommitTurn)]


def test_a_kiosk_waits_longer_whatever_is_known_of_the_end() -> None:
    for opinions in ((), ((0.06, 0.99),), ((0.06, 0.3),), ((0.06, 0.001),)):
        for words in (PLAIN, "i would like a coffee and", "what time is it"):
            ends = [
                committed(played(name, Sound(1.0, 2.0, words), opinions=opinions))[0]
                for name in ("hands-free", "kiosk")
            ]
            assert 2.0 < ends[0] < ends[1] < 4.0, (words, opinions)


def test_a_kiosk_is_not_interrupted_by_who_passes_by() -> None:
    told = ((0.0, ReplyRequested("", say="a long story")),)
    cuts = {
        name: [order for _, order in played(name, Sound(1.0, 1.8), told=told).orders if isinstance(order, CutReply)]
        for name in ("hands-free", "kiosk")
    }
    assert cuts["hands-free"]
    assert not cuts["kiosk"]


def test_with_push_to_talk_only_the_button_ends_a_turn() -> None:
    told = ((9.0, TurnClosed()),)
    scenario = played("push-to-talk", Sound(1.0, 2.0, "what time is it"), Sound(7.0, 8.0, "in paris"), told=told)
    assert committed(scenario) == [9.0]
    assert not [order for _, order in scenario.orders if isinstance(order, TakeProvisional)], (
        "nobody waits for a pause"
    )


@pytest.mark.parametrize(("name", "listens"), [("hands-free", True), ("kiosk", True), ("push-to-talk", False)])
async def test_who_listens_for_the_end(name: str, listens: bool) -> None:
    async with AsyncExitStack() as stack:
        ends, choice = await _ends(profile(name), stack)
        if listens and find_spec("onnxruntime") is not None:
            assert isinstance(ends, SmartTurnEnds)
            assert choice.provider == "smart_turn"
        else:
            assert ends is None
            assert choice.provider == "silence and words"
