"""Turns a language model's text into what a voice can say: no reasoning, no markdown, no emoji, no URL syntax."""

import html
import re

_THINK = "think|thinking|thought|reasoning"
_TAG = re.compile(rf"<(/?)(?:{_THINK})>", re.IGNORECASE)
_TAGS = tuple(f"<{slash}{name}>" for name in _THINK.split("|") for slash in ("", "/"))

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_CJK = re.compile(f"[{CJK}]")
_WORD = re.compile(rf"[^\W_{CJK}]+(?:['’.,:-][^\W_{CJK}]+)*")
_SAYABLE = re.compile(r"[^\W_]")


class Reasoning:
    """Lets text through and keeps back what stands between `<think>` and `</think>`, the tags included.

    A tag may come in pieces: text that could still become one waits for the next piece. White space between
    reasoning and the beginning of the answer belongs to the reasoning. Some chat templates put the opening tag
    into the prompt, so that the stream begins inside: with `opens_inside` everything up to the first closing tag
    is reasoning (if none comes, `flush` gives it all back as the answer). Without it a closing tag that nobody
    opened sets `stray`: what was given out before it was reasoning, too, for whoever can still drop it.
    """

    def __init__(self, opens_inside: bool = False) -> None:
        self.stray = False
        self._inside = opens_inside
        self._unsure = opens_inside
        self._shown = False
        self._trim = False
        self._held = ""

    def feed(self, text: str) -> str:
        """The answer's text as far as it is certain now."""
        self._held += text
        out = ""
        while True:
            if self._trim:
                self._held = self._held.lstrip()
                self._trim = not self._held
            tag = _TAG.search(self._held)
            if tag is None:
                break
            before, self._held = self._held[: tag.start()], self._held[tag.end() :]
            closes = bool(tag.group(1))
            if not self._inside:
                out += before
            if closes and not self._inside:
                self.stray = True
                self._shown = False
                out = ""
            self._inside = not closes
            self._unsure = False
            self._trim = closes and not self._shown and not out.strip()
        keep = _possible_tag(self._held)
        if not self._inside:
            out += self._held[: len(self._held) - keep]
        if not self._unsure:
            self._held = self._held[len(self._held) - keep :]
        self._shown = self._shown or bool(out.strip())
        return out

    def flush(self) -> str:
        """What was kept back in vain; once, at the end."""
        held, self._held = self._held, ""
        return "" if self._inside and not self._unsure else held


def _possible_tag(text: str) -> int:
    """Length of the end of `text` that may be the beginning of a tag."""
    start = text.rfind("<", -max(map(len, _TAGS)))
    if start < 0:
        return 0
    tail = text[start:].lower()
    return len(tail) if any(tag.startswith(tail) for tag in _TAGS) else 0


# ---- markdown, addresses, signs -----------------------------------------------------------------------------

_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\n]*$\n?|\Z)", re.MULTILINE | re.DOTALL)
_TARGET = r"\((?:[^()\n]|\([^()\n]*\))*\)"
_PICTURE = re.compile(rf"!\[([^\]\n]*)\]{_TARGET}")
_LINK = re.compile(rf"\[([^\]\n]*)\]{_TARGET}|\[([^\]\n]+)\]\[[^\]\n]*\]")
_FOOTNOTE = re.compile(r"\[\^?\d{1,3}\]|【\d[^】]*】")
_TABLE_RULE = re.compile(r"^[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t:|-]*)?$", re.MULTILINE)
_CELLS = re.compile(r"[ \t]*\|[ \t]*")
_RULE = re.compile(r"^[ \t]*(?:[-*_=][ \t]*){3,}$", re.MULTILINE)
_LINE_MARK = re.compile(r"^[ \t]*(?:>[ \t]?)*(?:#{1,6}(?=\s)|[-*+•‣▪](?=\s)(?:[ \t]*\[[ xX]\])?)?[ \t]*")
_NUMBERED = re.compile(r"^(\d{1,3})[.)][ \t]+")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_HTML_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,200}>")
_URL = re.compile(
    r"<?(?<![A-Za-z0-9])(?:https?://|www\.)(?:www\.)?([A-Za-z0-9.-]*[A-Za-z0-9])(?::\d+)?"
    r"(?:[/?#](?:[!-;=?-~]*[A-Za-z0-9/=&_~%#-])?)?>?",
    re.IGNORECASE,
)
_MAIL = re.compile(r"(?<![A-Za-z0-9_.+-])([A-Za-z0-9_.+-]+)@([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)")
_DOTTED = re.compile(r"(?<=[A-Za-z0-9]{2})\.(?=[a-z]{2})|(?<=\b[A-Za-z0-9])\.(?=[a-z]{2,}\b)")
_EMPHASIS = re.compile(r"\*{1,3}(?=\S)|(?<=\S)\*{1,3}|(?<![^\W_])_{1,3}(?=\S)|(?<=\S)_{1,3}(?![^\W_])|~~|`+")
_TIMES = re.compile(r"(?<=\d)[ \t]*(?:\*|×)[ \t]*(?=\d)")
_EMOTICON = re.compile(r"(?<!\S)[:;=]['’]?[-o]?[)(DPp/\\|](?!\w)")
_EMOJI = re.compile(
    "[\u200d\u203c\u2049\u20e3\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf\u2934\u2935"
    "\u2b00-\u2bff\u3030\u303d\u3297\u3299\ufe0e\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
_ARROW = re.compile(r"[ \t]*(?:->|=>|→|⇒)[ \t]*")
_BLANK = re.compile(r"[ \t\u00a0\u200b\ufeff]+")
_EDGE_LEFT = re.compile(r"^(?:[\s,;:!?，。；：！？、…–—)\]}”’」』）》】|]|[-.](?!\d))+")
_STOPS = ".!?…。！？,;:，；：、—"
_CLOSERS = "\"'”’)]}」』）》】"

_SIGNS = {
    "en": {"&": " and ", "°C": " degrees Celsius", "°F": " degrees Fahrenheit", "≈": " about ", "÷": " divided by "},
    "zh": {"&": "和", "°C": "摄氏度", "°F": "华氏度", "≈": "约等于", "÷": "除以"},
}
_SHORT = (
    (re.compile(r"\be\.\s?g\.", re.I), "for example"),
    (re.compile(r"\bi\.\s?e\.", re.I), "that is"),
    (re.compile(r"\betc\.(?=\W*$|\s+[A-Z])"), "et cetera."),
    (re.compile(r"\betc\."), "et cetera"),
    (re.compile(r"\bvs\."), "versus"),
)  # English that voices stumble over
_DOT = {"en": " dot ", "zh": "点"}
_TIMES_SAID = {"en": " times ", "zh": "乘以"}


def speakable(raw: str, language: str) -> str:
    """What the voice is given for this piece of a reply; empty where there is nothing to say.

    `raw` must not begin or end inside a code block, a link or an address. Code blocks are left out; of a link its
    text is said, of a URL its host, of a table its cells. A line without a closing mark gets a full stop.
    """
    if not _SAYABLE.search(raw):
        return ""
    text = _FENCE.sub("\n", raw)
    text = _PICTURE.sub(r"\1", text)
    text = _LINK.sub(lambda m: m.group(1) or m.group(2) or "", text)
    text = _FOOTNOTE.sub("", text)
    text = _TABLE_RULE.sub("", text)
    text = _RULE.sub("", text)
    text = _URL.sub(lambda m: m.group(1), text)
    text = html.unescape(_HTML_TAG.sub("", _BREAK.sub("\n", text)))
    text = _EMOJI.sub("", _EMOTICON.sub("", text))
    for sign, said in _SIGNS.get(language, {}).items():
        text = text.replace(sign, said)
    for short, said in _SHORT if language == "en" else ():
        text = short.sub(said, text)
    text = _TIMES.sub(_TIMES_SAID.get(language, " × "), text)
    stop = "。" if language == "zh" else "."
    lines = [_line(line) for line in text.split("\n")]
    ends = [line if line.rstrip(_CLOSERS).endswith(tuple(_STOPS)) else f"{line}{stop}" for line in lines[:-1]]
    text = " ".join(line for line in [*ends, lines[-1]] if _SAYABLE.search(line))
    dot = _DOT.get(language, ".")
    text = _MAIL.sub(lambda m: m.group().replace("@", " at ").replace(".", dot), text)
    text = _DOTTED.sub(dot, text).replace("()", "")
    text = re.sub(r"(?<=\w)_(?=\w)", " ", text)
    text = _BLANK.sub(" ", _ARROW.sub(", ", text))
    text = re.sub(rf"(?<=[{CJK}，。！？；：、]) (?=[{CJK}])", "", text)
    text = re.sub(r" +(?=[,.;:!?，。；：！？](?!\w|\.))", "", text)
    text = _EDGE_LEFT.sub("", text.strip())
    return text.strip() if _SAYABLE.search(text) else ""


def _line(line: str) -> str:
    """One line without its markdown."""
    line = _LINE_MARK.sub("", line, count=1)
    line = _NUMBERED.sub(r"\1, ", line)
    if "|" in line:
        line = ", ".join(cell for cell in _CELLS.split(line.strip(" \t|")) if cell)
    return _BLANK.sub(" ", _EMPHASIS.sub("", line)).strip()


# ---- counting and scripts -------------------------------------------------------------------------------------


def sayable(text: str) -> int:
    """How many letters, digits and characters of it are said."""
    return len(_SAYABLE.findall(text))


def units(text: str) -> tuple[int, int]:
    """(CJK characters, other words) of a text."""
    return len(_CJK.findall(text)), len(_WORD.findall(text))


_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("zh", _CJK),
    ("ko", re.compile("[\u1100-\u11ff\uac00-\ud7af]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
)
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_NOT_LATIN = frozenset(name for name, _ in _SCRIPTS)
FOREIGN_WORDS = 4  # so many Latin words in a row are too much for a Chinese voice to say on the side


def language_of(text: str, default: str) -> str:
    """The language of a piece of text by its script; digits and signs alone speak `default`.

    Latin letters are `default`'s where that is written in Latin (de, fr ...), otherwise English.
    """
    for name, script in _SCRIPTS:
        if script.search(text):
            # a language that shares the script (Ukrainian, Persian, Japanese kanji) is known only from outside
            return default if default in _KIN.get(name, ()) else name
    if _LATIN.search(text):
        return "en" if default in _NOT_LATIN or default in _KIN_ALL else default
    return default


_KIN = {"zh": ("ja", "yue"), "ru": ("uk", "bg", "sr", "be", "mk"), "ar": ("fa", "ur"), "hi": ("mr", "ne")}
_KIN_ALL = frozenset(name for names in _KIN.values() for name in names)


def script_runs(raw: str, default: str) -> list[tuple[str, str]]:
    """`raw` cut where another voice is needed: (piece, language), the pieces joining to `raw`.

    Chinese with a few Latin words in it stays whole, a Chinese voice can say them; a Latin sentence with Chinese
    in it is cut around every Chinese run.
    """
    runs = _runs(raw, default)
    if len({language for _, language in runs}) < 2:
        return [(raw, runs[0][1] if runs else default)]
    characters, words = units(speakable(raw, default))
    merged: list[tuple[str, str]] = []
    for piece, language in runs:
        latin = not any(script.search(piece) for _, script in _SCRIPTS)
        few = latin and units(speakable(piece, default))[1] < FOREIGN_WORDS and characters >= words
        host = merged[-1][1] if merged else next((name for _, name in runs if name != language), language)
        name = host if few and host in ("zh", "ja", "ko") else language
        if merged and merged[-1][1] == name:
            merged[-1] = (merged[-1][0] + piece, name)
        else:
            merged.append((piece, name))
    return merged


_WHOLE = re.compile("|".join(f"(?:{p.pattern})" for p in (_PICTURE, _LINK, _MAIL, _URL)) + "|`[^`\n]*`", re.I)


def _runs(raw: str, default: str) -> list[tuple[str, str]]:
    """Maximal runs of one language; signs, digits, blanks and addresses stay with what stands before them."""
    cjk = language_of("".join(_CJK.findall(raw)), default)
    atoms: list[tuple[str, str]] = []
    end = 0
    for whole in [*_WHOLE.finditer(raw), None]:
        start = whole.start() if whole else len(raw)
        for char in raw[end:start]:
            language = "" if not char.isalpha() else cjk if _CJK.match(char) else language_of(char, default)
            atoms.append((char, language))
        if whole:
            end = whole.end()
            label = whole.group().split("](")[0] if whole.group().startswith(("[", "![")) else ""
            atoms.append((whole.group(), language_of(label, default) if sayable(label) else ""))
    runs: list[tuple[str, str]] = []
    for text, language in atoms:
        if runs and (not language or not runs[-1][1] or language == runs[-1][1]):
            runs[-1] = (runs[-1][0] + text, runs[-1][1] or language)
        else:
            runs.append((text, language))
    return [(piece, language or default) for piece, language in runs]
