"""Attention: over keys and values, and between the places of an image."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError

KEYS = 512  # at most, for which all scores at once are the faster way (measured on two cores with AMX)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """softmax(q kᵀ · scale) v: [B, H, T, D] of queries [B, H, T, D], keys and values [B, G, S, D]; H / G queries share one.

    `mask` broadcasts to [B, H, T, S] and is True where one may look; `causal`: T = S, and each looks back alone; `scale`:
    by default 1/√D. PyTorch's fused kernel, but on a CPU for training in bf16, where its way back takes up to twenty times as
    long as its way there, and for one query a row, where it makes a product of matrices of each head.
    """
    if q.device.type == "cpu":
        by = q.shape[3] ** -0.5 if scale is None else scale
        if q.dtype == torch.bfloat16 and q.requires_grad and k.shape[2] <= KEYS:
            return _attend_by_products(q, k, v, mask, causal, dropout, by)
        if q.shape[2] == 1 and not q.requires_grad and not dropout:
            return _attend_once(q, k, v, mask, by)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=causal,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float, scale: float
) -> Tensor:
    shared, (t, s) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    if shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    if causal:
        mask = torch.ones(t, s, dtype=torch.bool).tril()
    if mask is None:
        bias = q.new_zeros(1)
    else:
        bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
        bias = bias if bias.ndim == 2 else bias.expand(*q.shape[:2], t, s).flatten(0, 1)
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)  # [B·H, T, S]
    return torch.bmm(F.dropout(scores.softmax(-1), dropout), v.flatten(0, 1)).unflatten(0, q.shape[:2])


def _attend_once(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """One query a row, T = 1: the time is that of reading the keys and values, once each."""
    alone = q.shape[1] == k.shape[1]
    q = q.reshape(-1, q.shape[1] // k.shape[1], q.shape[3])  # [B·G, H/G, D]
    shape, k, v = (len(k), -1, 1, k.shape[2]), k.flatten(0, 1), v.flatten(0, 1)
    scores = (k * q).sum(-1, dtype=torch.float32) if alone else torch.bmm(q, k.mT).float()  # [B·G, S] or [B·G, H/G, S]
    scores = scores.view(shape) * scale  # [B, H, 1, S]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    chances = scores.softmax(-1).to(v.dtype)
    seen = (chances.view(*k.shape[:2], 1) * v).sum(1) if alone else torch.bmm(chances.view(len(k), -1, shape[3]), v)
    return seen.view(shape[0], -1, 1, v.shape[2])


class SelfAttention(nn.Module):
    """x + γ·o(attention), [B, C, H, W] -> the same: each place looks at every 2x2 square of the others.

    Zhang et al. 2019, section 3, with the pooling of the authors' code: queries and keys of C/8 channels, values of
    C/2, no scaling; γ begins at 0. `conv` makes the 1x1 convolutions.
    """

    def __init__(self, channels: int, conv: Callable[..., nn.Module]):
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.theta = conv(channels, narrow, 1, bias=False)
        self.phi = conv(channels, narrow, 1, bias=False)
        self.g = conv(channels, half, 1, bias=False)
        self.o = conv(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2).mT  # [B, HW, C/8]
        key = F.max_pool2d(self.phi(x), 2).flatten(2).mT  # [B, HW/4, C/8]
        value = F.max_pool2d(self.g(x), 2).flatten(2).mT  # [B, HW/4, C/2]
        wider = (0, value.shape[2] - query.shape[2])  # zeros change no product, and equal widths have the fused kernel
        query, key = F.pad(query, wider), F.pad(key, wider)
        seen = attend(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0].mT
        return x + self.gamma * self.o(seen.unflatten(2, x.shape[2:]))


def halved(attention: str, shape: tuple[int, ...]) -> str:
    """An attention option with "half" as the size that it is of pictures [C, H, W]."""
    return str(shape[1] // 2) if attention == "half" else attention


def attention_sizes(text: str, sizes: Collection[int], option: str) -> set[int]:
    """The sizes that an option names: "32_64", "none", or "auto" (64 where there is one). Raises UserError for others."""
    if text in ("none", "auto"):
        return {64} & set(sizes) if text == "auto" else set()
    words = text.split("_")
    if not all(w.isdecimal() and int(w) in sizes for w in words):
        there = ", ".join(str(s) for s in sorted(set(sizes)))
        raise UserError(f"--model.{option} '{text}' names no sizes of this model: its blocks have {there}; or none.")
    return {int(w) for w in words}
