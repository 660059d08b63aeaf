"""What a discriminator sees its images through, so that a small data set lasts: differentiable, of reals and fakes alike.

A name may carry a setting after a colon: `ada:0.3` keeps the strength where it is, `diffaugment:translation,cutout`
takes these two alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.errors import UserError, unknown
from genloom.nn.ada import DRAWS, GROUPS, transform


class Augment(nn.Module):
    """Images [B, C, H, W] in [-1, 1] -> the same, unchanged: the base that the augmentations share."""

    def forward(self, images: Tensor) -> Tensor:
        return images

    def observe(self, real: Tensor) -> None:
        """Told D's logits [B] of real images in each of its steps."""

    def adapt(self) -> None:
        """Called once a step, after all phases."""


class DiffAugment(Augment):
    """Colour, translation and cutout of every sample: Zhao et al. 2020, "Differentiable Augmentation", section 4.

    Translation moves by up to an eighth of a side, cutout blanks a box of half a side; both leave zeros. Raises
    UserError for a policy that is none of the three.
    """

    def __init__(self, policies: str = "color,translation,cutout"):
        super().__init__()
        self.policies = [POLICIES[p] if p in POLICIES else _refuse(p) for p in policies.split(",")]

    def forward(self, images: Tensor) -> Tensor:
        uniforms = parallel.rand(len(images), len(self.policies), 3, device=images.device)
        with torch.autocast(images.device.type, enabled=False):
            for i, policy in enumerate(self.policies):
                images = policy(images, uniforms[:, i].to(images.dtype))
        return images


def colour(images: Tensor, u: Tensor) -> Tensor:
    """Brightness ± 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5, by u [B, 3] in [0, 1)."""
    brightness, saturation, contrast = u.view(-1, 3, 1, 1, 1).unbind(1)
    images = images + brightness - 0.5
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def translation(images: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of each side, by u [B, 3] in [0, 1); zeros come in."""

    def along(size: int, u: Tensor) -> Tensor:  # [B, 1, size, size] of zeros and ones: exact, and differentiable twice
        most = int(size / 8 + 0.5)
        shift = (u * (2 * most + 1)).floor().view(-1, 1, 1, 1) - most
        places = torch.arange(size, device=u.device)
        return (places.unsqueeze(1) == places + shift).to(images.dtype)

    height, width = images.shape[2:]
    return along(height, u[:, 0]) @ images @ along(width, u[:, 1]).mT


def cutout(images: Tensor, u: Tensor) -> Tensor:
    """Blank a box of half of each side around a uniform place, by u [B, 3] in [0, 1)."""

    def inside(size: int, u: Tensor) -> Tensor:  # [B, size]
        box = int(size / 2 + 0.5)
        first = (u * (size + 1 - box % 2)).floor().unsqueeze(1) - box // 2
        places = torch.arange(size, device=u.device)
        return (places >= first) & (places < first + box)

    height, width = images.shape[2:]
    blank = inside(height, u[:, 0]).unsqueeze(2) & inside(width, u[:, 1]).unsqueeze(1)
    return images * (~blank).unsqueeze(1)


POLICIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": colour,
    "translation": translation,
    "cutout": cutout,
}


def _refuse(policy: str) -> Callable[[Tensor, Tensor], Tensor]:
    raise unknown("policy", policy, POLICIES)


class ADA(Augment):
    """Adaptive discriminator augmentation: Karras et al. 2020, "Training GANs with Limited Data".

    `groups` of `ada.GROUPS`, each transform drawn with probability `p`. Every `interval` steps p rises where D overfits,
    E[sign D(real)] > target, and falls where it does not, by 1 in `kimg` thousand real images. A given p stays. Raises
    UserError for one outside [0, 1].
    """

    p: Tensor
    signs: Tensor
    seen: Tensor
    steps: Tensor

    def __init__(
        self,
        groups: tuple[str, ...],
        p: str | float | None = None,
        *,
        target: float = 0.6,
        kimg: float = 500.0,
        interval: int = 4,
    ):
        super().__init__()
        self.transforms = frozenset(t for g in groups for t in GROUPS[g])
        self.adaptive, self.target, self.images, self.interval = p is None, target, 1000 * kimg, interval
        self.register_buffer("p", torch.tensor(0.0 if p is None else probability(p)))
        self.register_buffer("signs", torch.zeros(()))  # sum of sign D(real) since p last moved, over all ranks
        self.register_buffer("seen", torch.zeros(()))  # over so many images
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor) -> Tensor:
        if not self.p:
            return images
        uniforms = parallel.rand(len(images), len(DRAWS), 3, device=images.device)
        with torch.autocast(images.device.type, enabled=False):
            return transform(images, uniforms, self.p, self.transforms)

    @torch.no_grad()
    def observe(self, real: Tensor) -> None:
        if self.adaptive:
            self.signs += parallel.mean(real.detach().float().sign().sum()) * parallel.world()
            self.seen += len(real) * parallel.world()

    @torch.no_grad()
    def adapt(self) -> None:
        if not self.adaptive:
            return
        self.steps += 1
        due = self.steps % self.interval == 0  # on the device: no step waits for it
        overfits = torch.sign(self.signs / self.seen.clamp(min=1) - self.target)
        self.p.add_(due * overfits * self.seen / self.images).clamp_(0, 1)
        self.signs *= ~due
        self.seen *= ~due


def probability(text: str | float) -> float:
    try:
        p = float(text)
    except ValueError:
        p = -1.0
    if not 0 <= p <= 1:
        raise UserError(f"The strength of an augmentation is a number from 0 to 1, as in ada:0.3, not '{text}'.")
    return p


BGC = ("blit", "geom", "color")  # the paper's choice
AUGMENTATIONS: dict[str, Callable[..., Augment]] = {
    "none": Augment,
    "diffaugment": DiffAugment,
    "ada": partial(ADA, BGC),
    **{f"ada-{group}": partial(ADA, (group,)) for group in GROUPS},
    "ada-bg": partial(ADA, BGC[:2]),
    "ada-bgc": partial(ADA, BGC),
    "ada-bgcf": partial(ADA, (*BGC, "filter")),
    "ada-bgcfn": partial(ADA, (*BGC, "filter", "noise")),
    "ada-bgcfnc": partial(ADA, (*BGC, "filter", "noise", "cutout")),
}


def augmentation(name: str) -> Augment:
    """The augmentation of that name, perhaps with a setting after a colon. Raises UserError that offers the nearest one."""
    kind, _, setting = name.partition(":")
    if kind not in AUGMENTATIONS:
        raise unknown("augmentation", kind, AUGMENTATIONS)
    if setting and kind == "none":
        raise UserError(f"The augmentation 'none' has no setting '{setting}'.")
    return AUGMENTATIONS[kind](setting) if setting else AUGMENTATIONS[kind]()
