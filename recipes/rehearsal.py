"""From clips of many voices to what an adaptation rehearses: `render/models/rehearsal.safetensors`.

    python -m recipes.rehearsal CLIPS_NPZ [--out FILE] [--frames 4000]

CLIPS_NPZ is the data set of the universal field (recipes/universal/displacements.py). Whole clips of voices that are
not held out, one of each voice in turn, as float16: half a megabyte. Half a second, after `displacements listen` (six
seconds) has heard the clips with the encoder; to be made anew whenever that changes.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parents[1] / "render" / "models" / "rehearsal.safetensors"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.rehearsal", description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--frames", type=int, default=4000)
    args = parser.parse_args(argv)
    with np.load(args.clips, allow_pickle=False) as clips:
        features, starts, voices = clips["features"], clips["starts"], clips["voices"]
        held_out = clips["held_out"]
    rng = np.random.default_rng(0)
    of_voice = {v: rng.permutation(np.flatnonzero((voices == v) & ~held_out)).tolist() for v in sorted(set(voices))}
    picked: list[np.ndarray] = []
    while sum(map(len, picked)) < args.frames and any(of_voice.values()):
        for clips_left in of_voice.values():
            if clips_left and sum(map(len, picked)) < args.frames:
                clip = clips_left.pop()
                picked.append(features[starts[clip] : starts[clip + 1]])
    whole = np.concatenate(picked)[: args.frames].astype(np.float16)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({"features": whole}, args.out, {"licence": "CC0-1.0", "source": "Speech of synthesisers; see recipes"})
    print(f"{len(whole)} frames of {len(picked)} clips, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
