"""Adversarial losses and penalties have their known values; each GAN moves what its phase says and samples by item."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from genloom.core import Spec, build, find
from genloom.errors import UserError
from genloom.nn.norm import BatchNorm
from genloom.objectives.adversarial import OBJECTIVES, find_objective, lipschitz_penalty, score_and_slope

DIGITS = Spec("image", (1, 28, 28), tuple("0123456789"))
NAMES = ("gan", "dcgan", "wgan_gp", "infogan")


def make(name: str, spec: Spec = DIGITS):
    torch.manual_seed(0)
    cls = find(name)
    return build(cls, spec, cls.recipes["tiny"].model)


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────
LOG2 = math.log(2)
KNOWN = {  # at r = f = 0: critic, generator, and their slopes in (r, f)
    "bce": (2 * LOG2, LOG2, (-0.5, 0.5), (0, -0.5)),
    "minimax": (2 * LOG2, -LOG2, (-0.5, 0.5), (0, -0.5)),
    "hinge": (2, 0, (-1, 1), (0, -1)),
    "least_squares": (0.5, 0.5, (-1, 0), (0, -1)),
    "wasserstein": (0, 0, (-1, 1), (0, -1)),
    "relativistic": (LOG2, LOG2, (-0.5, 0.5), (0.5, -0.5)),
    "relativistic_average": (2 * LOG2, 2 * LOG2, (-1, 1), (1, -1)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_at_the_origin(name):
    critic, generator, slope_critic, slope_generator = KNOWN[name]
    for loss, value, slopes in (
        (OBJECTIVES[name].critic, critic, slope_critic),
        (OBJECTIVES[name].generator, generator, slope_generator),
    ):
        r, f = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
        out = loss(r, f)
        assert out.shape == (3,)
        torch.testing.assert_close(out, torch.full((3,), float(value)))
        grads = torch.autograd.grad(out.sum(), (r, f), materialize_grads=True)
        assert [g[0].item() for g in grads] == pytest.approx(slopes)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_critic_rewards_telling_apart_and_generator_rewards_fooling(name):
    objective = OBJECTIVES[name]
    low, high = torch.tensor([-0.9]), torch.tensor([0.9])
    assert objective.critic(high, low) < objective.critic(low, high)
    assert objective.generator(high, low) > objective.generator(low, high)


def test_losses_are_finite_for_huge_logits():
    for objective in OBJECTIVES.values():
        for r, f in ((1e4, -1e4), (-1e4, 1e4)):
            values = [loss(torch.tensor([r]), torch.tensor([f])) for loss in objective[:2]]
            assert torch.isfinite(torch.cat(values)).all()


def test_unknown_objective_offers_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'relativistic'"):
        find_objective("relativist")


# ── penalties ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_slope_of_a_linear_critic_is_its_weight():
    w = torch.randn(1 * 4 * 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    x = torch.randn(5, 1, 4, 4)
    logits, slope = score_and_slope(lambda x: x.flatten(1) @ w, x)
    torch.testing.assert_close(logits, x.flatten(1) @ w)
    torch.testing.assert_close(slope, w.square().sum().expand(5))
    (grad,) = torch.autograd.grad(slope.mean(), w)
    torch.testing.assert_close(grad, 2 * w)


def test_lipschitz_penalty_of_a_linear_critic():
    w = torch.full((16,), 0.75).requires_grad_()  # norm 3
    real, fake = torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    penalty = lipschitz_penalty(lambda x: x.flatten(1) @ w, real, fake, torch.rand(5))
    torch.testing.assert_close(penalty, torch.full((5,), 4.0))
    (grad,) = torch.autograd.grad(penalty.mean(), w)
    torch.testing.assert_close(grad, 2 * (3 - 1) * w.detach() / 3)


def test_lipschitz_penalty_looks_between_real_and_fake():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().flatten(1).sum(1)

    real, fake = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    lipschitz_penalty(critic, real, fake, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(seen[0][:, 0, 0, 0], torch.tensor([0.0, 0.25, 1.0]))


def test_penalty_of_a_constant_critic_has_finite_gradients():
    net = nn.Linear(16, 1)
    nn.init.zeros_(net.weight)
    real, fake = torch.ones(2, 16), torch.zeros(2, 16)
    penalty = lipschitz_penalty(lambda x: net(x).squeeze(1), real, fake, torch.rand(2))
    penalty.mean().backward()
    assert torch.isfinite(net.weight.grad).all()


def test_penalty_under_bf16_autocast_is_close_to_float32():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 1), nn.Flatten(0))
    x = torch.randn(32, 1, 8, 8)
    exact = score_and_slope(net, x)[1]
    wanted = torch.autograd.grad(exact.mean(), net[1].weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        slope = score_and_slope(net, x)[1]
    assert slope.dtype == torch.float32
    torch.testing.assert_close(slope, exact, rtol=0.05, atol=0)
    got = torch.autograd.grad(slope.mean(), net[1].weight)[0]
    assert (got - wanted).norm() < 0.05 * wanted.norm()


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────
def sizes(net: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)]


def test_gan_has_exactly_the_textbook_layers():
    model = build(find("gan"), DIGITS, {})
    assert sizes(model.generator) == [(100, 256), (256, 512), (512, 1024), (1024, 784)]
    assert sizes(model.discriminator) == [(784, 512), (512, 256), (256, 1)]
    assert [type(m).__name__ for m in model.generator if not isinstance(m, nn.Linear)] == ["ReLU"] * 3 + ["Sigmoid"]
    assert [type(m).__name__ for m in model.discriminator if not isinstance(m, nn.Linear)] == ["ReLU"] * 2
    assert sum(p.numel() for p in model.parameters()) == 1_486_352 + 533_505
    textbook = find("gan").recipes["textbook"]
    assert (textbook.steps, textbook.batch_size, textbook.lr) == (10_000, 32, 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_each_phase_moves_its_own_and_only_that(name):
    model = make(name).train()
    batch = {"image": torch.rand(8, 1, 28, 28) * 2 - 1}
    for phase in model.phases():
        moved = {n for n, _ in model.named_parameters() if n.split(".")[0] in phase.moves}
        for n, p in model.named_parameters():
            p.requires_grad_(n in moved)
        terms = model(batch, phase.name)
        assert all(t.shape == (8,) for t in terms.values())
        model.zero_grad()
        torch.stack([t.mean() for t in terms.values()]).sum().backward()
        reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        silent = {n for n in moved - reached if not n.endswith("head.bias") and n != "discriminator.4.bias"}
        assert reached <= moved and not silent  # a loss of differences cannot move the last bias


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_its_seed_and_number_alone(name):
    model = make(name).eval()
    with torch.inference_mode():
        many, one = model.sample(10, seed=4), model.sample(1, seed=4, start=3)
    torch.testing.assert_close(many[3:4], one)
    assert many.shape == (10, 1, 28, 28) and many.abs().max() <= 1
    assert not torch.allclose(many[3], many[4])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 20, 28)])
def test_other_shapes(name, shape):
    model = make(name, Spec("image", shape))
    assert model.sample(2).shape == (2, *shape)
    assert model.critic({"image": torch.zeros(2, *shape)}).shape == (2,)


def test_dcgan_refuses_a_size_it_cannot_halve():
    with pytest.raises(UserError, match="30x30"):
        make("dcgan", Spec("image", (1, 30, 30)))


def test_dcgan_depth_follows_the_size():
    model = make("dcgan", Spec("image", (3, 64, 64)))
    assert model.generator.coarse[1:] == (4, 4)
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in model.generator.body) == 4


def test_infogan_codes_and_styles():
    model = make("infogan").eval()
    with torch.inference_mode():
        turn, same = model.sample(12, seed=1), model.sample(12, seed=1, code=2)
        torch.testing.assert_close(turn[2], same[2])  # item 2's own code is 2
        torch.testing.assert_close(turn[11:], model.sample(1, seed=1, start=11))
        assert not torch.allclose(model.sample(1, style=-1.0), model.sample(1, style=1.0))
    with pytest.raises(UserError, match="0 to 9"):
        model.sample(2, code=10)
    with pytest.raises(UserError, match=r"\[-1, 1\]"):
        model.sample(2, style=1.5)


def test_critic_steps_of_wgan_gp():
    critic, generator = make("wgan_gp").phases()
    assert (critic.every, generator.every) == (1, 5)


def test_batch_norm_over_ranks_is_batch_norm_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(8, 3, 4, 4)
    alone, ranks = BatchNorm(3).train(), BatchNorm(3).train()
    monkeypatch.setattr("genloom.parallel.world", lambda: 2)
    monkeypatch.setattr("genloom.parallel.mean", lambda x: x)  # two ranks that hold the same rows
    got = ranks(x)
    monkeypatch.undo()
    wanted = alone(torch.cat([x, x]))[:8]
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(ranks.running_mean, alone.running_mean)
    torch.testing.assert_close(ranks.running_var, alone.running_var)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_losses_are_finite_float32(name):
    model = make(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        for phase in model.phases():
            terms = model({"image": torch.rand(4, 1, 28, 28) * 2 - 1}, phase.name)
            assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in terms.values())
