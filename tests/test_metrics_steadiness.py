"""Whether digits stay digits: known clips give known figures."""

from __future__ import annotations

import torch
from torch import Tensor

from genloom.data import open_data
from genloom.metrics import digits
from genloom.metrics.steadiness import centred, steadiness


def pictures(count: int) -> tuple[Tensor, Tensor]:
    data = open_data("mnist", split="test", limit=count)
    batch = data.batch(torch.arange(count).numpy())
    return batch["image"], batch["label"]


def walk(pictures: Tensor, frames: int = 6, side: int = 48) -> Tensor:
    """Clips [N, 1, T, side, side] over which each picture goes its way."""
    clips = torch.full((len(pictures), 1, frames, side, side), -1.0)
    for t in range(frames):
        clips[:, :, t, 2 * t : 2 * t + 28, 3 * t : 3 * t + 28] = pictures
    return clips


def judge(frames: Tensor) -> Tensor:
    logits: Tensor = digits.load(digits.find_weights())(frames)[1]
    return logits


def test_what_moves_is_found_wherever_it_is() -> None:
    images, _ = pictures(8)
    clips = walk(images)
    cut = torch.stack([centred(clips[:, :, t], 28) for t in range(clips.shape[2])])
    for other in cut[1:]:
        torch.testing.assert_close(other, cut[0])
    assert (cut[0] > 0).sum() == (images > 0).sum()  # and whole


def test_a_digit_at_the_border_is_cut_as_one_in_the_middle() -> None:
    frames = torch.full((2, 3, 32, 40), -1.0)
    frames[0, :, 12:16, 18:22] = 1.0
    frames[1, :, 0:4, 36:40] = 1.0
    cut = centred(frames, 8)
    assert cut.shape == (2, 3, 8, 8)
    torch.testing.assert_close(cut[0], cut[1])


def test_digits_that_stay_are_steady_and_digits_that_change_are_not() -> None:
    images, labels = pictures(40)
    clips = walk(images)
    found = steadiness(clips, judge)
    assert float(found.steady.mean()) > 0.95 and float(found.confidence.mean()) > 0.95
    assert float((found.said == labels).double().mean()) > 0.95
    other = clips.roll(1, 0)
    differs = labels != labels.roll(1)
    clips[:, :, 4:] = other[:, :, 4:]  # from the fifth of six frames on another picture
    changed = steadiness(clips, judge)
    assert float(changed.steady[differs].mean()) < 0.05
    torch.testing.assert_close(changed.agreement[differs].median(), torch.tensor(4 / 6, dtype=torch.float64))
    assert float((changed.said == labels).double().mean()) > 0.9


def test_clips_seen_whole_and_clips_of_nothing_are_judged_too() -> None:
    dark = torch.full((3, 1, 4, 32, 32), -1.0)
    assert steadiness(dark, judge).agreement.tolist() == [1, 1, 1]
    whole = steadiness(dark, lambda frames: frames.mean((2, 3)).repeat(1, 5), size=None)
    assert whole.confidence.tolist() == [0.2] * 3
