"""How far one picture looks from another: a distance to follow downhill, differentiable, for pictures of any one size."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from genloom.errors import UserError, unknown
from genloom.metrics.features import extractor
from genloom.metrics.lite0 import Lite0
from genloom.metrics.vgg import find_weights as find_vgg
from genloom.metrics.vgg import load as load_vgg

SMALLEST = 8  # side of the coarsest scale


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """[B]: mean squared differences of [B, C, H, W], averaged over scales from full size down to some 8 pixels."""
    scales = []
    while True:
        scales.append((a - b).square().flatten(1).mean(1))
        if min(a.shape[2:]) < 2 * SMALLEST:
            return sum(scales[1:], scales[0]) / len(scales)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)


def feature_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """[B]: squared distances of features [B, C, H, W] of unit length at each position, averaged over positions and layers.

    After Zhang et al. 2018, eq. 1, all channels weighted alike.
    """
    apart = [
        (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).flatten(1).mean(1)
        for x, y in zip(a, b, strict=True)
    ]
    return sum(apart[1:], apart[0]) / len(apart)


def looker(name: str) -> Callable[[Tensor], list[Tensor]] | None:
    """What sees features [B, C, H, W] at several scales of pictures [B, C, H, W] in [-1, 1]: `lite0`, `vgg19`, or none.

    `auto`: lite0 where its weights are installed, else none. Raises UserError for another, or one that is not there.
    """
    if name == "none":
        return None
    if name == "vgg19":
        return load_vgg(find_vgg()).requires_grad_(False).scales
    if name not in ("lite0", "auto"):
        raise unknown("perceptual loss", name, ("auto", "lite0", "vgg19", "none"))
    try:
        net = _lite0()
    except UserError:
        if name == "auto":
            return None
        raise
    return lambda images: net.scales(images, min(224, max(64, 32 * round(max(images.shape[2:]) / 32))))


def _lite0() -> Lite0:
    net = extractor("lite0").net.requires_grad_(False)
    assert isinstance(net, Lite0)
    return net


def likeness(target: Tensor) -> tuple[str, Callable[[Tensor], Tensor]]:
    """A distance [B] of images [B, C, H, W] in about [-1, 1] from a target [1, C, H, W], and what it is called.

    Features of EfficientNet-lite0 at every scale and pixels; pixels alone where its weights are not installed.
    """
    try:
        net = _lite0()
    except UserError:
        return "pixels at several scales", lambda images: pixel_distance(images, target.expand_as(images))
    side = 224 if max(target.shape[2:]) > 112 else 112
    wanted = net.scales(target, side)

    def apart(images: Tensor) -> Tensor:
        features = feature_distance(net.scales(images, side), [f.expand(len(images), -1, -1, -1) for f in wanted])
        return features + pixel_distance(images, target.expand_as(images))

    return "features of EfficientNet-lite0 and pixels", apart
