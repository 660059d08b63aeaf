"""Losses of vocoders that are judged by several discriminators.

Each discriminator gives the features of all its layers, [B, ...] each, the last of them a map of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Features = Sequence[Sequence[Tensor]]  # of each discriminator, of each layer


def over_maps(loss: Callable[[Tensor, Tensor], Tensor], real: Features, fake: Features) -> Tensor:
    """[B]: the loss of real and fake logits (objectives/adversarial.py), its mean over each map, summed over discriminators.

    Kumar et al. 2019, eq. 1 and 2; Kong et al. 2020, eq. 1 and 2, which are twice Mao's.
    """
    return _summed([loss(r[-1].float(), f[-1].float()) for r, f in zip(real, fake, strict=True)])


def feature_matching(real: Features, fake: Features) -> Tensor:
    """Σ mean |r - f| [B] over all features given: Kumar et al. 2019, eq. 3; Kong et al. 2020, eq. 4, which weighs it by 2.

    A caller whose paper leaves the logits out hands over the layers before them.
    """
    pairs = [(r, f) for rs, fs in zip(real, fake, strict=True) for r, f in zip(rs, fs, strict=True)]
    return _summed([(r.float() - f.float()).abs() for r, f in pairs])


def _summed(losses: Sequence[Tensor]) -> Tensor:
    """[B]: the sum of each one's mean over all but the examples."""
    return torch.stack([x.flatten(1).mean(1) for x in losses]).sum(0)
