"""`make bench-speech`: what we add to the time and the text of a spoken conversation.

stages    the time between the stages of a call through the real server process (benchmarks/speech_stages.py)
streams   eight streams of FunASR at once against one after another (benchmarks/speech_asr.py)
chunker   a thousand streamed texts full of traps (benchmarks/chunking.py)
"""

import argparse
import json
import os
import platform

import anyio

from benchmarks import chunking, speech_asr, speech_stages
from benchmarks.figures import value

NAMES = ("chunker", "streams", "stages")
TARGETS = {
    "asr_to_llm_ms": "p95 <= 15",
    "clause_to_tts_ms": "p95 <= 15",
    "pcm_to_timeline_ms": "p95 <= 10",
    "pcm_to_packet_ms": "p95 <= 60",
    "asr_streams_ratio": "<= 1.1",
    "chunker_errors": "0",
}


def chunker(texts: int) -> None:
    wrong = chunking.run(texts)
    for one in wrong:
        print(json.dumps({"name": "speech.chunker_error", "what": one}, ensure_ascii=False), flush=True)
    value("speech.chunker_texts", "texts", chunking.count(texts))
    value("speech.chunker_errors", "texts", len(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.speech", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is named")
    parser.add_argument("--turns", type=int, default=speech_stages.TURNS, help="of the call")
    parser.add_argument("--rounds", type=int, default=speech_asr.ROUNDS, help="of the streams")
    parser.add_argument("--texts", type=int, default=chunking.TEXTS, help="for the chunker")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a setting of the server")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there is {', '.join(NAMES)}")
    machine = {
        "name": "machine",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "targets": TARGETS,
    }
    print(json.dumps(machine), flush=True)
    names = options.names or NAMES
    if "chunker" in names:
        chunker(options.texts)
    if "streams" in names:
        anyio.run(speech_asr.measure, 0, options.rounds)
    if "stages" in names:
        anyio.run(speech_stages.measure, options.turns, options.set)


if __name__ == "__main__":
    main()
