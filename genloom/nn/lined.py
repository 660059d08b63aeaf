"""Convolutions in time over values that lie instant by instant: all channels of one beside each other.

PyTorch's one-dimensional convolutions keep a row a channel, for which its CPU kernels turn everything round and back at
each layer. Seen as pictures one pixel high in `channels_last` the same numbers come in half the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lined(x: Tensor) -> Tensor:
    """The same [B, C, T], in memory as [B, T, C]: what the layers here take and give fastest."""
    if x.shape[1] == 1:  # there is nothing to move, but the strides must say so
        x = x.contiguous()
        return x.as_strided(x.shape, (x.shape[2], 1, 1), x.storage_offset())
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after another in time, lined as they are."""
    return torch.cat([x.transpose(1, 2) for x in parts], 1).transpose(1, 2)


def reflected(x: Tensor, pad: int) -> Tensor:
    """[B, C, T] -> [B, C, T + 2 · pad], the ends reflected."""
    return F.pad(x[:, :, None], (pad, pad, 0, 0), mode="reflect").squeeze(2)


def activated(x: Tensor, slope: float, pad: int) -> Tensor:
    """[B, C, T] -> [B, C, T + 2 · pad], leaky ReLU with the ends reflected; where nothing is learnt in one pass over memory."""
    if torch.is_grad_enabled() or not pad < x.shape[2]:
        return reflected(F.leaky_relu(x, slope), pad)
    whole = x.new_empty(len(x), x.shape[2] + 2 * pad, x.shape[1]).transpose(1, 2)
    middle = torch.ops.aten.leaky_relu.out(x, slope, out=whole[..., pad : pad + x.shape[2]])
    whole[..., :pad] = middle[..., 1 : pad + 1].flip(2)
    whole[..., pad + x.shape[2] :] = middle[..., -pad - 1 : -1].flip(2)
    return whole


def both(x: Tensor, a: nn.Module, y: Tensor, b: nn.Module) -> Tensor:
    """a(x) + b(y) of convolutions with a bias that look at one instant, [B, C, T] each: the second product is added into the first."""
    assert isinstance(a, Convolution) and isinstance(b, Convolution) and a.bias is not None and b.bias is not None
    dtype = in_autocast(x)
    rows = [z.transpose(1, 2).flatten(0, 1).to(dtype) for z in (x, y)]
    total = torch.addmm((a.bias + b.bias).to(dtype), rows[0], a.arranged().T.to(dtype))
    total = total.addmm_(rows[1], b.arranged().T.to(dtype))
    return total.unflatten(0, (len(x), -1)).transpose(1, 2)


def in_autocast(x: Tensor) -> torch.dtype:
    """What products of x are made in, under autocast too."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Convolution(nn.Conv1d):
    """nn.Conv1d, for inputs that are `lined`."""

    def forward(self, input: Tensor) -> Tensor:
        return self.over(input, int(self.padding[0]))

    def over(self, x: Tensor, pad: int, weight: Tensor | None = None) -> Tensor:
        """With so many zeros at each end; `weight` where it is at hand from `arranged`."""
        weight = self.arranged() if weight is None else weight
        if weight.ndim == 2:  # a product, which PyTorch may compute slowly as else
            return F.linear(x.transpose(1, 2), weight, self.bias).transpose(1, 2)
        how = (1, self.stride[0]), (0, pad), (1, self.dilation[0]), self.groups
        return F.conv2d(x[:, :, None], weight, self.bias, *how).squeeze(2)

    def arranged(self) -> Tensor:
        """The weight as a matrix where it looks at one instant, else as one of two dimensions."""
        single = self.kernel_size[0] == self.stride[0] == self.groups == 1
        return self.weight[:, :, 0] if single else self.weight[:, :, None]


class Rise(nn.ConvTranspose1d):
    """nn.ConvTranspose1d whose kernel is a multiple of its stride, for inputs that are `lined`: products, overlapped."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        skip = int(self.padding[0])
        whole = self.whole(input)
        end = whole.shape[2] - skip + int(self.output_padding[0])
        return whole[:, :, skip:end]

    def arranged(self) -> Tensor:
        """The weight as [C, kernel / stride, stride · C']: a matrix for each input that an output looks at."""
        return self.weight.permute(0, 2, 1).reshape(self.in_channels, -1, self.stride[0] * self.out_channels)

    def whole(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Without padding: [B, C, T] -> [B, C', (T - 1) · stride + kernel]; `weight` where it is at hand from `arranged`."""
        batch, _, length = x.shape
        stride, kernel = self.stride[0], self.kernel_size[0]
        weight = self.arranged() if weight is None else weight
        if not torch.is_grad_enabled() and batch == 1:
            return self._added_up(x, weight)
        made = x.transpose(1, 2) @ weight[:, 0]
        made = F.pad(made, (0, 0, 0, kernel // stride - 1))  # [B, T + overlap, stride · C']
        for i in range(1, kernel // stride):
            made[:, i : i + length] += x.transpose(1, 2) @ weight[:, i]
        made = made.view(batch, -1, self.out_channels)
        return (made if self.bias is None else made + self.bias).transpose(1, 2)

    def _added_up(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same of one clip where nothing is learnt: each product is added where it belongs, in one pass over memory."""
        x, weight = x.to(in_autocast(x)), weight.to(in_autocast(x))
        length, stride, looks = x.shape[2], self.stride[0], weight.shape[1]
        made = x.new_empty(length + looks - 1, stride * self.out_channels)  # [T + overlap, stride · C']
        made.view(-1, stride, self.out_channels).copy_(made.new_zeros(1) if self.bias is None else self.bias)
        for i in range(looks):
            made[i : i + length].addmm_(x[0].T, weight[:, i])
        return made.view(1, -1, self.out_channels).transpose(1, 2)
