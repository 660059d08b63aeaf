"""AC-GAN: the discriminator also says which class a picture is of, and the generator must be understood."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Card, Phase, Recipe, Result, Spec, register
from genloom.errors import UserError
from genloom.models.image.cgan import Told
from genloom.models.image.dcgan import DCGAN, Discriminator, Generator


@register("acgan")
class ACGAN(Told):
    """DCGAN with the class beside the latents, and a classifier that reads the discriminator's features.

    Both players lower the classifier's error, on reals and fakes (discriminator) or on fakes (generator): the paper's
    L_C, here times `classify`. Raises UserError for data without classes.
    """

    card = Card(
        paper="Conditional Image Synthesis with Auxiliary Classifier GANs",
        authors="Odena, Olah, Shlens",
        year=2017,
        url="https://arxiv.org/abs/1610.09585",
        summary="A discriminator that is a classifier too: pictures must look real and be of the class asked for.",
        changes="DCGAN's networks for any size, without the paper's dropout and noise in the discriminator. A running average "
        "of the generator makes the samples.",
        results=(Result("Inception score", 8.25, "CIFAR-10", "section 4"),),
    )
    recipes = {
        **DCGAN.recipes,
        "paper": Recipe(steps=50_000, batch_size=100, betas=(0.5, 0.999), ema=0.0, model={"latent": 110}),
    }
    together = False
    discriminator: Discriminator

    def __init__(self, spec: Spec, *, latent: int = 100, width: int = 64, classify: float = 1.0):
        if not spec.classes:
            raise UserError("acgan needs data with classes: sort the pictures into a folder a class, or fit dcgan.")
        super().__init__(spec, latent=latent, objective="bce", conditional=True)
        self.classify = classify
        self.generator = Generator(latent + self.classes, spec.shape, width)
        self.discriminator = Discriminator(spec.shape, width)
        self.classifier = nn.Linear(self.discriminator.features, self.classes)

    def phases(self) -> list[Phase]:
        return [Phase("discriminator", ("discriminator", "classifier")), Phase("generator", ("generator",))]

    def examine(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B], and the cross-entropy [B] (nats) of the class that the picture should be of."""
        features = self.discriminator.body(self.augment(images))
        error = F.cross_entropy(self.classifier(features).float(), labels, reduction="none")
        return self.discriminator.head(features).squeeze(1).float(), self.classify * error

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        assert labels is not None
        r, error_real = self.examine(real, labels)
        f, error_fake = self.examine(self.fakes(latents, labels), labels)
        return {"discriminator": self.objective.critic(r, f), "class_real": error_real, "class_fake": error_fake}

    def generator_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        assert labels is not None
        f, error = self.examine(self.make(latents, labels), labels)
        return {"generator": self.objective.generator(f, f), "class": error}

    def logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.discriminator(images).float()
