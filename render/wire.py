"""What the server and a render worker say to each other."""

import msgspec

from server.core.media import Phone


class Open(msgspec.Struct, tag="open", frozen=True):
    """Server -> worker, first in a session: a face for one call. Nothing is encoded before the first Key."""

    avatar: str
    codec: str
    """`H264` or `VP8`"""
    origin_s: float
    """CLOCK_MONOTONIC seconds of media sample 0"""
    seed: int = 0
    """of blinks and idle motion"""
    alpha: bool = False
    """whether the picture is twice as high: the face over black, and below it its matte as grey"""


class Push(msgspec.Struct, tag="push", frozen=True):
    """Server -> worker: this voice is heard from media time `at` on."""

    at: int
    """media samples"""
    generation: int
    pcm: bytes
    """s16le mono 48 kHz"""
    phones: tuple[Phone, ...] = ()
    """timings in samples of `pcm`; empty: listen to the sound"""


class Cut(msgspec.Struct, tag="cut", frozen=True):
    """Server -> worker: nothing pushed so far is heard from media time `at` on."""

    at: int


class Attend(msgspec.Struct, tag="attend", frozen=True):
    """Server -> worker: whether the person in front of the camera is speaking from now on."""

    hearing: bool


class Key(msgspec.Struct, tag="key", frozen=True):
    """Server -> worker: the next frame must be decodable on its own; the first one starts the encoder."""


class Frame(msgspec.Struct, tag="frame", frozen=True):
    """Worker -> server: one encoded picture, the fields of EncodedFrame."""

    index: int
    data: bytes
    key: bool
    generation: int
    painted_s: float
    reduced: bool = False
    """whether it is smaller than it should be, because the machine is too slow"""


class Face(msgspec.Struct, frozen=True):
    """One avatar in the worker's Hello: `about = {"faces": [Face, ...], "notes": [sentence, ...]}`."""

    name: str
    title: str
    width: int
    height: int
    poster: bytes
    """JPEG"""
    alpha: bool = False
    """whether it can come with its matte"""


Request = Open | Push | Cut | Attend | Key
