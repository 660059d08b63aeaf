"""Spectral normalisation: layers whose weight is divided by its largest singular value (Miyato et al. 2018).

The weight is seen as a matrix [rows, the rest]. Power iteration follows its first singular vectors u and v, a step a
forward; no gradient passes through them, but one does pass through sigma = u·W·v. Two conventions are in use, and
published weights need their own: `Spectral…` iterates in evaluation too, `Stored…` divides by what was kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12


@torch.no_grad()
def power_iteration(weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One step from u [rows]: the next u [rows] and v [the rest], both of length 1 (algorithm 1)."""
    matrix = weight.flatten(1)
    with torch.autocast(weight.device.type, enabled=False):  # half precision loses the vector
        v = F.normalize(u @ matrix, dim=0, eps=EPS)
        return F.normalize(matrix @ v, dim=0, eps=EPS), v


def singular_value(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """u·W·v, a number that the weight's gradient passes through."""
    with torch.autocast(weight.device.type, enabled=False):
        return torch.dot(u, weight.flatten(1) @ v)


class Spectral(nn.Module):
    """A layer's weight over its singular value, as in the BigGAN authors' PyTorch release.

    Every forward makes one step from the kept `u0` [1, rows]; only a training forward keeps the result, and the
    singular value `sv0` [1], which is there to be looked at.
    """

    weight: Tensor
    u0: Tensor
    sv0: Tensor

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.register_buffer("u0", torch.randn(1, self.weight.shape[0]))
        self.register_buffer("sv0", torch.ones(1))

    def normalised(self) -> Tensor:
        u, v = power_iteration(self.weight, self.u0[0])
        sigma = singular_value(self.weight, u, v)
        if self.training:
            with torch.no_grad():
                self.u0.copy_(u)
                self.sv0.copy_(sigma)
        return self.weight / sigma


class SpectralConv2d(Spectral, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised(), self.bias)


class SpectralLinear(Spectral, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class SpectralEmbedding(Spectral, nn.Embedding):
    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.normalised())


class Stored(nn.Module):
    """A layer's weight over its singular value, in torch's classic layout: `weight_orig`, `weight_u`, `weight_v`.

    Training makes one step and keeps both vectors; evaluation takes them as they are.
    """

    weight_orig: nn.Parameter
    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        weight = self._parameters.pop("weight")
        assert weight is not None
        self.weight_orig = nn.Parameter(weight.detach())
        self.register_buffer("weight_u", F.normalize(torch.randn(weight.shape[0]), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(weight[0].numel()), dim=0))

    def normalised(self) -> Tensor:
        u, v = self.weight_u, self.weight_v
        if self.training:
            u, v = power_iteration(self.weight_orig, u)
            self.weight_u.copy_(u)
            self.weight_v.copy_(v)
        return self.weight_orig / singular_value(self.weight_orig, u, v)


class StoredConv1d(Stored, nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised(), self.bias)


class StoredConv2d(Stored, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised(), self.bias)


class StoredLinear(Stored, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


def weight_of(layer: nn.Conv2d) -> Tensor:
    """The weight that a convolution multiplies by: normalised where it is one of these."""
    return layer.normalised() if isinstance(layer, (Spectral, Stored)) else layer.weight


def orthogonality(weight: Tensor) -> Tensor:
    """½‖(W·Wᵀ) ∘ (1 - I)‖², how far W's rows are from being orthogonal: Brock et al. 2019, eq. 3, halved as in the release.

    Through the smaller of the two Gram matrices, which have the same norm: no matrix of rows x rows is made.
    """
    with torch.autocast(weight.device.type, enabled=False):
        matrix = weight.flatten(1)
        rows, columns = matrix.shape
        gram = matrix @ matrix.T if rows < columns else matrix.T @ matrix
        return 0.5 * (gram.square().sum() - matrix.square().sum(1).square().sum())
