"""Every model of texts, sounds, films, tables and paired pictures, on data that comes with genloom: fits, measures, and keeps the
figures in kinds.json, which the README tables show.

python -m benchmarks.kinds                     each model for the minutes below
python -m benchmarks.kinds ardm llama --minutes 1
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch

import genloom
from benchmarks.machine import matmul_gflops
from benchmarks.table import KINDS, read_kinds, write_tables
from genloom.data.catalog import EMBEDDED
from genloom.run import read_json


class Fit(NamedTuple):
    data: str
    minutes: float
    options: dict[str, Any] = {}


FRAMES = "frames"  # of the embedded film, as pairs of pictures: made when they are asked for
FITS = {
    "ardm": Fit("churn", 3),
    "tvae": Fit("churn", 3),
    "ctgan": Fit("churn", 3),
    "gpt": Fit("shakespeare", 3),
    "llama": Fit("shakespeare", 3),
    "deepgl": Fit("speech", 5),
    "vocos": Fit("speech", 5),
    "melgan": Fit("speech", 5),
    "hifigan": Fit("speech", 5),
    "codec": Fit("speech", 5),
    "sound": Fit("speech", 5),
    "tts": Fit("speech", 5),
    "pix2pix": Fit(FRAMES, 3, {"size": 64}),
    "cyclegan": Fit(FRAMES, 3, {"size": 64}),
    "vid2vid": Fit("carphone", 15, {"size": 64, "mirror": True}),
    "mocogan": Fit("moving-digits", 3, {"frames": 8}),
    "videoflow": Fit("moving-digits", 5, {"frames": 8}),
}


def measure(model: str, minutes: float | None, folder: Path) -> dict[str, Any]:
    """One row: fit for that long, and evaluate."""
    data, usual, options = FITS[model]
    place = write_frames(folder.parent / FRAMES) if data == FRAMES else data
    run = genloom.fit(model, place, folder, minutes=minutes or usual, data_options=options, quiet=True)
    found = genloom.evaluate(run)
    command = read_json(folder / "run.json")["command"]
    return {
        "model": model,
        "minutes": minutes or usual,
        "command": f"python -m benchmarks.kinds {model}" if data == FRAMES else command,
        "metrics": {m["name"]: [m["value"], m["low"], m["high"]] for m in found["metrics"]},
        "cores": torch.get_num_threads(),
        "gflops": round(matmul_gflops()),
        "date": time.strftime("%Y-%m-%d"),
    }


def write_frames(folder: Path) -> Path:
    """trainA, trainB, testA and testB: the frames of the embedded film, distorted and not, its last 30 for testing."""
    for side, kind in (("A", "distorted"), ("B", "pristine")):
        with av.open(str(EMBEDDED / f"carphone-{kind}.mp4")) as film:
            frames = [frame.to_image() for frame in film.decode(video=0)]
        for i, frame in enumerate(frames):
            place = folder / f"{'train' if i < len(frames) - 30 else 'test'}{side}"
            place.mkdir(parents=True, exist_ok=True)
            frame.save(place / f"{i:03}.png")
    return folder


def keep(row: dict[str, Any]) -> None:
    """Put a row in place of the older one of the same model."""
    rows = [*(r for r in read_kinds() if r["model"] != row["model"]), row]
    KINDS.write_text(json.dumps(sorted(rows, key=lambda r: str(r["model"])), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", choices=[*FITS, []], help="by default all")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--out", type=Path, default=Path("runs/kinds"))
    args = parser.parse_args()
    for model in args.models or FITS:
        keep(measure(model, args.minutes, args.out / model))
        write_tables()


if __name__ == "__main__":
    main()
