"""A wave in bands of equal width, each at a lower rate, and back: cosine-modulated filters (Nguyen 1994)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS, BETA = 62, 9.0  # of the prototype, as multi-band MelGAN has it (Yang et al. 2020, section 3.2)
CUTOFFS = {2: 0.267, 4: 0.142, 8: 0.0795}  # of the prototype, over the whole rate: with them errors lie under -49 dB


def filters(bands: int, sign: int) -> Tensor:
    """[bands, TAPS + 1] f32: of the analysis (sign 1) or of the synthesis (-1)."""
    n = torch.arange(TAPS + 1, dtype=torch.float64) - TAPS / 2
    prototype = CUTOFFS[bands] * torch.sinc(CUTOFFS[bands] * n)
    prototype *= torch.kaiser_window(TAPS + 1, periodic=False, beta=BETA, dtype=torch.float64)
    k = torch.arange(bands, dtype=torch.float64)[:, None]
    turned = (2 * k + 1) * math.pi / (2 * bands) * n + sign * (-1) ** k * math.pi / 4
    return (2 * prototype * torch.cos(turned)).float()


class Analysis(nn.Module):
    """A wave [B, 1, N] -> its bands [B, K, N / K]."""

    weight: Tensor

    def __init__(self, bands: int):
        super().__init__()
        self.bands = bands
        self.register_buffer("weight", filters(bands, 1)[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, stride=self.bands, padding=TAPS // 2)


class Synthesis(nn.ConvTranspose1d):
    """Bands [B, K, T] -> the wave [B, 1, K · T]; nothing in it is learnt."""

    def __init__(self, bands: int):
        super().__init__(bands, 1, TAPS + 1, bands, padding=TAPS // 2, output_padding=bands - 1, bias=False)
        del self.weight
        self.register_buffer("weight", bands * filters(bands, -1).flip(1)[:, None], persistent=False)
