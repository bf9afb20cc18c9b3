"""What CosyVoice's language model is given: marks that keep it from babbling, prefixes for its generation 3."""

ASSISTANT = "You are a helpful assistant."
END_OF_PROMPT = "<|endofprompt|>"
STOPS = ".!?…。！？"
CLOSERS = "\"'”’)]}」』）》】"
CJK = ("\u2e80", "\u9fff")


def sayable(text: str) -> str:
    """The text as it is said: no control tokens of the model's, a closing mark (without one it goes on babbling)."""
    text = " ".join(text.replace("<|", " ").replace("|>", " ").split())
    bare = text.rstrip(CLOSERS)
    if not bare or bare[-1] in STOPS:
        return text
    stop = "。" if CJK[0] <= bare[-1] <= CJK[1] or bare[-1] in "，；：、" else "."
    return bare.rstrip(",;:，；：、 ") + stop + text[len(bare) :]


def transcript(text: str, generation: int) -> str:
    """The prompt's words. Generation 3 refuses a prompt without its prefix."""
    text = " ".join(text.replace("<|", " ").replace("|>", " ").split())
    return f"{ASSISTANT}{END_OF_PROMPT}{text}" if generation >= 3 else text


def without_prompt(text: str, generation: int) -> str:
    """The text where no prompt comes before it (cross-lingual, saved speakers)."""
    return f"{ASSISTANT}{END_OF_PROMPT}{text}" if generation >= 3 else text


def instruction(text: str, generation: int) -> str:
    """How to speak, in the place of the prompt's words."""
    text = " ".join(text.replace("<|", " ").replace("|>", " ").split())
    return f"{ASSISTANT} {text}{END_OF_PROMPT}" if generation >= 3 else f"{text}{END_OF_PROMPT}"
