"""Warping and optical flow, against the reference's numbers and against motion that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genloom.data.motion import flows
from genloom.errors import UserError
from genloom.nn.warp import grid, warp, within

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("flow", ["a", "zero", "big", "int"])
def test_warping_is_the_reference_s(flow: str) -> None:
    io = load_file(GOLDEN / "vid2vid_warp.safetensors")
    torch.testing.assert_close(warp(io["image"], io[f"flow_{flow}"]), io[f"warped_{flow}"], atol=1e-5, rtol=0)


def test_zero_flow_is_the_identity() -> None:
    image = torch.randn(2, 3, 33, 57)
    torch.testing.assert_close(warp(image, torch.zeros(2, 2, 33, 57)), image, atol=1e-5, rtol=0)


def test_within_is_where_the_flow_points_into_the_picture() -> None:
    flow = torch.zeros(1, 2, 4, 6)
    flow[:, 0] = 2.0
    assert within(flow)[0, 0].tolist() == [[True] * 4 + [False] * 2] * 4


def cloud(height: int, width: int) -> Tensor:
    """A smooth random picture [1, 3, H, W] in [-1, 1]."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, height // 4, width // 4, generator=g)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").tanh()


def moved(height: int, width: int, flow: Tensor) -> np.ndarray:
    """Two frames u8 [2, 3, H, W], the second the first moved by that flow."""
    first = cloud(height, width)
    return ((torch.cat([first, warp(first, flow)]) + 1) * 127.5).round().byte().numpy()


@pytest.mark.parametrize(("method", "error"), [("dis", 0.15), ("pyramid", 0.3)])
@pytest.mark.parametrize("name", ["shift", "zoom"])
def test_known_motion_is_found(method: str, error: float, name: str) -> None:
    places = grid(64, 80).permute(2, 0, 1)[None]
    centre = torch.tensor([40.0, 32.0])[:, None, None]
    true = torch.tensor([2.4, -1.3])[None, :, None, None].expand(1, 2, 64, 80) if name == "shift" else None
    true = 0.04 * (places - centre) if true is None else true
    found, sure = flows(moved(64, 80, true), method)
    assert found.shape == (1, 2, 64, 80) and found.dtype == np.float16 and sure.shape == (1, 64, 80)
    off = (torch.from_numpy(found).float() - true).norm(dim=1)[:, 8:-8, 8:-8]
    assert off.mean() < error
    assert (sure[:, 8:-8, 8:-8] == 255).mean() > 0.9


def test_what_leaves_the_picture_is_not_sure() -> None:
    true = torch.tensor([6.0, 0.0])[None, :, None, None].expand(1, 2, 64, 80)
    _, sure = flows(moved(64, 80, true))
    assert (sure[0, :, -3:] == 0).mean() > 0.9  # what these columns show was never in the first frame


def test_a_film_is_looked_at_in_pieces_and_whole_alike() -> None:
    frames = np.concatenate([moved(32, 32, torch.full((1, 2, 32, 32), 0.3 * i)) for i in range(12)])
    whole, _ = flows(frames)
    ends, _ = flows(frames[15:])
    assert len(whole) == 23
    np.testing.assert_array_equal(whole[15:], ends)


def test_a_lone_frame_has_no_motion() -> None:
    found, sure = flows(np.zeros((1, 3, 32, 48), np.uint8))
    assert found.shape == (0, 2, 32, 48) and sure.shape == (0, 32, 48)


def test_grey_frames_move_too() -> None:
    frames = moved(64, 64, torch.full((1, 2, 64, 64), 1.5))[:, :1]
    assert np.abs(flows(frames)[0][:, :, 8:-8, 8:-8].astype(np.float32) - 1.5).mean() < 0.2


def test_kind_words_for_another_method_and_for_frames_that_are_too_small() -> None:
    with pytest.raises(UserError, match="dis"):
        flows(np.zeros((2, 3, 32, 32), np.uint8), "diss")
    with pytest.raises(UserError, match=r"--data\.size"):
        flows(np.zeros((2, 3, 8, 8), np.uint8))


def test_raft_without_a_torchvision_that_works() -> None:
    try:
        import torchvision.models.optical_flow  # noqa: F401
    except Exception:
        with pytest.raises(UserError, match="choose dis or pyramid"):
            flows(np.zeros((2, 3, 32, 32), np.uint8), "raft")
