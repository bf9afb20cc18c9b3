"""Any language model behind the OpenAI chat-completions dialect, streamed; closing a reply stops its server."""

import asyncio
import ipaddress
import json
import logging
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import msgspec

from server.core.errors import StageError
from server.core.history import History, Message
from server.core.media import Persona, Token
from server.core.spoken import Reasoning
from server.core.tokens import Usage, tokens
from server.core.tools import AUTO, NONE, NOTHING, REQUIRED, ToolOffer
from server.llm.dialects import DIALECTS, OTHER, Dialect, by_address, by_models, merged
from server.llm.toolcalls import Calls, WrittenCalls

if TYPE_CHECKING:
    import openai
    from openai import AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient
    from openai.types.chat import ChatCompletionChunk

log = logging.getLogger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
KEEP_ALIVE_S = 300.0
"""An idle connection is kept this long; the client's own 5 s would open a new one at nearly every turn."""
WARM_EVERY_S = 30.0
KEEP_LOADED_S = 15 * 60.0
"""how often an Ollama is asked again to keep a model: it is told half an hour each time"""
OVERRUN = 2.0
"""times max_tokens, by our own count, after which a stream is closed: not every server keeps to the limit"""
CALLS = 32
"""function calls that are read from one answer"""
CALL_BYTES = 64 * 1024
"""of one call's arguments; the settings of the tools are stricter"""
_OURS = ("model", "messages", "stream", "max_tokens", "max_completion_tokens", "n", "tools", "tool_choice")
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
    dialect: Literal["", "openai", "vllm", "sglang", "llamacpp", "ollama", "dashscope", "deepseek", "other"] = ""
    """which server it is; empty: told from its address and from what it says of its models"""
    thinking: bool = False
    """whether the model may think before it answers; else it is told not to, in its server's own way"""
    extra_body: dict[str, Any] = {}
    """sent along, over everything else, e.g. to turn a model's thinking off in a way of its own"""
    opens_inside: bool | None = None
    """whether replies begin inside reasoning whose `<think>` is not in the stream; None: guessed, then learned"""
    keep_loaded: bool = False
    """ask an Ollama server to load the model now and keep it"""
    history_tokens: int = 2500
    """about how much of the conversation is sent; what is older is summarised. With the persona, the functions and
    the answer it must fit into the model's context: Ollama's is 4096 unless it was told otherwise"""
    history_messages: int = 200
    """newest messages of the conversation that are sent at the most"""
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
        if self.history_tokens < 200:
            raise ValueError("history_tokens must be at least 200")
        if reserved := [name for name in _OURS if name in self.extra_body]:
            raise ValueError(f"extra_body must not set {reserved[0]}")
        if min(self.first_token_s, self.gap_s, self.total_s) <= 0:
            raise ValueError("first_token_s, gap_s and total_s must be greater than 0")

    def __repr__(self) -> str:
        return f"OpenAiSettings(base_url={self.base_url!r}, model={self.model!r})"  # never the key

    @property
    def address(self) -> str:
        """The URL that requests go to."""
        return self.base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL

    @property
    def key(self) -> str:
        """What requests are signed with; empty: nothing."""
        return self.api_key or ("" if self.base_url else os.environ.get("OPENAI_API_KEY", "").strip())

    @property
    def name(self) -> str:
        """The model that is asked for; empty: none is named."""
        return self.model or os.environ.get("OPENAI_MODEL", "").strip()

    @asynccontextmanager
    async def load(self) -> AsyncIterator["OpenAiLlm"]:
        """One client for the whole process. Raises StageError if no model is named."""
        base_url, api_key, model = self.address, self.key, self.name
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


@dataclass(slots=True)
class _Bill:
    """What one reply costs."""

    estimate: int
    """of the prompt's tokens, ours"""
    spent: Usage
    """of the reply that it belongs to"""
    prompt: int = 0
    cached: int = 0
    answer: int | None = None
    """None: the server has not told"""

    def note(self, chunk: "ChatCompletionChunk") -> None:
        """Some servers tell with every piece, some with the last: the last counts."""
        usage = getattr(chunk, "usage", None)
        prompt, answer = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if isinstance(prompt, int) and isinstance(answer, int):
            cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
            self.prompt, self.answer = prompt, answer
            self.cached = cached if isinstance(cached, int) else 0


@dataclass(frozen=True, slots=True)
class _Manner:
    """How the server wants to be asked, as far as it has shown."""

    limit: str
    """the field that bounds the answer"""
    quiet: bool = True
    """whether it takes what turns thinking off, and the wish to be told the usage"""
    tools: bool = True
    """whether it takes functions"""
    shrunk: bool = False
    """whether the conversation was too long for it"""


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
        known = DIALECTS[settings.dialect] if settings.dialect else by_address(base_url)
        self.dialect: Dialect = known or OTHER
        self._asks_dialect = known is None
        self._asked_dialect = False
        self._manner = _Manner(self.dialect.limit)
        self.usage = Usage()
        self._ratio = 1.0  # the server's count of tokens over ours
        self._loaded_s = float("-inf")
        self._client = client
        self._http = http
        guess = _OPENS_INSIDE.search(model) is not None
        self._opens_inside = guess if settings.opens_inside is None else settings.opens_inside
        self._warmed_s = float("-inf")
        self._background: set[asyncio.Task[None]] = set()
        self._draining: deque[asyncio.Task[None]] = deque(maxlen=8)

    @property
    def history_tokens(self) -> int:
        """See protocols.Llm; in tokens of core/tokens.py, corrected by what the server has counted so far."""
        return round(self.settings.history_tokens / self._ratio)

    async def reply(
        self, history: History, persona: Persona, offer: ToolOffer = NOTHING
    ) -> AsyncGenerator[Token, None]:
        """The answer without its reasoning; see protocols.Llm.

        A `</think>` that nobody opened is passed on: the chunker then drops what it still holds.
        """
        if self._asks_dialect and not self._asked_dialect:
            await self.warm()
        start = anyio.current_time()
        patience = _Patience(self, start)
        stream, bill = await patience.wait(self._ask(history, persona, offer), self._opening)
        calls = Calls(CALL_BYTES, CALLS)
        written = WrittenCalls(calls)  # also without an offer: the history may give a model the idea
        reasoning: Reasoning | None = None
        separate = False  # whether the server keeps reasoning apart
        finish = ""
        said = False  # whether anything of it was handed on
        cost = 0
        try:
            chunks = stream.__aiter__()
            while not finish:
                chunk = await patience.wait(anext(chunks, None), self._stream_failed)
                if chunk is None:
                    break
                piece = _read(chunk)
                finish = piece.finish
                separate = separate or bool(piece.thought)
                bill.note(chunk)
                called = calls.feed(piece.calls)
                if calls.feed_function(piece.function) or called:
                    patience.begun = True
                cost += tokens(piece.text) + tokens(piece.thought)
                if cost > OVERRUN * self.settings.max_tokens + 50:
                    log.warning("%s does not keep to its limit of %d tokens", self.where, self.settings.max_tokens)
                    finish = ""
                    break
                if not piece.text:
                    continue
                reasoning = reasoning or Reasoning(self._opens_inside and not separate)
                visible = reasoning.feed(piece.text)
                stray = reasoning.stray
                if stray:
                    reasoning.stray = False
                    self._learn(True)
                if visible := ("</think>" if stray else "") + written.feed(visible):
                    said = patience.begun = True
                    yield Token(visible)
            rest = reasoning.flush() if reasoning else ""
            if rest.strip() and self._opens_inside and not separate and not said:
                self._learn(False)
            if rest := written.feed(rest) + written.flush():
                said = True
                yield Token(rest)
            if finish == "error":
                self._stream_failed(ValueError("the server ended its answer with an error"))
            if offer.tools and offer.choice != NONE:
                for call in calls.done():
                    said = True
                    yield Token("", call)
            if calls.dropped:
                log.warning("%s wanted %d functions more than are read", self.where, calls.dropped)
            if not said:
                self._nothing_said(finish, separate or reasoning is not None)
            if finish:
                # what is left (usage, [DONE]) must be read for the connection to be kept; nobody waits for that
                self._draining.append(self.in_background(self._drain(stream, bill)))
                stream = None
        finally:
            if stream is not None:
                self._warmed_s = float("-inf")  # its connection is lost
                self._account(bill)
                with anyio.move_on_after(1.0, shield=True):
                    await stream.close()

    async def warm(self) -> None:
        """Open (or keep open) a connection with a cheap request, at most every 30 s; its answer tells the dialect."""
        now = anyio.current_time()
        if self.settings.keep_loaded and now - self._loaded_s > KEEP_LOADED_S:
            self.in_background(self.load_model())
        if now - self._warmed_s < WARM_EVERY_S:
            return
        self._warmed_s = now
        self._asked_dialect = True
        try:
            answer = await self._client.with_options(max_retries=0).models.with_raw_response.list(timeout=3.0)
            found = by_models(json.loads(answer.content)) if self._asks_dialect else None
            self._asks_dialect = False
        except Exception as error:  # the reply itself will say what is wrong
            log.debug("pre-warming %s failed: %r", self.where, error)
            return
        if found is not None:
            self.dialect = found
            self._manner = _Manner(found.limit)

    async def load_model(self) -> None:
        """Ollama loads a model at its first request and drops it after five minutes: ask ahead, for half an hour."""
        self._loaded_s = anyio.current_time()
        try:
            body = {"model": self.model, "keep_alive": "30m"}
            await self._http.post(f"{self._root}/api/generate", json=body, timeout=60.0)
        except Exception as error:
            log.info("loading %s failed: %r", self.where, error)

    def in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run a coroutine that nobody waits for; `aclose` ends it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def forget_usage(self) -> None:
        """What was asked so far was for nobody: the counts begin anew."""
        if draining := [task for task in self._draining if not task.done()]:
            await asyncio.wait(draining)
        self._draining.clear()
        self.usage = Usage()

    async def aclose(self) -> None:
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._client.close()

    # ---- inside --------------------------------------------------------------------------------------------

    async def _ask(
        self, history: History, persona: Persona, offer: ToolOffer
    ) -> "tuple[AsyncStream[ChatCompletionChunk], _Bill]":
        """The stream, and the bill of it.

        A server that refuses what not every server knows is asked once more without it, and remembered.
        """
        import openai

        manner = self._manner
        while True:
            options, large, extra, estimate = self._request(history, persona, offer, manner)
            try:
                # The client walks through messages and functions against their types: 0.2 ms of the loop's time a
                # message. What is in extra_body is sent as it stands.
                stream: AsyncStream[ChatCompletionChunk] = await self._client.chat.completions.create(
                    messages=[], stream=True, extra_body={**extra, **large}, **options
                )
            except openai.APIStatusError as error:
                gentler = self._gentler(manner, error, bool(large.get("tools")))
                if gentler is None:
                    raise
                manner = gentler
                continue
            if manner != self._manner:
                self._manner = replace(manner, shrunk=False)
                if manner.shrunk:
                    self._ratio = min(2.0, self._ratio * 1.5)
            return stream, _Bill(estimate, history.spent)

    def _request(
        self, history: History, persona: Persona, offer: ToolOffer, manner: _Manner
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]:
        """(arguments, large ones, fields that only some servers know, estimated tokens) of a request."""
        settings = self.settings
        if manner.shrunk:
            history = history.copy()
            history.fit(min(self.history_tokens, sum(item.tokens for item in history.items)) // 2)
        prompt = persona.system_prompt or DEFAULT_PROMPT.format(name=persona.name)
        if history.summary:
            prompt += f"\n\nWhat was said earlier in this conversation, in short: {history.summary}"
        recent = history.prompt()[-settings.history_messages :]
        while recent and recent[0].role == "tool":
            del recent[0]  # its call was cut off
        messages: list[Any] = [{"role": "system", "content": prompt}, *map(_message, recent)]
        options: dict[str, Any] = {"model": self.model, manner.limit: settings.max_tokens}
        large: dict[str, Any] = {"messages": messages}
        if settings.temperature is not None:
            options["temperature"] = settings.temperature
        extra: dict[str, Any] = {}
        if manner.quiet:
            if not settings.thinking:
                extra = self.dialect.quiet(self.model)
            if self.dialect.usage:
                options["stream_options"] = {"include_usage": True}
        if offer.tools and manner.tools:
            large["tools"] = [
                {
                    "type": "function",
                    "function": {"name": t.name, "description": t.description, "parameters": t.parameters},
                }
                for t in offer.tools
            ]
            if offer.choice in (NONE, REQUIRED):
                options["tool_choice"] = offer.choice
            elif offer.choice != AUTO:
                options["tool_choice"] = {"type": "function", "function": {"name": offer.choice}}
        estimate = tokens(prompt) + sum(
            tokens(m.text) + sum(tokens(c.arguments) for c in m.calls) + 4 for m in recent
        )
        estimate += tokens(json.dumps(large.get("tools", ""), ensure_ascii=False))
        return options, large, merged(extra, settings.extra_body), estimate

    def _gentler(self, manner: _Manner, error: "openai.APIStatusError", tools: bool) -> _Manner | None:
        """Another way to ask a server that refused; None: there is none."""
        status, said = error.status_code, _short(error).lower()
        if status not in (400, 413, 422, 500, 501):
            return None
        if "max_completion_tokens" in said and manner.limit == self._manner.limit:
            other = "max_tokens" if manner.limit == "max_completion_tokens" else "max_completion_tokens"
            return replace(manner, limit=other)
        if tools and re.search(r"tool|function|jinja", said):
            log.warning('%s takes no functions: it says "%s"', self.where, _short(error))
            return replace(manner, tools=False)
        if status < 500 and re.search(r"context|too long|too many tokens|exceed", said) and not manner.shrunk:
            return replace(manner, shrunk=True)
        ours = manner.quiet and (self.dialect.usage or not self.settings.thinking)
        return replace(manner, quiet=False) if ours and status in (400, 422) and self.dialect is not OTHER else None

    def _account(self, bill: "_Bill") -> None:
        """Note what a reply has cost, if its server told."""
        if bill.answer is None:
            return
        for usage in (self.usage, bill.spent):
            usage.add(bill.prompt, bill.cached, bill.answer)
        if bill.prompt > 0 and bill.estimate > 200:  # less says little
            measured = min(2.0, max(0.5, bill.prompt / bill.estimate))
            self._ratio += 0.3 * (measured - self._ratio)

    async def _drain(self, stream: "AsyncStream[ChatCompletionChunk]", bill: "_Bill") -> None:
        import openai

        try:
            with anyio.move_on_after(2.0):
                async for chunk in stream:
                    bill.note(chunk)
        except (openai.OpenAIError, ValueError):
            pass
        finally:
            self._account(bill)
            with anyio.move_on_after(1.0, shield=True):
                await stream.close()

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
        self.begun = False
        """whether anything of the answer has come"""

    async def wait(self, work: Any, failed: Any) -> Any:
        """The result of `work`; its failures as StageErrors."""
        import openai

        now = anyio.current_time()
        limit = min(now + self._llm.settings.gap_s if self.begun else self._first_s, self._end_s)
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


@dataclass(frozen=True, slots=True)
class _Piece:
    """One piece of the stream, whatever the server left out."""

    text: str = ""
    thought: str = ""
    """reasoning beside the text"""
    finish: str = ""
    calls: Any = None
    function: Any = None


def _read(chunk: "ChatCompletionChunk") -> _Piece:
    if not chunk.choices:
        return _Piece()
    choice = chunk.choices[0]
    delta, finish = choice.delta, choice.finish_reason or ""
    if delta is None:  # some servers' last piece
        return _Piece(finish=finish)
    extra = delta.model_extra or {}
    text, thought = _texts(delta.content)
    for field in ("reasoning_content", "reasoning"):
        thought += extra[field] if isinstance(extra.get(field), str) else ""
    # half a character, where a server cuts between bytes
    text = (text or delta.refusal or "").replace("\ufffd", "")
    return _Piece(text, thought, finish, delta.tool_calls, delta.function_call)


def _texts(content: Any) -> tuple[str, str]:
    """(text, reasoning) of a content; some servers send a list of parts."""
    if isinstance(content, str):
        return content, ""
    text = thought = ""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text += part["text"]
        elif part:
            thought += "."
    return text, thought


def _message(message: Message) -> dict[str, Any]:
    """As the chat-completions dialect writes it."""
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    if not message.calls:
        return {"role": message.role, "content": message.text}
    return {
        "role": "assistant",
        "content": message.text,
        "tool_calls": [
            {"id": c.call_id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.calls
        ],
    }


def _short(error: "openai.APIError") -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message).strip().replace("\n", " ")[:200]
