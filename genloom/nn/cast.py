"""A transformer for drawing in half precision: its weights are cast once, where autocast casts them for every token."""

from __future__ import annotations

import copy
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.lora import LoRALinear
from genloom.nn.transformer import Transformer

FEW = 64  # rows, up to which a CPU does better to rearrange them for its product than the weights


class CastLinear(nn.Module):
    """y = W x + b in the dtype of W, [..., in] -> [..., out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype))
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        self.weight: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.to(self.weight.dtype).flatten(0, -2)
        if x.device.type != "cpu" or len(rows) > FEW:
            return F.linear(rows, self.weight, self.bias).unflatten(0, x.shape[:-1])
        y = (
            self.weight @ rows.T
        ).T.contiguous()  # oneDNN rearranges its second factor: 1.2 to 2 times as fast this way round
        return (y if self.bias is None else y + self.bias).unflatten(0, x.shape[:-1])


def cast_once(network: Transformer) -> Transformer:
    """Under autocast a copy whose linear layers, and head, are in its dtype; else the network itself.

    What is not a linear layer is shared with the network.
    """
    kind = network.tokens.weight.device.type
    if not torch.is_autocast_enabled(kind):
        return network
    dtype = torch.get_autocast_dtype(kind)
    shared = {id(t): t for t in chain(network.parameters(), network.buffers())}
    quick = copy.deepcopy(network, shared)
    for path, module in list(quick.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, name = path.rpartition(".")
            weight = module.merged() if isinstance(module, LoRALinear) else module.weight
            setattr(quick.get_submodule(parent), name, CastLinear(weight, module.bias, dtype))
    if quick.head is None:
        quick.head = CastLinear(quick.tokens.weight, None, dtype)
    return quick
