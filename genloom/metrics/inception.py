"""The Inception-v3 behind published FID figures (Szegedy et al. 2015; the TensorFlow graph of 2015-12-05), 2048-d.

Layer names are torch-fidelity's, whose conversion of the weights it reads. That file is the user's own, or fetched on
request; its hash is part of its name and always checked. The graph departs from the paper: average pools leave the
padding out, the last block pools by maximum, 1008 classes, and TensorFlow 1's bilinear resize to 299 x 299.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.errors import UserError

HASH = "6726825d"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-{HASH}.pth"
VARIABLE = "GENLOOM_INCEPTION"
SIZE = 299

Kernel = int | tuple[int, int]
Ends = dict[str, Kernel]
Chain = list[tuple[int, Kernel | Ends]]
ROW, COLUMN = (1, 7), (7, 1)
CROSS: Ends = {"a": (1, 3), "b": (3, 1)}  # side by side on one input
MEAN, SAME, HALF = nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2)


class Conv(nn.Sequential):
    """Convolution, batch norm (eps 1e-3), ReLU; "same" padding at stride 1, none at 2."""

    def __init__(self, i: int, o: int, kernel: Kernel, stride: int = 1, padding: str = "same"):
        super().__init__()
        self.conv = nn.Conv2d(i, o, kernel, stride, padding if stride == 1 else 0, bias=False)
        self.bn = nn.BatchNorm2d(o, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)


class Mixed(nn.Module):
    """Branches side by side, their channels joined; `branch_pool` begins with `pool`.

    A branch is a chain of convolutions (width, kernel), the last one at `stride`; after CROSS both ends are joined.
    """

    def __init__(self, i: int, pool: nn.Module, stride: int = 1, **branches: Chain):
        super().__init__()
        self.pool = pool
        self.chains: dict[str, list[list[str]]] = {branch: [] for branch in branches}
        for branch, steps in branches.items():
            width = i
            for number, (out, kernel) in enumerate(steps, 1):
                name = f"{branch}_{number}" if len(steps) > 1 else branch
                ends = kernel if isinstance(kernel, dict) else {"": kernel}
                for end, size in ends.items():
                    self.add_module(name + end, Conv(width, out, size, stride if number == len(steps) else 1))
                self.chains[branch].append([name + end for end in ends])
                width = out

    def forward(self, x: Tensor) -> Tensor:
        joined: list[Tensor] = []
        for branch, chain in self.chains.items():
            ends = [self.pool(x) if branch == "branch_pool" else x]
            for layers in chain:
                ends = [getattr(self, layer)(ends[0]) for layer in layers]
            joined += ends
        return torch.cat(joined, 1)


def block_a(i: int, pool: int) -> Mixed:
    """35 x 35: 1x1 · 5x5 · double 3x3 · pool."""
    double: Chain = [(64, 1), (96, 3), (96, 3)]
    five: Chain = [(48, 1), (64, 5)]
    return Mixed(i, MEAN, branch1x1=[(64, 1)], branch5x5=five, branch3x3dbl=double, branch_pool=[(pool, 1)])


def block_b(i: int) -> Mixed:
    """35 -> 17: strided 3x3 · double 3x3 · max pool."""
    return Mixed(i, HALF, 2, branch3x3=[(384, 3)], branch3x3dbl=[(64, 1), (96, 3), (96, 3)], branch_pool=[])


def block_c(c: int) -> Mixed:
    """17 x 17: 1x1 · 7x7 · double 7x7 (as 1x7 and 7x1) · pool."""
    single: Chain = [(c, 1), (c, ROW), (192, COLUMN)]
    double: Chain = [(c, 1), (c, COLUMN), (c, ROW), (c, COLUMN), (192, ROW)]
    return Mixed(768, MEAN, branch1x1=[(192, 1)], branch7x7=single, branch7x7dbl=double, branch_pool=[(192, 1)])


def block_d() -> Mixed:
    """17 -> 8: 3x3 · 7x7 then 3x3 · max pool."""
    seven: Chain = [(192, 1), (192, ROW), (192, COLUMN), (192, 3)]
    return Mixed(768, HALF, 2, branch3x3=[(192, 1), (320, 3)], branch7x7x3=seven, branch_pool=[])


def block_e(i: int, pool: nn.Module) -> Mixed:
    """8 x 8: 1x1 · 3x3 split in two · double 3x3 split in two · pool."""
    single: Chain = [(384, 1), (384, CROSS)]
    double: Chain = [(448, 1), (384, 3), (384, CROSS)]
    return Mixed(i, pool, branch1x1=[(320, 1)], branch3x3=single, branch3x3dbl=double, branch_pool=[(192, 1)])


class Inception(nn.Module):
    """Images [B, 1 | 3 | 4, H, W] in [-1, 1] -> (2048 pooled features, 1008 logits without bias, as IS takes them)."""

    dim = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Conv(3, 32, 3, 2), Conv(32, 32, 3, padding="valid")
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = Conv(32, 64, 3), Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padding="valid")
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (block_c(c) for c in (128, 160, 160, 192))
        self.Mixed_7a = block_d()
        self.Mixed_7b, self.Mixed_7c = block_e(1280, MEAN), block_e(2048, SAME)
        self.fc = nn.Linear(self.dim, 1008)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = prepare(images)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))  # [B, 2048]
        return features, features @ self.fc.weight.T


def prepare(images: Tensor) -> Tensor:
    """RGB at 299 x 299 by TensorFlow 1's bilinear resize, scaled (pixel - 128) / 128."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
    pixels = (images + 1) * 127.5
    rows, columns = (_resize(n, images) for n in images.shape[2:])
    return (rows @ pixels @ columns.T - 128) / 128


def _resize(n: int, like: Tensor) -> Tensor:
    """[299, n] interpolation weights: pixel i reads place i * n / 299, corners not centred."""
    place = (torch.arange(SIZE, dtype=torch.float64) * (n / SIZE)).clamp(max=n - 1)
    return (1 - (place[:, None] - torch.arange(n)).abs()).clamp_min(0).to(like)


def find_weights() -> Path:
    """The file that GENLOOM_INCEPTION names; `download` fetches it once into the cache. Raises UserError otherwise."""
    named = os.environ.get(VARIABLE, "")
    if named not in ("", "download"):
        return Path(named)
    cached = Path(os.environ.get("GENLOOM_HOME") or Path.home() / ".cache" / "genloom") / Path(URL).name
    if cached.is_file():
        return cached
    if not named:
        raise UserError(
            f"The extractor 'inception' needs its weights: fetch {URL} and set {VARIABLE} to that file, "
            f"or set {VARIABLE}=download."
        )
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(cached), hash_prefix=HASH, progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{URL} could not be fetched ({error}): fetch it yourself and set {VARIABLE} to it.") from error
    return cached


def load(path: Path) -> Inception:
    """The network from torch-fidelity's file. Raises UserError when its sha256 is not the published one."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(HASH):
        raise UserError(f"'{path}' is not the published Inception file: its sha256 is {found[:8]}…, not {HASH}….")
    net = Inception()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()
