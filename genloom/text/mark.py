"""A mark in texts: which of several likely tokens comes is decided by a key, so that who has the key can tell.

Tournament sampling (Dathathri et al. 2024, SynthID-Text), in its closed form for two contestants: layer after layer, half of the
tokens, chosen by the key and the tokens before, gain what the others lose. Over all keys each token is as likely as before.
What is decided stays drawn by the row's own numbers, so texts of one prompt differ; a place whose last tokens came before in
the same text is left alone, so that nothing is said over and over.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

LAYERS = 16
DEPTH = 7.0  # in nats below the likeliest: tokens that are less likely than that stay as they are
SMALL = 1000  # tokens of a vocabulary of letters
SPAN, LETTERS = 4, 8  # tokens before that decide together with the key; of letters, which say less each
_FORMS = {span: f"<{span}I" for span in (SPAN, LETTERS)}
WEIGHTS = np.linspace(1.0, 0.25, LAYERS)  # of the layers in the score: the first decide most
FEWEST = 16  # tokens that a score is made of


def span_of(vocabulary: int) -> int:
    return LETTERS if vocabulary < SMALL else SPAN


class Marker:
    """Marks rows of one batch as they are drawn; each depends on its own tokens alone."""

    def __init__(self, key: bytes, rows: int, vocabulary: int):
        self.span, self.keyed = span_of(vocabulary), _keyed(key)
        self.last: list[list[int]] = [
            [] for _ in range(rows)
        ]  # the last tokens since the prompt, which the text will not hold
        self.seen: list[set[bytes]] = [set() for _ in range(rows)]

    def process(self, scores: Tensor, rows: Sequence[int]) -> Tensor:
        """Logits [N, V] that draw the tokens of these rows with the mark."""
        seeds = [self._seed(row) for row in rows]
        marked = [i for i, seed in enumerate(seeds) if seed]
        if not marked:
            return scores
        logits, chosen = scores.float().cpu().numpy().copy(), numbers(seeds)
        if len(marked) == len(rows):
            tournament(logits, chosen)
        else:
            logits[marked] = tournament(logits[marked], chosen)
        return torch.from_numpy(logits).to(scores)

    def push(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        for row, token in zip(rows, tokens, strict=True):
            self.last[row].append(token)
            del self.last[row][: -self.span]

    def _seed(self, row: int) -> bytes:
        """Empty where the row has too few tokens yet, or these decided before."""
        if len(self.last[row]) < self.span:
            return b""
        seed = seed_of(self.keyed, self.last[row])
        if seed in self.seen[row]:
            return b""
        self.seen[row].add(seed)
        return seed


def tournament(logits: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Logits f32 [N, V], changed in place to those after all layers.

    p(t) becomes p(t) (1 + g(t) - sum of p g), for each layer's bit g of a token.

    The likely tokens of a row play for what they have together, those [M] of all rows in one list; the others keep theirs.
    By NumPy, whose sums over a row do not depend on the rows beside it.
    """
    most, size = logits.max(1, keepdims=True), logits.shape[1]
    flat, places = logits.reshape(-1), np.flatnonzero(logits >= most - np.float32(DEPTH))
    first = np.arange(len(logits)) * size  # place of each row
    starts = np.searchsorted(places, first)
    counts = np.diff(starts, append=len(places))
    share = np.exp(flat[places] - most.repeat(counts))
    mass = np.add.reduceat(share, starts)
    share /= mass.repeat(counts)
    bits = drawn_bits(seeds.repeat(counts), places - first.repeat(counts)).astype(np.uint16)
    for gains in (bits >> np.arange(LAYERS, dtype=np.uint16)[:, None] & np.uint16(1)).astype(np.float32):
        gained = share * gains
        share *= (1 - np.add.reduceat(gained, starts)).repeat(counts)
        share += gained
    with np.errstate(divide="ignore"):
        flat[places] = np.log(np.maximum(share, 0)) + (np.log(mass) + most[:, 0]).repeat(counts)
    return logits


def seed_of(keyed: Any, tokens: Sequence[int]) -> bytes:
    """8 bytes from the key and the tokens before."""
    keyed = keyed.copy()
    keyed.update(struct.pack(_FORMS[len(tokens)], *tokens))
    return keyed.digest()


def numbers(seeds: Iterable[bytes]) -> np.ndarray:
    """Seeds as i64 [M]; empty ones are left out."""
    return np.frombuffer(b"".join(seeds), "<i8")


@lru_cache(4)
def _keyed(key: bytes) -> Any:
    return hashlib.blake2b(digest_size=8, key=key, person=b"genloom text 1")


def drawn_bits(seeds: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Bits of each token under its seed, both i64 [M] (splitmix64, Steele et al. 2014)."""
    x = seeds + (tokens + 1) * -7046029254386353131
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -4658895280553007687
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -7723592293110705685
    return x ^ (x >> 31 & (1 << 33) - 1)


def score(tokens: Sequence[int], key: bytes, vocabulary: int) -> tuple[float, float] | None:
    """How many standard deviations a text's tokens agree with the key, and the p-value; None for too short a text.

    Without the mark each bit is as often 0 as 1. Tokens before that come again are counted once.
    """
    span = span_of(vocabulary)
    places: dict[bytes, int] = {}
    for i in range(span, len(tokens)):
        places.setdefault(seed_of(_keyed(key), tokens[i - span : i]), tokens[i])
    if len(places) < FEWEST:
        return None
    bits = drawn_bits(numbers(places), np.array(list(places.values())))
    gains = (bits[:, None] >> np.arange(LAYERS) & 1) - 0.5
    z = float((gains @ WEIGHTS).sum() / np.sqrt(np.square(WEIGHTS).sum() * len(places) / 4))
    return z, 0.5 * math.erfc(z / math.sqrt(2))
