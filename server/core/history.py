"""What was said in a call, by whom, cut to what was heard."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["user", "assistant", "system"]


@dataclass(slots=True)
class Item:
    """One message of the conversation, as the OpenAI Realtime protocol names it."""

    id: str
    role: Role
    text: str
    spoken: bool = True
    """whether it came or went as voice"""
    status: Literal["in_progress", "completed", "incomplete"] = "completed"


@dataclass(slots=True)
class History:
    """The conversation in order. Bounded: the oldest items go first."""

    limit: int = 200
    items: list[Item] = field(default_factory=list)

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Append, or insert behind the item named `after`; returns the id of the item before it."""
        index = len(self.items)
        if after is not None:
            index = next((i + 1 for i, it in enumerate(self.items) if it.id == after), index)
        self.items.insert(index, item)
        if len(self.items) > self.limit:
            del self.items[0]
            index -= 1
        return self.items[index - 1].id if index > 0 else None

    def find(self, item_id: str) -> Item | None:
        return next((it for it in self.items if it.id == item_id), None)

    def remove(self, item_id: str) -> bool:
        item = self.find(item_id)
        if item is None:
            return False
        self.items.remove(item)
        return True

    def messages(self) -> list[tuple[Role, str]]:
        """(role, text) in order, without empty ones; neighbours of one role are joined by a blank."""
        out: list[tuple[Role, str]] = []
        for item in self.items:
            text = item.text.strip()
            if not text:
                continue
            if item.role == "assistant" and item.status == "incomplete":
                text += " …"
            if out and out[-1][0] == item.role:
                out[-1] = (item.role, f"{out[-1][1]} {text}")
            else:
                out.append((item.role, text))
        return out
