"""The memory that a training step needs, measured on a small piece of it, against what there is: told before the work starts."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from genloom.core import Batch, Model
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.machine import available_mb

LARGE = 8_000_000  # numbers in a batch, from which it is worth measuring
SIDE = 64  # pixels of the piece that is measured
COPIES = 5  # of the weights: themselves, gradients, two moments of Adam, the average
ROOM = 1.15  # for what comes and goes beside


def check(model: Model, data: Dataset, batch_size: int) -> None:
    """Raises UserError where a step on batches of that size would need more memory than is free, with what would fit.

    Only for pictures and films that are large: what a loss keeps for its gradients grows with their pixels.
    """
    shape = data.spec.shape
    if len(shape) < 3 or batch_size * math.prod(shape) < LARGE:
        return
    if (free := available_mb(model.device)) is None:
        return
    height, width = shape[-2:]
    each = piece_mb(model, data) * height * width / (min(SIDE, height) * min(SIDE, width))
    fixed = COPIES * sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    needed, spare = ROOM * (fixed + each * batch_size), free / ROOM - fixed
    if needed <= free:
        return
    if batch_size > 1 and each <= spare:
        advice = f"--batch-size {int(spare / each)} (or a smaller --data.size)"
    else:
        scale = math.sqrt(max(spare, 0) / each)
        advice = f"--data.size {max(SIDE, int(scale * min(height, width)) // 16 * 16)} --batch-size 1"
    size = f"{width} × {height} pixels"
    raise UserError(
        f"A step on {batch_size} of {size} needs about {needed / 1000:.1f} GB, and {free / 1000:.1f} GB are free: give {advice}."
    )


def piece_mb(model: Model, data: Dataset) -> float:
    """What the losses of one item, cut to a corner of it, keep for their gradients, in MB: of the phase that keeps most."""
    batch = {k: cut(v).to(model.device) for k, v in data.batch(np.zeros(1, np.int64)).items()}
    with torch.random.fork_rng(devices=[]):
        return max(kept_mb(model, batch, phase.name) for phase in model.phases())


def kept_mb(model: Model, batch: Batch, phase: str) -> float:
    seen: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        model.loss(batch, phase)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for place, size in seen.items() if place not in weights) / 1e6


def cut(x: Tensor) -> Tensor:
    """The corner of pictures and films [..., H, W]; what else there is, as it is."""
    return x[..., :SIDE, :SIDE].contiguous() if x.ndim >= 4 else x
