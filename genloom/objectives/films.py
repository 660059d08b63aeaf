"""What models share that are taught by films: losses of motion, and how frames are folded into a batch and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import Batch, Model, Spec, generator
from genloom.errors import UserError
from genloom.nn.warp import warp

KEPT = 8  # clips that a model keeps the sources of
EXPLAINED = 0.1  # of the range from -1 to 1: how near a warped pixel is to the real one, to be trusted


class Made(NamedTuple):
    """Frames `first` .. of a clip [B, C, n, H, W] as they were made, the same without warping, and of those that were warped,
    numbers `moved`, their flow [B, 2, m, H, W] in pixels and the raw picture's share [B, 1, m, H, W]."""

    first: int
    images: Tensor
    raw: Tensor
    moved: list[int]
    flow: Tensor | None
    weight: Tensor | None

    @classmethod
    def of(cls, first: int, frames: Sequence[Any]) -> Made:
        """Of frames number `first` .., each with `image`, `raw`, `flow` and `weight`, the latter None where none was warped."""
        warps = [frame for frame in frames if frame.flow is not None]
        moved = [first + i for i, frame in enumerate(frames) if frame.flow is not None]
        flow, weight = (stacked(warps, name) if warps else None for name in ("flow", "weight"))
        return cls(first, stacked(frames, "image"), stacked(frames, "raw"), moved, flow, weight)


def folded(x: Tensor) -> Tensor:
    """Frames of clips [B, C, T, H, W] as pictures [B · T, C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def unfolded(x: Tensor, clips: int) -> Tensor:
    """Pictures [B · T, C, H, W] as clips [B, C, T, H, W]."""
    return x.unflatten(0, (clips, -1)).transpose(1, 2)


def stacked(frames: Sequence[Any], name: str) -> Tensor:
    """What is of that name in each frame [B, C, H, W], along time [B, C, n, H, W]."""
    return torch.stack([getattr(frame, name) for frame in frames], 2)


def of_clips(x: Tensor, clips: int) -> Tensor:
    """[B]: means over all that belongs to a clip of [B · T, ...]."""
    return x.reshape(clips, -1).mean(1)


def sure_error(error: Tensor, sure: Tensor) -> Tensor:
    """[B]: mean over channels of error [B, C, T, H, W], over those pixels of which one is sure [B, 1, T, H, W].

    The authors divide by the number of all pixels: their loss is the smaller, the more is hidden.
    """
    weighed = (error * sure).flatten(1).sum(1) / error.shape[1]
    return weighed / sure.flatten(1).sum(1).clamp(min=1)


def warped(video: Tensor, flows: Tensor) -> Tensor:
    """Frames 1 .. T - 1 as frames 0 .. T - 2 of video [B, C, T, H, W] look when the flows [B, 2, T - 1, H, W] move them."""
    return unfolded(warp(folded(video[:, :, :-1]), folded(flows)), len(video))


def explained(video: Tensor, flows: Tensor) -> Tensor:
    """[B, 1, T - 1, H, W] f32: 1 where a frame moved by its flow is the next frame."""
    apart = (warped(video, flows) - video[:, :, 1:]).abs().mean(1, keepdim=True)
    return (apart < EXPLAINED).to(video.dtype)


def motion_losses(batch: Batch, made: Tensor, first: int, flow: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Terms [B] of made frames [B, C, n, H, W], the last of their clips; from number `first` on they were warped along `flow`
    [B, 2, m, H, W], and took a share `weight` [B, 1, m, H, W] of the raw picture.

    `flow`: the flow is the teacher's; `warp`: it moves the real frame before onto the real one; `steady`: the teacher's
    moves the made frame before onto the made one; `trust`: where the teacher's flow explains a pixel, so is it made.
    """
    taught, sure = batch["flow"][:, :, first - 1 :], batch["confidence"][:, :, first - 1 :]
    video, count = batch["video"][:, :, first - 1 :], made.shape[2] - 1
    return {
        "flow": sure_error((flow - taught).abs(), sure),
        "warp": sure_error((warped(video, flow) - video[:, :, 1:]).abs(), sure),
        "steady": _steady(made, batch["flow"][:, :, -count:], batch["confidence"][:, :, -count:])
        if count
        else 0 * sure.sum(),
        "trust": sure_error(weight, sure * explained(video, taught)),
    }


def _steady(made: Tensor, taught: Tensor, sure: Tensor) -> Tensor:
    return sure_error((made[:, :, 1:] - warped(made.detach(), taught)).abs(), sure)


def window(source: Tensor, t: int, previous: int) -> Tensor:
    """[B, (K + 1) · C, H, W]: frame t of source [B, C, T, H, W] after the K before it; before the first there is the first."""
    return torch.cat([source[:, :, max(0, i)] for i in range(t - previous, t + 1)], 1)


def halve(x: Tensor) -> Tensor:
    """Pictures [B, C, H, W] at half the size."""
    return F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


def halved(batch: Batch) -> Batch:
    """Clips at half the size, and the flow between their frames in pixels of that; sure is what was so all around."""
    small = {k: unfolded(halve(folded(v)), len(v)) for k, v in batch.items()}
    if "flow" in small:
        small |= {"flow": small["flow"] / 2, "confidence": (small["confidence"] > 0.99).to(small["flow"].dtype)}
    return small


def beside(source: Tensor, made: Tensor) -> Tensor:
    """Each source [n, C', T, H, W] and after it what was made of it: [2 n, 1 or 3, T, H, W], planes of labels in colours."""
    sides = [as_pictures(x) for x in (source, made)]
    channels = max(x.shape[1] for x in sides)
    return torch.stack([x.expand(-1, channels, -1, -1, -1) for x in sides], 1).flatten(0, 1)


def as_pictures(clips: Tensor) -> Tensor:
    """Clips [n, C, T, H, W] in [-1, 1] as grey or colour ones; of neither, each plane has a colour of the wheel."""
    planes = clips.shape[1]
    if planes in (1, 3):
        return clips
    turns = torch.arange(planes)[:, None] / planes + torch.arange(3) / 3  # [C, 3]
    wheel = torch.cos(2 * math.pi * turns).to(clips)
    return wheel[clips.argmax(1)].movedim(-1, 1)


class Clips(nn.Module):
    """Up to 8 clips of the data's sources, as bytes: what grids and reports show results of."""

    frames: Tensor
    count: Tensor

    def __init__(self, channels: int, length: int, height: int, width: int):
        super().__init__()
        self.register_buffer("frames", torch.zeros(KEPT, channels, length, height, width, dtype=torch.uint8))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def keep(self, source: Tensor) -> None:  # [B, C, T, H, W] in [-1, 1]
        some = torch.linspace(0, len(source) - 1, min(KEPT, len(source))).round().long()
        self.frames[: len(some)] = ((source[some].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        self.count.fill_(len(some))

    def take(self, n: int, seed: int, start: int) -> Tensor:
        """[n, C, T, H, W]: clip i is the i-th in the seed's own order. Raises UserError when none was kept."""
        count = int(self.count)
        if not count:
            raise UserError("This model makes films from films and keeps none of its data: give it a --source.")
        rounds = {i // count for i in range(start, start + n)}
        orders = {k: torch.randperm(count, generator=generator(seed, 1, k)) for k in rounds}
        rows = torch.stack([orders[i // count][i % count] for i in range(start, start + n)])
        return self.frames[rows.to(self.frames.device)].float() / 127.5 - 1


class Course(nn.Module):
    """How far training has come, and what is asked of a generator there, all in shares of training.

    Until `coarse` the coarsest of several learns alone; clips grow to their length until `growth`. Until `alone` frames are
    painted by themselves, without memory, which then comes in over half as long again; until `at_once` each follows
    guesses of those before it, and then one follows the other. A run to start from has its memory.
    """

    progress: Tensor
    stepped: Tensor
    learnt: Tensor

    def __init__(self, *, coarse: float, growth: float, alone: float, at_once: float):
        super().__init__()
        self.coarse, self.growth, self.alone, self.at_once = coarse, growth, alone, at_once
        self.register_buffer("progress", torch.ones(()))  # a model that is not trained is asked for all
        self.register_buffer("stepped", torch.zeros(()))
        self.register_buffer("learnt", torch.zeros(()))

    def begin(self) -> None:
        self.learnt.copy_(self.stepped)
        self.progress.zero_()

    def reach(self, progress: float) -> None:
        self.progress.fill_(progress)
        self.stepped.fill_(1)

    def levels(self, most: int) -> int:
        return 1 if float(self.progress) < self.coarse else most

    def frames(self, most: int) -> int:
        """Two at first, in the end all."""
        grown = min(1.0, float(self.progress) / self.growth) if self.growth else 1.0
        return min(most, 2 + round(grown * max(0, most - 2)))

    def memory(self) -> float:
        """The weight of what the frames before say."""
        if not self.alone or self.learnt:
            return 1.0
        return min(1.0, max(0.0, 2 * (float(self.progress) / self.alone - 1)))

    def together(self) -> bool:
        """Whether all frames of a clip are painted at once."""
        return not self.memory() or float(self.progress) < self.at_once


def painted(still: Model, source: Tensor, spec: Spec) -> Tensor:
    """The pictures [B, C, H, W] that a model of single ones makes of `source` frames: to begin films of `spec` with.

    Raises UserError for a model that makes none of these.
    """
    channels = (still.spec.extra.get("source_channels"), still.spec.shape[0])
    if still.modality != "image" or "source" not in still.conditions or channels != (source.shape[1], spec.shape[0]):
        raise UserError(
            f"--still is a run that turns frames like the source's into frames like the film's, and this one of "
            f"'{still.name}' does not: fit pix2pix on pairs of frames, or leave --still out."
        )
    return torch.as_tensor(still.sample(len(source), source=source))  # type: ignore[call-arg]
