"""A StyleGAN2 step beside the official code's, in one run: `python -m benchmarks.stylegan2 --official PATH`.

PATH is a checkout of the official PyTorch release; without it only ours runs. Each figure is the median of a few steps,
ours and theirs taking turns. `main`: the generator's and the discriminator's losses; `regularised`: path length and R1.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genloom.api import resolve_options
from genloom.core import Spec, build, find
from genloom.generate import draw
from genloom.machine import multiply_fast
from genloom.state import State
from genloom.train import update

PARTS = {"main": ("generator", "discriminator"), "regularised": ("path_length", "r1")}


def ours(size: int, batch: int, base: int, precision: str) -> dict[str, Callable[[], object]]:
    cls = find("stylegan2")
    options = resolve_options(cls, "default", {"precision": precision, "batch_size": batch})
    options = replace(options, model={**options.model, "channel_base": base, "augment": "none", "gamma": 1.0})
    model = build(cls, Spec("image", (3, size, size)), options.model)
    state = State(model, options)
    images = {"image": torch.randn(batch, 3, size, size)}
    phases = {p.name: p for p in state.phases}

    def part(names: tuple[str, ...]) -> None:
        for name in names:
            update(state, phases[name], images, options)

    work: dict[str, Callable[[], object]] = {k: lambda v=v: part(v) for k, v in PARTS.items()}  # type: ignore[misc]
    work["sample"] = lambda: draw(model.eval(), batch, precision=precision) if model.eval() else None
    work["train"] = lambda: model.train()
    return work


def official(path: str, size: int, batch: int, base: int) -> dict[str, Callable[[], object]]:
    sys.path.insert(0, path)
    sys.modules.setdefault("requests", ModuleType("requests"))  # imported there for downloads alone
    from training.loss import StyleGAN2Loss  # type: ignore[import-not-found]
    from training.networks import Discriminator, Generator  # type: ignore[import-not-found]

    shape = {"img_resolution": size, "img_channels": 3}
    g = Generator(
        z_dim=512,
        c_dim=0,
        w_dim=512,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": base},
        **shape,
    )
    d = Discriminator(c_dim=0, channel_base=base, **shape)
    adam = {"lr": 0.0025, "betas": (0.0, 0.99), "eps": 1e-8}
    optimisers = {"G": torch.optim.Adam(g.parameters(), **adam), "D": torch.optim.Adam(d.parameters(), **adam)}  # type: ignore[arg-type]
    loss = StyleGAN2Loss("cpu", g.mapping, g.synthesis, d, r1_gamma=1.0)
    images, c = torch.randn(batch, 3, size, size), torch.zeros(batch, 0)

    def phase(name: str, gain: float) -> None:
        moved, still = (g, d) if name[0] == "G" else (d, g)
        moved.requires_grad_(True)
        still.requires_grad_(False)
        optimisers[name[0]].zero_grad(set_to_none=True)
        loss.accumulate_gradients(name, images, c, torch.randn(batch, 512), c, True, gain)
        optimisers[name[0]].step()

    def sample() -> Tensor:
        with torch.no_grad():
            return g.eval()(torch.randn(batch, 512), c, noise_mode="const")

    return {
        "main": lambda: (phase("Gmain", 1), phase("Dmain", 1)),
        "regularised": lambda: (phase("Greg", 4), phase("Dreg", 16)),
        "sample": sample,
        "train": lambda: g.train(),
    }


class Everything:
    """Stands in for the counter's record of which module runs."""

    parents: ClassVar[set[str]] = {"Global"}

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--official", default=None)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--base", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=None, help="ours fp32, ours bf16 or official: its peak memory alone")
    args = parser.parse_args()
    multiply_fast()
    names = [args.only] if args.only else ["ours fp32", "ours bf16", *(["official"] if args.official else [])]
    work = {n: ours(args.size, args.batch, args.base, n.split()[1]) for n in names if n != "official"}
    if "official" in names:
        work["official"] = official(args.official, args.size, args.batch, args.base)
    figures: dict[str, float] = {}
    for part in ("main", "regularised", "sample"):
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = Everything()  # its own hooks break double backward
        with counter:
            work[names[0]]["train"]()
            work[names[0]][part]()
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(args.rounds + 1):
            for name in work:
                work[name]["train"]()
                times[name].append(seconds(work[name][part]))
        for name, found in times.items():
            figures[f"{name} {part} s"] = round(statistics.median(found[1:]), 3)
        figures[f"{part} GFLOP"] = round(counter.get_total_flops() / 1e9, 1)
    print(json.dumps({**vars(args), **figures, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
