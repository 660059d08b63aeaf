"""Weights as a direction times a length (weight normalisation, Salimans & Kingma 2016), as vocoders have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from genloom.errors import UserError
from genloom.nn.lined import Convolution

Net = TypeVar("Net", bound=nn.Module)
PARTS = {  # of a layer here: their names in PyTorch's older form, that published weights have
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
} | {same: same for same in ("bias", "weight", "weight_orig", "weight_u", "weight_v", "gamma")}


def directed(layer: Net) -> Net:
    """The layer with its weight in that form, begun as PyTorch begins it.

    The authors of vocoders meant to begin with a deviation of 0.02, and did not: their layers made the weight anew from
    its parts. In narrow networks it would let the signal vanish.
    """
    return weight_norm(layer)


def convolution(before: int, after: int, kernel: int, **how: int) -> nn.Module:
    """Such a convolution in time, [B, C, T] -> [B, C', T']."""
    return directed(Convolution(before, after, kernel, **how))  # type: ignore[arg-type]


def filled(net: Net, names: Mapping[str, str], weights: Mapping[str, Tensor]) -> Net:
    """The network with each layer's weights from the name that it has there.

    Raises UserError that names the first key that is missing, or of another shape.
    """
    found = {}
    for key, wanted in net.state_dict().items():
        own = next(o for o in PARTS if key.endswith(f".{o}"))
        there = f"{names[key.removesuffix(f'.{own}')]}.{PARTS[own]}"
        if there not in weights:
            raise UserError(f"These weights have no '{there}'.")
        if weights[there].shape != wanted.shape:
            raise UserError(f"'{there}' is {list(weights[there].shape)} in the file, and {list(wanted.shape)} here.")
        found[key] = weights[there]
    net.load_state_dict(found)
    return net
