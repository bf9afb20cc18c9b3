"""When each step of a reply happened; metrics, the debug panel and the benchmarks read them."""

from dataclasses import dataclass, field

STEPS = (
    "speech_end",  # the person's last voiced frame
    "soft_end",
    "provisional",
    "endpoint",
    "asr_final",
    "llm_request",
    "llm_token",
    "clause",
    "tts_request",
    "tts_audio",
    "placed",  # its first voice is on the timeline
    "audio_packet",  # first audible packet handed to the track
    "lips_packet",  # first frame with moved lips handed to the track
)


@dataclass(slots=True)
class Marks:
    """Loop times in seconds; the first note of a step counts."""

    generation: int
    times: dict[str, float] = field(default_factory=dict)

    def note(self, step: str, now: float) -> None:
        self.times.setdefault(step, now)

    def since(self, start: str) -> dict[str, float]:
        """Milliseconds from step `start` to each other step (negative: it came before); empty if never noted."""
        if start not in self.times:
            return {}
        origin = self.times[start]
        return {step: round((t - origin) * 1000, 1) for step, t in self.times.items() if step != start}
