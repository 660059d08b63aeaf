"""What provenance costs: `python -m benchmarks.provenance [RUN …]`.

Milliseconds of the processor for a picture of 256² (PNG), written bare, labelled, and labelled and signed; then, of each
run, how many samples a second 64 of them become files at, with and without, by turns in one process after a first go; and
the whole command `genloom sample RUN -n 64`. Time of the processor, not of the clock: other programs do not change it, nor
does the disk.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch

from genloom import generate
from genloom.data import draw
from genloom.origin import Marks
from genloom.provenance import Origin, Signer, mark
from genloom.run import Run

SIDE, COUNT, TURNS = 256, 64, 9
Times = dict[str, tuple[float, float]]


def pictures() -> torch.Tensor:
    """[COUNT, 3, SIDE, SIDE]: smooth ground and grain, that a PNG holds as it does a photograph."""
    grain = np.random.default_rng(0)
    coarse = torch.from_numpy(grain.uniform(-1, 1, (COUNT, 3, 8, 8))).float()
    smooth = torch.nn.functional.interpolate(coarse, SIDE, mode="bicubic")
    return (smooth + 0.04 * torch.from_numpy(grain.normal(size=smooth.shape)).float()).clamp(-1, 1)


CLOCK = "--clock" in sys.argv


def seconds(work: Callable[[], object]) -> float:
    def spent() -> float:
        if CLOCK:
            return time.perf_counter()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    start = spent()
    made = work()
    return (spent() - start) / letters(made)


def letters(made: object) -> int:
    """Of texts, for some are shorter: how many letters there are; of anything else 1."""
    paths = made if isinstance(made, list) else []
    return sum(len(p.read_text("utf-8")) for p in paths if p.suffix == ".txt") or 1


def by_turns(works: dict[str, Callable[[], object]]) -> Times:
    """Of TURNS, each of all works one after another: the median time, and the median of its share of the first one's rate."""
    for work in works.values():
        work()
    first, *_ = works
    taken = [{name: seconds(work) for name, work in works.items()} for _ in range(TURNS)]
    return {
        n: (statistics.median(t[n] for t in taken), statistics.median(t[first] / t[n] for t in taken)) for n in works
    }


def a_picture(folder: Path) -> dict[str, float]:
    """Milliseconds a picture."""
    images, origin = pictures(), Origin("gan", "gan-faces", "0" * 64, command="genloom sample runs/gan-faces -n 64")
    signer, hidden = Signer(), folder / "hidden"

    def written(signer: Signer | None) -> None:
        paths = draw.write(images, hidden)
        mark(paths, [origin] * COUNT, signer, [folder / p.name for p in paths])

    works: dict[str, Callable[[], object]] = {
        "bare": lambda: draw.write(images, folder),
        "labelled": lambda: written(None),
        "signed": lambda: written(signer),
        "preparing": lambda: Signer(),
    }
    return {k: 1e3 * v / (1 if k == "preparing" else COUNT) for k, (v, _) in by_turns(works).items()}


def a_run(run: Run, folder: Path) -> Times:
    """Samples a second, made and written."""
    Marks(run)  # the weights' digest is computed once

    numbers = count()  # each time into a folder of its own: to replace files costs more than to mark them

    def sampled(name: str, **marks: bool) -> Callable[[], object]:
        return lambda: generate.to_files(run, COUNT, folder / f"{name}{next(numbers)}", **marks)

    works = {
        "bare": sampled("bare", provenance=False, watermark=False),
        "watermarked": sampled("watermarked", provenance=False),
        "with all": sampled("all"),
    }
    whole = letters(works["bare"]())  # samples as long as the unmarked ones
    return {k: (COUNT / v / whole, share) for k, (v, share) in by_turns(works).items()}


def a_command(run: str, folder: Path) -> Times:
    """Seconds of the whole command."""
    words = [sys.executable, "-m", "genloom", "sample", run, "-n", str(COUNT), "--out", str(folder / "command")]

    def called(*more: str) -> Callable[[], object]:
        return lambda: subprocess.run([*words, *more], check=True, capture_output=True)

    return by_turns({"bare": called("--no-provenance", "--no-watermark"), "with all": called()})


def told(times: Times) -> str:
    return ", ".join(
        f"{k} {v:.4g}" + (f" (rate {share - 1:+.1%})" if k != "bare" else "") for k, (v, share) in times.items()
    )


def main() -> None:
    if not CLOCK:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cost = a_picture(Path(folder))
        print(f"a picture of {SIDE}²: " + ", ".join(f"{k} {v:.2f} ms" for k, v in cost.items()))
        print(f"provenance adds {cost['signed'] - cost['bare']:.2f} ms")
        for name in [a for a in sys.argv[1:] if a != "--clock"]:
            print(f"{name}: samples a second {told(a_run(Run.open(name), Path(folder)))}", end="; ", flush=True)
            print(f"seconds of the command {told(a_command(name, Path(folder)))}")


if __name__ == "__main__":
    main()
