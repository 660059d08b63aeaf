"""Rectified flow, the straight-line case of flow matching (Liu et al. 2022; Lipman et al. 2023).

Noise x0 ~ N(0, I) and data x1 are joined by x_t = (1 - t) x0 + t x1. A network learns the velocity E[x1 - x0 | x_t];
solving dx/dt = v(x, t) from t = 0 (noise) to t = 1 then draws data. Samplers take the velocity as a function of
x [B, ...] and one time t in [0, 1], a tensor of no dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────
def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t x1, for noise and data [B, ...] and times [B]."""
    return torch.lerp(x0, x1, t.view(-1, *[1] * (x1.ndim - 1)))


def flow_matching_loss(velocity: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    """Mean over dimensions of (v - (x1 - x0))^2, [B, ...] -> [B] (Lipman et al. 2023, eq. 23 at sigma_min = 0)."""
    return (velocity.float() - (x1 - x0)).square().flatten(1).mean(1)


def preconditioning(t: Tensor, spread: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(slope, inner, outer), like t, of v(x, t) = slope x + outer f(inner x, t), after Karras et al. 2022, table 1.

    For data of standard deviation `spread`, `slope x` is the best linear guess of the velocity; what is left to the
    network f has unit variance, and so has its input, at every t.
    """
    variance = (1 - t) ** 2 + (t * spread) ** 2  # of x_t
    return (t * spread**2 - (1 - t)) / variance, variance.rsqrt(), spread * variance.rsqrt()


def logit_normal(noise: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Times in (0, 1), dense in the middle where the velocity is hardest, from normals (Esser et al. 2024, eq. 19)."""
    return torch.sigmoid(mean + std * noise)


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────
def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): at scale 1 conditional alone, above it away from unconditional."""
    return torch.lerp(unconditional, conditional, scale)


def sample_adams(v: Velocity, x: Tensor, steps: int) -> Tensor:
    """The two-step Adams-Bashforth method, begun with one Euler step: second order, one evaluation of v a step."""
    before = None
    for i in range(steps):
        slope = v(x, torch.tensor(i / steps, device=x.device))
        x = x + (slope if before is None else 1.5 * slope - 0.5 * before) / steps
        before = slope
    return x
