"""InfoGAN: a code in the latents that the picture must give back, so that it comes to mean something."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Card, Phase, Recipe, Result, Spec, register
from genloom.errors import UserError
from genloom.models.image.dcgan import DCGAN, Discriminator, Generator
from genloom.objectives.adversarial import Adversarial


@register("infogan")
class InfoGAN(Adversarial):
    """DCGAN whose latents hold one categorical code of `codes` values and `styles` continuous ones in [-1, 1].

    Latents are [noise, one-hot code, styles]; the head Q reads the codes off the discriminator's features, and
    generator and Q together raise the bound on the information between code and picture (Chen et al. 2016, eq. 5).
    """

    card = Card(
        paper="InfoGAN: Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets",
        authors="Chen, Duan, Houthooft, Schulman, Sutskever, Abbeel",
        year=2016,
        url="https://arxiv.org/abs/1606.03657",
        summary="Codes learnt without labels: one picks the kind of picture, others its slant or its width.",
        changes="The information term moves generator and Q alone, not the features of the discriminator that Q reads; "
        "continuous codes have unit variance under Q. A running average of the generator makes the samples.",
        results=(Result("error % of the code as a classifier", 5.0, "MNIST", "section 7.2"),),
    )
    recipes = {
        **DCGAN.recipes,
        "paper": Recipe(steps=50_000, batch_size=128, betas=(0.5, 0.999), ema=0.0, model={"latent": 62}),
    }
    together = False
    conditions = ("code", "style")
    discriminator: Discriminator

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 62,
        width: int = 64,
        codes: int = 10,
        styles: int = 2,
        information: float = 1.0,
        style_information: float = 0.1,
    ):
        super().__init__(spec, latent=latent, objective="bce")
        self.codes, self.styles = codes, styles
        self.information, self.style_information = information, style_information
        self.generator = Generator(latent + codes + styles, spec.shape, width)
        self.discriminator = Discriminator(spec.shape, width)
        features = self.discriminator.features
        self.q = nn.Sequential(nn.Linear(features, 128), nn.LeakyReLU(0.1), nn.Linear(128, codes + styles))

    def phases(self) -> list[Phase]:
        return [Phase("discriminator", ("discriminator",)), Phase("generator", ("generator", "q"))]

    def latents(self, n: int) -> Tensor:
        code = parallel.randint(self.codes, n, self.device)
        style = 2 * parallel.rand(n, self.styles, device=self.device) - 1
        return self.join(self.randn(n, self.latent), code, style)

    def join(self, noise: Tensor, code: Tensor, style: Tensor) -> Tensor:
        return torch.cat([noise, F.one_hot(code, self.codes).to(noise.dtype), style], 1)

    def generator_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """The adversarial loss, the code's cross-entropy (nats), and the styles' squared error, times their weights."""
        features = self.discriminator.body(self.generator(latents))
        guess, style = self.q(features).float().split([self.codes, self.styles], 1)
        _, code, wanted = latents.split([self.latent, self.codes, self.styles], 1)
        return {
            "generator": self.fool(real, self.discriminator.head(features).squeeze(1).float()),
            "code": self.information * F.cross_entropy(guess, code, reduction="none"),
            "style": self.style_information * (style - wanted).square().sum(1),
        }

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        code: int | Tensor | None = None,
        style: float | Tensor | None = None,
    ) -> Tensor:
        """[n, C, H, W] in [-1, 1]. `code`: for all, one each, or in turn; `style` in [-1, 1]: for all, or [n, styles].

        Raises UserError when there is no such code, or a style lies outside [-1, 1].
        """
        drawn = self.item_noise(n, self.latent + self.styles, seed=seed, start=start)
        noise, own = drawn.split([self.latent, self.styles], 1)
        chosen = torch.arange(start, start + n) % self.codes if code is None else torch.as_tensor(code).long().expand(n)
        if n and not 0 <= int(chosen.min()) <= int(chosen.max()) < self.codes:
            raise UserError(f"There is no code {int(chosen.max())}: this model has codes 0 to {self.codes - 1}.")
        uniform = torch.erf(own / math.sqrt(2))  # of standard normal numbers: in [-1, 1]
        wanted = uniform if style is None else torch.as_tensor(style).to(own).expand_as(own)
        if n and self.styles and float(wanted.abs().max()) > 1:
            raise UserError(f"A style of {float(wanted.abs().max()):g} is out of range: styles lie in [-1, 1].")
        return self.generator(self.join(noise, chosen.to(noise.device), wanted)).float()
