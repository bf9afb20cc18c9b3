"""Understands what a person wants of the scripted persona, also when the recogniser misheard half of it."""

import re
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from math import log

from server.llm.sums import Terms, find_sum

LONGEST = 400
"""characters of an utterance that are looked at"""
SURE = 0.55
"""likeness to a known phrase from which it is taken for one"""


@dataclass(frozen=True, slots=True)
class Intent:
    """What was meant."""

    name: str
    """a key of PHRASES, `sum`, `echo`, `name_told`, or `unknown`"""
    detail: str = ""
    """the name that was told; the words to repeat"""
    terms: Terms | None = None
    """the sum"""


# What people say, the phrases apart by strokes.
PHRASES: dict[str, tuple[str, ...]] = {
    name: tuple(phrases.split("|"))
    for name, phrases in {
        "greeting": (
            "hello|hi|hey|morning|good morning|good afternoon|good evening|good day|nice to meet you|"
            "pleased to meet you|it's me"
        ),
        "time": (
            "what time is it|what is the time|tell me the time|could you tell me the time please|"
            "what's the time now|do you have the time|do you know what time it is|what hour is it|"
            "how late is it"
        ),
        "date": (
            "what day is it|what day is it today|what is the date today|what's today's date|"
            "which day of the week is it|what month is it|what year is it|do you know which year it is|"
            "what is the day today|tell me the date|is today monday|which day is today"
        ),
        "name_asked": (
            "what is my name|do you remember my name|do you know my name|who am i|what did i say my name was|"
            "tell me my name|have you forgotten my name|what am i called"
        ),
        "repeat": (
            "say that again|can you say that again please|could you repeat that|repeat please|pardon|"
            "what did you say|come again|i didn't hear you|i did not catch that|one more time please|"
            "sorry what was that|again please|please repeat what you said|excuse me what"
        ),
        "who": (
            "who are you|what are you|what is your name|what's your name|tell me about yourself|are you real|"
            "are you human|are you a robot|are you a real person or a computer|are you a machine|"
            "introduce yourself|are you an ai|what should i call you|how old are you|where are you from|"
            "where do you live"
        ),
        "abilities": (
            "what can you do|what can i ask you|help|help me|what do you know|how can you help me|"
            "what are you able to do|what can i say|what can we talk about|can you help me|"
            "what else can you do|what can i ask you about"
        ),
        "how_it_works": (
            "how does this work|how do you work|how does it work|how were you made|how are you made|"
            "what technology is this|explain how this works|who made you|how do you do that|how can you see me|"
            "how do you understand me|how do you hear me|how do i connect a language model|"
            "what is a language model"
        ),
        "how_are_you": (
            "how are you|how are you doing|how are you today|how are you doing today|how do you feel|"
            "how is it going|are you okay|what's up|how have you been|how are things"
        ),
        "thanks": "thank you|thanks|thank you very much|thanks a lot|many thanks|thank you so much",
        "compliment": (
            "you look beautiful|you are beautiful|i like you|i love you|you are nice|you look nice|"
            "you are funny|that was funny|well done|good job|you are great|you are amazing|that is great|"
            "you have a nice voice|you are smart|very good|you are very pretty|that is very kind|beautiful|"
            "lovely|wonderful|awesome"
        ),
        "joke": (
            "tell me a joke|do you know a joke|make me laugh|tell me something funny|"
            "do you know something funny|say something funny|another joke|can you tell jokes|joke"
        ),
        "goodbye": (
            "goodbye|bye|bye bye|good bye|see you later|see you|i have to go|i have to go now|have a nice day|"
            "good night|that is all|talk to you later|okay goodbye|hang up|i'm leaving now"
        ),
        "yes": "yes|yeah|okay|sure|yes please|alright|of course|right",
        "no": "no|nope|no thank you|not really|never mind|no thanks",
        "sorry": "sorry|i am sorry|excuse me|my mistake",
    }.items()
}

# Chinese comes without blanks and, so far, typed or from a better recogniser: patterns are enough.
ZH_PATTERNS: tuple[tuple[str, str], ...] = (
    ("name_asked", r"我(?:的名字)?(?:是|叫)(?:什么|谁|啥)|记得我的名字|我是谁"),
    ("how_it_works", r"怎么(?:工作|运行|做到|实现)|如何工作|原理|谁(?:做|造|开发)"),
    ("who", r"你是谁|你叫什么|你的名字|你是(?:什么|机器|真人|人工|人吗|AI)|介绍一?下?你?自己"),
    ("abilities", r"你?(?:能|会|可以)(?:做|干|聊|帮)?(?:些)?(?:什么|啥|哪些)|帮助|帮帮我|能问你"),
    ("how_are_you", r"你(?:还)?好吗|最近(?:怎么样|好吗)|过得(?:怎么样|好吗)|你怎么样"),
    ("repeat", r"再说一[遍次]|重复一[遍下次]|没听(?:清|见|到|懂)|你(?:刚才|刚刚)?说(?:了)?什么"),
    ("time", r"几点|什么时候了|(?:现在|当前|告诉我).{0,4}时间"),
    ("date", r"几号|几月|星期几|礼拜几|周几|日期|哪一?年|什么日子|哪一?天"),
    ("joke", r"笑话|搞笑|好笑的|逗我"),
    ("thanks", r"谢谢|多谢|感谢"),
    ("goodbye", r"再见|拜拜|晚安|我(?:要|得|该)走|下次(?:见|聊)|回头见"),
    ("compliment", r"漂亮|好看|真棒|太棒|厉害|聪明|喜欢你|爱你|好听|可爱|不错"),
    ("greeting", r"你好|您好|早上好|早安|下午好|晚上好|嗨|哈喽|很高兴认识"),
    ("sorry", r"对不起|抱歉|不好意思"),
    ("yes", r"^(?:是的?|好的?|对|嗯|行|可以)$"),
    ("no", r"^(?:不|不是|不要|没有|不用了?)$"),
)
_ZH_NAME = re.compile(
    r"(?:我叫|我的名字(?:是|叫)|叫我|我是)([\u4e00-\u9fffA-Za-z·]{1,8}?)(?:吧|呀|啊|哦)?(?:$|[，。！？,.!? ])"
)
_ZH_ECHO = re.compile(r"(?:跟(?:着)?我(?:说|念|读)|重复(?:一下)?(?:这句话)?[:：])[，,:：]?\s*(.+)")
_NAME = re.compile(
    r"\b(?:my name(?:'s| is| was)|my names|you (?:can|may|could) call me|(?:just |please )?call me|people call me"
    r"|i(?: am|'m) called|name is)\s+(?:is\s+)?(.+)"
)
_NAME_SHORT = re.compile(r"^(?:(?:hello|hi|hey|well|okay)[, ]+)?(?:i'm|i am|this is)\s+([a-z'-]+)(?:\s+[a-z'-]+)?$")
_ECHO = re.compile(r"\b(?:repeat|say) (?:after me|the following|these words|the words?|this)\b[\s,:.]*(.+)")
_NO_NAME = re.compile(
    r"not|an?|the|very|so|too|really|fine|good|well|okay|ok|here|there|sorry|glad|happy|tired|sad|done|back|ready|sure"
    r"|afraid|called|from|in|at|on|just|what|who|hungry|bored|it|that|this|\w+ing"
)
_NO_SURNAMES = ("and", "nice", "thanks", "please", "by", "now", "too")
_GREETING = re.compile(r"^(?:(?:hello|hi|hey|good (?:morning|afternoon|evening|day))(?: there| again)?\b ?)+")
_FILLERS = frozenset(
    ("um", "uh", "er", "ah", "oh", "so", "well", "okay", "please", "now", "just", "the", "a", "an", "to")
)


@lru_cache(maxsize=1024)
def understand(text: str) -> Intent:
    """The most likely intent of an utterance, typed or heard."""
    text = unicodedata.normalize("NFKC", text)[:LONGEST].strip()
    if is_chinese(text):
        return _understand_zh(text)
    plain = re.sub(r"(?<!\d),|,(?!\d)|[^a-z0-9' +*/×÷.,-]+", " ", text.lower().replace("’", "'"))
    if found := _ECHO.search(re.sub(r"\s+", " ", text.replace("’", "'").lower())):
        start = text.lower().rfind(found.group(1)[:20])
        return Intent("echo", text[start:] if start >= 0 else found.group(1))
    if terms := find_sum(plain):
        return Intent("sum", terms=terms)
    plain = re.sub(r"[^a-z0-9']+", " ", plain).strip()
    if name := _name(plain):
        return Intent("name_told", name)
    return Intent(_nearest(plain))


def is_chinese(text: str) -> bool:
    return re.search(r"[\u4e00-\u9fff]", text) is not None


def _understand_zh(text: str) -> Intent:
    if found := _ZH_ECHO.search(text):
        return Intent("echo", found.group(1).strip())
    if terms := find_sum(text):
        return Intent("sum", terms=terms)
    bare = text.strip("。！？，,.!? ")
    for name, pattern in ZH_PATTERNS:
        if name not in ("yes", "no", "greeting") and re.search(pattern, bare):
            return Intent(name)
    if found := _ZH_NAME.search(bare):
        return Intent("name_told", found.group(1))
    return Intent(next((name for name, pattern in ZH_PATTERNS if re.search(pattern, bare)), "unknown"))


def _name(plain: str) -> str:
    """The name that a sentence tells, in capitals where names have them."""
    found = _NAME.search(plain) or _NAME_SHORT.search(plain)
    if not found:
        return ""
    words = found.group(1).split()
    while words and words[0] in ("is", "um", "uh", "just"):
        words.pop(0)
    if not words or _NO_NAME.fullmatch(words[0]):
        return ""
    kept = [words[0]]
    if len(words) == 2 and words[1] not in _NO_SURNAMES and not _NO_NAME.fullmatch(words[1]):
        kept.append(words[1])
    return " ".join(word.capitalize() for word in kept)


# ---- likeness of phrases: words weighed by how telling they are, compared by their sound ----------------------


def _nearest(plain: str) -> str:
    """The intent of the phrase that is most like the utterance; a greeting counts if nothing follows it."""
    rest = _GREETING.sub("", plain)
    heard = _words(rest) or _words(plain)
    if not heard:
        return "unknown"
    best, best_name = 0.0, "unknown"
    for name, phrases in PHRASES.items():
        for phrase in phrases:
            likeness = _likeness(heard, _words(phrase))
            if likeness > best:
                best, best_name = likeness, name
    return best_name if best >= SURE else "greeting" if rest != plain else "unknown"


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    """Its words, contractions written out."""
    for short, long in (("can't", "can not"), ("n't", " not"), ("'s", " is"), ("'m", " am"), ("'re", " are")):
        text = text.replace(short, long)
    return tuple(text.split())


def _likeness(heard: tuple[str, ...], phrase: tuple[str, ...]) -> float:
    """0 to 1: how much of the phrase was heard, less what was heard besides; 0 without its most telling word."""
    weights = _weights()
    key = _key(phrase)
    if max(_sound_alike(key, word) for word in heard) < (ALONE_ALIKE if len(phrase) == 1 else KEY_ALIKE):
        return 0.0
    total = sum(weights[word] for word in phrase)
    matched, used = 0.0, set()
    for at, word in enumerate(phrase):
        options = [(_sound_alike(word, other), -abs(at - i), i) for i, other in enumerate(heard) if i not in used]
        alike, _, where = max(options, default=(0.0, 0, 0))
        if alike:
            matched += weights[word] * alike
            used.add(where)
    spare = sum(weights.get(word, RARE) for i, word in enumerate(heard) if i not in used and word not in _FILLERS)
    return matched / (total + SPARE_COST * spare)


KEY_ALIKE = 0.75
"""how well the most telling word of a phrase must have been heard"""
ALONE_ALIKE = 0.85
"""... if it is the only one"""
RARE = 2.2
"""weight of a word that is in no phrase"""
SPARE_COST = 0.4
"""how much words beside the phrase speak against it"""


@lru_cache(maxsize=1024)
def _key(phrase: tuple[str, ...]) -> str:
    """A phrase's most telling word."""
    return max(phrase, key=lambda word: _weights()[word])


@lru_cache(maxsize=1)
def _weights() -> dict[str, float]:
    """How telling each word of PHRASES is: the fewer intents use it, the more."""
    uses: dict[str, set[str]] = {}
    for name, phrases in PHRASES.items():
        for phrase in phrases:
            for word in _words(phrase):
                uses.setdefault(word, set()).add(name)
    return {word: 0.1 + log(len(PHRASES) / len(names)) for word, names in uses.items()}


@lru_cache(maxsize=16384)
def _sound_alike(one: str, other: str) -> float:
    """0, or 0.7 to 1: how alike two words are, by letters or by sound."""
    if one == other:
        return 1.0
    if min(len(one), len(other)) < 3:
        return 0.0
    sounds = _sound(one), _sound(other)
    if sounds[0] == sounds[1] and len(sounds[0]) >= 2:
        return 0.9
    letters = _ratio(one, other)
    sound = _ratio(*sounds) if min(map(len, sounds)) >= 3 else 0.0
    alike = 0.95 * max(letters, (letters + sound) / 2)
    return alike if alike >= 0.7 else 0.0


def _ratio(one: str, other: str) -> float:
    """Difflib's likeness, or 0 where a glance shows that it will be small."""
    shorter, longer = sorted((len(one), len(other)))
    if 2 * shorter < 0.7 * (shorter + longer) or 2 * len(set(one) & set(other)) < len(set(one)):
        return 0.0
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


@lru_cache(maxsize=4096)
def _sound(word: str) -> str:
    """A rough spelling of how an English word sounds: equal letters for equal sounds, one vowel sign."""
    for spelling, sound in (
        ("'", ""), ("igh", "i"), ("kn", "n"), ("wr", "r"), ("wh", "w"), ("gh", ""), ("ph", "f"), ("ck", "k"),
        ("ch", "X"), ("sh", "X"), ("th", "0"), ("qu", "kw"), ("c", "k"), ("q", "k"), ("z", "s"), ("d", "t"),
        ("b", "p"), ("v", "f"), ("g", "k"), ("j", "X"), ("x", "ks"),
    ):  # fmt: skip
        word = word.replace(spelling, sound)
    word = re.sub(r"(?<=.)[hw]", "", word)
    word = re.sub(r"[aeiouy]+", "a", word)
    return re.sub(r"(.)\1+", r"\1", word)
