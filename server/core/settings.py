"""Settings that the pure core reads; the rest of the tree is in server/config.py."""

import msgspec


class TurnSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a turn ends and when a reply is interrupted."""

    mode: str = "hands_free"
    """`hands_free`, or `push_to_talk`: then only the page's button ends a turn"""
    soft_end_s: float = 0.2
    """silence after which a reply is prepared speculatively"""
    endpoint_s: float = 0.5
    """silence that ends a turn"""
    endpoint_min_s: float = 0.35
    """... when the words look finished"""
    endpoint_max_s: float = 1.1
    """... when the words look unfinished"""
    endpoint_sure_s: float = 0.3
    """... with `endpointing`, instead of these three: when words and voice leave no doubt that it is over"""
    endpoint_patient_s: float = 1.3
    """... when words and voice leave no doubt that it is not; between these two in proportion"""
    endpoint_fixed: bool = False
    """whether words and sound are ignored and endpoint_s always holds"""
    finished_above: float = 0.7
    """how likely it is over, 0 to 1, from which on there is no doubt"""
    unfinished_below: float = 0.3
    """... and up to which there is none that it is not"""
    overlap_s: float = 0.2
    """speech over the reply that pauses it, from its first voiced frame"""
    confirm_s: float = 0.5
    """speech over the reply that cuts it even without words"""
    confirm_units: int = 2
    """stable words (CJK: characters) that turn a pause into a cut"""
    resume_s: float = 2.0
    """a paused reply goes on at the latest after this long"""
    resume_quiet_s: float = 0.7
    """a paused reply goes on when the noise has been over for this long without words"""
    guard_s: float = 2.0
    """the first reply of a call cannot be interrupted by voice for so long: the echo canceller is learning"""
    backchannel_s: float = 1.0
    """... cuts it although only back-channels ("mm hm", "嗯") were understood so far"""
    turn_max_s: float = 60.0
    """a turn is ended after so much speech without a pause"""
    think_max_s: float = 20.0
    """a reply that is not audible by then is given up with an apology"""
    gap_max_s: float = 12.0
    """a reply that falls silent for so long is ended"""
    preroll_s: float = 0.8
    """a turn may begin at most so long before it is opened; the executor keeps a little more sound than this"""
    noise_s: float = 1.0
    """so much voice in which the ASR heard no words yet still deserves its final judgement; less is a noise"""
    provisional_wait_s: float = 0.3
    """how long beyond the endpoint a provisional transcript is waited for"""
    final_wait_s: float = 3.0
    """how long a final transcript is waited for before the last known words must do"""

    def __post_init__(self) -> None:
        if self.mode not in ("hands_free", "push_to_talk"):
            raise ValueError(f"mode is {self.mode!r}; it must be hands_free or push_to_talk")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith("_s") and not 0 <= value < 3600:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 3600 seconds")
        if not 0 <= self.unfinished_below < self.finished_above <= 1:
            raise ValueError("unfinished_below must be less than finished_above, and both between 0 and 1")
        if self.turn_max_s < 1 or self.confirm_units < 1:
            raise ValueError("turn_max_s and confirm_units must be at least 1")


class ToolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Functions that the language model may call, and what a call may take."""

    functions: tuple[str, ...] = ()
    """Python functions of this server, as `package.module:function`, or `package.module` for all that it registers"""
    timeout_s: float = 15.0
    """how long the model waits for a result; then it is told that there is none"""
    filler_s: float = 1.2
    """silence after which a sentence covers a call that takes long"""
    rounds: int = 4
    """how often the model may call functions before it must answer"""
    calls: int = 8
    """functions called at once"""
    argument_bytes: int = 16_384
    """length of one call's arguments"""
    result_chars: int = 8000
    """length of a result that the model is told; longer ones are shortened"""

    def __post_init__(self) -> None:
        if min(self.timeout_s, self.filler_s) <= 0:
            raise ValueError("timeout_s and filler_s must be greater than 0")
        if self.timeout_s > 60:
            raise ValueError("timeout_s must be 60 at the most: somebody is waiting")
        if not (1 <= self.rounds <= 20 and 1 <= self.calls <= 32):
            raise ValueError("rounds must be between 1 and 20, calls between 1 and 32")
        if self.argument_bytes < 100 or self.result_chars < 100:
            raise ValueError("argument_bytes and result_chars must be 100 or more")


class GpuShare(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process takes of a GPU."""

    device: str = ""
    """`cuda:0`, `cuda:1` ...; empty: the process is on no GPU of this machine"""
    memory_gib: float = 0.0
    """GPU memory that it may take"""

    def __post_init__(self) -> None:
        if self.device and not self.device.removeprefix("cuda:").isdigit():
            raise ValueError("device must be cuda:N, or empty for a process on no GPU of this machine")
        if not 0 <= self.memory_gib <= 10_000:
            raise ValueError("memory_gib must lie between 0 and 10000")
        if bool(self.device) != bool(self.memory_gib):
            raise ValueError("device and memory_gib go together: name both, or neither")


class GpuSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is on which GPU, and how much of its memory each process may take: `visavis doctor` adds it up."""

    memory_gib: float = 0.0
    """of one GPU, where nvidia-smi cannot be asked; 0: not known"""
    reserve_gib: float = 1.0
    """left free on each GPU that is named: for the driver, a screen, peaks"""
    asr: GpuShare = GpuShare()
    """of what hears: the FunASR worker, or its server"""
    llm: GpuShare = GpuShare()
    """of the language model's server"""
    tts: GpuShare = GpuShare()
    """of the voice server"""
    render: GpuShare = GpuShare()
    """of the face"""

    def __post_init__(self) -> None:
        if not 0 <= self.memory_gib <= 10_000 or not 0 <= self.reserve_gib <= 10_000:
            raise ValueError("memory_gib and reserve_gib must lie between 0 and 10000")

    @property
    def shares(self) -> dict[str, GpuShare]:
        """Stage -> its share, of those that are on a GPU of this machine."""
        all_shares = {"asr": self.asr, "llm": self.llm, "tts": self.tts, "render": self.render}
        return {stage: share for stage, share in all_shares.items() if share.device}
