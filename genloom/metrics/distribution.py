"""Distances between two sets of feature vectors, and what each sample adds to them.

Every estimate carries per-sample contributions, so one bootstrap serves them all. Where a metric is not a mean
(Fréchet, kernel distance, Inception score) a contribution is the sample's influence value, the first-order effect of
that sample: resampling a Fréchet distance itself would add its finite-sample bias a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A figure and its per-sample contributions, one [N] for each set of samples it varies with."""

    value: float
    contributions: tuple[Tensor, ...]
    note: str = ""

    def __float__(self) -> float:
        return self.value

    def interval(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval around the value: the sets are resampled independently, contributions averaged."""
        shift = sum((bootstrap_means(c, resamples, seed + i) - c.mean() for i, c in enumerate(self.contributions)))
        low, high = torch.quantile(torch.as_tensor(shift).double(), torch.tensor([1 - level, 1 + level]).double() / 2)
        return self.value + float(low), self.value + float(high)


def bootstrap_means(values: Tensor, resamples: int = 1000, seed: int = 0) -> Tensor:
    """Means [resamples] of draws with replacement from values [N]."""
    rng, array = np.random.default_rng(seed), values.double().cpu().numpy()
    draws = [array[rng.integers(len(array), size=len(array), dtype=np.int32)].mean() for _ in range(resamples)]
    return torch.tensor(draws, dtype=torch.float64)


def mean_estimate(values: Tensor, note: str = "") -> Estimate:
    """The plain mean of per-sample values [N]."""
    values = values.double()
    return Estimate(float(values.mean()), (values,), note)


def median_estimate(values: Tensor, note: str = "") -> Estimate:
    """The median of per-sample values [N]; the density there, for the influence, from the quantiles around it."""
    values = values.double()
    h = min(0.25, len(values) ** (-1 / 3))
    low, middle, high = torch.quantile(values, torch.tensor([0.5 - h, 0.5, 0.5 + h]).double())
    influence = torch.sign(values - middle) / 2 * (high - low) / (2 * h)
    return Estimate(float(middle), (influence,), note)


def ratio_of_medians(x: Tensor, y: Tensor, note: str = "") -> Estimate:
    """Median of x [N] over median of y [M], positive values."""
    over, under = median_estimate(x), median_estimate(y)
    below = max(under.value, 1e-12)  # items that are all the same
    ratio = over.value / below
    return Estimate(ratio, (over.contributions[0] / below, -ratio / below * under.contributions[0]), note)


# ── Fréchet distance ─────────────────────────────────────────────────────────────────────────────────────────────


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and covariance [d, d] (N - 1) of features [N, d], in float64."""
    x = x.double()
    return x.mean(0), torch.cov(x.T).view(x.shape[1], -1)


def _power(a: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive semi-definite matrix; directions without variance stay at zero."""
    values, vectors = torch.linalg.eigh(a)
    return (vectors * _spectrum(values, exponent)) @ vectors.T


def _spectrum(values: Tensor, exponent: float) -> Tensor:
    """Powers of ascending eigenvalues; those within rounding of zero are zero (a root would magnify the noise)."""
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return torch.where(kept, values, 1) ** exponent * kept


def frechet_from_moments(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½), Heusel et al. 2017, eq. 6; the root in its symmetric form."""
    root = _power(cov1, 0.5)
    cross = _spectrum(torch.linalg.eigvalsh(root @ cov2 @ root), 0.5).sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


def frechet_distance(x: Tensor, y: Tensor) -> Estimate:
    """Fréchet distance between Gaussians fitted to features x [N, d] and y [M, d].

    The influence of a sample of y is 2 (m_y - m_x)·δ + δᵀ(I - T)δ with δ = sample - m_y and T the optimal transport
    map from y's Gaussian to x's (the gradient of the distance by y's covariance is I - T); the same for x.
    """
    x, y = _in_span(x, y)
    (m1, c1), (m2, c2) = moments(x), moments(y)
    root = _power(c1, 0.5)
    inner = root @ c2 @ root
    to_x = root @ _power(inner, -0.5) @ root
    inverse = _power(c1, -0.5)
    to_y = inverse @ _power(inner, 0.5) @ inverse
    parts = (_influence(x, m1, m2, to_y), _influence(y, m2, m1, to_x))
    return Estimate(frechet_from_moments(m1, c1, m2, c2), parts)


def _in_span(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Features x [N, d] and y [M, d], float64; where there are fewer of them than dimensions, as coordinates in their own
    span, which leaves every distance and product as it is and takes a second where thousands of dimensions take minutes."""
    both = torch.cat([x, y]).double()
    if len(both) < both.shape[1]:
        both = torch.linalg.qr((both - both.mean(0)).T, mode="r")[1].T  # rows in an orthonormal basis
    return both[: len(x)], both[len(x) :]


def _influence(x: Tensor, own: Tensor, other: Tensor, transport: Tensor) -> Tensor:
    delta = x.double() - own  # [N, d]
    return delta @ (2 * (own - other)) + (delta * (delta - delta @ transport)).sum(1)


# ── Kernel distance ──────────────────────────────────────────────────────────────────────────────────────────────


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """The polynomial kernel (x·y / d + 1)³ of KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd2(x: Tensor, y: Tensor) -> Estimate:
    """Unbiased squared maximum mean discrepancy of x [m, d] and y [n, d] (Gretton et al. 2012, eq. 3), float64."""
    x, y = x.double(), y.double()
    cross = _kernel(x, y)

    def within(a: Tensor) -> Tensor:  # mean kernel of each sample to the others of its set
        k = _kernel(a, a)
        return (k.sum(1) - k.diagonal()) / (len(a) - 1)

    xx, yy = within(x), within(y)
    value = xx.mean() + yy.mean() - 2 * cross.mean()
    return Estimate(float(value), (2 * (xx - cross.mean(1)), 2 * (yy - cross.mean(0))))


def kernel_distance(x: Tensor, y: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> Estimate:
    """KID (Bińkowski et al. 2018): the mean of unbiased MMD² over random subsets of x [N, d] and y [M, d].

    Each subset draws `subset_size` rows (at most the smaller set) without replacement, first of x, then of y, from
    one numpy RandomState(seed): torch-fidelity's rule, so the figures agree.
    """
    size = min(subset_size, len(x), len(y))
    draw = np.random.RandomState(seed)
    sets = (x.double(), y.double())
    totals = [torch.zeros(2, len(s), dtype=torch.float64) for s in sets]  # of contributions, and how many they are
    values = []
    for _ in range(subsets):
        rows = [torch.from_numpy(draw.choice(len(s), size, replace=False)) for s in sets]
        part = mmd2(*(s[r] for s, r in zip(sets, rows, strict=True)))
        values.append(part.value)
        for total, r, c in zip(totals, rows, part.contributions, strict=True):
            total[:, r] += torch.stack([c, torch.ones_like(c)])
    seen = tuple((total / count)[count > 0] for total, count in totals)
    note = f"{subsets} subsets of {size}, standard deviation over subsets {np.std(values):.3g}"
    return Estimate(float(np.mean(values)), seen, note)


# ── Neighbours ───────────────────────────────────────────────────────────────────────────────────────────────────


BLOCK = 4_000_000  # entries of a distance matrix in memory at once


def _products(x: Tensor, y: Tensor, plus: Tensor, scale: float) -> Iterator[tuple[slice, Tensor]]:
    """plus [M] + scale x yᵀ, some rows of x [N, d] at a time, each block good until the next: they share one buffer."""
    step = max(1, min(len(x), BLOCK // len(y)))
    buffer = x.new_empty(step, len(y))
    for start in range(0, len(x), step):
        block = x[start : start + step]
        yield slice(start, start + len(block)), torch.addmm(plus, block, y.T, alpha=scale, out=buffer[: len(block)])


def distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared Euclidean distances of rows of x to all of y, a block of at most BLOCK entries (or a row) at a time."""
    for rows, product in _products(x, y, y.square().sum(1), -2):
        yield rows, product.add_(x[rows].square().sum(1, keepdim=True)).clamp_min_(0)


def nearest(x: Tensor, y: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Distances [N, k], ascending, and rows [N, k] of the k nearest of y [M, d] to each of x [N, d].

    The search runs in the inputs' precision; the distances of what it finds are computed again in float64.
    """
    centre = y.mean(0)  # small numbers cancel less
    x, y = x - centre, y - centre
    scores = (s for _, s in _products(x, y, y.square().sum(1) / 2, -1))  # |x - y|² / 2 but for |x|² / 2
    rows = torch.cat([s.min(1, keepdim=True)[1] if k == 1 else s.topk(k, 1, largest=False)[1] for s in scores])
    distances = torch.stack([(x.double() - y[rows[:, i]].double()).norm(dim=1) for i in range(k)], 1)
    distances, order = distances.sort(1)
    return distances, rows.gather(1, order)


def radii2(x: Tensor, k: int) -> Tensor:
    """Squared distance [N] of each row to its k-th nearest other row."""
    return torch.cat([d.topk(k + 1, 1, largest=False).values[:, k] for _, d in distance_blocks(x, x)])


class Neighbourhoods(NamedTuple):
    """Improved precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def neighbourhoods(real: Tensor, fake: Tensor, k: int = 5, *, inclusive: bool = False) -> Neighbourhoods:
    """The four neighbourhood metrics of real [N, d] and fake [M, d], in float64.

    A sample is inside a ball when strictly nearer than its radius, as in the prdc package; `inclusive` counts the
    boundary too, as torch-fidelity does. Intervals hold the other set fixed. Needs k < min(N, M).
    """
    real, fake = real.double(), fake.double()
    real_radii, fake_radii = radii2(real, k), radii2(fake, k)
    inside = torch.le if inclusive else torch.lt
    balls = torch.zeros(len(fake), dtype=torch.float64)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    gap = torch.full((len(real),), torch.inf, dtype=torch.float64)
    for rows, d in distance_blocks(fake, real):
        balls[rows] = inside(d, real_radii).sum(1).double()
        recalled |= inside(d, fake_radii[rows, None]).any(0)
        gap = torch.minimum(gap, d.amin(0))
    note = f"k = {k}, {'closed' if inclusive else 'open'} balls; interval given the other set"
    values = (balls > 0, recalled, balls / k, inside(gap, real_radii))
    return Neighbourhoods(*(mean_estimate(v, note) for v in values))


# ── Inception score ──────────────────────────────────────────────────────────────────────────────────────────────


def inception_score(probs: Tensor, splits: int = 1, *, shuffle: bool = False, seed: int = 2020) -> Estimate:
    """exp of the mean KL(p(y|x) ‖ p(y)) over class probabilities [N, classes] (Salimans et al. 2016), splits averaged.

    `shuffle` permutes by numpy's RandomState(seed) first, as torch-fidelity does. One split by default (Barratt and
    Sharma 2018 say why).
    """
    if shuffle:
        probs = probs[torch.from_numpy(np.random.RandomState(seed).permutation(len(probs)))]
    edges = [i * len(probs) // splits for i in range(splits + 1)]
    parts = [_divergence(probs[a:b].double()) for a, b in pairwise(edges)]
    scores = torch.stack([kl.mean().exp() for kl in parts])
    influence = torch.cat([kl * score for kl, score in zip(parts, scores, strict=True)])
    note = f"{splits} split{'s' * (splits > 1)}, standard deviation {float(scores.std(correction=0)):.3g}"
    return Estimate(float(scores.mean()), (influence,), note)


def _divergence(probs: Tensor) -> Tensor:
    """KL [N] of each row from the mean row."""
    return (torch.special.xlogy(probs, probs) - torch.special.xlogy(probs, probs.mean(0))).sum(1)
