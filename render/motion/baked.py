"""What is left of the motion nets in each frame, without torch: constants per Gaussian, and three small layers.

A point's encoding, attentions, alignment and its share of the first layer depend on where it rests, so they are
folded once (`render.motion.bake`). Points that hardly move are held still.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from render.avatar import AudioFeature, Shapes, field_shapes
from render.motion import voice
from render.motion.lowrank import PREFIX, LowRank
from render.motion.tables import CODE, ENCODING, HOOK_RANK, METRES, SIDEWAYS, WINDOW

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Weights = Mapping[str, Floats]


def kept_shapes(part: Literal["face", "mouth"], feature: AudioFeature) -> Shapes:
    """The tensors of a field that frames still need, or that are folded when packed: all but the grids."""
    return {name: shape for name, shape in field_shapes(part, feature).items() if not name.startswith("encoder_")}


_Ear = tuple[tuple[Floats, ...], tuple[Floats, ...], Floats, Floats]

CHANNELS = 10
"""of a face point's deformation: displacement x y z, quaternion w x y z, scale x y z"""
STILL_M = 5e-5
"""a point whose surface moves less than this is held still"""


@dataclass(frozen=True)
class Deformation:
    """What one frame adds to the Gaussians, before a quaternion is normalised or a scale activated."""

    face: Floats
    """(CHANNELS, moving points), metres and raw units; for the points `Baked.moving`"""
    mouth: Floats
    """(3, mouth points), metres"""


@dataclass(frozen=True)
class Baked:
    """A head's motion, folded. Saved as it stands: `arrays()`, `Baked.of_arrays()`."""

    feature: AudioFeature
    face: Weights
    mouth: Weights
    """nets by their names in a checkpoint, without what was folded"""
    moving: Ints
    """indices of the face Gaussians that are evaluated in each frame, rising"""
    encoding: Floats
    """(moving, ENCODING) where they lie in the universal field"""
    gain: Floats
    """(moving, 3) the aligner's scale of their motion"""
    still: Ints
    """indices of all other face Gaussians, rising"""
    rest: Floats
    """(still, CHANNELS) their deformation, the same in every frame"""
    mouth_encoding: Floats
    """(mouth points, ENCODING)"""
    few: LowRank | None = None
    """the face's motion in less time; for these moving points, and None where they are others"""

    # --- voice: what a caller keeps of each audio frame ---

    def codes(self, features: Floats) -> Floats:
        """Audio features (n, width, steps) -> (n, 2, CODE), for face and mouth; each serves WINDOW frames."""
        wanted = (self.feature.width, self.feature.steps)
        if features.ndim != 3 or features.shape[1:] != wanted:
            raise ValueError(f"{self.feature.name} features are (n, {wanted[0]}, {wanted[1]}), not {features.shape}")
        both = [voice.codes(net, features) for net in (self.face, self.mouth)]
        return np.stack(both, axis=1)

    @cached_property
    def silence(self) -> Floats:
        """(2, CODE) of features that are zero: what stands before the first frame and after the last."""
        nothing = np.zeros((1, self.feature.width, self.feature.steps), np.float32)
        return np.asarray(self.codes(nothing)[0], np.float32)

    # --- one frame ---

    def frame(self, codes: Floats, action_units: Floats, out: Deformation | None = None) -> Deformation:
        """Moves the head on one core; other Python threads run meanwhile.

        codes (WINDOW, 2, CODE) of frames i - 4 to i + 3 (`voice.windows`); action_units (6,), see ACTION_UNITS.
        `out`, from an earlier call, is written again. Equal to `reference` within rounding, or with `few` to what it
        was checked for.
        """
        from render.motion import kernel

        heard = np.empty((2, CODE), np.float32)
        for k, ear in enumerate(self._ears):
            kernel.attend(np.ascontiguousarray(codes[:, k], np.float32), *ear, heard[k])
        drive = self._drive(heard, action_units)
        out = out or Deformation(
            np.empty((CHANNELS, len(self.moving)), np.float32), np.empty((3, len(self.mouth_encoding)), np.float32)
        )
        packed = self._packed
        first = kernel.padded(drive.face, 64, 40)
        if self.few is None:
            kernel.face(packed.static, packed.driven, packed.gain, first, packed.second, packed.third, out.face)
        else:
            asked = np.empty((CHANNELS, len(self.few.asked)), np.float32)
            kernel.face(packed.static, packed.driven, packed.gain, first, packed.second, packed.third, asked)
            self.few.move(self.few.amounts(asked), out.face)
        up, down = self._still_heights
        rank = min(HOOK_RANK, len(self.moving) + len(self.still))
        highest = kernel.largest(out.face[1], np.float32(1), up, rank)
        lowest = -kernel.largest(out.face[1], np.float32(-1), -down, rank)
        pushed, gate_pushed = self._push(drive.mouth, np.float32(highest), np.float32(lowest))
        kernel.mouth(
            packed.mouth_static,
            pushed,
            packed.mouth_second,
            packed.mouth_third,
            packed.gate_static,
            gate_pushed,
            packed.gate_second,
            packed.gate_third,
            out.mouth,
        )
        return out

    def reference(self, codes: Floats, action_units: Floats) -> Deformation:
        """The same, slow and clear; the judge of `frame`."""
        heard = [voice.attend(net, codes[:, k]) for k, net in enumerate((self.face, self.mouth))]
        drive = self._drive(np.stack(heard), action_units)
        folded = self._fold()
        hidden = np.maximum(folded.static + folded.driven @ drive.face.T, 0)
        hidden = np.maximum(hidden @ self.face["sigma_net.net.1.weight"].T, 0)
        face = hidden @ folded.third.T
        face[:, :3] *= self.gain
        y = np.sort(np.concatenate([face[:, 1], self.rest[:, 1]]))
        rank = min(HOOK_RANK, len(y))
        pushed, gate_pushed = self._push(drive.mouth, y[-rank], y[rank - 1])
        hidden = np.maximum(folded.mouth_static + pushed, 0)
        hidden = np.maximum(hidden @ self.mouth["sigma_net.net.1.weight"].T, 0)
        mouth = hidden @ folded.mouth_third.T
        gate = np.maximum(folded.gate_static + gate_pushed, 0)
        gate = np.maximum(gate @ folded.gate_second.T, 0) @ folded.gate_third.T
        mouth *= 2 / (1 + np.exp(-gate))
        return Deformation(np.ascontiguousarray(face.T), np.ascontiguousarray(mouth.T))

    def warm(self) -> None:
        """Packs the constants and compiles the kernels (10 s where none are cached), so that no frame waits."""
        self.frame(np.zeros((WINDOW, 2, CODE), np.float32), np.zeros(6, np.float32))

    def _drive(self, heard: Floats, action_units: Floats) -> "_Drive":
        """heard (2, CODE): what face and mouth attend to."""
        audio, inside = heard
        brows = np.maximum(self.face["exp_encode_net.net.0.weight"] @ action_units[:5], 0)
        expression = np.append(self.face["exp_encode_net.net.1.weight"] @ brows, action_units[5])
        # Attention times code, then weights: the code may as well go into the weights, once for all points.
        drives = self.face["sigma_net.net.0.weight"][:, ENCODING:] * np.append(audio, expression)
        listens = self.mouth["sigma_net.net.0.weight"][:, ENCODING : ENCODING + CODE]
        return _Drive(np.asarray(drives, np.float32), np.asarray(listens @ inside, np.float32))

    def _push(self, heard: Floats, highest: np.float32, lowest: np.float32) -> tuple[Floats, Floats]:
        """What the voice and the opening face add to the mouth's first layers."""
        move = np.array([highest, lowest, highest - lowest], np.float32) * np.float32(100)
        follows = self.mouth["sigma_net.net.0.weight"][:, ENCODING + CODE :]
        return heard + follows @ move, self.mouth["scaler_net.net.0.weight"][:, ENCODING:] @ move

    @cached_property
    def _ears(self) -> list["_Ear"]:
        """The attention nets of face and mouth, as `kernel.attend` takes them."""
        ears = []
        for net in (self.face, self.mouth):
            convolutions = [f"audio_att_net.attentionConvNet.{layer}" for layer in (0, 2, 4, 6, 8)]
            kernels = tuple(np.ascontiguousarray(net[f"{name}.weight"], np.float32) for name in convolutions)
            biases = tuple(np.ascontiguousarray(net[f"{name}.bias"], np.float32) for name in convolutions)
            scores = (net["audio_att_net.attentionNet.0.weight"], net["audio_att_net.attentionNet.0.bias"])
            weight, bias = (np.ascontiguousarray(a, np.float32) for a in scores)
            ears.append((kernels, biases, weight, bias))
        return ears

    @cached_property
    def _still_heights(self) -> tuple[Floats, Floats]:
        """Of the still points, the greatest and the least displacements in y: all that the hook can need."""
        y = np.sort(self.rest[:, 1])
        return y[-HOOK_RANK:].copy(), y[:HOOK_RANK].copy()

    def _fold(self) -> "_Folded":
        """The constants, one row a point."""
        sigma, encoding, inside = self.face["sigma_net.net.0.weight"], self.encoding, self.mouth_encoding
        hears = _mlp(self.face, "aud_ch_att_net", encoding)
        sees = np.maximum(_mlp(self.face, "eye_att_net", encoding), 0)
        metres = np.array([METRES] * 3 + [1] * 7, np.float32)[:, None]
        third = self.face["sigma_net.net.2.weight"][
            [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
        ]  # 7 is the opacity, never applied
        scale = np.array([SIDEWAYS * METRES, METRES, SIDEWAYS * METRES], np.float32)[:, None]
        return _Folded(
            static=encoding @ sigma[:, :ENCODING].T,
            driven=np.concatenate([hears, sees], axis=1),
            third=third * metres,
            mouth_static=inside @ self.mouth["sigma_net.net.0.weight"][:, :ENCODING].T,
            mouth_third=self.mouth["sigma_net.net.2.weight"][:3] * scale,
            gate_static=inside @ self.mouth["scaler_net.net.0.weight"][:, :ENCODING].T,
            gate_second=self.mouth["scaler_net.net.1.weight"],
            gate_third=self.mouth["scaler_net.net.2.weight"],
        )

    @cached_property
    def _packed(self) -> "_Packed":
        from render.motion.kernel import blocks, padded

        folded = self._fold()
        asked = slice(None) if self.few is None else self.few.asked
        return _Packed(
            static=blocks(folded.static[asked], 64),
            driven=blocks(folded.driven[asked], 40),
            gain=blocks(self.gain[asked], 3),
            second=padded(self.face["sigma_net.net.1.weight"], 64, 64),
            third=padded(folded.third, 12, 64),
            mouth_static=blocks(folded.mouth_static, 32),
            mouth_second=padded(self.mouth["sigma_net.net.1.weight"], 32, 32),
            mouth_third=padded(folded.mouth_third, 4, 32),
            gate_static=blocks(folded.gate_static, 16),
            gate_second=padded(folded.gate_second, 16, 16),
            gate_third=padded(folded.gate_third, 4, 16),
        )

    # --- files ---

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything by name, contiguous, float32 and int32: as safetensors takes it."""
        named: dict[str, NDArray[np.generic]] = {f"face.{name}": array for name, array in self.face.items()}
        named |= {f"mouth.{name}": array for name, array in self.mouth.items()}
        named |= {name: getattr(self, name) for name in sorted(_CONSTANTS)}
        if self.few is not None:
            named |= {f"{PREFIX}{name}": array for name, array in self.few.arrays().items()}
        return {name: np.ascontiguousarray(array) for name, array in named.items()}

    @staticmethod
    def of_arrays(arrays: Mapping[str, NDArray[np.generic]], feature: AudioFeature) -> "Baked":
        """What `arrays` gave, checked. Raises ValueError with a sentence that names the tensor."""
        face, mouth = kept_shapes("face", feature), kept_shapes("mouth", feature)
        wanted = {f"face.{name}" for name in face} | {f"mouth.{name}" for name in mouth} | _CONSTANTS
        few = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
        arrays = {name: array for name, array in arrays.items() if not name.startswith(PREFIX)}
        if arrays.keys() != wanted:
            missing, strange = sorted(wanted - arrays.keys()), sorted(arrays.keys() - wanted)
            raise ValueError(f"baked motion: missing tensors {missing}, unknown tensors {strange}")
        moving, still = _indices(arrays, "moving"), _indices(arrays, "still")
        every = np.sort(np.concatenate([moving, still]))
        if len(every) == 0 or not np.array_equal(every, np.arange(len(every))):
            raise ValueError(
                "baked motion: moving and still must name each face Gaussian once, and there must be one"
            )
        return Baked(
            feature=feature,
            face={name: _floats(arrays, f"face.{name}", *shape) for name, shape in face.items()},
            mouth={name: _floats(arrays, f"mouth.{name}", *shape) for name, shape in mouth.items()},
            moving=moving,
            encoding=_floats(arrays, "encoding", len(moving), ENCODING),
            gain=_floats(arrays, "gain", len(moving), 3),
            still=still,
            rest=_floats(arrays, "rest", len(still), CHANNELS),
            mouth_encoding=_floats(arrays, "mouth_encoding", len(arrays["mouth_encoding"]), ENCODING),
            few=LowRank.of_arrays(few, CHANNELS, len(moving)) if few else None,
        )


def settle(
    baked: Baked,
    scaling: Floats,
    rotation: Floats,
    drive: Iterable[tuple[Floats, Floats]],
    still_m: float = STILL_M,
) -> Baked:
    """Holds still every face point whose surface `drive` moves by less than `still_m`, half-way between its extremes.

    scaling (N, 3) and rotation (N, 4): the face Gaussians, raw; drive: codes and action units of frames, as `frame`
    takes them, which should hold all that the face will ever do. The surface is taken at one standard deviation.
    Raises ValueError for an empty drive.
    """
    lowest = highest = np.empty(0, np.float32)
    for k, (codes, action_units) in enumerate(drive):
        d = baked.frame(codes, action_units).face
        lowest, highest = (np.minimum(lowest, d), np.maximum(highest, d)) if k else (d, d)
    if not lowest.size:
        raise ValueError("settle needs at least one frame of drive and one moving point")
    middle, half = (lowest + highest).T / 2, (highest - lowest).T / 2
    raw = scaling[baked.moving] + middle[:, 7:]
    small, large = (np.logaddexp(0, raw + side * half[:, 7:]) for side in (-1, 1))
    quaternion = np.linalg.norm(rotation[baked.moving] + middle[:, 3:7], axis=1)
    angle = 2 * np.linalg.norm(half[:, 3:7], axis=1) / np.maximum(quaternion, 1e-12)
    moves = np.linalg.norm(half[:, :3], axis=1) + angle * large.max(1) + ((large - small) / 2).max(1) >= still_m
    still = np.concatenate([baked.still, baked.moving[~moves]])
    order = np.argsort(still)
    return replace(
        baked,
        moving=baked.moving[moves],
        encoding=baked.encoding[moves],
        gain=baked.gain[moves],
        still=still[order],
        rest=np.concatenate([baked.rest, middle[~moves].astype(np.float32)])[order],
        few=None,
    )


@dataclass(frozen=True)
class _Drive:
    """What one frame's voice and action units are to the first layers."""

    face: Floats
    """(64, CODE + 6) weights of the attentions"""
    mouth: Floats
    """(32,) added to every point alike"""


@dataclass(frozen=True)
class _Folded:
    """Constants, one row a point, and the last layers with their units of length."""

    static: Floats
    driven: Floats
    third: Floats
    mouth_static: Floats
    mouth_third: Floats
    gate_static: Floats
    gate_second: Floats
    gate_third: Floats


@dataclass(frozen=True)
class _Packed:
    """The same in the kernels' blocks."""

    static: Floats
    driven: Floats
    gain: Floats
    second: Floats
    third: Floats
    mouth_static: Floats
    mouth_second: Floats
    mouth_third: Floats
    gate_static: Floats
    gate_second: Floats
    gate_third: Floats


_CONSTANTS = {"moving", "encoding", "gain", "still", "rest", "mouth_encoding"}


def _mlp(weights: Weights, name: str, x: Floats) -> Floats:
    """Two layers without bias."""
    hidden = np.maximum(x @ weights[f"{name}.net.0.weight"].T, 0)
    return np.asarray(hidden @ weights[f"{name}.net.1.weight"].T, np.float32)


def _floats(arrays: Mapping[str, NDArray[np.generic]], name: str, *shape: int) -> Floats:
    array = arrays[name]
    if array.dtype != np.float32 or array.shape != shape:
        raise ValueError(f"baked motion: {name} must be float32 {shape}, not {array.dtype} {array.shape}")
    floats = np.asarray(array, np.float32)
    if not np.isfinite(floats).all():
        raise ValueError(f"baked motion: {name} holds numbers that are not finite")
    return floats


def _indices(arrays: Mapping[str, NDArray[np.generic]], name: str) -> Ints:
    array = arrays[name]
    if array.dtype != np.int32 or array.ndim != 1:
        raise ValueError(f"baked motion: {name} must be int32, one dimension, not {array.dtype} {array.shape}")
    return np.asarray(array, np.int32)
