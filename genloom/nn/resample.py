"""Resampling by a small filter: insert zeros, pad, filter, keep every n-th (Karras et al. 2019 and after)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.nn.conv import conv2d

PRODUCTS = 512  # the longest side of which every pixel times every pixel of a line costs less than its filter
BINOMIAL = (1.0, 3.0, 3.0, 1.0)  # StyleGAN2's filter


def filter_of(taps: Sequence[float] | Tensor) -> Tensor:
    """Taps -> a filter that sums to 1: [k, k], or [k] (applied along both axes) from eight taps on."""
    f = torch.as_tensor(taps, dtype=torch.float32)
    if f.ndim == 1 and len(f) < 8:
        f = torch.outer(f, f)
    return f / f.sum()


def upfirdn2d(
    x: Tensor,  # [B, C, H, W]
    f: Tensor,  # [k, k] or [k]
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert up - 1 zeros after each pixel, pad by (left, right, top, bottom), convolve with f, keep every down-th.

    Negative padding crops. `flip_filter` correlates instead. A depthwise convolution does it in one pass over memory,
    fastest when x is channels_last; long filters along each axis of small images are quicker as two matrix products.
    """
    left, right, top, bottom = [padding] * 4 if isinstance(padding, int) else padding
    if f.ndim == 1 and max(x.shape[2:]) * up <= PRODUCTS:
        f = f * gain**0.5 if flip_filter else f.flip(0) * gain**0.5
        with torch.autocast(x.device.type, enabled=False):
            x = x @ _matrix(f, x.shape[3], up, down, left, right).to(x.dtype).T
            return _matrix(f, x.shape[2], up, down, top, bottom).to(x.dtype) @ x
    if up > 1:
        batch, channels, height, width = x.shape
        spread = x.new_zeros(batch, channels, height * up, width * up).contiguous(memory_format=_layout(x))
        spread[:, :, ::up, ::up] = x
        x = spread
    f = f if flip_filter else f.flip(list(range(f.ndim)))
    f = f * gain ** (f.ndim / 2)
    if f.ndim == 2:
        return _depthwise(x, f, (left, right, top, bottom), (down, down))
    x = _depthwise(x, f[None, :], (left, right, 0, 0), (1, down))
    return _depthwise(x, f[:, None], (0, 0, top, bottom), (down, 1))


def _matrix(f: Tensor, size: int, up: int, down: int, before: int, after: int) -> Tensor:
    """[out, size]: what inserting zeros, padding, correlating with f [k] and keeping every down-th does to one axis."""
    taps = len(f)
    out = (size * up + before + after - taps) // down + 1
    tap = before + up * torch.arange(size, device=f.device) - down * torch.arange(out, device=f.device)[:, None]
    return torch.where((tap >= 0) & (tap < taps), f[tap.clamp(0, taps - 1)], 0.0)


def _depthwise(x: Tensor, f: Tensor, padding: tuple[int, int, int, int], stride: tuple[int, int]) -> Tensor:
    """Correlate every channel with f [kh, kw]; symmetric padding costs no copy."""
    left, right, top, bottom = padding
    if left != right or top != bottom or min(padding) < 0:
        x, left, top = F.pad(x, padding), 0, 0
    dtype = x.dtype
    if dtype == torch.bfloat16 and x.device.type == "cpu" and f.shape[1] > 12:
        x = x.float()  # oneDNN never comes back from a wide bf16 depthwise convolution of channels_last images
    weight = f.to(x.dtype).expand(x.shape[1], 1, *f.shape)
    with torch.autocast(x.device.type, enabled=False):
        y = conv2d(x, weight, padding=(top, left), groups=x.shape[1])
    return y[:, :, :: stride[0], :: stride[1]].to(dtype)  # a strided bf16 one is slow, and its gradient slower


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def upsample2d(x: Tensor, f: Tensor, gain: float = 1.0) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W]: brightness is kept at gain 1."""
    k = f.shape[-1]
    before, after = (k + 1) // 2, (k - 2) // 2
    return upfirdn2d(x, f, up=2, padding=(before, after, before, after), gain=4 * gain)


def downsample2d(x: Tensor, f: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H/2, W/2]."""
    k = f.shape[-1]
    before, after = (k - 1) // 2, (k - 2) // 2
    return upfirdn2d(x, f, down=2, padding=(before, after, before, after))


def kaiser_lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor:
    """A low-pass filter that sums to 1: [taps] to apply along both axes, or [taps, taps] with `radial` symmetry.

    `cutoff`, the transition's full `width` and the sampling `rate` share a unit. A sinc, or its radial relative the jinc,
    under a Kaiser window whose shape follows from taps and width (Karras et al. 2021, appendix C).
    """
    attenuation = 2.285 * (taps - 1) * math.pi * (width / (rate / 2)) + 7.95  # dB
    window = np.kaiser(taps, _kaiser_beta(attenuation))
    t = (np.arange(taps) - (taps - 1) / 2) / rate
    if not radial:
        f = np.sinc(2 * cutoff * t) * window
        return torch.from_numpy(f / f.sum()).float()
    r = torch.from_numpy(np.hypot(*np.meshgrid(t, t)))
    f2 = torch.special.bessel_j1(2 * math.pi * cutoff * r) / (math.pi * r) * torch.from_numpy(np.outer(window, window))
    return (f2 / f2.sum()).float()


def _kaiser_beta(attenuation: float) -> float:
    """Kaiser's formula: the window's shape for an attenuation in dB."""
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0
