"""The textbook GAN's step: ours beside plain PyTorch and Keras 3, in turns, as ratios, and beside the machine's floor.

python -m benchmarks.speed [--keras PYTHON]     PYTHON: an interpreter that has keras and tensorflow
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.machine import copy_gbytes, matmul_gflops
from genloom import core, machine
from genloom.api import resolve_options
from genloom.data import open_data
from genloom.data.order import batches
from genloom.state import State
from genloom.train import step

G_WEIGHTS = 100 * 256 + 256 * 512 + 512 * 1024 + 1024 * 784
D_WEIGHTS = 784 * 512 + 512 * 256 + 256


def step_flops(batch: int) -> int:
    """Products of one textbook step: the critic on real and generated, then the generator through the critic."""
    critic = 2 * batch * G_WEIGHTS + 4 * batch * (3 * D_WEIGHTS - 784 * 512)
    generator = 2 * batch * (3 * G_WEIGHTS - 100 * 256) + 2 * batch * 2 * D_WEIGHTS
    return critic + generator


def step_bytes() -> int:
    """Least traffic that does not shrink with the batch: fused Adam reads p, g, m, v and writes p, m, v."""
    return 4 * 7 * (G_WEIGHTS + D_WEIGHTS)


def ours(batch: int, precision: str = "fp32") -> Callable[[], object]:
    data, cls = open_data("mnist"), core.find("gan")
    options = resolve_options(cls, "textbook", {"batch_size": batch, "precision": precision})
    state = State(core.build(cls, data.spec, options.model), options)
    stream = batches(data, batch, seed=0)
    return lambda: step(state, next(stream), options)


def plain(batch: int, compiled: bool = False) -> Callable[[], object]:
    """The same network and losses as everybody writes them in PyTorch."""
    hidden = [m for a, b in ((100, 256), (256, 512), (512, 1024)) for m in (nn.Linear(a, b), nn.ReLU())]
    G = nn.Sequential(*hidden, nn.Linear(1024, 784), nn.Sigmoid())
    D = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1), nn.Sigmoid())
    g, d = (torch.optim.Adam(net.parameters(), 1e-3) for net in (G, D))
    bce, ones, zeros = nn.BCELoss(), torch.ones(batch, 1), torch.zeros(batch, 1)
    real = open_data("mnist").batch(np.arange(10_000))["image"].flatten(1).add(1).div(2)

    def one() -> None:
        d.zero_grad()
        fake = G(torch.randn(batch, 100)).detach()
        (bce(D(real[torch.randint(len(real), (batch,))]), ones) + bce(D(fake), zeros)).backward()
        d.step()
        g.zero_grad()
        bce(D(G(torch.randn(batch, 100))), ones).backward()
        g.step()

    if compiled:
        G, D = torch.compile(G), torch.compile(D)
    return one


def rate(work: Callable[[], object], seconds: float = 4.0) -> float:
    """Steps a second over some seconds."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work()
        done += 1
    return done / (time.perf_counter() - start)


def in_turns(contenders: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """The median rate of each, measured in turns, so that a drift of the machine falls on all."""
    for work in contenders.values():
        for _ in range(20):
            work()
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            rates[name].append(rate(work))
    return {name: statistics.median(values) for name, values in rates.items()}


def keras(python: str, way: str, batch: int, steps: int) -> float:
    script = Path(__file__).with_name("keras_gan.py")
    done = subprocess.run([python, script, way, str(batch), str(steps)], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["steps_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keras", help="an interpreter that has keras and tensorflow")
    python = parser.parse_args().keras
    peer = in_turns({"plain PyTorch, batch 32": plain(32), "plain PyTorch, compiled, batch 32": plain(32, True)})
    if python:
        for way, batch, steps in (("fit", 32, 600), ("loop", 32, 60), ("fit", 512, 60)):
            rates = [keras(python, way, batch, steps) for _ in range(3)]
            peer[f"Keras {way}, batch {batch}"] = statistics.median(rates)
    usual = matmul_gflops()
    machine.keep_freed_memory()
    machine.multiply_fast()
    fp32, bf16, copy = matmul_gflops(), matmul_gflops(torch.bfloat16), copy_gbytes()
    print(f"{torch.get_num_threads()} cores; products at {usual:.0f} GFLOP/s fp32 by PyTorch's default,", end=" ")
    print(f"{fp32:.0f} as genloom asks for them, {bf16:.0f} bf16; copy {copy:.1f} GB/s")
    mine = in_turns(
        {
            "genloom, batch 32": ours(32),
            "genloom bf16, batch 32": ours(32, "bf16"),
            "genloom, batch 512": ours(512),
            "genloom bf16, batch 512": ours(512, "bf16"),
        }
    )
    for name, value in {**peer, **mine}.items():
        batch = int(name.rsplit(" ", 1)[1])
        reached, best = value * step_flops(batch) / 1e9, bf16 if "bf16" in name else fp32
        print(f"{name:<36} {value:7.1f} steps/s {reached:7.1f} GFLOP/s = {reached / best:4.0%} of the products' rate")
    floor = step_flops(32) / fp32 / 1e9 + step_bytes() / copy / 1e9
    print(f"floor at batch 32: {step_flops(32) / 1e9:.2f} GFLOP, {step_bytes() / 1e6:.0f} MB: {1 / floor:.0f} steps/s")
    for name, value in peer.items():
        batch = name.rsplit(" ", 1)[1]
        print(f"genloom over {name}: {mine[f'genloom, batch {batch}'] / value:.2f}")


if __name__ == "__main__":
    main()
