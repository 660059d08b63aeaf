"""What a `codec` or `sound` run uses of its codes, on sound that it never heard: `python -m benchmarks.codes RUN`.

A stage of which few codes are in use has collapsed: its bits are paid for and say nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom import generate
from genloom.data import open_data
from genloom.data.audio import AudioSet
from genloom.run import Run


def usage(codes: Tensor, size: int) -> list[str]:
    """Of each stage of codes [K, T]: perplexity, and the share of the codebook in use."""
    found = []
    for stage in codes:
        p = torch.bincount(stage, minlength=size).double() / len(stage)
        found.append(f"{torch.special.entr(p).sum().exp():.0f} ({(p > 0).double().mean():.0%})")
    return found


def measure(folder: str) -> None:
    run = Run.open(folder)
    model: Any = generate.load(run)
    rate, about = int(run.spec.extra["rate"]), run.info["data"]
    train = open_data(Path(about["source"]) if "/" in about["source"] else about["source"], **about["options"])
    assert isinstance(train, AudioSet)
    held = train.held_out()
    assert held is not None, "nothing was held out"
    waves = torch.from_numpy(np.concatenate([wave for _, wave in held.clips()]))[None, None]
    codes = model.encode(waves)[0]
    bits = codes.shape[0] * np.log2(model.config["codes"]) * rate / model.mel.hop / 1000
    stages = ", ".join(usage(codes, model.config["codes"]))
    print(f"{bits:.2f} kbit/s; perplexity (in use) of each stage: {stages}")


if __name__ == "__main__":
    with torch.inference_mode():
        measure(sys.argv[1])
