"""Measures of films on films whose figures are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genloom.core import generator
from genloom.metrics import distribution, video
from genloom.metrics.features import extractor
from genloom.metrics.lite0 import Lite0


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=generator(seed)) * 2 - 1


def gliding(steps: int = 6, by: tuple[int, int] = (3, 2)) -> tuple[Tensor, Tensor, Tensor]:
    """Frames that glide by whole pixels (x, y) a step, the flow that says so, and where it is known."""
    dx, dy = by
    wide = texture(32 + dy * steps, 48 + dx * steps)
    frames = torch.cat([wide[:, :, dy * t : dy * t + 32, dx * t : dx * t + 48] for t in range(steps)])
    flow = torch.tensor([dx, dy]).float().view(1, 2, 1, 1).expand(steps - 1, 2, 32, 48)
    sure = torch.zeros(steps - 1, 1, 32, 48)
    sure[:, :, : 32 - dy, : 48 - dx] = 1  # the rest came into view
    return frames, flow, sure


def test_what_glides_by_a_known_flow_has_no_warping_error() -> None:
    frames, flow, sure = gliding()
    assert float(video.warping_error(frames, flow, sure).max()) < 1e-10
    assert float(video.warping_error(frames, torch.zeros_like(flow), sure).min()) > 0.1  # two noises: 1/6
    assert float(video.warping_error(frames, flow, torch.ones_like(sure)).min()) > 0.01  # hidden pixels would count


def test_a_warping_error_is_the_mean_square_of_values_from_0_to_1() -> None:
    frames = torch.zeros(3, 3, 16, 16)
    frames[1] += 0.5  # a quarter of the range from -1 to 1
    still, half = torch.zeros(2, 2, 16, 16), torch.ones(2, 1, 16, 16)
    half[:, :, :8] = 0
    assert video.warping_error(frames, still, torch.ones_like(half)).tolist() == pytest.approx([1 / 16] * 2)
    frames[1, :, :8] = 1.0  # where nothing is known
    assert video.warping_error(frames, still, half).tolist() == pytest.approx([1 / 16] * 2)
    assert video.warping_error(frames, still, torch.zeros_like(half)).isnan().all()


def test_flicker_is_how_far_steps_are_from_the_real_ones() -> None:
    frames, _, _ = gliding()
    signs = torch.tensor([1.0, -1.0] * 3).view(-1, 1, 1, 1)
    levels = 5 / 127.5
    assert video.flicker(frames, frames + levels * signs).tolist() == pytest.approx([10.0] * 5, abs=1e-3)
    assert video.flicker(frames, frames).max() == 0
    assert float(video.flicker(frames, frames + 0.2).max()) < 1e-3  # too bright, but steadily so
    assert float(video.flicker(frames, frames[:1].expand_as(frames)).min()) > 10  # a still picture is no steady film


def test_motion_error_is_a_distance_in_pixels() -> None:
    _, flow, _ = gliding(by=(3, 4))
    assert video.motion_error(flow, torch.zeros_like(flow)).tolist() == pytest.approx([5.0] * 5)
    assert video.motion_error(flow, flow).max() == 0


def test_frames_that_are_the_same_have_60_db() -> None:
    frames, _, _ = gliding()
    off = frames.clone()
    off[2] += 2 / 255  # one grey level
    assert video.psnr(frames, off).tolist() == pytest.approx([60, 60, 48.13, 60, 60, 60], abs=0.01)
    assert float(video.ssim(frames, frames).min()) == pytest.approx(1.0)
    assert float(video.ssim(frames, -frames).max()) < 0


def test_what_looks_alike_is_near_and_features_are_the_extractor_s() -> None:
    eye = extractor("lite0")
    assert isinstance(eye.net, Lite0)
    frames = torch.nn.functional.interpolate(texture(6, 6), (64, 96), mode="bicubic").clamp(-1, 1)
    worse = [(frames + a * texture(64, 96, 1)).clamp(-1, 1) for a in (0.0, 0.1, 0.5)]
    maps, features = video.seen(eye.net, torch.cat([frames, *worse]), batch=3)
    torch.testing.assert_close(features, eye.features(torch.cat([frames, *worse]))[0])
    apart = [float(video.perceptual([m[:1] for m in maps], [m[i : i + 1] for m in maps])) for i in (1, 2, 3)]
    assert apart[0] < 1e-6 and apart[0] < apart[1] < apart[2] < 4


def test_clips_differ_in_what_they_show_and_in_how_they_move() -> None:
    """A film of the same frames in another order has other steps, and only steps."""
    steps = torch.randn(200, 16, 6, generator=generator(1))
    walks = steps.cumsum(1)
    order = torch.randperm(16, generator=generator(2))
    a, b = video.clip_features(walks), video.clip_features(walks[:, order])
    torch.testing.assert_close(a[:, :6], b[:, :6])
    expected = walks.diff(dim=1).abs().mean(1)
    torch.testing.assert_close(a[:, 6:], expected)
    same = float(distribution.frechet_distance(a[:100], a[100:]))
    assert float(distribution.frechet_distance(a[:100], b[100:])) > 2 * same
    assert math.isclose(float(distribution.frechet_distance(a, a)), 0, abs_tol=1e-6)
