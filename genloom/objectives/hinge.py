"""The hinge GANs: several critic steps, orthogonal regularisation, and sampling with truncation and standing statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genloom.core import Phase, Spec, generator
from genloom.errors import UserError
from genloom.nn.norm import StandingNorm
from genloom.nn.spectral import orthogonality
from genloom.objectives.adversarial import Conditional


class HingeGAN(Conditional):
    """The hinge loss, several critic steps, orthogonal regularisation; truncation and standing statistics.

    `generator_rate` multiplies the generator's learning rate; it steps once every `critic_steps`. `orthogonal` weighs
    the penalty on the generator's weight matrices, embeddings of the class left out (Brock et al. 2019, eq. 3).
    """

    conditions: ClassVar[tuple[str, ...]] = ("label", "truncation", "standing")
    soft_labels: bool = False  # whether the generator takes class probabilities too
    config: dict[str, Any]  # of a model made from reference weights: what `build` makes it again from

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int,
        conditional: bool,
        augment: str,
        critic_steps: int,
        generator_rate: float,
        orthogonal: float,
    ):
        super().__init__(spec, latent=latent, objective="hinge", conditional=conditional, augment=augment)
        self.stood: dict[tuple[int, float | None], list[Tensor]] = {}  # standing statistics by batches and truncation
        self.critic_steps, self.generator_rate, self.orthogonal = critic_steps, generator_rate, orthogonal

    def initialise(self) -> None:
        """Every weight of two dimensions or more orthogonal: a subclass calls it when its networks stand.

        A random matrix over its largest singular value shrinks most directions: a discriminator of such layers says
        nothing for many steps.
        """
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.orthogonal_(p.data)

    def phases(self) -> list[Phase]:
        maker = Phase("generator", ("generator",), every=self.critic_steps, lr=self.generator_rate)
        return [Phase("discriminator", ("discriminator",)), maker]

    def generator_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        terms = super().generator_terms(real, latents, labels)
        if self.orthogonal:
            penalties = [orthogonality(w) for w in self.regularised()]
            terms["orthogonal"] = self.orthogonal * torch.stack(penalties).sum()
        return terms

    def regularised(self) -> Iterator[Tensor]:
        """The generator's weight matrices, but for embeddings of the class."""
        for name, p in self.generator.named_parameters():
            if p.ndim > 1 and not name.startswith(("shared", "embeddings")):
                yield p

    def make_at(self, z: Tensor, labels: Tensor | None, truncation: float | None) -> Tensor:
        """Images of latents that were drawn at this truncation."""
        return self.make(z, labels)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        label: int | Tensor | None = None,
        truncation: float | None = None,
        standing: int | None = None,
    ) -> Tensor:
        """[n, C, H, W] in [-1, 1]; without `label` the classes come in turn.

        `label`: one for all, or [n]; with an embedding that all layers share, also class probabilities [n, classes].
        `truncation` in (0, 1] trades variety for quality: latents beyond 2 are drawn again, and all are multiplied by
        it. `standing`: with batch-norm statistics of so many batches of samples at that truncation (16, in Brock et al.
        2019, appendix D). Raises UserError for an unknown class or a truncation out of range.
        """
        if truncation is not None and not 0 < truncation <= 1:
            raise UserError(f"A truncation of {truncation:g} is out of range: it is above 0 and at most 1.")
        if truncation is None:
            z = self.item_noise(n, self.latent, seed=seed, start=start)
        else:
            z = truncation * self.bounded_noise(n, seed=seed, start=start)
        with self.standing_at(standing, truncation) if standing else nullcontext():
            return self.make_at(z, self.wanted(n, label, start), truncation).float()

    def bounded_noise(self, n: int, *, seed: int, start: int, bound: float = 2.0) -> Tensor:
        """[n, Z] standard normal numbers, those beyond `bound` drawn again: row i depends on (seed, start + i) alone."""
        rows = []
        for i in range(start, start + n):
            stream = generator(seed, i)
            z = torch.randn(self.latent, generator=stream)
            while (beyond := z.abs() > bound).any():
                z[beyond] = torch.randn(int(beyond.sum()), generator=stream)
            rows.append(z)
        return torch.stack(rows).to(self.device)

    def wanted(self, n: int, label: int | Tensor | None, start: int) -> Tensor | None:
        if not (self.classes and isinstance(label, Tensor) and label.ndim == 2):
            return super().wanted(n, label, start)
        if not self.soft_labels:
            raise UserError(f"'{self.name}' as built here takes whole classes, not class probabilities.")
        if label.shape != (n, self.classes):
            raise UserError(f"Class probabilities must be {n}x{self.classes}, not {'x'.join(map(str, label.shape))}.")
        return label.float().to(self.device)

    @torch.no_grad()
    def standing_statistics(
        self, batches: int = 16, batch_size: int = 64, *, truncation: float | None = None, seed: int = 0
    ) -> None:
        """Replace the generator's batch-norm statistics by their mean over so many batches of its own samples.

        Statistics kept while training are those of all latents, under weights that moved: at a low truncation the
        pictures want statistics of their own (Brock et al. 2019, section 4.2). All classes in turn; call it on every
        rank. Nothing else changes, spectral norm's vectors neither.
        """
        norms = self.norms()
        with evaluating(self):
            for norm in norms:
                norm.training = True  # it alone: the layers that it holds go on evaluating
            for i in range(batches):
                for norm in norms:
                    norm.momentum = 1 / (i + 1)  # the running mean of all so far
                self.sample(batch_size, seed=seed, start=i * batch_size, truncation=truncation)
            for norm in norms:
                norm.momentum = StandingNorm.momentum

    def norms(self) -> list[StandingNorm]:
        return [m for m in self.generator.modules() if isinstance(m, StandingNorm)]

    @contextmanager
    def standing_at(self, batches: int, truncation: float | None) -> Iterator[None]:
        """Standing statistics, found at the first call and kept, within it; then those of training again."""
        if batches < 1:
            raise UserError(f"Standing statistics are of 1 batch of samples or more, not {batches}: try 16.")
        held = [b for norm in self.norms() for b in norm.buffers(recurse=False)]
        trained = [b.clone() for b in held]
        try:
            if (key := (batches, truncation)) not in self.stood:
                self.standing_statistics(batches, truncation=truncation)
                self.stood[key] = [b.clone() for b in held]
            _copy(held, self.stood[key])
            yield
        finally:
            _copy(held, trained)


@torch.no_grad()
def _copy(held: list[Tensor], values: list[Tensor]) -> None:
    for own, value in zip(held, values, strict=True):
        own.copy_(value)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, then as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
