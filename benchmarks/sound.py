"""Clips that a `sound` run makes, beside real ones: `python -m benchmarks.sound RUN [CLIPS]`.

Four sides of as many seconds each: what the run made, clips that it trained on, clips that it never heard, and noise with
the mean spectrum of those it trained on. Figures, of windows of one second: loudness; a Fréchet distance of log-mel statistics
to training windows, in which other training windows are the floor; and how near the nearest training window is, in which a
value far under that of clips never heard means that the run plays its data back.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom import generate
from genloom.data import open_data
from genloom.data.audio import AudioSet
from genloom.metrics.distribution import frechet_distance
from genloom.nn.mel import Mel
from genloom.run import Run

BANDS, STEPS = 16, 20  # of a window's coarse log-mel picture


def windows(clips: list[np.ndarray], rate: int, hop: float) -> Tensor:
    """[n, rate]: seconds of the clips, one each `hop` seconds."""
    rows = [c[i : i + rate] for c in clips for i in range(0, len(c) - rate + 1, int(hop * rate))]
    return torch.from_numpy(np.stack(rows)).float()


def pictures(waves: Tensor, mel: Mel) -> Tensor:
    """[n, BANDS, STEPS] log mel of windows [n, rate]."""
    logs = torch.cat([mel(w) for w in waves.split(256)])
    return torch.nn.functional.adaptive_avg_pool1d(logs, STEPS)


def statistics(pictures: Tensor) -> Tensor:
    """[n, 2 BANDS]: mean and deviation in time of each band."""
    return torch.cat([pictures.mean(2), pictures.std(2)], 1).double()


def noise_like(clips: list[np.ndarray], n: int, rate: int) -> Tensor:
    """[n, rate]: Gaussian noise with the clips' mean power spectrum."""
    power = torch.fft.rfft(windows(clips, rate, 1.0)).abs().square().mean(0)
    white = torch.randn(n, rate, generator=torch.Generator().manual_seed(0))
    return torch.fft.irfft(torch.fft.rfft(white) * (power / rate).sqrt(), rate)


def usage(codes: Tensor, size: int) -> list[str]:
    """Of each stage of codes [K, T]: perplexity, and the share of the codebook in use."""
    found = []
    for stage in codes:
        p = torch.bincount(stage, minlength=size).double() / len(stage)
        found.append(f"{torch.special.entr(p).sum().exp():.0f} ({(p > 0).double().mean():.0%})")
    return found


def measure(folder: str, count: int) -> None:
    run = Run.open(folder)
    model: Any = generate.load(run)
    rate, about = int(run.spec.extra["rate"]), run.info["data"]
    train = open_data(Path(about["source"]) if "/" in about["source"] else about["source"], **about["options"])
    assert isinstance(train, AudioSet)
    held = train.held_out()
    assert held is not None, "nothing was held out"
    mel = replace(Mel.of(f"hifigan@{rate}"), bands=BANDS)
    seen, unseen = ([wave for _, wave in data.clips()] for data in (train, held))
    made = [m[0].numpy() for m in generate.draw(model, count, seed=1, batch_size=32)]
    heard = windows(seen, rate, 1.0)
    order = torch.randperm(len(heard), generator=torch.Generator().manual_seed(0))
    own, reference = heard[order].tensor_split([len(heard) // 5])
    others = windows(unseen, rate, 0.5)
    n = min(len(own), len(others), sum(len(m) // rate for m in made))
    sides = {
        "made": windows(made, rate, 1.0),
        "never heard": others,
        "trained on": own,
        "noise": noise_like(seen, n, rate),
    }
    other = statistics(pictures(reference, mel))
    memory = pictures(windows(seen, rate, 0.1), mel).flatten(1)
    print(f"{n} windows of 1 s a side")
    for name, waves in sides.items():
        some = pictures(waves[torch.randperm(len(waves), generator=torch.Generator().manual_seed(2))[:n]], mel)
        loud = 20 * waves.square().mean(1).sqrt().clamp(min=1e-5).log10()
        near = torch.cdist(some.flatten(1), memory)
        nearest = (
            near.topk(12, largest=False).values[:, -1] if name == "trained on" else near.min(1).values
        )  # but itself
        far, again = frechet_distance(statistics(some), other).value, nearest.median() / memory.shape[1] ** 0.5
        level = f"{loud.mean():6.1f} ± {loud.std():4.1f} dB"
        print(f"{name:12} loudness {level}   Fréchet {far:7.2f}   nearest in training {again:.2f}")
    waves = torch.from_numpy(np.concatenate(unseen))[None, None]
    codes = model.encode(waves)[0]
    bits = codes.shape[0] * np.log2(model.codes) * rate / model.mel.hop / 1000
    stages = ", ".join(usage(codes, model.codes))
    print(f"codec: {bits:.2f} kbit/s; perplexity (in use) of each stage on sound never heard: {stages}")


if __name__ == "__main__":
    with torch.inference_mode():
        measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 64)
