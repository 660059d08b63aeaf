"""Somebody else's weights into a network of ours: every key and every shape, or one sentence that names the first that differs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genloom.errors import UserError, nearest


def load_exactly(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Copy weights into a network, whose every parameter and buffer they must hold, in its shape, and nothing else.

    `name` is what the message calls the network. Raises UserError that names the first differing key and both shapes.
    """
    own = network.state_dict()
    for key, mine in own.items():
        if key not in weights:
            raise UserError(
                f"These weights do not fit {name}: '{key}' {shape(mine)} is missing ({_count(own, weights)})."
            )
        if weights[key].shape != mine.shape:
            raise UserError(
                f"These weights do not fit {name}: '{key}' is {shape(weights[key])} there, {shape(mine)} here."
            )
    if extra := next((k for k in weights if k not in own), None):
        raise UserError(f"These weights do not fit {name}: it has no '{extra}' {shape(weights[extra])}.")
    with torch.no_grad():
        for key, mine in own.items():
            mine.copy_(weights[key])


def shape(x: Tensor) -> str:
    return "x".join(str(n) for n in x.shape) or "a number"


def _count(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    return f"{sum(k in weights for k in own)} of {len(own)} keys are there"


def under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


def translated(arguments: Mapping[str, Any], names: Mapping[str, str | None], network: str) -> dict[str, Any]:
    """An official network's keyword arguments in our names; None in `names` marks what changes speed and no number.

    `mapping_kwargs={"num_layers": 2}` is looked up as "mapping.num_layers". Raises UserError for an argument that is
    not in `names`.
    """
    flat: dict[str, Any] = {}
    for key, value in arguments.items():
        inner = key.removesuffix("_kwargs")
        flat |= {f"{inner}.{k}": v for k, v in value.items()} if inner != key else {key: value}
    for key in flat:
        if key not in names:
            raise UserError(f"The reference option '{key}' of {network} is not known here.{nearest(key, names)}")
    return {ours: flat[theirs] for theirs, ours in names.items() if ours is not None and theirs in flat}


def arguments(
    given: Mapping[str, Any],
    name: str,
    *,
    used: Mapping[str, Any],
    fixed: Mapping[str, Any],
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """A reference network's own keyword arguments: all that are `used`, with its defaults where they were not given.

    `fixed` ones must have that value, those `ignored` matter to training alone; `name` is what the message calls the
    network. Raises UserError for any other argument, and for a fixed one with another value.
    """
    for key, value in given.items():
        if key in fixed and value != fixed[key]:
            raise UserError(f"{name} with {key}={value} has no counterpart here: only {key}={fixed[key]} has.")
        if not (key in used or key in fixed or key in ignored):
            raise UserError(f"{name} has no argument '{key}'.{nearest(key, [*used, *fixed, *ignored])}")
    return {key: given.get(key, value) for key, value in used.items()}
