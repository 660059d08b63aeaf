"""HiFi-GAN's discriminators and Vocos: the numbers of the official networks, losses and front end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from genloom.errors import UserError
from genloom.models.audio import hifigan, vocos
from genloom.nn.istft import istft
from genloom.objectives.adversarial import least_squares_critic, least_squares_generator
from genloom.objectives.vocoding import feature_matching, over_maps

GOLDEN = Path(__file__).parent / "golden"
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
CASES = ["mel_center", "adanorm_same"]


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def official(case: str) -> tuple[dict[str, Tensor], dict]:
    return golden(f"vocos_{case}_weights"), json.loads((GOLDEN / f"vocos_{case}.json").read_text())["init"]


# ── HiFi-GAN's discriminators ────────────────────────────────────────────────────────────────────────────────────
def as_official(feature: Tensor) -> Tensor:
    """Of a period [B, p, C, T]: [B, C, T, p]."""
    return feature.permute(0, 2, 3, 1) if feature.ndim == 4 else feature


@pytest.mark.parametrize("part", ["mpd", "msd"])
def test_hifigan_judges_as_the_official_discriminators_do(part: str) -> None:
    io, both = golden("hifigan_d"), hifigan.discriminators_of(golden("hifigan_d_weights")).eval()
    net = both.periods if part == "mpd" else both.scales
    wave = io["wav_fake"].requires_grad_()
    with torch.no_grad():
        real = net(io["wav_real"])
    fake = net(wave)
    for d, features in enumerate(fake):
        for i, feature in enumerate(features):
            wanted = io[f"{part}.fmap_fake.{d}.{i}"]  # of the large ones, a corner was kept
            torch.testing.assert_close(as_official(feature)[tuple(slice(n) for n in wanted.shape)], wanted, **CLOSE)
        torch.testing.assert_close(as_official(real[d][-1]).flatten(1), io[f"{part}.real.{d}"], **CLOSE)

    losses = {
        "feature_loss": 2 * feature_matching(real, fake),
        "gen_loss": 2 * over_maps(least_squares_generator, real, fake),
        "disc_loss": 2 * over_maps(least_squares_critic, real, fake),
    }
    for name, loss in losses.items():
        assert loss.shape == (2,)
        torch.testing.assert_close(loss.mean(), io[f"{part}.{name}"][0], **CLOSE)
    (slope,) = torch.autograd.grad((losses["gen_loss"] + losses["feature_loss"]).mean(), wave)
    torch.testing.assert_close(slope, io[f"{part}.grad_fake_of_gen_plus_fm"], atol=1e-6, rtol=1e-4)


def test_a_loss_is_each_example_s_own() -> None:
    net = hifigan.Discriminators(1, 16).eval()
    real, fake = torch.randn(2, 3, 1, 1000)
    together = feature_matching(net(real), net(fake))
    alone = [feature_matching(net(r[None]), net(f[None])) for r, f in zip(real, fake, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert feature_matching(net(real), net(real)).eq(0).all()


def test_the_discriminators_layers_widen_as_the_paper_s() -> None:
    found = hifigan.Discriminators(1, 16)(torch.zeros(2, 1, 999))
    assert [len(features) for features in found] == [6] * 5 + [8] * 3
    for p, features in zip(hifigan.PERIODS, found[:5], strict=True):
        assert [tuple(f.shape[:3]) for f in features] == [(2, p, c) for c in (1, 4, 16, 32, 32, 1)]
    for features in found[5:]:
        assert [f.shape[1] for f in features] == [16, 16, 32, 64, 128, 128, 128, 1]


def test_training_follows_the_singular_value_of_the_first_scale() -> None:
    net = hifigan.Scales(16).train()
    for _ in range(60):
        r, f = net(torch.randn(1, 1, 256)), net(torch.randn(1, 1, 256))
    over_maps(least_squares_critic, r, f).sum().backward()  # though the vectors moved in between
    layer = net.eval().scales[0].layers[0]
    assert torch.linalg.matrix_norm(layer.normalised().flatten(1), 2).item() == pytest.approx(1, abs=0.01)
    assert layer.weight_orig.grad.isfinite().all() and layer.weight_orig.grad.abs().sum() > 0


def test_other_weights_than_hifigan_s_are_refused() -> None:
    weights = golden("hifigan_d_weights")
    with pytest.raises(
        UserError, match=r"no weights of HiFi-GAN's discriminators.*'mpd.discriminators.0.convs.0.bias'"
    ):
        hifigan.discriminators_of({})
    key = "msd.discriminators.0.convs.3.weight_u"
    with pytest.raises(UserError, match=f"no '{key}'"):
        hifigan.discriminators_of({k: v for k, v in weights.items() if k != key})
    with pytest.raises(UserError, match="a multiple of 16 wide, not 24"):
        hifigan.Scales(24)


# ── Vocos ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("case", CASES)
def test_vocos_makes_the_official_wave(case: str) -> None:
    io, (weights, config) = golden(f"vocos_{case}"), official(case)
    net, mel = vocos.generator_of(weights, config), vocos.mel_of(config)
    told = io.get("bandwidth_id")
    found = mel(io["wav"])
    torch.testing.assert_close(found, io["mel_features"], atol=2e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(net(found, told)[:, 0], io["audio"], **CLOSE)
        torch.testing.assert_close(net(io["features"], told)[:, 0], io["audio_from_features"], **CLOSE)


def test_each_example_has_its_own_condition() -> None:
    net = vocos.generator_of(*official("adanorm_same"))
    mel = torch.randn(1, 20, 6).expand(2, -1, -1)
    several = net(mel, torch.tensor([0, 3]))
    for i, told in enumerate((0, 3)):
        torch.testing.assert_close(several[i], net(mel, torch.tensor([told]))[i])
    assert not torch.allclose(several[0], several[1])


def test_vocos_of_the_paper_s_size() -> None:
    with torch.device("meta"):
        net = vocos.Generator(100, 512, 1536, 8, 1024, 256, "centre")
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(13.5, abs=0.05)  # Siuzdak 2023, table 1


def test_a_long_wave_can_be_made_in_pieces() -> None:
    net, mel, hop = vocos.Generator(20, 24, 48, 2, 256, 64, "same"), torch.randn(1, 20, 60), 64
    around = 3 * 3 + 256 // hop  # frames: three convolutions of seven, and the overlap
    with torch.no_grad():
        piece = net(mel[:, :, 20 - around : 40 + around])[:, :, around * hop : -around * hop]
        torch.testing.assert_close(piece, net(mel)[:, :, 20 * hop : 40 * hop])


def lack(*path: str) -> Callable[[dict], dict]:
    def without(config: dict, *keys: str) -> dict:
        first, *rest = keys
        if not rest:
            return {k: v for k, v in config.items() if k != first}
        return config | {first: without(config[first], *rest)}

    return lambda config: without(config, *path)


def having(part: str, **options: object) -> Callable[[dict], dict]:
    return lambda config: config | {part: config[part] | options}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lack("head"), "no 'head'"),
        (lack("backbone", "dim"), "The backbone in this config of Vocos has no 'dim'"),
        (having("backbone", nums_layers=3), "The backbone of Vocos has no argument 'nums_layers'"),
        (having("feature_extractor", class_path="a.EncodecFeatures"), "Vocos with EncodecFeatures for its feature_ext"),
        (having("feature_extractor", padding="valid"), "pads by 'same' or 'center', not 'valid'"),
        (having("feature_extractor", sample_rate=22_050), "made with other mel filters"),
        (having("backbone", num_layers=4), "no 'backbone.convnext.3.gamma'"),
        (having("backbone", intermediate_dim=60), r"'backbone.convnext.0.pwconv1.weight' is \[64, 32\] in the file"),
        (having("head", hop_length=256), "A hop of 256 leaves gaps between frames of 256 samples"),
    ],
)
def test_another_vocos_is_refused(change: Callable[[dict], dict], said: str) -> None:
    weights, config = official("mel_center")
    with pytest.raises(UserError, match=said):
        vocos.generator_of(weights, change(config))


def test_vocos_reads_a_config_that_names_classes_and_asks_for_the_condition() -> None:
    weights, config = official("mel_center")
    named = {"class_path": "vocos.heads.ISTFTHead", "init_args": config["head"]}
    net = vocos.generator_of(weights, config | {"head": named})
    with pytest.raises(UserError, match="takes no condition"):
        net(torch.zeros(1, 20, 4), torch.tensor([0]))
    with pytest.raises(UserError, match="takes the number of a condition below 4"):
        vocos.generator_of(*official("adanorm_same"))(torch.zeros(1, 20, 4))


# ── the inverse transform ────────────────────────────────────────────────────────────────────────────────────────
@settings(deadline=None, max_examples=25)
@given(hop=st.sampled_from([32, 50, 64, 100]), frames=st.integers(3, 12), seed=st.integers(0, 99))
def test_the_inverse_transform_is_torch_s_and_inverts(hop: int, frames: int, seed: int) -> None:
    window, generator = torch.hann_window(200), torch.Generator().manual_seed(seed)
    waves = torch.randn(2, 101, frames, dtype=torch.complex64, generator=generator)
    torch.testing.assert_close(
        istft(waves, window, hop, "centre"), torch.istft(waves, 200, hop, window=window), **CLOSE
    )

    wave, pad = torch.randn(2, frames * hop + 200, generator=generator), (200 - hop) // 2
    there = torch.stft(wave, 200, hop, window=window, center=False, return_complex=True)
    back = istft(there, window, hop, "same")
    torch.testing.assert_close(back, wave[:, pad : pad + there.shape[2] * hop], **CLOSE)
