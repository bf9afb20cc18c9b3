"""From a packed synthetic person (../shared/data/README.md) to the dataset folder that `visavis train adapt` reads.

    python -m recipes.people PACKED_FOLDER DATASET_FOLDER [--background PICTURE] [--seconds 10]

The layout is InsTaG's (specs/instag.md §1.1) with the truth that a synthetic person has and a filmed one lacks: soft
coverage of person (`person/`), head (`head/`) and eyes (`eyes/`, hard), gaze (`gaze.csv`, radians), depth in metres
(`depth/`) and normals (`sapiens/normal/`), both of the training frames only, every fourth frame without the head
(`torso_pass/`), and poses and action units of somebody who listens (`transforms_idle.json`, `au_idle.csv`).
"""

import argparse
import json
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 25
VALIDATION_S = 12
"""what comes after so many seconds is for judging"""
UNITS_PER_METRE = 10
"""the generator works in decimetres"""
DEPTH_STEPS = 128
"""of a decimetre, in depth.mkv"""

# Blender's axes (z up) to the head's: x to the picture's right, y up, z towards the viewer.
TO_HEAD = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])

# Where the camera stands in Blender's axes, decimetres: 1.1 m in front of the head's place.
CAMERA = np.array([[1, 0, 0, 0], [0, 0, -1, -11], [0, 1, 0, 0], [0, 0, 0, 1.0]])
NEAREST = 5.0

# Labels of labels.mkv: 0 background, 1 face, 2 hair, 3 cloth, 4 mouth interior, 5 neck, 6 eyes.
FACE, HAIR, CLOTH, MOUTH, NECK, EYES = range(1, 7)
# BGR, as cv2 writes it: what InsTaG reads as background, face, hair, cloth, mouth, neck, and eyes among the face.
COLOURS = np.array(
    [[255] * 3, [255, 0, 0], [0, 0, 0], [0, 0, 255], [100, 100, 100], [0, 255, 0], [255, 0, 0]], np.uint8
)
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 97, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
FOLDERS = (
    "ori_imgs",
    "gt_imgs",
    "parsing",
    "torso_imgs",
    "torso_pass",
    "head",
    "person",
    "eyes",
    "teeth_mask",
    "sapiens/normal/sapiens_gt",
    "depth",
)


def frames(path: Path, kind: str) -> Iterator[NDArray[Any]]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format=kind)


def transform(cam2head: list[list[float]]) -> list[list[float]]:
    """Camera to head, OpenGL axes, metres: what transforms_*.json holds."""
    given = np.array(cam2head)
    if np.linalg.norm(given[:3, 3]) < NEAREST:  # listen/meta.json was written before the camera stood in its place
        given = given @ CAMERA
    matrix = TO_HEAD @ given
    matrix[:3, 3] /= UNITS_PER_METRE
    return [[float(x) for x in row] for row in matrix]


def action_units(rows: list[dict[str, Any]]) -> str:
    """OpenFace's file, with its blank before every column but the first."""
    names = sorted(rows[0]["au"])
    lines = ["frame, " + ", ".join(names)]
    lines += [f"{k + 1}, " + ", ".join(f"{row['au'][n]:.3f}" for n in names) for k, row in enumerate(rows)]
    return "\n".join(lines) + "\n"


def write_wav(source: Path, target: Path) -> None:
    """As 16 kHz, mono, 16 bits."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16000)
    with av.open(str(source)) as container:
        pieces = [f.to_ndarray() for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    pieces += [f.to_ndarray() for f in resampler.resample(None)]
    with wave.open(str(target), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(np.concatenate(pieces, axis=1).astype("<i2").tobytes())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.people", description=__doc__.splitlines()[0])
    parser.add_argument("packed", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument(
        "--background", type=Path, help="the plate; default: ../../portraits/background.png beside it"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="so much of the beginning is for training")
    args = parser.parse_args(argv)
    source, out = args.packed, args.dataset
    for name in FOLDERS:
        (out / name).mkdir(parents=True, exist_ok=True)
    meta = json.loads((source / "meta.json").read_text())
    rows, last = meta["frames"], int(args.seconds * FPS)
    streams = [("video.mp4", "bgr24"), ("alpha.mkv", "gray"), ("head.mkv", "gray"), ("labels.mkv", "gray")]
    streams += [("depth.mkv", "gray16le"), ("normal.mp4", "rgb24")]
    pictures = zip(*(frames(source / name, kind) for name, kind in streams), strict=False)
    for k, (row, (bgr, person, head, labels, depth, normal)) in enumerate(zip(rows, pictures, strict=False)):
        cv2.imwrite(str(out / f"ori_imgs/{k}.jpg"), bgr, JPEG)
        shutil.copy(out / f"ori_imgs/{k}.jpg", out / f"gt_imgs/{k}.jpg")
        cv2.imwrite(str(out / f"parsing/{k}.png"), COLOURS[labels])
        np.save(out / f"teeth_mask/{k}.npy", labels == MOUTH)
        torso = np.isin(labels, (CLOTH, NECK)).astype(np.uint8) * 255
        cv2.imwrite(str(out / f"torso_imgs/{k}.png"), np.dstack([bgr, torso]))
        cv2.imwrite(str(out / f"head/{k}.png"), head)
        cv2.imwrite(str(out / f"person/{k}.png"), person)
        cv2.imwrite(str(out / f"eyes/{k}.png"), (labels == EYES).astype(np.uint8) * 255)
        np.savetxt(out / f"ori_imgs/{k}.lms", np.array(row["lms2d"]), fmt="%.3f")
        if k < last:
            metres = depth / (DEPTH_STEPS * UNITS_PER_METRE)
            np.save(out / f"depth/{k}.npy", metres.astype(np.float16))
            np.save(out / f"sapiens/normal/sapiens_gt/{k}.npy", (normal / 127.5 - 1).astype(np.float16))
    poses = [{"img_id": k, "aud_id": k, "transform_matrix": transform(r["cam2head"])} for k, r in enumerate(rows)]
    camera = {"focal_len": meta["fl_x"], "cx": meta["cx"], "cy": meta["cy"]}
    for name, part in (("train", poses[:last]), ("val", poses[VALIDATION_S * FPS :])):
        (out / f"transforms_{name}.json").write_text(json.dumps(camera | {"frames": part}))
    (out / "au.csv").write_text(action_units(rows))
    gaze = [f"{k + 1}, {r['gaze'][0]:.5f}, {r['gaze'][1]:.5f}" for k, r in enumerate(rows)]
    (out / "gaze.csv").write_text("\n".join(["frame, right, up", *gaze]) + "\n")
    if (source / "listen").is_dir():
        idle = json.loads((source / "listen" / "meta.json").read_text())["frames"]
        poses = [{"img_id": k, "transform_matrix": transform(r["cam2head"])} for k, r in enumerate(idle)]
        (out / "transforms_idle.json").write_text(json.dumps(camera | {"frames": poses}))
        (out / "au_idle.csv").write_text(action_units(idle))
    if (source / "torso").is_dir():
        passes = json.loads((source / "torso" / "meta.json").read_text())["frames"]
        both = zip(
            frames(source / "torso/video.mp4", "bgr24"), frames(source / "torso/alpha.mkv", "gray"), strict=True
        )
        for row, (bgr, alpha) in zip(passes, both, strict=True):
            cv2.imwrite(str(out / f"torso_pass/{row['i']}.png"), np.dstack([bgr, alpha]))
    write_wav(source / "audio.wav", out / "aud.wav")
    background = args.background or source.parent.parent / "portraits" / "background.png"
    cv2.imwrite(str(out / "bc.jpg"), cv2.imread(str(background)), JPEG)
    print(f"{len(rows)} frames, {last} of them for training")


if __name__ == "__main__":
    main()
