"""`visavis train adapt`: from a dataset folder and the universal field to an avatar folder, on a CPU or a GPU.

Stages (InsTaG, Li et al., CVPR 2025, mended): torso and neck, which then stand still behind the head; the face under
the universal field, gently at first; the inner mouth joins; all together, for scales and edges. It can be stopped at
any time: started again with the same arguments it goes on from its last checkpoint.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from render.avatar import load_field, save
from render.features import MODEL
from render.train.adaptation import Adaptation, Plan, Told, hear
from render.train.dataset import FPS, MIN_FRAMES, Dataset, load
from render.train.finish import About, finish
from render.train.judge import Judge
from render.train.lpips import Lpips
from render.train.rehearsal import other_voices
from render.train.trainer import Trainer
from server.core.errors import VisavisError

Floats = NDArray[np.float32]

FIELD = MODEL.with_name("universal.safetensors")
LICENCE = "Not stated. Ask the person who is shown."


class Aloud:
    """A progress bar with the time left, lines, and TensorBoard where a folder for it is given."""

    def __init__(self, board: Path | None, quiet: bool = False) -> None:
        self._bar: Any = None
        self._quiet = quiet
        self._writer: Any = None
        if board is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(board))

    def begin(self, what: str, total: int, done: int) -> None:
        from tqdm import tqdm

        self.close_bar()
        self._bar = tqdm(total=total, initial=done, desc=what, disable=self._quiet, mininterval=1.0)

    def advance(self, loss: float) -> None:
        self._bar.update()
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, sheet: NDArray[np.uint8]) -> None:
        if self._writer is not None:
            self._writer.add_image("held_out", sheet, step, dataformats="HWC")

    def say(self, text: str) -> None:
        if not self._quiet:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)

    def close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        self.close_bar()
        if self._writer is not None:
            self._writer.close()


def adapt(
    data: Dataset,
    field: Path | None,
    out: Path,
    about: About,
    plan: Plan,
    work: Path,
    told: Told,
    lpips: Lpips | None = None,
) -> dict[str, Any]:
    """Trains, writes the avatar's folder to `out`, and returns the summary. Raises VisavisError with a sentence.

    lpips: a late part of the loss, and a figure of the summary.
    """
    from safetensors.numpy import load_file

    begun = time.monotonic()
    if plan.device == "cpu":
        torch.set_num_threads(1)  # more get slower when other work shares the cores
    shown = tuple(s for s in data.train if s.index < plan.seconds * FPS)
    if len(shown) < MIN_FRAMES:
        what = f"{data.folder} has {len(shown)} frames for training in its first {plan.seconds:g} s"
        raise VisavisError("seconds", f"{what}. Learn from at least {MIN_FRAMES / FPS:g} s.")
    data = replace(data, train=shown)
    heard = hear(data, load_file(MODEL))
    universal = load_field(field) if field is not None else None
    if universal is not None and universal.audio != heard.feature:
        what = f"{field} listens to {universal.audio.name} of width {universal.audio.width}"
        raise VisavisError("field", f"{what}, and the encoder gives {heard.feature}. Give the field made for it.")
    known = None if universal is None else universal.tensors
    run = Adaptation(data, heard, known, plan, work, told, "own" if universal is None else universal.layout)
    run.lpips = lpips
    torso = run.torso()
    trainer, judge = run.head(torso)
    dropped = trainer.refine(fresh=False)
    told.say(f"{dropped} Gaussians that nobody sees are gone; baking")
    train = np.concatenate([heard.features[[s.index for s in data.train]], other_voices(heard.feature)[:3000]])
    avatar = finish(data, trainer.head, torso.finish() if torso else None, about, heard.feature, heard.encoder, train)
    save(avatar, out)
    summary = summarise(trainer, judge, plan, lpips)
    summary |= {
        "name": about.name,
        "seconds": round(time.monotonic() - begun, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "moving": len(avatar.baked["moving"]),
        "torso": len(avatar.torso.gaussians) if avatar.torso else 0,
        "megabytes": round(sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6, 1),
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def summarise(trainer: Trainer, judge: Judge, plan: Plan, lpips: Lpips | None = None) -> dict[str, Any]:
    """Figures on the held-out frames: with their own voice, and with silence, as a face that never moves its lips."""
    speaking = judge.look(trainer, lpips=lpips).figures
    silence = torch.zeros_like(trainer.clip.windows[0])
    still = judge.look(trainer, window=silence).figures
    out: dict[str, Any] = {name: round(v, 2 if name.endswith("psnr") else 4) for name, v in speaking.items()}
    if "mouth_psnr" in speaking:
        out["mouth_over_static_db"] = round(speaking["mouth_psnr"] - still["mouth_psnr"], 2)
    out["lpips"] = "absent (no weight file)" if lpips is None else lpips.name
    return out | {"gaussians": len(trainer.head), "iterations": plan.iterations, "seed": plan.seed}


def text_of(summary: Mapping[str, Any]) -> str:
    return "\n".join(f"{name:>22}  {value}" for name, value in summary.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visavis train adapt", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the dataset folder of one person")
    parser.add_argument("--out", type=Path, required=True, help="the avatar folder to write")
    parser.add_argument("--field", type=Path, default=FIELD, help="the universal motion field")
    parser.add_argument("--from-scratch", action="store_true", help="without a universal field")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="so much of the clip is learned from")
    parser.add_argument(
        "--minutes", type=float, default=Plan.minutes, help="the training ends within them; 0: no bound"
    )
    parser.add_argument("--iterations", type=int, default=Plan.iterations)
    parser.add_argument("--torso-iterations", type=int, default=Plan.torso_iterations)
    parser.add_argument("--device", default=Plan.device, help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    for part in ("face", "hair", "eyes", "mouth", "torso"):
        parser.add_argument(f"--{part}", type=int, default=getattr(Plan, part), help=f"Gaussians of {part} at most")
    parser.add_argument("--name", help="what calls choose it by; default: the avatar folder's own name")
    parser.add_argument("--title", help="what people call it")
    parser.add_argument("--licence", default=LICENCE, help="the terms under which the person may be shown")
    parser.add_argument("--source", help="where the clip comes from")
    parser.add_argument("--work", type=Path, help="checkpoints and logs; default: beside the avatar folder")
    parser.add_argument("--lpips", type=Path, nargs="+", help="weights of LPIPS, for the late loss and the summary")
    parser.add_argument("--quiet", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    name = args.name or args.out.absolute().name
    work = args.work or args.out.absolute().with_name(f"{args.out.absolute().name}.training")
    plan = Plan(
        args.iterations,
        args.torso_iterations,
        args.minutes,
        args.seconds,
        args.seed,
        args.face,
        args.hair,
        args.eyes,
        args.mouth,
        args.torso,
        args.device,
    )
    field = None if args.from_scratch else args.field
    source = args.source or f"Trained by visavis from {plan.seconds:g} s of {args.data.absolute().name}."
    about = About(name, args.title or name.capitalize(), args.licence, source)
    told = None
    try:
        lpips = Lpips.of_files(args.lpips, plan.device) if args.lpips else None
        data = load(args.data)
        told = Aloud(work / "board", args.quiet)
        summary = adapt(data, field, args.out, about, plan, work, told, lpips)
    except VisavisError as error:
        print(error.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; started again it goes on from its last checkpoint.", file=sys.stderr)
        return 130
    finally:
        if told is not None:
            told.close()
    print(text_of(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
