"""Muon: momentum whose step is made orthogonal, for the matrices of a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genloom.machine import has_fast_bf16

CUBIC = (3.4445, -4.7750, 2.0315)  # of the polynomial that brings singular values near 1 in a few turns
TURNS = 5


class Muon(Optimizer):
    """Jordan et al. 2024, "Muon": W <- (1 - lr·decay) W - lr·0.2·√max(m, n)·orthogonal(g + μ(m - g)) of W [m, n].

    The step is as large as AdamW's in root mean square (Liu et al. 2025, section 2.2), so that both share a rate. A
    convolution [O, I, kh, kw] is the matrix [O, I·kh·kw] that it multiplies patches by. Matrices of one shape are made
    orthogonal together; in bf16 where the machine multiplies that in hardware, which torch.optim.Muon asks for
    everywhere, and which costs forty times as much where it does not.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, *, weight_decay: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient; takes no closure."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            for _, alike in itertools.groupby(sorted(moved, key=_kind), key=_kind):
                self._move(list(alike), group)

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape, together."""
        gradients = [p.grad for p in matrices if p.grad is not None]
        means = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in matrices]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        ahead = torch.stack(torch._foreach_lerp(gradients, means, group["momentum"]))  # [N, m, n ...]
        flat = ahead.flatten(2)
        steps = orthogonal(flat).view_as(ahead).unbind()
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, steps, alpha=-0.2 * math.sqrt(max(flat.shape[1:])) * group["lr"])


def _kind(matrix: Tensor) -> tuple[int, ...]:
    return tuple(matrix.shape)


def orthogonal(matrices: Tensor) -> Tensor:
    """[N, m, n] -> the same with singular values near 1 (within 0.3), by Newton-Schulz turns; in the type given."""
    a, b, c = CUBIC
    flat = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if flat else matrices.mT).to(torch.bfloat16 if has_fast_bf16(matrices.device) else torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(TURNS):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x if flat else x.mT).to(matrices.dtype)
