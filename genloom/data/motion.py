"""Optical flow between a film's frames: what models of films are taught motion by, and measured with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.errors import UserError, unknown
from genloom.nn.optical_flow import consistent, lucas_kanade

PIECE = 16  # pairs of frames at a time
SMALLEST = 16  # pixels a side from which there is motion to see
RAFT_SIDE = 128  # pixels a side that RAFT wants at least

Flows = Callable[[np.ndarray, np.ndarray], np.ndarray]


def flows(frames: np.ndarray, method: str = "dis") -> tuple[np.ndarray, np.ndarray]:
    """Backward flow f16 [n-1, 2, H, W] between neighbours of frames u8 [n, C, H, W], and its confidence u8 [n-1, H, W].

    Flow t says in pixels, x first, where in frame t each pixel of frame t + 1 comes from: warp(frame t, flow t) looks
    like frame t + 1. The confidence is 255 where going there and back comes home (Sundaram et al. 2010), else 0.
    `method`: dis (OpenCV's dense inverse search), pyramid (our own, in plain tensors) or raft (where torchvision is).
    Raises UserError for another, for one whose library is not installed, and for frames too small to see motion in.
    """
    if method not in METHODS:
        raise unknown("optical flow", method, METHODS)
    if min(frames.shape[2:]) < SMALLEST:
        raise UserError(
            f"Frames of {frames.shape[3]} × {frames.shape[2]} pixels are too small to see motion in: give --data.size "
            f"{SMALLEST} or more."
        )
    between = METHODS[method]()
    found, sure = [], []
    for i in range(0, len(frames) - 1, PIECE):
        before, after = frames[i : i + PIECE][: len(frames) - 1 - i], frames[i + 1 : i + 1 + PIECE]
        backward, forward = between(after, before), between(before, after)
        home = consistent(torch.from_numpy(backward), torch.from_numpy(forward))
        found.append(backward.astype(np.float16))
        sure.append(home[:, 0].numpy().astype(np.uint8) * 255)
    if not found:
        return np.empty((0, 2, *frames.shape[2:]), np.float16), np.empty((0, *frames.shape[2:]), np.uint8)
    return np.concatenate(found), np.concatenate(sure)


# ── methods: of pictures u8 [n, C, H, W], where in `of` each pixel of `to` lies, f32 [n, 2, H, W] ───────────────
def _dis() -> Flows:
    cv2 = opencv()
    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    engine.setFinestScale(0)  # small frames: every pixel counts

    def between(to: np.ndarray, of: np.ndarray) -> np.ndarray:
        rows = [engine.calc(_grey(a), _grey(b), None) for a, b in zip(to, of, strict=True)]
        return np.stack(rows).transpose(0, 3, 1, 2).copy()

    return between


def _pyramid() -> Flows:
    def between(to: np.ndarray, of: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return lucas_kanade(_signed(to), _signed(of)).numpy()

    return between


def _raft() -> Flows:
    try:
        library = importlib.import_module("torchvision.models.optical_flow")
    except Exception:  # torchvision fails in many ways where its build does not fit torch's
        raise UserError("raft needs a torchvision that works here: choose dis or pyramid.") from None
    network: Any = library.raft_large(weights=library.Raft_Large_Weights.DEFAULT).eval()

    def between(to: np.ndarray, of: np.ndarray) -> np.ndarray:
        height, width = to.shape[2:]
        sides = [max(RAFT_SIDE, -(-side // 8) * 8) for side in (height, width)]
        a, b = (_colour(torch.nn.functional.interpolate(_signed(x), size=sides, mode="bilinear")) for x in (to, of))
        with torch.inference_mode():
            flow = network(a, b)[-1]
        small = torch.nn.functional.interpolate(flow, size=(height, width), mode="bilinear")
        return (small * small.new_tensor([width / sides[1], height / sides[0]])[:, None, None]).numpy()

    return between


METHODS: dict[str, Callable[[], Flows]] = {"dis": _dis, "pyramid": _pyramid, "raft": _raft}


def opencv() -> ModuleType:
    """Raises UserError where it is not installed."""
    try:
        return importlib.import_module("cv2")
    except ImportError:
        raise UserError(
            "This needs OpenCV: pip install 'genloom[video]'; for optical flow there is also the method pyramid."
        ) from None


def _grey(frame: np.ndarray) -> np.ndarray:  # u8 [C, H, W] -> [H, W]
    if len(frame) < 3:
        return np.ascontiguousarray(frame[0])
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.tensordot(weights, frame[:3].astype(np.float32), 1).round().astype(np.uint8)


def _signed(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames.astype(np.float32)) / 127.5 - 1


def _colour(x: Tensor) -> Tensor:
    return x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
