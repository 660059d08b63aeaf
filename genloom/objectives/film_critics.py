"""How films are judged: critics of single frames and of motion, each at several sizes, and their features to match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from genloom.core import Batch
from genloom.nn.vid2vid import MultiscaleDiscriminator
from genloom.nn.warp import composed
from genloom.objectives.adversarial import find_objective
from genloom.objectives.films import folded, of_clips

FOCUS = 3  # frames that a critic of motion sees

Features = list[list[Tensor]]  # of each size, of each layer [B, C, h, w]; the last are the logits


class FilmCritics(nn.ModuleDict):
    """`image` judges each frame beside its source; `time0` … three frames and the flow between them, `strides` apart.

    Batches hold `source`, `video` and `flow`; made frames [B, C, n, H, W] are their last n, and so are `raw` ones, which are
    judged one by one. `matching` weighs how far a
    critic's features of made frames are from those of real ones.
    """

    def __init__(
        self,
        channels: int,
        sources: int,
        objective: str,
        matching: float,
        strides: Sequence[int],
        *,
        width: int,
        layers: int,
        scales: int,
        norm: str,
    ):
        def critic(inputs: int) -> MultiscaleDiscriminator:
            return MultiscaleDiscriminator(inputs, width, layers, norm, scales)

        motion = {f"time{i}": critic(FOCUS * channels + 2 * (FOCUS - 1)) for i in range(len(strides))}
        super().__init__({"image": critic(sources + channels), **motion})
        self.objective, self.matching, self.strides = find_objective(objective), matching, tuple(strides)
        self.separate = norm == "batch"  # which would let a critic compare real with made

    def fool(self, batch: Batch, made: Tensor, raw: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's terms [B] of each critic: the adversarial loss, and its features."""
        terms, clips = {}, len(made)
        for name, ours, theirs in self.pairs(batch, made, raw):
            with torch.no_grad():
                r = self.of(name)(theirs)
            f = self.of(name)(ours)
            terms[name] = self.played(self.objective.generator, r, f, clips)
            terms[f"{name}_features"] = self.matching * of_clips(matched(f, r), clips)
        return terms

    def judge(self, batch: Batch, made: Tensor, raw: Tensor | None = None) -> dict[str, Tensor]:
        """The critics' own terms [B], halved as pix2pix does."""
        terms = {}
        for name, ours, theirs in self.pairs(batch, made, raw):
            r, f = self.see(name, theirs, ours)
            terms[f"{name}_critic"] = 0.5 * self.played(self.objective.critic, r, f, len(made))
        return terms

    def of(self, name: str) -> nn.Module:
        return self["image" if name == "raw" else name]

    def pairs(self, batch: Batch, made: Tensor, raw: Tensor | None) -> Iterator[tuple[str, Tensor, Tensor]]:
        """What each critic sees, made and real; critics of motion only in clips that are long enough."""
        count = made.shape[2]
        real, source = batch["video"][:, :, -count:], folded(batch["source"][:, :, -count:])
        for name, images in (("image", made), ("raw", raw)):
            if images is not None:
                yield name, torch.cat([source, folded(images)], 1), torch.cat([source, folded(real)], 1)
        if "flow" not in batch:
            return
        flow = batch["flow"][:, :, batch["flow"].shape[2] - count + 1 :]
        for i, stride in enumerate(self.strides):
            if count > (FOCUS - 1) * stride:
                yield f"time{i}", moving(made, flow, stride), moving(real, flow, stride)

    def see(self, name: str, real: Tensor, made: Tensor) -> tuple[Features, Features]:
        """A critic's features of both, in one forward unless they could tell each other apart by that."""
        critic = self.of(name)
        if self.separate:
            return critic(real), critic(made)
        both, n = critic(torch.cat([real, made])), len(real)
        return [[x[:n] for x in size] for size in both], [[x[n:] for x in size] for size in both]

    @staticmethod
    def played(loss: Callable[[Tensor, Tensor], Tensor], r: Features, f: Features, clips: int) -> Tensor:
        """[B]: one side's loss of the logits of real and made frames, mean over sizes and patches."""
        rows = [of_clips(loss(x[-1].float(), y[-1].float()), clips) for x, y in zip(r, f, strict=True)]
        return torch.stack(rows).mean(0)


def matched(made: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """[B]: how far a critic's features of made pictures are from those of real ones, in L1, over all but its logits.

    A list a scale, of the features [B, C, h, w] of each layer; mean over scales and layers (Wang et al. 2018, appendix).
    """
    apart = [
        (a - b.detach()).abs().flatten(1).mean(1)
        for ours, theirs in zip(made, real, strict=True)
        for a, b in zip(ours[:-1], theirs[:-1], strict=True)
    ]
    return torch.stack(apart).mean(0)


def moving(frames: Tensor, flows: Tensor, stride: int) -> Tensor:
    """[N, 3C + 4, H, W]: every three frames that are `stride` apart of [B, C, T, H, W], with the flow between them.

    `flows` [B, 2, T - 1, H, W] of neighbours; longer steps are composed of them. Clip by clip: N = B · (T - 2 · stride).
    """
    count = frames.shape[2] - 2 * stride
    steps = [composed(flows[:, :, i : i + stride]) for i in range(flows.shape[2] - stride + 1)]
    rows = [
        torch.cat(
            [*(frames[:, :, i + k * stride] for k in range(3)), steps[i], steps[i + stride]],
            1,
        )
        for i in range(count)
    ]
    return torch.stack(rows, 1).flatten(0, 1)
