"""A call's voice as the motion nets want it: one code a frame, encoded once, and again where the voice has changed.

The encoder is a stream with a memory (how loud the voice is); its state is kept for the last frames, so that a voice
that was cut, or came late, is encoded anew from where it changed and is then what a whole clip would have given.
"""

from collections import deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from render.avatar import Avatar, AvatarError
from render.features import MelEncoder
from render.motion.tables import WINDOW, WINDOW_BEFORE
from render.score import Score
from server.core.errors import VisavisError
from server.core.media import FRAME_SAMPLES

Floats = NDArray[np.float32]
Codes = Callable[[Floats], Floats]
Opening = Callable[[Floats], Floats]
"""Features (n, width, steps) -> (n,): how far apart the lips are, 1 for what is usual in speech."""

AHEAD = WINDOW - 1 - WINDOW_BEFORE  # frames behind the shown one whose codes belong to its window
REMEMBERED = 16  # frames whose state is kept: what comes later than that no longer moves the lips
SKIPPED = 100  # frames that may be left out and are still listened to; after a longer gap the encoder starts anew
FACTOR = 3  # 48 kHz to 16 kHz
TAPS = 97  # of the filter before every third sample is taken: 60 dB down at 8 kHz
MARGIN = TAPS // 2  # samples that the filter sees beyond a frame, on either side

QUIET = 33.0  # RMS of 32768, -60 dBFS: a frame of voice below this is silence
CLOSING = (3, 7)  # frames after the last sound between which the mouth comes to rest whatever the encoder says

TOUCHING = (0.0, 0.15)
"""Lips that should be nearer than the first, as a share of what is usual, touch; farther than the second, they do as
the field says. A field fitted to few moments opens a little where it is unsure, and an `m` would show teeth."""


def closing(windows: Floats, openings: Floats, rest: Floats) -> Floats:
    """Codes (n, WINDOW, 2, CODE) with the lips closed where they should touch.

    openings: (n,), see `Opening`, of the features of the same frames as the windows' last; rest (2, CODE): of a
    closed mouth.
    """
    least, most = TOUCHING
    share = np.clip((most - openings) / (most - least), 0, 1)
    share = (share * share * (3 - 2 * share))[:, None, None, None]
    return np.asarray((1 - share) * windows + share * rest, np.float32)


class Stream(Protocol):
    """Sound at 16 kHz in, features out; feature j comes with the first push that completes 640 * j samples."""

    def push(self, pcm16k: Floats) -> Floats:
        """(n,) -> the features (k, width, steps) that it completes; the first push brings one more."""
        ...

    def fork(self) -> Self:
        """Another one in the same state."""
        ...


@dataclass(frozen=True, slots=True)
class Listener:
    """What an avatar listens with: one serves all calls."""

    stream: Callable[[], Stream]
    opening: Opening | None = None
    """None where it was not taught to tell"""

    def rest(self, codes: Codes) -> Floats:
        """(2, CODE): the code of a silence that has lasted."""
        stream, features = self.stream(), np.zeros(0, np.float32)
        while not len(features):
            features = stream.push(np.zeros(FRAME_SAMPLES // FACTOR, np.float32))
        return np.asarray(codes(features[:1])[0], np.float32)


BROUGHT = {"ave": "audio_visual_encoder.pth", "hubert": "hubert"}
"""extractors whose weights a user brings, and what they are called in the folder that holds them"""


def listener(avatar: Avatar, brought: Path | None = None) -> Listener:
    """brought: the folder with other extractors' weights. Raises AvatarError where what the avatar listens with is
    not there."""
    name = avatar.audio.name
    try:
        if name == "mel":
            encoder = MelEncoder.of_tensors(avatar.encoder)
            return Listener(encoder.stream, encoder.opening)
        if brought is not None and name in BROUGHT and (brought / BROUGHT[name]).exists():
            # Late: they take torch.
            from render.extractors import AveEncoder, HubertEncoder

            path = brought / BROUGHT[name]
            other = AveEncoder.of_file(path) if name == "ave" else HubertEncoder.of_folder(path)
            return Listener(lambda: _Forking(other.stream()))
    except ModuleNotFoundError as error:
        what = f"{avatar.title} listens to {name}, which needs {error.name}"
        raise AvatarError("avatar_audio", f"{what}. pip install 'visavis[train]' brings it.") from error
    except VisavisError as error:
        raise AvatarError("avatar_audio", f"{avatar.title}: {error.message}") from error
    remedy = "That extractor is not here: train the person again with visavis."
    if name in BROUGHT:
        remedy = f"Put its weights, {BROUGHT[name]}, into a folder and name that as render.extractors."
    raise AvatarError("avatar_audio", f"{avatar.title} listens to {name}, for which there are no weights. {remedy}")


class _Forking:
    """Another's stream that can be copied: it replaces its arrays and never writes to them."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def push(self, pcm16k: Floats) -> Floats:
        return np.asarray(self._stream.push(pcm16k), np.float32)

    def fork(self) -> "_Forking":
        twin = copy(self._stream)
        for name, value in vars(twin).items():
            if hasattr(value, "push"):
                setattr(twin, name, copy(value))
        return _Forking(twin)


@cache
def _filter() -> Floats:
    """A sinc with its edge at 7.4 kHz in a Kaiser window, which makes no delay: (TAPS,)."""
    n = np.arange(TAPS) - MARGIN
    taps = np.sinc(n * 2 * 7400 / 48000) * np.kaiser(TAPS, 5.65)
    return np.asarray(taps / taps.sum(), np.float32)


def thirds(pcm48k: NDArray[np.int16]) -> Floats:
    """Samples (3 n + 2 * MARGIN,) at 48 kHz -> (n,) at 16 kHz, full scale 1; the first lies at sample MARGIN."""
    if not pcm48k.any():
        return np.zeros((len(pcm48k) - 2 * MARGIN) // FACTOR, np.float32)
    spans = sliding_window_view(pcm48k.astype(np.float32), TAPS)[::FACTOR]
    return np.asarray(spans[: (len(pcm48k) - 2 * MARGIN) // FACTOR] @ (_filter() / np.float32(32768)), np.float32)


@dataclass(frozen=True, slots=True)
class _State:
    """The encoder before it hears frame `frame`."""

    frame: int
    feature: int
    """the feature that comes next"""
    stream: Stream


class Hearing:
    """One call's codes. Frames are asked for in rising order; some may be left out."""

    def __init__(
        self, score: Score, stream: Callable[[], Stream], codes: Codes, rest: Floats, opening: Opening | None = None
    ) -> None:
        """codes: features (n, width, steps) -> (n, 2, CODE); rest: (2, CODE), of silence."""
        self._score = score
        self._stream = stream
        self._to_codes = codes
        self._rest = rest
        self._opening = opening
        self._states: deque[_State] = deque()
        self._codes: dict[int, Floats] = {}
        self._openings: dict[int, float] = {}
        self._loud: dict[int, bool] = {}

    def window(self, index: int) -> Floats:
        """The codes of frames index - 4 to index + 3, (8, 2, CODE), of the voice as it is known now."""
        self._revise()
        if not self._states or index - self._states[-1].frame > SKIPPED or index < self._states[0].frame:
            self._states.clear()
            self._codes.clear()
            self._openings.clear()
            start = max(index - REMEMBERED, 0)
            self._states.append(_State(start, start, self._stream()))
        while self._states[-1].feature <= index + AHEAD:
            self._listen()
        while self._states[0].frame < index - REMEMBERED:
            self._states.popleft()
        self._codes = {k: code for k, code in self._codes.items() if k >= index - 2 * WINDOW}
        self._openings = {k: o for k, o in self._openings.items() if k in self._codes}
        heard = np.stack([self._codes.get(k, self._rest) for k in range(index - WINDOW_BEFORE, index + AHEAD + 1)])
        if index + AHEAD in self._openings:
            heard = closing(heard[None], np.array([self._openings[index + AHEAD]]), self._rest)[0]
        settled = np.float32(self._settled(index))
        return np.asarray((1 - settled) * heard + settled * self._rest, np.float32)

    def _revise(self) -> None:
        """Forget what was encoded of a voice that is another now."""
        changed = self._score.take_change()
        if changed is None:
            return
        frame = (changed - MARGIN) // FRAME_SAMPLES
        self._loud = {k: loud for k, loud in self._loud.items() if k < frame}
        if not self._states:
            return
        while len(self._states) > 1 and self._states[-1].frame > frame:
            self._states.pop()
        first = self._states[-1].feature
        self._codes = {k: code for k, code in self._codes.items() if k < first}

    def _listen(self) -> None:
        """One more frame of voice into the encoder."""
        last = self._states[-1]
        stream = last.stream.fork()
        start = last.frame * FRAME_SAMPLES
        sound = self._score.between(start - MARGIN, start + FRAME_SAMPLES + MARGIN)
        features = stream.push(thirds(sound))
        if len(features):
            for k, code in enumerate(self._to_codes(features)):
                self._codes[last.feature + k] = code
            if self._opening is not None:
                for k, opening in enumerate(self._opening(features)):
                    self._openings[last.feature + k] = float(opening)
        self._states.append(_State(last.frame + 1, last.feature + len(features), stream))

    def _settled(self, index: int) -> float:
        """How far the mouth is at rest because nothing is heard, 0 to 1; it stirs before the next sound begins."""
        since, until = CLOSING[1], AHEAD
        for k in range(AHEAD):
            if self._is_loud(index + k):
                until = k
                break
        for k in range(1, CLOSING[1]):
            if self._is_loud(index - k):
                since = k
                break
        rest = min(max((since - CLOSING[0]) / (CLOSING[1] - CLOSING[0]), 0.0), 1.0)
        return rest * rest * (3 - 2 * rest) * until / AHEAD

    def _is_loud(self, index: int) -> bool:
        known = self._loud.get(index)
        if known is None:
            sound = self._score.sound(index).astype(np.float32)
            known = self._loud[index] = bool(np.sqrt(np.mean(sound * sound)) >= QUIET)
            self._loud.pop(index - 2 * REMEMBERED, None)
        return known
