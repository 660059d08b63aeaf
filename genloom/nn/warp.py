"""Pictures moved along optical flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """What each pixel of the result sees of image [B, C, H, W] at its own place plus flow [B, 2, H, W], in pixels, x first.

    Bilinear; beyond the border its nearest pixel. Corners are pixel centres (align_corners), so that zero flow is the
    identity: with the other convention it blurs, and a film goes soft frame by frame.
    """
    height, width = image.shape[2:]
    at = grid(height, width, flow.device) + flow.float().permute(0, 2, 3, 1)  # [B, H, W, 2]
    scale = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=flow.device)
    places = (2 * at / scale - 1).to(image.dtype)
    return F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=True)


def grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """[H, W, 2]: each pixel's own place, x first."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y], -1).float()


def within(flow: Tensor) -> Tensor:
    """[B, 1, H, W] bool: whether what flow [B, 2, H, W] points to lies inside the picture."""
    height, width = flow.shape[2:]
    x, y = (grid(height, width, flow.device) + flow.permute(0, 2, 3, 1)).unbind(-1)
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))[:, None]


def composed(flows: Tensor) -> Tensor:
    """[B, 2, H, W]: the backward flow over several steps at once, of each step's flow [B, 2, n, H, W] in order of time."""
    total = flows[:, :, -1]
    for i in reversed(range(flows.shape[2] - 1)):
        total = total + warp(flows[:, :, i], total)
    return total
