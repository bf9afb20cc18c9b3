"""What flows through the corridor: sound, text and picture, and the units they are counted in."""

from dataclasses import dataclass, field, replace
from typing import NewType

from server.core.tools import ToolCall

Samples = NewType("Samples", int)
"""A point in, or a length of, a call's media time, counted in samples of 48 kHz since the call's origin."""

MEDIA_RATE = 48_000  # Hz: Opus's clock, and the unit of media time
MIC_RATE = 16_000  # Hz: what VAD and ASR hear
VIDEO_FPS = 25
FRAME_SAMPLES = MEDIA_RATE // VIDEO_FPS  # 1920: video frame k owns samples [1920 k, 1920 (k + 1))
PACKET_SAMPLES = MEDIA_RATE // 50  # 960: one Opus packet, 20 ms
MIC_FRAME_SAMPLES = MIC_RATE // 50  # 320: one VAD decision, 20 ms
MIC_FRAME_BYTES = 2 * MIC_FRAME_SAMPLES
SAMPLE_BYTES = 2  # s16le mono everywhere inside the house


@dataclass(frozen=True, slots=True)
class MicFrame:
    """20 ms of the person's voice."""

    pcm: bytes
    """s16le mono 16 kHz, MIC_FRAME_BYTES long"""
    end_s: float
    """loop time of the frame's last sample, transport delay included (when we got it)"""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the person said, so far or for good."""

    text: str
    stable: int = 0
    """length of the prefix of `text`, in characters, that later results will not change"""
    final: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the language model's answer, as it streams."""

    text: str
    call: ToolCall | None = None
    """a function that it wants called; such a piece has no text"""


@dataclass(frozen=True, slots=True)
class Clause:
    """A piece of a reply that is spoken in one go."""

    index: int
    """0, 1, 2 ... within its reply"""
    text: str
    """what the voice is given: no markdown, no emoji, no URL syntax"""
    raw: str
    """the reply's own text that this clause covers, white space included: clauses' raws join to the reply"""
    language: str
    """BCP 47 primary subtag by the script; Latin script keeps the persona's: what the voice must be able to say"""
    ahead_s: float = field(default=0.0, compare=False)
    """how much voice will be heard before it, when it is asked for: for so long it may be held back and made again"""


VISEMES = ("sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "ih", "EE", "oh", "ou")
"""The mouth shapes of the portraits: the fifteen of the Oculus/MPEG-4 set, `EE` beside `ih` for /i:/."""


@dataclass(frozen=True, slots=True)
class Phone:
    """One phoneme of a voice, when it is said and what the mouth does."""

    symbol: str
    """as the voice names it (IPA, or CMU's letters)"""
    viseme: str
    """one of VISEMES"""
    start: int
    end: int
    """samples of the Speech's own rate, from its first sample; start may be negative after a trim"""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a clause and when it is said."""

    char_start: int
    char_end: int
    """the word's place in Clause.raw"""
    start: int
    end: int
    """samples of the Speech's own rate, from its first sample"""


@dataclass(frozen=True, slots=True)
class Speech:
    """A piece of voice: a whole clause, or a part of one in the order it is made."""

    clause: Clause
    pcm: bytes
    """s16le mono"""
    rate: int
    """Hz"""
    phones: tuple[Phone, ...] = ()
    """empty where the voice does not know them: the renderer then listens to the sound"""
    words: tuple[Word, ...] = ()
    """empty where the voice does not know them: what was heard is then cut in proportion"""
    last: bool = True
    """whether the clause ends with this piece"""
    note: str = ""
    """something the caption must say about this piece ("a spare voice is speaking")"""

    @property
    def samples(self) -> int:
        """length at its own rate"""
        return len(self.pcm) // SAMPLE_BYTES

    def after(self, samples: int) -> "Speech":
        """The rest of this piece after its first `samples`; timings move along and may become negative."""
        if samples <= 0:
            return self
        return replace(
            self,
            pcm=self.pcm[samples * SAMPLE_BYTES :],
            phones=tuple(
                replace(p, start=p.start - samples, end=p.end - samples) for p in self.phones if p.end > samples
            ),
            words=tuple(
                replace(w, start=w.start - samples, end=w.end - samples) for w in self.words if w.end > samples
            ),
        )


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One picture, encoded: it owns samples [FRAME_SAMPLES * index, FRAME_SAMPLES * (index + 1))."""

    index: int
    data: bytes
    """H.264 Annex B access unit, or one VP8 frame"""
    key: bool
    generation: int = 0
    """whose voice moves the lips; 0: nobody speaks"""
    painted_s: float = 0.0
    """loop time at which it was ready; for metrics"""
    reduced: bool = False
    """whether it is smaller than it should be, because the renderer's machine is too slow"""


@dataclass(frozen=True, slots=True)
class Voice:
    """Who says it and how."""

    name: str = ""
    """a voice the engine knows; empty: the engine's default for the clause's language"""
    speed: float = 1.0
    """1 = the voice's own pace; 0.5 to 2"""


@dataclass(frozen=True, slots=True)
class Persona:
    """The character that answers."""

    name: str
    title: str = ""
    """what it calls itself"""
    language: str = "en"
    system_prompt: str = ""
    voices: tuple[str, ...] = ()
    """in order of preference: the first that the voice engine has"""
    avatar: str = ""
    """its face; empty: the first there is"""
    opening: str = ""
    """what it says first, unasked; empty: it waits"""
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class AvatarInfo:
    """A face that a renderer offers."""

    name: str
    width: int
    height: int
    title: str = ""
    poster: bytes = field(default=b"", repr=False)
    """a JPEG still for the page to show before the call"""
    alpha: bool = False
    """whether it can come with its matte"""
