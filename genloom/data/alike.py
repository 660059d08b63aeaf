"""Which of many pictures are nearly the same: 64-bit perceptual hashes, met in tables, and then looked at again.

The hash is that of the signs of low frequencies (DCT, Zauner 2010). Hashes that differ in at most 4 of their bits agree in two of
six blocks, so that each pair meets in one of 15 tables (the pigeonhole principle, as Manku et al. 2007 search): no pair is
compared that does not. What meets counts when the small pictures themselves agree too. Memory: 264 bytes a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

SIDE, SMALL = 32, 16  # of the picture that is hashed, and of the one that is kept to be compared
BITS = 4  # of the hashes, that may differ
LIKE = 0.99  # correlation of the small pictures from which they are nearly the same
FLAT = 3.0  # of 255, a deviation below which a picture shows nothing to compare
WINDOW = 64  # neighbours in a table that each hash is compared with
BLOCKS = (11, 11, 11, 11, 10, 10)

_k, _n = np.arange(8)[:, None], np.arange(SIDE)[None]
# DCT-II [8, SIDE], unscaled: only order counts
BASIS = np.cos(np.pi * (2 * _n + 1) * _k / (2 * SIDE)).astype(np.float32)
WEIGHTS = np.uint64(1) << np.arange(64, dtype=np.uint64)


class Alike:
    """Pictures by number, as they are added."""

    def __init__(self, count: int):
        self.hashes = np.zeros(count, np.uint64)
        self.small = np.zeros((count, SMALL * SMALL), np.uint8)
        self.usable = np.zeros(count, bool)

    def add(self, number: int, picture: np.ndarray) -> None:
        """A grey picture, uint8 [SIDE, SIDE]. Flat ones are never like another: whether they are the same, bytes tell."""
        self.hashes[number] = hashed(picture)
        half = picture.astype(np.float32).reshape(SMALL, SIDE // SMALL, SMALL, SIDE // SMALL).mean((1, 3))
        self.small[number] = half.round().astype(np.uint8).ravel()
        self.usable[number] = half.std() >= FLAT

    def groups(self, skipped: np.ndarray | None = None) -> list[list[int]]:
        """Numbers of pictures nearly the same, a group each: chains of pairs. `skipped` [N] bool: not looked at."""
        parent = np.arange(len(self.hashes))

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = int(parent[i])
            return i

        chosen = np.flatnonzero(self.usable if skipped is None else self.usable & ~skipped)
        for a, b in self.pairs(chosen):
            for i, j in zip(a.tolist(), b.tolist(), strict=True):
                parent[max(root(i), root(j))] = min(root(i), root(j))
        found: dict[int, list[int]] = {}
        for i in np.flatnonzero(parent != np.arange(len(parent))).tolist():
            found.setdefault(root(i), [root(i)]).append(i)
        return [sorted(found[first]) for first in sorted(found)]

    def pairs(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers (i [P], j [P]) of pictures that are nearly the same; a pair may come several times."""
        hashes = self.hashes[chosen]
        for mask in masks():
            keys = hashes & mask
            order = np.lexsort((hashes, keys))
            keys = keys[order]
            for step in range(1, WINDOW + 1):
                met = np.flatnonzero(keys[:-step] == keys[step:])
                if not len(met):
                    break
                a, b = order[met], order[met + step]
                near = np.bitwise_count(hashes[a] ^ hashes[b]) <= BITS
                a, b = chosen[a[near]], chosen[b[near]]
                for start in range(0, len(a), 4096):
                    i, j = a[start : start + 4096], b[start : start + 4096]
                    like = correlation(self.small[i], self.small[j]) >= LIKE
                    yield i[like], j[like]


def masks() -> list[np.uint64]:
    """The 15 choices of two of six blocks of the hash's bits."""
    ends = np.cumsum(BLOCKS)
    blocks = [((1 << width) - 1) << int(end - width) for width, end in zip(BLOCKS, ends, strict=True)]
    return [np.uint64(a | b) for a, b in combinations(blocks, 2)]


def hashed(picture: np.ndarray) -> np.uint64:
    """64 bits of a grey picture [SIDE, SIDE]: which of its 8 × 8 lowest frequencies are above their median."""
    low = BASIS @ picture.astype(np.float32) @ BASIS.T
    low[0, 0] = 0  # how bright it is does not matter
    bits = low.ravel() > np.median(low.ravel()[1:])
    return WEIGHTS[bits].sum(dtype=np.uint64)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[P] in [-1, 1], of pictures [P, D] uint8."""
    a, b = (x.astype(np.float32) - x.mean(1, dtype=np.float32, keepdims=True) for x in (a, b))
    return np.asarray((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1) + 1e-9))
