"""R3GAN is the official network to rounding, starts as the paper says, and fits pictures of every size it allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genloom.core import Spec, build
from genloom.errors import UserError
from genloom.models.image.r3gan import R3GAN, Block
from genloom.nn.weights import under
from genloom.objectives.adversarial import score_and_slope

GOLDEN = Path(__file__).parent / "golden"
DIGITS = Spec("image", (1, 28, 28), tuple("0123456789"))
TINY = R3GAN.recipes["tiny"].model
CASES = ["g_cond", "g_uncond", "d_cond", "d_uncond"]


def golden(case: str) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, torch.Tensor]]:
    """Weights, the reference's keyword arguments, inputs and outputs."""
    tensors = load_file(GOLDEN / f"r3gan_{case}.safetensors")
    kwargs = json.loads((GOLDEN / f"r3gan_{case}.json").read_text())["kwargs"]
    return under(tensors, "weights."), kwargs, under(tensors, "io.")


def make(spec: Spec = DIGITS, **options: Any) -> R3GAN:
    torch.manual_seed(0)
    model = build(R3GAN, spec, {**TINY, **options})
    assert isinstance(model, R3GAN)
    return model


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_official_network(case: str) -> None:
    weights, kwargs, io = golden(case)
    model = R3GAN.from_reference(weights, kwargs)
    labels = io["c"].argmax(1) if "c" in io else None
    if case.startswith("g"):
        torch.testing.assert_close(model.make(io["z"], labels), io["img"], rtol=0, atol=1e-5)
        return
    images = io["img"].requires_grad_()
    logits, slope = score_and_slope(lambda x: model.judge(x, labels), images)
    (grad,) = torch.autograd.grad(model.judge(images, labels).sum(), images)
    torch.testing.assert_close(logits, io["logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(slope, io["zero_centered_gp"], rtol=0, atol=1e-5)
    torch.testing.assert_close(grad, io["grad_img"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["cond", "uncond"])
@pytest.mark.parametrize("wrapped", ["", "Model."])
def test_both_networks_at_once_as_in_an_official_checkpoint(kind: str, wrapped: str) -> None:
    (g, g_config, g_io), (d, d_config, d_io) = golden(f"g_{kind}"), golden(f"d_{kind}")
    both = {f"G_ema.{wrapped}{k}": v for k, v in g.items()} | {f"D.{wrapped}{k}": v for k, v in d.items()}
    trainer = {"FP16Stages": [-1], "img_resolution": 16, "c_dim": 10 if kind == "cond" else 0, "KernelSize": 3}
    model = R3GAN.from_reference(both, {"G_ema": g_config | trainer, "D": d_config | trainer})
    labels = g_io["c"].argmax(1) if kind == "cond" else None
    torch.testing.assert_close(model.make(g_io["z"], labels), g_io["img"], rtol=0, atol=1e-5)
    labels = d_io["c"].argmax(1) if kind == "cond" else None
    torch.testing.assert_close(model.judge(d_io["img"], labels), d_io["logits"], rtol=0, atol=1e-5)
    assert model.spec.shape == (3, 16, 16) and len(model.spec.classes) == (10 if kind == "cond" else 0)
    again = build(R3GAN, model.spec, model.config)  # what a run folder does
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.sample(2), model.sample(2))


def test_a_checkpoint_that_does_not_fit_is_one_sentence() -> None:
    weights, config, _ = golden("g_uncond")
    with pytest.raises(UserError, match=r"no argument 'NoiseDimensions'\. Did you mean 'NoiseDimension'"):
        R3GAN.from_reference(weights, config | {"NoiseDimensions": 4})
    with pytest.raises(UserError, match="KernelSize of 3, not 5"):
        R3GAN.from_reference(weights, config | {"KernelSize": 5})
    with pytest.raises(UserError, match="LinearLayer1"):
        R3GAN.from_reference(weights, config | {"ExpansionFactor": 4})
    with pytest.raises(UserError, match="needs the argument CardinalityPerStage"):
        R3GAN.from_reference(weights, {k: v for k, v in config.items() if k != "CardinalityPerStage"})
    other, d_config, _ = golden("d_uncond")
    both = {f"G.{k}": v for k, v in weights.items()} | {f"D.{k}": v for k, v in other.items()}
    with pytest.raises(UserError, match="blocks is 1 2 1 in one, 1 1 1 in D"):
        R3GAN.from_reference(both, {"G": config, "D": d_config | {"BlocksPerStage": [1, 1, 1]}})
    with pytest.raises(UserError, match="under G, G_ema or D"):
        R3GAN.from_reference(both, {"Generator": config})


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("shape", "base"),
    [((1, 28, 28), (7, 7)), ((3, 32, 32), (4, 4)), ((3, 64, 32), (8, 4)), ((4, 20, 28), (5, 7)), ((1, 5, 6), (5, 6))],
)
def test_the_coarsest_scale_follows_the_size(shape: tuple[int, ...], base: tuple[int, int]) -> None:
    model = make(Spec("image", shape))
    assert model.generator.MainLayers[0].Layers[0].Basis.shape[1:] == base
    assert model.sample(2).shape == (2, *shape)
    assert model.critic({"image": torch.zeros(2, *shape)}).shape == (2,)


def test_listed_widths_say_how_often_to_halve() -> None:
    model = make(Spec("image", (3, 16, 16)), widths="32 24 16", groups="4,4,2", blocks="2")
    assert model.generator.MainLayers[0].Layers[0].Basis.shape == (32, 4, 4)
    assert sum(isinstance(m, Block) for m in model.generator.modules()) == 6


def test_too_few_widths_for_large_pictures_begin_with_more_of_the_first() -> None:
    model = make(Spec("image", (4, 64, 64)), widths="32 24 16", groups="4,4,2", blocks="1")
    assert model.generator.MainLayers[0].Layers[0].Basis.shape == (32, 8, 8)
    assert model.sample(2).shape == (2, 4, 64, 64)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (30, {}, "cannot halve 30x30 2 times: use 28x28 or 32x32"),
        (28, {"widths": "16 16 16 16"}, "cannot halve 28x28 3 times: use 24x24 or 32x32"),
        (28, {"widths": "16 16 16", "groups": "2 2"}, "3 widths, 2 groups"),
        (28, {"widths": "15"}, "choose a divisor"),
        (28, {"blocks": "two"}, "one whole number"),
    ],
)
def test_what_is_impossible_is_refused_with_what_is_possible(size: int, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(Spec("image", (1, size, size)), **{"groups": "4", **options} if "widths" in options else options)


# ── the start, and the loss ──────────────────────────────────────────────────────────────────────────────────────
def test_blocks_start_as_the_identity() -> None:
    model, x = make(), torch.randn(2, 16, 7, 7)
    for block in (m for m in model.modules() if isinstance(m, Block)):
        assert torch.equal(block(x), x)


def test_more_blocks_start_smaller() -> None:
    def deviation(blocks: str) -> float:
        model = make(widths="64", groups="1", blocks=blocks)
        return next(m for m in model.modules() if isinstance(m, Block)).LinearLayer2.Layer.weight.std().item()

    assert deviation("1") / deviation("16") == pytest.approx(2, rel=0.02)  # 16^(1/4)


def test_both_penalties_and_a_gamma_that_falls() -> None:
    model = make(gamma=2.0, gamma_end=0.2)
    batch = {"image": torch.rand(4, 1, 28, 28) * 2 - 1, "label": torch.arange(4)}
    assert {k: v.shape for k, v in model.loss(batch, "discriminator").items()} == dict.fromkeys(
        ("discriminator", "r1", "r2"), (4,)
    )
    seen = []
    for progress in (0.0, 0.5, 1.0):
        model.after_step(progress)
        seen.append(model.gamma.item())
    assert seen == pytest.approx([2.0, 1.1, 0.2])


def test_a_class_changes_the_picture_and_its_score() -> None:
    model = make()
    images, labels = torch.rand(2, 1, 28, 28), torch.tensor([3, 4])
    assert not torch.equal(model.sample(1, label=3), model.sample(1, label=4))
    assert not torch.equal(model.judge(images, labels), model.judge(images, labels.flip(0)))
    assert not make(conditional=False).classes
    with pytest.raises(UserError, match="trained without labels"):
        make(conditional=False).sample(1, label=3)
