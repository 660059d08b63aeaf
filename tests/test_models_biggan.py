"""BigGAN and its relatives: the reference implementations' numbers, truncation, standing statistics, other data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import same_tensors
from safetensors.torch import load_file

from genloom.core import Spec, build, find
from genloom.errors import UserError
from genloom.nn.attention import SelfAttention
from genloom.nn.fold import conv_then_halve, double_then_conv
from genloom.nn.spectral import SpectralConv2d, SpectralLinear, StoredConv2d, StoredLinear, orthogonality
from genloom.nn.weights import under

GOLDEN = Path(__file__).parent / "golden"
DIGITS = Spec("image", (1, 28, 28), tuple("0123456789"))
NAMES = ("biggan", "biggan_deep", "sngan", "sagan")


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, Any]]:
    """Weights, inputs and outputs, and the reference's arguments."""
    io = load_file(GOLDEN / f"{name}.safetensors")
    return under(io, "weights."), io, json.loads((GOLDEN / f"{name}.json").read_text())["kwargs"]


def make(name: str, spec: Spec = DIGITS, **options: Any):
    torch.manual_seed(0)
    cls = find(name)
    return build(cls, spec, {**cls.recipes["tiny"].model, **options})


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# ── the references ───────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("case", ["g64_hier_shared_attn", "g32_cifar"])
def test_generator_is_the_authors(case):
    weights, io, arguments = golden(f"biggan_{case}")
    net = find("biggan").from_reference(weights, arguments).generator
    step = 2 if "64" in case else 1  # the larger pictures are kept by every other pixel
    with torch.no_grad():
        close(net(io["z"], io["y"])[..., ::step, ::step], io["img"])
        if net.shared is not None:
            close(net.shared(io["y"]), io["shared_y"])
        assert same_tensors(dict(net.state_dict()), weights)  # evaluation moves no buffer
        made = net.train()(io["z"], io["y"])[..., ::step, ::step]
    close(made[: len(io["train.img"])], io["train.img"])
    check_after_training(net, io)


@pytest.mark.parametrize("case", ["d64_attn", "d32_cifar"])
def test_discriminator_is_the_authors(case):
    weights, io, arguments = golden(f"biggan_{case}")
    net = find("biggan").from_reference(weights, arguments).discriminator
    images = io["img"].requires_grad_()
    logits = net(images, io["y"])
    close(logits, io["logits"].squeeze(1))
    (slope,) = torch.autograd.grad(logits.sum(), images)
    torch.testing.assert_close(slope, io["grad_img"], rtol=1e-5, atol=1e-7)
    assert same_tensors(dict(net.state_dict()), weights)
    with torch.no_grad():
        close(net.train()(images, io["y"]), io["train.logits"].squeeze(1))
    check_after_training(net, io)


def check_after_training(net, io):
    after = under(io, "train.after.")
    assert after
    state = net.state_dict()
    for key, value in after.items():
        close(state[key], value)


def test_deep_generator_is_the_published_one():
    weights, io, arguments = golden("biggan_deep_g128")
    model = find("biggan_deep").from_reference(weights, arguments)
    before = {k: v.clone() for k, v in model.generator.state_dict().items()}
    with torch.no_grad():
        close(model.generator.embeddings(io["class_vector"]), io["embed"])
        for truncation in (0.4, 1.0, 0.47):  # 0.47 lies between two rows
            theirs = io[f"img_t{truncation}"]
            made = model.generator(io["z"], io["class_vector"], truncation)[: len(theirs)]
            close(made[..., ::2, ::2], theirs)
    assert same_tensors(dict(model.generator.state_dict()), before)
    soft = torch.full((2, 12), 1 / 12)
    assert model.sample(2, label=soft, truncation=0.5).shape == (2, 3, 128, 128)


def test_whole_checkpoints_come_by_their_names():
    weights, io, arguments = golden("biggan_g32_cifar")
    judge, _, judge_arguments = golden("biggan_d32_cifar")
    other = {k: v + 1 for k, v in weights.items()}
    parts = {f"{net}.{k}": v for net, part in (("G", other), ("G_ema", weights), ("D", judge)) for k, v in part.items()}
    model = find("biggan").from_reference(parts, {"G": arguments, "D": judge_arguments})
    close(model.make(io["z"], io["y"]), io["img"])  # G_ema is what samples
    assert same_tensors(dict(model.discriminator.state_dict()), judge)
    again = build(find("biggan"), model.spec, model.config)
    again.load_state_dict(model.state_dict())
    close(again.eval().sample(3, label=2), model.sample(3, label=2))
    assert not model.training and model.spec.classes == tuple("0123456789")


def test_what_does_not_fit_is_said():
    weights, _, arguments = golden("biggan_g32_cifar")
    load = find("biggan").from_reference
    with pytest.raises(UserError, match=r"has no argument 'G_chs'\. Did you mean 'G_ch'"):
        load(weights, {**arguments, "G_chs": 3})
    with pytest.raises(UserError, match="num_G_SVs=2"):
        load(weights, {**arguments, "num_G_SVs": 2})
    with pytest.raises(UserError, match=r"'linear\.weight' is 384x24 there, 512x24 here"):
        load(weights, {**arguments, "G_ch": 8})
    parts = {f"G.{k}": v for k, v in weights.items()} | {"D.x": torch.zeros(1)}
    with pytest.raises(UserError, match="differ in n_classes: 10 and 1000"):
        load(parts, {"G": arguments, "D": {"resolution": 32}})
    _, _, deep = golden("biggan_deep_g128")
    with pytest.raises(UserError, match="layers"):
        find("biggan_deep").from_reference({}, {**deep, "layers": deep["layers"][:-1]})
    with pytest.raises(UserError, match="attention_layer_position 7"):
        find("biggan_deep").from_reference({}, {**deep, "attention_layer_position": 7})
    with pytest.raises(UserError, match="no importer"):
        find("sagan").from_reference(weights, arguments)


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("layer", [lambda: SpectralLinear(7, 5), lambda: StoredLinear(7, 5)])
def test_a_trained_layer_has_singular_value_one(layer):
    torch.manual_seed(0)
    net = layer().train()
    for _ in range(100):
        net(torch.zeros(1, 7))
    assert torch.linalg.matrix_norm(net.normalised().detach(), 2).item() == pytest.approx(1, abs=1e-3)


def test_singular_value_is_exact_under_autocast():
    torch.manual_seed(0)
    net = SpectralConv2d(3, 8, 3).eval()
    exact = net.normalised()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net.normalised(), exact)


@pytest.mark.parametrize("shape", [(5, 7), (9, 4), (4, 2, 3, 3)])
def test_orthogonality_has_the_release_s_gradient(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = weight.detach().flatten(1)
    gram = rows @ rows.T
    off = gram - gram.diag().diag()
    value = orthogonality(weight)
    assert value.item() == pytest.approx(0.5 * float(off.square().sum()), rel=1e-4)
    (slope,) = torch.autograd.grad(value, weight)
    torch.testing.assert_close(slope.flatten(1), 2 * off @ rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [torch.nn.Conv2d, SpectralConv2d, StoredConv2d])
def test_folded_resampling_gives_the_same_numbers(layer):
    torch.manual_seed(0)
    conv, x = layer(5, 7, 3, padding=1).eval(), torch.randn(2, 5, 6, 4)
    close(double_then_conv(conv, x), conv(F.interpolate(x, scale_factor=2.0)))
    close(conv_then_halve(conv, x), F.avg_pool2d(conv(x), 2))


def test_attention_begins_as_the_identity_and_then_looks_everywhere():
    torch.manual_seed(0)
    net, x = SelfAttention(16, SpectralConv2d), torch.randn(2, 16, 8, 6)
    torch.testing.assert_close(net(x), x)
    torch.nn.init.ones_(net.gamma)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(net(x)[0, :, 0, 0].sum(), x)
    assert slope[0, :, -1, -1].any() and not slope[1].any()


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", NAMES)
def test_truncated_samples_depend_on_seed_and_number_alone(name):
    model = make(name).eval()
    many = model.sample(6, seed=4, truncation=0.5)
    torch.testing.assert_close(many[4:5], model.sample(1, seed=4, start=4, truncation=0.5), rtol=1e-4, atol=1e-5)
    assert many.shape == (6, 1, 28, 28) and not torch.allclose(many, model.sample(6, seed=4))


def test_truncated_latents_are_a_truncated_normal():
    model = make("biggan", latent=120)
    z = model.bounded_noise(200, seed=0, start=0)
    assert z.abs().max() <= 2
    assert float(z.std()) == pytest.approx(0.8796, abs=0.01)  # of a normal cut at 2
    plain = model.item_noise(200, model.latent, seed=0, start=0)
    same = plain.abs() <= 2
    assert torch.equal(z[same], plain[same])  # only those beyond are drawn again


@pytest.mark.parametrize("truncation", [0.0, -1.0, 1.5, float("nan")])
def test_truncation_out_of_range_is_said(truncation):
    with pytest.raises(UserError, match="out of range"):
        make("biggan").sample(1, truncation=truncation)


def test_labels_and_class_probabilities():
    for name in ("biggan", "biggan_deep"):
        model = make(name).eval()
        hard = torch.eye(10)[[3, 3]]
        torch.testing.assert_close(model.sample(2, label=hard), model.sample(2, label=3), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model.sample(2, label=3), model.sample(2, label=4))
        with pytest.raises(UserError, match="2x10, not 2x9"):
            model.sample(2, label=hard[:, :9])
    with pytest.raises(UserError, match="not class probabilities"):
        make("sagan").sample(2, label=hard)
    with pytest.raises(UserError, match="Label 10"):
        make("biggan").sample(2, label=10)


@pytest.mark.parametrize("name", ["biggan", "biggan_deep"])
def test_standing_statistics_are_those_of_the_samples(name):
    model = make(name, **({"statistics": 5} if name == "biggan_deep" else {})).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.standing_statistics(4, 32, truncation=0.5)
    after = model.state_dict()
    moved = {k.rsplit(".", 1)[1] for k in after if not torch.equal(after[k], before[k])}
    assert moved == ({"stored_mean", "stored_var"} if name == "biggan" else {"running_means", "running_vars"})
    assert not any(m.training for m in model.modules())
    seen = []
    last = model.generator.output_layer[0] if name == "biggan" else model.generator.bn
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.sample(128, seed=0, truncation=0.5)
    own = seen[0].mean((0, 2, 3))
    kept = after["generator.output_layer.0.stored_mean"] if name == "biggan" else after["generator.bn.running_means"][2]
    torch.testing.assert_close(kept, own, rtol=0.3, atol=0.15)  # not the same: the layers before it had others
    if name == "biggan_deep":
        assert torch.equal(after["generator.bn.running_means"][[0, 1, 3, 4]], before["generator.bn.running_means"][:4])


@pytest.mark.parametrize("name", ["biggan", "biggan_deep", "sngan"])
def test_a_sample_with_standing_statistics_leaves_the_models_own(name):
    model = make(name).eval()
    own = model.sample(4, seed=2, truncation=0.5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stood = model.sample(4, seed=2, truncation=0.5, standing=3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not torch.allclose(stood, own) and torch.equal(own, model.sample(4, seed=2, truncation=0.5))
    piece = model.sample(2, seed=2, start=2, truncation=0.5, standing=3)
    torch.testing.assert_close(piece, stood[2:], rtol=1e-4, atol=1e-5)
    model.standing_statistics(3, truncation=0.5)
    torch.testing.assert_close(model.sample(4, seed=2, truncation=0.5), stood)
    with pytest.raises(UserError, match="try 16"):
        model.sample(2, standing=-1)


def test_training_fills_all_rows_and_a_truncation_those_around_it():
    model = make("biggan_deep", statistics=5)
    norm = model.generator.bn
    model.train().make(torch.randn(4, 8), torch.arange(4))
    means = norm.running_means
    assert means.any() and torch.equal(means, means[:1].expand_as(means))
    model.standing_statistics(1, 8, truncation=0.6)
    changed = [not torch.equal(row, norm.running_means[0]) for row in norm.running_means]
    assert changed == [False, False, True, True, False]
    assert norm.between(0.25) == (1, 1, 0.0) and norm.between(0.3)[:2] == (1, 2)
    assert model.training


# ── other data ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 20, 28), (1, 8, 8), (1, 64, 64), (3, 48, 96)])
@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_any_size_with_and_without_classes(name, shape, classes):
    model = make(name, Spec("image", shape, classes), **({} if name == "sngan" else {"attention": "none"}))
    batch = {"image": torch.randn(2, *shape), "label": torch.tensor([0, 1])}
    for phase in model.train().phases():
        assert all(torch.isfinite(t).all() for t in model(batch, phase.name).values())
    assert model.eval().sample(2, truncation=0.7).shape == (2, *shape)
    assert model.critic(batch).shape == (2,)
    if not classes:
        with pytest.raises(UserError, match="without labels"):
            model.sample(2, label=0)


@pytest.mark.parametrize(
    "options", [{"shared": 0, "hierarchical": False}, {"hierarchical": False}, {"spectral": False}]
)
@pytest.mark.parametrize("conditional", [True, False])
def test_biggan_s_parts_can_be_left_out(options, conditional):
    model = make("biggan", **options, conditional=conditional, wide=False, orthogonal=0.0).train()
    batch = {"image": torch.randn(2, 1, 28, 28), "label": torch.tensor([0, 1])}
    assert set(model(batch, "generator")) == {"generator"} and set(model(batch, "discriminator")) == {"discriminator"}


def test_depth_and_attention_follow_the_size():
    model = make("biggan", Spec("image", (3, 128, 128)), attention="auto", width=2, latent=12)
    assert [len(block) for block in model.generator.blocks] == [1, 1, 1, 2, 1]  # at 64, as in the paper
    assert [len(block) for block in model.discriminator.blocks] == [2, 1, 1, 1, 1, 1]
    assert model.generator.coarse == (32, 4, 4)
    deep = make("biggan_deep", Spec("image", (3, 256, 256)), attention="auto", width=4)
    assert isinstance(deep.generator.layers[8], SelfAttention) and len(deep.generator.layers) == 13


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        ("biggan", (1, 30, 30), {}, "divisible by 4, 8 or more, not 30x30"),
        ("biggan_deep", (1, 4, 4), {"attention": "none"}, "not 4x4"),
        ("biggan", (1, 28, 28), {"attention": "16"}, "'16' names no sizes of this model: its blocks have 14, 28"),
        ("biggan", (1, 28, 28), {"critic_attention": "x"}, "--model.critic-attention 'x'"),
        ("biggan", (1, 28, 28), {"latent": 2}, "--model.latent 3 or more"),
        ("biggan", (1, 28, 28), {"shared": 0}, "needs the shared embedding"),
        ("biggan_deep", (1, 28, 28), {"statistics": 1}, "2 or more, not 1"),
    ],
)
def test_options_that_cannot_be_are_said(name, shape, options, words):
    with pytest.raises(UserError, match=words):
        make(name, Spec("image", shape, ("a", "b")), **options)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_losses_are_finite_float32(name):
    model = make(name).train()
    batch = {"image": torch.rand(4, 1, 28, 28) * 2 - 1, "label": torch.arange(4)}
    with torch.autocast("cpu", torch.bfloat16):
        for phase in model.phases():
            terms = model(batch, phase.name)
            assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in terms.values())


def test_statistics_over_ranks_are_those_of_the_whole(monkeypatch):
    alone, ranks = make("biggan").train().generator, make("biggan").train().generator
    z, y = torch.randn(4, 12), torch.arange(4)
    monkeypatch.setattr("genloom.parallel.world", lambda: 2)
    monkeypatch.setattr("genloom.parallel.mean", lambda x: x)  # two ranks that hold the same rows
    got = ranks(z, y)
    monkeypatch.undo()
    close(got, alone(torch.cat([z, z]), torch.cat([y, y]))[:4])
    close(ranks.output_layer[0].stored_var, alone.output_layer[0].stored_var)
