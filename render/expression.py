"""From idle motion, which is the same for every face, to one person's: poses, action units, gaze, torso.

Amplitudes keep to what the person was trained with: their own poses and action units are the measure.
"""

import math
import random

import numpy as np
from numpy.typing import NDArray

from render.avatar import ACTION_UNITS
from render.avatar.model import rotation_vector
from render.idle import Drift, Idle, Motion
from render.person import Expression, Person
from server.core.media import VIDEO_FPS

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

PIVOT = np.array([0.0, -0.115, -0.085])  # metres from between the eyes: where the neck carries the head
LEAST_TURN = np.radians([0.8, 1.0, 0.6])  # ranges of a person of whom only one pose is known: pitch, yaw, roll
RADIANS = np.radians([1.3, 2.0, 2.6])  # of pitch and yaw (for a pixel of the idle motion), and roll (for a degree)
METRES = 0.00065  # for a pixel of the idle motion
GAZE = 0.055  # radians for a pixel of the idle motion: an iris lies 12 mm before the eyeball's centre
CONTACT = 0.85  # of the angle to the camera is made up by the eyes
FARTHEST = math.radians(14)  # that an eyeball turns
LIDS_FOLLOW = 2.0  # AU45 for each radian that the gaze goes down
FACING = 0.6  # of what a person's rest pose looks past the camera is made up
SWAY_HZ = (0.043, 0.071, 0.127)
BLINK = 1.8  # AU45 of closed lids where the person's own data has no blink
AU01, AU04, AU05, AU06, AU07, AU45 = range(len(ACTION_UNITS))


class Bearing:
    """One call's expressions. Frames are asked for in rising order; some may be left out."""

    def __init__(self, person: Person, seed: int) -> None:
        self._idle = Idle(seed)
        self._rest = facing(person.rest_pose)
        self._sees = person.avatar.eyeballs is not None
        rng = random.Random(seed ^ 0x5EED)
        self._sways = [Drift(rng, SWAY_HZ) for _ in range(2)]
        idle = person.avatar.idle
        turned = idle.poses[:, :3, :3].astype(np.float64)
        u, _, v = np.linalg.svd(turned.mean(0))
        turns = np.array([rotation_vector(rotation @ (u @ v).T) for rotation in turned])
        self._turn_range = np.maximum(np.quantile(np.abs(turns), 0.95, axis=0), LEAST_TURN)
        self._replayed = idle.poses.astype(np.float64) if len(person.avatar.plates.torso) else None
        self._low, self._middle, self._high = np.quantile(idle.action_units, (0.1, 0.5, 0.95), axis=0)
        closed = float(idle.action_units[:, AU45].max())
        self._closed = closed if closed > self._low[AU45] + 0.5 else BLINK

    def attend(self, hearing: bool) -> None:
        """Whether the person in front of the camera is speaking."""
        self._idle.attend(hearing)

    def at(self, index: int, loud: float) -> Expression:
        """The expression of video frame `index`; `loud`: the voice then, 0 to 1."""
        motion = self._idle.at(index, loud)
        pose = self._pose(motion, index)
        gaze = self._gaze(motion, pose)
        t = index / VIDEO_FPS
        return Expression(
            pose=pose,
            action_units=self._action_units(motion, gaze),
            gaze=gaze,
            sway=(self._sways[0](t), self._sways[1](t)),
            breath=min(max(motion.breath / 0.8, -1.0), 1.0),
        )

    def _pose(self, motion: Motion, index: int) -> Doubles:
        if self._replayed is not None:
            # The torso is a set of pictures: only poses that one of them was taken with have no seam at the neck.
            span = 2 * len(self._replayed) - 2
            at = index % span if span else 0
            return np.asarray(self._replayed[min(at, span - at)])
        wanted = np.array([motion.pitch, -motion.yaw, motion.roll]) * RADIANS
        limit = 1.5 * self._turn_range
        turned = _rotation(limit * np.tanh(wanted / limit))
        pivot = self._rest[:3, :3] @ PIVOT + self._rest[:3, 3]
        shift = np.array([motion.x, motion.y - 0.6 * motion.breath, 0.0]) * METRES
        out = np.eye(4)
        out[:3, :3] = turned @ self._rest[:3, :3]
        out[:3, 3] = turned @ (self._rest[:3, 3] - pivot) + pivot + shift
        return out

    def _gaze(self, motion: Motion, pose: Doubles) -> tuple[float, float]:
        """At the camera, but for where the eyes wander. Radians to the right and up."""
        if not self._sees:
            return 0.0, 0.0
        x, y, z = -pose[:3, :3].T @ pose[:3, 3]
        right = CONTACT * math.atan2(x, z) + GAZE * motion.gaze_x
        up = CONTACT * math.atan2(y, math.hypot(x, z)) - GAZE * motion.gaze_y
        return min(max(right, -FARTHEST), FARTHEST), min(max(up, -FARTHEST), FARTHEST)

    def _action_units(self, motion: Motion, gaze: tuple[float, float]) -> Floats:
        low, middle, high = self._low, self._middle, self._high
        out = np.asarray(middle, np.float32).copy()
        raised = motion.brows
        out[AU01] = middle[AU01] + raised * (high[AU01] - middle[AU01])
        out[AU04] = low[AU04] + (1 - raised) * 0.5 * (middle[AU04] - low[AU04])
        out[AU05] = low[AU05] + raised * (high[AU05] - low[AU05])
        smile = min(max(0.65 + 1.8 * (motion.smile - 0.16), 0.0), 1.0)
        out[AU06] = low[AU06] + smile * (high[AU06] - low[AU06])
        out[AU07] = low[AU07] + smile * (high[AU07] - low[AU07])
        lids = float(low[AU45]) - (LIDS_FOLLOW * min(gaze[1], 0.0) if self._sees else 0.0)
        out[AU45] = lids + motion.lids * (self._closed - lids)
        return np.clip(out, 0, 5)


def facing(pose: Doubles) -> Doubles:
    """The pose (4, 4), turned more towards the camera: people were filmed as they happened to sit."""
    front = np.diag([1.0, -1.0, -1.0])
    out = pose.copy()
    out[:3, :3] = _rotation((1 - FACING) * rotation_vector(pose[:3, :3] @ front)) @ front
    return out


def _rotation(turn: Doubles) -> Doubles:
    """Rodrigues' formula: (3,) axis times angle -> (3, 3)."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = turn / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * (k @ k))
