"""How good a made film is: frame by frame beside the real one, from frame to frame, and as one of many clips.

Frames of a film are [T, C, H, W] in [-1, 1]; a flow [T - 1, 2, H, W] says in pixels, x first, where in frame t each pixel of
frame t + 1 comes from, and `sure` [T - 1, 1, H, W] is 1 where that is known, 0 where it was hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genloom.metrics import image
from genloom.metrics.features import quantise
from genloom.metrics.lite0 import SIZE, Lite0
from genloom.metrics.perceptual import feature_distance
from genloom.nn.warp import warp

PROTOCOL = "features averaged over a clip, and how much each changes in a step; published FVD looks through I3D"
EQUAL = 60.0  # dB: what frames of 8 bits that are the same are given, as in libvmaf


# ── frame by frame ───────────────────────────────────────────────────────────────────────────────────────────────
def psnr(real: Tensor, made: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame [T], in dB; at most 60, which frames get that are the same."""
    return image.psnr(real, made).clamp(max=EQUAL)


def ssim(real: Tensor, made: Tensor) -> Tensor:
    """Structural similarity of each frame [T], with a uniform window of 7 pixels."""
    return image.ssim(real, made)


@torch.inference_mode()
def seen(net: Lite0, frames: Tensor, batch: int = 32) -> tuple[list[Tensor], Tensor]:
    """What EfficientNet-lite0 sees of frames at 224 x 224: its maps at five scales, and its features [T, 1280]."""
    device = next(net.parameters()).device
    maps, features = [], []
    for some in frames.split(batch):
        maps.append(net.scales(quantise(some.to(device)), SIZE))
        features.append(net.pooled(maps[-1][-1]))
    return [torch.cat(scale) for scale in zip(*maps, strict=True)], torch.cat(features).cpu()


def perceptual(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """How different each frame looks [T]: distances of the maps that `seen` gives, from 0 to 4.

    After Zhang et al. 2018, eq. 1, with all channels weighted alike; LPIPS has learnt weights and another network, so its
    figures are others.
    """
    return feature_distance(real, made).cpu()


# ── from frame to frame ──────────────────────────────────────────────────────────────────────────────────────────
def warping_error(frames: Tensor, flow: Tensor, sure: Tensor) -> Tensor:
    """What the motion does not explain, of each step [T - 1]: the mean over pixels i that were not hidden, and channels, of

    |V_{t+1}(i) - W(V_t)(i)|^2, values from 0 to 1, where W moves frame t along the flow OF THE REAL FILM: Lai et al. 2018,
    "Learning Blind Video Temporal Consistency", eq. 11, but that there W moves frame t + 1 back. A film of one grey has none,
    so it is to be read beside PSNR, and beside the real film's own: its noise and light, and the flow's faults. NaN where
    all is hidden.
    """
    apart = ((frames[1:] - warp(frames[:-1], flow)) / 2).square().mean(1, keepdim=True)  # [T - 1, 1, H, W]
    return (apart * sure).flatten(1).sum(1) / sure.flatten(1).sum(1)


def flicker(real: Tensor, made: Tensor) -> Tensor:
    """How far changes from frame to frame are from the real ones, of each step [T - 1], in grey levels of 255.

    The root of the mean over pixels and channels of |(made_{t+1} - made_t) - (real_{t+1} - real_t)|^2: dtSSD of Erofeev et
    al. 2015, "Perceptually Motivated Benchmark for Video Matting". No flow is needed, and an error that stays where it is
    does not count.
    """
    apart = (made - real) * 127.5
    return (apart[1:] - apart[:-1]).square().flatten(1).mean(1).sqrt()


def motion_error(real: Tensor, made: Tensor) -> Tensor:
    """Mean distance in pixels between two films' flows [T - 1, 2, H, W], of each step [T - 1].

    tOF of Chu et al. 2020, "Learning Temporal Coherence via Self-Supervision", with lengths of vectors in place of their
    coordinates' absolute values.
    """
    return (real - made).norm(dim=1).flatten(1).mean(1)


# ── as one of many clips ─────────────────────────────────────────────────────────────────────────────────────────
def clip_features(features: Tensor) -> Tensor:
    """[N, 2 d] of features of frames [N, T, d]: their mean over time, and the mean of how much each changes in a step.

    What `fvd-EXTRACTOR@N×T` and `kvd-…` compare. Both halves count: the first what clips show, the second how they move, if
    not which way. Published FVD (Unterthiner et al. 2018) looks through I3D, a network of motion, so its figures are others.
    """
    steps = (features[:, 1:] - features[:, :-1]).abs()
    return torch.cat([features.mean(1), steps.mean(1)], 1)
