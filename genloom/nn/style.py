"""StyleGAN's layers: rates equalised at run time, convolutions modulated by styles, the mapping from latents to styles."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.nn.resample import upfirdn2d, upsample2d

ROOT2 = math.sqrt(2)
HALF = math.sqrt(0.5)  # of each of two summed branches, so that the sum keeps its variance


def leaky(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU of slope 0.2, in place. Its gain √2 belongs before it, where a product already passes over memory."""
    x = F.leaky_relu_(x, 0.2)
    return x if clamp is None else x.clamp(-clamp, clamp)


def full_precision(x: Tensor) -> torch.autocast:
    """Autocast off: styles and last layers are a millionth of the work and all of the picture."""
    return torch.autocast(x.device.type, enabled=False)


class EqualLinear(nn.Module):
    """x [B, I] -> [B, O]: weights are stored for a unit rate, and scaled by rate / √I when used.

    Karras et al. 2018, section 4.1; `rate` multiplies the learning rate of the layer. Always float32.
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, active: bool = False, bias: float = 0.0):
        super().__init__()
        self.rate, self.gain, self.active = rate, rate / math.sqrt(inputs), active
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))

    def forward(self, x: Tensor) -> Tensor:  # [B, I]
        root2 = ROOT2 if self.active else 1.0
        with full_precision(x):
            y = F.linear(x.float(), self.weight * (self.gain * root2), self.bias * (self.rate * root2))
            return leaky(y) if self.active else y


def unit_moment(x: Tensor) -> Tensor:
    """Rows of [B, N] scaled to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class Mapping(nn.Module):
    """Latents [B, Z] and, for C > 0 classes, weights of classes [B, C] -> styles [B, W].

    With z = 0 the label alone is mapped (a discriminator's side). `w_avg` follows the mean style in training: the
    centre that truncation draws towards (Karras et al. 2019, appendix B).
    """

    w_avg: Tensor

    def __init__(
        self,
        z: int,
        classes: int,
        w: int,
        layers: int = 8,
        rate: float = 0.01,
        embed: int | None = None,
        hidden: int | None = None,
        average: float | None = 0.995,
    ):
        super().__init__()
        self.z, self.classes, self.average = z, classes, average
        embed, hidden = (embed or w) if classes else 0, hidden or w
        if classes:
            self.embed = EqualLinear(classes, embed)
        sizes = [z + embed, *[hidden] * (layers - 1), w]
        self.depth = layers
        for i in range(layers):
            self.add_module(f"fc{i}", EqualLinear(sizes[i], sizes[i + 1], rate, active=True))
        if average is not None:
            self.register_buffer("w_avg", torch.zeros(w))

    def forward(self, z: Tensor | None, classes: Tensor | None = None) -> Tensor:  # [B, Z], [B, C]
        parts = [unit_moment(z.float())] if z is not None else []
        if self.classes:
            assert classes is not None
            parts.append(unit_moment(self.embed(classes)))
        w = torch.cat(parts, 1)
        for i in range(self.depth):
            w = self.get_submodule(f"fc{i}")(w)
        if self.training and self.average is not None:
            self.w_avg.copy_(parallel.mean(w.detach().mean(0)).lerp(self.w_avg, self.average))
        return w


class StyledConv(nn.Module):
    """Convolution whose input channels are scaled by a style, then noise, bias and leaky ReLU.

    y = d ⊙ conv(s ⊙ x, W), d_o = 1/√(Σ (s_i W_oik)² + ε): Karras et al. 2020, eq. 1 and 3, with the scales moved from
    the weights to the activations, so that one convolution serves the whole batch.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(self, i: int, o: int, w: int, size: int, up: bool, noise: bool, clamp: float | None, taps: Tensor):
        super().__init__()
        self.up, self.noise, self.clamp = up, noise, clamp
        self.affine = EqualLinear(w, i, bias=1.0)
        self.weight = nn.Parameter(torch.randn(o, i, 3, 3).contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(o))
        self.register_buffer("resample_filter", taps.clone())
        if noise:
            self.register_buffer("noise_const", torch.randn(size, size))
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, w: Tensor, noise: str, gain: float = 1.0) -> Tensor:  # [B, I, H, W], [B, W]
        gain *= ROOT2
        s = self.affine(w)
        weight: Tensor = self.weight
        if x.dtype == torch.float16:  # squares of styles would overflow
            s = s / s.abs().amax(1, keepdim=True)
            weight = weight / weight.abs().amax((1, 2, 3), keepdim=True)
        with full_precision(s):
            d = torch.rsqrt(s.square() @ weight.float().square().sum((2, 3)).T + 1e-8) * gain  # [B, O]
        x = x * s.to(x.dtype)[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            k = len(self.resample_filter)
            x = upfirdn2d(x, self.resample_filter, padding=[(k - 1) // 2, k // 2 - 1] * 2, gain=4)
        else:
            x = F.conv2d(x, weight, padding=1)
        shift = (self.bias * gain)[:, None, None]
        if self.noise and noise != "none":
            shift = shift + self._noise(len(x), noise) * (self.noise_strength * gain)
        x = torch.addcmul(shift.to(x.dtype), x, d.to(x.dtype)[:, :, None, None])
        return leaky(x, None if self.clamp is None else self.clamp * gain / ROOT2)

    def _noise(self, n: int, kind: str) -> Tensor:  # [B, 1, H, W] or [H, W]
        if kind == "const":
            return self.noise_const
        return parallel.randn(n, 1, *self.noise_const.shape, device=self.noise_const.device)


class ToRGB(nn.Module):
    """Styled 1x1 convolution to image channels, without demodulation or activation. Float32 out."""

    def __init__(self, i: int, o: int, w: int, clamp: float | None):
        super().__init__()
        self.clamp, self.gain = clamp, 1 / math.sqrt(i)
        self.affine = EqualLinear(w, i, bias=1.0)
        self.weight = nn.Parameter(torch.randn(o, i, 1, 1))
        self.bias = nn.Parameter(torch.zeros(o))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:  # [B, I, H, W], [B, W] -> [B, O, H, W]
        s = (self.affine(w) * self.gain).to(x.dtype)
        y = F.conv2d(x * s[:, :, None, None], self.weight).float() + self.bias[:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class Conv(nn.Module):
    """Plain convolution with an equalised rate, resampling, bias and leaky ReLU: all of the discriminator."""

    resample_filter: Tensor

    def __init__(
        self,
        i: int,
        o: int,
        kernel: int,
        taps: Tensor,
        *,
        up: bool = False,
        down: bool = False,
        bias: bool = True,
        active: bool = True,
        clamp: float | None = None,
    ):
        super().__init__()
        self.up, self.down, self.active, self.clamp = up, down, active, clamp
        self.gain = 1 / math.sqrt(i * kernel**2)
        self.weight = nn.Parameter(torch.randn(o, i, kernel, kernel).contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(o)) if bias else None
        self.register_buffer("resample_filter", taps.clone())

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:  # [B, I, H, W]
        scale = gain * (ROOT2 if self.active else 1.0)
        kernel, weight = self.weight.shape[-1], self.weight * (self.gain * scale)
        bias = self.bias * scale if self.bias is not None else None
        if self.down:
            k = len(self.resample_filter)
            before, after = kernel // 2 + (k - 1) // 2, kernel // 2 + (k - 2) // 2
            pads = (before, after, before, after)
            if kernel == 1:  # the image shrinks before the product
                x = F.conv2d(upfirdn2d(x, self.resample_filter, down=2, padding=pads), weight, bias)
            else:
                x = F.conv2d(upfirdn2d(x, self.resample_filter, padding=pads), weight, bias, stride=2)
        else:
            x = F.conv2d(x, weight, bias, padding=kernel // 2)
        if self.up:
            x = upsample2d(x, self.resample_filter)
        clamp = None if self.clamp is None else self.clamp * gain
        if self.active:
            return leaky(x, clamp)
        return x if clamp is None else x.clamp(-clamp, clamp)
