"""Networks in time, fed piece by piece: what comes out is what the whole clip would have given, and nothing is done twice.

Each layer keeps the few inputs that its next output looks back at. Padding belongs to the ends of the clip alone: it is
made when the first input comes and when the last has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError
from genloom.nn.istft import overlapped
from genloom.nn.lined import Convolution, Rise, in_autocast, joined, lined
from genloom.nn.mel import Mel


class Pipe(Protocol):
    def push(self, x: Tensor, last: bool) -> Tensor:
        """[B, C, t], the next inputs, t ≥ 0 -> [B, C', t'], the outputs that are certain by now; at the `last`, all."""
        ...


class Chain:
    """One after another."""

    def __init__(self, *pipes: Pipe):
        self.pipes = pipes

    def push(self, x: Tensor, last: bool) -> Tensor:
        x = lined(x)
        for pipe in self.pipes:
            x = pipe.push(x, last)
        return x


class Each:
    """A function of each instant alone. `channels`: how many come out, where they are others than go in."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int | None = None):
        self.function, self.channels = function, channels

    def push(self, x: Tensor, last: bool) -> Tensor:
        if x.shape[2]:
            return self.function(x)
        return x if self.channels is None else x.new_zeros(len(x), self.channels, 0)


class Padded:
    """The inputs with `pad` more at each end, reflected or zero."""

    def __init__(self, pad: int, mode: str):
        self.pad, self.mode = pad, mode
        self.waiting: Tensor | None = None  # the first inputs, or of those that went on, what the end reflects
        self.begun = False

    def push(self, x: Tensor, last: bool) -> Tensor:
        if not self.pad:
            return x
        if self.goes_on(x, last):
            self.waiting = x[..., -(self.pad + 1) :]
            return x
        held = x if self.waiting is None else joined([self.waiting, x])
        if self.begun:
            self.waiting = held[..., -(self.pad + 1) :]
            return joined([x, self._end(held)]) if last else x
        if held.shape[2] <= self.pad:
            if last:
                raise UserError(f"This clip is too short: its ends are reflected over {self.pad} values.")
            self.waiting = held
            return held[..., :0]
        self.begun, self.waiting = True, held[..., -(self.pad + 1) :]
        front = held[..., 1 : self.pad + 1].flip(2) if self.mode == "reflect" else self._zeros(held)
        return joined([front, held, self._end(held)] if last else [front, held])

    def goes_on(self, x: Tensor, last: bool) -> bool:
        """Whether these inputs, neither the first nor the last, go through as they are."""
        return (self.begun or not self.pad) and not last and x.shape[2] > self.pad

    def _end(self, held: Tensor) -> Tensor:
        return held[..., -(self.pad + 1) : -1].flip(2) if self.mode == "reflect" else self._zeros(held)

    def _zeros(self, held: Tensor) -> Tensor:
        return held.new_zeros(*held.shape[:2], self.pad)


class Convolved:
    """A convolution in time of stride 1, with its own padding, or `pad` values at each end, zero or reflected.

    With `slope` it is one of the leaky ReLU of its input.
    """

    def __init__(self, conv: nn.Module, pad: int | None = None, mode: str = "zeros", slope: float | None = None):
        assert isinstance(conv, Convolution)
        self.slope = slope
        self.conv, self.padded = conv, Padded(int(conv.padding[0]) if pad is None else pad, mode)
        self.reach = conv.dilation[0] * (conv.kernel_size[0] - 1)
        weight = conv.arranged().detach()  # once, and not for every piece
        self.weight = weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight
        self.held: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        if self.slope is not None and self.held is not None and self.padded.goes_on(x, last):
            x = self._activated(x, self.held, self.slope)
        else:
            x = self.padded.push(x if self.slope is None else F.leaky_relu(x, self.slope), last)
            x = x if self.held is None else joined([self.held, x])
        if self.reach:
            self.held = x[..., max(0, x.shape[2] - self.reach) :]
        if x.shape[2] <= self.reach:
            return x.new_zeros(len(x), self.conv.out_channels, 0)
        return self.conv.over(x, 0, self.weight)

    def _activated(self, x: Tensor, held: Tensor, slope: float) -> Tensor:
        """What is held, and after it the activation of x: written where it is wanted, and not copied there."""
        before = held.shape[2]
        both = x.new_empty(len(x), before + x.shape[2], x.shape[1]).transpose(1, 2)
        both[..., :before] = held
        self.padded.push(torch.ops.aten.leaky_relu.out(x, slope, out=both[..., before:]), False)
        return both


class Risen:
    """A transposed convolution in time, as it stands."""

    def __init__(self, conv: nn.Module):
        assert isinstance(conv, nn.ConvTranspose1d)
        self.conv, self.stride = conv, conv.stride[0]
        self.arranged = conv.arranged().detach() if isinstance(conv, Rise) else None  # once, and not for every piece
        self.reach = -(-(conv.kernel_size[0] - self.stride) // self.stride)  # inputs that an output looks back at
        self.skip = int(conv.padding[0])  # outputs that the padding takes from the beginning, and from the end
        self.trimmed = self.skip - int(conv.output_padding[0])
        self.held: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        conv, new = self.conv, x.shape[2]
        if not new and not last:
            return x.new_zeros(len(x), conv.out_channels, 0)
        x = x if self.held is None else joined([self.held, x])
        before = x.shape[2] - new  # their own outputs are out already
        self.held = x[..., max(0, x.shape[2] - self.reach) :]
        y = (
            conv.whole(x, self.arranged)
            if isinstance(conv, Rise)
            else F.conv_transpose1d(x, conv.weight, conv.bias, conv.stride)
        )
        if not last:
            y = y[..., : x.shape[2] * self.stride]
        elif self.trimmed:
            y = y[..., : -self.trimmed]
        y = y[..., before * self.stride :]
        taken = min(self.skip, y.shape[2])
        self.skip -= taken
        return y[..., taken:]


class Added:
    """The sum of several ways of the same input, that come late by different times; over their number with `mean`."""

    def __init__(self, ways: Sequence[Pipe], mean: bool = False):
        self.ways, self.scale = ways, 1 / len(ways) if mean else 1.0
        self.held: list[Tensor | None] = [None] * len(ways)

    def push(self, x: Tensor, last: bool) -> Tensor:
        found = [w.push(x, last) for w in self.ways]
        late = [
            0 if held is None else held.shape[2] for held in self.held
        ]  # of each, how much comes before what is new
        count = min(y.shape[2] + n for y, n in zip(found, late, strict=True))
        total = found[0].new_empty(len(x), count, found[0].shape[1]).transpose(1, 2)
        for start, end in pairwise(sorted({0, count, *(n for n in late if n < count)})):
            parts = [
                y[..., start - n : end - n] if held is None or start >= n else held[..., start:end]
                for y, held, n in zip(found, self.held, late, strict=True)
            ]
            here = torch.add(parts[0], parts[1], out=total[..., start:end])
            for part in parts[2:]:
                here.add_(part)
        self.held = [
            y[..., count - n :] if held is None or n <= count else joined([held[..., count:], y])
            for y, held, n in zip(found, self.held, late, strict=True)
        ]
        return total.mul_(self.scale) if self.scale != 1 else total


class Beside:
    """a(x) + b(deep(x)), convolutions that look at one instant, of a pipe that comes late."""

    def __init__(self, a: nn.Module, deep: Pipe, b: nn.Module):
        assert isinstance(a, Convolution) and isinstance(b, Convolution) and a.bias is not None and b.bias is not None
        self.deep, self.bias = deep, (a.bias + b.bias).detach()
        self.weights = [conv.arranged().detach().T.contiguous() for conv in (a, b)]
        self.held: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        seen, dtype = self.deep.push(x, last).transpose(1, 2), in_autocast(x)  # [B, t, C]
        if self.bias.dtype != dtype:  # once a stream
            self.bias, self.weights = self.bias.to(dtype), [w.to(dtype) for w in self.weights]
        count, held = seen.shape[1], self.held
        late = 0 if held is None else held.shape[2]
        total = torch.addmm(self.bias, seen.flatten(0, 1).to(dtype), self.weights[1]).view(seen.shape)
        for item in range(len(x)):
            if held is not None and (early := min(late, count)):
                total[item, :early].addmm_(held[item, :, :early].T.to(dtype), self.weights[0])
            if late < count:
                total[item, late:].addmm_(x[item, :, : count - late].T.to(dtype), self.weights[0])
        self.held = x[..., count - late :] if late <= count or held is None else joined([held[..., count:], x])
        return total.transpose(1, 2)


class Overlapped:
    """Frames [B, C, t] -> a wave [B, 1, n]: `pieces` makes [B, n_fft, t] of them, that are overlapped as nn/istft.py does."""

    def __init__(self, pieces: Callable[[Tensor], Tensor], window: Tensor, hop: int, cut: int):
        self.pieces, self.window, self.hop, self.cut = pieces, window, hop, cut
        self.skip = cut
        self.held: Tensor | None = None  # [2B, n_fft - hop]: sums that more is added to, and of the squared windows

    def push(self, x: Tensor, last: bool) -> Tensor:
        size = len(self.window) - self.hop
        sums = x.new_zeros(2 * len(x), size) if self.held is None else self.held
        if x.shape[2]:
            pieces = self.pieces(x)
            squares = self.window.square()[None, :, None].expand_as(pieces)
            new = overlapped(torch.cat([pieces, squares]), self.hop)
            sums = new + F.pad(sums, (0, new.shape[1] - size))
        ready = sums.shape[1] - (self.cut if last else size)
        self.held = sums[:, ready:]
        wave, envelope = sums[:, :ready].chunk(2)
        taken = min(self.skip, ready)
        self.skip -= taken
        return (wave[:, taken:] / envelope[:, taken:])[:, None]


class Framed:
    """A wave [B, 1, t] -> the frames of its mel spectrogram [B, bands, t']."""

    def __init__(self, mel: Mel):
        self.mel, self.padded = mel, Padded(mel.pad, "reflect")
        self.held: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        x = self.padded.push(x, last)
        x = x if self.held is None else torch.cat([self.held, x], 2)
        frames = max(0, (x.shape[2] - self.mel.n_fft) // self.mel.hop + 1)
        self.held = x[..., frames * self.mel.hop :]
        if not frames:
            return x.new_zeros(len(x), self.mel.bands, 0)
        return self.mel.of_padded(x[:, 0, : (frames - 1) * self.mel.hop + self.mel.n_fft])


@torch.inference_mode()
def through(pipe: Pipe, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """What comes out for each piece [B, C, t]: as much as is certain, in the end all."""
    piece = None
    for piece in pieces:
        yield pipe.push(piece, False)
    if piece is not None:
        yield pipe.push(piece[..., :0], True)
