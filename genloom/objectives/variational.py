"""The evidence lower bound of a latent-variable model, in nats (Kingma & Welling 2014).

log p(x) >= E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z)), with the first term by one reparametrised sample.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def reparametrise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z = mean + std * noise: a sample of N(mean, variance) that gradients pass through (eq. 10)."""
    return mean + (0.5 * log_variance).exp() * noise


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag variance) || N(0, I)) in nats, [B, D] twice -> [B] (appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x) of independent Bernoullis in nats, [B, ...] twice -> [B].

    `x` lies in [0, 1]. Between 0 and 1, where grey values lie, this is the customary negative cross entropy: it lacks
    the normaliser of a density on [0, 1], so it compares with published figures on grey MNIST, not with a likelihood.
    """
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log density of N(mean, diag variance) at x in nats, normaliser included, [B, ...] -> [B].

    `log_variance` broadcasts against x: one number for all, or one a dimension.
    """
    terms = (x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
    return -0.5 * terms.flatten(1).sum(1)
