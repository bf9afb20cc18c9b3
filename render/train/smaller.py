"""A dataset seen smaller: what is learned from several people need not be learned from every pixel."""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from render.train.dataset import Bytes, Dataset, Floats


@dataclass(frozen=True, eq=False)
class Smaller(Dataset):
    """Pictures are shrunk by their pixels' mean, labels and geometry by the nearest."""

    full: Dataset

    def labels(self, index: int) -> Bytes:
        return np.asarray(self._shrunk(self.full.labels(index), cv2.INTER_NEAREST), np.uint8)

    def landmarks(self, index: int) -> Floats | None:
        points = self.full.landmarks(index)
        share = np.array([self.width / self.full.width, self.height / self.full.height], np.float32)
        return None if points is None else points * share

    def _image(self, path: Any, channels: int) -> Bytes:
        return np.asarray(self._shrunk(self.full._image(path, channels), cv2.INTER_AREA), np.uint8)

    def _array(self, path: Any, more: tuple[int, ...], dtype: type) -> NDArray[Any]:
        return self._shrunk(self.full._array(path, more, dtype), cv2.INTER_NEAREST)

    def _shrunk(self, array: NDArray[Any], how: int) -> NDArray[Any]:
        return np.asarray(cv2.resize(array, (self.width, self.height), interpolation=how))


def smaller(data: Dataset, side: int) -> Dataset:
    """With no side longer than `side` pixels; as it is if it is not larger."""
    share = side / max(data.width, data.height)
    if share >= 1:
        return data
    width, height = (max(round(n * share), 1) for n in (data.width, data.height))
    plate = cv2.resize(data.background, (width, height), interpolation=cv2.INTER_AREA)
    own = {name: getattr(data, name) for name in Dataset.__dataclass_fields__}
    own |= {"width": width, "height": height, "focal_px": data.focal_px * share}
    return Smaller(**own | {"background": np.asarray(plate, np.uint8)}, full=data)


def shortened(data: Dataset, frames: int) -> Dataset:
    """With so many frames for training at most, spread over the clip."""
    count = min(frames, len(data.train))
    rows = np.unique(np.linspace(0, len(data.train) - 1, count).astype(int))
    return replace(data, train=tuple(data.train[k] for k in rows))
