"""How far predicted flow is from the exact one: python -m benchmarks.motion RUN, a vid2vid fitted on `streets`.

Mean end-point error in pixels over held-out clips, where the exact flow's confidence says that a pixel was there before:
of the run's own flow, made from the sources and the real frames before; of OpenCV's DIS and of the pyramid, which see both
frames; and of no motion at all. Then how much of each pixel it takes from the warped frame, there and where the pixel was
hidden before.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.data import open_data
from genloom.data.motion import flows
from genloom.generate import load
from genloom.objectives.films import window
from genloom.run import Run

CLIPS = 24


def end_point_error(flow: Tensor, exact: Tensor, sure: Tensor) -> float:
    """Pixels, of flows [B, 2, H, W], over those that are sure [B, 1, H, W]."""
    apart = (flow - exact).norm(dim=1, keepdim=True)
    return float((apart * sure).sum() / sure.sum().clamp(min=1))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    run = Run.open(parser.parse_args().run)
    model: Any = load(run)
    about = run.info["data"]
    data = open_data(about["source"], modality="video", needs="films", like=run.spec, **about["options"]).held_out()
    assert data is not None
    rows: dict[str, list[float]] = {}
    for i in range(min(CLIPS, len(data))):
        batch = data.batch(np.array([i]))
        video, flow, sure = batch["video"], batch["flow"], batch["confidence"]
        frames = ((video[0].transpose(0, 1) + 1) * 127.5).round().byte().numpy()
        taught = {name: torch.from_numpy(flows(frames, name)[0]).float() for name in ("dis", "pyramid")}
        for t in range(model.previous, video.shape[2]):
            before = [video[:, :, j] for j in range(t - model.previous, t)]
            frame = model.paint(window(batch["source"], t, model.previous), before, warps=True, used=model.levels)
            exact, known = flow[:, :, t - 1], sure[:, :, t - 1]
            found = {"own": frame.flow, **{k: v[t - 1][None] for k, v in taught.items()}, "none": 0 * exact}
            for name, guess in found.items():
                rows.setdefault(name, []).append(end_point_error(guess, exact, known))
            warped = 1 - frame.weight
            rows.setdefault("warped, known", []).append(float((warped * known).sum() / known.sum()))
            if (hidden := 1 - known).sum() > 0:
                rows.setdefault("warped, hidden", []).append(float((warped * hidden).sum() / hidden.sum()))
    for name, values in rows.items():
        print(f"{name:<15} {np.mean(values):.3f}")


if __name__ == "__main__":
    main()
