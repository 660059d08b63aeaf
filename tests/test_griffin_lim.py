"""Sound from mel spectrograms without a vocoder, and the transforms it is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from genloom.errors import UserError
from genloom.nn.griffin_lim import griffin_lim, magnitudes
from genloom.nn.istft import overlapped
from genloom.nn.mel import LOGS, PRESETS, Mel, tables
from genloom.nn.rate import at_rate

SPOKEN = load_file(Path(__file__).parent / "golden" / "metrics_audio.safetensors")["clean_16000"].float() / 32768


def speech(mel: Mel, frames: int = 80) -> torch.Tensor:
    """A wave [1, N] of a second of speech."""
    return at_rate(SPOKEN[None, 8000:], 16_000, mel.rate)[:, : frames * mel.hop]


def distance(mel: Mel, wave: torch.Tensor, wanted: torch.Tensor) -> float:
    """Mean absolute difference of natural log mels."""
    return float((mel(wave) - wanted).abs().mean()) * LOGS[mel.log]


@pytest.mark.parametrize("name", PRESETS)
def test_speech_comes_back_the_better_the_longer(name: str) -> None:
    mel = PRESETS[name]
    wave = speech(mel)
    wanted = mel(wave)
    errors = [distance(mel, griffin_lim(wanted, mel, iterations=n), wanted) for n in (0, 4, 32)]
    assert errors[2] < 0.75 * errors[1] and errors[1] < 0.5 * errors[0]
    assert errors[2] < (0.2 if mel.rate < 24_000 else 0.3)  # what is silent above 8 kHz does not stay so


@pytest.mark.parametrize("name", PRESETS)
def test_the_magnitudes_have_the_mel(name: str) -> None:
    mel = PRESETS[name]
    wanted = mel(speech(mel))
    found = magnitudes(wanted, mel)
    assert found.shape == (1, mel.n_fft // 2 + 1, wanted.shape[2]) and float(found.min()) >= 0
    again = (tables(mel)[1] @ found).clamp(min=mel.floor).log() / LOGS[mel.log]
    assert float((again - wanted).abs().mean()) < 0.01


@pytest.mark.parametrize(("edges", "samples"), [("same", 40 * 100), ("centre", 39 * 100)])
def test_the_length_and_another_window(edges: str, samples: int) -> None:
    mel = Mel(rate=16_000, n_fft=512, hop=100, window=400, bands=40, edges=edges)
    wave = speech(mel, 40)[:, :samples]
    wanted = mel(wave)
    made = griffin_lim(wanted, mel, iterations=16)
    assert wanted.shape[2] == 40 and made.shape == wave.shape and made.isfinite().all()
    assert distance(mel, made, wanted) < 0.3


def test_a_clip_depends_on_its_seed_and_place_alone() -> None:
    mel = replace(PRESETS["hifigan"], bands=40)
    wanted = mel(speech(mel, 20)).expand(2, -1, -1)
    both = griffin_lim(wanted, mel, iterations=2, seed=3)
    torch.testing.assert_close(griffin_lim(wanted[:1], mel, iterations=2, seed=3), both[:1])
    assert not torch.allclose(both[0], both[1])
    assert not torch.allclose(griffin_lim(wanted, mel, iterations=2, seed=4), both)


def test_triangles_that_hold_no_frequency() -> None:
    mel = Mel(rate=16_000, n_fft=256, hop=64, window=256, bands=120)
    assert (tables(mel)[1].sum(1) == 0).any()
    made = griffin_lim(mel(speech(mel)), mel, iterations=2)
    assert made.isfinite().all() and float(made.abs().max()) > 0.01


def test_silence_and_too_few_frames() -> None:
    mel = PRESETS["vocos"]
    silence = mel(torch.zeros(1, 4000))
    assert float(griffin_lim(silence, mel, iterations=4).abs().max()) < 1e-4
    with pytest.raises(UserError, match="more than 512 samples"):
        griffin_lim(silence[:, :, :3], mel)


@pytest.mark.parametrize(("size", "hop", "frames"), [(8, 2, 5), (7, 3, 4), (6, 6, 3), (5, 2, 1)])
def test_overlapping_is_a_fold(size: int, hop: int, frames: int) -> None:
    pieces = torch.randn(2, size, frames, generator=torch.Generator().manual_seed(0))
    wanted = F.fold(pieces, (1, (frames - 1) * hop + size), (1, size), stride=(1, hop))[:, 0, 0]
    torch.testing.assert_close(overlapped(pieces, hop), wanted)
