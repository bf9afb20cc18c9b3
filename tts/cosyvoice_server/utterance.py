"""One utterance on upstream's model: its own state, woken by every token, cancelled by the next, never hanging.

Upstream's `tts` keeps each request's state on the shared model (its hop length grows from request to request), asks
for new tokens every 100 ms, cannot be cancelled, and waits for ever for a language model that died. Upstream's two
working functions, `llm_job` and `token2wav`, are good: they run here on a view of the model whose weights are shared
and whose state is this utterance's own.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .hops import FEWEST, hops

log = logging.getLogger(__name__)

ID = "utterance"  # in dictionaries of its own


class Failed(RuntimeError):
    """The model could not say it."""


class Utterance:
    """`chunks` is read by one thread; `cancel` may be called from any."""

    def __init__(
        self,
        model: Any,
        request: dict[str, Any],
        *,
        stall_s: float = 20.0,
        fewest: int = FEWEST,
        counted: Callable[[], None] = lambda: None,
    ) -> None:
        """model: upstream's CosyVoice2Model or CosyVoice3Model. request: what its front end made of the text.
        stall_s: the language model must make a token within so many seconds. counted: called for every token.
        """
        self.tokens: list[int] = []
        self._news = threading.Condition()
        self._cancelled = self._ended = False
        self._failure: BaseException | None = None
        self._stall_s = stall_s
        self._fewest = fewest
        self._counted = counted
        self._model = model
        self._request = _complete(request)
        self._view = _View(model, self)
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the language model is still at work on it."""
        return self._thread is not None and self._thread.is_alive()

    def cancel(self) -> None:
        """The language model stops at its next token, `chunks` ends at once or after the piece it is making."""
        with self._news:
            self._cancelled = True
            self._news.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the language model's thread; whether it ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.alive

    def chunks(self) -> Iterator[bytes]:
        """PCM (s16le mono at the model's rate) as it is made. Closing the iterator cancels. Raises Failed."""
        request = self._request
        prompt = request["flow_prompt_speech_token"].shape[1]
        ahead = int(self._model.flow.pre_lookahead_len)
        self._thread = threading.Thread(target=self._make_tokens, name="cosyvoice-llm", daemon=True)
        self._thread.start()
        try:
            offset = 0
            for hop in hops(prompt, self._fewest):
                if not self._wait_for(offset + hop + ahead):
                    break
                yield self._sound(self.tokens[: offset + hop + ahead], offset, last=False)
                offset += hop
            if self._cancelled:
                return
            if not self.tokens:
                raise Failed("the language model made no speech of this text")
            yield self._sound(list(self.tokens), offset, last=True)
        finally:
            self.cancel()

    def _wait_for(self, count: int) -> bool:
        """Whether there are so many tokens; False: no more are coming."""
        with self._news:
            while len(self.tokens) < count and not (self._ended or self._cancelled):
                before = len(self.tokens)
                if not self._news.wait(self._stall_s) and len(self.tokens) == before and not self._ended:
                    raise Failed(f"the language model made no token for {self._stall_s:.0f} s")
            if self._failure is not None:
                raise Failed(f"the language model failed: {self._failure!r}") from self._failure
            return len(self.tokens) >= count and not self._cancelled

    def _make_tokens(self) -> None:
        request = self._request
        try:
            type(self._model).llm_job(
                self._view,
                request["text"],
                request["prompt_text"],
                request["llm_prompt_speech_token"],
                request["llm_embedding"],
                ID,
            )
        except BaseException as error:  # whatever it is, nobody may wait for ever
            self._failure = error
            log.exception("the language model failed")
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _sound(self, tokens: list[int], offset: int, last: bool) -> bytes:
        request = self._request
        try:
            wave = type(self._model).token2wav(
                self._view,
                token=torch.tensor(tokens).unsqueeze(0),
                prompt_token=request["flow_prompt_speech_token"],
                prompt_feat=request["prompt_speech_feat"],
                embedding=request["flow_embedding"],
                token_offset=offset,
                uuid=ID,
                stream=not last,
                finalize=last,
            )
        except Exception as error:
            log.exception("the vocoder failed")
            raise Failed(f"the flow model or the vocoder failed: {error!r}") from error
        return pcm(wave.detach().float().cpu().numpy().reshape(-1))

    def _take(self, token: int) -> None:
        self._counted()
        with self._news:
            self.tokens.append(token)
            self._news.notify_all()


class _Tokens(list[int]):
    """Where upstream's llm_job puts its tokens."""

    def __init__(self, utterance: Utterance) -> None:
        super().__init__()
        self._utterance = utterance

    def append(self, token: int) -> None:
        self._utterance._take(token)


class _Llm:
    """Upstream's language model, stopped at the first token after a cancel."""

    def __init__(self, llm: Any, utterance: Utterance) -> None:
        self._llm = llm
        self._utterance = utterance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def inference(self, **arguments: Any) -> Iterator[int]:
        # vLLM's engine knows requests by their id: it must be this one's own.
        arguments["uuid"] = mark = f"{ID}-{id(self._utterance)}"
        tokens = self._llm.inference(**arguments)
        complete = False
        try:
            for token in tokens:
                if self._utterance._cancelled:
                    return
                yield token
            complete = True
        finally:
            tokens.close()
            if not complete and hasattr(self._llm, "vllm"):
                with self._llm.lock:
                    self._llm.vllm.abort_request([mark])
                    self._llm.vllm_output_queue.pop(mark, None)


class _View:
    """A model as one utterance sees it: weights shared, state its own."""

    def __init__(self, model: Any, utterance: Utterance) -> None:
        self._model = model
        self.llm = _Llm(model.llm, utterance)
        # Upstream shares one CUDA stream context between all threads; it remembers who entered it last.
        on_gpu = model.device.type == "cuda"
        self.llm_context: Any = (
            torch.cuda.stream(torch.cuda.Stream(model.device)) if on_gpu else nullcontext()  # type: ignore[no-untyped-call]
        )
        self.tts_speech_token_dict = {ID: _Tokens(utterance)}
        self.llm_end_dict = {ID: False}
        self.hift_cache_dict: dict[str, Any] = {ID: None}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _complete(request: dict[str, Any]) -> dict[str, Any]:
    """Upstream's own defaults for what a way of speaking leaves out."""
    none = torch.zeros(1, 0, dtype=torch.int32)
    return {
        "prompt_text": none,
        "llm_prompt_speech_token": none,
        "flow_prompt_speech_token": none,
        "prompt_speech_feat": torch.zeros(1, 0, 80),
        "llm_embedding": torch.zeros(0, 192),
        "flow_embedding": torch.zeros(0, 192),
        **request,
    }


def pcm(wave: npt.NDArray[np.float32]) -> bytes:
    """s16le; upstream's own servers wrap around at full scale."""
    return (np.clip(wave, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
