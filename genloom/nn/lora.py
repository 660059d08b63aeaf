"""LoRA: a layer's weight stays, and a product of two thin matrices beside it learns (Hu et al. 2022)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError


class LoRALinear(nn.Linear):
    """y = W x + b + scale · B A x: A [r, in] begins random, B [out, r] at zero, W and b do not move."""

    def __init__(self, old: nn.Linear, rank: int, scale: float):
        super().__init__(old.in_features, old.out_features, old.bias is not None, device="meta")
        self.weight, self.bias = old.weight, old.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale = scale
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features, device=old.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, device=old.weight.device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def merged(self) -> Tensor:
        """The one weight [out, in] that does the same."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)


def add_lora(network: nn.Module, rank: int, targets: str, alpha: float) -> None:
    """Freeze a network, and give its linear layers of these names ("qkv out") LoRA with scale alpha / rank.

    Raises UserError for a name that no layer has.
    """
    wanted = targets.replace(",", " ").split()
    network.requires_grad_(False)
    found = set()
    for path, module in list(network.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(module, nn.Linear) and name in wanted:
            found.add(name)
            setattr(network.get_submodule(parent), name, LoRALinear(module, rank, alpha / rank))
    if missing := [w for w in wanted if w not in found]:
        names = sorted({p.rpartition(".")[2] for p, m in network.named_modules() if isinstance(m, nn.Linear)})
        raise UserError(f"No layer is called '{missing[0]}': choose of {', '.join(names)}.")


@torch.no_grad()
def merge_lora(network: nn.Module) -> None:
    """Plain layers again, that do the same."""
    for path, module in list(network.named_modules()):
        if isinstance(module, LoRALinear):
            parent, _, name = path.rpartition(".")
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            plain.weight, plain.bias = nn.Parameter(module.merged()), module.bias
            setattr(network.get_submodule(parent), name, plain)
