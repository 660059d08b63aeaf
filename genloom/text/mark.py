"""A mark in texts: which of several likely tokens comes is decided by a key, so that who has the key can tell.

A race (Aaronson 2022, the exponential minimum of Kuditipudi et al. 2024): each token takes a time -log(u) / p(t), u uniform, and
the first to arrive comes, so each comes with its own likelihood. The key and the tokens before say in which eighth u lies, the
row's own numbers say where in it: over all keys each token is as likely as before, and with one key texts of one prompt differ.
A place whose last tokens came before in the same text is left alone, so that nothing is said over and over.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from genloom.text.logits import drawn

BITS = 3  # of u that the key decides
WORDS = (
    4,
    math.log(2e-3),
)  # tokens before that decide together with the key, and the log-likelihood from which tokens race
LETTERS = 8, math.log(5e-4)  # a letter says less
SMALL = 1000  # tokens of a vocabulary of letters
FEWEST = 16  # tokens that a score is made of
ROUNDING = 1e-5  # of likelihoods together
_ALL = 2**64
_STIRRED = [(np.uint64(32), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(29), np.uint64(0x94D049BB133111EB))]


class Marker:
    """Marks rows of one batch as they are drawn, all from the same step on; each depends on its own tokens alone."""

    def __init__(self, key: bytes, rows: int, vocabulary: int):
        self.keyed = keyed(key, vocabulary)
        self.missing = self.keyed.span
        # tokens since the prompt, which the text will not hold
        self.last = deque([[0] * rows for _ in range(self.missing)], self.missing)
        self.hashes = [0] * rows  # of `last`
        self.seen: list[set[int]] = [set() for _ in range(rows)]

    def draw(self, logs: Tensor, uniform: Tensor) -> Tensor:
        """[N] tokens of log-likelihoods [N, V], one uniform number f32 [N] each, with the mark."""
        tokens = drawn(logs, uniform) if self.missing else self.raced(logs, uniform)
        self.missing = max(self.missing - 1, 0)
        words, key = tokens.tolist(), self.keyed
        rows = zip(self.hashes, words, self.last[0], strict=True)
        self.hashes = [(hash * key.older + word * key.newest - gone * key.gone) % _ALL for hash, word, gone in rows]
        self.last.append(words)
        return tokens

    def raced(self, logs: Tensor, uniform: Tensor) -> Tensor:
        own, hashes = uniform.cpu().numpy(), np.array(self.hashes, np.uint64)
        new = [hash not in seen for hash, seen in zip(self.hashes, self.seen, strict=True)]
        for hash, seen in zip(self.hashes, self.seen, strict=True):
            seen.add(hash)
        chance = own.view(np.uint32).astype(np.uint64)
        hashes = np.where(new, hashes, chance)  # what came before leaves all to chance
        won, mass = race(logs.float().cpu().numpy(), hashes, chance, self.keyed)
        tokens = torch.from_numpy(won).to(logs.device)
        rest = ((own >= mass) & (mass < 1 - ROUNDING)).nonzero()[0]  # rows where an unlikely one comes
        if len(rest):
            left = ((own[rest] - mass[rest]) / (1 - mass[rest])).astype(np.float32)
            at = torch.from_numpy(rest).to(logs.device)
            tokens[at] = drawn(self.keyed.unlikely(logs[at]), torch.from_numpy(left).to(logs.device))
        return tokens

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these alone."""
        self.hashes, self.seen = [self.hashes[i] for i in rows], [self.seen[i] for i in rows]
        self.last = deque(([words[i] for i in rows] for words in self.last), len(self.last))


class Keyed(NamedTuple):
    """A key's own odd 64-bit numbers, for a vocabulary.

    The hash of the tokens before is a polynomial: the newest times `newest`, each older one times `older` once more, up to one
    that is `gone`. The one that comes is times `token`; `added` is added.
    """

    span: int  # tokens before that decide
    likely: float  # log-likelihood from which tokens race
    older: int
    newest: int
    gone: int
    token: np.uint64
    added: np.uint64

    def hashes(self, words: np.ndarray) -> np.ndarray:
        """u64 [M] of every `span` words in a row, of i64 [L]; M = L - span + 1."""
        factors = [self.newest * pow(self.older, i, _ALL) % _ALL for i in reversed(range(self.span))]
        return (sliding_window_view(words.astype(np.uint64), self.span) * np.array(factors, np.uint64)).sum(1)

    def bits(self, words: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """u64 [M] of words i64 [M] after those of the hashes u64 [M]; the first BITS are those of u."""
        x: np.ndarray = words.view(np.uint64) * self.token + hashes
        x += self.added
        for half, factor in _STIRRED:
            x ^= x >> half
            x *= factor
        return x

    def unlikely(self, logs: Tensor) -> Tensor:
        """Logits [N, V] without the tokens that race."""
        races = logs >= self.likely
        races[:, 0] = True
        return logs.masked_fill(races, -torch.inf)


@lru_cache(4)
def keyed(key: bytes, vocabulary: int) -> Keyed:
    span, likely = LETTERS if vocabulary < SMALL else WORDS
    numbers = np.frombuffer(hashlib.shake_256(b"genloom text 2" + key).digest(32), "<u8") | np.uint64(1)
    older, newest = int(numbers[0]), int(numbers[1])
    return Keyed(span, likely, older, newest, newest * pow(older, span, _ALL) % _ALL, numbers[2], numbers[3])


def race(logs: np.ndarray, hashes: np.ndarray, chance: np.ndarray, key: Keyed) -> tuple[np.ndarray, np.ndarray]:
    """The token i64 [N] that comes first of a row's likely ones, and how likely those are together f64 [N].

    Of log-likelihoods f32 [N, V], the hashes u64 [N] of the tokens before, and a number u64 [N] by chance. The likely tokens of all
    rows are one list [M]; by NumPy, in few calls: the model has had the processor's cache.
    """
    size = logs.shape[1]
    flat, first = logs.reshape(-1), np.arange(0, logs.size, size)  # place of each row
    races = flat >= key.likely
    races[first] = True  # so that no row has none
    places = races.nonzero()[0]
    row, starts = places // size, places.searchsorted(first)
    bits = key.bits(places - first[row], hashes[row])
    bits ^= bits * chance[row] >> np.uint64(BITS)
    shares = np.exp(flat[places].astype(float))
    with np.errstate(divide="ignore"):  # the first token may be one that cannot come
        times = np.log(bits.astype(float) * 2.0**-64) / shares  # below zero: the largest is the first
    best = np.maximum.reduceat(times, starts)
    return places[(times == best[row]).nonzero()[0]] - first, np.add.reduceat(shares, starts)


def score(tokens: Sequence[int], key: bytes, vocabulary: int) -> tuple[float, float] | None:
    """How many standard deviations a text's tokens agree with the key, and the p-value; None for too short a text.

    Without the mark u lies in each eighth as often. Tokens before that come again are counted once.
    """
    numbers, words = keyed(key, vocabulary), np.array(tokens, np.int64)
    if len(words) < numbers.span + FEWEST:
        return None
    hashes, places = np.unique(numbers.hashes(words[:-1]), return_index=True)
    if (n := len(hashes)) < FEWEST:
        return None
    mean = float(WEIGHTS[numbers.bits(words[numbers.span :][places], hashes) >> np.uint64(64 - BITS)].mean())
    return mean * math.sqrt(n / np.square(WEIGHTS).mean()), p_value(mean, n)


def _weights() -> np.ndarray:
    """[2^BITS] of -log(1 - u) for u in each part of [0, 1], which is how much a token wins by, less the mean of all."""
    edges = np.linspace(1.0, 0.0, 2**BITS + 1)
    area = edges - edges * np.log(edges.clip(1e-300))  # under -log, from 0 on
    return -np.diff(area) * 2**BITS - 1


WEIGHTS = _weights()


def p_value(mean: float, n: int) -> float:
    """That n weights drawn at random have at least this mean (Lugannani and Rice 1980): they are skewed, and few are not normal."""

    def tilted(t: float) -> tuple[float, float, float]:
        """Log of the mean of exp(t w), and the mean and variance of weights so preferred."""
        shares = np.exp(t * WEIGHTS)
        total, shares = float(shares.mean()), shares / shares.sum()
        centre = float(shares @ WEIGHTS)
        return math.log(total), centre, float(shares @ np.square(WEIGHTS - centre))

    low, high = -40.0, 40.0
    for _ in range(60):
        t = (low + high) / 2
        low, high = (t, high) if tilted(t)[1] < mean else (low, t)
    log, _, variance = tilted(t)
    if abs(t) < 1e-4:  # the formula's limit
        return 0.5
    w, v = math.copysign(math.sqrt(2 * n * (t * mean - log)), t), t * math.sqrt(n * variance)
    bound = math.exp(-w * w / 2)  # Chernoff's
    tail = 0.5 * math.erfc(w / math.sqrt(2)) + bound / math.sqrt(2 * math.pi) * (1 / v - 1 / w)
    return min(tail, bound if t > 0 else 1.0)
