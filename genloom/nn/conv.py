"""Convolutions whose gradients can be differentiated again at full speed.

PyTorch differentiates a convolution's gradient through convolutions of transposed shape, at a fifth of the processor's
rate, and group by group. But a convolution y = A(x, w) is linear in both arguments: its gradients are its adjoint
Aᵀ(g, w) and the weight's W(g, x), and the gradients of these three are the same three again. So penalties on gradients
(R1, path length) cost what their products cost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Shape(NamedTuple):
    """Of a convolution from x to y: what its three products share."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int


def conv2d(
    x: Tensor,  # [B, I, H, W]
    w: Tensor,  # [O, I / groups, kh, kw]
    bias: Tensor | None = None,  # [O]
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    """As F.conv2d, under autocast too; fastest when x is channels_last."""
    x, w = _cast(x, w)
    if w.shape[2:] == (1, 1) and groups == 1 and stride == (1, 1):
        return _pointwise(x, w.flatten(1), bias)
    y = _Forward.apply(x, w, Shape(tuple(x.shape), tuple(w.shape), stride, padding, groups))
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


class Conv2d(nn.Conv2d):
    """The layer of it."""

    def forward(self, x: Tensor) -> Tensor:  # [B, I, H, W]
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.groups)  # type: ignore[arg-type]


def conv_transpose2d(x: Tensor, w: Tensor, stride: tuple[int, int]) -> Tensor:
    """As F.conv_transpose2d without padding: x [B, I, H, W], w [I, O, kh, kw]."""
    x, w = _cast(x, w)
    sides = [(n - 1) * s + k for n, s, k in zip(x.shape[2:], stride, w.shape[2:], strict=True)]
    return _Adjoint.apply(x, w, Shape((len(x), w.shape[1], *sides), tuple(w.shape), stride, (0, 0), 1))


def _cast(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype that autocast would have them in."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return x.to(dtype), w.to(dtype)


def _pointwise(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution is a product: as one it is twice as fast on a CPU."""
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)  # a view of channels_last images
    y = torch.nn.functional.linear(pixels, w, None if bias is None else bias.to(x.dtype))
    return y.view(batch, height, width, -1).permute(0, 3, 1, 2)


class _Product(torch.autograd.Function):
    """Bilinear in its two tensors: its gradients need both of them and the shape."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Shape], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.shape = inputs[2]


class _Forward(_Product):
    """A(x, w) [y]."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, s: Shape) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return torch.conv2d(x, w, None, s.stride, s.padding, (1, 1), s.groups)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        return _wanted(ctx, (_Adjoint, g, w), (_Weight, g, x))


class _Adjoint(_Product):
    """Aᵀ(g, w) [x]: a transposed convolution."""

    @staticmethod
    def forward(g: Tensor, w: Tensor, s: Shape) -> Tensor:
        x = torch.empty(s.x, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
        return _gradients(g, x, w, s, (True, False, False))[0]

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        g, w = ctx.saved_tensors
        return _wanted(ctx, (_Forward, x, w), (_Weight, g, x))


class _Weight(_Product):
    """W(g, x) [w]: what the weight's gradient is."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, s: Shape) -> Tensor:
        w = torch.empty(s.w, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
        return _gradients(g, x, w, s, (False, True, False))[1]

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        return _wanted(ctx, (_Forward, x, w), (_Adjoint, g, w))


def _wanted(ctx: Any, *products: tuple[type[_Product], Tensor, Tensor]) -> tuple[Tensor | None, ...]:
    """Those of the two products that a gradient is asked of, and none for the shape."""
    asked = zip(products, ctx.needs_input_grad[:2], strict=True)
    return *(product.apply(a, b, ctx.shape) if wanted else None for (product, a, b), wanted in asked), None


def _gradients(g: Tensor, x: Tensor, w: Tensor, s: Shape, mask: tuple[bool, bool, bool]) -> Any:
    with torch.autocast(g.device.type, enabled=False):
        return torch.ops.aten.convolution_backward(
            g, x, w, None, s.stride, s.padding, (1, 1), False, (0, 0), s.groups, mask
        )
