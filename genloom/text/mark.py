"""A mark in texts: which of several likely tokens comes is decided by a key, so that who has the key can tell.

Tournament sampling (Dathathri et al. 2024, SynthID-Text), in its closed form for two contestants: layer after layer, half of the
tokens, chosen by the key and the tokens before, gain what the others lose. Over all keys each token is as likely as before.
What is decided stays drawn by the row's own numbers, so texts of one prompt differ; a place whose last tokens came before in
the same text is left alone, so that nothing is said over and over.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

LAYERS = 16
LIKELIEST = 512  # tokens that take part: what is less likely than all these stays as it is
SMALL = 1000  # tokens of a vocabulary of letters
SPAN, LETTERS = 4, 8  # tokens before that decide together with the key; of letters, which say less each
WEIGHTS = torch.linspace(1.0, 0.25, LAYERS, dtype=torch.float64)  # of the layers in the score: the first decide most
FEWEST = 16  # tokens that a score is made of


def span_of(vocabulary: int) -> int:
    return LETTERS if vocabulary < SMALL else SPAN


class Marker:
    """Marks rows of one batch as they are drawn; each depends on its own tokens alone."""

    def __init__(self, key: bytes, rows: int, vocabulary: int):
        self.key, self.span = key, span_of(vocabulary)
        self.last: list[list[int]] = [
            [] for _ in range(rows)
        ]  # the last tokens since the prompt, which the text will not hold
        self.seen: list[set[int]] = [set() for _ in range(rows)]

    def process(self, scores: Tensor, rows: Sequence[int]) -> Tensor:
        """Logits [N, V] that draw the tokens of these rows with the mark."""
        seeds = [self._seed(row) for row in rows]
        marked = [i for i, seed in enumerate(seeds) if seed is not None]
        if not marked:
            return scores
        chosen = torch.tensor([seeds[i] for i in marked], device=scores.device)
        if len(marked) == len(rows):
            return tournament(scores, chosen)
        at = torch.tensor(marked, device=scores.device)
        return scores.index_copy(0, at, tournament(scores[at], chosen))

    def push(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        for row, token in zip(rows, tokens, strict=True):
            self.last[row] = [*self.last[row], token][-self.span :]

    def _seed(self, row: int) -> int | None:
        """None where the row has too few tokens yet, or these decided before."""
        if len(self.last[row]) < self.span:
            return None
        seed = seed_of(self.key, self.last[row])
        if seed in self.seen[row]:
            return None
        self.seen[row].add(seed)
        return seed


def tournament(scores: Tensor, seeds: Tensor) -> Tensor:
    """Logits [N, V] after all layers: p(t) becomes p(t) (1 + g(t) - sum of p g), for each layer's bit g of a token.

    The likeliest tokens play for what they have together; the others keep theirs.
    """
    top, tokens = scores.topk(min(LIKELIEST, scores.shape[1]), 1, sorted=False)
    mass = top.double().logsumexp(1, keepdim=True)
    share = (top - mass).exp()
    bits = drawn_bits(seeds[:, None], tokens)
    for layer in range(LAYERS):
        gains = (bits >> layer & 1).double()
        share = share * (1 + gains - (share * gains).sum(1, keepdim=True))
    return scores.scatter(1, tokens, (share.clamp(min=0).log() + mass).to(scores.dtype))


def seed_of(key: bytes, tokens: Sequence[int]) -> int:
    """A signed number of 64 bits from the key and the tokens before."""
    data = b"".join(token.to_bytes(4, "little") for token in tokens)
    return int.from_bytes(
        hashlib.blake2b(data, digest_size=8, key=key, person=b"genloom text 1").digest(), "little", signed=True
    )


def drawn_bits(seeds: Tensor, tokens: Tensor) -> Tensor:
    """Bits of each token under each seed, both i64 and of shapes that broadcast (splitmix64, Steele et al. 2014)."""
    x = seeds + (tokens + 1) * -7046029254386353131
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -4658895280553007687
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -7723592293110705685
    return x ^ (x >> 31 & (1 << 33) - 1)


def score(tokens: Sequence[int], key: bytes, vocabulary: int) -> tuple[float, float] | None:
    """How many standard deviations a text's tokens agree with the key, and the p-value; None for too short a text.

    Without the mark each bit is as often 0 as 1. Tokens before that come again are counted once.
    """
    span = span_of(vocabulary)
    places: dict[int, int] = {}
    for i in range(span, len(tokens)):
        places.setdefault(seed_of(key, tokens[i - span : i]), tokens[i])
    if len(places) < FEWEST:
        return None
    bits = drawn_bits(torch.tensor(list(places)), torch.tensor(list(places.values())))
    gains = (bits[:, None] >> torch.arange(LAYERS) & 1).double() - 0.5
    z = float((gains @ WEIGHTS).sum() / (WEIGHTS.square().sum() * len(places) / 4).sqrt())
    return z, 0.5 * math.erfc(z / math.sqrt(2))
