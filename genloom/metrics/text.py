"""Figures of language models: surprise per token, character and byte, and what samples repeat of the training text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genloom.metrics.distribution import Estimate

GRAM = 16  # bytes: shorter repeats are the language's own
LARGEST = 256 * 2**20  # bytes of training text that are searched


def surprise(nats: Tensor, counts: Tensor, note: str = "") -> Estimate:
    """Σ nats / Σ counts of windows [N], and each window's influence on it."""
    nats, counts = nats.double(), counts.double()
    value = nats.sum() / counts.sum()
    return Estimate(float(value), (value + (nats - value * counts) / counts.mean(),), note)


def in_bits(estimate: Estimate, note: str = "") -> Estimate:
    return Estimate(estimate.value / math.log(2), tuple(c / math.log(2) for c in estimate.contributions), note)


def perplexity(nats: Estimate, note: str = "") -> Estimate:
    """exp of the mean surprise per token, with its influence to first order."""
    value = math.exp(nats.value)
    return Estimate(value, tuple(value * (1 + c - nats.value) for c in nats.contributions), note)


class Repeat(NamedTuple):
    """The longest stretch of a sample that stands word for word in the training text."""

    sample: int
    length: int  # bytes
    text: str


class Repeats:
    """Finds the longest stretches of texts that a training text holds too, by hashes of all its 16-byte pieces."""

    def __init__(self, train: bytes):
        self.train = train[:LARGEST]
        self.hashes, counts = np.unique(hashes(self.train), return_counts=True)
        self.twice = self.hashes[counts > 1]

    def holds(self, raw: bytes, times: int = 1) -> bool:
        """Whether bytes of 16 or more stand there as a whole, once or twice."""
        if len(raw) < GRAM or not among(hashes(raw), self.hashes if times == 1 else self.twice).all():
            return False
        first = self.train.find(raw)
        return first >= 0 and (times == 1 or self.train.find(raw, first + 1) >= 0)

    def longest(self, sample: int, text: str) -> Repeat:
        raw = text.encode()
        known = among(hashes(raw), self.hashes)
        best = b""
        for start, stop in runs(known):
            best = max(best, self._verified(raw[start : stop + GRAM - 1], len(best)), key=len)
        return Repeat(sample, len(best), best.decode("utf-8", "ignore"))

    def _verified(self, stretch: bytes, beat: int) -> bytes:
        """The longest part of a stretch that is really there, if longer than `beat`: its pieces may be from many places."""
        best, start, stop = b"", 0, 1
        while stop <= len(stretch):
            if stretch[start:stop] in self.train:
                if stop - start > max(beat, len(best)):
                    best = stretch[start:stop]
                stop += 1
            else:
                start += 1
                stop = max(stop, start + max(beat, len(best)) + 1)
        return best


def hashes(raw: bytes) -> np.ndarray:
    """A 64-bit hash [N - 15] of every 16-byte piece."""
    b = np.frombuffer(raw, np.uint8)
    if len(b) < GRAM:
        return np.empty(0, np.uint64)
    total = np.zeros(len(b) - GRAM + 1, np.uint64)
    for i in range(GRAM):
        total *= np.uint64(0x100000001B3)
        total += b[i : len(b) - GRAM + 1 + i].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return total


def among(wanted: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """[N] bool: which of those numbers are among ordered ones, by bisection (np.isin would sort millions again each time)."""
    return np.append(ordered, ordered.dtype.type(0))[np.searchsorted(ordered, wanted)] == wanted


def runs(known: np.ndarray) -> Iterator[tuple[int, int]]:
    """(start, stop) of each stretch of True, longest first."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(np.int8), [0]])))
    spans = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return iter(sorted(spans, key=lambda s: s[0] - s[1]))


def mean_length(repeats: list[Repeat]) -> Estimate:
    """The mean over samples of the longest repeat, in bytes."""
    lengths = torch.tensor([float(r.length) for r in repeats], dtype=torch.float64)
    return Estimate(float(lengths.mean()), (lengths,), "mean over samples")
