"""A mark in texts: which of several likely tokens comes is decided by a key, so that who has the key can tell.

Tournament sampling (Dathathri et al. 2024, SynthID-Text), in its closed form for two contestants: layer after layer, half of the
tokens, chosen by the key and the tokens before, gain what the others lose. Over all keys each token is as likely as before.
What is decided stays drawn by the row's own numbers, so texts of one prompt differ; a place whose last tokens came before in
the same text is left alone, so that nothing is said over and over.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

LAYERS = 16
LIKELY, SURE = math.exp(-5.0), 5e-4  # of the likeliest, or by itself: tokens that are less likely stay as they are
SMALL = 1000  # tokens of a vocabulary of letters
SPAN, LETTERS = 4, 8  # tokens before that decide together with the key; of letters, which say less each
WORD = np.dtype("<u4")  # a token
WEIGHTS = np.linspace(1.0, 0.25, LAYERS)  # of the layers in the score: the first decide most
_STEP = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64
_MIXED = [(np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB))]
_LAYER = np.arange(LAYERS, dtype=np.uint16)[:, None]
FEWEST = 16  # tokens that a score is made of


def span_of(vocabulary: int) -> int:
    return LETTERS if vocabulary < SMALL else SPAN


class Marker:
    """Marks rows of one batch as they are drawn, all from the same step on; each depends on its own tokens alone."""

    def __init__(self, key: bytes, rows: int, vocabulary: int):
        self.keyed, self.span, self.pushed = _keyed(key), span_of(vocabulary), 0
        self.last = np.zeros((rows, self.span), WORD)  # tokens since the prompt, which the text will not hold
        self.seen: list[set[bytes]] = [set() for _ in range(rows)]

    def process(self, shares: Tensor, rows: Sequence[int]) -> Tensor:
        """Likelihoods f64 [N, V] that draw the tokens of these rows with the mark; those given may change."""
        if self.pushed < self.span:
            return shares
        last, size = self.last.tobytes(), self.last.strides[0]
        seeds, marked = list[bytes](), list[int]()
        for i, row in enumerate(rows):
            seed, seen = seed_of(self.keyed, last[row * size : (row + 1) * size]), self.seen[row]
            if seed not in seen:  # else these tokens decided before
                seen.add(seed)
                seeds.append(seed)
                marked.append(i)
        if not marked:
            return shares
        values = shares.cpu().numpy()
        if len(marked) == len(rows):
            tournament(values, numbers(seeds))
        else:
            values[marked] = tournament(values[marked], numbers(seeds))
        return torch.from_numpy(values).to(shares.device)

    def push(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        self.last[:, :-1] = self.last[:, 1:]
        self.last[rows, -1] = tokens
        self.pushed += 1


def tournament(shares: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Likelihoods f64 [N, V], changed in place to those after all layers.

    p(t) becomes p(t) (1 + g(t) - sum of p g), for each layer's bit g of a token.

    The likely tokens of a row play for what they have together, those [M] of all rows in one list; the others keep theirs.
    By NumPy, whose sums over a row do not depend on the rows beside it, and in few calls: the model has had the cache.
    """
    least = np.minimum(np.maximum.reduce(shares, 1, keepdims=True) * LIKELY, SURE)
    rows, size = shares.shape
    flat, places = shares.reshape(-1), (shares >= least).reshape(-1).nonzero()[0]
    first = np.arange(rows + 1) * size  # place of each row
    ends = places.searchsorted(first)
    starts, counts = ends[:-1], ends[1:] - ends[:-1]
    share = flat[places].astype(np.float32)
    mass = np.add.reduceat(share, starts).repeat(counts)
    share /= mass
    bits = drawn_bits(seeds.repeat(counts), places - first[:-1].repeat(counts)).astype(np.uint16)
    gains = (bits >> _LAYER & np.uint16(1)).astype(np.float32)
    for gain, grown in zip(gains, gains + np.float32(1), strict=True):
        grown -= np.add.reduceat(share * gain, starts).repeat(counts)
        share *= grown
    flat[places] = np.maximum(share, np.float32(0)) * mass
    return shares


def seed_of(keyed: Any, last: bytes) -> bytes:
    """8 bytes from the key and the tokens before, each a u32 in little-endian order."""
    keyed = keyed.copy()
    keyed.update(last)
    return keyed.digest()


def numbers(seeds: Iterable[bytes]) -> np.ndarray:
    """Seeds as u64 [M]."""
    return np.frombuffer(b"".join(seeds), "<u8")


@lru_cache(4)
def _keyed(key: bytes) -> Any:
    return hashlib.blake2b(digest_size=8, key=key, person=b"genloom text 1")


def drawn_bits(seeds: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Bits u64 of each token under its seed, u64 and i64 [M] (splitmix64, Steele et al. 2014)."""
    x: np.ndarray = tokens.astype(np.uint64) * _STEP + (seeds + _STEP)
    for shift, factor in _MIXED:
        x ^= x >> shift
        x *= factor
    x ^= x >> np.uint64(31)
    return x


def score(tokens: Sequence[int], key: bytes, vocabulary: int) -> tuple[float, float] | None:
    """How many standard deviations a text's tokens agree with the key, and the p-value; None for too short a text.

    Without the mark each bit is as often 0 as 1. Tokens before that come again are counted once.
    """
    span, word = span_of(vocabulary), WORD.itemsize
    data = np.array(tokens, WORD).tobytes()
    places: dict[bytes, int] = {}
    for i in range(span, len(tokens)):
        places.setdefault(seed_of(_keyed(key), data[word * (i - span) : word * i]), tokens[i])
    if len(places) < FEWEST:
        return None
    bits = drawn_bits(numbers(places), np.array(list(places.values())))
    gains = (bits[:, None] >> np.arange(LAYERS, dtype=np.uint64) & np.uint64(1)).astype(float) - 0.5
    z = float((gains @ WEIGHTS).sum() / np.sqrt(np.square(WEIGHTS).sum() * len(places) / 4))
    return z, 0.5 * math.erfc(z / math.sqrt(2))
