"""What was said in a call, by whom, cut to what was heard; which functions were called, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from server.core.tokens import MESSAGE_TOKENS, Usage, tokens
from server.core.tools import CANCELLED, ToolCall, clipped

Role = Literal["user", "assistant", "system"]
Kind = Literal["message", "function_call", "function_call_output"]

LEFT = 0.6
"""share of a budget that is left when a history outgrew it: to cut a little at every turn would change the prompt's
beginning each time, and servers keep what they know of a prompt only up to the first change"""
LONGEST = 0.5
"""share of a budget that one item may take"""


# Items are counted at every reply, between the person's last word and the model's first; few of them are new.
_cost = lru_cache(maxsize=1024)(tokens)


@dataclass(slots=True)
class Item:
    """One item of the conversation, as the OpenAI Realtime protocol names it."""

    id: str
    role: Role
    text: str
    """the words; of a function call its arguments (JSON), of an output the output"""
    spoken: bool = True
    """whether it came or went as voice"""
    status: Literal["in_progress", "completed", "incomplete"] = "completed"
    kind: Kind = "message"
    call_id: str = ""
    """joins a function call and its output"""
    name: str = ""
    """of the function that was called"""

    @property
    def tokens(self) -> int:
        """About what it costs in a prompt."""
        return _cost(self.text) + _cost(self.name) + MESSAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt."""

    role: Literal["user", "assistant", "system", "tool"]
    text: str
    calls: tuple[ToolCall, ...] = ()
    """of the assistant; a `tool` message for each of them follows"""
    call_id: str = ""
    """of a tool: which call this answers"""


@dataclass(slots=True)
class History:
    """The conversation in order. Bounded: the oldest items go first, a call and its output together."""

    limit: int = 200
    items: list[Item] = field(default_factory=list)
    summary: str = ""
    """what was said before the items that are still told in full"""
    begins: str | None = None
    """id of the first item that a prompt tells; None: all of them"""
    summarised: str | None = None
    """id of the first item that `summary` does not cover; None: it covers none"""
    budget: int = 0
    """tokens that a prompt may take; 0: any number"""
    spent: Usage = field(default_factory=Usage)
    """what asking with this history has cost so far; a copy's begins at nothing"""

    def copy(self) -> "History":
        """Another list of the same items."""
        return History(self.limit, list(self.items), self.summary, self.begins, self.summarised, self.budget)

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Append, or insert behind the item named `after`; returns the id of the item before it."""
        index = len(self.items)
        if after is not None:
            index = next((i + 1 for i, it in enumerate(self.items) if it.id == after), index)
        return self._insert(index, item)

    def add_before(self, item: Item, before: str) -> str | None:
        """Insert in front of the item named `before` (append, if it is gone); returns the id of the item before."""
        return self._insert(self._index(before, len(self.items)), item)

    def _insert(self, index: int, item: Item) -> str | None:
        self.items.insert(index, item)
        while len(self.items) > self.limit:
            oldest = self.items[0]
            self.remove(oldest.id)
            if oldest.kind == "function_call":
                for output in [it for it in self.items if it.call_id == oldest.call_id and it is not item]:
                    self.items.remove(output)
        index = self._index(item.id, 0)
        return self.items[index - 1].id if index > 0 else None

    def find(self, item_id: str) -> Item | None:
        return next((it for it in self.items if it.id == item_id), None)

    def find_call(self, call_id: str, kind: Kind = "function_call") -> Item | None:
        return next((it for it in self.items if it.kind == kind and it.call_id == call_id), None)

    def remove(self, item_id: str) -> bool:
        index = self._index(item_id, -1)
        if index < 0:
            return False
        del self.items[index]
        following = self.items[index].id if index < len(self.items) else None
        # What a mark stood at is gone: the next item takes its place, or everything is told and covered.
        if self.begins == item_id:
            self.begins = following
        if self.summarised == item_id:
            self.summarised = following
        return True

    def messages(self) -> list[tuple[Role, str]]:
        """(role, text) in order, without empty ones; neighbours of one role are joined by a blank."""
        out: list[tuple[Role, str]] = []
        for item in self.items:
            text = _words(item)
            if item.kind != "message" or not text:
                continue
            if out and out[-1][0] == item.role:
                out[-1] = (item.role, f"{out[-1][1]} {text}")
            else:
                out.append((item.role, text))
        return out

    def prompt(self) -> list[Message]:
        """What a language model is told, from `begins` on: every call is followed by its result, whatever happened.

        Neighbours of one role are joined as in `messages`; a call without an output was cancelled; an output without
        its call is left out; what is longer than its share of the budget is shortened.
        """
        out: list[Message] = []
        longest = round(self.budget * LONGEST)
        outputs = {it.call_id: it.text for it in self.items if it.kind == "function_call_output"}
        waiting: list[ToolCall] = []

        def settle() -> None:
            out.extend(
                Message("tool", _short(outputs.get(c.call_id, CANCELLED), longest), (), c.call_id) for c in waiting
            )
            waiting.clear()

        for item in self.items[self._index(self.begins, 0) :]:
            last = out[-1] if out else None
            if item.kind == "function_call_output":
                settle()
                continue
            if item.kind == "function_call":
                call = ToolCall(item.call_id, item.name, item.text)
                waiting.append(call)
                if last is not None and last.role == "assistant":
                    out[-1] = Message("assistant", last.text, (*last.calls, call))
                else:
                    out.append(Message("assistant", "", (call,)))
                continue
            text = _short(_words(item), longest)
            if not text:
                continue
            settle()
            last = out[-1] if out else None
            if last is not None and last.role == item.role:
                out[-1] = Message(item.role, f"{last.text} {text}")
            else:
                out.append(Message(item.role, text))
        settle()
        return out

    # ---- a budget of tokens ------------------------------------------------------------------------

    def fit(self, budget: int) -> None:
        """Let prompts begin later if they would cost more than `budget` tokens (0: any number is right)."""
        self.budget = budget
        start = self._index(self.begins, 0)
        if budget and sum(item.tokens for item in self.items[start:]) > budget:
            cut = self._cut(round(budget * LEFT))
            self.begins = self.items[cut].id if cut < len(self.items) else None

    def old(self, budget: int) -> list[Item]:
        """What a summary should take in now: the older part of what it does not cover, once that has grown large.

        At most about `budget` tokens at a time.
        """
        start = self._index(self.summarised, 0)
        fresh = self.items[start:]
        if not budget or sum(item.tokens for item in fresh) <= budget * LEFT:
            return []
        old = self.items[start : max(start, self._cut(round(budget * LEFT / 2)))]
        cost = count = 0
        while count < len(old) and (not count or cost + old[count].tokens <= budget):
            cost += old[count].tokens
            count += 1
        return old[:count]

    def take_in(self, summary: str, last: str) -> None:
        """`summary` covers everything up to the item `last`; prompts begin behind it."""
        index = self._index(last, -1) + 1
        if not index:
            return  # it was taken out meanwhile
        self.summary = summary
        self.summarised = self.items[index].id if index < len(self.items) else None
        if self._index(self.begins, 0) < index:
            self.begins = self.summarised

    def _cut(self, budget: int) -> int:
        """Where the newest items begin that cost `budget` tokens at most: at a message of the user's if possible,
        never between a call and its result, and never behind the last message of the user's."""
        cost, cut = 0, len(self.items)
        while cut and (cost := cost + self.items[cut - 1].tokens) <= budget:
            cut -= 1
        asked = [i for i, item in enumerate(self.items) if item.kind == "message" and item.role == "user"]
        cut = min(next((i for i in asked if i >= cut), cut), asked[-1] if asked else len(self.items) - 1)
        while cut and self.items[cut].kind == "function_call_output":
            cut -= 1
        return cut

    def _index(self, item_id: str | None, default: int) -> int:
        if item_id is None:
            return default
        return next((i for i, it in enumerate(self.items) if it.id == item_id), default)


def transcript(items: Sequence[Item], name: str) -> str:
    """The items as people write a conversation down, a line each; `name` is the assistant's."""
    who = {"user": "Person", "assistant": name, "system": "Note"}
    lines = []
    for item in items:
        if item.kind == "function_call":
            lines.append(f"({item.name} was called with {item.text})")
        elif item.kind == "function_call_output":
            lines.append(f"(the result: {item.text})")
        elif words := _words(item):
            lines.append(f"{who[item.role]}: {words}")
    return "\n".join(lines)


def _words(item: Item) -> str:
    text = item.text.strip()
    return text + " …" if text and item.role == "assistant" and item.status == "incomplete" else text


def _short(text: str, longest: int) -> str:
    """At most `longest` tokens of it, about; 0: all."""
    if not longest or (cost := _cost(text)) <= longest:
        return text
    return clipped(text, len(text) * longest // cost)
