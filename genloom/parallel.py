"""torch.distributed in one place. Models and losses know nothing of ranks; the loop and `fit` ask which one writes.

Every rank holds the whole model, draws the same random numbers, keeps its own rows of the global batch, and
averages gradients after each backward. So N ranks compute what one process computes at the same global batch.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def setup() -> None:
    """Join the process group that `torchrun` announces through the environment; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def finish() -> None:
    """Leave the group, all together, and end this process; alone, do nothing.

    At once, without destructors: now and then one of gloo's threads is still there, and C++ aborts the process for it.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """The best device of this machine: this rank's GPU, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def my_rows(n: int) -> slice:
    """This rank's rows of a global batch of n (n divides by the number of ranks)."""
    share = n // world()
    return slice(rank() * share, (rank() + 1) * share)


def randn(n: int, *shape: int, device: torch.device) -> Tensor:
    """Standard normal [n, *shape]: this rank's rows of one global draw, so ranks stay in step."""
    return torch.randn(n * world(), *shape, device=device)[my_rows(n * world())]


def rand(n: int, *shape: int, device: torch.device) -> Tensor:
    """Uniform [0, 1) [n, *shape]: this rank's rows of one global draw."""
    return torch.rand(n * world(), *shape, device=device)[my_rows(n * world())]


def randint(high: int, n: int, device: torch.device) -> Tensor:
    """Uniform integers in [0, high) [n]: this rank's rows of one global draw."""
    return torch.randint(high, (n * world(),), device=device)[my_rows(n * world())]


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over ranks, in one message."""
    if world() == 1:
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]  # each rank sends the same tensors
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world()
    for p, mine, average in zip(parameters, grads, flat.split([g.numel() for g in grads]), strict=True):
        p.grad = mine.copy_(average.view_as(mine))


class _Mean(torch.autograd.Function):
    """The mean over ranks is its own adjoint, so it can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / world()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return mean(slope)


def mean(x: Tensor) -> Tensor:
    """Mean of a tensor over ranks, differentiable (batch statistics of the global batch)."""
    return x if world() == 1 else _Mean.apply(x)


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """The rows of every rank, in order: the whole of a global batch [B * ranks, ...] on each rank, without gradients."""
    if world() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def from_main(value: float) -> float:
    """Rank 0's number on every rank: clocks must agree."""
    if world() == 1:
        return value
    box = torch.tensor([value], dtype=torch.float64, device=_message_device())
    dist.broadcast(box, 0)
    return float(box.item())


def text_from_main(text: str) -> str:
    """Rank 0's text on every rank."""
    if world() == 1:
        return text
    box = [text]
    dist.broadcast_object_list(box, 0)
    return box[0]


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on some rank: the decision to stop must be one."""
    return flag if world() == 1 else bool(mean(torch.tensor(float(flag), device=_message_device())) > 0)


def _message_device() -> torch.device:
    return device() if dist.get_backend() == "nccl" else torch.device("cpu")


def barrier() -> None:
    if world() > 1:
        dist.barrier()
