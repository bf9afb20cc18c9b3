"""The voice gate: turns the detector's 20 ms decisions and the level into when a voice started and stopped."""

from collections import deque

import numpy as np

from server.core.events import VoiceStarted, VoiceStopped
from server.core.media import MIC_FRAME_SAMPLES, MIC_RATE

FRAME_S = MIC_FRAME_SAMPLES / MIC_RATE
SILENCE_DBFS = -96.0  # below one bit of 16
FULL_SCALE = 32768.0


def level_dbfs(pcm: bytes) -> float:
    """RMS level of s16le mono in dB relative to full scale (a full-scale square wave is 0); -96 for silence."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    if samples.size == 0:
        return SILENCE_DBFS
    power = float(samples @ samples) / samples.size / FULL_SCALE**2
    return max(10.0 * float(np.log10(power)), SILENCE_DBFS) if power > 0.0 else SILENCE_DBFS


class VoiceGate:
    """Pure; one per call. Feed it every frame of the microphone in order.

    A frame is voiced if the detector says speech, its level is above the gate and the sound is not steady.
    The gate is the highest of an absolute floor, the noise floor plus a margin (minimum statistics: the quietest
    frame of the last seconds; R. Martin, "Noise power spectral density estimation based on optimal smoothing and
    minimum statistics", 2001), and the recent speech peak less a range: webrtcvad goes on saying speech for 100 to
    140 ms after the last loud sample. Steady sound (hum, hiss) varies by less than speech ever does for long.
    """

    def __init__(
        self,
        *,
        floor_dbfs: float = -50.0,
        hold_db: float = 8.0,
        noise_margin_db: float = 8.0,
        noise_window_s: float = 2.0,
        range_db: float = 35.0,
        peak_fall_db_per_s: float = 3.0,
        steady_db: float = 2.0,
        steady_s: float = 0.16,
        start_voiced_s: float = 0.06,
        start_window_s: float = 0.1,
        start_variation_db: float = 1.5,
        stop_s: float = 0.1,
        hole_s: float = 0.5,
    ) -> None:
        """Frames below any of `floor_dbfs`, noise + `noise_margin_db`, peak - `range_db` are silence.

        A voice that has started may fall `hold_db` below the floor: its last sounds are its quietest. The noise is
        the quietest frame of `noise_window_s`; the peak falls by `peak_fall_db_per_s`. Sound whose level stayed
        within `steady_db` for `steady_s` is no speech. A voice starts with `start_voiced_s` of voiced frames in
        `start_window_s`, unless their levels (the first apart) vary by less than `start_variation_db`; it stops
        after `stop_s` without a voiced frame, or at a hole in the microphone's time of more than `hole_s`.
        """
        self._floor = floor_dbfs
        self._hold = hold_db
        self._margin = noise_margin_db
        self._range = range_db
        self._peak_fall = peak_fall_db_per_s * FRAME_S
        self._steady = steady_db
        self._variation = start_variation_db
        self._start_voiced = round(start_voiced_s / FRAME_S)
        self._start_window = round(start_window_s / FRAME_S)
        self._stop_frames = round(stop_s / FRAME_S)
        self._hole_s = hole_s
        # Four blocks of minima slide over the window at the price of one comparison a frame.
        self._block_frames = max(round(noise_window_s / FRAME_S / 4), 1)
        self._minima: deque[float] = deque(maxlen=4)
        self._minimum = 0.0
        self._block_left = self._block_frames
        self._levels: deque[float] = deque([SILENCE_DBFS], maxlen=round(steady_s / FRAME_S))
        self._peak = SILENCE_DBFS
        self._run: list[tuple[bool, float, float]] = []  # (voiced, start of the frame, level) of a beginning voice
        self._speaking = False
        self._voiced_end = 0.0
        self._unvoiced = 0
        self._end = 0.0

    @property
    def gate_dbfs(self) -> float:
        """What a frame must exceed now."""
        noise = min(*self._minima, self._minimum) if self._minima else SILENCE_DBFS
        floor = self._floor - self._hold if self._speaking else self._floor
        return max(floor, noise + self._margin, self._peak - self._range)

    @property
    def speaking(self) -> bool:
        return self._speaking

    def feed(self, pcm: bytes, speech: bool, end_s: float) -> list[VoiceStarted | VoiceStopped]:
        """One frame of 20 ms (s16le mono 16 kHz), the detector's word on it, and the loop time of its end."""
        told: list[VoiceStarted | VoiceStopped] = []
        if end_s - self._end > self._hole_s:
            self._run.clear()
            if self._speaking:
                self._speaking = False
                told.append(VoiceStopped(self._voiced_end))
        self._end = end_s
        voiced = self._judge(level_dbfs(pcm), speech)
        if voiced:
            self._voiced_end = end_s
            self._unvoiced = 0
        else:
            self._unvoiced += 1
        if self._speaking:
            if self._unvoiced >= self._stop_frames:
                self._speaking = False
                told.append(VoiceStopped(self._voiced_end))
        elif (at := self._begin(voiced, end_s)) is not None:
            self._speaking = True
            told.append(VoiceStarted(at))
        return told

    def _judge(self, level: float, speech: bool) -> bool:
        """Whether the frame is voiced; follows the noise, the peak and the steadiness."""
        self._minimum = min(self._minimum, level)
        self._block_left -= 1
        if self._block_left == 0:
            self._minima.append(self._minimum)
            self._minimum = 0.0
            self._block_left = self._block_frames
        before = self._levels[-1]
        self._levels.append(level)
        steady = len(self._levels) == self._levels.maxlen and max(self._levels) - min(self._levels) < self._steady
        voiced = speech and not steady and level > self.gate_dbfs
        self._peak -= self._peak_fall
        if voiced:
            # The quieter of two neighbours: a click must not raise the gate over the speech after it.
            self._peak = max(self._peak, min(level, before))
        return voiced

    def _begin(self, voiced: bool, end_s: float) -> float | None:
        """The start of the first voiced frame once there are enough of them; None until then."""
        if not self._run and not voiced:
            return None
        self._run.append((voiced, end_s - FRAME_S, self._levels[-1]))
        if sum(v for v, _, _ in self._run[-self._start_window :]) < self._start_voiced:
            # Forget frames from which no voice can begin any more.
            del self._run[: -self._start_window + 1]
            while self._run and not self._run[0][0]:
                del self._run[0]
            return None
        levels = [level for v, _, level in self._run if v][1:]
        if levels and max(levels) - min(levels) < self._variation:
            del self._run[: -3 * self._start_window]
            return None
        at = self._run[0][1]
        self._run.clear()
        return at
