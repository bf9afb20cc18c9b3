"""`python -m cosyvoice_server.probe URL`: how soon and how steadily a running voice server speaks; JSON lines.

For what only real weights on a real device can show. Standard library only.
"""

import argparse
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

TEXTS = (
    "Well, I think that this is a rather good question; let me see.",
    "It rained all morning, but in the afternoon the sun came out and we went for a walk.",
    "我觉得这个问题问得很好，让我想一想。",
    "今天早上下了一场大雨，不过下午太阳出来了，我们就去公园散步了。",
)


class Server:
    """A running server; one connection for each request."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @contextmanager
    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = ""
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=60)
        try:
            connection.request(method, path, body, self._headers | ({"Content-Type": kind} if kind else {}))
            with connection.getresponse() as answer:
                if answer.status >= 400:
                    raise SystemExit(f"{path}: {answer.status} {answer.read(300).decode('utf-8', 'replace')}")
                yield answer
        finally:
            connection.close()

    def json(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        with self.ask(method, path, body, kind) as answer:
            return json.loads(answer.read())

    def speak(self, mode: str, text: str, voice: str) -> AbstractContextManager[http.client.HTTPResponse]:
        body = json.dumps({"text": text, "voice": voice}).encode()
        return self.ask("POST", f"/v1/speech/{mode}", body, "application/json")


def measure(server: Server, mode: str, text: str, voice: str) -> dict[str, float]:
    """One utterance: when its first sound came, how long it is and took, how long a listener would have waited."""
    start = time.monotonic()
    first = heard_until = waited = samples = 0.0
    with server.speak(mode, text, voice) as answer:
        rate = int(answer.getheader("X-Sample-Rate") or 24_000)
        while data := answer.read1(65_536):
            now = time.monotonic()
            if not samples:
                first = heard_until = now
            waited += max(now - heard_until, 0.0)
            heard_until = max(heard_until, now) + len(data) / 2 / rate
            samples += len(data) / 2
    seconds = samples / rate
    return {
        "first_ms": round(1000 * (first - start), 1),
        "audio_s": round(seconds, 2),
        "real_time_factor": round((time.monotonic() - start) / max(seconds, 1e-9), 3),
        "starved_ms": round(1000 * waited, 1),
    }


def cancelled(server: Server, mode: str, text: str, voice: str) -> dict[str, float]:
    """Leave after the first sound; tokens made from then on, and time until the language model is idle."""
    with server.speak(mode, " ".join([text] * 4), voice) as answer:
        answer.read1(1)
        before = server.json("GET", "/health")["tokens"]
    start = time.monotonic()
    while (found := server.json("GET", "/health"))["active"] and time.monotonic() - start < 30:
        time.sleep(0.01)
    idle_ms = round(1000 * (time.monotonic() - start), 1)
    return {"tokens_after_cancel": found["tokens"] - before, "idle_after_ms": idle_ms}


def voice_of(server: Server, options: argparse.Namespace) -> tuple[str, str]:
    """(mode, voice): of a reference, or a speaker that came with the model."""
    if not options.audio:
        saved = server.json("GET", "/v1/voices")["saved"]
        if not saved:
            raise SystemExit("The model has no speaker of its own: give a reference with --audio and --transcript.")
        return "saved", options.voice or saved[0]
    mark = "visavis-probe"
    with open(options.audio, "rb") as file:
        sound = file.read()
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="transcript"\r\n\r\n{options.transcript}\r\n--{mark}\r\n'
        'Content-Disposition: form-data; name="audio"; filename="reference"\r\n\r\n'
    )
    body = head.encode() + sound + f"\r\n--{mark}--\r\n".encode()
    answer = server.json("POST", "/v1/voices", body, f"multipart/form-data; boundary={mark}")
    return "zero-shot" if options.transcript else "cross-lingual", answer["id"]


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": ordered[len(ordered) // 2], "p95": ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]}


def probe(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    server = Server(options.url, os.environ.get("VISAVIS_TTS_KEY", ""))
    about = server.json("GET", "/health")
    mode, voice = voice_of(server, options)
    yield {"figure": "cosyvoice.about", "model": about["model"], "generation": about["generation"], "mode": mode}
    found = [measure(server, mode, TEXTS[i % len(TEXTS)], voice) for i in range(options.count)]
    for name in ("first_ms", "real_time_factor", "starved_ms"):
        yield {"figure": f"cosyvoice.{name}", "n": options.count, **quantiles([one[name] for one in found])}
    shares = [one["audio_s"] / len(TEXTS[i % len(TEXTS)]) for i, one in enumerate(found)]
    yield {"figure": "cosyvoice.seconds_per_character", "least": min(shares), "most": max(shares)}
    yield {"figure": "cosyvoice.cancel", **cancelled(server, mode, TEXTS[1], voice)}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cosyvoice_server.probe", description="Measures a running voice server.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:50000")
    parser.add_argument("--audio", default="", help="a reference to speak with (WAV, 5 to 10 s)")
    parser.add_argument("--transcript", default="", help="what is said in it")
    parser.add_argument("--voice", default="", help="a speaker that came with the model")
    parser.add_argument("--count", type=int, default=20, help="utterances")
    for line in probe(parser.parse_args(given)):
        print(json.dumps(line, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
