"""The likelihood and flow models: closed forms, orders of accuracy, and what a user asks of a sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from genloom.core import Batch, Model, Spec, find
from genloom.errors import UserError
from genloom.nn.unet import UNet
from genloom.objectives import diffusion, variational

GREY = Spec("image", (1, 8, 8), ("one", "two", "three"))
COLOUR = Spec("image", (3, 8, 12))
NAMES = ("flow", "vae", "cvae")


def tiny(name: str, spec: Spec = GREY) -> Model:
    torch.manual_seed(0)
    cls = find(name)
    return cls(spec, **cls.recipes["tiny"].model)


def batch(spec: Spec = GREY, n: int = 6) -> Batch:
    made = {"image": torch.rand(n, *spec.shape) * 2 - 1}
    return made | ({"label": torch.arange(n) % len(spec.classes)} if spec.classes else {})


# ── objectives ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_kl_and_likelihoods_are_those_of_torch_distributions() -> None:
    mean, log_variance, x = torch.randn(3, 4, 5).unbind()
    q = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(q, Normal(torch.zeros(4, 5), torch.ones(4, 5))).sum(1)
    torch.testing.assert_close(variational.kl_to_standard_normal(mean, log_variance), expected)
    torch.testing.assert_close(variational.gaussian_log_likelihood(x, mean, log_variance), q.log_prob(x).sum(1))
    bits = (x > 0).float()
    expected = Bernoulli(logits=mean).log_prob(bits).sum(1)
    torch.testing.assert_close(variational.bernoulli_log_likelihood(bits, mean), expected)


def test_kl_is_zero_at_the_prior_and_half_the_square_of_a_shift() -> None:
    zeros = torch.zeros(2, 4)
    assert variational.kl_to_standard_normal(zeros, zeros).tolist() == [0, 0]
    assert variational.kl_to_standard_normal(zeros + 2, zeros).tolist() == [8, 8]


def test_bound_is_tight_where_the_posterior_is_exact() -> None:
    """x = z + noise, both standard: q = N(x/2, 1/2) is the posterior, and log p(x) is N(0, 2)'s."""
    x = torch.randn(64, 1)
    mean, log_variance = x / 2, torch.full_like(x, math.log(0.5))
    z = variational.reparametrise(mean, log_variance, torch.randn(4000, 64, 1))
    log_px = torch.stack([variational.gaussian_log_likelihood(x, zi, torch.zeros(())) for zi in z]).mean(0)
    bound = log_px - variational.kl_to_standard_normal(mean, log_variance)
    torch.testing.assert_close(bound, Normal(0, math.sqrt(2)).log_prob(x)[:, 0], atol=0.1, rtol=0)


def test_path_runs_straight_from_noise_to_data() -> None:
    x0, x1 = torch.randn(2, 5, 1, 4, 4)
    at = [diffusion.interpolate(x0, x1, torch.full((5,), t)) for t in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(at[0], x0)
    torch.testing.assert_close(at[1], (x0 + x1) / 2)
    torch.testing.assert_close(at[2], x1)
    assert diffusion.flow_matching_loss(x1 - x0, x0, x1).tolist() == [0] * 5
    torch.testing.assert_close(diffusion.flow_matching_loss(x1 - x0 + 2, x0, x1), torch.full((5,), 4.0))


def test_sampler_converges_at_its_order() -> None:
    """dx/dt = t - 2x from x(0) = 1, solved by t/2 - 1/4 + 5/4 exp(-2t)."""
    x, truth = torch.ones(1, dtype=torch.float64), 1 / 4 + 5 / 4 * math.exp(-2)
    errors = [abs(float(diffusion.sample_adams(lambda x, t: t - 2 * x, x, n)) - truth) for n in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_straight_flow_is_exact_in_one_step() -> None:
    x0, x1 = torch.randn(2, 3, 4)
    torch.testing.assert_close(diffusion.sample_adams(lambda x, t: x1 - x0, x0, 1), x1)


def test_flow_to_a_normal_reaches_its_mean_and_spread() -> None:
    """Data N(m, s^2) has the velocity in closed form: E[x1 - x0 | x] at mean and variance of x_t."""
    m, s = 0.5, 0.1

    def v(x: Tensor, t: Tensor) -> Tensor:
        variance = (1 - t) ** 2 + (t * s) ** 2
        return m + (t * s**2 - (1 - t)) / variance * (x - t * m)

    x = diffusion.sample_adams(v, torch.randn(20_000), 64)
    assert float(x.mean()) == pytest.approx(m, abs=0.01)
    assert float(x.std()) == pytest.approx(s, rel=0.05)


def test_preconditioning_leaves_unit_variance_to_the_network() -> None:
    t, spread = torch.rand(8), 0.5
    x0, x1 = torch.randn(2, 8, 200_000).unbind()
    x1 = spread * x1
    slope, inner, outer = (c[:, None] for c in diffusion.preconditioning(t, spread))
    x = diffusion.interpolate(x0, x1, t)
    target = (x1 - x0 - slope * x) / outer
    for unit in ((inner * x).std(1), target.std(1)):
        torch.testing.assert_close(unit, torch.ones(8), atol=0.02, rtol=0)
    torch.testing.assert_close((target * x).mean(1), torch.zeros(8), atol=0.02, rtol=0)  # nothing linear is left


def test_guidance_at_zero_one_and_two() -> None:
    with_class, without = torch.randn(2, 4)
    torch.testing.assert_close(diffusion.guided(with_class, without, 0), without)
    torch.testing.assert_close(diffusion.guided(with_class, without, 1), with_class)
    torch.testing.assert_close(diffusion.guided(with_class, without, 2), 2 * with_class - without)


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_per_example_and_reach_every_parameter(name: str, spec: Spec) -> None:
    if name == "cvae" and not spec.classes:
        pytest.skip("needs classes")
    model = tiny(name, spec)
    terms = model(batch(spec), "all")
    assert all(term.shape == (6,) for term in terms.values())
    sum(t.mean() for t in terms.values()).backward()
    dead = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("name", NAMES)
def test_item_depends_on_seed_and_number_alone(name: str) -> None:
    model = awake(tiny(name)).eval()
    with torch.inference_mode():
        ten, one = model.sample(10, seed=5), model.sample(1, seed=5, start=3)
        other = model.sample(1, seed=6, start=3)
    assert ten.shape == (10, *GREY.shape) and float(ten.abs().max()) <= 1
    torch.testing.assert_close(ten[3:4], one, atol=1e-5, rtol=0)
    assert not torch.allclose(one, other, atol=1e-3)


def awake(model: Model) -> Model:
    """Random weights in place of those that start near zero, so that every input matters."""
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.2)
    return model


@pytest.mark.parametrize("name", ["flow", "cvae"])
def test_label_is_obeyed_in_turn_for_all_or_one_by_one(name: str) -> None:
    model = awake(tiny(name)).eval()
    with torch.inference_mode():
        in_turn, given = model.sample(6), model.sample(6, label=torch.tensor([0, 1, 2, 2, 1, 0]))
        twos = model.sample(6, label=2)
    torch.testing.assert_close(in_turn[:3], given[:3])
    torch.testing.assert_close(given[3], twos[3])
    assert not torch.allclose(given[4], twos[4], atol=1e-3)
    with pytest.raises(UserError, match="classes"):
        model.sample(2, label=3)


def test_flow_guidance_changes_the_sample_and_its_steps_too() -> None:
    model = awake(tiny("flow")).eval()
    with torch.inference_mode():
        plain, guided, fine = model.sample(2), model.sample(2, guidance=3.0), model.sample(2, ode_steps=32)
    assert not torch.allclose(plain, guided, atol=1e-3)
    assert not torch.allclose(plain, fine, atol=1e-6)


def test_what_a_model_cannot_do_is_one_clear_sentence() -> None:
    unlabelled = tiny("flow", COLOUR)
    for wrong in ({"label": 1}, {"guidance": 2.0}, {"ode_steps": 0}):
        with pytest.raises(UserError):
            unlabelled.sample(1, **wrong)
    with pytest.raises(UserError, match="divide by 4"):
        tiny("flow", Spec("image", (1, 30, 28)))
    with pytest.raises(UserError, match="vae"):
        tiny("cvae", COLOUR)


def test_flow_trains_some_examples_without_their_class() -> None:
    flow = find("flow")(GREY, width=8, drop=0.5)
    labels = flow._some_labels({"label": torch.zeros(2000, dtype=torch.long)})
    assert float((labels == len(GREY.classes)).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_unet_keeps_shape_at_every_fold() -> None:
    x = torch.randn(2, 3, 16, 24)
    for options in ({}, {"levels": 3}, {"patch": 1, "depth": 2}, {"patch": 4, "levels": 1}):
        assert UNet(3, width=8, **options)(x, torch.rand(2)).shape == x.shape


def test_gaussian_vae_learns_its_variance() -> None:
    model = find("vae")(COLOUR, width=16, latent=4, likelihood="gaussian")
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    grey = {"image": torch.zeros(16, *COLOUR.shape)}
    for _ in range(200):
        optimiser.zero_grad()
        sum(t.mean() for t in model(grey, "all").values()).backward()
        optimiser.step()
    assert model.log_variance.item() < -1
    assert model.sample(4).abs().mean().item() < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_cards_and_recipes_are_complete(name: str) -> None:
    cls = find(name)
    assert {"tiny", "cpu", "default"} <= set(cls.recipes)
    assert cls.card.url.startswith("https://") and cls.card.changes
