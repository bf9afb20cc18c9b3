"""Where the 68 landmarks lie on the face that the universal field is laid out on, for `render/models`.

    VISAVIS_GENERATOR=... VISAVIS_MAKEHUMAN=... python -m recipes.landmarks [--out FILE]

Half a kilobyte, CC0: from the generator's mean face at rest, metres. An adaptation fits its aligner to it.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from recipes.universal import generator

OUT = Path(__file__).resolve().parents[1] / "render" / "models" / "landmarks.safetensors"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.landmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    places = np.asarray(generator.landmarks(generator.mean_identity(), {"jaw": np.zeros(1)}), np.float32).reshape(
        -1, 68, 3
    )[0]
    save_file({"places": np.ascontiguousarray(places)}, args.out, {"licence": "CC0-1.0"})
    print(places[[30, 36, 45, 62, 66]].round(4).tolist())


if __name__ == "__main__":
    main()
