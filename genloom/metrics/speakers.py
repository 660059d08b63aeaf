"""Whose voice it is: speaker embeddings (Wan et al. 2018), and the distance of two sets of voices.

The weights come with the PyPI package `Resemblyzer` (Apache 2.0). It asks for libraries that these measures have no use
for and that do not install everywhere, so it is installed without them, and looked at, not run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.errors import UserError
from genloom.metrics.audio import clips
from genloom.metrics.distribution import Estimate, frechet_distance
from genloom.metrics.speech import power_mel
from genloom.nn.mel import Mel
from genloom.nn.rate import at_rate

HEARD = Mel(rate=16_000, n_fft=400, hop=160, window=400, bands=40, edges="centre")
PART, STEP = 160, 77  # frames that the network hears at once; from one such part to the next: 1.3 of them a second
COVERED = 0.75  # of a last part, below which it is left out
LOUDNESS = 10 ** (-30 / 20)  # root mean square to which quiet clips are raised
BATCH = 64  # parts at once


class Voices(nn.Module):
    """Mel frames [B, 160, 40] -> embeddings [B, 256] of unit length, none below zero."""

    dim = 256

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(HEARD.bands, self.dim, 3, batch_first=True)
        self.linear = nn.Linear(self.dim, self.dim)

    def forward(self, frames: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(frames)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)


@dataclass(frozen=True)
class Ear:
    """A network that knows voices; figures compare only under the same one, so it has a hash."""

    name: str
    sha256: str
    dim: int
    net: nn.Module

    @torch.inference_mode()
    def features(self, wave: Tensor, rate: int) -> Tensor:
        """Embeddings [B, 256] of unit length, on the CPU, of waves [B, N] at `rate` Hz, pauses and all.

        The mean over parts of 1.6 s that overlap by half; a shorter clip is followed by silence.
        """
        device = next(self.net.parameters()).device
        parts = split(at_rate(clips(wave).float(), rate, HEARD.rate))  # [B, P, 160, 40]
        flat = parts.flatten(0, 1).split(BATCH)
        heard = torch.cat([self.net(x.to(device)).cpu() for x in flat]).unflatten(0, parts.shape[:2])
        return F.normalize(heard.mean(1), dim=1)


def split(wave: Tensor) -> Tensor:
    """Waves [B, N] at 16 kHz -> mel frames [B, P, 160, 40] of overlapping parts, quiet clips made louder first."""
    samples, hop = wave.shape[1], HEARD.hop
    level = wave.square().mean(1, keepdim=True).sqrt()
    wave = wave * (LOUDNESS / level.clamp(min=1e-8)).clamp(min=1)
    starts = list(range(0, max(1, math.ceil((samples + 1) / hop) - PART + STEP + 1), STEP))
    if len(starts) > 1 and samples - starts[-1] * hop < COVERED * PART * hop:
        starts.pop()
    missing = (starts[-1] + PART) * hop - samples
    frames = power_mel(F.pad(wave, (0, max(0, missing))), HEARD).mT  # [B, T, 40]
    return torch.stack([frames[:, s : s + PART] for s in starts], 1)


def speakers(wave: Tensor, rate: int) -> Tensor:
    """Embeddings [B, 256] of the voices in waves [B, N]: `Ear.features` of the installed ear."""
    return ear().features(wave, rate)


def similarity(real: Tensor, made: Tensor) -> Tensor:
    """[B]: cosine of the angle between embeddings [B, 256], 0 to 1: some 0.7 for short clips of one voice, 0.45 of two."""
    return F.cosine_similarity(real.double(), made.double(), dim=1)


def fad(real: Tensor, made: Tensor) -> tuple[str, Estimate]:
    """`fad-resemblyzer@N` and the Fréchet distance of N made embeddings [N, 256] from real ones [M, 256]."""
    count = f"{len(made) // 1000}k" if len(made) % 1000 == 0 else str(len(made))
    return f"fad-{ear().name}@{count}", frechet_distance(real, made)


@lru_cache(maxsize=1)
def ear() -> Ear:
    """The ear `resemblyzer`. Raises UserError when its weights are absent or not the right ones."""
    spec = importlib.util.find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        raise UserError("Speakers are compared by one library more: pip install --no-deps Resemblyzer==0.1.4.")
    file, net = Path(spec.origin).parent / "pretrained.pt", Voices()
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
        net.load_state_dict({k: v for k, v in state.items() if not k.startswith("similarity_")})  # of its training
    except Exception as error:  # a file of anything: torch.load raises what its reader happens to
        raise UserError(f"'{file}' does not hold the weights of Resemblyzer 0.1.4: reinstall it.") from error
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return Ear("resemblyzer", sha256, net.dim, net.eval().to(parallel.device()))
