"""PSNR and SSIM: scikit-image's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genloom.metrics.image import psnr, ssim, ssim_map

GOLDEN = Path(__file__).parent / "golden"
IO = load_file(GOLDEN / "metrics_image.safetensors")
EXPECTED = json.loads((GOLDEN / "metrics_image.json").read_text())["expected"]


def picture(name: str) -> torch.Tensor:
    return IO[name].permute(2, 0, 1)[None].double()


@pytest.mark.parametrize("name", ["noise", "blur", "contrast"])
def test_agrees_with_scikit_image(name: str) -> None:
    x, y, expected = picture("ref"), picture(name), EXPECTED[name]

    def close(ours: torch.Tensor, key: str, tolerance: float = 1e-6) -> None:
        assert float(ours) == pytest.approx(expected[key], rel=tolerance), key

    close(psnr(x, y, span=(0, 255)), "psnr_uint8")
    close(psnr(x / 255, y / 255, span=(0, 1)), "psnr_float01")
    close(ssim(x, y, span=(0, 255)), "ssim_rgb_uniform7")
    close(ssim(x, y, span=(0, 255), window="gaussian"), "ssim_rgb_gaussian")
    close(ssim(x[:, :1], y[:, :1], span=(0, 255)), "ssim_ch0_uniform7")
    close(ssim(x[:, :1], y[:, :1], span=(0, 255), window="gaussian"), "ssim_ch0_gaussian")
    close(ssim(x[:, :1], y[:, :1], span=(0, 255), size=11), "ssim_ch0_win11")
    close(ssim((x / 127.5 - 1).float(), (y / 127.5 - 1).float()), "ssim_rgb_uniform7", 1e-4)
    full = IO[f"ssim_map_ch0_gaussian.{name}"]
    ours = ssim_map(x[:, :1], y[:, :1], span=(0, 255), window="gaussian")[0, 0]
    torch.testing.assert_close(ours, full[5:-5, 5:-5], rtol=1e-6, atol=1e-9)


def test_a_picture_is_like_itself() -> None:
    x = picture("ref")
    assert float(ssim(x, x, span=(0, 255))) == pytest.approx(1)
    assert torch.isinf(psnr(x, x)).all()
