"""The mel contract: the numbers of the official front ends, and no confusion between them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from genloom.errors import UserError
from genloom.nn.mel import PRESETS, Mel, hertz, mels, tables

IO = load_file(Path(__file__).parent / "golden" / "mel.safetensors")
SMALL = replace(PRESETS["vocos"], n_fft=256, hop=64, window=256, bands=20)
CASES = {
    "melgan": (PRESETS["melgan"], "melgan.wav", "melgan.mel"),
    "hifigan": (PRESETS["hifigan"], "hifigan.wav", "hifigan.mel"),
    "hifigan, for its loss": (replace(PRESETS["hifigan"], fmax=None), "hifigan.wav", "full.mel"),
    "vocos, centred": (SMALL, "vocos_centre.wav", "vocos_centre.mel"),
    "vocos, same": (replace(SMALL, edges="same"), "vocos_same.wav", "vocos_same.mel"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_official_front_ends(case: str) -> None:
    mel, wave, wanted = CASES[case]
    found = mel(IO[wave])
    assert found.shape[2] == mel.frames(IO[wave].shape[-1])
    torch.testing.assert_close(found, IO[wanted], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("mel", "name"), [(PRESETS["melgan"], "melgan"), (SMALL, "vocos_centre")])
def test_the_triangles(mel: Mel, name: str) -> None:
    torch.testing.assert_close(tables(mel)[1], IO[f"{name}.filters"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_the_scales_have_inverses(scale: str) -> None:
    f = torch.linspace(0, 20_000, 500, dtype=torch.float64)
    torch.testing.assert_close(hertz(mels(f, scale), scale), f)
    assert float(mels(torch.tensor(1000.0), scale)) == pytest.approx({"slaney": 15, "htk": 1000}[scale], abs=0.02)


def test_it_travels_and_a_field_that_differs_is_named() -> None:
    for name, mel in PRESETS.items():
        assert Mel.of(mel.to_json()) == mel == Mel.of(name)
    assert (
        PRESETS["melgan"].differences(PRESETS["hifigan"])
        == "fmax 11025.0, not 8000.0; log 10, not e; epsilon 0.0, not 1e-09"
    )
    assert replace(PRESETS["melgan"], fmax=11_025.0).differences(PRESETS["melgan"]) == ""


def test_only_what_follows_from_the_numbers_is_converted() -> None:
    decimal, wave = PRESETS["melgan"], IO["melgan.wav"]
    natural = replace(decimal, log="e", floor=1e-3)
    torch.testing.assert_close(decimal.convert(decimal(wave), natural), natural(wave), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"cannot be turned into the other: floor 0.001, not 1e-05"):
        natural.convert(natural(wave), decimal)
    with pytest.raises(UserError, match=r"hop 256, not 300"):
        decimal.convert(decimal(wave), replace(decimal, hop=300))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hop": 0}, "all sizes are 1 or more"),
        ({"window": 2048}, "a window of 2048 does not fit into 1024"),
        ({"hop": 1025}, "skips samples"),
        ({"fmax": 12_000.0}, "0 to 12000 Hz is no part of 0 to 11025"),
        ({"floor": 0.0}, "the floor is above 0"),
        ({"hopp": 3}, "has no 'hopp'. Did you mean 'hop'"),
    ],
)
def test_nonsense_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Mel.of(wrong)
    with pytest.raises(UserError, match=r"no mel preset 'melgna'.*Did you mean 'melgan'"):
        Mel.of("melgna")


def test_a_wave_that_is_too_short_or_stereo() -> None:
    for shape in ((1, 384), (2, 2, 4000)):
        with pytest.raises(UserError, match="more than 384 samples of one channel"):
            PRESETS["melgan"](torch.zeros(shape))


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(600, 4000), hop=st.sampled_from([64, 100, 256]), edges=st.sampled_from(["same", "centre"]))
def test_silence_is_the_floor_and_frames_are_as_told(samples: int, hop: int, edges: str) -> None:
    mel = Mel(hop=hop, edges=edges, bands=10)
    found = mel(torch.zeros(1, samples))
    assert found.shape == (1, 10, mel.frames(samples))
    assert found.min() == found.max() == pytest.approx(math.log(mel.floor))
