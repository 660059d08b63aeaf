"""Normalisation layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class StandingNorm(nn.Module):
    """A batch normalisation whose statistics can be taken again: those of a generator that is sampled with truncation."""

    momentum: float = 0.1
