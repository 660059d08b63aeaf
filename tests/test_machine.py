"""What is done to be fast changes no result."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from genloom import machine


def test_fast_products_are_still_float32() -> None:
    machine.multiply_fast()
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    exact = a.double() @ b.double()
    for product in (a @ b, torch.nn.functional.linear(a, b.T.contiguous())):
        assert product.dtype == torch.float32
        assert float((product - exact).norm() / exact.norm()) < 1e-6


def test_what_others_take_of_the_processors_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, times = tmp_path / "stat", iter(["cpu 100 0 0 900 0 0 0 0\n", "cpu 175 0 0 925 0 0 0 0\n"])
    told.write_text(next(times))
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: told.write_text(next(times)))
    assert machine.taken_by_others(told=told) == 0.75
    assert machine.taken_by_others(told=tmp_path / "none") == 0
    told.write_text("something else")
    assert machine.taken_by_others(told=told) == 0


def test_work_in_threads_keeps_its_order_and_the_first_error_is_raised() -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.02 * (i == 0))
        return i * i

    for piece in (1, 8):
        assert list(machine.in_threads(slow_first, range(50), piece)) == [i * i for i in range(50)]
    done = list[int]()

    def fails(i: int) -> None:
        done.append(i)
        if i in (1, 2):
            raise ValueError(str(i))
        time.sleep(0.005)

    with pytest.raises(ValueError, match="1"):
        list(machine.in_threads(fails, range(1000)))
    assert len(done) < 1000  # what had not begun was left
