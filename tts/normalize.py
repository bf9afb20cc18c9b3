"""Numbers, dates, money, units and addresses spelled out before a voice gets them; what is said maps back.

The work is wetext's (grammars as transducers, English and Chinese). It is asked run by run of one script, what it is
known to get wrong is rewritten for it first, and where it fails the raw text is spoken.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Protocol

import anyio
import anyio.to_thread

from server.core.media import Clause
from tts.scripts import Run, primary, runs, without_pictures
from tts.spoken import Spoken

log = logging.getLogger(__name__)

LIMIT = 600  # characters of a run; a longer one is spoken as it stands: nobody waits for a grammar
AT_ONCE = 32  # characters that take 4 ms at most: waiting for a thread would take longer on a busy machine
LONGER = 12  # times as long as the raw text, and more, is not believed


class Grammar(Protocol):
    """wetext's Normalizer."""

    def normalize(self, text: str) -> str: ...


# ---- what is rewritten before the grammar -------------------------------------------------------------------------

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

_FULL_WIDTH = {c: c - 0xFEE0 for c in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
_FULL_WIDTH |= {ord("％"): "%", ord("＄"): "$", ord("＋"): "+", ord("／"): "/", ord("～"): "~", ord("µ"): "μ"}

_TLD = "com|org|net|edu|gov|io|ai|dev|app|info|co|uk|us|eu|de|fr|jp|cn|hk|tw|kr|me|tv"
_URL = re.compile(
    rf"(?:https?://|(?=www\.))(?:www\.)?(?:(?:[\w-]+\.)+[a-z]{{2,}}|localhost)(?::\d+)?(?:/[\w./~%-]*[\w/])?"
    rf"|(?<![\w.@])[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?<![\w.@])(?:[A-Za-z0-9-]+\.)+(?:{_TLD})\b(?:/[\w./~%-]*\w)?",
    re.IGNORECASE | re.ASCII,
)
_PARTS = re.compile(r"[A-Za-z]+|\d+|[^A-Za-z\d]", re.ASCII)


def _address(signs: dict[str, str]) -> Callable[[re.Match[str]], str]:
    """An address of the net, sign by sign."""

    def said(found: re.Match[str]) -> str:
        text = re.sub(r"^https?://|^www\.|(?<=//)www\.", "", found.group(), flags=re.IGNORECASE)
        text = text.removeprefix("www.").rstrip("/")
        parts = [signs.get(part, part) for part in _PARTS.findall(text)]
        return re.sub(r" +", " ", " ".join(parts)).strip()

    return said


def _english_money(found: re.Match[str]) -> str:
    sign, whole, cents, scale = found["sign"], found["whole"].replace(",", ""), found["cents"], found["scale"] or ""
    one, many, small = _MONEY[sign]
    scale = {
        "k": " thousand",
        "K": " thousand",
        "M": " million",
        "m": " million",
        "B": " billion",
        "bn": " billion",
    }.get(scale.strip(), scale)
    if scale:
        return f"{whole}{'.' + cents if cents else ''}{scale} {many}"
    name = one if whole == "1" else many
    if not cents or not int(cents):
        return f"{_number(whole)} {name}"
    if not small:
        return f"{whole}.{cents.rstrip('0')} {name}"
    if len(cents) == 1:
        cents += "0"
    change = f"{int(cents)} {small if int(cents) != 1 or small == 'pence' else small[:-1]}"
    return change if not int(whole) else f"{_number(whole)} {name} and {change}"


_MONEY = {
    "$": ("dollar", "dollars", "cents"),
    "US$": ("dollar", "dollars", "cents"),
    "€": ("euro", "euros", "cents"),
    "£": ("pound", "pounds", "pence"),
    "¥": ("yuan", "yuan", ""),
    "￥": ("yuan", "yuan", ""),
}
_CODES = {"USD": "dollars", "EUR": "euros", "GBP": "pounds", "CNY": "yuan", "RMB": "yuan", "JPY": "yen"}

_ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ("", " thousand", " million", " billion", " trillion")


def _number(digits: str) -> str:
    """A whole number in English words (wetext reads 1234 as a year, and 1,234 without its "one")."""
    value = int(digits)
    if value >= 1000 ** len(_SCALES) or (digits.startswith("0") and len(digits) > 1):
        return " ".join(_ONES[int(d)] for d in digits)
    groups: list[str] = []
    for scale in _SCALES:
        value, group = divmod(value, 1000)
        if group:
            groups.insert(0, _hundreds(group) + scale)
    return " ".join(groups) or "zero"


def _hundreds(value: int) -> str:
    """1 to 999."""
    hundreds, rest = divmod(value, 100)
    words = [f"{_ONES[hundreds]} hundred"] if hundreds else []
    if rest:
        low = _ONES[rest] if rest < 20 else _TENS[rest // 10] + (f" {_ONES[rest % 10]}" if rest % 10 else "")
        words.append(low)
    return " and ".join(words)


def _version(found: re.Match[str]) -> str:
    word = "version " if found.group().startswith(("v", "V")) else ""
    return word + " point ".join(_number(part) for part in found["parts"].split("."))


_DECADES = {"2": "twenties", "3": "thirties", "4": "forties", "5": "fifties", "6": "sixties", "7": "seventies"}
_DECADES |= {"8": "eighties", "9": "nineties", "1": "tens"}
_CENTURIES = {"17": "seventeen", "18": "eighteen", "19": "nineteen", "20": "twenty"}


def _decade(found: re.Match[str]) -> str:
    century, ten = found["century"], found["ten"]
    if ten == "0":
        return "two thousands" if century == "20" else f"{_CENTURIES[century]} hundreds"
    return f"{_CENTURIES[century]} {_DECADES[ten]}" if century else _DECADES[ten]


def _english_unit(found: re.Match[str]) -> str:
    one, many = _UNITS[found["unit"]]
    return f"{found['number']} {one if found['number'] == '1' else many}"


_UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"),
    "m": ("meter", "meters"),
    "L": ("liter", "liters"),
    "V": ("volt", "volts"),
    "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "μm": ("micrometer", "micrometers"),
    "μg": ("microgram", "micrograms"),
    "KB": ("kilobyte", "kilobytes"),
    "MB": ("megabyte", "megabytes"),
    "TB": ("terabyte", "terabytes"),
    "Mbps": ("megabit per second", "megabits per second"),
    "m²": ("square meter", "square meters"),
    "km²": ("square kilometer", "square kilometers"),
    "m³": ("cubic meter", "cubic meters"),
}
_NUMBER = r"(?P<number>-?\d[\d,]*(?:\.\d+)?)"


def _names(table: dict[str, Any]) -> str:
    return "|".join(re.escape(name) for name in sorted(table, key=len, reverse=True))


_SIGNS = {
    ".": "dot",
    "/": "slash",
    "@": "at",
    "-": "dash",
    "_": "underscore",
    ":": "colon",
    "+": "plus",
    "~": "tilde",
}
_ENGLISH: list[Rule] = [
    (_URL, _address(_SIGNS)),
    (
        re.compile(
            rf"(?P<sign>{_names(_MONEY)})\s?(?P<whole>\d+(?:,\d{{3}})*)(?:\.(?P<cents>\d{{1,2}}))?"
            r"(?P<scale>\s?(?:thousand|million|billion|trillion)\b|[kKMmB]\b|bn\b)?(?![\d.]*\d)"
        ),
        _english_money,
    ),
    (re.compile(r"(\d)\s?¢"), r"\1 cents"),
    (re.compile(rf"(\d)\s?({_names(_CODES)})\b"), lambda m: f"{m[1]} {_CODES[m[2]]}"),
    (re.compile(rf"\b({_names(_CODES)})\s?(\d[\d,.]*\d|\d)"), lambda m: f"{m[2]} {_CODES[m[1]]}"),
    (re.compile(r"\b[vV](?P<parts>\d+(?:\.\d+)+)(?![\d.]*\d)"), _version),
    (re.compile(r"(?<=ersion )(?P<parts>\d+(?:\.\d+)+)(?![\d.]*\d)"), _version),
    (re.compile(r"(?<![\d.])(?P<parts>\d+\.\d+\.\d+)(?![\d.]*\d)"), _version),
    (re.compile(r"\b(?P<century>17|18|19|20)(?P<ten>\d)0['’]?s\b"), _decade),
    (re.compile(r"(?<!\w)['’]?(?P<century>)(?P<ten>[2-9])0s\b"), _decade),
    (re.compile(rf"(?<![\w.]){_NUMBER}\s?(?P<unit>{_names(_UNITS)})(?![\w/²³])"), _english_unit),
    (re.compile(r"\b24/7\b"), "twenty four seven"),
    (re.compile(r"#(?=\d)|\b[Nn]o\. ?(?=\d)|№ ?"), "number "),
    (re.compile(r"(\d%?) ?[-–~] ?(\d+%)"), r"\1 to \2"),
    (re.compile(r"(?<![\d-])(\d{3})-(\d{4})(?![\d-])"), lambda m: " ".join(m[1]) + ", " + " ".join(m[2])),
    (re.compile(r"(?<![\w)])±\s?(?=\d)"), "plus or minus "),
    (re.compile(r"(?<![\w)])\+(?=\d+(?![\d -]))"), "plus "),
    (re.compile(r"(?<![\w~])[~≈]\s?(?=\d)"), "about "),
    (re.compile(r"(\d)\^(\d)"), r"\1 to the power of \2"),
    (re.compile(r"(?<![\w$€£¥.,])(\d+(?:\.\d+)?)[kK]\b"), r"\1 thousand"),
    (re.compile(r"½"), "one half"),
    (re.compile(r"¼"), "one quarter"),
    (re.compile(r"¾"), "three quarters"),
    (re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,]*\d|\.\d|[-/])"), lambda m: _number(m[0].replace(",", ""))),
]

_DIGITS = "零一二三四五六七八九"


def _chinese_digits(text: str) -> str:
    return "".join(_DIGITS[int(c)] if c.isdigit() else c for c in text)


def _chinese_version(found: re.Match[str]) -> str:
    return "点".join(_below_hundred(part) for part in found["parts"].split("."))


def _below_hundred(digits: str) -> str:
    if len(digits) != 2 or digits.startswith("0"):
        return _chinese_digits(digits)
    tens, ones = divmod(int(digits), 10)
    return ("" if tens == 1 else _DIGITS[tens]) + "十" + (_DIGITS[ones] if ones else "")


_CHINESE_UNITS = {"W": "瓦", "kW": "千瓦", "V": "伏", "kWh": "千瓦时", "m/s": "米每秒", "μm": "微米"}
_CHINESE_UNITS |= {"Mbps": "兆比特每秒", "Gbps": "吉比特每秒"}
_CHINESE_SIGNS = {
    ".": "点",
    "/": "斜杠",
    "@": " at ",
    "-": "杠",
    "_": "下划线",
    ":": "冒号",
    "+": "加",
    "~": "波浪号",
}
_CHINESE: list[Rule] = [
    (_URL, _address(_CHINESE_SIGNS)),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"[￥¥]\s?(\d+(?:\.\d+)?[万亿]?)\s?元"), r"\1元"),
    (re.compile(r"时速\s?(\d+(?:\.\d+)?)\s?km/h"), r"时速\1公里"),
    (re.compile(r"(?<![A-Za-z])[vV](?P<parts>\d+(?:\.\d+)+)(?![\d.]*\d)"), lambda m: "V" + _chinese_version(m)),
    (re.compile(r"(?<![\d.])(?P<parts>\d+\.\d+\.\d+)(?![\d.]*\d)"), _chinese_version),
    (re.compile(r"(\d%)\s?[-–—~]\s?(\d)"), r"\1到\2"),
    (re.compile(r"(?<!\d)(\d{1,2}[:：]\d{2})\s?[AaＡ]\.?[MmＭ](?![A-Za-z])\.?"), r"上午\1"),
    (re.compile(r"(?<!\d)(\d{1,2}[:：]\d{2})\s?[PpＰ]\.?[MmＭ](?![A-Za-z])\.?"), r"下午\1"),
    (re.compile(r"\+86[ -]?(?=\d)"), "加八六，"),
    (re.compile(r"(?<=邮编)([:： ]?)(\d{6})(?!\d)"), lambda m: m[1] + _chinese_digits(m[2])),
    (re.compile(r"(?<!\d)(\d{3,4})(?=室|房|号房|号楼|航班|次列车|路公交)"), lambda m: _chinese_digits(m[1])),
    (re.compile(r"(?<!\d)(\d{3,4})[pP](?![A-Za-z])"), lambda m: _chinese_digits(m[1]) + "P"),
    (
        re.compile(rf"(?<=\d)\s?(?P<unit>{_names(_CHINESE_UNITS)})(?![\w/])", re.ASCII),
        lambda m: _CHINESE_UNITS[m["unit"]],
    ),
]
_RULES = {"en": _ENGLISH, "zh": _CHINESE, "yue": _CHINESE}

# Letters that belong to a number, whatever is written around it: `65kg`, `3:30 PM`, `v2.0`, `user@example.com`.
_ATOM = re.compile(
    r"(?<=\d)\s?(?:km/h|m/s|mph|[kcmdμµn]?m[²³23]?|k?g|mg|μg|m?[lL]|[KMGT]i?[Bb](?:ps)?|[kMG]?Hz|k?W(?:h)?|m?V|mAh"
    r"|℃|°[CF]|min|bn|pm|am|p\.m\.|a\.m\.|PM|AM|USD|EUR|GBP|CNY|RMB|JPY|st|nd|rd|th|[A-Za-z])(?![A-Za-z])"
    r"|(?<![A-Za-z])[vV](?=\d+\.\d)|(?<![A-Za-z])US(?=\$)|(?<![A-Za-z])[A-Za-z]{1,2}(?=\d{1,3}(?![A-Za-z\d.]))"
)
_WORTH = re.compile(r"[\d$€£¥￥%％℃°±²³½¼¾@#&+=<>~≈^№]|[A-Za-z]\.[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|St|Prof)\.")
_CUT = re.compile(r"(?<=[^\d\s][,;:.!?])\s+(?=[^\d\s])|(?<=[，。；：！？])(?=\D)")
_TOKEN = re.compile(r"[A-Za-zÀ-ɏ'’]+|\d+|\s+|.", re.DOTALL)


def normalized(text: str, language: str, grammars: dict[str, Grammar]) -> Spoken:
    """The text as it is said, run by run; where there is no grammar for a run, or it fails, as it stands.

    language: primary subtag that the text is believed to be in.
    """
    text = without_pictures(text)
    masked = _ATOM.sub(lambda m: "0" * len(m.group()), _URL.sub(lambda m: "0" * len(m.group()), text))
    out = ""
    starts: list[int] = []
    ends: list[int] = []
    for begin, past, spoken in _stretches(text, runs(masked, language)):
        raw = text[begin:past]
        for piece, start, end in _aligned(raw, _said(raw, spoken, grammars)):
            out += piece
            if end - start == len(piece) and raw[start:end] == piece:
                starts += range(begin + start, begin + end)
                ends += range(begin + start + 1, begin + end + 1)
            else:
                starts += [begin + start] * len(piece)
                ends += [begin + end] * len(piece)
    return Spoken(out, tuple(starts), tuple(ends))


def _stretches(text: str, found: list[Run]) -> Iterator[tuple[int, int, str]]:
    """Runs, cut where no number goes on: the grammar then sees only what it is for, and never holds up the other
    threads for long. (start, end, language)"""
    for run in found:
        start = run.start
        for cut in _CUT.finditer(text, run.start, run.end):
            if start < cut.end() < run.end:
                yield start, cut.end(), run.language
                start = cut.end()
        yield start, run.end, run.language


def _said(raw: str, language: str, grammars: dict[str, Grammar]) -> str:
    """One run, spelled out; or itself."""
    grammar = grammars.get("zh" if language == "yue" else language)
    if grammar is None or not _WORTH.search(raw) or len(raw) > LIMIT:
        return raw
    text = " ".join(raw.translate(_FULL_WIDTH).split())
    for pattern, said in _RULES[language]:
        text = pattern.sub(said, text)
    try:
        spelled = grammar.normalize(text)
    except Exception as error:  # whatever it is, the text must be spoken
        log.info("wetext fails on %r (%r): spoken as it stands", raw, error)
        return raw
    # The grammar escapes straight quotes.
    spelled = spelled.replace('\\"', '"').replace("\\", "").replace(".,", ",")
    if not spelled.strip() or len(spelled) > LONGER * len(raw) + 40:
        log.info("wetext makes %r of %r: spoken as it stands", spelled[:80], raw)
        return raw
    head, tail = raw[: len(raw) - len(raw.lstrip())], raw[len(raw.rstrip()) :]
    return head + spelled.strip() + tail


def _aligned(raw: str, said: str) -> list[tuple[str, int, int]]:
    """What is said in pieces, each with the stretch of the raw run that it stands for; they join to `said`."""
    if raw == said:
        return [(said, 0, len(raw))]
    old = [m.group() for m in _TOKEN.finditer(raw)]
    new = [m.group() for m in _TOKEN.finditer(said)]
    places = [0]
    for token in old:
        places.append(places[-1] + len(token))
    pieces: list[tuple[str, int, int]] = []
    for kind, a, b, c, d in SequenceMatcher(_blank, old, new, autojunk=False).get_opcodes():
        piece, start, end = "".join(new[c:d]), places[a], places[b]
        if kind == "delete":
            # It is heard with what stands before it (or behind, at the beginning).
            if pieces and pieces[-1][2] == start:
                pieces[-1] = (pieces[-1][0], pieces[-1][1], end)
        elif kind == "insert":
            pieces.append((piece, max(start - 1, 0), max(start, min(1, len(raw)))))
        else:
            pieces.append((piece, start, end))
    return pieces


def _blank(token: str) -> bool:
    return token.isspace()


# ---- for the providers --------------------------------------------------------------------------------------------


@lru_cache(1)
def load() -> dict[str, Grammar]:
    """The grammars; takes some 0.4 s and 60 MB. Empty where wetext is not installed, with a line in the log."""
    try:
        from wetext import Normalizer
    except ImportError as error:
        log.warning("numbers and dates are not spelled out: pip install 'visavis[tts]' (%s)", error)
        return {}
    grammars: dict[str, Grammar] = {
        "en": Normalizer(lang="en", operator="tn"),
        "zh": Normalizer(lang="zh", operator="tn"),
    }
    for grammar in grammars.values():
        grammar.normalize("1")  # reads its file
    return grammars


async def spelling() -> Callable[[Clause], Awaitable[Spoken]]:
    """What a voice is given for a clause, with the grammars loaded. One at a time; a long one in a thread (0.13 ms a
    character)."""
    grammars = await anyio.to_thread.run_sync(load)
    one = anyio.CapacityLimiter(1)

    async def spell(clause: Clause) -> Spoken:
        if not _WORTH.search(clause.text):
            return Spoken.plain(without_pictures(clause.text))
        language = primary(clause.language)
        if len(clause.text) <= AT_ONCE and not one.borrowed_tokens:
            return normalized(clause.text, language, grammars)
        return await anyio.to_thread.run_sync(normalized, clause.text, language, grammars, limiter=one)

    return spell
