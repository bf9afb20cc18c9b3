"""How many tokens a text is likely to cost, without any model's tokenizer."""

import re
from dataclasses import dataclass

from server.core.spoken import CJK

MESSAGE_TOKENS = 4
"""what a chat template puts around each message"""

# Characters that make one token. CJK: tokenizers of today need 0.6 to 1.2 a character. English: most words are one,
# long ones a token for six letters. Digits come in threes, other scripts in twos, and every sign is one of its own.
_PIECE = re.compile(rf"([{CJK}\uff00-\uffef\u3000-\u303f])|([A-Za-z]+)|(\d+)|([^\W\d_]+)|(\S)")
_LATIN, _DIGITS, _LETTERS = 6, 3, 2


def tokens(text: str) -> int:
    """An estimate, rather too high than too low."""
    count = 0
    for _, latin, digits, letters, _ in _PIECE.findall(text):
        if latin:
            count += -(-len(latin) // _LATIN)
        elif digits:
            count += -(-len(digits) // _DIGITS)
        else:
            count += -(-len(letters) // _LETTERS) or 1
    return count


@dataclass(slots=True)
class Usage:
    """What replies have cost, as the language model's server counts it."""

    replies: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """of the prompts' tokens, those that the server knew already"""
    answer_tokens: int = 0

    def add(self, prompt: int, cached: int, answer: int) -> None:
        """One request to it."""
        self.replies += 1
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.answer_tokens += answer
