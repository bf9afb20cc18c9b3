"""The render worker seen from the server: engines that open one Renderer a call, and outlive their worker."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import anyio
import msgspec

from render.wire import Attend, Cut, Face, Frame, Key, Open, Push, Request
from server.core.clock import MediaClock
from server.core.errors import StageError, WorkerLost
from server.core.media import MEDIA_RATE, SAMPLE_BYTES, AvatarInfo, EncodedFrame, Samples, Speech
from server.workers.process import Worker, WorkerSession

log = logging.getLogger(__name__)

CODECS = ("H264", "VP8")
QUEUE_FRAMES = 12  # half a second of encoded pictures for a slow reader; then the oldest go
KEPT_BYTES = 600 * MEDIA_RATE * SAMPLE_BYTES  # voice kept for a worker that must be told again: ten minutes
READY_S = 30.0
COMPILED_S = 180.0  # the first start of the InsTaG face compiles its kernels: half a minute on a quiet machine
GPU_COMPILED_S = 900.0  # gsplat compiles itself at its first start, on some machines for ten minutes
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""numpy's own threads would take the other calls' time, to no one's gain"""
HANG_S = 5.0  # the worker's loop works for a few milliseconds at a time


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bitrate: int = 1_200_000
    """bits per second of one call's picture at the most; H.264 takes what the picture needs"""
    lead_ms: float = 50.0
    """how long before it is due a frame is painted: encoding must fit in; later than that no voice moves it"""

    def __post_init__(self) -> None:
        if not 100_000 <= self.bitrate <= 20_000_000:
            raise ValueError("bitrate must lie between 100000 and 20000000 bits per second")
        if not 10 <= self.lead_ms <= 200:
            raise ValueError("lead_ms must lie between 10 and 200")


class InstagSettings(_Settings, frozen=True, kw_only=True, tag_field="type", tag="instag"):
    """The InsTaG face: a person as Gaussians that move with the voice, painted on one CPU core."""

    avatars: tuple[str, ...] = ()
    """folders with avatars of your own, or with one; they hide those of the same name that come with visavis"""
    background: str = ""
    """what is behind the person: #rrggbb, or a picture's file; empty: what the person was filmed before"""
    side: int = 512
    """width of the picture in pixels, at most the avatar's own; it shrinks by itself on a machine that is too slow"""
    device: str = "cpu"
    """what paints: cpu, one core for all calls; or cuda, cuda:1 ..., with gsplat (the `gpu` extra, and nvcc)"""
    extractors: str = ""
    """folder with weights of others' audio features that you brought, for imported avatars: AVE's
    audio_visual_encoder.pth, a HuBERT model in hubert/"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 128 <= self.side <= 1024 or self.side % 16:
            raise ValueError("side must be a multiple of 16 between 128 and 1024 pixels")
        if self.device not in ("cpu", "cuda") and not self.device.removeprefix("cuda:").isdigit():
            raise ValueError("device must be cpu, cuda or cuda:N")

    def load(self, memory_gib: float = 0.0) -> AbstractAsyncContextManager["RemoteEngine"]:
        """memory_gib: of the GPU, at most; 0: no limit."""
        more = [part for path in self.avatars for part in ("--avatars", path)]
        more += ["--side", str(self.side)] + (["--background", self.background] if self.background else [])
        more += ["--extractors", self.extractors] if self.extractors else []
        if self.device == "cpu":
            return _load("instag", self.bitrate, self.lead_ms, more, COMPILED_S)
        more += ["--device", self.device, "--memory-gib", str(memory_gib)]
        return _load("instag", self.bitrate, self.lead_ms, more, GPU_COMPILED_S)


class StillSettings(_Settings, frozen=True, kw_only=True, tag_field="type", tag="still"):
    """A talking portrait, made of photographs of every mouth shape; runs anywhere."""

    def load(self) -> AbstractAsyncContextManager["RemoteEngine"]:
        return _load("still", self.bitrate, self.lead_ms)


class TestcardSettings(_Settings, frozen=True, kw_only=True, tag_field="type", tag="testcard"):
    """A frame counter and a flash that follows the voice, for measuring."""

    def load(self) -> AbstractAsyncContextManager["RemoteEngine"]:
        return _load("testcard", self.bitrate, self.lead_ms)


@asynccontextmanager
async def _load(
    kind: str, bitrate: int, lead_ms: float, more: Sequence[str] = (), ready_s: float = READY_S
) -> AsyncIterator["RemoteEngine"]:
    arguments = [kind, "--bitrate", str(bitrate), "--lead-ms", str(lead_ms), *more]
    worker = Worker[Request, Frame](
        "render", "render.worker", Frame, arguments, ready_s=ready_s, hang_s=HANG_S, environment=ONE_THREAD
    )
    async with worker:
        engine = RemoteEngine(worker)
        try:
            yield engine
        finally:
            await engine.aclose()


class RemoteEngine:
    """The faces of one worker, shared by all calls (a RenderEngine)."""

    def __init__(self, worker: Worker[Request, Frame]) -> None:
        self.worker = worker
        faces = msgspec.convert(worker.about["faces"], list[Face])
        self.avatars: Sequence[AvatarInfo] = [
            AvatarInfo(f.name, f.width, f.height, title=f.title, poster=f.poster, alpha=f.alpha) for f in faces
        ]
        self.notes = msgspec.convert(worker.about.get("notes", []), list[str])
        """a sentence for each face that could not be loaded"""
        self._open: set[RemoteRenderer] = set()
        self._opened = 0

    async def open(self, avatar: str, codec: str, origin_s: float, alpha: bool = False) -> "RemoteRenderer":
        """A face for one call. Raises StageError if there is no such avatar or codec, or the avatar has no matte."""
        known_avatars = {a.name: a for a in self.avatars}
        if avatar not in known_avatars:
            known = ", ".join(known_avatars)
            raise StageError(
                "render", "unknown_avatar", f"there is no avatar {avatar!r}; try {known}", retryable=False
            )
        if codec not in CODECS:
            known = " or ".join(CODECS)
            raise StageError("render", "unknown_codec", f"video comes as {known}, not as {codec!r}", retryable=False)
        if alpha and not known_avatars[avatar].alpha:
            raise StageError(
                "render", "no_alpha", f"{avatar} has no matte; ask for it without alpha", retryable=False
            )
        self._opened += 1
        opening = Open(avatar, codec, origin_s, seed=self._opened, alpha=alpha)
        renderer = RemoteRenderer(self.worker, opening, self._open.discard)
        self._open.add(renderer)
        return renderer

    async def aclose(self) -> None:
        for renderer in list(self._open):
            await renderer.aclose()


class RemoteRenderer:
    """One call's face (a Renderer). When the worker dies, the stream pauses and goes on with the next worker."""

    def __init__(
        self, worker: Worker[Request, Frame], opening: Open, closed: Callable[["RemoteRenderer"], None]
    ) -> None:
        self.dropped = 0
        """frames thrown away because nobody read them"""
        self._worker = worker
        self._opening = opening
        self._closed = closed
        self._clock = MediaClock(opening.origin_s)
        self._session: WorkerSession[Request, Frame] | None = None
        self._pushed: deque[Push] = deque()
        self._started = self._hearing = False
        self._frames: deque[EncodedFrame] = deque()
        self._changed = asyncio.Event()
        self._awaiting_key = False
        self._failure: StageError | None = None
        # A plain task, ended in aclose: it must read on although nobody is inside packets().
        self._pump = asyncio.create_task(self._run(), name="renderer")

    async def push(self, speech: Speech, at: Samples, generation: int) -> None:
        """Raises StageError if the voice is not at 48 kHz."""
        if speech.rate != MEDIA_RATE:
            raise StageError("render", "wrong_rate", f"the face wants {MEDIA_RATE} Hz, not {speech.rate}", False)
        self._forget()
        message = Push(at, generation, speech.pcm, speech.phones)
        if sum(len(p.pcm) for p in self._pushed) + len(message.pcm) > KEPT_BYTES:
            log.warning("more voice lies ahead than the face can follow; its lips rest")
            return
        self._pushed.append(message)
        self._send(message)

    async def cut(self, at: Samples) -> None:
        self._pushed = deque(_before(p, at) for p in self._pushed if p.at < at)
        self._send(Cut(at))

    async def attend(self, hearing: bool) -> None:
        self._hearing = hearing
        self._send(Attend(hearing))

    def request_key(self) -> None:
        self._started = True
        self._send(Key())

    async def packets(self) -> AsyncGenerator[EncodedFrame, None]:
        """Ends when the renderer is closed. Raises StageError if the worker gave this face up. One reader."""
        while True:
            while self._frames:
                yield self._frames.popleft()
            if self._failure is not None:
                raise self._failure
            if self._pump.done():
                return
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        self._pump.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._pump])
        self._frames.clear()
        self._changed.set()
        self._closed(self)

    def _send(self, message: Request) -> None:
        """To the worker if there is one; otherwise _run will tell the next."""
        if self._session is not None:
            with contextlib.suppress(WorkerLost):
                self._session.send(message)

    def _forget(self) -> None:
        """What has been heard is not needed again."""
        now = self._clock.at(anyio.current_time())
        while self._pushed and _end(self._pushed[0]) <= now:
            self._pushed.popleft()

    async def _run(self) -> None:
        """Hold a session with the worker, one after the other if need be, and take its frames."""
        try:
            while True:
                try:
                    await self._worker.ready(READY_S)
                    self._session = self._worker.open()
                    self._tell()
                    while True:
                        self._take(await self._session.receive())
                except WorkerLost:
                    self._close_session()
                    # A worker that has just died may look ready for one more turn of the loop.
                    await anyio.sleep(0.01)
        except StageError as error:
            log.error("the face is given up: %s", error)
            self._failure = error
        finally:
            self._close_session()
            self._changed.set()

    def _tell(self) -> None:
        """Everything that a new worker must know about this call."""
        assert self._session is not None
        self._forget()
        self._session.send(self._opening)
        for message in self._pushed:
            self._session.send(message)
        if self._hearing:
            self._session.send(Attend(True))
        if self._started:
            self._session.send(Key())

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _take(self, frame: Frame) -> None:
        if self._awaiting_key and not frame.key:
            self.dropped += 1
            return
        self._awaiting_key = False
        if len(self._frames) >= QUEUE_FRAMES:
            # Without the oldest the others do not decode either: go on at the next key frame.
            self.dropped += len(self._frames)
            self._frames.clear()
            if not frame.key:
                self.dropped += 1
                self._awaiting_key = True
                self._send(Key())
                return
        self._frames.append(
            EncodedFrame(frame.index, frame.data, frame.key, frame.generation, frame.painted_s, reduced=frame.reduced)
        )
        self._changed.set()


def _end(message: Push) -> int:
    return message.at + len(message.pcm) // SAMPLE_BYTES


def _before(message: Push, at: int) -> Push:
    """The part of a pushed piece that is heard before media sample `at`."""
    keep = at - message.at
    if _end(message) <= at:
        return message
    phones = tuple(replace(p, end=min(p.end, keep)) for p in message.phones if p.start < keep)
    return Push(message.at, message.generation, message.pcm[: keep * SAMPLE_BYTES], phones)
