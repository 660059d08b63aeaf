"""Which letter each frame of speech belongs to: monotonic alignment search (Kim et al. 2020, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genloom.errors import UserError

NEVER = -1e9


@torch.no_grad()
def search(likelihood: Tensor, letters: Tensor, frames: Tensor) -> Tensor:
    """How many frames each letter has on the best path, i64 [B, L], of log-likelihoods [B, L, T] of frames under letters.

    A path begins at the first letter, ends at the last of `letters` [B] with the last of `frames` [B], and stays or goes
    on by one letter a frame, so that each has one frame at least (Kim et al. 2020, algorithm 1). Raises UserError for
    fewer frames than letters.
    """
    if (letters > frames).any():
        wrong = int((letters - frames).argmax())
        raise UserError(
            f"A clip of {int(frames[wrong])} frames has a text of {int(letters[wrong])} letters, and each takes a frame: "
            "leave that clip out, or give a --model.mel with a smaller hop."
        )
    device = likelihood.device
    gains = likelihood.float().permute(2, 0, 1).contiguous().cpu().numpy()  # [T, B, L]
    counts = _counts(gains, letters.cpu().numpy(), frames.cpu().numpy())
    return torch.from_numpy(counts).to(device)


def _counts(gains: np.ndarray, letters: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """[B, L] for gains [T, B, L]: forward, one frame of all items at a time, then back along the better of two ways."""
    steps, count, width = gains.shape
    came = np.zeros((steps, count, width), bool)  # from the letter before
    best = np.full((count, width + 1), NEVER, np.float32)  # of paths that end here; column 0 is no letter
    best[:, 1] = gains[0, :, 0]
    for t in range(1, steps):
        np.greater(best[:, :-1], best[:, 1:], out=came[t])
        best[:, 1:] = np.maximum(best[:, :-1], best[:, 1:]) + gains[t]
    found, rows, at = np.zeros((count, width), np.int64), np.arange(count), letters - 1
    for t in range(steps - 1, -1, -1):
        inside = t < frames
        found[rows, at] += inside
        at = at - (inside & came[t, rows, at])
    return found


def diagonal(letters: Tensor, frames: Tensor, width: int, length: int, spread: float) -> Tensor:
    """[B, width, length]: log of a bell around the diagonal from first letter and frame to last, 0 on it.

    A letter at the share u of its text has frames at the share v of the clip: -(u - v)² / (2 spread²). It has an
    alignment that is yet to be learnt begin where speech at an even pace would have it (the place of the beta-binomial
    prior of Badlani et al. 2021, section 3).
    """
    device = letters.device
    u = (torch.arange(width, device=device) + 0.5) / letters[:, None]  # [B, L]
    v = (torch.arange(length, device=device) + 0.5) / frames[:, None]  # [B, T]
    return -(u[:, :, None] - v[:, None]).square() / (2 * spread**2)


def spread_out(values: Tensor, counts: Tensor, length: int) -> Tensor:
    """[B, C, length]: column l of values [B, C, L] so many times as counts [B, L] say, the last one to the end."""
    ends = counts.cumsum(1)  # [B, L]
    places = torch.arange(length, device=values.device).expand(len(values), -1).contiguous()
    owner = torch.searchsorted(ends, places, right=True).clamp(max=values.shape[2] - 1)
    return values.gather(2, owner[:, None].expand(-1, values.shape[1], -1))


def deviance(guess: Tensor, counts: Tensor) -> Tensor:
    """Of a Poisson distribution of mean exp(guess), for counts of 1 or more: 0 where it is right.

    Its best guess is the logarithm of the mean, so whole utterances are as long as real ones; squares of logarithms, as
    Kim et al. take them, would have them hurry.
    """
    return 2 * (guess.exp() - counts - counts * (guess - counts.clamp(min=1).log()))
