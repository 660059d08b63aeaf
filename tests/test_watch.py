"""The watch rings for collapse, for a critic that learns by heart, for divergence; and for nothing else."""

import math

import pytest
import torch
from torch import Tensor

from genloom.watch import Watch, overfit_r_t, overfit_r_v


def pictures(n: int, seed: int, size: int = 16) -> Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def looks(
    watch: Watch, samples: Tensor, times: int = 3, progress: float = 0.5, **critic: Tensor
) -> tuple[dict, list[str]]:
    advice: list[str] = []
    seen: dict[str, float] = {}
    for _ in range(times):
        scores = (critic.get("real"), critic.get("held_out"), critic.get("fake"))
        seen, words = watch.look(samples, *scores, {"loss": 1.0}, progress=progress)
        advice += words
    return seen, advice


def test_healthy_samples_are_left_in_peace() -> None:
    seen, advice = looks(Watch(pictures(64, 0)), pictures(64, 1))
    assert seen["variety"] == pytest.approx(1.0, abs=0.05)
    assert seen["twins"] == 0 and not advice


def test_collapse_is_said_once_until_it_clears() -> None:
    watch = Watch(pictures(64, 0))
    collapsed = pictures(1, 1).expand(64, -1, -1, -1) + 0.01 * pictures(64, 2)
    seen, advice = looks(watch, collapsed, times=5)
    assert seen["variety"] < 0.05 and seen["twins"] == 1.0
    assert len(advice) == 1 and "alike" in advice[0] and "--recipe" in advice[0]
    assert not looks(watch, pictures(64, 3))[1]
    assert len(looks(watch, collapsed)[1]) == 1


def test_advice_names_the_generator_only_where_there_is_a_critic() -> None:
    same = pictures(1, 1).expand(64, -1, -1, -1)
    assert "generator" not in looks(Watch(pictures(64, 0)), same)[1][0]
    assert "generator" in looks(Watch(pictures(64, 0)), same, real=torch.randn(64))[1][0]


def test_an_untrained_net_is_given_time() -> None:
    assert not looks(Watch(pictures(64, 0)), pictures(1, 1).expand(64, -1, -1, -1), times=9, progress=0.1)[1]


def test_many_twins_among_varied_samples_are_seen() -> None:
    seen, advice = looks(Watch(pictures(64, 0)), pictures(16, 1).repeat(4, 1, 1, 1))
    assert seen["variety"] > 0.8 and seen["twins"] == 1.0
    assert len(advice) == 1 and "twin" in advice[0]


def test_data_full_of_twins_is_no_fault_of_the_model() -> None:
    assert not looks(Watch(pictures(8, 0).repeat(8, 1, 1, 1)), pictures(8, 1).repeat(8, 1, 1, 1))[1]


def test_large_pictures_and_odd_counts_do_not_matter() -> None:
    for real, made in (
        (pictures(3, 0, 200), pictures(2, 1, 200)),
        (pictures(1, 0), pictures(4, 1)),
        (pictures(9, 0), pictures(1, 1)),
    ):
        seen, _ = looks(Watch(real), made)
        assert all(math.isfinite(v) for v in seen.values())
    assert looks(Watch(pictures(8, 0)), torch.full((8, 1, 16, 16), math.nan)) == ({}, [])


def test_overfit_figures_are_the_paper_s() -> None:
    train, held_out, fake = torch.tensor([2.0, 4.0]), torch.tensor([0.0, 2.0]), torch.tensor([-1.0, -1.1])
    assert overfit_r_v(train, held_out, fake) == pytest.approx((3 - 1) / (3 + 1.05))
    assert overfit_r_t(torch.tensor([1.0, 3.0, -2.0, 5.0])) == 0.5
    assert math.isnan(overfit_r_v(torch.randn(64), torch.randn(64), torch.randn(64) + 1))


def test_a_critic_that_learns_by_heart_is_seen_and_a_fair_one_is_not() -> None:
    noise, samples = torch.randn(3, 128, generator=torch.Generator().manual_seed(0)), pictures(64, 1)
    fair = {"real": noise[0] + 2, "held_out": noise[1] + 1.9, "fake": noise[2] - 2}
    assert not looks(Watch(pictures(64, 0)), samples, **fair)[1]
    by_heart = {"real": noise[0] + 4, "held_out": noise[1] - 1, "fake": noise[2] - 2}
    seen, advice = looks(Watch(pictures(64, 0)), samples, times=4, **by_heart)
    assert seen["overfit_r_v"] > 0.6 and len(advice) == 1 and "by heart" in advice[0]


def test_divergence_is_a_loss_far_from_its_early_scale() -> None:
    watch, samples = Watch(pictures(16, 0)), pictures(16, 1)
    advice = []
    for i in range(12):
        losses = {"critic": 1.0 if i < 6 else 500.0, "penalty": 1e-6 if i < 6 else 1.0, "odd": math.nan}
        advice += watch.look(samples, None, None, None, losses, progress=i / 12)[1]
    assert len(advice) == 1 and "'critic'" in advice[0] and "--lr" in advice[0]
