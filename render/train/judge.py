"""How good a head is while it is trained: its figures on held-out frames, and pictures to look at."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from render.train.footage import Footage, film
from render.train.lpips import Lpips
from render.train.similarity import gradient_similarity, ms_ssim
from render.train.torso import TorsoFit
from render.train.trainer import Trainer

Floats = NDArray[np.float32]
SHOWN = 4
"""frames of a sheet"""


@dataclass(frozen=True, eq=False)
class Verdict:
    """The means over the frames, and a sheet: rendered, filmed, four times the difference, below each other."""

    figures: dict[str, float]
    """by name: psnr in dB; ms_ssim and gms, see `similarity`; lpips"""
    sheet: NDArray[np.uint8]  # (H, W, 3)


class Judge:
    """Some held-out frames, with the torso behind them as it will be: without sway."""

    def __init__(self, trainer: Trainer, torso: TorsoFit | None, frames: int = 24) -> None:
        data = trainer.data
        shots = data.held_out or data.train
        some = [shots[k] for k in np.unique(np.linspace(0, len(shots) - 1, min(frames, len(shots))).astype(int))]
        self.footage: Footage = film(data, some, trainer.footage.box)
        self.behind = behind(trainer, torso, self.footage)

    @torch.no_grad()
    def look(self, trainer: Trainer, window: torch.Tensor | None = None, lpips: Lpips | None = None) -> Verdict:
        """window: one for all frames, instead of their own voice. lpips: measured, too."""
        f = self.footage
        sums: dict[str, list[float]] = {}
        tiles: list[Floats] = []
        for k, shot in enumerate(f.shots):
            drawn = trainer.painter.draw(f.box.camera(trainer.data, shot.pose), trainer.posed(shot, window).splats)
            torso = self.behind[k].astype(np.float32)
            under = torso[:3] + torso[3] * f.plate
            made = np.clip(drawn.colour.cpu().numpy() + drawn.transmittance.cpu().numpy() * under, 0, 1)
            true = f.rgb[k].astype(np.float32) / 255
            head = f.head[k] > 127
            for name, mask in (
                ("head", head),
                ("mouth", _within(head, f.mouth_boxes[k])),
                ("eyes", _within(head, f.eyes_boxes[k])),
            ):
                if mask.any():
                    sums.setdefault(f"{name}_psnr", []).append(psnr(made[:, mask], true[:, mask]))
                    sums.setdefault(f"{name}_ms_ssim", []).append(ms_ssim(made, true, mask))
                    sums.setdefault(f"{name}_gms", []).append(gradient_similarity(made, true, mask))
                    if lpips is not None:
                        sums.setdefault(f"{name}_lpips", []).append(
                            perceived(lpips, made, true, mask, trainer.device)
                        )
            if k % max(1, len(f) // SHOWN) == 0 and len(tiles) < SHOWN:
                tiles.append(np.concatenate([made, true, np.abs(made - true) * 4], axis=1))
        sheet = (np.concatenate(tiles, axis=2).clip(0, 1).transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
        return Verdict({name: float(np.mean(values)) for name, values in sums.items()}, sheet)


def behind(trainer: Trainer, torso: TorsoFit | None, footage: Footage) -> NDArray[np.float16]:
    """(F, 4, H, W): the torso's colour and what shines through it, for each frame."""
    box = footage.box
    out = np.zeros((len(footage), 4, box.height, box.width), np.float16)
    out[:, 3] = 1
    if torso is not None:
        for k, shot in enumerate(footage.shots):
            drawn = torso.behind(trainer.data, box, shot, trainer.painter)
            out[k, :3] = drawn.colour.cpu().numpy()
            out[k, 3] = drawn.transmittance.cpu().numpy()
    return out


def psnr(made: Floats, true: Floats) -> float:
    """dB; at most 100."""
    return float(-10 * np.log10(max(np.mean((made - true) ** 2, dtype=np.float64), 1e-10)))


def perceived(lpips: Lpips, made: Floats, true: Floats, mask: NDArray[np.bool_], device: torch.device) -> float:
    """LPIPS of the box around a mask's pixels; beside the mask nothing differs."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = np.s_[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pair = (np.ascontiguousarray(v[box]) for v in (np.where(mask, made, true), true))
    a, b = (torch.from_numpy(v.astype(np.float32)).to(device) for v in pair)
    return float(lpips(a, b))


def _within(mask: NDArray[np.bool_], box: tuple[slice, slice]) -> NDArray[np.bool_]:
    out = np.zeros_like(mask)
    out[box] = mask[box]
    return out
