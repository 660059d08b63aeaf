"""A training step of vid2vid beside its authors' networks on the same machine, in one run, with equal sizes.

python -m benchmarks.films --official PATH     a checkout of NVIDIA/vid2vid

Clips of 64 x 80 pixels at batch 2, six frames made after two given: each made from the last two, judged by critics of
pictures and of motion at two sizes, with matched features and losses of flow; backward and Adam for all. Their optical
flow network and VGG are left out on their side, as is what stands for them on ours. By turns, fp32 (and bf16 of ours where
the processor multiplies it). Without --official only ours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import matmul_gflops
from genloom.api import resolve_options
from genloom.core import Spec, build, find
from genloom.machine import has_fast_bf16, keep_freed_memory, multiply_fast
from genloom.nn.warp import warp
from genloom.state import State
from genloom.train import step

BATCH, MADE, PREVIOUS, HEIGHT, WIDTH = 2, 6, 2, 64, 80
SIZES = {"width": 24, "halvings": 2, "blocks": 4, "critic_width": 24, "critic_layers": 2, "critic_scales": 2}
ROUNDS = 5


def clips() -> dict[str, Tensor]:
    """Noise of the right shapes: no branch of either side looks at values."""
    length = MADE + PREVIOUS
    shape = {"video": (3, length), "source": (3, length), "flow": (2, length - 1), "confidence": (1, length - 1)}
    made = {k: torch.rand(BATCH, *s, HEIGHT, WIDTH) * 2 - 1 for k, s in shape.items()}
    return made | {"confidence": (made["confidence"] > 0).float()}


def ours(precision: str) -> Callable[[], None]:
    extra = {"source_channels": 3, "serves": ["films"], "rate": 25.0}
    spec = Spec("video", (3, MADE + PREVIOUS, HEIGHT, WIDTH), extra=extra)
    cls = find("vid2vid")
    plain = {
        "skip": False,
        "blank": 0.0,
        "growth": 0.0,
        "time_scales": 1,
        "perceptual": "none",
        "reconstruction": 0.0,
        "at_once": 0.0,
        "trust": 1.0,
    }
    options = resolve_options(cls, "cpu", {"precision": precision, "batch_size": BATCH}, SIZES | plain)
    state, batch = State(build(cls, spec, options.model), options), clips()
    return lambda: void(step(state, batch, options))


def official(path: str) -> Callable[[], None]:
    """Their networks in the step that their train.py makes of them: three forwards of each critic, one of the generator."""
    sys.path.insert(0, path)
    sys.modules.setdefault("torchvision", ModuleType("torchvision")).models = None  # type: ignore[attr-defined]
    from models import networks  # type: ignore[import-not-found]

    torch.Tensor.cuda = lambda self, *_: self  # type: ignore[assignment, method-assign] # theirs asks for it by name
    networks.BaseNetwork.resample = lambda self, image, flow: warp(image, flow)
    opt = SimpleNamespace(fg=False, no_flow=False, fp16=False, n_blocks=SIZES["blocks"], n_blocks_local=3)
    seen, before, width = 3 * (PREVIOUS + 1), 3 * PREVIOUS, SIZES["width"]
    maker = networks.define_G(
        seen, 3, before, width, "composite", SIZES["halvings"], "instance", 0, gpu_ids=[], opt=opt
    )
    sizes = (SIZES["critic_width"], SIZES["critic_layers"], "instance", SIZES["critic_scales"], True)
    critics = [networks.define_D(6, *sizes), networks.define_D(13, *sizes)]
    adam = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (maker, *critics)]
    batch, target = clips(), networks.GANLoss("ls", tensor=torch.FloatTensor)

    def once() -> None:
        frames, flows, weights = theirs_roll(maker, batch)
        real, source = (
            batch[k][:, :, PREVIOUS:].transpose(1, 2).reshape(-1, 3, HEIGHT, WIDTH) for k in ("video", "source")
        )
        made = torch.cat(frames)
        pairs = [(torch.cat([source, real], 1), torch.cat([source, made], 1))]
        pairs.append(
            tuple(triples(x, batch["flow"]) for x in (batch["video"][:, :, PREVIOUS:], torch.stack(frames, 2)))
        )
        loss, judged = theirs_motion(batch, frames, flows, weights), []
        for critic, (r, f) in zip(critics, pairs, strict=True):
            on_real, on_fake, fooled = critic(r), critic(f.detach()), critic(f)
            judged.append(0.5 * (target(on_real, True) + target(on_fake, False)))
            features = sum(
                F.l1_loss(a, b.detach())
                for x, y in zip(fooled, on_real, strict=True)
                for a, b in zip(x[:-1], y[:-1], strict=True)
            )
            loss = loss + target(fooled, True) + 10 * features
        for optimiser, value in zip(adam, [loss, *judged], strict=True):
            optimiser.zero_grad()
            value.backward(retain_graph=value is loss)
        for optimiser in adam:
            optimiser.step()

    return once


def theirs_roll(maker: Any, batch: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    before, frames, flows, weights = [batch["video"][:, :, i] for i in range(PREVIOUS)], [], [], []
    for t in range(PREVIOUS, PREVIOUS + MADE):
        source = torch.cat([batch["source"][:, :, i] for i in range(t - PREVIOUS, t + 1)], 1)
        image, flow, weight, *_ = maker(source, torch.cat(before, 1), None, None, None, None, False)
        before = [*before[1:], image.detach()]
        frames.append(image), flows.append(flow), weights.append(weight)
    return frames, flows, weights


def theirs_motion(batch: dict[str, Tensor], frames: list[Tensor], flows: list[Tensor], weights: list[Tensor]) -> Tensor:
    total = torch.zeros(())
    for i, (frame, flow, weight) in enumerate(zip(frames, flows, weights, strict=True)):
        t = PREVIOUS + i
        taught, sure = batch["flow"][:, :, t - 1], batch["confidence"][:, :, t - 1]
        total = total + ((flow - taught) * sure).abs().mean() + (weight * sure).mean()
        total = total + ((warp(batch["video"][:, :, t - 1], flow) - batch["video"][:, :, t]) * sure).abs().mean()
        if i:
            total = total + ((frame - warp(frames[i - 1].detach(), taught)) * sure).abs().mean()
    return 10 * total


def triples(frames: Tensor, flow: Tensor) -> Tensor:
    rows = []
    for i in range(MADE - 2):
        moves = flow[:, :, PREVIOUS + i : PREVIOUS + i + 2].flatten(1, 2)
        rows.append(torch.cat([frames[:, :, i : i + 3].transpose(1, 2).flatten(1, 2), moves], 1))
    return torch.cat(rows)


def void(_: Any) -> None:
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", help="a checkout of NVIDIA/vid2vid")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    keep_freed_memory()
    sides = {"official fp32": official(args.official)} if args.official else {}
    multiply_fast()
    sides["ours fp32"] = ours("fp32")
    if has_fast_bf16(torch.device("cpu")):
        sides["ours bf16"] = ours("bf16")
    with FlopCounterMode(display=False) as counter:
        sides["ours fp32"]()
    flops = counter.get_total_flops()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    rate = matmul_gflops()
    print(f"{torch.get_num_threads()} threads, {rate:.0f} GFLOP/s fp32; our step {flops / 1e9:.0f} GFLOP")
    for name, seconds in times.items():
        middle = statistics.median(seconds[1:])
        first = statistics.median(times[next(iter(times))][1:])
        print(
            f"{name:14} {middle:.3f} s a step, {first / middle:.2f}x, {flops / middle / rate / 1e9:.0%} of the fp32 floor"
        )


if __name__ == "__main__":
    main()
