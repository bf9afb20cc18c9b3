"""configs/gpu.toml as a whole: a real FunASR worker on tiny models, and servers that speak the real protocols."""

from pathlib import Path

import pytest

from server.config import load_config
from server.engines import load_engines
from server.warmup import warm_up
from tests.fakes.llm_server import llm_server, says
from tests.fakes.speech_server import Answer, speech_server, tone

GPU = Path(__file__).parents[2] / "configs" / "gpu.toml"


@pytest.mark.timeout(600)  # FunASR's start takes 8 s of a free core, and minutes of a busy one
async def test_the_first_sentence_goes_through_all_of_it(tiny: Path) -> None:
    async with (
        llm_server(says("I am well, thank you. ", "And you?"), owner="vllm") as llm,
        speech_server(Answer((tone(2.0),)), saved=["radio"]) as voice,
    ):
        config = load_config(
            [GPU],
            [
                *(f"asr.streaming={tiny / 'paraformer'}", f"asr.finaliser={tiny / 'sense_voice'}"),
                *("asr.device=cpu", "asr.answer_s=30", "asr.finaliser_languages=['en']", "endpointing.type=silence"),
                *(f"llm.base_url={llm.base_url}", f"tts.base_url={voice.url}", "tts.clones=", "render.type=still"),
            ],
            {},
        )
        async with load_engines(config) as engines:
            assert [c.provider for c in engines.choices if c.stage in ("transcribe", "speak")] == [
                "funasr",
                "cosyvoice",
            ]
            assert await warm_up(config, engines) == []
            assert engines.llm_usage()["replies"] == 0
        (asked,) = llm.requests
        assert asked["messages"][-1]["role"] == "user"
        assert asked["messages"][-1]["content"] != "Hello, how are you today?"  # but what the tiny model made of it
        first, second = (body["text"] for _, body in voice.requests)
        assert first == "Hello, how are you today?"
        assert second.startswith("I am well,")
