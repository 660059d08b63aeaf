"""Every model on MNIST at equal time: fits, measures, and keeps the figures in results.json, which the README tables show.

python -m benchmarks.board                 each model for 3 minutes, from its own cpu recipe
python -m benchmarks.board gan --recipe textbook
python -m benchmarks.board flow --minutes 10
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

import genloom
from benchmarks.machine import matmul_gflops
from benchmarks.table import RESULTS, ROOT, read_results, write_tables, write_zoo
from genloom import core
from genloom.run import Run, read_json

PICTURES = {  # that the README shows, by model, recipe and minutes
    ("gan", "textbook", 3.0): "textbook.png",
    ("gan", "cpu", 3.0): "gan.png",
    ("flow", "cpu", 3.0): "flow.png",
}


def measure(model: str, minutes: float, folder: Path, recipe: str = "cpu", data: str = "mnist") -> dict[str, Any]:
    """One row: fit for that long, sample 10,000, evaluate."""
    run = genloom.fit(model, data, folder, recipe=recipe, minutes=minutes)
    start = time.perf_counter()
    genloom.sample(run, 10_000)
    sampling = time.perf_counter() - start
    found = genloom.evaluate(run)
    _, numbers = Run.open(folder).load_tensors("state/latest.safetensors")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "model": model,
        "data": data,
        "recipe": recipe,
        "minutes": minutes,
        "steps": numbers["step"],
        "images_per_second": round(numbers["step"] * run.info["options"]["batch_size"] / numbers["seconds"]),
        "memory_mb": max(t["memory_mb"] for t in log if t["event"] == "tick"),
        "sampling_seconds": round(sampling, 1),
        "evaluate_seconds": round(found["seconds"], 1),
        "metrics": {m["name"].split("@")[0]: [m["value"], m["low"], m["high"]] for m in found["metrics"]},
        "classes": found["classes"],
        "command": read_json(folder / "run.json")["command"],
        "cores": torch.get_num_threads(),
        "gflops": round(matmul_gflops()),
        "date": time.strftime("%Y-%m-%d"),
    }


def keep(row: dict[str, Any]) -> None:
    """Put a row in place of the older one of the same model, data, recipe and time."""
    key = ("model", "data", "recipe", "minutes")
    rows = [r for r in read_results() if [r[k] for k in key] != [row[k] for k in key]]
    rows = sorted([*rows, row], key=lambda r: [str(r[k]) for k in key])
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", help="by default all that learn from plain pictures")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/board"))
    args = parser.parse_args()
    plain = [name for name, cls in core.models().items() if cls.modality == "image" and not cls.needs]
    for model in args.models or plain:
        folder = args.out / f"{model}-{args.recipe}-{args.minutes:g}"
        row = measure(model, args.minutes, folder, args.recipe)
        keep(row)
        write_tables()
        write_zoo()
        if picture := PICTURES.get((model, args.recipe, args.minutes)):
            shutil.copy(folder / "samples" / "grid.png", ROOT / "docs" / picture)


if __name__ == "__main__":
    main()
