"""Feature extractors: images in, vectors out. Figures compare only under the same extractor, so each has a hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from genloom import parallel
from genloom.errors import UserError, unknown

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Extractor:
    """A network, your own if you like: images [B, C, H, W] in [-1, 1] -> (features [B, dim], logits [B, classes] or None).

    `batch`: how many images it takes at once.
    """

    name: str
    sha256: str
    dim: int
    net: nn.Module
    batch: int

    @torch.inference_mode()
    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [N, dim] and logits [N, classes], if any, of images [N, C, H, W] in [-1, 1], on the CPU.

        Values are first rounded to 8 bits, as a saved picture is: generated and real are read alike.
        """
        device = next(self.net.parameters()).device
        parts = [self.net(quantise(x.to(device))) for x in images.split(self.batch)]
        features, logits = zip(*parts, strict=True)
        return torch.cat(features).cpu(), None if logits[0] is None else torch.cat(logits).cpu()


def quantise(images: Tensor) -> Tensor:
    """The 8-bit values that a saved picture would hold, still in [-1, 1]."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def fold(net: Net) -> Net:
    """The network ready to judge: each batch norm folded into the convolution before it, in channels_last memory."""
    net.eval()
    for block in list(net.modules()):
        for (name, layer), (after, norm) in pairwise(list(block.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(block, name, fuse_conv_bn_eval(layer, norm))
                setattr(block, after, nn.Identity())
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def extractor(name: str, path: str | Path | None = None) -> Extractor:
    """A ready extractor: `digits` (ours, 96-d), `lite0` (ImageNet, 1280-d) or `inception` (published FID, 2048-d).

    `path` replaces the weights file that is looked up otherwise. Raises UserError when the weights are absent or not
    the right ones.
    """
    from genloom.metrics import digits, inception, lite0

    known = {"digits": (digits, 64), "lite0": (lite0, 32), "inception": (inception, 16)}
    if name not in known:
        raise unknown("feature extractor", name, known)
    module, batch = known[name]
    file = Path(path) if path else module.find_weights()
    if not file.is_file():
        raise UserError(f"There is no weights file '{file}' for the extractor '{name}'.")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    net = module.load(file)
    return Extractor(name, sha256, net.dim, net.to(parallel.device()), batch)
