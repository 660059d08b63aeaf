"""The StyleGANs are the official networks to rounding, grow to any doubling size, and train as their papers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genloom.core import Spec, build, find
from genloom.errors import UserError
from genloom.models.image.stylegan2 import StyleGAN2
from genloom.models.image.stylegan3 import StyleGAN3, blurred
from genloom.nn import resample
from genloom.nn.style import Mapping
from genloom.nn.style_critic import minibatch_deviation, resolutions
from genloom.nn.weights import under

GOLDEN = Path(__file__).parent / "golden"
TINY = StyleGAN2.recipes["tiny"].model


def golden(case: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]:
    """Weights, the config, inputs and outputs."""
    tensors = load_file(GOLDEN / f"{case}.safetensors")
    return under(tensors, "weight."), json.loads((GOLDEN / f"{case}.json").read_text()), tensors


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, float(theirs.detach().abs().max())))


def stylegan2(size: int = 16, classes: int = 0, **options: Any) -> StyleGAN2:
    torch.manual_seed(0)
    return build(StyleGAN2, Spec("image", (3, size, size), tuple(map(str, range(classes)))), {**TINY, **options})


# ── the official numbers ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("case", ["stylegan2_g_uncond", "stylegan2_g_cond"])
def test_stylegan2_paints_what_the_official_generator_paints(case: str) -> None:
    weights, config, io = golden(case)
    g = StyleGAN2.from_reference(weights, config["kwargs"]).generator
    classes, psi, cutoff = io.get("c"), config["truncation_psi"], config["truncation_cutoff"]
    ws = g.styles(io["z"], classes)
    close(ws, io["ws"])
    close(g.synthesis(ws), io["img"])
    close(g.synthesis(ws, "none"), io["img_nonoise"])
    close(g.styles(io["z"], classes, psi), io["ws_trunc"])
    close(g.synthesis(io["ws_trunc"]), io["img_trunc"])
    close(g.styles(io["z"], classes, psi, cutoff), io["ws_trunc_cutoff"])
    close(g.synthesis(io["ws_trunc_cutoff"]), io["img_trunc_cutoff"])
    layer = config["mix_crossover"]
    close(g.synthesis(torch.cat([ws[:1, :layer], ws[1:2, layer:]], 1)), io["img_mix"])
    g.train().styles(io["z"], classes)
    close(g.mapping.w_avg, io["w_avg_after_train_step"])


@pytest.mark.parametrize("case", ["stylegan2_d_resnet_cond", "stylegan2_d_orig_cifar"])
def test_stylegan2_judges_as_the_official_discriminator_judges(case: str) -> None:
    weights, config, io = golden(case)
    d = StyleGAN2.from_reference(weights, config["kwargs"]).discriminator
    images, classes = io["img"].requires_grad_(), io.get("c")
    logits = d(images, classes)
    close(logits, io["logits"].squeeze(1), 1e-5)
    close(torch.autograd.grad(logits.sum(), images)[0], io["grad_img"], 1e-5)
    close(d(images[:2], classes[:2] if classes is not None else None), io["logits_first2"].squeeze(1), 1e-5)


@pytest.mark.parametrize("case", ["stylegan3_t", "stylegan3_r"])
def test_stylegan3_paints_what_the_official_generator_paints(case: str) -> None:
    weights, config, io = golden(case)
    g = StyleGAN3.from_reference(weights, config["kwargs"]).generator
    classes = io["c"] if io["c"].shape[1] else None
    ws = g.styles(io["z"], classes)
    close(ws, io["ws"])
    close(g.synthesis(ws), io["img"])
    close(g.synthesis(g.styles(io["z"], classes, 0.7)), io["img_trunc"])
    g.synthesis.input.transform.copy_(torch.tensor([[0.8, -0.6, 0.1], [0.6, 0.8, -0.2], [0.0, 0.0, 1.0]]))
    close(g.synthesis(ws), io["img_moved"])


@pytest.mark.parametrize("case", ["stylegan3_t", "stylegan3_r"])
def test_stylegan3_designs_the_official_filters(case: str) -> None:
    weights, config, _ = golden(case)
    fresh = StyleGAN3.from_reference(weights, config["kwargs"]).config
    designed = build(StyleGAN3, Spec("image", (3, 32, 32)), {**fresh, "conditional": False}).generator.state_dict()
    filters = [k for k in weights if k.endswith("filter")]
    assert filters
    for key in filters:
        close(designed[key], weights[key], 1e-7)


def test_upfirdn2d_is_the_official_one() -> None:
    _, config, io = golden("upfirdn2d")
    for call in config["calls"]:
        i, options = call["index"], dict(call["kwargs"])
        if call["fn"] == "filter2d":  # upfirdn2d with a padding: not a function here
            continue
        f = resample.filter_of(call["f"])
        close(f, io[f"{i}.f_setup"], 1e-7)
        if call["fn"] != "upfirdn2d":
            options.pop("up", None), options.pop("down", None)
        close(getattr(resample, call["fn"])(io[f"{i}.x"], f, **options), io[f"{i}.y"], 1e-6)


def test_wide_filters_work_in_bf16() -> None:
    f = resample.kaiser_lowpass(24, 4.0, 4.0, 32.0)
    x = torch.randn(2, 6, 40, 40).contiguous(memory_format=torch.channels_last)
    exact = resample.upfirdn2d(x, f, up=2, padding=11)
    close(resample.upfirdn2d(x.bfloat16(), f, up=2, padding=11).float(), exact, 0.02)


# ── sizes, options, and what does not fit ────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("size", [8, 16, 28, 48])
@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_any_doubling_size_and_architecture(size: int, architecture: str) -> None:
    model = stylegan2(size, architecture=architecture, generator_architecture=architecture)
    images = model.make(torch.randn(4, model.latent))
    assert images.shape == (4, 3, size, size)
    assert model.judge(images).shape == (4,)


def test_an_impossible_size_offers_possible_ones() -> None:
    with pytest.raises(UserError, match=r"--data.size 28 or 32"):
        stylegan2(30)
    with pytest.raises(UserError, match=r"--data.size 8"):
        resolutions(5)
    with pytest.raises(UserError, match="square"):
        build(StyleGAN2, Spec("image", (3, 16, 32)), TINY)


def test_another_resolution_names_the_first_key_and_both_shapes() -> None:
    weights, config, _ = golden("stylegan2_g_uncond")
    wider = {**config["kwargs"], "synthesis_kwargs": {**config["kwargs"]["synthesis_kwargs"], "channel_max": 20}}
    with pytest.raises(UserError, match=r"'synthesis.b4.const' is 24x4x4 there, 20x4x4 here"):
        StyleGAN2.from_reference(weights, wider)
    half = {k: v for k, v in weights.items() if not k.startswith("mapping.")}
    with pytest.raises(UserError, match=r"'mapping.w_avg' 32 is missing"):
        StyleGAN2.from_reference(half, config["kwargs"])
    with pytest.raises(UserError, match=r"'z_dimension'.*Did you mean 'z_dim'"):
        StyleGAN2.from_reference(weights, {**config["kwargs"], "z_dimension": 3})


def test_truncation_and_labels_out_of_range_are_refused() -> None:
    plain = stylegan2().eval()
    for wrong in ({"truncation": 2.0}, {"cutoff": 99}, {"label": 1}):
        with pytest.raises(UserError):
            plain.sample(2, **wrong)
    with pytest.raises(UserError, match="3 classes"):
        stylegan2(classes=3).eval().sample(2, label=3)


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_truncation_to_nothing_is_the_mean_picture() -> None:
    model = stylegan2().eval()
    model.generator.mapping.w_avg.normal_()
    made = model.sample(3, truncation=0.0)
    close(made[0], made[2], 1e-6)


def test_the_mean_style_follows_training_alone() -> None:
    mapping = Mapping(8, 0, 8, layers=2, average=0.5)
    w = mapping(torch.randn(16, 8))
    close(mapping.w_avg, w.mean(0).detach() / 2, 1e-6)
    before = mapping.eval().w_avg.clone()
    mapping(torch.randn(16, 8))
    assert torch.equal(mapping.w_avg, before)


def test_path_length_penalty_is_the_slope_s_distance_from_its_mean() -> None:
    model = stylegan2(8, noise=False, mixing=0.0)
    torch.manual_seed(1)
    term = model.path_term(2, None)
    torch.manual_seed(1)
    ws = model.mixed(model.latents(2), None).detach().requires_grad_()
    y = model.randn(2, 3, 8, 8) / 8
    slope = torch.autograd.grad((model.paint(ws) * y).sum(), ws)[0]
    lengths = slope.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(term, (lengths - 0.01 * lengths.mean()).square(), rtol=1e-3, atol=1e-5)


def test_minibatch_deviation_interleaves_its_groups() -> None:
    x = torch.zeros(4, 1, 2, 2)
    x[2] = 2.0  # grouped with item 0: their deviation is 1
    maps = minibatch_deviation(x, group=2)[:, 1]
    torch.testing.assert_close(maps[:, 0, 0], torch.tensor([1.0, 1e-4, 1.0, 1e-4]), rtol=1e-3, atol=1e-6)


def test_freezing_keeps_the_finest_layers_of_the_discriminator() -> None:
    model = stylegan2(freeze=2)
    frozen = [k for k, p in model.discriminator.named_parameters() if not p.requires_grad]
    assert frozen == ["b16.fromrgb.weight", "b16.fromrgb.bias", "b16.conv0.weight", "b16.conv0.bias"]


def test_blur_keeps_the_mean_and_fades() -> None:
    images = torch.randn(2, 3, 16, 16)
    assert blurred(images, 0.2) is images
    flat = blurred(torch.ones(1, 1, 64, 64), 3.0)
    close(flat[:, :, 20:40, 20:40], torch.ones(1, 1, 20, 20), 1e-6)


def test_stylegan3_moves_the_picture_by_its_transform() -> None:
    tiny = {**find("stylegan3").recipes["tiny"].model, "channel_base": 512}
    torch.manual_seed(0)
    model = build(StyleGAN3, Spec("image", (1, 32, 32)), tiny).eval()
    model.requires_grad_(False)
    ws = model.generator.styles(torch.randn(1, 8))
    still = model.generator.synthesis(ws)
    model.generator.synthesis.input.transform[0, 2] = 4 / 32  # of the picture's width
    moved = model.generator.synthesis(ws)
    near = float(
        (moved[..., 4:-8] - still[..., 8:-4]).abs().mean().minimum((moved[..., 8:-4] - still[..., 4:-8]).abs().mean())
    )
    assert near < 0.1 * float((moved - still).abs().mean() + still.std())
