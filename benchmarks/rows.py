"""Tables: ours beside the ctgan package's CTGAN and TVAE on the same rows, measured alike.

python -m benchmarks.rows --minutes 3 --peer PYTHON      PYTHON: of an environment with `pip install ctgan`; without it ours alone
python -m benchmarks.rows --data credit --models ardm,tvae

Each trains alone, on one thread; the peer with its own settings, 300 epochs.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import genloom
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.data.schema import Column
from genloom.data.table import numbers_of
from genloom.measure_table import _learnt, _new, _spread, as_table, data_table

PEER = """
import sys, time, torch, pandas as pd
from ctgan import CTGAN, TVAE
torch.set_num_threads(1)
kind, path, out, n, discrete = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5].split("|")
table = pd.read_csv(path, dtype={c: str for c in discrete}, keep_default_na=False, na_values={})
make = {"ctgan": CTGAN, "tvae": TVAE}[kind]
torch.manual_seed(0)
began = time.time()
model = make(enable_gpu=False)
model.fit(table, discrete)
spent = time.time() - began
model.sample(n).to_csv(out, index=False)
print(spent)
"""


def plain(data: Dataset, path: Path) -> list[str]:
    """The training rows as a CSV file without gaps, which the peer does not take; the names of its categories."""
    columns = [Column.from_json(c) for c in data.spec.extra["columns"]]
    numbers = data.numbers  # type: ignore[attr-defined]
    words = []
    for column, x in zip(columns, numbers, strict=True):
        own = column.words(x)
        middle = column.words(np.array([np.nanmedian(x)]))[0] if column.kind != "category" else "none"
        words.append([w or middle for w in own])
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([c.name for c in columns])
        rows.writerows(zip(*words, strict=True))
    return [c.name for c in columns if c.kind == "category"]


def figures(data: Dataset, numbers: list[np.ndarray]) -> dict[str, float]:
    """As `genloom evaluate` has them."""
    held = data.held_out()
    assert held is not None
    real, train, fake = data_table(held), data_table(data), as_table(numbers, data.spec)
    wanted = ("shapes", "trends", "detection", "utility", "new", "nearer")
    result: dict[str, Any] = {"metrics": [], "warnings": []} | {"beside": {}}
    _spread(result, wanted, real, fake, train, 0)
    _learnt(result, wanted, real, fake, train, data.spec, 0)
    _new(result, wanted, real, fake, train, 0)
    return {m["name"].split("@")[0]: m["value"] for m in result["metrics"]}


def show(name: str, seconds: float, found: dict[str, float]) -> None:
    print(f"{name:<22} {seconds:6.0f} s  " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()), flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", default="churn")
    asked.add_argument("--target")
    asked.add_argument("--minutes", type=float, default=3.0)
    asked.add_argument("--models", default="ardm,tvae,ctgan")
    asked.add_argument("--peer")
    given = asked.parse_args()
    target = given.target or {"churn": "churn", "credit": "Status"}.get(given.data)
    data = open_data(given.data, target=target)
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, given.models.split(",")):
            began = time.perf_counter()
            run = genloom.fit(name, data, Path(folder) / name, minutes=given.minutes, quiet=True)
            spent = time.perf_counter() - began
            asks = {"label": data.labels()} if genloom.load(run).takes("label") else {}
            made = genloom.sample(run, len(data), seed=0, **asks)
            show(f"genloom {name}", spent, figures(data, numbers_of(made, data.spec)))
        if not given.peer:
            return
        path, out = Path(folder) / "rows.csv", Path(folder) / "made.csv"
        discrete = plain(data, path)
        for kind in ("tvae", "ctgan"):
            words = [kind, str(path), str(out), str(len(data)), "|".join(discrete)]
            told = subprocess.run([given.peer, "-c", PEER, *words], capture_output=True, text=True, check=True)
            made = open_data(out, modality="table", like=data.spec, held_out=0)
            show(f"ctgan's {kind}", float(told.stdout.split()[-1]), figures(data, made.numbers))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
