"""What the server and a recogniser's worker process say to each other. A session's messages keep their order."""

import msgspec


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """Server -> worker, before anything else of a session, where the recogniser knows more than one language."""

    language: str
    """primary subtag"""
    hot_words: tuple[str, ...] = ()
    """words of this call that are easily misheard; bounded, see hotwords.py"""


class Audio(msgspec.Struct, tag="audio", frozen=True):
    """Server -> worker: the next piece of an utterance. A new number ends and forgets what was open before."""

    utterance: int
    pcm: bytes
    """s16le mono 16 kHz"""


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """Server -> worker: the text of all audio before this message; answered by Answer."""

    request: int
    utterance: int
    end: bool
    """whether the utterance is over; if not, it stays open and unharmed"""


class Forget(msgspec.Struct, tag="forget", frozen=True):
    """Server -> worker: nothing of this utterance is wanted any more, its waiting audio neither."""

    utterance: int


class Heard(msgspec.Struct, tag="heard", frozen=True):
    """Worker -> server: the open utterance's text has changed."""

    utterance: int
    text: str
    stable: int
    """characters at its beginning that later texts of this utterance keep"""


class Answer(msgspec.Struct, tag="answer", frozen=True):
    """Worker -> server."""

    request: int
    text: str
    stable: int
    lost_s: float
    """audio of this session that was too late to be decoded, so far"""


ToListener = Begin | Audio | Ask | Forget
FromListener = Heard | Answer
