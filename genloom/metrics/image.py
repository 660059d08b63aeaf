"""How alike two pictures are, pixel by pixel: PSNR and SSIM, with scikit-image's conventions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Window = Literal["uniform", "gaussian"]
Span = tuple[float, float]


def psnr(x: Tensor, y: Tensor, *, span: Span = (-1, 1)) -> Tensor:
    """Peak signal-to-noise ratio in dB, [B], of images [B, C, H, W] with values within `span`; inf when equal."""
    return 10 * torch.log10((span[1] - span[0]) ** 2 / (x - y).square().flatten(1).mean(1))


def ssim(x: Tensor, y: Tensor, *, window: Window = "uniform", size: int = 7, span: Span = (-1, 1)) -> Tensor:
    """Structural similarity [B] of images [B, C, H, W]: the mean of `ssim_map` over channels and places."""
    return ssim_map(x, y, window=window, size=size, span=span).flatten(1).mean(1)


def ssim_map(x: Tensor, y: Tensor, *, window: Window = "uniform", size: int = 7, span: Span = (-1, 1)) -> Tensor:
    """Local SSIM (Wang et al. 2004, eq. 13) where the whole window fits, [B, C, H - border, W - border].

    Values are counted from the lower end of `span`, as black is zero in the paper. `uniform`: size x size mean, sample
    covariance. `gaussian`: sigma 1.5 cut at radius 5, population covariance.
    """
    uniform = window == "uniform"

    def blur(a: Tensor) -> Tensor:
        return F.avg_pool2d(a, size, 1) if uniform else _gaussian(a)

    x, y, width = x - span[0], y - span[0], span[1] - span[0]
    mx, my = blur(x), blur(y)
    unbiased = size**2 / (size**2 - 1) if uniform else 1.0
    vx, vy, vxy = (unbiased * (blur(a * b) - m * n) for a, b, m, n in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my)))
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def _gaussian(a: Tensor, sigma: float = 1.5, radius: int = 5) -> Tensor:
    """Separable Gaussian blur of each channel, without padding."""
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=a.dtype, device=a.device) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(a.shape[1], 1, -1)
    a = F.conv2d(a, taps[:, :, :, None], groups=a.shape[1])
    return F.conv2d(a, taps[:, :, None, :], groups=a.shape[1])
