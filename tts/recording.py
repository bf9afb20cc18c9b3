"""A recording that shall become a voice: judged with advice in words, and cut at its pauses to 5 to 10 s."""

import io
import math
import wave
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

RATE = 24_000  # Hz: CosyVoice's mel is made at 24 kHz, its tokens at 16 kHz
SHORTEST_S, LONGEST_S = 3.0, 30.0  # of a recording that is taken
KEPT_S = (
    5.0,
    10.0,
)  # of what is kept; longer references swallow words (CosyVoice #917), shorter ones hold too little
PAUSE_S = 0.2  # the closure of a plosive takes 0.05 to 0.15 s
PAUSE_DB = 27.0  # a pause lies so far below the speech; soft consonants do, too, but not for so long
MARGIN_S = 0.2  # of a pause that is kept on either side of the words: soft consonants lie below the gate
FADE_S = 0.01  # within the pause: between the room and the digital silence
HEAD_S = 0.1  # of the silence that fills up the last second goes before the words
LEVEL_DBFS = -20.0  # of the speech in what is kept
PEAK = 0.89  # -1 dBFS: no gain goes further

TOO_QUIET_DBFS, QUIET_DBFS = -46.0, -36.0
NOISY_DB, HISSING_DB = 15.0, 25.0  # ratio of speech to noise
CLIPPED_SHARE = 0.002  # of the speech's samples at the ceiling
CEILING = 0.97  # of the peak; resampling and coding make a clipped wave's top uneven
MUFFLED_HZ = 16_000
SPEECH_S = 2.0  # at least
SPEECH_SHARE = 0.4  # of the time between the first and the last word
BALANCE_DB = 4.5  # how much the balance of high and low frequencies moves in speech, at least (standard deviation)
STEADY_DB = 2.0  # sound whose level moves less is a tone or a hum
TONAL_DB = 18.0

Wave = npt.NDArray[np.float32]
"""[samples], -1 to 1"""


class Fault(msgspec.Struct, frozen=True):
    """Why a recording is not taken."""

    code: str
    """`too_short`, `too_long`, `no_speech`, `music`, `too_quiet`, `clipped`, `noisy`, `little_speech`, `no_pause`"""
    message: str
    """what was found, and what to do"""


class Pause(msgspec.Struct, frozen=True):
    """Where nobody speaks, within the speech; seconds."""

    start_s: float
    end_s: float
    until_s: float
    """where what is before it may end"""
    from_s: float
    """where what is after it may begin"""


class Examination(msgspec.Struct, frozen=True):
    """What a recording is like."""

    seconds: float
    speech_s: float = 0.0
    speech_dbfs: float = -96.0
    noise_dbfs: float = -96.0
    clipped_share: float = 0.0
    first_s: float = 0.0
    """where the first word begins"""
    last_s: float = 0.0
    """where the last one ends"""
    pauses: tuple[Pause, ...] = ()
    faults: tuple[Fault, ...] = ()
    """the gravest first; none: it is taken"""
    advice: tuple[str, ...] = ()
    """what would make the voice better"""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is kept of a recording."""

    start_s: float
    end_s: float
    cut_before: bool
    """whether words were cut away before it"""
    cut_after: bool


def examine(pcm: Wave, clipped_share: float | None = None, source_rate: int = RATE) -> Examination:
    """pcm: at RATE. clipped_share: as it was found before resampling, source_rate: the recording's own."""
    seconds = len(pcm) / RATE
    if seconds < SHORTEST_S:
        return Examination(seconds, faults=(_too_short(seconds),))
    if seconds > LONGEST_S + 0.5:
        what = (
            f"It lasts more than {LONGEST_S:.0f} s. Send {SHORTEST_S:.0f} to {LONGEST_S:.0f} s; 5 to 10 s are best."
        )
        return Examination(seconds, faults=(Fault("too_long", what),))
    levels = _levels(pcm)
    voiced = _voiced(pcm)[: len(levels)]
    voiced = np.pad(voiced, (0, len(levels) - len(voiced)))
    noise = _noise(levels, voiced)
    loud = voiced & (levels > noise + 3.0)
    if np.count_nonzero(loud) < 10 or float(np.percentile(levels, 95)) < -70.0:
        return Examination(seconds, noise_dbfs=noise, faults=(_nobody(pcm, float(np.percentile(levels, 95))),))
    power = float(np.mean(10 ** (levels[loud] / 10)))
    speech = 10 * math.log10(max(power - 10 ** (noise / 10), power / 100))
    gate = min(max(noise + 6.0, speech - 38.0), speech - 10.0)
    active = levels > gate
    sounding = np.flatnonzero(active & _near(voiced, 15))
    first, last = int(sounding[0]), int(sounding[-1]) + 1
    speech_s = float(np.count_nonzero(loud & active)) * FRAME_S
    pauses = _pauses(levels, min(max(noise + 6.0, speech - PAUSE_DB), speech - 10.0), first, last)
    clipped = _ceiling(pcm[first * FRAME : last * FRAME]) if clipped_share is None else clipped_share
    faults = _faults(pcm, levels, active & voiced, speech, noise, clipped, speech_s, (last - first) * FRAME_S)
    advice: list[str] = []
    if not faults:
        if speech < QUIET_DBFS:
            advice.append(f"It is rather quiet ({speech:.0f} dBFS): come nearer to the microphone.")
        if speech - noise < HISSING_DB:
            advice.append(
                f"Noise is heard behind the voice ({speech - noise:.0f} dB below it); a voice keeps its noise."
            )
        if source_rate < MUFFLED_HZ:
            advice.append(f"It has {source_rate / 1000:g} kHz, as a telephone: the voice will sound muffled.")
        if (last - first) * FRAME_S < KEPT_S[0] - 0.5:
            advice.append("It is short: 5 to 10 s of speech make a better voice.")
    return Examination(
        seconds,
        speech_s,
        speech,
        noise,
        clipped,
        first * FRAME_S,
        last * FRAME_S,
        tuple(pauses),
        tuple(faults),
        tuple(advice),
    )


def choose(found: Examination) -> Stretch | Fault:
    """What to keep: all of the speech if it lasts 10 s at most, else the best part between two pauses."""
    whole = Stretch(max(found.first_s - MARGIN_S, 0.0), min(found.last_s + MARGIN_S, found.seconds), False, False)
    if whole.end_s - whole.start_s <= KEPT_S[1]:
        return whole
    edges = [
        (whole.start_s, whole.start_s, 0.5),
        *((p.until_s, p.from_s, p.end_s - p.start_s) for p in found.pauses),
        (whole.end_s, whole.end_s, 0.5),
    ]  # (end of what comes before, start of what comes after, how long the pause is)
    best: tuple[float, Stretch] | None = None
    for i, (_, start, before) in enumerate(edges):
        for end, _, after in edges[i + 1 :]:
            length = end - start
            if not SHORTEST_S <= length <= KEPT_S[1]:
                continue
            # A longer pause is a sentence's end rather than a breath; and rather 8 s than 5.
            score = (
                min(before, 0.7) + min(after, 0.7) + 0.06 * min(length, 8.0) - (1.0 if length < KEPT_S[0] else 0.0)
            )
            if best is None or score > best[0]:
                best = score, Stretch(start, end, start != whole.start_s, end != whole.end_s)
    if best is None:
        what = (
            f"It has no pauses between which {KEPT_S[0]:.0f} to {KEPT_S[1]:.0f} s lie, and words must not be cut."
            " Record one or two sentences with a short silence before and after them."
        )
        return Fault("no_pause", what)
    return best[1]


def keep(pcm: Wave, stretch: Stretch, found: Examination) -> Wave:
    """The stretch at an even level, with silence around it up to whole seconds, 5 at least."""
    kept = pcm[round(stretch.start_s * RATE) : round(stretch.end_s * RATE)].copy()
    gain = 10 ** ((LEVEL_DBFS - found.speech_dbfs) / 20)
    kept *= min(gain, PEAK / max(float(np.abs(kept).max(initial=0.0)), 1e-6))
    fade = np.linspace(0.0, 1.0, min(round(FADE_S * RATE), len(kept) // 2), dtype=np.float32)
    kept[: len(fade)] *= fade
    kept[len(kept) - len(fade) :] *= fade[::-1]
    seconds = max(math.ceil(len(kept) / RATE - 1e-6), round(KEPT_S[0]))
    missing = seconds * RATE - len(kept)
    head = min(missing, round(HEAD_S * RATE))
    return np.pad(kept, (head, missing - head))


def wav(pcm: Wave) -> bytes:
    """As a file: 16 bit mono at RATE."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(s16(pcm))
    return file.getvalue()


def s16(pcm: Wave) -> bytes:
    return (pcm * 32767.0).clip(-32768, 32767).astype("<i2").tobytes()


def resampled(pcm: Wave, rate: int, source: int = RATE) -> Wave:
    """At another rate; as long as the whole demands."""
    import av

    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="flt", layout="mono")
    frame.sample_rate = source
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    out = np.concatenate([one.to_ndarray().reshape(-1) for one in frames] or [np.zeros(0, np.float32)])
    wanted = len(pcm) * rate // source
    return np.pad(out[:wanted], (0, max(wanted - len(out), 0))).astype(np.float32)


def ceiling_share(channel: Wave) -> float:
    """The share of the loud samples that stand at the ceiling; of one channel, before it is resampled."""
    return _ceiling(channel)


# ---- what is measured ----------------------------------------------------------------------------------------------

FRAME_S = 0.01
FRAME = round(RATE * FRAME_S)
VAD_RATE, VAD_FRAME = 16_000, 320  # 20 ms
WARM_DBFS, WARM_FRAMES = -30.0, 25  # a fresh detector calls any noise speech (measured: server/vad/webrtc.py)


def _too_short(seconds: float) -> Fault:
    what = f"It lasts {seconds:.1f} s. Record at least {SHORTEST_S:.0f} s; 5 to 10 s of clear speech are best."
    return Fault("too_short", what)


def _levels(pcm: Wave) -> npt.NDArray[np.float64]:
    """dBFS (RMS) of each 10 ms; a sine of full scale has -3."""
    frames = pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    return np.asarray(10 * np.log10((frames**2).mean(axis=1) + 1e-10))


def _voiced(pcm: Wave) -> npt.NDArray[np.bool_]:
    """What the detector of WebRTC says of each 10 ms."""
    import webrtcvad

    detector = webrtcvad.Vad(2)
    rng = np.random.default_rng(0)
    for _ in range(WARM_FRAMES):
        noise = rng.standard_normal(VAD_FRAME) * 32768 * 10 ** (WARM_DBFS / 20)
        detector.is_speech(noise.clip(-32768, 32767).astype("<i2").tobytes(), VAD_RATE)
    data = s16(resampled(pcm, VAD_RATE))
    size = 2 * VAD_FRAME
    said = [detector.is_speech(data[at : at + size], VAD_RATE) for at in range(0, len(data) - size + 1, size)]
    return np.repeat(np.array(said, bool), 2)


def _noise(levels: npt.NDArray[np.float64], voiced: npt.NDArray[np.bool_]) -> float:
    """The noise floor in dBFS: the quieter of what lies between the words, digital silence apart."""
    there = levels > -90.0
    if np.count_nonzero(there) < 20:
        return -96.0
    floor = float(np.percentile(levels[there], 5))
    between = levels[there & ~voiced]
    return min(floor + 2.0, float(np.percentile(between, 20))) if len(between) >= 20 else floor + 1.0


def _near(flags: npt.NDArray[np.bool_], frames: int) -> npt.NDArray[np.bool_]:
    """Whether one is set so near, before or after."""
    return np.asarray(np.convolve(flags, np.ones(2 * frames + 1), "same") > 0.5)


def _pauses(levels: npt.NDArray[np.float64], gate: float, first: int, last: int) -> list[Pause]:
    edges = [first - 1, *(int(i) for i in np.flatnonzero(levels[first:last] > gate) + first), last]
    found: list[Pause] = []
    for before, after in pairwise(edges):
        start, end = before + 1, after
        if before < first or after >= last or (end - start) * FRAME_S < PAUSE_S:
            continue
        margin = round(MARGIN_S / FRAME_S)
        if end - start >= 2 * margin:
            until, begin = start + margin, end - margin
        else:  # both at the quietest place: what is soft at its ends belongs to the words
            quiet = np.convolve(levels[start + 4 : end - 4], np.ones(6) / 6, "valid")
            until = begin = start + 4 + int(np.argmin(quiet)) + 3
        found.append(Pause(start * FRAME_S, end * FRAME_S, until * FRAME_S, begin * FRAME_S))
    return found


def _ceiling(pcm: Wave) -> float:
    size = np.abs(pcm)
    peak = float(size.max(initial=0.0))
    loud = np.count_nonzero(size > 0.05 * peak)
    return float(np.count_nonzero(size > CEILING * peak) / loud) if loud else 0.0


def _balance_db(pcm: Wave, active: npt.NDArray[np.bool_]) -> float:
    """How much the balance of what lies above 2 kHz and below 1 kHz moves (standard deviation, dB).

    In speech vowels and hisses take turns, whoever speaks (E. Scheirer, M. Slaney, "Construction and evaluation of
    a robust multifeature speech/music discriminator", 1997, take the like of it); tones and chords keep theirs.
    """
    frames = pcm[: len(active) * FRAME].reshape(-1, FRAME)[active]
    if len(frames) < 20:
        return 0.0
    spectra = np.abs(np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32), axis=1)) ** 2
    hertz = np.fft.rfftfreq(FRAME, 1 / RATE)
    low = spectra[:, (hertz >= 80) & (hertz <= 1000)].sum(axis=1)
    high = spectra[:, (hertz >= 2000) & (hertz <= 8000)].sum(axis=1)
    floor = float((low + high).mean()) * 1e-5
    return float(np.std(10 * np.log10((high + floor) / (low + floor))))


def _tonal(pcm: Wave) -> bool:
    """Whether its spectrum stands in lines: how far the highest bins rise above their neighbours (noise: 9 dB)."""
    size, around = 2048, 31
    starts = np.linspace(0, len(pcm) - size, 40).astype(int)
    frames = np.stack([pcm[start : start + size] for start in starts])
    spectra = 20 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1))[:, 8:400] + 1e-9)
    middle = np.median(np.lib.stride_tricks.sliding_window_view(spectra, around, axis=1), axis=2)
    rise = spectra[:, around // 2 : -(around // 2)] - middle
    return float(np.median(np.percentile(rise, 99.5, axis=1))) > TONAL_DB


def _nobody(pcm: Wave, level: float) -> Fault:
    if level > -70.0 and _tonal(pcm):
        what = "It sounds like music or a tone, not like somebody speaking. Send speech without music behind it."
        return Fault("music", what)
    return Fault("no_speech", "Nobody is heard in it. Is it the right file, and was the microphone on?")


def _faults(
    pcm: Wave,
    levels: npt.NDArray[np.float64],
    active: npt.NDArray[np.bool_],
    speech: float,
    noise: float,
    clipped: float,
    speech_s: float,
    span_s: float,
) -> list[Fault]:
    moves = float(np.std(levels[active])) if np.count_nonzero(active) > 20 else 0.0
    no_speech = moves < STEADY_DB or _balance_db(pcm, active) < BALANCE_DB  # ... or speech that noise covers
    if no_speech and (_tonal(pcm) or not 3.0 <= speech - noise <= NOISY_DB):
        return [_nobody(pcm, speech)]
    faults: list[Fault] = []
    if speech < TOO_QUIET_DBFS:
        what = f"The voice is too quiet ({speech:.0f} dBFS). Come nearer to the microphone, or turn it up."
        faults.append(Fault("too_quiet", what))
    if clipped > CLIPPED_SHARE:
        what = "It is clipped: the recording was too loud and crackles. Turn the microphone down and record it again."
        faults.append(Fault("clipped", what))
    if speech - noise < NOISY_DB:
        what = (
            f"There is too much noise: it lies {max(speech - noise, 0):.0f} dB below the voice;"
            f" {NOISY_DB:.0f} are needed. Record it in a quiet room, near the microphone."
        )
        faults.append(Fault("noisy", what))
    if not faults and (speech_s < SPEECH_S or speech_s < SPEECH_SHARE * span_s):
        what = f"Only {speech_s:.1f} s of it are speech. Record 5 to 10 s of speech without long pauses."
        faults.append(Fault("little_speech", what))
    return faults
