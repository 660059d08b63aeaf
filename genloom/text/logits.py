"""From logits to the next token: penalties, temperature and filters, in the order that transformers has made usual.

N rows, V tokens. What a filter takes away becomes -inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genloom.errors import UserError
from genloom.machine import in_double


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    `temperature` divides logits, 0 takes the likeliest token. `top_k` keeps the k likeliest (0: all); `top_p` the
    fewest that hold so much of the mass (Holtzman et al. 2020); `min_p` those of at least so much of the likeliest
    one's. `repetition` divides the logits of tokens seen in the prompt or since (multiplies them below 0; Keskar et al.
    2019); `presence` and `frequency` are taken off those since the prompt, once, and once for each time.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", self.temperature >= 0, "0 (the likeliest token) or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (all tokens)"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 (all tokens) to 1"),
            ("repetition", 0 < self.repetition < math.inf, "above 0; 1 leaves all as it is"),
            ("presence", math.isfinite(self.presence), "a number; 0 leaves all as it is"),
            ("frequency", math.isfinite(self.frequency), "a number; 0 leaves all as it is"),
        ):
            if not good:
                raise UserError(f"{name} is {wanted}, not {getattr(self, name):g}.")

    def process(self, scores: Tensor, counts: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Logits [N, V] to draw from.

        `counts` [N, V]: how often each token was drawn; `seen` [N, V] bool: whether it was, in the prompt too.
        """
        if self.repetition != 1 and seen is not None:
            scores = repetition_penalty(scores, seen, self.repetition)
        if (self.presence or self.frequency) and counts is not None:
            scores = scores - self.presence * (counts > 0) - self.frequency * counts
        if self.temperature not in (0, 1):
            scores = scores / self.temperature
        if self.temperature == 0:
            return scores
        if self.top_k:
            scores = top_k(scores, self.top_k)
        if self.top_p < 1:
            scores = top_p(scores, self.top_p)
        return min_p(scores, self.min_p) if self.min_p else scores

    def draw(self, scores: Tensor, uniform: Tensor) -> Tensor:
        """[N] tokens of processed logits, one uniform number [N] each, on its device."""
        return drawn(scores, uniform) if self.temperature else scores.argmax(1)


def drawn(scores: Tensor, uniform: Tensor) -> Tensor:
    """[N] tokens of logits [N, V], one uniform number [N] each, on its device: the same on every device."""
    mass = in_double(scores).softmax(1).cumsum(1)
    total = mass[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))  # rounding must not draw what was taken
    at = torch.minimum(in_double(uniform)[:, None] * total, below)
    return torch.searchsorted(mass, at, right=True).squeeze(1).to(uniform.device)


def repetition_penalty(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Positive logits of seen tokens divided by it, negative ones multiplied."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Keep what is not below the k-th likeliest: ties stay."""
    least = scores.topk(min(k, scores.shape[1]), 1).values[:, -1:]
    return scores.masked_fill(scores < least, -torch.inf)


def top_p(scores: Tensor, p: float, least: int = 1) -> Tensor:
    """Keep the fewest of the likeliest tokens that together hold mass p, and `least` in any case."""
    rising, order = scores.sort(1)
    gone = rising.softmax(1).cumsum(1) <= 1 - p
    gone[:, -least:] = False
    return scores.masked_fill(gone.scatter(1, order, gone), -torch.inf)


def min_p(scores: Tensor, p: float, least: int = 1) -> Tensor:
    """Keep tokens that are at least p times as likely as the likeliest, and `least` in any case (Nguyen et al. 2024)."""
    share = scores.softmax(1)
    gone = share < p * share.amax(1, keepdim=True)
    return scores.masked_fill(gone & (scores < scores.topk(least, 1).values[:, -1:]), -torch.inf)
