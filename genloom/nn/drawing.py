"""A transformer arranged for drawing: weights cast once, where autocast casts them for every token, and products of few rows
the quick way round."""

from __future__ import annotations

import copy
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.lora import LoRALinear
from genloom.nn.transformer import Transformer

FEW = 64  # rows of such a product, at most


class FewRows(nn.Module):
    """y = W x + b in the dtype of W, [..., in] -> [..., out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype))
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        self.weight: Tensor
        self.bias: Tensor | None
        self.fewest = 2 if dtype == torch.float32 else 1  # one row in fp32 is a product with a vector either way

    def forward(self, x: Tensor) -> Tensor:
        rows = x.to(self.weight.dtype).flatten(0, -2)
        if x.device.type != "cpu" or not self.fewest <= len(rows) <= FEW:
            return F.linear(rows, self.weight, self.bias).unflatten(0, x.shape[:-1])
        # A library rearranges its second factor, so that is to be the small one: up to twice as fast.
        y = (self.weight @ rows.T).T.contiguous()
        return (y if self.bias is None else y + self.bias).unflatten(0, x.shape[:-1])


def for_drawing(network: Transformer) -> Transformer:
    """A copy whose linear layers, and head, are FewRows in autocast's dtype, or their own without it.

    What is not a linear layer is shared with the network, and so are weights that need no cast. On a GPU without autocast there is
    nothing to gain: it is the network itself.
    """
    weight = network.tokens.weight
    kind, casts = weight.device.type, torch.is_autocast_enabled(weight.device.type)
    if not casts and kind != "cpu":
        return network
    dtype = torch.get_autocast_dtype(kind) if casts else weight.dtype
    shared = {id(t): t for t in chain(network.parameters(), network.buffers())}
    quick = copy.deepcopy(network, shared)
    for path, module in list(quick.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, name = path.rpartition(".")
            weight = module.merged() if isinstance(module, LoRALinear) else module.weight
            setattr(quick.get_submodule(parent), name, FewRows(weight, module.bias, dtype))
    if quick.head is None:
        quick.head = FewRows(quick.tokens.weight, None, dtype)
    return quick
