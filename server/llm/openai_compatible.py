"""Any language model behind the OpenAI chat-completions dialect, streamed; closing a reply stops its server."""

import asyncio
import ipaddress
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import msgspec

from server.core.errors import StageError
from server.core.history import History
from server.core.media import Persona, Token
from server.core.spoken import Reasoning

if TYPE_CHECKING:
    import openai
    from openai import AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient
    from openai.types.chat import ChatCompletionChunk

log = logging.getLogger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
KEEP_ALIVE_S = 300.0
"""An idle connection is kept this long; the client's own 5 s would open a new one at nearly every turn."""
WARM_EVERY_S = 30.0
DEFAULT_PROMPT = (
    "You are {name}, a friendly person in a video call. What you write is spoken aloud: answer in one to three short,"
    " plain sentences, in the language of the other person, without lists, markdown, links or emoji."
)
# Models whose chat template opens <think> in the prompt, so that only its end is in the stream.
_OPENS_INSIDE = re.compile(r"deepseek-r1|qwq|thinking", re.IGNORECASE)


def is_local(url: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    except ValueError:  # not an address at all
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class OpenAiSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="openai"
):
    """An OpenAI-compatible server: OpenAI, vLLM, llama.cpp, Ollama, SGLang, DashScope, DeepSeek ..."""

    base_url: str = ""
    """up to and with `/v1`; empty: OPENAI_BASE_URL, else OpenAI itself"""
    api_key: str = ""
    """empty: OPENAI_API_KEY, but only where base_url is empty, too: a key goes nowhere it was not meant for"""
    model: str = ""
    """empty: OPENAI_MODEL"""
    temperature: float | None = None
    """None: the server's own"""
    max_tokens: int = 400
    """always sent: not every server notices that nobody listens any more"""
    extra_body: dict[str, Any] = {}
    """sent along, e.g. to turn thinking off: Ollama `{"reasoning_effort": "none"}`, vLLM and llama.cpp
    `{"chat_template_kwargs": {"enable_thinking": false}}`, DashScope `{"enable_thinking": false}`"""
    opens_inside: bool | None = None
    """whether replies begin inside reasoning whose `<think>` is not in the stream; None: guessed, then learned"""
    keep_loaded: bool = False
    """ask an Ollama server to load the model now and keep it"""
    history_messages: int = 40
    """newest messages of the conversation that are sent"""
    first_token_s: float = 12.0
    """seconds from the request to the first word"""
    gap_s: float = 8.0
    """seconds between two pieces of the stream"""
    total_s: float = 120.0
    """seconds for a whole reply"""

    def __post_init__(self) -> None:
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url must begin with http:// or https://")
        if not 1 <= self.max_tokens <= 100_000:
            raise ValueError("max_tokens must be between 1 and 100000")
        if self.history_messages < 1:
            raise ValueError("history_messages must be at least 1")
        if min(self.first_token_s, self.gap_s, self.total_s) <= 0:
            raise ValueError("first_token_s, gap_s and total_s must be greater than 0")

    def __repr__(self) -> str:
        return f"OpenAiSettings(base_url={self.base_url!r}, model={self.model!r})"  # never the key

    @property
    def address(self) -> str:
        """The URL that requests go to."""
        return self.base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL

    @asynccontextmanager
    async def load(self) -> AsyncIterator["OpenAiLlm"]:
        """One client for the whole process. Raises StageError if no model is named."""
        base_url = self.address
        api_key = self.api_key or ("" if self.base_url else os.environ.get("OPENAI_API_KEY", "").strip())
        model = self.model or os.environ.get("OPENAI_MODEL", "").strip()
        if not model:
            message = "No language model is named: set llm.model in the configuration, or OPENAI_MODEL."
            raise StageError("llm", "llm_no_model", message, retryable=False)
        # the import alone takes a second; in a thread the loop goes on
        client, http = await anyio.to_thread.run_sync(_client, base_url, api_key, self)
        llm = OpenAiLlm(self, model, base_url, client, http)
        try:
            if self.keep_loaded:
                llm.in_background(llm.load_model())
            yield llm
        finally:
            await llm.aclose()


def _client(base_url: str, api_key: str, settings: OpenAiSettings) -> "tuple[AsyncOpenAI, DefaultAsyncHttpxClient]":
    import httpx2  # the openai client's own transport since 3.x
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    read_s = max(settings.first_token_s, settings.gap_s) + 1
    timeout = httpx2.Timeout(connect=2.0, read=read_s, write=5.0, pool=2.0)
    limits = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE_S)
    # a proxy from the environment is for what leaves the machine
    http = DefaultAsyncHttpxClient(limits=limits, timeout=timeout, trust_env=not is_local(base_url))
    # one retry, for a kept connection that the server closed at that very moment
    client = AsyncOpenAI(
        base_url=base_url, api_key=api_key or "none", timeout=timeout, max_retries=1, http_client=http
    )
    return client, http


class OpenAiLlm:
    """Shared by all calls."""

    def __init__(
        self,
        settings: OpenAiSettings,
        model: str,
        base_url: str,
        client: "AsyncOpenAI",
        http: "DefaultAsyncHttpxClient",
    ) -> None:
        self.settings = settings
        self.model = model
        parts = urlsplit(base_url)
        self.where = f"{parts.hostname}{f':{parts.port}' if parts.port else ''}, model {model}"
        """where the words go, for people"""
        self.leaves_machine = not is_local(base_url)
        self._root = f"{parts.scheme}://{parts.netloc}"
        # OpenAI's newer models refuse the old name, other servers do not know the new one
        self._limit = "max_completion_tokens" if parts.hostname == "api.openai.com" else "max_tokens"
        self._client = client
        self._http = http
        guess = _OPENS_INSIDE.search(model) is not None
        self._opens_inside = guess if settings.opens_inside is None else settings.opens_inside
        self._warmed_s = float("-inf")
        self._background: set[asyncio.Task[None]] = set()

    async def reply(self, history: History, persona: Persona) -> AsyncGenerator[Token, None]:
        """The answer without its reasoning; see protocols.Llm.

        A `</think>` that nobody opened is passed on: the chunker then drops what it still holds.
        """
        start = anyio.current_time()
        patience = _Patience(self, start)
        stream = await patience.wait(self._ask(history, persona), self._opening)
        reasoning: Reasoning | None = None
        separate = False  # whether the server keeps reasoning apart
        finish = ""
        try:
            chunks = stream.__aiter__()
            while not finish:
                chunk = await patience.wait(anext(chunks, None), self._stream_failed)
                if chunk is None:
                    break
                text, thought, finish = _read(chunk)
                separate = separate or thought
                if not text:
                    continue
                reasoning = reasoning or Reasoning(self._opens_inside and not separate)
                visible = reasoning.feed(text)
                if reasoning.stray:
                    reasoning.stray = False
                    self._learn(True)
                    visible = "</think>" + visible
                if visible:
                    patience.spoken = True
                    yield Token(visible)
            rest = reasoning.flush() if reasoning else ""
            if rest.strip() and self._opens_inside and not separate and not patience.spoken:
                self._learn(False)
            if rest:
                patience.spoken = True
                yield Token(rest)
            if not patience.spoken:
                self._nothing_said(finish, separate or reasoning is not None)
            if finish:
                # what is left (usage, [DONE]) must be read for the connection to be kept; nobody waits for that
                self.in_background(_drain(stream))
                stream = None
        finally:
            if stream is not None:
                self._warmed_s = float("-inf")  # its connection is lost
                with anyio.move_on_after(1.0, shield=True):
                    await stream.close()

    async def warm(self) -> None:
        """Open (or keep open) a connection with a cheap request, at most every 30 s."""
        now = anyio.current_time()
        if now - self._warmed_s < WARM_EVERY_S:
            return
        self._warmed_s = now
        try:
            await self._client.with_options(max_retries=0).models.with_raw_response.list(timeout=3.0)
        except Exception as error:  # the reply itself will say what is wrong
            log.debug("pre-warming %s failed: %r", self.where, error)

    async def load_model(self) -> None:
        """Ollama loads a model at its first request and drops it after five minutes: ask ahead, for half an hour."""
        try:
            body = {"model": self.model, "keep_alive": "30m"}
            await self._http.post(f"{self._root}/api/generate", json=body, timeout=60.0)
        except Exception as error:
            log.info("loading %s failed: %r", self.where, error)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that nobody waits for; `aclose` ends it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def aclose(self) -> None:
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._client.close()

    # ---- inside --------------------------------------------------------------------------------------------

    async def _ask(self, history: History, persona: Persona) -> "AsyncStream[ChatCompletionChunk]":
        prompt = persona.system_prompt or DEFAULT_PROMPT.format(name=persona.name)
        messages: list[Any] = [{"role": "system", "content": prompt}]
        recent = history.messages()[-self.settings.history_messages :]
        messages += [{"role": role, "content": text} for role, text in recent]
        options: dict[str, Any] = {self._limit: self.settings.max_tokens}
        if self.settings.temperature is not None:
            options["temperature"] = self.settings.temperature
        extra = self.settings.extra_body or None
        stream: AsyncStream[ChatCompletionChunk] = await self._client.chat.completions.create(
            model=self.model, messages=messages, stream=True, extra_body=extra, **options
        )
        return stream

    def _learn(self, opens_inside: bool) -> None:
        if self.settings.opens_inside is None and self._opens_inside != opens_inside:
            log.info("%s: replies %s inside reasoning", self.where, "begin" if opens_inside else "do not begin")
            self._opens_inside = opens_inside

    def _opening(self, error: Exception) -> NoReturn:
        """The request failed before a stream came."""
        import openai

        if isinstance(error, openai.APIStatusError):
            self._refused(error)
        if isinstance(error, openai.APITimeoutError) and not isinstance(error.__cause__, _connect_timeout()):
            self.too_slow()
        what = f"The language model at {self.where} cannot be reached. Is the server running, is the address right?"
        raise StageError("llm", "llm_unreachable", what) from error

    def _refused(self, error: "openai.APIStatusError") -> NoReturn:
        status = error.status_code
        if status >= 500:
            what = f"The language model's server at {self.where} failed (status {status}). Look into its log."
            raise StageError("llm", "llm_unreachable", what) from error
        advice = {
            401: "it does not accept the key: check OPENAI_API_KEY or llm.api_key.",
            403: "the key may not use this model: check OPENAI_API_KEY or llm.api_key, and the account.",
            404: "it does not know the model or the path: check llm.model and that llm.base_url ends in /v1.",
            429: "the account's limit is reached: wait, or check the plan.",
        }.get(status, f'it says "{_short(error)}": check llm.model and llm.extra_body.')
        what = f"The language model at {self.where} refused the request ({status}): {advice}"
        raise StageError("llm", "llm_refused", what, retryable=status == 429) from error

    def _stream_failed(self, error: Exception) -> NoReturn:
        import openai

        if isinstance(error, openai.APITimeoutError):
            self.too_slow()
        what = f"The language model at {self.where} broke off in the middle of its answer."
        if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
            what += f' It says "{_short(error)}".'
        raise StageError("llm", "llm_broken_off", what) from error

    def _nothing_said(self, finish: str, thought: bool) -> NoReturn:
        if finish == "content_filter":
            what = f"The language model at {self.where} refused to answer: its content filter stepped in."
            raise StageError("llm", "llm_refused", what)
        what = f"The language model at {self.where} gave an empty answer."
        if thought:
            what += " It used up its tokens thinking: turn that off with llm.extra_body, or raise llm.max_tokens."
        raise StageError("llm", "llm_broken_off", what)

    def too_slow(self) -> NoReturn:
        what = (
            f"The language model at {self.where} takes too long. A smaller model, or thinking turned off, may help."
        )
        raise StageError("llm", "llm_timeout", what)


class _Patience:
    """How long a reply waits for its server."""

    def __init__(self, llm: OpenAiLlm, start_s: float) -> None:
        self._llm = llm
        self._first_s = start_s + llm.settings.first_token_s
        self._end_s = start_s + llm.settings.total_s
        self.spoken = False

    async def wait(self, work: Any, failed: Any) -> Any:
        """The result of `work`; its failures as StageErrors."""
        import openai

        now = anyio.current_time()
        limit = min(now + self._llm.settings.gap_s if self.spoken else self._first_s, self._end_s)
        try:
            with anyio.fail_after(max(0.0, limit - now)):
                return await work
        except TimeoutError:
            self._llm.too_slow()
        except (openai.OpenAIError, ValueError) as error:  # ValueError: not JSON, not UTF-8
            failed(error)


def _connect_timeout() -> type[Exception]:
    import httpx2

    return httpx2.ConnectTimeout


def _read(chunk: "ChatCompletionChunk") -> tuple[str, bool, str]:
    """(text, whether there is reasoning beside it, finish reason) of one piece, whatever the server left out."""
    if not chunk.choices:
        return "", False, ""
    choice = chunk.choices[0]
    delta = choice.delta
    if delta is None:  # some servers' last piece
        return "", False, choice.finish_reason or ""
    extra = delta.model_extra or {}
    thought = bool(extra.get("reasoning_content") or extra.get("reasoning"))
    return delta.content or "", thought, choice.finish_reason or ""


def _short(error: "openai.APIError") -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message).strip().replace("\n", " ")[:200]


async def _drain(stream: "AsyncStream[ChatCompletionChunk]") -> None:
    import openai

    try:
        with anyio.move_on_after(2.0):
            async for _ in stream:
                pass
    except (openai.OpenAIError, ValueError):
        pass
    finally:
        with anyio.move_on_after(1.0, shield=True):
            await stream.close()
