"""How long a silence must be before a turn is over, and which words count over a reply, from the text alone."""

import re
import unicodedata

from server.core.sentence_ends import SHARES, USUAL
from server.core.settings import TurnSettings

# Scripts without spaces between words, counted by character: kana and Han with its extensions.
_CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_])+(?:['’](?:(?![{_CJK}])[^\W_])+)*")
_LEFT_OPEN = re.compile(r"(\.\.|…|[,，、;；:：—–-])$")
_FULL_STOP = re.compile(r"[.。?？!！][\"'”’」』)）]*$")

Phrases = frozenset[tuple[str, ...]]
"""Phrases as rows of units."""


def _phrases(text: str) -> Phrases:
    """A kept list: phrases between commas or line ends, each as its units."""
    return frozenset(tuple(normalise(p).split()) for p in re.split(r"[,、\n]", text) if p.strip())


def first_units(text: str, count: int) -> str:
    """The beginning of `text` that holds its first `count` units."""
    if count <= 0:
        return ""
    end = 0
    for n, match in enumerate(_UNIT.finditer(text), start=1):
        end = match.end()
        if n == count:
            break
    return text[:end]


def units(text: str) -> int:
    """How many words; Chinese and Japanese characters count one each. Punctuation is nothing."""
    return sum(1 for _ in _UNIT.finditer(text))


def normalise(text: str) -> str:
    """Units in lower case, one space between them: two texts that say the same words become equal."""
    folded = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    return " ".join(match.group() for match in _UNIT.finditer(folded))


# ---- the kept lists --------------------------------------------------------------------------------

_BACKCHANNELS = {
    # "um-hum", "mhm": as recognisers spell them
    "any": _phrases("mm, mmm, mhm, mm hm, mm hmm, hm, hmm, ok, okay, ah, oh, uh, eh, aha"),
    "en": _phrases(
        """uh huh, huh, um hum, um hm, m hm, yeah, yep, yup, ya, yes, right, alright, all right, sure, i see
        got it, oh i see, of course, exactly, true, good, great, nice, cool, wow, really, oh really, fine
        makes sense, that makes sense, interesting, ha, haha, ha ha, indeed"""
    ),
    "zh": _phrases(
        """嗯、嗯嗯、嗯哼、唔、呃、额、啊、哦、噢、喔、哎、诶、欸、哈、哈哈、对、对对、对的、对啊、对呀、是、是的
        是啊、是吗、是吧、好、好的、好吧、好啊、好呀、行、行吧、可以、没错、真的、真的吗、这样啊、这样子、明白
        明白了、知道、知道了、我知道、懂了、有道理、当然、原来如此、不错"""
    ),
}

_STOPS = {
    "en": _phrases(
        """stop, wait, hold on, hang on, no, nope, pause, quiet, be quiet, shut up, silence, enough, cancel
        never mind, nevermind, excuse me, sorry, one moment, just a moment, a moment, one second, just a second
        let me, listen, actually, but, hey"""
    ),
    "zh": _phrases(
        """停、停下、停一下、等等、等一下、等会、稍等、慢着、别说、别说了、不要说、不要、不用、不是、不对、闭嘴
        安静、够了、打住、算了、取消、听我说、我说、抱歉、不好意思、打断一下、暂停"""
    ),
}

# A turn that ends with one of these wants to go on. Words that often end a sentence too ("in", "that", "不") are
# left out: waiting in vain costs more than answering early, for that reply is dropped when the person goes on.
_OPEN_ENDS = {
    "en": _phrases(
        """and, or, but, nor, so, because, cause, 'cause, since, although, unless, until, till, whereas, if, when
        whenever, whether, which, who, whose, than, and then, but then, as, also, plus, even if, in case
        such as, for example, for instance, i mean, you know, kind of, sort of, i think that, so that, to, of
        at, by, for, with, without, from, into, onto, between, among, against, towards, per, except, a, an, the
        my, your, his, its, our, their, every, i, we, they, he, she, i'm, we're, they're, you're, he's, she's
        i'll, i'd, i've, let's, is, are, was, were, am, be, gonna, wanna, very, could you please, can you please
        would you please, um, uh, umm, uhh, er, erm, hm, hmm, mm, mmm, maybe, let me see, let me think
        let's see"""
    ),
    "zh": _phrases(
        """和、与、及、以及、或、或者、还是、还有、而、而且、并且、但、但是、可是、不过、然而、只是、因为、由于
        所以、因此、如果、要是、假如、除非、虽然、尽管、即使、然后、接着、另外、比如、比如说、例如、就是、就是说
        也就是、那么、那个、这个、一种、从、把、被、关于、对于、为了、除了、按照、根据、我的、你的、您的、他的
        她的、它的、我们的、你们的、他们的、我想、我要、想要、我觉得、我想问、请问、我是、他是、她是、这是、那是
        住在、很、非常、嗯、呃、额、唔、嗯嗯、这个嘛、让我想想、我想想"""
    ),
}

# These are complete as a whole turn, though some of their words would not be at the end of a longer one.
_COMPLETE = {
    "en": _phrases(
        """yes, yeah, yep, yup, no, nope, no way, okay, ok, sure, alright, all right, right, exactly, of course
        correct, wrong, true, false, fine, great, good, perfect, mm hm, mm hmm, mhm, uh huh, yes please
        no thanks, no thank you, yes i do, no i don't, yes i am, no i'm not, yes it is, no it isn't, i do
        i don't, i can, i can't, i will, i won't, i would, i wouldn't, i could, i couldn't, i should, i have
        i haven't, i had, i might, i must, we can, we can't, we will, we have, you can, you can't, you should
        yes i can
        no i can't, yes i will, no i won't, yes i would, yes i have, no i haven't, yes we can, probably, probably not
        almost, always, never, not always, i am, i'm not, i think so, i don't think so, i don't know
        not really, maybe, hello, hi, hey
        hello there, hi there, good morning, good afternoon, good evening, good day, good night, goodbye
        good bye, bye, bye bye, see you, see you later, see you soon, see you tomorrow, take care
        have a nice day, thanks, thank you, thank you very much, thank you so much, thanks a lot, you're welcome
        nice to meet you, how are you, how are you doing, how are you today, how do you do, what's up
        who are you, what are you, where are you, where are you from, how old are you, are you there
        are you real, are you human, are you a robot, can you hear me, do you hear me, can you see me
        what do you mean, what do you think, what can you do, what do you do, what happened, what is that
        what's that, what is it, why, why not, how, how come, when, where, who, what, really, pardon
        say that again, say it again, can you repeat that, please repeat that, repeat that, come again
        tell me a joke, tell me more, go on, go ahead, continue, stop, wait, hold on, that's all, that is all
        that's it, that's right, that's wrong, never mind, nevermind, i'm fine, i'm good, i'm okay"""
    ),
    "zh": _phrases(
        """是、是的、不是、对、对的、不对、好、好的、行、不行、可以、不可以、有、没有、会、不会、要、不要、不用
        不用了、没错、当然、知道、知道了、不知道、我不知道、明白、明白了、你好、您好、大家好、早上好、下午好
        晚上好、早、嗨、喂、谢谢、谢谢你、谢谢您、多谢、不客气、再见、拜拜、晚安、回头见、明天见、没事、没事了
        没关系、对不起、停、停下、等等、等一下、你是谁、你叫什么、你好吗、为什么、怎么了、什么、什么意思、继续
        再说一遍"""
    ),
}

# ... and these end a turn whatever stood before them.
_CLOSED_ENDS = {
    "en": _phrases(
        """thank you, thanks, thank you very much, goodbye, good bye, bye, bye bye, good night, see you later
        see you tomorrow, what time is it, what time it is, what day is it, what day it is, what's the time
        what is the time, what's the date, what is the date, what's your name, what is your name, what's my name
        what is my name, how are you, who are you, can you hear me, do you understand, that's all, that is all
        that's it, what do you think, is that right, is that correct, isn't it, doesn't it, don't you
        aren't you, right now, think so, hope so, guess so, tell me a joke, how much is it, how much is that
        how much does it cost, what does that mean, what does it mean, what is that, what's that"""
    ),
    "zh": _phrases(
        """吗、谢谢、谢谢你、谢谢您、再见、拜拜、晚安、几点了、现在几点、几点钟、几号、星期几、什么名字、你叫什么
        你是谁、是什么、是谁、怎么样、怎么办、怎么回事、什么意思、为什么、多少钱、多少、在哪里、在哪儿、好不好
        对不对、行不行、可不可以、能不能、是不是、有没有、就这样、就这些、讲个笑话、是我的、是你的、是他的
        是她的、是我们的、要这个、要那个、是这个、是那个、就这个、暖和"""
    ),
}

_QUESTION_WORDS = frozenset(
    ["what", "who", "whom", "whose", "which", "where", "when", "why", "how", "what's", "who's", "where's", "how's"]
)
# "what are you looking for", "do you know where she is": behind a question word these promise nothing.
_STRANDED = _phrases(
    """to, of, at, by, for, with, from, is, are, was, were, am, can, can't, could, find, get, going, got, had, have
    keep, looking, make, need, take, took, went, will, would"""
)
# Last words of texts more often than of what is spoken: "come in", "thank".
_PARTICLES = frozenset(["in", "under", "thank", "last", "almost", "always", "probably"])

SELDOM = 0.02
"""so few sentences end behind a word that it promises more"""
COMPLETE = 0.32
"""... behind what looks finished"""
PAUSE_ODDS = 12.0
SOUND_TRUST = 1 / 3


def _kept(lists: dict[str, Phrases], language: str) -> tuple[Phrases, ...]:
    """The lists that hold in a call of this language: its own; in a Chinese call English words may fall too."""
    primary = re.split(r"[-_]", language.lower())[0]
    names = {"zh": ("any", "zh", "en"), "cmn": ("any", "zh", "en"), "yue": ("any", "zh", "en"), "en": ("any", "en")}
    return tuple(lists[name] for name in names.get(primary, ("any",)) if name in lists)


def _ends_with(said: tuple[str, ...], lists: tuple[Phrases, ...]) -> bool:
    return any(said[-n:] in kept for kept in lists for n in range(1, min(len(said), 6) + 1))


def _is(said: tuple[str, ...], lists: tuple[Phrases, ...]) -> bool:
    return any(said in kept for kept in lists)


# ---- words over a reply ----------------------------------------------------------------------------


def only_backchannel(text: str, language: str) -> bool:
    """Whether there are words and all of them only say "I am listening" ("mm hm", "yeah okay", "嗯对")."""
    said = tuple(normalise(text).split())
    kept = _kept(_BACKCHANNELS, language)
    # reach[n]: the first n units are a row of kept phrases
    reach = [True] + [False] * len(said)
    for end in range(1, len(said) + 1):
        reach[end] = any(reach[start] and _is(said[start:end], kept) for start in range(max(0, end - 5), end))
    return bool(said) and reach[-1]


def asks_to_stop(text: str, language: str) -> bool:
    """Whether it begins, after back-channels at most, with words that want the floor ("okay stop", "等一下")."""
    said = tuple(normalise(text).split())
    kept = _kept(_STOPS, language)
    if only_backchannel(text, language):
        return False
    for start in range(len(said)):
        if any(_is(said[start:end], kept) for end in range(start + 1, min(len(said), start + 4) + 1)):
            return True
        if not only_backchannel(" ".join(said[: start + 1]), language):
            return False
    return False


# ---- the end of a turn -----------------------------------------------------------------------------


def looks_unfinished(text: str, language: str) -> bool:
    """Whether the words promise more: a comma, a conjunction, an article, a filler ... at their end."""
    text = text.strip()
    if _LEFT_OPEN.search(text):
        return True
    said = tuple(normalise(text).split())
    if not said or _FULL_STOP.search(text) or _is(said, _kept(_COMPLETE, language)):
        return False
    if said[-1:] in _STRANDED and _QUESTION_WORDS.intersection(said[:-2]):
        return False
    if _ends_with(said, _kept(_CLOSED_ENDS, language)):
        return False
    if said[-1] not in _PARTICLES and _share(said, language) <= SELDOM:
        return True
    return _ends_with(said, _kept(_OPEN_ENDS, language))


def looks_finished(text: str, language: str) -> bool:
    """Whether the words are complete: a full stop, a greeting, a yes or no, a typical question."""
    if looks_unfinished(text, language):
        return False
    said = tuple(normalise(text).split())
    if said and _FULL_STOP.search(text.strip()):
        return True
    return _is(said, _kept(_COMPLETE, language)) or _ends_with(said, _kept(_CLOSED_ENDS, language))


def _share(said: tuple[str, ...], language: str) -> float:
    """Of how many sentences these are the last words."""
    english = said and re.split(r"[-_]", language.lower())[0] == "en"
    return SHARES.get(said[-1], USUAL) if english else USUAL


def ended(text: str, language: str, finished: float) -> float:
    """How likely the turn is over by its words and by its sound, 0 to 1.

    Bayes: the odds that any text ends here, times how much more often it ends at a pause, times what the sound says.
    The last two were fitted (evaluation.turn_taking, set `tuning`): smart-turn is surer than it is right.
    """
    if looks_finished(text, language):
        share = COMPLETE
    else:
        share = _share(tuple(normalise(text).split()), language)
        share = min(share, SELDOM) if looks_unfinished(text, language) else share
    sound = min(max(finished, 1e-4), 1 - 1e-4)
    odds: float = PAUSE_ODDS * share / (1 - share) * (sound / (1 - sound)) ** SOUND_TRUST
    return odds / (1 + odds)


def silence_needed(text: str, language: str, settings: TurnSettings, finished: float | None = None) -> float:
    """Seconds of silence after these words that end the turn; never less than `soft_end_s`.

    finished: how likely the person has finished by the sound of it, 0 to 1; None: nobody can tell. Then the words
    choose between three silences. Else words and sound together say how likely it is the end, and the likelier, the
    shorter is the silence.
    """
    s = settings
    if s.endpoint_fixed:
        return max(s.endpoint_s, s.soft_end_s)
    if finished is not None and units(text):
        doubt = (s.finished_above - ended(text, language, finished)) / (s.finished_above - s.unfinished_below)
        sure, patient = s.endpoint_sure_s, max(s.endpoint_sure_s, s.endpoint_patient_s)
        seconds = sure + (patient - sure) * min(max(doubt, 0.0), 1.0)
    elif looks_unfinished(text, language):
        seconds = max(s.endpoint_s, s.endpoint_max_s)
    elif looks_finished(text, language):
        seconds = min(s.endpoint_s, s.endpoint_min_s)
    else:
        seconds = s.endpoint_s
    return max(seconds, s.soft_end_s)
