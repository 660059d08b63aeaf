"""Which items come when."""

from __future__ import annotations

import threading
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genloom.core import Batch, Spec
from genloom.data import Dataset
from genloom.data.order import batches, rows
from genloom.errors import UserError


class Numbers(Dataset):
    """Item i is i; slow as a set on disk would be, when asked."""

    def __init__(self, n: int, slow: bool = False, fails: bool = False):
        self.n, self.slow, self.fails = n, slow, fails
        self.spec, self.name, self.fingerprint, self.summary = Spec("image", (1, 1, 1)), "numbers", "0", {}

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        if self.fails:
            raise UserError("The disk is gone.")
        return {"image": torch.from_numpy(indices.copy()), "seed": torch.tensor(seed)}


def taken(data: Dataset, size: int, count: int, **order: int) -> list[list[int]]:
    stream = batches(data, size, **{"seed": 0, "start": 0, **order})
    found = [b["image"].tolist() for b in islice(stream, count)]
    stream.close()
    return found


sizes = st.integers(1, 40)


@given(sizes, sizes, st.integers(0, 30), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_any_start_continues_the_same_order(n: int, size: int, start: int, seed: int) -> None:
    whole = taken(Numbers(n), size, start + 4, seed=seed)
    assert taken(Numbers(n), size, 4, seed=seed, start=start) == whole[start:]


@given(sizes, sizes, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_epoch_visits_each_item_once(n: int, size: int, seed: int) -> None:
    flat = [i for batch in taken(Numbers(n), size, 3 * n // size + 1, seed=seed) for i in batch]
    for epoch in range(3):
        assert sorted(flat[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(sizes, st.integers(1, 4), st.integers(1, 8), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_ranks_share_the_global_batch(n: int, world: int, share: int, start: int) -> None:
    whole = taken(Numbers(n), world * share, 3, start=start)
    parts = [taken(Numbers(n), world * share, 3, start=start, rank=r, world=world) for r in range(world)]
    assert [[i for part in step for i in part] for step in zip(*parts, strict=True)] == whole


def test_ranks_see_the_same_augmentation() -> None:
    one, two = (next(batches(Numbers(9), 4, seed=0, rank=r, world=2)) for r in range(2))
    assert one["seed"] == two["seed"]


def test_seeds_and_epochs_differ() -> None:
    assert rows(100, 0, 100, seed=0).tolist() != rows(100, 0, 100, seed=1).tolist()
    assert rows(100, 0, 100, seed=0).tolist() != rows(100, 100, 200, seed=0).tolist()


def test_slow_data_comes_in_the_same_order_from_a_thread_that_ends() -> None:
    before = threading.active_count()
    assert taken(Numbers(17, slow=True), 5, 20) == taken(Numbers(17), 5, 20)
    assert threading.active_count() == before


def test_what_goes_wrong_in_the_background_is_raised() -> None:
    with pytest.raises(UserError, match="disk is gone"):
        next(batches(Numbers(3, slow=True, fails=True), 2, seed=0))


def test_a_batch_must_divide_by_the_ranks() -> None:
    with pytest.raises(UserError, match="multiple of 2"):
        batches(Numbers(3), 3, seed=0, world=2)


def test_a_batch_that_no_memory_holds_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(UserError, match="16,777,216 or fewer"):
        batches(Numbers(3), 10**11, seed=0)
