"""What a discriminator sees its images through, so that a small data set lasts: differentiable, of reals and fakes alike."""

from __future__ import annotations

from torch import Tensor, nn

from genloom.errors import unknown


class Augment(nn.Module):
    """Images [B, C, H, W] in [-1, 1] -> the same, unchanged: the base that the augmentations share."""

    def forward(self, images: Tensor) -> Tensor:
        return images

    def observe(self, real: Tensor) -> None:
        """Told D's logits [B] of real images in each of its steps."""

    def adapt(self) -> None:
        """Called once a step, after all phases."""


AUGMENTATIONS: dict[str, type[Augment]] = {"none": Augment}


def augmentation(name: str) -> Augment:
    """The augmentation of that name. Raises UserError that offers the nearest one."""
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]()
