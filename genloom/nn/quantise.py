"""Vector quantisation: each vector becomes the number of the nearest one of a codebook, in one stage or several.

D numbers a vector, V vectors a codebook, K stages; `sg` stops the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel

EPS = 1e-5  # added to each code's count, so that none is divided by nothing


class Quantised(NamedTuple):
    """What a codebook makes of x [B, ..., D]. Losses are those of van den Oord et al. 2017, eq. 3, before their weights."""

    values: Tensor  # [B, ..., D]: the vectors chosen; gradients pass straight through to x
    codes: Tensor  # i64 [B, ...], or [B, K, T] of several stages
    commitment: Tensor  # [B]: mean (x - sg(q))², which moves what makes x
    codebook: Tensor  # [B]: mean (sg(x) - q)², which moves the codebook where it is learnt by gradients


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """[B, ...] i64: the nearest of book [V, D] to each of x [B, ..., D], always in float32."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        flat, book = x.reshape(-1, x.shape[-1]).float(), book.float()
        distance = flat.square().sum(1, keepdim=True) + book.square().sum(1) - 2 * flat @ book.T
        return distance.argmin(1).view(x.shape[:-1])


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    """q, whose gradient goes to x as it is."""
    return x + (q - x).detach()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """[B]: mean (a - b)²."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


class Codebook(nn.Module):
    """V vectors that gradients move (van den Oord et al. 2017, section 3.2)."""

    def __init__(self, codes: int, width: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(codes, width).uniform_(-1 / codes, 1 / codes))

    def forward(self, x: Tensor) -> Quantised:  # [B, ..., D]
        codes = nearest(x, self.vectors)
        q = F.embedding(codes, self.vectors)
        return Quantised(straight_through(x, q), codes, distance(x, q.detach()), distance(x.detach(), q))


class MovingCodebook(nn.Module):
    """V vectors, each the running mean of what it was chosen for (van den Oord et al. 2017, appendix A.1).

    In training each call moves them after it has chosen. With `restart` a code chosen less than that share of its fair
    part becomes one of the vectors just seen (Zeghidour et al. 2021, section III.C); so the first batch fills the book.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int, *, decay: float = 0.99, restart: float = 0.05):
        super().__init__()
        self.decay, self.restart = decay, restart
        self.register_buffer("vectors", torch.randn(codes, width))
        self.register_buffer("counts", torch.zeros(codes))  # how often each is chosen a step, smoothed
        self.register_buffer("sums", torch.zeros(codes, width))  # of what it was chosen for

    def forward(self, x: Tensor) -> Quantised:  # [B, ..., D]
        codes = nearest(x, self.vectors)
        q = F.embedding(codes, self.vectors)
        far = distance(x, q)
        found = Quantised(straight_through(x, q), codes, far, torch.zeros_like(far))
        if self.training:
            self._move(x.detach().reshape(-1, x.shape[-1]).float(), codes.flatten())
        return found

    @torch.no_grad()
    def _move(self, x: Tensor, codes: Tensor) -> None:
        """x [N, D] and its codes [N] into the running means. The smoothed counts are what is kept, as is usual."""
        counts, sums = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        counts.index_add_(0, codes, torch.ones_like(x[:, 0]))
        sums.index_add_(0, codes, x)
        counts, sums = (parallel.mean(t) * parallel.world() for t in (counts, sums))
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        total = self.counts.sum()
        self.counts.add_(EPS).mul_(total / (total + len(counts) * EPS))
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        if self.restart:
            self._start_again(x, float(counts.sum()) / len(counts))
        self.vectors.copy_(self.sums / self.counts[:, None])

    def _start_again(self, x: Tensor, fair: float) -> None:
        """Codes that are hardly chosen become vectors of x, with what each code has on average."""
        dead = self.counts < self.restart * fair
        seen = parallel.gather(x)
        new = seen[torch.randint(len(seen), (len(dead),)).to(x.device)]  # ranks draw in step
        self.counts.masked_fill_(dead, fair)
        self.sums.copy_(torch.where(dead[:, None], fair * new, self.sums))


class Residual(nn.Module):
    """Codebooks one after another, each for what those before it left over (Zeghidour et al. 2021, section III.C)."""

    def __init__(self, stages: Sequence[MovingCodebook]):
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Quantised:
        """x [B, T, D] -> codes [B, K, T]; the commitment is the mean over stages."""
        left, codes, far = x, [], []
        for stage in self.stages:
            found: Quantised = stage(left)
            codes.append(found.codes)
            far.append(found.commitment)
            left = left - found.values.detach()
        commitment = torch.stack(far).mean(0)
        values = straight_through(x, x.detach() - left.detach())
        return Quantised(values, torch.stack(codes, 1), commitment, torch.zeros_like(commitment))

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Codes [B, K, T] of x [B, T, D], without learning."""
        found = []
        for stage in self.stages:
            book = cast(MovingCodebook, stage).vectors
            found.append(nearest(x, book))
            x = x - F.embedding(found[-1], book)
        return torch.stack(found, 1)

    def values(self, codes: Tensor) -> Tensor:
        """[B, T, D] of codes [B, K', T]: of the first K' stages, where they are fewer."""
        books = [cast(MovingCodebook, stage).vectors for stage in self.stages][: codes.shape[1]]
        return torch.stack([F.embedding(c, book) for c, book in zip(codes.unbind(1), books, strict=True)]).sum(0)
