"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genloom import parallel


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, *, training: bool, momentum: float = 0.1, eps: float = 1e-5
) -> Tensor:
    """x [B, C, H, W] with mean 0 and variance 1 in each channel.

    Training takes the statistics of the global batch, over all ranks, and moves `mean` and `variance` [C] towards
    them, as torch does (the variance kept is the one without bias); else those two are the statistics.
    """
    if parallel.world() == 1 or not training:
        return F.batch_norm(x, mean, variance, training=training, momentum=momentum, eps=eps)
    wide = x.float()
    own_mean = parallel.mean(wide.mean((0, 2, 3)))  # [C]
    centred = wide - own_mean.view(1, -1, 1, 1)
    own_variance = parallel.mean(centred.square().mean((0, 2, 3)))  # [C], biased: what normalises
    count = x.numel() // x.shape[1] * parallel.world()
    with torch.no_grad():
        mean.lerp_(own_mean, momentum)
        variance.lerp_(own_variance * (count / max(count - 1, 1)), momentum)
    return (centred * torch.rsqrt(own_variance + eps).view(1, -1, 1, 1)).to(x.dtype)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over (B, H, W) whose batch statistics are those of the global batch, over all ranks."""

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        if parallel.world() == 1 or not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        normal = batch_norm(
            x.float(), self.running_mean, self.running_var, training=True, momentum=momentum, eps=self.eps
        )
        return (normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation without gains or memory, which leaves channels_last pictures as they lie.

    PyTorch's copies them to the other layout, and convolutions of few channels are up to three times as fast in this one.
    """

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        pixels = _Standardise.apply(x.permute(0, 2, 3, 1).flatten(1, 2), self.eps)  # [B, H W, C]
        return pixels.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class _Standardise(torch.autograd.Function):
    """x [B, N, C] with mean 0 and variance 1 over N; means are products with a row of 1 / N, as fast as memory allows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        centred = x.float() - _mean(x)
        scale = (_mean(centred * centred) + eps).rsqrt()
        y = centred.mul_(scale)
        ctx.save_for_backward(y, scale)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        wide = grad.float()
        return ((wide - torch.addcmul(_mean(wide), y, _mean(wide * y))) * scale).to(grad.dtype), None


def _mean(x: Tensor) -> Tensor:  # [B, N, C] -> [B, 1, C]
    x = x.float()
    return torch.bmm(x.new_full((1, 1, x.shape[1]), 1 / x.shape[1]).expand(len(x), -1, -1), x)


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Within, normalisation layers use the statistics of what they are shown, as in training, and remember nothing of it."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and not m.training]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum


class StandingNorm(nn.Module):
    """A batch normalisation whose statistics can be taken again: those of a generator that is sampled with truncation."""

    momentum: float = 0.1
