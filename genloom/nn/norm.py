"""Normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genloom import parallel


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over (B, H, W) whose batch statistics are those of the global batch, over all ranks."""

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        if parallel.world() == 1 or not self.training:
            return super().forward(x)
        wide = x.float()
        mean = parallel.mean(wide.mean((0, 2, 3)))  # [C]
        centred = wide - mean.view(1, -1, 1, 1)
        variance = parallel.mean(centred.square().mean((0, 2, 3)))  # [C], biased: what normalises
        self._remember(mean, variance, x.numel() // x.shape[1] * parallel.world())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Running statistics as torch keeps them: the variance without bias."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)
