"""A person at run time: an avatar packed once for all calls, and the canvas on which one call's frames are painted.

Numpy and numba only. Three layers in one raster pass: the face with its eyeballs, the inner mouth, torso and neck.
An eyeball is seen by a camera that has been turned the other way, so that it needs no deformation and its colours are
looked up in its own frame; the torso lives in the camera's frame and is seen by a camera that never moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from render import avatar as folder
from render.avatar import Avatar, AvatarError, Eyeballs
from render.hearing import Listener, listener
from render.motion.bake import bake
from render.motion.baked import CHANNELS, Baked, Deformation
from render.motion.gaze import turn_matrices
from render.motion.tables import CODE, WINDOW
from render.pictures import decode
from render.raster import cpu
from render.raster.gaussians import SH_COUNTS, Bytes, Camera, Gaussians, LowPass
from render.raster.project import DELTAS
from render.raster.simd import LANES
from server.core.errors import VisavisError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

FACE, MOUTH, TORSO = 0, 1, 2  # layers; a lower one lies over a higher one
KEPT_PLATES = 32  # backgrounds of 4 MB that a canvas keeps of a person whose torso is a set of pictures
STILL_CAMERA = np.eye(3, 4, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Expression:
    """What a face does in one frame, apart from what the voice makes of it."""

    pose: Doubles
    """(4, 4) world (the head) to camera, as Idle.poses"""
    action_units: Floats
    """(6,), see ACTION_UNITS"""
    gaze: tuple[float, float] = (0.0, 0.0)
    """radians to the picture's right and up, in the head's frame"""
    sway: tuple[float, float] = (0.0, 0.0)
    """of the torso, unit variance"""
    breath: float = 0.0
    """-1 to 1, shoulders up"""


class Person:
    """Read-only once it is made; shared by every call that shows it."""

    def __init__(self, avatar: Avatar, extractors: Path | None = None) -> None:
        """Packs some 20 000 Gaussians in 50 ms; motion that was not baked is baked here, without points held still.

        extractors: as `hearing.listener` takes it. Raises ValueError for baked motion that does not fit its nets.
        """
        self.avatar = avatar
        self._extractors = extractors
        if avatar.baked:
            baked = Baked.of_arrays(avatar.baked, avatar.audio)
        else:
            baked = bake(avatar.motion, avatar.audio, avatar.face.xyz, avatar.mouth.xyz)
        eyes = avatar.eyeballs
        self.baked = baked if eyes is None else _without_eyes(baked, eyes)
        of_eyes = np.zeros(len(avatar.face), np.uint8) if eyes is None else eyes.index
        moving, still = self.baked.moving, self.baked.still
        rest = self.baked.rest[of_eyes[still] == 0]
        still = still[of_eyes[still] == 0]
        bands = max(k for k in SH_COUNTS if k <= avatar.face.sh.shape[1])
        head = _joined(
            [
                _drawn(avatar.face, moving, FACE, bands),
                _drawn(avatar.mouth, np.arange(len(avatar.mouth)), MOUTH, bands),
                _drawn(avatar.face, still, FACE, bands, rest),
            ]
        )
        parts = [head]
        if eyes is not None:
            parts += [_drawn(avatar.face, np.flatnonzero(eyes.index == k), FACE, bands) for k in (1, 2)]
        torso = avatar.torso
        self.follows = np.zeros((0, 0), np.float32)
        """(drivers, 3 * torso Gaussians, filled up to a multiple of 8): how the torso follows its drivers"""
        if torso is not None:
            n = len(torso.gaussians)
            parts.append(_drawn(torso.gaussians, np.arange(n), TORSO, bands))
            padded = np.zeros((torso.basis.shape[2], 3, -(-n // LANES) * LANES), np.float32)
            padded[:, :, :n] = torso.basis.transpose(2, 1, 0)
            self.follows = padded.reshape(len(padded), -1)
        self.cloud = cpu.Cloud(parts, moving=len(moving) + len(avatar.mouth))
        self.fully_shown = avatar.width, avatar.height

    @classmethod
    def load(cls, path: Path, extractors: Path | None = None) -> "Person":
        """From an avatar's folder. Raises AvatarError with a sentence for people."""
        avatar = folder.load(path)
        try:
            return cls(avatar, extractors)
        except ValueError as error:
            raise AvatarError("avatar_shape", f"{path.name}: {error}. Bake the motion again.") from error

    def warm(self) -> None:
        """Compiles every kernel that a frame needs, or loads it from disk; no frame waits for that afterwards."""
        cpu.warm()
        self.baked.warm()
        canvas = Canvas(self)
        nothing = np.zeros((WINDOW, 2, CODE), np.float32)
        resting = Expression(self.rest_pose, np.zeros(6, np.float32))
        canvas.i420(nothing, resting, alpha=np.zeros((canvas.height, canvas.width), np.uint8))

    @cached_property
    def listener(self) -> Listener:
        """What the person hears a voice with. Raises AvatarError where it is not there."""
        return listener(self.avatar, self._extractors)

    @cached_property
    def rest_code(self) -> Floats:
        """(2, CODE): of a silence that has lasted."""
        return self.listener.rest(self.baked.codes)

    @cached_property
    def rest_pose(self) -> Doubles:
        """(4, 4): the torso's, else the one of all idle poses that is nearest to their mean."""
        if self.avatar.torso is not None:
            return np.asarray(self.avatar.torso.rest_pose, np.float64)
        poses = np.asarray(self.avatar.idle.poses, np.float64)
        return np.asarray(poses[np.argmin(((poses - poses.mean(0)) ** 2).sum((1, 2)))])

    @cached_property
    def plate(self) -> Bytes:
        """(H, W, 3): the background that the person was filmed before."""
        return decode(self.avatar.plates.background)[:, :, :3]

    def torso_plate(self, pose: Doubles) -> int:
        """The torso picture whose pose is nearest, -1 if there is none."""
        poses = self.avatar.plates.poses
        if not len(poses):
            return -1
        return int(np.argmin(((poses[:, :3] - pose[:3]) ** 2).sum((1, 2))))


class Canvas:
    """One call's working memory. Not to be used by two threads at a time; the GIL is free while it paints."""

    def __init__(self, person: Person, side: int | None = None, background: Bytes | None = None) -> None:
        """side: the picture's width in pixels, even, at most the avatar's own; the height follows.

        background: (H, W, 3) RGB of any size, which covers the picture; None: the person's own. Raises ValueError.
        """
        width, height = person.fully_shown
        self.width = side or width
        self.factor = width / self.width
        self.height = 2 * round(height / self.factor / 2)
        if self.width % 2 or not 16 <= self.width <= width:
            raise ValueError(f"a picture of {person.avatar.name} is 16 to {width} pixels wide, even, not {side}")
        self.person = person
        avatar = person.avatar
        focal, centre = avatar.camera.focal_px, (avatar.camera.cx, avatar.camera.cy)
        whole = Camera(STILL_CAMERA, (focal, focal), centre, width, height)
        self._camera = replace(whole.shrunk(self.factor), height=self.height)
        self._low_pass = LowPass.shrunk(self.factor)
        self._rasteriser = cpu.Rasteriser(person.cloud, self.width, self.height)
        self._deltas = np.zeros((DELTAS, person.cloud.moving), np.float32)
        self._moved = Deformation(
            np.zeros((CHANNELS, len(person.baked.moving)), np.float32),
            np.zeros((3, len(avatar.mouth)), np.float32),
        )
        self._behind = covering(person.plate if background is None else background, self.width, self.height)
        self._backgrounds: dict[int, cpu.Background] = {}
        self._torsos: dict[int, Floats] = {}

    def i420(
        self, codes: Floats, expression: Expression, out: Bytes | None = None, alpha: Bytes | None = None
    ) -> Bytes:
        """One frame over the background: (3 H / 2, W), BT.601 limited range.

        codes (8, 2, 32): the voice's, of the frame's window. alpha: (H, W), filled with 0 to 255 if given.
        """
        self.move(codes, expression)
        self.arrange(expression)
        plate = self._plate(expression)
        picture = self._rasteriser.i420(self._background(plate), out, alpha)
        if alpha is not None and plate >= 0:
            behind = np.asarray(self._torso(plate)[:, :, 3] * 255 + 0.5, np.uint8)
            alpha[:] = 255 - ((255 - alpha.astype(np.uint16)) * (255 - behind) + 127) // 255
        return picture

    def planes(self, codes: Floats, expression: Expression) -> cpu.Planes:
        """One frame without a background: premultiplied floats and what shines through, the canvas's own arrays."""
        self.move(codes, expression)
        self.arrange(expression)
        return self._rasteriser.planes()

    def rgba(self, codes: Floats, expression: Expression) -> Bytes:
        """One frame without a background: (H, W, 4), colours not premultiplied."""
        planes = self.planes(codes, expression)
        colour, through = planes.colour, planes.transmittance
        plate = self._plate(expression)
        if plate >= 0:
            behind = self._torso(plate)
            colour = colour + through * behind[:, :, :3].transpose(2, 0, 1)
            through = through * (1 - behind[:, :, 3])
        alpha = np.clip(1 - through, 0, 1)
        straight = np.clip(colour / np.maximum(alpha, np.float32(1 / 512)), 0, 1)
        stacked = np.concatenate([straight, alpha[None]]).transpose(1, 2, 0)
        return np.ascontiguousarray(np.asarray(stacked * 255 + 0.5, np.uint8))

    def move(self, codes: Floats, expression: Expression) -> None:
        """The motion of face and mouth: the first part of a frame."""
        moved = self.person.baked.frame(codes, expression.action_units, self._moved)
        faces, mouths = moved.face.shape[1], moved.mouth.shape[1]
        self._deltas[:CHANNELS, :faces] = moved.face
        self._deltas[:3, faces : faces + mouths] = moved.mouth

    def arrange(self, expression: Expression) -> None:
        """Cameras, torso, projection and order: the second part of a frame."""
        avatar, pose = self.person.avatar, expression.pose
        views = [pose]
        if avatar.eyeballs is not None:
            rotation, _ = turn_matrices(*expression.gaze)
            for centre in avatar.eyeballs.centres:
                turned = np.eye(4)
                turned[:3, :3] = rotation
                turned[:3, 3] = centre - rotation @ centre
                views.append(pose @ turned)
        cameras = [replace(self._camera, world_to_camera=v[:3].astype(np.float32)) for v in views]
        shifts = None
        if avatar.torso is not None:
            cameras.append(self._camera)
            drive = avatar.torso.drive(pose, expression.sway, expression.breath)
            shifts = (drive @ self.person.follows).reshape(3, -1)
        self._rasteriser.arrange(cameras, self._deltas, self._low_pass, shifts)

    def _plate(self, expression: Expression) -> int:
        """The torso picture that goes with the pose; -1 for a person who has a torso of Gaussians, or none."""
        return self.person.torso_plate(expression.pose) if self.person.avatar.torso is None else -1

    def _background(self, plate: int) -> cpu.Background:
        """With the torso's picture over it, if the person has such."""
        known = self._backgrounds.pop(plate, None)
        if known is None:
            while len(self._backgrounds) >= KEPT_PLATES:
                oldest = next(iter(self._backgrounds))
                del self._backgrounds[oldest]
                self._torsos.pop(oldest, None)
            picture = self._behind
            if plate >= 0:
                torso = self._torso(plate)
                picture = np.asarray(torso[:, :, :3] * 255 + picture * (1 - torso[:, :, 3:]) + 0.5, np.uint8)
            known = cpu.Background(picture)
        self._backgrounds[plate] = known  # the last used stands last
        return known

    def _torso(self, plate: int) -> Floats:
        """(H, W, 4) premultiplied, 0 to 1."""
        if plate not in self._torsos:
            torso = decode(self.person.avatar.plates.torso[plate]).astype(np.float32) / 255
            alpha = torso[:, :, 3:] if torso.shape[2] == 4 else np.ones_like(torso[:, :, :1])
            whole = np.concatenate([torso[:, :, :3] * alpha, alpha], 2)
            small = cv2.resize(whole, (self.width, self.height), interpolation=cv2.INTER_AREA)
            self._torsos[plate] = np.asarray(small, np.float32)
            while len(self._torsos) > KEPT_PLATES:
                del self._torsos[next(iter(self._torsos))]
        return self._torsos[plate]


def covering(picture: Bytes, width: int, height: int) -> Bytes:
    """The middle of a picture (H, W, 3), as large as covers width x height pixels."""
    scale = max(width / picture.shape[1], height / picture.shape[0])
    wide, high = max(round(picture.shape[1] * scale), width), max(round(picture.shape[0] * scale), height)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(picture, (wide, high), interpolation=how)
    x, y = (wide - width) // 2, (high - height) // 2
    return np.ascontiguousarray(resized[y : y + height, x : x + width], np.uint8)


def backdrop(setting: str) -> Bytes | None:
    """What a setting puts behind a person: nothing (empty), `#rrggbb`, or a picture's file. Raises VisavisError."""
    if not setting:
        return None
    if setting.startswith("#"):
        try:
            colour = bytes.fromhex(setting[1:])
            if len(colour) != 3:
                raise ValueError
        except ValueError:
            sentence = f"The background {setting!r} is no colour. Write #rrggbb, as in #00ff00."
            raise VisavisError("background", sentence) from None
        return np.full((2, 2, 3), np.frombuffer(colour, np.uint8), np.uint8)
    try:
        return np.ascontiguousarray(decode(Path(setting).read_bytes())[:, :, :3])
    except OSError as error:
        sentence = f"The background {setting} cannot be read: {error.strerror}. Name a JPEG, PNG or WebP, or #rrggbb."
        raise VisavisError("background", sentence) from None


def _without_eyes(baked: Baked, eyes: Eyeballs) -> Baked:
    """No field moves an eyeball."""
    moves = eyes.index[baked.moving] == 0
    few = baked.few if moves.all() else None
    still = np.concatenate([baked.still, baked.moving[~moves]])
    rest = np.concatenate([baked.rest, np.zeros((int((~moves).sum()), CHANNELS), np.float32)])
    rest[eyes.index[still] > 0] = 0
    order = np.argsort(still)
    return replace(
        baked,
        moving=baked.moving[moves],
        encoding=baked.encoding[moves],
        gain=baked.gain[moves],
        still=still[order],
        rest=rest[order],
        few=few,
    )


def _drawn(
    layer: folder.Gaussians, rows: NDArray[np.integer], number: int, bands: int, deformed: Floats | None = None
) -> Gaussians:
    """Some of an avatar's Gaussians, activated; `deformed` (rows, CHANNELS) is added before."""
    d = np.zeros((len(rows), CHANNELS), np.float32) if deformed is None else deformed
    return Gaussians(
        means=layer.xyz[rows] + d[:, :3],
        scales=np.logaddexp(0, layer.scale[rows] + d[:, 7:]).astype(np.float32),
        rotations=layer.rotation[rows] + d[:, 3:7],
        opacities=(1 / (1 + np.exp(-layer.opacity[rows].astype(np.float64)))).astype(np.float32),
        sh=_banded(layer.sh[rows], bands),
        layers=np.full(len(rows), number, np.uint8),
    )


def _banded(sh: Floats, bands: int) -> Floats:
    """As many spherical harmonics as the face has."""
    out = np.zeros((len(sh), bands, 3), np.float32)
    common = min(bands, sh.shape[1])
    out[:, :common] = sh[:, :common]
    return out


def _joined(parts: Sequence[Gaussians]) -> Gaussians:
    layers = [part.layers for part in parts if part.layers is not None]
    return Gaussians(
        np.concatenate([p.means for p in parts]),
        np.concatenate([p.scales for p in parts]),
        np.concatenate([p.rotations for p in parts]),
        np.concatenate([p.opacities for p in parts]),
        np.concatenate([p.sh for p in parts]),
        np.concatenate(layers),
    )
