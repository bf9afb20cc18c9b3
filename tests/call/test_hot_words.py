"""A call's hot words, on their way from its session to its listener."""

from types import SimpleNamespace
from typing import Any, cast

from server.call import Call
from server.config import Config
from server.core.media import AvatarInfo
from server.engines import Engines
from tests.fakes.providers import FakeAsr, FakeLlm, FakeTts, FakeVad


async def test_hot_words_reach_the_listener() -> None:
    asr = FakeAsr("hello")
    renderer = cast(Any, SimpleNamespace(avatars=[AvatarInfo("mia", 64, 64)]))
    engines = Engines(cast(Any, FakeVad), asr, FakeAsr(), FakeLlm([]), "fake", FakeTts(), renderer)
    config = Config()
    call = Call("rtc_1", config, engines, config.persona("mia"), "mia", hot_words=("Mia", "阿里巴巴"))
    await (await call._open_asr("en")).aclose()
    assert asr.words == ("Mia", "阿里巴巴")
