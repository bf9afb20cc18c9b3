"""The persona without a language model: says so plainly, and still holds a short conversation."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise

import anyio.lowlevel
import anyio.to_thread
import msgspec

from server.core.history import History, Item
from server.core.media import Persona, Token
from server.core.tools import NOTHING, ToolOffer
from server.llm.intents import Intent, is_chinese, understand
from server.llm.sums import SAID, SAID_ZH, Terms, work_out, written

NOTICE = {
    "en": "No language model is connected, so I only know a few tricks."
    " To connect one, set OPENAI_API_KEY or start Ollama.",
    "zh": "我还没有连接语言模型，所以只会几样小本事。想连接的话，请设置 OPENAI_API_KEY，或者启动 Ollama。",
}
_SAYS_SO = re.compile(r"language model|语言模型")

ANSWERS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "greeting": (
            "Hello{friend}! I am {me}. What can I do for you?",
            "Hi{friend}, nice to talk to you.",
            "Hello again{friend}.",
        ),
        "how_are_you": (
            "I am fine, thank you. How are you?",
            "Very well, thanks for asking{friend}.",
            "Still in good shape, all my pixels are in place.",
        ),
        "fine": ("I am glad to hear that.", "That is good."),
        "who": (
            "I am {me}, a talking face made by a computer. I am not a real person.",
            "My name is {me}. I am a program with a face and a voice, not a human being.",
        ),
        "abilities": (
            "You can ask me the time, the date, or a sum. I can tell a joke, remember your name, and repeat things.",
            "I can tell you what time it is, work out sums like seven times eight, and tell jokes."
            " Tell me your name and I will remember it.",
        ),
        "how_it_works": (
            "Your voice is turned into text, I look for an answer, a voice says it, and my face is"
            " painted to move with it. The answer would come from a language model. None is connected now: to connect"
            " one, set OPENAI_API_KEY or start Ollama.",
        ),
        "thanks": ("You are welcome{friend}.", "With pleasure.", "Any time."),
        "compliment": ("Thank you, that is kind of you.", "Oh, thank you{friend}!", "You make me blush."),
        "joke": (
            "Why did the computer go to the doctor? It had caught a virus.",
            "I told my computer that I needed a break. Now it shows me holiday pictures.",
            "What do you call a bear without teeth? A gummy bear.",
            "Why was the math book sad? It had too many problems.",
            "Parallel lines have so much in common. It is a pity that they will never meet.",
        ),
        "goodbye": ("Goodbye{friend}! It was nice talking to you.", "See you soon{friend}."),
        "yes": ("Good. What would you like to know?", "All right. What next?"),
        "no": ("All right. Just say so if you need anything.", "Okay, never mind."),
        "sorry": ("No problem.", "Never mind{friend}."),
        "unknown": (
            "I did not understand that. No language model is connected, so I can only do small things,"
            " like the time, a sum or a joke. To really talk with me, set OPENAI_API_KEY or start Ollama.",
            "That is beyond me, because there is no language model behind me. Set OPENAI_API_KEY or start Ollama"
            " to connect one. Until then, ask me what I can do.",
            "I am sorry, my small script has no answer to that. With a language model it would:"
            " start Ollama, or set OPENAI_API_KEY.",
            "I did not get that. I am still without a language model, and OPENAI_API_KEY or Ollama would change that."
            " Shall I tell you a joke instead?",
        ),
    },
    "zh": {
        "greeting": ("你好{friend}！我是{me}。有什么可以帮你？", "你好{friend}，很高兴和你聊天。"),
        "how_are_you": ("我很好，谢谢。你呢？", "挺好的，谢谢关心。"),
        "fine": ("那就好。",),
        "who": ("我是{me}，是电脑做出来的会说话的脸，不是真人。",),
        "abilities": ("你可以问我时间、日期，或者算一道题。我会讲笑话，能记住你的名字，也能跟着你说话。",),
        "how_it_works": (
            "你的声音先变成文字，我找到回答，再用声音说出来，脸也跟着动。"
            "回答本来应该来自语言模型，现在还没有连接：请设置 OPENAI_API_KEY，或者启动 Ollama。",
        ),
        "thanks": ("不客气{friend}。", "不用谢。"),
        "compliment": ("谢谢，你真好。", "谢谢夸奖！"),
        "joke": (
            "电脑为什么去看医生？因为它中了病毒。",
            "数学书为什么不开心？因为它的问题太多了。",
            "为什么程序员分不清万圣节和圣诞节？因为八进制的三十一等于十进制的二十五。",
        ),
        "goodbye": ("再见{friend}！很高兴和你聊天。", "下次见。"),
        "yes": ("好的。你想知道什么？",),
        "no": ("好的，需要的时候再叫我。",),
        "sorry": ("没关系。",),
        "unknown": (
            "我没听懂。我还没有连接语言模型，只会报时间、算数、讲笑话。请设置 OPENAI_API_KEY，或者启动 Ollama。",
            "这个我答不上来，因为背后没有语言模型。设置 OPENAI_API_KEY 或者启动 Ollama 就可以了。",
        ),
    },
}
_ASKS_NAME = {
    "en": "You have not told me your name yet. What is your name?",
    "zh": "你还没告诉我你的名字。你叫什么名字？",
}
# not the system's language
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FINE = re.compile(
    r"^(?:i'?m|i am|we are)? ?(?:also |too |very |quite |pretty )*(?:fine|good|great|well|okay|not bad)\b"
)


def answer(history: History, now: datetime, name: str = "Mia", language: str = "en") -> str:
    """The reply to the newest message of the history; depends on nothing but its arguments.

    now: the person's local time; name: the persona's; language: used while the person has said nothing.
    """
    said = [item for item in history.items if item.text.strip()]
    mine = [item.text for item in said if item.role == "assistant"]
    asked = said[-1] if said and said[-1].role == "user" else None
    zh = is_chinese(asked.text) if asked else language == "zh"
    language = "zh" if zh else "en"
    intent = _meaning(asked.text, mine, language) if asked else Intent("greeting")
    friend = _name_of_person(said, language)
    text = _words_for(intent, said, mine, now, friend, language)
    comma = "，" if zh else ", "
    text = text.replace("{friend}", f"{comma}{friend}" if friend else "").replace("{me}", name)
    if not any(_SAYS_SO.search(earlier) for earlier in mine) and not _SAYS_SO.search(text):
        text = f"{text}{'' if zh else ' '}{NOTICE[language]}"
    return text


def _meaning(text: str, mine: Sequence[str], language: str) -> Intent:
    """What was meant, given what was said before."""
    intent = understand(text)
    bare = re.sub(r"[^\w' ]", "", text.lower()).strip()
    words = bare.split()
    if intent.name == "unknown" and mine and _ASKS_NAME[language] in mine[-1] and len(words) <= 2 and len(bare) <= 20:
        return Intent("name_told", " ".join(word.capitalize() for word in words))
    if intent.name in ("unknown", "compliment") and _FINE.match(bare) and len(words) <= 6:
        return Intent("fine")
    return intent


def _words_for(
    intent: Intent, said: Sequence[Item], mine: Sequence[str], now: datetime, friend: str, language: str
) -> str:
    zh = language == "zh"
    match intent.name:
        case "time":
            return _time(now, zh)
        case "date":
            return _date(now, zh)
        case "sum":
            return _sum(intent.terms or [], zh)
        case "name_told":
            return f"很高兴认识你，{intent.detail}。" if zh else f"Nice to meet you, {intent.detail}."
        case "name_asked" if friend:
            return f"你叫{friend}。" if zh else f"Your name is {friend}."
        case "name_asked":
            return _ASKS_NAME[language]
        case "echo":
            words = intent.detail[0].upper() + intent.detail[1:]
            return words if words[-1] in ".!?。！？" else words + ("。" if zh else ".")
        case "repeat":
            return _again(mine, zh)
    variants = ANSWERS[language][intent.name]
    return variants[_count(intent, said) % len(variants)]


def _count(intent: Intent, said: Sequence[Item]) -> int:
    """How often the person has meant this before."""
    return sum(understand(item.text).name == intent.name for item in said[:-1] if item.role == "user")


def _name_of_person(said: Sequence[Item], language: str) -> str:
    """The name that the person told last."""
    mine: list[str] = []
    name = ""
    for item in said:
        if item.role == "assistant":
            mine.append(item.text)
        elif item.role == "user" and (intent := _meaning(item.text, mine, language)).name == "name_told":
            name = intent.detail
    return name


def _again(mine: Sequence[str], zh: bool) -> str:
    if not mine:
        return "我还什么都没说呢。" if zh else "I have not said anything yet."
    last = mine[-1].removeprefix("I said: ").removeprefix("我刚才说：")
    for notice in NOTICE.values():
        last = last.replace(notice, "").strip() or last
    return f"我刚才说：{last}" if zh else f"I said: {last}"


def _time(now: datetime, zh: bool) -> str:
    hour = now.hour % 12 or 12
    if zh:
        part = "凌晨" if now.hour < 6 else "上午" if now.hour < 12 else "下午" if now.hour < 18 else "晚上"
        return f"现在是{part}{hour}点{f'{now.minute}分' if now.minute else '整'}。"
    part = (
        "at night"
        if now.hour < 5 or now.hour >= 22
        else "in the morning"
        if now.hour < 12
        else "in the afternoon"
        if now.hour < 18
        else "in the evening"
    )
    clock = f"{hour}:{now.minute:02}" if now.minute else f"{hour} o'clock"
    return f"It is {clock} {part}."


def _date(now: datetime, zh: bool) -> str:
    if zh:
        return f"今天是{now.year}年{now.month}月{now.day}日，星期{'一二三四五六日'[now.weekday()]}。"
    return f"Today is {_DAYS[now.weekday()]}, {_MONTHS[now.month - 1]} {now.day}, {now.year}."


def _sum(terms: Terms, zh: bool) -> str:
    value = work_out(terms)
    if value is None:
        if any(sign == "/" and number == 0 for sign, number in pairwise(terms)):
            return "除数不能是零。" if zh else "Nobody can divide by zero."
        return "这个数太大了，我说不出来。" if zh else "That number is too big for me."
    if zh:
        task = "".join(SAID_ZH[term] if isinstance(term, str) else written(term) for term in terms)
        return f"{task}等于{written(value)}。"
    task = " ".join(SAID[term] if isinstance(term, str) else written(term) for term in terms)
    about = "" if (value * 1000).denominator == 1 else "about "
    return f"{task} is {about}{written(value)}."


class ScriptedSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="scripted"
):
    """No language model: a small script in this process."""

    @asynccontextmanager
    async def load(self) -> AsyncIterator["ScriptedLlm"]:
        yield ScriptedLlm()


class ScriptedLlm:
    """Shared by all calls; everything it knows of a call is in its history."""

    where = "this process, a small script"
    leaves_machine = False
    history_tokens = 0

    def __init__(self, now: Callable[[], datetime] = datetime.now) -> None:
        self._now = now

    async def reply(
        self, history: History, persona: Persona, offer: ToolOffer = NOTHING
    ) -> AsyncGenerator[Token, None]:
        """The answer word by word; see protocols.Llm."""
        # a copy, for a thread: comparing words takes up to ten milliseconds
        copy = History(limit=history.limit, items=[item for item in history.items if item.kind == "message"])
        text = await anyio.to_thread.run_sync(
            answer, copy, self._now(), persona.title or persona.name, persona.language
        )
        for piece in re.findall(r"\S+\s*", text):
            yield Token(piece)
            await anyio.lowlevel.checkpoint()

    async def warm(self) -> None:
        """Nothing to do."""
