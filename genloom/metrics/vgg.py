"""VGG-19's features, for those who have its weights: what the papers of image synthesis measure likeness with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from genloom.errors import UserError

# channels, and convolutions, of each scale up to its last map
WIDTHS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 1))
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VARIABLE = "GENLOOM_VGG19"


class Vgg19(nn.Module):
    """Simonyan & Zisserman 2015, up to the first convolution of the fifth scale; parameters named as torchvision does."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for i, (channels, count) in enumerate(WIDTHS):
            layers += [nn.MaxPool2d(2)] if i else []
            for _ in range(count):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
                width = channels
        self.features = nn.Sequential(*layers)

    def scales(self, images: Tensor) -> list[Tensor]:
        """The first map [B, C, H, W] of each of five scales, of images [B, 1 | 3 | 4, H, W] in [-1, 1]."""
        x = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
        x = ((x + 1) / 2 - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(DEVIATION)[:, None, None]
        maps, first = [], True
        for layer in self.features:
            x = layer(x)
            if first and isinstance(layer, nn.ReLU):
                maps.append(x)
            first = isinstance(layer, nn.MaxPool2d) or (first and not isinstance(layer, nn.ReLU))
        return maps


def find_weights() -> Path:
    """The file that GENLOOM_VGG19 names, or the one that torchvision once downloaded. Raises UserError without either."""
    if named := os.environ.get(VARIABLE):
        if Path(named).is_file():
            return Path(named)
        raise UserError(f"{VARIABLE} names '{named}', and there is no such file.")
    found = sorted((Path(torch.hub.get_dir()) / "checkpoints").glob("vgg19-*.pth"))
    if not found:
        raise UserError(f"'vgg19' needs its weights: name torchvision's vgg19-….pth in the variable {VARIABLE}.")
    return found[-1]


def load(path: Path) -> Vgg19:
    """The network from torchvision's state dict; the classifier is left out. Raises UserError for any other file."""
    net = Vgg19()
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        assert isinstance(held, Mapping)
        net.load_state_dict({k: held[k] for k in net.state_dict()})
    except Exception as error:  # a file of anything: torch.load raises what its reader happens to
        raise UserError(f"'{path}' does not hold the weights of VGG-19 as torchvision names them.") from error
    return net.eval()
