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


class Conv(nn.Module):
    """Convolution, batch norm (eps 1e-3), ReLU."""

    def __init__(
        self, i: int, o: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ):
        super().__init__()
        self.conv = nn.Conv2d(i, o, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(o, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


class BlockA(nn.Module):
    """35 x 35: 1x1 · 5x5 · double 3x3 · pool."""

    def __init__(self, i: int, pool: int):
        super().__init__()
        self.branch1x1 = Conv(i, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(i, 48, 1), Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(i, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(i, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double,
                          self.branch_pool(_mean_pool(x))], 1)  # fmt: skip


class BlockB(nn.Module):
    """35 -> 17: strided 3x3 · double 3x3 · max pool."""

    def __init__(self, i: int):
        super().__init__()
        self.branch3x3 = Conv(i, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(i, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17 x 17: 1x1 · 7x7 · double 7x7 (as 1x7 and 7x1) · pool."""

    def __init__(self, c: int):
        super().__init__()
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = Conv(768, c, 1), _row(c, c), _column(c, 192)
        self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3 = Conv(768, c, 1), _column(c, c), _row(c, c)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = _column(c, c), _row(c, 192)
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_mean_pool(x))], 1)


def _row(i: int, o: int) -> Conv:
    return Conv(i, o, (1, 7), padding=(0, 3))


def _column(i: int, o: int) -> Conv:
    return Conv(i, o, (7, 1), padding=(3, 0))


class BlockD(nn.Module):
    """17 -> 8: 3x3 · 7x7 then 3x3 · max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(768, 192, 1), Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(768, 192, 1), _row(192, 192)
        self.branch7x7x3_3, self.branch7x7x3_4 = _column(192, 192), Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8 x 8: 1x1 · 3x3 split in two · double 3x3 split in two · pool."""

    def __init__(self, i: int, last: bool):
        super().__init__()
        self.pool = _max_pool if last else _mean_pool
        self.branch1x1 = Conv(i, 320, 1)
        self.branch3x3_1 = Conv(i, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _cross()
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(i, 448, 1), Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _cross()
        self.branch_pool = Conv(i, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat([self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single),
                          self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double),
                          self.branch_pool(self.pool(x))], 1)  # fmt: skip


def _cross() -> tuple[Conv, Conv]:
    return Conv(384, 384, (1, 3), padding=(0, 1)), Conv(384, 384, (3, 1), padding=(1, 0))


class Inception(nn.Module):
    """Images [B, 1 | 3 | 4, H, W] in [-1, 1] -> (2048 pooled features, 1008 logits without bias, as IS takes them)."""

    dim = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Conv(3, 32, 3, 2), Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80, 1), Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (BlockC(c) for c in (128, 160, 160, 192))
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, last=False), BlockE(2048, last=True)
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
    place = torch.arange(SIZE, dtype=torch.float64) * (n / SIZE)
    low = place.long()
    weights = torch.zeros(SIZE, n, dtype=torch.float64)
    every = torch.arange(SIZE)
    weights[every, low] = 1 - (place - low)
    weights[every, (low + 1).clamp(max=n - 1)] += place - low
    return weights.to(like)


def find_weights() -> Path:
    """The file that GENLOOM_INCEPTION names; `download` fetches it once into the cache. Raises UserError otherwise."""
    named = os.environ.get(VARIABLE, "")
    if named and named != "download":
        return Path(named)
    home = os.environ.get("GENLOOM_HOME") or Path.home() / ".cache" / "genloom"
    cached = Path(home) / URL.rsplit("/", 1)[1]
    if not cached.is_file():
        if named != "download":
            raise UserError(
                f"The extractor 'inception' needs its weights: fetch {URL} and set {VARIABLE} to that file, "
                f"or set {VARIABLE}=download."
            )
        _download(cached)
    return cached


def _download(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(URL, str(target), hash_prefix=HASH, progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{URL} could not be fetched ({error}): fetch it yourself and set {VARIABLE} to it.") from error


def load(path: Path) -> Inception:
    """The network from torch-fidelity's file. Raises UserError when its sha256 is not the published one."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(HASH):
        raise UserError(f"'{path}' is not the published Inception file: its sha256 is {found[:8]}…, not {HASH}….")
    net = Inception()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()
