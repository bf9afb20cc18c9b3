"""Sums as people say them: finds the numbers and signs in words, English or Chinese, and works them out."""

import re
from fractions import Fraction

Terms = list[Fraction | str]
"""number, sign, number, sign ... number; the signs are `+ - * /`"""

LARGEST = 10**12
SAID = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
SAID_ZH = {"+": "加", "-": "减", "*": "乘以", "/": "除以"}

_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_ONES = {word: value for value, word in enumerate(_TO_NINETEEN.split())} | {"nought": 0, "dozen": 12}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SCALES = {"hundred": 100, "hundreds": 100, "thousand": 1000, "thousands": 1000, "million": 1_000_000}
_SIGNS = {
    "plus": "+", "add": "+", "added": "+", "+": "+", "minus": "-", "less": "-", "subtract": "-", "-": "-", "−": "-",
    "times": "*", "time": "*", "multiplied": "*", "multiply": "*", "x": "*", "*": "*", "×": "*",
    "divided": "/", "divide": "/", "devided": "/", "over": "/", "/": "/", "÷": "/",
}  # fmt: skip
# What a recogniser makes of a number; believed only beside a sign or behind twenty, thirty ...
_SOUNDS_LIKE = {
    "won": 1, "to": 2, "too": 2, "tree": 3, "free": 3, "for": 4, "fore": 4, "sicks": 6, "heaven": 7, "ate": 8,
    "age": 8, "hate": 8, "a": 8, "mine": 9, "tin": 10,
}  # fmt: skip
_GLUE = ("by", "from", "with", "and", "the", "to", "")
_ZH_SIGNS = {"加上": "+", "加": "+", "减去": "-", "减": "-", "乘以": "*", "乘": "*", "除以": "/", "÷": "/", "×": "*"}
_ZH_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_ZH_SCALES = {"十": 10, "百": 100, "千": 1000}


def find_sum(text: str) -> Terms | None:
    """The sum in a sentence, or None if there is none."""
    chinese = re.search(r"[\u4e00-\u9fff]", text) is not None
    atoms = _zh_atoms(text) if chinese else _en_atoms(text)
    if not chinese and (terms := _order(atoms, text.lower())):
        return terms
    best: Terms = []
    for start in range(len(atoms)):
        terms = []
        for atom in atoms[start:]:
            if atom is None or isinstance(atom, str) != bool(len(terms) % 2):
                break
            terms.append(atom)
        terms = terms if len(terms) % 2 else terms[:-1]
        best = max(best, terms, key=len)
    return best if len(best) >= 3 else None


def work_out(terms: Terms) -> Fraction | None:
    """The sum's value, multiplication first; None for a division by zero or a number too large to say."""
    summed, product, sign = Fraction(0), Fraction(0), "+"
    for term in terms:
        if isinstance(term, str):
            sign = term
        elif sign in "+-":
            summed, product = summed + product, term if sign == "+" else -term
        elif sign == "*":
            product *= term
        elif term:
            product /= term
        else:
            return None
    value = summed + product
    return value if abs(value) < LARGEST else None


def written(value: Fraction) -> str:
    """A number to be read aloud, with at most three decimals."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.3f}".rstrip("0").rstrip(".")


def _order(atoms: list[Fraction | str | None], text: str) -> Terms | None:
    """`multiply six by seven`, `subtract three from ten`, `the sum of two and three`."""
    if re.search(r"\bsum of\b", text):
        numbers = [atom for atom in atoms if isinstance(atom, Fraction)]
        return [numbers[0], "+", numbers[1]] if len(numbers) == 2 else None
    for i, atom in enumerate(atoms[:-2]):
        sign, first, second = atoms[i : i + 3]
        alone = i == 0 or not isinstance(atoms[i - 1], Fraction)
        if isinstance(sign, str) and isinstance(first, Fraction) and isinstance(second, Fraction) and alone:
            return [second, sign, first] if atom == "-" and " from " in text else [first, sign, second]
    return None


def _en_atoms(text: str) -> list[Fraction | str | None]:
    """Numbers, signs and (None) everything else, in order."""
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text.lower())  # twenty-five
    words = re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?|[a-z']+|[-+*/×÷−]", text)
    atoms: list[Fraction | str | None] = []
    run: list[str] = []
    for i, word in enumerate([*words, ""]):
        before = words[i - 1] if i else ""
        after = words[i + 1] if i + 1 < len(words) else ""
        if _is_number(word, before, after):
            run.append(word)
            continue
        if run:
            atoms.append(_number(run))
            run = []
        if word in _SIGNS:
            atoms.append(_SIGNS[word])
        elif word not in _GLUE:
            atoms.append(None)
    return atoms


def _is_number(word: str, before: str, after: str) -> bool:
    """Whether a word belongs to a number, given its neighbours."""
    if word in _ONES or word in _TENS or word in _SCALES or word[:1].isdigit():
        return True
    if word == "and":  # a hundred and five
        return before in _SCALES and (after in _ONES or after in _TENS)
    if word == "a" and (after in _SCALES or after == "dozen"):
        return True
    signed = before in _SIGNS or (before == "by") or after in _SIGNS
    return word in _SOUNDS_LIKE and word not in (() if signed else ("a", "to", "for")) and (signed or before in _TENS)


def _number(words: list[str]) -> Fraction:
    """`two thousand one hundred and five`; digits said one by one (`four two`) stand side by side."""
    total, part = Fraction(0), Fraction(0)
    for i, word in enumerate(words):
        if word[0].isdigit():
            part += Fraction(word.replace(",", ""))
        elif word in _SCALES:
            part = (part or Fraction(1)) * _SCALES[word]
            if _SCALES[word] > 100:
                total, part = total + part, Fraction(0)
        elif word in _TENS:
            part += _TENS[word]
        elif word != "and" and not (word == "a" and i + 1 < len(words)):
            ones = _ONES.get(word, _SOUNDS_LIKE.get(word, 0))
            part = part * 10 + ones if 0 < part % 100 < 10 and ones < 10 else part + ones
    return total + part


def _zh_atoms(text: str) -> list[Fraction | str | None]:
    for word, sign in _ZH_SIGNS.items():
        text = text.replace(word, f" {sign} ")
    atoms: list[Fraction | str | None] = []
    for found in re.finditer(r"\d+(?:\.\d+)?|[零〇一二两三四五六七八九十百千万]+|[-+*/]|[^\s\d]", text):
        word = found.group()
        if word in SAID:
            atoms.append(word)
        elif word[0].isdigit():
            atoms.append(Fraction(word))
        elif word[0] in _ZH_DIGITS or word[0] in _ZH_SCALES:
            atoms.append(Fraction(_zh_number(word)))
        else:
            atoms.append(None)
    return atoms


def _zh_number(word: str) -> int:
    total, part, digit = 0, 0, 0
    for char in word:
        if char in _ZH_DIGITS:
            digit = digit * 10 + _ZH_DIGITS[char]
        elif char == "万":
            total, part, digit = total + (part + digit) * 10_000, 0, 0
        else:
            part, digit = part + max(digit, 1) * _ZH_SCALES[char], 0
    return total + part + digit
