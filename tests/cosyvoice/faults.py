"""Each streaming fault of upstream's, shown on its bare code and looked for in ours; run by serve.py."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch

from tests.cosyvoice.tiny import PROMPT, RATE, TEXT
from tts.cosyvoice_server.app import Engine
from tts.cosyvoice_server.utterance import Failed, Utterance

SHORT = "The quick fox."  # 4 text tokens, 80 speech tokens, 3.2 s
LONG = " ".join([TEXT] * 4)

Found = dict[str, Any]


class Bench:
    """The model, bare and served."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.cosyvoice = engine.cosyvoice
        self.model = engine.cosyvoice.model

    def fresh(self) -> None:
        """Upstream's model as it was before its first request."""
        self.model.token_hop_len = 25

    def bare(
        self, text: str = SHORT, prompt: str = "prompt.wav", stream: bool = True, **options: Any
    ) -> Iterator[Any]:
        file = f"{self.cosyvoice.model_dir}/{prompt}"
        return self.cosyvoice.inference_zero_shot(text, PROMPT, file, stream=stream, **options)

    def ours(self, text: str = SHORT, voice: dict[str, Any] | None = None, fewest: int = 15) -> Utterance:
        voice = voice or self.engine.speakers.saved["tiny"]
        request = self.engine.request("zero-shot", text, voice, "")
        return Utterance(self.model, request, stall_s=3.0, fewest=fewest)


def lengths(outputs: Any) -> list[float]:
    """Seconds of each piece, of upstream's answers or of ours."""
    samples = [len(o) // 2 if isinstance(o, bytes) else o["tts_speech"].shape[1] for o in outputs]
    return [round(count / RATE, 2) for count in samples]


def first(utterance: Utterance) -> float:
    """Seconds of its first piece; the rest is not waited for."""
    pieces = utterance.chunks()
    (length,) = lengths([next(pieces)])
    pieces.close()
    utterance.join(5.0)
    return length


def hop_grows(bench: Bench) -> Found:
    """The first piece of a second request is as early as that of the first."""
    bench.fresh()
    bare = [lengths(bench.bare())[0] for _ in range(2)]
    ours = [first(bench.ours()), lengths(bench.ours().chunks())[0]]
    gone = ours[0] == ours[1] == bare[0]
    return {"bare": bare, "ours": ours, "shown": bare[1] > bare[0], "gone": gone}


def sessions_disturb(bench: Bench) -> Found:
    """Two utterances at once are cut as one alone."""

    def together(say: Callable[[], Iterator[Any]]) -> list[list[float]]:
        got: dict[int, list[float]] = {}
        threads = [threading.Thread(target=lambda i=i: got.update({i: lengths(say())})) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [got[0], got[1]]

    bench.fresh()
    alone = lengths(bench.bare())
    bench.fresh()
    bare = together(bench.bare)
    ours_alone = lengths(bench.ours().chunks())
    ours = together(lambda: bench.ours().chunks())
    gone = ours == [ours_alone] * 2 and ours_alone == alone
    return {"bare": bare, "ours": ours, "alone": alone, "shown": bare != [alone] * 2, "gone": gone}


def prompt_delays(bench: Bench) -> Found:
    """A reference that is no whole number of seconds does not delay the first piece."""
    import soundfile

    from tests.cosyvoice.tiny import reference

    soundfile.write(f"{bench.cosyvoice.model_dir}/odd.wav", reference(2.4), RATE, subtype="PCM_16")
    bare = []
    for prompt in ("prompt.wav", "odd.wav"):
        bench.fresh()
        bare.append(lengths(bench.bare(SHORT, prompt))[0])
    odd = bench.cosyvoice.frontend.frontend_zero_shot("", PROMPT, f"{bench.cosyvoice.model_dir}/odd.wav", RATE, "")
    with open(f"{bench.cosyvoice.model_dir}/odd.wav", "rb") as file:
        name, _ = bench.engine.speakers.add(file.read(), PROMPT)
    padded = bench.engine.speakers.get(name)
    assert padded is not None
    ours = [first(bench.ours(SHORT, voice)) for voice in (padded, odd)]
    tokens = int(padded["flow_prompt_speech_token"].shape[1])
    gone = ours[0] <= bare[0] and ours[1] <= bare[0] and tokens % 25 == 0
    return {"bare": bare, "ours": ours, "tokens": tokens, "shown": bare[1] > bare[0] + 0.3, "gone": gone}


def polling(bench: Bench) -> Found:
    """Nobody sleeps: a piece is begun with the token that completes it."""
    sleep = time.sleep
    naps: list[float] = []
    late: list[int] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        sleep(seconds)

    @contextlib.contextmanager
    def watched(counts: Callable[[], int]) -> Iterator[None]:
        naps.clear()
        late.clear()
        work = type(bench.model).token2wav

        def counted(model: Any, token: torch.Tensor, **rest: Any) -> Any:
            late.append(counts() - token.shape[1])
            return work(model, token=token, **rest)

        with patch("time.sleep", nap), patch.object(type(bench.model), "token2wav", counted):
            yield

    bench.fresh()
    with watched(lambda: len(next(iter(bench.model.tts_speech_token_dict.values())))):
        list(bench.bare())
    bare = {"naps": naps.count(0.1), "late": late[0]}
    utterance = bench.ours()
    with watched(lambda: len(utterance.tokens)):
        list(utterance.chunks())
    ours = {"naps": len(naps), "late": late[0]}
    return {"bare": bare, "ours": ours, "shown": bare["naps"] > 0, "gone": ours["naps"] == 0}


def close_goes_on(bench: Bench) -> Found:
    """Closing stops the language model by its next token, and leaves nothing behind."""
    model = bench.model
    bench.fresh()
    threads, ids = set(threading.enumerate()), set(model.tts_speech_token_dict)
    generator = bench.bare(LONG)
    next(generator)
    generator.close()
    (mark,) = set(model.tts_speech_token_dict) - ids
    (thread,) = set(threading.enumerate()) - threads
    tokens = model.tts_speech_token_dict[mark]
    at_close = len(tokens)
    time.sleep(0.5)
    later = len(tokens)
    leaked = [
        name for name in ("tts_speech_token_dict", "llm_end_dict", "hift_cache_dict") if mark in vars(model)[name]
    ]
    with patch("threading.excepthook", lambda _: None):
        for name in leaked:
            vars(model)[name].pop(mark)
        thread.join()
    bare = {"at_close": at_close, "later": later, "leaked": leaked}

    before = {name: dict(value) for name, value in vars(model).items() if name.endswith("_dict")}
    utterance = bench.ours(LONG)
    pieces = utterance.chunks()
    next(pieces)
    at_close = len(utterance.tokens)
    pieces.close()
    ended = utterance.join(5.0)
    after = {name: dict(value) for name, value in vars(model).items() if name.endswith("_dict")}
    ours = {"at_close": at_close, "later": len(utterance.tokens), "ended": ended, "leaked": before != after}
    gone = ended and len(utterance.tokens) <= at_close + 1 and before == after
    return {"bare": bare, "ours": ours, "shown": later > at_close and bool(leaked), "gone": gone}


def failure_hangs(bench: Bench) -> Found:
    """A language model that dies is told, before the first piece and after it."""

    def broken(after: int) -> Callable[..., Iterator[int]]:
        def tokens(**_: Any) -> Iterator[int]:
            yield from range(after)
            raise RuntimeError("no memory")

        return tokens

    model = bench.model
    bench.fresh()
    over = threading.Event()

    def listen() -> None:
        with contextlib.suppress(Exception):
            list(bench.bare())
        over.set()

    with patch.object(model.llm, "inference", broken(4)), patch("threading.excepthook", lambda _: None):
        before = set(model.llm_end_dict)
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        hangs = not over.wait(2.0)
        for mark in set(model.llm_end_dict) - before:  # let it go
            model.llm_end_dict[mark] = True
        thread.join(10)
    ours = []
    for after in (4, 40):
        with patch.object(model.llm, "inference", broken(after)):
            pieces: list[bytes] = []
            try:
                pieces += list(bench.ours().chunks())
                ours.append("no error")
            except Failed as error:
                ours.append(str(error))
    gone = all("no memory" in said for said in ours)
    return {"bare": "hangs" if hangs else "ends", "ours": ours, "shown": hangs, "gone": gone}


def stall_hangs(bench: Bench) -> Found:
    """A language model that makes no token any more is given up, and a vocoder that dies is told."""
    stuck = threading.Event()

    def stalled(**_: Any) -> Iterator[int]:
        yield from range(4)
        stuck.wait(20)

    utterance = bench.ours()
    utterance._stall_s = 0.3
    said = []
    with patch.object(bench.model.llm, "inference", stalled):
        try:
            list(utterance.chunks())
        except Failed as error:
            said.append(str(error))
        stuck.set()
        utterance.join(5.0)

    def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("no vocoder")

    with patch.object(type(bench.model), "token2wav", dies):
        utterance = bench.ours()
        try:
            list(utterance.chunks())
        except Failed as error:
            said.append(str(error))
    gone = len(said) == 2 and "no token" in said[0] and "no vocoder" in said[1] and utterance.join(5.0)
    return {"bare": "waits for ever (its loop has no deadline)", "ours": said, "shown": True, "gone": gone}


def nonsense(bench: Bench) -> Found:
    """A library that decodes otherwise step by step than at once is refused."""
    from tts.cosyvoice_server.checks import Unsound, cached_decoding_error, check_decoding

    llm = bench.model.llm
    exact = cached_decoding_error(llm)
    check_decoding(llm)
    step = llm.llm.forward_one_step

    def forgetful(x: Any, masks: Any, cache: Any = None) -> Any:
        """As with transformers 5: what the cache holds is seen through another mask."""
        out, kept = step(x, masks, cache)
        return (out + 0.07 * torch.randn_like(out) if cache is not None else out), kept

    refused = ""
    with patch.object(llm.llm, "forward_one_step", forgetful):
        try:
            check_decoding(llm)
        except Unsound as error:
            refused = str(error)
    gone = exact < 1e-4 and "nonsense" in refused and "transformers==" in refused
    return {"bare": "speaks on", "ours": [f"{exact:.1e}", refused], "shown": True, "gone": gone}


def sounds_the_same(bench: Bench) -> Found:
    """From the same tokens ours makes upstream's very samples: the mends change when, not what."""
    fixed = [(7 * i) % 300 for i in range(70)]

    def tokens(**_: Any) -> Iterator[int]:
        yield from fixed

    pieces = {}
    with patch.object(bench.model.llm, "inference", tokens):
        for name in ("bare", "ours"):
            bench.fresh()
            torch.manual_seed(5)
            made = bench.bare() if name == "bare" else bench.ours().chunks()
            pieces[name] = [one if name == "ours" else one["tts_speech"] for one in made]
    from tts.cosyvoice_server.utterance import pcm

    bare = [pcm(one.numpy().reshape(-1)) for one in pieces["bare"]]
    same = bare == pieces["ours"]
    return {"bare": lengths(bare), "ours": lengths(pieces["ours"]), "shown": True, "gone": same}


FAULTS: dict[str, Callable[[Bench], Found]] = {
    function.__name__: function
    for function in (
        hop_grows,
        sessions_disturb,
        prompt_delays,
        polling,
        close_goes_on,
        failure_hangs,
        stall_hangs,
        nonsense,
        sounds_the_same,
    )
}
