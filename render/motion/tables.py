"""Numbers that the motion nets are made of: grid levels, windows, units; names and shapes are in `render.avatar`."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# --- the tri-plane encoder ---

BOUND = 0.15
"""metres: the grids cover [-BOUND, BOUND] in each coordinate of the head's frame"""
LEVELS = 12
PLANES = {"xy": (0, 1), "yz": (1, 2), "xz": (0, 2)}
"""name -> the two coordinates, in the order in which the features stand; the first runs fastest in the table"""
ENCODING = LEVELS * len(PLANES)
TABLE_ROWS = 2**17
"""a level larger than this is hashed; none of InsTaG's is"""
HASH_PRIME = 2654435761
"""multiplies the second coordinate (Teschner et al. 2003); the first is multiplied by one"""


@dataclass(frozen=True)
class Levels:
    """The resolutions of one plane's grids, from coarse to fine, and where each lies in the table."""

    base: int
    finest: float
    """resolution that the last level is meant to have: `base * growth ** (LEVELS - 1)`"""
    rows_at_most: int = TABLE_ROWS

    @property
    def growth(self) -> float:
        return float(np.exp2(np.log2(self.finest / self.base) / (LEVELS - 1)))

    @cached_property
    def scales(self) -> NDArray[np.float32]:
        """(LEVELS,) cells across the plane, float32 as the checkpoints were trained."""
        log_growth = np.float32(np.log2(self.growth))
        levels = np.arange(LEVELS, dtype=np.float32)
        return np.asarray(np.exp2(levels * log_growth) * np.float32(self.base) - np.float32(1), np.float32)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Entries along one row of each level; a level is square."""
        return tuple(math.ceil(scale) + 2 for scale in self.scales)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """LEVELS + 1 numbers: the first row of each level, and the number of rows."""
        rows = [
            math.ceil(min(self.rows_at_most, (math.ceil(self.base * self.growth**level) + 1) ** 2) / 8) * 8
            for level in range(LEVELS)
        ]
        return tuple(int(n) for n in np.concatenate([[0], np.cumsum(rows)]))


FACE_LEVELS = Levels(16, 256 * BOUND)
"""of the universal face field and of both aligners"""
MOUTH_LEVELS = Levels(64, 384 * BOUND)
"""of the universal mouth field; its resolution falls, as in the original"""

# --- voice, motion and hook ---

CODE = 32
"""numbers that an audio net makes of one frame's feature"""
WINDOW = 8
"""codes that one frame attends to: those of frames i - WINDOW_BEFORE to i + 3"""
WINDOW_BEFORE = 4
METRES = 0.01
"""of motion for each unit that a net puts out"""
SIDEWAYS = 0.2
"""the inner mouth moves this much less in x and z than in y"""
HOOK_RANK = 10
"""the mouth follows the face point of this rank from the top and from the bottom"""
