"""The decoder-only transformer that language models share: causal attention, a feed-forward net, and a cache.

B sequences, T tokens, W the width, H heads of D numbers each; G ≤ H heads of keys and values (H / G queries share one).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.attention import attend

Norm = Literal["layer", "rms"]
Feed = Literal["gelu", "erf_gelu", "swiglu", "relu2"]


@dataclass(frozen=True)
class Plan:
    """A transformer's sizes and parts.

    `head`: numbers a head. `hidden`: the feed-forward net's width. `positions`: how many learned positions there are (0:
    queries and keys are turned instead, Su et al. 2021, with base `theta`). `band`: every second layer sees so many
    tokens back at most (0: all see all). `tied`: the head is the token embedding. `qk_norm`: queries and keys have length √D.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    groups: int
    head: int
    hidden: int
    positions: int = 0
    norm: Norm = "rms"
    feed: Feed = "swiglu"
    bias: bool = False
    tied: bool = True
    theta: float = 10_000.0
    eps: float = 1e-5
    qk_norm: bool = False
    band: int = 0
    dropout: float = 0.0
    quiet: bool = False


class Cache:
    """Keys and values [B, G, room, D] of every layer, and how many of them are filled: `length`, the same in all rows."""

    def __init__(self, plan: Plan, batch: int, room: int, like: Tensor):
        shape = (plan.layers, 2, batch, plan.groups, room, plan.head)
        self.held, self.length = like.new_empty(shape), 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v [B, G, T, D] of a layer: returns all of its keys and values so far."""
        stop = self.length + k.shape[2]
        for i, new in enumerate((k, v)):
            self.held[layer, i, :, :, self.length : stop] = new
        return self.held[layer, 0, :, :, :stop], self.held[layer, 1, :, :, :stop]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows [b] alone."""
        self.held = self.held[:, :, rows]


class RMSNorm(nn.Module):
    """x / √(mean x² + ε) · weight, in float32 as far as the product (Zhang & Sennrich 2019, eq. 4)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # [..., W]
        return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight.to(x.dtype)


def norm(plan: Plan) -> nn.Module:
    if plan.norm == "rms":
        return RMSNorm(plan.width, plan.eps)
    return nn.LayerNorm(plan.width, eps=plan.eps, bias=plan.bias)


class Attention(nn.Module):
    """x [B, T, W] -> [B, T, W]: each token gathers from itself and those before it.

    One matrix makes queries, keys and values, in this order.
    """

    def __init__(self, plan: Plan, layer: int):
        super().__init__()
        self.plan, self.layer = plan, layer
        self.band = plan.band if layer % 2 else 0
        self.qkv = nn.Linear(plan.width, (plan.heads + 2 * plan.groups) * plan.head, bias=plan.bias)
        self.out = nn.Linear(plan.heads * plan.head, plan.width, bias=plan.bias)

    def forward(self, x: Tensor, turn: Turn | None, mask: Tensor | None, cache: Cache | None) -> Tensor:
        p = self.plan
        x = self.qkv(x).unflatten(2, (p.heads + 2 * p.groups, p.head)).transpose(1, 2)  # [B, H + 2G, T, D]
        if p.qk_norm or turn is not None:
            qk, v = x.split([p.heads + p.groups, p.groups], 1)
            if p.qk_norm:
                qk = F.rms_norm(qk.float(), (p.head,)).to(qk.dtype)
            if turn is not None:
                qk = turn(qk)
            q, k = qk.split([p.heads, p.groups], 1)
        else:
            q, k, v = x.split([p.heads, p.groups, p.groups], 1)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        seen = self._attend(q, k, v, mask)
        return self.out(seen.transpose(1, 2).flatten(2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """[B, H, T, D] of queries [B, H, T, D], keys and values [B, G, S, D]; a mask is True where one may look."""
        p, (t, s) = self.plan, (q.shape[2], k.shape[2])
        causal = mask is None and t == s
        if self.band and s > self.band:
            band = band_mask(t, s, self.band, q.device)
            mask = band if mask is None else mask & band
            causal = False
        elif mask is None and 1 < t < s:
            mask = band_mask(t, s, s, q.device)
        return attend(q, k, v, mask, causal=causal and t > 1, dropout=p.dropout if self.training else 0.0)


def band_mask(t: int, s: int, band: int, device: torch.device) -> Tensor:
    """[t, s]: the last t of s tokens look at themselves and at the band - 1 before them."""
    back = torch.arange(s - t, s, device=device)[:, None] - torch.arange(s, device=device)
    return (back >= 0) & (back < band)


class Turn:
    """Rotary positions: the two halves of each head are turned by angles that grow with the position (Su et al. 2021)."""

    def __init__(self, positions: Tensor, head: int, theta: float):  # [T] or [B, T]
        rate = theta ** (-torch.arange(0, head, 2, device=positions.device, dtype=torch.float32) / head)  # [D / 2]
        angle = positions.float()[..., None] * rate  # [..., T, D / 2]
        angle = angle if angle.ndim == 2 else angle[:, None]  # over heads
        self.cos, self.sin = angle.cos(), angle.sin()

    def __call__(self, x: Tensor) -> Tensor:  # [B, H, T, D]
        a, b = x.chunk(2, -1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class FeedForward(nn.Module):
    """x [B, T, W] -> [B, T, W] through `hidden` numbers: GELU by tanh or by erf, SwiGLU (Shazeer 2020), or ReLU²."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.feed = plan.feed
        wide = 2 if plan.feed == "swiglu" else 1  # gate and value, in this order
        self.up = nn.Linear(plan.width, wide * plan.hidden, bias=plan.bias)
        self.down = nn.Linear(plan.hidden, plan.width, bias=plan.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.feed == "swiglu":
            gate, x = x.chunk(2, -1)
            return self.down(F.silu(gate) * x)
        if self.feed == "relu2":
            return self.down(F.relu(x).square())
        return self.down(F.gelu(x, approximate="tanh" if self.feed == "gelu" else "none"))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed(norm(x)): the norm is inside, as in GPT-2."""

    def __init__(self, plan: Plan, layer: int):
        super().__init__()
        self.norm1, self.attention = norm(plan), Attention(plan, layer)
        self.norm2, self.feed = norm(plan), FeedForward(plan)
        self.drop = nn.Dropout(plan.dropout)

    def forward(self, x: Tensor, turn: Turn | None, mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), turn, mask, cache))
        return x + self.drop(self.feed(self.norm2(x)))


class Transformer(nn.Module):
    """Tokens [B, T] -> logits [B, T, V]."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan
        self.tokens = nn.Embedding(plan.vocabulary, plan.width)
        self.places = nn.Embedding(plan.positions, plan.width) if plan.positions else None
        self.blocks = nn.ModuleList([Block(plan, i) for i in range(plan.layers)])
        self.norm = norm(plan)
        self.head: nn.Module | None = None if plan.tied else nn.Linear(plan.width, plan.vocabulary, bias=False)
        self.drop = nn.Dropout(plan.dropout)
        self.initialise()

    def initialise(self) -> None:
        """Normal, deviation 0.02; what adds to the residual stream 1/√(2·layers) of that, or zero with `quiet`.

        Radford et al. 2019, section 2.3.
        """
        last = 0.0 if self.plan.quiet else 0.02 / math.sqrt(2 * max(self.plan.layers, 1))
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                nn.init.normal_(p, 0, last if name.endswith(("out.weight", "down.weight")) else 0.02)

    def features(
        self, ids: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """[B, T, W] after the last norm, of ids [B, T], or [B, T, K]: the sum of K embeddings each.

        `mask` [B, 1, T, S]: where one may look, in place of all before; `positions` [T] or [B, T], by default from where
        the cache ends.
        """
        if positions is None:
            start = cache.length if cache else 0
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x = self.tokens(ids) if ids.ndim == 2 else self.tokens(ids).sum(2)
        if self.places is not None:
            x = x + self.places(positions)
        x, turn = self.drop(x), None
        if self.places is None:
            turn = Turn(positions, self.plan.head, self.plan.theta)
        for block in self.blocks:
            x = block(x, turn, mask, cache)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.norm(x)

    def logits(self, features: Tensor) -> Tensor:  # [..., W] -> [..., V]
        return F.linear(features, self.tokens.weight) if self.head is None else self.head(features)

    def forward(self, ids: Tensor, **how: Tensor) -> Tensor:
        return self.logits(self.features(ids, **how))  # type: ignore[arg-type]


def count(plan: Plan) -> int:
    """How many parameters a plan has, counted without memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(plan).parameters())


def matrices(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that decay, and that Muon orthogonalises: matrices, but for embeddings."""
    for name, p in network.named_parameters():
        if p.ndim == 2 and not name.startswith(("tokens", "places", "head")):
            yield name, p
