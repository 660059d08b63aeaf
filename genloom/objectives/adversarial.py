"""Adversarial losses of logits, gradient penalties, and the small base that every GAN shares.

Notation: r = D(real), f = D(fake) are logits [B]; softplus(x) = log(1 + e^x). The discriminator minimises
`critic(r, f)`, the generator `generator(r, f)`, both [B]. A GAN of the zoo is the base, two networks and an objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Modality, Model, Phase, Spec
from genloom.errors import UserError, unknown
from genloom.nn.augment import augmentation


class Objective(NamedTuple):
    """What each side minimises, both `(r [B], f [B]) -> [B]`. `paired`: the generator's loss looks at r too."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    paired: bool = False


def bce_critic(r: Tensor, f: Tensor) -> Tensor:
    """-log σ(r) - log(1 - σ(f)): the discriminator of Goodfellow et al. 2014, eq. 1."""
    return F.softplus(-r) + F.softplus(f)


def non_saturating(r: Tensor, f: Tensor) -> Tensor:
    """-log σ(f): Goodfellow et al. 2014, section 3, the generator's loss that keeps its gradient."""
    return F.softplus(-f)


def minimax(r: Tensor, f: Tensor) -> Tensor:
    """log(1 - σ(f)): Goodfellow et al. 2014, eq. 1, the generator's loss that saturates."""
    return -F.softplus(f)


def hinge_critic(r: Tensor, f: Tensor) -> Tensor:
    """max(0, 1 - r) + max(0, 1 + f): Lim & Ye 2017, Miyato et al. 2018, eq. 16."""
    return F.relu(1 - r) + F.relu(1 + f)


def least_squares_critic(r: Tensor, f: Tensor) -> Tensor:
    """((r - 1)² + f²) / 2: Mao et al. 2017, eq. 9 (a = 0, b = 1)."""
    return 0.5 * ((r - 1).square() + f.square())


def least_squares_generator(r: Tensor, f: Tensor) -> Tensor:
    """(f - 1)² / 2: Mao et al. 2017, eq. 9 (c = 1)."""
    return 0.5 * (f - 1).square()


def wasserstein_critic(r: Tensor, f: Tensor) -> Tensor:
    """f - r: Arjovsky et al. 2017, eq. 2, negated."""
    return f - r


def wasserstein_generator(r: Tensor, f: Tensor) -> Tensor:
    """-f: Arjovsky et al. 2017, algorithm 1; also the generator of the hinge loss."""
    return -f


def relativistic_critic(r: Tensor, f: Tensor) -> Tensor:
    """softplus(f - r), each real paired with a fake: Jolicoeur-Martineau 2018; Huang et al. 2024, eq. 2."""
    return F.softplus(f - r)


def relativistic_generator(r: Tensor, f: Tensor) -> Tensor:
    """softplus(r - f): the fake should outscore the real it is paired with."""
    return F.softplus(r - f)


def relativistic_average_critic(r: Tensor, f: Tensor) -> Tensor:
    """-log σ(r - E f) - log(1 - σ(f - E r)), means over the global batch: Jolicoeur-Martineau 2018, section 4.2."""
    return F.softplus(parallel.mean(f.mean()) - r) + F.softplus(f - parallel.mean(r.mean()))


def relativistic_average_generator(r: Tensor, f: Tensor) -> Tensor:
    """The critic's with reals and fakes exchanged: fakes should outscore the average real."""
    return relativistic_average_critic(f, r)


OBJECTIVES: dict[str, Objective] = {
    "bce": Objective(bce_critic, non_saturating),
    "minimax": Objective(bce_critic, minimax),
    "hinge": Objective(hinge_critic, wasserstein_generator),
    "least_squares": Objective(least_squares_critic, least_squares_generator),
    "wasserstein": Objective(wasserstein_critic, wasserstein_generator),
    "relativistic": Objective(relativistic_critic, relativistic_generator, paired=True),
    "relativistic_average": Objective(relativistic_average_critic, relativistic_average_generator, paired=True),
}


def find_objective(name: str) -> Objective:
    """The objective of that name. Raises UserError that offers the nearest one."""
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


# ── gradient penalties ───────────────────────────────────────────────────────────────────────────────────────────
def score_and_slope(critic: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits D(x) [B] and ‖∇D(x)‖² [B] of images [B, ...], both differentiable: one forward serves loss and penalty.

    Times γ/2 the slope is R1 on real images and R2 on fakes (Mescheder et al. 2018, eq. 9). The norm is summed in
    float32 also under autocast. D must score each image by itself (no batch normalisation).
    """

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = critic(x).float()
        return logits.sum(), logits

    grad, logits = torch.func.grad(total, has_aux=True)(images)  # not autograd.grad: torch.compile takes this one
    return logits, grad.float().flatten(1).square().sum(1)


def slope_penalty(critic: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """(‖∇D(x)‖ - 1)² [B]: zero where the critic's slope is one."""
    _, slope = score_and_slope(critic, images)
    return ((slope + 1e-12).sqrt() - 1).square()  # the root's own slope is infinite at 0


def lipschitz_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """The slope penalty [B] at x̂ = mix·real + (1 - mix)·fake, mix [B] uniform: Gulrajani et al. 2017, eq. 3, without λ."""
    mix = mix.view(-1, *[1] * (real.ndim - 1))
    return slope_penalty(critic, torch.lerp(fake, real, mix))


# ── the base ─────────────────────────────────────────────────────────────────────────────────────────────────────
class Adversarial(Model):
    """A generator (latents [B, Z] -> images) and a discriminator (images -> logits [B]) at play.

    A subclass sets `generator` and `discriminator`; most change nothing else. With `conditional` and data that has
    classes both networks take labels [B] as a second argument. `augment` names what the discriminator sees its images
    through (nn/augment.py). `together`: D may score real and fake images in one forward; false where batch
    normalisation would let it compare them.
    """

    modality: ClassVar[Modality] = "image"
    samples_with = ("generator",)
    together: ClassVar[bool] = True

    generator: nn.Module
    discriminator: nn.Module
    gamma: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int,
        objective: str,
        gamma: float = 0.0,
        gamma_end: float | None = None,
        conditional: bool = False,
        augment: str = "none",
    ):
        super().__init__(spec)
        self.latent = latent
        self.classes = len(spec.classes) if conditional else 0  # 0: labels are not looked at
        self.objective = find_objective(objective)
        self.penalised = gamma > 0
        self.gammas = (gamma, gamma if gamma_end is None else gamma_end)
        self.register_buffer("gamma", torch.tensor(gamma))
        self.augment = augmentation(augment)

    def phases(self) -> list[Phase]:
        return [Phase("discriminator", ("discriminator",)), Phase("generator", ("generator",))]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        real, labels = batch[self.modality], self.labels(batch)
        latents = self.latents(len(real))
        terms = self.generator_terms if phase == "generator" else self.critic_terms
        return terms(real, latents, labels)

    def after_step(self, progress: float) -> None:
        """γ falls along a cosine from its first value to its last (after Huang et al. 2024); augmentation adapts."""
        first, last = self.gammas
        self.gamma.fill_(last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress)))
        self.augment.adapt()

    def latents(self, n: int) -> Tensor:
        return self.randn(n, self.latent)

    def labels(self, batch: Batch) -> Tensor | None:
        """[B] classes for reals and fakes alike: what the data's own frequencies are, the fakes' are too."""
        return batch["label"] if self.classes else None

    def make(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W] of latents [B, Z]."""
        return self.generator(latents) if labels is None else self.generator(latents, labels)

    @torch.no_grad()
    def fakes(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The same for the discriminator to learn from: no gradient reaches the generator."""
        return self.make(latents, labels)

    def logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the discriminator makes of images [B], in float32."""
        return (self.discriminator(images) if labels is None else self.discriminator(images, labels)).float()

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [B] of images seen through the augmentation."""
        return self.logits(self.augment(images), labels)

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        fake = self.fakes(latents, labels)
        if not self.penalised:
            r, f = self.score(real, fake, labels)
            self.observe(r, f)
            return {"discriminator": self.objective.critic(r, f)}
        both = None if labels is None else torch.cat([labels, labels])
        logits, slope = score_and_slope(lambda x: self.judge(x, both), torch.cat([real, fake]))
        r, f = logits.chunk(2)
        self.observe(r, f)
        r1, r2 = (0.5 * self.gamma * slope).chunk(2)
        return {"discriminator": self.objective.critic(r, f), "r1": r1, "r2": r2}

    def observe(self, r: Tensor, f: Tensor) -> None:
        """Whether D overfits shows in the sign of D(real); of an objective that pairs only the difference has a meaning."""
        self.augment.observe(r - f if self.objective.paired else r)

    def generator_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        return {"generator": self.fool(real, self.judge(self.make(latents, labels), labels), labels)}

    def fool(self, real: Tensor, f: Tensor, labels: Tensor | None = None) -> Tensor:
        """The generator's loss [B] of the fakes' logits; reals are scored only for an objective that pairs."""
        if not self.objective.paired:
            return self.objective.generator(f, f)
        with torch.no_grad():
            r = self.judge(real, labels)
        return self.objective.generator(r, f)

    def score(self, real: Tensor, fake: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B] of reals and of fakes, in one forward where D allows it."""
        if not self.together:
            return self.judge(real, labels), self.judge(fake, labels)
        both = None if labels is None else torch.cat([labels, labels])
        r, f = self.judge(torch.cat([real, fake]), both).chunk(2)
        return r, f

    def critic(self, batch: Batch) -> Tensor:
        return self.logits(batch["image"], self.labels(batch))

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        return self.make(self.item_noise(n, self.latent, seed=seed, start=start)).float()


class Conditional(Adversarial):
    """A GAN that takes labels where the data has classes: `--model.no-conditional` leaves them out."""

    conditions: ClassVar[tuple[str, ...]] = ("label",)

    def sample(self, n: int, *, seed: int = 0, start: int = 0, label: int | Tensor | None = None) -> Tensor:
        """[n, C, H, W] in [-1, 1]; without `label` the classes come in turn. Raises UserError for an unknown class."""
        z = self.item_noise(n, self.latent, seed=seed, start=start)
        return self.make(z, self.wanted(n, label, start)).float()

    def takes(self, condition: str) -> bool:
        return super().takes(condition) and (condition != "label" or self.classes > 0)

    def wanted(self, n: int, label: int | Tensor | None, start: int) -> Tensor | None:
        """[n] labels to draw; None for a model without classes. Raises UserError for a class it does not have."""
        if self.classes:
            return self.item_labels(n, label, start)
        if label is not None:
            raise UserError("This model was trained without labels: leave --label out, or fit it on data with classes.")
        return None
