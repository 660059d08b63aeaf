"""What is done to be fast changes no result."""

from __future__ import annotations

import torch

from genloom import machine


def test_fast_products_are_still_float32() -> None:
    machine.multiply_fast()
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    exact = a.double() @ b.double()
    for product in (a @ b, torch.nn.functional.linear(a, b.T.contiguous())):
        assert product.dtype == torch.float32
        assert float((product - exact).norm() / exact.norm()) < 1e-6
