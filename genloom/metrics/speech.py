"""How good speech sounds, as the figures in use have it: PESQ beside the real one, and DNSMOS of a sound by itself.

Both come from packages of the extra `listen`, and are compared as those packages compute them.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.errors import UserError
from genloom.metrics.audio import clips, pair
from genloom.nn.mel import Mel, tables
from genloom.nn.rate import at_rate

WIDE, NARROW = 16_000, 8_000  # Hz
UTTERED = 20  # seconds that PESQ hears at once: the ITU's program crashes at 50 utterances, each of 0.4 s at least
LISTENED = 144_160  # samples that DNSMOS hears at once: 9.01 s
POLYNOMIALS = (  # from what the network says to the scale of listeners, highest power first; speechmos 0.0.1.1
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)
HEARD = Mel(rate=WIDE, n_fft=321, hop=160, window=321, bands=120, edges="centre")  # by the network of P.808
DYNAMICS = 80.0  # dB below the loudest band at which its spectrum ends


def library(name: str, what: str) -> ModuleType:
    """The package `name`. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise absent(what) from None


def absent(what: str) -> UserError:
    return UserError(f"{what} needs one library more: pip install 'genloom[listen]'.")


# ── PESQ ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def pesq(real: Tensor, made: Tensor, rate: int) -> Tensor:
    """[B]: perceptual evaluation of speech quality, about 1 to 4.6, of made for real speech [B, N] at `rate` Hz.

    Narrow band (ITU-T P.862.1) at 8 kHz, wide band (P.862.2) at 16 kHz, to which other rates are brought. A clip of more
    than 20 s is heard in equal parts, whose scores are averaged. NaN where no speech is found, or less than a quarter of
    a second of sound. Raises UserError where the package is absent.
    """
    package = library("pesq", "PESQ")
    real, made = pair(real, made)
    if rate != NARROW:
        real, made, rate = at_rate(real, rate, WIDE), at_rate(made, rate, WIDE), WIDE
    count = -(-real.shape[1] // (UTTERED * rate))
    parts = zip(*(np.array_split(x.double().cpu().numpy(), count, 1) for x in (real, made)), strict=True)
    scores = [[_pesq(package, rate, *clip) for clip in zip(*part, strict=True)] for part in parts]  # [parts, B]
    return torch.tensor(scores, dtype=torch.float64).nanmean(0)


def _pesq(package: Any, rate: int, real: np.ndarray, made: np.ndarray) -> float:
    if not real.any() or not made.any():
        return math.nan  # the package would divide by the loudest sample
    try:
        return float(package.pesq(rate, real, made, "nb" if rate == NARROW else "wb"))
    except (package.NoUtterancesError, package.BufferTooShortError):
        return math.nan


# ── DNSMOS ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Opinions(NamedTuple):
    """Mean opinion scores [B], 1 to 5: of the speech, the background and the whole (P.835), and of the whole (P.808)."""

    signal: Tensor
    background: Tensor
    overall: Tensor
    p808: Tensor


def dnsmos(wave: Tensor, rate: int) -> Opinions:
    """What listeners would say of speech [B, N] at `rate` Hz, with nothing to compare it with (Reddy et al. 2021, 2022).

    Sound at another rate than 16 kHz is brought there. A clip shorter than 9.01 s is doubled until it is not, a longer
    one is heard from every full second on and the scores averaged, as in the authors' program. Raises UserError where
    the networks are not installed.
    """
    wave = at_rate(clips(wave), rate, WIDE).float().cpu()
    while wave.shape[1] < LISTENED:
        wave = torch.cat([wave, wave], 1)
    starts = range(max(1, math.floor(wave.shape[1] // WIDE - LISTENED / WIDE) + 1))
    heard = torch.stack([_opinions(wave[:, s * WIDE : s * WIDE + LISTENED]) for s in starts]).mean(0)  # [B, 4]
    return Opinions(*heard.unbind(1))


def _opinions(wave: Tensor) -> Tensor:
    """Waves [B, 144160] -> scores [B, 4]."""
    of_parts, of_all = networks()
    (raw,) = of_parts.run(None, {"input_1": wave.numpy()})  # [B, 3]
    (whole,) = of_all.run(None, {"input_1": loudness(wave[:, : -HEARD.hop]).mT.numpy()})  # [B, 1]
    scores = [np.polyval(p, raw[:, i].astype(np.float64)) for i, p in enumerate(POLYNOMIALS)]
    return torch.from_numpy(np.stack([*scores, whole[:, 0].astype(np.float64)], 1))


def loudness(wave: Tensor) -> Tensor:
    """Mel bands [B, 120, T] in dB below the clip's loudest, from -80 dB up; 40 dB below is 0, and a unit is 40 dB."""
    decibels = 10 * power_mel(wave, HEARD).clamp(min=1e-10).log10()
    top = decibels.amax((1, 2), keepdim=True)
    return ((decibels - top).clamp(min=-DYNAMICS) + 40) / 40


def power_mel(wave: Tensor, mel: Mel) -> Tensor:
    """[B, N] -> [B, bands, T]: the triangles over |STFT|² (not its root, no logarithm), the ends padded with silence."""
    silent = F.pad(wave, (mel.pad, mel.pad))
    return tables(mel)[1].to(wave) @ mel.spectrum(silent).abs().square()


@lru_cache(maxsize=1)
def networks() -> tuple[Any, Any]:
    """DNSMOS's two networks, of P.835 and of P.808, from the package `speechmos`, which is looked at and not run."""
    spec = importlib.util.find_spec("speechmos")
    if spec is None or spec.origin is None:
        raise absent("DNSMOS")
    folder, runtime = Path(spec.origin).parent / "dnsmos_models", library("onnxruntime", "DNSMOS")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    files = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    of_parts, of_all = (runtime.InferenceSession(f, options, providers=["CPUExecutionProvider"]) for f in files)
    return of_parts, of_all
