"""What each GAN of the zoo claims to do differently, it does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Model, Spec, build, find
from genloom.errors import UserError
from genloom.models.image.fastgan import Generator, absolute_error, corner, scales
from genloom.objectives.adversarial import OBJECTIVES, slope_penalty

DIGITS = Spec("image", (1, 28, 28), tuple("0123456789"))
NAMES = ("lsgan", "ragan", "wgan", "dragan", "cgan", "acgan", "began", "fastgan")


def make(name: str, spec: Spec = DIGITS, **options: Any) -> Any:
    torch.manual_seed(0)
    cls = find(name)
    return build(cls, spec, {**cls.recipes["tiny"].model, **options})


def batch(n: int = 6) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {"image": torch.rand(n, 1, 28, 28, generator=draw) * 2 - 1, "label": torch.arange(n) % 10}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 20, 28)])
def test_other_shapes(name: str, shape: tuple[int, ...]) -> None:
    model: Model = make(name, Spec("image", shape, ("a", "b")))
    assert model.sample(2).shape == (2, *shape)
    assert model.critic({"image": torch.zeros(2, *shape), "label": torch.arange(2)}).shape == (2,)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_losses_are_finite_float32(name: str) -> None:
    model = make(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        for phase in model.phases():
            assert all(t.dtype == torch.float32 and t.isfinite().all() for t in model(batch(), phase.name).values())


def moved(model: Any, phase: str, steps: int, rate: float = 1e-3) -> dict[str, float]:
    """Train one phase alone and return its last terms."""
    names = next(p.moves for p in model.phases() if p.name == phase)
    weights = [p for n in names for p in model.get_submodule(n).parameters()]
    optimiser = torch.optim.Adam(weights, rate, betas=(0.5, 0.99))
    for _ in range(steps):
        terms = model(batch(), phase)
        sum(t.mean() for t in terms.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return {k: v.mean().item() for k, v in terms.items()}


# ── the losses ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_lsgan_and_ragan_are_dcgan_with_another_loss() -> None:
    for name, objective in (("lsgan", "least_squares"), ("ragan", "relativistic_average")):
        model, dcgan = make(name), make("dcgan", objective=objective)
        assert model.objective is OBJECTIVES[objective]
        dcgan.load_state_dict(model.state_dict())
        for phase in ("discriminator", "generator"):
            torch.manual_seed(5)
            mine = model(batch(), phase)[phase]
            torch.manual_seed(5)
            torch.testing.assert_close(dcgan(batch(), phase)[phase], mine)


def test_lsgan_s_slope_is_alive_where_cross_entropy_s_is_dead() -> None:
    sure = torch.full((1,), 20.0, requires_grad=True)  # a fake far on the real side
    slopes = {
        n: torch.autograd.grad(OBJECTIVES[n].generator(sure, sure).sum(), sure)[0] for n in ("least_squares", "bce")
    }
    assert slopes["least_squares"].item() == 19 and abs(slopes["bce"].item()) < 1e-6


def test_relativistic_average_compares_with_the_other_kind_s_mean() -> None:
    r, f = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.0])
    wanted = F.softplus(-(r + 1)) + F.softplus(f - 2)
    torch.testing.assert_close(OBJECTIVES["relativistic_average"].critic(r, f), wanted)
    torch.testing.assert_close(OBJECTIVES["relativistic_average"].generator(f, r), wanted)
    shifted = OBJECTIVES["relativistic_average"].critic(r + 7, f + 7)  # only differences count
    torch.testing.assert_close(shifted, wanted)


def test_wgan_s_weights_are_bounded_before_and_after_every_step() -> None:
    model = make("wgan", clip=0.02)

    def largest() -> float:
        return max(p.abs().max().item() for p in model.discriminator.parameters())

    assert largest() <= 0.02
    moved(model, "critic", 2, rate=0.1)
    assert largest() > 0.02
    before = [p.clone() for p in model.generator.parameters()]
    model.after_step(0.5)
    assert largest() == pytest.approx(0.02)
    assert all(torch.equal(a, b) for a, b in zip(before, model.generator.parameters(), strict=True))
    assert [(p.name, p.every) for p in model.phases()] == [("generator", 5), ("critic", 1)]


def test_dragan_s_penalty_is_zero_for_a_critic_of_slope_one() -> None:
    direction = F.normalize(torch.randn(784, generator=torch.Generator().manual_seed(0)), dim=0)
    for slope, wanted in ((1.0, 0.0), (3.0, 4.0), (0.0, 1.0)):
        penalty = slope_penalty(lambda x, s=slope: x.flatten(1) @ (s * direction), batch()["image"])
        torch.testing.assert_close(penalty, torch.full((6,), wanted), rtol=0, atol=1e-5)


def test_dragan_looks_around_reals_only() -> None:
    model, seen = make("dragan", noise=0.1), []

    class Watcher(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return x.flatten(1).sum(1)

    model.discriminator = Watcher()
    real = batch()["image"]
    terms = model.critic_terms(real, model.latents(6), None)
    assert (seen[-1] - real).std().item() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(terms["penalty"], torch.full((6,), 10 * (math.sqrt(784) - 1) ** 2))


# ── classes ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["cgan", "acgan"])
def test_classes_are_asked_for_or_refused(name: str) -> None:
    model = make(name).eval()
    assert not torch.equal(model.sample(1, label=3), model.sample(1, label=4))
    torch.testing.assert_close(model.sample(12)[4], model.sample(12, label=4)[4])  # in turn
    with pytest.raises(UserError, match="Label 10"):
        model.sample(1, label=10)
    with pytest.raises(UserError, match=f"{name} needs data with classes"):
        make(name, Spec("image", (1, 28, 28)))


def test_cgan_scores_a_picture_with_its_class() -> None:
    model, data = make("cgan"), batch()
    other = {**data, "label": data["label"].flip(0)}
    assert not torch.allclose(model.critic(data), model.critic(other))


def test_acgan_s_classifier_starts_at_chance_and_learns() -> None:
    model = make("acgan")
    start = model(batch(), "discriminator")
    assert start["class_real"].mean().item() == pytest.approx(math.log(10), abs=0.5)
    end = moved(model, "discriminator", 60)
    assert end["class_real"] < 0.5 * math.log(10)


def test_acgan_s_generator_learns_to_be_understood() -> None:
    model = make("acgan")
    moved(model, "discriminator", 30)
    before = model(batch(), "generator")["class"].mean().item()
    assert moved(model, "generator", 40)["class"] < before
    assert make("acgan", classify=0.0)(batch(), "generator")["class"].abs().max() == 0


# ── BEGAN ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_began_s_balance_moves_the_right_way_and_stays_a_share() -> None:
    model = make("began", diversity=0.5, balance=0.1)
    for errors, wanted in (((1.0, 0.1), 0.04), ((1.0, 0.7), 0.02), ((0.0, 1.0), 0.0), ((100.0, 0.0), 1.0)):
        model.errors.copy_(torch.tensor(errors))
        model.after_step(0.0)
        assert model.k.item() == pytest.approx(wanted, abs=1e-6)
    assert "k" in model.state_dict()


def test_began_s_losses_are_the_autoencoder_s_errors() -> None:
    model, data = make("began"), batch()
    model.k.fill_(0.3)
    critic = model(data, "discriminator")
    torch.testing.assert_close(
        critic["real"], (data["image"] - model.discriminator(data["image"])).abs().mean((1, 2, 3))
    )
    assert (critic["fake"] < 0).all()
    terms = model(data, "generator")
    real, fake = critic["real"].mean(), terms["generator"].mean()
    torch.testing.assert_close(terms["convergence"], real + (model.diversity * real - fake).abs())
    assert not terms["convergence"].requires_grad  # logged, not minimised
    torch.testing.assert_close(model.critic(data), -critic["real"])


# ── FastGAN ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_fastgan_gates_the_scales_of_the_paper() -> None:
    sizes = scales((3, 256, 256))
    assert [s[0] for s in sizes] == [4, 8, 16, 32, 64, 128, 256]
    network = Generator(8, sizes, 2, 3)
    assert network.leap == 4 and len(network.gates) == 3  # 4 -> 64, 8 -> 128, 16 -> 256
    assert len(make("fastgan").generator.gates) == 1  # 7 -> 28
    with pytest.raises(UserError, match="30x30"):
        make("fastgan", Spec("image", (1, 30, 30)))


def test_a_closed_gate_leaves_nothing_of_the_finer_maps() -> None:
    network = make("fastgan").generator.eval()
    assert network(torch.randn(2, 8)).abs().max() > 0
    nn.init.constant_(network.gates[0].body[3].bias, -100.0)
    assert network(torch.randn(2, 8)).abs().max() < 1e-6


def test_fastgan_s_discriminator_learns_to_redraw_what_it_sees() -> None:
    model = make("fastgan")
    before = model(batch(), "discriminator")["redraw"]
    assert before.shape == (6,)
    assert moved(model, "discriminator", 40)["redraw"] < before.mean().item()


def test_quadrants_tile_the_picture() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    seen = torch.cat([corner(x, i).flatten() for i in range(4)])
    assert sorted(seen.tolist()) == x.flatten().tolist()
    torch.testing.assert_close(absolute_error(F.avg_pool2d(x, 2), x), torch.zeros(1))
