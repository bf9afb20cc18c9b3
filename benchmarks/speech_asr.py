"""`python -m benchmarks.speech_asr`: what eight calls at once cost FunASR, against the same eight one after another.

The real worker process with a tiny Paraformer of random weights: a model's own time is small, so that it is the cost
of sharing it (locks, queues, threads) that is measured.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import anyio

from benchmarks.figures import value
from server.asr.funasr import FunasrAsr, FunasrSettings
from server.core.media import MIC_FRAME_BYTES
from tests.asr.tiny_funasr import melody, paraformer

STREAMS = 8
SECONDS = 6.0
ROUNDS = 7


async def stream(engine: FunasrAsr, pcm: bytes) -> str:
    """A call's one utterance, said as fast as it can be taken."""
    session = await engine.open("zh")
    try:
        for first in range(0, len(pcm), MIC_FRAME_BYTES):
            await session.push(pcm[first : first + MIC_FRAME_BYTES])
        return (await session.commit()).text
    finally:
        await session.aclose()


async def one_after_another(engine: FunasrAsr, said: list[bytes]) -> list[str]:
    return [await stream(engine, pcm) for pcm in said]


async def at_once(engine: FunasrAsr, said: list[bytes]) -> list[str]:
    texts = [""] * len(said)

    async def run(number: int) -> None:
        texts[number] = await stream(engine, said[number])

    async with anyio.create_task_group() as tasks:
        for number in range(len(said)):
            tasks.start_soon(run, number)
    return texts


async def measure(threads: int, rounds: int) -> None:
    said = [melody(seed, SECONDS).tobytes() for seed in range(STREAMS)]
    with tempfile.TemporaryDirectory() as folder:
        settings = FunasrSettings(
            streaming=str(paraformer(Path(folder))),
            finaliser="",
            device="cpu",
            threads=threads,
            backlog_s=60.0,
            answer_s=30.0,
        )
        async with settings.load() as engine:
            wanted = await one_after_another(engine, said)
            ratios, seconds = [], []
            for _ in range(rounds):
                began = time.perf_counter()
                alone = await one_after_another(engine, said)
                between = time.perf_counter()
                together = await at_once(engine, said)
                ended = time.perf_counter()
                if together != wanted or alone != wanted:
                    raise SystemExit("a stream got words that are not its own")
                ratios.append((ended - between) / (between - began))
                seconds.append(ended - between)
            value("speech.asr_threads", "threads", engine.worker.about["threads"])
    value("speech.asr_streams_s", "s", statistics.median(seconds))
    value("speech.asr_streams_ratio", "at once / one after another", statistics.median(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.speech_asr", description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="0: as the settings' default")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    anyio.run(measure, options.threads, options.rounds)


if __name__ == "__main__":
    main()
