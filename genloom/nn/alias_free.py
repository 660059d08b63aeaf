"""StyleGAN3's synthesis: every layer a band-limited signal on its own grid, so that details follow motion.

Karras et al. 2021. Sub-modules carry the names of the official state dicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.nn.resample import kaiser_lowpass, upfirdn2d
from genloom.nn.style import ROOT2, EqualLinear, full_precision


class FourierInput(nn.Module):
    """Styles [B, W] -> the first signal [B, C, H, W]: plane waves inside a band, turned and moved by the style."""

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, w: int, channels: int, size: int, rate: float, band: float):
        super().__init__()
        self.size, self.rate, self.band = size, rate, band
        freqs = torch.randn(channels, 2)
        radius = freqs.square().sum(1, keepdim=True).sqrt()
        self.register_buffer("freqs", freqs / (radius * radius.square().exp().pow(0.25)) * band)
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))  # a user's own turn and shift of the picture
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = EqualLinear(w, 4)
        with torch.no_grad():  # no turn and no shift at first
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def forward(self, w: Tensor) -> Tensor:  # [B, W]
        with full_precision(w):
            t = self.affine(w)
            c, s, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
            one, zero = torch.ones_like(c), torch.zeros_like(c)
            turn = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], 1).view(-1, 3, 3)
            shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], 1).view(-1, 3, 3)
            move = turn @ shift @ self.transform  # [B, 3, 3], of inverse transforms
            phases = self.phases + (self.freqs @ move[:, :2, 2:]).squeeze(2)  # [B, C]
            freqs = self.freqs @ move[:, :2, :2]  # [B, C, 2]
            strength = (1 - (freqs.norm(dim=2) - self.band) / (self.rate / 2 - self.band)).clamp(0, 1)  # [B, C]
            at = (torch.arange(self.size, device=w.device) + 0.5 - self.size / 2) / self.rate
            waves = freqs[:, :, :1] * at  # [B, C, W]
            rows = freqs[:, :, 1:] * at  # [B, C, H]
            angle = waves[:, :, None, :] + rows[:, :, :, None] + phases[:, :, None, None]
            signal = torch.sin(2 * math.pi * angle) * strength[:, :, None, None]  # [B, C, H, W]
            weight = self.weight / math.sqrt(len(self.weight))
            return F.conv2d(signal.contiguous(memory_format=torch.channels_last), weight[:, :, None, None])


class Layer(nn.Module):
    """Modulated convolution, then the nonlinearity at a higher rate, between filters that keep its band (figure 4)."""

    up_filter: Tensor | None
    down_filter: Tensor | None
    magnitude_ema: Tensor

    def __init__(
        self,
        w: int,
        i: int,
        o: int,
        kernel: int,
        rgb: bool,
        sizes: tuple[int, int],
        rates: tuple[float, float],
        cutoffs: tuple[float, float],
        widths: tuple[float, float],
        oversampling: int,
        taps: int,
        radial: bool,
        clamp: float | None,
        remember: float,
    ):
        super().__init__()
        self.rgb, self.clamp, self.remember, self.size = rgb, clamp, remember, sizes[1]
        self.affine = EqualLinear(w, i, bias=1.0)
        self.weight = nn.Parameter(torch.randn(o, i, kernel, kernel).contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(o))
        self.register_buffer("magnitude_ema", torch.ones(()))
        between = max(rates) * (1 if rgb else oversampling)
        self.up, self.down = round(between / rates[0]), round(between / rates[1])
        up_taps = taps * self.up if self.up > 1 and not rgb else 1
        down_taps = taps * self.down if self.down > 1 and not rgb else 1
        up = kaiser_lowpass(up_taps, cutoffs[0], 2 * widths[0], between) if up_taps > 1 else None
        down = kaiser_lowpass(down_taps, cutoffs[1], 2 * widths[1], between, radial) if down_taps > 1 else None
        self.register_buffer("up_filter", up)
        self.register_buffer("down_filter", down)
        total = (sizes[1] - 1) * self.down + 1 - (sizes[0] + kernel - 1) * self.up + up_taps + down_taps - 2
        before = (total + self.up) // 2
        self.padding = (before, total - before, before, total - before)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:  # [B, I, H, W], [B, W]
        if self.training:
            with torch.no_grad():
                self.magnitude_ema.copy_(
                    parallel.mean(x.float().square().mean()).lerp(self.magnitude_ema, self.remember)
                )
        s = self.affine(w)
        weight: Tensor = self.weight
        with full_precision(w):
            if self.rgb:
                s = s / math.sqrt(weight[0].numel())
            else:
                weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
                d = torch.rsqrt(s.square() @ weight.square().sum((2, 3)).T + 1e-8)  # [B, O]
                weight = weight * ROOT2  # the nonlinearity's gain
            weight = weight * self.magnitude_ema.rsqrt()
            bias = self.bias if self.rgb else self.bias * ROOT2
        x = F.conv2d(x * s.to(x.dtype)[:, :, None, None], weight, padding=weight.shape[-1] - 1)
        shift = bias.to(x.dtype)[:, None, None]
        x = x + shift if self.rgb else torch.addcmul(shift, x, d.to(x.dtype)[:, :, None, None])
        return self._nonlinear(x)

    def _nonlinear(self, x: Tensor) -> Tensor:
        x = self._resample(x, self.up_filter, up=self.up, padding=self.padding, gain=float(self.up**2))
        if not self.rgb:
            x = F.leaky_relu(x, 0.2)
        if self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp)
        return self._resample(x, self.down_filter, down=self.down)

    def _resample(self, x: Tensor, f: Tensor | None, **how: object) -> Tensor:
        return upfirdn2d(x, f if f is not None else torch.ones(1, 1, device=x.device), **how)  # type: ignore[arg-type]


class Synthesis(nn.Module):
    """Styles [B, L, W] -> images [B, C, H, H]: the band widens from layer to layer, geometrically (section 3.2)."""

    def __init__(
        self,
        w: int,
        size: int,
        channels: int,
        base: int = 32768,
        most: int = 512,
        depth: int = 14,
        critical: int = 2,
        first_cutoff: float = 2.0,
        first_stopband: float = 2**2.1,
        last_stopband: float = 2**0.3,
        margin: int = 10,
        scale: float = 0.25,
        kernel: int = 3,
        taps: int = 6,
        oversampling: int = 2,
        radial: bool = False,
        clamp: float | None = 256.0,
        remember: float = 0.999,
    ):
        super().__init__()
        self.scale = scale
        share = np.minimum(np.arange(depth + 1) / (depth - critical), 1)
        cutoffs = first_cutoff * (size / 2 / first_cutoff) ** share
        stopbands = first_stopband * (size / 2 * last_stopband / first_stopband) ** share
        rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, size))))
        widths = np.maximum(stopbands, rates / 2) - cutoffs
        sizes = (rates + 2 * margin).astype(int)
        sizes[-2:] = size
        wide = np.rint(np.minimum(base / 2 / cutoffs, most)).astype(int)
        wide[-1] = channels
        self.input = FourierInput(w, int(wide[0]), int(sizes[0]), float(rates[0]), float(cutoffs[0]))
        self.names: list[str] = []
        for n in range(depth + 1):
            p = max(n - 1, 0)
            layer = Layer(
                w,
                int(wide[p]),
                int(wide[n]),
                1 if n == depth else kernel,
                n == depth,
                (int(sizes[p]), int(sizes[n])),
                (float(rates[p]), float(rates[n])),
                (float(cutoffs[p]), float(cutoffs[n])),
                (float(widths[p]), float(widths[n])),
                oversampling,
                taps,
                radial and n < depth - critical,
                clamp,
                remember,
            )
            self.names.append(f"L{n}_{int(sizes[n])}_{int(wide[n])}")
            self.add_module(self.names[-1], layer)
        self.layers = depth + 2

    def forward(self, ws: Tensor) -> Tensor:  # [B, L, W]
        styles: Sequence[Tensor] = ws.float().unbind(1)
        x = self.input(styles[0])
        for name, w in zip(self.names, styles[1:], strict=True):
            x = self.get_submodule(name)(x, w)
        return x.float() * self.scale
