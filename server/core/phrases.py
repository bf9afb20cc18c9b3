"""The few sentences that the house itself says, when a stage cannot."""

PHRASES: dict[str, dict[str, str]] = {
    "en": {
        "llm": "Sorry, I lost my train of thought. Please try again.",
        "llm_unreachable": "Sorry, I cannot reach my language model right now. Please try again in a moment.",
        "llm_timeout": "Sorry, that is taking too long. Please ask me again.",
        "llm_broken_off": "Sorry, I lost my train of thought there.",
        "llm_refused": "Sorry, my language model refused to answer.",
        "asr": "I cannot understand speech in this call. Please write to me.",
        "render": "My face is not available right now, but I can hear you.",
        "tts": "My voice is not available right now. You can read what I say.",
        "internal": "Sorry, something went wrong on my side.",
        "watchdog": "Sorry, that took too long. Could you say it again?",
        "spare_voice": "a spare voice is speaking",
    },
    "zh": {
        "llm": "抱歉，我刚才走神了，请再说一遍。",
        "llm_unreachable": "抱歉，我现在连不上语言模型，请稍后再试。",
        "llm_timeout": "抱歉，这个问题花的时间太长了，请再问一次。",
        "llm_broken_off": "抱歉，我的思路断了。",
        "llm_refused": "抱歉，语言模型拒绝了回答。",
        "asr": "这次通话我听不懂语音，请打字给我。",
        "render": "我的画面暂时不可用，但我听得见。",
        "tts": "我现在发不出声音，请看文字。",
        "internal": "抱歉，我这边出了点问题。",
        "watchdog": "抱歉，刚才太久了，请您再说一遍好吗？",
        "spare_voice": "正在使用备用声音",
    },
}

# Said while a function takes long: at first, then again, the last one over and over.
FILLERS: dict[str, tuple[str, ...]] = {
    "en": ("One moment, please.", "I am still looking.", "This takes a little longer.", "Just a moment more."),
    "zh": ("请稍等一下。", "我还在查。", "这个要花一点时间。", "再等一会儿。"),
}

# Said at the start, to nobody, so that no caller waits for what is loaded with the first sentence.
WARM_UP: dict[str, str] = {"en": "Hello, how are you today?", "zh": "你好，你今天好吗？"}


def filler(number: int, language: str) -> str:
    """The sentence for the time that a function takes; `number`: how many have been said already."""
    known = FILLERS.get(language, FILLERS["en"])
    return known[min(number, len(known) - 1)]


def phrase(code: str, language: str) -> str:
    """The sentence for an error code (its stage's general one if the code has none of its own)."""
    known = PHRASES.get(language, PHRASES["en"])
    return known.get(code) or known.get(code.partition("_")[0]) or known["llm"]
