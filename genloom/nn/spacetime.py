"""A small U-Net over space and time, that maps the frames of clips, a time a frame and a class to frames.

The space-time U-Net of Ho et al. 2022 (Video Diffusion Models), cut to what small clips need. Frames are folded into the
batch, [B·T, C, H, W] in channels_last memory, so that convolutions run within frames; the same memory read as an image of
height T and width H·W is what a convolution across frames runs over, and read as tokens what attention looks at.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.attention import attend
from genloom.nn.unet import TimeEmbedding, pixel_norm, quieten

HEAD = 32  # numbers a head of attention
THETA = 100.0  # of rotary positions: clips are tens of frames and places long


class Block(nn.Module):
    """Residual block: a 3x3 convolution in each frame, then one over three frames at each place.

    `context` [B·T, E] scales and shifts between them: each frame has its own.
    """

    def __init__(self, width: int, context: int):
        super().__init__()
        self.space = nn.Conv2d(width, width, 3, padding=1)
        self.modulate = nn.Linear(context, 2 * width)
        self.time = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        quieten(self.modulate)
        quieten(self.time)  # each block begins near the identity

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        scale, shift = self.modulate(context)[:, :, None, None].chunk(2, 1)
        h = pixel_norm(self.space(F.silu(x)))
        h = F.silu(torch.addcmul(shift, h, scale + 1))
        return x + across(self.time, h, frames)


def fold(clips: Tensor) -> Tensor:
    """[B, C, T, H, W] -> frames [B·T, C, H, W]."""
    return clips.transpose(1, 2).flatten(0, 1)


def across(layer: nn.Module, x: Tensor, frames: int) -> Tensor:
    """A layer of convolutions along the height, over time: x [B·T, C, H, W] seen as [B, C, T, H·W], without a copy."""
    n, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(n // frames, frames, height * width, channels)
    y = layer(flat.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y.reshape(n, height, width, -1).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """x + attention(x), [B·T, C, H, W]: every place of every frame looks at all places of all frames of its clip.

    Queries and keys have length √D and are turned by rotary angles of their frame, row and column: what is seen depends
    on how far apart two places are, not on where they are.
    """

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        quieten(self.out)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        n, channels, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(n // frames, -1, channels)  # [B, T·H·W, C]
        qkv = self.qkv(F.layer_norm(tokens, (channels,)))
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, T·H·W, D]
        angles = turns(frames, height, width, q.shape[3] // 2, x.device)
        q, k = (turned(F.rms_norm(y.float(), y.shape[3:]), angles).to(v.dtype) for y in (q, k))
        seen = attend(q, k, v).transpose(1, 2).reshape(tokens.shape)
        return x + self.out(seen).reshape(n, height, width, channels).permute(0, 3, 1, 2)


def turns(frames: int, height: int, width: int, count: int, device: torch.device) -> Tensor:
    """Angles [T·H·W, count] of a grid's places: a third of them by frame, row and column each (Su et al. 2021)."""
    angles = []
    for axis, size in enumerate((frames, height, width)):
        several = (count + axis) // 3  # the three sum to count
        rate = THETA ** (-torch.arange(several, device=device) / max(several, 1))
        along = torch.arange(size, device=device)[:, None] * rate
        shape = [1, 1, 1, several]
        shape[axis] = size
        angles.append(along.view(shape).expand(frames, height, width, several))
    return torch.cat(angles, 3).flatten(0, 2)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """The two halves of x [B, heads, N, D] turned by angles [N, D / 2]."""
    a, b = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Level(nn.Module):
    """Blocks in a row at one resolution, attention after each where there is any."""

    def __init__(self, width: int, context: int, depth: int, attends: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, context) for _ in range(depth))
        self.attention = nn.ModuleList(Attention(width) for _ in range(depth if attends else 0))

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, context, frames)
            if self.attention:
                x = self.attention[i](x, frames)
        return x


class SpaceTimeUNet(nn.Module):
    """f(frames [B·T, C, H, W], t [B·T], label [B] or None, T) -> [B·T, C, H, W].

    `levels` resolutions, each half the one before with twice its width, attention at the last `attends` of them; H and W
    divide by `patch * 2 ** (levels - 1)`. `depth` blocks a level going down and going up. With `classes`, label `classes`
    stands for "no class".
    """

    def __init__(
        self, channels: int, *, classes: int, width: int, levels: int, depth: int, patch: int, attends: int = 1
    ):
        super().__init__()
        self.patch = patch
        widths = [width * 2**i for i in range(levels)]
        context = 4 * width
        self.time = TimeEmbedding(context)
        self.label = nn.Embedding(classes + 1, context) if classes else None
        self.context = nn.Sequential(nn.SiLU(), nn.Linear(context, context), nn.SiLU())
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        flags = [i >= levels - attends for i in range(levels)]
        self.down = nn.ModuleList(Level(w, context, depth, a) for w, a in zip(widths, flags, strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.grow = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths[:-1])
        self.up = nn.ModuleList(Level(w, context, depth, a) for w, a in zip(widths, flags, strict=True))
        self.head = nn.Conv2d(width, channels * patch**2, 3, padding=1)
        quieten(self.head)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None, frames: int) -> Tensor:
        context = self.time(t)
        if self.label is not None and label is not None:
            context = context + self.label(label).repeat_interleave(frames, 0)
        context = self.context(context)
        h = self.stem(F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last))
        kept: list[Tensor] = []
        for i, level in enumerate(self.down):
            h = level(self.shrink[i - 1](h) if i else h, context, frames)
            kept.append(h)
        for i in reversed(range(len(self.up))):
            h = h if i == len(kept) - 1 else kept[i] + F.interpolate(self.grow[i](h), scale_factor=2.0)
            h = self.up[i](h, context, frames)
        return F.pixel_shuffle(self.head(F.silu(h)), self.patch)
