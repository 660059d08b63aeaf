"""The watch: looks at a run now and then, and says in plain words when it goes wrong.

Three things go wrong silently: samples grow alike (collapse), the critic learns its training pictures by heart
(overfit), and a loss leaves its scale (divergence). Each is a number in the log; past its bound it is advice, said
once until it has cleared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ITEMS = 128  # more pictures than this hardly change a mean distance
SIDE = 64  # pictures are compared at this size at most
ALIKE = 0.1  # two samples nearer than this share of the real pictures' mean distance are the same picture
GRACE = 0.15  # of the run: an untrained net makes nearly the same picture from every latent
EARLY_LOOKS = 3  # looks that set a loss's scale
EXPLODED = 100.0

COLLAPSED_CRITIC = (
    "The samples grow alike: their variety is {value:.0%} of the data's, so the generator is collapsing. Train "
    "again into a new --out with half the --lr or a larger --batch-size; if that does not help, with another "
    "--recipe or a stronger gradient penalty (--model.*)."
)
COLLAPSED = (
    "The samples are alike: their variety is {value:.0%} of the data's. Train longer; if it stays so, train again "
    "into a new --out with another --recipe or a weaker regulariser (--model.*)."
)
DUPLICATES = (
    "{value:.0%} of the samples have a twin that is the same picture: the model leaves out part of the data. "
    "Train again into a new --out with a larger --batch-size or half the --lr."
)
OVERFIT = (
    "The critic knows its training pictures by heart: {value:.0%} of the difference that it sees between them and "
    "made pictures is missing on real pictures that it never saw. More data, or augmented copies of it, help "
    "most; else train for fewer --steps or with a smaller --recipe."
)
DIVERGED = (
    "The loss '{name}' is {value:,.0f} times its early scale: training is running away. Train again into a new "
    "--out with half the --lr, or with --clip 1."
)


def distances(pictures: Tensor) -> Tensor:
    """Pairwise L2 distances [N, N] of pictures [N, C, H, W], shrunk to at most 64 x 64; the diagonal is infinite.

    Of clips [N, C, T, H, W] the middle frames are compared.
    """
    x = pictures[:ITEMS].detach()
    x = (x[:, :, x.shape[2] // 2] if x.ndim == 5 else x).float().cpu()
    flat = F.adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3]))).flatten(1)
    far = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")  # exactly 0 for twins
    return far.fill_diagonal_(math.inf)


def mean_distance(far: Tensor) -> float:
    """Mean over pairs of `distances`; NaN for fewer than two pictures."""
    return float(far[far.isfinite()].mean())


def share_of_twins(far: Tensor, bound: float) -> float:
    """Share of pictures whose nearest other picture is nearer than `bound`."""
    return float((far.amin(dim=1) < bound).float().mean())


def overfit_r_v(train: Tensor, held_out: Tensor, fake: Tensor) -> float:
    """(E[D_train] - E[D_val]) / (E[D_train] - E[D_fake]), 0 for no overfitting and 1 for all.

    ADA (Karras et al. 2020), eq. 1. NaN while the critic does not tell real from fake, for then it is noise over noise.
    """
    gap = train.mean() - fake.mean()
    return float((train.mean() - held_out.mean()) / gap) if gap > 3 * _error(train, fake) else math.nan


def overfit_r_t(train: Tensor) -> float:
    """E[sign(D_train)] (ADA, eq. 1). Logged only: a Wasserstein or relativistic critic's zero means nothing."""
    return float(train.sign().mean())


def _error(a: Tensor, b: Tensor) -> float:
    """Standard error of the difference of two means."""
    if min(len(a), len(b)) < 2:
        return math.inf
    return float((a.var() / len(a) + b.var() / len(b)).sqrt())


@dataclass
class Alarm:
    """Rings once when a value stays above `rings` for two looks, and again only after it was back below `clears`."""

    rings: float
    clears: float
    looks: int = 0
    ringing: bool = False

    def hears(self, value: float) -> bool:
        self.looks = self.looks + 1 if value > self.rings else 0
        if value < self.clears:
            self.ringing = False
        starts = self.looks >= 2 and not self.ringing
        self.ringing |= starts
        return starts


class Watch:
    """Knows the variety of real pictures [N, C, H, W], or clips [N, C, T, H, W], and looks at samples against it."""

    def __init__(self, real: Tensor):
        far = distances(real)
        self.real_distance = mean_distance(far)
        self.real_twins = share_of_twins(far, ALIKE * self.real_distance)
        self.alike = Alarm(rings=0.7, clears=0.55)  # hears 1 - variety
        self.twins = Alarm(rings=0.3, clears=0.15)
        self.overfit = Alarm(rings=0.5, clears=0.3)
        self.losses: dict[str, Alarm] = {}
        self.scale: dict[str, float] = {}
        self.looks = 0

    def look(
        self,
        samples: Tensor,
        critic_real: Tensor | None,
        critic_held_out: Tensor | None,
        critic_fake: Tensor | None,
        losses: Mapping[str, float],
        *,
        progress: float = 1.0,
    ) -> tuple[dict[str, float], list[str]]:
        """Numbers for the log, and advice when there is any.

        Args: samples, as the real ones; the critic's scores [B] of training, held-out and generated pictures where the model
        has a critic; mean losses by name; progress in [0, 1], for nothing is said of samples in the first of it.
        """
        seen: dict[str, float] = {}
        advice = self._look_at_samples(seen, samples, critic_real is not None, progress)
        if critic_real is not None:
            advice += self._look_at_critic(seen, critic_real, critic_held_out, critic_fake, progress)
        advice += self._look_at_losses(losses)
        self.looks += 1
        return {k: v for k, v in seen.items() if math.isfinite(v)}, advice

    def _look_at_samples(self, seen: dict[str, float], samples: Tensor, has_critic: bool, progress: float) -> list[str]:
        if not self.real_distance > 0 or len(samples) < 2 or not samples.isfinite().all():
            return []  # nothing to compare: one real picture, or a run that the loop will roll back
        far = distances(samples)
        seen["variety"] = variety = mean_distance(far) / self.real_distance
        seen["twins"] = twins = share_of_twins(far, ALIKE * self.real_distance)
        if progress < GRACE:
            return []
        doubled = self.twins.hears(twins - self.real_twins)  # data may hold twins of its own
        if self.alike.hears(1 - variety):
            return [(COLLAPSED_CRITIC if has_critic else COLLAPSED).format(value=variety)]
        return [DUPLICATES.format(value=twins)] if doubled and not self.alike.ringing else []

    def _look_at_critic(
        self, seen: dict[str, float], real: Tensor, held_out: Tensor | None, fake: Tensor | None, progress: float
    ) -> list[str]:
        real = real.detach().float().flatten()
        seen["overfit_r_t"] = overfit_r_t(real)
        if held_out is None or fake is None:
            return []
        held_out, fake = held_out.detach().float().flatten(), fake.detach().float().flatten()
        seen["overfit_r_v"] = r_v = overfit_r_v(real, held_out, fake)
        certain = float(real.mean() - held_out.mean()) > 3 * _error(real, held_out)
        rings = progress >= GRACE and self.overfit.hears(r_v if certain else 0.0)
        return [OVERFIT.format(value=min(r_v, 1.0))] if rings else []

    def _look_at_losses(self, losses: Mapping[str, float]) -> list[str]:
        finite = {k: abs(v) for k, v in losses.items() if math.isfinite(v)}
        if self.looks < EARLY_LOOKS:
            self.scale |= {k: max(v, self.scale.get(k, 0.0)) for k, v in finite.items()}
            return []
        largest = max(self.scale.values(), default=0.0)
        advice = []
        for name, value in finite.items():
            # A penalty may start at nothing and grow: it has run away when it is large beside the other losses too.
            scale = max(self.scale.setdefault(name, value), 0.1 * largest, 1e-6)
            alarm = self.losses.setdefault(name, Alarm(rings=EXPLODED, clears=EXPLODED / 10))
            if alarm.hears(value / scale):
                advice.append(DIVERGED.format(name=name, value=value / scale))
        return advice
