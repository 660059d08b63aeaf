"""Vocoders: the numbers of the official networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genloom.errors import UserError
from genloom.models.audio import hifigan
from genloom.models.audio.melgan import Discriminators, Generator, discriminators_of, generator_of

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def test_melgan_generates_the_official_wave() -> None:
    io = golden("melgan_g")
    with torch.no_grad():
        torch.testing.assert_close(generator_of(golden("melgan_g_weights"))(io["mel"]), io["wav"], atol=2e-5, rtol=1e-4)


def test_melgan_judges_as_the_official_discriminators_do_and_their_slope_is_the_same() -> None:
    io, net = golden("melgan_d"), discriminators_of({f"module.{k}": v for k, v in golden("melgan_d_weights").items()})
    wave = io["wav"].requires_grad_()
    found = net(wave)
    for s, features in enumerate(found):
        for i, feature in enumerate(features):
            wanted = io[f"scale{s}.layer{i}"]  # of the large ones, a corner was kept
            corner = feature[tuple(slice(n) for n in wanted.shape)]
            torch.testing.assert_close(corner, wanted, atol=2e-5, rtol=1e-4)
    (slope,) = torch.autograd.grad(sum(f.abs().mean() for features in found for f in features), wave)
    torch.testing.assert_close(slope, io["grad_wav_of_sum_mean_abs"], atol=2e-5, rtol=1e-4)


def test_melgan_of_the_paper_s_size() -> None:
    count = sum(p.numel() for p in Generator(80, 32, 3).parameters())
    assert 4.2e6 < count < 4.3e6  # 4.26 million (Kumar et al. 2019, table 1)
    assert len(Discriminators(3, 16, 4, 4)(torch.zeros(1, 1, 8192))) == 3


@pytest.mark.parametrize("case", ["resblock1", "resblock2"])
def test_hifigan_generates_the_official_wave(case: str) -> None:
    io, config = golden(f"hifigan_{case}"), json.loads((GOLDEN / f"hifigan_{case}.json").read_text())
    net = hifigan.generator_of(golden(f"hifigan_{case}_weights"), config)
    with torch.no_grad():
        torch.testing.assert_close(net(io["mel"]), io["wav"], atol=2e-5, rtol=1e-4)
    with pytest.raises(UserError, match="has no 'upsample_rates'"):
        hifigan.generator_of({}, {k: v for k, v in config.items() if k != "upsample_rates"})
    with pytest.raises(UserError, match=r"no 'conv_pre.bias'"):
        hifigan.generator_of({}, config)


def test_hifigan_of_the_paper_s_sizes() -> None:
    dilations = [[1, 3, 5]] * 3
    first = hifigan.Generator(80, 512, [8, 8, 2, 2], [16, 16, 4, 4], [3, 7, 11], dilations, pairs=True)
    third = hifigan.Generator(80, 256, [8, 8, 4], [16, 16, 8], [3, 5, 7], [[1, 2], [2, 6], [3, 12]], pairs=False)
    counts = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (first, third)]
    assert counts == pytest.approx([13.92, 1.46], abs=0.03)  # Kong et al. 2020, table 1


def test_other_weights_are_refused_by_their_first_difference() -> None:
    weights = golden("melgan_g_weights")
    with pytest.raises(UserError, match=r"no 'model.1.weight_v'"):
        generator_of(golden("melgan_d_weights"))
    with pytest.raises(UserError, match=r"'model.4.shortcut.bias' is \[3\] in the file, and \[32\] here"):
        generator_of(weights | {"model.4.shortcut.bias": torch.zeros(3)})
    with pytest.raises(UserError, match=r"no 'model.9.block.2.bias'"):
        generator_of({k: v for k, v in weights.items() if k != "model.9.block.2.bias"})
    with pytest.raises(UserError, match="no weights of MelGAN's discriminators"):
        discriminators_of(weights)
