"""A transformer arranged for drawing: its weights cast, and laid out as the processor multiplies them, once and not for every
token."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.machine import memory_free
from genloom.nn.lora import LoRALinear
from genloom.nn.transformer import Transformer

_kept: WeakKeyDictionary[Transformer, tuple[Any, Transformer]] = WeakKeyDictionary()


class Arranged(nn.Module):
    """y = W x + b in the dtype of W, [..., in] -> [..., out].

    `packed`: by oneDNN from a copy of W in blocks of its own order. In any other order it rearranges W at every product, which for
    few rows takes longer than the product.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, packed: bool):
        super().__init__()
        self.weight, self.packed = weight.detach().to(dtype), packed
        self.bias = None if bias is None else bias.detach().to(dtype)
        if packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


def for_drawing(network: Transformer) -> Transformer:
    """A copy whose linear layers, and head, are Arranged in autocast's dtype, or their own without it.

    What is not a linear layer is shared with the network. On a CPU the copy is kept for the next call, until the network or one of
    its weights changes. Where there is nothing to gain it is the network itself: on a GPU without autocast, and on a CPU
    without oneDNN, or memory for a second copy.
    """
    weight = network.tokens.weight
    kind, casts = weight.device.type, torch.is_autocast_enabled(weight.device.type)
    dtype = torch.get_autocast_dtype(kind) if casts else weight.dtype
    if kind != "cpu":
        return arranged(network, dtype, packed=False) if casts else network
    state = (dtype, [(id(p), p.data_ptr(), None if p.is_inference() else p._version) for p in network.parameters()])
    kept = _kept.pop(network, None)  # a stale one makes room for the next
    if kept is None or kept[0] != state:
        packed = packs(dtype) and fits(network, dtype)
        if not packed and not casts:
            return network
        kept = (state, arranged(network, dtype, packed))
    _kept[network] = kept
    return kept[1]


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here, and multiplies such numbers."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and ops._is_mkldnn_bf16_supported())


def fits(network: Transformer, dtype: torch.dtype) -> bool:
    """Whether a copy of the weights takes at most half of the memory that is free."""
    free = memory_free()
    return free is None or 2 * dtype.itemsize * sum(p.numel() for p in network.parameters()) < free


def arranged(network: Transformer, dtype: torch.dtype, packed: bool) -> Transformer:
    shared = {id(t): t for t in chain(network.parameters(), network.buffers())}
    quick = copy.deepcopy(network, shared)
    for path, module in list(quick.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, name = path.rpartition(".")
            weight = module.merged() if isinstance(module, LoRALinear) else module.weight
            setattr(quick.get_submodule(parent), name, Arranged(weight, module.bias, dtype, packed))
    if quick.head is None:
        quick.head = Arranged(quick.tokens.weight, None, dtype, packed)
    return quick
