"""Which items come when: a pure function of (seed, step), so a run resumed at any step sees what it would have seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import count

import numpy as np

from genloom.core import Batch, mix
from genloom.data.base import Dataset
from genloom.errors import UserError

AHEAD = 3  # batches in flight for data that must be decoded
MOST = 2**24  # items of a batch


@lru_cache(maxsize=4)  # a batch touches one epoch, or two at their border; a small set more, and those are cheap
def _epoch(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.PCG64(mix(seed, epoch))).permutation(n)
    order.flags.writeable = False  # it is shared by every batch of the epoch
    return order


def rows(n: int, start: int, stop: int, seed: int) -> np.ndarray:
    """Item numbers [stop - start] of that stretch of the endless concatenation of permutations of n items."""
    epochs = range(start // n, (stop - 1) // n + 1)
    return np.concatenate([_epoch(n, seed, e)[max(0, start - e * n) : stop - e * n] for e in epochs])


def batches(
    data: Dataset, batch_size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
) -> Generator[Batch, None, None]:
    """Batches start, start + 1, ... without end: this rank's rows of each global batch of `batch_size`.

    Every epoch visits each item once, in an order that depends on (seed, epoch) alone. Slow data is prepared by a
    background thread, which ends when the iterator is closed; data in memory comes faster than a thread could hand it
    over. Raises UserError when the batch does not divide by the ranks.
    """
    if batch_size < 1 or batch_size % world:
        raise UserError(f"A batch of {batch_size} cannot be shared by {world} processes: choose a multiple of {world}.")
    if batch_size > MOST:
        raise UserError(f"A batch of {batch_size:,} items is more than can be meant: choose {MOST:,} or fewer.")
    share = batch_size // world

    def own(step: int) -> np.ndarray:
        first = step * batch_size + rank * share
        return rows(len(data), first, first + share, seed)

    return chosen(data, own, partial(mix, seed), start)


def chosen(
    data: Dataset, rows: Callable[[int], np.ndarray], seed: Callable[[int], int], start: int = 0
) -> Generator[Batch, None, None]:
    """Batches start, start + 1, ... of the items that `rows(step)` names; without keys where it names none."""

    def make(step: int) -> Batch:
        found = rows(step)
        return data.batch(found, seed=seed(step)) if len(found) else {}

    return _ahead(make, start) if data.slow else (make(step) for step in count(start))


def _ahead(make: Callable[[int], Batch], start: int) -> Generator[Batch, None, None]:
    """make(start), make(start + 1), ... with the next few already under way in a background thread."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="genloom-data")
    try:
        waiting: deque[Future[Batch]] = deque()
        for step in count(start):
            waiting.append(pool.submit(make, step))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
