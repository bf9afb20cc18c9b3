"""Hearing whether somebody speaks: the voice detector of WebRTC (GMM, 2 to 17 us a frame)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from server.core.errors import StageError
from server.core.media import MIC_FRAME_BYTES, MIC_RATE

if TYPE_CHECKING:
    import webrtcvad

# A fresh detector calls any noise speech, and one that only knew quiet noise calls louder noise speech for ever.
# Measured: after half a second at -30 dBFS, noise from -60 to -30 dBFS is rejected and speech at -30 dB still heard.
WARM_S = 0.5
WARM_DBFS = -30.0


class WebrtcVadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="webrtcvad"):
    """The voice detector of WebRTC."""

    mode: int = 2
    """0 hears most speech, 3 lets the least noise through"""

    def __post_init__(self) -> None:
        if not 0 <= self.mode <= 3:
            raise ValueError("mode must be 0, 1, 2 or 3")

    @asynccontextmanager
    async def load(self) -> AsyncIterator["WebrtcVad"]:
        """Raises StageError if the package is not there."""
        try:
            import webrtcvad  # noqa: F401
        except ImportError as error:
            raise StageError(
                "vad", "vad_missing", f"webrtcvad cannot be loaded ({error}): pip install webrtcvad-wheels", False
            ) from error
        yield WebrtcVad(self.mode)


class WebrtcVad:
    """Shared by all calls; there is nothing to share but the warming noise."""

    def __init__(self, mode: int) -> None:
        self._mode = mode
        noise = np.random.default_rng(0).standard_normal(round(WARM_S * MIC_RATE)) * 32768 * 10 ** (WARM_DBFS / 20)
        self._noise = noise.clip(-32768, 32767).astype(np.int16).tobytes()

    def open(self) -> "WebrtcVadSession":
        import webrtcvad

        session = WebrtcVadSession(webrtcvad.Vad(self._mode))
        for start in range(0, len(self._noise), MIC_FRAME_BYTES):
            session.process(self._noise[start : start + MIC_FRAME_BYTES])
        return session


class WebrtcVadSession:
    """One call's detector; it adapts to its microphone."""

    def __init__(self, vad: "webrtcvad.Vad") -> None:
        self._vad = vad

    def process(self, pcm: bytes) -> bool:
        """Whether these 20 ms (s16le mono 16 kHz) hold speech. Raises ValueError for another length."""
        if len(pcm) != MIC_FRAME_BYTES:
            raise ValueError(f"a frame has {MIC_FRAME_BYTES} bytes, not {len(pcm)}")
        return bool(self._vad.is_speech(pcm, MIC_RATE))
