"""From what was trained to an avatar: baked and reduced, with an idle loop, a poster and the background."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from render.avatar import AudioFeature, Avatar, Camera, Eyeballs, Idle, Plates, Torso
from render.motion.bake import bake
from render.motion.baked import CHANNELS, Baked, settle
from render.person import Canvas, Expression, Person
from render.train.dataset import FPS, Bytes, Dataset, Shot
from render.train.head import EYE, FACE, HAIR, MOUTH, OTHER_EYE, Head
from render.train.reduce import reduced

Floats = NDArray[np.float32]

SEAM = 25
"""frames that are cross-faded where the idle loop ends"""
MAX_IDLE = 250
DRIVES = 240
"""frames that tell which points hardly move"""
STILL_M = 5e-5


@dataclass(frozen=True)
class About:
    """What an avatar's folder says of it."""

    name: str
    title: str
    licence: str
    source: str


def finish(
    data: Dataset,
    head: Head,
    torso: Torso | None,
    about: About,
    feature: AudioFeature,
    encoder: Mapping[str, Floats],
    features: Floats,
) -> Avatar:
    """features (frames, width, steps): of moments of speech, the clip's own and of others."""
    face, mouth = head.layer(FACE, HAIR, EYE, OTHER_EYE), head.layer(MOUTH)
    motion = head.motion.tensors()
    eyes = np.zeros(len(face), np.uint8)
    eyes[head.span(EYE)], eyes[head.span(OTHER_EYE)] = 1, 2
    seen = eyes.any()
    avatar = Avatar(
        name=about.name,
        title=about.title,
        licence=about.licence,
        source=about.source,
        fps=FPS,
        width=data.width,
        height=data.height,
        camera=Camera(focal_px=data.focal_px, cx=data.width / 2, cy=data.height / 2),
        audio=feature,
        sh_degree=1,
        face=face,
        mouth=mouth,
        motion=motion,
        plates=Plates(_encoded(data.background, ".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]), (), _no_poses()),
        idle=idle(data),
        poster=_encoded(data.background, ".jpg", []),
        encoder=dict(encoder),
        torso=torso,
        eyeballs=Eyeballs(eyes, head.centres.cpu().numpy().astype(np.float32)) if seen else None,
    )
    baked = _rigid(bake(motion, feature, face.xyz, mouth.xyz), head.counts[FACE])
    baked = settle(baked, face.scale, face.rotation, _drive(baked, features, data), STILL_M)
    avatar = replace(avatar, baked=baked.arrays())
    avatar, _ = reduced(avatar)
    return replace(avatar, poster=poster(avatar, data))


def _no_poses() -> Floats:
    return np.zeros((0, 4, 4), np.float32)


def _rigid(baked: Baked, moving: int) -> Baked:
    """Only the first so many face points are moved by the field: hair and eyeballs are rigid."""
    count = len(baked.moving)
    still = np.arange(moving, count, dtype=np.int32)
    return replace(
        baked,
        moving=baked.moving[:moving],
        encoding=baked.encoding[:moving],
        gain=baked.gain[:moving],
        still=still,
        rest=np.zeros((len(still), CHANNELS), np.float32),
    )


def _drive(baked: Baked, features: Floats, data: Dataset) -> Iterator[tuple[Floats, Floats]]:
    """Speech and expressions as they may come: every window with action units of another frame, and the extremes."""
    from render.motion.voice import windows

    rng = np.random.default_rng(0)
    codes = windows(baked.codes(features), baked.silence)
    units = np.stack([shot.action_units for shot in data.train])
    extremes = np.quantile(units, [0.02, 0.98], axis=0).astype(np.float32)
    extremes[1, 5] = 2
    for k in np.unique(np.linspace(0, len(codes) - 1, DRIVES).astype(int)):
        mixed = np.where(
            rng.random(6) < 0.5, units[rng.integers(len(units))], extremes[rng.integers(0, 2, 6), range(6)]
        )
        yield codes[k], mixed.astype(np.float32)


def idle(data: Dataset) -> Idle:
    """Poses and action units of somebody who listens, or else of the training frames, closed into a loop."""
    shots: Sequence[Shot] = (data.idle or data.train)[: MAX_IDLE + SEAM]
    poses = np.stack([s.pose for s in shots]).astype(np.float64)
    units = np.stack([s.action_units for s in shots])
    seam = min(SEAM, len(shots) // 2)
    length = len(shots) - seam
    for i in range(seam):  # the end fades into the beginning
        share = (i + 1) / (seam + 1)
        poses[i] = between(poses[length + i], poses[i], share)
        units[i] = (1 - share) * units[length + i] + share * units[i]
    return Idle(poses[:length].astype(np.float32), units[:length].astype(np.float32), np.full(length, -1, np.int32))


def between(a: NDArray[np.float64], b: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The pose at a share of the way from a to b: the nearest rotation to the mixture."""
    mixed = (1 - share) * a + share * b
    u, _, v = np.linalg.svd(mixed[:3, :3])
    mixed[:3, :3] = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    mixed[3] = 0, 0, 0, 1
    return np.asarray(mixed, np.float64)


def poster(avatar: Avatar, data: Dataset) -> bytes:
    """The person at rest, eyes open, a slight smile, mouth closed as in silence; through the path that calls use."""
    person = Person(avatar)
    units = np.stack([s.action_units for s in (*data.train, *data.idle)])
    shown = np.median(units, 0).astype(np.float32)
    shown[3] = np.quantile(units[:, 3], 0.9)  # cheeks up
    shown[5] = np.quantile(units[:, 5], 0.1)
    canvas = Canvas(person)
    codes = np.repeat(person.baked.silence[None], 8, 0)
    planes = canvas.planes(np.ascontiguousarray(codes), Expression(person.rest_pose, shown))
    under = person.plate.transpose(2, 0, 1).astype(np.float32) / 255
    picture = np.clip(planes.colour + planes.transmittance * under, 0, 1).transpose(1, 2, 0)
    return _encoded((picture * 255 + 0.5).astype(np.uint8), ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])


def _encoded(rgb: Bytes, kind: str, how: list[int]) -> bytes:
    done, data = cv2.imencode(kind, np.ascontiguousarray(rgb[..., ::-1]), how)
    assert done
    return data.tobytes()
