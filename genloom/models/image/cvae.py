"""The class-conditional variational autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor

from genloom.core import Batch, Card, Spec, register
from genloom.errors import UserError
from genloom.models.image.vae import VAE


@register("cvae")
class CVAE(VAE):
    """A VAE whose encoder and decoder are both told the class."""

    card = Card(
        paper="Learning Structured Output Representation using Deep Conditional Generative Models",
        authors="Kihyuk Sohn, Honglak Lee, Xinchen Yan",
        year=2015,
        url="https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models",
        summary="A VAE told what to draw: the latent holds style alone, the class is asked for.",
        changes=(
            "The prior is N(0, I) whatever the class (the paper's relaxed form, independent of the condition), and the "
            "condition is a class, where the paper also completes images. Samples are the decoder's mean."
        ),
    )
    conditions = ("label",)

    @staticmethod
    def known_size(spec: Spec) -> int:
        if not spec.classes:
            raise UserError("cvae needs data with classes: sort the pictures into a folder a class, or fit vae.")
        return len(spec.classes)

    def known(self, batch: Batch) -> list[Tensor]:
        return [torch.eye(len(self.spec.classes), device=self.device)[batch["label"]]]  # one_hot, but under vmap too

    def sample(self, n: int, *, seed: int = 0, start: int = 0, label: int | Tensor | None = None) -> Tensor:
        """[n, C, H, W] in [-1, 1]: the decoder's mean for z ~ N(0, I); without `label` the classes come in turn.

        Raises UserError for a class that the data does not have.
        """
        z = self.item_noise(n, self.latent, seed=seed, start=start)
        return self.decode(torch.cat([z, *self.known({"label": self.item_labels(n, label, start)})], 1))
