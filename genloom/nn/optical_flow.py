"""Optical flow from nothing but pictures: Lucas and Kanade (1981), dense, coarse to fine, in plain tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from genloom.nn.warp import warp, within

COARSEST = 12  # pixels of the shorter side at the top of the pyramid
WARPS = 4  # at each level
WINDOW = 2.0  # pixels: deviation of the window in which the flow counts as one
SMOOTH = 5.0  # pixels: deviation of the window of the mean to which the flow is drawn
STIFF = 1e-3  # how much, beside the squared gradients of a picture in [-1, 1]
STEP = 1.0  # pixels: the most that one warp adds
LUMA = (0.299, 0.587, 0.114)


def lucas_kanade(to: Tensor, of: Tensor) -> Tensor:
    """[B, 2, H, W] in pixels, x first: where in `of` each pixel of `to` lies, so that warp(of, flow) looks like `to`.

    Both [B, C, H, W] in [-1, 1], grey or colour. The pyramid halves, smoothed; at each level the flow is a few
    Gauss-Newton steps on ‖to - warp(of, flow)‖² in Gaussian windows, and is smoothed by its median against strays.
    """
    a, b = _grey(to), _grey(of)
    levels = max(0, int(math.log2(max(1, min(a.shape[2:]) / COARSEST))))
    pyramid = [(a, b)]
    for _ in range(levels):
        pyramid.append((_halved(pyramid[-1][0]), _halved(pyramid[-1][1])))
    flow = a.new_zeros(len(a), 2, *pyramid[-1][0].shape[2:])
    for x, y in reversed(pyramid):
        flow = _resized(flow, x.shape[2], x.shape[3])
        for _ in range(WARPS):
            flow = _median(flow + _increment(x, warp(y, flow), _blurred(flow, SMOOTH) - flow))
    return flow


def consistent(backward: Tensor, forward: Tensor) -> Tensor:
    """[B, 1, H, W] bool: whether a pixel that goes along one flow comes home along the other, both [B, 2, H, W].

    ‖w + ŵ‖² < 0.01 (‖w‖² + ‖ŵ‖²) + 0.5 (Sundaram et al. 2010, eq. 5), and what it points to lies inside the picture.
    """
    back = warp(forward, backward)
    total = backward.square().sum(1, keepdim=True) + back.square().sum(1, keepdim=True)
    return ((backward + back).square().sum(1, keepdim=True) < 0.01 * total + 0.5) & within(backward)


def _increment(x: Tensor, moved: Tensor, home: Tensor) -> Tensor:
    """The step of Gauss and Newton on the windowed difference, drawn `home` [B, 2, H, W] where there is little texture."""
    gx, gy = _gradients((x + moved) / 2)
    gt = x - moved
    xx, xy, yy, xt, yt = _windowed(torch.cat([gx * gx, gx * gy, gy * gy, gx * gt, gy * gt], 1)).split(1, 1)
    xx, yy = xx + STIFF, yy + STIFF
    xt, yt = xt + STIFF * home[:, :1], yt + STIFF * home[:, 1:]
    det = xx * yy - xy * xy
    step = torch.cat([yy * xt - xy * yt, xx * yt - xy * xt], 1) / det
    return step.clamp(-STEP, STEP)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] < 3:
        return x[:, :1].float()
    return (x[:, :3].float() * x.new_tensor(LUMA, dtype=torch.float32)[:, None, None]).sum(1, keepdim=True)


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, as much per pixel as the picture changes."""
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2, (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2


def _gaussian(deviation: float, channels: int, like: Tensor) -> Tensor:
    reach = math.ceil(2.5 * deviation)
    at = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    weights = torch.exp(-at.square() / (2 * deviation**2))
    return (weights / weights.sum()).expand(channels, 1, 1, -1).contiguous()


def _blurred(x: Tensor, deviation: float) -> Tensor:
    kernel = _gaussian(deviation, x.shape[1], x)
    reach = kernel.shape[-1] // 2
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3), groups=x.shape[1])


def _windowed(x: Tensor) -> Tensor:
    return _blurred(x, WINDOW)


def _halved(x: Tensor) -> Tensor:
    height, width = (-(-side // 2) for side in x.shape[2:])
    return F.interpolate(_blurred(x, 0.8), size=(height, width), mode="bilinear", align_corners=True)


def _resized(flow: Tensor, height: int, width: int) -> Tensor:
    """Flow on a grid of another size, in that grid's pixels; corners stay corners."""
    old = flow.shape[2:]
    if old == (height, width):
        return flow
    scale = flow.new_tensor([(width - 1) / max(old[1] - 1, 1), (height - 1) / max(old[0] - 1, 1)])
    larger = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=True)
    return larger * scale[:, None, None]


def _median(flow: Tensor) -> Tensor:
    """Each component's median over 3 x 3 pixels."""
    wide = F.pad(flow, (1, 1, 1, 1), mode="replicate")
    height, width = flow.shape[2:]
    around = [wide[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(around).median(0).values
