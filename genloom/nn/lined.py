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
        made = x.transpose(1, 2) @ weight[:, 0]
        made = F.pad(made, (0, 0, 0, kernel // stride - 1))  # [B, T + overlap, stride · C']
        for i in range(1, kernel // stride):
            made[:, i : i + length] += x.transpose(1, 2) @ weight[:, i]
        made = made.view(batch, -1, self.out_channels)
        return (made if self.bias is None else made + self.bias).transpose(1, 2)
